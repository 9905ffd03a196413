//! The journal: events are folded by [`Build::apply`], and what is written besides goes into the same transaction.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction};

use super::Store;
use super::artifacts::{Artifact, insert_artifact};
use super::error::{Fault, StoreError};
use super::failures;
use super::images::{amend_image, insert_image, set_state};
use super::journal_shape::{BuildJson, EVENT_VERSION, EventJson};
use super::results::{Payload, StageResult, insert_result, move_result};
use super::served::serve;
use super::shape::{Col, Json};
use super::test_cases::{TestCase, insert_cases};
use super::warnings::{Warning, insert_warnings};
use crate::domain::build::{Build, BuildState, Event, Moment, Outcome, StageProgress};
use crate::domain::bundle::BundleKey;
use crate::domain::id::{BuildNo, CommitId, Digest, Fingerprint, ImageId, RepoName};
use crate::domain::image::{Image, ImageState};
use crate::domain::pipeline::Stage;

/// What is written in the same transaction as an event.
#[derive(Clone, Debug)]
pub enum Record {
    /// A stage's result. It clears the failures that stood in its way.
    Result(StageResult),
    /// A file in the archive; its bytes must be in the blobs. One of the same path is replaced.
    Artifact(Artifact),
    /// A new image of the catalogue.
    Image(Image),
    /// An image goes to another state.
    ImageState(ImageId, ImageState),
    /// An image's name and properties were put right.
    ImageMeta {
        /// The image.
        id: ImageId,
        /// Its name.
        name: String,
        /// Its properties, sorted by name.
        properties: Vec<(String, String)>,
        /// The smallest disk that it fits on, in GiB.
        min_disk: u64,
    },
    /// An image serves a bundle from now on.
    Serve {
        /// The bundle; of the build's repository.
        key: BundleKey,
        /// The image.
        image: ImageId,
        /// The declared fingerprints it serves with.
        stages: Vec<(Stage, Fingerprint)>,
        /// The commit they are of.
        commit: CommitId,
    },
    /// The test cases of this build, in the order of its reports. They replace those of an earlier attempt.
    TestReport(Vec<TestCase>),
    /// What looked wrong in this build's outputs. It replaces that of an earlier attempt.
    Warnings(Vec<Warning>),
    /// A kept result goes under another declared fingerprint, since what it stands for was put right in place.
    MoveResult {
        /// The stage.
        stage: Stage,
        /// The fingerprint it had.
        from: Fingerprint,
        /// The fingerprint it gets.
        to: Fingerprint,
    },
}

impl Record {
    /// The blobs that must be there before this is written, each with what it is.
    fn blobs(&self) -> Vec<(String, Digest)> {
        match self {
            Self::Artifact(artifact) => vec![(format!("the artifact {}", artifact.path), artifact.sha256)],
            Self::Result(StageResult { payload: Payload::Render { outputs, .. }, .. }) => {
                outputs.iter().map(|output| (format!("the output {}", output.0), output.1)).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// One line of a build's journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalEntry {
    /// Its place, counted from 1.
    pub position: u64,
    /// When it was written.
    pub at: Moment,
    /// What happened.
    pub event: Event,
}

impl Store {
    /// Writes an event to a build's journal, with what belongs to it, in one transaction; gives the state after it.
    ///
    /// # Errors
    /// [`StoreError::IllegalEvent`] when the event can't follow, [`StoreError::Refused`] when a record crosses
    /// repositories or an untracked build would serve; nothing is changed then, nor after any other error.
    pub async fn append(
        &self,
        build: BuildNo,
        at: Moment,
        event: Event,
        records: Vec<Record>,
    ) -> Result<Build, StoreError> {
        for (what, sha256) in records.iter().flat_map(Record::blobs) {
            if !self.blobs().has(sha256) {
                let why = format!("{sha256} is not among the blobs: bytes go first, rows second");
                return Err(StoreError::refused(what, why));
            }
        }
        let moves =
            matches!(event, Event::Started { .. } | Event::Interrupted | Event::Drained | Event::Finished { .. });
        let tells = !records.is_empty() || matches!(event, Event::StageFinished { .. } | Event::Finished { .. });
        let moved = self.moved();
        let serves = records.iter().any(|record| matches!(record, Record::Serve { .. }));
        let work = move |tx: &Transaction<'_>| {
            let mut open = Open::load(tx, build)?;
            open.write(tx, at, &event)?;
            records.iter().try_for_each(|record| open.record(tx, at, record))?;
            Ok(open.build)
        };
        let (served, open) = (Arc::clone(&self.inner.served), Arc::clone(&self.inner.open));
        let after = move || {
            if serves {
                served.forget();
            }
            if moves {
                open.forget();
            }
            if tells {
                moved();
            }
        };
        let state = self.db().write_then("write to a journal", work, after).await?;
        if state.state == BuildState::Finished {
            self.inner.logs.end(build);
        }
        Ok(state)
    }

    /// A build's journal, from its first event; empty where there is no such build.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn journal(&self, build: BuildNo) -> Result<Vec<JournalEntry>, StoreError> {
        self.db().read("read a journal", move |tx| read(tx, build)).await
    }
}

/// The journal of a build.
pub(super) fn read(connection: &Connection, build: BuildNo) -> Result<Vec<JournalEntry>, Fault> {
    let mut statement = connection
        .prepare_cached("SELECT position, at, version, event FROM journal WHERE build = ?1 ORDER BY position")?;
    let mut rows = statement.query([Col(build)])?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next()? {
        entries.push(entry(build, row)?);
    }
    Ok(entries)
}

fn entry(build: BuildNo, row: &Row<'_>) -> Result<JournalEntry, Fault> {
    let Col(position) = row.get::<_, Col<u64>>(0)?;
    let version: u32 = row.get(2)?;
    if version != EVENT_VERSION {
        let why = format!("event {position} has the version {version}, and this factoryd reads {EVENT_VERSION}");
        return Err(StoreError::damaged(format!("the journal of {build}"), why).into());
    }
    let Json(EventJson(event)) = row.get(3)?;
    Ok(JournalEntry { position, at: Moment(row.get(1)?), event })
}

/// A build inside a transaction that may write to its journal.
pub(super) struct Open {
    pub(super) number: BuildNo,
    pub(super) bundle: i64,
    pub(super) repository: RepoName,
    pub(super) tracked: bool,
    /// The state that the journal folds to.
    pub(super) build: Build,
}

impl Open {
    pub(super) fn load(tx: &Transaction<'_>, number: BuildNo) -> Result<Self, Fault> {
        let found = tx
            .prepare_cached(
                "SELECT build.bundle, bundle.repository, build.tracked, build.fold
                 FROM build JOIN bundle ON bundle.id = build.bundle WHERE build.number = ?1",
            )?
            .query_row([Col(number)], |row| {
                let Json(BuildJson(build)) = row.get(3)?;
                let Col(repository) = row.get(1)?;
                Ok(Self { number, bundle: row.get(0)?, repository, tracked: row.get(2)?, build })
            })
            .optional()?;
        found.ok_or_else(|| StoreError::no_such(format!("build {number}")).into())
    }

    /// The one way into a journal.
    pub(super) fn write(&mut self, tx: &Transaction<'_>, at: Moment, event: &Event) -> Result<(), Fault> {
        let number = self.number;
        self.build.apply(at, event).map_err(|source| StoreError::IllegalEvent { build: number, source })?;
        tx.prepare_cached(
            "INSERT INTO journal (build, position, at, version, event)
             SELECT ?1, coalesce(max(position), 0) + 1, ?2, ?3, ?4 FROM journal WHERE build = ?1",
        )?
        .execute((Col(number), at.0, EVENT_VERSION, Json(&EventJson(event.clone()))))?;
        self.project(tx)?;
        self.project_stage(tx, event)?;
        if let Event::Finished { outcome, .. } = event {
            self.project_end(tx, *outcome)?;
        }
        Ok(())
    }

    fn project(&self, tx: &Transaction<'_>) -> Result<(), Fault> {
        let build = &self.build;
        tx.prepare_cached(
            "UPDATE build SET fold = ?2, state = ?3, outcome = ?4, queued = ?5, started = ?6, ended = ?7, image = ?8
             WHERE number = ?1",
        )?
        .execute(rusqlite::params![
            Col(self.number),
            Json(&BuildJson(build.clone())),
            Col(&build.state),
            build.outcome.map(Outcome::word),
            build.queued.0,
            build.started.map(|at| at.0),
            build.ended.map(|at| at.0),
            build.image.as_ref().map(ImageId::as_str),
        ])?;
        Ok(())
    }

    fn project_stage(&self, tx: &Transaction<'_>, event: &Event) -> Result<(), Fault> {
        let Event::StageFinished { stage, .. } = event else { return Ok(()) };
        let Some(run) = self.build.stages.get(stage) else { return Ok(()) };
        match (run.progress, run.millis(), run.declared) {
            (StageProgress::Passed, Some(millis), _) => {
                tx.prepare_cached(
                    "INSERT OR REPLACE INTO stage_time (bundle, stage, build, millis) VALUES (?1, ?2, ?3, ?4)",
                )?
                .execute((self.bundle, Col(stage), Col(self.number), Col(millis)))?;
            }
            (StageProgress::Failed | StageProgress::Cancelled, _, Some(declared)) => {
                failures::insert(tx, &self.repository, declared, self.tracked, self.number)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn project_end(&self, tx: &Transaction<'_>, outcome: Outcome) -> Result<(), Fault> {
        if outcome != Outcome::Superseded {
            tx.prepare_cached(
                "UPDATE bundle SET last_finished = ?2 WHERE id = ?1 AND coalesce(last_finished, 0) < ?2",
            )?
            .execute((self.bundle, Col(self.number)))?;
        }
        match outcome {
            Outcome::Failed | Outcome::Cancelled => {
                failures::of_end(tx, &self.repository, self.tracked, self.number, &self.build)
            }
            Outcome::Superseded => failures::forget(tx, self.number),
            Outcome::Passed => Ok(()),
        }
    }

    fn record(&self, tx: &Transaction<'_>, at: Moment, record: &Record) -> Result<(), Fault> {
        match record {
            Record::Result(result) => {
                self.own(&result.repository, "a result")?;
                if result.tracked && !self.tracked {
                    let why = format!("build {} is of a branch that is not tracked", self.number);
                    return Err(StoreError::refused("a result for tracked branches", why).into());
                }
                insert_result(tx, result)
            }
            Record::Artifact(artifact) => insert_artifact(tx, self.number, artifact),
            Record::Image(image) => insert_image(tx, image, at),
            Record::ImageState(image, state) => set_state(tx, image, *state),
            Record::ImageMeta { id, name, properties, min_disk } => amend_image(tx, id, name, properties, *min_disk),
            Record::Serve { key, image, stages, commit } => {
                self.own(&key.repository, "serving")?;
                if !self.tracked {
                    let why = format!("build {} is of a branch that is not tracked", self.number);
                    return Err(StoreError::refused(format!("serving {key}"), why).into());
                }
                serve(tx, key, image, self.number, commit, at, stages)
            }
            Record::TestReport(cases) => insert_cases(tx, self.number, cases),
            Record::Warnings(warnings) => insert_warnings(tx, self.number, warnings),
            Record::MoveResult { stage, from, to } => {
                move_result(tx, &self.repository, *stage, *from, *to, self.tracked)
            }
        }
    }

    /// Nothing crosses repositories.
    fn own(&self, repository: &RepoName, what: &str) -> Result<(), Fault> {
        if *repository == self.repository {
            return Ok(());
        }
        let why = format!("build {} is of the repository {}", self.number, self.repository);
        Err(StoreError::refused(format!("{what} of the repository {repository}"), why).into())
    }
}
