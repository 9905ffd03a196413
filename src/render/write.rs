//! Results into a directory: beneath it, through no link, each whole or not at all.

use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use super::Outcome;
use crate::domain::path::RepoPath;

/// A result that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("{} can't be written: {source}", path.display())]
pub struct WriteError {
    /// Which file.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Writes every result below a directory, which is made where it is missing, with mode 0644 less the umask.
///
/// What an earlier rendering left of a template that failed now is removed. Gives the files that were written and all
/// that went wrong.
pub fn write_all(outcome: &Outcome, into: &Path) -> (Vec<PathBuf>, Vec<WriteError>) {
    let (mut written, mut errors) = (Vec::new(), Vec::new());
    let root = match std::fs::create_dir_all(into).and_then(|()| open_root(into)) {
        Ok(root) => root,
        Err(source) => return (written, vec![WriteError { path: into.to_owned(), source }]),
    };
    let place = |path: &RepoPath| into.join(std::ffi::OsStr::from_bytes(path.as_bytes()));
    for path in outcome.failed.iter().filter_map(|failed| failed.result.as_ref()) {
        if let Err(source) = remove(&root, path) {
            errors.push(WriteError { path: place(path), source });
        }
    }
    for result in &outcome.rendered {
        match write(&root, &result.path, &result.bytes) {
            Ok(()) => written.push(place(&result.path)),
            Err(source) => errors.push(WriteError { path: place(&result.path), source }),
        }
    }
    (written, errors)
}

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC);

fn open_root(into: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(CWD, into, DIRECTORY, Mode::empty())?)
}

/// The directory that a result lies in, opened part by part so that no link leads out of the root.
fn open_parent(root: &OwnedFd, path: &RepoPath) -> io::Result<OwnedFd> {
    let mut at = root.try_clone()?;
    for part in path.parent().parts() {
        match rustix::fs::mkdirat(&at, part, Mode::from_raw_mode(0o777)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        at = rustix::fs::openat(&at, part, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
    }
    Ok(at)
}

fn write(root: &OwnedFd, path: &RepoPath, bytes: &[u8]) -> io::Result<()> {
    let parent = open_parent(root, path)?;
    // Short and without the result's own name, which may already be as long as a name can be.
    let temporary = format!(".factoryd-render-{}", std::process::id());
    remove_at(&parent, temporary.as_bytes())?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&parent, temporary.as_str(), flags, Mode::from_raw_mode(0o644))?;
    let done = std::fs::File::from(file)
        .write_all(bytes)
        .and_then(|()| Ok(rustix::fs::renameat(&parent, temporary.as_str(), &parent, path.name())?));
    if done.is_err() {
        remove_at(&parent, temporary.as_bytes())?;
    }
    done
}

fn remove(root: &OwnedFd, path: &RepoPath) -> io::Result<()> {
    let mut at = root.try_clone()?;
    for part in path.parent().parts() {
        at = match rustix::fs::openat(&at, part, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(next) => next,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
    }
    remove_at(&at, path.name())
}

fn remove_at(directory: &OwnedFd, name: &[u8]) -> io::Result<()> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;
    use crate::render::{Code, Engine, Failed, Rendered};

    fn outcome(rendered: &[&str], failed: &[&str]) -> Outcome {
        let path = |path: &&str| RepoPath::new(path).expect("inside");
        let rendered = rendered.iter().map(|name| Rendered {
            template: path(name),
            path: path(name),
            bytes: b"new".to_vec(),
            engine: Engine::Native,
            why: String::new(),
            warnings: Vec::new(),
        });
        let failed = failed.iter().map(|name| Failed {
            template: path(name),
            result: Some(path(name)),
            code: Code::Value,
            line: 1,
            column: 1,
            message: String::new(),
            help: String::new(),
        });
        Outcome { rendered: rendered.collect(), failed: failed.collect() }
    }

    #[test]
    fn results_are_written_and_nothing_of_a_failed_one_is_left() {
        let scratch = tempfile::tempdir().expect("a directory");
        let into = scratch.path().join("a/b");
        fs::create_dir_all(&into).expect("a directory");
        fs::write(into.join("old"), "old").expect("a file");
        fs::write(into.join("x"), "a longer text than the new one").expect("a file");
        let (written, errors) = write_all(&outcome(&["x", "deep/er/y"], &["old", "nowhere/z"]), &into);
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(written, [into.join("x"), into.join("deep/er/y")]);
        assert_eq!(fs::read(into.join("deep/er/y")).expect("the result"), b"new");
        assert_eq!(fs::metadata(into.join("x")).expect("the result").permissions().mode() & 0o777 & !0o644, 0);
        let mut left: Vec<_> =
            fs::read_dir(&into).expect("the directory").map(|one| one.expect("a name").file_name()).collect();
        left.sort();
        assert_eq!(left, ["deep", "x"]);
    }

    #[test]
    fn no_link_leads_out_of_the_directory() {
        let scratch = tempfile::tempdir().expect("a directory");
        let (into, outside) = (scratch.path().join("into"), scratch.path().join("outside"));
        fs::create_dir_all(&into).and_then(|()| fs::create_dir(&outside)).expect("directories");
        fs::write(outside.join("kept"), "kept").expect("a file");
        symlink(&outside, into.join("link"))
            .and_then(|()| symlink(outside.join("kept"), into.join("x")))
            .expect("links");
        let (written, errors) = write_all(&outcome(&["link/new", "x"], &["link/kept"]), &into);
        assert_eq!(written, [into.join("x")]);
        assert_eq!(errors.len(), 2, "{errors:?}");
        assert_eq!(fs::read(outside.join("kept")).expect("a file"), b"kept");
        assert!(!outside.join("new").exists());
    }
}
