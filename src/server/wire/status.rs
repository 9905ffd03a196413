//! What `status` says.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{BuildView, ErrorView, StageView};

/// The health of the factory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusView {
    /// One sentence.
    pub summary: String,
    /// Whether everything that was looked at works.
    pub healthy: bool,
    /// Faults of the daemon itself: a broken database, a sandbox that does not work.
    pub problems: Vec<String>,
    /// The version of the program.
    pub version: String,
    /// The bundles of the tracked branches; all of them, if not only those were asked for that want attention: then the
    /// first hundred of each state.
    pub bundles: Vec<BundleView>,
    /// How many there are in all.
    pub total: usize,
    /// How many there are in each state, whether they are listed or not.
    #[serde(default)]
    pub counts: BTreeMap<String, usize>,
    /// Builds that run.
    pub running: Vec<BuildView>,
    /// Builds that wait, with the reason of each; the first ones, if only what wants attention was asked for.
    pub queue: Vec<QueuedView>,
    /// How many builds wait, whether they are listed or not.
    #[serde(default)]
    pub queued: usize,
    /// The driver, in one line.
    pub driver: String,
    /// The sandbox, in one line.
    pub sandbox: String,
    /// When driver and sandbox were last asked, in milliseconds since 1970.
    pub checked: i64,
    /// Builds that may run at once.
    pub slots: usize,
    /// The disk below the state directory.
    pub disk: DiskView,
    /// The repositories.
    pub repositories: Vec<RepositoryView>,
}

/// A queued build.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueuedView {
    /// The build.
    #[serde(flatten)]
    pub build: BuildView,
    /// Why it waits.
    pub waits: String,
    /// How long it is likely to take, in seconds, from history.
    pub about: Option<f64>,
}

/// The disk below the state directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskView {
    /// Bytes free for us.
    pub free: u64,
    /// Bytes in all.
    pub total: u64,
}

/// One repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryView {
    /// Its name.
    pub repository: String,
    /// Its directory, to be pushed to where it receives.
    pub path: String,
    /// What is wrong with it; `null` where nothing is.
    pub problem: Option<String>,
}

/// A bundle of a tracked branch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BundleView {
    /// The repository.
    pub repository: String,
    /// The branch.
    pub branch: String,
    /// The bundle's directory.
    pub bundle: String,
    /// `fresh`, `running`, `waiting`, `failed`, `stale` or `unbuildable`.
    pub state: String,
    /// Why, where it is not fresh.
    pub reason: String,
    /// Its last build's number.
    pub build: Option<u64>,
    /// The outcome of its last build.
    pub outcome: Option<String>,
    /// The image that is served.
    pub image: Option<String>,
    /// When that image was served, in milliseconds since 1970.
    pub since: Option<i64>,
    /// Seconds that are likely left of a running build, from history.
    pub left: Option<f64>,
    /// The stages of its last build.
    pub stages: Vec<StageView>,
    /// What failed in its last build.
    pub error: Option<ErrorView>,
    /// When its last build ended, in milliseconds since 1970; `null` while it has not.
    #[serde(default)]
    pub ended: Option<i64>,
}
