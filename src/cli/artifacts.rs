//! `factoryd artifacts`: the files that a build left.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::client::escape;
use super::text::{self, plural};
use super::{BuildArgument, Context, Failure};
use crate::domain::places::LATEST_LOG;
use crate::server::wire::ArtifactsView;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// The build's number.
    build: BuildArgument,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Fetch one, verified; to standard output without -o.
    Get {
        /// Its path, as the list has it.
        path: String,
        /// Where to write it.
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

pub(super) async fn run(context: &Context, options: &Options) -> Result<(), Failure> {
    let number = options.build.0;
    match &options.action {
        None => list(context, number).await,
        Some(Action::Get { path, output }) => {
            let encoded = path.split('/').map(escape).collect::<Vec<_>>().join("/");
            fetch(context, &format!("/v1/builds/{number}/artifacts/{encoded}"), output.as_deref()).await
        }
    }
}

async fn list(context: &Context, number: u64) -> Result<(), Failure> {
    let answer: ArtifactsView = context.client.get(&format!("/v1/builds/{number}/artifacts")).await?;
    context.print(&answer, |answer, _| {
        let mut out = String::new();
        for artifact in &answer.artifacts {
            let _ = writeln!(out, "{:>10}  {}", text::bytes(artifact.size), text::name(&artifact.path));
        }
        let log = answer.artifacts.iter().find(|artifact| artifact.path == LATEST_LOG);
        match log.or(answer.artifacts.first()) {
            None => format!("#{number} left no artifacts.\n"),
            Some(one) => {
                format!(
                    "{out}{}.\nFetch: factoryd artifacts {number} get {}\n",
                    plural(answer.artifacts.len(), "artifact"),
                    text::argument(&one.path)
                )
            }
        }
    })
}

/// Writes an answer to a file or to standard output. A file appears under its name only when it is whole.
pub(super) async fn fetch(context: &Context, path: &str, output: Option<&Path>) -> Result<(), Failure> {
    let Some(output) = output else {
        context.client.download(path, &mut tokio::io::stdout(), |_, _| {}).await?;
        return Ok(());
    };
    let mut name = output.as_os_str().to_owned();
    name.push(".part");
    let partial = PathBuf::from(name);
    let cant = |error: std::io::Error| Failure::failed(format!("can't write {}: {error}", output.display()));
    let mut file = tokio::fs::File::create(&partial).await.map_err(cant)?;
    let bar = super::images::progress(context);
    let fetched = context
        .client
        .download(path, &mut file, |done, of| {
            bar.set_length(of.unwrap_or(done));
            bar.set_position(done);
        })
        .await;
    bar.finish_and_clear();
    let written = match fetched {
        Ok(written) => written,
        Err(failure) => {
            // What is not whole must not look as if it were.
            drop(tokio::fs::remove_file(&partial).await);
            return Err(failure);
        }
    };
    file.sync_all().await.map_err(cant)?;
    tokio::fs::rename(&partial, output).await.map_err(cant)?;
    eprintln!("{} written to {}, verified.", text::bytes(written), output.display());
    Ok(())
}
