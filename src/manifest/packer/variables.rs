//! User variables: what a template declares, and what it is given for them.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use super::super::fault::{Fault, Source, Span, quoted};
use super::super::node::{Kind, Node};
use super::MOST_EXPANDED;
use super::engine::{Piece, Rendered, Scope, Trouble, render};
use crate::domain::value::Value;

/// The variables of one template, for one bundle.
#[derive(Debug, Default)]
pub(super) struct Variables<'n> {
    declared: HashMap<&'n str, Declared<'n>>,
    /// What is given from outside: for declared variables, and whatever the pipeline gives by name.
    given: HashMap<String, Rendered>,
    /// What the pipeline gives as environment.
    environment: HashMap<String, Rendered>,
    known: RefCell<HashMap<String, Result<Rendered, Trouble>>>,
    /// The variables whose values are being found, to see circles.
    open: RefCell<Vec<String>>,
    /// What expressions may still expand to, in bytes.
    room: Cell<usize>,
    /// Variables that are used and declared nowhere: packer takes them for empty.
    pub(super) undeclared: RefCell<Vec<String>>,
    /// Variables that are declared nowhere and used all the same, since the pipeline gives them.
    used: RefCell<Vec<String>>,
}

/// What variables are given from outside.
pub(super) struct Given<'g> {
    /// Their values; a later one wins.
    pub(super) values: Vec<(String, Rendered)>,
    /// Those that the pipeline gives: packer takes what it is given whether the template declares it or not.
    pub(super) by_pipeline: Vec<&'g str>,
    /// What the pipeline gives as environment.
    pub(super) environment: Vec<(String, Rendered)>,
}

#[derive(Debug)]
struct Declared<'n> {
    span: Span,
    value: Option<(&'n str, Span)>,
}

impl<'n> Variables<'n> {
    /// Reads `variables`, and puts in what is given for those that are declared.
    pub(super) fn read(
        source: &Source,
        node: Option<&'n Node>,
        given: Given<'_>,
        room: usize,
        faults: &mut Vec<Fault>,
    ) -> Self {
        let environment = given.environment.into_iter().collect();
        let mut variables = Self { environment, room: Cell::new(room), ..Self::default() };
        let entries = match node.map(|node| (&node.kind, node.span)) {
            None => &[][..],
            Some((Kind::Map(entries), _)) => entries.as_slice(),
            Some((_, span)) => {
                faults.push(source.fault(span, "wrong-type", "`variables` takes a map of texts"));
                &[]
            }
        };
        for (key, node) in entries {
            let value = match &node.kind {
                Kind::Scalar { value: Value::String(text), .. } => Some((text.as_str(), node.span)),
                Kind::Scalar { value: Value::Null, .. } => None,
                _ => {
                    let message = format!("the variable {} takes a text", quoted(&key.text));
                    let fault = source.fault(node.span, "wrong-type", message);
                    faults.push(fault.with_help("packer takes texts alone: put the value in double quotes"));
                    Some(("", node.span))
                }
            };
            variables.declared.insert(&key.text, Declared { span: key.span, value });
        }
        for (name, value) in given.values {
            if variables.declared.contains_key(name.as_str()) || given.by_pipeline.contains(&name.as_str()) {
                variables.given.insert(name, value);
            }
        }
        variables.check(source, faults);
        variables
    }

    /// Whether the template declares a variable.
    pub(super) fn declares(&self, name: &str) -> bool {
        self.declared.contains_key(name)
    }

    /// Whether the template declares a variable, or uses it.
    pub(super) fn is_known(&self, name: &str) -> bool {
        self.declares(name) || self.used.borrow().iter().any(|used| used == name)
    }

    /// What expressions may still expand to.
    pub(super) fn room(&self) -> usize {
        self.room.get()
    }

    /// Counts what an expression came to.
    pub(super) fn spend(&self, weight: usize, piece: &str) -> Result<(), Trouble> {
        let room = self.room.get();
        self.room.set(room.saturating_sub(weight));
        if weight < room {
            return Ok(());
        }
        let message = format!("the templates of a bundle expand to more than {} MiB", MOST_EXPANDED >> 20);
        let trouble = Trouble::new(piece, message, "use smaller values, or each of them less often");
        // Said where it happens, and not at all that comes after.
        Err(if room > 0 { trouble } else { Trouble { variable: Some(String::new()), ..trouble } })
    }

    /// What is wrong with the variables whoever uses them.
    fn check(&self, source: &Source, faults: &mut Vec<Fault>) {
        let mut names: Vec<(&str, &Declared<'_>)> = self.declared.iter().map(|(name, it)| (*name, it)).collect();
        names.sort_by_key(|(_, declared)| declared.span);
        for (name, declared) in names {
            if self.given.contains_key(name) {
                continue;
            }
            let Some((_, span)) = declared.value else {
                let message = format!("the variable {} has no value", quoted(name));
                let fault = source.fault(declared.span, "no-value", message);
                faults.push(fault.with_help(format!(
                    "give it one: a default instead of `null`, or `vars: {{ {name}: … }}` beside `packer:`"
                )));
                continue;
            };
            let Err(trouble) = self.value(name, true, "") else { continue };
            // A variable that uses this one says the same again.
            if trouble.variable.as_deref() == Some(name) {
                let fault = source.fault(source.locate(&trouble.piece, span), "template", trouble.message);
                faults.push(fault.with_help(trouble.help));
            }
        }
    }

    /// The value of a variable. One that is not declared is empty, as for packer, but not in another variable.
    pub(super) fn value(&self, name: &str, in_variable: bool, piece: &str) -> Result<Rendered, Trouble> {
        if let Some(known) = self.known.borrow().get(name) {
            return known.clone();
        }
        if let Some(given) = self.given.get(name) {
            if !self.declares(name) {
                self.used.borrow_mut().push(name.to_owned());
            }
            return Ok(given.clone());
        }
        let Some(declared) = self.declared.get(name) else {
            if in_variable {
                let help = "packer wants every variable declared that another variable uses";
                return Err(Trouble::new(piece, format!("no variable is called {}", quoted(name)), help));
            }
            self.undeclared.borrow_mut().push(name.to_owned());
            return Ok(Rendered::default());
        };
        if self.open.borrow().iter().any(|open| open == name) || self.open.borrow().len() > 100 {
            return Err(Trouble::new(piece, format!("the variable {} leads back to itself", quoted(name)), ""));
        }
        self.open.borrow_mut().push(name.to_owned());
        let text = declared.value.map_or("", |(text, _)| text);
        let value = render(text, Scope { variables: self, builder: None }).map_err(|trouble| {
            let variable = trouble.variable.or_else(|| Some(name.to_owned()));
            Trouble { variable, ..trouble }
        });
        self.open.borrow_mut().pop();
        self.known.borrow_mut().insert(name.to_owned(), value.clone());
        value
    }

    /// A variable of the environment: never the daemon's own.
    pub(super) fn environment(&self, name: &str) -> Rendered {
        if let Some(given) = self.environment.get(name) {
            return given.clone();
        }
        Rendered { pieces: vec![Piece::Env(name.to_owned())], origins: Vec::new() }
    }
}
