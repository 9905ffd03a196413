//! Variables whose texts are templates themselves, as Ansible's templar reads them when they are used.
//!
//! A text is a template if it holds one of the opening braces. Its result becomes a list, a map or a truth value again
//! where it looks like one, a number only where the text is nothing but the variable that holds it.

use std::rc::Rc;

use super::evaluate::Evaluator;
use super::value::PyValue;
use super::{Stop, with_newlines_of};
use crate::domain::value::Value;
use crate::render::limits::{self, Budget};
use crate::render::{Code, Variables};

impl Evaluator<'_> {
    /// The value of a variable; `None` where there is none of this name.
    pub(super) fn variable(&mut self, name: &str) -> Result<Option<PyValue>, Stop> {
        if let Some(known) = self.known.get(name) {
            return Ok(Some(known.clone()));
        }
        let Some(entry) = self.variables.get(name) else { return Ok(None) };
        if !entry.lazy {
            return Ok(Some(self.remember(name, PyValue::plain(&entry.value))));
        }
        if self.resolving.iter().any(|other| other == name) {
            let message = format!("the variables {} use each other", self.resolving.join(", "));
            return Err(Stop::new(Code::Value, message, "break the circle in the vars file"));
        }
        if self.resolving.len() >= limits::RECURSION {
            return Err(limits::limit("variables use each other deeper than 100 (recursion)"));
        }
        self.resolving.push(name.to_owned());
        let mark = self.budget.mark();
        let value = self.templated(&entry.value);
        self.budget.keep(mark);
        self.resolving.pop();
        match value.map_err(|stop| stop.within(name)) {
            Ok(value) => Ok(Some(self.remember(name, value))),
            // What uses an undefined variable is undefined itself, and fails only if it is used.
            Err(stop) if stop.code == Code::Undefined => {
                Ok(Some(self.remember(name, PyValue::undefined(stop.message, stop.help))))
            }
            Err(stop) => Err(stop),
        }
    }

    fn remember(&mut self, name: &str, value: PyValue) -> PyValue {
        self.known.insert(name.to_owned(), value.clone());
        value
    }

    fn templated(&mut self, value: &Value) -> Result<PyValue, Stop> {
        self.budget.spend(1)?;
        Ok(match value {
            Value::String(text) if is_template(text) => self.text_template(text)?,
            Value::List(items) => {
                let items: Result<Vec<_>, _> = items.iter().map(|item| self.templated(item)).collect();
                PyValue::List(items?.into())
            }
            Value::Map(entries) => {
                let entry = |(key, value): &(String, Value)| Ok((Rc::from(key.as_str()), self.templated(value)?));
                let entries: Result<Vec<_>, Stop> = entries.iter().map(entry).collect();
                PyValue::Map(entries?.into())
            }
            other => PyValue::plain(other),
        })
    }

    fn text_template(&mut self, text: &str) -> Result<PyValue, Stop> {
        if let Some(name) = single_variable(text)
            && let Some(entry) = self.variables.get(name)
        {
            match &entry.value {
                number @ (Value::Bool(_) | Value::Int(_) | Value::Float(_)) => return Ok(PyValue::plain(number)),
                Value::Null => return Ok(PyValue::None),
                _ => {}
            }
        }
        if text.starts_with("#jinja2:") {
            return Err(Stop::not_native("`#jinja2:` in a variable"));
        }
        let output = self.variable_text(text)?;
        if let Some(single) = output.single {
            return Ok(single);
        }
        Ok(match output.text.as_str() {
            "True" => PyValue::Bool(true),
            "False" => PyValue::Bool(false),
            // Ansible reads such texts as Python, or leaves them where that fails.
            data if data.starts_with(['[', '{']) => {
                return Err(Stop::not_native("a text that begins like a list or map and comes from a template"));
            }
            _ => PyValue::str(with_newlines_of(text, output.text)),
        })
    }
}

/// A variable's value, or why it has none.
pub(in crate::render) type Resolved = Result<PyValue, String>;

/// Every variable with its value, or with the reason why it has none, for an engine that does not know lazy ones.
///
/// # Errors
/// Only where a limit is exceeded.
pub(in crate::render) fn resolve_all(variables: &Variables, budget: Budget) -> Result<Vec<(String, Resolved)>, Stop> {
    let mut evaluator = Evaluator::new(variables, budget);
    let mut resolved = Vec::new();
    for name in variables.names() {
        let value = match evaluator.variable(name) {
            Ok(Some(value)) => value.all_defined().map(|()| value).map_err(|stop| stop.message),
            Ok(None) => continue,
            Err(stop) if stop.code == Code::Limit => return Err(stop),
            Err(stop) => Err(stop.message),
        };
        resolved.push((name.to_owned(), value));
    }
    Ok(resolved)
}

fn is_template(text: &str) -> bool {
    ["{{", "{%", "{#"].iter().any(|mark| text.contains(mark))
}

/// The name in a text that is nothing but `{{ name }}`; one newline after it does not count.
fn single_variable(text: &str) -> Option<&str> {
    let text = text.strip_suffix('\n').unwrap_or(text);
    let name = text.strip_prefix("{{")?.strip_suffix("}}")?.trim_matches(super::value::is_space);
    name.chars().all(|character| character.is_alphanumeric() || character == '_').then_some(name)
}
