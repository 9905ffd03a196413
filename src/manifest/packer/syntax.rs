//! How expressions are written between `{{` and `}}`: functions with arguments, one fed into the next by `|`.

use super::super::fault::quoted;
use super::engine::Trouble;

/// What stands between `{{` and its `}}`, and what comes behind: a `}}` in a text does not end it.
pub(super) fn action(text: &str) -> Result<(&str, &str), Trouble> {
    let inside = &text[2..];
    let mut quote = None;
    let mut chars = inside.char_indices();
    while let Some((at, c)) = chars.next() {
        match (quote, c) {
            (None, '`' | '"' | '\'') => quote = Some(c),
            (Some('"' | '\''), '\\') => drop(chars.next()),
            (Some(open), c) if open == c => quote = None,
            (None, '}') if inside[at..].starts_with("}}") => return Ok((&inside[..at], &inside[at + 2..])),
            _ => {}
        }
    }
    let piece: String = text.chars().take(30).collect();
    Err(Trouble::new(&piece, "`{{` is never closed", "close the expression with `}}`"))
}

pub(super) fn trims(inside: &str) -> (&str, bool, bool) {
    let blank = |c: char| c.is_whitespace();
    let (inside, before) = match inside.strip_prefix('-').filter(|rest| rest.starts_with(blank)) {
        Some(rest) => (rest, true),
        None => (inside, false),
    };
    match inside.strip_suffix('-').filter(|rest| rest.ends_with(blank)) {
        Some(rest) => (rest, before, true),
        None => (inside, before, false),
    }
}

/// Whether this is a comment: it must stand right behind `{{` and before `}}`, but for the blank of a `-`.
pub(super) fn is_comment(inside: &str, trims_before: bool, trims_after: bool) -> bool {
    let inside = if trims_before { inside.strip_prefix(char::is_whitespace).unwrap_or(inside) } else { inside };
    let inside = if trims_after { inside.strip_suffix(char::is_whitespace).unwrap_or(inside) } else { inside };
    inside.starts_with("/*") && inside.ends_with("*/")
}

/// A pipeline of commands, each a list of arguments.
pub(super) type Expression = Vec<Vec<Argument>>;

#[derive(Debug)]
pub(super) enum Argument {
    Name(String),
    Field(String),
    Text(String),
    Number(i64),
    Inner(Expression),
}

pub(super) struct Parser<'t> {
    rest: &'t str,
    piece: &'t str,
    depth: usize,
}

impl<'t> Parser<'t> {
    pub(super) fn new(rest: &'t str, piece: &'t str) -> Self {
        Self { rest, piece, depth: 0 }
    }

    fn wrong(&self, message: impl Into<String>) -> Trouble {
        let help = "understood are functions of packer with texts as arguments, such as {{ user `name` }}";
        Trouble::new(self.piece, message, help)
    }

    pub(super) fn expression(&mut self) -> Result<Expression, Trouble> {
        let mut commands = vec![Vec::new()];
        loop {
            self.rest = self.rest.trim_start();
            let Some(c) = self.rest.chars().next() else {
                return if self.depth == 0 { self.checked(commands) } else { Err(self.wrong("a `)` is missing")) };
            };
            if c == '|' {
                commands.push(Vec::new());
                self.rest = &self.rest[1..];
                continue;
            }
            if c == ')' && self.depth > 0 {
                return self.checked(commands);
            }
            let argument = self.argument(c)?;
            if let Some(command) = commands.last_mut() {
                command.push(argument);
            }
        }
    }

    fn checked(&self, commands: Expression) -> Result<Expression, Trouble> {
        match commands.iter().any(Vec::is_empty) {
            true => Err(self.wrong("an expression says nothing")),
            false => Ok(commands),
        }
    }

    fn argument(&mut self, first: char) -> Result<Argument, Trouble> {
        match first {
            '`' => self.raw(),
            '"' => self.quoted(),
            '(' => {
                self.depth += 1;
                if self.depth > 20 {
                    return Err(self.wrong("brackets lie too deep in each other"));
                }
                self.rest = &self.rest[1..];
                let inner = self.expression()?;
                self.rest = &self.rest[1..];
                self.depth -= 1;
                Ok(Argument::Inner(inner))
            }
            '.' => {
                self.rest = &self.rest[1..];
                Ok(Argument::Field(self.word()))
            }
            '-' | '0'..='9' => {
                let sign = if first == '-' { 1 } else { 0 };
                self.rest = &self.rest[sign..];
                let word = self.word();
                let number: i64 = word.parse().map_err(|_| self.wrong(format!("{} is no number", quoted(&word))))?;
                Ok(Argument::Number(if sign == 1 { -number } else { number }))
            }
            c if c.is_alphabetic() || c == '_' => Ok(Argument::Name(self.word())),
            c => Err(self.wrong(format!("`{c}` is not understood in an expression"))),
        }
    }

    fn word(&mut self) -> String {
        let end = self.rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '.').unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word.to_owned()
    }

    fn raw(&mut self) -> Result<Argument, Trouble> {
        let inside = &self.rest[1..];
        let end = inside.find('`').ok_or_else(|| self.wrong("a text has no closing backquote"))?;
        self.rest = &inside[end + 1..];
        Ok(Argument::Text(inside[..end].to_owned()))
    }

    fn quoted(&mut self) -> Result<Argument, Trouble> {
        let mut text = String::new();
        let mut chars = self.rest[1..].char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.rest = &self.rest[at + 2..];
                    return Ok(Argument::Text(text));
                }
                '\\' => match chars.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    Some((_, c @ ('\\' | '"'))) => text.push(c),
                    _ => return Err(self.wrong("an escape in a text is not understood")),
                },
                c => text.push(c),
            }
        }
        Err(self.wrong("a text has no closing quote"))
    }
}
