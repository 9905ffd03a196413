//! What the tests say of themselves: the JUnit reports that their steps left.

use std::path::{Path, PathBuf};

use super::super::log::StepLog;
use super::super::runner::Run;
use super::steps::reports_of;
use crate::blocking;
use crate::domain::pipeline::Stage;
use crate::engine::junit::{self, Reports, Tally};
use crate::store::{CaseOutcome, TestCase};

/// Faults of reports that are said one by one.
const FAULTS: usize = 20;

/// What all reports of a stage say.
pub(super) struct Tests {
    /// The tests that are kept, in the order of the reports.
    pub(super) cases: Vec<TestCase>,
    /// All of them, those that are not kept too.
    pub(super) tally: Tally,
}

/// Removes what an earlier attempt of a stage left, so that its tests are not counted again.
pub(super) async fn clear(run: &Run, stage: Stage) {
    let directory = reports_of(run);
    blocking::run(move || {
        for old in of_stage(&directory, stage) {
            // What can't be removed is read again at worst.
            drop(std::fs::remove_dir_all(old));
        }
    })
    .await;
}

/// The directories of a stage's steps: `test-2` is its second's.
fn of_stage(directory: &Path, stage: Stage) -> Vec<PathBuf> {
    let prefix = format!("{stage}-");
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let ours = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
    ours.map(|entry| entry.path()).collect()
}

/// Reads every JUnit report that the steps of `test` left. One that can't be read is said in the log and lost to nobody: it is
/// archived as it is.
pub(super) async fn read(run: &Run, log: &StepLog) -> Tests {
    let directory = reports_of(run);
    let (reports, faults) = blocking::run(move || read_all(&directory)).await;
    for fault in faults.iter().take(FAULTS) {
        log.say(fault);
    }
    if faults.len() > FAULTS {
        log.say(&format!("{} more reports can't be read", faults.len() - FAULTS));
    }
    if reports.left_out() > 0 {
        let (all, kept) = (reports.tally.all(), reports.cases.len());
        log.say(&format!("the reports have {all} tests: all count, the first {kept} are kept one by one"));
    }
    Tests { tally: reports.tally, cases: reports.cases.into_iter().map(into_case).collect() }
}

fn read_all(directory: &Path) -> (Reports, Vec<String>) {
    let (mut files, mut reports, mut faults) = (Vec::new(), Reports::default(), Vec::new());
    for directory in of_stage(directory, Stage::Test) {
        super::archive::files_below(&directory, &mut files);
    }
    files.sort();
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "xml")) {
        if let Err(error) = read_one(file, &mut reports) {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            faults.push(format!("the report {name} can't be read: {error}"));
        }
    }
    (reports, faults)
}

fn read_one(file: &Path, reports: &mut Reports) -> Result<(), String> {
    let size = file.metadata().map_err(|error| error.to_string())?.len();
    reports.admits(usize::try_from(size).unwrap_or(usize::MAX)).map_err(|error| error.to_string())?;
    let bytes = std::fs::read(file).map_err(|error| error.to_string())?;
    reports.read(&bytes).map_err(|error| error.to_string())
}

fn into_case(case: junit::TestCase) -> TestCase {
    let outcome = match case.outcome {
        junit::Outcome::Passed => CaseOutcome::Passed,
        junit::Outcome::Failed => CaseOutcome::Failed,
        junit::Outcome::Skipped => CaseOutcome::Skipped,
        junit::Outcome::Errored => CaseOutcome::Error,
    };
    TestCase { suite: case.suite, name: case.name, outcome, seconds: case.seconds, message: case.message }
}
