//! What the steps of the host's Ansible read besides their playbooks: the `ansible.cfg` of the directory that it runs in, or
//! the one that the step's `ANSIBLE_CONFIG` names, and the roles, plugins and password files that settings lead to.

use std::sync::Arc;

use super::fault::{Source, Span};
use super::files::{Files, Filter, Problem};
use super::packer::Templates;
use super::pipeline::Bound;
use super::reader::{Need, Reads};
use super::yaml::MOST_BYTES;
use crate::domain::ansible_config::{AnsibleConfig, paths_of_variable};
use crate::domain::inputs::From;
use crate::domain::path::RepoPath;
use crate::domain::pipeline::{Action, Stage, Step, StepPath};
use crate::domain::tree::{Tree, TreeError};

/// Reads what settings of Ansible lead a bundle's steps to.
pub(super) struct AnsibleSettings<'r> {
    pub(super) tree: &'r dyn Tree,
    pub(super) bundle: &'r RepoPath,
    /// Keeps what the answer depends on.
    pub(super) templates: &'r Templates<'r>,
}

impl AnsibleSettings<'_> {
    /// Adds what the steps need; says how many bytes were read.
    ///
    /// # Errors
    /// When the tree itself fails.
    pub(super) fn read(&self, bound: &mut Bound) -> Result<usize, TreeError> {
        let (mut needs, mut bytes) = (Vec::new(), 0);
        for (stage, step) in bound.pipeline.steps() {
            if let Action::Ansible { play, .. } = &step.action {
                let directory = play.directory.as_ref().unwrap_or(self.bundle);
                bytes += self.of_step((stage, step), directory, &mut needs)?;
            }
        }
        // The settings are most often those of several steps.
        for need in needs {
            let is_same =
                |other: &Need| other.stage == need.stage && other.path == need.path && other.reads == need.reads;
            if !bound.needs.iter().any(is_same) {
                bound.needs.push(need);
            }
        }
        Ok(bytes)
    }

    fn of_step(
        &self,
        (stage, step): (Stage, &Step),
        directory: &RepoPath,
        needs: &mut Vec<Need>,
    ) -> Result<usize, TreeError> {
        let mut name = AnsibleConfig::FILE.to_owned();
        for (variable, value) in step.env.iter().filter(|(_, value)| !value.is_open()) {
            let value = value.to_string();
            for to in paths_of_variable(variable, &value) {
                let source = Arc::new(Source::new(step.written.0.clone(), ""));
                needs.extend(self.need(stage, directory.join(to), (&source, step.written.1)));
            }
            if variable == "ANSIBLE_CONFIG" {
                name = value;
            }
        }
        if name.starts_with('/') {
            return Ok(0);
        }
        let Some(path) = directory.join(&name) else { return Ok(0) };
        self.templates.note(&path);
        let mut files = Files::new(self.tree, From::Root, RepoPath::root(), Filter::All);
        let text = match files.resolve(&path) {
            Err(Problem::Missing(_)) => return Ok(0),
            Ok((path, entry)) if entry.kind.is_file() => match self.tree.read(&path, MOST_BYTES) {
                Err(TreeError::TooLarge { .. }) => Vec::new(),
                read => read?,
            },
            // What is wrong with it is said with the files that the stage reads.
            Ok(_) | Err(_) => Vec::new(),
        };
        let length = text.len();
        let text = String::from_utf8_lossy(&text);
        let source = Arc::new(Source::new(path.to_string(), &text));
        let top = path.parent();
        needs.extend(self.need(stage, Some(path), (&source, 1)));
        for (to, line) in AnsibleConfig::read(&text).paths() {
            needs.extend(self.need(stage, top.join(to), (&source, line)));
        }
        Ok(length)
    }

    /// What is read at a path, where there is something. A directory that holds the bundle holds much that no playbook
    /// reads, and what lies outside of the repository is not there.
    fn need(&self, stage: Stage, path: Option<RepoPath>, (source, line): (&Arc<Source>, usize)) -> Option<Need> {
        let path = path.filter(|path| self.bundle.below(path).is_none())?;
        let path = match path.below(self.bundle) {
            Some(path) => StepPath::Bundle(path),
            None => StepPath::Root(path),
        };
        let span = Span { line, column: 1, length: 1 };
        Some(Need { stage, path, reads: Reads::IfThere, span, source: Some(Arc::clone(source)) })
    }
}
