//! What a plain scalar of YAML 1.1 is: the rules of the loader that Ansible reads with, which people's vars rely on.
//!
//! `yes` is true, `0644` is 420, `1:30` is 90, `0o644` and `1e3` are text.

use super::fault::quoted;
use crate::domain::value::Value;

/// What a scalar without quotes and tag stands for.
///
/// # Errors
/// What Ansible refuses, or what has no value here that would behave the same; the text says what to do.
pub(super) fn resolve(text: &str) -> Result<Value, String> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Value::Null),
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => return Ok(Value::Bool(true)),
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => return Ok(Value::Bool(false)),
        "=" => return Err("a lone `=` has a meaning of its own in YAML; write it in quotes".to_owned()),
        _ => {}
    }
    let first = text.as_bytes()[0];
    if !(first.is_ascii_digit() || matches!(first, b'-' | b'+' | b'.')) {
        return Ok(Value::from(text));
    }
    if let Some(number) = integer(text) {
        return number.map(Value::Int);
    }
    if let Some(number) = float(text) {
        return Ok(Value::Float(number));
    }
    if is_moment(text) {
        return moment(text);
    }
    Ok(Value::from(text))
}

/// A whole number; `None` where the text is none.
pub(super) fn integer(text: &str) -> Option<Result<i64, String>> {
    let (negative, digits) = sign(text);
    let number = if let Some(bits) = digits.strip_prefix("0b") {
        all(bits, |c| matches!(c, '0' | '1' | '_')).then(|| radix(bits, 2))?
    } else if let Some(digits) = digits.strip_prefix("0x") {
        all(digits, |c| c.is_ascii_hexdigit() || c == '_').then(|| radix(digits, 16))?
    } else if digits == "0" {
        Some(0)
    } else if let Some(digits) = digits.strip_prefix('0') {
        all(digits, |c| matches!(c, '0'..='7' | '_'))
            .then(|| if digits.contains(|c| c != '_') { radix(digits, 8) } else { Some(0) })?
    } else if digits.contains(':') {
        let (first, rest) = digits.split_once(':')?;
        let parts: Vec<&str> = rest.split(':').collect();
        (is_count(first) && parts.iter().all(|part| is_sixtieth(part))).then(|| sexagesimal(first, &parts))?
    } else {
        is_count(digits).then(|| radix(digits, 10))?
    };
    let number = number.map(|number| if negative { -number } else { number });
    Some(number.and_then(|number| i64::try_from(number).ok()).ok_or_else(|| {
        format!("the number {} does not fit 64 bits; write it in quotes to keep its digits", quoted(text))
    }))
}

fn float(text: &str) -> Option<f64> {
    let (negative, digits) = sign(text);
    let signed = |number: f64| if negative { -number } else { number };
    match digits {
        ".inf" | ".Inf" | ".INF" => return Some(signed(f64::INFINITY)),
        ".nan" | ".NaN" | ".NAN" if digits == text => return Some(f64::NAN),
        _ => {}
    }
    let (whole, rest) = digits.split_once('.')?;
    let (fraction, exponent) = match rest.find(['e', 'E']) {
        Some(at) => (&rest[..at], Some(&rest[at + 1..])),
        None => (rest, None),
    };
    let fraction_is_right = fraction.chars().all(|c| c.is_ascii_digit() || c == '_');
    // The exponent's sign is not optional in YAML 1.1: `1.0e3` is text.
    let exponent_is_right = exponent.is_none_or(|text| text.starts_with(['+', '-']) && all(&text[1..], is_digit));
    if !fraction_is_right || !exponent_is_right {
        return None;
    }
    let clean = |text: &str| text.replace('_', "");
    if whole.contains(':') {
        let parts: Vec<&str> = whole.split(':').collect();
        if exponent.is_some() || !starts_with_digit(parts[0]) || !parts[1..].iter().all(|part| is_sixtieth(part)) {
            return None;
        }
        let (last, before) = parts.split_last()?;
        let seconds: f64 = format!("{}.{}0", clean(last), clean(fraction)).parse().ok()?;
        let before = before.iter().try_fold(0.0, |sum, part| Some(sum * 60.0 + clean(part).parse::<f64>().ok()?));
        return before.map(|before: f64| signed(before * 60.0 + seconds));
    }
    let whole_is_right =
        starts_with_digit(whole) || (whole.is_empty() && digits == text && starts_with_digit(fraction));
    if !whole_is_right {
        return None;
    }
    let exponent = exponent.map_or(String::new(), |text| format!("e{text}"));
    format!("0{}.{}0{exponent}", clean(whole), clean(fraction)).parse().ok().map(signed)
}

fn sign(text: &str) -> (bool, &str) {
    match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    }
}

fn is_digit(c: char) -> bool {
    c.is_ascii_digit()
}

fn all(text: &str, allowed: impl Fn(char) -> bool) -> bool {
    !text.is_empty() && text.chars().all(allowed)
}

/// Digits and `_`, beginning with a digit.
fn starts_with_digit(text: &str) -> bool {
    text.starts_with(is_digit) && text.chars().all(|c| is_digit(c) || c == '_')
}

/// The same, and not beginning with zero.
fn is_count(text: &str) -> bool {
    starts_with_digit(text) && !text.starts_with('0')
}

/// `0` to `59`, one or two digits.
fn is_sixtieth(text: &str) -> bool {
    match text.as_bytes() {
        [digit] => digit.is_ascii_digit(),
        [ten, digit] => matches!(ten, b'0'..=b'5') && digit.is_ascii_digit(),
        _ => false,
    }
}

fn radix(digits: &str, radix: u32) -> Option<i128> {
    i128::from_str_radix(&digits.replace('_', ""), radix).ok()
}

fn sexagesimal(first: &str, rest: &[&str]) -> Option<i128> {
    let digits = rest.iter().map(|part| radix(part, 10));
    digits.fold(radix(first, 10), |sum, part| sum?.checked_mul(60)?.checked_add(part?))
}

/// Whether YAML 1.1 takes the text as a date or a moment.
fn is_moment(text: &str) -> bool {
    let bytes = text.as_bytes();
    let digits = |from: usize, to: usize| bytes.get(from..to).is_some_and(|part| part.iter().all(u8::is_ascii_digit));
    if !digits(0, 4) || bytes.get(4) != Some(&b'-') {
        return false;
    }
    let (date, time) = match text.find(['t', 'T', ' ', '\t']) {
        Some(at) => (&text[..at], Some(text[at + 1..].trim_start())),
        None => (text, None),
    };
    let parts: Vec<&str> = date.split('-').collect();
    let is_part = |part: &str| (1..=2).contains(&part.len()) && all(part, is_digit);
    match (parts.as_slice(), time) {
        ([_, month, day], None) => month.len() == 2 && day.len() == 2 && is_part(month) && is_part(day),
        ([_, month, day], Some(time)) => is_part(month) && is_part(day) && is_time(time),
        _ => false,
    }
}

fn is_time(text: &str) -> bool {
    let parts: Vec<&str> = text.splitn(3, ':').collect();
    let [hour, minute, second] = parts.as_slice() else { return false };
    (1..=2).contains(&hour.len())
        && all(hour, is_digit)
        && minute.len() == 2
        && all(minute, is_digit)
        && second.get(..2).is_some_and(|second| all(second, is_digit))
}

/// Dates and moments print as they are written, if they are written as Ansible would print them.
fn moment(text: &str) -> Result<Value, String> {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    match shape.as_str() {
        "0000-00-00" | "0000-00-00 00:00:00" => Ok(Value::from(text)),
        _ => Err(format!("`{text}` is read as a moment in time and would be written differently; write it in quotes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What PyYAML's safe loader, which Ansible's is made from, gives for each.
    #[test]
    fn plain_scalars_are_what_ansible_reads() {
        let int = |number: i64| Value::Int(number);
        let table = [
            ("yes", Value::Bool(true)),
            ("Off", Value::Bool(false)),
            ("y", Value::from("y")),
            ("~", Value::Null),
            ("", Value::Null),
            ("0644", int(420)),
            ("0o644", Value::from("0o644")),
            ("08", Value::from("08")),
            ("0", int(0)),
            ("-0x1F", int(-31)),
            ("0b101", int(5)),
            ("12:30:45", int(45045)),
            ("1:30", int(90)),
            ("1:60", Value::from("1:60")),
            ("1_000", int(1000)),
            ("+12", int(12)),
            ("1.5", Value::Float(1.5)),
            ("1.", Value::Float(1.0)),
            (".5", Value::Float(0.5)),
            ("-.5", Value::from("-.5")),
            ("1e3", Value::from("1e3")),
            ("1.0e3", Value::from("1.0e3")),
            ("1.0e+3", Value::Float(1000.0)),
            ("1:30.5", Value::Float(90.5)),
            (".inf", Value::Float(f64::INFINITY)),
            ("6.0.38", Value::from("6.0.38")),
            ("2018-02-26", Value::from("2018-02-26")),
            ("ae3082cb-fac1", Value::from("ae3082cb-fac1")),
            ("-", Value::from("-")),
            ("<<", Value::from("<<")),
        ];
        for (text, expected) in table {
            assert_eq!(resolve(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_would_silently_differ_is_refused() {
        for text in ["99999999999999999999", "2001-12-14t21:59:43.10-05:00", "=", "0b_", "0x___"] {
            assert!(resolve(text).is_err(), "{text}");
        }
    }
}
