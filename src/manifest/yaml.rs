//! The one reader of YAML: a tree in which every node knows its place, with scalars as Ansible's loader has them.
//!
//! It goes through the parser's events with a stack of its own, so depth costs no stack, and counts what aliases expand
//! to, so a small file can't become a large tree. Everything wrong in a file is said at once, as far as it can be read.

use std::borrow::Cow;
use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span as Range, StrInput, Tag};

use super::fault::{Fault, MOST_FAULTS, Source, Span, quoted};
use super::node::{Key, Kind, Node};
use super::{hints, scalar};
use crate::domain::value::Value;

/// The most bytes of a pipeline or vars file.
pub const MOST_BYTES: u64 = 1024 * 1024;

/// The most nodes of a document, aliases expanded.
const MOST_NODES: usize = 100_000;

/// The most bytes of text in a document, aliases expanded.
const MOST_TEXT: usize = 4 * 1024 * 1024;

/// How deep maps and lists may lie in each other.
const MOST_DEPTH: usize = 64;

/// Reads a document. `None` where it can't be read to its end; then at least one fault says why.
pub(super) fn load(source: &Source, faults: &mut Vec<Fault>) -> Option<Node> {
    if let Some(fault) = control_character(source) {
        faults.push(fault);
        return None;
    }
    let mut loader = Loader {
        source,
        faults: Vec::new(),
        stack: Vec::new(),
        anchors: HashMap::new(),
        nodes: 0,
        bytes: 0,
        root: None,
        cursor: (0, 1, 0),
    };
    let read = loader.run();
    faults.append(&mut loader.faults);
    read.then(|| loader.root.unwrap_or(Node { span: Span { line: 1, column: 1, length: 1 }, kind: null() }))
}

fn null() -> Kind {
    Kind::Scalar { value: Value::Null, raw: String::new() }
}

/// YAML allows none of these, and the parser would take a NUL for the end of the file.
fn control_character(source: &Source) -> Option<Fault> {
    let bad = |c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{85}');
    (1..=source.line_count()).find_map(|line| {
        let (index, c) = source.line(line).chars().enumerate().find(|(_, c)| bad(*c))?;
        let span = Span { line, column: index + 1, length: 1 };
        let message = format!("the character U+{:04X} can't stand in YAML", u32::from(c));
        Some(
            source
                .fault(span, "control-character", message)
                .with_help("write it as `\\x..` in a text with double quotes"),
        )
    })
}

/// A map or list whose end is not reached.
struct Frame {
    span: Span,
    anchor: usize,
    /// What was counted before it began, so that its own weight is known at its end.
    before: (usize, usize),
    inside: Inside,
}

enum Inside {
    List(Vec<Node>),
    Map {
        own: Entries,
        merged: Entries,
        key: Option<Slot>,
    },
    /// An unquoted `{{ … }}`: its fault is said, its content is passed over.
    Expression,
}

/// What the value that comes next belongs to.
enum Slot {
    Key(Key),
    Merge(Span),
    /// A key that is a fault of its own.
    Bad,
}

/// A finished node and what it weighs: nodes and bytes of text.
type Anchored = (Node, (usize, usize));

struct Loader<'s> {
    source: &'s Source,
    faults: Vec<Fault>,
    stack: Vec<Frame>,
    anchors: HashMap<usize, Anchored>,
    nodes: usize,
    bytes: usize,
    root: Option<Node>,
    /// The place that was looked at last: line, column, and the bytes of the line before it. What comes next lies behind
    /// it, so that a document of a single line is not walked through from its start for each of its values.
    cursor: (usize, usize, usize),
}

impl<'s> Loader<'s> {
    /// Whether the document was read to its end.
    fn run(&mut self) -> bool {
        let mut parser: Parser<'s, StrInput<'s>> = Parser::new_from_str(self.source.text());
        let mut documents = 0;
        while let Some(next) = parser.next_event() {
            let (event, range) = match next {
                Ok(next) => next,
                Err(error) => {
                    let known: Vec<usize> = self.faults.iter().map(|fault| fault.line).collect();
                    self.faults.extend(hints::syntax(self.source, &error, &known));
                    return false;
                }
            };
            let span = self.span(range);
            if matches!(event, Event::DocumentStart(_)) {
                documents += 1;
                if documents > 1 {
                    self.fault(
                        span,
                        "several-documents",
                        "a second document begins here",
                        "one file holds one document",
                    );
                    return false;
                }
            }
            if !self.take(event, span) || self.faults.len() >= MOST_FAULTS {
                return false;
            }
        }
        true
    }

    /// Takes one event; `false` ends the reading.
    fn take(&mut self, event: Event<'s>, span: Span) -> bool {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let before = (self.nodes, self.bytes);
                let node = self.scalar(text, style, tag.as_deref(), span);
                self.finish(node, anchor, before)
            }
            Event::SequenceStart(anchor, tag) => self.open(Inside::List(Vec::new()), anchor, tag.as_deref(), span),
            Event::MappingStart(anchor, tag) => {
                let inside = if self.is_bare_expression(span) {
                    Inside::Expression
                } else {
                    Inside::Map { own: Entries::default(), merged: Entries::default(), key: None }
                };
                self.open(inside, anchor, tag.as_deref(), span)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(anchor) => self.alias(anchor, span),
            _ => true,
        }
    }

    fn open(&mut self, inside: Inside, anchor: usize, tag: Option<&Tag>, span: Span) -> bool {
        if self.stack.len() >= MOST_DEPTH {
            let message = format!("maps and lists lie more than {MOST_DEPTH} deep in each other");
            self.fault(span, "too-deep", message, "lay the data out flatter");
            return false;
        }
        if let Some(tag) = tag.filter(|tag| !is_core(tag, &["map", "seq"])) {
            self.unknown_tag(tag, span);
        }
        self.stack.push(Frame { span, anchor, before: (self.nodes, self.bytes), inside });
        true
    }

    fn close(&mut self) -> bool {
        // The parser gives an end only for what it began.
        let Some(frame) = self.stack.pop() else { return true };
        let kind = match frame.inside {
            Inside::List(items) => Kind::List(items),
            Inside::Map { own, merged, .. } => Kind::Map(merged.under(own)),
            Inside::Expression => null(),
        };
        self.finish(Node { span: frame.span, kind }, frame.anchor, frame.before)
    }

    fn alias(&mut self, anchor: usize, span: Span) -> bool {
        let Some((nodes, bytes)) = self.anchors.get(&anchor).map(|(_, weight)| *weight) else {
            self.fault(span, "bad-alias", "the alias stands inside of what it names", "a value can't contain itself");
            return false;
        };
        let before = (self.nodes, self.bytes);
        // `finish` counts the node itself.
        self.nodes += nodes - 1;
        self.bytes += bytes;
        if !self.within_budget(span) {
            return false;
        }
        let kind = self.anchors.get(&anchor).map_or_else(null, |(node, _)| node.kind.clone());
        self.finish(Node { span, kind }, 0, before)
    }

    /// Puts a finished node where it belongs.
    fn finish(&mut self, node: Node, anchor: usize, before: (usize, usize)) -> bool {
        self.nodes += 1;
        if !self.within_budget(node.span) {
            return false;
        }
        if anchor > 0 {
            self.anchors.insert(anchor, (node.clone(), (self.nodes - before.0, self.bytes - before.1)));
        }
        let Some(frame) = self.stack.last_mut() else {
            self.root = Some(node);
            return true;
        };
        match &mut frame.inside {
            Inside::List(items) => items.push(node),
            Inside::Expression => {}
            Inside::Map { key, .. } => match key.take() {
                None => {
                    let slot = self.key(node);
                    self.set_key(slot);
                }
                Some(Slot::Bad) => {}
                Some(Slot::Merge(span)) => self.merge_into(span, node),
                Some(Slot::Key(key)) => self.insert(key, node),
            },
        }
        true
    }

    fn set_key(&mut self, slot: Slot) {
        if let Some(Frame { inside: Inside::Map { key, .. }, .. }) = self.stack.last_mut() {
            *key = Some(slot);
        }
    }

    fn key(&mut self, node: Node) -> Slot {
        let Kind::Scalar { value, raw } = node.kind else {
            if self.faults.last().is_none_or(|fault| fault.line != node.span.line) {
                self.fault(node.span, "bad-key", "a key must be a text, not a list or map", "");
            }
            return Slot::Bad;
        };
        match value {
            Value::String(text) if text == "<<" && !self.is_quoted(node.span) => Slot::Merge(node.span),
            Value::String(text) => Slot::Key(Key { span: node.span, text }),
            Value::Int(number) => Slot::Key(Key { span: node.span, text: number.to_string() }),
            other => {
                let message = format!("the key {} is read as {}", quoted(&raw), other.kind());
                self.fault(node.span, "bad-key", message, &format!("write it in quotes: \"{raw}\""));
                Slot::Bad
            }
        }
    }

    fn is_quoted(&mut self, span: Span) -> bool {
        self.at(span).starts_with(['"', '\''])
    }

    /// The rest of a line from a place on.
    fn at(&mut self, span: Span) -> &'s str {
        let line = self.source.line(span.line);
        let (column, before) = match self.cursor {
            (line, column, before) if line == span.line && column <= span.column => (column, before),
            _ => (1, 0),
        };
        let further = line[before..].char_indices().nth(span.column - column);
        let before = further.map_or(line.len(), |(bytes, _)| before + bytes);
        self.cursor = (span.line, span.column, before);
        &line[before..]
    }

    fn insert(&mut self, key: Key, node: Node) {
        let Some(Frame { inside: Inside::Map { own, .. }, .. }) = self.stack.last_mut() else { return };
        let Some(earlier) = own.line_of(&key.text) else { return own.put(key, node) };
        let message = format!("the key {} stands twice", quoted(&key.text));
        let help = format!("it stands in line {earlier} before; keep one of the two");
        self.fault(key.span, "duplicate-key", message, &help);
    }

    /// `<<: *map` or `<<: [*one, *other]`, of which the first has the say.
    fn merge_into(&mut self, span: Span, node: Node) {
        let maps = match node.kind {
            Kind::Map(entries) => vec![entries],
            Kind::List(items) if items.iter().all(|item| matches!(item.kind, Kind::Map(_))) => {
                let entries = |item: Node| if let Kind::Map(entries) = item.kind { entries } else { Vec::new() };
                items.into_iter().rev().map(entries).collect()
            }
            _ => return self.fault(span, "bad-merge", "`<<` takes a map or a list of maps", ""),
        };
        if let Some(Frame { inside: Inside::Map { merged, .. }, .. }) = self.stack.last_mut() {
            maps.into_iter().flatten().for_each(|(key, node)| merged.put(key, node));
        }
    }

    fn scalar(&mut self, text: Cow<'s, str>, style: ScalarStyle, tag: Option<&Tag>, mut span: Span) -> Node {
        self.bytes += text.len();
        let plain = style == ScalarStyle::Plain;
        if plain && !text.contains('\n') {
            span.length = text.chars().count().max(1);
        }
        let value = match tag {
            Some(tag) => self.tagged(tag, &text, span),
            None if plain => scalar::resolve(&text).unwrap_or_else(|why| {
                self.fault(span, "bad-scalar", why, "");
                Value::Null
            }),
            None => Value::from(&*text),
        };
        Node { span, kind: Kind::Scalar { value, raw: text.into_owned() } }
    }

    fn tagged(&mut self, tag: &Tag, text: &str, span: Span) -> Value {
        let plain = scalar::resolve(text);
        if is_core(tag, &["str"]) || (tag.handle.is_empty() && tag.suffix == "!") {
            return Value::from(text);
        }
        if tag.handle == "!" && tag.suffix == "unsafe" && !text.contains("{{") && !text.contains("{%") {
            return Value::from(text);
        }
        if is_core(tag, &["int", "float", "bool", "null"]) {
            match (tag.suffix.as_str(), plain) {
                ("int", Ok(value @ Value::Int(_)))
                | ("float", Ok(value @ Value::Float(_)))
                | ("bool", Ok(value @ Value::Bool(_)))
                | ("null", Ok(value @ Value::Null)) => return value,
                #[allow(clippy::cast_precision_loss)] // What the tag asks for.
                ("float", Ok(Value::Int(number))) => return Value::Float(number as f64),
                _ => {
                    let message = format!("{} is not what its tag `!!{}` says", quoted(text), tag.suffix);
                    self.fault(span, "bad-tag", message, "take the tag away, or write the value in quotes");
                    return Value::Null;
                }
            }
        }
        self.unknown_tag(tag, span);
        Value::Null
    }

    fn unknown_tag(&mut self, tag: &Tag, span: Span) {
        let (message, help) = match (tag.handle.as_str(), tag.suffix.as_str()) {
            ("!", "vault" | "vault-encrypted") => (
                "values encrypted with `!vault` can't be read".to_owned(),
                "keep the secret in the daemon's configuration, and name it in the step's `secrets`",
            ),
            ("!", "unsafe") => (
                "`!unsafe` keeps `{{` from being filled in, which is not supported".to_owned(),
                "take the tag away and write the text without `{{`",
            ),
            _ if is_core(tag, &[&tag.suffix]) => (format!("the tag `!!{}` is not known", tag.suffix), "take it away"),
            _ => (format!("the tag `{tag}` is not known"), "take it away"),
        };
        self.fault(span, "unknown-tag", message, help);
    }

    /// `a: {{ x }}`, which YAML takes for a map in a map. Says the fault once.
    fn is_bare_expression(&mut self, span: Span) -> bool {
        if matches!(self.stack.last(), Some(Frame { inside: Inside::Expression, .. })) {
            return true;
        }
        let bare = self.at(span).starts_with("{{");
        if bare {
            self.faults.push(hints::unquoted(self.source, span.line, span.column));
        }
        bare
    }

    fn within_budget(&mut self, span: Span) -> bool {
        let message = if self.nodes > MOST_NODES {
            format!("the document expands to more than {MOST_NODES} nodes")
        } else if self.bytes > MOST_TEXT {
            format!("the document expands to more than {} MiB of text", MOST_TEXT / 1024 / 1024)
        } else {
            return true;
        };
        self.fault(span, "too-large", message, "use fewer aliases (`*name`) or less data");
        false
    }

    fn span(&self, range: Range) -> Span {
        let (start, end) = (range.start, range.end);
        let length = if end.line() == start.line() {
            end.col().saturating_sub(start.col())
        } else {
            self.source.line(start.line()).trim_end().chars().count().saturating_sub(start.col())
        };
        Span { line: start.line(), column: start.col() + 1, length: length.max(1) }
    }

    fn fault(&mut self, span: Span, code: &'static str, message: impl AsRef<str>, help: &str) {
        self.faults.push(self.source.fault(span, code, message).with_help(help));
    }
}

fn is_core(tag: &Tag, names: &[&str]) -> bool {
    tag.is_yaml_core_schema() && names.contains(&tag.suffix.as_str())
}

/// The entries of a map, in order and found by key.
#[derive(Default)]
struct Entries {
    list: Vec<(Key, Node)>,
    index: HashMap<String, usize>,
}

impl Entries {
    /// Adds an entry; one of the same key keeps its place, as in Python's dict.
    fn put(&mut self, key: Key, node: Node) {
        match self.index.get(&key.text) {
            Some(at) => self.list[*at] = (key, node),
            None => {
                self.index.insert(key.text.clone(), self.list.len());
                self.list.push((key, node));
            }
        }
    }

    /// The line of a key, if it is there.
    fn line_of(&self, key: &str) -> Option<usize> {
        self.index.get(key).map(|at| self.list[*at].0.span.line)
    }

    /// These entries with others over them.
    fn under(mut self, over: Self) -> Vec<(Key, Node)> {
        if self.list.is_empty() {
            return over.list;
        }
        over.list.into_iter().for_each(|(key, node)| self.put(key, node));
        self.list
    }
}

#[cfg(test)]
#[path = "yaml_tests.rs"]
mod tests;
