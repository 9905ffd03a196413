//! What is known of each bundle: what serves it, its last builds, how long its stages take.

use std::collections::{BTreeMap, HashMap};

use rusqlite::{OptionalExtension as _, Transaction};

use super::Store;
use super::error::{Fault, StoreError};
use super::shape::Col;
use crate::domain::build::Moment;
use crate::domain::bundle::BundleKey;
use crate::domain::id::{Branch, CommitId, ImageId, RepoName};
use crate::domain::path::RepoPath;
use crate::domain::pipeline::Stage;

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
const TIMES: usize = 15;

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

    /// How long the stages of a bundle take, on whatever branch.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn durations(&self, repository: &RepoName, bundle: &RepoPath) -> Result<Durations, StoreError> {
        let (repository, bundle) = (repository.clone(), bundle.clone());
        let work = move |tx: &Transaction<'_>| {
            let mut durations = Durations::new();
            let bundles = on_all_branches(tx, &repository, &bundle)?;
            for stage in Stage::ALL {
                let times = last_times(tx, &bundles, stage, TIMES)?;
                durations.extend(stage_time(times).map(|time| (stage, time)));
            }
            Ok(durations)
        };
        self.db().read("read how long stages take", work).await
    }
}

impl Store {
    /// How long the stages of bundles took when each was run last, together, in milliseconds; bundles without a time are
    /// left out.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn last_durations(
        &self,
        repository: &RepoName,
        bundles: Vec<RepoPath>,
    ) -> Result<HashMap<RepoPath, u64>, StoreError> {
        let repository = repository.clone();
        let work = move |tx: &Transaction<'_>| {
            let mut durations = HashMap::new();
            for bundle in bundles {
                let (mut times, rows) = (Vec::new(), on_all_branches(tx, &repository, &bundle)?);
                for stage in Stage::ALL {
                    times.extend(last_times(tx, &rows, stage, 1)?);
                }
                if !times.is_empty() {
                    durations.insert(bundle, times.iter().sum());
                }
            }
            Ok(durations)
        };
        self.db().read("read how long bundles took", work).await
    }
}

/// The rows of a bundle on whatever branch.
fn on_all_branches(tx: &Transaction<'_>, repository: &RepoName, path: &RepoPath) -> Result<Vec<i64>, Fault> {
    let mut statement = tx.prepare_cached("SELECT id FROM bundle WHERE repository = ?1 AND path = ?2")?;
    let rows = statement.query_map((Col(repository), Col(path)), |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// The last times of a stage, newest first. Row by row: one statement for all branches would sort in a table of its own.
fn last_times(tx: &Transaction<'_>, bundles: &[i64], stage: Stage, most: usize) -> Result<Vec<u64>, Fault> {
    let mut statement = tx.prepare_cached(
        "SELECT build, millis FROM stage_time WHERE bundle = ?1 AND stage = ?2 ORDER BY build DESC LIMIT ?3",
    )?;
    let limit = i64::try_from(most).unwrap_or(i64::MAX);
    let mut times: Vec<(i64, u64)> = Vec::new();
    for bundle in bundles {
        let rows = statement.query_map((bundle, Col(&stage), limit), |row| {
            let Col(millis) = row.get(1)?;
            Ok((row.get(0)?, millis))
        })?;
        times.extend(rows.collect::<rusqlite::Result<Vec<_>>>()?);
    }
    times.sort_unstable_by(|one, other| other.cmp(one));
    Ok(times.into_iter().take(most).map(|(_, millis)| millis).collect())
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
