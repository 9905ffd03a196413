//! The words of a template: what the parser can't tell apart later, and what it could not bear.

use minijinja::machinery::{self, Token};

use super::recognise::Kind;
use super::{Blocks, Stop, syntax};
use crate::render::Code;
use crate::render::limits::{self, Budget};

/// Checks the words of normalised source, and that the parser can bear them.
pub(super) fn check(source: &str, kind: Kind, blocks: Blocks, budget: &mut Budget) -> Result<(), Stop> {
    check_text(source, blocks)?;
    let mut words = Words::default();
    let mut total = 0;
    for token in machinery::tokenize(source, false, syntax(blocks)?) {
        budget.spend(1)?;
        total += 1;
        if total > limits::WORDS {
            return Err(limits::limit("the template has more than 250,000 names, operators and texts"));
        }
        let (token, span) = token.map_err(|error| {
            let offset = error.range().map_or(source.len(), |range| range.start);
            Stop::new(Code::Syntax, error.detail().unwrap_or("this is no template"), "").at(offset)
        })?;
        let (start, end) = (span.start_offset as usize, span.end_offset as usize);
        let raw = source.get(start..end).unwrap_or_default();
        words.take(&token, raw, kind).map_err(|stop| stop.at(start))?;
    }
    Ok(())
}

/// What depends on the source as a whole: characters that Python and Rust hold for different kinds, and what of the
/// white space within `{% raw %}` can't be kept as Jinja2 keeps it.
fn check_text(source: &str, blocks: Blocks) -> Result<(), Stop> {
    if let Some(at) = source.find(|character| ('\u{1c}'..='\u{1f}').contains(&character)) {
        return Err(Stop::not_native("a control character").at(at));
    }
    for (at, end) in raw_tags(source) {
        let rest = source.get(end..).unwrap_or_default();
        if rest.starts_with("+%}") || blocks.trim && rest.starts_with("%}\n") && !source[..end].ends_with(' ') {
            return Err(Stop::not_native("a line end after `{% raw %}`").at(at));
        }
        let text = rest.split_once("%}").and_then(|(_, text)| text.split("{%").next()).unwrap_or_default();
        if blocks.lstrip && text.trim().is_empty() && !text.contains('\n') {
            return Err(Stop::not_native("white space alone in `{% raw %}`").at(at));
        }
    }
    Ok(())
}

/// What looks like an opening `{% raw %}`: where it begins, and where the word and the white space after it end.
fn raw_tags(source: &str) -> impl Iterator<Item = (usize, usize)> + '_ {
    source.match_indices("{%").filter_map(|(at, _)| {
        let tag = source[at + 2..].trim_start_matches(['-', '+']).trim_start();
        let end = tag.strip_prefix("raw")?.trim_start();
        (end.starts_with("%}") || end.starts_with("+%}") || end.starts_with("-%}"))
            .then(|| (at, source.len() - end.len()))
    })
}

/// The same source for minijinja, which drops the line end after `{% raw %}` unless a plus is there; Jinja2 keeps it.
pub(super) fn with_line_ends(source: String, blocks: Blocks) -> Result<String, Stop> {
    let mut pluses: Vec<usize> = raw_tags(&source)
        .filter(|(_, end)| source[*end..].starts_with("%}\n") && source[..*end].ends_with(' '))
        .map(|(_, end)| end - 1)
        .collect();
    if !blocks.trim || pluses.is_empty() {
        return Ok(source);
    }
    // What is in no token is a tag itself, or in a comment, where it does not matter.
    for (_, span) in machinery::tokenize(&source, false, syntax(blocks)?).map_while(Result::ok) {
        let within = span.start_offset as usize..span.end_offset as usize;
        pluses.retain(|at| !within.contains(at));
    }
    let mut bytes = source.into_bytes();
    for at in pluses {
        bytes[at] = b'+';
    }
    String::from_utf8(bytes).map_err(|_| Stop::not_native("this `{% raw %}`"))
}

#[derive(Default)]
struct Words {
    /// Since the last opening braces.
    in_tag: usize,
    first: bool,
    after_dot: bool,
    /// For each open `if`, its branches so far; 0 for `for`.
    open: Vec<usize>,
}

impl Words {
    fn take(&mut self, token: &Token<'_>, raw: &str, kind: Kind) -> Result<(), Stop> {
        let after_dot = std::mem::replace(&mut self.after_dot, matches!(token, Token::Dot));
        let first = std::mem::replace(&mut self.first, matches!(token, Token::BlockStart));
        self.in_tag += 1;
        match token {
            Token::VariableStart | Token::BlockStart => self.in_tag = 0,
            Token::VariableEnd if raw.starts_with('+') => {
                return Err(Stop::new(Code::Syntax, "`+}}` closes nothing", "write `}}`"));
            }
            Token::Ident(word) if first => self.statement(word)?,
            Token::Str(_) | Token::String(_) => check_literal(raw, kind)?,
            Token::Int(_) | Token::Int128(_) | Token::Float(_) => check_number(raw, after_dot)?,
            _ => {}
        }
        if self.in_tag > limits::TAG_WORDS {
            return Err(limits::limit("between two braces stand more than 4,000 names, operators and texts"));
        }
        Ok(())
    }

    /// Counts how deep statements nest. Branches count too: the parser nests each `elif` in the one before.
    fn statement(&mut self, word: &str) -> Result<(), Stop> {
        match word {
            "if" | "for" | "macro" | "call" | "filter" | "with" => self.open.push(0),
            "endif" | "endfor" | "endmacro" | "endcall" | "endfilter" | "endwith" => drop(self.open.pop()),
            "elif" => {
                if let Some(branches) = self.open.last_mut() {
                    *branches += 1;
                }
            }
            _ => {}
        }
        if self.open.iter().sum::<usize>() + self.open.len() > limits::RECURSION {
            return Err(limits::limit("statements nest deeper than 100 (recursion)"));
        }
        Ok(())
    }
}

fn check_literal(raw: &str, kind: Kind) -> Result<(), Stop> {
    let mut characters = raw.chars();
    while let Some(character) = characters.next() {
        let escaped = if character == '\\' { characters.next() } else { continue };
        // Ansible doubles the backslashes of variables' texts before Jinja2 reads them.
        if kind == Kind::Variable || !matches!(escaped, Some('n' | 't' | '\\' | '\'' | '"')) {
            return Err(Stop::not_native("this backslash in a text"));
        }
    }
    Ok(())
}

fn check_number(raw: &str, after_dot: bool) -> Result<(), Stop> {
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_whole = |text: &str| is_digits(text) && (text == "0" || !text.starts_with('0'));
    let known = match raw.split_once('.') {
        Some((whole, part)) => !after_dot && is_whole(whole) && is_digits(part),
        None => is_whole(raw),
    };
    if known { Ok(()) } else { Err(Stop::not_native(&format!("the number `{raw}`"))) }
}
