//! `factoryd images`: the catalogue.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use super::client::escape;
use super::plan::short;
use super::{Context, Failure, artifacts, text};
use crate::server::wire::{ImageView, ImagesView};

#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// One image: its properties, copies and lineage.
    Show {
        /// Its id, the beginning of it, or its name.
        image: String,
    },
    /// Write an image to a file, verified.
    Export {
        /// Its id, the beginning of it, or its name.
        image: String,
        /// Where to write it.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Keep an image whatever retention says.
    Pin {
        /// Its id, the beginning of it, or its name.
        image: String,
    },
    /// Leave an image to retention again.
    Unpin {
        /// Its id, the beginning of it, or its name.
        image: String,
    },
    /// Say that nobody should begin to use an image.
    Deprecate {
        /// Its id, the beginning of it, or its name.
        image: String,
    },
}

pub(super) async fn run(context: &Context, options: &Options) -> Result<(), Failure> {
    match &options.action {
        None => list(context).await,
        Some(Action::Show { image }) => {
            let answer: ImageView = context.client.get(&format!("/v1/images/{}", escape(image))).await?;
            context.print(&answer, |image, _| describe(image))
        }
        Some(Action::Export { image, output }) => {
            artifacts::fetch(context, &format!("/v1/images/{}/export", escape(image)), Some(output)).await
        }
        Some(Action::Pin { image }) => change(context, image, "pin").await,
        Some(Action::Unpin { image }) => change(context, image, "unpin").await,
        Some(Action::Deprecate { image }) => change(context, image, "deprecate").await,
    }
}

async fn list(context: &Context) -> Result<(), Failure> {
    let answer: ImagesView = context.client.get("/v1/images").await?;
    context.print(&answer, |answer, style| {
        if answer.images.is_empty() {
            return "No images yet.\n".to_owned();
        }
        let width = answer.images.iter().map(|image| image.name.chars().count()).max().unwrap_or(0);
        let mut out = String::new();
        for image in &answer.images {
            let fresh = image.freshness.as_ref().map(|freshness| freshness.state.as_str());
            let notes = [image.served.then_some("served"), fresh, image.pinned.then_some("pinned")];
            let notes: Vec<&str> = notes.into_iter().flatten().collect();
            let line = format!(
                "{} {}  {:width$}  {:>8}  #{} {}",
                style.mark(&image.state),
                image.image,
                image.name,
                text::bytes(image.size),
                image.build,
                notes.join(", "),
            );
            let _ = writeln!(out, "{}", line.trim_end());
            if let Some(reason) = stale(image) {
                let _ = writeln!(out, "            {}", text::cut(reason, style.width.saturating_sub(12)));
            }
        }
        out
    })
}

/// Why an image is stale; `None` where it is not.
pub(super) fn stale(image: &ImageView) -> Option<&str> {
    let freshness = image.freshness.as_ref().filter(|freshness| freshness.is_stale())?;
    Some(&freshness.reason)
}

async fn change(context: &Context, image: &str, verb: &str) -> Result<(), Failure> {
    let answer: ImageView = context.client.post(&format!("/v1/images/{}/{verb}", escape(image)), &()).await?;
    context.print(&answer, |image, _| {
        let pinned = if image.pinned { ", pinned" } else { "" };
        format!("{} {} is {}{pinned}.\n", image.image, image.name, image.state)
    })
}

fn describe(image: &ImageView) -> String {
    let mut out = match image.freshness.as_ref().map(|freshness| (freshness.is_stale(), &freshness.reason)) {
        Some((true, reason)) => format!("{} is {} and stale: {reason}\n\n", image.name, image.state),
        Some((false, _)) => format!("{} is {} and fresh.\n\n", image.name, image.state),
        None => format!("{} is {}.\n\n", image.name, image.state),
    };
    let mut row = |name: &str, value: &str| {
        let _ = writeln!(out, "  {name:<10} {value}");
    };
    row("image", &image.image);
    row("bundle", &text::name(&image.bundle));
    row("build", &format!("#{} of {}, {}", image.build, short(&image.commit), text::moment(image.made)));
    row("file", &format!("{}, {}", text::bytes(image.size), image.sha256));
    row("base", &image.base);
    row("min disk", &format!("{} GiB", image.min_disk));
    for copy in &image.copies {
        let region = if copy.region.is_empty() { String::new() } else { format!(" {}", copy.region) };
        row("copy", &format!("{}{region} {} ({})", copy.driver, copy.id, copy.state));
    }
    for (name, value) in &image.properties {
        row("property", &format!("{name}={}", value.as_str().unwrap_or_default()));
    }
    let file = text::argument(&format!("{}.qcow2", image.name.replace('/', "_")));
    let _ = writeln!(out, "\nExport: factoryd images export {} -o {file}", image.image);
    out
}

/// A bar for long transfers: on a terminal only.
pub(super) fn progress(context: &Context) -> ProgressBar {
    if context.json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}, {eta} left") {
        bar.set_style(style);
    }
    bar
}
