//! What a template may hold: the set of constructs that render as Ansible renders them.
//!
//! First the words, which the parser cannot tell apart later or would recurse on; then the syntax tree. Whatever is not
//! listed here is refused by name, in branches that are never taken too, as Ansible refuses an unknown filter there.

use std::collections::HashSet;

use minijinja::machinery::ast::{BinOpKind, CallArg, Expr, ForLoop, Spanned, Stmt};
use minijinja::machinery::{self, Token};

use super::evaluate::offset;
use super::expression::is_loop;
use super::filters::{FILTERS, TESTS};
use super::methods::{METHODS, VIEWS};
use super::{Stop, syntax};
use crate::render::limits::{self, Budget};
use crate::render::variables::STAMPS;
use crate::render::{Code, Variables};

/// Whose text is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A template's.
    File,
    /// That of a variable.
    Variable,
}

/// Checks the words of normalised source, and that the parser can bear them.
pub(super) fn words(source: &str, kind: Kind, budget: &mut Budget) -> Result<(), Stop> {
    check_text(source)?;
    let mut words = Words::default();
    let mut total = 0;
    for token in machinery::tokenize(source, false, syntax()?) {
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

/// What depends on the source as a whole: characters that Python and Rust hold for different kinds, and the line end
/// after `{% raw %}`, which Jinja2 keeps and minijinja drops.
fn check_text(source: &str) -> Result<(), Stop> {
    if let Some(at) = source.find(|character| ('\u{1c}'..='\u{1f}').contains(&character)) {
        return Err(Stop::not_native("a control character").at(at));
    }
    for (at, _) in source.match_indices("{%") {
        let tag = source[at + 2..].trim_start_matches(['-', '+']).trim_start();
        let end = tag.strip_prefix("raw").map(|rest| rest.trim_start());
        if end.is_some_and(|end| end.starts_with("%}\n") || end.starts_with("+%}")) {
            return Err(Stop::not_native("a line end after `{% raw %}`").at(at));
        }
    }
    Ok(())
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
            "if" | "for" => self.open.push(0),
            "endif" | "endfor" => drop(self.open.pop()),
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

/// Checks every construct of a syntax tree.
pub(super) fn tree(tree: &Stmt<'_>, kind: Kind, variables: &Variables) -> Result<(), Stop> {
    let mut checker =
        Checker { kind, variables, own: HashSet::new(), loops: 0, depth: 0, scopes: vec![Scope::default()] };
    checker.names_set(tree);
    checker.statement(tree)
}

const FOREIGN: &str = "set the value in the bundle's vars file under a name of its own";

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

struct Checker<'c> {
    kind: Kind,
    variables: &'c Variables,
    /// Names that the template itself sets.
    own: HashSet<String>,
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
            _ => return,
        };
        for statement in bodies.iter().flat_map(|body| body.iter()) {
            self.names_set(statement);
        }
    }

    fn target(&mut self, target: &Expr<'_>) {
        match target {
            Expr::Var(name) => drop(self.own.insert(name.id.to_owned())),
            Expr::List(list) => list.items.iter().for_each(|item| self.target(item)),
            _ => {}
        }
    }

    fn statements(&mut self, body: &[Stmt<'_>]) -> Result<(), Stop> {
        body.iter().try_for_each(|statement| self.statement(statement))
    }

    fn statement(&mut self, statement: &Stmt<'_>) -> Result<(), Stop> {
        match statement {
            Stmt::Template(template) => self.statements(&template.children),
            Stmt::EmitRaw(_) => Ok(()),
            Stmt::EmitExpr(emit) => self.expression(&emit.expr),
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
            Stmt::WithBlock(at) => refused("`with`", at),
            Stmt::SetBlock(at) => refused("`set` with a body", at),
            Stmt::AutoEscape(at) => refused("`autoescape`", at),
            Stmt::FilterBlock(at) => refused("`filter` with a body", at),
            Stmt::Block(at) => refused("`block`", at),
            Stmt::Import(at) => refused("`import`", at),
            Stmt::FromImport(at) => refused("`from … import`", at),
            Stmt::Extends(at) => refused("`extends`", at),
            Stmt::Include(at) => refused("`include`", at),
            Stmt::Macro(at) => refused("`macro`", at),
            Stmt::CallBlock(at) => refused("`call`", at),
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
        self.scopes.push(Scope::default());
        if let Some(filter) = &each.filter_expr {
            self.expression(filter)?;
        }
        self.statements(&each.else_body)?;
        self.loops = outside + 1;
        self.statements(&each.body)?;
        self.loops = outside;
        self.scopes.pop();
        Ok(())
    }

    fn set_in_scope(&mut self, name: &str) -> Result<(), Stop> {
        let Some(scope) = self.scopes.last_mut() else { return Ok(()) };
        if scope.set.insert(name.to_owned()) && scope.used_in_loops.contains(name) {
            return Err(Stop::not_native(&format!("setting `{name}` after a loop that uses it")));
        }
        Ok(())
    }

    fn expression(&mut self, expr: &Expr<'_>) -> Result<(), Stop> {
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
                BinOpKind::Div => Err(Stop::not_native("`/`")),
                BinOpKind::Pow => Err(Stop::not_native("`**`")),
                _ => self.expressions([&binary.left, &binary.right]),
            },
            Expr::Compare(compare) => {
                self.expression(&compare.expr)?;
                self.expressions(compare.ops.iter().map(|next| &next.expr))
            }
            Expr::IfExpr(choice) => {
                self.expressions([&choice.test_expr, &choice.true_expr])?;
                self.expressions(&choice.false_expr)
            }
            Expr::List(list) => self.expressions(&list.items),
            Expr::Tuple(tuple) => self.expressions(&tuple.items),
            Expr::Map(map) => self.expressions(map.keys.iter().chain(&map.values)),
            Expr::Filter(filter) => self.filter(filter.name, filter.expr.as_ref(), &filter.args),
            Expr::Test(test) => {
                if !TESTS.contains(&test.name) || !test.args.is_empty() {
                    return Err(Stop::not_native(&format!("the test `{}`", test.name)));
                }
                self.expression(&test.expr)
            }
            Expr::Call(call) => match &call.expr {
                Expr::GetAttr(get) if METHODS.contains(&get.name) => {
                    self.expression(&get.expr)?;
                    self.arguments(&call.args, &[])
                }
                Expr::GetAttr(get) if VIEWS.contains(&get.name) => {
                    Err(Stop::not_native(&format!("`.{}()` anywhere but in a loop or before `| list`", get.name)))
                }
                Expr::GetAttr(get) => Err(Stop::not_native(&format!("the method `.{}()`", get.name))),
                Expr::Var(name) if name.id == "range" => Err(Stop::not_native("`range()` anywhere but in a loop")),
                Expr::Var(name) => Err(Stop::not_native(&format!("`{}()`", name.id)).with_help(FOREIGN)),
                _ => Err(Stop::not_native("this call")),
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

    /// An expression whose value is only gone through: there, and only there, views and ranges are as good as lists.
    fn iterated(&mut self, expr: &Expr<'_>) -> Result<(), Stop> {
        let Expr::Call(call) = expr else { return self.expression(expr) };
        match &call.expr {
            Expr::GetAttr(get) if VIEWS.contains(&get.name) && call.args.is_empty() => self.expression(&get.expr),
            Expr::Var(name) if name.id == "range" && !self.own.contains("range") => self.arguments(&call.args, &[]),
            _ => self.expression(expr),
        }
    }

    fn filter(&mut self, name: &str, operand: Option<&Expr<'_>>, args: &[CallArg<'_>]) -> Result<(), Stop> {
        let known = FILTERS.iter().find(|(known, _)| *known == name);
        let Some((_, names)) = known else {
            let near = FILTERS.iter().find(|(known, _)| strsim::damerau_levenshtein(known, name) == 1);
            let mut stop = Stop::not_native(&format!("the filter `{name}`"));
            if let Some((near, _)) = near {
                stop.help = format!("did you mean `{near}`?");
            }
            return Err(stop);
        };
        if name == "string" && self.kind == Kind::Variable {
            return Err(Stop::not_native("the filter `string` in a variable"));
        }
        if args.len() > names.len() {
            return Err(Stop::not_native(&format!("`{name}` with so many arguments")));
        }
        if let Some(operand) = operand {
            match name {
                "list" | "join" | "sort" | "length" | "count" => self.iterated(operand)?,
                _ => self.expression(operand)?,
            }
        }
        self.arguments(args, names).map_err(|mut stop| {
            stop.message = stop.message.replace("this argument", &format!("this argument of `{name}`"));
            stop
        })
    }

    fn arguments(&mut self, args: &[CallArg<'_>], names: &[&str]) -> Result<(), Stop> {
        let mut given = HashSet::new();
        for (place, arg) in args.iter().enumerate() {
            let (name, expr) = match arg {
                CallArg::Pos(expr) => (names.get(place).copied(), expr),
                CallArg::Kwarg(name, expr) if names.contains(name) => (Some(*name), expr),
                CallArg::Kwarg(_, expr) | CallArg::PosSplat(expr) | CallArg::KwargSplat(expr) => {
                    return Err(Stop::not_native("this argument").at(offset(expr)));
                }
            };
            if name.is_some_and(|name| !given.insert(name)) {
                return Err(Stop::not_native("this argument").at(offset(expr)));
            }
            self.expression(expr)?;
        }
        Ok(())
    }

    fn name(&mut self, name: &str) -> Result<(), Stop> {
        if let Some((_, outer)) = self.scopes.split_last_mut() {
            for scope in outer {
                scope.used_in_loops.insert(name.to_owned());
            }
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
