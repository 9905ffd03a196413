//! Which files a step reads at the path that it names: a playbook's whole directory, what pytest looks for above a test.

use super::budget::Budget;
use super::files::{Files, Problem};
use super::reader::{Need, Reads};
use crate::domain::path::RepoPath;
use crate::domain::pipeline::StepPath;
use crate::domain::tree::{Entry, EntryKind};

/// Files that pytest reads in the directories above a test, besides the test.
const PYTEST_FILES: [&str; 6] = ["conftest.py", "pytest.ini", ".pytest.ini", "tox.ini", "setup.cfg", "pyproject.toml"];

/// Directories that Ansible looks for beside a playbook.
const ANSIBLES: [&str; 16] = [
    "roles",
    "group_vars",
    "host_vars",
    "files",
    "templates",
    "vars",
    "defaults",
    "tasks",
    "handlers",
    "meta",
    "library",
    "module_utils",
    "collections",
    "playbooks",
    "inventory",
    "inventories",
];

/// Vars of bundles, which count by their values.
const VARS_FILES: [&str; 2] = ["build-vars.yml", "build-vars.template.yml"];

/// Adds what a step reads at a path. Paths of the bundle count from it, others from the root.
pub(super) fn add(files: &mut Files<'_>, need: &Need, bundle: &RepoPath, budget: &mut Budget) -> Result<(), Problem> {
    let path = need.path.in_repository(bundle);
    match need.reads {
        Reads::All => files.add(&path, budget).map(drop),
        Reads::Script => match files.add(&path, budget)? {
            EntryKind::Directory => Err(Problem::Missing(path)),
            _ => Ok(()),
        },
        Reads::Beside => {
            let (_, entry) = files.resolve(&path)?;
            if !entry.kind.is_file() {
                return Err(Problem::Missing(path));
            }
            files.add_where(&path.parent(), &is_ansibles, budget)
        }
        Reads::Directory => match files.add(&path, budget)? {
            EntryKind::Directory => Ok(()),
            _ => Err(Problem::Missing(path)),
        },
        Reads::IfThere => add_if_there(files, &path, budget),
        Reads::Playbook => {
            let (_, entry) = files.resolve(&path)?;
            if !entry.kind.is_file() {
                return Err(Problem::Missing(path));
            }
            files.add(&path.parent(), budget).map(drop)
        }
        Reads::Tests => {
            let top = if matches!(need.path, StepPath::Bundle(_)) { bundle.clone() } else { RepoPath::root() };
            let mut directory = path.clone();
            files.add(&path, budget)?;
            while directory != top && !directory.is_root() {
                directory = directory.parent();
                for name in PYTEST_FILES {
                    let Some(path) = directory.join(name) else { continue };
                    add_if_there(files, &path, budget)?;
                }
            }
            Ok(())
        }
    }
}

fn add_if_there(files: &mut Files<'_>, path: &RepoPath, budget: &mut Budget) -> Result<(), Problem> {
    match files.add(path, budget) {
        Ok(_) | Err(Problem::Missing(_)) => Ok(()),
        Err(problem) => Err(problem),
    }
}

/// Whether Ansible may look for an entry beside a playbook: other playbooks, and directories of well-known names.
fn is_ansibles(entry: &Entry) -> bool {
    let name = String::from_utf8_lossy(&entry.name);
    if entry.kind == EntryKind::Directory {
        return ANSIBLES.contains(&name.as_ref()) || name.ends_with("_plugins");
    }
    (name.ends_with(".yml") || name.ends_with(".yaml")) && !VARS_FILES.contains(&name.as_ref())
}
