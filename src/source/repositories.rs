//! The repositories below the state directory, as the engine reads them: tips, commits, trees, checkouts.
//!
//! Each call opens the repository anew, so that it sees refs and packs as they are now and keeps nothing between calls.

use std::path::{Path, PathBuf};

use git2::{ConfigLevel, Repository};

use super::checkout;
use super::trees::{self, GitTree, OpenError};
use crate::domain::id::{Branch, CommitId, RepoName};
use crate::domain::path::RepoPath;
use crate::domain::tree::Tree;
use crate::engine::ports::{CommitInfo, PortError, Repositories, Tip};

/// The longest subject or author that is kept, in characters.
const TEXT_CHARS: usize = 200;
/// The key in a receiving repository's configuration that says whether its HEAD still waits for the first branch.
pub(super) const HEAD_KEY: &str = "factoryd.head";
/// [`HEAD_KEY`] while no branch was ever pushed.
pub(super) const HEAD_WAITS: &str = "waits-for-first-branch";
const HEAD_SETTLED: &str = "settled";

/// The repositories `ROOT/NAME.git`.
#[derive(Clone, Debug)]
pub struct GitRepositories {
    root: PathBuf,
}

impl GitRepositories {
    /// The repositories below a directory: `STATE/repos`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where a repository lies.
    ///
    /// # Errors
    /// When the name would lead elsewhere.
    pub fn path(&self, repository: &RepoName) -> Result<PathBuf, PortError> {
        let name = repository.as_str();
        if name.is_empty() || name.starts_with(['.', '-']) || name.contains(['/', '\0']) {
            return Err(PortError::refused(format!("{name:?} can't be the name of a repository"))
                .help("use letters, digits, `-` and `_`"));
        }
        Ok(self.root.join(format!("{name}.git")))
    }

    fn open(&self, repository: &RepoName) -> Result<Repository, PortError> {
        trees::open_repository(&self.path(repository)?).map_err(from_open)
    }
}

impl Repositories for GitRepositories {
    fn tips(&self, repository: &RepoName) -> Result<Vec<Tip>, PortError> {
        tips(&self.open(repository)?).map_err(|error| unreadable(repository, &error))
    }

    /// A receiving repository's HEAD is settled here, when its first branch is seen: `main` or `master` if it is among
    /// those that came with the first push, else the first by name. Once settled it stays, even if its branch is deleted.
    fn head(&self, repository: &RepoName) -> Result<Option<Branch>, PortError> {
        let opened = self.open(repository)?;
        settle_head(&opened).and_then(|()| head(&opened)).map_err(|error| unreadable(repository, &error))
    }

    fn resolve(&self, repository: &RepoName, revision: &str) -> Result<CommitId, PortError> {
        trees::resolve(&self.open(repository)?, revision).map_err(|error| match error {
            OpenError::Revision { .. } => {
                PortError::failed(format!("{revision:?} names no commit of the repository {repository}"))
                    .help("name a branch, a tag or a commit that was pushed")
            }
            other => from_open(other),
        })
    }

    fn tree(&self, repository: &RepoName, commit: &CommitId) -> Result<Box<dyn Tree>, PortError> {
        Ok(Box::new(GitTree::new(self.open(repository)?, commit).map_err(from_open)?))
    }

    fn describe(&self, repository: &RepoName, commit: &CommitId) -> Result<CommitInfo, PortError> {
        let opened = self.open(repository)?;
        let commit = trees::find_commit(&opened, commit).map_err(from_open)?;
        Ok(CommitInfo {
            subject: printable(commit.summary_bytes().unwrap_or_default()),
            author: printable(commit.author().name_bytes()),
        })
    }

    fn checkout(
        &self,
        repository: &RepoName,
        commit: &CommitId,
        paths: &[RepoPath],
        into: &Path,
    ) -> Result<(), PortError> {
        let tree = GitTree::new(self.open(repository)?, commit).map_err(from_open)?;
        checkout::write(&tree, paths, into)
    }
}

/// All branches, sorted. A name that is not UTF-8 stands with U+FFFD, and so can't be that of a tracked branch.
fn tips(repository: &Repository) -> Result<Vec<Tip>, git2::Error> {
    let mut tips = Vec::new();
    for reference in repository.references()? {
        let reference = reference?;
        let Some(name) = reference.name_bytes().strip_prefix(b"refs/heads/") else { continue };
        let branch = Branch::new(String::from_utf8_lossy(name));
        // One that only names another, missing one is no branch.
        if let Some(commit) = reference.resolve().ok().and_then(|tip| tip.target()) {
            tips.push(Tip { branch, commit: CommitId::new(commit.to_string()) });
        }
    }
    tips.sort_unstable_by(|a, b| a.branch.cmp(&b.branch));
    Ok(tips)
}

/// The branch that HEAD names, if it is there.
fn head(repository: &Repository) -> Result<Option<Branch>, git2::Error> {
    let head = repository.find_reference("HEAD")?;
    let Some(name) = head.symbolic_target_bytes().and_then(|name| std::str::from_utf8(name).ok()) else {
        return Ok(None);
    };
    let there = repository.find_reference(name).is_ok();
    Ok(name.strip_prefix("refs/heads/").filter(|_| there).map(Branch::from))
}

/// Lets HEAD of a receiving repository name the first branch that came, once.
fn settle_head(repository: &Repository) -> Result<(), git2::Error> {
    let mut config = repository.config()?.open_level(ConfigLevel::Local)?;
    if config.get_string(HEAD_KEY).ok().as_deref() != Some(HEAD_WAITS) {
        return Ok(());
    }
    let branches: Vec<Branch> = tips(repository)?.into_iter().map(|tip| tip.branch).collect();
    let Some(first) = first_branch(&branches) else { return Ok(()) };
    // HEAD first: a crash between the two lets the same branch be chosen again.
    point_head(repository, first)?;
    config.set_str(HEAD_KEY, HEAD_SETTLED)
}

/// Lets HEAD name a branch, whether it is there or not.
pub(super) fn point_head(repository: &Repository, branch: &Branch) -> Result<(), git2::Error> {
    repository.reference_symbolic("HEAD", &format!("refs/heads/{branch}"), true, "").map(drop)
}

/// The branch that people take for the main one, where nobody says which it is.
pub(super) fn first_branch(branches: &[Branch]) -> Option<&Branch> {
    let named = |name: &str| branches.iter().find(|branch| branch.as_str() == name);
    named("main").or_else(|| named("master")).or_else(|| branches.first())
}

/// Text of a commit for people: one line, no terminal escapes, not endless.
fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().filter(|char| !char.is_control()).take(TEXT_CHARS).collect()
}

fn unreadable(repository: &RepoName, error: &git2::Error) -> PortError {
    PortError::unavailable(format!("the repository {repository} can't be read: {}", error.message()))
        .help("run `git fsck` in it; if it is damaged, move it away, restart and push again")
}

fn from_open(error: OpenError) -> PortError {
    match error {
        OpenError::Repository { .. } => PortError::unavailable(error.to_string())
            .help("see that the daemon may read it; a repository that is missing is made when the daemon starts"),
        OpenError::Revision { .. } | OpenError::Commit { .. } => PortError::failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repositorys_name_never_leads_elsewhere() {
        let repositories = GitRepositories::new("/state/repos");
        assert_eq!(repositories.path(&"factory".into()).expect("a name"), Path::new("/state/repos/factory.git"));
        for name in ["", "..", "a/b", ".hidden", "-x"] {
            assert!(repositories.path(&name.into()).is_err(), "{name:?}");
        }
    }

    #[test]
    fn the_main_branch_is_the_first_of_several() {
        let branches = |names: &[&str]| names.iter().copied().map(Branch::from).collect::<Vec<_>>();
        assert_eq!(first_branch(&branches(&["a", "main", "master"])), Some(&"main".into()));
        assert_eq!(first_branch(&branches(&["a", "master"])), Some(&"master".into()));
        assert_eq!(first_branch(&branches(&["b", "c"])), Some(&"b".into()));
        assert_eq!(first_branch(&[]), None);
    }

    #[test]
    fn text_of_a_commit_can_not_drive_a_terminal() {
        assert_eq!(printable(b"fix \x1b[2Jthe\x07 page"), "fix [2Jthe page");
    }
}
