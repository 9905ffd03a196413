//! Garbage collection: frees what nothing refers to, rows first and files after.
//!
//! What is referred to is decided elsewhere: rows say it, and retention (`domain::retention`) says which rows go. Disks
//! are the driver's; [`Store::referenced_disks`] says which it must keep.

use std::collections::HashSet;
use std::fs;

use rusqlite::{Connection, Transaction};

use super::Store;
use super::artifacts::archived_blobs;
use super::error::{Fault, StoreError};
use super::logs::remove_directory;
use super::results::result_blobs;
use crate::domain::build::BuildState;
use crate::domain::id::{BuildNo, Digest};

/// What garbage collection freed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Freed {
    /// The blobs, sorted.
    pub blobs: Vec<Digest>,
    /// Their bytes.
    pub bytes: u64,
    /// Sets of inputs that no build had any more.
    pub input_sets: usize,
    /// Finished builds whose directories were removed.
    pub directories: Vec<BuildNo>,
}

impl Store {
    /// Frees exactly what nothing refers to: blobs without a row, but for those in `keep` and those that somebody holds
    /// ([`Blob`](super::Blob)); inputs without a build; directories of finished builds, whose logs are packed first.
    ///
    /// # Errors
    /// When something can't be read or removed. What was freed until then stays freed.
    pub async fn gc(&self, keep: HashSet<Digest>) -> Result<Freed, StoreError> {
        let _one_at_a_time = self.inner.collecting.lock().await;
        let directories = self.clear_directories().await?;
        self.blobs().begin_sweep();
        let rows = |tx: &Transaction<'_>| {
            // Whole sets first, so that the parts that only they had are found.
            let unused = "DELETE FROM input_set WHERE digest NOT IN (SELECT input_set FROM build_input)
                          AND digest NOT IN (SELECT part FROM input_part)";
            let gone = tx.execute(unused, [])? + tx.execute(unused, [])?;
            Ok((gone, referenced(tx)?))
        };
        let (input_sets, referenced) = self.db().write("collect garbage", rows).await?;
        let keep = referenced.into_iter().map(|(sha256, _)| sha256).chain(keep).collect();
        let blobs = self.blobs().clone();
        let freed = crate::blocking::run(move || blobs.sweep(&keep)).await?;
        let bytes = freed.iter().map(|(_, size)| size).sum();
        Ok(Freed { blobs: freed.into_iter().map(|(sha256, _)| sha256).collect(), bytes, input_sets, directories })
    }

    /// The daemon may have died between the end of a build and the packing of its log.
    async fn clear_directories(&self) -> Result<Vec<BuildNo>, StoreError> {
        let mut cleared = Vec::new();
        for build in self.directories()? {
            let finished = self.build(build).await?.is_some_and(|record| record.build.state == BuildState::Finished);
            if finished {
                self.finish_log(build).await?;
                let directory = self.inner.logs.root().join(build.0.to_string());
                crate::blocking::run(move || remove_directory(&directory)).await?;
                cleared.push(build);
            }
        }
        Ok(cleared)
    }

    /// What has another name than a number is not ours.
    fn directories(&self) -> Result<Vec<BuildNo>, StoreError> {
        let root = self.inner.logs.root();
        let failed = |source| StoreError::file("list", root, source);
        let mut builds = Vec::new();
        for entry in fs::read_dir(root).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            builds.extend(name.to_str().and_then(|name| name.parse().ok()).map(BuildNo));
        }
        builds.sort_unstable();
        Ok(builds)
    }
}

/// Every blob that a row refers to, with the size that the row gives it.
pub(super) fn referenced(connection: &Connection) -> Result<Vec<(Digest, u64)>, Fault> {
    let mut blobs = archived_blobs(connection)?;
    blobs.extend(result_blobs(connection)?);
    Ok(blobs)
}
