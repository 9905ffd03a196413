//! The pipelines of a repository, and the directories that they are for.

use std::collections::BTreeMap;

use super::elsewhere;
use super::fault::{Fault, Span};
use super::globs::Positions;
use super::pipeline::PipelineFile;
use super::reading::Unbuildable;
use super::yaml::MOST_BYTES;
use crate::domain::id::Oid;
use crate::domain::path::RepoPath;
use crate::domain::tree::{EntryKind, Tree, TreeError};

/// Where pipelines lie.
const DIRECTORY: &str = "pipelines";

/// The most pipeline files of a repository, and the most globs of all of them.
const MOST_FILES: usize = 100;
const MOST_GLOBS: usize = 1000;

/// The most entries of directories that are looked at to find bundles, and how deep.
const MOST_ENTRIES: usize = 500_000;
const MOST_DEPTH: usize = 64;

/// The most bundles of a repository. Each takes some kilobytes for as long as its branch is there, before and after a
/// push, and ten thousand are what the daemon has room for (see `tests/daemon/large.rs`); a few more may be.
const MOST_BUNDLES: usize = 12_000;

/// What was found in a repository.
#[derive(Debug)]
pub(super) struct Discovery {
    /// The pipelines, in the order of their paths.
    pub(super) pipelines: Vec<PipelineFile>,
    /// The bundles, sorted by the bytes of their paths.
    pub(super) bundles: Vec<Candidate>,
    /// What is wrong with the pipelines.
    pub(super) faults: Vec<Fault>,
    /// Directories that can't be bundles here, with what they lack; only where the pipelines are built in.
    pub(super) elsewhere: Vec<(RepoPath, Unbuildable)>,
    /// Whether every bundle was found: not, where a glob could not be read or a limit was reached.
    pub(super) complete: bool,
}

/// A directory that pipelines match.
#[derive(Debug)]
pub(super) struct Candidate {
    /// Where it is.
    pub(super) path: RepoPath,
    /// The id of its tree, where directories have one.
    pub(super) oid: Option<Oid>,
    /// The pipelines that match it, by index.
    pub(super) pipelines: Vec<usize>,
}

/// Finds pipelines and bundles.
///
/// # Errors
/// When the tree can't be read.
pub(super) fn discover(tree: &dyn Tree) -> Result<Discovery, TreeError> {
    let mut pipelines = pipelines(tree)?;
    let mut faults = Vec::new();
    let mut complete = true;
    if pipelines.len() > MOST_FILES || pipelines.iter().map(|file| file.globs.len()).sum::<usize>() > MOST_GLOBS {
        let message = format!("more than {MOST_FILES} pipeline files, or {MOST_GLOBS} globs in them");
        let fault = Fault::new(DIRECTORY, Span::default(), "too-large", message);
        faults.push(fault.with_help("one pipeline can serve many bundles: write wider globs"));
        pipelines.clear();
        complete = false;
    }
    complete &= pipelines.iter().all(|file| file.has_all_globs);
    let mut walk = Walk { tree, pipelines: &pipelines, entries: 0, found: Vec::new(), faults: Vec::new() };
    complete &= walk.run()?;
    let Walk { found: mut bundles, faults: mut others, .. } = walk;
    bundles.sort_by(|one, other| one.path.cmp(&other.path));
    faults.extend(pipelines.iter().flat_map(|file| file.faults.iter().cloned()));
    faults.append(&mut others);
    faults.extend(doubly_matched(&pipelines, &bundles));
    let is_todays = pipelines.iter().any(PipelineFile::is_todays_os);
    let elsewhere = if is_todays { elsewhere::look(tree)? } else { Vec::new() };
    Ok(Discovery { pipelines, bundles, faults, elsewhere, complete })
}

/// The repository's own pipelines, or the built-in ones.
fn pipelines(tree: &dyn Tree) -> Result<Vec<PipelineFile>, TreeError> {
    let directory = RepoPath::new(DIRECTORY).unwrap_or_default();
    let mut files = Vec::new();
    for entry in tree.list(&directory)? {
        let is_yaml = entry.name.ends_with(b".yml") || entry.name.ends_with(b".yaml");
        let Some(path) = directory.join(&entry.name).filter(|_| is_yaml) else { continue };
        match entry.kind {
            EntryKind::Directory | EntryKind::Submodule => {}
            EntryKind::Link => {
                let message = "a pipeline must be a regular file, and this is a link";
                files.push(PipelineFile::unreadable(path, "link", message));
            }
            EntryKind::File | EntryKind::Executable if files.len() <= MOST_FILES => files.push(pipeline(tree, path)?),
            EntryKind::File | EntryKind::Executable => {}
        }
    }
    Ok(if files.is_empty() { PipelineFile::builtin().into() } else { files })
}

fn pipeline(tree: &dyn Tree, path: RepoPath) -> Result<PipelineFile, TreeError> {
    let bytes = match tree.read(&path, MOST_BYTES) {
        Ok(bytes) => bytes,
        Err(TreeError::TooLarge { .. }) => {
            let message = format!("a pipeline can have {MOST_BYTES} bytes, and this file is larger");
            return Ok(PipelineFile::unreadable(path, "too-large", &message));
        }
        Err(error) => return Err(error),
    };
    Ok(match std::str::from_utf8(&bytes) {
        Ok(text) => PipelineFile::read(path, text),
        Err(error) => {
            let line = bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
            let message = format!("line {line} is not UTF-8");
            PipelineFile::unreadable(path, "not-utf-8", &message)
        }
    })
}

/// The walk over the directories that globs could match.
struct Walk<'t> {
    tree: &'t dyn Tree,
    pipelines: &'t [PipelineFile],
    entries: usize,
    found: Vec<Candidate>,
    faults: Vec<Fault>,
}

/// A directory that is still to be looked into, with where each glob is: pipeline, glob, positions.
struct Open {
    path: RepoPath,
    depth: usize,
    at: Vec<(usize, usize, Positions)>,
}

impl Walk<'_> {
    /// Whether the walk got to its end.
    fn run(&mut self) -> Result<bool, TreeError> {
        let globs = self.pipelines.iter().enumerate().flat_map(|(pipeline, file)| {
            file.globs.iter().enumerate().map(move |(glob, (pattern, _))| (pipeline, glob, pattern.start()))
        });
        let mut open = vec![Open { path: RepoPath::root(), depth: 0, at: globs.collect() }];
        while let Some(directory) = open.pop() {
            for entry in self.tree.list(&directory.path)? {
                self.entries += 1;
                if self.entries > MOST_ENTRIES || directory.depth >= MOST_DEPTH {
                    let what =
                        format!("leads through more than {MOST_ENTRIES} entries or {MOST_DEPTH} levels of directories");
                    self.too_much(&directory, &what, "name the directories above the bundles instead of `**`");
                    return Ok(false);
                }
                let Some(path) = directory.path.join(&entry.name).filter(|_| entry.kind == EntryKind::Directory) else {
                    continue;
                };
                let at = self.enter(&directory.at, &entry.name);
                let pipelines = self.matching(&at, &path);
                if !pipelines.is_empty() && self.found.len() == MOST_BUNDLES {
                    let what = format!("leads to more than {MOST_BUNDLES} bundles");
                    self.too_much(
                        &directory,
                        &what,
                        "match the bundles alone, or give some of them a repository of their own",
                    );
                    return Ok(false);
                }
                if !pipelines.is_empty() {
                    self.found.push(Candidate { path, oid: entry.oid, pipelines });
                    continue;
                }
                let at: Vec<_> = at.into_iter().filter(|(p, g, at)| self.glob(*p, *g).goes_on(at)).collect();
                if !at.is_empty() {
                    open.push(Open { path, depth: directory.depth + 1, at });
                }
            }
        }
        Ok(true)
    }

    fn glob(&self, pipeline: usize, glob: usize) -> &super::globs::Pattern {
        &self.pipelines[pipeline].globs[glob].0
    }

    fn enter(&self, at: &[(usize, usize, Positions)], name: &[u8]) -> Vec<(usize, usize, Positions)> {
        at.iter().map(|(p, g, at)| (*p, *g, self.glob(*p, *g).enter(at, name))).filter(|(_, _, at)| at.any()).collect()
    }

    fn matching(&self, at: &[(usize, usize, Positions)], path: &RepoPath) -> Vec<usize> {
        let matching = at.iter().filter(|(p, g, at)| self.glob(*p, *g).ends(at, path));
        let mut pipelines: Vec<usize> = matching.map(|(pipeline, _, _)| *pipeline).collect();
        pipelines.dedup();
        pipelines
    }

    fn too_much(&mut self, directory: &Open, what: &str, help: &str) {
        let (pipeline, glob, _) = &directory.at[0];
        let (file, (pattern, span)) = (&self.pipelines[*pipeline], &self.pipelines[*pipeline].globs[*glob]);
        let message = format!("`{}` {what}, at `{}`", pattern.text(), directory.path);
        self.faults.push(file.source.fault(*span, "too-large", message).with_help(help));
    }
}

/// One fault for each two pipelines that match the same bundles.
fn doubly_matched(pipelines: &[PipelineFile], bundles: &[Candidate]) -> Vec<Fault> {
    let mut pairs: BTreeMap<(usize, usize), Vec<&RepoPath>> = BTreeMap::new();
    for bundle in bundles {
        if let [first, second, ..] = bundle.pipelines.as_slice() {
            pairs.entry((*first, *second)).or_default().push(&bundle.path);
        }
    }
    let fault = |((first, second), paths): ((usize, usize), Vec<&RepoPath>)| {
        let (first, second) = (&pipelines[first], &pipelines[second]);
        let glob = second.globs.iter().find(|(pattern, _)| pattern.matches(paths[0]));
        let span = glob.map(|(_, span)| *span).unwrap_or_default();
        let more = if paths.len() > 1 { format!(" and {} more", paths.len() - 1) } else { String::new() };
        let message = format!("two pipelines match `{}`{more}: {} and {}", paths[0], first.name(), second.name());
        let help = "a bundle has one pipeline: make one of the globs narrower";
        second.source.fault(span, "two-pipelines", message).with_help(help)
    };
    pairs.into_iter().map(fault).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::tree::Entry;

    /// Directories in directories, a hundred by a hundred: a million of them at the third level.
    struct Bomb;

    impl Tree for Bomb {
        fn entry(&self, _: &RepoPath) -> Result<Option<Entry>, TreeError> {
            Ok(None)
        }

        fn list(&self, directory: &RepoPath) -> Result<Vec<Entry>, TreeError> {
            let pipeline = Entry { name: b"wide.yml".to_vec(), kind: EntryKind::File, oid: None };
            let below = |name: u8| Entry { name: vec![name], kind: EntryKind::Directory, oid: None };
            let is_pipelines = directory.to_string() == DIRECTORY;
            Ok(if is_pipelines { vec![pipeline] } else { (0..100).map(|name| below(b'0' + name)).collect() })
        }

        fn read(&self, _: &RepoPath, _: u64) -> Result<Vec<u8>, TreeError> {
            Ok(b"version: 1\nbundles: ['*/*/*']\nstages:\n  - boot: { image: x }\n".to_vec())
        }
    }

    #[test]
    fn more_bundles_than_there_is_room_for_are_a_fault_of_the_glob() {
        let found = discover(&Bomb).expect("a tree");
        assert_eq!(found.bundles.len(), MOST_BUNDLES);
        assert!(!found.complete, "nothing may be taken out of service");
        let fault = found.faults[0].render("error");
        assert!(
            fault.contains("`*/*/*` leads to more than 12000 bundles, at `") && fault.contains("wide.yml:2:11"),
            "{fault}"
        );
    }
}
