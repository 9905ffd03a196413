//! Methods that change a list or map. Values here never change, so the name gets a changed one: the same to see, as
//! long as nothing else holds the old one, and where something does the template is refused.

use std::rc::Rc;

use minijinja::machinery::ast::Expr;

use super::Stop;
use super::evaluate::Evaluator;
use super::expression::Arguments;
use super::value::{ITEM, PyValue};
use crate::render::limits::{self, Budget};

impl Evaluator<'_> {
    /// `name.append(…)` and the like; gives what the method gives.
    pub(super) fn change(&mut self, receiver: &Expr<'_>, method: &str, args: Arguments) -> Result<PyValue, Stop> {
        let Expr::Var(name) = receiver else { return Err(unknown(method)) };
        let mut scopes = self.frame.scopes.iter_mut().rev();
        let found = scopes.find_map(|scope| scope.iter_mut().find(|(known, _)| known == name.id));
        let Some((_, value)) = found else {
            return Err(Stop::not_native(&format!("`.{method}()` on what the template did not set")));
        };
        value.defined()?;
        for given in args.positional.iter().chain(args.named.iter().map(|(_, value)| value)) {
            given.at_most_deep(limits::RECURSION - 1, &mut self.budget)?;
        }
        self.changed = true;
        let shared = || Stop::not_native(&format!("`.{method}()` on what has another name too"));
        match value {
            PyValue::List(items) => {
                Rc::get_mut(items).ok_or_else(shared)?;
                self.budget.spend(1 + items.len() as u64 / 16)?;
                let mut changed = items.to_vec();
                let given = list(&mut changed, method, args, &mut self.budget)?;
                *items = changed.into();
                Ok(given)
            }
            PyValue::Map(entries) => {
                Rc::get_mut(entries).ok_or_else(shared)?;
                self.budget.spend(1 + entries.len() as u64 / 16)?;
                let mut changed = entries.to_vec();
                let given = map(&mut changed, method, args, &mut self.budget)?;
                *entries = changed.into();
                Ok(given)
            }
            _ => Err(unknown(method)),
        }
    }
}

fn unknown(method: &str) -> Stop {
    Stop::not_native(&format!("`.{method}()` with these arguments"))
}

fn list(items: &mut Vec<PyValue>, method: &str, args: Arguments, budget: &mut Budget) -> Result<PyValue, Stop> {
    if !args.named.is_empty() {
        return Err(unknown(method));
    }
    budget.make(ITEM)?;
    match (method, args.positional.as_slice()) {
        ("append", [item]) => items.push(item.clone()),
        ("extend", [PyValue::List(more) | PyValue::Tuple(more)]) => {
            budget.make(more.len() * ITEM)?;
            items.extend(more.iter().cloned());
        }
        ("insert", [PyValue::Int(0), item]) => items.insert(0, item.clone()),
        ("pop", [] | [PyValue::Int(0 | -1)]) if items.is_empty() => {
            return Err(Stop::value("nothing can be taken from an empty list"));
        }
        ("pop", [PyValue::Int(0)]) => return Ok(items.remove(0)),
        ("pop", [] | [PyValue::Int(-1)]) => return Ok(items.pop().unwrap_or(PyValue::None)),
        _ => return Err(unknown(method)),
    }
    Ok(PyValue::None)
}

fn map(
    entries: &mut Vec<(Rc<str>, PyValue)>,
    method: &str,
    args: Arguments,
    budget: &mut Budget,
) -> Result<PyValue, Stop> {
    let mut set = |name: Rc<str>, value: PyValue| {
        budget.make(ITEM)?;
        budget.spend(entries.len() as u64 / 8)?;
        match entries.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => entries.push((name, value)),
        }
        Ok::<(), Stop>(())
    };
    match (method, args.positional.as_slice()) {
        ("update", positional @ ([] | [PyValue::Map(_)])) => {
            if let [PyValue::Map(more)] = positional {
                more.iter().try_for_each(|(name, value)| set(Rc::clone(name), value.clone()))?;
            }
            args.named.iter().try_for_each(|(name, value)| set(Rc::from(name.as_str()), value.clone()))?;
            Ok(PyValue::None)
        }
        ("pop", [PyValue::Str(name), rest @ ..]) if rest.len() < 2 && args.named.is_empty() => {
            match (entries.iter().position(|(known, _)| known == name), rest) {
                (Some(at), _) => Ok(entries.remove(at).1),
                (None, [default]) => Ok(default.clone()),
                (None, _) => Err(Stop::value(format!("the map has no `{name}` to take"))),
            }
        }
        ("setdefault", [PyValue::Str(name), rest @ ..]) if rest.len() < 2 && args.named.is_empty() => {
            if let Some((_, known)) = entries.iter().find(|(known, _)| known == name) {
                return Ok(known.clone());
            }
            let default = rest.first().cloned().unwrap_or(PyValue::None);
            entries.push((Rc::clone(name), default.clone()));
            Ok(default)
        }
        _ => Err(unknown(method)),
    }
}
