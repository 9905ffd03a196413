//! Declared fingerprints that failed: kept so that the same failure is not made again until inputs change or somebody
//! asks. They are no results, and no projection either: a person may clear them.

use std::collections::HashMap;

use rusqlite::{OptionalExtension as _, Transaction};

use super::Store;
use super::error::{Fault, StoreError};
use super::inputs::read_inputs;
use super::shape::Col;
use crate::domain::build::{Build, StageProgress};
use crate::domain::id::{BuildNo, Fingerprint, RepoName};

impl Store {
    /// Which of some declared fingerprints failed or were cancelled, and in which build, without a success or a
    /// [`Store::clear_failures`] since.
    ///
    /// With `tracked_only`, failures of untracked branches do not count: such a branch holds no tracked one back.
    /// A build that ended before any stage of it was at fault stands under all its fingerprints that had not passed, or
    /// under its last one.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn failures(
        &self,
        repository: &RepoName,
        declared: Vec<Fingerprint>,
        tracked_only: bool,
    ) -> Result<HashMap<Fingerprint, BuildNo>, StoreError> {
        let repository = repository.clone();
        let work = move |tx: &Transaction<'_>| {
            let mut statement = tx.prepare_cached(
                "SELECT build FROM failure WHERE repository = ?1 AND declared = ?2 AND tracked >= ?3
                 ORDER BY build DESC LIMIT 1",
            )?;
            let mut failed = HashMap::new();
            for declared in declared {
                let found = statement
                    .query_row((Col(&repository), Col(&declared), tracked_only), |row| row.get::<_, Col<BuildNo>>(0))
                    .optional()?;
                failed.extend(found.map(|Col(build)| (declared, build)));
            }
            Ok(failed)
        };
        self.db().read("look for failures", work).await
    }

    /// Forgets that some declared fingerprints failed, and whatever else failed in the same builds.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn clear_failures(&self, repository: &RepoName, declared: Vec<Fingerprint>) -> Result<(), StoreError> {
        let repository = repository.clone();
        let work = move |tx: &Transaction<'_>| {
            declared.iter().try_for_each(|declared| clear(tx, &repository, *declared, true))
        };
        self.db().write_then("clear failures", work, self.moved()).await
    }
}

pub(super) fn insert(
    tx: &Transaction<'_>,
    repository: &RepoName,
    declared: Fingerprint,
    tracked: bool,
    build: BuildNo,
) -> Result<(), Fault> {
    tx.prepare_cached(
        "INSERT INTO failure (repository, declared, tracked, build) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT DO UPDATE SET build = excluded.build",
    )?
    .execute((Col(repository), Col(&declared), tracked, Col(build)))?;
    Ok(())
}

/// A success under a fingerprint takes away the failures of the builds that failed there. A success of an untracked
/// branch (`tracked` false) leaves those of tracked ones.
pub(super) fn clear(
    tx: &Transaction<'_>,
    repository: &RepoName,
    declared: Fingerprint,
    tracked: bool,
) -> Result<(), Fault> {
    tx.prepare_cached(
        "DELETE FROM failure WHERE repository = ?1 AND tracked <= ?3 AND build IN
           (SELECT build FROM failure WHERE repository = ?1 AND declared = ?2 AND tracked <= ?3)",
    )?
    .execute((Col(repository), Col(&declared), tracked))?;
    Ok(())
}

/// A build that was superseded was stopped, and says nothing about its inputs: they may be wanted again.
pub(super) fn forget(tx: &Transaction<'_>, build: BuildNo) -> Result<(), Fault> {
    tx.prepare_cached("DELETE FROM failure WHERE build = ?1")?.execute([Col(build)])?;
    Ok(())
}

/// What a build that failed or was cancelled leaves: the stage it was in, else all that it had not reached, else (it
/// failed after all of them) the last.
pub(super) fn of_end(
    tx: &Transaction<'_>,
    repository: &RepoName,
    tracked: bool,
    number: BuildNo,
    build: &Build,
) -> Result<(), Fault> {
    let at_fault: Vec<Fingerprint> = build
        .stages
        .values()
        .filter(|run| matches!(run.progress, StageProgress::Failed | StageProgress::Cancelled))
        .filter_map(|run| run.declared)
        .collect();
    if !at_fault.is_empty() {
        return at_fault.into_iter().try_for_each(|declared| insert(tx, repository, declared, tracked, number));
    }
    let inputs = read_inputs(tx, number)?;
    let done = |stage| {
        let progress = build.stages.get(stage).map(|run| run.progress);
        matches!(progress, Some(StageProgress::Passed | StageProgress::Hit))
    };
    let mut left: Vec<Fingerprint> =
        inputs.iter().filter(|(stage, ..)| !done(stage)).map(|(_, declared, _)| *declared).collect();
    if left.is_empty() {
        left.extend(inputs.last().map(|(_, declared, _)| *declared));
    }
    left.into_iter().try_for_each(|declared| insert(tx, repository, declared, tracked, number))
}
