//! Filters of lists.

use std::cmp::Ordering;
use std::rc::Rc;

use super::expression::Arguments;
use super::filters::{flag, required};
use super::value::{ITEM, PyValue};
use super::{Stop, operators, picks, texts};
use crate::render::limits::{self, Budget};

/// Applies a filter of lists.
pub(super) fn apply(name: &str, value: &PyValue, args: &Arguments, budget: &mut Budget) -> Result<PyValue, Stop> {
    Ok(match name {
        "first" => ended(&value.items(budget)?, <[PyValue]>::first),
        "last" => ended(&value.items(budget)?, <[PyValue]>::last),
        "list" => PyValue::List(value.items(budget)?),
        "reverse" => reversed(value, budget)?,
        "sort" => sorted(&value.items(budget)?, args, budget)?,
        "unique" => unique(&value.items(budget)?, budget)?,
        "min" | "max" => extreme(name, value, args, budget)?,
        "sum" => sum(value, args, budget)?,
        "flatten" => {
            let levels = match args.get(0, "levels") {
                None | Some(PyValue::None) => None,
                Some(PyValue::Int(levels)) => Some(*levels),
                Some(_) => return Err(Stop::not_native("`flatten` by this")),
            };
            let skip_nulls = args.get(1, "skip_nulls").map_or(Ok(true), PyValue::truth)?;
            let mut flat = Vec::new();
            flatten(&value.items(budget)?, levels, skip_nulls, 0, &mut flat, budget)?;
            PyValue::List(flat.into())
        }
        _ => as_sets(name, value, required(args, 0, "b")?, budget)?,
    })
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
pub(super) fn compared_as(value: &PyValue, case_sensitive: bool, budget: &mut Budget) -> Result<PyValue, Stop> {
    let PyValue::Str(text) = value.defined()? else { return Ok(value.clone()) };
    if case_sensitive {
        return Ok(value.clone());
    }
    budget.make(text.len())?;
    budget.read(text)?;
    if text.is_ascii() && !text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Ok(PyValue::Str(Rc::clone(text)));
    }
    Ok(PyValue::str(texts::cased(text, str::to_lowercase)?))
}

fn sorted(items: &[PyValue], args: &Arguments, budget: &mut Budget) -> Result<PyValue, Stop> {
    let (reverse, case_sensitive) = (flag(args, 0, "reverse")?, flag(args, 1, "case_sensitive")?);
    // One alone is compared with nothing.
    if items.len() < 2 {
        return Ok(PyValue::List(items.into()));
    }
    let attribute = args.get(2, "attribute");
    if attribute.is_some_and(|attribute| matches!(attribute, PyValue::Str(name) if name.contains(','))) {
        return Err(Stop::not_native("`sort` by more than one attribute"));
    }
    let keys = picks::attributes(items, attribute, budget)?;
    let keys: Result<Vec<_>, Stop> = keys.iter().map(|key| compared_as(key, case_sensitive, budget)).collect();
    in_order(keys?.into_iter().zip(items.iter().cloned()).collect(), reverse, budget)
}

/// Items in the order of their keys.
pub(super) fn in_order(
    mut keyed: Vec<(PyValue, PyValue)>,
    reverse: bool,
    budget: &mut Budget,
) -> Result<PyValue, Stop> {
    // In each round of merging, every key is compared whole about once.
    let length = |(key, _): &(PyValue, PyValue)| if let PyValue::Str(text) = key { 1 + text.len() / 64 } else { 1 };
    let steps = keyed.iter().map(length).sum::<usize>() * (keyed.len().max(2).ilog2() as usize + 1);
    budget.make(keyed.len() * ITEM * 2)?;
    budget.spend(steps as u64)?;
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
    if operators::equal(left, right, budget)? {
        Ok(Ordering::Equal)
    } else {
        operators::charged_order(left, right, budget)
    }
}

fn unique(items: &[PyValue], budget: &mut Budget) -> Result<PyValue, Stop> {
    let mut seen = std::collections::HashSet::new();
    let mut kept = Vec::new();
    budget.make(items.len() * ITEM * 2)?;
    for item in items {
        let key = match compared_as(item, false, budget)? {
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

/// The smallest or the largest item; of several, the first.
fn extreme(name: &str, value: &PyValue, args: &Arguments, budget: &mut Budget) -> Result<PyValue, Stop> {
    let case_sensitive = flag(args, 0, "case_sensitive")?;
    let items = value.items(budget)?;
    if let [only] = items.as_ref() {
        return Ok(only.clone());
    }
    let keys = picks::attributes(&items, args.get(1, "attribute"), budget)?;
    let mut best: Option<(PyValue, &PyValue)> = None;
    for (key, item) in keys.iter().zip(items.iter()) {
        let key = compared_as(key, case_sensitive, budget)?;
        let better = match &best {
            None => true,
            Some((so_far, _)) if name == "max" => operators::charged_order(&key, so_far, budget)?.is_gt(),
            Some((so_far, _)) => operators::charged_order(&key, so_far, budget)?.is_lt(),
        };
        budget.spend(1)?;
        if better {
            best = Some((key, item));
        }
    }
    Ok(best.map_or_else(|| PyValue::undefined("there is no least or largest of nothing", ""), |(_, item)| item.clone()))
}

fn sum(value: &PyValue, args: &Arguments, budget: &mut Budget) -> Result<PyValue, Stop> {
    let start = args.get(1, "start").cloned().unwrap_or(PyValue::Int(0));
    if matches!(start, PyValue::Str(_)) {
        return Err(Stop::value("texts have no sum"));
    }
    let items = picks::attributes(&value.items(budget)?, args.get(0, "attribute"), budget)?;
    items
        .iter()
        .try_fold(start, |sum, item| operators::apply(minijinja::machinery::ast::BinOpKind::Add, &sum, item, budget))
}

/// The items of lists within lists, as deep as is asked for. What is null goes, and so do the words for it.
pub(super) fn flatten(
    items: &[PyValue],
    levels: Option<i64>,
    skip_nulls: bool,
    depth: usize,
    flat: &mut Vec<PyValue>,
    budget: &mut Budget,
) -> Result<(), Stop> {
    if depth > limits::RECURSION {
        return Err(limits::limit("lists nest deeper than 100 (recursion)"));
    }
    for item in items {
        budget.make(ITEM)?;
        if skip_nulls {
            item.defined()?;
        }
        let null =
            matches!(item, PyValue::None) || matches!(item, PyValue::Str(text) if matches!(&**text, "None" | "null"));
        match item {
            _ if skip_nulls && null => {}
            PyValue::List(inner) | PyValue::Tuple(inner) if levels.is_none_or(|levels| levels >= 1) => {
                flatten(inner, levels.map(|levels| levels - 1), skip_nulls, depth + 1, flat, budget)?;
            }
            item => flat.push(item.clone()),
        }
    }
    Ok(())
}

/// `union`, `intersect` and `difference` of two lists: each item once, in the order of the lists.
fn as_sets(name: &str, left: &PyValue, right: &PyValue, budget: &mut Budget) -> Result<PyValue, Stop> {
    let (PyValue::List(left), PyValue::List(right)) = (left.defined()?, right.defined()?) else {
        return Err(Stop::not_native(&format!("`{name}` of anything but lists")));
    };
    let unknown = |item: &PyValue| item.is_undefined();
    if left.iter().chain(right.iter()).any(unknown) {
        return Err(Stop::not_native(&format!("`{name}` of what is undefined")));
    }
    let mut kept: Vec<PyValue> = Vec::new();
    let others: &[PyValue] = if name == "union" { right } else { &[] };
    for item in left.iter().chain(others) {
        let wanted = match name {
            "intersect" => among(right, item, budget)?,
            "difference" => !among(right, item, budget)?,
            _ => true,
        };
        if wanted && !among(&kept, item, budget)? {
            budget.make(ITEM)?;
            kept.push(item.clone());
        }
    }
    Ok(PyValue::List(kept.into()))
}

fn among(items: &[PyValue], item: &PyValue, budget: &mut Budget) -> Result<bool, Stop> {
    for other in items {
        if operators::equal(other, item, budget)? {
            return Ok(true);
        }
    }
    Ok(false)
}
