//! `factoryd status`: the answer first, then what is not as it should be.

use std::fmt::Write as _;

use super::text::{self, Style, plural};
use super::{Context, Failure, look};
use crate::server::wire::{BundleView, StatusView};

pub(super) async fn run(context: &Context) -> Result<(), Failure> {
    // What is fresh is not shown where there is much of it, so it need not be asked for.
    let path = if context.json { "/v1/status" } else { "/v1/status?attention=true" };
    let answer: StatusView = context.client.get(path).await?;
    context.print(&answer, describe)?;
    if answer.healthy { Ok(()) } else { Err(Failure::quiet()) }
}

fn describe(status: &StatusView, style: Style) -> String {
    let mut out = format!("{}\n", status.summary);
    for problem in &status.problems {
        let _ = writeln!(out, "{} {problem}", style.mark("failed"));
    }
    let shown: Vec<&BundleView> = status.bundles.iter().filter(|bundle| bundle.state != "fresh").collect();
    // A healthy factory is quiet, unless it is so small that every bundle fits on a screen.
    let shown: Vec<&BundleView> = if shown.is_empty() { status.bundles.iter().collect() } else { shown };
    if !shown.is_empty() {
        out.push('\n');
    }
    let width = shown.iter().map(|bundle| bundle.bundle.chars().count()).max().unwrap_or(0);
    for bundle in &shown {
        bundle_lines(&mut out, bundle, width, style);
    }
    out.push_str(&left_out(status, &shown));
    footer(&mut out, status, style);
    out
}

/// How many of each state are not shown, where there are very many; fresh ones are not missed.
fn left_out(status: &StatusView, shown: &[&BundleView]) -> String {
    let mut out = String::new();
    for (state, count) in status.counts.iter().filter(|(state, _)| *state != "fresh") {
        let left = count - shown.iter().filter(|bundle| bundle.state == *state).count().min(*count);
        if left > 0 {
            let _ = writeln!(out, "… and {left} more {state}: factoryd status --json lists them");
        }
    }
    out
}

fn bundle_lines(out: &mut String, bundle: &BundleView, width: usize, style: Style) {
    let now = look::now();
    let number = bundle.build.map(|build| format!("#{build}")).unwrap_or_default();
    let rail = if bundle.stages.is_empty() { String::new() } else { text::rail(&bundle.stages) };
    let image = bundle.since.map(|since| format!("image {}", text::age(since, now)));
    let note = match bundle.state.as_str() {
        "running" => bundle.left.map_or_else(String::new, |left| format!("{} left", text::roughly(left))),
        "failed" => bundle.ended.map(|ended| text::ago(ended, now)).unwrap_or_default(),
        _ => image.clone().unwrap_or_default(),
    };
    let line =
        format!("{} {:width$}  {rail:<7}  {number:<5} {note}", style.mark(&bundle.state), text::name(&bundle.bundle));
    let _ = writeln!(out, "{}", line.trim_end());
    if bundle.state == "fresh" {
        return;
    }
    let room = style.width.saturating_sub(12);
    if let (Some(error), "failed") = (&bundle.error, bundle.state.as_str()) {
        let place: Vec<&str> = [error.stage.as_deref(), error.step.as_deref()].into_iter().flatten().collect();
        let line = error.line.map(|line| format!(", line {line}")).unwrap_or_default();
        let image = image.map(|image| format!(", {image}")).unwrap_or_default();
        let _ = writeln!(out, "            {}{line}{image}", place.join(" › "));
        let _ = writeln!(out, "            {}", text::cut(&error.message, room));
        if let Some(build) = bundle.build {
            let _ = writeln!(out, "            next: needs a push, or factoryd retry {build}");
        }
    } else if !bundle.reason.is_empty() {
        let _ = writeln!(out, "            {}", text::cut(&bundle.reason, room));
    }
}

fn footer(out: &mut String, status: &StatusView, style: Style) {
    let used = status.disk.total.saturating_sub(status.disk.free);
    let percent = used * 100 / status.disk.total.max(1);
    let driver = format!("driver {}{}", status.driver, when_asked(status.checked, look::now()));
    let machines = format!("{} of {} running", status.running.len(), plural(status.slots, "machine"));
    let disk = format!("disk {percent} %, {} free", text::bytes(status.disk.free));
    let line = format!("{driver}, {machines}; {disk}");
    let fits = line.chars().count() <= style.width;
    let line = if fits { line } else { format!("{driver}\n{machines}; {disk}") };
    let _ = writeln!(out, "\n{line}\n{}", status.sandbox);
    for repository in &status.repositories {
        if let Some(problem) = &repository.problem {
            let _ = writeln!(out, "repository {}: {problem}", repository.repository);
        } else if status.total == 0 {
            let _ = writeln!(out, "push to: git push {} HEAD:main", repository.path);
        }
    }
}

/// When the driver was asked, where that is not just now.
fn when_asked(checked: i64, now: i64) -> String {
    if now - checked < 60_000 { String::new() } else { format!(" (asked {} ago)", text::age(checked, now)) }
}
