//! Expressions of a pipeline: checked on their own, or filled in for one bundle, by the same walk over its tree.

use super::fault::{Fault, MOST_FAULTS, Source};
use super::node::{Kind, Node};
use crate::domain::expression::{Bound, ExpressionError, Text};
use crate::domain::value::Value;

/// The most bytes and values that the expressions of one pipeline may expand to for one bundle.
const MOST: usize = 1024 * 1024;

/// The walk over one pipeline.
pub(super) struct Binder<'s> {
    source: &'s Source,
    scope: Option<&'s Value>,
    /// What the expressions expanded to so far.
    weight: usize,
    faults: Vec<Fault>,
}

impl<'s> Binder<'s> {
    /// Fills in what `scope` has; without a scope, only checks what is written.
    pub(super) fn new(source: &'s Source, scope: Option<&'s Value>) -> Self {
        Self { source, scope, weight: 0, faults: Vec::new() }
    }

    /// The faults that were found, and the weight of what was filled in.
    pub(super) fn finish(self) -> (Vec<Fault>, usize) {
        (self.faults, self.weight)
    }

    /// The same tree with its expressions filled in. What can't be filled in yet is [`Kind::Open`].
    pub(super) fn bind(&mut self, node: &Node) -> Node {
        let kind = match &node.kind {
            Kind::List(items) => Kind::List(items.iter().map(|item| self.bind(item)).collect()),
            Kind::Map(entries) => Kind::Map(entries.iter().map(|(key, node)| (key.clone(), self.bind(node))).collect()),
            Kind::Scalar { value: Value::String(text), .. } if text.contains("{{") => match self.text(text) {
                Ok(Bound::Value(value)) => return Node::of(&value, node.span),
                Ok(Bound::Late(text)) => Kind::Open(text),
                Err(error) => {
                    self.fault(node, text, &error);
                    // Accepted by every reader, so that one mistake is one fault.
                    Kind::Open(anything())
                }
            },
            other => other.clone(),
        };
        Node { span: node.span, kind }
    }

    fn text(&mut self, text: &str) -> Result<Bound, ExpressionError> {
        let written = text;
        let text = Text::parse(written)?;
        let Some(scope) = self.scope else { return Ok(Bound::Late(text)) };
        for name in text.names() {
            let Some(value) = find(scope, name) else { continue };
            self.weight += weight(value, MOST);
            let at = written.find(&name.join(".")).unwrap_or_default();
            let span = at..(at + name.join(".").len()).min(written.len());
            let error = |message: String, help: &str| ExpressionError { span, message, help: help.to_owned() };
            if self.weight > MOST {
                let message = format!("the pipeline's expressions expand to more than {MOST} bytes");
                return Err(error(message, "use smaller values, or each of them less often"));
            }
            if is_template(value) {
                let message = format!("the value of `{}` holds an expression of its own", name.join("."));
                return Err(error(message, "values that a pipeline uses are taken as they are; write the value out"));
            }
        }
        text.bind(scope)
    }

    fn fault(&mut self, node: &Node, text: &str, error: &ExpressionError) {
        if self.faults.len() >= MOST_FAULTS {
            return;
        }
        let piece = text.get(error.span.clone()).unwrap_or_default();
        let span = self.source.locate(piece, node.span);
        self.faults.push(self.source.fault(span, "expression", &error.message).with_help(&error.help));
    }
}

/// A text that stands for any value: what it will be is not known.
fn anything() -> Text {
    Text::parse("{{ vars }}").unwrap_or_else(|_| Text::literal(""))
}

/// Whether an open text holds only `build.…`, so that it is a text and nothing else.
pub(super) fn is_late(text: &Text) -> bool {
    text.names().all(|name| name[0] == "build")
}

/// The value of a dotted name, if the scope has it.
pub(super) fn find<'v>(scope: &'v Value, name: &[String]) -> Option<&'v Value> {
    name.iter().try_fold(scope, |value, part| match value {
        Value::List(items) => items.get(part.parse::<usize>().ok()?),
        other => other.get(part),
    })
}

/// What a value takes: one for itself and its bytes; not counted beyond `most`.
pub(super) fn weight(value: &Value, most: usize) -> usize {
    let add = |sum: usize, value: &Value| if sum > most { sum } else { sum + weight(value, most - sum) };
    match value {
        Value::String(text) => 1 + text.len(),
        Value::List(items) => items.iter().fold(1, add),
        Value::Map(entries) => entries.iter().fold(1, |sum, (key, value)| add(sum + key.len(), value)),
        _ => 1,
    }
}

fn is_template(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains("{{") || text.contains("{%"),
        Value::List(items) => items.iter().any(is_template),
        Value::Map(entries) => entries.iter().any(|(_, value)| is_template(value)),
        _ => false,
    }
}
