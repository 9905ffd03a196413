//! Methods of texts and maps that can be called, and the attributes of Python's types that hide a map's keys.

use std::rc::Rc;

use super::expression::Arguments;
use super::value::{ITEM, PyValue, is_space};
use super::{Stop, checks, formats, texts};
use crate::render::limits::Budget;

/// The methods that may be called. The first three give what only a loop or some filters can take.
pub(super) const VIEWS: [&str; 3] = ["items", "keys", "values"];
/// Those whose results are ordinary values.
pub(super) const METHODS: [&str; 14] = [
    "copy",
    "endswith",
    "format",
    "get",
    "isdigit",
    "join",
    "lower",
    "lstrip",
    "replace",
    "rstrip",
    "split",
    "startswith",
    "strip",
    "upper",
];
/// Those that change the list or map that a name stands for.
pub(super) const CHANGES: [&str; 6] = ["append", "extend", "insert", "pop", "setdefault", "update"];

/// Calls a method.
pub(super) fn call(value: &PyValue, name: &str, args: &Arguments, budget: &mut Budget) -> Result<PyValue, Stop> {
    if let (PyValue::Str(text), "format") = (value, name) {
        return formats::braces(text, args, budget);
    }
    if !args.named.is_empty() {
        return Err(Stop::not_native(&format!("`.{name}()` with a named argument")));
    }
    match value.defined()? {
        PyValue::Map(entries) => map_method(entries, name, &args.positional, budget),
        PyValue::Str(text) => text_method(text, name, &args.positional, budget),
        PyValue::List(items) if name == "copy" && args.positional.is_empty() => {
            budget.make(items.len() * ITEM)?;
            Ok(PyValue::List(items.iter().cloned().collect()))
        }
        PyValue::Nothing => Err(super::expression::nothing()),
        other => Err(Stop::not_native(&format!("`.{name}()` of {}", other.kind()))),
    }
}

fn map_method(
    entries: &[(Rc<str>, PyValue)],
    name: &str,
    args: &[PyValue],
    budget: &mut Budget,
) -> Result<PyValue, Stop> {
    budget.spend(1 + entries.len() as u64 / 8)?;
    let key = |key: &Rc<str>| PyValue::Str(Rc::clone(key));
    match (name, args) {
        ("items" | "keys" | "values", []) => {
            budget.make(entries.len() * 2 * ITEM)?;
            let item = |(name, value): &(Rc<str>, PyValue)| PyValue::Tuple([key(name), value.clone()].into());
            Ok(PyValue::List(match name {
                "items" => entries.iter().map(item).collect(),
                "keys" => entries.iter().map(|(name, _)| key(name)).collect(),
                _ => entries.iter().map(|(_, value)| value.clone()).collect(),
            }))
        }
        ("copy", []) => {
            budget.make(entries.len() * ITEM)?;
            Ok(PyValue::Map(entries.into()))
        }
        ("get", [PyValue::Str(wanted), rest @ ..]) if rest.len() < 2 => {
            let found = entries.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
            Ok(found.or_else(|| rest.first().cloned()).unwrap_or(PyValue::None))
        }
        _ => Err(Stop::not_native(&format!("`.{name}()` of a map with these arguments"))),
    }
}

fn text_method(text: &Rc<str>, name: &str, args: &[PyValue], budget: &mut Budget) -> Result<PyValue, Stop> {
    budget.make(text.len())?;
    Ok(match (name, args) {
        ("upper", []) => PyValue::str(texts::cased(text, str::to_uppercase)?),
        ("lower", []) => PyValue::str(texts::cased(text, str::to_lowercase)?),
        ("strip", []) => PyValue::str(text.trim_matches(is_space)),
        ("lstrip", []) => PyValue::str(text.trim_start_matches(is_space)),
        ("rstrip", []) => PyValue::str(text.trim_end_matches(is_space)),
        ("startswith", [PyValue::Str(start)]) => PyValue::Bool(text.starts_with(&**start)),
        ("endswith", [PyValue::Str(end)]) => PyValue::Bool(text.ends_with(&**end)),
        ("replace", [PyValue::Str(old), PyValue::Str(new)]) => texts::replaced(text, old, new, budget)?,
        ("isdigit", []) if text.is_ascii() => PyValue::Bool(checks::is_digits(text)),
        ("split", []) => split(text.split(is_space).filter(|part| !part.is_empty()), budget)?,
        ("split", [PyValue::Str(separator)]) if separator.is_empty() => {
            return Err(Stop::value("a text can't be split at an empty text"));
        }
        ("split", [PyValue::Str(separator)]) => split(text.split(&**separator), budget)?,
        ("join", [items]) => joined_texts(text, items, budget)?,
        _ => return Err(Stop::not_native(&format!("`.{name}()` of text with these arguments"))),
    })
}

fn split<'t>(parts: impl Iterator<Item = &'t str>, budget: &mut Budget) -> Result<PyValue, Stop> {
    let mut items = Vec::new();
    for part in parts {
        budget.make(part.len() + ITEM)?;
        items.push(PyValue::str(part));
    }
    Ok(PyValue::List(items.into()))
}

/// `separator.join(items)`, which takes texts only, other than the filter.
fn joined_texts(separator: &str, items: &PyValue, budget: &mut Budget) -> Result<PyValue, Stop> {
    let items = items.items(budget)?;
    if let Some(other) = items.iter().find(|item| !matches!(item, PyValue::Str(_))) {
        return Err(Stop::value(format!("`.join()` takes texts, and one of them is {}", other.kind())));
    }
    texts::joined(&items, separator, budget)
}

/// `range(…)`: a list here, since only loops and some filters may have it.
pub(super) fn range(args: &Arguments, budget: &mut Budget) -> Result<PyValue, Stop> {
    let (start, end) = match args.positional.as_slice() {
        [PyValue::Int(end)] => (0, *end),
        [PyValue::Int(start), PyValue::Int(end)] => (*start, *end),
        _ => return Err(Stop::not_native("`range()` with these arguments")),
    };
    let length = usize::try_from(end.saturating_sub(start)).unwrap_or(0);
    budget.make(length.saturating_mul(ITEM))?;
    Ok(PyValue::List((start..end).map(PyValue::Int).collect()))
}

/// Whether Python's type has an attribute of this name, which `value.name` would give instead of a map's key.
pub(super) fn is_attribute(value: &PyValue, name: &str) -> bool {
    const MAP: [&str; 11] =
        ["clear", "copy", "fromkeys", "get", "items", "keys", "pop", "popitem", "setdefault", "update", "values"];
    const OTHERS: &str = "append clear copy count extend index insert pop remove reverse sort real imag numerator \
        denominator conjugate bit_length bit_count to_bytes from_bytes as_integer_ratio is_integer hex fromhex \
        capitalize casefold center encode endswith expandtabs find format format_map isalnum isalpha isascii \
        isdecimal isdigit isidentifier islower isnumeric isprintable isspace istitle isupper join ljust lower lstrip \
        maketrans partition removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip split \
        splitlines startswith strip swapcase title translate upper zfill ansible_pos";
    name.starts_with('_') && (name.starts_with("__") || !matches!(value, PyValue::Map(_)))
        || match value {
            PyValue::Map(_) => MAP.contains(&name),
            PyValue::None => false,
            _ => OTHERS.split_ascii_whitespace().any(|known| known == name),
        }
}
