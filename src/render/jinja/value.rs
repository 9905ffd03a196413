//! Values as Python has them, as far as templates can see: their text, their truth, what is in them.

use std::rc::Rc;

use super::Stop;
use crate::domain::value::Value;
use crate::render::Code;
use crate::render::limits::{Budget, limit};

/// A value during rendering; cheap to clone.
#[derive(Clone, Debug)]
pub(in crate::render) enum PyValue {
    /// What is not there. It may be looked into, which gives the same again, and fails when it is used.
    Undefined(Rc<Missing>),
    /// What `x if false` gives without an `else`: undefined too, but it is empty when it is used, and can't be
    /// looked into.
    Nothing,
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(Rc<str>),
    List(Rc<[Self]>),
    Tuple(Rc<[Self]>),
    Map(Rc<[(Rc<str>, Self)]>),
}

/// What is not there.
#[derive(Debug)]
pub(in crate::render) struct Missing {
    pub(super) message: String,
    pub(super) help: String,
}

impl PyValue {
    pub(super) fn str(text: impl Into<Rc<str>>) -> Self {
        Self::Str(text.into())
    }

    pub(super) fn undefined(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self::Undefined(Rc::new(Missing { message: message.into(), help: help.into() }))
    }

    /// A value of the domain, its texts taken as they are.
    pub(super) fn plain(value: &Value) -> Self {
        match value {
            Value::Null => Self::None,
            Value::Bool(value) => Self::Bool(*value),
            Value::Int(value) => Self::Int(*value),
            Value::Float(value) => Self::Float(*value),
            Value::String(text) => Self::str(text.as_str()),
            Value::List(items) => Self::List(items.iter().map(Self::plain).collect()),
            Value::Map(entries) => {
                Self::Map(entries.iter().map(|(key, value)| (Rc::from(key.as_str()), Self::plain(value))).collect())
            }
        }
    }

    /// What Python calls its type.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Undefined(_) | Self::Nothing => "undefined",
            Self::None => "none",
            Self::Bool(_) => "true or false",
            Self::Int(_) | Self::Float(_) => "a number",
            Self::Str(_) => "text",
            Self::List(_) => "a list",
            Self::Tuple(_) => "a tuple",
            Self::Map(_) => "a map",
        }
    }

    /// The value, unless it is undefined.
    pub(super) fn defined(&self) -> Result<&Self, Stop> {
        match self {
            Self::Undefined(missing) => Err(Stop::new(Code::Undefined, missing.message.clone(), missing.help.clone())),
            other => Ok(other),
        }
    }

    /// Whether the test `defined` and the filter `default` hold it for undefined.
    pub(super) fn is_undefined(&self) -> bool {
        matches!(self, Self::Undefined(_) | Self::Nothing)
    }

    /// What printing asks of it: undefined anywhere in it is an error.
    pub(super) fn all_defined(&self) -> Result<(), Stop> {
        match self.defined()? {
            Self::List(items) | Self::Tuple(items) => items.iter().try_for_each(Self::all_defined),
            Self::Map(entries) => entries.iter().try_for_each(|(_, value)| value.all_defined()),
            _ => Ok(()),
        }
    }

    /// Whether it, or what is in it, is an `x if false` without an `else`.
    pub(super) fn holds_nothing(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::List(items) | Self::Tuple(items) => items.iter().any(Self::holds_nothing),
            Self::Map(entries) => entries.iter().any(|(_, value)| value.holds_nothing()),
            _ => false,
        }
    }

    /// `bool(value)`.
    pub(super) fn truth(&self) -> Result<bool, Stop> {
        Ok(match self.defined()? {
            Self::Undefined(_) | Self::Nothing | Self::None => false,
            Self::Bool(value) => *value,
            Self::Int(value) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::Str(text) => !text.is_empty(),
            Self::List(items) | Self::Tuple(items) => !items.is_empty(),
            Self::Map(entries) => !entries.is_empty(),
        })
    }

    /// `str(value)`.
    pub(super) fn text(&self, budget: &mut Budget) -> Result<Rc<str>, Stop> {
        match self {
            Self::Str(text) => return Ok(Rc::clone(text)),
            Self::Nothing => return Ok(Rc::from("")),
            Self::Undefined(_) => drop(self.defined()?),
            _ => {}
        }
        let mut out = String::new();
        self.write_repr(&mut out, budget)?;
        Ok(out.into())
    }

    /// `repr(value)`, at the end of a text.
    fn write_repr(&self, out: &mut String, budget: &mut Budget) -> Result<(), Stop> {
        match self {
            // Ansible writes its own object's description here, which nobody wants in a result.
            Self::Undefined(_) => {
                return Err(Stop::not_native("the text of a list or map that holds what is undefined"));
            }
            Self::Nothing => budget.add(out, "Undefined")?,
            Self::None => budget.add(out, "None")?,
            Self::Bool(true) => budget.add(out, "True")?,
            Self::Bool(false) => budget.add(out, "False")?,
            Self::Int(value) => budget.add(out, &value.to_string())?,
            Self::Float(value) => budget.add(out, &float_text(*value)?)?,
            Self::Str(text) => quote(text, out, budget)?,
            Self::List(items) => {
                budget.add(out, "[")?;
                write_items(items, out, budget)?;
                budget.add(out, "]")?;
            }
            Self::Tuple(items) => {
                budget.add(out, "(")?;
                write_items(items, out, budget)?;
                budget.add(out, if items.len() == 1 { ",)" } else { ")" })?;
            }
            Self::Map(entries) => {
                budget.add(out, "{")?;
                for (at, (key, value)) in entries.iter().enumerate() {
                    budget.add(out, if at == 0 { "" } else { ", " })?;
                    quote(key, out, budget)?;
                    budget.add(out, ": ")?;
                    value.write_repr(out, budget)?;
                }
                budget.add(out, "}")?;
            }
        }
        Ok(())
    }

    /// That so many levels of lists and maps are in it at most: whatever walks through it later recurses.
    pub(super) fn at_most_deep(&self, levels: usize, budget: &mut Budget) -> Result<(), Stop> {
        let deeper = || levels.checked_sub(1).ok_or_else(|| limit("lists and maps nest deeper than 100 (recursion)"));
        match self {
            Self::List(items) | Self::Tuple(items) => {
                let levels = deeper()?;
                budget.spend(1 + items.len() as u64 / 8)?;
                items.iter().try_for_each(|item| item.at_most_deep(levels, budget))
            }
            Self::Map(entries) => {
                let levels = deeper()?;
                budget.spend(1 + entries.len() as u64 / 8)?;
                entries.iter().try_for_each(|(_, value)| value.at_most_deep(levels, budget))
            }
            _ => Ok(()),
        }
    }

    /// What `for` goes through.
    pub(super) fn items(&self, budget: &mut Budget) -> Result<Rc<[Self]>, Stop> {
        let items: Rc<[Self]> = match self.defined()? {
            Self::List(items) | Self::Tuple(items) => return Ok(Rc::clone(items)),
            Self::Str(text) => {
                budget.make(text.len() * ITEM)?;
                text.chars().map(|character| Self::str(character.to_string())).collect()
            }
            Self::Map(entries) => {
                budget.make(entries.len() * ITEM)?;
                entries.iter().map(|(key, _)| Self::Str(Rc::clone(key))).collect()
            }
            Self::Nothing => Rc::from([]),
            other => return Err(Stop::value(format!("{} has nothing to go through", other.kind()))),
        };
        Ok(items)
    }
}

/// What an item of a list takes besides its content, roughly, in bytes.
pub(super) const ITEM: usize = 64;

fn write_items(items: &[PyValue], out: &mut String, budget: &mut Budget) -> Result<(), Stop> {
    for (at, item) in items.iter().enumerate() {
        budget.add(out, if at == 0 { "" } else { ", " })?;
        item.write_repr(out, budget)?;
    }
    Ok(())
}

/// `repr(float)`. Rust and Python both give the shortest digits; they differ in when exponents begin and how they look.
pub(super) fn float_text(value: f64) -> Result<String, Stop> {
    let size = value.abs();
    if value != 0.0 && !(1e-4..1e16).contains(&size) {
        return Err(Stop::not_native(&format!("the number {value:e}")));
    }
    Ok(format!("{value:?}"))
}

/// `repr(str)`.
fn quote(text: &str, out: &mut String, budget: &mut Budget) -> Result<(), Stop> {
    budget.read(text)?;
    let mark = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    budget.make(2)?;
    out.push(mark);
    for character in text.chars() {
        let start = out.len();
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            quote if quote == mark => out.extend(['\\', quote]),
            ' '..='~' | '\u{a1}'..='\u{ac}' | '\u{ae}'..='\u{24f}' => out.push(character),
            // Python asks its own Unicode tables whether a character is printable.
            other => {
                return Err(Stop::not_native(&format!("the text of a list or map that holds U+{:04X}", other as u32)));
            }
        }
        budget.make(out.len() - start)?;
    }
    out.push(mark);
    Ok(())
}

/// What Python calls white space, where it strips texts.
pub(super) fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}
