//! What serves each bundle, and a copy of it in memory: a plan of ten thousand bundles compares with all of it, and
//! hardly any push changes it.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{OptionalExtension as _, Row, Transaction};

use super::Store;
use super::bundles::{bundle_id, find_bundle};
use super::error::{Fault, StoreError};
use super::remembered::Remembered;
use super::shape::{Col, Json, Word};
use crate::domain::build::Moment;
use crate::domain::bundle::BundleKey;
use crate::domain::id::{Branch, BuildNo, CommitId, Fingerprint, ImageId, RepoName};
use crate::domain::path::RepoPath;
use crate::domain::pipeline::Stage;
use crate::domain::plan::ServedPrints;

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

const SELECT: &str = "
SELECT bundle.path, served.image, served.build, served.commit_id, served.at, served.stages
FROM served JOIN bundle ON bundle.id = served.bundle WHERE repository = ?1 AND branch = ?2";

impl Store {
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
            let mut statement = tx.prepare_cached(SELECT)?;
            let rows = statement.query_map((Col(&repository), Col(&branch)), served_row)?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        };
        self.db().read("read what is served", work).await
    }

    /// What serves one bundle.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn served_of(&self, key: &BundleKey) -> Result<Option<Served>, StoreError> {
        Ok(self.served_among(vec![key.clone()]).await?.remove(key))
    }

    /// What serves these bundles.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn served_among(&self, keys: Vec<BundleKey>) -> Result<HashMap<BundleKey, Served>, StoreError> {
        let work = move |tx: &Transaction<'_>| {
            let mut statement = tx.prepare_cached(&format!("{SELECT} AND path = ?3"))?;
            let mut found = HashMap::new();
            for key in keys {
                let params = (Col(&key.repository), Col(&key.branch), Col(&key.path));
                if let Some((_, served)) = statement.query_row(params, served_row).optional()? {
                    found.insert(key, served);
                }
            }
            Ok(found)
        };
        self.db().read("read what serves bundles", work).await
    }

    /// The declared fingerprints that each bundle of a branch is served with; from memory, if nothing that serves has
    /// changed.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn served_prints(&self, repository: &RepoName, branch: &Branch) -> Result<Arc<ServedPrints>, StoreError> {
        let place = (repository.clone(), branch.clone());
        let (generation, found) = self.inner.served.find(&place);
        if let Some(found) = found {
            return Ok(found);
        }
        let served = self.served(repository, branch).await?;
        let prints = Arc::new(served.into_iter().map(|(path, served)| (path, served.stages)).collect());
        self.inner.served.keep(place, generation, &prints);
        Ok(prints)
    }

    /// Every declared fingerprint that anything is served with.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn all_served_prints(&self) -> Result<Vec<Fingerprint>, StoreError> {
        let work = |tx: &Transaction<'_>| {
            let mut statement = tx.prepare_cached("SELECT stages FROM served")?;
            let mut prints = Vec::new();
            for stages in statement.query_map([], |row| row.get::<_, Json<Vec<(Word<Stage>, Word<Fingerprint>)>>>(0))? {
                prints.extend(stages?.0.into_iter().map(|(_, print)| print.0));
            }
            Ok(prints)
        };
        self.db().read("read what everything is served with", work).await
    }

    /// Nothing serves these bundles any more: they are gone from their branch, or the branch is.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn unserve(&self, keys: Vec<BundleKey>) -> Result<(), StoreError> {
        if keys.is_empty() {
            return Ok(());
        }
        let work = move |tx: &Transaction<'_>| {
            for key in &keys {
                if let Some(bundle) = find_bundle(tx, key)? {
                    tx.prepare_cached("DELETE FROM served WHERE bundle = ?1")?.execute([bundle])?;
                }
            }
            Ok(())
        };
        let (memory, moved) = (Arc::clone(&self.inner.served), self.moved());
        let after = move || {
            memory.forget();
            moved();
        };
        self.db().write_then("stop serving", work, after).await
    }
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

/// What [`Store::served_prints`] read since anything that serves changed.
pub(super) type ServedMemory = Remembered<(RepoName, Branch), ServedPrints>;
