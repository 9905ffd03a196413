//! The functions that packer's templates can call: packer's own, and those of Go that need nothing but texts and numbers.

use super::conditions::compare;
use super::engine::{Piece, Rendered, Scope, Trouble, Val};
use super::{refused, times};

/// The functions that are understood.
const FUNCTIONS: [&str; 31] = [
    "user",
    "env",
    "build_name",
    "build_type",
    "template_dir",
    "pwd",
    "packer_version",
    "timestamp",
    "uuid",
    "isotime",
    "strftime",
    "upper",
    "lower",
    "split",
    "replace",
    "replace_all",
    "print",
    "println",
    "printf",
    "len",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "not",
    "and",
    "or",
    "true",
    "false",
];

/// The packer that templates are read like.
pub(super) const PACKER_VERSION: &str = "1.6.6";

/// The widest that `printf` makes a value: its format is the template's own.
const MOST_WIDTH: usize = 1000;

/// Whether a function is understood.
pub(super) fn is_function(name: &str) -> bool {
    FUNCTIONS.contains(&name)
}

/// Calls a function.
///
/// # Errors
/// What is wrong with the call.
pub(super) fn function(name: &str, arguments: Vec<Val>, scope: Scope<'_>, piece: &str) -> Result<Val, Trouble> {
    let wrong = |message: String| Trouble::new(piece, message, "");
    let alone = |piece: Piece| Ok(Val::Text(Rendered { pieces: vec![piece], origins: Vec::new() }));
    let count = arguments.len();
    let takes = |wanted: &[usize]| match wanted.contains(&count) {
        true => Ok(()),
        false => Err(wrong(format!("`{name}` takes {} arguments, and this has {count}", wanted[0]))),
    };
    match name {
        "user" => {
            takes(&[1])?;
            scope.variables.value(&plain(arguments, piece)?, scope.builder.is_none(), piece).map(Val::Text)
        }
        "env" => {
            takes(&[1])?;
            if scope.builder.is_some() {
                let help = "declare a variable whose value is {{ env `…` }}, and use it with {{ user `…` }}";
                return Err(Trouble::new(piece, "`env` can stand in `variables` only", help));
            }
            plain(arguments, piece).map(|name| Val::Text(scope.variables.environment(&name)))
        }
        "build_name" | "build_type" => {
            takes(&[0])?;
            let Some((builder, kind)) = scope.builder else {
                return Err(wrong(format!("`{name}` is not known in `variables`")));
            };
            Ok(Val::Text(Rendered::literal(if name == "build_name" { builder } else { kind })))
        }
        "template_dir" | "pwd" => takes(&[0]).and_then(|()| alone(Piece::Directory)),
        "packer_version" => takes(&[0]).map(|()| Val::Text(Rendered::literal(PACKER_VERSION))),
        "timestamp" | "uuid" => {
            takes(&[0])?;
            alone(Piece::Changing(name.to_owned(), times::of_build(name).map_err(wrong)?))
        }
        "isotime" | "strftime" => {
            takes(if name == "isotime" { &[0, 1] } else { &[1] })?;
            time(name, arguments, piece)
        }
        "upper" | "lower" => {
            takes(&[1])?;
            let change = |text: &str| Ok(if name == "upper" { text.to_uppercase() } else { text.to_lowercase() });
            one(arguments)?.map(name, change).map(Val::Text).map_err(wrong)
        }
        "split" | "replace" | "replace_all" => change(name, arguments, piece).map(Val::Text),
        "print" | "println" => Ok(Val::Text(print(name, arguments))),
        "printf" => printf(arguments, piece).map(Val::Text),
        "len" => takes(&[1]).and_then(|()| length(arguments, piece)),
        _ if is_function(name) => compare(name, arguments, piece),
        _ => Err(refused::function(name, piece)),
    }
}

/// A time, in a layout that must be written out.
fn time(name: &str, arguments: Vec<Val>, piece: &str) -> Result<Val, Trouble> {
    let layout = match arguments.is_empty() {
        true => times::RFC3339.to_owned(),
        false => plain(arguments, piece)?,
    };
    let text = if name == "isotime" { times::isotime(&layout) } else { times::strftime(&layout) };
    let text = text.map_err(|message| Trouble::new(piece, message, ""))?;
    let called = if layout == times::RFC3339 { name.to_owned() } else { format!("{name} {layout}") };
    Ok(Val::Text(Rendered { pieces: vec![Piece::Changing(called, text)], origins: Vec::new() }))
}

fn one(arguments: Vec<Val>) -> Result<Rendered, Trouble> {
    arguments.into_iter().next().map(Val::into_text).ok_or_else(|| Trouble::new("", "an argument is missing", ""))
}

/// The only argument, which must be a plain text.
fn plain(arguments: Vec<Val>, piece: &str) -> Result<String, Trouble> {
    let text = one(arguments)?;
    match text.pieces.as_slice() {
        [] => Ok(String::new()),
        [Piece::Literal(text)] => Ok(text.clone()),
        _ => Err(Trouble::new(piece, "a name must be written out", "")),
    }
}

/// Go's `print` puts a blank between values of which neither is a text, `println` between all, and ends the line.
fn print(name: &str, arguments: Vec<Val>) -> Rendered {
    let ends_line = name == "println";
    let mut all = Rendered::default();
    let mut before_is_text = true;
    for (index, value) in arguments.into_iter().enumerate() {
        let is_text = matches!(value, Val::Text(_));
        if index > 0 && (ends_line || !(is_text || before_is_text)) {
            all.push_str(" ");
        }
        before_is_text = is_text;
        all.push(value.into_text());
    }
    if ends_line {
        all.push_str("\n");
    }
    all
}

fn length(arguments: Vec<Val>, piece: &str) -> Result<Val, Trouble> {
    let text = one(arguments)?;
    let closed = text.text().ok().filter(|text| !text.is_open());
    let Some(closed) = closed.filter(|_| text.origins.is_empty()) else {
        return Err(Trouble::new(piece, "`len` takes a text that the template itself writes out", ""));
    };
    Ok(Val::Number(i64::try_from(closed.to_string().len()).unwrap_or(i64::MAX)))
}

/// Go's `printf` with `%s`, `%v`, `%d` and `%%`, and their widths.
fn printf(arguments: Vec<Val>, piece: &str) -> Result<Rendered, Trouble> {
    let mut arguments = arguments.into_iter();
    let format = plain(arguments.next().into_iter().collect(), piece)?;
    let wrong = |message: String| {
        Trouble::new(piece, message, "understood are %s, %v, %d and %%, with a width such as %-8s or %03d")
    };
    let mut out = Rendered::default();
    let mut rest = format.as_str();
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let spec = &rest[at + 1..];
        let end = spec.find(|c: char| c != '-' && !c.is_ascii_digit()).unwrap_or(spec.len());
        let (flags, verb) = (&spec[..end], spec[end..].chars().next());
        let Some(verb) = verb else { return Err(wrong("a format ends with `%`".to_owned())) };
        rest = &spec[end + verb.len_utf8()..];
        if verb == '%' && flags.is_empty() {
            out.push_str("%");
            continue;
        }
        let value = arguments.next().ok_or_else(|| wrong(format!("`%{flags}{verb}` has no value")))?;
        let fits = matches!((&value, verb), (_, 'v') | (Val::Text(_), 's') | (Val::Number(_), 'd'));
        if !fits {
            return Err(wrong(format!("`%{flags}{verb}` is not understood here")));
        }
        let is_number = matches!(value, Val::Number(_));
        out.push(padded(value.into_text(), flags, is_number, piece)?);
    }
    out.push_str(rest);
    match arguments.next() {
        Some(_) => Err(wrong("`printf` is given more values than its format has places".to_owned())),
        None => Ok(out),
    }
}

fn padded(text: Rendered, flags: &str, is_number: bool, piece: &str) -> Result<Rendered, Trouble> {
    if flags.is_empty() {
        return Ok(text);
    }
    let wrong = |message: String| Trouble::new(piece, message, "");
    let (left, digits) = match flags.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, flags),
    };
    let width = digits.parse::<usize>().ok().filter(|width| *width <= MOST_WIDTH);
    let Some(width) = width else { return Err(wrong(format!("`%{flags}` is no width of a value"))) };
    let zeros = digits.starts_with('0') && !left;
    let pad = |text: &str| {
        let missing = width.saturating_sub(text.chars().count());
        let (sign, number) = text.split_at(usize::from(zeros && is_number && text.starts_with('-')));
        Ok(match (left, zeros) {
            (true, _) => format!("{text}{}", " ".repeat(missing)),
            (false, true) => format!("{sign}{}{number}", "0".repeat(missing)),
            (false, false) => format!("{}{text}", " ".repeat(missing)),
        })
    };
    text.map(&format!("printf {flags}"), pad).map_err(wrong)
}

fn change(name: &str, arguments: Vec<Val>, piece: &str) -> Result<Rendered, Trouble> {
    let wrong = |message: String| Trouble::new(piece, message, "");
    let texts = |value: &Val| match value {
        Val::Text(text) => text.shown(),
        Val::Number(number) => number.to_string(),
        Val::Bool(value, _) => value.to_string(),
    };
    match (name, arguments.as_slice()) {
        ("split", [Val::Text(text), separator, Val::Number(index)]) => {
            let separator = texts(separator);
            let pick = |text: &str| {
                let parts: Vec<String> = match separator.is_empty() {
                    true => text.chars().map(String::from).collect(),
                    false => text.split(separator.as_str()).map(str::to_owned).collect(),
                };
                let found = usize::try_from(*index).ok().and_then(|index| parts.get(index).cloned());
                found.ok_or_else(|| format!("`split` gives {} parts, and number {index} is wanted", parts.len()))
            };
            text.clone().map(&format!("split {separator} {index}"), pick).map_err(wrong)
        }
        ("replace_all", [old, new, Val::Text(text)]) => {
            let (old, new) = (texts(old), texts(new));
            let change = |text: &str| Ok(text.replace(&old, &new));
            text.clone().map(&format!("replace {old} {new}"), change).map_err(wrong)
        }
        ("replace", [old, new, Val::Number(times), Val::Text(text)]) => {
            let (old, new, times) = (texts(old), texts(new), usize::try_from(*times).unwrap_or(usize::MAX));
            let change = |text: &str| Ok(text.replacen(&old, &new, times));
            text.clone().map(&format!("replace {old} {new} {times}"), change).map_err(wrong)
        }
        _ => Err(wrong(format!("`{name}` is given something else than it takes"))),
    }
}
