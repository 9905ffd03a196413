//! `factoryd check`: a directory as it lies, before it is committed.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::outputs::{self, Looked};
use super::plan::repository_name;
use super::text::{Style, plural};
use super::{Context, Failure};
use crate::domain::path::RepoPath;
use crate::domain::pipeline::{Action, BaseImage, Boot, Pipeline, Stage, Step};
use crate::domain::value::Value;
use crate::manifest::directory::Directory;
use crate::manifest::fault::Fault;
use crate::manifest::reading::{BundleReading, Reading, Unbuildable};
use crate::manifest::{Cache, read};
use crate::server::wire::{FaultView, path_bytes};

#[derive(Debug, Args)]
pub(super) struct Options {
    /// The repository's directory.
    #[arg(default_value = ".")]
    directory: PathBuf,
}

#[derive(Serialize)]
struct CheckView {
    bundles: Vec<BundleCheck>,
    faults: Vec<FaultView>,
}

#[derive(Serialize)]
struct BundleCheck {
    bundle: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_bytes: Option<String>,
    verdict: &'static str,
    reason: String,
    faults: Vec<FaultView>,
    warnings: Vec<FaultView>,
    stages: Vec<StageCheck>,
}

#[derive(Serialize)]
struct StageCheck {
    stage: &'static str,
    /// What a stage without steps says.
    #[serde(flatten)]
    settings: serde_json::Map<String, serde_json::Value>,
    steps: Vec<serde_json::Map<String, serde_json::Value>>,
}

impl From<&Fault> for FaultView {
    fn from(fault: &Fault) -> Self {
        Self {
            file: fault.file.clone(),
            line: fault.line,
            column: fault.column,
            code: fault.code.to_owned(),
            message: fault.message.clone(),
            help: fault.advice(),
        }
    }
}

pub(super) fn run(context: &Context, options: &Options) -> Result<(), Failure> {
    let cant = |error: &dyn std::fmt::Display| {
        Failure::failed(format!("{} can't be checked: {error}", options.directory.display()))
            .help("name the repository's directory: factoryd check DIR")
    };
    let tree = Directory::open(&options.directory).map_err(|error| cant(&error))?;
    let name = repository_name(&options.directory);
    let reading = read(&tree, &name, &Cache::default()).map_err(|error| cant(&error))?;
    let looked: Vec<Looked> =
        reading.bundles.iter().map(|bundle| outputs::look(&tree, bundle)).collect::<Result<_, _>>()?;
    let view = CheckView {
        bundles: bundle_checks(&reading, &looked),
        faults: reading.faults.iter().map(FaultView::from).collect(),
    };
    let is_good = reading.faults.is_empty()
        && reading.elsewhere.is_empty()
        && reading.bundles.iter().all(|bundle| bundle.verdict.is_ok())
        && looked.iter().all(|looked| looked.faults.is_empty());
    context.print(&view, |_, style| describe(&reading, &looked, style))?;
    if is_good { Ok(()) } else { Err(Failure::quiet()) }
}

/// The bundles, and what lies elsewhere, sorted by path.
fn bundle_checks(reading: &Reading, looked: &[Looked]) -> Vec<BundleCheck> {
    let bundles =
        reading.bundles.iter().zip(looked).map(|(bundle, looked)| (&bundle.path, bundle_check(bundle, looked)));
    let elsewhere = reading.elsewhere.iter().map(|(path, why)| (path, refused(path, why, &Looked::default())));
    let mut checks: Vec<_> = bundles.chain(elsewhere).collect();
    checks.sort_by_key(|(path, _)| *path);
    checks.into_iter().map(|(_, check)| check).collect()
}

fn refused(path: &RepoPath, why: &Unbuildable, looked: &Looked) -> BundleCheck {
    let faults = why.faults.iter().chain(&looked.faults).map(FaultView::from).collect();
    BundleCheck {
        bundle: path.to_string(),
        path_bytes: path_bytes(path),
        verdict: "unbuildable",
        reason: why.reason.clone(),
        faults,
        warnings: looked.warnings.iter().map(FaultView::from).collect(),
        stages: Vec::new(),
    }
}

fn bundle_check(bundle: &BundleReading, looked: &Looked) -> BundleCheck {
    let buildable = match &bundle.verdict {
        Ok(buildable) => buildable,
        Err(why) => return refused(&bundle.path, why, looked),
    };
    BundleCheck {
        bundle: bundle.path.to_string(),
        path_bytes: path_bytes(&bundle.path),
        verdict: "buildable",
        reason: String::new(),
        faults: looked.faults.iter().map(FaultView::from).collect(),
        warnings: buildable.warnings.iter().chain(&looked.warnings).map(FaultView::from).collect(),
        stages: stage_checks(&buildable.pipeline),
    }
}

fn stage_checks(pipeline: &Pipeline) -> Vec<StageCheck> {
    let steps = |stage: Stage| match stage {
        Stage::Boot => Some(pipeline.boot.changes.as_slice()),
        Stage::Provision => pipeline.provision.as_ref().map(|provision| provision.steps.as_ref()),
        Stage::Test => pipeline.test.as_ref().map(|test| test.steps.as_ref()),
        _ => None,
    };
    pipeline
        .stages()
        .map(|stage| StageCheck {
            stage: stage.word(),
            settings: if stage == Stage::Boot { machine(&pipeline.boot) } else { serde_json::Map::new() },
            steps: steps(stage).unwrap_or_default().iter().map(step_check).collect(),
        })
        .collect()
}

/// The machine that is booted.
fn machine(boot: &Boot) -> serde_json::Map<String, serde_json::Value> {
    let image = match &boot.image {
        BaseImage::Named(name) => name.clone(),
        BaseImage::Path { path, .. } => path.clone(),
        BaseImage::Url { url, .. } => url.clone(),
        BaseImage::Mmdebstrap(recipe) => format!("mmdebstrap {}", recipe.suite),
    };
    let keys: [(&str, serde_json::Value); 10] = [
        ("image", image.into()),
        ("user", boot.user.clone().into()),
        ("cpus", boot.cpus.into()),
        ("memory", boot.memory.into()),
        ("disk", boot.disk.into()),
        ("timeout", boot.timeout.as_secs().into()),
        ("terminal", boot.terminal.into()),
        ("flavor", boot.placement.flavor.clone().into()),
        ("networks", boot.placement.networks.clone().into()),
        ("security_groups", boot.placement.security_groups.clone().into()),
    ];
    keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// A value of a template, as JSON.
fn json_of(value: &Value) -> serde_json::Value {
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(value) => (*value).into(),
        Value::Int(number) => (*number).into(),
        Value::Float(number) => (*number).into(),
        Value::String(text) => text.clone().into(),
        Value::List(items) => items.iter().map(json_of).collect::<Vec<_>>().into(),
        Value::Map(entries) => {
            entries.iter().map(|(key, value)| (key.clone(), json_of(value))).collect::<serde_json::Map<_, _>>().into()
        }
    }
}

/// Every key of a step that has an effect.
fn step_check(step: &Step) -> serde_json::Map<String, serde_json::Value> {
    let mut keys = serde_json::Map::new();
    let mut put = |key: &str, value: serde_json::Value| drop(keys.insert(key.to_owned(), value));
    let texts =
        |texts: &[crate::domain::expression::Text]| texts.iter().map(ToString::to_string).collect::<Vec<_>>().into();
    put("kind", step.action.word().into());
    put("name", step.name.clone().into());
    match &step.action {
        Action::Shell { text, laid } => {
            put("shell", text.to_string().into());
            laid.iter().for_each(|laid| put("command", laid.command.to_string().into()));
        }
        Action::Script { path, args, laid } => {
            put("script", path.to_string().into());
            put("args", texts(args));
            laid.iter().for_each(|laid| put("command", laid.command.to_string().into()));
        }
        Action::Upload { from, to, mode, keeps_name: _ } => {
            put("from", from.to_string().into());
            put("to", to.to_string().into());
            put("mode", mode.map(|mode| format!("{mode:04o}")).into());
        }
        Action::AnsibleLocal { playbook, extra_arguments, staged } => {
            put("playbook", playbook.to_string().into());
            match staged {
                Some(staged) => put("command", staged.command.to_string().into()),
                None => put("extra_arguments", texts(extra_arguments)),
            }
        }
        Action::Ansible { playbook, extra_arguments, play } => {
            put("playbook", playbook.to_string().into());
            put("extra_arguments", texts(extra_arguments));
            put("host", play.host.clone().into());
        }
        Action::Pytest { path, args } => {
            put("pytest", path.to_string().into());
            put("args", texts(args));
        }
    }
    let env: serde_json::Map<_, _> =
        step.env.iter().map(|(name, text)| (name.clone(), text.to_string().into())).collect();
    put("env", env.into());
    put("timeout", step.timeout.map(|timeout| timeout.as_secs()).into());
    put("allow_failure", step.allow_failure.into());
    put("network", step.network.word().into());
    put("secrets", step.secrets.clone().into());
    put("file", step.written.0.clone().into());
    put("line", step.written.1.into());
    for (key, value) in step.said.iter() {
        // A step of many scripts is one step for each of them here.
        if !keys.contains_key(key) && !matches!(key.as_str(), "scripts" | "sources" | "playbook_files") {
            keys.insert(key.clone(), json_of(value));
        }
    }
    keys
}

fn faults(out: &mut String, faults: &[Fault], word: &str) {
    for fault in faults {
        let _ = writeln!(out, "{}", fault.render(word));
    }
}

fn describe(reading: &Reading, looked: &[Looked], style: Style) -> String {
    let mut out = String::new();
    faults(&mut out, &reading.faults, "error");
    let (mut good, mut bad) = (0, 0);
    for (bundle, looked) in reading.bundles.iter().zip(looked) {
        faults(&mut out, &looked.faults, "error");
        faults(&mut out, &looked.warnings, "warning");
        match &bundle.verdict {
            Ok(buildable) => {
                good += 1;
                faults(&mut out, &buildable.warnings, "warning");
            }
            Err(unbuildable) => {
                bad += 1;
                faults(&mut out, &unbuildable.faults, "error");
                // What a fault above says is not said twice.
                let reason = if unbuildable.faults.is_empty() { &unbuildable.reason } else { "" };
                let line = format!("{} {}  {reason}", style.mark("unbuildable"), bundle.path);
                let _ = writeln!(out, "{}", line.trim_end());
            }
        }
    }
    for (path, why) in &reading.elsewhere {
        bad += 1;
        let _ = writeln!(out, "{} {path}  {}", style.mark("unbuildable"), why.reason);
    }
    let verb = |count: usize| if count == 1 { "is" } else { "are" };
    let _ = match (good, bad) {
        (0, 0) => writeln!(out, "No bundle here. Nothing was built."),
        (_, 0) => writeln!(out, "{} {} good. Nothing was built.", plural(good, "bundle"), verb(good)),
        _ => {
            writeln!(out, "{} {} good, {bad} {} not. Nothing was built.", plural(good, "bundle"), verb(good), verb(bad))
        }
    };
    out
}
