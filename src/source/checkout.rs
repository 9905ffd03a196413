//! Writes files of a commit into a directory, and never one byte outside of it.
//!
//! This is no `git checkout`: no attributes, no filters, no line ends, no hooks, no submodules. Every name is opened in
//! the directory before it, and no link is followed, so neither a name in a hand-made tree nor a link written a moment
//! ago leads out. The limits keep a push of a few kilobytes from filling the disk or the memory.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, fchmod, mkdirat, openat, symlinkat};
use rustix::io::Errno;

use super::trees::GitTree;
use crate::domain::path::RepoPath;
use crate::domain::tree::{Entry, EntryKind, Tree as _, TreeError};
use crate::engine::ports::PortError;

/// The largest file: it is held in memory twice while git unpacks it, and the daemon is to stay below 200 MB.
const FILE_BYTES: u64 = 64 << 20;
/// The largest checkout.
const CHECKOUT_BYTES: u64 = 2 << 30;
/// The longest link: Linux takes no more.
const LINK_BYTES: u64 = 4095;

/// Writes some paths of a tree below a directory: a file, a link, or a directory with all that is in it.
pub(super) fn write(tree: &GitTree, paths: &[RepoPath], into: &Path) -> Result<(), PortError> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let top = openat(CWD, into, flags, Mode::empty())
        .map_err(|error| PortError::unavailable(format!("{} can't be opened: {}", into.display(), os(error))))?;
    let mut writer = Writer { tree, top, bytes: 0 };
    outermost(paths).into_iter().try_for_each(|path| writer.path(path))
}

/// The paths without those that another of them already holds.
fn outermost(paths: &[RepoPath]) -> BTreeSet<&RepoPath> {
    let all: BTreeSet<&RepoPath> = paths.iter().collect();
    let inside = |path: &RepoPath| {
        let mut at = path.clone();
        while !at.is_root() {
            at = at.parent();
            if all.contains(&at) {
                return true;
            }
        }
        false
    };
    all.iter().copied().filter(|path| !inside(path)).collect()
}

struct Writer<'t> {
    tree: &'t GitTree,
    top: OwnedFd,
    bytes: u64,
}

impl Writer<'_> {
    fn path(&mut self, path: &RepoPath) -> Result<(), PortError> {
        let entry = self.tree.entry(path).map_err(unreadable)?;
        let entry = entry.ok_or_else(|| PortError::failed(format!("{path} is not in the commit")))?;
        let mut at = self.top.try_clone().map_err(|error| unwritable(path, error))?;
        if path.is_root() {
            return self.children(path, at.as_fd());
        }
        for part in path.parent().parts() {
            refuse_name(path, part)?;
            at = directory(at.as_fd(), part).map_err(|error| unwritable(path, os(error)))?;
        }
        self.entry(path, &entry, at.as_fd())
    }

    fn children(&mut self, path: &RepoPath, at: BorrowedFd<'_>) -> Result<(), PortError> {
        for entry in self.tree.list(path).map_err(unreadable)? {
            let child = path.join(&entry.name).ok_or_else(|| refused(path, &entry.name))?;
            self.entry(&child, &entry, at)?;
        }
        Ok(())
    }

    /// Writes an entry into the directory `at`, which is the one that `path` lies in.
    fn entry(&mut self, path: &RepoPath, entry: &Entry, at: BorrowedFd<'_>) -> Result<(), PortError> {
        refuse_name(path, &entry.name)?;
        match entry.kind {
            EntryKind::Submodule => Ok(()),
            EntryKind::Directory => {
                let below = directory(at, &entry.name).map_err(|error| unwritable(path, os(error)))?;
                self.children(path, below.as_fd())
            }
            EntryKind::Link => self.link(path, &entry.name, at),
            EntryKind::File => self.file(path, &entry.name, at, Mode::from_raw_mode(0o644)),
            EntryKind::Executable => self.file(path, &entry.name, at, Mode::from_raw_mode(0o755)),
        }
    }

    fn file(&mut self, path: &RepoPath, name: &[u8], at: BorrowedFd<'_>, mode: Mode) -> Result<(), PortError> {
        let bytes = self.tree.read(path, FILE_BYTES).map_err(unreadable)?;
        self.bytes += bytes.len() as u64;
        if self.bytes > CHECKOUT_BYTES {
            let message = format!("{path}: the checkout is larger than {} GiB", CHECKOUT_BYTES >> 30);
            return Err(PortError::refused(message).help("keep large files outside the repository"));
        }
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(at, OsStr::from_bytes(name), flags, mode).map_err(|error| unwritable(path, os(error)))?;
        // Past the umask: the mode is part of the inputs.
        fchmod(&file, mode).map_err(|error| unwritable(path, os(error)))?;
        File::from(file).write_all(&bytes).map_err(|error| unwritable(path, error))
    }

    fn link(&self, path: &RepoPath, name: &[u8], at: BorrowedFd<'_>) -> Result<(), PortError> {
        let target = self.tree.read(path, LINK_BYTES).map_err(unreadable)?;
        if target.is_empty() || target.contains(&0) || !self.stays_beneath(path, &target)? {
            return Ok(());
        }
        symlinkat(OsStr::from_bytes(&target), at, OsStr::from_bytes(name)).map_err(|error| unwritable(path, os(error)))
    }

    /// Whether a link ends beneath the top, whatever other links its target goes through.
    ///
    /// Going down is safe: what is met there is a directory of the commit, or a link that was judged in the same way. Going up
    /// is only as safe as the directory it starts from, so that one has to be a directory of the commit itself.
    fn stays_beneath(&self, path: &RepoPath, target: &[u8]) -> Result<bool, PortError> {
        if target.starts_with(b"/") {
            return Ok(false);
        }
        let mut at = path.parent();
        for part in target.split(|byte| *byte == b'/') {
            if part == b".." {
                let entry = self.tree.entry(&at).map_err(unreadable)?;
                if at.is_root() || entry.is_none_or(|entry| entry.kind != EntryKind::Directory) {
                    return Ok(false);
                }
            }
            let Some(next) = at.join(part) else { return Ok(false) };
            at = next;
        }
        Ok(true)
    }
}

/// Opens a directory in another one, making it if it is not there; a link in its place is an error.
fn directory(at: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let (name, mode) = (OsStr::from_bytes(name), Mode::from_raw_mode(0o755));
    let made = match mkdirat(at, name, mode) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(error) => return Err(error),
    };
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    let opened = openat(at, name, flags, Mode::empty())?;
    if made {
        fchmod(&opened, mode)?;
    }
    Ok(opened)
}

/// Names that git never checks out either. A `.git` that we wrote would be taken for a repository by the next git that
/// runs in the checkout, with hooks of the pusher's choice.
fn refuse_name(path: &RepoPath, name: &[u8]) -> Result<(), PortError> {
    let bad = matches!(name, b"" | b"." | b"..") || name.eq_ignore_ascii_case(b".git");
    if bad || name.iter().any(|byte| matches!(byte, 0 | b'/')) { Err(refused(path, name)) } else { Ok(()) }
}

fn refused(path: &RepoPath, name: &[u8]) -> PortError {
    let name = String::from_utf8_lossy(name);
    PortError::refused(format!("{path}: {name:?} is no name that a commit may bring"))
        .help("remove the entry from the commit; no ordinary git command makes one")
}

fn unreadable(error: TreeError) -> PortError {
    match error {
        TreeError::TooLarge { .. } => {
            PortError::refused(error.to_string()).help("keep large files outside the repository")
        }
        TreeError::Missing(_) | TreeError::TooMuch { .. } | TreeError::Broken { .. } => {
            PortError::failed(error.to_string())
        }
    }
}

fn unwritable(path: &RepoPath, error: io::Error) -> PortError {
    PortError::unavailable(format!("{path} can't be written: {error}"))
}

fn os(error: Errno) -> io::Error {
    error.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(texts: &[&str]) -> Vec<RepoPath> {
        texts.iter().map(|text| RepoPath::new(text).expect("a path")).collect()
    }

    #[test]
    fn a_path_inside_another_is_written_once() {
        let asked = paths(&["a/b", "a", "a-b", "c/d", "c/d"]);
        let written: Vec<String> = outermost(&asked).into_iter().map(ToString::to_string).collect();
        assert_eq!(written, ["a", "a-b", "c/d"]);
        assert_eq!(outermost(&paths(&["", "a"])).len(), 1);
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let path = RepoPath::root();
        for name in [&b".."[..], b".", b"", b".git", b".GIT", b"a/b", b"a\0b"] {
            assert!(refuse_name(&path, name).is_err(), "{name:?}");
        }
        assert!(refuse_name(&path, b".gitignore").is_ok());
    }
}
