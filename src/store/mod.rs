//! What is remembered: the database, the content-addressed files, the logs.
//!
//! One directory holds it all, and one process at a time may write it:
//!
//! ```text
//! lock                   held while a store is open; its text is the holder's process id
//! factory.db             SQLite in WAL mode: journals, builds, results, images, …
//! verify-needed          written when a write failed halfway: the next open verifies before it writes
//! blobs/sha256/ab/ab…    files by their sum;  blobs/tmp/  what is being written
//! builds/N/              a running build's log, consoles and reports
//! ```
//!
//! Bytes go first and rows second; what is deleted goes in the other order. Nothing here decides what a build does next:
//! [`Build::apply`](crate::domain::build::Build::apply) folds the journal, and the engine asks.

mod artifacts;
mod blobs;
mod builds;
mod bundles;
mod db;
mod deliveries;
mod enqueue;
mod error;
mod failures;
mod gc;
mod health;
mod images;
mod inputs;
mod journal;
mod journal_shape;
mod log_read;
mod log_text;
mod logs;
mod migrations;
mod remembered;
mod results;
mod served;
mod shape;
mod test_cases;
mod verify;
mod warnings;

#[cfg(test)]
mod tests;

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;

use crate::domain::id::BuildNo;

pub use artifacts::Artifact;
pub use blobs::{Blob, BlobList, BlobWriter, Blobs, VerifiedReader};
pub use builds::{BuildFilter, BuildRecord, OpenBuild};
pub use bundles::{Durations, StageTime};
pub use deliveries::Delivery;
pub use enqueue::{Enqueue, NewBuild};
pub use error::StoreError;
pub use gc::Freed;
pub use images::ImageRecord;
pub use inputs::Declared;
pub use journal::{JournalEntry, Record};
pub use log_read::{LogFollower, LogLine, LogPage, LogPages};
pub use logs::{LogLimits, LogWriter};
pub use results::{Output, Payload, ResultNo, StageResult};
pub use served::Served;
pub use test_cases::{CaseOutcome, TestCase};
pub use verify::{Problem, Report};
pub use warnings::Warning;

use builds::OpenMemory;
use db::Db;
use health::Health;
use inputs::DeclaredMemory;
use logs::Logs;
use served::ServedMemory;

/// Everything the factory remembers. Clones share one database and one lock; the last one dropped closes it.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

/// The order matters: the database is closed before the lock is let go.
#[derive(Debug)]
struct Inner {
    db: Db,
    blobs: Blobs,
    logs: Logs,
    health: Arc<Health>,
    served: Arc<ServedMemory>,
    open: Arc<OpenMemory>,
    declared: DeclaredMemory,
    /// Counts what may change the answers that [`Store::moves`] is about.
    moves: Arc<AtomicU64>,
    directory: PathBuf,
    opening: Option<Report>,
    /// Two collections at once would not see what the other spares.
    collecting: Mutex<()>,
    _lock: File,
}

/// Room on the disk that holds the state directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// Bytes that the daemon may still write.
    pub free: u64,
    /// Bytes in all.
    pub total: u64,
}

impl Store {
    /// Opens the store of a state directory, making what is missing, with the default [`LogLimits`].
    ///
    /// Blocks: it migrates, and after a failed write it verifies everything first ([`Store::opening_report`]).
    ///
    /// # Errors
    /// When another process holds it, a newer factoryd wrote it, or the disk is in the way.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        Self::open_with(state_dir, LogLimits::default())
    }

    /// [`Store::open`] with other limits for logs.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_with(state_dir: &Path, limits: LogLimits) -> Result<Self, StoreError> {
        make_directory(state_dir)?;
        let lock = take_lock(state_dir)?;
        let health = Arc::new(Health::new(state_dir.join("verify-needed")));
        let blobs = Blobs::open(state_dir.join("blobs"), Arc::clone(&health))?;
        let logs = Logs::open(state_dir.join("builds"), limits)?;
        let db = Db::open(&state_dir.join("factory.db"), Arc::clone(&health))?;
        let opening = match health.marked() {
            Some(reason) => Some(verify_before_writing(&db, &blobs, &health, &reason)?),
            None => None,
        };
        let directory = state_dir.to_owned();
        Ok(Self {
            inner: Arc::new(Inner {
                db,
                blobs,
                logs,
                health,
                served: Arc::default(),
                open: Arc::default(),
                declared: DeclaredMemory::default(),
                moves: Arc::default(),
                directory,
                opening,
                collecting: Mutex::default(),
                _lock: lock,
            }),
        })
    }

    /// Comes back when both threads of the database have answered. A store that takes no more writes is asked to read.
    ///
    /// # Errors
    /// When the database can't be read or written.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.db().read("see whether it answers", |_| Ok(())).await?;
        match self.db().write("see whether it answers", |_| Ok(())).await {
            Err(StoreError::Broken { .. }) => Ok(()),
            other => other,
        }
    }

    /// A number that is another one after anything changed that results, failures, last inputs and durations are read
    /// from: what was read of these at the same number is still so. Queuing builds changes none of them.
    pub fn moves(&self) -> u64 {
        self.inner.moves.load(Ordering::Acquire)
    }

    /// To be called after such a change was committed.
    fn moved(&self) -> impl FnOnce() + Send + 'static {
        let moves = Arc::clone(&self.inner.moves);
        move || {
            moves.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Why nothing is written any more; `None` while all is well.
    ///
    /// Set by the first write that failed with an I/O error, and by [`Store::stop_writing`]. It stays set until the daemon starts again.
    pub fn broken(&self) -> Option<String> {
        self.inner.health.broken()
    }

    /// Stops all writing, since something that belongs to what is remembered may not be on the disk; the next opening
    /// verifies first. Gives the error that every write fails with from now on.
    pub fn stop_writing(&self, reason: String) -> StoreError {
        self.inner.health.fail(reason.clone());
        StoreError::Broken { reason: self.broken().unwrap_or(reason) }
    }

    /// What the verification found that opening had to make; `None` where none was needed.
    pub fn opening_report(&self) -> Option<&Report> {
        self.inner.opening.as_ref()
    }

    /// The files kept by their content. Its calls block.
    pub fn blobs(&self) -> &Blobs {
        &self.inner.blobs
    }

    /// The directory of a build while it runs, made where it is missing: log, consoles, reports.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn build_directory(&self, build: BuildNo) -> Result<PathBuf, StoreError> {
        self.inner.logs.directory(build)
    }

    /// The state directory.
    pub fn directory(&self) -> &Path {
        &self.inner.directory
    }

    /// Room on the disk that holds the state directory.
    ///
    /// # Errors
    /// When the file system does not say.
    pub fn disk_space(&self) -> Result<DiskSpace, StoreError> {
        let directory = &self.inner.directory;
        let stat = rustix::fs::statvfs(directory)
            .map_err(|source| StoreError::file("ask for the free space of", directory, source.into()))?;
        Ok(DiskSpace {
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
        })
    }

    fn db(&self) -> &Db {
        &self.inner.db
    }
}

/// A write failed halfway in an earlier life: look at everything before writing again.
fn verify_before_writing(db: &Db, blobs: &Blobs, health: &Health, reason: &str) -> Result<Report, StoreError> {
    let report = verify::run(&db.reader()?, blobs, &|_| {})?;
    match report.problems.iter().find(|problem| problem.stops_writing) {
        Some(problem) => health.stay_broken(format!("after \"{reason}\", verify found: {}", problem.what)),
        None => health.unmark()?,
    }
    Ok(report)
}

fn make_directory(directory: &Path) -> Result<(), StoreError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(directory)
        .map_err(|source| StoreError::file("make", directory, source))
}

/// The lock is the open file; its text only helps people.
fn take_lock(state_dir: &Path) -> Result<File, StoreError> {
    let path = state_dir.join("lock");
    let failed = |source| StoreError::file("lock", &path, source);
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // Who holds it is only a help to the reader of the message: not knowing is fine.
            let _ = (&mut file).take(20).read_to_string(&mut holder);
            return Err(StoreError::Locked { directory: state_dir.to_owned(), holder: holder.trim().to_owned() });
        }
        Err(TryLockError::Error(source)) => return Err(failed(source)),
    }
    file.set_len(0).and_then(|()| write!(file, "{}", std::process::id())).map_err(failed)?;
    Ok(file)
}

/// Makes the names in a directory durable.
fn sync_directory(directory: &Path, health: &Health) -> Result<(), StoreError> {
    let synced = File::open(directory).and_then(|open| open.sync_all());
    synced.map_err(|source| health.fsync_failed(directory, source))
}

/// Removes a file; that it is gone already is success.
fn remove_file(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(StoreError::file("remove", path, error)),
        _ => Ok(()),
    }
}
