//! What a bundle is known by.

use std::fmt;

use super::id::{Branch, RepoName};
use super::path::RepoPath;

/// A bundle of one repository, on one branch: what is built, served and kept is kept under this.
///
/// The name inside its vars is only the prefix of its image's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BundleKey {
    /// The repository that holds it.
    pub repository: RepoName,
    /// The branch.
    pub branch: Branch,
    /// Its directory.
    pub path: RepoPath,
}

impl fmt::Display for BundleKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} of {})", self.path, self.branch, self.repository)
    }
}
