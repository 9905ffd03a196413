//! What git's post-receive hook runs: tells the daemon what moved, and prints its plan as `remote:` lines.
//!
//! A push is accepted by now and must never fail or hang because the daemon is away or slow: after two seconds, whatever
//! happened, this ends with exit code 0. The poll finds what the hook could not say.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use clap::Subcommand;

use super::client::Client;
use super::plan::{repository_name, short};
use super::text::{self, Style, plural};
use super::{Failure, look, say, wait_for};
use crate::server::wire::{Hint, HintAnswer, PushedPlan};

/// A little under the two seconds that a push is promised.
const PATIENCE: Duration = Duration::from_millis(1800);

/// How much of a commit's subject is shown: git puts `remote: ` before it.
const SUBJECT: usize = 64;

/// A build that began so few milliseconds ago began for this push.
const JUST_NOW: i64 = 3000;

#[derive(Debug, Subcommand)]
pub(super) enum Hook {
    /// Reads `old new ref` lines from standard input, in the repository's directory.
    PostReceive,
}

pub(super) fn run(hook: &Hook, socket: &Path) -> Result<(), Failure> {
    let Hook::PostReceive = hook;
    let mut updates = String::new();
    // Git closes its end; what can't be read is found by the poll.
    let _ = std::io::stdin().take(1 << 20).read_to_string(&mut updates);
    let updates: Vec<String> = updates.lines().map(str::to_owned).collect();
    // Git runs the hook in the repository's own directory.
    let hint = Hint { repository: repository_name(Path::new(".")).to_string(), kind: "push".to_owned(), updates };
    let client = Client::new(socket);
    let asked = wait_for(async {
        match tokio::time::timeout(PATIENCE, client.post::<HintAnswer>("/v1/hint", &hint)).await {
            Ok(answer) => answer,
            Err(_) => Ok(HintAnswer { planning: true, ..HintAnswer::default() }),
        }
    });
    let said = match asked {
        Ok(answer) => describe(&answer),
        Err(failure) if failure.is_unreachable() => {
            "factoryd is away; it plans this push when it is back.\n".to_owned()
        }
        Err(failure) => format!("factoryd can't plan this push:\n{failure}"),
    };
    say(&Style::of_push().shown(&said))
}

fn describe(answer: &HintAnswer) -> String {
    let mut out = String::new();
    for plan in &answer.plans {
        branch(&mut out, plan);
    }
    for problem in &answer.unplanned {
        let _ = writeln!(out, "{problem}");
    }
    if answer.planning {
        out.push_str("planning goes on; see factoryd status\n");
    }
    out
}

fn branch(out: &mut String, pushed: &PushedPlan) {
    let _ = writeln!(out, "{} {}", short(&pushed.plan.commit), text::cut(&pushed.subject, SUBJECT));
    if !pushed.tracked {
        let _ = writeln!(out, "{} is not tracked: it is planned and shown, and built by hand.", pushed.branch);
    }
    out.push('\n');
    for fault in &pushed.faults {
        let _ = writeln!(out, "{fault}\n");
    }
    table(out, pushed);
    queued(out, pushed);
}

fn table(out: &mut String, pushed: &PushedPlan) {
    let (work, held): (Vec<_>, Vec<_>) = pushed
        .plan
        .bundles
        .iter()
        .filter(|bundle| bundle.action != "unchanged")
        .partition(|bundle| matches!(bundle.action.as_str(), "build" | "render" | "publish"));
    if !work.is_empty() {
        let width = work.iter().map(|bundle| bundle.bundle.chars().count()).max().unwrap_or(0).max(6);
        let _ = writeln!(out, "  {:width$}  boot prov test snap rend    about", "bundle");
        for bundle in &work {
            let cell = |word: &str| {
                let stage = bundle.stages.iter().find(|stage| stage.stage == word);
                stage.map_or(' ', text::plan_mark)
            };
            let cells: Vec<String> = ["boot", "provision", "test", "snapshot", "render"]
                .iter()
                .map(|word| format!("  {}  ", cell(word)))
                .collect();
            let about = pushed.about.get(&bundle.bundle).map(|seconds| text::about(*seconds)).unwrap_or_default();
            let line = format!("  {:width$} {}   {about}", text::name(&bundle.bundle), cells.concat());
            let _ = writeln!(out, "{}", line.trim_end());
            let cause = bundle.stages.iter().find(|stage| stage.state == "changed");
            if let Some(stage) = cause {
                let _ = writeln!(out, "    ~ {}: {}", stage.stage, text::cut(&stage.reason, 66));
            }
        }
        and_more(out, pushed.count.work, work.len());
    }
    for bundle in &held {
        let _ = writeln!(out, "  {} is {}: {}", text::name(&bundle.bundle), bundle.action, bundle.reason);
    }
    and_more(out, pushed.count.held, held.len());
    let unchanged = pushed.count.unchanged;
    let legend = if work.is_empty() { "" } else { "         = hit  ~ changed  + miss" };
    let _ = match (unchanged, unchanged + pushed.count.work + pushed.count.held) {
        (_, 0) => writeln!(out, "  no bundle here: a pipeline's `bundles` names their directories"),
        (0, _) => writeln!(out, "{}", legend.trim_start()),
        (count, _) => writeln!(out, "  {} unchanged.{legend}", plural(count, "bundle")),
    };
}

fn queued(out: &mut String, pushed: &PushedPlan) {
    let Some(first) = pushed.queued.first() else { return };
    out.push('\n');
    let width = pushed.queued.iter().map(|queued| queued.build.bundle.chars().count()).max().unwrap_or(0);
    for queued in &pushed.queued {
        let when = match queued.waits.as_str() {
            "" if queued.build.started.is_some_and(|at| look::now() - at > JUST_NOW) => "runs".to_owned(),
            "" => "starts now".to_owned(),
            waits => format!("waits {waits}"),
        };
        let _ = writeln!(out, "  #{} {:width$}   {when}", queued.build.build, text::name(&queued.build.bundle));
    }
    and_more(out, pushed.count.queued, pushed.queued.len());
    let _ = writeln!(out, "  Follow: factoryd logs -f {}", first.build.build);
}

fn and_more(out: &mut String, all: usize, shown: usize) {
    if all > shown {
        let _ = writeln!(out, "  and {} more", all - shown);
    }
}
