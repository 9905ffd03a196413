//! Looking at builds.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, Params, Row, Transaction};

use super::Store;
use super::error::{Fault, StoreError};
use super::journal_shape::BuildJson;
use super::remembered::Remembered;
use super::shape::{Col, Json};
use crate::domain::build::{Build, BuildState, Order, Outcome};
use crate::domain::bundle::BundleKey;
use crate::domain::id::{Branch, BuildNo, RepoName};
use crate::domain::path::RepoPath;
use crate::domain::pipeline::Stage;
use crate::domain::pool::Pool;

/// A build: what was asked and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildRecord {
    /// What was asked.
    pub order: Order,
    /// Where it is, as its journal folds.
    pub build: Build,
    /// How many lines its log has; `None` until the log is packed away.
    pub log_lines: Option<u64>,
}

/// An unfinished build, as far as a queue or a plan needs to know it. Thousands of them are read in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenBuild {
    /// Its number.
    pub number: BuildNo,
    /// What it builds.
    pub key: BundleKey,
    /// Whether it is queued or runs.
    pub state: BuildState,
    /// Whether it may publish.
    pub tracked: bool,
    /// The first stage that is done again although its result is kept, where somebody asked for it.
    pub from: Option<Stage>,
    /// The last stage that runs.
    pub until: Option<Stage>,
    /// Whether everything is done again.
    pub no_cache: bool,
}

/// Which builds to list, newest first.
#[derive(Clone, Debug, Default)]
pub struct BuildFilter {
    /// Only of this repository.
    pub repository: Option<RepoName>,
    /// Only of this bundle, on any branch.
    pub bundle: Option<RepoPath>,
    /// Only older than this one: the last of the page before.
    pub before: Option<BuildNo>,
    /// At most so many.
    pub limit: usize,
}

const SELECT: &str = "
SELECT build.number, bundle.repository, bundle.branch, bundle.path, build.commit_id, build.reason, build.asked_by,
  build.from_stage, build.until_stage, build.no_cache, build.tracked, build.fold, log.lines
FROM build JOIN bundle ON bundle.id = build.bundle LEFT JOIN log ON log.build = build.number";

impl Store {
    /// A build by its number.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn build(&self, number: BuildNo) -> Result<Option<BuildRecord>, StoreError> {
        self.db().read("read a build", move |tx| build_in(tx, number)).await
    }

    /// Builds, newest first.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn builds(&self, filter: BuildFilter) -> Result<Vec<BuildRecord>, StoreError> {
        self.db().read("list builds", move |tx| list(tx, &filter)).await
    }

    /// The builds that are queued or running, oldest first.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn unfinished(&self) -> Result<Vec<BuildRecord>, StoreError> {
        let work = |tx: &Transaction<'_>| query(tx, "WHERE build.state <> 'finished' ORDER BY build.number", []);
        self.db().read("list the unfinished builds", work).await
    }

    /// The builds that are queued or running, oldest first, in short; from memory, if none of them moved.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn open_builds(&self) -> Result<Arc<[OpenBuild]>, StoreError> {
        let (generation, found) = self.inner.open.find(&());
        if let Some(found) = found {
            return Ok(found);
        }
        let work = |tx: &Transaction<'_>| {
            let mut statement = tx.prepare_cached(
                "SELECT build.number, bundle.repository, bundle.branch, bundle.path, build.state, build.tracked,
                   build.from_stage, build.until_stage, build.no_cache
                 FROM build JOIN bundle ON bundle.id = build.bundle
                 WHERE build.state <> 'finished' ORDER BY build.number",
            )?;
            let mut pool = Pool::default();
            let rows = statement.query_map([], |row| open_build(row, &mut pool))?;
            Ok(rows.collect::<rusqlite::Result<Arc<[OpenBuild]>>>()?)
        };
        let open = self.db().read("list the unfinished builds", work).await?;
        self.inner.open.keep((), generation, &open);
        Ok(open)
    }

    /// How the newest builds of these bundles ended that were not superseded.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn last_outcomes(&self, keys: Vec<BundleKey>) -> Result<HashMap<BundleKey, Outcome>, StoreError> {
        let work = move |tx: &Transaction<'_>| {
            let mut statement = tx.prepare_cached(
                "SELECT build.outcome FROM bundle JOIN build ON build.number = bundle.last_finished
                 WHERE bundle.repository = ?1 AND bundle.branch = ?2 AND bundle.path = ?3",
            )?;
            let mut found = HashMap::new();
            for key in keys {
                let params = (Col(&key.repository), Col(&key.branch), Col(&key.path));
                let outcome = statement.query_row(params, |row| row.get::<_, Option<Col<Outcome>>>(0)).optional()?;
                found.extend(outcome.flatten().map(|Col(outcome)| (key, outcome)));
            }
            Ok(found)
        };
        self.db().read("see how builds ended", work).await
    }

    /// Builds by their numbers, in the order of these; those that are not there are left out.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn builds_of(&self, numbers: Vec<BuildNo>) -> Result<Vec<BuildRecord>, StoreError> {
        let work = move |tx: &Transaction<'_>| {
            let found = numbers.into_iter().map(|number| build_in(tx, number));
            found.filter_map(Result::transpose).collect::<Result<_, Fault>>()
        };
        self.db().read("read builds", work).await
    }

    /// The newest builds of these bundles that ended and were not superseded. Quick however many builds there were.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn last_builds(&self, keys: Vec<BundleKey>) -> Result<HashMap<BundleKey, BuildRecord>, StoreError> {
        let work = move |tx: &Transaction<'_>| {
            let mut statement = tx.prepare_cached(&format!(
                "{SELECT} WHERE bundle.repository = ?1 AND bundle.branch = ?2 AND bundle.path = ?3
                   AND build.number = bundle.last_finished"
            ))?;
            let mut found = HashMap::new();
            for key in keys {
                let params = (Col(&key.repository), Col(&key.branch), Col(&key.path));
                if let Some(last) = statement.query_row(params, record).optional()? {
                    found.insert(key, last);
                }
            }
            Ok(found)
        };
        self.db().read("list the last builds", work).await
    }
}

pub(super) fn build_in(connection: &Connection, number: BuildNo) -> Result<Option<BuildRecord>, Fault> {
    let mut statement = connection.prepare_cached(&format!("{SELECT} WHERE build.number = ?1"))?;
    Ok(statement.query_row([Col(number)], record).optional()?)
}

/// Two texts, so that each has its index: by number alone, or by the bundle's rows.
fn list(tx: &Transaction<'_>, filter: &BuildFilter) -> Result<Vec<BuildRecord>, Fault> {
    let before = Col(filter.before.map_or(u64::MAX, |build| build.0));
    let limit = i64::try_from(filter.limit).unwrap_or(i64::MAX);
    let repository = filter.repository.as_ref().map(RepoName::as_str);
    match &filter.bundle {
        None => query(
            tx,
            "WHERE build.number < ?1 AND (?2 IS NULL OR bundle.repository = ?2) ORDER BY build.number DESC LIMIT ?3",
            (before, repository, limit),
        ),
        Some(path) => query(
            tx,
            "WHERE build.number < ?1 AND build.bundle IN
               (SELECT id FROM bundle WHERE path = ?4 AND (?2 IS NULL OR repository = ?2))
             ORDER BY build.number DESC LIMIT ?3",
            (before, repository, limit, Col(path)),
        ),
    }
}

fn query(tx: &Transaction<'_>, which: &str, params: impl Params) -> Result<Vec<BuildRecord>, Fault> {
    let mut statement = tx.prepare_cached(&format!("{SELECT} {which}"))?;
    let records = statement.query_map(params, record)?.collect::<rusqlite::Result<_>>()?;
    Ok(records)
}

/// What [`Store::open_builds`] read since a build was queued, started, sent back or ended.
pub(super) type OpenMemory = Remembered<(), [OpenBuild]>;

fn open_build(row: &Row<'_>, pool: &mut Pool) -> rusqlite::Result<OpenBuild> {
    let (Col(number), Col(path)) = (row.get(0)?, row.get(3)?);
    let mut name = |column| -> rusqlite::Result<Arc<str>> { Ok(pool.text(row.get_ref(column)?.as_str()?.into())) };
    let (repository, branch) = (RepoName::new(name(1)?), Branch::new(name(2)?));
    let from: Option<Col<Stage>> = row.get(6)?;
    let until: Option<Col<Stage>> = row.get(7)?;
    let Col(state) = row.get(4)?;
    Ok(OpenBuild {
        number,
        key: BundleKey { repository, branch, path },
        state,
        tracked: row.get(5)?,
        from: from.map(|stage| stage.0),
        until: until.map(|stage| stage.0),
        no_cache: row.get(8)?,
    })
}

fn record(row: &Row<'_>) -> rusqlite::Result<BuildRecord> {
    let (Col(number), Col(repository), Col(branch), Col(path)) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
    let Col(commit) = row.get(4)?;
    let from: Option<Col<Stage>> = row.get(7)?;
    let until: Option<Col<Stage>> = row.get(8)?;
    let Json(BuildJson(build)) = row.get(11)?;
    let lines: Option<Col<u64>> = row.get(12)?;
    let order = Order {
        number,
        key: BundleKey { repository, branch, path },
        commit,
        reason: row.get(5)?,
        by: row.get(6)?,
        from: from.map(|stage| stage.0),
        until: until.map(|stage| stage.0),
        no_cache: row.get(9)?,
        tracked: row.get(10)?,
    };
    Ok(BuildRecord { order, build, log_lines: lines.map(|lines| lines.0) })
}
