//! `map`, and the filters that choose items: each goes through a list with a filter, a test or an attribute.

use super::expression::Arguments;
use super::filters::required;
use super::value::{ITEM, PyValue};
use super::{Stop, checks, filters, lookup};
use crate::render::limits::Budget;

/// The filters that go through a list.
pub(super) const PICKS: [&str; 5] = ["map", "select", "reject", "selectattr", "rejectattr"];

/// Applies one of them. What is false has no items for them, whatever it is.
pub(super) fn apply(name: &str, value: &PyValue, args: &Arguments, budget: &mut Budget) -> Result<PyValue, Stop> {
    if !value.truth()? {
        return Ok(PyValue::List([].into()));
    }
    let items = value.items(budget)?;
    if name == "map" {
        return mapped(&items, args, budget);
    }
    let (attribute, rest) = match (name, args.positional.as_slice()) {
        ("select" | "reject", rest) => (None, rest),
        (_, [attribute, rest @ ..]) => (Some(attribute), rest),
        _ => return Err(Stop::value(format!("`{name}` needs the name of an attribute"))),
    };
    let seen = attributes(&items, attribute, budget)?;
    let mut kept = Vec::new();
    for (item, seen) in items.iter().zip(&seen) {
        budget.spend(1)?;
        let holds = match rest {
            [] => seen.truth()?,
            [PyValue::Str(test), rest @ ..] => {
                let arguments = Arguments { positional: rest.to_vec(), named: args.named.clone() };
                checks::test(test, seen, &arguments, budget)?
            }
            [other, ..] => return Err(Stop::value(format!("a test is named by a text, not by {}", other.kind()))),
        };
        if holds == name.starts_with("select") {
            budget.make(ITEM)?;
            kept.push(item.clone());
        }
    }
    Ok(PyValue::List(kept.into()))
}

fn mapped(items: &[PyValue], args: &Arguments, budget: &mut Budget) -> Result<PyValue, Stop> {
    budget.make(items.len() * ITEM)?;
    let Some((name, rest)) = args.positional.split_first() else {
        let attribute = required(args, 0, "attribute")?;
        let default = args.named("default").filter(|default| !matches!(default, PyValue::None));
        let parts = parts(attribute, budget)?;
        let found: Result<Vec<_>, _> = items.iter().map(|item| within(item, &parts, default, budget)).collect();
        return Ok(PyValue::List(found?.into()));
    };
    let PyValue::Str(name) = name else { return Err(Stop::value("a filter is named by a text")) };
    let arguments = Arguments { positional: rest.to_vec(), named: args.named.clone() };
    let mut made = Vec::new();
    for item in items {
        budget.spend(1)?;
        made.push(filters::apply(name, item, &arguments, budget)?);
    }
    Ok(PyValue::List(made.into()))
}

/// An attribute of each item, or the items themselves where none is named.
pub(super) fn attributes(
    items: &[PyValue],
    attribute: Option<&PyValue>,
    budget: &mut Budget,
) -> Result<Vec<PyValue>, Stop> {
    let parts = attribute.map_or(Ok(Vec::new()), |attribute| parts(attribute, budget))?;
    budget.make(items.len() * ITEM)?;
    items.iter().map(|item| within(item, &parts, None, budget)).collect()
}

/// The steps of an attribute such as `a.b.0`.
fn parts(attribute: &PyValue, budget: &mut Budget) -> Result<Vec<PyValue>, Stop> {
    if let PyValue::Str(name) = attribute {
        budget.make(name.len() + name.matches('.').count() * ITEM)?;
    }
    match attribute {
        PyValue::None => Ok(Vec::new()),
        PyValue::Int(_) => Ok(vec![attribute.clone()]),
        PyValue::Str(name) if name.is_ascii() => name
            .split('.')
            .map(|part| match part {
                digits if checks::is_digits(digits) => {
                    digits.parse().map(PyValue::Int).map_err(|_| Stop::not_native("this attribute"))
                }
                part => Ok(PyValue::str(part)),
            })
            .collect(),
        _ => Err(Stop::not_native("this attribute")),
    }
}

fn within(item: &PyValue, parts: &[PyValue], default: Option<&PyValue>, budget: &mut Budget) -> Result<PyValue, Stop> {
    let mut value = item.clone();
    for part in parts {
        budget.spend(1)?;
        let found = lookup::item(&value, part, budget)?;
        value = match (found, default) {
            (found, Some(default)) if found.is_undefined() => default.clone(),
            (PyValue::Undefined(missing), None) if missing.message.is_empty() => {
                let name = part.text(budget)?;
                budget.make(name.len() + missing.help.len())?;
                PyValue::undefined(format!("`{name}` of an item is not defined"), missing.help.clone())
            }
            (found, _) => found,
        };
    }
    Ok(value)
}
