//! What a stage's result depends on, and the fingerprint it hashes to.
//!
//! A fingerprint has two halves. The *declared* one is made from the repository alone: the inputs listed here, chained on
//! the parent stage's. The *resolved* one adds what is known only when the stage starts: the base image's sum, the driver,
//! the machine's settings, the versions of the tools on the host. Planning needs the first, results are kept under both.

use std::fmt;

use sha2::{Digest as _, Sha256};

use super::id::{Digest, Fingerprint, Oid};
use super::path::RepoPath;
use super::pipeline::Stage;
use super::tree::EntryKind;

/// The way fingerprints are made. A change of the way gets a new number, and stored inputs are hashed again under it.
pub const SCHEME: u32 = 1;

/// Where a path among the inputs counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum From {
    /// The bundle's directory, so that a renamed bundle keeps its results.
    Bundle,
    /// The repository's root: shared between bundles.
    Root,
}

/// One thing that a stage's result depends on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Input {
    /// A file, a link or (only as a step's own `inputs`) a submodule of the repository.
    File {
        /// Where the path counts from.
        from: From,
        /// The path.
        path: RepoPath,
        /// Its mode; for what counts by content only, always [`EntryKind::File`].
        kind: EntryKind,
        /// Its content.
        oid: Oid,
    },
    /// A value out of the pipeline or the vars.
    Value {
        /// What it is the value of: `bundle.img_base`, `step 2 shell`.
        name: String,
        /// The value, in one canonical text.
        text: String,
    },
    /// The declared fingerprint of another bundle's disk, which this one is based on.
    Base {
        /// The other bundle.
        bundle: RepoPath,
        /// Its disk's fingerprint.
        fingerprint: Fingerprint,
    },
}

impl Input {
    /// A value input.
    pub fn value(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self::Value { name: name.into(), text: text.into() }
    }

    /// Whether this is outside the bundle: a change of it touches every bundle that names it.
    pub fn is_shared(&self) -> bool {
        match self {
            Self::File { from, .. } => *from == From::Root,
            Self::Value { name, .. } => name.starts_with("pipeline ") || name.starts_with("packer "),
            Self::Base { .. } => true,
        }
    }

    /// What this is the state of: the same for the old and the new side of a change.
    pub fn subject(&self) -> String {
        match self {
            Self::File { from: From::Bundle, path, .. } => path.to_string(),
            Self::File { from: From::Root, path, .. } => format!("/{path}"),
            Self::Value { name, .. } => name.clone(),
            Self::Base { bundle, .. } => format!("base {bundle}"),
        }
    }

    /// The state, short enough for one line.
    pub fn state(&self) -> String {
        match self {
            Self::File { kind: EntryKind::File, oid, .. } => oid.to_string()[..6].to_owned(),
            Self::File { kind, oid, .. } => format!("{} mode {}", &oid.to_string()[..6], kind.mode()),
            Self::Value { text, .. } => shorten(text),
            Self::Base { fingerprint, .. } => fingerprint.short(),
        }
    }

    fn hash_into(&self, hasher: &mut Sha256) {
        let mut field = |bytes: &[u8]| {
            hasher.update((bytes.len() as u64).to_be_bytes());
            hasher.update(bytes);
        };
        match self {
            Self::File { from, path, kind, oid } => {
                field(b"file");
                field(if *from == From::Bundle { b"bundle" } else { b"root" });
                field(path.as_bytes());
                field(kind.mode().as_bytes());
                field(&oid.0);
            }
            Self::Value { name, text } => {
                field(b"value");
                field(name.as_bytes());
                field(text.as_bytes());
            }
            Self::Base { bundle: _, fingerprint } => {
                field(b"base");
                field(&fingerprint.0.0);
            }
        }
    }
}

fn shorten(text: &str) -> String {
    const MOST: usize = 40;
    let line = text.trim_matches('"');
    if line.chars().count() <= MOST {
        return line.to_owned();
    }
    line.chars().take(MOST - 1).chain(['…']).collect()
}

/// A stage's own inputs, without its parent's: sorted, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inputs(Vec<Input>);

impl Inputs {
    /// The inputs in one order, whatever order they were found in.
    pub fn new(mut inputs: Vec<Input>) -> Self {
        inputs.sort();
        inputs.dedup();
        Self(inputs)
    }

    /// The inputs, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &Input> {
        self.0.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// These and some more.
    pub fn with(&self, more: impl IntoIterator<Item = Input>) -> Self {
        Self::new(self.0.iter().cloned().chain(more).collect())
    }

    /// The sum of these inputs alone. Equal sums mean that nothing of the stage itself changed.
    pub fn digest(&self) -> Digest {
        let mut hasher = Sha256::new();
        self.0.iter().for_each(|input| input.hash_into(&mut hasher));
        Digest(hasher.finalize().into())
    }

    /// What differs from an earlier state, in the order of the inputs.
    pub fn differences(&self, before: &Self) -> Vec<Difference> {
        let find = |inputs: &Self, subject: &str| inputs.iter().find(|input| input.subject() == subject).cloned();
        let mut subjects: Vec<String> = self.iter().chain(before.iter()).map(Input::subject).collect();
        subjects.sort();
        subjects.dedup();
        subjects
            .into_iter()
            .map(|subject| Difference { before: find(before, &subject), after: find(self, &subject), subject })
            .filter(|difference| difference.before != difference.after)
            .collect()
    }
}

/// One input that differs between two states of a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What differs.
    pub subject: String,
    /// What it was; `None` where it was not there.
    pub before: Option<Input>,
    /// What it is; `None` where it is gone.
    pub after: Option<Input>,
}

impl Difference {
    /// Whether the difference lies outside the bundle.
    pub fn is_shared(&self) -> bool {
        self.before.iter().chain(&self.after).any(Input::is_shared)
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => write!(f, "{} {} → {}", self.subject, before.state(), after.state()),
            (None, Some(_)) => write!(f, "{} is new", self.subject),
            (Some(_), None) => write!(f, "{} is gone", self.subject),
            (None, None) => f.write_str(&self.subject),
        }
    }
}

/// The declared fingerprint of a stage: the sum of its own inputs, chained on its parent's fingerprint.
pub fn declared(stage: Stage, parent: Option<Fingerprint>, own: Digest) -> Fingerprint {
    chain(&["declared", stage.word()], parent, &[&own.0])
}

/// The resolved fingerprint: the declared one and what was found when the stage started, chained on the parent's
/// resolved one. `found` is sorted here, so its order does not count.
pub fn resolved(declared: Fingerprint, parent: Option<Fingerprint>, found: &[(String, String)]) -> Fingerprint {
    let mut found = found.to_vec();
    found.sort();
    let mut parts: Vec<&[u8]> = vec![&declared.0.0];
    for (name, value) in &found {
        parts.push(name.as_bytes());
        parts.push(value.as_bytes());
    }
    chain(&["resolved"], parent, &parts)
}

fn chain(words: &[&str], parent: Option<Fingerprint>, parts: &[&[u8]]) -> Fingerprint {
    let mut hasher = Sha256::new();
    hasher.update(SCHEME.to_be_bytes());
    let words = words.iter().map(|word| word.as_bytes());
    let parent: &[u8] = match &parent {
        Some(parent) => &parent.0.0,
        None => &[],
    };
    for part in words.chain([parent]).chain(parts.iter().copied()) {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    Fingerprint(Digest(hasher.finalize().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, content: u8) -> Input {
        let path = RepoPath::new(path).expect("inside");
        Input::File { from: From::Bundle, path, kind: EntryKind::File, oid: Oid([content; 20]) }
    }

    #[test]
    fn the_order_in_which_inputs_are_found_changes_nothing() {
        let one = Inputs::new(vec![file("a", 1), file("b", 2)]);
        let two = Inputs::new(vec![file("b", 2), file("a", 1), file("a", 1)]);
        assert_eq!(one.digest(), two.digest());
    }

    #[test]
    fn every_part_of_an_input_counts() {
        let base = Inputs::new(vec![file("a", 1)]).digest();
        let executable = Input::File {
            from: From::Bundle,
            path: RepoPath::new("a").expect("inside"),
            kind: EntryKind::Executable,
            oid: Oid([1; 20]),
        };
        for other in [file("a", 2), file("b", 1), executable, Input::value("a", "1")] {
            assert_ne!(Inputs::new(vec![other]).digest(), base);
        }
    }

    #[test]
    fn a_fingerprint_depends_on_stage_parent_and_inputs() {
        let own = Digest::of(b"own");
        let boot = declared(Stage::Boot, None, own);
        assert_ne!(boot, declared(Stage::Provision, None, own));
        assert_ne!(declared(Stage::Test, Some(boot), own), declared(Stage::Test, None, own));
        let found = |driver: &str| vec![("driver".to_owned(), driver.to_owned())];
        assert_ne!(resolved(boot, None, &found("qemu")), resolved(boot, None, &found("openstack")));
    }

    #[test]
    fn a_difference_says_what_changed_and_how() {
        let before = Inputs::new(vec![file("a", 1), file("gone", 1), Input::value("bundle.name", "\"x\"")]);
        let after = Inputs::new(vec![file("a", 2), file("new", 1), Input::value("bundle.name", "\"y\"")]);
        let said: Vec<String> = after.differences(&before).iter().map(ToString::to_string).collect();
        assert_eq!(said, ["a 010101 → 020202", "bundle.name x → y", "gone is gone", "new is new"]);
    }
}
