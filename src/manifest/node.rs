//! The tree that YAML is read into: every node and key knows its place, so that whatever is wrong can be shown.

use super::fault::Span;
use crate::domain::expression::Text;
use crate::domain::value::Value;

/// A node of a document.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    /// Where it stands.
    pub(super) span: Span,
    /// What it is.
    pub(super) kind: Kind,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// A scalar: its value, and the text as it was written.
    Scalar {
        /// What it stands for.
        value: Value,
        /// How it was written, quotes taken off.
        raw: String,
    },
    /// A list.
    List(Vec<Node>),
    /// A map.
    Map(Vec<(Key, Node)>),
    /// A text whose expressions are not filled in; never made by reading, only by `bind`.
    Open(Text),
}

/// A key of a map.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Key {
    /// Where it stands.
    pub(super) span: Span,
    /// Its text.
    pub(super) text: String,
}

impl Node {
    /// The value without the places. What is still open stands as its text.
    pub(super) fn value(&self) -> Value {
        match &self.kind {
            Kind::Scalar { value, .. } => value.clone(),
            Kind::List(items) => Value::List(items.iter().map(Self::value).collect()),
            Kind::Map(entries) => {
                Value::Map(entries.iter().map(|(key, node)| (key.text.clone(), node.value())).collect())
            }
            Kind::Open(text) => Value::String(text.to_string()),
        }
    }

    /// The node below a key.
    pub(super) fn get(&self, name: &str) -> Option<&Self> {
        match &self.kind {
            Kind::Map(entries) => entries.iter().find(|(key, _)| key.text == name).map(|(_, node)| node),
            _ => None,
        }
    }

    /// The text, where it is a scalar that is text.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar { value, .. } => value.as_str(),
            _ => None,
        }
    }

    /// A value with the place of the expression that gave it.
    pub(super) fn of(value: &Value, span: Span) -> Self {
        let kind = match value {
            Value::List(items) => Kind::List(items.iter().map(|item| Self::of(item, span)).collect()),
            Value::Map(entries) => {
                let entry = |(key, value): &(String, Value)| (Key { span, text: key.clone() }, Self::of(value, span));
                Kind::Map(entries.iter().map(entry).collect())
            }
            scalar => Kind::Scalar { value: scalar.clone(), raw: scalar.to_string() },
        };
        Self { span, kind }
    }
}
