//! The vars of a bundle, and the scope in which its pipeline's expressions are filled in.

use super::fault::{Fault, Source, Span};
use super::hints;
use super::node::{Kind, Node};
use super::yaml;
use crate::domain::id::RepoName;
use crate::domain::path::RepoPath;
use crate::domain::value::Value;

/// The vars of one bundle.
#[derive(Debug)]
pub(super) struct Vars {
    /// The values.
    pub(super) value: Value,
    /// What an author should know, though it can be built.
    pub(super) warnings: Vec<Fault>,
    source: Source,
    root: Node,
}

impl Vars {
    /// A fault at a key of the file, if it has that key.
    pub(super) fn fault(&self, key: &str, code: &'static str, message: impl AsRef<str>) -> Option<Fault> {
        let Kind::Map(entries) = &self.root.kind else { return None };
        let (key, _) = entries.iter().find(|(known, _)| known.text == key)?;
        Some(self.source.fault(key.span, code, message))
    }

    /// A fault at the key that a path of keys leads to: at the last of them that is there, else at the file's beginning.
    pub(super) fn at(&self, path: &[&str], code: &'static str, message: impl AsRef<str>) -> Fault {
        let mut span = Span { line: 1, column: 1, length: 1 };
        let mut node = Some(&self.root);
        for name in path {
            let Some(Kind::Map(entries)) = node.map(|node| &node.kind) else { break };
            let found = entries.iter().find(|(key, _)| key.text == *name);
            span = found.map_or(span, |(key, _)| key.span);
            node = found.map(|(_, value)| value);
        }
        self.source.fault(span, code, message)
    }

    /// A fault of what `bundle` lacks or has wrong: at the key, else at `bundle`, else at the file's beginning.
    pub(super) fn wanting(&self, message: &str) -> Option<Fault> {
        let name = message.strip_prefix("`bundle")?.split('`').next()?.trim_start_matches('.');
        let start = Span { line: 1, column: 1, length: 1 };
        let place = |node: &Node, name: &str| match &node.kind {
            Kind::Map(entries) => entries.iter().find(|(key, _)| key.text == name).map(|(key, _)| key.span),
            _ => None,
        };
        let inner = self.root.get("bundle").and_then(|bundle| place(bundle, name));
        let span = inner.or_else(|| place(&self.root, "bundle")).unwrap_or(start);
        Some(self.source.fault(span, "expression", message))
    }
}

/// Reads the text of a vars file as the vars of a bundle. `file` is its name for the faults.
///
/// # Errors
/// All faults of the file.
pub fn read_vars(file: &str, bundle: &RepoPath, text: &str) -> Result<Value, Vec<Fault>> {
    read(file, bundle, text).map(|vars| vars.value)
}

/// Reads a vars file. `file` is its name for the faults, `bundle` the directory it belongs to.
///
/// # Errors
/// All faults of the file.
pub(super) fn read(file: &str, bundle: &RepoPath, text: &str) -> Result<Vars, Vec<Fault>> {
    let source = Source::new(file, text);
    let mut faults = Vec::new();
    let root = yaml::load(&source, &mut faults);
    if let Some(root) = &root {
        faults.extend(not_a_map(&source, root, "the vars"));
        faults.extend(root.get("bundle").and_then(|node| not_a_map(&source, node, "`bundle`")));
        let properties = root.get("bundle").and_then(|bundle| bundle.get("properties"));
        faults.extend(properties.and_then(|node| not_a_map(&source, node, "`properties`")));
    }
    match root {
        Some(root) if faults.is_empty() => {
            let warnings = name_differs(&source, &root, bundle).into_iter().collect();
            let value = if is_nothing(&root) { Value::Map(Vec::new()) } else { root.value() };
            Ok(Vars { value, warnings, source, root })
        }
        _ => {
            super::fault::in_order(&mut faults);
            Err(faults)
        }
    }
}

/// What keeping vars costs, in bytes of the budget: they stay in memory for two readings, and there a short value takes
/// far more than in its file. Measured: half a million short values make the daemon 190 MB large.
pub(super) fn kept(value: &Value) -> usize {
    const EACH: usize = 256;
    let below = match value {
        Value::String(text) => 2 * text.len(),
        Value::List(items) => items.iter().map(kept).sum(),
        Value::Map(entries) => entries.iter().map(|(key, value)| 2 * key.len() + kept(value)).sum(),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) => 0,
    };
    EACH + below
}

/// What a pipeline's expressions see: `bundle`, `vars` and `repository`. A bundle without properties has none, as today.
pub(super) fn scope(vars: &Value, repository: &RepoName) -> Value {
    let mut scope = vec![
        ("vars".to_owned(), vars.clone()),
        ("repository".to_owned(), Value::Map(vec![("name".to_owned(), Value::from(repository.as_str()))])),
    ];
    if let Some(bundle) = vars.get("bundle") {
        let mut bundle = bundle.clone();
        if let Value::Map(entries) = &mut bundle {
            entries.retain(|(key, value)| key != "properties" || *value != Value::Null);
            if !entries.iter().any(|(key, _)| key == "properties") {
                entries.push(("properties".to_owned(), Value::Map(Vec::new())));
            }
        }
        scope.push(("bundle".to_owned(), bundle));
    }
    Value::Map(scope)
}

/// What the vars call the bundle: `bundle.path`, else `bundle.name`, where that is a text.
pub(super) fn called(scope: &Value) -> Option<String> {
    let bundle = scope.get("bundle")?;
    match bundle.get("path").or_else(|| bundle.get("name"))? {
        Value::String(name) => Some(name.clone()),
        _ => None,
    }
}

fn is_nothing(node: &Node) -> bool {
    matches!(node.kind, Kind::Scalar { value: Value::Null, .. })
}

fn not_a_map(source: &Source, node: &Node, what: &str) -> Option<Fault> {
    if matches!(node.kind, Kind::Map(_)) || is_nothing(node) {
        return None;
    }
    let fault =
        source.fault(node.span, "wrong-type", format!("{what} must be a map, and this is {}", node.value().kind()));
    let meant = node.text().and_then(hints::meant).map(|meant| format!("did you mean `{meant}`?"));
    Some(fault.with_hint(meant.unwrap_or_default()).with_help("a key is followed by `:` and a space"))
}

/// A bundle is known by its directory; its name is only how its images' names begin.
fn name_differs(source: &Source, root: &Node, bundle: &RepoPath) -> Option<Fault> {
    let (node, path) = (root.get("bundle")?.get("name")?, root.get("bundle")?.get("path").and_then(Node::text));
    let (name, directory) = (node.text()?, std::str::from_utf8(bundle.name()).ok()?);
    // An image of an operating system has its path beside its name, and images are called by neither.
    if name == directory || path == Some(directory) {
        return None;
    }
    let message = format!("`bundle.name` is `{name}`, and the directory is `{directory}`");
    let help = "the bundle is known by its directory; the name is only the beginning of its images' names";
    Some(source.fault(Span { ..node.span }, "name-differs", message).with_help(help))
}
