//! The provisioners of a template, each turned into the steps that do the same.

use std::time::Duration;

use super::super::fault::{Span, quoted};
use super::super::node::{Key, Kind, Node};
use super::keys::{Keys, Reader};
use super::{ansible, ansible_local, files, refused, shell};
use crate::domain::pipeline::{Action, Course, Step};
use crate::domain::value::Value;

/// The keys that every provisioner has.
const COMMON: [&str; 7] = ["type", "only", "except", "override", "pause_before", "max_retries", "timeout"];

/// Those of them that packer itself reads, before `override` is looked at: the provisioner does not know them there.
const BEFORE_OVERRIDE: [&str; 6] = ["only", "except", "override", "pause_before", "max_retries", "timeout"];

/// A playbook that runs on the host: whom it is for must be looked at.
#[derive(Clone, Debug)]
pub(super) struct Remote {
    /// The playbook, from the repository's root.
    pub(super) path: crate::domain::path::RepoPath,
    /// Where the template names it.
    pub(super) span: Span,
    /// What the guest is called; `None` where an inventory of the repository says it.
    pub(super) names: Option<Vec<String>>,
}

/// What one action needs to become a step.
pub(super) struct Made {
    /// What it does.
    pub(super) action: Action,
    /// The line of the template that it came from; `None` is the provisioner's.
    pub(super) line: Option<usize>,
}

/// What a kind of provisioner gives.
#[derive(Default)]
pub(super) struct Gives {
    /// Its actions, in order.
    pub(super) made: Vec<Made>,
    /// How each of them goes.
    pub(super) course: Course,
    /// The variables of their environment.
    pub(super) env: Vec<(String, crate::domain::expression::Text)>,
    /// The playbook, where it runs on the host.
    pub(super) remote: Option<Remote>,
}

/// All provisioners in order, for one builder.
pub(super) fn read(reader: &mut Reader<'_>, node: Option<&Node>, builders: &[String]) -> (Vec<Step>, Vec<Remote>) {
    let Some(node) = node else { return (Vec::new(), Vec::new()) };
    let Kind::List(items) = &node.kind else {
        reader.fault(node.span, "wrong-type", "`provisioners` takes a list of maps", "");
        return (Vec::new(), Vec::new());
    };
    let (mut steps, mut remotes) = (Vec::new(), Vec::new());
    let mut number = 0;
    for item in items {
        let Some((kind, keys)) = keys(reader, item, builders) else { continue };
        number += 1;
        reader.label = format!("packer provisioner {number}");
        let gives = one(reader, &kind, &keys);
        remotes.extend(gives.remote.clone());
        steps.extend(into_steps(reader, &keys, gives));
    }
    (steps, remotes)
}

/// A provisioner's type and keys; `None` where it is not for this builder, or can't be read.
fn keys(reader: &mut Reader<'_>, item: &Node, builders: &[String]) -> Option<(String, Keys)> {
    let Kind::Map(entries) = &item.kind else {
        reader.wrong(item.span, "provisioners", "maps such as { \"type\": \"shell\" }", item);
        return None;
    };
    let Some(kind) = item.get("type").and_then(Node::text).filter(|kind| !kind.is_empty()) else {
        reader.fault(
            item.span,
            "missing-key",
            "a provisioner lacks `type`",
            "it says what it does: shell, file, ansible",
        );
        return None;
    };
    let what = format!("the provisioner {}", quoted(kind));
    let mut keys = Keys { what, span: item.span, entries: entries.clone() };
    let skipped = is_skipped(reader, &keys, builders);
    override_with(reader, &mut keys, builders);
    (!skipped).then(|| (kind.to_owned(), keys))
}

/// Whether `only` and `except` leave the builder out.
fn is_skipped(reader: &mut Reader<'_>, keys: &Keys, builders: &[String]) -> bool {
    let only = names(reader, keys, "only", builders);
    let except = names(reader, keys, "except", builders);
    if let (Some(only), Some(_)) = (&only, keys.get("except"))
        && !only.is_empty()
        && except.as_ref().is_some_and(|except| !except.is_empty())
    {
        let span = keys.place("except");
        reader.fault(span, "only-and-except", "`only` and `except` can't stand together", "take one of them out");
    }
    let builder = reader.builder;
    match (only, except) {
        (Some(only), _) if !only.is_empty() => !only.iter().any(|name| name == builder),
        (_, Some(except)) => except.iter().any(|name| name == builder),
        _ => false,
    }
}

/// Names of builders; one that the template does not have is a fault, as for packer.
pub(super) fn names(reader: &mut Reader<'_>, keys: &Keys, name: &str, builders: &[String]) -> Option<Vec<String>> {
    let (_, node) = keys.get(name)?;
    let items: Vec<&Node> = if let Kind::List(items) = &node.kind { items.iter().collect() } else { vec![node] };
    let mut found = Vec::new();
    for item in items {
        let Some(text) = item.text() else {
            reader.wrong(item.span, name, "names of builders", item);
            continue;
        };
        if !builders.iter().any(|builder| builder == text) {
            let help = format!("its builders are {}", builders.join(", "));
            let message = format!("`{name}` names the builder {}, which the template does not have", quoted(text));
            reader.fault(item.span, "unknown-builder", message, help);
        }
        found.push(text.to_owned());
    }
    Some(found)
}

/// Puts the keys of `override` for the builder over the provisioner's own: lists item by item, as packer does.
fn override_with(reader: &mut Reader<'_>, keys: &mut Keys, builders: &[String]) {
    let Some((_, node)) = keys.get("override").cloned() else { return };
    let Kind::Map(entries) = &node.kind else {
        return reader.wrong(node.span, "override", "a map of builders", &node);
    };
    for (key, value) in entries {
        if !builders.contains(&key.text) {
            let message =
                format!("`override` names the builder {}, which the template does not have", quoted(&key.text));
            reader.fault(key.span, "unknown-builder", message, format!("its builders are {}", builders.join(", ")));
        }
        let Kind::Map(over) = &value.kind else {
            reader.wrong(value.span, &key.text, "a map of keys", value);
            continue;
        };
        if reader.builder != key.text {
            continue;
        }
        for (key, node) in over {
            if BEFORE_OVERRIDE.contains(&key.text.as_str()) {
                let message = format!("{} can't stand in `override`", quoted(&key.text));
                let help = "write it beside `override`; for one builder alone, in a provisioner of its own with `only`";
                reader.fault(key.span, "unknown-key", message, help);
            } else {
                lay_over(&mut keys.entries, key, node);
            }
        }
    }
}

fn lay_over(entries: &mut Vec<(Key, Node)>, key: &Key, node: &Node) {
    let Some((place, before)) = entries.iter_mut().find(|(known, _)| known.text.eq_ignore_ascii_case(&key.text)) else {
        return entries.push((key.clone(), node.clone()));
    };
    if let (Kind::List(items), Kind::List(over)) = (&mut before.kind, &node.kind) {
        for (index, item) in over.iter().enumerate() {
            match items.get_mut(index) {
                Some(known) => *known = item.clone(),
                None => items.push(item.clone()),
            }
        }
        return;
    }
    (*place, *before) = (key.clone(), node.clone());
}

fn one(reader: &mut Reader<'_>, kind: &str, keys: &Keys) -> Gives {
    reader.said = Vec::new();
    let gives = match kind {
        "shell" => shell::read(reader, keys),
        "file" => files::read(reader, keys),
        "ansible" => ansible::read(reader, keys),
        "ansible-local" => ansible_local::read(reader, keys),
        "breakpoint" if reader.flag(keys, "disable") == Some(true) => Some(Gives::default()),
        _ => {
            refused::provisioner(reader, kind, keys);
            None
        }
    };
    if gives.is_some() {
        reader.count("type", &Value::String(kind.to_owned()));
    }
    gives.unwrap_or_default()
}

/// The keys of a kind besides the common ones.
pub(super) fn check(reader: &mut Reader<'_>, keys: &Keys, understood: &[&str], known: &[&str]) {
    let all: Vec<&str> = COMMON.iter().chain(understood).copied().collect();
    reader.check(keys, &all, known);
}

/// The actions with what all provisioners can say: pause, time, retries.
fn into_steps(reader: &mut Reader<'_>, keys: &Keys, gives: Gives) -> Vec<Step> {
    let pause_before = reader.time(keys, "pause_before").unwrap_or_default();
    let timeout = reader.time(keys, "timeout").filter(|time| *time > Duration::ZERO);
    let retries = reader.number(keys, "max_retries").unwrap_or_default();
    if pause_before > Duration::ZERO {
        reader.count("pause_before", &Value::String(format!("{pause_before:?}")));
    }
    let Gives { made, course, env, .. } = gives;
    let last = made.len().saturating_sub(1);
    let file = reader.source.name().to_owned();
    let said: std::sync::Arc<[_]> = std::mem::take(&mut reader.said).into();
    let step = |(index, made): (usize, Made)| Step {
        name: made.action.word().to_owned(),
        action: made.action,
        env: env.clone(),
        timeout,
        allow_failure: false,
        inputs: Vec::new(),
        network: Default::default(),
        secrets: Vec::new(),
        written: (file.clone(), made.line.unwrap_or(keys.span.line)),
        course: Course {
            pause_before: if index == 0 { pause_before } else { Duration::ZERO },
            pause_after: if index == last { course.pause_after } else { Duration::ZERO },
            max_retries: u32::try_from(retries).unwrap_or_default(),
            earlier: index,
            ..course.clone()
        },
        said: std::sync::Arc::clone(&said),
    };
    made.into_iter().enumerate().map(step).collect()
}
