//! What the API says, as JSON: one object per answer, stable keys, `null` for unknown. The command line prints the same
//! objects with `--json`, so this directory is a contract: keys are added, never renamed or removed.

mod images;
mod orphans;
mod plan;
mod push;
mod status;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::domain::build::{Failure, Moment};
use crate::domain::path::RepoPath;
use crate::engine::memory::{Artifact, BuildRecord, Delivery, TestCase, Warning};

pub use self::images::{CopyView, FreshnessView, ImageView, ImagesView};
pub use self::orphans::{AwayView, OrphanView, OrphansView};
pub use self::plan::{BundlePlanView, PlanView, StagePlanView};
pub use self::push::{Hint, HintAnswer, PushedCount, PushedPlan};
pub use self::status::{BundleView, DiskView, QueuedView, RepositoryView, StatusView};

/// The bytes of a path in base64, where they are not UTF-8.
pub fn path_bytes(path: &RepoPath) -> Option<String> {
    path.as_str().is_none().then(|| STANDARD.encode(path.as_bytes()))
}

/// A build.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BuildView {
    /// Its number.
    pub build: u64,
    /// The repository.
    pub repository: String,
    /// The bundle's directory.
    pub bundle: String,
    /// The directory's bytes in base64, where it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_bytes: Option<String>,
    /// The branch.
    pub branch: String,
    /// The commit.
    pub commit: String,
    /// `queued`, `running` or `finished`.
    pub state: String,
    /// `passed`, `failed`, `cancelled` or `superseded`.
    pub outcome: Option<String>,
    /// Why it was started; why it waits; or, once it ended without an error, why it ended so.
    pub reason: String,
    /// The id of the image that it left served.
    pub image: Option<String>,
    /// Whether that image is what its branch wants; `null` once it no longer serves, or where this was not asked for.
    #[serde(default)]
    pub freshness: Option<FreshnessView>,
    /// Its stages.
    pub stages: Vec<StageView>,
    /// What failed.
    pub error: Option<ErrorView>,
    /// Who asked for it.
    pub by: String,
    /// How often a process took it up.
    pub attempt: u32,
    /// When it got its number, in milliseconds since 1970.
    pub queued: i64,
    /// When it was first taken up.
    pub started: Option<i64>,
    /// When it ended.
    pub ended: Option<i64>,
}

/// One stage of a build.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageView {
    /// `boot`, `provision`, `test`, `snapshot` or `render`.
    pub stage: String,
    /// `hit`, `waiting`, `running`, `passed`, `failed`, `cancelled` or `skipped`.
    pub state: String,
    /// How long it took or has taken.
    pub seconds: Option<f64>,
    /// Why it ran, or whose result it uses.
    pub reason: String,
    /// The step it is at: `step 2 of 3, pytest`.
    #[serde(default)]
    pub step: Option<String>,
    /// `hit`, `changed` or `miss`, as the plan had it; only `show` tells.
    #[serde(default)]
    pub plan: Option<String>,
    /// The seconds that a hit saved; only `show` tells.
    #[serde(default)]
    pub saved: Option<f64>,
}

/// What failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorView {
    /// The stage.
    pub stage: Option<String>,
    /// The step's name.
    pub step: Option<String>,
    /// The line of the log that shows it.
    pub line: Option<u64>,
    /// What failed and why.
    pub message: String,
    /// What to do next.
    pub help: String,
}

impl From<&Failure> for ErrorView {
    fn from(failure: &Failure) -> Self {
        Self {
            stage: failure.stage.map(|stage| stage.word().to_owned()),
            step: failure.step.clone(),
            line: failure.line,
            message: failure.message.clone(),
            help: failure.help.clone(),
        }
    }
}

impl BuildView {
    /// A build as it is at a moment.
    pub fn new(record: &BuildRecord, now: Moment) -> Self {
        let (order, build) = (&record.order, &record.build);
        let stages = build.stages.iter().map(|(stage, run)| StageView {
            stage: stage.word().to_owned(),
            state: run.progress.word().to_owned(),
            seconds: run.started.map(|started| seconds(run.ended.unwrap_or(now).since(started))),
            reason: run.reason.clone(),
            step: run.step.as_ref().map(|(step, of, name)| format!("step {step} of {of}, {name}")),
            plan: None,
            saved: None,
        });
        Self {
            build: order.number.0,
            repository: order.key.repository.to_string(),
            bundle: order.key.path.to_string(),
            path_bytes: path_bytes(&order.key.path),
            branch: order.key.branch.to_string(),
            commit: order.commit.to_string(),
            state: build.state.word().to_owned(),
            outcome: build.outcome.map(|outcome| outcome.word().to_owned()),
            reason: if build.reason.is_empty() { order.reason.clone() } else { build.reason.clone() },
            image: build.image.as_ref().map(ToString::to_string),
            freshness: None,
            stages: stages.collect(),
            error: build.failure.as_ref().map(ErrorView::from),
            by: order.by.clone(),
            attempt: build.attempt,
            queued: build.queued.0,
            started: build.started.map(|at| at.0),
            ended: build.ended.map(|at| at.0),
        }
    }
}

/// Milliseconds as seconds with three decimals.
#[expect(clippy::cast_precision_loss, reason = "durations are far below 2^52 milliseconds")]
pub fn seconds(millis: u64) -> f64 {
    millis as f64 / 1000.0
}

/// Builds, the newest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BuildsView {
    /// The builds.
    pub builds: Vec<BuildView>,
    /// Ask again with `before` this number for more; `null` where there are no more.
    pub next: Option<u64>,
}

/// Everything `factoryd show` says of a build.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShowView {
    /// The build.
    #[serde(flatten)]
    pub build: BuildView,
    /// The first line of the commit's message; `null` where the commit is gone.
    pub subject: Option<String>,
    /// The name of the commit's author.
    pub author: Option<String>,
    /// The lines of the log that show the error.
    pub lines: Vec<LineView>,
    /// What its tests said.
    pub tests: Vec<TestView>,
    /// The image it left served, or the one that is still served.
    pub served: Option<ImageView>,
    /// The files it left.
    pub artifacts: Vec<ArtifactView>,
    /// What looked wrong in its outputs, as `check` says it.
    #[serde(default)]
    pub warnings: Vec<FaultView>,
}

/// Something that is or looks wrong in a file of the repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultView {
    /// The file, relative to the repository's root.
    pub file: String,
    /// The line, counted from 1; 0 where the file as a whole is meant.
    pub line: usize,
    /// The column in characters, counted from 1; 0 where the file as a whole is meant.
    pub column: usize,
    /// What kind it is, for programs.
    pub code: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it; may be empty.
    pub help: String,
}

impl From<Warning> for FaultView {
    fn from(warning: Warning) -> Self {
        let Warning { file, line, column, code, message, help } = warning;
        Self { file, line, column, code, message, help }
    }
}

/// One test of a report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TestView {
    /// Its suite or class.
    pub suite: String,
    /// Its name.
    pub name: String,
    /// `passed`, `failed`, `skipped` or `error`.
    pub outcome: String,
    /// How long it took.
    pub seconds: Option<f64>,
    /// What it said when it did not pass.
    pub message: Option<String>,
}

impl From<TestCase> for TestView {
    fn from(case: TestCase) -> Self {
        Self {
            suite: case.suite.to_string(),
            name: case.name,
            outcome: case.outcome.word().to_owned(),
            seconds: Some(case.seconds),
            message: Some(case.message).filter(|message| !message.is_empty()),
        }
    }
}

/// Why a build ran: its stages' inputs against those before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WhyView {
    /// The build.
    pub build: u64,
    /// The commit.
    pub commit: String,
    /// The bundle.
    pub bundle: String,
    /// Why it was started.
    pub reason: String,
    /// The build that its inputs are compared with; `null` where there was none.
    pub before: Option<u64>,
    /// How many inputs it has.
    pub inputs: usize,
    /// Its stages.
    pub stages: Vec<StagePlanView>,
}

/// One line of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineView {
    /// Its number, counted from 1.
    pub line: u64,
    /// When, in milliseconds since 1970.
    pub at: i64,
    /// The stage.
    pub stage: String,
    /// The step, counted from 1.
    pub step: Option<u32>,
    /// The text, with control characters made visible.
    pub text: String,
}

/// What ends a log that is followed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogEnd {
    /// The build, as it ended.
    pub end: BuildView,
}

/// Files that a build left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactsView {
    /// The files, sorted by path.
    pub artifacts: Vec<ArtifactView>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactView {
    /// Its path.
    pub path: String,
    /// The sum of its content, `sha256:…`.
    pub sha256: String,
    /// Its size in bytes.
    pub size: u64,
}

impl From<Artifact> for ArtifactView {
    fn from(row: Artifact) -> Self {
        Self { path: row.path.to_string(), sha256: row.sha256.to_string(), size: row.size }
    }
}

/// What arrived, the newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveriesView {
    /// The deliveries.
    pub deliveries: Vec<DeliveryView>,
}

/// One delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryView {
    /// Its number.
    pub delivery: u64,
    /// The repository.
    pub repository: String,
    /// `push`, `watch` or `poll`.
    pub kind: String,
    /// Who sent it.
    pub by: String,
    /// What it said.
    pub what: String,
    /// What became of it; `null` until that is known.
    pub became: Option<String>,
    /// When, in milliseconds since 1970.
    pub at: i64,
}

impl From<Delivery> for DeliveryView {
    fn from(row: Delivery) -> Self {
        Self {
            delivery: row.id,
            repository: row.repository.to_string(),
            kind: row.kind,
            by: row.by,
            what: row.what,
            became: row.became,
            at: row.at.0,
        }
    }
}

/// A build that is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BuildOrder {
    /// The repository; the only one without it.
    pub repository: Option<String>,
    /// The bundle.
    pub bundle: String,
    /// The branch, tag or commit.
    #[serde(rename = "ref")]
    pub revision: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// The first stage that runs even if its result is known.
    pub from: Option<String>,
    /// The last stage that runs.
    pub until: Option<String>,
    /// Whether no kept result is used.
    pub no_cache: bool,
}

/// A retry that is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetryOrder {
    /// The first stage that runs even if its result is known.
    pub from: Option<String>,
}

/// What garbage collection did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcView {
    /// Images that are deprecated now.
    pub deprecated: Vec<String>,
    /// Disks that were removed.
    pub disks: usize,
    /// Files of the store that were removed.
    pub blobs: usize,
    /// Bytes that are free now and were not.
    pub freed: u64,
}

/// How far a verification has come, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyProgress {
    /// What was read.
    pub bytes: u64,
    /// What there is to read.
    pub of: u64,
}

/// What verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyView {
    /// How many things were looked at.
    pub checked: usize,
    /// What is wrong, with what to do.
    pub problems: Vec<String>,
}

/// An answer that is no success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What is wrong.
    pub error: RefusalBody,
}

/// What is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusalBody {
    /// `missing`, `conflict`, `usage`, `denied` or `broken`: for programs.
    pub code: String,
    /// For people.
    pub message: String,
}
