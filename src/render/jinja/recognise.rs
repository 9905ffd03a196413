//! What a template may hold: the set of constructs that render as Ansible renders them.
//!
//! Whatever is not listed here is refused by name, in branches that are never taken too, as Ansible refuses an unknown
//! filter there.

use std::collections::HashSet;

use minijinja::machinery::ast::{
    BinOpKind, CallArg, CallBlock, Expr, ForLoop, Macro, Spanned, Stmt, Test, UnaryOpKind,
};

use super::evaluate::offset;
use super::expression::is_loop;
use super::macros::place;
use super::methods::{CHANGES, METHODS, VIEWS};
use super::{Stop, literals};
use crate::render::Variables;
use crate::render::limits;
use crate::render::variables::STAMPS;

/// Whose text is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A template's.
    File,
    /// That of a variable.
    Variable,
}

/// Checks every construct of a syntax tree; gives the places of the macros that call their `caller()`.
pub(super) fn tree(tree: &Stmt<'_>, kind: Kind, variables: &Variables) -> Result<HashSet<u32>, Stop> {
    let mut checker = Checker {
        kind,
        variables,
        own: HashSet::new(),
        macros: HashSet::new(),
        calls_back: HashSet::new(),
        within: Vec::new(),
        loops: 0,
        depth: 0,
        scopes: vec![Scope::default()],
    };
    checker.names_set(tree);
    checker.statement(tree)?;
    Ok(checker.calls_back)
}

/// What to do about what is not the bundle's.
pub(super) const FOREIGN: &str = "set the value in the bundle's vars file under a name of its own";

/// What is said of a name that Ansible knows and that is not known here.
pub(super) fn foreign(name: &str, variables: &Variables) -> Option<String> {
    const GLOBALS: [&str; 12] = [
        "range",
        "dict",
        "cycler",
        "joiner",
        "namespace",
        "lookup",
        "query",
        "q",
        "undef",
        "self",
        "caller",
        "varargs",
    ];
    if let Some(what) = super::foreign::of_a_host(name, variables) {
        return Some(what);
    }
    let known = variables.get(name).is_some();
    (!known && GLOBALS.contains(&name)).then(|| format!("`{name}`"))
}

/// What is known of a syntax tree as far as it was read.
pub(super) struct Checker<'c> {
    pub(super) kind: Kind,
    variables: &'c Variables,
    /// Names that the template itself sets.
    pub(super) own: HashSet<String>,
    /// Names of macros.
    pub(super) macros: HashSet<String>,
    pub(super) calls_back: HashSet<u32>,
    /// The macro around, by its place; `None` for the body of a `call`.
    pub(super) within: Vec<Option<u32>>,
    loops: usize,
    depth: usize,
    /// The file's scope and those of the open loops, the innermost last.
    scopes: Vec<Scope>,
}

/// A scope, as far as it was read.
///
/// Jinja2 decides once per scope where a name comes from: one that the scope sets somewhere is undefined in the loops
/// before, even where a variable of that name exists.
#[derive(Default)]
struct Scope {
    /// Names that it begins with: a loop's targets, a macro's parameters.
    bound: HashSet<String>,
    set: HashSet<String>,
    used_in_loops: HashSet<String>,
}

impl Checker<'_> {
    fn names_set(&mut self, statement: &Stmt<'_>) {
        let bodies: &[&[Stmt<'_>]] = match statement {
            Stmt::Template(template) => &[&template.children],
            Stmt::IfCond(condition) => &[&condition.true_body, &condition.false_body],
            Stmt::Set(set) => return self.target(&set.target),
            Stmt::ForLoop(each) => {
                self.target(&each.target);
                &[&each.body, &each.else_body]
            }
            Stmt::WithBlock(with) => {
                with.assignments.iter().for_each(|(target, _)| self.target(target));
                &[&with.body]
            }
            Stmt::SetBlock(set) => {
                self.target(&set.target);
                &[&set.body]
            }
            Stmt::FilterBlock(block) => &[&block.body],
            Stmt::Macro(one) => {
                self.macros.insert(one.name.to_owned());
                one.args.iter().for_each(|parameter| self.target(parameter));
                &[&one.body]
            }
            Stmt::CallBlock(call) => {
                call.macro_decl.args.iter().for_each(|parameter| self.target(parameter));
                &[&call.macro_decl.body]
            }
            _ => return,
        };
        for statement in bodies.iter().flat_map(|body| body.iter()) {
            self.names_set(statement);
        }
    }

    fn target(&mut self, target: &Expr<'_>) {
        targets(target, &mut self.own);
    }

    fn statements(&mut self, body: &[Stmt<'_>]) -> Result<(), Stop> {
        body.iter().try_for_each(|statement| self.statement(statement))
    }

    fn statement(&mut self, statement: &Stmt<'_>) -> Result<(), Stop> {
        match statement {
            Stmt::Template(template) => self.statements(&template.children),
            Stmt::EmitRaw(_) => Ok(()),
            // What is put out is gone through first.
            Stmt::EmitExpr(emit) => self.iterated(&emit.expr),
            Stmt::IfCond(condition) => {
                self.expression(&condition.expr)?;
                self.statements(&condition.true_body)?;
                self.statements(&condition.false_body)
            }
            Stmt::Set(set) => match &set.target {
                Expr::Var(name) => {
                    self.expression(&set.expr)?;
                    self.set_in_scope(name.id).map_err(|stop| stop.at(offset(&set.target)))
                }
                other => Err(Stop::not_native("setting anything but one name").at(offset(other))),
            },
            Stmt::ForLoop(each) => self.for_loop(each),
            Stmt::WithBlock(with) => {
                if let Some((target, _)) = with.assignments.iter().find(|(target, _)| !matches!(target, Expr::Var(_))) {
                    return Err(Stop::not_native("`with` of more than one name").at(offset(target)));
                }
                self.expressions(with.assignments.iter().map(|(_, expr)| expr))?;
                self.inner(with.assignments.iter().map(|(target, _)| target), |this| this.statements(&with.body))
            }
            Stmt::SetBlock(set) if self.kind == Kind::File => match &set.target {
                Expr::Var(name) => {
                    self.inner([], |this| this.statements(&set.body))?;
                    self.expressions(&set.filter)?;
                    self.set_in_scope(name.id).map_err(|stop| stop.at(offset(&set.target)))
                }
                other => Err(Stop::not_native("setting anything but one name").at(offset(other))),
            },
            Stmt::FilterBlock(block) if self.kind == Kind::File => {
                self.inner([], |this| this.statements(&block.body))?;
                self.expression(&block.filter)
            }
            Stmt::Macro(one) if self.kind == Kind::File => self.macro_(one),
            Stmt::CallBlock(call) if self.kind == Kind::File => self.call_block(call),
            Stmt::SetBlock(at) => refused("`set` with a body in a variable", at),
            Stmt::FilterBlock(at) => refused("`filter` with a body in a variable", at),
            Stmt::Macro(at) => refused("`macro` in a variable", at),
            Stmt::CallBlock(at) => refused("`call` in a variable", at),
            Stmt::AutoEscape(at) => refused("`autoescape`", at),
            Stmt::Block(at) => refused("`block`", at),
            Stmt::Import(at) => refused("`import`", at),
            Stmt::FromImport(at) => refused("`from … import`", at),
            Stmt::Extends(at) => refused("`extends`", at),
            Stmt::Include(at) => refused("`include`", at),
            Stmt::Do(at) => refused("`do`", at),
        }
    }

    fn for_loop(&mut self, each: &Spanned<ForLoop<'_>>) -> Result<(), Stop> {
        if each.recursive {
            return refused("a recursive loop", each);
        }
        let flat = match &each.target {
            Expr::Var(_) => true,
            Expr::List(names) => names.items.iter().all(|name| matches!(name, Expr::Var(_))),
            _ => false,
        };
        if !flat {
            return Err(Stop::not_native("a nested target of a loop").at(offset(&each.target)));
        }
        self.iterated(&each.iter)?;
        let outside = std::mem::take(&mut self.loops);
        self.inner([], |this| this.statements(&each.else_body))?;
        self.inner([&each.target], |this| {
            this.expressions(&each.filter_expr)?;
            this.loops = outside + 1;
            this.statements(&each.body)
        })?;
        self.loops = outside;
        Ok(())
    }

    /// Checks what has a scope of its own, which begins with some names.
    fn inner<'e, 's: 'e>(
        &mut self,
        bound: impl IntoIterator<Item = &'e Expr<'s>>,
        check: impl FnOnce(&mut Self) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        let mut names = HashSet::new();
        bound.into_iter().for_each(|target| targets(target, &mut names));
        self.scopes.push(Scope { bound: names, ..Scope::default() });
        let done = check(self);
        self.scopes.pop();
        done
    }

    fn macro_(&mut self, one: &Spanned<Macro<'_>>) -> Result<(), Stop> {
        if self.scopes.len() > 1 {
            return refused("a macro within a loop or another macro", one);
        }
        let taken = self.own.contains(one.name) || self.variables.get(one.name).is_some();
        if taken || foreign(one.name, self.variables).is_some() || one.name == "loop" {
            return refused("a macro that is named as something else is", one);
        }
        self.body(one, Some(place(one)))
    }

    fn call_block(&mut self, block: &Spanned<CallBlock<'_>>) -> Result<(), Stop> {
        self.called(&block.call).map_err(|stop| stop.at(place(block) as usize))?;
        self.body(&block.macro_decl, None)
    }

    fn body(&mut self, one: &Macro<'_>, macro_place: Option<u32>) -> Result<(), Stop> {
        let mut names = HashSet::new();
        for parameter in &one.args {
            let Expr::Var(name) = parameter else { return Err(Stop::not_native("this parameter of a macro")) };
            if ["caller", "kwargs", "varargs"].contains(&name.id) || !names.insert(name.id) {
                return Err(Stop::not_native(&format!("a parameter named `{}`", name.id)).at(offset(parameter)));
            }
        }
        let outside = std::mem::take(&mut self.loops);
        self.within.push(macro_place);
        self.inner(&one.args, |this| {
            this.expressions(&one.defaults)?;
            this.statements(&one.body)
        })?;
        self.within.pop();
        self.loops = outside;
        Ok(())
    }

    fn set_in_scope(&mut self, name: &str) -> Result<(), Stop> {
        let Some(scope) = self.scopes.last_mut() else { return Ok(()) };
        if scope.set.insert(name.to_owned()) && scope.used_in_loops.contains(name) {
            return Err(Stop::not_native(&format!("setting `{name}` after a loop that uses it")));
        }
        Ok(())
    }

    pub(super) fn expression(&mut self, expr: &Expr<'_>) -> Result<(), Stop> {
        self.depth += 1;
        if self.depth > limits::RECURSION {
            return Err(limits::limit("expressions nest deeper than 100 (recursion)").at(offset(expr)));
        }
        let done = self.expression_here(expr).map_err(|stop| stop.at(offset(expr)));
        self.depth -= 1;
        done
    }

    fn expressions<'e, 's: 'e>(&mut self, all: impl IntoIterator<Item = &'e Expr<'s>>) -> Result<(), Stop> {
        all.into_iter().try_for_each(|expr| self.expression(expr))
    }

    fn expression_here(&mut self, expr: &Expr<'_>) -> Result<(), Stop> {
        match expr {
            Expr::Var(name) => self.name(name.id),
            Expr::Const(_) => Ok(()),
            Expr::GetAttr(get) if is_loop(&get.expr) => self.loop_part(get.name),
            Expr::GetAttr(get) if is_date_time(&get.expr) => stamp_part(get.name),
            Expr::GetItem(get) if is_date_time(&get.expr) => match &get.subscript_expr {
                Expr::Const(key) => stamp_part(key.value.as_str().unwrap_or_default()),
                _ => stamp_part(""),
            },
            Expr::GetAttr(get) => self.expression(&get.expr),
            Expr::GetItem(get) => self.expressions([&get.expr, &get.subscript_expr]),
            Expr::UnaryOp(unary) => self.expression(&unary.expr),
            Expr::BinOp(binary) => match binary.op {
                BinOpKind::In => {
                    self.expression(&binary.left)?;
                    self.iterated(&binary.right)
                }
                BinOpKind::Div => Err(Stop::not_native("`/`")),
                BinOpKind::Pow => Err(Stop::not_native("`**`")),
                BinOpKind::ScAnd | BinOpKind::ScOr | BinOpKind::Concat
                    if [&binary.left, &binary.right].into_iter().any(literals::may_be_undefined) =>
                {
                    Err(Stop::not_native("what is worked out of literals alone"))
                }
                _ => self.expressions([&binary.left, &binary.right]),
            },
            Expr::Compare(compare) => {
                self.expression(&compare.expr)?;
                self.expressions(compare.ops.iter().map(|next| &next.expr))
            }
            Expr::IfExpr(choice) if literals::may_be_undefined(&choice.test_expr) => {
                Err(Stop::not_native("what is worked out of literals alone"))
            }
            Expr::IfExpr(choice) => {
                self.expressions([&choice.test_expr, &choice.true_expr])?;
                self.expressions(&choice.false_expr)
            }
            Expr::List(list) => self.expressions(&list.items),
            Expr::Tuple(tuple) => self.expressions(&tuple.items),
            Expr::Map(map) => self.expressions(map.keys.iter().chain(&map.values)),
            Expr::Filter(filter) => self.filter(filter.name, filter.expr.as_ref(), &filter.args),
            Expr::Test(test) => self.test(test),
            Expr::Call(call) => match &call.expr {
                Expr::GetAttr(get) if get.name == "format" => {
                    self.expression(&get.expr)?;
                    self.any_arguments(&call.args)
                }
                Expr::GetAttr(get) if METHODS.contains(&get.name) => {
                    self.expression(&get.expr)?;
                    self.arguments(&call.args, &[])
                }
                Expr::GetAttr(get) if CHANGES.contains(&get.name) => {
                    let own = matches!(&get.expr, Expr::Var(name) if self.own.contains(name.id));
                    if !own || self.kind == Kind::Variable {
                        return Err(Stop::not_native(&format!("`.{}()` on what the template did not set", get.name)));
                    }
                    self.expression(&get.expr)?;
                    self.any_arguments(&call.args)
                }
                Expr::GetAttr(get) if VIEWS.contains(&get.name) => {
                    Err(Stop::not_native(&format!("`.{}()` anywhere but in a loop or before `| list`", get.name)))
                }
                Expr::GetAttr(get) => Err(Stop::not_native(&format!("the method `.{}()`", get.name))),
                _ => self.called(call),
            },
            Expr::Slice(slice) => {
                if slice.step.is_some() {
                    return Err(Stop::not_native("a slice with a step"));
                }
                self.expression(&slice.expr)?;
                self.expressions(slice.start.iter().chain(&slice.stop))
            }
        }
    }

    /// `x is t`. Jinja2 knows no test of a test, and takes no number with a minus for its argument.
    fn test(&mut self, test: &Test<'_>) -> Result<(), Stop> {
        let chained = match &test.expr {
            Expr::Test(_) => true,
            Expr::UnaryOp(unary) => matches!(unary.expr, Expr::Test(_)),
            _ => false,
        };
        let negative = |arg: &CallArg<'_>| matches!(arg, CallArg::Pos(Expr::UnaryOp(unary)) if matches!(unary.op, UnaryOpKind::Neg));
        if chained || test.args.iter().any(negative) {
            return Err(Stop::not_native("a test in a test"));
        }
        self.tested(test.name, &test.args)?;
        self.expression(&test.expr)
    }

    /// An expression whose value is only gone through: there, and only there, views and ranges are as good as lists.
    pub(super) fn iterated(&mut self, expr: &Expr<'_>) -> Result<(), Stop> {
        let Expr::Call(call) = expr else { return self.expression(expr) };
        match &call.expr {
            Expr::GetAttr(get) if VIEWS.contains(&get.name) && call.args.is_empty() => self.expression(&get.expr),
            Expr::Var(name) if name.id == "range" && !self.own.contains("range") => self.arguments(&call.args, &[]),
            _ => self.expression(expr),
        }
    }

    /// Remembers that a name is used, in all scopes around up to the one that it belongs to.
    pub(super) fn use_name(&mut self, name: &str) {
        let mut inner = false;
        for scope in self.scopes.iter_mut().rev() {
            if inner {
                scope.used_in_loops.insert(name.to_owned());
            }
            if scope.bound.contains(name) {
                return;
            }
            inner = true;
        }
    }

    fn name(&mut self, name: &str) -> Result<(), Stop> {
        self.use_name(name);
        if self.macros.contains(name) {
            return Err(Stop::not_native("a macro that is not called"));
        }
        if name == "kwargs" && !self.within.is_empty() {
            return Err(Stop::not_native("`kwargs` in a macro"));
        }
        if self.own.contains(name) {
            return Ok(());
        }
        if name == "loop" {
            return Err(Stop::not_native("`loop` but for its parts"));
        }
        // Of the moment of a build only some parts are known, so it can't be looked at as a whole.
        let whole = (name == "ansible_date_time").then(|| "`ansible_date_time` as a whole".to_owned());
        match whole.or_else(|| foreign(name, self.variables)) {
            Some(what) => Err(Stop::not_native(&what).with_help(FOREIGN)),
            None => Ok(()),
        }
    }

    fn loop_part(&self, part: &str) -> Result<(), Stop> {
        const PARTS: [&str; 7] = ["index", "index0", "revindex", "revindex0", "length", "first", "last"];
        if self.loops == 0 {
            return Err(Stop::not_native("`loop` outside of a loop's body"));
        }
        if PARTS.contains(&part) { Ok(()) } else { Err(Stop::not_native(&format!("`loop.{part}`"))) }
    }
}

/// The names that a target sets.
fn targets(target: &Expr<'_>, names: &mut HashSet<String>) {
    match target {
        Expr::Var(name) => drop(names.insert(name.id.to_owned())),
        Expr::List(list) => list.items.iter().for_each(|item| targets(item, names)),
        _ => {}
    }
}

fn refused<T>(what: &str, at: &Spanned<T>) -> Result<(), Stop> {
    Err(Stop::not_native(what).at(at.span().start_offset as usize))
}

fn is_date_time(expr: &Expr<'_>) -> bool {
    matches!(expr, Expr::Var(name) if name.id == "ansible_date_time")
}

fn stamp_part(part: &str) -> Result<(), Stop> {
    if STAMPS.contains(&part) {
        return Ok(());
    }
    Err(Stop::not_native(&format!("`ansible_date_time.{part}`")))
}
