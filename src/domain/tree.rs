//! A repository at one commit, as its readers see it: entries, ids and contents, whoever holds them.
//!
//! Two things stand behind this: a git tree (`source`), which plans are made from, and a directory as it lies
//! (`manifest::directory`), which an author checks before committing.

use std::fmt;

use super::id::Oid;
use super::path::RepoPath;

/// What an entry is, with the part of its mode that git keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryKind {
    /// A regular file (git's 100644).
    File,
    /// A regular file that may be executed (100755).
    Executable,
    /// A symbolic link, whose content is its target (120000).
    Link,
    /// A directory (040000).
    Directory,
    /// Another repository's commit (160000).
    Submodule,
}

impl EntryKind {
    /// Git's mode, six octal digits.
    pub fn mode(self) -> &'static str {
        match self {
            Self::File => "100644",
            Self::Executable => "100755",
            Self::Link => "120000",
            Self::Directory => "040000",
            Self::Submodule => "160000",
        }
    }

    /// Whether there are bytes to read as a file's.
    pub fn is_file(self) -> bool {
        matches!(self, Self::File | Self::Executable)
    }
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name: no `/` in it.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Its git object id. A directory as it lies has none for its directories; a file's is that of its content.
    pub oid: Option<Oid>,
}

/// A repository at one commit.
pub trait Tree {
    /// The entry at a path; the root is a directory. `None` where nothing is there.
    ///
    /// # Errors
    /// When the tree can't be read.
    fn entry(&self, path: &RepoPath) -> Result<Option<Entry>, TreeError>;

    /// What a directory holds, sorted by the bytes of the names; empty where it is no directory.
    ///
    /// # Errors
    /// When the tree can't be read, or one directory holds more than a reader can bear.
    fn list(&self, directory: &RepoPath) -> Result<Vec<Entry>, TreeError>;

    /// The bytes of a file, or the target of a link.
    ///
    /// # Errors
    /// When nothing readable is there, or it is longer than `limit` bytes.
    fn read(&self, path: &RepoPath, limit: u64) -> Result<Vec<u8>, TreeError>;
}

/// Why something in a tree could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TreeError {
    /// Nothing is there, or not a file.
    Missing(RepoPath),
    /// The file is longer than the reader takes.
    TooLarge {
        /// Which file.
        path: RepoPath,
        /// The most that is taken, in bytes.
        limit: u64,
    },
    /// There is more than a reader takes: a directory with too many entries, or too deep in others.
    TooMuch {
        /// Where.
        path: RepoPath,
        /// What there is too much of.
        why: String,
    },
    /// The repository itself failed.
    Broken {
        /// Where the reader was.
        path: RepoPath,
        /// What the repository said.
        why: String,
    },
}

impl fmt::Display for TreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(path) => write!(f, "{path} is not a file of the repository"),
            Self::TooLarge { path, limit } => write!(f, "{path} is larger than {limit} bytes"),
            Self::TooMuch { path, why } => write!(f, "{path} is not read: {why}"),
            Self::Broken { path, why } => write!(f, "{path} can't be read from the repository: {why}"),
        }
    }
}

impl std::error::Error for TreeError {}
