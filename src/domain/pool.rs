//! What many bundles have in common, held once: inputs of stages and what they consist of, lists of steps.
//!
//! Ten thousand bundles of one pipeline differ in few words. A pool gives, for what it is shown, the equal thing that it
//! saw before, so that all of them share that one's memory. Nothing is changed by it but where things lie.

use std::collections::HashSet;
use std::sync::Arc;

use super::inputs::Input;
use super::path::RepoPath;
use super::pipeline::Step;

/// How many lists of steps are compared with: as many as a repository has pipelines whose steps mention no bundle.
const MOST_LISTS: usize = 16;

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Pool {
    texts: HashSet<Arc<str>>,
    paths: HashSet<RepoPath>,
    inputs: HashSet<Arc<[Input]>>,
    steps: Vec<Arc<[Step]>>,
}

impl Pool {
    /// Inputs of a stage: all of them as another has them, or each with what it shares.
    pub fn inputs(&mut self, mut inputs: Arc<[Input]>) -> Arc<[Input]> {
        if let Some(known) = self.inputs.get(&inputs) {
            return Arc::clone(known);
        }
        for input in Arc::get_mut(&mut inputs).into_iter().flatten() {
            *input = self.input(input.clone());
        }
        self.inputs.insert(Arc::clone(&inputs));
        inputs
    }

    fn input(&mut self, input: Input) -> Input {
        match input {
            Input::File { from, path, kind, oid } => Input::File { from, path: self.path(path), kind, oid },
            Input::Value { name, text } => Input::Value { name: self.text(name), text: self.text(text) },
            Input::Base { bundle, fingerprint } => Input::Base { bundle: self.path(bundle), fingerprint },
        }
    }

    /// A path.
    pub fn path(&mut self, path: RepoPath) -> RepoPath {
        if let Some(known) = self.paths.get(&path) {
            return known.clone();
        }
        self.paths.insert(path.clone());
        path
    }

    /// A text.
    pub fn text(&mut self, text: Arc<str>) -> Arc<str> {
        if let Some(known) = self.texts.get(&text) {
            return Arc::clone(known);
        }
        self.texts.insert(Arc::clone(&text));
        text
    }

    /// A list of steps.
    pub fn steps(&mut self, steps: Arc<[Step]>) -> Arc<[Step]> {
        if let Some(known) = self.steps.iter().find(|known| **known == steps) {
            return Arc::clone(known);
        }
        if self.steps.len() == MOST_LISTS {
            self.steps.remove(0);
        }
        self.steps.push(Arc::clone(&steps));
        steps
    }

    /// Lets go of what nobody else holds any more.
    pub fn sweep(&mut self) {
        self.inputs.retain(|inputs| Arc::strong_count(inputs) > 1);
        self.texts.retain(|text| Arc::strong_count(text) > 1);
        self.paths.retain(RepoPath::is_shared);
        self.steps.retain(|steps| Arc::strong_count(steps) > 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::Oid;
    use crate::domain::inputs::{From, Inputs};
    use crate::domain::tree::EntryKind;

    #[test]
    fn equal_inputs_share_their_memory_until_nobody_holds_them() {
        let mut pool = Pool::default();
        let file = || Input::File {
            from: From::Bundle,
            path: RepoPath::new("ansible/site.yml").expect("inside"),
            kind: EntryKind::File,
            oid: Oid([1; 20]),
        };
        let bundle = || Inputs::new(vec![Input::value("pipeline user", "\"root\""), file()]);
        let (mut one, mut other) = (bundle(), bundle());
        one.share(&mut pool);
        other.share(&mut pool);
        assert_eq!(one, bundle());
        assert!(one.is(&other));
        let mut third = Inputs::new(vec![file(), Input::value("pipeline user", "\"debian\"")]);
        third.share(&mut pool);
        let names = [&one, &third].map(|inputs| match &inputs.own()[1] {
            Input::Value { name, .. } => Arc::as_ptr(name),
            other => panic!("not in order: {other:?}"),
        });
        assert_eq!(names[0], names[1]);
        drop((one, other, third));
        pool.sweep();
        assert!(pool.inputs.is_empty() && pool.texts.is_empty() && pool.paths.is_empty());
    }
}
