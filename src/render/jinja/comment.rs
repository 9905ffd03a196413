//! Ansible's filter `comment`: a text as a comment of some language.

use super::Stop;
use super::expression::Arguments;
use super::texts::replaced;
use super::value::{PyValue, is_space};
use crate::render::limits::Budget;

/// The styles: name, what begins the comment, what begins each line, what ends the comment.
const STYLES: [(&str, &str, &str, &str); 5] = [
    ("plain", "", "# ", ""),
    ("erlang", "", "% ", ""),
    ("c", "", "// ", ""),
    ("cblock", "/*", " * ", " */"),
    ("xml", "<!--", " - ", "-->"),
];

/// Applies the filter.
pub(super) fn filter(text: &str, args: &Arguments, budget: &mut Budget) -> Result<PyValue, Stop> {
    if args.positional.len() > 1 {
        return Err(Stop::value("`comment` takes its style, and everything else by name"));
    }
    let style = match args.get(0, "style") {
        None => "plain",
        Some(PyValue::Str(style)) => style,
        Some(_) => return Err(Stop::not_native("this style of `comment`")),
    };
    let known = STYLES.iter().find(|(name, ..)| *name == style);
    let (_, beginning, line, end) = known.ok_or_else(|| Stop::value(format!("`comment` has no style `{style}`")))?;
    let mut given = |name: &str, default: &str| match args.named(name) {
        None => Ok(default.to_owned()),
        Some(PyValue::Str(text)) => {
            budget.make(text.len() * 2)?;
            Ok(text.to_string())
        }
        Some(_) => Err(Stop::not_native(&format!("this `{name}` of `comment`"))),
    };
    let count = |name: &str| match args.named(name) {
        None => Ok(1),
        Some(PyValue::Int(count @ 0..=1000)) => Ok(usize::try_from(*count).unwrap_or(0)),
        Some(_) => Err(Stop::not_native(&format!("this `{name}` of `comment`"))),
    };
    let newline = given("newline", "\n")?;
    if newline.is_empty() {
        return Err(Stop::not_native("`comment` without a line end"));
    }
    let decoration = given("decoration", line)?;
    let bare = decoration.trim_end_matches(is_space);
    let (beginning, end) = (given("beginning", beginning)?, given("end", end)?);
    let (prefix, postfix) = (given("prefix", bare)?, given("postfix", bare)?);
    let mut out = String::new();
    if !beginning.is_empty() {
        out = beginning + &newline;
    }
    budget.make((prefix.len() + newline.len()) * count("prefix_count")?)?;
    if !prefix.is_empty() {
        let line = if prefix == newline { prefix } else { prefix + &newline };
        out.push_str(&line.repeat(count("prefix_count")?));
    }
    out.push_str(&lines(text, &newline, &decoration, budget)?);
    let line = newline.clone() + &postfix;
    budget.make(line.len() * count("postfix_count")?)?;
    out.push_str(&line.repeat(count("postfix_count")?));
    if !end.is_empty() {
        out.push_str(&newline);
        out.push_str(&end);
    }
    budget.make(out.len())?;
    Ok(PyValue::str(out))
}

/// Every line decorated; empty ones without the white space that would end them.
fn lines(text: &str, newline: &str, decoration: &str, budget: &mut Budget) -> Result<String, Stop> {
    let decorated = replaced(text, newline, &format!("{newline}{decoration}"), budget)?.text(budget)?;
    budget.make(decoration.len() + decorated.len())?;
    let decorated = format!("{decoration}{decorated}");
    let bare = format!("{}{newline}", decoration.trim_end_matches(is_space));
    let done = replaced(&decorated, &format!("{decoration}{newline}"), &bare, budget)?.text(budget)?;
    Ok(done.to_string())
}
