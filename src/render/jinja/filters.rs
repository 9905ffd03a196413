//! Filters and tests, each as Jinja2 3.1 has it or as ansible-core 2.14 replaces it.

use std::cmp::Ordering;
use std::rc::Rc;

use base64::Engine as _;

use super::expression::Arguments;
use super::value::{ITEM, PyValue, is_space};
use super::{Stop, operators};
use crate::render::limits::Budget;

/// The filters that are known, each with the names of its arguments in order.
pub(super) const FILTERS: [(&str, &[&str]); 26] = [
    ("b64encode", &[]),
    ("bool", &[]),
    ("capitalize", &[]),
    ("count", &[]),
    ("d", &["default_value", "boolean"]),
    ("default", &["default_value", "boolean"]),
    ("first", &[]),
    ("indent", &["width", "first", "blank"]),
    ("int", &["default"]),
    ("join", &["d"]),
    ("last", &[]),
    ("length", &[]),
    ("list", &[]),
    ("lower", &[]),
    ("mandatory", &[]),
    ("replace", &["old", "new"]),
    ("reverse", &[]),
    ("sort", &["reverse", "case_sensitive"]),
    ("split", &["sep"]),
    ("string", &[]),
    ("ternary", &["true_val", "false_val"]),
    ("to_json", &[]),
    ("to_nice_json", &[]),
    ("trim", &["chars"]),
    ("unique", &[]),
    ("upper", &[]),
];

/// The tests that are known; none takes an argument.
pub(super) const TESTS: [&str; 14] = [
    "boolean",
    "defined",
    "even",
    "false",
    "float",
    "integer",
    "mapping",
    "none",
    "number",
    "odd",
    "sequence",
    "string",
    "true",
    "undefined",
];

/// Applies a filter.
pub(super) fn apply(name: &str, value: &PyValue, args: &Arguments, budget: &mut Budget) -> Result<PyValue, Stop> {
    Ok(match name {
        "default" | "d" => {
            let boolean = args.get(1, "boolean").map_or(Ok(false), PyValue::truth)?;
            if value.is_undefined() || boolean && !value.truth()? {
                args.get(0, "default_value").cloned().unwrap_or_else(|| PyValue::str(""))
            } else {
                value.clone()
            }
        }
        "mandatory" if matches!(value, PyValue::Nothing) => return Err(super::expression::nothing()),
        "mandatory" => value.defined()?.clone(),
        "upper" => PyValue::str(cased(&made_text(value, budget)?, str::to_uppercase)?),
        "lower" => PyValue::str(cased(&made_text(value, budget)?, str::to_lowercase)?),
        "capitalize" => capitalized(&made_text(value, budget)?)?,
        "trim" => trimmed(&made_text(value, budget)?, args)?,
        "string" => PyValue::Str(value.text(budget)?),
        "replace" => {
            let (old, new) = (required(args, 0, "old")?.text(budget)?, required(args, 1, "new")?.text(budget)?);
            replaced(&value.text(budget)?, &old, &new, budget)?
        }
        "join" => {
            let separator = args.get(0, "d").map_or_else(|| Ok(Rc::from("")), |separator| separator.text(budget))?;
            joined(&value.items(budget)?, &separator, budget)?
        }
        "split" => {
            let PyValue::Str(_) = value.defined()? else {
                return Err(Stop::value(format!("{} can't be split", value.kind())));
            };
            super::methods::call(value, "split", &separator(args), budget)?
        }
        "length" | "count" => length(value)?,
        "first" => ended(&value.items(budget)?, <[PyValue]>::first),
        "last" => ended(&value.items(budget)?, <[PyValue]>::last),
        "list" => PyValue::List(value.items(budget)?),
        "reverse" => reversed(value, budget)?,
        "sort" => sorted(&value.items(budget)?, args, budget)?,
        "unique" => unique(&value.items(budget)?, budget)?,
        "int" => integer(value.defined()?, args)?,
        "bool" => truth_word(value.defined()?)?,
        "ternary" => {
            let chosen = if value.truth()? { required(args, 0, "true_val")? } else { required(args, 1, "false_val")? };
            chosen.clone()
        }
        "indent" => indented(value, args, budget)?,
        "to_json" => super::json::dump(value, false, budget)?,
        "to_nice_json" => super::json::dump(value, true, budget)?,
        "b64encode" => {
            let PyValue::Str(text) = value.defined()? else {
                return Err(Stop::not_native(&format!("`b64encode` of {}", value.kind())));
            };
            budget.make(text.len() * 2)?;
            PyValue::str(base64::engine::general_purpose::STANDARD.encode(text.as_bytes()))
        }
        other => return Err(Stop::not_native(&format!("the filter `{other}`"))),
    })
}

/// Applies a test. What is undefined may be tested for everything but numbers' properties.
pub(super) fn test(name: &str, value: &PyValue) -> Result<bool, Stop> {
    Ok(match name {
        "defined" => !value.is_undefined(),
        "undefined" => value.is_undefined(),
        "none" => matches!(value, PyValue::None),
        "boolean" => matches!(value, PyValue::Bool(_)),
        "true" => matches!(value, PyValue::Bool(true)),
        "false" => matches!(value, PyValue::Bool(false)),
        "integer" => matches!(value, PyValue::Int(_)),
        "float" => matches!(value, PyValue::Float(_)),
        "number" => matches!(value, PyValue::Bool(_) | PyValue::Int(_) | PyValue::Float(_)),
        "string" => matches!(value, PyValue::Str(_)),
        "mapping" => matches!(value, PyValue::Map(_)),
        "sequence" => {
            use PyValue::{List, Map, Nothing, Str, Tuple};
            matches!(value, Str(_) | List(_) | Tuple(_) | Map(_) | Nothing)
        }
        "odd" | "even" => match value.defined()? {
            PyValue::Int(number) => (number % 2 != 0) == (name == "odd"),
            PyValue::Bool(_) | PyValue::Float(_) => return Err(Stop::not_native("odd or even of this")),
            PyValue::Str(_) => return Err(Stop::not_native("odd or even of text")),
            other => return Err(Stop::value(format!("{} is neither odd nor even", other.kind()))),
        },
        other => return Err(Stop::not_native(&format!("the test `{other}`"))),
    })
}

fn required<'a>(args: &'a Arguments, place: usize, name: &str) -> Result<&'a PyValue, Stop> {
    args.get(place, name).ok_or_else(|| Stop::value(format!("the filter needs its argument `{name}`")))
}

fn separator(args: &Arguments) -> Arguments {
    Arguments { positional: args.get(0, "sep").cloned().into_iter().collect(), named: Vec::new() }
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

fn trimmed(text: &str, args: &Arguments) -> Result<PyValue, Stop> {
    match args.get(0, "chars").map(PyValue::defined).transpose()? {
        None | Some(PyValue::None) => Ok(PyValue::str(text.trim_matches(is_space))),
        Some(PyValue::Str(chars)) => Ok(PyValue::str(text.trim_matches(|character| chars.contains(character)))),
        Some(other) => Err(Stop::value(format!("`trim` takes characters, not {}", other.kind()))),
    }
}

/// Every `old` in a text replaced.
pub(super) fn replaced(text: &str, old: &str, new: &str, budget: &mut Budget) -> Result<PyValue, Stop> {
    budget.spend(1 + text.len() as u64 / 16)?;
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
        budget.make(separator.len() + text.len())?;
        out.push_str(separator);
        out.push_str(&text);
    }
    Ok(PyValue::str(out))
}

fn length(value: &PyValue) -> Result<PyValue, Stop> {
    let length = match value.defined()? {
        PyValue::Str(text) => text.chars().count(),
        PyValue::List(items) | PyValue::Tuple(items) => items.len(),
        PyValue::Map(entries) => entries.len(),
        PyValue::Nothing => 0,
        other => return Err(Stop::value(format!("{} has no length", other.kind()))),
    };
    Ok(i64::try_from(length).map_or(PyValue::None, PyValue::Int))
}

fn ended(items: &[PyValue], end: impl Fn(&[PyValue]) -> Option<&PyValue>) -> PyValue {
    end(items).cloned().unwrap_or_else(|| PyValue::undefined("there is no first or last of nothing", ""))
}

fn reversed(value: &PyValue, budget: &mut Budget) -> Result<PyValue, Stop> {
    if let PyValue::Str(text) = value {
        budget.make(text.len())?;
        return Ok(PyValue::str(text.chars().rev().collect::<String>()));
    }
    let items = value.items(budget)?;
    budget.make(items.len() * ITEM)?;
    Ok(PyValue::List(items.iter().rev().cloned().collect()))
}

/// What sorting and uniqueness compare: texts without regard to case, unless asked.
fn compared_as(value: &PyValue, case_sensitive: bool) -> Result<PyValue, Stop> {
    match value.defined()? {
        PyValue::Str(text) if !case_sensitive => Ok(PyValue::str(cased(text, str::to_lowercase)?)),
        other => Ok(other.clone()),
    }
}

fn sorted(items: &[PyValue], args: &Arguments, budget: &mut Budget) -> Result<PyValue, Stop> {
    let flag = |place, name: &str| args.get(place, name).map_or(Ok(false), PyValue::truth);
    let (reverse, case_sensitive) = (flag(0, "reverse")?, flag(1, "case_sensitive")?);
    let steps = items.len() * (items.len().max(2).ilog2() as usize + 1);
    budget.make(items.len() * ITEM * 2)?;
    budget.spend(steps as u64)?;
    let keyed: Result<Vec<_>, Stop> =
        items.iter().map(|item| Ok((compared_as(item, case_sensitive)?, item.clone()))).collect();
    let mut keyed = keyed?;
    if let [only] = keyed.as_slice() {
        only.0.defined()?;
    }
    // Python meets every pair that has no order only by luck, so all neighbours are compared, and all with the first.
    for pair in keyed.windows(2) {
        sort_order(&pair[0].0, &pair[1].0, budget)?;
        sort_order(&keyed[0].0, &pair[1].0, budget)?;
    }
    let order = |a: &(PyValue, PyValue), b: &(PyValue, PyValue)| {
        let order = operators::order(&a.0, &b.0).unwrap_or(Ordering::Equal);
        if reverse { order.reverse() } else { order }
    };
    keyed.sort_by(order);
    Ok(PyValue::List(keyed.into_iter().map(|(_, item)| item).collect()))
}

/// What is equal may be sorted even where it has no order.
fn sort_order(left: &PyValue, right: &PyValue, budget: &mut Budget) -> Result<Ordering, Stop> {
    if operators::equal(left, right, budget)? { Ok(Ordering::Equal) } else { operators::order(left, right) }
}

fn unique(items: &[PyValue], budget: &mut Budget) -> Result<PyValue, Stop> {
    let mut seen = std::collections::HashSet::new();
    let mut kept = Vec::new();
    budget.make(items.len() * ITEM * 2)?;
    for item in items {
        let key = match compared_as(item, false)? {
            PyValue::Str(text) => (Some(text), 0),
            PyValue::Int(number) => (None, number),
            other => return Err(Stop::not_native(&format!("`unique` of {}", other.kind()))),
        };
        if seen.insert(key) {
            kept.push(item.clone());
        }
    }
    Ok(PyValue::List(kept.into()))
}

/// The filter `int`: a whole number, else the whole part of a number, else the default.
fn integer(value: &PyValue, args: &Arguments) -> Result<PyValue, Stop> {
    let default = || args.get(0, "default").cloned().unwrap_or(PyValue::Int(0));
    let text = match value {
        PyValue::Int(number) => return Ok(PyValue::Int(*number)),
        PyValue::Bool(value) => return Ok(PyValue::Int(i64::from(*value))),
        PyValue::Float(number) if number.abs() < 9e15 => return Ok(PyValue::Int(*number as i64)),
        PyValue::Float(_) => return Err(Stop::not_native("`int` of a number this large")),
        PyValue::Str(text) => text.trim_matches(is_space),
        PyValue::Nothing => return Err(super::expression::nothing()),
        _ => return Ok(default()),
    };
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let unknown = || Stop::not_native("`int` of this text");
    if is_digits(unsigned) {
        return text.parse().map(PyValue::Int).map_err(|_| unknown());
    }
    if let Some((whole, part)) = unsigned.split_once('.')
        && is_digits(whole)
        && is_digits(part)
        && unsigned.len() < 16
    {
        let number: f64 = text.parse().map_err(|_| unknown())?;
        return Ok(PyValue::Int(number as i64));
    }
    // Python also reads 1_000, 1e3, digits of other scripts and the names of what is no number.
    let special = ["inf", "infinity", "nan"].iter().any(|name| unsigned.eq_ignore_ascii_case(name));
    let plain = unsigned.is_ascii() && !unsigned.bytes().any(|byte| byte.is_ascii_digit());
    if special || !plain { Err(unknown()) } else { Ok(default()) }
}

/// Ansible's `bool`: some words and numbers are true, None stays None.
fn truth_word(value: &PyValue) -> Result<PyValue, Stop> {
    Ok(match value {
        PyValue::None | PyValue::Bool(_) => value.clone(),
        PyValue::Str(text) => {
            let word = cased(text, str::to_lowercase)?;
            PyValue::Bool(["yes", "on", "1", "true"].contains(&word.as_str()))
        }
        PyValue::Int(number) => PyValue::Bool(*number == 1),
        PyValue::Float(number) => PyValue::Bool(*number == 1.0),
        _ => PyValue::Bool(false),
    })
}

fn indented(value: &PyValue, args: &Arguments, budget: &mut Budget) -> Result<PyValue, Stop> {
    let PyValue::Str(text) = value.defined()? else {
        return Err(Stop::value(format!("`indent` takes text, not {}", value.kind())));
    };
    let indentation = match args.get(0, "width").map(PyValue::defined).transpose()? {
        None => "    ".to_owned(),
        Some(PyValue::Str(text)) => text.to_string(),
        Some(PyValue::Int(width @ ..=1000)) => " ".repeat(usize::try_from(*width).unwrap_or(0)),
        Some(_) => return Err(Stop::not_native("`indent` by this")),
    };
    let odd_ends = ['\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}', '\r'];
    if text.contains(odd_ends) {
        return Err(Stop::not_native("`indent` of text with unusual ends of lines"));
    }
    let flag = |place, name: &str| args.get(place, name).map_or(Ok(false), PyValue::truth);
    let (first, blank) = (flag(1, "first")?, flag(2, "blank")?);
    let mut out = String::new();
    for (at, line) in text.split('\n').enumerate() {
        budget.make(line.len() + indentation.len() + 1)?;
        out.push_str(if at == 0 { "" } else { "\n" });
        let wanted = if at == 0 { first } else { blank || !line.is_empty() };
        out.push_str(if wanted { &indentation } else { "" });
        out.push_str(line);
    }
    Ok(PyValue::str(out))
}
