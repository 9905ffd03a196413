//! `factoryd builds`, `show`, `why`, `deliveries`, `gc`, `verify`: looking, and care.

use std::fmt::Write as _;

use clap::Args;
use hyper::Method;

use super::client::escape;
use super::plan::short;
use super::text::{self, Style, plural};
use super::{Context, Failure};
use crate::server::wire::{
    BuildView, BuildsView, DeliveriesView, GcView, ShowView, StagePlanView, StageView, VerifyProgress, VerifyView,
    WhyView,
};

#[derive(Debug, Args)]
pub(super) struct BuildsOptions {
    /// Only of this bundle: its path, or its directory's name.
    bundle: Option<String>,
    /// How many.
    #[arg(long, default_value_t = 20, value_name = "N")]
    limit: usize,
    /// Only older than this build.
    #[arg(long, value_name = "BUILD")]
    before: Option<u64>,
}

pub(super) async fn builds(context: &Context, options: &BuildsOptions) -> Result<(), Failure> {
    let mut query = format!("limit={}", options.limit);
    if let Some(bundle) = &options.bundle {
        let _ = write!(query, "&bundle={}", escape(bundle));
    }
    if let Some(before) = options.before {
        let _ = write!(query, "&before={before}");
    }
    let answer: BuildsView = context.client.get(&format!("/v1/builds?{query}")).await?;
    context.print(&answer, |answer, style| {
        if answer.builds.is_empty() {
            return "No builds yet.\nPush a bundle, or: factoryd build BUNDLE\n".to_owned();
        }
        let width = answer.builds.iter().map(|build| build.bundle.chars().count()).max().unwrap_or(0);
        let mut out = String::new();
        for build in &answer.builds {
            let _ = writeln!(
                out,
                "{} #{:<5} {:width$} {:<7} {}  {}",
                style.mark(word(build)),
                build.build,
                text::name(&build.bundle),
                text::rail(&build.stages),
                short(&build.commit),
                text::ago(build.queued, now()),
            );
            if let Some(stale) = build.freshness.as_ref().filter(|freshness| freshness.is_stale()) {
                let reason = format!("its image is stale: {}", stale.reason);
                let _ = writeln!(out, "            {}", text::cut(&reason, style.width.saturating_sub(12)));
            }
        }
        out
    })
}

/// The word of a build: how it ended, or where it is.
pub(super) fn word(build: &BuildView) -> &str {
    match build.outcome.as_deref() {
        Some(outcome) => outcome,
        None if build.state == "queued" => "waiting",
        None => &build.state,
    }
}

pub(super) fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

pub(super) async fn show(context: &Context, number: u64) -> Result<(), Failure> {
    let answer: ShowView = context.client.get(&format!("/v1/builds/{number}")).await?;
    context.print(&answer, show_text)
}

fn show_text(show: &ShowView, style: Style) -> String {
    let build = &show.build;
    let mut out = headline(build, style);
    let took = match (build.started, build.ended) {
        (Some(started), Some(ended)) => format!(", took {}", text::took(millis(ended - started))),
        _ => String::new(),
    };
    let subject = show.subject.as_deref().map(|subject| format!(" {subject}")).unwrap_or_default();
    let author = show.author.as_deref().map(|author| format!(" by {author}")).unwrap_or_default();
    let _ = writeln!(
        out,
        "  {}, {}{author}, {}{took}",
        text::name(&build.bundle),
        short(&build.commit),
        text::when(build.queued, now())
    );
    if !subject.is_empty() {
        let _ = writeln!(out, " {}", text::cut(&subject, style.width.saturating_sub(1)));
    }
    if build.by != "push" {
        let _ = writeln!(out, "  asked for by {}: {}", build.by, build.reason);
    }
    if !show.lines.is_empty() {
        out.push('\n');
        for line in &show.lines {
            let _ = writeln!(out, "  {:>5}  {}", line.line, text::cut(&line.text, style.width.saturating_sub(9)));
        }
    }
    out.push('\n');
    stage_lines(&mut out, build);
    tests(&mut out, show, style);
    warnings(&mut out, show, style);
    ending(&mut out, show);
    out
}

#[expect(clippy::cast_precision_loss, reason = "a build takes far less than 2^52 milliseconds")]
fn millis(count: i64) -> f64 {
    count as f64 / 1000.0
}

fn headline(build: &BuildView, style: Style) -> String {
    let number = build.build;
    let sign = style.sign(word(build));
    match (&build.error, build.outcome.as_deref()) {
        (Some(error), _) => {
            let place = [error.stage.as_deref(), error.step.as_deref()].into_iter().flatten().collect::<Vec<_>>();
            let at = if place.is_empty() { String::new() } else { format!(" at {}", place.join(" › ")) };
            format!("{sign} Build #{number} failed{at}: {}\n", error.message)
        }
        (None, Some("passed")) => format!("{sign} Build #{number} passed.\n"),
        (None, Some(outcome)) => format!("{sign} Build #{number} ended {outcome}: {}.\n", build.reason),
        (None, None) if build.state == "queued" => format!("{sign} Build #{number} waits {}.\n", build.reason),
        (None, None) => format!("{sign} Build #{number} runs.\n"),
    }
}

/// The stages that were reached, a line each; the others in one.
fn stage_lines(out: &mut String, build: &BuildView) {
    let is_ahead = |stage: &&StageView| matches!(stage.state.as_str(), "skipped" | "waiting");
    for stage in build.stages.iter().filter(|stage| !is_ahead(stage)) {
        let _ = writeln!(out, "{}", stage_line(stage, build));
    }
    let ahead: Vec<&str> = build.stages.iter().filter(is_ahead).map(|stage| stage.stage.as_str()).collect();
    if !ahead.is_empty() {
        let word = if build.outcome.is_some() { "not reached" } else { "to come" };
        let _ = writeln!(out, "  {}  {word}", ahead.join(", "));
    }
}

fn stage_line(stage: &StageView, build: &BuildView) -> String {
    let (mark, word) = match (stage.state.as_str(), stage.plan.as_deref()) {
        ("running", _) => ('>', "running"),
        ("hit", _) => ('=', "hit"),
        (_, Some("changed")) => ('~', "changed"),
        (_, Some("miss")) => ('+', "miss"),
        ("passed", _) => ('#', "passed"),
        (state, _) => ('!', state),
    };
    let time = match (stage.seconds, stage.saved) {
        (_, Some(saved)) => format!("saved {}", text::took(saved)),
        (Some(seconds), None) => text::took(seconds),
        (None, None) => String::new(),
    };
    let failed = build.error.as_ref().filter(|error| error.stage.as_deref() == Some(&stage.stage));
    let reason = match (stage.state.as_str(), failed.map(|error| error.step.as_deref()), &stage.step) {
        ("failed", Some(Some(step)), _) => format!("failed in {step}"),
        (state @ ("failed" | "cancelled"), ..) => state.to_owned(),
        ("running", _, Some(step)) => step.clone(),
        _ => stage.reason.clone(),
    };
    format!("  {:<10} {mark} {word:<7} {time:>17}  {reason}", stage.stage).trim_end().to_owned()
}

fn tests(out: &mut String, show: &ShowView, style: Style) {
    if show.tests.is_empty() {
        return;
    }
    let count = |outcome: &str| show.tests.iter().filter(|test| test.outcome == outcome).count();
    let bad = count("failed") + count("error");
    let _ = writeln!(
        out,
        "\n  {}: {} passed, {bad} failed, {} skipped",
        plural(show.tests.len(), "test"),
        count("passed"),
        count("skipped")
    );
    for test in show.tests.iter().filter(|test| matches!(test.outcome.as_str(), "failed" | "error")).take(10) {
        let _ = writeln!(out, "    {} {}::{}", style.sign("failed"), test.suite, test.name);
    }
}

/// The most warnings that are shown one by one.
const MOST_WARNINGS: usize = 10;

fn warnings(out: &mut String, show: &ShowView, style: Style) {
    if show.warnings.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n  {} about its outputs", plural(show.warnings.len(), "warning"));
    for warning in show.warnings.iter().take(MOST_WARNINGS) {
        let _ = writeln!(out, "    {} {}:{}", style.sign("stale"), warning.file, warning.line);
        let _ = writeln!(out, "      {}", text::cut(&warning.message, style.width.saturating_sub(6)));
    }
    if show.warnings.len() > MOST_WARNINGS {
        let _ = writeln!(out, "    and {} more", show.warnings.len() - MOST_WARNINGS);
    }
}

fn ending(out: &mut String, show: &ShowView) {
    let build = &show.build;
    out.push('\n');
    let _ = match (&show.served, build.image.is_some()) {
        (Some(image), true) => writeln!(out, "  Image {} {}", image.image, image.name),
        (Some(image), false) => {
            let age = text::age(image.made, now());
            writeln!(out, "  No image. Still served: {}, {}, {age}.", image.name, image.state)
        }
        (None, _) => writeln!(out, "  No image."),
    };
    if let Some(reason) = show.served.as_ref().and_then(super::images::stale) {
        let _ = writeln!(out, "  It is stale: {reason}");
    }
    if !show.artifacts.is_empty() {
        let _ = writeln!(out, "  {}: factoryd artifacts {}", plural(show.artifacts.len(), "artifact"), build.build);
    }
    if let Some(error) = &build.error {
        if !error.help.is_empty() {
            let _ = writeln!(out, "  {}", error.help);
        }
        let _ = writeln!(out, "  next: factoryd logs {0}, a push, or factoryd retry {0}", build.build);
    }
    if build.outcome.is_none() {
        let _ = writeln!(out, "  next: factoryd logs -f {}", build.build);
    }
}

pub(super) async fn why(context: &Context, number: u64) -> Result<(), Failure> {
    let answer: WhyView = context.client.get(&format!("/v1/builds/{number}/why")).await?;
    context.print(&answer, |why, style| {
        let changed: usize = why.stages.iter().map(|stage| stage.differences.len()).sum();
        let mut out = match (why.before, changed) {
            (None, _) => {
                format!("#{} ran because nothing was built from {} before.\n", why.build, text::name(&why.bundle))
            }
            (Some(before), 0) => {
                format!("#{} ran with the same declared inputs as #{before}: {}.\n", why.build, why.reason)
            }
            (Some(_), _) => {
                format!(
                    "#{} ran because {} changed {changed} of its {} inputs.\n",
                    why.build,
                    short(&why.commit),
                    why.inputs
                )
            }
        };
        why.stages.iter().for_each(|stage| why_lines(&mut out, stage, style));
        out
    })
}

fn why_lines(out: &mut String, stage: &StagePlanView, style: Style) {
    let line = format!("  {:<10} {} {:<8} {}", stage.stage, text::plan_mark(stage), stage.state, stage.reason);
    let _ = writeln!(out, "{}", line.trim_end());
    for difference in &stage.differences {
        let _ = writeln!(out, "             {}", text::cut(difference, style.width.saturating_sub(13)));
    }
}

pub(super) async fn deliveries(context: &Context) -> Result<(), Failure> {
    let answer: DeliveriesView = context.client.get("/v1/deliveries").await?;
    context.print(&answer, |answer, _| {
        if answer.deliveries.is_empty() {
            return "Nothing arrived yet.\n".to_owned();
        }
        let mut out = String::new();
        for delivery in &answer.deliveries {
            let became = delivery.became.as_deref().unwrap_or("not known yet");
            let _ = writeln!(
                out,
                "{:>5}  {}  {:<5} {} by {}: {}\n       {became}",
                delivery.delivery,
                text::when(delivery.at, now()),
                delivery.kind,
                delivery.repository,
                delivery.by,
                moved(&delivery.what),
            );
        }
        out
    })
}

/// What moved, from git's `old new ref; …`; anything else as it is.
fn moved(what: &str) -> String {
    let moves = what.split("; ").map(|update| {
        let [old, new, name] = update.split(' ').collect::<Vec<_>>()[..] else { return update.to_owned() };
        let name = name.strip_prefix("refs/heads/").or_else(|| name.strip_prefix("refs/")).unwrap_or(name);
        let is_nothing = |id: &str| id.chars().all(|digit| digit == '0');
        match (is_nothing(old), is_nothing(new)) {
            (true, _) => format!("{name} is new, at {}", short(new)),
            (_, true) => format!("{name} is gone, was at {}", short(old)),
            _ => format!("{name} {} → {}", short(old), short(new)),
        }
    });
    moves.collect::<Vec<_>>().join("; ")
}

pub(super) async fn gc(context: &Context) -> Result<(), Failure> {
    let answer: GcView = context.client.post("/v1/gc", &()).await?;
    context.print(&answer, |gc, _| {
        let deprecated = if gc.deprecated.is_empty() {
            String::new()
        } else {
            format!("Deprecated: {}.\n", gc.deprecated.join(", "))
        };
        format!(
            "{} freed: {} and {} removed.\n{deprecated}",
            text::bytes(gc.freed),
            plural(gc.disks, "disk"),
            plural(gc.blobs, "file")
        )
    })
}

pub(super) async fn verify(context: &Context) -> Result<(), Failure> {
    let (bar, mut answer) = (super::images::progress(context), None);
    let not_understood =
        |error: serde_json::Error| Failure::failed(format!("the daemon's verdict is not understood: {error}"));
    let told = context.client.lines(Method::POST, "/v1/verify?progress=true", |line| {
        if let Ok(VerifyProgress { bytes, of }) = serde_json::from_slice(line) {
            bar.set_length(of.max(bytes));
            bar.set_position(bytes);
        } else {
            answer = Some(serde_json::from_slice::<VerifyView>(line).map_err(not_understood)?);
        }
        Ok(())
    });
    let told = told.await;
    bar.finish_and_clear();
    told?;
    let answer =
        answer.ok_or_else(|| Failure::unreachable("the daemon broke off before it had looked at everything"))?;
    context.print(&answer, |verify, style| match verify.problems.as_slice() {
        [] => format!("The store is whole: {} looked at.\n", plural(verify.checked, "thing")),
        problems => {
            let mut out =
                format!("{} of {} looked at.\n", plural(problems.len(), "problem"), plural(verify.checked, "thing"));
            for problem in problems {
                let _ = writeln!(out, "  {} {problem}", style.sign("failed"));
            }
            out
        }
    })?;
    if answer.problems.is_empty() { Ok(()) } else { Err(Failure::quiet()) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn stage(stage: &str, state: &str, plan: &str, reason: &str) -> Value {
        json!({"stage": stage, "state": state, "seconds": 226.0, "reason": reason, "plan": plan})
    }

    fn image(freshness: Option<&str>) -> Value {
        json!({
            "image": "f51eb4a3", "name": "web-2026-11-031402", "state": "published", "sha256": "", "size": 1,
            "bundle": "images/web", "build": 31, "properties": {}, "copies": [], "min_disk": 2, "base": "", "commit": "",
            "pinned": false, "served": true, "made": now() - 19 * 86_400_000,
            "freshness": freshness.map(|reason| json!({"state": "stale", "reason": reason})),
        })
    }

    /// What `show` says of a failed build with these changes.
    fn shown(change: impl FnOnce(&mut Value)) -> String {
        let mut hit = stage("boot", "hit", "hit", "from #38");
        hit["seconds"] = Value::Null;
        hit["saved"] = json!(69.0);
        let stages = [
            hit,
            stage("provision", "passed", "changed", "ansible/roles/zabbix/tasks/main.yml 9f3c1e → 41aa07"),
            stage("test", "failed", "miss", "follows provision"),
            stage("snapshot", "skipped", "skipped", ""),
            stage("render", "skipped", "skipped", ""),
        ];
        let mut show = json!({
            "build": 42, "repository": "factory", "bundle": "images/web", "branch": "main", "commit": "3f9c2e1000",
            "state": "finished", "outcome": "failed", "reason": "", "image": null, "stages": stages, "by": "push",
            "error": {"stage": "test", "step": "pytest", "line": 1272, "message": "2 of 31 tests failed.", "help": ""},
            "attempt": 1, "queued": now(), "started": 0, "ended": 708_000, "subject": "open 10051", "author": "marie",
            "lines": [{"line": 1272, "at": 0, "stage": "test", "step": 3, "text": "E   AssertionError: 10051 is closed"}],
            "tests": [], "served": image(None), "artifacts": [],
        });
        change(&mut show);
        let show: ShowView = serde_json::from_value(show).expect("a build");
        show_text(&show, Style { colour: false, unicode: true, width: 80 })
    }

    #[test]
    fn a_failed_build_shows_its_error_first_and_what_each_stage_was_run_for() {
        let said = shown(|_| {});
        let wanted = "✗ Build #42 failed at test › pytest: 2 of 31 tests failed.";
        assert_eq!(said.lines().next(), Some(wanted));
        for line in [
            "   1272  E   AssertionError: 10051 is closed",
            "  boot       = hit      saved 1 min 09 s  from #38",
            "  provision  ~ changed        3 min 46 s  ansible/roles/zabbix/tasks/main.yml 9f3c1e → 41aa07",
            "  test       + miss           3 min 46 s  failed in pytest",
            "  snapshot, render  not reached",
            "  No image. Still served: web-2026-11-031402, published, 19 d.",
        ] {
            assert!(said.lines().any(|said| said == line), "{line:?} is missing:\n{said}");
        }
    }

    #[test]
    fn a_stale_image_and_warnings_are_said_where_the_build_is_shown() {
        let said = shown(|show| {
            show["served"] = image(Some("marked by a shared change: /shared/motd 1 → 2"));
            let warning = json!({
                "file": "images/web/output/a.yml.j2", "line": 3, "column": 1, "code": "not-yaml", "help": "",
                "message": "this is not YAML",
            });
            show["warnings"] = json!([warning]);
        });
        let lines = "  1 warning about its outputs\n    ◇ images/web/output/a.yml.j2:3\n      this is not YAML\n";
        assert!(said.contains(lines), "{said}");
        assert!(said.contains("  It is stale: marked by a shared change: /shared/motd 1 → 2\n"), "{said}");
    }

    #[test]
    fn a_delivery_says_which_branch_moved() {
        let (none, old, new) = ("0".repeat(40), "a".repeat(40), "b".repeat(40));
        assert_eq!(moved(&format!("{none} {new} refs/heads/main")), "main is new, at bbbbbbb");
        let two = format!("{old} {new} refs/heads/main; {old} {none} refs/tags/v1");
        assert_eq!(moved(&two), "main aaaaaaa → bbbbbbb; tags/v1 is gone, was at aaaaaaa");
        assert_eq!(moved("something else"), "something else");
    }
}
