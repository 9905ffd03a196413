//! A pipeline file: read once, checked on its own, and bound to each bundle that its globs match.

use std::sync::Arc;
use std::time::Duration;

use super::bind::Binder;
use super::build_script::{self, BuildScript};
use super::fault::{Fault, Source, Span, did_you_mean, quoted};
use super::fields::{self, PIPELINE, STAGE_NAMES};
use super::globs::Pattern;
use super::node::{Kind, Node};
use super::packer::Templates;
use super::reader::{Binding, FromTemplates, Need, Reader, Reads};
use super::{glance, stages, steps, yaml};
use crate::domain::expression::Text;
use crate::domain::inputs::Input;
use crate::domain::path::RepoPath;
use crate::domain::pipeline::{BaseImage, Boot, Pipeline, SharedChange, Snapshot, Stage, StepPath};
use crate::domain::value::Value;

/// How long a build may take where the pipeline does not say.
const TIMEOUT: Duration = Duration::from_secs(90 * 60);

/// The vars file of a bundle where the pipeline does not say.
const VARS: &str = "build-vars.yml";

/// The key of the vars for flags of the image client; also the code of what is wrong with them.
pub(super) const GLANCE_OPTIONS: &str = "final_glance_options";

/// The name of the built-in pipeline in messages.
const BUILTIN: &str = "(built-in pipeline)";

/// The pipelines of a repository that has none: for bundles, for bundles where it has no packer template either, and for
/// images of operating systems.
const BUILTIN_IMAGES: &str = include_str!("builtin.yml");
const BUILTIN_ANSIBLE: &str = include_str!("builtin-ansible.yml");
const BUILTIN_OS: &str = include_str!("builtin-os.yml");

/// The packer template of a bundle whose vars name none.
const USUAL_TEMPLATE: &str = "build.packer.json";

/// Files that show a repository of today's factory: without its template, nothing of it can be built.
const TODAYS: [&str; 3] = ["images/build.packer.json", "images/build.playbook.yml", "images/build.sh"];

/// Which of today's ways a built-in pipeline keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Todays {
    /// Bundles of `images/`, which have vars.
    Images,
    /// Images of operating systems in `os/`, which have a script and a template of vars.
    Os,
}

impl Todays {
    /// Where its packer templates lie.
    fn templates(self) -> &'static str {
        match self {
            Self::Images => "images",
            Self::Os => "os",
        }
    }
}

/// A pipeline file, as far as it could be read.
#[derive(Debug)]
pub(super) struct PipelineFile {
    /// Where it is; `None` is the built-in one.
    pub(super) path: Option<RepoPath>,
    /// Its text.
    pub(super) source: Source,
    /// Which bundles it is for, with the places of the globs; empty where that could not be read.
    pub(super) globs: Vec<(Pattern, Span)>,
    /// Whether these are all its globs.
    pub(super) has_all_globs: bool,
    /// The vars file in each bundle.
    pub(super) vars: RepoPath,
    /// Its tree; `None` where it is no YAML.
    pub(super) root: Option<Node>,
    on_shared_change: SharedChange,
    /// What is wrong with it whatever the bundle.
    pub(super) faults: Vec<Fault>,
    /// Which of today's ways it keeps, where it is built in.
    todays: Option<Todays>,
    /// The built-in pipeline for repositories without packer templates.
    without_packer: Option<Box<Self>>,
}

/// A pipeline bound to one bundle.
#[derive(Debug)]
pub(super) struct Bound {
    /// The pipeline.
    pub(super) pipeline: Pipeline,
    /// The paths that its stages read.
    pub(super) needs: Vec<Need>,
    /// What its expressions expanded to, in bytes.
    pub(super) weight: usize,
    /// What an author should know.
    pub(super) warnings: Vec<Fault>,
    /// What its packer templates say besides.
    pub(super) found: FromTemplates,
}

/// What is wrong with one pipeline file, whatever bundles it will be for. `name` is the file's, for the faults.
pub fn check_file(name: &str, text: &str) -> Vec<Fault> {
    PipelineFile::parse(name, None, text).faults
}

impl Bound {
    /// The script that an image of an operating system is made by counts, and its changes stand in it.
    pub(super) fn take_script(&mut self, script: &BuildScript, bundle: &RepoPath) {
        let Some(path) = RepoPath::new(build_script::FILE).map(StepPath::Bundle) else { return };
        let written = path.in_repository(bundle).to_string();
        let need = Need { stage: Stage::Boot, path, reads: Reads::All, span: Span::default(), source: None };
        self.needs.push(need);
        for (step, (_, line)) in self.pipeline.boot.changes.iter_mut().zip(&script.changes) {
            step.written = (written.clone(), *line);
        }
    }
}

impl PipelineFile {
    /// The pipelines of a repository that has none.
    pub(super) fn builtin() -> [Self; 2] {
        let without_packer = Some(Box::new(Self::parse(BUILTIN, None, BUILTIN_ANSIBLE)));
        let images = Self::parse(BUILTIN, None, BUILTIN_IMAGES);
        let os = Self::parse(BUILTIN, None, BUILTIN_OS);
        [Self { todays: Some(Todays::Images), without_packer, ..images }, Self { todays: Some(Todays::Os), ..os }]
    }

    /// The pipeline as it is for one bundle: the built-in one runs the playbook alone where the repository has nothing of
    /// packer's.
    pub(super) fn of(&self, scope: &Value, templates: &Templates<'_>) -> &Self {
        let Some(without_packer) = &self.without_packer else { return self };
        let is_named = scope.get("vars").is_some_and(|vars| vars.get("packer_file").is_some());
        let todays = || TODAYS.iter().filter_map(RepoPath::new).any(|path| templates.has(&path));
        if is_named || todays() { self } else { without_packer }
    }

    /// Whether this is the built-in pipeline of `os/`.
    pub(super) fn is_todays_os(&self) -> bool {
        self.todays == Some(Todays::Os)
    }

    /// The packer template of a bundle whose vars name none.
    pub(super) fn usual_template(&self) -> String {
        format!("{}/{USUAL_TEMPLATE}", self.todays.unwrap_or(Todays::Images).templates())
    }

    /// Reads a file.
    pub(super) fn read(path: RepoPath, text: &str) -> Self {
        Self::parse(&path.to_string(), Some(path), text)
    }

    /// A file that can't be read at all.
    pub(super) fn unreadable(path: RepoPath, code: &'static str, message: &str) -> Self {
        let mut file = Self::parse(&path.to_string(), Some(path), "");
        file.faults = vec![Fault::new(file.source.name(), Span::default(), code, message)];
        file
    }

    fn parse(name: &str, path: Option<RepoPath>, text: &str) -> Self {
        let source = Source::new(name, text);
        let mut faults = Vec::new();
        let root = yaml::load(&source, &mut faults);
        let mut file = Self {
            path,
            source,
            globs: Vec::new(),
            has_all_globs: false,
            vars: RepoPath::new(VARS).unwrap_or_default(),
            root: None,
            on_shared_change: SharedChange::default(),
            faults,
            todays: None,
            without_packer: None,
        };
        if let Some(root) = &root {
            file.read_head(root);
            let (_, mut faults) = file.stages_of(root, None);
            file.faults.append(&mut faults);
        }
        file.root = root;
        super::fault::in_order(&mut file.faults);
        file
    }

    /// The name of the file in messages.
    pub(super) fn name(&self) -> &str {
        self.source.name()
    }

    /// The pipeline for one bundle.
    ///
    /// # Errors
    /// The faults of the pipeline that this bundle's vars bring out.
    pub(super) fn bind(
        &self,
        bundle: &RepoPath,
        scope: &Value,
        templates: &Templates<'_>,
    ) -> Result<Bound, Vec<Fault>> {
        let Some(root) = &self.root else { return Err(self.faults.clone()) };
        match self.stages_of(root, Some(Binding { templates, bundle, scope })) {
            (Some(bound), faults) if faults.is_empty() => Ok(bound),
            (_, mut faults) => {
                for fault in &mut faults {
                    fault.message = super::fault::visible(&format!("{}, for {bundle}", fault.message));
                }
                super::fault::in_order(&mut faults);
                Err(faults)
            }
        }
    }

    /// What must be known before any bundle is: read from the tree as it is written.
    fn read_head(&mut self, root: &Node) {
        let source = self.source.clone();
        let mut reader = Reader::new(&source);
        let Some(record) = reader.record(root, "pipeline", PIPELINE) else {
            return self.faults.append(&mut reader.faults);
        };
        if let Some(node) = record.get("version")
            && node.value() != Value::Int(1)
        {
            reader.wrong(node, "version", "the number 1, the only version that there is");
        }
        let written = record.get("bundles");
        let globs = reader.list(written, "bundles", "globs");
        if let (Some(node), []) = (written, globs)
            && reader.faults.is_empty()
        {
            reader.wrong(node, "bundles", "at least one glob");
        }
        for node in globs {
            if let Some(pattern) = glob(&mut reader, node) {
                self.globs.push((pattern, node.span));
            }
        }
        self.has_all_globs = !globs.is_empty() && self.globs.len() == globs.len();
        if let Some(node) = record.get("vars")
            && let Some(path) = no_expression(&mut reader, node, "vars").and_then(|()| reader.bundle_path(node, "vars"))
        {
            self.vars = path;
        }
        let words =
            [("mark", SharedChange::Mark), ("canary", SharedChange::Canary), ("rebuild", SharedChange::Rebuild)];
        let policy = reader.word(record.get("on_shared_change"), "on_shared_change", &words);
        self.on_shared_change = policy.unwrap_or_default();
        self.faults.append(&mut reader.faults);
    }

    /// Everything that may hold expressions: with a scope filled in, without one only checked.
    fn stages_of(&self, root: &Node, binding: Option<Binding<'_>>) -> (Option<Bound>, Vec<Fault>) {
        let scope = binding.map(|binding| binding.scope);
        let defaults = scope.zip(self.todays).map(|(scope, todays)| with_defaults(scope, todays));
        let mut binder = Binder::new(&self.source, defaults.as_ref().or(scope));
        let names = ["timeout", "shared", "stages", "archive"];
        let [timeout, shared, stages, archive] = names.map(|name| root.get(name).map(|node| binder.bind(node)));
        let (mut faults, weight) = binder.finish();
        let mut reader = Reader::new(&self.source);
        reader.binding = binding;
        let timeout = reader.duration(timeout.as_ref(), "timeout").unwrap_or(TIMEOUT);
        let archive = reader.texts(archive.as_ref(), "archive");
        let nodes = stages.as_ref().map(|node| stage_nodes(&mut reader, node)).unwrap_or_default();
        // What is shared counts for the first stage that reads files.
        let stage =
            if nodes.iter().any(|(stage, _)| *stage == Stage::Provision) { Stage::Provision } else { Stage::Boot };
        for node in reader.list(shared.as_ref(), "shared", "paths") {
            if let Some(path) = reader.root_path(node, "shared") {
                reader.needs.push(Need { stage, path, reads: Reads::All, span: node.span, source: None });
            }
        }
        let find = |wanted: Stage| nodes.iter().find(|(stage, _)| *stage == wanted).map(|(_, node)| *node);
        let provision = find(Stage::Provision).and_then(|node| steps::provision(&mut reader, node));
        let boot = find(Stage::Boot).and_then(|node| stages::boot(&mut reader, node));
        let boot = boot.map(|boot| self.boots_from(&mut reader, boot));
        let test = find(Stage::Test).and_then(|node| steps::test(&mut reader, node));
        let snapshot = find(Stage::Snapshot).and_then(|node| stages::snapshot(&mut reader, node));
        let snapshot = snapshot.map(|snapshot| with_glance_options(&mut reader, snapshot, scope));
        let vars = Arc::new(scope.and_then(|scope| scope.get("vars")).cloned().unwrap_or(Value::Null));
        let render = find(Stage::Render).and_then(|node| stages::render(&mut reader, node, vars));
        faults.append(&mut reader.faults);
        let pipeline = boot.map(|boot| Pipeline {
            file: self.path.clone(),
            called: scope.and_then(super::vars::called),
            on_shared_change: self.on_shared_change,
            timeout,
            boot,
            provision,
            test,
            snapshot,
            render,
            archive,
        });
        let Reader { needs, warnings, found, .. } = reader;
        let weight = weight + found.weight;
        (pipeline.map(|pipeline| Bound { pipeline, needs, weight, warnings, found }), faults)
    }

    /// What is booted: what the pipeline says, but with the built-in one what packer would boot.
    fn boots_from(&self, reader: &mut Reader<'_>, mut boot: Boot) -> Boot {
        let Some(machine) = &reader.found.machine else { return boot };
        let Some(image) = machine.image.clone().filter(|image| *image != boot.image) else { return boot };
        let (shown, pipelines) = (described(&image), described(&boot.image));
        let message = match self.todays.is_some() {
            true => format!("the packer template boots {shown}, and not the bundle's `img_base`, which is {pipelines}"),
            false => {
                format!("the packer template boots {shown}; the pipeline's `boot` says {pipelines}, and that is booted")
            }
        };
        let help = "a template that takes what the bundle says has `{{ user `source_image` }}`";
        let fault = machine.image_at.as_ref().map(|(source, span)| source.fault(*span, "other-base", message));
        reader.warnings.extend(fault.map(|fault| fault.with_help(help)));
        if self.todays.is_some() {
            reader.found.inputs.push((Stage::Boot, Input::value("packer builder image", shown)));
            boot.image = image;
        }
        boot
    }
}

/// The snapshot with what `final_glance_options` of the vars says, which wins.
fn with_glance_options(reader: &mut Reader<'_>, mut snapshot: Snapshot, scope: Option<&Value>) -> Snapshot {
    let Some(value) = scope.and_then(|scope| scope.get("vars")?.get(GLANCE_OPTIONS)) else { return snapshot };
    let options = match value {
        Value::Null => return snapshot,
        Value::String(text) => glance::read(text),
        other => Err(format!("`{GLANCE_OPTIONS}` takes a text, and this is {}", other.kind())),
    };
    let options = match options {
        Ok(options) => options,
        Err(why) => {
            let help = "known are --min-disk, --min-ram, --property, --protected, --unprotected, --tag, --private, --shared, \
                        --community, --public and --os-*";
            reader.fault(Span::default(), GLANCE_OPTIONS, why, help);
            return snapshot;
        }
    };
    let counted = |name: &str, value: &str| (Stage::Snapshot, Input::value(format!("{GLANCE_OPTIONS} {name}"), value));
    if let Some(min_disk) = options.min_disk {
        snapshot.min_disk = min_disk;
        reader.found.inputs.push(counted("min_disk", &min_disk.to_string()));
    }
    for (name, value) in options.properties {
        reader.found.inputs.push(counted(&name, &value));
        snapshot.properties.retain(|(known, _)| *known != name);
        snapshot.properties.push((name, Text::literal(value)));
    }
    snapshot.properties.sort_by(|one, other| one.0.cmp(&other.0));
    snapshot
}

fn described(image: &BaseImage) -> String {
    match image {
        BaseImage::Named(name) => format!("`{name}`"),
        BaseImage::Path { path, .. } => format!("`{path}`"),
        BaseImage::Url { url, sha256, .. } => format!("`{url}` ({sha256})"),
        BaseImage::Mmdebstrap(recipe) => format!("Debian {}", recipe.suite),
    }
}

/// The vars with what today's playbook has for those that name no template.
fn with_defaults(scope: &Value, todays: Todays) -> Value {
    let mut scope = scope.clone();
    if let Value::Map(entries) = &mut scope
        && let Some((_, Value::Map(vars))) = entries.iter_mut().find(|(name, _)| name == "vars")
    {
        let named = vars.iter().find(|(name, _)| name == "packer_file").map(|(_, value)| value.to_string());
        let path = format!("{}/{}", todays.templates(), named.as_deref().unwrap_or(USUAL_TEMPLATE));
        vars.retain(|(name, _)| name != "packer_file");
        vars.push(("packer_file".to_owned(), Value::String(path)));
    }
    scope
}

/// A glob of `bundles`.
fn glob(reader: &mut Reader<'_>, node: &Node) -> Option<Pattern> {
    no_expression(reader, node, "bundles")?;
    let text = reader.plain(node, "bundles")?;
    Pattern::new(&text)
        .map_err(|why| {
            let help = "a glob counts from the repository's root: `images/bundle-*`";
            reader.fault(node.span, "bad-glob", format!("{} is no glob of bundles: {why}", quoted(&text)), help);
        })
        .ok()
}

fn no_expression(reader: &mut Reader<'_>, node: &Node, name: &str) -> Option<()> {
    if !node.text().is_some_and(|text| text.contains("{{")) {
        return Some(());
    }
    let help = "it says where bundles and their vars are, so no bundle is known yet";
    reader.fault(node.span, "expression", format!("`{name}` can't hold expressions"), help);
    None
}

/// The stages of a pipeline with their nodes; says unknown, doubled and misplaced ones.
fn stage_nodes<'n>(reader: &mut Reader<'_>, node: &'n Node) -> Vec<(Stage, &'n Node)> {
    let mut found: Vec<(Stage, &Node, Span)> = Vec::new();
    let before = reader.faults.len();
    for item in reader.list(Some(node), "stages", "maps such as `- boot: { … }`") {
        let Some((stage, node, span)) = stage_node(reader, item) else { continue };
        if let Some((_, _, first)) = found.iter().find(|(known, _, _)| *known == stage) {
            let message = format!("stage `{stage}` stands twice");
            let help = format!("it stands in line {} before; put all its steps into one", first.line);
            reader.fault(span, "duplicate-stage", message, help);
            continue;
        }
        if let Some((last, _, _)) = found.last().filter(|(last, _, _)| *last > stage) {
            let message = format!("stage `{stage}` comes after `{last}`");
            reader.fault(span, "stage-order", message, format!("stages run in the order {STAGE_NAMES}"));
        }
        found.push((stage, node, span));
    }
    let has = |wanted: Stage| found.iter().any(|(stage, _, _)| *stage == wanted);
    if !has(Stage::Boot) && reader.faults.len() == before {
        let help = "begin with `- boot: { image: \"{{ bundle.img_base }}\" }`";
        reader.fault(node.span, "no-boot", "the pipeline has no stage `boot`", help);
    }
    found.into_iter().map(|(stage, node, _)| (stage, node)).collect()
}

fn stage_node<'n>(reader: &mut Reader<'_>, item: &'n Node) -> Option<(Stage, &'n Node, Span)> {
    let Kind::Map(entries) = &item.kind else {
        reader.wrong(item, "stages", "maps such as `- boot: { … }`");
        return None;
    };
    let [(key, node)] = entries.as_slice() else {
        let help = "begin each stage with a `-` of its own, and indent its keys below its name";
        reader.fault(item.span, "bad-stage", "one stage is one map with one key", help);
        return None;
    };
    if let Some(stage) = Stage::from_word(&key.text) {
        return Some((stage, node, key.span));
    }
    let names = fields::STAGES.iter().map(|(stage, _)| stage.word());
    let meant = did_you_mean(&key.text, names).map(str::to_owned);
    let fault = (key.span, "unknown-stage", format!("unknown stage {}", quoted(&key.text)));
    reader.hinted(fault, meant, &format!("stages are {STAGE_NAMES}"));
    None
}

#[cfg(test)]
#[path = "pipeline_tests.rs"]
mod tests;
