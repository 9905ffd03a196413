//! How a stage or a build can end early, as values that the runner decides by.

use crate::domain::build::{Failure, Outcome, StageEnd};
use crate::domain::pipeline::Stage;
use crate::engine::ports::{PortError, PortErrorKind};
use crate::store::StoreError;

/// Why a stage did not end well.
#[derive(Debug)]
pub(super) enum Stop {
    /// Something failed.
    Failed(Problem),
    /// Somebody cancelled the build.
    Cancelled,
    /// A newer plan made the build pointless.
    Superseded(String),
    /// The daemon stops: the next one goes on.
    Drained,
    /// The journal can't be written: nothing may be done any more.
    Store(StoreError),
    /// A disk's bytes may not be on the disk: nothing may be written any more.
    NotDurable(PortError),
}

/// What failed, before it is known in which stage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) step: Option<String>,
    pub(super) line: Option<u64>,
    pub(super) message: String,
    pub(super) help: String,
}

impl Problem {
    pub(super) fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { message: message.into(), help: help.into(), ..Self::default() }
    }

    pub(super) fn at(self, stage: Stage) -> Failure {
        Failure { stage: Some(stage), step: self.step, line: self.line, message: self.message, help: self.help }
    }
}

impl Stop {
    pub(super) fn failed(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self::Failed(Problem::new(message, help))
    }

    /// The same, with the step it happened in.
    pub(super) fn in_step(self, name: &str, line: Option<u64>) -> Self {
        match self {
            Self::Failed(problem) => Self::Failed(Problem {
                step: problem.step.or_else(|| Some(name.to_owned())),
                line: problem.line.or(line),
                ..problem
            }),
            other => other,
        }
    }

    pub(super) fn stage_end(&self) -> StageEnd {
        match self {
            Self::Failed(_) | Self::Store(_) | Self::NotDurable(_) => StageEnd::Failed,
            Self::Cancelled | Self::Superseded(_) | Self::Drained => StageEnd::Cancelled,
        }
    }

    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::Failed(_) | Self::Store(_) | Self::NotDurable(_) => Outcome::Failed,
            Self::Cancelled | Self::Drained => Outcome::Cancelled,
            Self::Superseded(_) => Outcome::Superseded,
        }
    }
}

impl From<PortError> for Stop {
    fn from(error: PortError) -> Self {
        match error.kind {
            PortErrorKind::Cancelled => Self::Cancelled,
            PortErrorKind::NotDurable => Self::NotDurable(error),
            _ => Self::failed(error.message, error.help),
        }
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
