//! `factoryd logs`: a build's log, as it was or as it comes.

use clap::Args;
use hyper::Method;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal as _;
use std::time::Duration;

use super::client::escape;
use super::{BuildArgument, Context, Failure, say, text};
use crate::server::wire::{BuildView, LineView, LogEnd};

#[derive(Debug, Args)]
pub(super) struct Options {
    /// The build's number.
    build: BuildArgument,
    /// Go on until the build ends; the exit code is then the build's.
    #[arg(short, long)]
    follow: bool,
    /// Only this stage.
    #[arg(long, value_name = "STAGE")]
    stage: Option<String>,
}

pub(super) async fn run(context: &Context, options: &Options) -> Result<(), Failure> {
    if options.follow {
        return follow(context, options.build.0, options.stage.as_deref()).await;
    }
    let path = format!("/v1/builds/{}/log{}", options.build.0, query(false, options.stage.as_deref()));
    context.client.lines(Method::GET, &path, |line| print_line(context, line).map(|_| ())).await
}

fn query(follow: bool, stage: Option<&str>) -> String {
    let stage = stage.map(|stage| format!("&stage={}", escape(stage))).unwrap_or_default();
    format!("?follow={follow}{stage}")
}

/// Prints lines as they come until the build ends. Its end is the command's.
pub(super) async fn follow(context: &Context, number: u64, stage: Option<&str>) -> Result<(), Failure> {
    let mut end = None;
    let spinner = spinner(context);
    let path = format!("/v1/builds/{number}/log{}", query(true, stage));
    let result = context
        .client
        .lines(Method::GET, &path, |line| {
            let ended = spinner.suspend(|| print_line(context, line))?;
            if ended.is_some() {
                end = ended;
            } else if let Ok(line) = serde_json::from_slice::<LineView>(line) {
                spinner.set_message(format!("#{number} {}", line.stage));
            }
            Ok(())
        })
        .await;
    spinner.finish_and_clear();
    result?;
    let Some(build) = end else {
        return Err(Failure::unreachable(format!("the daemon stopped while #{number} was followed"))
            .help(format!("the build goes on when it starts again: factoryd logs -f {number}")));
    };
    if !context.json {
        eprintln!("{}", context.style.shown(&sentence(&build)));
    }
    if build.outcome.as_deref() == Some("passed") { Ok(()) } else { Err(Failure::quiet()) }
}

fn spinner(context: &Context) -> ProgressBar {
    if context.json || !context.style.colour || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Prints one line of the stream; gives the build where it was the last.
fn print_line(context: &Context, raw: &[u8]) -> Result<Option<BuildView>, Failure> {
    let not_understood = |error: serde_json::Error| Failure::failed(format!("the log is not understood: {error}"));
    if raw.starts_with(b"{\"end\"") {
        if context.json {
            say(&format!("{}\n", String::from_utf8_lossy(raw)))?;
        }
        return Ok(Some(serde_json::from_slice::<LogEnd>(raw).map_err(not_understood)?.end));
    }
    if context.json {
        return say(&format!("{}\n", String::from_utf8_lossy(raw))).map(|()| None);
    }
    let line: LineView = serde_json::from_slice(raw).map_err(not_understood)?;
    let step = line.step.map(|step| format!(" {step}")).unwrap_or_default();
    say(&format!("{:>5} {} {}{step}  {}\n", line.line, text::clock(line.at), line.stage, line.text))?;
    Ok(None)
}

/// How a build ended, in one sentence.
pub(super) fn sentence(build: &BuildView) -> String {
    let number = build.build;
    match (build.outcome.as_deref(), &build.error) {
        (Some("passed"), _) => format!("✓ Build #{number} passed."),
        (Some("failed"), Some(error)) => {
            let place = [error.stage.as_deref(), error.step.as_deref()].into_iter().flatten().collect::<Vec<_>>();
            format!(
                "✗ Build #{number} failed at {}: {}\n  next: factoryd show {number}",
                place.join(" › "),
                error.message
            )
        }
        (Some(outcome), _) => format!("◇ Build #{number} ended {outcome}: {}.", build.reason),
        (None, _) => format!("▶ Build #{number} is {}.", build.state),
    }
}
