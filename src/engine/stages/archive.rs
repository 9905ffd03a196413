//! What a build leaves to be looked at: its log, consoles and reports, besides the outputs, in every outcome.

use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use super::super::runner::Run;
use crate::blocking;
use crate::domain::id::BuildNo;
use crate::domain::path::RepoPath;
use crate::domain::pipeline::Stage;
use crate::domain::places::LATEST_LOG;
use crate::engine::Engine;
use crate::store::{Artifact, Blob, LogLine, Record, StoreError};

/// What is archived where the pipeline says nothing: the log under the names that people know, reports, consoles.
const DEFAULT: [&str; 4] = [LATEST_LOG, "**/target/*/packer.*.log", "reports/**", "console/**"];

/// The largest file that is archived, in bytes.
const MOST_FILE: u64 = 512 << 20;

pub(in crate::engine) async fn run(run: &mut Run) -> Result<(), StoreError> {
    super::render::keep_outputs(run);
    let warnings = std::mem::take(&mut run.warnings);
    run.attach([Record::Warnings(warnings)]);
    let wanted = globs(run);
    for (name, file) in found(run).await {
        let Some(path) = RepoPath::new(&name).filter(|_| wanted.is_match(&name)) else { continue };
        let blobs = run.engine.store().blobs().clone();
        let blob = blocking::run(move || blobs.put_file(&file, MOST_FILE)).await?;
        run.archive(path, blob);
    }
    let mut logs = log_paths(run);
    logs.retain(|path| wanted.is_match(path.to_string()));
    if !logs.is_empty() {
        let blob = run.engine.store().store_log_text(run.order.number, log_text).await?;
        logs.into_iter().for_each(|path| run.archive(path, blob.clone()));
    }
    Ok(())
}

/// The names of the log: the newest one, and the one that has the image's name, whether or not there came to be an image.
fn log_paths(run: &Run) -> Vec<RepoPath> {
    let snapshot = run.buildable.pipeline.snapshot.as_ref();
    let image = snapshot.and_then(|snapshot| run.fill(&snapshot.name).ok());
    let stamped = image.map(|image| run.places().stamped_log(&image)).unwrap_or_default();
    RepoPath::new(LATEST_LOG).into_iter().chain(stamped).collect()
}

/// The log of a build that could not even be prepared, as its only artifact; the bytes are held as long as the blob is.
pub(in crate::engine) async fn log_alone(engine: &Engine, build: BuildNo) -> Result<(Vec<Record>, Blob), StoreError> {
    let blob = engine.store().store_log_text(build, log_text).await?;
    let artifact = |path| Record::Artifact(Artifact { path, sha256: blob.sha256, size: blob.size });
    Ok((RepoPath::new(LATEST_LOG).map(artifact).into_iter().collect(), blob))
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
