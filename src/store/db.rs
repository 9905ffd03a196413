//! The only place that touches a connection: one thread that writes, one that reads, and closures sent to them.
//!
//! Writes are immediate transactions, one after the other, durable when they return. Reads are deferred transactions on
//! a connection of their own, so that `status` never waits for a long write. No transaction is held across an await.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use super::error::{Fault, StoreError};
use super::health::Health;
use super::migrations;

/// How long work may take before the operator is told. A write waits for the disk: p99 is 2.4 ms.
const SLOW: Duration = Duration::from_millis(250);
/// Callers that may wait for the thread before the next one has to wait for room.
const QUEUE: usize = 64;
/// Prepared statements kept for each connection: more than the store has.
const STATEMENTS: usize = 128;
/// Bytes set aside for the log. It is written back into the database at about 4 MiB, where there is room for that.
const ROOM: u64 = 6 << 20;
/// Another process (a person's `sqlite3`) may hold the database for a moment.
const BUSY: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// The database behind its threads.
#[derive(Debug)]
pub(super) struct Db {
    writer: Worker,
    reader: Worker,
    health: Arc<Health>,
    path: PathBuf,
}

impl Db {
    /// Opens the database, brings it up to date and starts its threads.
    pub(super) fn open(path: &Path, health: Arc<Health>) -> Result<Self, StoreError> {
        let what = "open";
        let mut writing = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)
            .map_err(|error| Fault::from(error).during(what))?;
        migrations::run(&mut writing).map_err(|fault| fault.during("migrate"))?;
        set_room_aside(path);
        let reading = open_reader(path)?;
        Ok(Self {
            writer: Worker::start("store-write", writing)?,
            reader: Worker::start("store-read", reading)?,
            health,
            path: path.to_owned(),
        })
    }

    /// Runs a closure in an immediate transaction and commits it. `what` is a verb phrase for messages.
    ///
    /// An I/O error breaks the store: what the disk now holds is not known.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.write_then(what, work, || {}).await
    }

    /// [`Db::write`], and something to do once it is committed: before anybody is told, and even if nobody waits.
    pub(super) async fn write_then<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Fault> + Send + 'static,
        then: impl FnOnce() + Send + 'static,
    ) -> Result<T, StoreError> {
        let health = Arc::clone(&self.health);
        let job = move |connection: &mut Connection| {
            health.check()?;
            let done = transact(connection, TransactionBehavior::Immediate, what, work).map_err(|fault| {
                if let Fault::Sql(error) = &fault
                    && leaves_doubt(error)
                {
                    health.fail(format!("the database failed to {what}: {error}"));
                }
                fault.during(what)
            })?;
            then();
            Ok(done)
        };
        self.writer.run(what, job).await
    }

    /// Runs a closure in a deferred transaction on the reading connection.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let job = move |connection: &mut Connection| {
            transact(connection, TransactionBehavior::Deferred, what, work).map_err(|fault| fault.during(what))
        };
        self.reader.run(what, job).await
    }

    /// A connection of the caller's own, for reading that takes long.
    pub(super) fn reader(&self) -> Result<Connection, StoreError> {
        open_reader(&self.path)
    }
}

/// Whether what is on the disk may be something else than before the transaction or after it.
fn leaves_doubt(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::SystemIoFailure | ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
    )
}

/// Sets room aside on the disk for the database's log, so that a cancel or the end of a build can be written down when the
/// disk is full: SQLite writes there first, from its beginning, and its length stays what was written. The lock that
/// SQLite holds is on other files, so opening this one beside it does no harm.
fn set_room_aside(path: &Path) {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let log = PathBuf::from(log);
    let set = std::fs::OpenOptions::new().write(true).open(&log).and_then(|file| {
        let room = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, ROOM);
        room.map_err(std::io::Error::from)
    });
    if let Err(error) = set {
        tracing::info!(%error, "no room is set aside for {}: a full disk may refuse a cancel", log.display());
    }
}

fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(|error| Fault::from(error).during("open for reading"))
}

fn connect(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    if flags.contains(OpenFlags::SQLITE_OPEN_READ_WRITE) {
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
    }
    connection.pragma_update(None, "foreign_keys", true)?;
    Ok(connection)
}

fn transact<T>(
    connection: &mut Connection,
    behavior: TransactionBehavior,
    what: &'static str,
    work: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let began = Instant::now();
    let transaction = connection.transaction_with_behavior(behavior)?;
    let value = work(&transaction)?;
    transaction.commit()?;
    let took = began.elapsed();
    if took > SLOW {
        tracing::warn!(what, millis = took.as_millis(), "the database took {} ms to {what}", took.as_millis());
    }
    Ok(value)
}

/// A thread with a connection. Dropping it waits for the work that was accepted.
#[derive(Debug)]
struct Worker {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    fn start(name: &str, mut connection: Connection) -> Result<Self, StoreError> {
        let (jobs, mut accepted) = mpsc::channel::<Job>(QUEUE);
        let work = move || {
            while let Some(job) = accepted.blocking_recv() {
                // A panic in one closure must not take the database from everybody else. Its transaction is rolled
                // back as it unwinds, and its caller finds its reply gone.
                let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job(&mut connection)));
                if ran.is_err() {
                    tracing::error!("work on the database panicked; its transaction was rolled back");
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(work)
            .map_err(|source| StoreError::File { what: "start a thread for", path: name.into(), source })?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    async fn run<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let closed = || StoreError::Closed { what };
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            // A caller that no longer waits still gets its work done: it was accepted.
            let _ = reply.send(work(connection));
        });
        self.jobs.as_ref().ok_or_else(closed)?.send(job).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // The thread catches every panic of its jobs, and has nothing else to say.
            let _ = thread.join();
        }
    }
}
