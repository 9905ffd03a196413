//! Filters, each as Jinja2 3.1 has it or as ansible-core 2.14 replaces it.

use super::expression::{Arguments, nothing};
use super::value::{PyValue, is_space};
use super::{Stop, json, lists, maps, operators, picks, texts};
use crate::render::limits::Budget;

/// The filters that are known, each with the names of its arguments in order. What [`picks`] has is not among them.
pub(super) const FILTERS: [(&str, &[&str]); 47] = [
    ("abs", &[]),
    ("b64decode", &[]),
    ("b64encode", &[]),
    ("basename", &[]),
    ("bool", &[]),
    ("capitalize", &[]),
    ("combine", &["recursive"]),
    (
        "comment",
        &["style", "newline", "beginning", "prefix", "prefix_count", "decoration", "postfix", "postfix_count", "end"],
    ),
    ("count", &[]),
    ("d", &["default_value", "boolean"]),
    ("default", &["default_value", "boolean"]),
    ("dict2items", &["key_name", "value_name"]),
    ("dictsort", &["case_sensitive", "by", "reverse"]),
    ("difference", &["b"]),
    ("dirname", &[]),
    ("first", &[]),
    ("flatten", &["levels", "skip_nulls"]),
    ("float", &["default"]),
    ("format", &[]),
    ("indent", &["width", "first", "blank"]),
    ("int", &["default"]),
    ("intersect", &["b"]),
    ("items2dict", &["key_name", "value_name"]),
    ("join", &["d", "attribute"]),
    ("last", &[]),
    ("length", &[]),
    ("list", &[]),
    ("lower", &[]),
    ("mandatory", &["msg"]),
    ("max", &["case_sensitive", "attribute"]),
    ("min", &["case_sensitive", "attribute"]),
    ("quote", &[]),
    ("replace", &["old", "new"]),
    ("reverse", &[]),
    ("round", &["precision", "method"]),
    ("sort", &["reverse", "case_sensitive", "attribute"]),
    ("split", &["sep"]),
    ("string", &[]),
    ("sum", &["attribute", "start"]),
    ("ternary", &["true_val", "false_val", "none_val"]),
    ("title", &[]),
    ("to_json", &["indent", "sort_keys"]),
    ("to_nice_json", &["indent", "sort_keys"]),
    ("trim", &["chars"]),
    ("union", &["b"]),
    ("unique", &[]),
    ("upper", &[]),
];
/// The filters that take as many arguments without a name as one likes.
pub(super) const OPEN: [&str; 2] = ["combine", "format"];

/// Applies a filter.
pub(super) fn apply(name: &str, value: &PyValue, args: &Arguments, budget: &mut Budget) -> Result<PyValue, Stop> {
    if let PyValue::Str(text) = value {
        budget.read(text)?;
    }
    match name {
        "default" | "d" => {
            let boolean = args.get(1, "boolean").map_or(Ok(false), PyValue::truth)?;
            if value.is_undefined() || boolean && !value.truth()? {
                return Ok(args.get(0, "default_value").cloned().unwrap_or_else(|| PyValue::str("")));
            }
            Ok(value.clone())
        }
        "mandatory" if matches!(value, PyValue::Nothing) => Err(nothing()),
        "mandatory" => Ok(value.defined()?.clone()),
        "bool" => truth_word(value.defined()?, budget),
        "ternary" => ternary(value, args),
        "int" => integer(value.defined()?, args),
        "float" => float(value.defined()?, args),
        "abs" | "round" => number(name, value.defined()?, args),
        "to_json" | "to_nice_json" => json::filter(name, value, args, budget),
        "length" | "count" => length(value),
        "dict2items" | "items2dict" | "dictsort" | "combine" => maps::apply(name, value, args, budget),
        "first" | "last" | "list" | "reverse" | "sort" | "unique" | "flatten" | "min" | "max" | "sum" | "union"
        | "intersect" | "difference" => lists::apply(name, value, args, budget),
        name if picks::PICKS.contains(&name) => picks::apply(name, value, args, budget),
        _ => texts::apply(name, value, args, budget),
    }
}

/// An argument that a filter can't do without.
pub(super) fn required<'a>(args: &'a Arguments, place: usize, name: &str) -> Result<&'a PyValue, Stop> {
    args.get(place, name).ok_or_else(|| Stop::value(format!("the filter or test needs its argument `{name}`")))
}

/// Whether an argument is true; what is not given is false.
pub(super) fn flag(args: &Arguments, place: usize, name: &str) -> Result<bool, Stop> {
    args.get(place, name).map_or(Ok(false), PyValue::truth)
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

fn ternary(value: &PyValue, args: &Arguments) -> Result<PyValue, Stop> {
    let (yes, no) = (required(args, 0, "true_val")?, required(args, 1, "false_val")?);
    let none = args.get(2, "none_val").filter(|none| !matches!(none, PyValue::None));
    Ok(match (value, none) {
        (PyValue::None, Some(none)) => none.clone(),
        _ if value.truth()? => yes.clone(),
        _ => no.clone(),
    })
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
        PyValue::Nothing => return Err(nothing()),
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
    if no_number(unsigned) { Ok(default()) } else { Err(unknown()) }
}

/// The filter `float`: the number, else that which the text spells, else the default.
fn float(value: &PyValue, args: &Arguments) -> Result<PyValue, Stop> {
    let text = match value {
        PyValue::Float(_) => return Ok(value.clone()),
        PyValue::Bool(value) => return Ok(PyValue::Float(f64::from(u8::from(*value)))),
        PyValue::Int(_) => return operators::float(value).map(PyValue::Float),
        PyValue::Str(text) => text.trim_matches(is_space),
        PyValue::Nothing => return Err(nothing()),
        _ => return Ok(args.get(0, "default").cloned().unwrap_or(PyValue::Float(0.0))),
    };
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, part) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    if plain(whole) && plain(part) && unsigned.bytes().any(|byte| byte.is_ascii_digit()) {
        return text.parse().map(PyValue::Float).map_err(|_| Stop::not_native("`float` of this text"));
    }
    if !no_number(unsigned) {
        return Err(Stop::not_native("`float` of this text"));
    }
    Ok(args.get(0, "default").cloned().unwrap_or(PyValue::Float(0.0)))
}

/// Whether a text without its sign is certainly no number to Python, which also reads 1_000, 1e3, digits of other
/// scripts and the names of what is no number.
fn no_number(unsigned: &str) -> bool {
    let special = ["inf", "infinity", "nan"].iter().any(|name| unsigned.eq_ignore_ascii_case(name));
    !special && unsigned.is_ascii() && !unsigned.bytes().any(|byte| byte.is_ascii_digit())
}

/// `abs`, and `round` to a whole number.
fn number(name: &str, value: &PyValue, args: &Arguments) -> Result<PyValue, Stop> {
    if args.get(0, "precision").is_some_and(|places| !matches!(places, PyValue::Int(0))) {
        return Err(Stop::not_native("`round` to places after the point"));
    }
    let method = match args.get(1, "method") {
        None => "common",
        Some(PyValue::Str(method)) => method,
        Some(_) => return Err(Stop::not_native("this way to round")),
    };
    let unknown = || Stop::not_native(&format!("`{name}` of {}", value.kind()));
    match (name, value, method) {
        ("abs", PyValue::Int(number), _) => number.checked_abs().map(PyValue::Int).ok_or_else(unknown),
        ("abs", PyValue::Float(number), _) => Ok(PyValue::Float(number.abs())),
        ("round", PyValue::Int(_), "common") => Ok(value.clone()),
        ("round", PyValue::Int(_), "ceil" | "floor") => operators::float(value).map(PyValue::Float),
        ("round", PyValue::Float(number), "common") => Ok(PyValue::Float(number.round_ties_even())),
        ("round", PyValue::Float(number), "ceil") if number.abs() < 9e15 => Ok(PyValue::Float(number.ceil() + 0.0)),
        ("round", PyValue::Float(number), "floor") if number.abs() < 9e15 => Ok(PyValue::Float(number.floor() + 0.0)),
        (_, PyValue::None | PyValue::List(_) | PyValue::Map(_), _) => {
            Err(Stop::value(format!("{} can't be rounded", value.kind())))
        }
        _ => Err(unknown()),
    }
}

/// Ansible's `bool`: some words and numbers are true, None stays None.
fn truth_word(value: &PyValue, budget: &mut Budget) -> Result<PyValue, Stop> {
    Ok(match value {
        PyValue::None | PyValue::Bool(_) => value.clone(),
        PyValue::Str(text) => {
            budget.make(text.len())?;
            let word = texts::cased(text, str::to_lowercase)?;
            PyValue::Bool(["yes", "on", "1", "true"].contains(&word.as_str()))
        }
        PyValue::Int(number) => PyValue::Bool(*number == 1),
        PyValue::Float(number) => PyValue::Bool(*number == 1.0),
        _ => PyValue::Bool(false),
    })
}
