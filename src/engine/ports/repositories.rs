//! The factory's repositories: branches, commits, trees and checkouts.

use std::path::Path;

use super::PortError;
use crate::domain::id::{Branch, CommitId, RepoName};
use crate::domain::path::RepoPath;
use crate::domain::tree::Tree;

/// A branch and the commit at its tip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tip {
    /// The branch.
    pub branch: Branch,
    /// The commit.
    pub commit: CommitId,
}

/// What a person wants to know of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitInfo {
    /// The first line of its message.
    pub subject: String,
    /// Its author's name.
    pub author: String,
}

/// The factory's repositories. The calls block: run them through [`crate::blocking::run`].
pub trait Repositories: Send + Sync {
    /// Every branch with its tip, sorted by name.
    ///
    /// # Errors
    /// When the repository can't be read.
    fn tips(&self, repository: &RepoName) -> Result<Vec<Tip>, PortError>;

    /// The branch that the repository's HEAD names, if that branch is there.
    ///
    /// # Errors
    /// When the repository can't be read.
    fn head(&self, repository: &RepoName) -> Result<Option<Branch>, PortError>;

    /// The commit that a revision names: a branch, a tag, a (short) id.
    ///
    /// # Errors
    /// When there is no such commit.
    fn resolve(&self, repository: &RepoName, revision: &str) -> Result<CommitId, PortError>;

    /// The tree of a commit.
    ///
    /// # Errors
    /// When the commit is not there.
    fn tree(&self, repository: &RepoName, commit: &CommitId) -> Result<Box<dyn Tree>, PortError>;

    /// What a person wants to know of a commit.
    ///
    /// # Errors
    /// When the commit is not there.
    fn describe(&self, repository: &RepoName, commit: &CommitId) -> Result<CommitInfo, PortError>;

    /// Writes some paths of a commit below a directory that exists and is empty: files with their modes, links as
    /// links, submodules left out.
    ///
    /// # Errors
    /// When the commit is not there, or a file can't be written.
    fn checkout(
        &self,
        repository: &RepoName,
        commit: &CommitId,
        paths: &[RepoPath],
        into: &Path,
    ) -> Result<(), PortError>;
}
