//! The `{{ … }}` of packer's templates: the functions that templates use, over the user variables.
//!
//! A text comes out in pieces, so that it stays known which of them the bundle brought in, which wait for the build, and
//! which only packer could fill in. Of Go's own words `if` is understood; `range`, `with`, `printf` … are refused by name.

use super::conditions::{Branches, Control, control, truth};
use super::functions::{function, is_function};
use super::refused;
use super::syntax::{Argument, Expression, Parser, action, is_comment, trims};
use super::variables::Variables;
use crate::domain::expression::Text;
use crate::domain::inputs::Input;

/// A text with its expressions evaluated.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Rendered {
    /// Its pieces, in order.
    pub(super) pieces: Vec<Piece>,
    /// What of the bundle it was made from.
    pub(super) origins: Vec<Origin>,
}

/// A piece of a text.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Piece {
    /// Characters.
    Literal(String),
    /// What the bundle or the pipeline gave, under the name that a fingerprint knows it by.
    Given(String, Text),
    /// A variable of the environment that has no value here.
    Env(String),
    /// The template's directory on the host.
    Directory,
    /// What only the provisioner knows: `{{ .Path }}`.
    Field(String),
    /// A time or an id that is another in every build: the call that gives it, which is what counts, and its value.
    Changing(String, Text),
}

/// Where a given piece comes from.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Origin {
    /// A value of the bundle's vars.
    Value(Input),
    /// The bundle's own path: it counts only where it does not just lead into the bundle.
    BundlePath(Input),
}

/// What is wrong in a template's text.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Trouble {
    /// The piece of text that is meant.
    pub(super) piece: String,
    /// The variable whose value holds it; `None` where the text itself does.
    pub(super) variable: Option<String>,
    /// What is wrong.
    pub(super) message: String,
    /// What to do about it.
    pub(super) help: String,
}

impl Trouble {
    pub(super) fn new(piece: &str, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { piece: piece.to_owned(), variable: None, message: message.into(), help: help.into() }
    }
}

impl Rendered {
    /// Plain characters.
    pub(super) fn literal(text: impl Into<String>) -> Self {
        Self { pieces: vec![Piece::Literal(text.into())], origins: Vec::new() }
    }

    /// Puts another text behind this one.
    pub(super) fn push(&mut self, other: Self) {
        for piece in other.pieces {
            match (self.pieces.last_mut(), piece) {
                (Some(Piece::Literal(before)), Piece::Literal(text)) => before.push_str(&text),
                (_, Piece::Literal(text)) if text.is_empty() => {}
                (_, piece) => self.pieces.push(piece),
            }
        }
        self.origins.extend(other.origins);
    }

    /// The parts between commas. None of nothing.
    pub(super) fn at_commas(self) -> Vec<Self> {
        // So many parts need not each know where they come from: they count together.
        const KNOWING: usize = 100;
        let origins = self.origins;
        let mut parts = vec![Self { pieces: Vec::new(), origins: origins.clone() }];
        for piece in self.pieces {
            let texts: Vec<Piece> = match piece {
                Piece::Literal(text) => text.split(',').map(|part| Piece::Literal(part.to_owned())).collect(),
                Piece::Given(name, text) if !text.is_open() && text.to_string().contains(',') => {
                    let known = text.to_string();
                    let part = |(index, part)| Piece::Given(format!("{name} part {index}"), Text::literal(part));
                    known.split(',').enumerate().map(part).collect()
                }
                piece => vec![piece],
            };
            for (index, piece) in texts.into_iter().enumerate() {
                if index > 0 {
                    let origins = if parts.len() < KNOWING { origins.clone() } else { Vec::new() };
                    parts.push(Self { pieces: Vec::new(), origins });
                }
                if let Some(last) = parts.last_mut() {
                    last.push(Self { pieces: vec![piece], origins: Vec::new() });
                }
            }
        }
        if parts.len() == 1 && parts[0].pieces.is_empty() { Vec::new() } else { parts }
    }

    /// What it takes: its characters, and one for each piece and origin.
    fn weight(&self) -> usize {
        let of = |piece: &Piece| match piece {
            Piece::Literal(text) => 1 + text.len(),
            Piece::Given(name, text) => 1 + name.len() + text.to_string().len(),
            Piece::Env(name) | Piece::Field(name) => 1 + name.len(),
            Piece::Changing(name, text) => 1 + name.len() + text.to_string().len(),
            Piece::Directory => 1,
        };
        self.origins.len() + self.pieces.iter().map(of).sum::<usize>()
    }

    /// Plain characters behind this.
    pub(super) fn push_str(&mut self, text: &str) {
        self.push(Self::literal(text));
    }

    /// The text as it will stand, as far as it is known; what is not known by its name.
    pub(super) fn shown(&self) -> String {
        let shown = |piece: &Piece| match piece {
            Piece::Literal(text) => text.clone(),
            Piece::Given(_, text) | Piece::Changing(_, text) => text.to_string(),
            Piece::Env(name) => format!("${name}"),
            Piece::Directory => ".".to_owned(),
            Piece::Field(name) => format!("{{{{.{name}}}}}"),
        };
        self.pieces.iter().map(shown).collect()
    }

    /// The text as fingerprints have it: what the bundle gave stands by its name.
    pub(super) fn canonical(&self) -> String {
        let canonical = |piece: &Piece| match piece {
            Piece::Literal(text) => text.clone(),
            Piece::Given(name, _) => format!("\u{1}{name}\u{1}"),
            Piece::Env(name) => format!("\u{1}env {name}\u{1}"),
            Piece::Directory => "\u{1}directory\u{1}".to_owned(),
            Piece::Field(name) => format!("\u{1}.{name}\u{1}"),
            Piece::Changing(name, _) => format!("\u{1}{name}()\u{1}"),
        };
        self.pieces.iter().map(canonical).collect()
    }

    /// The text for a build to use.
    ///
    /// # Errors
    /// The first piece that nothing here can fill in: what it is, and what to do.
    pub(super) fn text(&self) -> Result<Text, (String, String)> {
        let texts: Result<Vec<Text>, (String, String)> = self.pieces.iter().map(piece_text).collect();
        texts.map(Text::concat)
    }

    /// The same with the characters of each piece changed, but for what only the build knows.
    pub(super) fn each(mut self, change: impl Fn(&str) -> String) -> Self {
        for piece in &mut self.pieces {
            match piece {
                Piece::Literal(text) => *text = change(text),
                Piece::Given(_, text) if !text.is_open() => *text = Text::literal(change(&text.to_string())),
                _ => {}
            }
        }
        self
    }

    /// The same with fields replaced by what they stand for.
    pub(super) fn with_fields(self, fields: &[(&str, &Self)]) -> Self {
        let mut filled = Self { pieces: Vec::new(), origins: self.origins };
        for piece in self.pieces {
            let found = match &piece {
                Piece::Field(name) => fields.iter().find(|(field, _)| field == name).map(|(_, value)| (*value).clone()),
                _ => None,
            };
            filled.push(found.unwrap_or(Self { pieces: vec![piece], origins: Vec::new() }));
        }
        filled
    }

    /// The text with every piece mapped by `change` where all of it is known.
    pub(super) fn map(self, name: &str, change: impl Fn(&str) -> Result<String, String>) -> Result<Self, String> {
        if let [] | [Piece::Literal(_)] = self.pieces.as_slice() {
            let changed = change(&self.shown())?;
            return Ok(Self { pieces: vec![Piece::Literal(changed)], origins: self.origins });
        }
        let text = self.text().map_err(|(why, _)| why)?;
        if text.is_open() || self.pieces.iter().any(|piece| matches!(piece, Piece::Field(_))) {
            return Err(format!("`{name}` can't change what only the build knows"));
        }
        let piece = Piece::Given(format!("{name} {}", self.canonical()), Text::literal(change(&text.to_string())?));
        Ok(Self { pieces: vec![piece], origins: self.origins })
    }
}

fn piece_text(piece: &Piece) -> Result<Text, (String, String)> {
    match piece {
        Piece::Literal(text) => Ok(Text::literal(text)),
        Piece::Given(_, text) | Piece::Changing(_, text) => Ok(text.clone()),
        Piece::Env(name) if is_credential(name) => Err((
            format!("the credential `{name}` is given to no template"),
            "clouds and their credentials belong into the configuration".to_owned(),
        )),
        Piece::Env(name) => Err((
            format!("the environment variable `{name}` has no value here"),
            format!("give it one in the pipeline: `env: {{ {name}: … }}` beside `packer:`"),
        )),
        Piece::Directory => Err((
            "the template's directory is not known in the guest".to_owned(),
            "write paths of the repository relative to the template".to_owned(),
        )),
        Piece::Field(name) => Err((
            format!("`{{{{ .{name} }}}}` has no value here"),
            "`.Path`, `.Vars` and `.EnvVarFile` are known in `execute_command`".to_owned(),
        )),
    }
}

/// Whether a variable of the environment is one that no repository may see.
pub(super) fn is_credential(name: &str) -> bool {
    let name = name.to_uppercase();
    let words = ["PASSWORD", "SECRET", "TOKEN", "ACCESS_KEY", "PRIVATE_KEY", "CREDENTIAL"];
    name.starts_with("OS_") || words.iter().any(|word| name.contains(word))
}

/// What expressions see.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    /// The user variables.
    pub(super) variables: &'a Variables<'a>,
    /// Name and type of the builder; `None` in the values of variables.
    pub(super) builder: Option<(&'a str, &'a str)>,
}

/// Evaluates a text.
///
/// # Errors
/// The first thing in it that is not understood.
pub(super) fn render(text: &str, scope: Scope<'_>) -> Result<Rendered, Trouble> {
    let mut rendered = Rendered::default();
    let mut rest = text;
    let mut trim_next = false;
    let mut branches = Branches::default();
    while let Some(open) = rest.find("{{") {
        let (inside, after) = action(&rest[open..])?;
        let mut literal = &rest[..open];
        let (inside, trims_before, trims_after) = trims(inside);
        if trim_next {
            literal = literal.trim_start();
        }
        if trims_before {
            literal = literal.trim_end();
        }
        if branches.stands() {
            rendered.push_str(literal);
        }
        let piece = &rest[open..rest.len() - after.len()];
        if !is_comment(inside, trims_before, trims_after) {
            step(inside, piece, scope, &mut branches, &mut rendered)?;
        }
        (rest, trim_next) = (after, trims_after);
    }
    branches.finish(text)?;
    rendered.push_str(if trim_next { rest.trim_start() } else { rest });
    Ok(rendered)
}

/// Follows one action.
fn step(
    inside: &str,
    piece: &str,
    scope: Scope<'_>,
    branches: &mut Branches,
    rendered: &mut Rendered,
) -> Result<(), Trouble> {
    let mut holds = |condition: &str, decides: bool| {
        let expression = Parser::new(condition, piece).expression()?;
        if !decides {
            return Ok(false);
        }
        let (holds, origins) = truth(evaluate(&expression, scope, piece)?, piece)?;
        rendered.origins.extend(origins);
        Ok(holds)
    };
    match control(inside) {
        Control::If(condition) => {
            let holds = holds(condition, branches.stands())?;
            branches.begin(holds);
        }
        Control::ElseIf(condition) => {
            let holds = holds(condition, branches.is_open())?;
            branches.other(Some(holds), piece)?;
        }
        Control::Else => branches.other(None, piece)?,
        Control::End => branches.end(piece)?,
        Control::Output => {
            let expression = Parser::new(inside, piece).expression()?;
            if branches.stands() {
                let text = evaluate(&expression, scope, piece)?.into_text();
                scope.variables.spend(text.weight(), piece)?;
                rendered.push(text);
            }
        }
    }
    Ok(())
}

/// What an expression gives.
#[derive(Clone)]
pub(super) enum Val {
    Text(Rendered),
    Number(i64),
    /// True or false, and what of the bundle decides that.
    Bool(bool, Vec<Origin>),
}

impl Val {
    pub(super) fn into_text(self) -> Rendered {
        match self {
            Self::Text(text) => text,
            Self::Bool(value, origins) => Rendered { origins, ..Rendered::literal(value.to_string()) },
            Self::Number(number) => Rendered::literal(number.to_string()),
        }
    }
}

fn evaluate(expression: &Expression, scope: Scope<'_>, piece: &str) -> Result<Val, Trouble> {
    let mut last = None;
    for command in expression {
        last = Some(call(command, last, scope, piece)?);
    }
    last.ok_or_else(|| Trouble::new(piece, "an expression says nothing", ""))
}

fn call(command: &[Argument], last: Option<Val>, scope: Scope<'_>, piece: &str) -> Result<Val, Trouble> {
    let wrong = |message: String| Trouble::new(piece, message, "");
    let Some((first, rest)) = command.split_first() else { return Err(wrong("an expression says nothing".into())) };
    let name = match first {
        Argument::Name(name) => name,
        _ if !rest.is_empty() || last.is_some() => return Err(wrong("only a function can take arguments".into())),
        other => return value(other, scope, piece),
    };
    if !is_function(name) {
        return Err(refused::function(name, piece));
    }
    let mut arguments = rest.iter().map(|argument| value(argument, scope, piece)).collect::<Result<Vec<_>, _>>()?;
    arguments.extend(last);
    function(name, arguments, scope, piece)
}

fn value(argument: &Argument, scope: Scope<'_>, piece: &str) -> Result<Val, Trouble> {
    Ok(match argument {
        Argument::Text(text) => Val::Text(Rendered::literal(text)),
        Argument::Number(number) => Val::Number(*number),
        Argument::Field(name) => Val::Text(Rendered { pieces: vec![Piece::Field(name.clone())], origins: Vec::new() }),
        Argument::Inner(inner) => evaluate(inner, scope, piece)?,
        Argument::Name(name) => function(name, Vec::new(), scope, piece)?,
    })
}
