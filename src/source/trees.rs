//! A git repository at one commit as a [`Tree`], and opening one that lies anywhere for plans without a daemon.
//!
//! Reads objects and nothing else: no work tree, no filters, no hooks, no program, not one byte written. What a push can
//! hold is bounded before it is loaded, since a few kilobytes of pack can unfold to gigabytes.

use std::cell::{Cell, RefCell};
use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use git2::{ErrorCode, ObjectType, Repository, RepositoryOpenFlags};
use thiserror::Error;

use crate::domain::id::{CommitId, Oid};
use crate::domain::path::RepoPath;
use crate::domain::range::may_be_branch;
use crate::domain::tree::{Entry, EntryKind, Tree, TreeError};

/// The most entries of one directory.
const DIRECTORY_ENTRIES: usize = 200_000;
/// The most bytes of one tree object: [`DIRECTORY_ENTRIES`] with names of 130 bytes.
const DIRECTORY_BYTES: usize = 32 << 20;
/// How deep directories may nest.
const NESTING: usize = 64;
/// The most entries that the listed directories of one commit may hold in all: ten times what a large factory has.
/// Trees that hold the same tree many times over have few objects and more paths than anybody can walk.
const COMMIT_ENTRIES: usize = 1_000_000;
/// The entries that are remembered, about 100 bytes each; beyond that the memory is emptied and filled again.
const REMEMBERED_ENTRIES: usize = 300_000;
/// The most bytes of a commit object: its message is of no use beyond.
const COMMIT_BYTES: usize = 1 << 20;

/// The tree of one commit, read from the repository's objects.
pub struct GitTree {
    repository: Repository,
    root: git2::Oid,
    memo: RefCell<Memo>,
    /// The directories that were listed, by the hash of their paths, and the entries they hold in all.
    listed: RefCell<HashSet<u64>>,
    listed_entries: Cell<usize>,
}

impl GitTree {
    /// The tree of a commit, in a repository that was opened for it.
    ///
    /// # Errors
    /// When the commit is not there or can't be read.
    pub fn new(repository: Repository, commit: &CommitId) -> Result<Self, OpenError> {
        let root = find_commit(&repository, commit)?.tree_id();
        Ok(Self {
            repository,
            root,
            memo: RefCell::default(),
            listed: RefCell::default(),
            listed_entries: Cell::new(0),
        })
    }

    /// The id and size of a file or link; `None` where there is none. Nothing is loaded.
    fn size(&self, path: &RepoPath) -> Result<Option<(git2::Oid, u64)>, TreeError> {
        let Some(Entry { kind, oid: Some(oid), .. }) = self.entry(path)? else { return Ok(None) };
        if !kind.is_file() && kind != EntryKind::Link {
            return Ok(None);
        }
        let oid = id(oid);
        match self.header(oid).map_err(|why| broken(path, why))? {
            (size, ObjectType::Blob) => Ok(Some((oid, size as u64))),
            (_, kind) => Err(broken(path, format!("object {oid} is a {kind} where a file should be"))),
        }
    }

    /// What a directory holds; `None` where there is no directory.
    fn directory(&self, path: &RepoPath) -> Result<Option<Level>, TreeError> {
        if path.parts().count() > NESTING {
            return Err(too_much(path, format!("directories nest deeper than {NESTING}")));
        }
        let mut level = self.level(self.root).map_err(|why| why.at(&RepoPath::root()))?;
        for (depth, part) in path.parts().enumerate() {
            let Some(Entry { kind: EntryKind::Directory, oid: Some(oid), .. }) = find(&level, part) else {
                return Ok(None);
            };
            level = self.level(id(*oid)).map_err(|why| why.at(&ancestor(path, depth + 1)))?;
        }
        Ok(Some(level))
    }

    /// The entries of a tree object, from memory if it was read before; an error is the reason alone.
    fn level(&self, tree: git2::Oid) -> Result<Level, Unread> {
        if let Some(level) = self.memo.borrow().levels.get(&tree) {
            return Ok(Arc::clone(level));
        }
        let level: Level = self.load(tree)?.into();
        self.memo.borrow_mut().keep(tree, &level);
        Ok(level)
    }

    fn load(&self, tree: git2::Oid) -> Result<Vec<Entry>, Unread> {
        let (size, kind) = self.header(tree).map_err(Unread::Broken)?;
        if kind != ObjectType::Tree {
            return Err(Unread::Broken(format!("object {tree} is a {kind} where a directory should be")));
        }
        if size > DIRECTORY_BYTES {
            return Err(Unread::TooMuch(format!("the directory takes {size} bytes, more than {DIRECTORY_BYTES}")));
        }
        let tree = self.repository.find_tree(tree).map_err(|error| Unread::Broken(error.message().to_owned()))?;
        if tree.len() > DIRECTORY_ENTRIES {
            let why = format!("the directory holds {} entries, more than {DIRECTORY_ENTRIES}", tree.len());
            return Err(Unread::TooMuch(why));
        }
        let entries = tree.iter().map(|entry| read_entry(&entry)).collect::<Result<Vec<_>, _>>();
        let mut entries = entries.map_err(Unread::Broken)?;
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        match entries.windows(2).find(|pair| pair[0].name == pair[1].name) {
            Some(pair) => Err(Unread::TooMuch(format!("the directory holds {:?} twice", lossy(&pair[0].name)))),
            None => Ok(entries),
        }
    }

    fn header(&self, oid: git2::Oid) -> Result<(usize, ObjectType), String> {
        self.repository.odb().and_then(|odb| odb.read_header(oid)).map_err(|error| error.message().to_owned())
    }

    /// Counts a directory that is listed for the first time.
    fn count(&self, path: &RepoPath, entries: usize) -> Result<(), TreeError> {
        let mut hasher = DefaultHasher::new();
        path.hash(&mut hasher);
        if self.listed.borrow_mut().insert(hasher.finish()) {
            self.listed_entries.set(self.listed_entries.get() + entries + 1);
        }
        if self.listed_entries.get() > COMMIT_ENTRIES {
            let why = format!("the directories of this commit hold more than {COMMIT_ENTRIES} entries");
            return Err(too_much(path, why));
        }
        Ok(())
    }
}

impl Tree for GitTree {
    fn entry(&self, path: &RepoPath) -> Result<Option<Entry>, TreeError> {
        if path.is_root() {
            return Ok(Some(Entry { name: Vec::new(), kind: EntryKind::Directory, oid: Some(our_id(self.root)) }));
        }
        let Some(level) = self.directory(&path.parent())? else { return Ok(None) };
        Ok(find(&level, path.name()).cloned())
    }

    fn list(&self, directory: &RepoPath) -> Result<Vec<Entry>, TreeError> {
        let Some(level) = self.directory(directory)? else { return Ok(Vec::new()) };
        self.count(directory, level.len())?;
        Ok(level.to_vec())
    }

    fn read(&self, path: &RepoPath, limit: u64) -> Result<Vec<u8>, TreeError> {
        let (oid, size) = self.size(path)?.ok_or_else(|| TreeError::Missing(path.clone()))?;
        if size > limit {
            return Err(TreeError::TooLarge { path: path.clone(), limit });
        }
        let blob = self.repository.find_blob(oid).map_err(|error| broken(path, error.message()))?;
        Ok(blob.content().to_vec())
    }
}

impl fmt::Debug for GitTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GitTree({} in {})", self.root, self.repository.path().display())
    }
}

/// The entries of one tree object, sorted by the bytes of their names.
type Level = Arc<[Entry]>;

/// Tree objects that were read, so that the next path below them costs a look into a map.
#[derive(Default)]
struct Memo {
    levels: HashMap<git2::Oid, Level>,
    entries: usize,
}

impl Memo {
    fn keep(&mut self, tree: git2::Oid, level: &Level) {
        if self.entries + level.len() > REMEMBERED_ENTRIES {
            *self = Self::default();
        }
        self.entries += level.len() + 1;
        self.levels.insert(tree, Arc::clone(level));
    }
}

/// Why a repository, or a commit of it, could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// There is no git repository, or none that may be read.
    #[error("{} can't be opened as a git repository: {why}", path.display())]
    Repository {
        /// The directory.
        path: PathBuf,
        /// What git said.
        why: String,
    },
    /// No commit has this name.
    #[error("{revision:?} names no commit of {}", path.display())]
    Revision {
        /// The repository.
        path: PathBuf,
        /// What was asked for.
        revision: String,
    },
    /// The commit can't be read.
    #[error("commit {commit} can't be read: {why}")]
    Commit {
        /// The commit.
        commit: String,
        /// What git said.
        why: String,
    },
}

/// Opens a repository (a work tree's top directory or a bare one) at a revision: a branch, a tag, an id, `HEAD~2`.
///
/// Only its objects and refs are read. Its configuration is parsed, but nothing in it is run.
///
/// # Errors
/// When it is no repository, belongs to somebody else, or has no such commit.
pub fn open(repository: &Path, revision: &str) -> Result<(CommitId, GitTree), OpenError> {
    let opened = open_repository(repository)?;
    let commit = resolve(&opened, revision)?;
    let tree = GitTree::new(opened, &commit)?;
    Ok((commit, tree))
}

/// Opens exactly this directory, whatever the environment says and whatever lies above it.
///
/// libgit2 keeps no objects: it would hold every tree of a commit once more, unpacked and far larger than our memo of it.
pub(super) fn open_repository(path: &Path) -> Result<Repository, OpenError> {
    git2::opts::enable_caching(false);
    Repository::open_ext(path, RepositoryOpenFlags::NO_SEARCH, std::iter::empty::<&Path>()).map_err(|error| {
        let why = match error.code() {
            ErrorCode::NotFound => "there is none".to_owned(),
            ErrorCode::Owner => {
                "it belongs to another user (as that user, or after `git config --global --add safe.directory` it opens)"
                    .to_owned()
            }
            _ => error.message().to_owned(),
        };
        OpenError::Repository { path: path.to_owned(), why }
    })
}

/// The commit that a revision names. A branch comes before a tag of the same name, so that no tag can stand in for it.
pub(super) fn resolve(repository: &Repository, revision: &str) -> Result<CommitId, OpenError> {
    let unknown = || OpenError::Revision { path: repository.path().to_owned(), revision: revision.to_owned() };
    let branch = || repository.find_reference(&format!("refs/heads/{revision}")).ok()?.resolve().ok()?.target();
    if let Some(tip) = Some(branch).filter(|_| may_be_branch(revision)).and_then(|branch| branch()) {
        return Ok(CommitId::new(tip.to_string()));
    }
    let object = repository.revparse_single(revision).map_err(|_| unknown())?;
    let commit = object.peel(ObjectType::Commit).map_err(|_| unknown())?;
    Ok(CommitId::new(commit.id().to_string()))
}

/// Loads a commit, after a look at its size.
pub(super) fn find_commit<'r>(repository: &'r Repository, commit: &CommitId) -> Result<git2::Commit<'r>, OpenError> {
    let unreadable = |why: String| OpenError::Commit { commit: commit.to_string(), why };
    let git_error = |error: git2::Error| unreadable(error.message().to_owned());
    let oid = git2::Oid::from_str(commit.as_str()).map_err(git_error)?;
    let (size, _) = repository.odb().and_then(|odb| odb.read_header(oid)).map_err(git_error)?;
    if size > COMMIT_BYTES {
        return Err(unreadable(format!("it takes {size} bytes, more than {COMMIT_BYTES}")));
    }
    repository.find_commit(oid).map_err(git_error)
}

/// One entry as we speak of it. Git itself writes none of the names that are refused here: each would lead a reader
/// that walks by names somewhere else.
fn read_entry(entry: &git2::TreeEntry<'_>) -> Result<Entry, String> {
    let name = entry.name_bytes();
    if matches!(name, b"" | b"." | b"..") || name.contains(&b'/') {
        return Err(format!("the directory holds an entry named {:?}, which no file can have", lossy(name)));
    }
    let mode = entry.filemode_raw();
    let kind = kind(mode).ok_or_else(|| format!("{:?} has the unknown mode {mode:o}", lossy(name)))?;
    Ok(Entry { name: name.to_vec(), kind, oid: Some(our_id(entry.id())) })
}

/// What a mode says, as git reads it: of a file's permissions only the owner's right to execute counts.
fn kind(mode: i32) -> Option<EntryKind> {
    match (mode & 0o170_000, mode & 0o100) {
        (0o100_000, 0) => Some(EntryKind::File),
        (0o100_000, _) => Some(EntryKind::Executable),
        (0o120_000, _) => Some(EntryKind::Link),
        (0o040_000, _) => Some(EntryKind::Directory),
        (0o160_000, _) => Some(EntryKind::Submodule),
        _ => None,
    }
}

fn find<'l>(level: &'l [Entry], name: &[u8]) -> Option<&'l Entry> {
    level.binary_search_by(|entry| entry.name.as_slice().cmp(name)).ok().map(|at| &level[at])
}

/// The first `depth` parts of a path.
fn ancestor(path: &RepoPath, depth: usize) -> RepoPath {
    let parts: Vec<&[u8]> = path.parts().take(depth).collect();
    RepoPath::new(parts.join(&b'/')).unwrap_or_default()
}

/// Why a tree object gives no entries.
enum Unread {
    Broken(String),
    TooMuch(String),
}

impl Unread {
    fn at(self, path: &RepoPath) -> TreeError {
        match self {
            Self::Broken(why) => broken(path, why),
            Self::TooMuch(why) => too_much(path, why),
        }
    }
}

fn too_much(path: &RepoPath, why: impl Into<String>) -> TreeError {
    TreeError::TooMuch { path: path.clone(), why: why.into() }
}

fn broken(path: &RepoPath, why: impl Into<String>) -> TreeError {
    TreeError::Broken { path: path.clone(), why: why.into() }
}

fn lossy(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

fn id(oid: Oid) -> git2::Oid {
    git2::Oid::from_bytes(&oid.0).expect("an id of ours has the 20 bytes of git's")
}

fn our_id(oid: git2::Oid) -> Oid {
    Oid(oid.as_bytes().try_into().expect("libgit2 is built for ids of 20 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_owners_right_to_execute_counts() {
        assert_eq!(kind(0o100_664), Some(EntryKind::File));
        assert_eq!(kind(0o100_755), Some(EntryKind::Executable));
        assert_eq!(kind(0o060_000), None);
    }
}
