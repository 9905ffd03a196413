//! What is worked out of literals alone: Jinja2 does that before it renders.

use minijinja::machinery::ast::{CallArg, Expr};

/// Whether something is worked out of literals alone, and could be undefined. Where Jinja2 asks whether such a thing is
/// true, or what its text is, it does so before it renders; if it is undefined then, Ansible gives the template as it is.
pub(super) fn may_be_undefined(expr: &Expr<'_>) -> bool {
    looked_up(expr) && literals(expr)
}

fn literals(expr: &Expr<'_>) -> bool {
    let arguments = |args: &[CallArg<'_>]| {
        args.iter().all(|arg| matches!(arg, CallArg::Pos(expr) | CallArg::Kwarg(_, expr) if literals(expr)))
    };
    match expr {
        Expr::Const(_) => true,
        Expr::Var(_) | Expr::Call(_) => false,
        Expr::GetAttr(get) => literals(&get.expr),
        Expr::GetItem(get) => literals(&get.expr) && literals(&get.subscript_expr),
        Expr::Slice(slice) => literals(&slice.expr),
        Expr::UnaryOp(unary) => literals(&unary.expr),
        Expr::BinOp(binary) => literals(&binary.left) && literals(&binary.right),
        Expr::Compare(compare) => literals(&compare.expr),
        Expr::IfExpr(choice) => literals(&choice.test_expr),
        Expr::List(list) => list.items.iter().all(literals),
        Expr::Tuple(tuple) => tuple.items.iter().all(literals),
        Expr::Map(map) => map.keys.iter().chain(&map.values).all(literals),
        Expr::Filter(filter) => filter.expr.as_ref().is_none_or(literals) && arguments(&filter.args),
        Expr::Test(test) => literals(&test.expr) && arguments(&test.args),
    }
}

fn looked_up(expr: &Expr<'_>) -> bool {
    match expr {
        Expr::GetAttr(_) | Expr::GetItem(_) => true,
        Expr::Filter(filter) => ["first", "last", "min", "max", "default", "d", "ternary"].contains(&filter.name),
        Expr::IfExpr(choice) => looked_up(&choice.true_expr) || choice.false_expr.as_ref().is_some_and(looked_up),
        Expr::BinOp(binary) => looked_up(&binary.left) || looked_up(&binary.right),
        _ => false,
    }
}
