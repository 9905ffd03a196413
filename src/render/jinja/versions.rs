//! The test `version`: Python's loose versions, which compare numbers as numbers and words as words.

use std::cmp::Ordering;

use super::Stop;
use super::checks::is_digits;
use super::expression::Arguments;
use super::filters::{flag, required};
use super::value::PyValue;
use crate::render::limits::Budget;

#[derive(PartialEq, Eq)]
enum Part<'t> {
    Number(u64),
    Word(&'t str),
}

/// Applies the test.
pub(super) fn test(value: &PyValue, args: &Arguments, budget: &mut Budget) -> Result<bool, Stop> {
    let other = required(args, 0, "version")?;
    let loose = match args.get(3, "version_type") {
        None | Some(PyValue::None) => true,
        Some(PyValue::Str(kind)) => &**kind == "loose" && args.get(2, "strict").is_none(),
        Some(_) => false,
    };
    if flag(args, 2, "strict")? || !loose {
        return Err(Stop::not_native("`version` but for loose ones"));
    }
    if !value.truth()? || !other.truth()? {
        return Err(Stop::value("an empty version can't be compared"));
    }
    let wanted: fn(Ordering) -> bool = match args.get(1, "operator") {
        None => Ordering::is_eq,
        Some(PyValue::Str(operator)) => match &**operator {
            "==" | "=" | "eq" => Ordering::is_eq,
            "!=" | "<>" | "ne" => Ordering::is_ne,
            "<" | "lt" => Ordering::is_lt,
            "<=" | "le" => Ordering::is_le,
            ">" | "gt" => Ordering::is_gt,
            ">=" | "ge" => Ordering::is_ge,
            other => return Err(Stop::value(format!("`{other}` compares no versions"))),
        },
        Some(other) => return Err(Stop::value(format!("{} compares no versions", other.kind()))),
    };
    let (value, other) = (value.text(budget)?, other.text(budget)?);
    budget.make((value.len() + other.len()) * 32)?;
    Ok(wanted(order(&parts(&value)?, &parts(&other)?)?))
}

/// Runs of digits, runs of small letters, and what else stands between points.
fn parts(text: &str) -> Result<Vec<Part<'_>>, Stop> {
    if !text.is_ascii() {
        return Err(Stop::not_native("a version beyond ASCII"));
    }
    let kind = |byte: u8| match byte {
        b'0'..=b'9' => 0,
        b'a'..=b'z' => 1,
        b'.' => 2,
        _ => 3,
    };
    let mut parts = Vec::new();
    for chunk in text.as_bytes().chunk_by(|one, next| kind(*one) == kind(*next)) {
        match std::str::from_utf8(chunk).unwrap_or_default() {
            points if points.starts_with('.') => {}
            digits if is_digits(digits) => {
                let number = digits.parse().map_err(|_| Stop::not_native("a number beyond 64 bits"))?;
                parts.push(Part::Number(number));
            }
            word => parts.push(Part::Word(word)),
        }
    }
    Ok(parts)
}

fn order(left: &[Part<'_>], right: &[Part<'_>]) -> Result<Ordering, Stop> {
    match left.iter().zip(right).find(|(left, right)| left != right) {
        None => Ok(left.len().cmp(&right.len())),
        Some((Part::Number(left), Part::Number(right))) => Ok(left.cmp(right)),
        Some((Part::Word(left), Part::Word(right))) => Ok(left.cmp(right)),
        Some(_) => Err(Stop::value("a number and a word in versions have no order")),
    }
}
