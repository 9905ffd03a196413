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
    show(context, &answer)
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
    let faults = reading.faults.iter().map(|fault| fault.render("error")).collect();
    let view = PlanView { faults, ..PlanView::from(&plan(commit, base, &reading.candidates(), &facts)) };
    show(context, &view)
}

/// Prints a plan; what is wrong with the pipelines is talk beside it.
fn show(context: &Context, plan: &PlanView) -> Result<(), Failure> {
    for fault in &plan.faults {
        eprintln!("{}", context.style.shown(fault));
    }
    context.print(plan, describe)
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

fn is_work(bundle: &BundlePlanView) -> bool {
    matches!(bundle.action.as_str(), "build" | "render" | "publish")
}

fn describe(plan: &PlanView, style: Style) -> String {
    let work: Vec<_> = plan.bundles.iter().filter(|bundle| is_work(bundle)).collect();
    let mut out = String::new();
    let _ = writeln!(out, "{}", answer(plan, &work));
    for bundle in &work {
        bundle_lines(&mut out, bundle, style);
    }
    for bundle in plan.bundles.iter().filter(|bundle| bundle.action == "stale" || bundle.action == "unbuildable") {
        let _ = writeln!(out, "  {} {}  {}", style.mark(&bundle.action), text::name(&bundle.bundle), bundle.reason);
    }
    for removed in &plan.removed {
        let _ = writeln!(out, "  {} is gone; its images stay until retention.", text::name(removed));
    }
    out
}

/// How much there is to do, and how long that takes where it is known; else which commit that is.
fn answer(plan: &PlanView, work: &[&BundlePlanView]) -> String {
    let (all, commit) = (plural(plan.bundles.len(), "bundle"), short(&plan.commit));
    let stale = plan.bundles.iter().filter(|bundle| bundle.action == "stale").count();
    match (work.len(), stale, plan.about) {
        (0, 0, _) if plan.bundles.is_empty() && !plan.faults.is_empty() => {
            format!("Nothing can be built: the pipelines at {commit} have {}.", plural(plan.faults.len(), "fault"))
        }
        (0, 0, _) => format!("Nothing would be built: {all} at {commit}."),
        (0, stale, _) => {
            let verb = if stale == 1 { "is" } else { "are" };
            format!("Nothing would be built: {all} at {commit}, {stale} {verb} stale.")
        }
        (count, _, Some(about)) => {
            let open = if work.iter().any(|bundle| bundle.about.is_none()) { " or more" } else { "" };
            format!("{count} of {all} would build, in {}{open}.", text::roughly(about))
        }
        (count, _, None) => format!("{count} of {all} would build, at {commit}."),
    }
}

fn bundle_lines(out: &mut String, bundle: &BundlePlanView, style: Style) {
    let stages: Vec<String> =
        bundle.stages.iter().map(|stage| format!("{} {}", stage.stage, text::plan_mark(stage))).collect();
    let notes = [(bundle.action != "build", bundle.action.as_str()), (bundle.canary, "canary")];
    let notes: Vec<&str> = notes.into_iter().filter(|(is, _)| *is).map(|(_, note)| note).collect();
    let action = if notes.is_empty() { String::new() } else { format!("  ({})", notes.join(", ")) };
    let _ = writeln!(out, "  {}  {}{action}", text::name(&bundle.bundle), stages.join(" "));
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(about: Option<f64>, bundles: &[(&str, Option<f64>)]) -> String {
        let bundles: Vec<_> = bundles
            .iter()
            .map(|(action, about)| {
                json!({"bundle": "images/web", "action": action, "canary": false, "reason": "", "stages": [], "about": about})
            })
            .collect();
        let plan = json!({"commit": "3f9c2e1000", "base": null, "bundles": bundles, "removed": [], "about": about});
        let plan: PlanView = serde_json::from_value(plan).expect("a plan");
        describe(&plan, Style { colour: false, unicode: true, width: 80 }).lines().next().unwrap_or_default().to_owned()
    }

    #[test]
    fn the_first_line_says_how_much_there_is_to_do_and_how_long_it_takes() {
        let (minutes, build) = (|minutes: f64| Some(minutes * 60.0), "build");
        let all = [(build, minutes(14.0)), (build, minutes(12.0)), ("unchanged", None)];
        assert_eq!(said(minutes(26.0), &all), "2 of 3 bundles would build, in about 26 min.");
        let some = [(build, minutes(14.0)), (build, None)];
        assert_eq!(said(minutes(14.0), &some), "2 of 2 bundles would build, in about 14 min or more.");
        assert_eq!(said(Some(3.0), &[(build, Some(3.0))]), "1 of 1 bundle would build, in a few seconds.");
        assert_eq!(said(None, &[(build, None)]), "1 of 1 bundle would build, at 3f9c2e1.");
        assert_eq!(said(None, &[("unchanged", None)]), "Nothing would be built: 1 bundle at 3f9c2e1.");
        let marked = [("stale", None), ("stale", None), ("unchanged", None)];
        assert_eq!(said(None, &marked), "Nothing would be built: 3 bundles at 3f9c2e1, 2 are stale.");
    }
}
