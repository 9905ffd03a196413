//! Plans, builds and journals in a few words, as scenarios compare them.

use factoryd::domain::build::{Effect, Event};
use factoryd::domain::plan::BundlePlan;
use factoryd::store::{BuildRecord, JournalEntry};

/// `build: boot hit, provision changed, test miss`.
pub(crate) fn plan(plan: &BundlePlan) -> String {
    let stages: Vec<String> =
        plan.stages.iter().map(|stage| format!("{} {}", stage.stage, stage.state.word())).collect();
    format!("{}: {}", plan.action.word(), stages.join(", "))
}

/// `passed: boot hit, provision passed, test passed`.
pub(crate) fn build(record: &BuildRecord) -> String {
    let stages: Vec<String> =
        record.build.stages.iter().map(|(stage, run)| format!("{stage} {}", run.progress.word())).collect();
    let end = record.build.outcome.map_or(record.build.state.word(), |outcome| outcome.word());
    format!("{end}: {}", stages.join(", "))
}

/// One word for each event, with what it is about.
pub(crate) fn event(entry: &JournalEntry) -> String {
    let effect = |effect: &Effect| match effect {
        Effect::Machine { role } => format!("machine {role}"),
        Effect::Disk(_) => "disk".to_owned(),
        Effect::Image { .. } => "image".to_owned(),
    };
    match &entry.event {
        Event::Queued => "queued".to_owned(),
        Event::Started { attempt } => format!("started {attempt}"),
        Event::Interrupted => "interrupted".to_owned(),
        Event::Drained => "drained".to_owned(),
        Event::StageHit { stage, from, .. } => format!("{stage} hit from {from}"),
        Event::StageStarted { stage, .. } => format!("{stage} started"),
        Event::StageResolved { stage, .. } => format!("{stage} resolved"),
        Event::StepStarted { step, name, .. } => format!("step {step} started: {name}"),
        Event::StepFinished { step, end, .. } => format!("step {step} {end:?}"),
        Event::StageFinished { stage, end } => format!("{stage} {end:?}"),
        Event::Intent(of) => format!("intent {}", effect(of)),
        Event::Made(of) => format!("made {}", effect(of)),
        Event::Released(of) => format!("released {}", effect(of)),
        Event::CancelAsked { by } => format!("cancel asked by {by}"),
        Event::Served(_) => "served".to_owned(),
        Event::Finished { outcome, .. } => format!("finished {}", outcome.word()),
    }
}
