//! Directories of today's factory that are made for another cloud by scripts of their own: `images_fe/*` and `os_fe/*`.
//! They are in no plan; `check` says what each lacks to be built here.

use super::build_script;
use super::reading::Unbuildable;
use crate::domain::path::RepoPath;
use crate::domain::tree::{EntryKind, Tree, TreeError};

/// The most directories that are told of.
const MOST: usize = 1000;

/// What a directory needs, and where it must lie.
struct Kind {
    directory: &'static str,
    place: &'static str,
    files: &'static [&'static str],
}

const KINDS: [Kind; 2] = [
    Kind { directory: "images_fe", place: "images/bundle-*", files: &["build-vars.yml", "ansible/bootstrap.yml"] },
    Kind {
        directory: "os_fe",
        place: "os/*",
        files: &["build-vars.template.yml", build_script::FILE, "ansible/bootstrap.yml"],
    },
];

/// The directories with what they lack, sorted by path.
///
/// # Errors
/// When the tree can't be read.
pub(super) fn look(tree: &dyn Tree) -> Result<Vec<(RepoPath, Unbuildable)>, TreeError> {
    let mut found = Vec::new();
    for kind in &KINDS {
        let Some(directory) = RepoPath::new(kind.directory) else { continue };
        for entry in tree.list(&directory)? {
            let is_directory = entry.kind == EntryKind::Directory && found.len() < MOST;
            let Some(path) = directory.join(&entry.name).filter(|_| is_directory) else { continue };
            let why = Unbuildable { reason: reason(tree, kind, &path)?, faults: Vec::new() };
            found.push((path, why));
        }
    }
    found.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(found)
}

fn reason(tree: &dyn Tree, kind: &Kind, path: &RepoPath) -> Result<String, TreeError> {
    let mut missing = Vec::new();
    for name in kind.files {
        let file = path.join(name.as_bytes());
        let is_there = match file {
            Some(file) => tree.entry(&file)?.is_some_and(|entry| entry.kind.is_file()),
            None => false,
        };
        if !is_there {
            missing.push(*name);
        }
    }
    let lacks = if missing.is_empty() { String::new() } else { format!("{} and ", missing.join(", ")) };
    Ok(format!(
        "it is made for another cloud, by a script of its own; to be built here it lacks {lacks}a place in {}",
        kind.place
    ))
}
