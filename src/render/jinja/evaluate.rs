//! Statements: what a checked syntax tree puts out.
//!
//! Scopes are Jinja2's: `if` has none of its own, each turn of a `for` begins anew, and what is set in it is gone after.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use minijinja::machinery::ast::{Expr, ForLoop, Stmt, WithBlock};

use super::macros::{self, Bodies, Caller};
use super::recognise::{self, Kind};
use super::value::PyValue;
use super::{Blocks, Stop, normalised, parse, words};
use crate::render::Variables;
use crate::render::limits::{self, Budget};

/// Evaluates one template, and the variables that it uses.
pub(super) struct Evaluator<'v> {
    pub(super) variables: &'v Variables,
    pub(super) budget: Budget,
    /// Variables that were worked out already.
    pub(super) known: HashMap<String, PyValue>,
    /// Variables that are being worked out, the outermost first.
    pub(super) resolving: Vec<String>,
    /// How many expressions and statements are being evaluated within each other.
    depth: usize,
    /// The macros and bodies of `call` of the file.
    pub(super) bodies: Bodies<'v>,
    /// Which macros call their `caller()`, by place.
    pub(super) calls_back: HashSet<u32>,
    /// Whether a list or map was changed since the work began that is passing now.
    pub(super) changed: bool,
    pub(super) frame: Frame,
}

/// The names of a scope.
pub(super) type Scope = Vec<(String, PyValue)>;

/// What belongs to one text: the file, or a variable's.
pub(super) struct Frame {
    kind: Kind,
    output: Output,
    /// How many texts within the text are being made, which are not put out yet.
    captures: usize,
    /// The scopes, the text's own first.
    pub(super) scopes: Vec<Scope>,
    pub(super) loops: Vec<Turn>,
    /// The macros that were defined so far, with their places.
    pub(super) defined: Vec<(String, u32)>,
    /// For each macro that is being called, what it may call as `caller()`.
    pub(super) callers: Vec<Option<Caller>>,
}

/// What a text put out.
#[derive(Default)]
pub(super) struct Output {
    pub(super) text: String,
    /// The list or map that a variable's text put out and nothing else; it is not in `text` then.
    pub(super) single: Option<PyValue>,
}

/// The turn of a loop.
#[derive(Clone, Copy)]
pub(super) struct Turn {
    /// Counted from 0.
    pub(super) index: usize,
    /// How many turns there are.
    pub(super) length: usize,
}

impl Frame {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            output: Output::default(),
            captures: 0,
            scopes: vec![Vec::new()],
            loops: Vec::new(),
            defined: Vec::new(),
            callers: Vec::new(),
        }
    }

    /// Whether what is put out is the result already, and not a text on the way to it.
    fn is_result(&self) -> bool {
        self.kind == Kind::File && self.captures == 0
    }
}

impl<'v> Evaluator<'v> {
    pub(super) fn new(variables: &'v Variables, budget: Budget) -> Self {
        Self {
            variables,
            budget,
            known: HashMap::new(),
            resolving: Vec::new(),
            depth: 0,
            bodies: Bodies::new(),
            calls_back: HashSet::new(),
            changed: false,
            frame: Frame::new(Kind::File),
        }
    }

    /// Checks and renders a file's normalised source.
    pub(super) fn file(
        source: String,
        blocks: Blocks,
        variables: &Variables,
        mut budget: Budget,
    ) -> Result<String, Stop> {
        words::check(&source, Kind::File, blocks, &mut budget)?;
        let source = words::with_line_ends(source, blocks)?;
        let tree = parse(&source, blocks)?;
        let calls_back = recognise::tree(&tree, Kind::File, variables)?;
        let mut evaluator = Evaluator { calls_back, ..Evaluator::new(variables, budget) };
        macros::bodies(&tree, &mut evaluator.bodies);
        evaluator.statement(&tree)?;
        Ok(evaluator.frame.output.text)
    }

    /// Checks and renders a variable's text in a scope of its own.
    pub(super) fn variable_text(&mut self, source: &str) -> Result<Output, Stop> {
        let (source, kind, blocks) = (normalised(source), Kind::Variable, Blocks::default());
        words::check(&source, kind, blocks, &mut self.budget)?;
        let source = words::with_line_ends(source, blocks)?;
        let tree = parse(&source, blocks)?;
        recognise::tree(&tree, kind, self.variables)?;
        let outer = std::mem::replace(&mut self.frame, Frame::new(kind));
        let done = self.statement(&tree);
        let frame = std::mem::replace(&mut self.frame, outer);
        done.map(|()| frame.output)
    }

    /// One level deeper, for as long as `work` takes.
    pub(super) fn deeper<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, Stop>) -> Result<T, Stop> {
        if self.depth >= limits::FRAMES {
            return Err(limits::limit("variables and expressions nest too deeply (recursion)"));
        }
        self.budget.spend(1)?;
        self.depth += 1;
        let done = work(self);
        self.depth -= 1;
        done
    }

    pub(super) fn statements(&mut self, body: &[Stmt<'_>]) -> Result<(), Stop> {
        body.iter().try_for_each(|statement| self.deeper(|this| this.statement(statement)))
    }

    fn statement(&mut self, statement: &Stmt<'_>) -> Result<(), Stop> {
        match statement {
            Stmt::Template(template) => self.statements(&template.children),
            Stmt::EmitRaw(raw) => self.put(raw.raw),
            Stmt::EmitExpr(emit) => {
                let emitted = |this: &mut Self| {
                    let value = this.expression(&emit.expr)?;
                    this.emit(&value)
                };
                self.passing(emitted).map_err(|stop| stop.at(emit.span().start_offset as usize))
            }
            Stmt::IfCond(condition) => {
                if self.passing(|this| this.truth(&condition.expr))? {
                    self.statements(&condition.true_body)
                } else {
                    self.statements(&condition.false_body)
                }
            }
            Stmt::Set(set) => {
                let value = self.expression(&set.expr)?;
                match &set.target {
                    Expr::Var(name) => self.bind(name.id, value),
                    other => return Err(Stop::not_native("setting anything but one name").at(offset(other))),
                }
                Ok(())
            }
            Stmt::ForLoop(each) => self.for_loop(each),
            Stmt::WithBlock(with) => self.with_block(with),
            Stmt::SetBlock(set) => self.set_block(set),
            Stmt::FilterBlock(block) => self.passing(|this| this.filter_block(block)),
            Stmt::CallBlock(block) => {
                let called = self.passing(|this| this.call_block(block));
                called.map_err(|stop| stop.at(macros::place(block) as usize))
            }
            Stmt::Macro(one) => {
                self.frame.defined.push((one.name.to_owned(), macros::place(one)));
                Ok(())
            }
            _ => Err(Stop::not_native("this statement")),
        }
    }

    /// Whether an expression is true.
    pub(super) fn truth(&mut self, expr: &Expr<'_>) -> Result<bool, Stop> {
        self.expression(expr)?.truth().map_err(|stop| stop.at(offset(expr)))
    }

    fn for_loop(&mut self, each: &ForLoop<'_>) -> Result<(), Stop> {
        let value = self.expression(&each.iter)?;
        let mut items = value.items(&mut self.budget).map_err(|stop| stop.at(offset(&each.iter)))?;
        if let Some(filter) = &each.filter_expr {
            let mut kept = Vec::new();
            for item in items.iter() {
                if self.scoped(|this| {
                    this.bind_target(&each.target, item)?;
                    this.truth(filter)
                })? {
                    kept.push(item.clone());
                }
            }
            items = kept.into();
        }
        if items.is_empty() {
            return self.scoped(|this| this.statements(&each.else_body));
        }
        for (index, item) in items.iter().enumerate() {
            self.frame.loops.push(Turn { index, length: items.len() });
            let turn = |this: &mut Self| {
                this.bind_target(&each.target, item)?;
                this.statements(&each.body)
            };
            let done = self.passing(|this| this.scoped(turn));
            self.frame.loops.pop();
            done?;
        }
        Ok(())
    }

    /// `{% with a = x %}`: its values are worked out before any of its names is set.
    fn with_block(&mut self, with: &WithBlock<'_>) -> Result<(), Stop> {
        let values: Result<Vec<_>, _> = with.assignments.iter().map(|(_, expr)| self.expression(expr)).collect();
        let values = values?;
        self.scoped(|this| {
            for ((target, _), value) in with.assignments.iter().zip(&values) {
                this.bind_target(target, value)?;
            }
            this.statements(&with.body)
        })
    }

    /// What some work puts out, kept from the output.
    pub(super) fn captured(&mut self, work: impl FnOnce(&mut Self) -> Result<(), Stop>) -> Result<Rc<str>, Stop> {
        let outer = std::mem::take(&mut self.frame.output);
        self.frame.captures += 1;
        let done = work(self);
        self.frame.captures -= 1;
        let made = std::mem::replace(&mut self.frame.output, outer);
        done.map(|()| made.text.into())
    }

    /// Work of which nothing lasts but what it puts out, the variables that it works out, and the lists and maps that
    /// it changes.
    fn passing<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, Stop>) -> Result<T, Stop> {
        let mark = self.budget.mark();
        let changed = std::mem::replace(&mut self.changed, false);
        let done = work(self);
        if self.changed {
            self.budget.keep(mark);
        } else if self.frame.is_result() {
            // What a variable's text puts out is its value and lasts; so is what a macro puts out.
            self.budget.release(mark);
        }
        self.changed |= changed;
        done
    }

    pub(super) fn scoped<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, Stop>) -> Result<T, Stop> {
        self.budget.spend(1)?;
        self.frame.scopes.push(Vec::new());
        let done = work(self);
        self.frame.scopes.pop();
        done
    }

    fn bind_target(&mut self, target: &Expr<'_>, item: &PyValue) -> Result<(), Stop> {
        match target {
            Expr::Var(name) => self.bind(name.id, item.clone()),
            Expr::List(names) => {
                let parts = item.items(&mut self.budget).map_err(|stop| stop.at(offset(target)))?;
                if parts.len() != names.items.len() {
                    let message = format!("{} values can't be given to {} names", parts.len(), names.items.len());
                    return Err(Stop::value(message).at(offset(target)));
                }
                for (name, part) in names.items.iter().zip(parts.iter()) {
                    self.bind_target(name, part)?;
                }
            }
            _ => return Err(Stop::not_native("this target of a loop").at(offset(target))),
        }
        Ok(())
    }

    pub(super) fn bind(&mut self, name: &str, value: PyValue) {
        let Some(scope) = self.frame.scopes.last_mut() else { return };
        match scope.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => scope.push((name.to_owned(), value)),
        }
    }

    /// What the template itself gave a name, by `set` or `for`.
    pub(super) fn local(&self, name: &str) -> Option<PyValue> {
        let mut scopes = self.frame.scopes.iter().rev();
        scopes.find_map(|scope| scope.iter().find(|(known, _)| known == name)).map(|(_, value)| value.clone())
    }

    /// The innermost loop's turn.
    pub(super) fn turn(&self) -> Option<Turn> {
        self.frame.loops.last().copied()
    }

    /// Puts out a value: nothing for None, a text as it is, everything else as Python writes it.
    fn emit(&mut self, value: &PyValue) -> Result<(), Stop> {
        value.all_defined()?;
        let output = &self.frame.output;
        let first = output.text.is_empty() && output.single.is_none();
        match value {
            PyValue::None => self.put(""),
            PyValue::List(_) | PyValue::Map(_) if first && self.frame.kind == Kind::Variable => {
                // Ansible reads the text back, and leaves it a text where that is no Python.
                if value.holds_nothing() {
                    return Err(Stop::not_native("a variable's list or map that holds what is undefined"));
                }
                self.frame.output.single = Some(value.clone());
                Ok(())
            }
            other => {
                let text = other.text(&mut self.budget)?;
                self.put(&text)
            }
        }
    }

    pub(super) fn put(&mut self, text: &str) -> Result<(), Stop> {
        if let Some(single) = self.frame.output.single.take() {
            let text = single.text(&mut self.budget)?;
            self.frame.output.text.push_str(&text);
        }
        if self.frame.is_result() {
            self.budget.write(text.len())?;
        } else {
            self.budget.make(text.len())?;
        }
        self.frame.output.text.push_str(text);
        Ok(())
    }
}

/// Where an expression begins, in bytes.
pub(super) fn offset(expr: &Expr<'_>) -> usize {
    expr.span().start_offset as usize
}
