//! What is within a value: attributes, items and slices, as Jinja2 and Python look for them.

use super::expression::nothing;
use super::value::{ITEM, PyValue};
use super::{Stop, methods};
use crate::render::limits::Budget;

/// `value.name`: Jinja2 looks for an attribute of Python's type first, and for a key of a map then.
pub(super) fn attribute(value: &PyValue, name: &str, budget: &mut Budget) -> Result<PyValue, Stop> {
    match value {
        PyValue::Undefined(_) => return Ok(value.clone()),
        PyValue::Nothing => return Err(nothing()),
        _ => {}
    }
    if methods::is_attribute(value, name) {
        return Err(Stop::not_native(&format!("`.{name}` of {} without calling it", value.kind())));
    }
    key(value, name, budget)
}

/// The value of a map's key, or that there is none.
fn key(value: &PyValue, name: &str, budget: &mut Budget) -> Result<PyValue, Stop> {
    let PyValue::Map(entries) = value else {
        budget.make(name.len())?;
        return Ok(PyValue::undefined("", format!("what `{name}` is looked for in is {}", value.kind())));
    };
    budget.spend(1 + entries.len() as u64 / 8)?;
    if let Some((_, found)) = entries.iter().find(|(key, _)| &**key == name) {
        return Ok(found.clone());
    }
    let keys: Vec<String> = entries.iter().take(20).map(|(key, _)| key.chars().take(100).collect()).collect();
    budget.make(keys.iter().map(String::len).sum())?;
    Ok(PyValue::undefined("", format!("the map has: {}", keys.join(", "))))
}

/// `value[key]`: an item first, an attribute of Python's type then.
pub(super) fn item(value: &PyValue, wanted: &PyValue, budget: &mut Budget) -> Result<PyValue, Stop> {
    let index = match (value, wanted) {
        (PyValue::Undefined(_), _) => return Ok(value.clone()),
        (PyValue::Nothing, _) => return Err(nothing()),
        (_, PyValue::Undefined(_)) => return Err(wanted.defined().err().unwrap_or_else(Stop::late)),
        (_, PyValue::Str(name)) => {
            let found = key(value, name, budget)?;
            if matches!(found, PyValue::Undefined(_)) && methods::is_attribute(value, name) {
                return Err(Stop::not_native(&format!("`['{name}']` of {}", value.kind())));
            }
            return Ok(found);
        }
        (_, PyValue::Int(index)) => *index,
        (_, PyValue::Bool(index)) => i64::from(*index),
        _ => return Ok(PyValue::undefined("", format!("{} is no key or index", wanted.kind()))),
    };
    let place = |length: usize| {
        let from_end = usize::try_from(index.unsigned_abs()).ok().and_then(|back| length.checked_sub(back));
        if index < 0 { from_end } else { usize::try_from(index).ok() }
    };
    let found = match value {
        PyValue::List(items) | PyValue::Tuple(items) => place(items.len()).and_then(|at| items.get(at).cloned()),
        PyValue::Str(text) => {
            budget.read(text)?;
            let character = place(text.chars().count()).and_then(|at| text.chars().nth(at));
            character.map(|character| PyValue::str(character.to_string()))
        }
        _ => None,
    };
    Ok(found.unwrap_or_else(|| PyValue::undefined("", format!("{} has nothing at {index}", value.kind()))))
}

/// `value[start:stop]`, as Python cuts: ends beyond the value's are its ends.
pub(super) fn sliced(value: &PyValue, ends: &[PyValue; 2], budget: &mut Budget) -> Result<PyValue, Stop> {
    let length = match value {
        PyValue::Undefined(_) => return Ok(value.clone()),
        PyValue::Nothing => return Err(nothing()),
        PyValue::List(items) | PyValue::Tuple(items) => items.len(),
        PyValue::Str(text) => {
            budget.read(text)?;
            text.chars().count()
        }
        other => return Err(Stop::value(format!("{} can't be sliced", other.kind()))),
    };
    let place = |end: &PyValue, default: usize| match end.defined()? {
        PyValue::None => Ok(default),
        PyValue::Int(at) => {
            let by = usize::try_from(at.unsigned_abs()).unwrap_or(usize::MAX);
            Ok(if *at < 0 { length.saturating_sub(by) } else { by.min(length) })
        }
        PyValue::Bool(_) => Err(Stop::not_native("a slice by true or false")),
        other => Err(Stop::value(format!("a slice can't begin or end at {}", other.kind()))),
    };
    let (start, stop) = (place(&ends[0], 0)?, place(&ends[1], length)?);
    let taken = stop.saturating_sub(start);
    Ok(match value {
        PyValue::Str(text) => {
            budget.make(text.len())?;
            PyValue::str(text.chars().skip(start).take(taken).collect::<String>())
        }
        PyValue::List(items) | PyValue::Tuple(items) => {
            budget.make(taken * ITEM)?;
            let items = items[start..start + taken].into();
            if matches!(value, PyValue::Tuple(_)) { PyValue::Tuple(items) } else { PyValue::List(items) }
        }
        _ => PyValue::None,
    })
}
