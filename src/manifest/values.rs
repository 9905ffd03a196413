//! What of a pipeline's text counts for a stage, and which values of the vars its expressions use.
//!
//! The two are inputs of their own: what the pipeline says is shared between bundles, what the vars say is the bundle's,
//! and a plan must tell a change of one from a change of the other. Layout, comments, names of steps and limits of time do
//! not count.

use super::bind;
use super::fields::{self, ACTIONS, Field, STEP, Shape};
use super::node::{Kind, Node};
use crate::domain::expression::Text;
use crate::domain::inputs::Input;
use crate::domain::pipeline::Stage;
use crate::domain::value::Value;

/// The inputs of a stage that are values. `root` is the pipeline's tree as written, `scope` the bundle's.
pub(super) fn of_stage(root: &Node, stage: Stage, scope: &Value) -> Vec<Input> {
    let Some(Kind::List(items)) = root.get("stages").map(|node| &node.kind) else { return Vec::new() };
    let mut walk = Walk { stage, scope, inputs: Vec::new() };
    if let Some(node) = items.iter().find_map(|item| item.get(stage.word())) {
        walk.fields(node, fields::of_stage(stage), "pipeline");
    }
    walk.inputs
}

struct Walk<'s> {
    stage: Stage,
    scope: &'s Value,
    inputs: Vec<Input>,
}

impl Walk<'_> {
    fn fields<'f>(&mut self, node: &Node, fields: impl IntoIterator<Item = &'f Field>, label: &str) {
        for field in fields.into_iter().filter(|field| field.counts) {
            if let Some(node) = node.get(field.name) {
                self.field(node, &field.shape, &format!("{label} {}", field.name));
            }
        }
    }

    fn field(&mut self, node: &Node, shape: &Shape, label: &str) {
        match (shape, &node.kind) {
            (Shape::Steps | Shape::Changes, Kind::List(steps)) => {
                for (index, step) in steps.iter().enumerate() {
                    self.fields(step, ACTIONS.iter().chain(STEP), &format!("pipeline step {}", index + 1));
                }
            }
            (Shape::Short(fields) | Shape::Record(fields), Kind::Map(_)) => self.fields(node, *fields, label),
            (Shape::Short([first, ..]), _) if !first.counts => {}
            // The short form says the same as the long one.
            (Shape::Short([first, ..]), _) => self.leaf(node, &format!("{label} {}", first.name)),
            _ => self.leaf(node, label),
        }
    }

    fn leaf(&mut self, node: &Node, label: &str) {
        let is_name = self.stage == Stage::Snapshot && label == "pipeline name";
        let value = self.as_written(node, is_name);
        self.inputs.push(Input::value(label, value.canonical()));
    }

    /// The value with its expressions in one spelling; the values that they use become inputs.
    fn as_written(&mut self, node: &Node, without_build: bool) -> Value {
        match &node.kind {
            Kind::List(items) => Value::List(items.iter().map(|item| self.as_written(item, without_build)).collect()),
            Kind::Map(entries) => {
                let entry = |(key, node): &(_, Node)| {
                    let key: &super::node::Key = key;
                    (key.text.clone(), self.as_written(node, without_build))
                };
                Value::Map(entries.iter().map(entry).collect())
            }
            Kind::Scalar { value: Value::String(text), .. } if text.contains("{{") => {
                let Ok(text) = Text::parse(text) else { return Value::from(text.as_str()) };
                text.names().for_each(|name| self.used(name));
                let text = text.to_string();
                Value::String(if without_build { strip_build(text) } else { text })
            }
            Kind::Scalar { value, .. } => value.clone(),
            Kind::Open(text) => Value::String(text.to_string()),
        }
    }

    fn used(&mut self, name: &[String]) {
        if let Some(value) = bind::find(self.scope, name) {
            self.inputs.extend(leaves(&name.join("."), value));
        }
    }
}

/// A value as inputs: a map gives one for each of its values, so that a plan can say which of them changed.
pub(super) fn leaves(name: &str, value: &Value) -> Vec<Input> {
    match value {
        Value::Map(entries) if !entries.is_empty() => {
            let below = |key: &str| if key.contains('.') { format!("{name}.{key:?}") } else { format!("{name}.{key}") };
            entries.iter().flat_map(|(key, value)| leaves(&below(key), value)).collect()
        }
        other => vec![Input::value(name, other.canonical())],
    }
}

/// An image's name counts apart from what every build has anew.
fn strip_build(text: String) -> String {
    const BEGIN: &str = "{{ build.";
    const END: &str = " }}";
    let mut pieces = text.split(BEGIN);
    let mut stripped = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        stripped.push_str("{{ build }}");
        stripped.push_str(piece.split_once(END).map_or(piece, |(_, rest)| rest));
    }
    stripped
}
