//! Filters of maps.

use std::rc::Rc;

use super::expression::{Arguments, nothing};
use super::filters::flag;
use super::value::{ITEM, PyValue};
use super::{Stop, lists, operators};
use crate::render::limits::{self, Budget};

type Entries = [(Rc<str>, PyValue)];

/// Applies a filter of maps.
pub(super) fn apply(name: &str, value: &PyValue, args: &Arguments, budget: &mut Budget) -> Result<PyValue, Stop> {
    match name {
        "dictsort" => sorted(entries(value)?, args, budget),
        "dict2items" => {
            let (key_name, value_name) = names(args)?;
            let entries = entries(value)?;
            budget.make(entries.len() * 4 * ITEM)?;
            let item = |(key, value): &(Rc<str>, PyValue)| {
                let key = (Rc::clone(&key_name), PyValue::Str(Rc::clone(key)));
                PyValue::Map(set(vec![key], &value_name, value.clone()).into())
            };
            Ok(PyValue::List(entries.iter().map(item).collect()))
        }
        "items2dict" => from_items(value, args, budget),
        _ => combined(value, args, budget),
    }
}

fn entries(value: &PyValue) -> Result<&Entries, Stop> {
    match value.defined()? {
        PyValue::Map(entries) => Ok(entries),
        other => Err(Stop::value(format!("a map is needed, and this is {}", other.kind()))),
    }
}

fn names(args: &Arguments) -> Result<(Rc<str>, Rc<str>), Stop> {
    let name = |place, name: &str| match args.get(place, name) {
        None => Ok(Rc::from(name.split('_').next().unwrap_or_default())),
        Some(PyValue::Str(name)) => Ok(Rc::clone(name)),
        Some(other) => Err(Stop::not_native(&format!("a map whose key is {}", other.kind()))),
    };
    Ok((name(0, "key_name")?, name(1, "value_name")?))
}

/// A map's entries with one more, or another value for one of them.
fn set(mut entries: Vec<(Rc<str>, PyValue)>, name: &Rc<str>, value: PyValue) -> Vec<(Rc<str>, PyValue)> {
    match entries.iter_mut().find(|(known, _)| known == name) {
        Some((_, old)) => *old = value,
        None => entries.push((Rc::clone(name), value)),
    }
    entries
}

fn sorted(entries: &Entries, args: &Arguments, budget: &mut Budget) -> Result<PyValue, Stop> {
    let (case_sensitive, reverse) = (flag(args, 0, "case_sensitive")?, flag(args, 2, "reverse")?);
    let by_value = match args.get(1, "by") {
        None => false,
        Some(PyValue::Str(by)) if matches!(&**by, "key" | "value") => &**by == "value",
        Some(_) => return Err(Stop::value("`dictsort` sorts by `key` or by `value`")),
    };
    budget.make(entries.len() * 3 * ITEM)?;
    if let [(key, value)] = entries {
        let pair = PyValue::Tuple([PyValue::Str(Rc::clone(key)), value.clone()].into());
        return Ok(PyValue::List([pair].into()));
    }
    let pair = |(key, value): &(Rc<str>, PyValue)| {
        let key = PyValue::Str(Rc::clone(key));
        let compared = lists::compared_as(if by_value { value } else { &key }, case_sensitive, budget)?;
        Ok((compared, PyValue::Tuple([key, value.clone()].into())))
    };
    let keyed: Result<Vec<_>, Stop> = entries.iter().map(pair).collect();
    let keyed = keyed?;
    // Other than for `sort`, what is equal must have an order too.
    for neighbours in keyed.windows(2) {
        operators::charged_order(&neighbours[0].0, &neighbours[1].0, budget)?;
    }
    lists::in_order(keyed, reverse, budget)
}

fn from_items(value: &PyValue, args: &Arguments, budget: &mut Budget) -> Result<PyValue, Stop> {
    let (key_name, value_name) = names(args)?;
    let (PyValue::List(items) | PyValue::Tuple(items)) = value.defined()? else {
        return Err(Stop::value(format!("`items2dict` takes a list, not {}", value.kind())));
    };
    let mut made = Vec::new();
    for item in items.iter() {
        let PyValue::Map(item) = item.defined()? else {
            return Err(Stop::value(format!("`items2dict` takes a list of maps, and one is {}", item.kind())));
        };
        budget.make(ITEM)?;
        budget.spend((item.len() + made.len()) as u64 / 8)?;
        let get = |wanted: &Rc<str>| item.iter().find(|(name, _)| name == wanted).map(|(_, value)| value);
        let missing = || Stop::value(format!("`items2dict` needs `{key_name}` and `{value_name}` in each map"));
        match (get(&key_name).ok_or_else(missing)?, get(&value_name).ok_or_else(missing)?) {
            (PyValue::Str(key), value) => {
                budget.spend((made.len() * key.len()) as u64 / 64)?;
                made = set(made, key, value.clone());
            }
            (other, _) => return Err(Stop::not_native(&format!("a map whose key is {}", other.kind()))),
        }
    }
    Ok(PyValue::Map(made.into()))
}

/// Maps over each other, the last one on top.
fn combined(value: &PyValue, args: &Arguments, budget: &mut Budget) -> Result<PyValue, Stop> {
    let recursive = args.named("recursive").map_or(Ok(false), PyValue::truth)?;
    let terms: Vec<PyValue> = std::iter::once(value).chain(&args.positional).cloned().collect();
    let mut maps = Vec::new();
    lists::flatten(&terms, Some(1), true, 0, &mut maps, budget)?;
    maps.iter().try_for_each(|map| map.at_most_deep(limits::RECURSION, budget))?;
    maps.iter().try_for_each(PyValue::all_defined)?;
    if maps.iter().any(PyValue::holds_nothing) {
        return Err(nothing());
    }
    let Some(mut top) = maps.pop() else { return Ok(PyValue::Map([].into())) };
    if maps.is_empty() {
        return Ok(top);
    }
    while let Some(below) = maps.pop() {
        top = merged(&below, &top, recursive, 0, budget)?;
    }
    Ok(top)
}

fn merged(below: &PyValue, top: &PyValue, recursive: bool, depth: usize, budget: &mut Budget) -> Result<PyValue, Stop> {
    if depth > limits::RECURSION {
        return Err(limits::limit("maps nest deeper than 100 (recursion)"));
    }
    let (below_entries, top_entries) = (entries(below)?, entries(top)?);
    budget.make((below_entries.len() + top_entries.len()) * ITEM)?;
    budget.spend(operators::lookups(top_entries, below_entries))?;
    if below_entries.is_empty() || operators::equal(below, top, budget)? {
        return Ok(PyValue::Map(top_entries.into()));
    }
    let mut made = below_entries.to_vec();
    for (key, value) in top_entries {
        let old = below_entries.iter().find(|(name, _)| name == key).map(|(_, old)| old);
        let new = match (old, value) {
            (Some(old @ PyValue::Map(_)), PyValue::Map(_)) if recursive => {
                merged(old, value, recursive, depth + 1, budget)?
            }
            _ => value.clone(),
        };
        made = set(made, key, new);
    }
    Ok(PyValue::Map(made.into()))
}
