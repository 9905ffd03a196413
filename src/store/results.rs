//! Kept results: what makes a stage a hit.

use std::collections::{HashMap, HashSet};

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction};
use serde::{Deserialize, Serialize};

use super::Store;
use super::error::{Fault, StoreError};
use super::failures;
use super::images::copies_of;
use super::journal_shape::BuildJson;
use super::shape::{Col, Json, path, word};
use super::warnings::Warning;
use crate::domain::build::{Effect, Moment};
use crate::domain::id::{BuildNo, Digest, DiskId, DriverName, Fingerprint, ImageId, RepoName};
use crate::domain::path::RepoPath;
use crate::domain::pipeline::Stage;

/// The number of a kept result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResultNo(pub u64);

/// A kept result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageResult {
    /// Its number; `None` before it is stored.
    pub number: Option<ResultNo>,
    /// The repository it is of; results never cross repositories.
    pub repository: RepoName,
    /// The stage.
    pub stage: Stage,
    /// The declared fingerprint.
    pub declared: Fingerprint,
    /// The resolved fingerprint.
    pub resolved: Fingerprint,
    /// The driver it was made with.
    pub driver: DriverName,
    /// The build that made it.
    pub build: BuildNo,
    /// Whether it may serve tracked branches: it was made by a build of one.
    pub tracked: bool,
    /// When it was made.
    pub made: Moment,
    /// When it must no longer be used.
    pub expires: Option<Moment>,
    /// What it is.
    pub payload: Payload,
}

/// What a kept result is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Payload {
    /// A base image, ready to be booted from.
    Boot {
        /// The driver's disk: the base image's, or a layer of it that was changed.
        #[serde(with = "word")]
        disk: DiskId,
        /// The disks that must stay as long as a changed one does.
        #[serde(default, with = "word::list")]
        backing: Vec<DiskId>,
        /// The sum of the base image's bytes.
        #[serde(with = "word")]
        sha256: Digest,
        /// Its virtual size in bytes.
        virtual_size: u64,
    },
    /// A sealed disk.
    Provision {
        /// The driver's disk.
        #[serde(with = "word")]
        disk: DiskId,
        /// What it takes in bytes.
        bytes: u64,
        /// The disks that must stay as long as this one does.
        #[serde(with = "word::list")]
        backing: Vec<DiskId>,
        /// The sum of the base image's bytes.
        #[serde(with = "word")]
        base_sha256: Digest,
    },
    /// Tests that passed; the cases are the build's ([`Store::test_cases`]).
    Test {
        /// How many passed.
        passed: u64,
        /// How many were skipped.
        skipped: u64,
        /// How many failed, and were allowed to.
        failed_allowed: u64,
    },
    /// An image of the catalogue.
    Snapshot {
        /// The image.
        #[serde(with = "word")]
        image: ImageId,
    },
    /// Rendered outputs, in the blobs.
    Render {
        /// What the templates knew as `result_img_id`.
        image_id: String,
        /// Path, sum and size in bytes of each.
        outputs: Vec<Output>,
        /// What looked wrong in them.
        #[serde(default)]
        lint: Vec<Warning>,
    },
}

/// A rendered file: its path below the output, its sum and its size in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output(
    /// The path.
    #[serde(with = "path")]
    pub RepoPath,
    /// The sum.
    #[serde(with = "word")]
    pub Digest,
    /// The size.
    pub u64,
);

impl Payload {
    /// The disks that must stay as long as this is kept.
    pub fn disks(&self) -> Vec<&DiskId> {
        match self {
            Self::Boot { disk, backing, .. } | Self::Provision { disk, backing, .. } => {
                std::iter::once(disk).chain(backing).collect()
            }
            Self::Test { .. } | Self::Snapshot { .. } | Self::Render { .. } => Vec::new(),
        }
    }

    fn image(&self) -> Option<&str> {
        match self {
            Self::Snapshot { image } => Some(image.as_str()),
            _ => None,
        }
    }
}

const SELECT: &str = "
SELECT id, repository, stage, declared, resolved, driver, build, tracked, made, expires, payload FROM result";

const USABLE: &str = "
WHERE repository = ?1 AND declared = ?2 AND driver = ?3 AND tracked >= ?4 AND (expires IS NULL OR expires > ?5)
ORDER BY made DESC, id DESC LIMIT 1";

impl Store {
    /// What the last build of each bundle that was sealed left on the disk, in bytes: its sealed layer, and the newest
    /// image of the bundle.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn left_by_last_builds(&self) -> Result<HashMap<(RepoName, RepoPath), u64>, StoreError> {
        let work = |tx: &Transaction<'_>| {
            let layers = "SELECT bundle.id, bundle.repository, bundle.path, result.payload ->> '$.provision.bytes'
                FROM result JOIN build ON build.number = result.build JOIN bundle ON bundle.id = build.bundle
                WHERE result.stage = 'provision' ORDER BY result.id";
            let images = "SELECT build.bundle, image.size FROM image JOIN build ON build.number = image.build
                ORDER BY image.made";
            // Of several rows of a bundle the last one stays.
            let images: HashMap<i64, u64> = tx
                .prepare_cached(images)?
                .query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned())))?
                .collect::<Result<_, _>>()?;
            let mut layers = tx.prepare_cached(layers)?;
            let left = layers.query_map([], |row| {
                let image = images.get(&row.get(0)?).copied().unwrap_or(0);
                let Col(repository) = row.get(1)?;
                let Col(path) = row.get(2)?;
                Ok(((repository, path), row.get::<_, i64>(3)?.cast_unsigned().saturating_add(image)))
            })?;
            Ok(left.collect::<Result<_, _>>()?)
        };
        self.db().read("see what builds left on the disk", work).await
    }

    /// The newest result that a stage may use instead of running: of the same repository, declared fingerprint and
    /// driver, not expired. With `tracked_only`, only what a tracked branch made.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn usable(
        &self,
        repository: &RepoName,
        stage: Stage,
        declared: Fingerprint,
        driver: &DriverName,
        tracked_only: bool,
        now: Moment,
    ) -> Result<Option<StageResult>, StoreError> {
        let mut found = self.results(repository, vec![declared], driver, tracked_only, now).await?;
        Ok(found.remove(&declared).filter(|result| result.stage == stage))
    }

    /// [`Store::usable`] for many declared fingerprints; those without a usable result are missing.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn results(
        &self,
        repository: &RepoName,
        declared: Vec<Fingerprint>,
        driver: &DriverName,
        tracked_only: bool,
        now: Moment,
    ) -> Result<HashMap<Fingerprint, StageResult>, StoreError> {
        let (repository, driver) = (repository.clone(), driver.clone());
        let work = move |tx: &Transaction<'_>| {
            let mut statement = tx.prepare_cached(&format!("{SELECT} {USABLE}"))?;
            let mut found = HashMap::new();
            for declared in declared {
                let params = (Col(&repository), Col(&declared), Col(&driver), tracked_only, now.0);
                found.extend(statement.query_row(params, result).optional()?.map(|result| (declared, result)));
            }
            Ok(found)
        };
        self.db().read("look for results", work).await
    }

    /// Until when the newest result under each of many declared fingerprints may be used, in [`Store::usable`]'s sense but
    /// whether that is over or not; `None` is for ever. Those without a result are missing.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn kept_until(
        &self,
        repository: &RepoName,
        declared: Vec<Fingerprint>,
        driver: &DriverName,
        tracked_only: bool,
    ) -> Result<HashMap<Fingerprint, Option<Moment>>, StoreError> {
        let (repository, driver) = (repository.clone(), driver.clone());
        let work = move |tx: &Transaction<'_>| {
            let mut statement = tx.prepare_cached(
                "SELECT expires FROM result
                 WHERE repository = ?1 AND declared = ?2 AND driver = ?3 AND tracked >= ?4
                 ORDER BY made DESC, id DESC LIMIT 1",
            )?;
            let mut found = HashMap::new();
            for declared in declared {
                let params = (Col(&repository), Col(&declared), Col(&driver), tracked_only);
                let expires = statement.query_row(params, |row| row.get::<_, Option<i64>>(0)).optional()?;
                found.extend(expires.map(|expires| (declared, expires.map(Moment))));
            }
            Ok(found)
        };
        self.db().read("look for results", work).await
    }

    /// The declared fingerprints of sealed disks whose newest result on tracked branches may no longer be used.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn expired_disks(
        &self,
        repository: &RepoName,
        driver: &DriverName,
        now: Moment,
    ) -> Result<HashSet<Fingerprint>, StoreError> {
        let (repository, driver) = (repository.clone(), driver.clone());
        let work = move |tx: &Transaction<'_>| {
            let mut statement = tx.prepare_cached(
                "SELECT declared FROM result old
                 WHERE expires IS NOT NULL AND expires <= ?3 AND repository = ?1 AND driver = ?2 AND tracked
                   AND stage = 'provision' AND NOT EXISTS (
                     SELECT 1 FROM result new
                     WHERE new.repository = old.repository AND new.declared = old.declared AND new.driver = old.driver
                       AND new.tracked AND (new.made, new.id) > (old.made, old.id))",
            )?;
            let rows = statement
                .query_map((Col(&repository), Col(&driver), now.0), |row| row.get::<_, Col<Fingerprint>>(0))?;
            rows.map(|row| row.map(|Col(declared)| declared)).collect::<rusqlite::Result<_>>().map_err(Into::into)
        };
        self.db().read("look for expired disks", work).await
    }

    /// All kept results, oldest first: what retention decides on.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn all_results(&self) -> Result<Vec<StageResult>, StoreError> {
        let work = |tx: &Transaction<'_>| {
            let mut statement = tx.prepare_cached(&format!("{SELECT} ORDER BY id"))?;
            Ok(statement.query_map([], result)?.collect::<rusqlite::Result<_>>()?)
        };
        self.db().read("list results", work).await
    }

    /// Forgets kept results: they turned out to be gone, or retention drops them. What they held is freed by
    /// [`Store::gc`] and, for disks, by the driver.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn forget(&self, results: Vec<ResultNo>) -> Result<(), StoreError> {
        let work = move |tx: &Transaction<'_>| {
            let mut statement = tx.prepare_cached("DELETE FROM result WHERE id = ?1")?;
            for ResultNo(id) in results {
                statement.execute([Col(id)])?;
            }
            Ok(())
        };
        self.db().write_then("forget results", work, self.moved()).await
    }

    /// The disks of a driver that must stay: those of kept results and what backs them, of images' copies, and of
    /// whatever an unfinished build may have made.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn referenced_disks(&self, driver: &DriverName) -> Result<HashSet<DiskId>, StoreError> {
        let driver = driver.clone();
        let work = move |tx: &Transaction<'_>| {
            let mut disks: HashSet<DiskId> = copies_of(tx, &driver)?.into_iter().collect();
            let mut statement = tx.prepare_cached("SELECT payload FROM result WHERE driver = ?1")?;
            let payloads = statement.query_map([Col(&driver)], |row| row.get::<_, Json<Payload>>(0))?;
            for payload in payloads {
                disks.extend(payload?.0.disks().into_iter().cloned());
            }
            disks.extend(open_disks(tx)?);
            Ok(disks)
        };
        self.db().read("list the disks in use", work).await
    }
}

fn open_disks(tx: &Transaction<'_>) -> Result<Vec<DiskId>, Fault> {
    let mut statement = tx.prepare_cached("SELECT fold FROM build WHERE state <> 'finished'")?;
    let folds = statement.query_map([], |row| row.get::<_, Json<BuildJson>>(0))?;
    let mut disks = Vec::new();
    for fold in folds {
        disks.extend(fold?.0.0.open.into_iter().filter_map(|effect| match effect {
            Effect::Disk(disk) | Effect::Image { disk, .. } => Some(disk),
            Effect::Machine { .. } => None,
        }));
    }
    Ok(disks)
}

pub(super) fn insert_result(tx: &Transaction<'_>, result: &StageResult) -> Result<(), Fault> {
    tx.prepare_cached(
        "INSERT INTO result (repository, stage, declared, resolved, driver, build, tracked, made, expires, image, payload)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?
    .execute(rusqlite::params![
        Col(&result.repository),
        Col(&result.stage),
        Col(&result.declared),
        Col(&result.resolved),
        Col(&result.driver),
        Col(result.build),
        result.tracked,
        result.made.0,
        result.expires.map(|at| at.0),
        result.payload.image(),
        Json(&result.payload),
    ])?;
    failures::clear(tx, &result.repository, result.declared, result.tracked)
}

/// An untracked build may move only what untracked builds made.
pub(super) fn move_result(
    tx: &Transaction<'_>,
    repository: &RepoName,
    stage: Stage,
    from: Fingerprint,
    to: Fingerprint,
    tracked: bool,
) -> Result<(), Fault> {
    tx.prepare_cached(
        "UPDATE result SET declared = ?4 WHERE repository = ?1 AND stage = ?2 AND declared = ?3 AND tracked <= ?5",
    )?
    .execute((Col(repository), Col(&stage), Col(&from), Col(&to), tracked))?;
    failures::clear(tx, repository, to, tracked)
}

/// The blobs that kept results refer to.
pub(super) fn result_blobs(connection: &Connection) -> Result<Vec<(Digest, u64)>, Fault> {
    let mut statement = connection.prepare_cached("SELECT payload FROM result WHERE stage = 'render'")?;
    let payloads = statement.query_map([], |row| row.get::<_, Json<Payload>>(0))?;
    let mut blobs = Vec::new();
    for payload in payloads {
        if let Payload::Render { outputs, .. } = payload?.0 {
            blobs.extend(outputs.into_iter().map(|Output(_, sha256, size)| (sha256, size)));
        }
    }
    Ok(blobs)
}

fn result(row: &Row<'_>) -> rusqlite::Result<StageResult> {
    let (Col(number), Col(repository), Col(stage)) = (row.get::<_, Col<u64>>(0)?, row.get(1)?, row.get(2)?);
    let (Col(declared), Col(resolved), Col(driver), Col(build)) = (row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?);
    let expires: Option<i64> = row.get(9)?;
    let Json(payload) = row.get(10)?;
    Ok(StageResult {
        number: Some(ResultNo(number)),
        repository,
        stage,
        declared,
        resolved,
        driver,
        build,
        tracked: row.get(7)?,
        made: Moment(row.get(8)?),
        expires: expires.map(Moment),
        payload,
    })
}
