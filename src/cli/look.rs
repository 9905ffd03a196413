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
                build.bundle,
                text::rail(&build.stages),
                short(&build.commit),
                text::ago(build.queued, now()),
            );
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
    let _ = writeln!(out, "  {}, {}{author}, {}{took}", build.bundle, short(&build.commit), text::moment(build.queued));
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
    for stage in &build.stages {
        let _ = writeln!(out, "{}", stage_line(stage));
    }
    tests(&mut out, show);
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

fn stage_line(stage: &StageView) -> String {
    let mark = match stage.state.as_str() {
        "hit" => '=',
        "passed" => '#',
        "running" => '>',
        "failed" | "cancelled" => '!',
        _ => '.',
    };
    let seconds = stage.seconds.map(text::took).unwrap_or_default();
    let reason = match stage.state.as_str() {
        "skipped" => "not reached".to_owned(),
        "waiting" => String::new(),
        _ => stage.reason.clone(),
    };
    format!("  {:<10} {mark} {:<9} {seconds:>12}  {reason}", stage.stage, stage.state).trim_end().to_owned()
}

fn tests(out: &mut String, show: &ShowView) {
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
        let _ = writeln!(out, "    ✗ {}::{}", test.suite, test.name);
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
        (Some(image), false) => writeln!(out, "  No image. Still served: {}.", image.name),
        (None, _) => writeln!(out, "  No image."),
    };
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
            (None, _) => format!("#{} ran because nothing was built from {} before.\n", why.build, why.bundle),
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
    let _ = writeln!(out, "  {:<10} {} {:<8} {}", stage.stage, text::plan_mark(stage), stage.state, stage.reason);
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
                text::moment(delivery.at),
                delivery.kind,
                delivery.repository,
                delivery.by,
                delivery.what,
            );
        }
        out
    })
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
    context.print(&answer, |verify, _| match verify.problems.as_slice() {
        [] => format!("The store is whole: {} looked at.\n", plural(verify.checked, "thing")),
        problems => {
            let mut out =
                format!("{} of {} looked at.\n", plural(problems.len(), "problem"), plural(verify.checked, "thing"));
            for problem in problems {
                let _ = writeln!(out, "  ✗ {problem}");
            }
            out
        }
    })?;
    if answer.problems.is_empty() { Ok(()) } else { Err(Failure::quiet()) }
}
