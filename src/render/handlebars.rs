//! `*.hbs`: handlebars in strict mode, writing text and not HTML.
//!
//! The variables are those of `*.j2`, worked out beforehand. Known are the helpers `if unless each with lookup raw`, the
//! comparisons `eq ne gt gte lt lte`, `and or not` and `len`; partials and decorators are refused, since they could
//! call themselves for ever. Only `if` and `unless` may ask for what does not exist. `each` goes through a map in the order of its keys.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::handlebars::template::TemplateElement;
use ::handlebars::{
    Context, Handlebars, Helper, HelperDef, HelperResult, JsonValue, Output, RenderContext, RenderError,
    RenderErrorReason, Template, TemplateError,
};

use super::jinja::{PyValue, Stop, decode, resolve_all};
use super::limits::{self, Budget};
use super::{Code, Variables};

/// How many `{{` a template may have: the parser keeps several records of each.
const TAGS: usize = 50_000;
/// The name under which the clock is read; it can't be written in a template.
const TICK: &str = "factoryd-tick";

/// Renders a template.
pub(super) fn render(content: &[u8], variables: &Variables, budget: Budget) -> Result<String, Stop> {
    let source = decode(content)?;
    check_source(source)?;
    let mut template = Template::compile(source).map_err(|error| syntax(&error))?;
    let mut tick = Template::compile(&format!("{{{{{TICK}}}}}")).map_err(|error| syntax(&error))?;
    instrument(&mut template, &mut tick, 0)?;

    let mut data = BTreeMap::new();
    let mut unusable = BTreeMap::new();
    for (name, value) in resolve_all(variables, budget.clone())? {
        match value {
            Ok(value) => drop(data.insert(name, json(&value))),
            Err(why) => drop(unusable.insert(name, why)),
        }
    }
    let meter = Meter::new(budget);
    let mut out = BoundedText { meter: meter.clone(), bytes: Vec::new() };
    let mut registry = Handlebars::new();
    registry.set_strict_mode(true);
    registry.register_escape_fn(handlebars::no_escape);
    registry.unregister_helper("log");
    registry.register_helper(TICK, Box::new(meter.clone()));
    registry.register_template("template", template);
    let done = registry.render_to_write("template", &data, &mut out);
    if let Some(stop) = meter.lock().stop.take() {
        return Err(stop);
    }
    done.map_err(|error| failure(&error, &unusable))?;
    String::from_utf8(out.bytes).map_err(|_| Stop::value("the result is not UTF-8"))
}

/// Bounds what the parser recurses on, before it does.
fn check_source(source: &str) -> Result<(), Stop> {
    let (mut rest, mut tags, mut blocks) = (source, 0, 0_usize);
    while let Some(start) = rest.find("{{") {
        let inside = &rest[start + 2..];
        let tag = &inside[..inside.find("}}").unwrap_or(inside.len())];
        let offset = source.len() - rest.len() + start;
        tags += 1;
        match tag.trim_start_matches(['{', '~', ' ']).bytes().next() {
            Some(b'#' | b'^') => blocks += 1,
            Some(b'/') => blocks = blocks.saturating_sub(1),
            _ => {}
        }
        let brackets = tag.bytes().filter(|byte| matches!(byte, b'(' | b'[' | b'{')).count();
        if tags > TAGS {
            return Err(limits::limit("the template has more than 50,000 expressions").at(offset));
        }
        if blocks > limits::RECURSION || brackets > limits::RECURSION {
            return Err(limits::limit("blocks or brackets nest deeper than 100 (recursion)").at(offset));
        }
        rest = &inside[tag.len()..];
    }
    Ok(())
}

/// Refuses partials and decorators, and has the clock read in every block's body.
fn instrument(template: &mut Template, tick: &mut Template, depth: usize) -> Result<(), Stop> {
    if depth > limits::RECURSION {
        return Err(limits::limit("blocks nest deeper than 100 (recursion)"));
    }
    for (at, element) in template.elements.iter_mut().enumerate() {
        match element {
            TemplateElement::HelperBlock(block) => {
                for body in [&mut block.template, &mut block.inverse].into_iter().flatten() {
                    instrument(body, tick, depth + 1)?;
                    body.elements.extend(tick.elements.iter().cloned());
                    body.mapping.extend(tick.mapping.iter().cloned());
                }
            }
            TemplateElement::PartialExpression(_)
            | TemplateElement::PartialBlock(_)
            | TemplateElement::DecoratorExpression(_)
            | TemplateElement::DecoratorBlock(_) => {
                let stop = Stop::new(Code::Syntax, "partials and decorators are not known", "write the text here");
                let place = template.mapping.get(at);
                return Err(place.map_or(stop.clone(), |place| stop.at_line(place.0, place.1)));
            }
            _ => {}
        }
    }
    Ok(())
}

fn json(value: &PyValue) -> JsonValue {
    match value {
        PyValue::Undefined(_) | PyValue::Nothing | PyValue::None => JsonValue::Null,
        PyValue::Bool(value) => JsonValue::from(*value),
        PyValue::Int(value) => JsonValue::from(*value),
        PyValue::Float(value) => JsonValue::from(*value),
        PyValue::Str(text) => JsonValue::from(&**text),
        PyValue::List(items) | PyValue::Tuple(items) => items.iter().map(json).collect(),
        PyValue::Map(entries) => entries.iter().map(|(key, value)| (key.to_string(), json(value))).collect(),
    }
}

fn syntax(error: &TemplateError) -> Stop {
    let (line, column) = error.pos().unwrap_or((1, 1));
    // The reason shows the place as a drawing over several lines; its last line says what was expected.
    let reason = error.reason().to_string();
    let last = reason.lines().rev().find_map(|line| line.trim().strip_prefix("= "));
    let last = last.or_else(|| reason.strip_prefix("invalid handlebars syntax: "));
    let message = match last {
        None => reason,
        Some(expected) if expected.contains("helper_block_end") => "a block is opened and not closed".to_owned(),
        Some(expected) => format!("this is no handlebars: {}", expected.replace('_', " ")),
    };
    Stop::new(Code::Syntax, message, "").at_line(line, column)
}

fn failure(error: &RenderError, unusable: &BTreeMap<String, String>) -> Stop {
    let stop = match error.reason() {
        RenderErrorReason::MissingVariable(name) => {
            let name = name.as_deref().unwrap_or("something here");
            let root = name.split(['.', '/', '[']).next().unwrap_or(name);
            let help = unusable.get(root).map_or("set it in the bundle's vars file", String::as_str);
            Stop::new(Code::Undefined, format!("`{name}` is not defined"), help)
        }
        RenderErrorReason::ParamNotFoundForIndex(helper, _) => {
            let message = format!("what `{helper}` is given is not defined");
            Stop::new(Code::Undefined, message, "only if and unless may ask for what does not exist")
        }
        RenderErrorReason::HelperNotFound(name) => {
            let help = "known are if, unless, each, with, lookup, raw, eq, ne, gt, gte, lt, lte, and, or, not, len";
            Stop::new(Code::Syntax, format!("there is no helper `{name}`"), help)
        }
        other => Stop::value(other.to_string()),
    };
    stop.at_line(error.line_no.unwrap_or(1), error.column_no.unwrap_or(1))
}

/// What is left of the budget, shared by the writer and the helper that reads the clock.
#[derive(Clone)]
struct Meter(Arc<Mutex<Metered>>);

struct Metered {
    budget: Budget,
    stop: Option<Stop>,
}

impl Meter {
    fn new(budget: Budget) -> Self {
        Self(Arc::new(Mutex::new(Metered { budget, stop: None })))
    }

    fn lock(&self) -> MutexGuard<'_, Metered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spend(&self, work: impl FnOnce(&mut Budget) -> Result<(), Stop>) -> io::Result<()> {
        let mut metered = self.lock();
        work(&mut metered.budget).map_err(|stop| {
            let message = stop.message.clone();
            metered.stop = Some(stop);
            io::Error::other(message)
        })
    }
}

impl HelperDef for Meter {
    fn call<'reg: 'rc, 'rc>(
        &self,
        _: &Helper<'rc>,
        _: &'reg Handlebars<'reg>,
        _: &'rc Context,
        _: &mut RenderContext<'reg, 'rc>,
        _: &mut dyn Output,
    ) -> HelperResult {
        Ok(self.spend(|budget| budget.spend(16))?)
    }
}

struct BoundedText {
    meter: Meter,
    bytes: Vec<u8>,
}

impl Write for BoundedText {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.meter.spend(|budget| budget.write(bytes.len()))?;
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
