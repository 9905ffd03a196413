//! What a stage's result depends on, and the fingerprint it hashes to.
//!
//! A fingerprint has two halves. The *declared* one is made from the repository alone: the inputs listed here, chained on
//! the parent stage's. The *resolved* one adds what is known only when the stage starts: the base image's sum, the driver,
//! the machine's settings, the versions of the tools on the host. Planning needs the first, results are kept under both.

use std::cmp::Ordering;
use std::fmt;
use std::iter::Peekable;
use std::slice::Iter;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::id::{Digest, Fingerprint, Oid};
use super::path::RepoPath;
use super::pipeline::Stage;
use super::pool::Pool;
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
        name: Arc<str>,
        /// The value, in one canonical text.
        text: Arc<str>,
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
    pub fn value(name: impl Into<Arc<str>>, text: impl Into<Arc<str>>) -> Self {
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
            Self::Value { name, .. } => name.to_string(),
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

    /// What this is the state of, in the order of the inputs themselves.
    fn key(&self) -> Key<'_> {
        match self {
            Self::File { from, path, .. } => Key::File(*from, path),
            Self::Value { name, .. } => Key::Value(name),
            Self::Base { bundle, .. } => Key::Base(bundle),
        }
    }

    fn hash_into(&self, hasher: &mut Sha256) {
        let mut field = |bytes: &[u8]| hash_field(hasher, bytes);
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

/// [`Input::subject`], without making a text of it.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Key<'a> {
    File(From, &'a RepoPath),
    Value(&'a str),
    Base(&'a RepoPath),
}

fn hash_field(hasher: &mut Sha256, bytes: &[u8]) {
    hasher.update((bytes.len() as u64).to_be_bytes());
    hasher.update(bytes);
}

/// The most characters of a value in one line, and how many of them stand before the first that differs.
const MOST_SHOWN: usize = 40;
const LEAD: usize = 16;

fn shorten(text: &str) -> String {
    shorten_from(text.trim_matches('"'), 0)
}

fn shorten_from(text: &str, start: usize) -> String {
    let cut = if start > 0 { "…" } else { "" };
    let shown = text.chars().skip(start);
    if shown.clone().count() + cut.len().min(1) <= MOST_SHOWN {
        return cut.chars().chain(shown).collect();
    }
    let room = MOST_SHOWN - 1 - cut.len().min(1);
    cut.chars().chain(shown.take(room)).chain(['…']).collect()
}

/// Two texts, each short enough for one line, from a little before where they part.
fn shorten_both(before: &str, after: &str) -> (String, String) {
    let (before, after) = (before.trim_matches('"'), after.trim_matches('"'));
    let is_long = |text: &str| text.chars().count() > MOST_SHOWN;
    let alike = before.chars().zip(after.chars()).take_while(|(one, other)| one == other).count();
    let start = if is_long(before) || is_long(after) { alike.saturating_sub(LEAD) } else { 0 };
    (shorten_from(before, start), shorten_from(after, start))
}

/// A stage's own inputs, without its parent's: sorted, each once. A clone costs nothing: many bundles may share them.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    own: Arc<[Input]>,
    /// Sorted by their sums, each once.
    shared: Arc<[SharedInputs]>,
}

/// Inputs that several stages have in common, held and summed up once.
#[derive(Clone, Debug)]
pub struct SharedInputs(Arc<(Digest, Inputs)>);

impl SharedInputs {
    /// Inputs to be shared.
    pub fn new(inputs: Inputs) -> Self {
        Self(Arc::new((inputs.digest(), inputs)))
    }

    /// Their sum.
    pub fn digest(&self) -> Digest {
        self.0.0
    }

    /// The inputs.
    pub fn inputs(&self) -> &Inputs {
        &self.0.1
    }
}

impl PartialEq for SharedInputs {
    fn eq(&self, other: &Self) -> bool {
        self.digest() == other.digest()
    }
}

impl PartialEq for Inputs {
    fn eq(&self, other: &Self) -> bool {
        self.own == other.own && self.shared == other.shared
    }
}

impl Inputs {
    /// The inputs in one order, whatever order they were found in.
    pub fn new(mut inputs: Vec<Input>) -> Self {
        inputs.sort();
        inputs.dedup();
        Self { own: inputs.into(), shared: Arc::default() }
    }

    /// Has these inputs share with others in the pool what they have too.
    pub fn share(&mut self, pool: &mut Pool) {
        self.own = pool.inputs(std::mem::take(&mut self.own));
    }

    /// The inputs, sorted, each once.
    pub fn iter(&self) -> impl Iterator<Item = &Input> {
        let own = std::iter::once(&self.own);
        let shared = self.shared.iter().map(|shared| &shared.inputs().own);
        let mut heads: Vec<Peekable<Iter<'_, Input>>> = own.chain(shared).map(|part| part.iter().peekable()).collect();
        std::iter::from_fn(move || {
            if let [head] = heads.as_mut_slice() {
                return head.next();
            }
            let least = heads.iter_mut().filter_map(|head| head.peek().copied()).min()?;
            for head in &mut heads {
                head.next_if_eq(&least);
            }
            Some(least)
        })
    }

    /// Those that are this stage's alone, sorted.
    pub fn own(&self) -> &[Input] {
        &self.own
    }

    /// Those that it has in common with others.
    pub fn shared(&self) -> &[SharedInputs] {
        &self.shared
    }

    /// Whether this very state of something is among them.
    pub fn contains(&self, input: &Input) -> bool {
        let is_in = |part: &[Input]| part.binary_search(input).is_ok();
        is_in(&self.own) || self.shared.iter().any(|shared| is_in(&shared.inputs().own))
    }

    /// Whether both lie in the same memory: the quick way to see that they are equal.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.own, &other.own) && self.shared == other.shared
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        if self.shared.is_empty() { self.own.len() } else { self.iter().count() }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// These and some more.
    pub fn with(&self, more: impl IntoIterator<Item = Input>) -> Self {
        let mut more = more.into_iter().peekable();
        if more.peek().is_none() {
            return self.clone();
        }
        let own = Self::new(self.own.iter().cloned().chain(more).collect()).own;
        Self { own, shared: Arc::clone(&self.shared) }
    }

    /// These and some that others have too. What is shared is itself without shared parts.
    pub fn with_shared(&self, more: impl IntoIterator<Item = SharedInputs>) -> Self {
        let mut shared: Vec<SharedInputs> = self.shared.iter().cloned().chain(more).collect();
        shared.sort_by_key(SharedInputs::digest);
        shared.dedup();
        Self { own: Arc::clone(&self.own), shared: shared.into() }
    }

    /// The sum of these inputs alone. Equal sums mean that nothing of the stage itself changed.
    pub fn digest(&self) -> Digest {
        let mut hasher = Sha256::new();
        self.own.iter().for_each(|input| input.hash_into(&mut hasher));
        for shared in self.shared.iter() {
            hash_field(&mut hasher, b"shared");
            hash_field(&mut hasher, &shared.digest().0);
        }
        Digest(hasher.finalize().into())
    }

    /// What differs from an earlier state, in the order of what people read.
    pub fn differences(&self, before: &Self) -> Vec<Difference> {
        let mut found = if self.shared == before.shared {
            differences(self.own.iter(), before.own.iter())
        } else {
            differences(self.iter(), before.iter())
        };
        found.sort_by(|a, b| a.subject.cmp(&b.subject));
        found
    }
}

/// Goes through two sorted states side by side.
fn differences<'i>(after: impl Iterator<Item = &'i Input>, before: impl Iterator<Item = &'i Input>) -> Vec<Difference> {
    let (mut after, mut before) = (after.peekable(), before.peekable());
    let mut found = Vec::new();
    loop {
        let order = match (after.peek(), before.peek()) {
            (Some(new), Some(old)) => new.key().cmp(&old.key()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return found,
        };
        let new = if order.is_le() { after.next() } else { None };
        let old = if order.is_ge() { before.next() } else { None };
        if new != old {
            let subject = new.or(old).map(Input::subject).unwrap_or_default();
            found.push(Difference { subject, before: old.cloned(), after: new.cloned() });
        }
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
            (Some(Input::Value { text: before, .. }), Some(Input::Value { text: after, .. })) => {
                let (before, after) = shorten_both(before, after);
                write!(f, "{} {before} → {after}", self.subject)
            }
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
    fn what_is_shared_counts_once_and_is_found_wherever_it_is_held() {
        let part = |letters: &str, content| {
            let files = letters.chars().map(|letter| file(&letter.to_string(), content));
            SharedInputs::new(Inputs::new(files.collect()))
        };
        let own = Inputs::new(vec![file("b", 1), file("x", 1)]);
        let whole = own.with_shared([part("bcd", 1), part("abc", 1), part("abc", 1)]);
        let names: Vec<String> = whole.iter().map(Input::subject).collect();
        assert_eq!(names, ["a", "b", "c", "d", "x"]);
        assert_eq!(whole.len(), 5);
        assert_eq!(whole, own.with_shared([part("abc", 1)]).with_shared([part("bcd", 1)]));
        let after = own.with([file("y", 1)]).with_shared([part("cd", 2), part("ab", 1)]);
        assert_ne!(after.digest(), whole.digest());
        let said: Vec<String> = after.differences(&whole).iter().map(ToString::to_string).collect();
        assert_eq!(said, ["c 010101 → 020202", "d 010101 → 020202", "y is new"]);
    }

    /// Twenty thousand files in each of two states: anything that grows with their square takes minutes here.
    #[test]
    fn many_inputs_are_compared_in_one_pass() {
        let many = |content| (0..20_000).map(move |number| file(&format!("f{number}"), content));
        let (before, after) = (Inputs::new(many(1).collect()), Inputs::new(many(2).collect()));
        assert_eq!(after.differences(&before).len(), 20_000);
    }

    #[test]
    fn a_difference_says_what_changed_and_how() {
        let before = Inputs::new(vec![file("a", 1), file("gone", 1), Input::value("bundle.name", "\"x\"")]);
        let after = Inputs::new(vec![file("a", 2), file("new", 1), Input::value("bundle.name", "\"y\"")]);
        let said: Vec<String> = after.differences(&before).iter().map(ToString::to_string).collect();
        assert_eq!(said, ["a 010101 → 020202", "bundle.name x → y", "gone is gone", "new is new"]);
    }

    #[test]
    fn of_long_values_what_differs_is_shown() {
        let said = |before: &str, after: &str| {
            let of = |text| Inputs::new(vec![Input::value("step 1 shell", text)]);
            of(after).differences(&of(before))[0].to_string()
        };
        let with =
            |package: &str| format!("apt-get install --yes --no-install-recommends curl {package} nginx openssl vim");
        assert_eq!(
            said(&with("gcc"), &with("git")),
            "step 1 shell …ecommends curl gcc nginx openssl vim → …ecommends curl git nginx openssl vim"
        );
        assert_eq!(said("no", &with("git")), "step 1 shell no → apt-get install --yes --no-install-reco…");
        assert_eq!(said("short", "shore"), "step 1 shell short → shore");
    }
}
