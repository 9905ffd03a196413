//! Reads over the keys of a builder or provisioner, as loosely typed as packer's own: a number stands for its text, one
//! value for a list of one.
//!
//! Every read notes what it found: for `check`, which shows it, and for the fingerprint, where it has an effect.

use std::sync::Arc;
use std::time::Duration;

use super::super::fault::{Fault, MOST_FAULTS, Source, Span, did_you_mean, quoted};
use super::super::node::{Key, Kind, Node};
use super::super::reader::{Need, Reads};
use super::engine::{Origin, Piece, Rendered, Scope, Trouble, render};
use super::refused;
use crate::domain::expression::Text;
use crate::domain::inputs::Input;
use crate::domain::path::RepoPath;
use crate::domain::pipeline::{Stage, StepPath};
use crate::domain::value::Value;

/// A builder or provisioner: its keys.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    /// What it is, for messages: "the provisioner `shell`".
    pub(super) what: String,
    /// Where it stands.
    pub(super) span: Span,
    /// Its keys with their values.
    pub(super) entries: Vec<(Key, Node)>,
}

impl Keys {
    /// The key with its value.
    pub(super) fn get(&self, name: &str) -> Option<&(Key, Node)> {
        let exact = self.entries.iter().find(|(key, _)| key.text == name);
        let found = exact.or_else(|| self.entries.iter().find(|(key, _)| key.text.eq_ignore_ascii_case(name)));
        found.filter(|(_, node)| !matches!(node.kind, Kind::Scalar { value: Value::Null, .. }))
    }

    /// Where the value of a key stands, else the whole.
    pub(super) fn place(&self, name: &str) -> Span {
        self.get(name).map_or(self.span, |(key, _)| key.span)
    }
}

/// A text of a template: its value and its place.
#[derive(Clone, Debug)]
pub(super) struct Said {
    /// Its value.
    pub(super) value: Rendered,
    /// Its place.
    pub(super) span: Span,
}

/// A path of a template.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// From the repository's root.
    pub(super) path: RepoPath,
    /// As a step has it.
    pub(super) step: StepPath,
    /// Where the template names it.
    pub(super) span: Span,
    /// Whether it was written with a `/` at its end.
    pub(super) has_slash: bool,
}

/// The reads over one template, for one bundle.
pub(super) struct Reader<'a> {
    pub(super) source: &'a Arc<Source>,
    pub(super) scope: Scope<'a>,
    /// The builder's name as it is written.
    pub(super) builder: &'a str,
    /// The template's directory.
    pub(super) directory: &'a RepoPath,
    pub(super) bundle: &'a RepoPath,
    /// What the names of inputs begin with.
    pub(super) label: String,
    pub(super) faults: Vec<Fault>,
    /// How many texts could not be evaluated, whether that is said of them or of a variable.
    pub(super) troubles: usize,
    pub(super) warnings: Vec<Fault>,
    pub(super) needs: Vec<Need>,
    pub(super) inputs: Vec<Input>,
    /// What the current provisioner says.
    pub(super) said: Vec<(String, Value)>,
}

impl Reader<'_> {
    /// Says a fault.
    pub(super) fn fault(&mut self, span: Span, code: &'static str, message: impl AsRef<str>, help: impl AsRef<str>) {
        if self.faults.len() < MOST_FAULTS {
            self.faults.push(self.source.fault(span, code, message).with_help(help));
        }
    }

    /// Says what an author should know.
    pub(super) fn warning(&mut self, span: Span, code: &'static str, message: impl AsRef<str>, help: impl AsRef<str>) {
        self.warnings.push(self.source.fault(span, code, message).with_help(help));
    }

    /// What is wrong so far: where it stays the same, what is missing was never there.
    pub(super) fn wrongs(&self) -> (usize, usize) {
        (self.faults.len(), self.troubles)
    }

    fn trouble(&mut self, span: Span, trouble: &Trouble) {
        self.troubles += 1;
        // What is wrong in a variable is said at the variable.
        if trouble.variable.is_none() {
            let span = self.source.locate(&trouble.piece, span);
            self.fault(span, "template", &trouble.message, &trouble.help);
        }
    }

    /// Says keys that packer knows nothing of, and such as have an effect that is not understood.
    pub(super) fn check(&mut self, keys: &Keys, understood: &[&str], known: &[&str]) {
        for (key, _) in &keys.entries {
            let is = |name: &&str| key.text == **name;
            if understood.iter().any(is) {
                continue;
            }
            if known.iter().any(is) {
                let message = format!("the key {} of {} is not understood yet", quoted(&key.text), keys.what);
                self.fault(key.span, "unsupported-key", message, refused::key(&key.text));
                continue;
            }
            let meant = did_you_mean(&key.text, understood.iter().copied());
            let hint = meant.map(|meant| format!("did you mean `{meant}`?")).unwrap_or_default();
            let message = format!("unknown key {} in {}", quoted(&key.text), keys.what);
            let fault = self.source.fault(key.span, "unknown-key", message).with_hint(hint);
            self.faults.push(fault.with_help(format!("keys are {}", understood.join(", "))));
        }
    }

    /// Says that a value is not what its key takes.
    pub(super) fn wrong(&mut self, span: Span, name: &str, expected: &str, node: &Node) {
        let found = match &node.kind {
            Kind::Scalar { value: Value::String(text), .. } => quoted(text),
            _ => node.value().kind().to_owned(),
        };
        self.fault(span, "wrong-type", format!("`{name}` takes {expected}, and this is {found}"), "");
    }

    fn scalar(&mut self, node: &Node, name: &str) -> Option<Said> {
        let text = match &node.kind {
            Kind::Scalar { value: Value::String(text), .. } => text.clone(),
            Kind::Scalar { value: Value::Bool(value), .. } => if *value { "1" } else { "0" }.to_owned(),
            Kind::Scalar { value: Value::Int(number), .. } => number.to_string(),
            Kind::Scalar { value: Value::Float(number), .. } => number.to_string(),
            Kind::Scalar { value: Value::Null, .. } => String::new(),
            _ => {
                self.wrong(node.span, name, "a text", node);
                return None;
            }
        };
        let rendered = render(&text, self.scope).and_then(|value| match self.is_rendered_again(name, &value) {
            Some(again) => render(&again, self.scope).map(|again| Rendered { origins: value.origins, ..again }),
            None => Ok(value),
        });
        match rendered {
            Ok(value) => Some(Said { value, span: node.span }),
            Err(trouble) => {
                self.trouble(node.span, &trouble);
                None
            }
        }
    }

    /// The text of what packer evaluates a second time, when the provisioner runs.
    fn is_rendered_again(&self, name: &str, value: &Rendered) -> Option<String> {
        let is_later =
            matches!(name, "inline" | "extra_arguments" | "ansible_env_vars" | "source" | "sources" | "destination");
        let is_known = value.pieces.iter().all(|piece| matches!(piece, Piece::Literal(_)));
        let text = value.shown();
        (is_later && is_known && text.contains("{{")).then_some(text)
    }

    /// A text. An empty one is none.
    pub(super) fn text(&mut self, keys: &Keys, name: &str) -> Option<Said> {
        let (_, node) = keys.get(name)?;
        let said = self.scalar(node, name)?;
        if said.value.pieces.is_empty() {
            return None;
        }
        self.said.push((name.to_owned(), Value::String(said.value.shown())));
        Some(said)
    }

    /// A text that must be known as it stands.
    pub(super) fn plain(&mut self, keys: &Keys, name: &str) -> Option<(String, Span)> {
        let said = self.text(keys, name)?;
        let text = self.closed(&said, name)?;
        self.origins(&said.value, false);
        Some((text, said.span))
    }

    /// A list of texts; one text is a list of its parts between commas, as packer takes it.
    pub(super) fn texts(&mut self, keys: &Keys, name: &str) -> Option<Vec<Said>> {
        let (_, node) = keys.get(name)?;
        let texts: Vec<Said> = match &node.kind {
            Kind::List(items) => items.iter().filter_map(|item| self.scalar(item, name)).collect(),
            _ => {
                let Said { value, span } = self.scalar(node, name)?;
                value.at_commas().into_iter().map(|value| Said { value, span }).collect()
            }
        };
        let shown = texts.iter().map(|said| Value::String(said.value.shown())).collect();
        self.said.push((name.to_owned(), Value::List(shown)));
        Some(texts)
    }

    /// true or false, as loosely as packer takes it.
    pub(super) fn flag(&mut self, keys: &Keys, name: &str) -> Option<bool> {
        let (_, node) = keys.get(name)?;
        let value = match &node.kind {
            Kind::Scalar { value: Value::Bool(value), .. } => Some(*value),
            Kind::Scalar { value: Value::Int(number), .. } => Some(*number != 0),
            _ => {
                let said = self.scalar(node, name)?;
                match self.closed(&said, name)?.as_str() {
                    "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
                    "" | "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
                    _ => None,
                }
            }
        };
        match value {
            Some(value) => self.said.push((name.to_owned(), Value::Bool(value))),
            None => self.wrong(node.span, name, "true or false", node),
        }
        value
    }

    /// Whole numbers.
    pub(super) fn numbers(&mut self, keys: &Keys, name: &str) -> Option<Vec<i64>> {
        let (_, node) = keys.get(name)?;
        let numbers: Vec<i64> = match &node.kind {
            Kind::List(items) => items.iter().filter_map(|node| self.number_of(node, name)).collect(),
            Kind::Scalar { value: Value::String(_), .. } => {
                let parts = self.scalar(node, name)?.value.at_commas();
                let numbers: Option<Vec<i64>> = parts.iter().map(|part| part.shown().trim().parse().ok()).collect();
                if numbers.is_none() {
                    self.wrong(node.span, name, "whole numbers", node);
                }
                numbers?
            }
            _ => vec![self.number_of(node, name)?],
        };
        self.said.push((name.to_owned(), Value::List(numbers.iter().copied().map(Value::Int).collect())));
        Some(numbers)
    }

    /// A whole number.
    pub(super) fn number(&mut self, keys: &Keys, name: &str) -> Option<i64> {
        let (_, node) = keys.get(name)?;
        let number = self.number_of(node, name)?;
        self.said.push((name.to_owned(), Value::Int(number)));
        Some(number)
    }

    fn number_of(&mut self, node: &Node, name: &str) -> Option<i64> {
        let number = match &node.kind {
            Kind::Scalar { value: Value::Int(number), .. } => Some(*number),
            Kind::Scalar { value: Value::String(_), .. } => {
                let said = self.scalar(node, name)?;
                self.closed(&said, name)?.parse().ok()
            }
            _ => None,
        };
        if number.is_none() {
            self.wrong(node.span, name, "a whole number", node);
        }
        number
    }

    /// A time as Go writes it. A bare number is one of nanoseconds, for packer too.
    pub(super) fn time(&mut self, keys: &Keys, name: &str) -> Option<Duration> {
        let (_, node) = keys.get(name)?;
        let (span, time) = match &node.kind {
            Kind::Scalar { value: Value::Int(number), .. } => {
                let help = format!("write `\"{number}s\"`");
                let message = format!("packer takes the number {number} of `{name}` for nanoseconds");
                self.warning(node.span, "nanoseconds", message, help);
                (node.span, u64::try_from(*number).ok().map(Duration::from_nanos))
            }
            _ => {
                let said = self.scalar(node, name)?;
                (said.span, go_duration(&self.closed(&said, name)?))
            }
        };
        match time {
            Some(time) => self.said.push((name.to_owned(), Value::String(format!("{time:?}")))),
            None => self.wrong(span, name, "a time such as `\"10s\"`, `\"5m\"` or `\"1h30m\"`", node),
        }
        time
    }

    /// The characters of a text that nothing is open in.
    pub(super) fn closed(&mut self, said: &Said, name: &str) -> Option<String> {
        let text = self.build_text(said, name)?;
        if text.is_open() {
            let message = format!("`{name}` must be known before a build begins");
            self.fault(said.span, "late-expression", message, "`build.…` can stand in commands and arguments");
            return None;
        }
        Some(text.to_string())
    }

    /// A text for the build, which fills in what is open in it.
    pub(super) fn build_text(&mut self, said: &Said, name: &str) -> Option<Text> {
        match said.value.text() {
            Ok(text) => Some(text),
            Err((why, help)) => {
                self.fault(said.span, "template", format!("`{name}`: {why}"), help);
                None
            }
        }
    }

    /// A path of the repository: relative to the template's directory.
    pub(super) fn path(&mut self, said: &Said, name: &str) -> Option<Place> {
        let mut value = said.value.clone();
        if value.pieces.first() == Some(&Piece::Directory) {
            value.pieces[0] = Piece::Literal(".".to_owned());
        }
        let text = self.closed(&Said { value, span: said.span }, name)?;
        let path = if text.starts_with('/') { None } else { self.directory.join(&text) };
        let Some(path) = path else {
            let help = "paths count from the template's directory, and nothing outside of the repository can be read";
            self.fault(said.span, "bad-path", format!("the path {} leaves the repository", quoted(&text)), help);
            return None;
        };
        let inside = path.below(self.bundle);
        self.origins(&said.value, inside.is_some());
        let step = inside.map_or_else(|| StepPath::Root(path.clone()), StepPath::Bundle);
        Some(Place { path, step, span: said.span, has_slash: text.ends_with('/') })
    }

    /// A path that a stage reads.
    pub(super) fn needed(&mut self, said: &Said, name: &str, reads: Reads) -> Option<Place> {
        let place = self.path(said, name)?;
        self.need(&place, reads);
        Some(place)
    }

    /// Notes that a stage reads what is at a place.
    pub(super) fn need(&mut self, place: &Place, reads: Reads) {
        self.needs.push(Need {
            stage: Stage::Provision,
            path: place.step.clone(),
            reads,
            span: place.span,
            source: Some(Arc::clone(self.source)),
        });
    }

    /// Counts a value for the fingerprint.
    pub(super) fn count(&mut self, name: &str, value: &Value) {
        self.inputs.push(Input::value(format!("{} {name}", self.label), value.canonical()));
    }

    /// Counts texts, with what of the bundle they were made from.
    pub(super) fn count_texts(&mut self, name: &str, texts: &[Said]) {
        texts.iter().for_each(|said| self.origins(&said.value, false));
        let canonical = texts.iter().map(|said| Value::String(said.value.canonical())).collect();
        self.count(name, &Value::List(canonical));
    }

    /// Counts a text, with what of the bundle it was made from.
    pub(super) fn count_text(&mut self, name: &str, said: &Said) {
        self.origins(&said.value, false);
        self.count(name, &Value::String(said.value.canonical()));
    }

    /// Counts a path: as a step has it, so that a renamed bundle keeps its results.
    pub(super) fn count_path(&mut self, name: &str, place: &Place) {
        let slash = if place.has_slash { "/" } else { "" };
        self.count(name, &Value::String(format!("{}{slash}", place.step)));
    }

    fn origins(&mut self, value: &Rendered, leads_inside: bool) {
        for origin in &value.origins {
            match origin {
                Origin::Value(input) => self.inputs.push(input.clone()),
                Origin::BundlePath(input) if !leads_inside => self.inputs.push(input.clone()),
                Origin::BundlePath(_) => {}
            }
        }
    }
}

/// A time as Go's `time.ParseDuration` takes it; not below zero.
pub(super) fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let unit_end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..unit_end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        seconds += number * unit;
        rest = &rest[unit_end..];
    }
    if text.is_empty() { None } else { Duration::try_from_secs_f64(seconds).ok() }
}
