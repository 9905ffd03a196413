//! `factoryd build`, `cancel`, `retry`: what people do by hand.

use clap::Args;

use super::{Context, Failure, logs, text};
use crate::server::wire::{BuildOrder, BuildView, RetryOrder};

#[derive(Debug, Args)]
pub(super) struct Options {
    /// The bundle: its path, or its directory's name.
    bundle: String,
    /// The branch, tag or commit; the default branch without it. What is no tracked tip is built as far as test.
    #[arg(long = "ref", value_name = "REV")]
    revision: Option<String>,
    /// Why, for the record.
    #[arg(long)]
    reason: Option<String>,
    /// The first stage that runs even if its result is known.
    #[arg(long, value_name = "STAGE")]
    from: Option<String>,
    /// The last stage that runs.
    #[arg(long, value_name = "STAGE")]
    until: Option<String>,
    /// Use no kept result.
    #[arg(long)]
    no_cache: bool,
    /// Follow the log to the end; the exit code is the build's.
    #[arg(long)]
    wait: bool,
    /// The repository, where the daemon has several.
    #[arg(long, value_name = "NAME")]
    repository: Option<String>,
}

pub(super) async fn run(context: &Context, options: &Options) -> Result<(), Failure> {
    let order = BuildOrder {
        repository: options.repository.clone(),
        bundle: options.bundle.clone(),
        revision: options.revision.clone(),
        reason: options.reason.clone(),
        from: options.from.clone(),
        until: options.until.clone(),
        no_cache: options.no_cache,
    };
    let build: BuildView = context.client.post("/v1/builds", &order).await?;
    if options.wait {
        if !context.json {
            eprintln!("{}", context.style.shown(&format!("#{} {} is queued.", build.build, text::name(&build.bundle))));
        }
        return logs::follow(context, build.build, None).await;
    }
    tell_queued(context, &build)
}

fn tell_queued(context: &Context, build: &BuildView) -> Result<(), Failure> {
    context.print(build, |build, _| {
        format!("#{} {} is queued.\nFollow: factoryd logs -f {}\n", build.build, text::name(&build.bundle), build.build)
    })
}

pub(super) async fn cancel(context: &Context, number: u64) -> Result<(), Failure> {
    let build: BuildView = context.client.post(&format!("/v1/builds/{number}/cancel"), &()).await?;
    context.print(&build, |build, _| match build.state.as_str() {
        "finished" => format!("#{} is cancelled.\n", build.build),
        _ => {
            format!("#{} stops; its machine is being removed.\nFollow: factoryd logs -f {}\n", build.build, build.build)
        }
    })
}

pub(super) async fn retry(context: &Context, number: u64, from: Option<String>) -> Result<(), Failure> {
    let build: BuildView = context.client.post(&format!("/v1/builds/{number}/retry"), &RetryOrder { from }).await?;
    tell_queued(context, &build)
}
