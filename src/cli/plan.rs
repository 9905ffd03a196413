//! `factoryd plan`: what would be built, and why. With `--repo` it asks no daemon and writes nothing.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;

use super::client::escape;
use super::text::{self, Style, plural};
use super::{Context, Failure};
use crate::domain::id::{CommitId, RepoName};
use crate::domain::plan::{Facts, plan};
use crate::domain::range::Range;
use crate::domain::tree::TreeError;
use crate::manifest::fault::Fault;
use crate::manifest::reading::Reading;
use crate::manifest::{Cache, read};
use crate::server::wire::{BundlePlanView, PlanView};
use crate::source::trees::{self, OpenError};

#[derive(Debug, Args)]
pub(super) struct Options {
    /// A branch, tag or commit, or A..B for what changed between two; the default branch without it.
    #[arg(value_name = "REV | A..B")]
    revision: Option<String>,
    /// Plan a repository on this machine without the daemon: a work tree or a bare repository.
    #[arg(long, value_name = "DIR")]
    pub(super) repo: Option<PathBuf>,
    /// The repository, where the daemon has several.
    #[arg(long, value_name = "NAME", conflicts_with = "repo")]
    repository: Option<String>,
}

pub(super) async fn online(context: &Context, options: &Options) -> Result<(), Failure> {
    let mut query = Vec::new();
    if let Some(revision) = &options.revision {
        query.push(format!("revision={}", escape(revision)));
    }
    if let Some(repository) = &options.repository {
        query.push(format!("repository={}", escape(repository)));
    }
    let answer: PlanView = context.client.get(&format!("/v1/plan?{}", query.join("&"))).await?;
    context.print(&answer, describe)
}

pub(super) fn offline(context: &Context, options: &Options) -> Result<(), Failure> {
    let directory = options.repo.clone().unwrap_or_default();
    let revision = options.revision.as_deref().unwrap_or_default();
    let (from, to) = match Range::parse(revision) {
        Some(Range::Between { base, tip }) => (base, tip),
        Some(Range::Commit(tip)) => (None, tip),
        None => return Err(Failure::usage(format!("{revision} is no range")).help("write A..B")),
    };
    let (name, cache) = (repository_name(&directory), Cache::default());
    let read_at = |revision: &str| -> Result<(CommitId, Reading), Unread> {
        let (commit, tree) = trees::open(&directory, revision)?;
        Ok((commit, read(&tree, &name, &cache)?))
    };
    let (base, facts) = match from.map(read_at) {
        Some(Ok((commit, reading))) => (Some(commit), reading.as_built()),
        Some(Err(Unread::Open(OpenError::Revision { revision, .. }))) => {
            eprintln!("note: {revision} names no commit here, so everything counts as new");
            (None, Facts::default())
        }
        Some(Err(error)) => return Err(error.into()),
        None => (None, Facts::default()),
    };
    let (commit, reading) = read_at(to)?;
    tell_faults(&reading.faults);
    let view = PlanView::from(&plan(commit, base, &reading.candidates(), &facts));
    context.print(&view, describe)
}

/// Why a commit can't be planned.
#[derive(Debug, thiserror::Error)]
enum Unread {
    #[error("{0}")]
    Open(#[from] OpenError),
    #[error("{0}")]
    Tree(#[from] TreeError),
}

impl From<Unread> for Failure {
    fn from(error: Unread) -> Self {
        Self::failed(error.to_string()).help("name a branch, tag or commit of a git repository")
    }
}

/// The name of a repository by its directory, however that was written.
pub(super) fn repository_name(directory: &Path) -> RepoName {
    let whole = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    let name = whole.file_name().unwrap_or_default().to_string_lossy();
    RepoName::new(name.strip_suffix(".git").unwrap_or(&name))
}

fn tell_faults(faults: &[Fault]) {
    for fault in faults {
        eprintln!("{}", fault.render("error"));
    }
}

fn is_work(bundle: &BundlePlanView) -> bool {
    matches!(bundle.action.as_str(), "build" | "render" | "publish")
}

fn describe(plan: &PlanView, style: Style) -> String {
    let work: Vec<_> = plan.bundles.iter().filter(|bundle| is_work(bundle)).collect();
    let mut out = String::new();
    let all = plural(plan.bundles.len(), "bundle");
    let _ = match work.len() {
        0 => writeln!(out, "Nothing would be built: {all} at {}.", short(&plan.commit)),
        count => writeln!(out, "{count} of {all} would build, at {}.", short(&plan.commit)),
    };
    for bundle in &work {
        bundle_lines(&mut out, bundle, style);
    }
    for bundle in plan.bundles.iter().filter(|bundle| bundle.action == "stale" || bundle.action == "unbuildable") {
        let _ = writeln!(out, "  {} {}  {}", style.mark(&bundle.action), bundle.bundle, bundle.reason);
    }
    for removed in &plan.removed {
        let _ = writeln!(out, "  {removed} is gone; its images stay until retention.");
    }
    out
}

fn bundle_lines(out: &mut String, bundle: &BundlePlanView, style: Style) {
    let stages: Vec<String> =
        bundle.stages.iter().map(|stage| format!("{} {}", stage.stage, text::plan_mark(stage))).collect();
    let action = if bundle.action == "build" { String::new() } else { format!("  ({})", bundle.action) };
    let _ = writeln!(out, "  {}  {}{action}", bundle.bundle, stages.join(" "));
    if bundle.stages.iter().all(|stage| stage.state == "hit") {
        let _ = writeln!(out, "    {}", bundle.reason);
    }
    for stage in bundle.stages.iter().filter(|stage| stage.state == "changed") {
        for difference in stage.differences.iter().take(3) {
            let _ = writeln!(out, "    ~ {}", text::cut(difference, style.width.saturating_sub(6)));
        }
        if stage.differences.len() > 3 {
            let _ = writeln!(out, "    ~ and {} more in {}", stage.differences.len() - 3, stage.stage);
        }
    }
}

/// The first seven digits of a commit.
pub(super) fn short(commit: &str) -> &str {
    commit.get(..7).unwrap_or(commit)
}
