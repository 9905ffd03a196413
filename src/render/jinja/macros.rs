//! Statements with a text of their own: `macro` and `call`, `set` and `filter` with a body.
//!
//! A macro sees the file's own scope and its parameters, wherever it is called; the body of a `call` sees what stands
//! around it. Macros stand in the file's own scope only, so that this is all there is to know of them.

use std::collections::HashMap;
use std::rc::Rc;

use minijinja::machinery::ast::{CallBlock, Expr, FilterBlock, Macro, SetBlock, Spanned, Stmt};

use super::evaluate::{Evaluator, Scope, offset};
use super::expression::Arguments;
use super::value::PyValue;
use super::{Stop, filters};
use crate::render::Code;
use crate::render::limits;

/// The macros and the bodies of `call` of a file, by the places of their statements.
pub(super) type Bodies<'t> = HashMap<u32, &'t Macro<'t>>;

/// What a macro may call as `caller()`.
pub(super) struct Caller {
    place: u32,
    /// The scopes around its body, but for the file's own.
    scopes: Vec<Scope>,
}

/// Where a statement stands.
pub(super) fn place<T>(statement: &Spanned<T>) -> u32 {
    statement.span().start_offset
}

/// Finds the macros and the bodies of `call` below a statement.
pub(super) fn bodies<'t>(statement: &'t Stmt<'t>, found: &mut Bodies<'t>) {
    let within: [&[Stmt<'t>]; 2] = match statement {
        Stmt::Template(template) => [&template.children, &[]],
        Stmt::IfCond(condition) => [&condition.true_body, &condition.false_body],
        Stmt::ForLoop(each) => [&each.body, &each.else_body],
        Stmt::WithBlock(with) => [&with.body, &[]],
        Stmt::SetBlock(set) => [&set.body, &[]],
        Stmt::FilterBlock(filter) => [&filter.body, &[]],
        Stmt::Macro(one) => {
            found.insert(place(one), one);
            [&one.body, &[]]
        }
        Stmt::CallBlock(call) => {
            found.insert(place(call), &call.macro_decl);
            [&call.macro_decl.body, &[]]
        }
        _ => return,
    };
    within.into_iter().flatten().for_each(|statement| bodies(statement, found));
}

impl Evaluator<'_> {
    /// `{% set x %}…{% endset %}`: what its body puts out, through its filters.
    pub(super) fn set_block(&mut self, set: &SetBlock<'_>) -> Result<(), Stop> {
        let Expr::Var(name) = &set.target else { return Err(Stop::not_native("setting anything but one name")) };
        let text = self.captured(|this| this.scoped(|this| this.statements(&set.body)))?;
        let value = match &set.filter {
            Some(filter) => self.filtered(filter, PyValue::Str(text))?,
            None => PyValue::Str(text),
        };
        self.bind(name.id, value);
        Ok(())
    }

    /// `{% filter f %}…{% endfilter %}`. Unlike an expression's, its None is put out as text.
    pub(super) fn filter_block(&mut self, block: &FilterBlock<'_>) -> Result<(), Stop> {
        let text = self.captured(|this| this.scoped(|this| this.statements(&block.body)))?;
        let text = self.filtered(&block.filter, PyValue::Str(text))?.text(&mut self.budget)?;
        self.put(&text)
    }

    fn filtered(&mut self, filter: &Expr<'_>, value: PyValue) -> Result<PyValue, Stop> {
        let Expr::Filter(chain) = filter else { return Err(Stop::not_native("this filter of a body")) };
        let value = match &chain.expr {
            Some(inner) => self.filtered(inner, value)?,
            None => value,
        };
        let arguments = self.arguments(&chain.args)?;
        filters::apply(chain.name, &value, &arguments, &mut self.budget).map_err(|stop| stop.at(offset(filter)))
    }

    /// `{% call(…) m(…) %}…{% endcall %}`.
    pub(super) fn call_block(&mut self, block: &Spanned<CallBlock<'_>>) -> Result<(), Stop> {
        let Expr::Var(name) = &block.call.expr else { return Err(Stop::not_native("this `call`")) };
        let arguments = self.arguments(&block.call.args)?;
        let text = self.call_macro(name.id, arguments, Some(place(block)))?;
        self.put(&text)
    }

    /// What a macro puts out. `body` is where the `call` stands whose body it may call.
    pub(super) fn call_macro(&mut self, name: &str, args: Arguments, body: Option<u32>) -> Result<Rc<str>, Stop> {
        let Some(place) = self.frame.defined.iter().rev().find(|(known, _)| known == name).map(|(_, place)| *place)
        else {
            return Err(Stop::new(Code::Undefined, format!("`{name}` is not defined yet"), "move the macro up"));
        };
        if body.is_some() && !self.calls_back.contains(&place) {
            return Err(Stop::value(format!("the macro `{name}` does not call its `caller()`")));
        }
        let scopes = self.frame.scopes.split_off(1);
        let loops = std::mem::take(&mut self.frame.loops);
        // Only the body of a `call` sees the scopes around it, so they wait where it finds them.
        let (caller, kept) = match body {
            Some(place) => (Some(Caller { place, scopes }), None),
            None => (None, Some(scopes)),
        };
        self.frame.callers.push(caller);
        let done = self.invoke(place, args);
        let caller = self.frame.callers.pop().flatten();
        self.frame.scopes.truncate(1);
        self.frame.scopes.extend(kept.or(caller.map(|caller| caller.scopes)).unwrap_or_default());
        self.frame.loops = loops;
        done
    }

    /// `caller(…)` in a macro: the body of the `call` that called it.
    pub(super) fn call_caller(&mut self, args: Arguments) -> Result<Rc<str>, Stop> {
        let Some(mut caller) = self.frame.callers.last_mut().and_then(Option::take) else {
            return Err(Stop::new(Code::Undefined, "nobody gave this macro a `caller`", "call it with `{% call %}`"));
        };
        let inside = self.frame.scopes.split_off(1);
        let loops = std::mem::take(&mut self.frame.loops);
        self.frame.scopes.append(&mut caller.scopes);
        self.frame.callers.push(None);
        let done = self.invoke(caller.place, args);
        self.frame.callers.pop();
        caller.scopes = self.frame.scopes.split_off(1);
        self.frame.scopes.extend(inside);
        self.frame.loops = loops;
        if let Some(last) = self.frame.callers.last_mut() {
            *last = Some(caller);
        }
        done
    }

    fn invoke(&mut self, place: u32, args: Arguments) -> Result<Rc<str>, Stop> {
        if self.frame.callers.len() > limits::RECURSION {
            return Err(limits::limit("macros call each other deeper than 100 (recursion)"));
        }
        let Some(body) = self.bodies.get(&place).copied() else { return Err(Stop::not_native("this macro")) };
        self.captured(|this| {
            this.scoped(|this| {
                this.bind_parameters(body, args)?;
                this.statements(&body.body)
            })
        })
    }

    /// Gives the parameters their values: those without get their defaults, which see the parameters before them.
    fn bind_parameters(&mut self, body: &Macro<'_>, args: Arguments) -> Result<(), Stop> {
        let mut named = args.named;
        let mut positional = args.positional.into_iter();
        let mut missing = Vec::new();
        for (at, parameter) in body.args.iter().enumerate() {
            let Expr::Var(name) = parameter else { return Err(Stop::not_native("this parameter of a macro")) };
            let by_name = named.iter().position(|(known, _)| known == name.id);
            let value = match (positional.next(), by_name) {
                (Some(value), _) => value,
                (None, Some(found)) => named.remove(found).1,
                (None, None) => {
                    missing.push((at, name.id));
                    let message = format!("the parameter `{}` of the macro was not given", name.id);
                    PyValue::undefined(message, "give it, or give it a default")
                }
            };
            self.bind(name.id, value);
        }
        if let Some((name, _)) = named.first() {
            return Err(Stop::value(format!("the macro `{}` takes no `{name}`", body.name)));
        }
        if positional.next().is_some() {
            return Err(Stop::value(format!("the macro `{}` takes {} values at most", body.name, body.args.len())));
        }
        let without = body.args.len() - body.defaults.len();
        for (at, name) in missing {
            if let Some(default) = at.checked_sub(without).and_then(|at| body.defaults.get(at)) {
                let value = self.expression(default)?;
                self.bind(name, value);
            }
        }
        Ok(())
    }
}
