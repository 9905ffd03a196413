//! What git's hook tells, and what it is told.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{PlanView, QueuedView};

/// What git's hook tells: the references that a push moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hint {
    /// The repository.
    pub repository: String,
    /// `push`, `watch` or `poll`.
    pub kind: String,
    /// What moved, in git's words: `old new ref`.
    pub updates: Vec<String>,
}

/// What a hint led to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HintAnswer {
    /// The plans of the branches that moved; empty where planning goes on after the answer.
    pub plans: Vec<PushedPlan>,
    /// The branches that moved and can't be planned, with the reason of each.
    pub unplanned: Vec<String>,
    /// Whether planning had not ended when the answer was due.
    pub planning: bool,
}

/// The plan of a branch that was pushed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PushedPlan {
    /// The branch.
    pub branch: String,
    /// Whether the branch publishes.
    pub tracked: bool,
    /// The first line of the commit's message.
    pub subject: String,
    /// The plan, with no more than the first bundles that are to be done or can't be; the whole one is at `/v1/plan`.
    pub plan: PlanView,
    /// How many bundles and builds there are in all.
    pub count: PushedCount,
    /// The faults of its pipelines, as a terminal shows them.
    pub faults: Vec<String>,
    /// The first builds of what it wants done: queued by it or just before.
    pub queued: Vec<QueuedView>,
    /// How long each bundle is likely to take, in seconds, where that is known.
    pub about: BTreeMap<String, f64>,
}

/// How many there are in all, of what [`PushedPlan`] shows the first of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushedCount {
    /// Bundles that are to be done.
    pub work: usize,
    /// Bundles that are stale or can't be built.
    pub held: usize,
    /// Bundles whose served image has these inputs.
    pub unchanged: usize,
    /// Builds of what is to be done.
    pub queued: usize,
}
