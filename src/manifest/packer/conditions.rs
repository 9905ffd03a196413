//! `{{ if … }} … {{ else }} … {{ end }}` of packer's templates: which of the branches stands in the text.

use super::engine::{Origin, Rendered, Trouble, Val};

/// What an action says of the flow.
pub(super) enum Control<'t> {
    If(&'t str),
    ElseIf(&'t str),
    Else,
    End,
    /// Nothing: it gives text.
    Output,
}

/// Reads the first words of an action.
pub(super) fn control(inside: &str) -> Control<'_> {
    let (word, rest) = first_word(inside);
    match (word, first_word(rest)) {
        ("if", _) => Control::If(rest),
        ("else", ("if", condition)) => Control::ElseIf(condition),
        ("else", ("", "")) => Control::Else,
        ("end", ("", "")) => Control::End,
        _ => Control::Output,
    }
}

fn first_word(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    text.split_at(end)
}

/// The branches that are open at a place of a text.
#[derive(Default)]
pub(super) struct Branches(Vec<Branch>);

struct Branch {
    /// What stands here is part of the text.
    stands: bool,
    /// No branch was taken yet, and what is around is part of the text.
    is_open: bool,
    is_last: bool,
}

impl Branches {
    /// Whether what comes here is part of the text.
    pub(super) fn stands(&self) -> bool {
        self.0.last().is_none_or(|branch| branch.stands)
    }

    /// Whether the condition of an `else if` decides anything here.
    pub(super) fn is_open(&self) -> bool {
        self.0.last().is_some_and(|branch| branch.is_open)
    }

    /// `if`, whose condition holds or not.
    pub(super) fn begin(&mut self, holds: bool) {
        let stands = self.stands() && holds;
        self.0.push(Branch { stands, is_open: self.stands() && !holds, is_last: false });
    }

    /// `else`, with a condition that holds or without one.
    pub(super) fn other(&mut self, condition: Option<bool>, piece: &str) -> Result<(), Trouble> {
        let Some(branch) = self.0.last_mut().filter(|branch| !branch.is_last) else {
            return Err(Trouble::new(piece, "an `else` has no `if`", ""));
        };
        let holds = condition.unwrap_or(true);
        branch.stands = branch.is_open && holds;
        branch.is_open &= !holds;
        branch.is_last = condition.is_none();
        Ok(())
    }

    /// `end`.
    pub(super) fn end(&mut self, piece: &str) -> Result<(), Trouble> {
        self.0.pop().map(|_| ()).ok_or_else(|| Trouble::new(piece, "an `end` has no `if`", ""))
    }

    /// The text's end.
    pub(super) fn finish(&self, text: &str) -> Result<(), Trouble> {
        if self.0.is_empty() {
            return Ok(());
        }
        let piece: String = text[text.find("{{").unwrap_or_default()..].chars().take(30).collect();
        Err(Trouble::new(&piece, "an `if` has no `end`", "close it with `{{ end }}`"))
    }
}

/// Whether Go takes a value for true, and what of the bundle decides that.
pub(super) fn truth(value: Val, piece: &str) -> Result<(bool, Vec<Origin>), Trouble> {
    match value {
        Val::Bool(holds, origins) => Ok((holds, origins)),
        Val::Number(number) => Ok((number != 0, Vec::new())),
        Val::Text(text) => known(text, piece).map(|(text, origins)| (!text.is_empty(), origins)),
    }
}

/// `eq`, `ne`, `lt`, `le`, `gt`, `ge`, `not`, `and`, `or`, and the two words for what holds and what does not.
pub(super) fn compare(name: &str, arguments: Vec<Val>, piece: &str) -> Result<Val, Trouble> {
    let wants = |least: usize, most: usize| match (least..=most).contains(&arguments.len()) {
        true => Ok(()),
        false => {
            let message = format!("`{name}` is given {} arguments, and takes another number", arguments.len());
            Err(Trouble::new(piece, message, ""))
        }
    };
    match name {
        "true" | "false" => return wants(0, 0).map(|()| Val::Bool(name == "true", Vec::new())),
        "not" => wants(1, 1)?,
        "ne" | "lt" | "le" | "gt" | "ge" => wants(2, 2)?,
        "eq" => wants(2, usize::MAX)?,
        _ => wants(1, usize::MAX)?,
    }
    if name == "and" || name == "or" {
        return first_that_decides(arguments, name == "or", piece);
    }
    let mut all = Vec::new();
    if name == "not" {
        let Some(value) = arguments.into_iter().next() else { return Ok(Val::Bool(true, all)) };
        let (holds, origins) = truth(value, piece)?;
        return Ok(Val::Bool(!holds, origins));
    }
    let kind = std::mem::discriminant(&arguments[0]);
    if arguments.iter().any(|value| std::mem::discriminant(value) != kind) {
        let help = "texts are compared with texts: write the number or the word as `1` or `true`, in backquotes";
        return Err(Trouble::new(piece, format!("`{name}` compares values of different kinds"), help));
    }
    if let ("lt" | "le" | "gt" | "ge", [Val::Number(one), Val::Number(other)]) = (name, arguments.as_slice()) {
        return Ok(Val::Bool(in_order(name, one.cmp(other)), all));
    }
    let mut texts = Vec::new();
    for value in arguments {
        let (text, origins) = known(value.into_text(), piece)?;
        texts.push(text);
        all.extend(origins);
    }
    if !matches!(name, "eq" | "ne") {
        return Ok(Val::Bool(in_order(name, texts[0].cmp(&texts[1])), all));
    }
    let same = texts[1..].contains(&texts[0]);
    Ok(Val::Bool(same == (name == "eq"), all))
}

fn in_order(name: &str, order: std::cmp::Ordering) -> bool {
    match name {
        "lt" => order.is_lt(),
        "le" => order.is_le(),
        "gt" => order.is_gt(),
        _ => order.is_ge(),
    }
}

/// The first value that is true (`or`) or false (`and`), else the last.
fn first_that_decides(arguments: Vec<Val>, wanted: bool, piece: &str) -> Result<Val, Trouble> {
    let mut last = Val::Bool(!wanted, Vec::new());
    for value in arguments {
        let (holds, _) = truth(value.clone(), piece)?;
        last = value;
        if holds == wanted {
            break;
        }
    }
    Ok(last)
}

fn known(text: Rendered, piece: &str) -> Result<(String, Vec<Origin>), Trouble> {
    let closed = text.text().ok().filter(|text| !text.is_open());
    match closed {
        Some(closed) => Ok((closed.to_string(), text.origins)),
        None => Err(Trouble::new(piece, "an `if` can't decide by what only the build knows", "")),
    }
}
