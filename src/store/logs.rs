//! Build logs: appended to while a build runs, followed live, packed into the blobs when it has ended.
//!
//! ```text
//!   writer ──► builds/N/log ──► end: a last line says what was dropped; followers end
//!                                 └──► finish: zstd → blob → row → the plain file goes
//! ```

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension as _, Transaction};
use tokio::sync::watch;

pub use super::log_text::LogLine;

use super::blobs::{Blob, Blobs};
use super::error::{Fault, StoreError};
use super::log_text::{decode, encode, safe};
use super::shape::Col;
use super::{Store, remove_file};
use crate::domain::build::{BuildState, Moment};
use crate::domain::id::{BuildNo, Digest};
use crate::domain::pipeline::Stage;

/// Lines that a follower is given at once.
const PAGE: usize = 512;
/// More than any line has; a file without line ends is not read into memory as one.
const LONGEST: u64 = 1024 * 1024;

/// How large logs may grow.
#[derive(Clone, Copy, Debug)]
pub struct LogLimits {
    /// Bytes of one line; what is beyond is cut.
    pub line: usize,
    /// Bytes of one build's log; what is beyond is dropped and counted.
    pub build: u64,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { line: 64 * 1024, build: 64 * 1024 * 1024 }
    }
}

/// Which lines to read.
#[derive(Clone, Copy, Debug)]
pub struct LogPage {
    /// From this line on, counted from 1.
    pub from: u64,
    /// At most so many.
    pub limit: usize,
    /// Only those of a stage.
    pub stage: Option<Stage>,
}

/// The logs of all builds.
#[derive(Debug)]
pub(super) struct Logs {
    root: PathBuf,
    limits: LogLimits,
    live: Mutex<HashMap<BuildNo, Arc<Live>>>,
}

/// The log of a build that has not ended.
#[derive(Debug)]
struct Live {
    path: PathBuf,
    limits: LogLimits,
    state: Mutex<Written>,
    progress: watch::Sender<Progress>,
}

#[derive(Debug, Default)]
struct Written {
    file: Option<File>,
    lines: u64,
    bytes: u64,
    dropped: u64,
    ended: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Progress {
    lines: u64,
    ended: bool,
}

/// Writes lines to a build's log, from any thread.
#[derive(Clone, Debug)]
pub struct LogWriter {
    live: Arc<Live>,
}

impl LogWriter {
    /// Writes one line, stamped with the time; gives its number.
    ///
    /// A line that finds no room is dropped and counted, and never stops a build: the number is then that of the line
    /// that says so.
    pub fn line(&self, stage: Option<Stage>, step: Option<u32>, text: &[u8]) -> u64 {
        self.live.line(stage, step, text)
    }

    /// How many lines there are.
    pub fn lines(&self) -> u64 {
        self.live.progress.borrow().lines
    }
}

fn now() -> Moment {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Moment(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// A panic while it is held leaves at worst a line uncounted.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Live {
    fn line(&self, stage: Option<Stage>, step: Option<u32>, text: &[u8]) -> u64 {
        let line = encode(now(), stage, step, &safe(text, self.limits.line));
        let mut written = lock(&self.state);
        if written.dropped > 0 || written.bytes + line.len() as u64 > self.limits.build {
            if written.dropped == 0 {
                let cut = format!("the log is cut here: it may have {} bytes", self.limits.build);
                self.write(&mut written, &encode(now(), None, None, &cut));
            }
            written.dropped += line.len() as u64;
        } else {
            self.write(&mut written, &line);
        }
        written.lines
    }

    /// One write per line, so that nothing is lost with the process. A line that can't be written is counted as dropped.
    fn write(&self, written: &mut Written, line: &str) {
        let done = self.open(written).and_then(|file| file.write_all(line.as_bytes()));
        if let Err(error) = done {
            if written.dropped == 0 {
                tracing::warn!(%error, "can't write {}: {error}; lines are dropped", self.path.display());
            }
            written.dropped += line.len() as u64;
            // What is half there gets its end, so that later lines stand alone.
            written.file = None;
            return;
        }
        written.lines += 1;
        written.bytes += line.len() as u64;
        let lines = written.lines;
        self.progress.send_modify(|progress| progress.lines = lines);
    }

    /// The file, opened at the first line: a log that a process left is gone on with.
    fn open<'w>(&self, written: &'w mut Written) -> io::Result<&'w mut File> {
        if written.file.is_none() {
            if let Some(directory) = self.path.parent() {
                DirBuilder::new().recursive(true).mode(0o750).create(directory)?;
            }
            let mut file = OpenOptions::new().read(true).append(true).create(true).open(&self.path)?;
            let (lines, bytes, torn) = count(&file)?;
            (written.lines, written.bytes) = (lines, bytes);
            if torn {
                file.write_all(b"\n")?;
                written.bytes += 1;
            }
            written.file = Some(file);
        }
        written.file.as_mut().ok_or_else(|| io::Error::other("the log is not open"))
    }

    /// Writes the last line, if there is one to write, and lets followers end. Doing it twice changes nothing.
    fn end(&self) {
        let mut written = lock(&self.state);
        if !written.ended {
            written.ended = true;
            if written.dropped > 0 {
                let said = format!("{} bytes of the log were dropped", written.dropped);
                self.write(&mut written, &encode(now(), None, None, &said));
            }
            self.progress.send_modify(|progress| progress.ended = true);
        }
    }
}

/// Lines and bytes of a file, and whether its last line lacks its end. A line without an end is a line.
fn count(file: &File) -> io::Result<(u64, u64, bool)> {
    let mut reader = BufReader::new(file);
    let (mut lines, mut bytes, mut torn) = (0, 0, false);
    loop {
        let chunk = reader.fill_buf()?;
        let Some(last) = chunk.last() else { break };
        torn = *last != b'\n';
        lines += chunk.iter().filter(|byte| **byte == b'\n').count() as u64;
        let length = chunk.len();
        bytes += length as u64;
        reader.consume(length);
    }
    Ok((lines + u64::from(torn), bytes, torn))
}

impl Logs {
    pub(super) fn open(root: PathBuf, limits: LogLimits) -> Result<Self, StoreError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(&root)
            .map_err(|source| StoreError::file("make", &root, source))?;
        Ok(Self { root, limits, live: Mutex::default() })
    }

    pub(super) fn directory(&self, build: BuildNo) -> Result<PathBuf, StoreError> {
        let directory = self.root.join(build.0.to_string());
        DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(&directory)
            .map_err(|source| StoreError::file("make", &directory, source))?;
        Ok(directory)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    fn plain(&self, build: BuildNo) -> PathBuf {
        self.root.join(build.0.to_string()).join("log")
    }

    fn live(&self, build: BuildNo) -> Arc<Live> {
        let mut live = lock(&self.live);
        let made = || {
            let progress = watch::Sender::new(Progress::default());
            Arc::new(Live { path: self.plain(build), limits: self.limits, state: Mutex::default(), progress })
        };
        Arc::clone(live.entry(build).or_insert_with(made))
    }

    /// The build has ended: its followers come to their end.
    pub(super) fn end(&self, build: BuildNo) {
        // Taken out of the map first: a follower that comes later sees that the build is finished.
        let live = lock(&self.live).get(&build).cloned();
        if let Some(live) = live {
            live.end();
        }
    }

    fn forget(&self, build: BuildNo) {
        lock(&self.live).remove(&build);
    }
}

impl Store {
    /// A writer for the log of a build that runs; it goes on where an earlier process stopped.
    pub fn log_writer(&self, build: BuildNo) -> LogWriter {
        LogWriter { live: self.inner.logs.live(build) }
    }

    /// Lines of a build's log, whether it still grows or is packed away.
    ///
    /// # Errors
    /// When it can't be read. A build without a log has no lines.
    pub async fn read_log(&self, build: BuildNo, page: LogPage) -> Result<Vec<LogLine>, StoreError> {
        let source = self.log_source(build).await?;
        let read = move || {
            let Some(source) = source else { return Ok(Vec::new()) };
            let mut lines = Lines::new(source);
            lines.take(page.limit, |line| {
                line.number >= page.from && page.stage.is_none_or(|stage| line.stage == Some(stage))
            })
        };
        crate::blocking::run(read).await.map_err(|error| unreadable(build, &error))
    }

    /// Follows a build's log from a line on: what is there, and what comes until the build ends.
    ///
    /// # Errors
    /// When there is no such build.
    pub async fn follow_log(&self, build: BuildNo, from: u64) -> Result<LogFollower, StoreError> {
        // Subscribed before the build is looked at, so that its end is not missed in between.
        let progress = self.inner.logs.live(build).progress.subscribe();
        let found = self.end_log_if_finished(build).await;
        if !matches!(found, Ok(false)) {
            self.inner.logs.forget(build);
        }
        found?;
        Ok(LogFollower { store: self.clone(), build, from, progress, lines: None })
    }

    /// Packs the log of a finished build into the blobs. Doing it twice changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Refused`] while the build is not finished.
    pub async fn finish_log(&self, build: BuildNo) -> Result<(), StoreError> {
        if !self.end_log_if_finished(build).await? {
            return Err(StoreError::refused(format!("packing the log of {build}"), "the build is not finished"));
        }
        let (path, blobs) = (self.inner.logs.plain(build), self.blobs().clone());
        let plain = path.clone();
        let packed = crate::blocking::run(move || pack(&plain, &blobs)).await?;
        if let Some((blob, lines)) = packed {
            let row = (blob.sha256, blob.size);
            self.db().write("keep a log", move |tx| insert_log(tx, build, row, lines)).await?;
            drop(blob);
            remove_file(&path)?;
        }
        self.inner.logs.forget(build);
        Ok(())
    }

    /// Whether the build is finished; if so, its log gets its end.
    pub(super) async fn end_log_if_finished(&self, build: BuildNo) -> Result<bool, StoreError> {
        let record = self.build(build).await?.ok_or_else(|| StoreError::no_such(format!("build {build}")))?;
        let finished = record.build.state == BuildState::Finished;
        if finished {
            self.inner.logs.end(build);
        }
        Ok(finished)
    }

    /// The plain file, else the packed one. The file goes only when the row is there, so one of them is found.
    async fn log_source(&self, build: BuildNo) -> Result<Option<Source>, StoreError> {
        let path = self.inner.logs.plain(build);
        match File::open(&path) {
            Ok(file) => return Ok(Some(Source::Plain(BufReader::new(file)))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::file("open", &path, error)),
        }
        let packed = self.db().read("look for a log", move |tx| packed(tx, build)).await?;
        let Some(sha256) = packed else { return Ok(None) };
        let file = self.blobs().open_plain(sha256)?;
        let decoder = zstd::Decoder::new(file).map_err(|error| unreadable(build, &error))?;
        Ok(Some(Source::Packed(BufReader::new(decoder))))
    }
}

fn unreadable(build: BuildNo, error: &io::Error) -> StoreError {
    StoreError::damaged(format!("the log of build {build}"), error)
}

fn packed(connection: &Connection, build: BuildNo) -> Result<Option<Digest>, Fault> {
    let found = connection
        .prepare_cached("SELECT sha256 FROM log WHERE build = ?1")?
        .query_row([Col(build)], |row| row.get::<_, Col<Digest>>(0))
        .optional()?;
    Ok(found.map(|sha256| sha256.0))
}

fn insert_log(tx: &Transaction<'_>, build: BuildNo, blob: (Digest, u64), lines: u64) -> Result<(), Fault> {
    tx.prepare_cached("INSERT OR REPLACE INTO log (build, sha256, size, lines) VALUES (?1, ?2, ?3, ?4)")?.execute((
        Col(build),
        Col(&blob.0),
        Col(blob.1),
        Col(lines),
    ))?;
    Ok(())
}

/// With a checksum of its own in the packed file, so that reading a part of it notices damage too.
fn pack(path: &Path, blobs: &Blobs) -> Result<Option<(Blob, u64)>, StoreError> {
    let failed = |source| StoreError::file("pack", path, source);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let (lines, ..) = count(&file).map_err(failed)?;
    let mut plain = File::open(path).map_err(failed)?;
    let mut encoder = zstd::Encoder::new(blobs.writer()?, 0).map_err(failed)?;
    encoder.include_checksum(true).map_err(failed)?;
    io::copy(&mut plain, &mut encoder).map_err(failed)?;
    let blob = encoder.finish().map_err(failed)?.finish()?;
    Ok(Some((blob, lines)))
}

/// Where lines come from.
enum Source {
    Plain(BufReader<File>),
    Packed(BufReader<zstd::Decoder<'static, BufReader<File>>>),
}

/// Lines of a file that may still grow.
struct Lines {
    source: Source,
    number: u64,
    partial: Vec<u8>,
}

impl Lines {
    fn new(source: Source) -> Self {
        Self { source, number: 0, partial: Vec::new() }
    }

    /// Up to `limit` of the lines that are wanted, up to the present end. A last line without its end is left for later.
    fn take(&mut self, limit: usize, wanted: impl Fn(&LogLine) -> bool) -> io::Result<Vec<LogLine>> {
        let mut lines = Vec::new();
        while lines.len() < limit {
            let room = LONGEST.saturating_sub(self.partial.len() as u64);
            let read = match &mut self.source {
                Source::Plain(reader) => reader.take(room).read_until(b'\n', &mut self.partial)?,
                Source::Packed(reader) => reader.take(room).read_until(b'\n', &mut self.partial)?,
            };
            let whole = self.partial.last() == Some(&b'\n') || self.partial.len() as u64 >= LONGEST;
            if read == 0 || !whole {
                break;
            }
            lines.extend(self.line().filter(&wanted));
        }
        Ok(lines)
    }

    /// The line that was read last, whole or not.
    fn line(&mut self) -> Option<LogLine> {
        if self.partial.is_empty() {
            return None;
        }
        self.number += 1;
        let line = decode(self.number, &self.partial);
        self.partial.clear();
        Some(line)
    }
}

/// Follows a log; made by [`Store::follow_log`].
pub struct LogFollower {
    store: Store,
    build: BuildNo,
    from: u64,
    progress: watch::Receiver<Progress>,
    lines: Option<Lines>,
}

impl std::fmt::Debug for LogFollower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogFollower").field("build", &self.build).field("from", &self.from).finish_non_exhaustive()
    }
}

impl LogFollower {
    /// The next lines, waiting for them if need be; `None` when the build has ended and all its lines were given.
    ///
    /// May be dropped at any time and called again.
    ///
    /// # Errors
    /// When the log can't be read.
    pub async fn next(&mut self) -> Result<Option<Vec<LogLine>>, StoreError> {
        loop {
            // Looked at before the file: what is written after this wakes the wait below.
            let seen = *self.progress.borrow_and_update();
            let lines = self.present(seen.ended).await?;
            if !lines.is_empty() {
                return Ok(Some(lines));
            }
            if seen.ended {
                return Ok(None);
            }
            if self.progress.changed().await.is_err() {
                // The log was packed or its build found finished: what is there now is all.
                let lines = self.present(true).await?;
                return Ok((!lines.is_empty()).then_some(lines));
            }
        }
    }

    /// A page of what is there. The reads are short and of pages that were just written, so they are not worth a thread.
    async fn present(&mut self, ended: bool) -> Result<Vec<LogLine>, StoreError> {
        if self.lines.is_none() {
            self.lines = self.store.log_source(self.build).await?.map(Lines::new);
        }
        let Some(lines) = &mut self.lines else { return Ok(Vec::new()) };
        let (build, from) = (self.build, self.from);
        let mut page = lines.take(PAGE, |line| line.number >= from).map_err(|error| unreadable(build, &error))?;
        if page.is_empty() && ended {
            page.extend(lines.line().filter(|line| line.number >= from));
        }
        Ok(page)
    }
}

/// Removes what a build's directory still holds.
pub(super) fn remove_directory(directory: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::file("remove", directory, error)),
        _ => Ok(()),
    }
}
