//! The private copies that sandboxed programs may spoil: `scratch/BUILD/COUNT/` with the checkout in `src`, what the
//! program needs to know in `run` and, where there is no sandbox, its temporary files in `tmp`.
//!
//! What a program left is removed without trusting it: no recursion that a deep tree could exhaust, no link followed,
//! directories without permissions opened up first.

use std::ffi::{CString, OsStr};
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, chmodat, openat, renameat, statat, unlinkat};

use crate::domain::id::BuildNo;
use crate::domain::path::RepoPath;

/// The user and group that files are given to; `None` leaves them to the daemon's own.
pub(crate) type Owner = Option<(u32, u32)>;

/// The directory of one job.
#[derive(Clone, Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
    owner: Owner,
}

impl Scratch {
    /// Makes a new directory for a build, with the empty directories of a job in it.
    ///
    /// # Errors
    /// When a directory can't be made.
    pub(crate) fn create(root: &Path, build: BuildNo, owner: Owner) -> io::Result<Self> {
        let parent = root.join(build.0.to_string());
        fs::create_dir_all(&parent)?;
        let path = first_free(&parent)?;
        let scratch = Self { path, owner };
        scratch.give(&scratch.path)?;
        for name in ["src", "run", "tmp"] {
            fs::DirBuilder::new().mode(0o700).create(scratch.path.join(name))?;
            scratch.give(&scratch.path.join(name))?;
        }
        Ok(scratch)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it belongs to another user than the daemon.
    pub(crate) fn is_given_away(&self) -> bool {
        self.owner.is_some()
    }

    /// Writes one of the files in `run`, which only the program's user can read.
    ///
    /// # Errors
    /// When it can't be written.
    pub(crate) fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let path = self.path.join("run").join(name);
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(content)?;
        self.give(&path)
    }

    /// Makes a directory below `src`, and those above it.
    ///
    /// # Errors
    /// When it can't be made.
    pub(crate) fn make(&self, directory: &RepoPath) -> io::Result<()> {
        let mut at = self.path.join("src");
        for part in directory.parts() {
            at.push(OsStr::from_bytes(part));
            match fs::DirBuilder::new().mode(0o700).create(&at) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made.and_then(|()| self.give(&at))?,
            }
        }
        Ok(())
    }

    /// Writes a file below `src`.
    ///
    /// # Errors
    /// When it can't be written.
    pub(crate) fn put(&self, file: &RepoPath, content: &[u8]) -> io::Result<()> {
        self.make(&file.parent())?;
        let path = self.path.join("src").join(OsStr::from_bytes(file.as_bytes()));
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(content)?;
        self.give(&path)
    }

    /// Makes a path the program's own.
    ///
    /// # Errors
    /// When the daemon may not.
    pub(crate) fn give(&self, path: &Path) -> io::Result<()> {
        self.owner.map_or(Ok(()), |(user, group)| lchown(path, Some(user), Some(group)))
    }

    /// Copies a checkout into `src`: files with their executable bit, links as links. `stop` is asked before each
    /// entry and ends the copy.
    ///
    /// # Errors
    /// When a file can't be copied, when there is something that is neither file, directory nor link, or when stopped.
    pub(crate) fn copy_checkout(&self, checkout: &Path, stop: &dyn Fn() -> bool) -> io::Result<()> {
        let mut todo = vec![PathBuf::new()];
        while let Some(directory) = todo.pop() {
            for entry in fs::read_dir(checkout.join(&directory))? {
                if stop() {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                let entry = entry?;
                let below = directory.join(entry.file_name());
                self.copy_entry(&entry, &self.path.join("src").join(&below))
                    .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", below.display())))?;
                if entry.file_type()?.is_dir() {
                    todo.push(below);
                }
            }
        }
        Ok(())
    }

    fn copy_entry(&self, entry: &fs::DirEntry, to: &Path) -> io::Result<()> {
        let kind = entry.file_type()?;
        if kind.is_dir() {
            fs::create_dir(to)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(entry.path())?, to)?;
            return self.give(to);
        } else if kind.is_file() {
            fs::copy(entry.path(), to)?;
        } else {
            return Err(io::Error::other("is neither a file nor a directory nor a link"));
        }
        let executable = kind.is_dir() || entry.metadata()?.permissions().mode() & 0o100 != 0;
        fs::set_permissions(to, Permissions::from_mode(if executable { 0o755 } else { 0o644 }))?;
        self.owner.map_or(Ok(()), |(user, group)| chown(to, Some(user), Some(group)))
    }

    /// Removes it, and the build's directory when this was the last in it.
    ///
    /// # Errors
    /// When something can't be removed.
    pub(crate) fn remove(self) -> io::Result<()> {
        remove_tree(&self.path)?;
        if let Some(parent) = self.path.parent() {
            // Another job of the same build may still have its directory there.
            drop(fs::remove_dir(parent));
        }
        Ok(())
    }
}

fn first_free(parent: &Path) -> io::Result<PathBuf> {
    for count in 0_u64.. {
        let path = parent.join(count.to_string());
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other.map(|()| path),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// The builds that have a directory.
///
/// # Errors
/// When the directory can't be read; that it is not there is no error.
pub(crate) fn builds(root: &Path) -> io::Result<Vec<BuildNo>> {
    let entries = match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        found.extend(name.to_str().and_then(|name| name.parse().ok()).map(BuildNo));
    }
    found.sort_unstable();
    Ok(found)
}

/// Removes a build's directory and says whether there was one. No process may be left in it.
///
/// # Errors
/// When something can't be removed.
pub(crate) fn remove_build(root: &Path, build: BuildNo) -> io::Result<bool> {
    let path = root.join(build.0.to_string());
    match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
        Ok(_) => remove_tree(&path).map(|()| true),
    }
}

/// Removes a directory and all below it, however deep: every directory found further down is first moved up to the top,
/// so that neither the stack nor the open files grow with the depth.
fn remove_tree(path: &Path) -> io::Result<()> {
    let top = open_directory(CWD, path)?;
    let mut todo = clear(&top)?;
    while let Some(name) = todo.pop() {
        let directory = open_directory(&top, name.as_c_str())?;
        for below in clear(&directory)? {
            let free = free_name(&top)?;
            renameat(&directory, &below, &top, &free)?;
            todo.push(free);
        }
        unlinkat(&top, &name, AtFlags::REMOVEDIR)?;
    }
    fs::remove_dir(path)
}

fn open_directory(at: impl AsFd, name: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(at, name, flags, Mode::empty())?)
}

/// Removes all in a directory that is no directory, gives us every right in those that are, and names them.
fn clear(directory: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut directories = Vec::new();
    for entry in Dir::read_from(directory)?.collect::<Result<Vec<_>, _>>()? {
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            chmodat(directory, name, Mode::RWXU, AtFlags::empty())?;
            directories.push(name.to_owned());
        } else {
            unlinkat(directory, name, AtFlags::empty())?;
        }
    }
    Ok(directories)
}

/// A name that is not taken in a directory, which nobody but us writes in any more.
fn free_name(directory: &OwnedFd) -> io::Result<CString> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let name = CString::new(format!(".moved-{}", NEXT.fetch_add(1, Ordering::Relaxed)))?;
        match statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(rustix::io::Errno::NOENT) => return Ok(name),
            Err(error) => return Err(error.into()),
            Ok(_) => {}
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_checkout_is_copied_with_links_as_links_and_removed_however_deep_and_locked() {
        let place = tempfile::tempdir().unwrap();
        let checkout = place.path().join("checkout");
        fs::create_dir_all(checkout.join("a/b")).unwrap();
        fs::write(checkout.join("a/b/run.sh"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(checkout.join("a/b/run.sh"), Permissions::from_mode(0o755)).unwrap();
        symlink("/etc/shadow", checkout.join("a/link")).unwrap();

        let root = place.path().join("scratch");
        let scratch = Scratch::create(&root, BuildNo(7), None).unwrap();
        scratch.copy_checkout(&checkout, &|| false).unwrap();
        let copy = scratch.path().join("src");
        assert_eq!(fs::metadata(copy.join("a/b/run.sh")).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::read_link(copy.join("a/link")).unwrap(), Path::new("/etc/shadow"));
        assert_eq!(builds(&root).unwrap(), [BuildNo(7)]);

        let mut at = open_directory(CWD, &copy).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "deep", Mode::RWXU).unwrap();
            at = open_directory(&at, "deep").unwrap();
        }
        fs::set_permissions(copy.join("a"), Permissions::from_mode(0o000)).unwrap();
        scratch.remove().unwrap();
        assert_eq!(builds(&root).unwrap(), []);
        assert!(!remove_build(&root, BuildNo(7)).unwrap());
    }

    #[test]
    fn a_stopped_copy_ends() {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("checkout")).unwrap();
        fs::write(place.path().join("checkout/file"), "").unwrap();
        let scratch = Scratch::create(&place.path().join("scratch"), BuildNo(1), None).unwrap();
        let error = scratch.copy_checkout(&place.path().join("checkout"), &|| true).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
    }
}
