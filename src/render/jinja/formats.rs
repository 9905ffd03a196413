//! Texts with places for values: `'%s' % x`, the filter `format`, and the method `.format()`, as far as they are plain.

use super::expression::Arguments;
use super::value::PyValue;
use super::{Stop, checks};
use crate::render::limits::Budget;

/// The longest width that is filled up.
const WIDTH: usize = 1000;

/// The filter `format`: the places are filled from its arguments.
pub(super) fn percent(text: &str, args: &Arguments, budget: &mut Budget) -> Result<PyValue, Stop> {
    if !args.named.is_empty() {
        return Err(Stop::not_native("`format` with a named argument"));
    }
    percents(text, &args.positional, budget)
}

/// `text % value`.
pub(super) fn operator(text: &str, value: &PyValue, budget: &mut Budget) -> Result<PyValue, Stop> {
    match value {
        PyValue::Tuple(values) => percents(text, values, budget),
        // Python takes what can be looked into for a map, and does not mind if no place asks for it.
        PyValue::Map(_) | PyValue::List(_) | PyValue::Undefined(_) | PyValue::Nothing => {
            Err(Stop::not_native(&format!("`%` with {}", value.kind())))
        }
        other => percents(text, std::slice::from_ref(other), budget),
    }
}

/// Fills `%s` and `%d`, each with a width at most, and `%%`.
fn percents(text: &str, values: &[PyValue], budget: &mut Budget) -> Result<PyValue, Stop> {
    budget.make(text.len())?;
    let mut values = values.iter();
    let mut out = String::new();
    let mut parts = text.split('%');
    out.push_str(parts.next().unwrap_or_default());
    while let Some(part) = parts.next() {
        if part.is_empty() {
            // Two signs in a row are one, and what follows is text.
            let rest = parts.next().ok_or_else(|| Stop::value("the text to format ends in the middle of a place"))?;
            out.push('%');
            out.push_str(rest);
            continue;
        }
        let flags = part.trim_start_matches(['-', '0']);
        let rest = flags.trim_start_matches(|character: char| character.is_ascii_digit());
        let (left, zero) = (part[..part.len() - flags.len()].contains('-'), part.starts_with('0'));
        let width = &flags[..flags.len() - rest.len()];
        let width = if width.is_empty() { Some(0) } else { width.parse().ok() };
        let width = width.filter(|width| *width <= WIDTH).ok_or_else(|| Stop::not_native("this width in a format"))?;
        let mut characters = rest.chars();
        let kind = characters.next().filter(|kind| "sdi".contains(*kind));
        let kind = kind
            .ok_or_else(|| Stop::not_native(&format!("`%{}` in a format", part.chars().take(8).collect::<String>())))?;
        let value = values.next().ok_or_else(|| Stop::value("there are fewer values than places in the format"))?;
        let shown = if kind == 's' { value.text(budget)? } else { whole(value)?.into() };
        budget.read(&shown)?;
        let missing = width.saturating_sub(shown.chars().count());
        budget.make(shown.len() + missing)?;
        match (left, zero && kind != 's') {
            (true, _) => out.extend([&*shown, " ".repeat(missing).as_str()]),
            (false, true) => {
                let (sign, digits) = shown.split_at(usize::from(shown.starts_with('-')));
                out.extend([sign, "0".repeat(missing).as_str(), digits]);
            }
            (false, false) => out.extend([" ".repeat(missing).as_str(), &*shown]),
        }
        out.push_str(characters.as_str());
    }
    if values.next().is_some() {
        return Err(Stop::value("there are more values than places in the format"));
    }
    budget.make(out.len())?;
    Ok(PyValue::str(out))
}

fn whole(value: &PyValue) -> Result<String, Stop> {
    match value.defined()? {
        PyValue::Bool(value) => Ok(u8::from(*value).to_string()),
        PyValue::Int(value) => Ok(value.to_string()),
        PyValue::Float(value) if value.abs() < 9e15 => Ok((*value as i64).to_string()),
        PyValue::Float(_) => Err(Stop::not_native("a number this large in a format")),
        other => Err(Stop::value(format!("`%d` takes a number, not {}", other.kind()))),
    }
}

/// `text.format(…)`: fills `{}`, `{0}` and `{name}`, and nothing finer.
pub(super) fn braces(text: &str, args: &Arguments, budget: &mut Budget) -> Result<PyValue, Stop> {
    budget.make(text.len())?;
    budget.read(text)?;
    let mut out = String::new();
    let (mut rest, mut next) = (text, 0);
    let mut numbered = false;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, place) = rest.split_at(at);
        out.push_str(before);
        if let Some(after) = place.strip_prefix("{{").or_else(|| place.strip_prefix("}}")) {
            out.push_str(&place[..1]);
            rest = after;
            continue;
        }
        let (name, after) = place.strip_prefix('{').and_then(|place| place.split_once('}')).ok_or_else(unknown)?;
        let value = match name {
            "" if !numbered => {
                next += 1;
                args.positional.get(next - 1)
            }
            digits if next == 0 && checks::is_digits(digits) && digits.len() < 4 => {
                numbered = true;
                digits.parse().ok().and_then(|place: usize| args.positional.get(place))
            }
            name if name.starts_with(|first: char| first.is_ascii_alphabetic())
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') =>
            {
                args.named(name)
            }
            _ => return Err(unknown()),
        };
        let value = value.ok_or_else(|| Stop::value(format!("`.format()` has no value for `{{{name}}}`")))?;
        let shown = value.text(budget)?;
        budget.add(&mut out, &shown)?;
        rest = after;
    }
    out.push_str(rest);
    budget.make(out.len())?;
    Ok(PyValue::str(out))
}

fn unknown() -> Stop {
    Stop::not_native("this place in a `.format()`")
}
