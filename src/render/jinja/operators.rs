//! Python's operators on the values that templates have.

use std::cmp::Ordering;
use std::rc::Rc;

use minijinja::machinery::ast::BinOpKind;

use super::value::{ITEM, PyValue};
use super::{Stop, formats};
use crate::render::limits::Budget;

/// An operator that always looks at both sides.
pub(super) fn apply(op: BinOpKind, left: &PyValue, right: &PyValue, budget: &mut Budget) -> Result<PyValue, Stop> {
    Ok(match op {
        BinOpKind::Eq => PyValue::Bool(equal(left, right, budget)?),
        BinOpKind::Ne => PyValue::Bool(!equal(left, right, budget)?),
        BinOpKind::Lt => PyValue::Bool(charged_order(left, right, budget)?.is_lt()),
        BinOpKind::Lte => PyValue::Bool(charged_order(left, right, budget)?.is_le()),
        BinOpKind::Gt => PyValue::Bool(charged_order(left, right, budget)?.is_gt()),
        BinOpKind::Gte => PyValue::Bool(charged_order(left, right, budget)?.is_ge()),
        BinOpKind::In => PyValue::Bool(contains(right, left, budget)?),
        BinOpKind::Concat => {
            let (left, right) = (left.text(budget)?, right.text(budget)?);
            concatenated(&left, &right, budget)?
        }
        BinOpKind::Add => add(left, right, budget)?,
        BinOpKind::Rem => match (left.defined()?, right) {
            (PyValue::Str(text), value) => formats::operator(text, value, budget)?,
            _ => arithmetic(op, left, right)?,
        },
        _ => arithmetic(op, left, right)?,
    })
}

/// `left == right`.
pub(super) fn equal(left: &PyValue, right: &PyValue, budget: &mut Budget) -> Result<bool, Stop> {
    use PyValue::{Bool, Float, Int, List, Map, Str, Tuple};
    budget.spend(1)?;
    Ok(match (left.defined()?, right.defined()?) {
        (Str(left), Str(right)) if left.len() == right.len() => {
            budget.spend(left.len() as u64 / 64)?;
            left == right
        }
        (Bool(_) | Int(_) | Float(_), Bool(_) | Int(_) | Float(_)) => compare_numbers(left, right)?.is_eq(),
        (List(left), List(right)) | (Tuple(left), Tuple(right)) => {
            left.len() == right.len() && all_equal(left.iter().zip(right.iter()), budget)?
        }
        (Map(left), Map(right)) => {
            budget.spend(lookups(left, right))?;
            let other = |key: &Rc<str>| right.iter().find(|(name, _)| name == key).map(|(_, value)| value);
            let pairs: Option<Vec<_>> = left.iter().map(|(key, value)| Some((value, other(key)?))).collect();
            left.len() == right.len() && pairs.map_or(Ok(false), |pairs| all_equal(pairs.into_iter(), budget))?
        }
        (PyValue::None, PyValue::None) | (PyValue::Nothing, PyValue::Nothing) => true,
        _ => false,
    })
}

/// How many steps it takes to look for every key of one map in another.
pub(super) fn lookups(keys: &[(Rc<str>, PyValue)], entries: &[(Rc<str>, PyValue)]) -> u64 {
    let bytes: usize = keys.iter().map(|(key, _)| 8 + key.len()).sum();
    (bytes * entries.len()) as u64 / 64
}

fn all_equal<'v>(
    mut pairs: impl Iterator<Item = (&'v PyValue, &'v PyValue)>,
    budget: &mut Budget,
) -> Result<bool, Stop> {
    pairs.try_fold(true, |so_far, (left, right)| Ok(so_far && equal(left, right, budget)?))
}

/// The order of two values that Python can compare.
pub(super) fn order(left: &PyValue, right: &PyValue) -> Result<Ordering, Stop> {
    use PyValue::{Bool, Float, Int, List, Str, Tuple};
    match (left.defined()?, right.defined()?) {
        // Python compares by code points, and UTF-8 keeps their order.
        (Str(left), Str(right)) => Ok(left.cmp(right)),
        (Bool(_) | Int(_) | Float(_), Bool(_) | Int(_) | Float(_)) => compare_numbers(left, right),
        (List(_), List(_)) | (Tuple(_), Tuple(_)) => Err(Stop::not_native("which of two lists is less")),
        (left, right) => Err(Stop::value(format!("{} and {} have no order", left.kind(), right.kind()))),
    }
}

/// The order of two values, where long texts take long.
pub(super) fn charged_order(left: &PyValue, right: &PyValue, budget: &mut Budget) -> Result<Ordering, Stop> {
    if let (PyValue::Str(left), PyValue::Str(right)) = (left, right) {
        budget.spend(1 + left.len().min(right.len()) as u64 / 64)?;
    }
    order(left, right)
}

fn compare_numbers(left: &PyValue, right: &PyValue) -> Result<Ordering, Stop> {
    let (exact_left, exact_right) = (integer(left), integer(right));
    if let (Some(left), Some(right)) = (exact_left, exact_right) {
        return Ok(left.cmp(&right));
    }
    let ordering = float(left)?.partial_cmp(&float(right)?);
    ordering.ok_or_else(|| Stop::not_native("a comparison with what is not a number"))
}

fn integer(value: &PyValue) -> Option<i64> {
    match value {
        PyValue::Bool(value) => Some(i64::from(*value)),
        PyValue::Int(value) => Some(*value),
        _ => None,
    }
}

/// A number as a float.
pub(super) fn float(value: &PyValue) -> Result<f64, Stop> {
    // Above this, a whole number can't be made a float without loss, and Python compares without one.
    const EXACT: u64 = 1 << 53;
    match value {
        PyValue::Float(value) => Ok(*value),
        other => match integer(other) {
            Some(whole) if whole.unsigned_abs() <= EXACT => Ok(whole as f64),
            _ => Err(Stop::not_native("a comparison of numbers this large")),
        },
    }
}

/// `item in container`.
pub(super) fn contains(container: &PyValue, item: &PyValue, budget: &mut Budget) -> Result<bool, Stop> {
    match container.defined()? {
        PyValue::Str(text) => match item.defined()? {
            PyValue::Str(piece) => {
                budget.read(text)?;
                Ok(text.contains(&**piece))
            }
            other => Err(Stop::value(format!("{} can't be looked for in text", other.kind()))),
        },
        PyValue::List(items) | PyValue::Tuple(items) => {
            items.iter().try_fold(false, |found, other| Ok(found || equal(other, item, budget)?))
        }
        PyValue::Map(entries) => match item.defined()? {
            PyValue::Str(name) => {
                budget.spend(1 + entries.len() as u64 / 8)?;
                Ok(entries.iter().any(|(key, _)| key == name))
            }
            PyValue::List(_) | PyValue::Map(_) => Err(Stop::value("a list or map can't be a key")),
            _ => Ok(false),
        },
        PyValue::Nothing => Ok(false),
        other => Err(Stop::value(format!("nothing can be in {}", other.kind()))),
    }
}

/// Two texts, one after the other.
pub(super) fn concatenated(left: &str, right: &str, budget: &mut Budget) -> Result<PyValue, Stop> {
    budget.make(left.len() + right.len())?;
    Ok(PyValue::str([left, right].concat()))
}

fn add(left: &PyValue, right: &PyValue, budget: &mut Budget) -> Result<PyValue, Stop> {
    match (left.defined()?, right.defined()?) {
        (PyValue::Str(left), PyValue::Str(right)) => concatenated(left, right, budget),
        (PyValue::List(left), PyValue::List(right)) => {
            budget.make((left.len() + right.len()) * ITEM)?;
            Ok(PyValue::List(left.iter().chain(right.iter()).cloned().collect()))
        }
        (left, right) => arithmetic(BinOpKind::Add, left, right),
    }
}

/// Whole numbers only: those of Python have no end, so what does not fit is refused.
fn arithmetic(op: BinOpKind, left: &PyValue, right: &PyValue) -> Result<PyValue, Stop> {
    let (left, right) = match (left.defined()?, right.defined()?) {
        (PyValue::Int(left), PyValue::Int(right)) => (*left, *right),
        (
            PyValue::Bool(_) | PyValue::Int(_) | PyValue::Float(_),
            PyValue::Bool(_) | PyValue::Int(_) | PyValue::Float(_),
        ) => {
            return Err(Stop::not_native("arithmetic with anything but whole numbers"));
        }
        (left, right) if matches!(op, BinOpKind::Add | BinOpKind::Sub) => {
            return Err(Stop::value(format!("{} and {} can't be added or subtracted", left.kind(), right.kind())));
        }
        // Python multiplies texts and lists.
        _ => return Err(Stop::not_native("this operator with anything but whole numbers")),
    };
    let floored = |quotient: Option<i64>| match quotient {
        Some(quotient) if left % right != 0 && (left < 0) != (right < 0) => Some(quotient - 1),
        other => other,
    };
    if right == 0 && matches!(op, BinOpKind::FloorDiv | BinOpKind::Rem) {
        return Err(Stop::value("a division by zero"));
    }
    let result = match op {
        BinOpKind::Add => left.checked_add(right),
        BinOpKind::Sub => left.checked_sub(right),
        BinOpKind::Mul => left.checked_mul(right),
        BinOpKind::FloorDiv => floored(left.checked_div(right)),
        BinOpKind::Rem => left.checked_rem(right).map(|rest| match rest {
            rest if rest != 0 && (rest < 0) != (right < 0) => rest + right,
            rest => rest,
        }),
        _ => None,
    };
    result.map(PyValue::Int).ok_or_else(|| Stop::not_native("a number beyond 64 bits"))
}

/// `-value`.
pub(super) fn negated(value: &PyValue) -> Result<PyValue, Stop> {
    match value.defined()? {
        PyValue::Int(value) => {
            value.checked_neg().map(PyValue::Int).ok_or_else(|| Stop::not_native("a number beyond 64 bits"))
        }
        PyValue::Float(value) => Ok(PyValue::Float(-value)),
        PyValue::Bool(_) => Err(Stop::not_native("minus before true or false")),
        other => Err(Stop::value(format!("{} has no negative", other.kind()))),
    }
}
