//! The templates of a repository: each is parsed once in a reading, and what a bundle looked at outside is remembered.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use super::super::fault::Fault;
use super::super::files::{Files, Filter, Problem};
use super::{Template, hcl2};
use crate::domain::id::Oid;
use crate::domain::inputs::From;
use crate::domain::path::RepoPath;
use crate::domain::tree::{Tree, TreeError};

/// The most bytes of a template.
const MOST_BYTES: u64 = 4 * 1024 * 1024;

/// A path that was looked at, and the id of what lay there.
pub(in super::super) type Used = (RepoPath, Option<Oid>);

/// Why a template can't be read.
#[derive(Clone, Debug)]
pub(in super::super) enum NotRead {
    /// It is not there, or no file of this repository: the code of the fault and what is wrong.
    Bad(&'static str, String),
    /// What it says of itself.
    Said(Box<Fault>),
}

/// The templates of one repository at one commit.
pub(in super::super) struct Templates<'t> {
    tree: &'t dyn Tree,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    known: HashMap<RepoPath, Result<Arc<Template>, NotRead>>,
    ids: HashMap<RepoPath, Option<Oid>>,
    used: Vec<Used>,
    broken: Option<TreeError>,
}

impl<'t> Templates<'t> {
    /// Nothing looked at yet.
    pub(in super::super) fn new(tree: &'t dyn Tree) -> Self {
        Self { tree, state: RefCell::default() }
    }

    /// Begins a bundle.
    pub(in super::super) fn begin(&self) {
        self.state.borrow_mut().used.clear();
    }

    /// What the bundle looked at.
    ///
    /// # Errors
    /// When the tree itself failed meanwhile.
    pub(in super::super) fn used(&self) -> Result<Vec<Used>, TreeError> {
        let mut state = self.state.borrow_mut();
        match state.broken.take() {
            Some(error) => Err(error),
            None => Ok(std::mem::take(&mut state.used)),
        }
    }

    /// Whether what a bundle looked at is still the same.
    pub(in super::super) fn are_same(&self, used: &[Used]) -> bool {
        used.iter().all(|(path, oid)| self.id(path) == *oid)
    }

    /// Whether a file is there.
    pub(in super::super) fn has(&self, path: &RepoPath) -> bool {
        self.note(path).is_some()
    }

    /// Notes that the bundle depends on what lies at a path.
    pub(in super::super) fn note(&self, path: &RepoPath) -> Option<Oid> {
        let id = self.id(path);
        self.state.borrow_mut().used.push((path.clone(), id));
        id
    }

    fn id(&self, path: &RepoPath) -> Option<Oid> {
        if let Some(known) = self.state.borrow().ids.get(path) {
            return *known;
        }
        let id = match self.tree.entry(path) {
            Ok(entry) => entry.and_then(|entry| entry.oid),
            Err(error) => {
                self.state.borrow_mut().broken = Some(error);
                None
            }
        };
        self.state.borrow_mut().ids.insert(path.clone(), id);
        id
    }

    /// A template.
    ///
    /// # Errors
    /// Why it can't be read.
    pub(in super::super) fn get(&self, path: &RepoPath) -> Result<Arc<Template>, NotRead> {
        self.note(path);
        if let Some(known) = self.state.borrow().known.get(path) {
            return known.clone();
        }
        let found = self.read(path);
        self.state.borrow_mut().known.insert(path.clone(), found.clone());
        found
    }

    fn read(&self, path: &RepoPath) -> Result<Arc<Template>, NotRead> {
        let name = String::from_utf8_lossy(path.name()).to_lowercase();
        let is_hcl = name.ends_with(".hcl") || name.ends_with(".pkr.json");
        let mut files = Files::new(self.tree, From::Root, RepoPath::root(), Filter::All);
        let bad = |problem: Problem| match problem {
            Problem::Missing(_) => NotRead::Bad("missing-file", problem.to_string()),
            Problem::Link { .. } => NotRead::Bad("bad-link", problem.to_string()),
            Problem::Submodule(_) => NotRead::Bad("submodule", problem.to_string()),
            Problem::Tree(error) => self.broken(error),
            other => NotRead::Bad("too-large", other.to_string()),
        };
        let (found, entry) = files.resolve(path).map_err(bad)?;
        if found != *path {
            self.note(&found);
        }
        if !entry.kind.is_file() {
            return Err(NotRead::Bad("missing-file", format!("`{path}` is no file")));
        }
        if is_hcl {
            return Err(NotRead::Said(Box::new(hcl2(path))));
        }
        let bytes = match self.tree.read(&found, MOST_BYTES) {
            Ok(bytes) => bytes,
            Err(TreeError::TooLarge { .. }) => {
                return Err(NotRead::Bad("too-large", format!("`{path}` is larger than {MOST_BYTES} bytes")));
            }
            Err(error) => return Err(self.broken(error)),
        };
        match std::str::from_utf8(&bytes) {
            Ok(text) => Ok(Arc::new(Template::parse(path.clone(), text))),
            Err(_) => Err(NotRead::Bad("not-utf-8", format!("`{path}` is not UTF-8"))),
        }
    }

    fn broken(&self, error: TreeError) -> NotRead {
        let why = error.to_string();
        self.state.borrow_mut().broken = Some(error);
        NotRead::Bad("broken", why)
    }
}
