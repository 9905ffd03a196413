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
    match value {
        PyValue::Undefined(_) => drop(value.defined()?),
        PyValue::Nothing => return Err(nothing()),
        PyValue::None => budget.add(out, "null")?,
        PyValue::Bool(value) => budget.add(out, if *value { "true" } else { "false" })?,
        PyValue::Int(value) => budget.add(out, &value.to_string())?,
        PyValue::Float(value) => budget.add(out, &float_text(*value)?)?,
        PyValue::Str(text) => quote(text, out, budget)?,
        PyValue::List(items) | PyValue::Tuple(items) => {
            budget.add(out, "[")?;
            for (at, item) in items.iter().enumerate() {
                separate(at, layout, level, out, budget)?;
                write_value(item, layout, level + 1, out, budget)?;
            }
            close(items.is_empty(), layout, level, "]", out, budget)?;
        }
        PyValue::Map(entries) => {
            budget.make(entries.len() * size_of::<usize>())?;
            let mut entries: Vec<&(Rc<str>, PyValue)> = entries.iter().collect();
            if layout.sorted {
                entries.sort_by(|one, other| one.0.cmp(&other.0));
            }
            budget.add(out, "{")?;
            for (at, (key, item)) in entries.iter().enumerate() {
                separate(at, layout, level, out, budget)?;
                quote(key, out, budget)?;
                budget.add(out, ": ")?;
                write_value(item, layout, level + 1, out, budget)?;
            }
            close(entries.is_empty(), layout, level, "}", out, budget)?;
        }
    }
    Ok(())
}

fn separate(at: usize, layout: Layout, level: usize, out: &mut String, budget: &mut Budget) -> Result<(), Stop> {
    match layout.indent {
        Some(indent) => {
            budget.add(out, if at == 0 { "\n" } else { ",\n" })?;
            budget.add(out, &" ".repeat(indent * level))
        }
        None => budget.add(out, if at == 0 { "" } else { ", " }),
    }
}

fn close(
    empty: bool,
    layout: Layout,
    level: usize,
    end: &str,
    out: &mut String,
    budget: &mut Budget,
) -> Result<(), Stop> {
    if let Some(indent) = layout.indent.filter(|_| !empty) {
        budget.add(out, "\n")?;
        budget.add(out, &" ".repeat(indent * (level - 1)))?;
    }
    budget.add(out, end)
}

fn quote(text: &str, out: &mut String, budget: &mut Budget) -> Result<(), Stop> {
    budget.read(text)?;
    budget.add(out, "\"")?;
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\') {
        budget.add(out, text)?;
        return budget.add(out, "\"");
    }
    for character in text.chars() {
        let start = out.len();
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
        budget.make(out.len() - start)?;
    }
    budget.add(out, "\"")
}
