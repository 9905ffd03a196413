//! A directory as it lies, read like a git tree: what an author checks before committing.
//!
//! Every part of a path is opened from the part before it and never through a link, so nothing outside of the root is
//! read. A content's id is the beginning of its SHA-256 sum here: it tells contents apart, and is not the id that git
//! would give.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use crate::domain::id::Oid;
use crate::domain::path::RepoPath;
use crate::domain::tree::{Entry, EntryKind, Tree, TreeError};

/// Files larger than this are told apart by size and time of change, since an image that lies about would take minutes.
const MOST_HASHED: u64 = 64 * 1024 * 1024;

/// The most entries of one directory.
const MOST_ENTRIES: usize = 500_000;

/// A directory as it lies. `.git` is not part of it, and a directory with a `.git` of its own is a submodule.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
}

impl Directory {
    /// The directory at this path of the host.
    ///
    /// # Errors
    /// When it is not there, or no directory.
    pub fn open(root: impl AsRef<Path>) -> std::io::Result<Self> {
        let root = root.as_ref();
        if !std::fs::metadata(root)?.is_dir() {
            return Err(std::io::Error::from(std::io::ErrorKind::NotADirectory));
        }
        Ok(Self { root: root.to_owned() })
    }

    /// A directory below the root; `None` where there is none.
    fn directory(&self, path: &RepoPath) -> Result<Option<OwnedFd>, TreeError> {
        let broken = |error: Errno| TreeError::Broken { path: path.clone(), why: error.to_string() };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut at = rustix::fs::open(&self.root, flags, Mode::empty()).map_err(broken)?;
        for part in path.parts() {
            at = match rustix::fs::openat(&at, part, flags | OFlags::NOFOLLOW, Mode::empty()) {
                Ok(next) if part != b".git" => next,
                Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                Err(error) => return Err(broken(error)),
            };
        }
        Ok(Some(at))
    }

    /// The entry of a name; `None` for what git does not know: sockets, devices, `.git`.
    fn look(directory: &OwnedFd, path: RepoPath) -> Result<Option<Entry>, TreeError> {
        let broken = |error: Errno| TreeError::Broken { path: path.clone(), why: error.to_string() };
        let name = path.name();
        if name == b".git" {
            return Ok(None);
        }
        let stat = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(broken(error)),
        };
        let (kind, oid) = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let kind = if stat.st_mode & 0o100 == 0 { EntryKind::File } else { EntryKind::Executable };
                (kind, Some(content_id(directory, &path, &stat)?))
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(directory, name, Vec::new()).map_err(broken)?;
                (EntryKind::Link, Some(short(Sha256::digest(target.as_bytes()).into())))
            }
            FileType::Directory => {
                let git = [name, b"/.git"].concat();
                let is_repository = rustix::fs::statat(directory, git, AtFlags::SYMLINK_NOFOLLOW).is_ok();
                (if is_repository { EntryKind::Submodule } else { EntryKind::Directory }, None)
            }
            _ => return Ok(None),
        };
        Ok(Some(Entry { name: path.name().to_vec(), kind, oid }))
    }
}

impl Tree for Directory {
    fn entry(&self, path: &RepoPath) -> Result<Option<Entry>, TreeError> {
        if path.is_root() {
            return Ok(Some(Entry { name: Vec::new(), kind: EntryKind::Directory, oid: None }));
        }
        match self.directory(&path.parent())? {
            Some(directory) => Self::look(&directory, path.clone()),
            None => Ok(None),
        }
    }

    fn list(&self, path: &RepoPath) -> Result<Vec<Entry>, TreeError> {
        let broken = |error: Errno| TreeError::Broken { path: path.clone(), why: error.to_string() };
        let Some(directory) = self.directory(path)? else { return Ok(Vec::new()) };
        let mut entries = Vec::new();
        for item in Dir::read_from(&directory).map_err(broken)? {
            let item = item.map_err(broken)?;
            let name = item.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let Some(child) = path.join(name) else { continue };
            entries.extend(Self::look(&directory, child)?);
            if entries.len() > MOST_ENTRIES {
                let why = format!("a directory has more than {MOST_ENTRIES} entries");
                return Err(TreeError::TooMuch { path: path.clone(), why });
            }
        }
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(entries)
    }

    fn read(&self, path: &RepoPath, limit: u64) -> Result<Vec<u8>, TreeError> {
        let missing = || TreeError::Missing(path.clone());
        let directory = self.directory(&path.parent())?.ok_or_else(missing)?;
        if path.name() == b".git" {
            return Err(missing());
        }
        if let Ok(target) = rustix::fs::readlinkat(&directory, path.name(), Vec::new()) {
            return Ok(target.into_bytes());
        }
        let (file, stat) = open_file(&directory, path)?;
        let too_large = || TreeError::TooLarge { path: path.clone(), limit };
        if u64::try_from(stat.st_size).unwrap_or(u64::MAX) > limit {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        let read = file.take(limit + 1).read_to_end(&mut bytes);
        read.map_err(|error| TreeError::Broken { path: path.clone(), why: error.to_string() })?;
        if bytes.len() as u64 > limit { Err(too_large()) } else { Ok(bytes) }
    }
}

/// A regular file, opened without following a link and without waiting for the other end of a pipe.
fn open_file(directory: &OwnedFd, path: &RepoPath) -> Result<(File, Stat), TreeError> {
    let broken = |error: Errno| match error {
        Errno::NOENT | Errno::LOOP | Errno::NOTDIR => TreeError::Missing(path.clone()),
        error => TreeError::Broken { path: path.clone(), why: error.to_string() },
    };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, path.name(), flags, Mode::empty()).map_err(broken)?;
    let stat = rustix::fs::fstat(file.as_fd()).map_err(broken)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(TreeError::Missing(path.clone()));
    }
    Ok((File::from(file), stat))
}

fn content_id(directory: &OwnedFd, path: &RepoPath, stat: &Stat) -> Result<Oid, TreeError> {
    if u64::try_from(stat.st_size).unwrap_or(u64::MAX) > MOST_HASHED {
        let state = format!("{} {} {}", stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
        return Ok(short(Sha256::digest(state.as_bytes()).into()));
    }
    let broken = |error: std::io::Error| TreeError::Broken { path: path.clone(), why: error.to_string() };
    let (mut file, _) = open_file(directory, path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer).map_err(broken)? {
            0 => return Ok(short(hasher.finalize().into())),
            read => hasher.update(&buffer[..read]),
        }
    }
}

fn short(sum: [u8; 32]) -> Oid {
    let mut oid = [0; 20];
    oid.copy_from_slice(&sum[..20]);
    Oid(oid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RepoPath {
        RepoPath::new(text).expect("inside")
    }

    #[test]
    fn links_are_read_as_links_and_never_followed() {
        let root = tempfile::tempdir().expect("a directory");
        let outside = tempfile::tempdir().expect("a directory");
        std::fs::write(outside.path().join("secret"), "canary").expect("written");
        std::fs::create_dir(root.path().join("a")).expect("made");
        std::fs::write(root.path().join("a/file"), "content").expect("written");
        std::os::unix::fs::symlink(outside.path(), root.path().join("way")).expect("linked");
        std::os::unix::fs::symlink("file", root.path().join("a/link")).expect("linked");
        std::fs::create_dir(root.path().join(".git")).expect("made");
        std::fs::create_dir_all(root.path().join("sub/.git")).expect("made");
        let tree = Directory::open(root.path()).expect("opened");
        let names = |at: &str| -> Vec<(String, EntryKind)> {
            let entries = tree.list(&path(at)).expect("listed");
            entries.into_iter().map(|entry| (String::from_utf8_lossy(&entry.name).into_owned(), entry.kind)).collect()
        };
        use EntryKind::{Directory as D, File as F, Link as L, Submodule as S};
        assert_eq!(names(""), [("a".into(), D), ("sub".into(), S), ("way".into(), L)]);
        assert_eq!(names("a"), [("file".into(), F), ("link".into(), L)]);
        assert_eq!(names("way"), []);
        assert_eq!(tree.read(&path("a/link"), 10), Ok(b"file".to_vec()));
        assert_eq!(tree.read(&path("way/secret"), 10), Err(TreeError::Missing(path("way/secret"))));
        assert_eq!(tree.entry(&path("way/secret")), Ok(None));
        assert_eq!(tree.entry(&path(".git/config")), Ok(None));
        assert_eq!(tree.read(&path("a/file"), 3), Err(TreeError::TooLarge { path: path("a/file"), limit: 3 }));
    }
}
