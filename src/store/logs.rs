//! Build logs: appended to while a build runs, packed into the blobs when it has ended. They are read in [`super::log_read`].
//!
//! ```text
//!   writer ──► builds/N/log ──► end: a last line says what was dropped; followers end
//!                                 └──► finish: zstd → blob → row → the plain file goes
//! ```

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Seek as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::Transaction;
use tokio::sync::watch;

use super::blobs::{Blob, Blobs};
use super::error::{Fault, StoreError};
use super::log_text::{encode, safe};
use super::shape::Col;
use super::{Store, remove_file};
use crate::domain::build::{BuildState, Moment};
use crate::domain::id::{BuildNo, Digest};
use crate::domain::pipeline::Stage;

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

/// How far a log has come, for those who follow it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Progress {
    lines: u64,
    pub(super) ended: bool,
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

    pub(super) fn plain(&self, build: BuildNo) -> PathBuf {
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

    pub(super) fn progress(&self, build: BuildNo) -> watch::Receiver<Progress> {
        self.live(build).progress.subscribe()
    }

    /// The build has ended: its followers come to their end.
    pub(super) fn end(&self, build: BuildNo) {
        // Taken out of the map first: a follower that comes later sees that the build is finished.
        let live = lock(&self.live).get(&build).cloned();
        if let Some(live) = live {
            live.end();
        }
    }

    pub(super) fn forget(&self, build: BuildNo) {
        lock(&self.live).remove(&build);
    }
}

impl Store {
    /// A writer for the log of a build that runs; it goes on where an earlier process stopped.
    pub fn log_writer(&self, build: BuildNo) -> LogWriter {
        LogWriter { live: self.inner.logs.live(build) }
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
    // Opened once: somebody else who packs it too, such as a collection, may take it away meanwhile.
    let mut plain = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let (lines, ..) = count(&plain).map_err(failed)?;
    plain.rewind().map_err(failed)?;
    let mut encoder = zstd::Encoder::new(blobs.writer()?, 0).map_err(failed)?;
    encoder.include_checksum(true).map_err(failed)?;
    io::copy(&mut plain, &mut encoder).map_err(failed)?;
    let blob = encoder.finish().map_err(failed)?.finish()?;
    Ok(Some((blob, lines)))
}

/// Removes what a build's directory still holds.
pub(super) fn remove_directory(directory: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::file("remove", directory, error)),
        _ => Ok(()),
    }
}
