//! Files kept by the sum of their content.
//!
//! Writing: a temporary file, hashed while it is written, fsync, rename, fsync of the directory; only then may a row
//! refer to it. A [`Blob`] that is held keeps its file from garbage collection until that row is there. Reading checks
//! the sum before the last bytes are given out, so that nothing wrong is delivered as right.

use std::collections::{HashMap, HashSet};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest as _, Sha256};

use super::error::StoreError;
use super::health::Health;
use super::{remove_file, sync_directory};
use crate::domain::id::Digest;

/// Bytes that are read at once, and that [`VerifiedReader`] holds back until the sum is known to be right.
const CHUNK: usize = 128 * 1024;

/// The content-addressed files of a store. Its calls block.
#[derive(Clone, Debug)]
pub struct Blobs {
    root: PathBuf,
    health: Arc<Health>,
    holds: Arc<Mutex<Holds>>,
    /// Makes the names of temporary files differ.
    next: Arc<AtomicU64>,
}

/// Which files garbage collection must leave alone, whatever the rows say.
#[derive(Debug, Default)]
struct Holds {
    /// Held by a [`Blob`], so many times.
    held: HashMap<Digest, usize>,
    /// Stored since the sweep that is under way began: its list of rows may be older than theirs.
    since_sweep: Option<HashSet<Digest>>,
}

/// A stored file. While a clone of it lives, garbage collection leaves the file alone.
#[derive(Clone, Debug)]
pub struct Blob {
    /// The sum of its bytes.
    pub sha256: Digest,
    /// Its size in bytes.
    pub size: u64,
    _hold: Arc<Hold>,
}

/// What the directory of the blobs holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlobList {
    /// The blobs with their sizes in bytes, sorted by sum.
    pub blobs: Vec<(Digest, u64)>,
    /// What does not belong there.
    pub strangers: Vec<PathBuf>,
}

#[derive(Debug)]
struct Hold {
    sha256: Digest,
    holds: Arc<Mutex<Holds>>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut holds = lock(&self.holds);
        if let Some(count) = holds.held.get_mut(&self.sha256) {
            *count -= 1;
            if *count == 0 {
                holds.held.remove(&self.sha256);
            }
        }
    }
}

/// No code panics while it holds this lock, and the maps are whole after every line.
fn lock(holds: &Mutex<Holds>) -> MutexGuard<'_, Holds> {
    holds.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Blobs {
    /// Opens the directory and clears away what a process left half written.
    pub(super) fn open(root: PathBuf, health: Arc<Health>) -> Result<Self, StoreError> {
        let temporary = root.join("tmp");
        if temporary.exists() {
            fs::remove_dir_all(&temporary).map_err(|source| StoreError::file("clear", &temporary, source))?;
        }
        for directory in [&temporary, &root.join("sha256")] {
            make_directory(directory)?;
        }
        Ok(Self { root, health, holds: Arc::default(), next: Arc::default() })
    }

    /// Stores what a reader gives, up to `limit` bytes.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] beyond the limit; nothing is left then.
    pub fn put(&self, mut reader: impl Read, limit: u64) -> Result<Blob, StoreError> {
        let mut writer = self.writer()?;
        let copied = io::copy(&mut (&mut reader).take(limit.saturating_add(1)), &mut writer)
            .map_err(|source| StoreError::file("write", &writer.path, source))?;
        if copied > limit {
            return Err(StoreError::TooLarge { limit });
        }
        writer.finish()
    }

    /// Stores a regular file, up to `limit` bytes; a link is refused.
    ///
    /// # Errors
    /// When it can't be read, is no regular file or is larger.
    pub fn put_file(&self, path: &Path, limit: u64) -> Result<Blob, StoreError> {
        let failed = |source| StoreError::file("open", path, source);
        // Without waiting for a writer, should it be a pipe.
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let flags = i32::try_from(flags.bits()).map_err(|error| failed(io::Error::other(error)))?;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(failed)?;
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")));
        }
        self.put(file, limit)
    }

    /// A file under way, for those who write rather than are read from.
    ///
    /// # Errors
    /// When the store is broken or there is no room.
    pub fn writer(&self) -> Result<BlobWriter, StoreError> {
        self.health.check()?;
        let name = format!("{}-{}", std::process::id(), self.next.fetch_add(1, Ordering::Relaxed));
        let path = self.root.join("tmp").join(name);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o640)
            .open(&path)
            .map_err(|source| StoreError::file("make", &path, source))?;
        Ok(BlobWriter { blobs: self.clone(), path, file, hasher: Sha256::new(), size: 0 })
    }

    /// Whether a file is there; its content is not looked at.
    pub fn has(&self, sha256: Digest) -> bool {
        self.path(sha256).is_file()
    }

    /// The size of a file in bytes; `None` where it is not there.
    pub fn size(&self, sha256: Digest) -> Option<u64> {
        fs::metadata(self.path(sha256)).ok().map(|metadata| metadata.len())
    }

    /// Opens a file. The reader fails before its last bytes where the sum differs.
    ///
    /// # Errors
    /// [`StoreError::NoSuch`] where it is not there.
    pub fn open_verified(&self, sha256: Digest) -> Result<VerifiedReader, StoreError> {
        let file = self.open_plain(sha256)?;
        Ok(VerifiedReader { sha256, file, hasher: Sha256::new(), ready: Vec::new(), given: 0, next: None, done: false })
    }

    /// Copies a file to a writer; gives its size in bytes. After an error the writer has got less than the whole.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] where the sum differs.
    pub fn copy(&self, sha256: Digest, mut to: impl Write) -> Result<u64, StoreError> {
        let mut reader = self.open_verified(sha256)?;
        io::copy(&mut reader, &mut to).map_err(|source| match source.kind() {
            io::ErrorKind::InvalidData => StoreError::damaged(format!("the blob {sha256}"), source),
            _ => StoreError::file("copy", &self.path(sha256), source),
        })
    }

    /// Removes a file that no row refers to any more. That it is gone already is success.
    ///
    /// # Errors
    /// When it can't be removed.
    pub fn remove(&self, sha256: Digest) -> Result<(), StoreError> {
        remove_file(&self.path(sha256))
    }

    /// All that is there.
    ///
    /// # Errors
    /// When a directory can't be read.
    pub fn list(&self) -> Result<BlobList, StoreError> {
        let BlobList { mut blobs, mut strangers } = BlobList::default();
        for directory in entries(&self.root.join("sha256"))? {
            if !directory.is_dir() {
                strangers.push(directory);
                continue;
            }
            for path in entries(&directory)? {
                let sha256 = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
                match sha256.filter(|sha256| self.path(*sha256) == path) {
                    Some(sha256) => blobs.push((sha256, self.size(sha256).unwrap_or(0))),
                    None => strangers.push(path),
                }
            }
        }
        blobs.sort_unstable();
        Ok(BlobList { blobs, strangers })
    }

    /// From now on, what is stored is remembered, so that [`Blobs::sweep`] leaves it alone. To be called before the rows
    /// are read.
    pub(super) fn begin_sweep(&self) {
        lock(&self.holds).since_sweep = Some(HashSet::new());
    }

    /// Removes every file that is not in `keep`, not held and not stored since the sweep began; gives what it removed.
    pub(super) fn sweep(&self, keep: &HashSet<Digest>) -> Result<Vec<(Digest, u64)>, StoreError> {
        let mut freed = Vec::new();
        for (sha256, size) in self.list()?.blobs.into_iter().filter(|(sha256, _)| !keep.contains(sha256)) {
            let holds = lock(&self.holds);
            let stored_since = holds.since_sweep.as_ref().is_none_or(|since| since.contains(&sha256));
            if !stored_since && !holds.held.contains_key(&sha256) {
                self.remove(sha256)?;
                freed.push((sha256, size));
            }
        }
        lock(&self.holds).since_sweep = None;
        Ok(freed)
    }

    /// Where a file lies.
    pub(super) fn path(&self, sha256: Digest) -> PathBuf {
        let hex = sha256.hex();
        self.root.join("sha256").join(&hex[..2]).join(hex)
    }

    pub(super) fn open_plain(&self, sha256: Digest) -> Result<File, StoreError> {
        let path = self.path(sha256);
        File::open(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => StoreError::no_such(format!("blob {sha256}")),
            _ => StoreError::file("open", &path, source),
        })
    }
}

fn make_directory(directory: &Path) -> Result<(), StoreError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(directory)
        .map_err(|source| StoreError::file("make", directory, source))
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let failed = |source| StoreError::file("list", directory, source);
    fs::read_dir(directory).map_err(failed)?.map(|entry| entry.map(|entry| entry.path()).map_err(failed)).collect()
}

/// A file on its way into the blobs. Dropped before [`BlobWriter::finish`], it leaves nothing.
#[derive(Debug)]
pub struct BlobWriter {
    blobs: Blobs,
    path: PathBuf,
    file: File,
    hasher: Sha256,
    size: u64,
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl BlobWriter {
    /// Makes it durable under its sum. One that is there already is replaced by the same bytes, which heals damage.
    ///
    /// # Errors
    /// A failed fsync breaks the store.
    pub fn finish(self) -> Result<Blob, StoreError> {
        let health = &self.blobs.health;
        health.check()?;
        self.file.sync_all().map_err(|source| health.fsync_failed(&self.path, source))?;
        let sha256 = Digest(self.hasher.clone().finalize().into());
        let target = self.blobs.path(sha256);
        let directory = target.parent().unwrap_or(&self.blobs.root);
        if !directory.exists() {
            make_directory(directory)?;
            sync_directory(&self.blobs.root.join("sha256"), health)?;
        }
        // Held before it has its name: a sweep finds it held or does not find it.
        let hold = self.hold(sha256);
        fs::rename(&self.path, &target).map_err(|source| StoreError::file("rename", &self.path, source))?;
        sync_directory(directory, health)?;
        Ok(Blob { sha256, size: self.size, _hold: Arc::new(hold) })
    }

    fn hold(&self, sha256: Digest) -> Hold {
        let mut holds = lock(&self.blobs.holds);
        *holds.held.entry(sha256).or_default() += 1;
        if let Some(since) = &mut holds.since_sweep {
            since.insert(sha256);
        }
        Hold { sha256, holds: Arc::clone(&self.blobs.holds) }
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        // After `finish` the name is gone. What can't be removed now is cleared at the next open.
        let _ = fs::remove_file(&self.path);
    }
}

/// Reads a blob, always one chunk behind: the last one is given out only when the sum of the whole is right.
#[derive(Debug)]
pub struct VerifiedReader {
    sha256: Digest,
    file: File,
    hasher: Sha256,
    /// Checked as far as can be; given out up to `given`.
    ready: Vec<u8>,
    given: usize,
    /// The chunk behind: `None` before the first.
    next: Option<Vec<u8>>,
    done: bool,
}

impl VerifiedReader {
    fn chunk(&mut self) -> io::Result<Vec<u8>> {
        let mut chunk = Vec::with_capacity(CHUNK);
        (&mut self.file).take(CHUNK as u64).read_to_end(&mut chunk)?;
        self.hasher.update(&chunk);
        Ok(chunk)
    }

    fn advance(&mut self) -> io::Result<()> {
        let current = match self.next.take() {
            Some(chunk) => chunk,
            None => self.chunk()?,
        };
        let following = self.chunk()?;
        if following.is_empty() {
            let found = Digest(self.hasher.clone().finalize().into());
            if found != self.sha256 {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("its bytes now sum to {found}")));
            }
            self.done = true;
        }
        self.next = Some(following);
        (self.ready, self.given) = (current, 0);
        Ok(())
    }
}

impl Read for VerifiedReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.given == self.ready.len() && !self.done {
            self.advance()?;
        }
        let count = into.len().min(self.ready.len() - self.given);
        into[..count].copy_from_slice(&self.ready[self.given..self.given + count]);
        self.given += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blobs() -> (tempfile::TempDir, Blobs) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let health = Arc::new(Health::new(directory.path().join("marker")));
        let blobs = Blobs::open(directory.path().join("blobs"), health).expect("opens");
        (directory, blobs)
    }

    fn read(blobs: &Blobs, sha256: Digest) -> (Vec<u8>, Result<u64, StoreError>) {
        let mut got = Vec::new();
        let end = blobs.copy(sha256, &mut got);
        (got, end)
    }

    #[test]
    fn what_is_stored_is_read_back_whatever_its_size() {
        let (_directory, blobs) = blobs();
        for size in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK] {
            let bytes: Vec<u8> = (0..size).map(|n| u8::try_from(n % 251).unwrap_or(0)).collect();
            let blob = blobs.put(bytes.as_slice(), u64::MAX).expect("stored");
            assert_eq!(blob.sha256, Digest::of(&bytes));
            assert_eq!(blobs.size(blob.sha256), Some(size as u64));
            let (got, end) = read(&blobs, blob.sha256);
            assert_eq!((got, end.expect("right")), (bytes, size as u64));
        }
    }

    #[test]
    fn a_flipped_byte_is_never_delivered_as_the_whole() {
        let (_directory, blobs) = blobs();
        for size in [1, CHUNK, 2 * CHUNK + 5] {
            let blob = blobs.put(vec![7; size].as_slice(), u64::MAX).expect("stored");
            let mut bytes = vec![7; size];
            bytes[0] = 8;
            fs::write(blobs.path(blob.sha256), &bytes).expect("damaged");
            let (got, end) = read(&blobs, blob.sha256);
            assert!(matches!(end, Err(StoreError::Damaged { .. })), "{end:?}");
            assert!(got.len() < size, "the end is held back");
            // Storing the same again heals it.
            blobs.put(vec![7; size].as_slice(), u64::MAX).expect("stored again");
            assert!(read(&blobs, blob.sha256).1.is_ok());
        }
    }

    #[test]
    fn what_is_too_large_a_link_or_half_written_leaves_nothing() {
        let (directory, blobs) = blobs();
        assert!(matches!(blobs.put([0; 11].as_slice(), 10), Err(StoreError::TooLarge { limit: 10 })));
        let (file, link) = (directory.path().join("file"), directory.path().join("link"));
        fs::write(&file, "x").expect("written");
        std::os::unix::fs::symlink(&file, &link).expect("linked");
        assert!(blobs.put_file(&link, 10).is_err());
        assert!(blobs.put_file(directory.path(), 10).is_err());
        let mut half = blobs.writer().expect("a writer");
        half.write_all(b"half").expect("written");
        drop(half);
        assert_eq!(blobs.list().expect("listed"), BlobList::default());
        assert_eq!(fs::read_dir(directory.path().join("blobs/tmp")).expect("there").count(), 0);
        assert!(blobs.put_file(&file, 10).is_ok());
    }

    #[test]
    fn a_sweep_spares_what_is_kept_held_or_stored_meanwhile() {
        let (_directory, blobs) = blobs();
        let stored = |text: &str| blobs.put(text.as_bytes(), 100).expect("stored");
        let kept = stored("kept").sha256;
        let gone = stored("gone").sha256;
        let held = stored("held");
        blobs.begin_sweep();
        let again = stored("stored while the sweep went on").sha256;
        let freed = blobs.sweep(&HashSet::from([kept])).expect("swept");
        assert_eq!(freed, [(gone, 4)]);
        assert!(blobs.has(kept) && blobs.has(held.sha256) && blobs.has(again));
    }
}
