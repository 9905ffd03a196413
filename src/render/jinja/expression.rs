//! Expressions: names, lookups, operators, literals, filters, tests and calls.

use std::rc::Rc;

use minijinja::machinery::ast::{BinOpKind, CallArg, CompareOpKind, Expr, UnaryOpKind};
use minijinja::value::ValueKind;

use super::evaluate::{Evaluator, offset};
use super::value::{ITEM, PyValue};
use super::{Stop, checks, filters, lookup, methods, operators};
use crate::render::{Code, limits};

/// The arguments of a filter or call.
#[derive(Default)]
pub(super) struct Arguments {
    pub(super) positional: Vec<PyValue>,
    pub(super) named: Vec<(String, PyValue)>,
}

impl Arguments {
    /// An argument that has a name.
    pub(super) fn named(&self, name: &str) -> Option<&PyValue> {
        self.named.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// An argument by place or name.
    pub(super) fn get(&self, place: usize, name: &str) -> Option<&PyValue> {
        self.positional.get(place).or_else(|| self.named(name))
    }
}

impl Evaluator<'_> {
    /// The value of an expression.
    pub(super) fn expression(&mut self, expr: &Expr<'_>) -> Result<PyValue, Stop> {
        self.deeper(|this| this.evaluate(expr)).map_err(|stop| stop.at(offset(expr)))
    }

    fn evaluate(&mut self, expr: &Expr<'_>) -> Result<PyValue, Stop> {
        match expr {
            Expr::Var(name) => self.name(name.id),
            Expr::Const(constant) => literal(&constant.value),
            Expr::GetAttr(get) if is_loop(&get.expr) => self.loop_part(get.name),
            Expr::GetAttr(get) => {
                let value = self.expression(&get.expr)?;
                Ok(named(lookup::attribute(&value, get.name, &mut self.budget)?, &value, expr))
            }
            Expr::GetItem(get) => {
                let value = self.expression(&get.expr)?;
                let key = self.expression(&get.subscript_expr)?;
                Ok(named(lookup::item(&value, &key, &mut self.budget)?, &value, expr))
            }
            Expr::UnaryOp(unary) => match unary.op {
                UnaryOpKind::Not => Ok(PyValue::Bool(!self.truth(&unary.expr)?)),
                UnaryOpKind::Neg => operators::negated(&self.expression(&unary.expr)?),
            },
            Expr::BinOp(binary) => self.binary(binary.op, &binary.left, &binary.right),
            Expr::Compare(compare) => {
                let mut left = self.expression(&compare.expr)?;
                for next in &compare.ops {
                    let right = self.expression(&next.expr)?;
                    if !self.compared(next.op, &left, &right)? {
                        return Ok(PyValue::Bool(false));
                    }
                    left = right;
                }
                Ok(PyValue::Bool(true))
            }
            Expr::IfExpr(choice) => match (self.truth(&choice.test_expr)?, &choice.false_expr) {
                (true, _) => self.expression(&choice.true_expr),
                (false, Some(other)) => self.expression(other),
                (false, None) => Ok(PyValue::Nothing),
            },
            Expr::List(list) => self.expressions(&list.items).map(PyValue::List).and_then(|made| self.bounded(made)),
            Expr::Tuple(tuple) => {
                self.expressions(&tuple.items).map(PyValue::Tuple).and_then(|made| self.bounded(made))
            }
            Expr::Map(map) => self.map(&map.keys, &map.values).and_then(|made| self.bounded(made)),
            Expr::Filter(filter) => {
                let Some(operand) = &filter.expr else { return Err(Stop::not_native("a filter of nothing")) };
                let value = self.expression(operand)?;
                let arguments = self.arguments(&filter.args)?;
                filters::apply(filter.name, &value, &arguments, &mut self.budget)
            }
            Expr::Test(test) => {
                let value = self.expression(&test.expr)?;
                let arguments = self.arguments(&test.args)?;
                Ok(PyValue::Bool(checks::test(test.name, &value, &arguments, &mut self.budget)?))
            }
            Expr::Call(call) => {
                let arguments = self.arguments(&call.args)?;
                match &call.expr {
                    Expr::Var(name) if name.id == "caller" => self.call_caller(arguments).map(PyValue::Str),
                    Expr::Var(name) if name.id == "range" => methods::range(&arguments, &mut self.budget),
                    Expr::Var(name) => self.call_macro(name.id, arguments, None).map(PyValue::Str),
                    Expr::GetAttr(get) if methods::CHANGES.contains(&get.name) => {
                        self.change(&get.expr, get.name, arguments)
                    }
                    Expr::GetAttr(get) => {
                        let value = self.expression(&get.expr)?;
                        methods::call(&value, get.name, &arguments, &mut self.budget)
                    }
                    _ => Err(Stop::not_native("this call")),
                }
            }
            Expr::Slice(slice) => {
                let value = self.expression(&slice.expr)?;
                let mut ends = [PyValue::None, PyValue::None];
                for (end, expr) in ends.iter_mut().zip([&slice.start, &slice.stop]) {
                    if let Some(expr) = expr {
                        *end = self.expression(expr)?;
                    }
                }
                lookup::sliced(&value, &ends, &mut self.budget)
            }
        }
    }

    fn name(&mut self, name: &str) -> Result<PyValue, Stop> {
        if let Some(local) = self.local(name) {
            return Ok(local);
        }
        if let Some(value) = self.variable(name)? {
            return Ok(value);
        }
        if let Some(what) = super::recognise::foreign(name, self.variables) {
            return Err(Stop::not_native(&what));
        }
        let near = self.variables.names().filter(|known| strsim::damerau_levenshtein(known, name) <= 2).min();
        let help = match (near, name) {
            (Some(near), _) => format!("did you mean `{near}`?"),
            (None, "ansible_date_time") => {
                "the moment of the build is not known here: give the names that need it by hand".to_owned()
            }
            _ => "set it in the bundle's vars file, or write `| default(…)` after it".to_owned(),
        };
        Ok(PyValue::undefined(format!("`{name}` is not defined"), help))
    }

    fn loop_part(&self, part: &str) -> Result<PyValue, Stop> {
        let Some(turn) = self.turn() else { return Err(Stop::not_native("`loop` outside of a loop")) };
        let number = |number: usize| i64::try_from(number).map_or(PyValue::None, PyValue::Int);
        Ok(match part {
            "index" => number(turn.index + 1),
            "index0" => number(turn.index),
            "revindex" => number(turn.length - turn.index),
            "revindex0" => number(turn.length - turn.index - 1),
            "length" => number(turn.length),
            "first" => PyValue::Bool(turn.index == 0),
            "last" => PyValue::Bool(turn.index + 1 == turn.length),
            other => return Err(Stop::not_native(&format!("`loop.{other}`"))),
        })
    }

    fn binary(&mut self, op: BinOpKind, left: &Expr<'_>, right: &Expr<'_>) -> Result<PyValue, Stop> {
        let first = self.expression(left)?;
        match op {
            BinOpKind::ScAnd if !first.truth().map_err(|stop| stop.at(offset(left)))? => Ok(first),
            BinOpKind::ScOr if first.truth().map_err(|stop| stop.at(offset(left)))? => Ok(first),
            BinOpKind::ScAnd | BinOpKind::ScOr => self.expression(right),
            op => {
                let second = self.expression(right)?;
                operators::apply(op, &first, &second, &mut self.budget)
            }
        }
    }

    fn compared(&mut self, op: CompareOpKind, left: &PyValue, right: &PyValue) -> Result<bool, Stop> {
        let op = match op {
            CompareOpKind::Eq => BinOpKind::Eq,
            CompareOpKind::Ne => BinOpKind::Ne,
            CompareOpKind::Lt => BinOpKind::Lt,
            CompareOpKind::Lte => BinOpKind::Lte,
            CompareOpKind::Gt => BinOpKind::Gt,
            CompareOpKind::Gte => BinOpKind::Gte,
            CompareOpKind::In => BinOpKind::In,
            CompareOpKind::NotIn => return Ok(!operators::contains(right, left, &mut self.budget)?),
        };
        operators::apply(op, left, right, &mut self.budget)?.truth()
    }

    /// A new list or map, unless it nests too deeply.
    fn bounded(&mut self, made: PyValue) -> Result<PyValue, Stop> {
        made.at_most_deep(limits::RECURSION, &mut self.budget)?;
        Ok(made)
    }

    fn expressions(&mut self, items: &[Expr<'_>]) -> Result<Rc<[PyValue]>, Stop> {
        self.budget.make(items.len() * ITEM)?;
        let items: Result<Vec<_>, _> = items.iter().map(|item| self.expression(item)).collect();
        Ok(items?.into())
    }

    fn map(&mut self, keys: &[Expr<'_>], values: &[Expr<'_>]) -> Result<PyValue, Stop> {
        self.budget.make(keys.len() * ITEM)?;
        let mut entries: Vec<(Rc<str>, PyValue)> = Vec::new();
        for (key, value) in keys.iter().zip(values) {
            let name = match self.expression(key)? {
                PyValue::Str(name) => name,
                other => return Err(Stop::not_native(&format!("a map whose key is {}", other.kind()))),
            };
            let value = self.expression(value)?;
            self.budget.spend(1 + entries.len() as u64 / 8)?;
            match entries.iter_mut().find(|(known, _)| *known == name) {
                Some((_, old)) => *old = value,
                None => entries.push((name, value)),
            }
        }
        Ok(PyValue::Map(entries.into()))
    }

    /// The values of arguments.
    pub(super) fn arguments(&mut self, args: &[CallArg<'_>]) -> Result<Arguments, Stop> {
        let mut arguments = Arguments::default();
        for arg in args {
            match arg {
                CallArg::Pos(expr) => arguments.positional.push(self.expression(expr)?),
                CallArg::Kwarg(name, expr) => arguments.named.push(((*name).to_owned(), self.expression(expr)?)),
                CallArg::PosSplat(_) | CallArg::KwargSplat(_) => {
                    return Err(Stop::not_native("`*` before an argument"));
                }
            }
        }
        Ok(arguments)
    }
}

/// What was found in a value; where that is undefined and the value is not, it gets the name it was looked for by.
fn named(found: PyValue, within: &PyValue, expr: &Expr<'_>) -> PyValue {
    match (&found, within) {
        (_, PyValue::Undefined(_)) => found,
        (PyValue::Undefined(missing), _) if missing.message.is_empty() => {
            let name = dotted(expr).map_or_else(|| "this".to_owned(), |name| format!("`{name}`"));
            PyValue::undefined(format!("{name} is not defined"), missing.help.clone())
        }
        _ => found,
    }
}

/// An expression of names and keys, as one writes it.
fn dotted(expr: &Expr<'_>) -> Option<String> {
    match expr {
        Expr::Var(name) => Some(name.id.to_owned()),
        Expr::GetAttr(get) => Some(format!("{}.{}", dotted(&get.expr)?, get.name)),
        Expr::GetItem(get) => match &get.subscript_expr {
            Expr::Const(key) => Some(match key.value.as_str() {
                Some(name) => format!("{}.{name}", dotted(&get.expr)?),
                None => format!("{}[{}]", dotted(&get.expr)?, key.value),
            }),
            _ => None,
        },
        _ => None,
    }
}

/// What has no `else` was looked into.
pub(super) fn nothing() -> Stop {
    Stop::new(Code::Undefined, "the condition is false and there is no `else`", "add an `else`")
}

/// Whether an expression is the name `loop`.
pub(super) fn is_loop(expr: &Expr<'_>) -> bool {
    matches!(expr, Expr::Var(name) if name.id == "loop")
}

fn literal(value: &minijinja::Value) -> Result<PyValue, Stop> {
    Ok(match value.kind() {
        ValueKind::None => PyValue::None,
        ValueKind::Bool => PyValue::Bool(value.is_true()),
        ValueKind::String => PyValue::str(value.as_str().unwrap_or_default()),
        ValueKind::Number if value.is_integer() => {
            let number = i64::try_from(value.clone()).map_err(|_| Stop::not_native("a number beyond 64 bits"))?;
            PyValue::Int(number)
        }
        ValueKind::Number => PyValue::Float(f64::try_from(value.clone()).map_err(|_| Stop::not_native("this number"))?),
        _ => return Err(Stop::not_native("this literal")),
    })
}
