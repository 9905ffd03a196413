//! What a build leaves to be looked at: its log, consoles and reports, besides the outputs, in every outcome.

use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use super::super::runner::Run;
use crate::blocking;
use crate::domain::path::RepoPath;
use crate::domain::pipeline::Stage;
use crate::store::{LogLine, StoreError};

/// What is archived where the pipeline says nothing.
const DEFAULT: [&str; 3] = [LOG, "reports/**", "console/**"];

/// The build's log, under the name that people know.
const LOG: &str = "packer.latest.log";
/// The largest file that is archived, in bytes.
const MOST_FILE: u64 = 512 << 20;

pub(in crate::engine) async fn run(run: &mut Run) -> Result<(), StoreError> {
    super::render::keep_outputs(run);
    let wanted = globs(run);
    for (name, file) in found(run).await {
        let Some(path) = RepoPath::new(&name).filter(|_| wanted.is_match(&name)) else { continue };
        let blobs = run.engine.store().blobs().clone();
        let blob = blocking::run(move || blobs.put_file(&file, MOST_FILE)).await?;
        run.archive(path, blob);
    }
    if let Some(path) = RepoPath::new(LOG).filter(|_| wanted.is_match(LOG)) {
        let blob = run.engine.store().store_log_text(run.order.number, log_text).await?;
        run.archive(path, blob);
    }
    Ok(())
}

/// A line of the log as people read it in a file.
fn log_text(line: &LogLine) -> String {
    let stage = line.stage.map(Stage::word).unwrap_or_default();
    format!("{stage}: {}\n", line.text)
}

/// The files that the build left, under the names they are archived by.
async fn found(run: &Run) -> Vec<(String, PathBuf)> {
    let files = run.files.clone();
    blocking::run(move || {
        let mut named = Vec::new();
        for role in ["change", "provision", "test"] {
            let console = files.join(format!("console-{role}.log"));
            if console.is_file() {
                named.push((format!("console/{role}.log"), console));
            }
        }
        let reports = files.join("reports");
        let mut below = Vec::new();
        files_below(&reports, &mut below);
        below.sort();
        for file in below {
            // reports/STEP/reports/x.xml is the step's report reports/x.xml.
            let path = file.strip_prefix(&reports).ok().and_then(|path| path.to_str().map(str::to_owned));
            if let Some((_, path)) = path.as_deref().and_then(|path| path.split_once('/')) {
                let name = if path.starts_with("reports/") { path.to_owned() } else { format!("reports/{path}") };
                named.push((name, file));
            }
        }
        named
    })
    .await
}

/// Regular files below a directory that factoryd itself wrote; no link is followed.
pub(super) fn files_below(directory: &Path, found: &mut Vec<PathBuf>) {
    let mut open = vec![directory.to_path_buf()];
    while let Some(directory) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        for entry in entries.flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                Ok(kind) if kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
}

fn globs(run: &Run) -> GlobSet {
    let texts: Vec<String> = run.buildable.pipeline.archive.iter().filter_map(|text| run.fill(text).ok()).collect();
    let mut set = GlobSetBuilder::new();
    // Pipelines were checked, so a glob that is none matches nothing here.
    for text in texts.iter().map(String::as_str).chain(DEFAULT.into_iter().filter(|_| texts.is_empty())) {
        if let Ok(glob) = GlobBuilder::new(text).literal_separator(true).build() {
            set.add(glob);
        }
    }
    set.build().unwrap_or_else(|_| GlobSet::empty())
}
