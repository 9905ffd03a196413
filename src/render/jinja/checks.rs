//! Tests, each as Jinja2 3.1 has it or as ansible-core 2.14 adds it.

use minijinja::machinery::ast::BinOpKind;

use super::expression::Arguments;
use super::filters::required;
use super::value::PyValue;
use super::{Stop, operators, versions};
use crate::render::limits::Budget;

/// The tests that are known, each with the names of its arguments in order.
pub(super) const TESTS: [(&str, &[&str]); 41] = [
    ("!=", &["other"]),
    ("<", &["other"]),
    ("<=", &["other"]),
    ("==", &["other"]),
    (">", &["other"]),
    (">=", &["other"]),
    ("boolean", &[]),
    ("contains", &["value"]),
    ("defined", &[]),
    ("divisibleby", &["num"]),
    ("eq", &["other"]),
    ("equalto", &["other"]),
    ("even", &[]),
    ("false", &[]),
    ("falsy", &[]),
    ("float", &[]),
    ("ge", &["other"]),
    ("greaterthan", &["other"]),
    ("gt", &["other"]),
    ("in", &["seq"]),
    ("integer", &[]),
    ("iterable", &[]),
    ("le", &["other"]),
    ("lessthan", &["other"]),
    ("lower", &[]),
    ("lt", &["other"]),
    ("mapping", &[]),
    ("ne", &["other"]),
    ("none", &[]),
    ("number", &[]),
    ("odd", &[]),
    ("sameas", &["other"]),
    ("sequence", &[]),
    ("string", &[]),
    ("subset", &["b"]),
    ("superset", &["b"]),
    ("true", &[]),
    ("truthy", &[]),
    ("undefined", &[]),
    ("upper", &[]),
    ("version", &["version", "operator", "strict", "version_type"]),
];

/// Applies a test. What is undefined may be tested for what it is.
pub(super) fn test(name: &str, value: &PyValue, args: &Arguments, budget: &mut Budget) -> Result<bool, Stop> {
    if let PyValue::Str(text) = value {
        budget.read(text)?;
    }
    if let Some(op) = comparison(name) {
        return operators::apply(op, value, required(args, 0, "other")?, budget)?.truth();
    }
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
        "truthy" => value.truth()?,
        "falsy" => !value.truth()?,
        "iterable" => {
            use PyValue::{List, Map, Nothing, Str, Tuple};
            matches!(value.defined()?, Str(_) | List(_) | Tuple(_) | Map(_) | Nothing)
        }
        "in" => operators::contains(required(args, 0, "seq")?, value, budget)?,
        "contains" => operators::contains(value, required(args, 0, "value")?, budget)?,
        "sameas" => same(value, required(args, 0, "other")?)?,
        "divisibleby" => match operators::apply(BinOpKind::Rem, value, required(args, 0, "num")?, budget)? {
            PyValue::Int(rest) => rest == 0,
            other => return Err(Stop::not_native(&format!("`divisibleby` of {}", other.kind()))),
        },
        "lower" | "upper" => cased(name, &value.text(budget)?)?,
        "subset" => covers(required(args, 0, "b")?, value, budget)?,
        "superset" => covers(value, required(args, 0, "b")?, budget)?,
        "version" => versions::test(value, args, budget)?,
        other => return Err(Stop::not_native(&format!("the test `{other}`"))),
    })
}

fn comparison(name: &str) -> Option<BinOpKind> {
    Some(match name {
        "eq" | "equalto" | "==" => BinOpKind::Eq,
        "ne" | "!=" => BinOpKind::Ne,
        "lt" | "lessthan" | "<" => BinOpKind::Lt,
        "le" | "<=" => BinOpKind::Lte,
        "gt" | "greaterthan" | ">" => BinOpKind::Gt,
        "ge" | ">=" => BinOpKind::Gte,
        _ => return None,
    })
}

/// Whether two are one object: known of those of which Python has one alone.
fn same(value: &PyValue, other: &PyValue) -> Result<bool, Stop> {
    Ok(match other {
        PyValue::None => matches!(value, PyValue::None),
        PyValue::Bool(other) => matches!(value, PyValue::Bool(value) if value == other),
        other => return Err(Stop::not_native(&format!("`sameas` of {}", other.kind()))),
    })
}

/// Whether a text has letters, and all of them in one case.
fn cased(name: &str, text: &str) -> Result<bool, Stop> {
    if !text.is_ascii() {
        return Err(Stop::not_native(&format!("the test `{name}` beyond ASCII")));
    }
    let (small, large) =
        (text.bytes().any(|byte| byte.is_ascii_lowercase()), text.bytes().any(|byte| byte.is_ascii_uppercase()));
    Ok(if name == "lower" { small && !large } else { large && !small })
}

/// Whether every item of one is an item of the other. Python makes sets of them, which hold no lists and no maps.
fn covers(all: &PyValue, some: &PyValue, budget: &mut Budget) -> Result<bool, Stop> {
    let (all, some) = (all.items(budget)?, some.items(budget)?);
    for item in all.iter().chain(some.iter()) {
        match item.defined()? {
            PyValue::Str(_) | PyValue::Int(_) | PyValue::Bool(_) | PyValue::Float(_) | PyValue::None => {}
            PyValue::List(_) | PyValue::Map(_) => return Err(Stop::value("a list or map can't be in a set")),
            other => return Err(Stop::not_native(&format!("a set that holds {}", other.kind()))),
        }
    }
    for item in some.iter() {
        let mut found = false;
        for other in all.iter() {
            found = found || operators::equal(other, item, budget)?;
        }
        if !found {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a text is nothing but ASCII digits.
pub(super) fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}
