//! Templates that the installed Ansible is to render, and its answers: the words that rendering and the sandbox share.

use std::time::Duration;

use super::path::RepoPath;

/// The templates of one bundle that are handed to Ansible together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handed {
    /// Every template that one of them may include, with its bytes.
    pub files: Vec<(RepoPath, Vec<u8>)>,
    /// Those that are wanted, by their places in `files`.
    pub wanted: Vec<usize>,
    /// What they can name: a JSON object as `ansible-playbook --extra-vars` takes it.
    pub vars: String,
    /// How much of a processor's time all of them together may take.
    pub time: Duration,
    /// What each gets before the others had their turn.
    pub first_slice: Duration,
    /// How many bytes all results together may have.
    pub output: u64,
}

/// What became of a wanted template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Its result.
    Text(Vec<u8>),
    /// Ansible refused it, in its own words.
    Failed(String),
    /// The time was over.
    Late,
    /// The results are too large.
    TooLarge,
    /// It wanted more memory than it may have.
    OutOfMemory,
}
