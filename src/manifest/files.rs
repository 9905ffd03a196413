//! The files of a repository that a stage reads: everything below a path, links followed as far as they stay inside.
//!
//! A link counts twice: by its target's text and mode, and by what it leads to. One that leaves its bundle, is absolute or
//! leads nowhere makes the bundle unbuildable, and so does a submodule, since neither says what would be read.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fmt;

use super::budget::{Budget, Exceeded};
use crate::domain::id::Oid;
use crate::domain::inputs::{From, Input};
use crate::domain::path::RepoPath;
use crate::domain::tree::{Entry, EntryKind, Tree, TreeError};

/// How deep directories may lie in the repository, and below the place where a walk began: links may lead in circles.
const MOST_DEPTH: usize = 64;

/// How many links one path may lead through.
const MOST_LINKS: usize = 40;

/// The most bytes of a link's target.
const MOST_TARGET: u64 = 4096;

/// Why the files at a path can't be inputs.
#[derive(Debug)]
pub(super) enum Problem {
    /// Nothing is there.
    Missing(RepoPath),
    /// A link that can't be followed.
    Link { path: RepoPath, why: &'static str },
    /// Another repository.
    Submodule(RepoPath),
    /// Directories lie too deep.
    TooDeep(RepoPath),
    /// More files than a reader can bear.
    TooMany(Exceeded),
    /// The tree itself failed.
    Tree(TreeError),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(path) => write!(f, "`{path}` is missing"),
            Self::Link { path, why } => write!(f, "the link `{path}` {why}"),
            Self::Submodule(path) => write!(f, "`{path}` is a submodule, whose files are not in this repository"),
            Self::TooDeep(path) => write!(f, "directories lie more than {MOST_DEPTH} deep in each other at `{path}`"),
            Self::TooMany(exceeded) => exceeded.fmt(f),
            Self::Tree(error) => error.fmt(f),
        }
    }
}

impl std::convert::From<TreeError> for Problem {
    fn from(error: TreeError) -> Self {
        Self::Tree(error)
    }
}

impl std::convert::From<Exceeded> for Problem {
    fn from(exceeded: Exceeded) -> Self {
        Self::TooMany(exceeded)
    }
}

/// Which files below a path count, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filter {
    /// All, with their modes.
    All,
    /// Templates only, by content.
    Templates,
}

impl Filter {
    fn takes(self, name: &[u8]) -> bool {
        self == Self::All || name.ends_with(b".j2") || name.ends_with(b".hbs")
    }
}

/// Files found below a boundary: a bundle's directory, or the repository's root.
pub(super) struct Files<'t> {
    tree: &'t dyn Tree,
    boundary: RepoPath,
    from: From,
    filter: Filter,
    found: BTreeMap<RepoPath, (EntryKind, Oid)>,
    visited: HashSet<RepoPath>,
    /// Whether a link was among them: what it leads to may lie anywhere inside the boundary.
    pub(super) has_links: bool,
}

impl<'t> Files<'t> {
    /// Nothing found yet. For shared files the boundary is the repository's root.
    pub(super) fn new(tree: &'t dyn Tree, from: From, boundary: RepoPath, filter: Filter) -> Self {
        Self { tree, boundary, from, filter, found: BTreeMap::new(), visited: HashSet::new(), has_links: false }
    }

    /// The paths that were found, from the repository's root.
    pub(super) fn paths(&self) -> impl Iterator<Item = &RepoPath> {
        self.found.iter().filter(|(_, (kind, _))| kind.is_file()).map(|(path, _)| path)
    }

    /// What was found, as inputs.
    pub(super) fn into_inputs(self) -> Vec<Input> {
        let Self { boundary, from, found, .. } = self;
        let input = |(path, (kind, oid)): (RepoPath, _)| {
            let path = path.below(&boundary).unwrap_or(path);
            Input::File { from, path, kind, oid }
        };
        found.into_iter().map(input).collect()
    }

    /// Adds a file, or everything below a directory; gives what the path led to.
    pub(super) fn add(&mut self, path: &RepoPath, budget: &mut Budget) -> Result<EntryKind, Problem> {
        let (path, entry) = self.resolve(path)?;
        let kind = entry.kind;
        let mut open = vec![(path, entry, 0)];
        while let Some((path, entry, depth)) = open.pop() {
            self.visit(&path, &entry, depth, &mut open, budget)?;
        }
        Ok(kind)
    }

    /// Adds the entries of a directory that are wanted, with what lies below them.
    pub(super) fn add_where(
        &mut self,
        path: &RepoPath,
        wanted: &dyn Fn(&Entry) -> bool,
        budget: &mut Budget,
    ) -> Result<(), Problem> {
        let (path, _) = self.resolve(path)?;
        for entry in self.tree.list(&path)? {
            budget.entry()?;
            if let Some(path) = path.join(&entry.name).filter(|_| wanted(&entry)) {
                self.add(&path, budget)?;
            }
        }
        Ok(())
    }

    /// What a path leads to, every link on the way counted.
    pub(super) fn resolve(&mut self, path: &RepoPath) -> Result<(RepoPath, Entry), Problem> {
        match self.tree.entry(path)? {
            Some(entry) if entry.kind != EntryKind::Link => Ok((path.clone(), entry)),
            _ => self.follow(path),
        }
    }

    fn visit(
        &mut self,
        path: &RepoPath,
        entry: &Entry,
        depth: usize,
        open: &mut Vec<(RepoPath, Entry, usize)>,
        budget: &mut Budget,
    ) -> Result<(), Problem> {
        if !self.visited.insert(path.clone()) {
            return Ok(());
        }
        match entry.kind {
            EntryKind::File | EntryKind::Executable => {
                let kind = if self.filter == Filter::Templates { EntryKind::File } else { entry.kind };
                self.count(path, kind, entry)
            }
            EntryKind::Submodule => Err(Problem::Submodule(path.clone())),
            EntryKind::Link => {
                let (path, entry) = self.follow(path)?;
                if self.filter == Filter::All || entry.kind.is_file() {
                    open.push((path, entry, depth + 1));
                }
                Ok(())
            }
            EntryKind::Directory if depth >= MOST_DEPTH || path.parts().count() > MOST_DEPTH => {
                Err(Problem::TooDeep(path.clone()))
            }
            EntryKind::Directory => {
                for child in self.tree.list(path)? {
                    budget.entry()?;
                    if child.kind != EntryKind::Directory && !self.filter.takes(&child.name) {
                        continue;
                    }
                    let Some(path) = path.join(&child.name) else { continue };
                    open.push((path, child, depth + 1));
                }
                Ok(())
            }
        }
    }

    fn count(&mut self, path: &RepoPath, kind: EntryKind, entry: &Entry) -> Result<(), Problem> {
        let why = || "the reader gave no id for its content".to_owned();
        let oid = entry.oid.ok_or_else(|| TreeError::Broken { path: path.clone(), why: why() })?;
        self.found.insert(path.clone(), (kind, oid));
        Ok(())
    }

    /// Goes along a path part by part, through every link.
    fn follow(&mut self, path: &RepoPath) -> Result<(RepoPath, Entry), Problem> {
        let inside = path.below(&self.boundary).ok_or_else(|| Problem::Missing(path.clone()))?;
        let mut rest: VecDeque<Vec<u8>> = inside.parts().map(<[u8]>::to_vec).collect();
        let mut at = self.boundary.clone();
        let mut entry = self.tree.entry(&at)?.ok_or_else(|| Problem::Missing(path.clone()))?;
        let mut last_link: Option<RepoPath> = None;
        let mut links = 0;
        let mut climbed = false;
        while let Some(part) = rest.pop_front() {
            if part == b".." {
                let Some(link) = last_link.clone().filter(|_| at == self.boundary) else {
                    (at, climbed) = (at.parent(), true);
                    continue;
                };
                let why = if self.from == From::Bundle { "leaves the bundle" } else { "leaves the repository" };
                return Err(Problem::Link { path: link, why });
            }
            let Some(next) = at.join(&part) else { return Err(Problem::Missing(path.clone())) };
            let Some(found) = self.tree.entry(&next)? else {
                return Err(last_link.map_or_else(
                    || Problem::Missing(path.clone()),
                    |path| Problem::Link { path, why: "leads nowhere" },
                ));
            };
            if found.kind != EntryKind::Link {
                (at, entry, climbed) = (next, found, false);
                continue;
            }
            links += 1;
            if links > MOST_LINKS {
                return Err(Problem::Link { path: next, why: "leads around in a circle" });
            }
            for part in self.target(&next, &found)?.into_iter().rev() {
                rest.push_front(part);
            }
            last_link = Some(next);
        }
        if climbed {
            entry = self.tree.entry(&at)?.ok_or_else(|| Problem::Missing(path.clone()))?;
        }
        Ok((at, entry))
    }

    /// The parts of a link's target; the link itself is counted.
    fn target(&mut self, link: &RepoPath, entry: &Entry) -> Result<Vec<Vec<u8>>, Problem> {
        let target = self.tree.read(link, MOST_TARGET)?;
        self.has_links = true;
        self.count(link, EntryKind::Link, entry)?;
        if target.first() == Some(&b'/') {
            return Err(Problem::Link { path: link.clone(), why: "is absolute: it would lead out of the repository" });
        }
        let parts = target.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
        Ok(parts.map(<[u8]>::to_vec).collect())
    }
}
