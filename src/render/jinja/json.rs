//! JSON as Ansible's filters write it: Python's own spacing, every character beyond ASCII escaped.

use std::fmt::Write as _;
use std::rc::Rc;

use super::Stop;
use super::value::{PyValue, float_text};
use crate::render::limits::Budget;

/// `to_json`, or with the indentation `to_nice_json`, which sorts keys.
pub(super) fn dump(value: &PyValue, nice: bool, budget: &mut Budget) -> Result<PyValue, Stop> {
    let mut out = String::new();
    write_value(value, nice.then_some(1), &mut out, budget)?;
    Ok(PyValue::str(out))
}

/// `level` is how deep the lines within stand; `None` writes all in one line.
fn write_value(value: &PyValue, level: Option<usize>, out: &mut String, budget: &mut Budget) -> Result<(), Stop> {
    let start = out.len();
    match value {
        PyValue::Undefined(_) | PyValue::Nothing => return Err(Stop::not_native("JSON of what is undefined")),
        PyValue::None => out.push_str("null"),
        PyValue::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        PyValue::Int(value) => out.push_str(&value.to_string()),
        PyValue::Float(value) => out.push_str(&float_text(*value)?),
        PyValue::Str(text) => quote(text, out),
        PyValue::List(items) | PyValue::Tuple(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                separate(at, level, out);
                write_value(item, level.map(|level| level + 1), out, budget)?;
            }
            close(items.is_empty(), level, ']', out);
        }
        PyValue::Map(entries) => {
            let mut entries: Vec<&(Rc<str>, PyValue)> = entries.iter().collect();
            if level.is_some() {
                entries.sort_by(|one, other| one.0.cmp(&other.0));
            }
            out.push('{');
            for (at, (key, item)) in entries.iter().enumerate() {
                separate(at, level, out);
                quote(key, out);
                out.push_str(": ");
                write_value(item, level.map(|level| level + 1), out, budget)?;
            }
            close(entries.is_empty(), level, '}', out);
        }
    }
    budget.make(out.len() - start)
}

fn separate(at: usize, level: Option<usize>, out: &mut String) {
    match level {
        Some(level) => {
            out.push_str(if at == 0 { "\n" } else { ",\n" });
            out.push_str(&" ".repeat(4 * level));
        }
        None => out.push_str(if at == 0 { "" } else { ", " }),
    }
}

fn close(empty: bool, level: Option<usize>, end: char, out: &mut String) {
    if let Some(level) = level.filter(|_| !empty) {
        out.push('\n');
        out.push_str(&" ".repeat(4 * (level - 1)));
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
