//! Reading build logs: from front to back in one pass, page after page, and on behind a build that still writes.
//!
//! A page is bounded by its bytes and read on a thread that may block: a packed log has to be unpacked up to the first line
//! that is wanted, however far that is.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read as _, Write as _};
use std::path::PathBuf;

use rusqlite::{Connection, OptionalExtension as _};
use tokio::sync::watch;

pub use super::log_text::LogLine;

use super::Store;
use super::blobs::{Blob, Blobs};
use super::error::{Fault, StoreError};
use super::log_text::decode;
use super::logs::Progress;
use super::shape::Col;
use crate::blocking;
use crate::domain::id::{BuildNo, Digest};
use crate::domain::pipeline::Stage;

/// Bytes of text after which a page is full; it has at most one line more.
const PAGE_BYTES: usize = 64 * 1024;
/// What a line takes besides its text, so that pages of short lines end too.
const LINE_BYTES: usize = 64;
/// More than any line has; a file without line ends is not read into memory as one.
const LONGEST: u64 = 1024 * 1024;

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

impl Store {
    /// Lines of a build's log, whether it still grows or is packed away. Each call reads the log from its beginning: whoever
    /// wants all of it asks for [`Store::log_pages`].
    ///
    /// # Errors
    /// When it can't be read. A build without a log has no lines.
    pub async fn read_log(&self, build: BuildNo, page: LogPage) -> Result<Vec<LogLine>, StoreError> {
        let mut pages = self.log_pages(build, page.from, page.stage);
        let mut lines = Vec::new();
        while lines.len() < page.limit
            && let Some(more) = pages.next().await?
        {
            lines.extend(more);
        }
        lines.truncate(page.limit);
        Ok(lines)
    }

    /// The lines of a build's log from one on, only those of a stage if one is named, page after page in one pass.
    pub fn log_pages(&self, build: BuildNo, from: u64, stage: Option<Stage>) -> LogPages {
        LogPages { store: self.clone(), build, from, stage, lines: None }
    }

    /// Follows a build's log from a line on: what is there, and what comes until the build ends.
    ///
    /// # Errors
    /// When there is no such build.
    pub async fn follow_log(&self, build: BuildNo, from: u64, stage: Option<Stage>) -> Result<LogFollower, StoreError> {
        // Subscribed before the build is looked at, so that its end is not missed in between.
        let progress = self.inner.logs.progress(build);
        let found = self.end_log_if_finished(build).await;
        if !matches!(found, Ok(false)) {
            self.inner.logs.forget(build);
        }
        found?;
        Ok(LogFollower { pages: self.log_pages(build, from, stage), progress })
    }

    /// Stores a build's log as text, each line as `text` writes it. One line is in memory at a time.
    ///
    /// # Errors
    /// When the log can't be read or there is no room.
    pub async fn store_log_text(&self, build: BuildNo, text: fn(&LogLine) -> String) -> Result<Blob, StoreError> {
        let (source, blobs) = (self.log_source(build).await?, self.blobs().clone());
        blocking::run(move || store_text(build, source, &blobs, text)).await
    }

    /// The plain file, else the packed one. The file goes only when the row is there, so one of them is found.
    async fn log_source(&self, build: BuildNo) -> Result<Option<Source>, StoreError> {
        let path = self.inner.logs.plain(build);
        if let Some(file) = blocking::run(move || open_plain(&path)).await? {
            return Ok(Some(Source::Plain(BufReader::new(file))));
        }
        let packed = self.db().read("look for a log", move |tx| packed(tx, build)).await?;
        let Some(sha256) = packed else { return Ok(None) };
        let blobs = self.blobs().clone();
        blocking::run(move || {
            let decoder = zstd::Decoder::new(blobs.open_plain(sha256)?).map_err(|error| unreadable(build, &error))?;
            Ok(Some(Source::Packed(BufReader::new(decoder))))
        })
        .await
    }
}

fn open_plain(path: &PathBuf) -> Result<Option<File>, StoreError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::file("open", path, error)),
    }
}

fn packed(connection: &Connection, build: BuildNo) -> Result<Option<Digest>, Fault> {
    let found = connection
        .prepare_cached("SELECT sha256 FROM log WHERE build = ?1")?
        .query_row([Col(build)], |row| row.get::<_, Col<Digest>>(0))
        .optional()?;
    Ok(found.map(|sha256| sha256.0))
}

fn store_text(
    build: BuildNo,
    source: Option<Source>,
    blobs: &Blobs,
    text: fn(&LogLine) -> String,
) -> Result<Blob, StoreError> {
    let mut to = BufWriter::with_capacity(PAGE_BYTES, blobs.writer()?);
    let mut lines = source.map(Lines::new);
    while let Some(lines) = &mut lines
        && lines.advance().map_err(|error| unreadable(build, &error))?
    {
        let line = lines.line().map(|line| text(&line)).unwrap_or_default();
        to.write_all(line.as_bytes()).map_err(|source| unwritable(build, source))?;
    }
    to.into_inner().map_err(|error| unwritable(build, error.into_error()))?.finish()
}

fn unreadable(build: BuildNo, error: &io::Error) -> StoreError {
    StoreError::damaged(format!("the log of build {build}"), error)
}

fn unwritable(build: BuildNo, source: io::Error) -> StoreError {
    StoreError::file("write", &PathBuf::from(format!("the log of build {build}")), source)
}

/// Where lines come from.
enum Source {
    Plain(BufReader<File>),
    Packed(BufReader<zstd::Decoder<'static, BufReader<File>>>),
}

/// Lines of a file that may still grow.
struct Lines {
    source: Source,
    /// How many lines were read whole.
    number: u64,
    partial: Vec<u8>,
    /// Whether `partial` is the line that was read last, and was counted.
    whole: bool,
}

impl Lines {
    fn new(source: Source) -> Self {
        Self { source, number: 0, partial: Vec::new(), whole: false }
    }

    /// Reads on to the end of the next line; whether there was one. A last line without its end is left for later.
    fn advance(&mut self) -> io::Result<bool> {
        if std::mem::take(&mut self.whole) {
            self.partial.clear();
        }
        let room = LONGEST.saturating_sub(self.partial.len() as u64);
        let read = match &mut self.source {
            Source::Plain(reader) => reader.take(room).read_until(b'\n', &mut self.partial)?,
            Source::Packed(reader) => reader.take(room).read_until(b'\n', &mut self.partial)?,
        };
        let whole = self.partial.last() == Some(&b'\n') || self.partial.len() as u64 >= LONGEST;
        self.whole = read > 0 && whole;
        self.number += u64::from(self.whole);
        Ok(self.whole)
    }

    /// A page of what is there from a line on; empty at the present end.
    fn page(&mut self, from: u64, stage: Option<Stage>) -> io::Result<Vec<LogLine>> {
        let (mut lines, mut bytes) = (Vec::new(), 0);
        while bytes < PAGE_BYTES && self.advance()? {
            if self.number < from {
                continue;
            }
            let line = self.line().filter(|line| stage.is_none() || line.stage == stage);
            bytes += line.as_ref().map_or(0, |line| line.text.len() + LINE_BYTES);
            lines.extend(line);
        }
        Ok(lines)
    }

    /// What is left after the last whole line, as a line: nothing comes after it any more.
    fn rest(&mut self) -> Option<LogLine> {
        if self.whole || self.partial.is_empty() {
            return None;
        }
        (self.whole, self.number) = (true, self.number + 1);
        self.line()
    }

    /// The line that was read last.
    fn line(&self) -> Option<LogLine> {
        self.whole.then(|| decode(self.number, &self.partial))
    }
}

/// The lines of a log, page after page; made by [`Store::log_pages`].
pub struct LogPages {
    store: Store,
    build: BuildNo,
    /// The first line that was not given yet.
    from: u64,
    stage: Option<Stage>,
    /// Where the last page ended. Away while a page is read: whoever drops that, makes the next one begin at the front.
    lines: Option<Lines>,
}

impl std::fmt::Debug for LogPages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogPages").field("build", &self.build).field("from", &self.from).finish_non_exhaustive()
    }
}

impl LogPages {
    /// The next lines; `None` at the present end. May be dropped at any time and called again.
    ///
    /// # Errors
    /// When the log can't be read.
    pub async fn next(&mut self) -> Result<Option<Vec<LogLine>>, StoreError> {
        self.read(Lines::page).await
    }

    /// What is left without its line's end, once nothing more comes.
    async fn rest(&mut self) -> Result<Option<Vec<LogLine>>, StoreError> {
        let rest = |lines: &mut Lines, from, stage: Option<Stage>| {
            let line = lines.rest().filter(|line| line.number >= from && (stage.is_none() || line.stage == stage));
            Ok(line.into_iter().collect())
        };
        self.read(rest).await
    }

    async fn read(
        &mut self,
        page: impl FnOnce(&mut Lines, u64, Option<Stage>) -> io::Result<Vec<LogLine>> + Send + 'static,
    ) -> Result<Option<Vec<LogLine>>, StoreError> {
        let lines = match self.lines.take() {
            Some(lines) => Some(lines),
            None => self.store.log_source(self.build).await?.map(Lines::new),
        };
        let Some(mut lines) = lines else { return Ok(None) };
        let (build, from, stage) = (self.build, self.from, self.stage);
        let (lines, page) = blocking::run(move || {
            let page = page(&mut lines, from, stage);
            (lines, page)
        })
        .await;
        let page = page.map_err(|error| unreadable(build, &error))?;
        self.from = self.from.max(lines.number + 1);
        self.lines = Some(lines);
        Ok((!page.is_empty()).then_some(page))
    }
}

/// Follows a log; made by [`Store::follow_log`].
#[derive(Debug)]
pub struct LogFollower {
    pages: LogPages,
    progress: watch::Receiver<Progress>,
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
            if let Some(lines) = self.pages.next().await? {
                return Ok(Some(lines));
            }
            if seen.ended {
                return self.pages.rest().await;
            }
            if self.progress.changed().await.is_err() {
                // The log was packed or its build found finished: what is there now is all.
                return match self.pages.next().await? {
                    Some(lines) => Ok(Some(lines)),
                    None => self.pages.rest().await,
                };
            }
        }
    }
}
