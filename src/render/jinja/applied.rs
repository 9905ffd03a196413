//! What is applied to values: calls, filters and tests that are known, and arguments that they take.

use std::collections::HashSet;

use minijinja::machinery::ast::{Call, CallArg, Expr};

use super::Stop;
use super::checks::TESTS;
use super::evaluate::offset;
use super::filters::{FILTERS, OPEN};
use super::picks::PICKS;
use super::recognise::{Checker, FOREIGN, Kind};

impl Checker<'_> {
    /// A call of a macro or of its `caller`.
    pub(super) fn called(&mut self, call: &Call<'_>) -> Result<(), Stop> {
        let Expr::Var(name) = &call.expr else { return Err(Stop::not_native("this call")) };
        match (name.id, self.within.last().copied()) {
            ("caller", Some(Some(place))) => drop(self.calls_back.insert(place)),
            ("range", _) if !self.macros.contains("range") => {
                return Err(Stop::not_native("`range()` anywhere but in a loop"));
            }
            (other, _) if self.macros.contains(other) => self.use_name(other),
            (other, _) => return Err(Stop::not_native(&format!("`{other}()`")).with_help(FOREIGN)),
        }
        self.any_arguments(&call.args)
    }

    /// Arguments of which any may have a name.
    pub(super) fn any_arguments(&mut self, args: &[CallArg<'_>]) -> Result<(), Stop> {
        let names = args.iter().filter_map(|arg| if let CallArg::Kwarg(name, _) = arg { Some(*name) } else { None });
        let names: Vec<&str> = names.filter(|name| *name != "caller").collect();
        let many = args.iter().map(|_| "").chain(names).collect::<Vec<_>>();
        self.arguments(args, &many)
    }

    /// A test, by its name.
    pub(super) fn tested(&mut self, name: &str, args: &[CallArg<'_>]) -> Result<(), Stop> {
        let Some((_, names)) = TESTS.iter().find(|(known, _)| *known == name) else {
            return Err(Stop::not_native(&format!("the test `{name}`")));
        };
        if args.len() > names.len() {
            return Err(Stop::not_native(&format!("the test `{name}` with so many arguments")));
        }
        self.arguments(args, names)
    }

    /// `map`, `select` and their like: what they apply must be written down.
    fn pick(&mut self, name: &str, args: &[CallArg<'_>]) -> Result<(), Stop> {
        let text = |arg: &CallArg<'_>| match arg {
            CallArg::Pos(Expr::Const(constant)) => constant.value.as_str().map(str::to_owned),
            _ => None,
        };
        let attribute = usize::from(name.ends_with("attr"));
        let rest = args.get(attribute..).unwrap_or_default();
        self.arguments(args.get(..attribute).unwrap_or_default(), &["attribute"])?;
        match (name, rest.split_first().map(|(first, rest)| (text(first), rest))) {
            ("map", Some((Some(filter), rest))) if !PICKS.contains(&filter.as_str()) => {
                self.filter(&filter, None, rest)
            }
            ("map", Some((None, _))) if matches!(rest.first(), Some(CallArg::Kwarg(..))) => {
                self.arguments(rest, &["attribute", "default"])
            }
            ("map", _) => Err(Stop::not_native("`map` of what is not written down")),
            (_, Some((Some(test), rest))) => self.tested(&test, rest),
            (_, None) => Ok(()),
            _ => Err(Stop::not_native(&format!("`{name}` by what is not written down"))),
        }
    }

    /// A filter; `operand` is what it is applied to, where that is written beside it.
    pub(super) fn filter(&mut self, name: &str, operand: Option<&Expr<'_>>, args: &[CallArg<'_>]) -> Result<(), Stop> {
        if PICKS.contains(&name) {
            operand.map_or(Ok(()), |operand| self.iterated(operand))?;
            return self.pick(name, args);
        }
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
        let open = OPEN.contains(&name);
        if args.len() > names.len() && !open {
            return Err(Stop::not_native(&format!("`{name}` with so many arguments")));
        }
        if let Some(operand) = operand {
            match name {
                "list" | "join" | "sort" | "length" | "count" => self.iterated(operand)?,
                _ => self.expression(operand)?,
            }
        }
        // Of those that take any number of arguments, none has both a place and a name.
        let places: Vec<&str> = args.iter().filter(|_| open).map(|_| "").chain(names.iter().copied()).collect();
        self.arguments(args, &places).map_err(|mut stop| {
            stop.message = stop.message.replace("this argument", &format!("this argument of `{name}`"));
            stop
        })
    }

    /// Arguments that have these names, in order.
    pub(super) fn arguments(&mut self, args: &[CallArg<'_>], names: &[&str]) -> Result<(), Stop> {
        let mut given = HashSet::new();
        for (place, arg) in args.iter().enumerate() {
            let (name, expr) = match arg {
                CallArg::Pos(expr) => (names.get(place).copied(), expr),
                CallArg::Kwarg(name, expr) if names.contains(name) => (Some(*name), expr),
                CallArg::Kwarg(_, expr) | CallArg::PosSplat(expr) | CallArg::KwargSplat(expr) => {
                    return Err(Stop::not_native("this argument").at(offset(expr)));
                }
            };
            if name.is_some_and(|name| !name.is_empty() && !given.insert(name)) {
                return Err(Stop::not_native("this argument").at(offset(expr)));
            }
            self.expression(expr)?;
        }
        Ok(())
    }
}
