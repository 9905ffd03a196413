//! The archive: which files a build left, by path; their bytes are blobs.

use rusqlite::{Connection, Transaction};

use super::Store;
use super::error::{Fault, StoreError};
use super::shape::Col;
use crate::domain::id::{BuildNo, Digest};
use crate::domain::path::RepoPath;

/// A file that a build archived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// Its path in the archive.
    pub path: RepoPath,
    /// The sum of its bytes, under which the blobs have it.
    pub sha256: Digest,
    /// Its size in bytes.
    pub size: u64,
}

impl Store {
    /// The files that a build archived, sorted by path.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn artifacts(&self, build: BuildNo) -> Result<Vec<Artifact>, StoreError> {
        let work = move |tx: &Transaction<'_>| {
            let mut statement =
                tx.prepare_cached("SELECT path, sha256, size FROM artifact WHERE build = ?1 ORDER BY path")?;
            let rows = statement.query_map([Col(build)], |row| {
                let (Col(path), Col(sha256), Col(size)) = (row.get(0)?, row.get(1)?, row.get(2)?);
                Ok(Artifact { path, sha256, size })
            })?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        };
        self.db().read("list artifacts", work).await
    }
}

pub(super) fn insert_artifact(tx: &Transaction<'_>, build: BuildNo, artifact: &Artifact) -> Result<(), Fault> {
    tx.prepare_cached("INSERT OR REPLACE INTO artifact (build, path, sha256, size) VALUES (?1, ?2, ?3, ?4)")?
        .execute((Col(build), Col(&artifact.path), Col(&artifact.sha256), Col(artifact.size)))?;
    Ok(())
}

/// The blobs that artifacts and packed logs refer to.
pub(super) fn archived_blobs(connection: &Connection) -> Result<Vec<(Digest, u64)>, Fault> {
    let mut statement =
        connection.prepare_cached("SELECT DISTINCT sha256, size FROM artifact UNION SELECT sha256, size FROM log")?;
    let rows = statement.query_map([], |row| {
        let (Col(sha256), Col(size)) = (row.get(0)?, row.get(1)?);
        Ok((sha256, size))
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}
