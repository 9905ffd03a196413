//! What can go wrong with the store, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use crate::domain::build::IllegalEvent;
use crate::domain::id::BuildNo;

/// Trouble with the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the state directory open.
    #[error(
        "the state directory {} is in use by another factoryd (process {holder}): stop it, or ask it over its socket",
        directory.display()
    )]
    Locked {
        /// The directory.
        directory: PathBuf,
        /// The process id that the lock file names.
        holder: String,
    },
    /// A newer factoryd has changed the database.
    #[error("the database has a migration that this factoryd does not know ({migration:?}): use the newer factoryd")]
    Newer {
        /// The migration's name.
        migration: String,
    },
    /// An earlier write failed in a way that leaves doubt about what is on the disk.
    #[error(
        "the store takes no more writes since {reason}: see to the disk, then restart factoryd, which verifies first"
    )]
    Broken {
        /// The first failure.
        reason: String,
    },
    /// There is no room; nothing was changed.
    #[error("no room on the disk to {what}: free some space, then try again")]
    Full {
        /// What was to be done.
        what: String,
    },
    /// The database refused or failed.
    #[error("the database failed to {what}: {source}")]
    Database {
        /// What was to be done.
        what: &'static str,
        /// Why not.
        source: rusqlite::Error,
    },
    /// A file could not be read or written.
    #[error("can't {what} {}: {source}", path.display())]
    File {
        /// What was to be done to it: a verb.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The database thread is gone.
    #[error("the database was closed before it could {what}")]
    Closed {
        /// What was to be done.
        what: &'static str,
    },
    /// The event can't follow what the build's journal has; nothing was changed.
    #[error("build {build}: {source}")]
    IllegalEvent {
        /// The build.
        build: BuildNo,
        /// The event and the state it met.
        source: IllegalEvent,
    },
    /// There is no such thing.
    #[error("there is no {what}")]
    NoSuch {
        /// What was asked for: `build #7`.
        what: String,
    },
    /// Several things match.
    #[error("{given:?} stands for several images: {}; give more of the id", matches.join(", "))]
    Ambiguous {
        /// What was given.
        given: String,
        /// The ids that match.
        matches: Vec<String>,
    },
    /// A rule of the store forbids it; nothing was changed.
    #[error("{what} is refused: {why}")]
    Refused {
        /// What was asked for.
        what: String,
        /// Which rule.
        why: String,
    },
    /// What is stored is not what was stored.
    #[error("{what} is damaged: {why}; `factoryd verify` lists all such damage")]
    Damaged {
        /// What.
        what: String,
        /// How that shows.
        why: String,
    },
    /// More bytes than may be stored.
    #[error("the file is larger than the {limit} bytes it may have")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
}

impl StoreError {
    /// An I/O error at a file; a full disk becomes [`StoreError::Full`].
    pub(super) fn file(what: &'static str, path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::Full { what: format!("{what} {}", path.display()) }
            }
            _ => Self::File { what, path: path.to_owned(), source },
        }
    }

    pub(super) fn no_such(what: impl Into<String>) -> Self {
        Self::NoSuch { what: what.into() }
    }

    pub(super) fn damaged(what: impl Into<String>, why: impl ToString) -> Self {
        Self::Damaged { what: what.into(), why: why.to_string() }
    }

    pub(super) fn refused(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Refused { what: what.into(), why: why.into() }
    }
}

/// What a closure on the database thread fails with, before it is known what it was to do.
#[derive(Debug)]
pub(super) enum Fault {
    Sql(rusqlite::Error),
    Store(StoreError),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Fault {
    /// The error for the caller.
    pub(super) fn during(self, what: &'static str) -> StoreError {
        match self {
            Self::Store(error) => error,
            Self::Sql(source) if source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull) => {
                StoreError::Full { what: what.to_owned() }
            }
            Self::Sql(source) => StoreError::Database { what, source },
        }
    }
}
