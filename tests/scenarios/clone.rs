//! What a person has on their own machine: a tree of files, commits, branches.
//!
//! Commits are written into the factory's repository at once, as a push brings objects before it moves a branch; nobody
//! sees them until [`Clone::push`].

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use git2::{FileMode, Oid, Repository, Signature, Time};

/// A file: its text, and whether it may be executed.
type File = (String, bool);
/// A tree of files by their paths.
pub(crate) type Files = BTreeMap<String, File>;

/// A clone of the factory's repository.
pub(crate) struct Clone {
    bare: PathBuf,
    branch: String,
    /// The newest commit of each branch, pushed or not.
    heads: BTreeMap<String, Oid>,
    /// What is in the work tree.
    pub(crate) files: Files,
    /// What commits say, where it is not just their number.
    pub(crate) message: Option<String>,
    trees: HashMap<Oid, Files>,
    count: i64,
}

impl Clone {
    pub(crate) fn new(bare: PathBuf) -> Self {
        Self {
            bare,
            branch: "main".to_owned(),
            heads: BTreeMap::new(),
            files: Files::new(),
            message: None,
            trees: HashMap::new(),
            count: 0,
        }
    }

    fn open(&self) -> Repository {
        Repository::open(&self.bare).expect("the factory's repository")
    }

    pub(crate) fn write(&mut self, path: &str, text: &str) {
        let executable = self.files.get(path).is_some_and(|file| file.1);
        self.files.insert(path.to_owned(), (text.to_owned(), executable));
    }

    /// Makes a file executable, or no longer so.
    pub(crate) fn mode(&mut self, path: &str, executable: bool) {
        self.files.get_mut(path).expect("a file").1 = executable;
    }

    /// Removes a file, or a directory with what is in it.
    pub(crate) fn remove(&mut self, path: &str) {
        let below = format!("{path}/");
        self.files.retain(|file, _| file != path && !file.starts_with(&below));
    }

    /// Copies a directory.
    pub(crate) fn copy(&mut self, from: &str, to: &str) {
        let below = format!("{from}/");
        let copies: Vec<(String, File)> = self
            .files
            .iter()
            .filter_map(|(path, file)| Some((format!("{to}/{}", path.strip_prefix(&below)?), file.clone())))
            .collect();
        self.files.extend(copies);
    }

    /// Commits the work tree to the branch.
    pub(crate) fn commit(&mut self) -> Oid {
        let parents: Vec<Oid> = self.heads.get(&self.branch).copied().into_iter().collect();
        self.commit_with(&parents)
    }

    fn commit_with(&mut self, parents: &[Oid]) -> Oid {
        let repository = self.open();
        self.count += 1;
        let who = Signature::new("Ada", "ada@factory.example", &Time::new(1_700_000_000 + self.count, 0))
            .expect("a signature");
        let tree = write_tree(&repository, &self.files);
        let tree = repository.find_tree(tree).expect("the tree just written");
        let parents: Vec<_> = parents.iter().map(|id| repository.find_commit(*id).expect("a commit")).collect();
        let parents: Vec<_> = parents.iter().collect();
        let message = self.message.clone().unwrap_or_else(|| format!("commit {}", self.count));
        let commit = repository.commit(None, &who, &who, &message, &tree, &parents).expect("a commit");
        self.heads.insert(self.branch.clone(), commit);
        self.trees.insert(commit, self.files.clone());
        commit
    }

    /// Goes to a branch; a new one begins here.
    pub(crate) fn switch(&mut self, branch: &str) {
        let here = self.heads[&self.branch];
        let head = *self.heads.entry(branch.to_owned()).or_insert(here);
        self.branch = branch.to_owned();
        self.files = self.trees[&head].clone();
    }

    /// Lets the branch and the work tree be those of a commit.
    pub(crate) fn reset(&mut self, commit: Oid) {
        self.heads.insert(self.branch.clone(), commit);
        self.files = self.trees[&commit].clone();
    }

    /// Merges another branch; its files win.
    pub(crate) fn merge(&mut self, branch: &str) -> Oid {
        let (ours, theirs) = (self.heads[&self.branch], self.heads[branch]);
        let merged = self.trees[&theirs].clone();
        self.files.extend(merged);
        self.commit_with(&[ours, theirs])
    }

    /// Moves the branch of the factory's repository to this one's head, by force if need be.
    pub(crate) fn push(&self) {
        let head = self.heads[&self.branch];
        let name = format!("refs/heads/{}", self.branch);
        self.open().reference(&name, head, true, "push").expect("a moved branch");
    }

    /// Deletes a branch of the factory's repository.
    pub(crate) fn delete(&self, branch: &str) {
        let repository = self.open();
        let mut reference = repository.find_reference(&format!("refs/heads/{branch}")).expect("a branch");
        reference.delete().expect("a deleted branch");
    }
}

fn write_tree(repository: &Repository, files: &Files) -> Oid {
    let mut builder = repository.treebuilder(None).expect("a tree builder");
    let mut below: BTreeMap<&str, Files> = BTreeMap::new();
    for (path, (text, executable)) in files {
        match path.split_once('/') {
            Some((directory, rest)) => {
                below.entry(directory).or_default().insert(rest.to_owned(), (text.clone(), *executable));
            }
            None => {
                let blob = repository.blob(text.as_bytes()).expect("a blob");
                let mode = if *executable { FileMode::BlobExecutable } else { FileMode::Blob };
                builder.insert(path, blob, mode.into()).expect("an entry");
            }
        }
    }
    for (directory, files) in below {
        let tree = write_tree(repository, &files);
        builder.insert(directory, tree, FileMode::Tree.into()).expect("an entry");
    }
    builder.write().expect("a tree")
}
