//! Packer's JSON templates, read and not run: builders, variables and provisioners become the steps that do the same.
//!
//! ```text
//! file ──► json: keys with their places ──► variables, engine: {{ user `x` }} ──► keys: typed, loosely as packer's
//!            │                                                                      │
//!            ├── builders: which one, what it says of the machine ◄─────────────────┤
//!            └── provisioners: shell, file, ansible, ansible-local ─► steps ◄───────┘     others: refused by name
//! ```
//!
//! What is not understood is a fault at its key. Recipes of what packer 1.6.6 does were taken from its behaviour; where a
//! template says more than a step can do, that is a fault and never a warning.

mod ansible;
mod ansible_local;
mod builders;
mod conditions;
mod engine;
mod files;
mod functions;
mod json;
mod keys;
mod playbook;
mod provisioners;
mod refused;
mod root;
mod shell;
mod syntax;
mod templates;
mod times;
mod variables;

use std::sync::Arc;

use super::build_script;
use super::fault::{Fault, Source, Span, quoted};
use super::node::{Kind, Node};
use super::reader::Need;
use crate::domain::expression::Text;
use crate::domain::inputs::Input;
use crate::domain::path::RepoPath;
use crate::domain::pipeline::{Stage, Step};
use crate::domain::value::Value;
use builders::{Builder, TYPES};
use engine::{Origin, Piece, Rendered, Scope, render};
use keys::Reader;
use variables::{Given, Variables};

pub(super) use builders::Machine;
pub(super) use playbook::check as check_playbook;
pub(super) use templates::{NotRead, Templates, Used};

/// The most bytes of the templates of one bundle, with what their expressions expand to.
pub(super) const MOST_EXPANDED: usize = 8 << 20;

/// A template file, parsed and not yet read for a bundle.
#[derive(Debug)]
pub(super) struct Template {
    /// Where it lies.
    path: RepoPath,
    source: Arc<Source>,
    root: Option<Node>,
    faults: Vec<Fault>,
}

/// What a template is read for.
pub(super) struct Order<'a> {
    /// The bundle.
    pub(super) bundle: &'a RepoPath,
    /// What is known of it: `bundle` and `vars`.
    pub(super) scope: &'a Value,
    /// The builder that the pipeline or the vars name.
    pub(super) builder: Option<String>,
    /// What the pipeline gives for user variables.
    pub(super) variables: Vec<(String, Text)>,
    /// What the pipeline gives as environment.
    pub(super) environment: Vec<(String, Text)>,
    /// How much of [`MOST_EXPANDED`] is left, in bytes.
    pub(super) room: usize,
}

/// What a template says for one bundle.
#[derive(Debug, Default)]
pub(super) struct Expanded {
    /// Its provisioners.
    pub(super) steps: Vec<Step>,
    /// The files that they read.
    pub(super) needs: Vec<Need>,
    /// The values that count.
    pub(super) inputs: Vec<(Stage, Input)>,
    /// What its builder says of the machine.
    pub(super) machine: Machine,
    /// The playbooks that run on the host.
    pub(super) remotes: Vec<Remote>,
    /// What it took of the room, in bytes.
    pub(super) weight: usize,
    /// Whether the flavor of the vars has no effect, since the template does not declare the variable it is given by.
    pub(super) flavor_is_dead: bool,
    /// What is wrong.
    pub(super) faults: Vec<Fault>,
    /// What an author should know.
    pub(super) warnings: Vec<Fault>,
}

/// A playbook that a template runs on the host.
#[derive(Clone, Debug)]
pub(super) struct Remote {
    /// The playbook.
    pub(super) path: RepoPath,
    /// What the guest is called, and its groups; `None` where an inventory of the repository says it.
    pub(super) names: Option<Vec<String>>,
    /// Who names it: `images/build.packer.json:33`.
    pub(super) named_at: String,
}

impl Template {
    /// Parses a file.
    pub(super) fn parse(path: RepoPath, text: &str) -> Self {
        let source = Arc::new(Source::new(path.to_string(), text));
        let mut faults = Vec::new();
        let looks_like_hcl = !source.text().trim_start().starts_with(['{', '[']);
        let root = if looks_like_hcl && is_hcl(source.text()) {
            faults.push(hcl2(&path));
            None
        } else {
            json::load(&source, &mut faults)
        };
        Self { path, source, root, faults }
    }

    /// Reads it for a bundle.
    pub(super) fn expand(&self, order: &Order<'_>) -> Expanded {
        let mut expanded = Expanded { faults: self.faults.clone(), ..Expanded::default() };
        let Some(root) = &self.root else { return expanded };
        let Kind::Map(entries) = &root.kind else {
            expanded.faults.push(self.source.fault(root.span, "wrong-type", "a template is a map"));
            return expanded;
        };
        let Some(room) = order.room.checked_sub(self.source.text().len()) else {
            expanded.weight = order.room;
            let message = format!("the templates of a bundle are larger than {} MiB", MOST_EXPANDED >> 20);
            let fault = self.source.fault(root.span, "too-large", message);
            expanded.faults.push(fault.with_help("name each template once, or a smaller one"));
            return expanded;
        };
        root::check(&self.source, entries, &mut expanded.faults, &mut expanded.warnings);
        let variables = self.variables(root, (order, room), &mut expanded);
        let mut builders = self.builders(root, &mut expanded);
        self.call(&mut builders, &variables, &mut expanded);
        let chosen = self.chosen(root, &builders, order, &mut expanded);
        let names: Vec<String> = builders.iter().map(|builder| builder.name.clone()).collect();
        let directory = self.path.parent();
        let (called, kind) = chosen.map_or(("", ""), |builder| (builder.called.as_str(), builder.kind));
        let scope = Scope { variables: &variables, builder: Some((called, kind)) };
        let mut reader = Reader {
            source: &self.source,
            scope,
            builder: chosen.map_or("", |builder| builder.name.as_str()),
            directory: &directory,
            bundle: order.bundle,
            label: String::new(),
            faults: std::mem::take(&mut expanded.faults),
            troubles: 0,
            warnings: std::mem::take(&mut expanded.warnings),
            needs: Vec::new(),
            inputs: Vec::new(),
            said: Vec::new(),
        };
        if let Some(builder) = chosen.filter(|builder| TYPES.contains(&builder.kind)) {
            expanded.machine = builders::read(&mut reader, builder);
        }
        let boot = std::mem::take(&mut reader.inputs);
        if let Some(builder) = chosen {
            reader.inputs.push(Input::value("packer builder", format!("{} {}", builder.called, builder.kind)));
        }
        let (steps, remotes) = provisioners::read(&mut reader, section(root, "provisioners"), &names);
        expanded.steps = steps;
        self.rest(&mut reader, root, &names);
        self.undeclared(&mut reader, &variables);
        self.unused(&mut reader, root, order, &variables);
        let named_at = |remote: provisioners::Remote| Remote {
            path: remote.path,
            names: remote.names,
            named_at: format!("{}:{}", self.source.name(), remote.span.line),
        };
        expanded.weight = order.room - variables.room();
        expanded.remotes = remotes.into_iter().map(named_at).collect();
        expanded.inputs = boot.into_iter().map(|input| (Stage::Boot, input)).collect();
        expanded.inputs.extend(reader.inputs.into_iter().map(|input| (Stage::Provision, input)));
        (expanded.needs, expanded.warnings, expanded.faults) = (reader.needs, reader.warnings, reader.faults);
        super::fault::in_order(&mut expanded.faults);
        expanded
    }

    fn variables<'n>(
        &self,
        root: &'n Node,
        (order, room): (&Order<'_>, usize),
        expanded: &mut Expanded,
    ) -> Variables<'n> {
        let mut given = todays(&self.path.parent(), order);
        let from_pipeline = |(name, text): &(String, Text)| {
            let piece = Piece::Given(format!("pipeline {name}"), text.clone());
            (name.clone(), Rendered { pieces: vec![piece], origins: Vec::new() })
        };
        let flavor = if is_os(&self.path.parent()) { "build_flavor" } else { "factory_flavor" };
        given.extend(order.variables.iter().map(from_pipeline));
        let environment = order.environment.iter().map(from_pipeline).collect();
        let node = section(root, "variables");
        let by_pipeline = order.variables.iter().map(|(name, _)| name.as_str()).collect();
        let given = Given { values: given, by_pipeline, environment };
        let variables = Variables::read(&self.source, node, given, room, &mut expanded.faults);
        let has_flavor = order.scope.get("vars").is_some_and(|vars| vars.get("vm_flavor").is_some());
        expanded.flavor_is_dead = has_flavor && !variables.declares(flavor);
        variables
    }

    fn builders<'n>(&self, root: &'n Node, expanded: &mut Expanded) -> Vec<Builder<'n>> {
        let Some(node) = section(root, "builders") else {
            let fault = self.source.fault(root.span, "missing-key", "the template lacks `builders`");
            expanded.faults.push(fault.with_help("it names one builder: `openstack` or `qemu`"));
            return Vec::new();
        };
        builders::all(node, |span, code, message, help| {
            expanded.faults.push(self.source.fault(span, code, message).with_help(help));
        })
    }

    /// Evaluates the names of builders.
    fn call(&self, builders: &mut [Builder<'_>], variables: &Variables<'_>, expanded: &mut Expanded) {
        for builder in builders.iter_mut().filter(|builder| builder.name.contains("{{")) {
            let span = builder.node.get("name").map_or(builder.node.span, |node| node.span);
            let called = render(&builder.name, Scope { variables, builder: Some(("", builder.kind)) });
            match called.map(|called| called.text()) {
                Ok(Ok(text)) if !text.is_open() => builder.called = text.to_string(),
                Ok(Ok(_)) => {
                    let fault = self.source.fault(span, "late-expression", "a builder's name must be known beforehand");
                    expanded.faults.push(fault.with_help("`name` can't hold what changes from build to build"));
                }
                Ok(Err((why, help))) => {
                    expanded.faults.push(self.source.fault(span, "template", why).with_help(help));
                }
                // What is wrong in a variable is said at the variable.
                Err(trouble) if trouble.variable.is_none() => {
                    expanded.faults.push(self.source.fault(span, "template", trouble.message).with_help(trouble.help));
                }
                Err(_) => {}
            }
        }
    }

    /// The builder to be read: the only one, or the one that is named.
    fn chosen<'b, 'n>(
        &self,
        root: &Node,
        builders: &'b [Builder<'n>],
        order: &Order<'_>,
        expanded: &mut Expanded,
    ) -> Option<&'b Builder<'n>> {
        let span = section(root, "builders").map_or(root.span, |node| node.span);
        let names = builders.iter().map(|builder| builder.called.as_str()).collect::<Vec<_>>().join(", ");
        let chosen = match (&order.builder, builders) {
            (Some(wanted), _) => {
                let found = builders.iter().find(|builder| builder.called == *wanted || builder.name == *wanted);
                if found.is_none() && !builders.is_empty() {
                    let message = format!("the template has no builder called {}", quoted(wanted));
                    let fault = self.source.fault(span, "unknown-builder", message);
                    expanded.faults.push(fault.with_help(format!("its builders are {names}")));
                    return builders.first();
                }
                found?
            }
            (None, []) => {
                if expanded.faults.is_empty() {
                    expanded.faults.push(self.source.fault(span, "missing-key", "`builders` is empty"));
                }
                return None;
            }
            (None, [one]) => one,
            (None, several) => {
                let message = format!("the template has {} builders, and none of them is named", several.len());
                let fault = self.source.fault(root_key(root, "builders").unwrap_or(span), "several-builders", message);
                let help = format!(
                    "name one of {names}: `packer_builder: …` in the bundle's vars, or `- packer: {{ file: …, builder: … \
                     }}` in a pipeline"
                );
                expanded.faults.push(fault.with_help(help));
                // What else is wrong is said for one that could be meant.
                return several.iter().find(|builder| TYPES.contains(&builder.kind)).or(several.first());
            }
        };
        if !TYPES.contains(&chosen.kind) {
            let span = chosen.node.get("type").map_or(chosen.node.span, |node| node.span);
            let message = format!("the builder {} is not understood", quoted(chosen.kind));
            let fault = self.source.fault(span, "unsupported-builder", message);
            expanded
                .faults
                .push(fault.with_help("machines are made by factoryd's own drivers: say `openstack` or `qemu`"));
        }
        Some(chosen)
    }

    /// What of the root has an effect besides.
    fn rest(&self, reader: &mut Reader<'_>, root: &Node, names: &[String]) {
        if let Some(node) = section(root, "post-processors") {
            refused::post_processors(reader, node, names);
        }
        if let Some(span) = section(root, "error-cleanup-provisioner").and(root_key(root, "error-cleanup-provisioner"))
        {
            let help = "a failed build's machine is removed, and its log and console are archived";
            reader.fault(span, "unsupported-key", "`error-cleanup-provisioner` is not understood", help);
        }
        let hides = |node: &Node| matches!(&node.kind, Kind::List(items) if !items.is_empty());
        if let Some(span) = section(root, "sensitive-variables").filter(|node| hides(node)).map(|node| node.span) {
            let help = "secrets come from the configuration, by `secrets:` of a host step";
            reader.warning(span, "sensitive-variables", "the values of `sensitive-variables` stand in the log", help);
        }
    }

    fn undeclared(&self, reader: &mut Reader<'_>, variables: &Variables<'_>) {
        let mut names = variables.undeclared.borrow().clone();
        names.sort();
        names.dedup();
        for name in names {
            let start = Span { line: 1, column: 1, length: 1 };
            let span = self.source.locate(&format!("`{name}`"), start);
            let message = format!("no variable is called {}", quoted(&name));
            reader.warning(span, "undeclared-variable", message, "packer takes it for empty, and so it is taken here");
        }
    }

    /// Says what the pipeline gives, and the template neither declares nor uses.
    fn unused(&self, reader: &mut Reader<'_>, root: &Node, order: &Order<'_>, variables: &Variables<'_>) {
        let span = section(root, "variables").map(|node| node.span).unwrap_or_default();
        for (name, _) in order.variables.iter().filter(|(name, _)| !variables.is_known(name)) {
            let message = format!("the pipeline gives the variable {}, which the template does not use", quoted(name));
            reader.warning(span, "undeclared-variable", message, "it changes nothing: take it out, or use it");
        }
    }
}

/// A key of the root and its value. Names are told apart as packer does, without regard to case; `null` is nothing.
fn root_entry<'n>(root: &'n Node, name: &str) -> Option<&'n (super::node::Key, Node)> {
    let Kind::Map(entries) = &root.kind else { return None };
    let found = entries.iter().find(|(key, _)| key.text.eq_ignore_ascii_case(name));
    found.filter(|(_, node)| !matches!(node.kind, Kind::Scalar { value: Value::Null, .. }))
}

fn section<'n>(root: &'n Node, name: &str) -> Option<&'n Node> {
    root_entry(root, name).map(|(_, node)| node)
}

fn root_key(root: &Node, name: &str) -> Option<Span> {
    root_entry(root, name).map(|(key, _)| key.span)
}

fn is_os(directory: &RepoPath) -> bool {
    directory.parts().next() == Some(b"os")
}

/// The variables that today's piloting playbook passes.
fn todays(directory: &RepoPath, order: &Order<'_>) -> Vec<(String, Rendered)> {
    let (scope, mut given) = (order.scope, Vec::new());
    let mut give = |variable: &str, text: Text, origins: Vec<Origin>| {
        let pieces = vec![Piece::Given(variable.to_owned(), text)];
        given.push((variable.to_owned(), Rendered { pieces, origins }));
    };
    let value = |root: &str, name: &str| {
        let value = scope.get(root)?.get(name)?;
        let origin = Origin::Value(Input::value(format!("{root}.{name}"), value.canonical()));
        Some((value.to_string(), origin))
    };
    let path = relative(directory, order.bundle);
    let counted = Input::value("bundle.path", Value::String(path.clone()).canonical());
    give("bundle_path", Text::literal(path), vec![Origin::BundlePath(counted)]);
    if let Some((image, origin)) = value("bundle", "img_base") {
        give("source_image", Text::literal(image), vec![origin]);
    }
    let by_script = scope.get("vars").and_then(build_script::image_name);
    if let Some((name, origin)) = value("vars", "bundle_target_name") {
        give("image_name", Text::literal(name), vec![origin]);
    } else if let Some((name, input)) = by_script {
        give("image_name", name, vec![Origin::Value(input)]);
    } else if let Some((name, origin)) = value("bundle", "name") {
        let stamp = Text::parse("{{ build.stamp }}").unwrap_or_else(|_| Text::literal(""));
        give("image_name", Text::concat([Text::literal(format!("{name}-")), stamp]), vec![origin]);
    }
    let flavor = if is_os(directory) { "build_flavor" } else { "factory_flavor" };
    match value("vars", "vm_flavor") {
        Some((text, origin)) => give(flavor, Text::literal(text), vec![origin]),
        None => given.push((flavor.to_owned(), Rendered::literal("16"))),
    }
    given
}

/// The way from one directory to another.
fn relative(from: &RepoPath, to: &RepoPath) -> String {
    let (from, to): (Vec<&[u8]>, Vec<&[u8]>) = (from.parts().collect(), to.parts().collect());
    let common = from.iter().zip(&to).take_while(|(one, other)| one == other).count();
    let up = std::iter::repeat_n("..".to_owned(), from.len() - common);
    let down = to[common..].iter().map(|part| String::from_utf8_lossy(part).into_owned());
    let parts: Vec<String> = up.chain(down).collect();
    if parts.is_empty() { ".".to_owned() } else { parts.join("/") }
}

/// Whether a text that is no JSON is of packer's newer language.
fn is_hcl(text: &str) -> bool {
    let words = ["packer", "source", "build", "variable", "locals", "data"];
    text.lines().any(|line| {
        let (word, rest) = line.split_once([' ', '{', '"']).unwrap_or((line, ""));
        words.contains(&word) && (rest.contains('{') || line.contains('{'))
    })
}

/// The fault of a template in packer's newer language.
fn hcl2(path: &RepoPath) -> Fault {
    let fault = Fault::new(
        &path.to_string(),
        Span::default(),
        "hcl2",
        format!("`{path}` is written in HCL2, which is not understood"),
    );
    fault.with_help(
        "JSON templates are read; or write its provisioners as steps of a pipeline: shell, script, upload, ansible",
    )
}

#[cfg(test)]
mod tests;
