//! Whether the store may still write.
//!
//! After a failed fsync the kernel takes the pages for clean, and doing it again would lie. So the first such failure
//! stops all writing, says so, and leaves a marker that makes the next process verify everything before it writes.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::error::StoreError;
use super::remove_file;

/// Shared by everything of the store that writes.
#[derive(Debug)]
pub(super) struct Health {
    broken: OnceLock<String>,
    marker: PathBuf,
}

impl Health {
    pub(super) fn new(marker: PathBuf) -> Self {
        Self { broken: OnceLock::new(), marker }
    }

    pub(super) fn broken(&self) -> Option<String> {
        self.broken.get().cloned()
    }

    /// To be called before every write.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        match self.broken.get() {
            Some(reason) => Err(StoreError::Broken { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    /// Stops all writing. Only the first reason counts.
    pub(super) fn fail(&self, reason: String) {
        if self.broken.set(reason.clone()).is_ok() {
            tracing::error!(%reason, "the store takes no more writes: {reason}; restart factoryd once the disk is well");
            // The disk may be what failed. Without the marker the next start finds a database that SQLite itself recovers.
            let marked = File::create(&self.marker).and_then(|mut file| {
                file.write_all(reason.as_bytes())?;
                file.sync_all()
            });
            if let Err(error) = marked {
                tracing::error!(%error, "can't write {}: run `factoryd verify` before the next start", self.marker.display());
            }
        }
    }

    /// Stops all writing because of what an earlier process met; the marker stays.
    pub(super) fn stay_broken(&self, reason: String) {
        tracing::error!(%reason, "the store takes no writes: {reason}");
        // Only the first reason counts.
        let _ = self.broken.set(reason);
    }

    /// Stops all writing after a failed fsync, and gives the error for the caller.
    pub(super) fn fsync_failed(&self, path: &Path, source: io::Error) -> StoreError {
        self.fail(format!("{} could not be made durable: {source}", path.display()));
        StoreError::File { what: "make durable", path: path.to_owned(), source }
    }

    /// The failure that an earlier process left word of.
    pub(super) fn marked(&self) -> Option<String> {
        fs::read(&self.marker).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    pub(super) fn unmark(&self) -> Result<(), StoreError> {
        remove_file(&self.marker)
    }
}
