//! Steps, and what is made of them: the stages `provision` and `test`, and the `changes` of `boot`.

use super::fault::quoted;
use super::fields::{ACTIONS, Field, NOT_IN_CHANGES, PACKER, PLAYBOOK, PROVISION, PYTEST, SCRIPT, STEP, TEST, UPLOAD};
use super::node::{Key, Kind, Node};
use super::packer::{self, NotRead};
use super::reader::{Binding, Need, Reader, Reads};
use crate::domain::expression::Text;
use crate::domain::path::RepoPath;
use crate::domain::pipeline::{Action, Course, Network, Play, Provision, Stage, Step, StepPath, Test};

/// `provision`.
pub(super) fn provision(reader: &mut Reader<'_>, node: &Node) -> Option<Provision> {
    let record = reader.record(node, "provision", PROVISION)?;
    let expire = reader.duration(record.get("expire"), "expire");
    let timeout = reader.duration(record.get("timeout"), "timeout");
    let steps = steps(reader, record.get("steps"), Stage::Provision).into();
    Some(Provision { steps, expire, timeout })
}

/// `test`.
pub(super) fn test(reader: &mut Reader<'_>, node: &Node) -> Option<Test> {
    let record = reader.record(node, "test", TEST)?;
    let mut ports = Vec::new();
    for node in reader.list(record.get("ports"), "ports", "port numbers") {
        let port = reader.count(node, "ports", 1, 65535);
        ports.extend(port.and_then(|port| u16::try_from(port).ok()));
    }
    let mut reports = Vec::new();
    for node in reader.list(record.get("reports"), "reports", "globs") {
        reports.extend(reader.plain(node, "reports"));
    }
    let timeout = reader.duration(record.get("timeout"), "timeout");
    let steps = steps(reader, record.get("steps"), Stage::Test).into();
    Some(Test { steps, ports, reports, timeout })
}

/// `boot.changes`.
pub(super) fn changes(reader: &mut Reader<'_>, node: Option<&Node>) -> Vec<Step> {
    let items = reader.list(node, "changes", "steps");
    items.iter().filter_map(|item| change(reader, item)).collect()
}

fn change(reader: &mut Reader<'_>, item: &Node) -> Option<Step> {
    let before = reader.faults.len();
    if let Kind::Map(entries) = &item.kind {
        for (key, _) in entries {
            let Some((_, help)) = NOT_IN_CHANGES.iter().find(|(name, _)| *name == key.text) else { continue };
            reader.fault(key.span, "misplaced-step", format!("`{}` can't stand in `changes`", key.text), *help);
        }
    }
    if reader.faults.len() == before { step(reader, item, Stage::Boot) } else { None }
}

fn steps(reader: &mut Reader<'_>, node: Option<&Node>, stage: Stage) -> Vec<Step> {
    let items = reader.list(node, "steps", "steps");
    let mut steps = Vec::new();
    for item in items {
        match item.get("packer") {
            Some(node) => steps.extend(packer_steps(reader, item, node, stage)),
            None => steps.extend(step(reader, item, stage)),
        }
    }
    steps
}

/// The keys that can stand beside `packer`: what they say holds for each of the template's steps.
const BESIDE_PACKER: [&str; 5] = ["packer", "env", "inputs", "network", "secrets"];

/// The steps of a packer template.
fn packer_steps(reader: &mut Reader<'_>, item: &Node, node: &Node, stage: Stage) -> Vec<Step> {
    let Kind::Map(entries) = &item.kind else { return Vec::new() };
    if check_keys(reader, item, entries).is_none() {
        return Vec::new();
    }
    if stage != Stage::Provision {
        let help = "its provisioners make the image; tests run on what they made";
        reader.fault(item.span, "misplaced-step", format!("`packer` can't stand in `{stage}`"), help);
    }
    let is_common = |key: &Key| STEP.iter().any(|field| field.name == key.text);
    for (key, _) in entries.iter().filter(|(key, _)| is_common(key) && !BESIDE_PACKER.contains(&key.text.as_str())) {
        let help = "each of its provisioners says that for itself, in the template";
        reader.fault(key.span, "packer-step", format!("`{}` can't stand beside `packer`", key.text), help);
    }
    let shared = Shared::read(reader, item, stage);
    let (file, variables, builder) = packer_file(reader, node);
    let (Some(file), Some(binding)) = (file, reader.binding) else { return Vec::new() };
    let builder = builder.or_else(|| {
        let named = binding.scope.get("vars")?.get("packer_builder")?;
        named.as_str().map(str::to_owned)
    });
    let template = match binding.templates.get(&file) {
        Ok(template) => template,
        Err(NotRead::Bad(code, why)) => {
            reader.fault(node.span, code, why, "it is the packer template that provisions the bundle");
            return Vec::new();
        }
        Err(NotRead::Said(fault)) => {
            reader.faults.push(*fault);
            return Vec::new();
        }
    };
    let Binding { bundle, scope, .. } = binding;
    let environment = shared.env.clone();
    let room = packer::MOST_EXPANDED.saturating_sub(reader.found.weight);
    let expanded = template.expand(&packer::Order { bundle, scope, builder, variables, environment, room });
    reader.found.weight += expanded.weight;
    reader.faults.extend(expanded.faults);
    reader.warnings.extend(expanded.warnings);
    reader.needs.extend(expanded.needs);
    reader.found.inputs.extend(expanded.inputs);
    reader.found.remotes.extend(expanded.remotes);
    reader.found.flavor_is_dead |= expanded.flavor_is_dead;
    reader.found.machine.get_or_insert(expanded.machine);
    expanded.steps.into_iter().map(|step| shared.with(step)).collect()
}

/// What stands beside `packer`.
struct Shared {
    env: Vec<(String, Text)>,
    inputs: Vec<StepPath>,
    network: Network,
    secrets: Vec<String>,
}

impl Shared {
    fn read(reader: &mut Reader<'_>, item: &Node, stage: Stage) -> Self {
        let env = reader.text_map(item.get("env"), "env");
        let inputs = inputs(reader, item.get("inputs"), stage);
        let network = reader.word(item.get("network"), "network", &NETWORKS).unwrap_or_default();
        Self { env, inputs, network, secrets: secrets(reader, item.get("secrets")) }
    }

    /// A step of the template with it; what runs in the guest is given neither network nor secrets.
    fn with(&self, mut step: Step) -> Step {
        step.inputs.clone_from(&self.inputs);
        if step.action.is_host() {
            step.env.splice(0..0, self.env.iter().cloned());
            step.network = self.network;
            step.secrets.clone_from(&self.secrets);
        }
        step
    }
}

/// The template, what is given for its variables, and its builder.
fn packer_file(reader: &mut Reader<'_>, node: &Node) -> (Option<RepoPath>, Vec<(String, Text)>, Option<String>) {
    let root = |path: StepPath| match path {
        StepPath::Bundle(path) | StepPath::Root(path) => path,
    };
    if !matches!(node.kind, Kind::Map(_)) {
        return (reader.root_path(node, "packer").map(root), Vec::new(), None);
    }
    let Some(record) = reader.record(node, "packer", PACKER) else { return (None, Vec::new(), None) };
    let variables = reader.text_map(record.get("vars"), "vars");
    let builder = record.get("builder").and_then(|node| reader.plain(node, "builder"));
    let file = record.get("file").and_then(|node| reader.root_path(node, "file"));
    (file.map(root), variables, builder)
}

const NETWORKS: [(&str, Network); 3] = [("none", Network::None), ("guest", Network::Guest), ("full", Network::Full)];

fn secrets(reader: &mut Reader<'_>, node: Option<&Node>) -> Vec<String> {
    let mut secrets = Vec::new();
    for node in reader.list(node, "secrets", "names of secrets") {
        secrets.extend(reader.plain(node, "secrets"));
    }
    secrets
}

fn step(reader: &mut Reader<'_>, node: &Node, stage: Stage) -> Option<Step> {
    let Kind::Map(entries) = &node.kind else {
        reader.wrong(node, "steps", "maps such as `- shell: apt-get clean`");
        return None;
    };
    check_keys(reader, node, entries)?;
    let (key, content) = entries.iter().find(|(key, _)| ACTIONS.iter().any(|field| field.name == key.text))?;
    let action = action(reader, key, content, stage);
    let get = |name: &str| node.get(name);
    let name = get("name").and_then(|node| reader.plain(node, "name"));
    let env = reader.text_map(get("env"), "env");
    let timeout = reader.duration(get("timeout"), "timeout");
    let allow_failure = get("allow_failure").and_then(|node| reader.bool(node, "allow_failure"));
    let inputs = inputs(reader, get("inputs"), stage);
    let network = reader.word(get("network"), "network", &NETWORKS);
    let secrets = secrets(reader, get("secrets"));
    let course = course(reader, node);
    let action = action?;
    if let (true, Some(node)) = (action.is_host() && course.expect_disconnect, get("expect_disconnect")) {
        let message =
            format!("`expect_disconnect` is for steps of the guest, and `{}` runs on the host", action.word());
        reader.fault(node.span, "host-step", message, "reboot the guest in a `shell` step");
    }
    for (key, _) in entries.iter().filter(|(key, _)| matches!(key.text.as_str(), "network" | "secrets")) {
        if !action.is_host() {
            let message = format!("`{}` is for steps of the host, and `{}` runs in the guest", key.text, action.word());
            reader.fault(key.span, "guest-step", message, "steps of the host are `ansible` and `pytest`");
        }
    }
    Some(Step {
        name: name.unwrap_or_else(|| action.word().to_owned()),
        action,
        env,
        timeout,
        allow_failure: allow_failure.unwrap_or(false),
        inputs,
        network: network.unwrap_or_default(),
        secrets,
        written: (reader.file().to_owned(), node.span.line),
        course,
        said: [].into(),
    })
}

/// How a step goes.
fn course(reader: &mut Reader<'_>, node: &Node) -> Course {
    let get = |name: &str| node.get(name);
    let pause_before = reader.duration(get("pause_before"), "pause_before").unwrap_or_default();
    let max_retries = get("max_retries").and_then(|node| reader.count(node, "max_retries", 0, 100));
    let mut exit_codes = Vec::new();
    for node in reader.list(get("valid_exit_codes"), "valid_exit_codes", "exit codes") {
        let code = reader.count(node, "valid_exit_codes", 0, 255);
        exit_codes.extend(code.and_then(|code| i32::try_from(code).ok()));
    }
    let expect_disconnect = get("expect_disconnect").and_then(|node| reader.bool(node, "expect_disconnect"));
    Course {
        pause_before,
        max_retries: max_retries.and_then(|count| u32::try_from(count).ok()).unwrap_or(0),
        exit_codes,
        expect_disconnect: expect_disconnect.unwrap_or(false),
        ..Course::default()
    }
}

/// Says the unknown keys of a step; `None` where it does not do exactly one thing.
fn check_keys(reader: &mut Reader<'_>, node: &Node, entries: &[(Key, Node)]) -> Option<()> {
    let known = || ACTIONS.iter().chain(STEP).map(|field| field.name);
    let mut unknown = false;
    for (key, _) in entries.iter().filter(|(key, _)| !known().any(|name| name == key.text)) {
        unknown = true;
        let meant = super::fault::did_you_mean(&key.text, known()).map(str::to_owned);
        let fault = (key.span, "unknown-key", format!("unknown key {} in a step", quoted(&key.text)));
        reader.hinted(fault, meant, &format!("keys are {}", known().collect::<Vec<_>>().join(", ")));
    }
    let is_action = |key: &Key| ACTIONS.iter().any(|field: &Field| field.name == key.text);
    let actions: Vec<&Key> = entries.iter().map(|(key, _)| key).filter(|key| is_action(key)).collect();
    match actions.as_slice() {
        [_] => Some(()),
        [] => {
            if !unknown {
                let names: Vec<&str> = ACTIONS.iter().map(|field| field.name).collect();
                let help = format!("give it one of {}", names.join(", "));
                reader.fault(node.span, "empty-step", "the step says nothing to do", help);
            }
            None
        }
        [first, second, ..] => {
            let message = format!("one step does one thing, and this has `{}` and `{}`", first.text, second.text);
            reader.fault(second.span, "two-actions", message, "begin a step of its own with `-`");
            None
        }
    }
}

fn action(reader: &mut Reader<'_>, key: &Key, node: &Node, stage: Stage) -> Option<Action> {
    match key.text.as_str() {
        "shell" => {
            let text = reader.text(node, "shell")?;
            if text.to_string().trim().is_empty() {
                reader.wrong(node, "shell", "a command");
            }
            Some(Action::Shell { text, laid: None })
        }
        "script" => {
            let (path, args) = file_and_texts(reader, node, (SCRIPT, "script"), (stage, Reads::Script))?;
            Some(Action::Script { path, args, laid: None })
        }
        "ansible" => {
            let (playbook, extra_arguments) = playbook(reader, node, "ansible", stage)?;
            Some(Action::Ansible { playbook, extra_arguments, play: Play::default() })
        }
        "ansible-local" => {
            let (playbook, extra_arguments) = playbook(reader, node, "ansible-local", stage)?;
            Some(Action::AnsibleLocal { playbook, extra_arguments, staged: None })
        }
        "pytest" => {
            let (path, args) = file_and_texts(reader, node, (PYTEST, "pytest"), (stage, Reads::Tests))?;
            Some(Action::Pytest { path, args })
        }
        "upload" => upload(reader, node, stage),
        _ => None,
    }
}

/// A playbook's directory is its input, so it can't lie in the repository's root.
fn playbook(reader: &mut Reader<'_>, node: &Node, name: &str, stage: Stage) -> Option<(StepPath, Vec<Text>)> {
    let (path, arguments) = file_and_texts(reader, node, (PLAYBOOK, name), (stage, Reads::Playbook))?;
    if let StepPath::Root(path) = &path
        && path.parent().is_root()
    {
        let help = "a playbook's directory counts with all that is in it; move it into a directory of its own";
        reader.fault(node.span, "bad-path", "a playbook can't lie in the repository's root", help);
    }
    Some((path, arguments))
}

/// A path and a list of texts: a table of two keys, or the path alone.
fn file_and_texts(
    reader: &mut Reader<'_>,
    node: &Node,
    (fields, name): (&'static [Field], &str),
    (stage, reads): (Stage, Reads),
) -> Option<(StepPath, Vec<Text>)> {
    if !matches!(node.kind, Kind::Map(_)) {
        let path = reader.path(node, name)?;
        need(reader, node, &path, reads, stage);
        return Some((path, Vec::new()));
    }
    let record = reader.record(node, name, fields)?;
    let texts = reader.texts(record.get(fields[1].name), fields[1].name);
    let node = record.get(fields[0].name)?;
    let path = reader.path(node, fields[0].name)?;
    need(reader, node, &path, reads, stage);
    Some((path, texts))
}

fn upload(reader: &mut Reader<'_>, node: &Node, stage: Stage) -> Option<Action> {
    let record = reader.record(node, "upload", UPLOAD)?;
    let mode = reader.mode(record.get("mode"), "mode");
    let to = record.get("to").and_then(|node| Some((reader.text(node, "to")?, node)));
    if let Some((text, node)) = &to
        && !text.to_string().starts_with(['/', '{'])
    {
        reader.wrong(node, "to", "an absolute path in the guest");
    }
    let written = record.get("from")?;
    let from = reader.path(written, "from")?;
    need(reader, written, &from, Reads::All, stage);
    Some(Action::Upload { from, to: to?.0, mode, keeps_name: false })
}

fn inputs(reader: &mut Reader<'_>, node: Option<&Node>, stage: Stage) -> Vec<StepPath> {
    let mut paths = Vec::new();
    for node in reader.list(node, "inputs", "paths") {
        if let Some(path) = reader.path(node, "inputs") {
            need(reader, node, &path, Reads::All, stage);
            paths.push(path);
        }
    }
    paths
}

fn need(reader: &mut Reader<'_>, node: &Node, path: &StepPath, reads: Reads, stage: Stage) {
    reader.needs.push(Need { stage, path: path.clone(), reads, span: node.span, source: None });
}

#[cfg(test)]
#[path = "steps_tests.rs"]
mod tests;
