//! Verification: is everything that is stored what was stored?
//!
//! Nothing is repaired here. A problem says what is wrong and what to do, in words.

use std::collections::BTreeSet;
use std::io;

use rusqlite::{Connection, Row};

use super::Store;
use super::blobs::Blobs;
use super::error::{Fault, StoreError};
use super::gc::referenced;
use super::journal;
use super::journal_shape::BuildJson;
use super::shape::{Col, Json, Word};
use crate::domain::build::{Build, BuildState, Moment, Outcome, StageProgress};
use crate::domain::id::{BuildNo, Digest, ImageId};
use crate::domain::pipeline::Stage;

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How many builds were folded again from their journals.
    pub builds: u64,
    /// How many blobs were hashed again.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many disks of drivers were looked at; they are not the store's, and the engine asks for them.
    pub disks: u64,
    /// What is wrong; empty where all is well.
    pub problems: Vec<Problem>,
}

/// Something that is not as it was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub help: String,
    /// Whether nothing more may be written before it is seen to: the database itself is wrong.
    pub stops_writing: bool,
}

const RESTORE: &str = "stop factoryd and put back a copy of factory.db from before the damage";
const REBUILD: &str = "it can't be mended from what is here: retry the builds that have it, or put the file back";

impl Store {
    /// Looks at everything: the database's own checks, every projection against its journal, every blob against its sum.
    /// Reads all blobs, so it takes as long as the disk does; builds go on meanwhile.
    ///
    /// # Errors
    /// When something can't be read at all. What is read and wrong is in the report.
    pub async fn verify(&self) -> Result<Report, StoreError> {
        self.verify_telling(|_| {}).await
    }

    /// [`Store::verify`], which tells the bytes of each blob that it has read.
    ///
    /// # Errors
    /// As [`Store::verify`].
    pub async fn verify_telling(&self, tell: impl Fn(u64) + Send + 'static) -> Result<Report, StoreError> {
        let (connection, blobs) = (self.db().reader()?, self.blobs().clone());
        crate::blocking::run(move || run(&connection, &blobs, &tell)).await
    }

    /// The bytes of all blobs.
    ///
    /// # Errors
    /// When a directory can't be read.
    pub async fn stored_bytes(&self) -> Result<u64, StoreError> {
        let blobs = self.blobs().clone();
        crate::blocking::run(move || Ok(blobs.list()?.blobs.iter().map(|(_, size)| size).sum())).await
    }
}

/// Rows are read in one transaction, and blobs after it: what is stored meanwhile is looked at too, and what garbage
/// collection takes meanwhile had no row.
pub(super) fn run(connection: &Connection, blobs: &Blobs, tell: &dyn Fn(u64)) -> Result<Report, StoreError> {
    let mut report = Report::default();
    let expected = rows(connection, &mut report).map_err(|fault| fault.during("verify"))?;
    files(blobs, expected, &mut report, tell)?;
    Ok(report)
}

fn rows(connection: &Connection, report: &mut Report) -> Result<Vec<(Digest, u64)>, Fault> {
    let transaction = connection.unchecked_transaction()?;
    integrity(&transaction, report)?;
    numbers(&transaction, report)?;
    builds(&transaction, report)?;
    bundles(&transaction, report)?;
    referenced(&transaction)
}

impl Report {
    fn database(&mut self, what: String) {
        self.problems.push(Problem { what, help: RESTORE.to_owned(), stops_writing: true });
    }

    fn file(&mut self, what: String, help: &str) {
        self.problems.push(Problem { what, help: help.to_owned(), stops_writing: false });
    }
}

fn integrity(connection: &Connection, report: &mut Report) -> Result<(), Fault> {
    let mut statement = connection.prepare("PRAGMA integrity_check")?;
    let said = statement.query_map([], |row| row.get::<_, String>(0))?;
    for said in said {
        let said = said?;
        if said != "ok" {
            report.database(format!("the database's own check says: {said}"));
        }
    }
    let mut statement = connection.prepare("PRAGMA foreign_key_check")?;
    let broken = statement.query_map([], |row| {
        let (table, parent): (String, String) = (row.get(0)?, row.get(2)?);
        Ok(format!("a row of {table} refers to a row of {parent} that is not there"))
    })?;
    for broken in broken {
        report.database(broken?);
    }
    Ok(())
}

/// Numbers are unique by the table's key; that none comes again rests on SQLite's own counter.
fn numbers(connection: &Connection, report: &mut Report) -> Result<(), Fault> {
    let (counter, highest): (i64, i64) = connection.query_row(
        "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'build'), 0),
           coalesce((SELECT max(number) FROM build), 0)",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    if counter < highest {
        report.database(format!("the counter of build numbers stands at {counter}, and there is a build #{highest}"));
    }
    Ok(())
}

/// What is stored of a build besides its journal.
struct Stored {
    number: BuildNo,
    stages: Vec<Stage>,
    fold: Build,
    columns: Columns,
}

/// The columns that lists are made from.
#[derive(PartialEq)]
struct Columns {
    state: BuildState,
    outcome: Option<Outcome>,
    queued: Moment,
    started: Option<Moment>,
    ended: Option<Moment>,
    image: Option<ImageId>,
}

impl Columns {
    fn of(build: &Build) -> Self {
        Self {
            state: build.state,
            outcome: build.outcome,
            queued: build.queued,
            started: build.started,
            ended: build.ended,
            image: build.image.clone(),
        }
    }
}

fn builds(connection: &Connection, report: &mut Report) -> Result<(), Fault> {
    let mut statement = connection.prepare(
        "SELECT number, stages, fold, state, outcome, queued, started, ended, image FROM build ORDER BY number",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        report.builds += 1;
        match stored(row) {
            Ok(stored) => journal_of(connection, &stored, report)?,
            Err(error) => {
                let number: i64 = row.get(0)?;
                report.database(format!("the row of build #{number} can't be read: {error}"));
            }
        }
    }
    Ok(())
}

fn stored(row: &Row<'_>) -> rusqlite::Result<Stored> {
    let (Col(number), Json(stages), Json(BuildJson(fold))) =
        (row.get(0)?, row.get::<_, Json<Vec<Word<Stage>>>>(1)?, row.get(2)?);
    let Col(state) = row.get(3)?;
    let outcome: Option<Col<Outcome>> = row.get(4)?;
    let image: Option<Col<ImageId>> = row.get(8)?;
    let moment = |column: usize| row.get::<_, Option<i64>>(column).map(|at| at.map(Moment));
    let columns = Columns {
        state,
        outcome: outcome.map(|outcome| outcome.0),
        queued: Moment(row.get(5)?),
        started: moment(6)?,
        ended: moment(7)?,
        image: image.map(|image| image.0),
    };
    Ok(Stored { number, stages: stages.into_iter().map(|stage| stage.0).collect(), fold, columns })
}

fn journal_of(connection: &Connection, stored: &Stored, report: &mut Report) -> Result<(), Fault> {
    let number = stored.number;
    let entries = match journal::read(connection, number) {
        Ok(entries) => entries,
        Err(fault) => {
            report.database(format!("build {number}: {}", fault.during("read its journal")));
            return Ok(());
        }
    };
    if entries.is_empty() || !(1..).zip(&entries).all(|(position, entry)| entry.position == position) {
        report.database(format!("build {number}: its journal has a gap"));
        return Ok(());
    }
    let events = entries.iter().map(|entry| (entry.at, &entry.event));
    match Build::fold(stored.stages.iter().copied(), events) {
        Err(error) => report.database(format!("build {number}: {error}")),
        Ok(fold) if fold != stored.fold || Columns::of(&fold) != stored.columns => {
            report.database(format!("build {number}: what is stored of it is not what its journal tells"));
        }
        Ok(fold) => stage_times(connection, number, &fold, report)?,
    }
    Ok(())
}

fn stage_times(connection: &Connection, number: BuildNo, fold: &Build, report: &mut Report) -> Result<(), Fault> {
    let mut statement = connection.prepare_cached("SELECT stage, millis FROM stage_time WHERE build = ?1")?;
    let rows = statement.query_map([Col(number)], |row| {
        let (Col(stage), Col(millis)) = (row.get::<_, Col<Stage>>(0)?, row.get::<_, Col<u64>>(1)?);
        Ok((stage, millis))
    })?;
    let stored: BTreeSet<(Stage, u64)> = rows.collect::<rusqlite::Result<_>>()?;
    // A time that an earlier attempt left stays when a later one does the stage again and fails, so more may be stored.
    let passed = fold.stages.iter().filter(|(_, run)| run.progress == StageProgress::Passed);
    let told: BTreeSet<(Stage, u64)> = passed.filter_map(|(stage, run)| Some((*stage, run.millis()?))).collect();
    if !told.is_subset(&stored) {
        report.database(format!("build {number}: the times of its stages are not what its journal tells"));
    }
    Ok(())
}

fn bundles(connection: &Connection, report: &mut Report) -> Result<(), Fault> {
    let mut statement = connection.prepare(
        "SELECT CAST(path AS TEXT), branch, repository FROM bundle
         WHERE last_build IS NOT (SELECT max(number) FROM build WHERE bundle = bundle.id)
           OR last_finished IS NOT (SELECT max(number) FROM build
             WHERE bundle = bundle.id AND state = 'finished' AND outcome <> 'superseded')",
    )?;
    let wrong = statement.query_map([], |row| {
        let (path, branch, repository): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(format!("{path} ({branch} of {repository}): its last builds are not what is stored of it"))
    })?;
    for wrong in wrong {
        report.database(wrong?);
    }
    Ok(())
}

fn files(
    blobs: &Blobs,
    expected: Vec<(Digest, u64)>,
    report: &mut Report,
    tell: &dyn Fn(u64),
) -> Result<(), StoreError> {
    for (sha256, size) in expected.into_iter().collect::<BTreeSet<_>>() {
        match blobs.size(sha256) {
            None => report.file(format!("the blob {sha256} is missing"), REBUILD),
            Some(found) if found != size => {
                report.file(format!("the blob {sha256} has {found} bytes and should have {size}"), REBUILD);
            }
            Some(_) => {}
        }
    }
    let listed = blobs.list()?;
    for (sha256, size) in listed.blobs {
        report.blobs += 1;
        report.bytes += size;
        match blobs.copy(sha256, io::sink()) {
            // Collected since it was listed.
            Ok(_) | Err(StoreError::NoSuch { .. }) => {}
            Err(error) => report.file(error.to_string(), REBUILD),
        }
        tell(size);
    }
    for stranger in listed.strangers {
        let what = format!("{} is no blob, and factoryd did not make it", stranger.display());
        report.file(what, "look at it and take it away");
    }
    Ok(())
}
