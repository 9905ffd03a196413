//! Typed reads over a pipeline's tree: each gives the value or says what was expected, where, and what was likely meant.
//!
//! A node whose expressions are not filled in is accepted by every read and gives nothing, so the same reads check a
//! pipeline on its own and read it for a bundle.

use std::sync::Arc;
use std::time::Duration;

use super::bind;
use super::fault::{Fault, MOST_FAULTS, Source, Span, did_you_mean, quoted};
use super::fields::Field;
use super::node::{Kind, Node};
use super::packer::{Machine, Remote, Templates};
use super::{hints, units};
use crate::domain::expression::Text;
use crate::domain::inputs::Input;
use crate::domain::path::RepoPath;
use crate::domain::pipeline::{Stage, StepPath};
use crate::domain::value::Value;

/// Which files a stage reads at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Reads {
    /// A file, or everything below a directory.
    All,
    /// A playbook: everything below its directory.
    Playbook,
    /// Tests: a file with what pytest reads besides, or everything below a directory.
    Tests,
    /// A playbook beside which other things lie: what Ansible looks for beside it.
    Beside,
    /// A script: a file.
    Script,
    /// Everything below a directory, which must be one.
    Directory,
    /// A file, or everything below a directory, where there is one.
    IfThere,
}

/// A path that a pipeline names and a stage reads.
#[derive(Clone, Debug)]
pub(super) struct Need {
    /// The stage.
    pub(super) stage: Stage,
    /// The path.
    pub(super) path: StepPath,
    /// What is read there.
    pub(super) reads: Reads,
    /// The place that names it.
    pub(super) span: Span,
    /// The file that names it, where that is not the pipeline.
    pub(super) source: Option<Arc<Source>>,
}

/// What packer templates are read for, where a pipeline is bound to a bundle.
#[derive(Clone, Copy)]
pub(super) struct Binding<'s> {
    /// The repository's templates.
    pub(super) templates: &'s Templates<'s>,
    /// The bundle.
    pub(super) bundle: &'s RepoPath,
    /// What is known of it.
    pub(super) scope: &'s Value,
}

/// What packer templates said besides steps.
#[derive(Debug, Default)]
pub(super) struct FromTemplates {
    /// What they and their expressions came to, in bytes.
    pub(super) weight: usize,
    /// What the first template says of the machine.
    pub(super) machine: Option<Machine>,
    /// Values that count.
    pub(super) inputs: Vec<(Stage, Input)>,
    /// Playbooks of the host.
    pub(super) remotes: Vec<Remote>,
    /// Whether the flavor of the vars has no effect.
    pub(super) flavor_is_dead: bool,
}

/// The reads over one pipeline.
pub(super) struct Reader<'s> {
    source: &'s Source,
    /// What was found wrong.
    pub(super) faults: Vec<Fault>,
    /// The paths that were named.
    pub(super) needs: Vec<Need>,
    /// What an author should know.
    pub(super) warnings: Vec<Fault>,
    /// What templates are read for; `None` where a pipeline is checked on its own.
    pub(super) binding: Option<Binding<'s>>,
    /// What templates said.
    pub(super) found: FromTemplates,
}

/// A map whose keys were checked.
#[derive(Clone, Copy)]
pub(super) struct Record<'n> {
    node: &'n Node,
    fields: &'static [Field],
}

impl<'n> Record<'n> {
    /// The node below a key of the table.
    pub(super) fn get(&self, name: &str) -> Option<&'n Node> {
        debug_assert!(self.fields.iter().any(|field| field.name == name), "no table has `{name}`");
        self.node.get(name)
    }
}

impl<'s> Reader<'s> {
    /// Reads over a file's tree.
    pub(super) fn new(source: &'s Source) -> Self {
        Self {
            source,
            faults: Vec::new(),
            needs: Vec::new(),
            warnings: Vec::new(),
            binding: None,
            found: FromTemplates::default(),
        }
    }

    /// The file's name, as steps keep it.
    pub(super) fn file(&self) -> &str {
        self.source.name()
    }

    /// Says a fault.
    pub(super) fn fault(&mut self, span: Span, code: &'static str, message: impl AsRef<str>, help: impl AsRef<str>) {
        self.say(|source| source.fault(span, code, message).with_help(help));
    }

    /// Says a fault with what was likely meant.
    pub(super) fn hinted(&mut self, fault: (Span, &'static str, String), hint: Option<String>, help: &str) {
        let (span, code, message) = fault;
        let hint = hint.map(|hint| format!("did you mean `{hint}`?")).unwrap_or_default();
        self.say(|source| source.fault(span, code, message).with_hint(hint).with_help(help));
    }

    fn say(&mut self, fault: impl FnOnce(&Source) -> Fault) {
        if self.faults.len() < MOST_FAULTS {
            self.faults.push(fault(self.source));
        }
    }

    /// Says that a value is not what its key takes.
    pub(super) fn wrong(&mut self, node: &Node, name: &str, expected: &str) {
        let found = match &node.kind {
            Kind::Scalar { value: Value::Null, .. } => "nothing".to_owned(),
            Kind::Scalar { value: Value::String(text), .. } => quoted(text),
            Kind::Scalar { value: value @ (Value::Int(_) | Value::Float(_)), raw } if *raw == value.to_string() => {
                format!("the number {raw}")
            }
            Kind::Scalar { value, raw } => format!("{} ({})", quoted(raw), value.kind()),
            Kind::List(items) if items.is_empty() => "an empty list".to_owned(),
            Kind::List(_) => "a list".to_owned(),
            Kind::Map(_) => "a map".to_owned(),
            Kind::Open(text) => quoted(&text.to_string()),
        };
        let meant = node.text().filter(|_| expected.starts_with("a map")).and_then(hints::meant);
        let fault = (node.span, "wrong-type", format!("`{name}` takes {expected}, and this is {found}"));
        self.hinted(fault, meant, "");
    }

    /// Whether the value is still unknown, so that nothing more can be said of it. `build.…` where no text stands is a
    /// fault, since no build is there when the pipeline is read.
    fn unknown(&mut self, node: &Node, name: &str) -> bool {
        let Kind::Open(text) = &node.kind else { return false };
        if bind::is_late(text) {
            let help = "`build.…` can stand in texts: commands, arguments, names, properties";
            self.fault(node.span, "late-expression", format!("`{name}` must be known before a build begins"), help);
        }
        true
    }

    /// A map with the keys of a table and no others.
    pub(super) fn record<'n>(&mut self, node: &'n Node, name: &str, fields: &'static [Field]) -> Option<Record<'n>> {
        if self.unknown(node, name) {
            return None;
        }
        let Kind::Map(entries) = &node.kind else {
            let keys: Vec<&str> = fields.iter().map(|field| field.name).collect();
            self.wrong(node, name, &format!("a map with {}", keys.join(", ")));
            return None;
        };
        let mut meant = Vec::new();
        for (key, _) in entries.iter().filter(|(key, _)| !fields.iter().any(|field| field.name == key.text)) {
            meant.extend(self.unknown_key(key.span, &key.text, name, fields));
        }
        // A key that is only spelled wrong is not said to be missing besides.
        let is_missing =
            |field: &&Field| field.required && node.get(field.name).is_none() && !meant.contains(&field.name);
        for field in fields.iter().filter(is_missing) {
            let message = format!("`{name}` lacks `{}`", field.name);
            self.fault(node.span, "missing-key", message, format!("{}: {}", field.name, field.about));
        }
        Some(Record { node, fields })
    }

    /// Says that a key is not known, and gives the one that was likely meant.
    fn unknown_key(&mut self, span: Span, key: &str, name: &str, fields: &[Field]) -> Option<&'static str> {
        let known: Vec<&'static str> = fields.iter().map(|field| field.name).collect();
        let meant = did_you_mean(key, known.iter().copied());
        let fault = (span, "unknown-key", format!("unknown key {} in `{name}`", quoted(key)));
        self.hinted(fault, meant.map(str::to_owned), &format!("keys are {}", known.join(", ")));
        meant
    }

    /// A list; a value that is no list is a fault.
    pub(super) fn list<'n>(&mut self, node: Option<&'n Node>, name: &str, of: &str) -> &'n [Node] {
        let Some(node) = node else { return &[] };
        match &node.kind {
            Kind::List(items) => items,
            _ if self.unknown(node, name) => &[],
            _ => {
                self.wrong(node, name, &format!("a list of {of}"));
                &[]
            }
        }
    }

    /// A text that may hold `build.…`.
    pub(super) fn text(&mut self, node: &Node, name: &str) -> Option<Text> {
        match &node.kind {
            Kind::Open(text) => Some(text.clone()),
            Kind::Scalar { value: Value::String(text), .. } => Some(Text::literal(text)),
            Kind::Scalar { value: Value::Int(_) | Value::Float(_), raw } => Some(Text::literal(raw)),
            Kind::Scalar { value: Value::Bool(_), raw } => {
                let message = format!("`{name}` takes a text, and {} is read as true or false", quoted(raw));
                self.hinted((node.span, "wrong-type", message), Some(format!("\"{raw}\"")), "");
                None
            }
            _ => {
                self.wrong(node, name, "a text");
                None
            }
        }
    }

    /// A text that is known before a build begins, and not empty.
    pub(super) fn plain(&mut self, node: &Node, name: &str) -> Option<String> {
        if self.unknown(node, name) {
            return None;
        }
        let text = self.text(node, name)?.to_string();
        if text.trim().is_empty() || text.contains('\0') {
            self.wrong(node, name, "a text that is not empty");
            return None;
        }
        Some(text)
    }

    /// A list of texts that may hold `build.…`.
    pub(super) fn texts(&mut self, node: Option<&Node>, name: &str) -> Vec<Text> {
        let items = self.list(node, name, "texts");
        items.iter().filter_map(|item| self.text(item, name)).collect()
    }

    /// A map of texts, sorted by key. Values of an image's properties print as Ansible prints them.
    pub(super) fn text_map(&mut self, node: Option<&Node>, name: &str) -> Vec<(String, Text)> {
        let Some(node) = node else { return Vec::new() };
        if self.unknown(node, name) {
            return Vec::new();
        }
        let Kind::Map(entries) = &node.kind else {
            self.wrong(node, name, "a map of texts");
            return Vec::new();
        };
        let mut texts = Vec::new();
        for (key, node) in entries {
            if key.text.is_empty() || key.text.contains(['=', '\0']) || key.text.contains("{{") {
                let message = format!("{} can't be a name in `{name}`", quoted(&key.text));
                self.fault(key.span, "bad-key", message, "a name is not empty, and holds neither `=` nor `{{`");
            }
            let text = match &node.kind {
                Kind::Scalar { value, .. } => Some(Text::literal(as_ansible_prints(value))),
                _ => self.text(node, &key.text),
            };
            texts.extend(text.map(|text| (key.text.clone(), text)));
        }
        texts.sort_by(|one, other| one.0.cmp(&other.0));
        texts
    }

    /// A whole number within bounds.
    pub(super) fn count(&mut self, node: &Node, name: &str, least: i64, most: i64) -> Option<i64> {
        if self.unknown(node, name) {
            return None;
        }
        match &node.kind {
            Kind::Scalar { value: Value::Int(number), .. } if (least..=most).contains(number) => Some(*number),
            _ => {
                self.wrong(node, name, &format!("a whole number from {least} to {most}"));
                None
            }
        }
    }

    /// true or false.
    pub(super) fn bool(&mut self, node: &Node, name: &str) -> Option<bool> {
        if self.unknown(node, name) {
            return None;
        }
        match &node.kind {
            Kind::Scalar { value: Value::Bool(value), .. } => Some(*value),
            _ => {
                self.wrong(node, name, "true or false");
                None
            }
        }
    }

    /// A time.
    pub(super) fn duration(&mut self, node: Option<&Node>, name: &str) -> Option<Duration> {
        let node = node?;
        if self.unknown(node, name) {
            return None;
        }
        let Some(text) = node.text() else {
            self.wrong(node, name, "a time with its unit, such as `90m`, `1h30m`, `7d` or `45s`");
            return None;
        };
        units::duration(text)
            .map_err(|why| {
                let message = format!("{} is no time: {why}", quoted(text));
                self.fault(node.span, "bad-duration", message, "times are written `90m`, `1h30m`, `7d`, `45s`");
            })
            .ok()
    }

    /// An amount of bytes.
    pub(super) fn size(&mut self, node: Option<&Node>, name: &str) -> Option<u64> {
        let node = node?;
        if self.unknown(node, name) {
            return None;
        }
        let Some(text) = node.text() else {
            self.wrong(node, name, "a size with its unit, such as `2GiB` or `512MiB`");
            return None;
        };
        units::size(text)
            .map_err(|(why, meant)| {
                let message = format!("{} is no size: {why}", quoted(text));
                self.hinted((node.span, "bad-size", message), meant, "sizes are written `2GiB`, `512MiB`");
            })
            .ok()
    }

    /// Permission bits. A number must be written with its leading zero, or it would be read as decimal.
    pub(super) fn mode(&mut self, node: Option<&Node>, name: &str) -> Option<u32> {
        let node = node?;
        if self.unknown(node, name) {
            return None;
        }
        let written = match &node.kind {
            Kind::Scalar { value: Value::String(text), .. } => units::mode(text),
            Kind::Scalar { value: Value::Int(bits), raw } if raw.starts_with('0') => {
                u32::try_from(*bits).ok().filter(|bits| *bits <= 0o7777)
            }
            _ => None,
        };
        if written.is_none() {
            self.wrong(node, name, "permission bits in octal with a leading zero, such as `0644`");
        }
        written
    }

    /// One of some words.
    pub(super) fn word<T: Copy>(&mut self, node: Option<&Node>, name: &str, words: &[(&str, T)]) -> Option<T> {
        let node = node?;
        if self.unknown(node, name) {
            return None;
        }
        // `none` is a text, but somebody may write `null` or `no`: the text as written says it better.
        let raw = if let Kind::Scalar { raw, .. } = &node.kind { raw.as_str() } else { "" };
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == raw) {
            return Some(*value);
        }
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let meant = did_you_mean(raw, known.iter().copied()).map(str::to_owned);
        let message = format!("`{name}` can't be {}", quoted(raw));
        self.hinted((node.span, "unknown-word", message), meant, &format!("it is one of {}", known.join(", ")));
        None
    }

    /// A path below the bundle, or with a leading `/` below the repository's root.
    pub(super) fn path(&mut self, node: &Node, name: &str) -> Option<StepPath> {
        let text = self.plain(node, name)?;
        if let Some(rest) = text.strip_prefix('/') {
            return match RepoPath::new(rest) {
                Some(path) => Some(StepPath::Root(path)),
                None => self.leaves(node, &text, "the repository"),
            };
        }
        match RepoPath::new(&text) {
            Some(path) => Some(StepPath::Bundle(path)),
            None => self.leaves(node, &text, "the bundle"),
        }
    }

    /// A path below the bundle only.
    pub(super) fn bundle_path(&mut self, node: &Node, name: &str) -> Option<RepoPath> {
        let text = self.plain(node, name)?;
        if text.starts_with('/') {
            let help = "write it without the leading `/`";
            self.fault(node.span, "bad-path", format!("`{name}` counts from the bundle, not from the root"), help);
            return None;
        }
        match RepoPath::new(&text) {
            Some(path) if !path.is_root() => Some(path),
            Some(_) => {
                self.wrong(node, name, "a path inside of the bundle");
                None
            }
            None => self.leaves(node, &text, "the bundle"),
        }
    }

    /// A path below the repository's root, whether or not it begins with `/`.
    pub(super) fn root_path(&mut self, node: &Node, name: &str) -> Option<StepPath> {
        let text = self.plain(node, name)?;
        match RepoPath::new(&text) {
            Some(path) => Some(StepPath::Root(path)),
            None => self.leaves(node, &text, "the repository"),
        }
    }

    fn leaves<T>(&mut self, node: &Node, text: &str, what: &str) -> Option<T> {
        let help = "begin the path with `/` to count from the repository's root; nothing outside of it can be read";
        self.fault(node.span, "bad-path", format!("the path {} leaves {what}", quoted(text)), help);
        None
    }
}

/// A scalar as Ansible prints it: today's factory gives properties to the cloud through it.
fn as_ansible_prints(value: &Value) -> String {
    match value {
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        other => other.to_string(),
    }
}
