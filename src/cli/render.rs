//! `factoryd render`: a bundle's output templates for an image id, without a build.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::text::{self, Style, plural};
use super::{Context, Failure, ansible};
use crate::domain::path::RepoPath;
use crate::domain::tree::{Tree, TreeError};
use crate::domain::value::Value;
use crate::manifest::directory::Directory;
use crate::manifest::{MOST_BYTES, read_vars};
use crate::render::{self, Engines, Outcome, Variables};

#[derive(Debug, Args)]
pub(super) struct Options {
    /// The bundle's directory.
    #[arg(value_name = "BUNDLE_DIR")]
    bundle: PathBuf,
    /// The image's id: `result_img_id` in the templates.
    #[arg(long, value_name = "ID")]
    image_id: String,
    /// A variable, above those of the bundle's vars.
    #[arg(long = "var", value_name = "K=V")]
    vars: Vec<String>,
    /// What renders *.j2: natively what is known to equal Ansible and by the installed Ansible what is not (auto), or one
    /// of them alone.
    #[arg(long, value_name = "ENGINE", default_value = "auto", value_parser = ["native", "ansible", "auto"])]
    engine: String,
    /// Where the results go.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
}

#[derive(Serialize)]
struct RenderView {
    rendered: Vec<RenderedView>,
    failed: Vec<FailedView>,
    /// What the installed Ansible is, where it was asked.
    ansible: Option<serde_json::Map<String, serde_json::Value>>,
}

#[derive(Serialize)]
struct RenderedView {
    path: String,
    engine: &'static str,
    why: String,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct FailedView {
    template: String,
    line: usize,
    column: usize,
    code: &'static str,
    message: String,
    help: String,
}

pub(super) fn run(context: &Context, options: &Options) -> Result<(), Failure> {
    let cant = |error: &dyn std::fmt::Display| {
        Failure::failed(format!("{} can't be rendered: {error}", options.bundle.display()))
            .help("name a bundle's directory, such as images/bundle-web")
    };
    let tree = Directory::open(&options.bundle).map_err(|error| cant(&error))?;
    let mut variables = Variables::new(&options.image_id).file(&vars(&tree, &options.bundle)?);
    for given in &options.vars {
        let (name, text) = given
            .split_once('=')
            .ok_or_else(|| Failure::usage(format!("`{given}` is no variable")).help("--var name=text"))?;
        variables = variables.given(name, text);
    }
    let directory = RepoPath::new("output").unwrap_or_default();
    let engines = match options.engine.as_str() {
        "native" => Engines::Native,
        "ansible" => Engines::Ansible,
        _ => Engines::Auto,
    };
    let (outcome, versions) = match render::begin(&tree, &directory, &variables, engines) {
        Ok(begun) => ansible::finish(begun)?,
        Err(failed) => (Outcome { rendered: Vec::new(), failed }, None),
    };
    let unwritten = write(&outcome, &options.output)?;
    let view = view(&outcome, unwritten, versions);
    context.print(&view, |view, style| describe(view, &options.output, style))?;
    if view.failed.is_empty() { Ok(()) } else { Err(Failure::quiet()) }
}

/// The bundle's vars; a bundle without them has none.
fn vars(tree: &Directory, bundle: &Path) -> Result<Value, Failure> {
    const FILE: &str = "build-vars.yml";
    let path = RepoPath::new(FILE).unwrap_or_default();
    let bytes = match tree.read(&path, MOST_BYTES) {
        Ok(bytes) => bytes,
        Err(TreeError::Missing(_)) => return Ok(Value::Map(Vec::new())),
        Err(error) => return Err(Failure::failed(error.to_string())),
    };
    let text = String::from_utf8(bytes)
        .map_err(|_| Failure::failed(format!("{}: it is not UTF-8", bundle.join(FILE).display())))?;
    let name = RepoPath::new(bundle.file_name().unwrap_or_default().as_encoded_bytes()).unwrap_or_default();
    read_vars(FILE, &name, &text).map_err(|faults| {
        faults.iter().for_each(|fault| eprintln!("{}", fault.render("error")));
        Failure::failed(format!("{} can't be read", bundle.join(FILE).display()))
    })
}

/// Writes the results; what can't be written is taken back and told with the failures.
fn write(outcome: &Outcome, into: &Path) -> Result<Vec<FailedView>, Failure> {
    std::fs::create_dir_all(into)
        .map_err(|error| Failure::failed(format!("can't make {}: {error}", into.display())))?;
    let (_, errors) = render::write_all(outcome, into);
    let unwritten = errors.iter().map(|error| FailedView {
        template: error.path.display().to_string(),
        line: 1,
        column: 1,
        code: "unwritten",
        message: error.to_string(),
        help: String::new(),
    });
    Ok(unwritten.collect())
}

fn view(outcome: &Outcome, unwritten: Vec<FailedView>, versions: Option<ansible::Versions>) -> RenderView {
    let rendered = outcome.rendered.iter().map(|rendered| RenderedView {
        path: rendered.path.to_string(),
        engine: rendered.engine.as_str(),
        why: rendered.why.clone(),
        warnings: rendered.warnings.iter().map(ToString::to_string).collect(),
    });
    let failed = outcome.failed.iter().map(|failed| FailedView {
        template: failed.template.to_string(),
        line: failed.line,
        column: failed.column,
        code: failed.code.as_str(),
        message: failed.message.clone(),
        help: failed.help.clone(),
    });
    let versions = versions.map(|all| all.into_iter().map(|(name, version)| (name, version.into())).collect());
    RenderView { rendered: rendered.collect(), failed: failed.chain(unwritten).collect(), ansible: versions }
}

fn describe(view: &RenderView, into: &Path, style: Style) -> String {
    let mut out = format!("{} rendered into {}", plural(view.rendered.len(), "template"), into.display());
    out.push_str(if view.failed.is_empty() { ".\n" } else { ", not all:\n" });
    for failed in &view.failed {
        let sign = style.sign("failed");
        let _ = writeln!(out, "{sign} {}:{}:{}: {}", failed.template, failed.line, failed.column, failed.message);
        if !failed.help.is_empty() {
            let _ = writeln!(out, "  {}", failed.help);
        }
    }
    for rendered in &view.rendered {
        let by = if rendered.engine == render::Engine::Ansible.as_str() { "  (by Ansible)" } else { "" };
        let _ = writeln!(out, "  {}{by}", text::name(&rendered.path));
        for warning in &rendered.warnings {
            let _ = writeln!(out, "    warning: {warning}");
        }
    }
    out
}
