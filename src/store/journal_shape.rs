//! The JSON of events and of the state they fold to: mirror images of the domain's types, checked by the compiler.
//!
//! What is written here is read by every later factoryd. New events may be added; one that exists keeps its shape, or
//! [`EVENT_VERSION`] goes up and the old shape stays readable.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::shape::{Word, word};
use crate::domain::build::{
    Build, BuildState, Effect, Event, Failure, Moment, Outcome, StageEnd, StageProgress, StageRun, StepEnd,
};
use crate::domain::id::{BuildNo, DiskId, Fingerprint, ImageId};
use crate::domain::pipeline::Stage;

/// The version of the shape of events, kept in each row of the journal.
pub(super) const EVENT_VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(remote = "BuildNo", transparent)]
struct NumberShape(u64);

#[derive(Serialize, Deserialize)]
#[serde(remote = "StageEnd", rename_all = "kebab-case")]
enum StageEndShape {
    Passed,
    Failed,
    Cancelled,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "StepEnd", rename_all = "kebab-case")]
enum StepEndShape {
    Passed,
    Failed,
    FailedAllowed,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Effect", rename_all = "kebab-case")]
enum EffectShape {
    Machine {
        role: String,
    },
    Disk(#[serde(with = "word")] DiskId),
    Image {
        #[serde(with = "word")]
        id: ImageId,
        #[serde(with = "word")]
        disk: DiskId,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Failure")]
struct FailureShape {
    #[serde(with = "word::option")]
    stage: Option<Stage>,
    step: Option<String>,
    line: Option<u64>,
    message: String,
    help: String,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Event", rename_all = "kebab-case")]
enum EventShape {
    Queued,
    Started {
        attempt: u32,
    },
    Interrupted,
    Drained,
    StageHit {
        #[serde(with = "word")]
        stage: Stage,
        #[serde(with = "NumberShape")]
        from: BuildNo,
        #[serde(with = "word")]
        declared: Fingerprint,
    },
    StageStarted {
        #[serde(with = "word")]
        stage: Stage,
        #[serde(with = "word")]
        declared: Fingerprint,
        reason: String,
    },
    StageResolved {
        #[serde(with = "word")]
        stage: Stage,
        #[serde(with = "word")]
        resolved: Fingerprint,
        found: Vec<(String, String)>,
    },
    StepStarted {
        #[serde(with = "word")]
        stage: Stage,
        step: u32,
        of: u32,
        name: String,
    },
    StepFinished {
        #[serde(with = "word")]
        stage: Stage,
        step: u32,
        #[serde(with = "StepEndShape")]
        end: StepEnd,
    },
    StageFinished {
        #[serde(with = "word")]
        stage: Stage,
        #[serde(with = "StageEndShape")]
        end: StageEnd,
    },
    Intent(#[serde(with = "EffectShape")] Effect),
    Made(#[serde(with = "EffectShape")] Effect),
    Released(#[serde(with = "EffectShape")] Effect),
    CancelAsked {
        by: String,
    },
    Served(#[serde(with = "word")] ImageId),
    Finished {
        #[serde(with = "word")]
        outcome: Outcome,
        #[serde(with = "failure")]
        failure: Option<Failure>,
        reason: String,
    },
}

/// An event as it stands in the journal.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct EventJson(#[serde(with = "EventShape")] pub(super) Event);

#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct FailureJson(#[serde(with = "FailureShape")] Failure);

mod failure {
    use super::{Deserialize as _, Deserializer, Failure, FailureJson, Serialize as _, Serializer};

    pub(super) fn serialize<S: Serializer>(failure: &Option<Failure>, serializer: S) -> Result<S::Ok, S::Error> {
        failure.clone().map(FailureJson).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Failure>, D::Error> {
        Option::<FailureJson>::deserialize(deserializer).map(|failure| failure.map(|failure| failure.0))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct EffectJson(#[serde(with = "EffectShape")] Effect);

mod effects {
    use super::{Deserialize as _, Deserializer, Effect, EffectJson, Serializer};

    pub(super) fn serialize<S: Serializer>(effects: &[Effect], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(effects.iter().cloned().map(EffectJson))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Effect>, D::Error> {
        Vec::<EffectJson>::deserialize(deserializer).map(|list| list.into_iter().map(|effect| effect.0).collect())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Moment", transparent)]
struct MomentShape(i64);

mod moment {
    use super::{Deserialize as _, Deserializer, Moment, Serialize as _, Serializer};

    #[expect(clippy::ref_option, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(moment: &Option<Moment>, serializer: S) -> Result<S::Ok, S::Error> {
        moment.map(|moment| moment.0).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Moment>, D::Error> {
        Option::<i64>::deserialize(deserializer).map(|millis| millis.map(Moment))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "StageRun")]
struct StageRunShape {
    #[serde(with = "word")]
    progress: StageProgress,
    #[serde(with = "moment")]
    started: Option<Moment>,
    #[serde(with = "moment")]
    ended: Option<Moment>,
    reason: String,
    #[serde(with = "word::option")]
    declared: Option<Fingerprint>,
    step: Option<(u32, u32, String)>,
}

#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct StageRunJson(#[serde(with = "StageRunShape")] StageRun);

mod runs {
    use super::{BTreeMap, Deserialize as _, Deserializer, Serializer, Stage, StageRun, StageRunJson, Word};

    pub(super) fn serialize<S: Serializer>(runs: &BTreeMap<Stage, StageRun>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(runs.iter().map(|(stage, run)| (Word(*stage), StageRunJson(run.clone()))))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<Stage, StageRun>, D::Error> {
        let runs = BTreeMap::<Word<Stage>, StageRunJson>::deserialize(deserializer)?;
        Ok(runs.into_iter().map(|(stage, run)| (stage.0, run.0)).collect())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Build")]
struct BuildShape {
    #[serde(with = "word")]
    state: BuildState,
    #[serde(with = "word::option")]
    outcome: Option<Outcome>,
    attempt: u32,
    #[serde(with = "runs")]
    stages: BTreeMap<Stage, StageRun>,
    #[serde(with = "failure")]
    failure: Option<Failure>,
    reason: String,
    #[serde(with = "word::option")]
    image: Option<ImageId>,
    cancel_asked: Option<String>,
    #[serde(with = "effects")]
    open: Vec<Effect>,
    #[serde(with = "MomentShape")]
    queued: Moment,
    #[serde(with = "moment")]
    started: Option<Moment>,
    #[serde(with = "moment")]
    ended: Option<Moment>,
}

/// A build as its journal folds, kept beside it.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct BuildJson(#[serde(with = "BuildShape")] pub(super) Build);
