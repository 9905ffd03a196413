//! JSON as Ansible's filters write it: Python's own spacing, every character beyond ASCII escaped.

use std::fmt::Write as _;
use std::rc::Rc;

use super::Stop;
use super::expression::{Arguments, nothing};
use super::value::{PyValue, float_text};
use crate::render::limits::Budget;

/// How the JSON is laid out.
#[derive(Clone, Copy)]
struct Layout {
    /// Spaces before each line for each level; `None` writes all in one line.
    indent: Option<usize>,
    sorted: bool,
}

/// `to_json`, or with an indentation and sorted keys `to_nice_json`.
pub(super) fn filter(name: &str, value: &PyValue, args: &Arguments, budget: &mut Budget) -> Result<PyValue, Stop> {
    let nice = name == "to_nice_json";
    if !nice && !args.positional.is_empty() {
        return Err(Stop::value("`to_json` takes its arguments by name"));
    }
    let indent = match args.get(0, "indent") {
        None => nice.then_some(4),
        Some(PyValue::None) if !nice => None,
        Some(PyValue::Int(indent @ 0..=100)) => usize::try_from(*indent).ok(),
        Some(_) => return Err(Stop::not_native(&format!("this indentation of `{name}`"))),
    };
    let sorted = args.get(1, "sort_keys").map_or(Ok(nice), PyValue::truth)?;
    let mut out = String::new();
    write_value(value, Layout { indent, sorted }, 1, &mut out, budget)?;
    Ok(PyValue::str(out))
}

/// `level` is how deep the lines within stand.
fn write_value(
    value: &PyValue,
    layout: Layout,
    level: usize,
    out: &mut String,
    budget: &mut Budget,
) -> Result<(), Stop> {
    let start = out.len();
    match value {
        PyValue::Undefined(_) => drop(value.defined()?),
        PyValue::Nothing => return Err(nothing()),
        PyValue::None => out.push_str("null"),
        PyValue::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        PyValue::Int(value) => out.push_str(&value.to_string()),
        PyValue::Float(value) => out.push_str(&float_text(*value)?),
        PyValue::Str(text) => quote(text, out),
        PyValue::List(items) | PyValue::Tuple(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                separate(at, layout, level, out);
                write_value(item, layout, level + 1, out, budget)?;
            }
            close(items.is_empty(), layout, level, ']', out);
        }
        PyValue::Map(entries) => {
            let mut entries: Vec<&(Rc<str>, PyValue)> = entries.iter().collect();
            if layout.sorted {
                entries.sort_by(|one, other| one.0.cmp(&other.0));
            }
            out.push('{');
            for (at, (key, item)) in entries.iter().enumerate() {
                separate(at, layout, level, out);
                quote(key, out);
                out.push_str(": ");
                write_value(item, layout, level + 1, out, budget)?;
            }
            close(entries.is_empty(), layout, level, '}', out);
        }
    }
    budget.make(out.len() - start)
}

fn separate(at: usize, layout: Layout, level: usize, out: &mut String) {
    match layout.indent {
        Some(indent) => {
            out.push_str(if at == 0 { "\n" } else { ",\n" });
            out.push_str(&" ".repeat(indent * level));
        }
        None => out.push_str(if at == 0 { "" } else { ", " }),
    }
}

fn close(empty: bool, layout: Layout, level: usize, end: char, out: &mut String) {
    if let Some(indent) = layout.indent.filter(|_| !empty) {
        out.push('\n');
        out.push_str(&" ".repeat(indent * (level - 1)));
    }
    out.push(end);
}

fn quote(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(character),
            other => {
                let mut units = [0; 2];
                for unit in other.encode_utf16(&mut units) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out.push('"');
}
