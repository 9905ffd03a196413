//! Filters that make a text.

use std::collections::HashSet;
use std::rc::Rc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::expression::Arguments;
use super::filters::{flag, required};
use super::value::{PyValue, is_space};
use super::{Stop, comment, formats, methods, picks};
use crate::render::limits::Budget;

/// Applies a filter that makes a text.
pub(super) fn apply(name: &str, value: &PyValue, args: &Arguments, budget: &mut Budget) -> Result<PyValue, Stop> {
    Ok(match name {
        "upper" => PyValue::str(cased(&made_text(value, budget)?, str::to_uppercase)?),
        "lower" => PyValue::str(cased(&made_text(value, budget)?, str::to_lowercase)?),
        "capitalize" => capitalized(&made_text(value, budget)?)?,
        "title" => titled(&made_text(value, budget)?)?,
        "trim" => trimmed(&made_text(value, budget)?, args, budget)?,
        "string" => PyValue::Str(value.text(budget)?),
        "replace" => {
            let (old, new) = (required(args, 0, "old")?.text(budget)?, required(args, 1, "new")?.text(budget)?);
            replaced(&value.text(budget)?, &old, &new, budget)?
        }
        "join" => {
            let separator = args.get(0, "d").map_or_else(|| Ok(Rc::from("")), |separator| separator.text(budget))?;
            let items = picks::attributes(&value.items(budget)?, args.get(1, "attribute"), budget)?;
            joined(&items, &separator, budget)?
        }
        "split" => {
            only_text(name, value)?;
            let separator = args.get(0, "sep").cloned().into_iter().collect();
            methods::call(value, "split", &Arguments { positional: separator, named: Vec::new() }, budget)?
        }
        "indent" => indented(value, args, budget)?,
        "comment" => comment::filter(only_text(name, value)?, args, budget)?,
        "quote" => quoted(value, budget)?,
        "format" => formats::percent(&value.text(budget)?, args, budget)?,
        "basename" | "dirname" => {
            let path = only_text(name, value)?;
            budget.make(path.len())?;
            part_of_path(name, path)
        }
        "b64encode" => {
            let PyValue::Str(text) = value.defined()? else {
                return Err(Stop::not_native(&format!("`b64encode` of {}", value.kind())));
            };
            budget.make(text.len() * 2)?;
            PyValue::str(STANDARD.encode(text.as_bytes()))
        }
        "b64decode" => {
            // Python skips what is no digit of base 64, and so does not fail where others do.
            let PyValue::Str(text) = value.defined()? else {
                return Err(Stop::not_native(&format!("`b64decode` of {}", value.kind())));
            };
            budget.make(text.len())?;
            let bytes = STANDARD.decode(text.as_bytes()).map_err(|_| Stop::not_native("`b64decode` of this text"))?;
            PyValue::str(String::from_utf8(bytes).map_err(|_| Stop::not_native("`b64decode` of this text"))?)
        }
        other => return Err(Stop::not_native(&format!("the filter `{other}`"))),
    })
}

fn only_text<'v>(name: &str, value: &'v PyValue) -> Result<&'v Rc<str>, Stop> {
    match value.defined()? {
        PyValue::Str(text) => Ok(text),
        other => Err(Stop::value(format!("`{name}` takes text, not {}", other.kind()))),
    }
}

fn made_text(value: &PyValue, budget: &mut Budget) -> Result<Rc<str>, Stop> {
    let text = value.text(budget)?;
    budget.make(text.len())?;
    Ok(text)
}

/// A text in another case. Beyond Latin letters, Python's and Rust's Unicode tables are of different years.
pub(super) fn cased(text: &str, change: impl Fn(&str) -> String) -> Result<String, Stop> {
    match text.chars().find(|character| *character > '\u{17f}') {
        Some(other) => Err(Stop::not_native(&format!("the case of U+{:04X}", other as u32))),
        None => Ok(change(text)),
    }
}

fn capitalized(text: &str) -> Result<PyValue, Stop> {
    if !text.is_ascii() {
        return Err(Stop::not_native("`capitalize` beyond ASCII"));
    }
    let (first, rest) = text.split_at(text.len().min(1));
    Ok(PyValue::str(first.to_ascii_uppercase() + &rest.to_ascii_lowercase()))
}

/// Every word with one large letter first; Jinja2's words end at white space, `-` and opening brackets.
fn titled(text: &str) -> Result<PyValue, Stop> {
    if !text.is_ascii() {
        return Err(Stop::not_native("`title` beyond ASCII"));
    }
    let mut first = true;
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        out.push(if first { character.to_ascii_uppercase() } else { character.to_ascii_lowercase() });
        first = is_space(character) || "-({[<".contains(character);
    }
    Ok(PyValue::str(out))
}

fn trimmed(text: &str, args: &Arguments, budget: &mut Budget) -> Result<PyValue, Stop> {
    match args.get(0, "chars").map(PyValue::defined).transpose()? {
        None | Some(PyValue::None) => Ok(PyValue::str(text.trim_matches(is_space))),
        Some(PyValue::Str(chars)) => {
            budget.make(chars.len())?;
            budget.spend((text.len() + chars.len()) as u64)?;
            let chars: HashSet<char> = chars.chars().collect();
            Ok(PyValue::str(text.trim_matches(|character| chars.contains(&character))))
        }
        Some(other) => Err(Stop::value(format!("`trim` takes characters, not {}", other.kind()))),
    }
}

/// Every `old` in a text replaced.
pub(super) fn replaced(text: &str, old: &str, new: &str, budget: &mut Budget) -> Result<PyValue, Stop> {
    budget.read(text)?;
    let count = text.matches(old).count();
    budget.make((text.len() + count * new.len()).saturating_sub(count * old.len()))?;
    Ok(PyValue::str(text.replace(old, new)))
}

/// The texts of items, with a separator between.
pub(super) fn joined(items: &[PyValue], separator: &str, budget: &mut Budget) -> Result<PyValue, Stop> {
    let mut out = String::new();
    for (at, item) in items.iter().enumerate() {
        let separator = if at == 0 { "" } else { separator };
        let text = item.defined()?.text(budget)?;
        budget.add(&mut out, separator)?;
        budget.add(&mut out, &text)?;
    }
    Ok(PyValue::str(out))
}

fn indented(value: &PyValue, args: &Arguments, budget: &mut Budget) -> Result<PyValue, Stop> {
    let PyValue::Str(text) = value.defined()? else {
        return Err(Stop::value(format!("`indent` takes text, not {}", value.kind())));
    };
    let indentation = match args.get(0, "width").map(PyValue::defined).transpose()? {
        None => "    ".to_owned(),
        Some(PyValue::Str(text)) => {
            budget.make(text.len())?;
            text.to_string()
        }
        Some(PyValue::Int(width @ ..=1000)) => " ".repeat(usize::try_from(*width).unwrap_or(0)),
        Some(_) => return Err(Stop::not_native("`indent` by this")),
    };
    let odd_ends = ['\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}', '\r'];
    if text.contains(odd_ends) {
        return Err(Stop::not_native("`indent` of text with unusual ends of lines"));
    }
    let (first, blank) = (flag(args, 1, "first")?, flag(args, 2, "blank")?);
    let mut out = String::new();
    for (at, line) in text.split('\n').enumerate() {
        budget.add(&mut out, if at == 0 { "" } else { "\n" })?;
        let wanted = if at == 0 { first } else { blank || !line.is_empty() };
        budget.add(&mut out, if wanted { &indentation } else { "" })?;
        budget.add(&mut out, line)?;
    }
    Ok(PyValue::str(out))
}

/// A text as one word of a shell.
fn quoted(value: &PyValue, budget: &mut Budget) -> Result<PyValue, Stop> {
    let text = if matches!(value, PyValue::None) { Rc::from("") } else { value.text(budget)? };
    budget.make(text.len() + 2)?;
    let safe = |character: char| character.is_ascii_alphanumeric() || "_@%+=:,./-".contains(character);
    if !text.is_empty() && text.chars().all(safe) {
        return Ok(PyValue::Str(text));
    }
    budget.make(text.matches('\'').count() * 4)?;
    Ok(PyValue::str(format!("'{}'", text.replace('\'', "'\"'\"'"))))
}

/// The part of a path after its last slash, or before it.
fn part_of_path(name: &str, path: &str) -> PyValue {
    let after = path.rfind('/').map_or(0, |at| at + 1);
    if name == "basename" {
        return PyValue::str(&path[after..]);
    }
    let head = &path[..after];
    let stripped = head.trim_end_matches('/');
    PyValue::str(if stripped.is_empty() { head } else { stripped })
}
