//! Takes files out of a directory that a hostile program may have arranged.
//!
//! Everything is opened beneath the directory, following no link; only regular files are taken, and what is left out is
//! said with its reason and never with its content.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, openat2, readlinkat, statat};

use crate::domain::path::RepoPath;

/// The largest file that is taken, in bytes.
const FILE_BYTES: u64 = 64 << 20;
/// All files together, in bytes.
const ALL_BYTES: u64 = 512 << 20;
/// Files that are taken at most.
const FILES: usize = 10_000;
/// Entries that are looked at.
const ENTRIES: usize = 200_000;
/// Directories below one another; also keeps paths below the kernel's 4096 bytes.
const DEPTH: usize = 32;
/// Refusals that are said one by one.
const REFUSALS: usize = 100;

/// What was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// The files, as paths below the bundle, sorted.
    pub files: Vec<PathBuf>,
    /// What the globs named and was left out, and why.
    pub refused: Vec<String>,
}

/// Copies the regular files below `root/bundle` that one of the globs matches into a directory, under their paths below
/// the bundle. In globs `*` does not cross `/`, `**` does.
///
/// # Errors
/// When `root` can't be opened or a file can't be written.
pub fn collect(root: &Path, bundle: &RepoPath, globs: &[String], into: &Path) -> io::Result<Collected> {
    if globs.is_empty() {
        return Ok(Collected::default());
    }
    let mut walk = Walk::new(root, bundle, globs, into)?;
    let mut todo = vec![PathBuf::new()];
    while let Some(directory) = todo.pop() {
        match walk.directory(&directory) {
            Ok(below) => todo.extend(below),
            Err(Trouble::Refused(why)) => walk.refuse(&directory, &why),
            Err(Trouble::Here(error)) => return Err(error),
        }
    }
    let more = walk.refusals.saturating_sub(REFUSALS);
    if more > 0 {
        walk.found.refused.push(format!("and {more} more"));
    }
    walk.found.files.sort();
    Ok(walk.found)
}

/// Why something was not taken: for a reason of its own, or because we can't write.
enum Trouble {
    Refused(String),
    Here(io::Error),
}

impl Trouble {
    fn unreadable(error: impl Into<io::Error>) -> Self {
        Self::Refused(format!("can't be read: {}", error.into()))
    }
}

struct Walk<'a> {
    /// The bundle's directory; `None` where it is none any more.
    root: OwnedFd,
    bundle: PathBuf,
    into: &'a Path,
    wanted: GlobSet,
    /// Directories that lead to what a glob names: a link in their place is worth a word.
    leading: GlobSet,
    found: Collected,
    refusals: usize,
    entries: usize,
    bytes: u64,
}

impl<'a> Walk<'a> {
    fn new(root: &Path, bundle: &RepoPath, globs: &[String], into: &'a Path) -> io::Result<Self> {
        let mut found = Collected::default();
        let (mut wanted, mut leading) = (GlobSetBuilder::new(), GlobSetBuilder::new());
        for text in globs {
            match GlobBuilder::new(text).literal_separator(true).build() {
                Ok(glob) => drop(wanted.add(glob)),
                Err(error) => found.refused.push(format!("`{text}` is no glob: {}", error.kind())),
            }
            for (at, _) in text.match_indices('/').take_while(|(at, _)| !text[..*at].contains("**")) {
                if let Ok(glob) = GlobBuilder::new(&text[..at]).literal_separator(true).build() {
                    leading.add(glob);
                }
            }
        }
        let build = |set: GlobSetBuilder| set.build().map_err(io::Error::other);
        let bundle = Path::new(std::ffi::OsStr::from_bytes(bundle.as_bytes())).to_owned();
        Ok(Self {
            root: File::open(root)?.into(),
            bundle,
            into,
            wanted: build(wanted)?,
            leading: build(leading)?,
            found,
            refusals: 0,
            entries: 0,
            bytes: 0,
        })
    }

    fn refuse(&mut self, path: &Path, why: &str) {
        self.refusals += 1;
        if self.refusals <= REFUSALS {
            let shown = if path.as_os_str().is_empty() { &self.bundle } else { path };
            self.found.refused.push(format!("{} {why}", shown.display()));
        }
    }

    /// Looks at the entries of a directory, takes the files among them, and names the directories.
    fn directory(&mut self, below: &Path) -> Result<Vec<PathBuf>, Trouble> {
        let directory = self.open(below, OFlags::DIRECTORY)?;
        let mut deeper = Vec::new();
        for entry in Dir::read_from(&directory).map_err(Trouble::unreadable)? {
            let name = entry.map_err(Trouble::unreadable)?.file_name().to_owned();
            if matches!(name.as_bytes(), b"." | b"..") {
                continue;
            }
            self.entries += 1;
            if self.entries > ENTRIES {
                return Err(Trouble::Refused(format!("was not looked through: there are more than {ENTRIES} files")));
            }
            let path = below.join(std::ffi::OsStr::from_bytes(name.as_bytes()));
            let stat = statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(Trouble::unreadable)?;
            let kind = FileType::from_raw_mode(stat.st_mode);
            match self.entry(&directory, &path, kind) {
                Ok(true) if path.components().count() < DEPTH => deeper.push(path),
                Ok(true) => self.refuse(&path, "was not looked through: it lies too deep"),
                Ok(false) => {}
                Err(Trouble::Refused(why)) => self.refuse(&path, &why),
                Err(here @ Trouble::Here(_)) => return Err(here),
            }
        }
        Ok(deeper)
    }

    /// Whether an entry is a directory; a wanted file is taken.
    fn entry(&mut self, directory: &OwnedFd, path: &Path, kind: FileType) -> Result<bool, Trouble> {
        let wanted = self.wanted.is_match(path);
        match kind {
            FileType::Directory => return Ok(true),
            FileType::Symlink if wanted || self.leading.is_match(path) => {
                let name = path.file_name().unwrap_or_default();
                let target = readlinkat(directory, name, Vec::new()).map_err(Trouble::unreadable)?;
                return Err(Trouble::Refused(format!("is a link to {}", target.to_string_lossy())));
            }
            FileType::RegularFile if wanted => self.take(path)?,
            _ if wanted => return Err(Trouble::Refused("is not a regular file".to_owned())),
            _ => {}
        }
        Ok(false)
    }

    fn take(&mut self, path: &Path) -> Result<(), Trouble> {
        if self.found.files.len() >= FILES {
            return Err(Trouble::Refused(format!("is one more than the {FILES} files that are kept")));
        }
        // Without O_NONBLOCK opening a pipe that took the file's place would wait for ever.
        let file = File::from(self.open(path, OFlags::NONBLOCK)?);
        let metadata = file.metadata().map_err(Trouble::unreadable)?;
        if !metadata.is_file() {
            return Err(Trouble::Refused("is not a regular file".to_owned()));
        }
        let size = metadata.len();
        if size > FILE_BYTES {
            return Err(Trouble::Refused(format!("has {} MiB; {} are kept at most", size >> 20, FILE_BYTES >> 20)));
        }
        if self.bytes + size > ALL_BYTES {
            return Err(Trouble::Refused(format!("is too much: {} MiB are kept in all", ALL_BYTES >> 20)));
        }
        let to = self.into.join(path);
        let written = fs::create_dir_all(to.parent().unwrap_or(self.into))
            .and_then(|()| File::create(&to))
            .and_then(|mut copy| io::copy(&mut file.take(size), &mut copy));
        self.bytes += written.map_err(Trouble::Here)?;
        self.found.files.push(path.to_owned());
        Ok(())
    }

    fn open(&self, below: &Path, flags: OFlags) -> Result<OwnedFd, Trouble> {
        let path = self.bundle.join(below);
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { &path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        openat2(self.root.as_fd(), path, flags | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty(), resolve).map_err(
            |error| match error {
                rustix::io::Errno::LOOP => Trouble::Refused("is reached through a link".to_owned()),
                rustix::io::Errno::NOTDIR => Trouble::Refused("is no directory any more".to_owned()),
                error => Trouble::unreadable(error),
            },
        )
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn bundle() -> RepoPath {
        RepoPath::new("images/bundle-x").unwrap()
    }

    #[test]
    fn regular_files_are_taken_and_every_refusal_says_why() {
        let place = tempfile::tempdir().unwrap();
        let here = place.path().join("src/images/bundle-x");
        fs::create_dir_all(here.join("reports/deep")).unwrap();
        fs::write(here.join("reports/ok.xml"), "<testsuites/>").unwrap();
        fs::write(here.join("reports/deep/not.xml"), "").unwrap();
        symlink("/etc/shadow", here.join("reports/x.xml")).unwrap();
        symlink("/etc", here.join("output")).unwrap();
        fs::create_dir(here.join("reports/dir.xml")).unwrap();
        File::create(here.join("reports/large.xml")).unwrap().set_len(FILE_BYTES + 1).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, here.join("reports/pipe.xml"), FileType::Fifo, Mode::RUSR, 0).unwrap();

        let globs = ["reports/*.xml".to_owned(), "output/passwd".to_owned(), "[".to_owned()];
        let into = place.path().join("kept");
        let mut found = collect(&place.path().join("src"), &bundle(), &globs, &into).unwrap();
        found.refused.sort();
        assert_eq!(found.files, [Path::new("reports/ok.xml")]);
        assert_eq!(fs::read_to_string(into.join("reports/ok.xml")).unwrap(), "<testsuites/>");
        assert_eq!(
            found.refused,
            [
                "`[` is no glob: unclosed character class; missing ']'",
                "output is a link to /etc",
                "reports/large.xml has 64 MiB; 64 are kept at most",
                "reports/pipe.xml is not a regular file",
                "reports/x.xml is a link to /etc/shadow",
            ]
        );
    }

    #[test]
    fn a_bundle_that_became_a_link_gives_nothing() {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("src")).unwrap();
        fs::create_dir_all(place.path().join("other/bundle-x")).unwrap();
        fs::write(place.path().join("other/bundle-x/secret.xml"), "canary").unwrap();
        symlink("../other", place.path().join("src/images")).unwrap();
        let into = place.path().join("kept");
        let found = collect(&place.path().join("src"), &bundle(), &["*.xml".to_owned()], &into).unwrap();
        assert_eq!(found.files, [] as [PathBuf; 0]);
        assert_eq!(found.refused, ["images/bundle-x is reached through a link"]);
    }
}
