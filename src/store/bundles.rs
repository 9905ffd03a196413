//! What is known of each bundle: what serves it, its last builds, how long its stages take.

use std::collections::{BTreeMap, HashMap};

use rusqlite::{OptionalExtension as _, Row, Transaction};

use super::Store;
use super::error::{Fault, StoreError};
use super::shape::{Col, Json, Word};
use crate::domain::build::{BuildState, Moment, Outcome};
use crate::domain::bundle::BundleKey;
use crate::domain::id::{Branch, BuildNo, CommitId, Fingerprint, ImageId, RepoName};
use crate::domain::path::RepoPath;
use crate::domain::pipeline::Stage;

/// The image that serves a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The image.
    pub image: ImageId,
    /// The build that made it serve.
    pub build: BuildNo,
    /// The commit it serves for.
    pub commit: CommitId,
    /// Since when.
    pub at: Moment,
    /// The declared fingerprints it serves with.
    pub stages: Vec<(Stage, Fingerprint)>,
}

/// A build in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildSummary {
    /// Its number.
    pub number: BuildNo,
    /// Where it is.
    pub state: BuildState,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// When it got its number.
    pub queued: Moment,
    /// When it was first taken up.
    pub started: Option<Moment>,
    /// When it ended.
    pub ended: Option<Moment>,
    /// The image it left served.
    pub image: Option<ImageId>,
}

/// A bundle's newest builds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latest {
    /// The bundle.
    pub path: RepoPath,
    /// The newest.
    pub last: BuildSummary,
    /// The newest that ended and was not superseded.
    pub finished: Option<BuildSummary>,
}

/// How long a stage takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageTime {
    /// The median of the last times it passed, in milliseconds.
    pub median: u64,
    /// The last time, in milliseconds.
    pub last: u64,
}

/// How long each stage takes; stages that never passed are missing.
pub type Durations = BTreeMap<Stage, StageTime>;

/// How many of the last times count for a median.
const TIMES: i64 = 15;

impl Store {
    /// How many bundles, on whatever branch, an image serves.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn serving(&self, image: &ImageId) -> Result<u64, StoreError> {
        let image = image.clone();
        let work = move |tx: &Transaction<'_>| {
            let mut statement = tx.prepare_cached("SELECT count(*) FROM served WHERE image = ?1")?;
            Ok(statement.query_row([Col(&image)], |row| row.get::<_, Col<u64>>(0))?.0)
        };
        self.db().read("count what an image serves", work).await
    }

    /// What serves each bundle of a branch.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn served(
        &self,
        repository: &RepoName,
        branch: &Branch,
    ) -> Result<HashMap<RepoPath, Served>, StoreError> {
        let (repository, branch) = (repository.clone(), branch.clone());
        let work = move |tx: &Transaction<'_>| {
            let mut statement = tx.prepare_cached(
                "SELECT bundle.path, served.image, served.build, served.commit_id, served.at, served.stages
                 FROM served JOIN bundle ON bundle.id = served.bundle WHERE repository = ?1 AND branch = ?2",
            )?;
            let rows = statement.query_map((Col(&repository), Col(&branch)), served_row)?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        };
        self.db().read("read what is served", work).await
    }

    /// Nothing serves these bundles any more: they are gone from their branch, or the branch is.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn unserve(&self, keys: Vec<BundleKey>) -> Result<(), StoreError> {
        let work = move |tx: &Transaction<'_>| {
            for key in &keys {
                if let Some(bundle) = find_bundle(tx, key)? {
                    tx.prepare_cached("DELETE FROM served WHERE bundle = ?1")?.execute([bundle])?;
                }
            }
            Ok(())
        };
        self.db().write("stop serving", work).await
    }

    /// The commit of a branch that was planned last, and when.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn planned(
        &self,
        repository: &RepoName,
        branch: &Branch,
    ) -> Result<Option<(CommitId, Moment)>, StoreError> {
        let (repository, branch) = (repository.clone(), branch.clone());
        let work = move |tx: &Transaction<'_>| {
            let found = tx
                .prepare_cached("SELECT commit_id, at FROM planned WHERE repository = ?1 AND branch = ?2")?
                .query_row((Col(&repository), Col(&branch)), |row| {
                    let Col(commit) = row.get(0)?;
                    Ok((commit, Moment(row.get(1)?)))
                })
                .optional()?;
            Ok(found)
        };
        self.db().read("read what was planned", work).await
    }

    /// The branches of a repository that were ever planned and not forgotten, sorted.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn planned_branches(&self, repository: &RepoName) -> Result<Vec<Branch>, StoreError> {
        let repository = repository.clone();
        let work = move |tx: &Transaction<'_>| {
            let mut statement =
                tx.prepare_cached("SELECT branch FROM planned WHERE repository = ?1 ORDER BY branch")?;
            let rows = statement.query_map([Col(&repository)], |row| row.get::<_, Col<Branch>>(0).map(|col| col.0))?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        };
        self.db().read("list the planned branches", work).await
    }

    /// Forgets that a branch was planned: it is gone.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn forget_planned(&self, repository: &RepoName, branch: &Branch) -> Result<(), StoreError> {
        let (repository, branch) = (repository.clone(), branch.clone());
        let work = move |tx: &Transaction<'_>| {
            tx.prepare_cached("DELETE FROM planned WHERE repository = ?1 AND branch = ?2")?
                .execute((Col(&repository), Col(&branch)))?;
            Ok(())
        };
        self.db().write("forget a branch", work).await
    }

    /// The newest builds of each bundle of a branch, sorted by path. Quick however many builds there were.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn latest_per_bundle(&self, repository: &RepoName, branch: &Branch) -> Result<Vec<Latest>, StoreError> {
        let (repository, branch) = (repository.clone(), branch.clone());
        let work = move |tx: &Transaction<'_>| {
            let mut statement = tx.prepare_cached(
                "SELECT bundle.path,
                   l.number, l.state, l.outcome, l.queued, l.started, l.ended, l.image,
                   f.number, f.state, f.outcome, f.queued, f.started, f.ended, f.image
                 FROM bundle JOIN build l ON l.number = bundle.last_build
                   LEFT JOIN build f ON f.number = bundle.last_finished
                 WHERE bundle.repository = ?1 AND bundle.branch = ?2 ORDER BY bundle.path",
            )?;
            let rows = statement.query_map((Col(&repository), Col(&branch)), latest_row)?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        };
        self.db().read("list the latest builds", work).await
    }

    /// How long the stages of a bundle take, on whatever branch.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn durations(&self, repository: &RepoName, bundle: &RepoPath) -> Result<Durations, StoreError> {
        let (repository, bundle) = (repository.clone(), bundle.clone());
        let work = move |tx: &Transaction<'_>| {
            let mut durations = Durations::new();
            for stage in Stage::ALL {
                let times = last_times(tx, &repository, &bundle, stage)?;
                durations.extend(stage_time(times).map(|time| (stage, time)));
            }
            Ok(durations)
        };
        self.db().read("read how long stages take", work).await
    }
}

fn last_times(tx: &Transaction<'_>, repository: &RepoName, path: &RepoPath, stage: Stage) -> Result<Vec<u64>, Fault> {
    let mut statement = tx.prepare_cached(
        "SELECT millis FROM stage_time
         WHERE bundle IN (SELECT id FROM bundle WHERE repository = ?1 AND path = ?2) AND stage = ?3
         ORDER BY build DESC LIMIT ?4",
    )?;
    let rows = statement.query_map((Col(repository), Col(path), Col(&stage), TIMES), |row| {
        row.get::<_, Col<u64>>(0).map(|millis| millis.0)
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// From the times, newest first.
fn stage_time(mut times: Vec<u64>) -> Option<StageTime> {
    let last = *times.first()?;
    times.sort_unstable();
    Some(StageTime { median: times[times.len() / 2], last })
}

pub(super) fn find_bundle(tx: &Transaction<'_>, key: &BundleKey) -> Result<Option<i64>, Fault> {
    let found = tx
        .prepare_cached("SELECT id FROM bundle WHERE repository = ?1 AND branch = ?2 AND path = ?3")?
        .query_row((Col(&key.repository), Col(&key.branch), Col(&key.path)), |row| row.get(0))
        .optional()?;
    Ok(found)
}

/// The bundle's row, made where it is missing.
pub(super) fn bundle_id(tx: &Transaction<'_>, key: &BundleKey) -> Result<i64, Fault> {
    if let Some(id) = find_bundle(tx, key)? {
        return Ok(id);
    }
    tx.prepare_cached("INSERT INTO bundle (repository, branch, path) VALUES (?1, ?2, ?3)")?.execute((
        Col(&key.repository),
        Col(&key.branch),
        Col(&key.path),
    ))?;
    Ok(tx.last_insert_rowid())
}

pub(super) fn serve(
    tx: &Transaction<'_>,
    key: &BundleKey,
    image: &ImageId,
    build: BuildNo,
    commit: &CommitId,
    at: Moment,
    stages: &[(Stage, Fingerprint)],
) -> Result<(), Fault> {
    let stages: Vec<_> = stages.iter().map(|(stage, print)| (Word(*stage), Word(*print))).collect();
    tx.prepare_cached(
        "INSERT OR REPLACE INTO served (bundle, image, build, commit_id, at, stages) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute((bundle_id(tx, key)?, Col(image), Col(build), Col(commit), at.0, Json(&stages)))?;
    Ok(())
}

fn served_row(row: &Row<'_>) -> rusqlite::Result<(RepoPath, Served)> {
    let (Col(path), Col(image), Col(build), Col(commit)) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
    let Json(stages) = row.get::<_, Json<Vec<(Word<Stage>, Word<Fingerprint>)>>>(5)?;
    let stages = stages.into_iter().map(|(stage, print)| (stage.0, print.0)).collect();
    Ok((path, Served { image, build, commit, at: Moment(row.get(4)?), stages }))
}

fn latest_row(row: &Row<'_>) -> rusqlite::Result<Latest> {
    let Col(path) = row.get(0)?;
    let finished: Option<i64> = row.get(8)?;
    let finished = finished.map(|_| summary(row, 8)).transpose()?;
    Ok(Latest { path, last: summary(row, 1)?, finished })
}

fn summary(row: &Row<'_>, first: usize) -> rusqlite::Result<BuildSummary> {
    let (Col(number), Col(state)) = (row.get(first)?, row.get(first + 1)?);
    let outcome: Option<Col<Outcome>> = row.get(first + 2)?;
    let moment = |column: usize| row.get::<_, Option<i64>>(first + column).map(|at| at.map(Moment));
    let image: Option<Col<ImageId>> = row.get(first + 6)?;
    Ok(BuildSummary {
        number,
        state,
        outcome: outcome.map(|outcome| outcome.0),
        queued: moment(3)?.unwrap_or_default(),
        started: moment(4)?,
        ended: moment(5)?,
        image: image.map(|image| image.0),
    })
}
