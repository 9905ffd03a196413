//! Builds: what was asked, the journal of what happened, and the state that is folded from it.
//!
//! ```text
//!             Started                       Finished(passed | failed | cancelled)
//!   queued ───────────► running ─────────────────────────────────────────────────► finished
//!    │  ▲ Interrupted      │
//!    │  └──────────────────┘ (the daemon died; the next attempt starts where the last stage ended;
//!    │                        Drained is the same after an orderly stop, and does not count as an attempt)
//!    └── Finished(superseded | cancelled | failed) ──────────────────────────────► finished
//! ```
//!
//! [`Build::apply`] is the only place that moves a build from one state to another. Everything else that is stored of a
//! build can be computed again from its journal.

use std::collections::BTreeMap;
use std::fmt;

use super::bundle::BundleKey;
use super::id::{BuildNo, CommitId, DiskId, Fingerprint, ImageId};
use super::pipeline::Stage;

/// A moment, in milliseconds since 1970 (UTC).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub i64);

impl Moment {
    /// Milliseconds from an earlier moment to this one; zero where the clock went back.
    pub fn since(self, earlier: Self) -> u64 {
        u64::try_from(self.0 - earlier.0).unwrap_or(0)
    }
}

/// What was asked for: fixed when the build gets its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The build's number.
    pub number: BuildNo,
    /// What is built.
    pub key: BundleKey,
    /// The commit it is built from.
    pub commit: CommitId,
    /// Why, in words that a person can read.
    pub reason: String,
    /// Who asked: a user's name, `push` or `poll`.
    pub by: String,
    /// The first stage that runs even if its result is known.
    pub from: Option<Stage>,
    /// The last stage that runs.
    pub until: Option<Stage>,
    /// Whether no kept result is used.
    pub no_cache: bool,
    /// Whether it may publish: its branch is tracked, and its results may serve tracked branches.
    pub tracked: bool,
}

/// How a build ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// Everything that was asked for is done.
    Passed,
    /// Something failed; the error says what.
    Failed,
    /// Somebody cancelled it.
    Cancelled,
    /// A newer plan made it pointless.
    Superseded,
}

impl Outcome {
    /// All outcomes.
    pub const ALL: [Self; 4] = [Self::Passed, Self::Failed, Self::Cancelled, Self::Superseded];

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Superseded => "superseded",
        }
    }

    /// The outcome that a word names.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.word() == word)
    }
}

/// What failed, so that a person knows what to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The stage that failed; `None` where it failed before any.
    pub stage: Option<Stage>,
    /// The step's name.
    pub step: Option<String>,
    /// The line of the build's log that shows it, counted from 1.
    pub line: Option<u64>,
    /// What failed and why.
    pub message: String,
    /// What to do next; may be empty.
    pub help: String,
}

/// How a stage ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StageEnd {
    /// Its result is there.
    Passed,
    /// It failed.
    Failed,
    /// It was cancelled.
    Cancelled,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StepEnd {
    /// It did what it should.
    Passed,
    /// It failed, and the stage with it.
    Failed,
    /// It failed, and the pipeline allows that.
    FailedAllowed,
}

/// Something made outside the database, which a later process must be able to find and remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A machine of this build, tagged with its number.
    Machine {
        /// Which of the build's machines: `provision`, `test`.
        role: String,
    },
    /// A sealed disk.
    Disk(DiskId),
    /// An image of the catalogue, with the disk its copy lives in.
    Image {
        /// Our id.
        id: ImageId,
        /// The copy's bits.
        disk: DiskId,
    },
}

/// One line of a build's journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The build got its number. Always the first.
    Queued,
    /// A process took it up; the first attempt is 1.
    Started {
        /// Which attempt.
        attempt: u32,
    },
    /// The process that ran it died. What it left was cleared away before this was written.
    Interrupted,
    /// The process that ran it was stopped, and has given back what it held.
    Drained,
    /// A kept result serves as this stage's.
    StageHit {
        /// The stage.
        stage: Stage,
        /// The build that made the result.
        from: BuildNo,
        /// The declared fingerprint.
        declared: Fingerprint,
    },
    /// A stage begins.
    StageStarted {
        /// The stage.
        stage: Stage,
        /// The declared fingerprint.
        declared: Fingerprint,
        /// Why it runs.
        reason: String,
    },
    /// What the other half of a stage's fingerprint is made of is known.
    StageResolved {
        /// The stage.
        stage: Stage,
        /// The resolved fingerprint.
        resolved: Fingerprint,
        /// What it was made of: names and values.
        found: Vec<(String, String)>,
    },
    /// A step begins; steps count from 1.
    StepStarted {
        /// The stage.
        stage: Stage,
        /// Which step.
        step: u32,
        /// How many steps the stage has.
        of: u32,
        /// Its name.
        name: String,
    },
    /// A step ended.
    StepFinished {
        /// The stage.
        stage: Stage,
        /// Which step.
        step: u32,
        /// How.
        end: StepEnd,
    },
    /// A stage ended.
    StageFinished {
        /// The stage.
        stage: Stage,
        /// How.
        end: StageEnd,
    },
    /// About to make something outside.
    Intent(Effect),
    /// It is there.
    Made(Effect),
    /// It is gone again, on purpose.
    Released(Effect),
    /// Somebody wants it to stop.
    CancelAsked {
        /// Who.
        by: String,
    },
    /// The image that this build leaves served.
    Served(ImageId),
    /// The last event.
    Finished {
        /// How it ended.
        outcome: Outcome,
        /// What failed.
        failure: Option<Failure>,
        /// Why it ended so, where no failure says it: "superseded by #44".
        reason: String,
    },
}

/// The state of one stage of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StageProgress {
    /// Another build's result is used.
    Hit,
    /// Not begun.
    Waiting,
    /// Under way.
    Running,
    /// Its result is there.
    Passed,
    /// It failed.
    Failed,
    /// It was cancelled.
    Cancelled,
    /// It was not reached, or not asked for.
    Skipped,
}

impl StageProgress {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Skipped => "skipped",
        }
    }

    /// The state that a word names.
    pub fn from_word(word: &str) -> Option<Self> {
        use StageProgress::{Cancelled, Failed, Hit, Passed, Running, Skipped, Waiting};
        [Hit, Waiting, Running, Passed, Failed, Cancelled, Skipped].into_iter().find(|state| state.word() == word)
    }
}

/// One stage of a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageRun {
    /// Its state.
    pub progress: StageProgress,
    /// When it began.
    pub started: Option<Moment>,
    /// When it ended.
    pub ended: Option<Moment>,
    /// Why it ran, or whose result it uses.
    pub reason: String,
    /// Its declared fingerprint, once it began.
    pub declared: Option<Fingerprint>,
    /// The step it is at: number, of how many, name.
    pub step: Option<(u32, u32, String)>,
}

impl StageRun {
    fn new(progress: StageProgress) -> Self {
        Self { progress, started: None, ended: None, reason: String::new(), declared: None, step: None }
    }

    /// How long it took, in milliseconds; `None` while it has not ended.
    pub fn millis(&self) -> Option<u64> {
        Some(self.ended?.since(self.started?))
    }
}

/// Where a build is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BuildState {
    /// It waits to be taken up.
    Queued,
    /// A process runs it.
    Running,
    /// It ended.
    Finished,
}

impl BuildState {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Finished => "finished",
        }
    }

    /// The state that a word names.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Queued, Self::Running, Self::Finished].into_iter().find(|state| state.word() == word)
    }
}

/// A build as its journal tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// Where it is.
    pub state: BuildState,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// How often a process took it up.
    pub attempt: u32,
    /// Its stages.
    pub stages: BTreeMap<Stage, StageRun>,
    /// What failed.
    pub failure: Option<Failure>,
    /// Why it ended so.
    pub reason: String,
    /// The image it left served.
    pub image: Option<ImageId>,
    /// Who wants it to stop.
    pub cancel_asked: Option<String>,
    /// What is outside and not released or handed over.
    pub open: Vec<Effect>,
    /// When it got its number.
    pub queued: Moment,
    /// When it was first taken up.
    pub started: Option<Moment>,
    /// When it ended.
    pub ended: Option<Moment>,
}

/// An event that can't follow what went before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IllegalEvent {
    /// The event.
    pub event: Box<Event>,
    /// Where the build was.
    pub state: BuildState,
}

impl fmt::Display for IllegalEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the journal has {:?} while the build is {}", self.event, self.state.word())
    }
}

impl std::error::Error for IllegalEvent {}

impl Build {
    /// The state after the first event.
    pub fn queued(stages: impl IntoIterator<Item = Stage>, at: Moment) -> Self {
        Self {
            state: BuildState::Queued,
            outcome: None,
            attempt: 0,
            stages: stages.into_iter().map(|stage| (stage, StageRun::new(StageProgress::Waiting))).collect(),
            failure: None,
            reason: String::new(),
            image: None,
            cancel_asked: None,
            open: Vec::new(),
            queued: at,
            started: None,
            ended: None,
        }
    }

    /// The state that a whole journal folds to.
    ///
    /// # Errors
    /// The first event that can't follow those before it.
    pub fn fold<'e>(
        stages: impl IntoIterator<Item = Stage>,
        journal: impl IntoIterator<Item = (Moment, &'e Event)>,
    ) -> Result<Self, IllegalEvent> {
        let mut build = Self::queued(stages, Moment::default());
        for (at, event) in journal {
            build.apply(at, event)?;
        }
        Ok(build)
    }

    /// Moves to the state after one more event.
    ///
    /// # Errors
    /// When the event can't follow; the state is then unchanged.
    pub fn apply(&mut self, at: Moment, event: &Event) -> Result<(), IllegalEvent> {
        use BuildState::{Queued, Running};
        match (self.state, event) {
            (Queued, Event::Queued) => self.queued = at,
            (Queued | Running, Event::Started { attempt }) if *attempt == self.attempt + 1 => {
                self.state = Running;
                self.attempt = *attempt;
                self.started.get_or_insert(at);
            }
            (Running, Event::Interrupted) => self.interrupt(),
            (Running, Event::Drained) => {
                self.interrupt();
                // Nothing went wrong, so it does not count.
                self.attempt -= 1;
            }
            (Queued | Running, Event::CancelAsked { by }) => self.cancel_asked = Some(by.clone()),
            (Queued | Running, Event::Finished { outcome, failure, reason }) => {
                self.finish(at, *outcome, failure.clone(), reason.clone());
            }
            (Running, Event::Served(image)) => self.image = Some(image.clone()),
            (Running, Event::Intent(effect)) if !self.open.contains(effect) => self.open.push(effect.clone()),
            (Running, Event::Intent(_) | Event::Made(_)) => {}
            (Running, Event::Released(effect)) => self.open.retain(|open| open != effect),
            (Running, stage_event) if self.apply_to_stage(at, stage_event) => {}
            (state, event) => return Err(IllegalEvent { event: Box::new(event.clone()), state }),
        }
        Ok(())
    }

    /// Whether the event was one of a stage, and could follow.
    fn apply_to_stage(&mut self, at: Moment, event: &Event) -> bool {
        let (Event::StageHit { stage, .. }
        | Event::StageStarted { stage, .. }
        | Event::StageResolved { stage, .. }
        | Event::StepStarted { stage, .. }
        | Event::StepFinished { stage, .. }
        | Event::StageFinished { stage, .. }) = event
        else {
            return false;
        };
        let Some(run) = self.stages.get_mut(stage) else { return false };
        match (run.progress, event) {
            (StageProgress::Waiting, Event::StageHit { from, declared, .. }) => {
                run.progress = StageProgress::Hit;
                run.declared = Some(*declared);
                run.reason = format!("from {from}");
            }
            // A later attempt does a stage again whose result is gone.
            (
                StageProgress::Waiting | StageProgress::Passed | StageProgress::Hit,
                Event::StageStarted { declared, reason, .. },
            ) => {
                *run = StageRun::new(StageProgress::Running);
                run.started = Some(at);
                run.declared = Some(*declared);
                run.reason.clone_from(reason);
            }
            (StageProgress::Running, Event::StepStarted { step, of, name, .. }) => {
                run.step = Some((*step, *of, name.clone()));
            }
            (StageProgress::Running, Event::StageResolved { .. } | Event::StepFinished { .. }) => {}
            (StageProgress::Running, Event::StageFinished { end, .. }) => {
                run.ended = Some(at);
                run.progress = match end {
                    StageEnd::Passed => StageProgress::Passed,
                    StageEnd::Failed => StageProgress::Failed,
                    StageEnd::Cancelled => StageProgress::Cancelled,
                };
            }
            _ => return false,
        }
        true
    }

    /// It waits to be taken up again, and so does the stage that was running or had failed; what had passed keeps its end. The machines
    /// are gone.
    fn interrupt(&mut self) {
        self.state = BuildState::Queued;
        self.open.clear();
        // One that had failed is done again too: the process died before it could say that the build failed.
        let undone = [StageProgress::Running, StageProgress::Failed, StageProgress::Cancelled];
        for run in self.stages.values_mut().filter(|run| undone.contains(&run.progress)) {
            *run = StageRun::new(StageProgress::Waiting);
        }
    }

    fn finish(&mut self, at: Moment, outcome: Outcome, failure: Option<Failure>, reason: String) {
        self.state = BuildState::Finished;
        self.outcome = Some(outcome);
        self.failure = failure;
        self.reason = reason;
        self.ended = Some(at);
        for run in self.stages.values_mut() {
            match run.progress {
                StageProgress::Waiting => run.progress = StageProgress::Skipped,
                StageProgress::Running => {
                    run.ended = Some(at);
                    run.progress =
                        if outcome == Outcome::Failed { StageProgress::Failed } else { StageProgress::Cancelled };
                }
                _ => {}
            }
        }
    }

    /// The stage that is under way.
    pub fn current(&self) -> Option<(Stage, &StageRun)> {
        self.stages.iter().find(|(_, run)| run.progress == StageProgress::Running).map(|(stage, run)| (*stage, run))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::Digest;

    fn started(stage: Stage) -> Event {
        let print = Fingerprint(Digest::of(b"x"));
        Event::StageStarted { stage, declared: print, reason: "changed".into() }
    }

    fn fold(events: &[Event]) -> Result<Build, IllegalEvent> {
        let moments = (0..).map(|second| Moment(second * 1000));
        Build::fold([Stage::Boot, Stage::Provision], moments.zip(events))
    }

    #[test]
    fn a_build_that_passes() {
        let build = fold(&[
            Event::Queued,
            Event::Started { attempt: 1 },
            started(Stage::Boot),
            Event::StageFinished { stage: Stage::Boot, end: StageEnd::Passed },
            Event::Finished { outcome: Outcome::Passed, failure: None, reason: String::new() },
        ])
        .expect("a legal journal");
        assert_eq!(build.state, BuildState::Finished);
        assert_eq!(build.stages[&Stage::Boot].millis(), Some(1000));
        assert_eq!(build.stages[&Stage::Provision].progress, StageProgress::Skipped);
    }

    #[test]
    fn an_interrupted_stage_waits_again_and_a_finished_one_keeps_its_end() {
        let mut events = vec![
            Event::Queued,
            Event::Started { attempt: 1 },
            started(Stage::Boot),
            Event::StageFinished { stage: Stage::Boot, end: StageEnd::Passed },
            started(Stage::Provision),
            Event::Intent(Effect::Machine { role: "provision".into() }),
            Event::Interrupted,
        ];
        let build = fold(&events).expect("a legal journal");
        assert_eq!(build.state, BuildState::Queued);
        assert_eq!(build.stages[&Stage::Boot].progress, StageProgress::Passed);
        assert_eq!(build.stages[&Stage::Provision].progress, StageProgress::Waiting);
        assert!(build.open.is_empty());
        events.push(Event::Started { attempt: 2 });
        assert_eq!(fold(&events).expect("a legal journal").attempt, 2);
    }

    #[test]
    fn a_stage_that_failed_just_before_the_process_died_can_be_done_again() {
        let events = [
            Event::Queued,
            Event::Started { attempt: 1 },
            started(Stage::Boot),
            Event::StageFinished { stage: Stage::Boot, end: StageEnd::Failed },
            Event::Interrupted,
            Event::Started { attempt: 2 },
            started(Stage::Boot),
        ];
        assert_eq!(fold(&events).expect("a legal journal").stages[&Stage::Boot].progress, StageProgress::Running);
    }

    #[test]
    fn what_can_t_follow_is_an_error() {
        let finished = Event::Finished { outcome: Outcome::Cancelled, failure: None, reason: String::new() };
        assert!(fold(&[Event::Queued, started(Stage::Boot)]).is_err(), "not started");
        assert!(fold(&[Event::Queued, finished.clone(), Event::Started { attempt: 1 }]).is_err(), "finished");
        assert!(fold(&[Event::Queued, finished.clone(), finished]).is_err(), "finished twice");
        assert!(fold(&[Event::Queued, Event::Started { attempt: 2 }]).is_err(), "attempts count from 1");
        assert!(fold(&[Event::Queued, Event::Started { attempt: 1 }, started(Stage::Test)]).is_err(), "no such stage");
    }
}
