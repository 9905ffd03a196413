//! A tree in memory, for the tests of this room: files by path, with ids like git's for directories too.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use crate::domain::id::Oid;
use crate::domain::path::RepoPath;
use crate::domain::tree::{Entry, EntryKind, Tree, TreeError};

/// A repository in memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Forest {
    files: BTreeMap<RepoPath, (EntryKind, Vec<u8>)>,
    directories: BTreeMap<RepoPath, Vec<Entry>>,
}

impl Forest {
    /// A repository with these text files.
    pub(super) fn new(files: &[(&str, &str)]) -> Self {
        let mut forest = Self::default();
        for (path, text) in files {
            forest.files.insert(at(path), (EntryKind::File, text.as_bytes().to_vec()));
        }
        forest.grow();
        forest
    }

    /// The same with one more file, or another content for one.
    pub(super) fn with(&self, path: &str, text: &str) -> Self {
        self.put(path.as_bytes(), EntryKind::File, text.as_bytes())
    }

    /// The same with something of another kind.
    pub(super) fn put(&self, path: &[u8], kind: EntryKind, content: &[u8]) -> Self {
        let mut forest = self.clone();
        forest.files.insert(RepoPath::new(path).expect("inside"), (kind, content.to_vec()));
        forest.grow();
        forest
    }

    /// The same without a file.
    pub(super) fn without(&self, path: &str) -> Self {
        let mut forest = self.clone();
        forest.files.remove(&at(path)).expect("a file");
        forest.grow();
        forest
    }

    /// The same with a directory under another name.
    pub(super) fn renamed(&self, from: &str, to: &str) -> Self {
        let mut forest = Self::default();
        for (path, file) in &self.files {
            let path = path.below(&at(from)).and_then(|rest| at(to).join(rest.as_bytes())).unwrap_or(path.clone());
            forest.files.insert(path, file.clone());
        }
        forest.grow();
        forest
    }

    /// Makes the directories out of the files.
    fn grow(&mut self) {
        self.directories = BTreeMap::from([(RepoPath::root(), Vec::new())]);
        for (path, (kind, content)) in &self.files {
            let entry = Entry { name: path.name().to_vec(), kind: *kind, oid: Some(oid(content)) };
            self.directories.entry(path.parent()).or_default().push(entry);
            let mut above = path.parent();
            while !above.is_root() {
                above = above.parent();
                self.directories.entry(above.clone()).or_default();
            }
        }
        let paths: Vec<RepoPath> = self.directories.keys().filter(|path| !path.is_root()).cloned().collect();
        // Deeper ones first, so that a directory's id covers all that is below it.
        let mut deep = paths;
        deep.sort_by_key(|path| std::cmp::Reverse(path.parts().count()));
        for path in deep {
            let entries = self.directories.get_mut(&path).expect("a directory");
            entries.sort_by(|one, other| one.name.cmp(&other.name));
            let oid = oid(format!("{entries:?}").as_bytes());
            let entry = Entry { name: path.name().to_vec(), kind: EntryKind::Directory, oid: Some(oid) };
            self.directories.get_mut(&path.parent()).expect("its parent").push(entry);
        }
        if let Some(root) = self.directories.get_mut(&RepoPath::root()) {
            root.sort_by(|one, other| one.name.cmp(&other.name));
        }
    }
}

impl Tree for Forest {
    fn entry(&self, path: &RepoPath) -> Result<Option<Entry>, TreeError> {
        if path.is_root() {
            return Ok(Some(Entry { name: Vec::new(), kind: EntryKind::Directory, oid: None }));
        }
        let siblings = self.directories.get(&path.parent()).map_or(&[][..], Vec::as_slice);
        let found = siblings.binary_search_by(|entry| entry.name.as_slice().cmp(path.name()));
        Ok(found.ok().map(|index| siblings[index].clone()))
    }

    fn list(&self, directory: &RepoPath) -> Result<Vec<Entry>, TreeError> {
        Ok(self.directories.get(directory).cloned().unwrap_or_default())
    }

    fn read(&self, path: &RepoPath, limit: u64) -> Result<Vec<u8>, TreeError> {
        match self.files.get(path) {
            None => Err(TreeError::Missing(path.clone())),
            Some((_, content)) if content.len() as u64 > limit => {
                Err(TreeError::TooLarge { path: path.clone(), limit })
            }
            Some((_, content)) => Ok(content.clone()),
        }
    }
}

fn at(path: &str) -> RepoPath {
    RepoPath::new(path).expect("inside the repository")
}

fn oid(content: &[u8]) -> Oid {
    let sum: [u8; 32] = Sha256::digest(content).into();
    let mut oid = [0; 20];
    oid.copy_from_slice(&sum[..20]);
    Oid(oid)
}
