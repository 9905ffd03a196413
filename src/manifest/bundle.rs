//! One bundle, read for itself: its vars, its pipeline bound to them, and what its stages read inside of its directory.
//!
//! All of this depends on nothing but the bundle's tree and the pipeline, so it is kept as long as these are the same.

use std::sync::Arc;

use super::advice::{self, Written};
use super::ansible_settings::AnsibleSettings;
use super::budget::{Budget, Cost};
use super::build_script::{self, BuildScript};
use super::fault::{Fault, Source, Span};
use super::files::{Files, Filter, Problem};
use super::mentions::Mentions;
use super::packer::{Remote, Templates, Used, check_playbook};
use super::pipeline::{Bound, PipelineFile};
use super::reader::{Need, Reads};
use super::reading::Unbuildable;
use super::step_files::add;
use super::yaml::MOST_BYTES;
use super::{values, vars, wanting};
use crate::domain::id::RepoName;
use crate::domain::inputs::{From, Input, Inputs};
use crate::domain::path::RepoPath;
use crate::domain::pipeline::{BaseImage, Pipeline, Stage, StepPath};
use crate::domain::pool::Pool;
use crate::domain::tree::{Tree, TreeError};
use crate::domain::value::Value;

/// The most bytes of one template.
const MOST_TEMPLATE: u64 = 16 * 1024 * 1024;

/// A bundle, but for what lies outside of its directory.
#[derive(Debug)]
pub(super) struct Parsed {
    /// Its pipeline.
    pub(super) pipeline: Arc<Pipeline>,
    /// What an author should know.
    pub(super) warnings: Arc<[Fault]>,
    /// The inputs of each stage that lie inside.
    pub(super) inside: Vec<(Stage, Inputs)>,
    /// What its stages read outside.
    pub(super) outside: Vec<Need>,
    /// What is to be said where the image that it boots from is no bundle.
    pub(super) unknown_base: Option<Box<Fault>>,
}

impl Parsed {
    /// The name that it boots from, where that may be another bundle.
    pub(super) fn base_name(&self) -> Option<&str> {
        base_name(&self.pipeline)
    }
}

fn base_name(pipeline: &Pipeline) -> Option<&str> {
    match &pipeline.boot.image {
        BaseImage::Named(name) if !is_uuid(name) => Some(name),
        _ => None,
    }
}

/// What reading one bundle came to.
#[derive(Debug)]
pub(super) struct Outcome {
    /// The bundle, or why it can't be built.
    pub(super) parsed: Result<Parsed, Unbuildable>,
    /// What reading it took.
    pub(super) cost: Cost,
    /// Whether the answer holds whatever else the repository has: not, where the repository's limits were reached.
    pub(super) lasting: bool,
    /// What outside of the bundle the answer depends on besides the files that its stages read: templates, playbooks.
    pub(super) used: Vec<Used>,
}

impl Outcome {
    /// Has the bundle share with others in the pool what they have too.
    pub(super) fn share(&mut self, pool: &mut Pool) {
        for (path, _) in &mut self.used {
            *path = pool.path(path.clone());
        }
        let Ok(parsed) = &mut self.parsed else { return };
        if let Some(pipeline) = Arc::get_mut(&mut parsed.pipeline) {
            pipeline.share(pool);
        }
        parsed.inside.iter_mut().for_each(|(_, inputs)| inputs.share(pool));
    }
}

/// Reads a bundle.
///
/// # Errors
/// When the tree itself fails.
pub(super) fn read(
    tree: &dyn Tree,
    (bundle, repository): (&RepoPath, &RepoName),
    (file, templates): (&PipelineFile, &Templates<'_>),
    budget: &mut Budget,
) -> Result<Outcome, TreeError> {
    budget.begin();
    templates.begin();
    let mut reading = BundleReading { tree, bundle, file, templates, budget };
    let (parsed, lasting) = match reading.read(repository) {
        Ok(parsed) => (Ok(parsed), true),
        Err(Refusal::Unbuildable(why)) => (Err(why), true),
        Err(Refusal::Limit(why)) => (Err(why), false),
        Err(Refusal::Tree(error)) => return Err(error),
    };
    Ok(Outcome { parsed, cost: budget.cost(), lasting, used: templates.used()? })
}

enum Refusal {
    Unbuildable(Unbuildable),
    Limit(Unbuildable),
    Tree(TreeError),
}

impl std::convert::From<TreeError> for Refusal {
    fn from(error: TreeError) -> Self {
        Self::Tree(error)
    }
}

struct BundleReading<'r> {
    tree: &'r dyn Tree,
    bundle: &'r RepoPath,
    file: &'r PipelineFile,
    templates: &'r Templates<'r>,
    budget: &'r mut Budget,
}

impl BundleReading<'_> {
    fn read(&mut self, repository: &RepoName) -> Result<Parsed, Refusal> {
        let script = if self.file.is_todays_os() { Some(self.build_script()?) } else { None };
        let vars = self.vars()?;
        let value =
            script.as_ref().map_or_else(|| vars.value.clone(), |script| build_script::in_vars(&vars.value, script));
        self.charge(vars::kept(&value).saturating_sub(vars::kept(&vars.value)))?;
        let scope = vars::scope(&value, repository);
        self.file = self.file.of(&scope, self.templates);
        let bound = self.file.bind(self.bundle, &scope, self.templates);
        let mut bound = bound.map_err(|faults| unbuildable(at_vars(self.file, &vars, faults)))?;
        self.charge(bound.weight)?;
        let settings = AnsibleSettings { tree: self.tree, bundle: self.bundle, templates: self.templates };
        self.charge(settings.read(&mut bound)?)?;
        let mut warnings = vars.warnings.clone();
        if let Some(script) = script {
            bound.take_script(&script, self.bundle);
            // Vars may name another image than the one that the script downloads.
            let is_booted = bound.pipeline.boot.image == BaseImage::Named(script.url);
            let meant = |warning: &Fault| is_booted || warning.code != build_script::NO_CHECKSUM;
            warnings.extend(script.warnings.into_iter().filter(meant));
        }
        warnings.extend(dead_flavor(&vars, &bound));
        warnings.extend(bound.warnings);
        warnings.extend(self.playbooks(&bound.found.remotes)?);
        let (inside, outside): (Vec<Need>, Vec<Need>) = bound
            .needs
            .into_iter()
            .map(|need| self.place(need))
            .partition(|need| matches!(need.path, StepPath::Bundle(_)));
        let mut stages = Vec::with_capacity(Stage::ALL.len());
        let mut wanting = Vec::new();
        for stage in bound.pipeline.stages().collect::<Vec<_>>() {
            let root = self.file.root.as_ref();
            let mut inputs = root.map(|root| values::of_stage(root, stage, &scope)).unwrap_or_default();
            inputs.extend(self.files(inside.iter().filter(|need| need.stage == stage), &mut wanting)?);
            let values = bound.found.inputs.iter().filter(|(of, _)| *of == stage);
            inputs.extend(values.map(|(_, input)| input.clone()));
            if stage == Stage::Render {
                inputs.extend(self.templates(&bound.pipeline, &vars.value)?);
            }
            stages.push((stage, Inputs::new(inputs)));
        }
        if !wanting.is_empty() {
            self.look_outside(&outside, &mut wanting)?;
            return Err(Refusal::Unbuildable(wanting::all_of(wanting)));
        }
        let written = Written { file: self.file, vars: &vars };
        warnings.extend(advice::of(&written, self.bundle, &bound.pipeline));
        let image = self.image_span();
        let unknown_base = base_name(&bound.pipeline).and_then(|name| advice::unknown_base(&written, image, name));
        let pipeline = Arc::new(bound.pipeline);
        let unknown_base = unknown_base.map(Box::new);
        Ok(Parsed { pipeline, warnings: warnings.into(), inside: stages, outside, unknown_base })
    }

    /// Looks whom the playbooks of the host are for; gives what an author should know.
    fn playbooks(&mut self, remotes: &[Remote]) -> Result<Vec<Fault>, Refusal> {
        let (mut faults, mut warnings) = (Vec::new(), Vec::new());
        for remote in remotes {
            let mut files = Files::new(self.tree, From::Root, RepoPath::root(), Filter::All);
            // One that is missing is said with the files that the stage reads.
            let Ok((path, entry)) = files.resolve(&remote.path) else { continue };
            self.templates.note(&remote.path);
            let Ok(bytes) = self.tree.read(&path, MOST_BYTES) else { continue };
            self.charge(bytes.len())?;
            if let (true, Ok(text)) = (entry.kind.is_file(), std::str::from_utf8(&bytes)) {
                let (more, others) = check_playbook(text, remote);
                faults.extend(more);
                warnings.extend(others);
            }
        }
        if faults.is_empty() { Ok(warnings) } else { Err(unbuildable(faults)) }
    }

    /// A path from the root that lies in the bundle is one of the bundle's.
    fn place(&self, need: Need) -> Need {
        let path = match need.path {
            StepPath::Root(path) => match path.below(self.bundle) {
                Some(path) => StepPath::Bundle(path),
                None => StepPath::Root(path),
            },
            bundle @ StepPath::Bundle(_) => bundle,
        };
        Need { path, ..need }
    }

    fn vars(&mut self) -> Result<vars::Vars, Refusal> {
        let (path, text) = self.text(&self.file.vars.to_string(), "a bundle's vars give it name and base")?;
        let vars = vars::read(&path.to_string(), self.bundle, &text).map_err(unbuildable)?;
        self.charge(vars::kept(&vars.value))?;
        Ok(vars)
    }

    /// The text of a file without which the bundle is none; `about` says what it is for.
    fn text(&mut self, name: &str, about: &str) -> Result<(RepoPath, String), Refusal> {
        let file = format!("{}/{name}", self.bundle);
        let refused = |span: Span, code: &'static str, reason: String, help: &str| {
            let fault = Fault::new(&file, span, code, &reason).with_help(help);
            Refusal::Unbuildable(Unbuildable { reason, faults: vec![fault] })
        };
        let refuse = |code: &'static str, reason: String, help: &str| refused(Span::default(), code, reason, help);
        let missing = || refuse("missing-file", format!("{name} is missing"), about);
        let Some(path) = self.bundle.join(name.as_bytes()) else { return Err(missing()) };
        let mut files = Files::new(self.tree, From::Bundle, self.bundle.clone(), Filter::All);
        let path = match files.resolve(&path) {
            Ok((path, entry)) if entry.kind.is_file() => path,
            Ok(_) => return Err(refuse("missing-file", format!("{name} is not a file"), about)),
            Err(Problem::Missing(_)) => return Err(missing()),
            Err(Problem::Tree(error @ TreeError::Broken { .. })) => return Err(error.into()),
            Err(problem) => {
                return Err(refuse("bad-link", problem.to_string(), "commit the file itself in place of the link"));
            }
        };
        let bytes = match self.tree.read(&path, MOST_BYTES) {
            Err(TreeError::TooLarge { .. }) => {
                let reason = format!("{name} is larger than {MOST_BYTES} bytes");
                return Err(refuse("too-large", reason, "what is large belongs into a file that a step reads"));
            }
            other => other?,
        };
        self.charge(bytes.len())?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let span = end_of(&error.as_bytes()[..error.utf8_error().valid_up_to()]);
            refused(span, "not-utf-8", format!("{name} is not UTF-8"), "save it again as UTF-8")
        })?;
        Ok((path, text))
    }

    /// What the script of an image of an operating system says.
    fn build_script(&mut self) -> Result<BuildScript, Refusal> {
        let (path, text) = self.text(build_script::FILE, "it says what the image is made from")?;
        build_script::read(&Source::new(path.to_string(), &text)).map_err(unbuildable)
    }

    /// The files that a stage's steps read in the bundle; those that can't be read are put to what is wanting.
    fn files<'n>(
        &mut self,
        needs: impl Iterator<Item = &'n Need>,
        wanting: &mut Vec<Unbuildable>,
    ) -> Result<Vec<Input>, Refusal> {
        let mut files = Files::new(self.tree, From::Bundle, self.bundle.clone(), Filter::All);
        for need in needs {
            if let Err(problem) = add(&mut files, need, self.bundle, self.budget) {
                match self.refusal(need, problem) {
                    Refusal::Unbuildable(why) => wanting.push(why),
                    other => return Err(other),
                }
            }
        }
        Ok(files.into_inputs())
    }

    /// Says what is missing outside of the bundle too, where something in it is: an author mends all at once.
    fn look_outside(&mut self, needs: &[Need], wanting: &mut Vec<Unbuildable>) -> Result<(), Refusal> {
        for need in needs {
            let path = need.path.in_repository(self.bundle);
            let mut files = Files::new(self.tree, From::Root, RepoPath::root(), Filter::All);
            self.templates.note(&path);
            match files.resolve(&path) {
                Err(problem @ Problem::Missing(_)) => match self.refusal(need, problem) {
                    Refusal::Unbuildable(why) => wanting.push(why),
                    other => return Err(other),
                },
                Err(Problem::Tree(error @ TreeError::Broken { .. })) => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }

    fn refusal(&self, need: &Need, problem: Problem) -> Refusal {
        match wanting::refusal(self.file, self.bundle, need, problem) {
            Ok((why, true)) => Refusal::Unbuildable(why),
            Ok((why, false)) => Refusal::Limit(why),
            Err(error) => Refusal::Tree(error),
        }
    }

    /// The templates, by content, and the vars that they could use. No directory of templates means no templates.
    fn templates(&mut self, pipeline: &Pipeline, vars: &Value) -> Result<Vec<Input>, Refusal> {
        let Some(render) = &pipeline.render else { return Ok(Vec::new()) };
        let need = Need {
            stage: Stage::Render,
            path: StepPath::Bundle(render.templates.clone()),
            reads: Reads::All,
            span: Span::default(),
            source: None,
        };
        let path = need.path.in_repository(self.bundle);
        let mut files = Files::new(self.tree, From::Bundle, self.bundle.clone(), Filter::Templates);
        match files.add(&path, self.budget) {
            Ok(_) | Err(Problem::Missing(_)) => {}
            Err(problem) => return Err(self.refusal(&need, problem)),
        }
        let mut mentions = Mentions::default();
        for path in files.paths() {
            let source = match self.tree.read(path, MOST_TEMPLATE) {
                Err(error @ TreeError::TooLarge { .. }) => return Err(self.refusal(&need, Problem::Tree(error))),
                other => other?,
            };
            self.budget.bytes(source.len()).map_err(|exceeded| self.refusal(&need, exceeded.into()))?;
            mentions.scan(&source, path.as_bytes().ends_with(b".hbs"));
        }
        let name = pipeline.snapshot.as_ref().map(|snapshot| snapshot.name.without_build());
        let mut inputs = files.into_inputs();
        inputs.extend(mentions.inputs(vars, name.as_deref()));
        Ok(inputs)
    }

    fn charge(&mut self, bytes: usize) -> Result<(), Refusal> {
        self.budget
            .bytes(bytes)
            .map_err(|exceeded| Refusal::Limit(Unbuildable { reason: exceeded.to_string(), faults: Vec::new() }))
    }

    fn image_span(&self) -> Span {
        let stages = self.file.root.as_ref().and_then(|root| root.get("stages"));
        let super::node::Kind::List(items) = (match stages {
            Some(node) => &node.kind,
            None => return Span::default(),
        }) else {
            return Span::default();
        };
        let image = items.iter().find_map(|item| item.get("boot")?.get("image"));
        image.map(|node| node.span).unwrap_or_default()
    }
}

/// The place behind a text.
fn end_of(text: &[u8]) -> Span {
    let line = text.iter().filter(|byte| **byte == b'\n').count() + 1;
    let start = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let column = String::from_utf8_lossy(&text[start..]).chars().count() + 1;
    Span { line, column, length: 1 }
}

fn unbuildable(faults: Vec<Fault>) -> Refusal {
    Refusal::Unbuildable(Unbuildable { reason: summary(&faults), faults })
}

/// What is wrong with the template that the vars name is said at the vars, where the pipeline is built in; with the usual
/// one, at the template itself.
fn at_vars(file: &PipelineFile, vars: &vars::Vars, mut faults: Vec<Fault>) -> Vec<Fault> {
    let of_template = |fault: &&mut Fault| {
        file.path.is_none()
            && fault.file == file.name()
            && matches!(fault.code, "missing-file" | "bad-link" | "submodule")
    };
    for fault in faults.iter_mut().filter(|fault| fault.code == super::pipeline::GLANCE_OPTIONS) {
        if let Some(at) = vars.fault(fault.code, "bad-flag", &fault.message) {
            *fault = at.with_help(&fault.help);
        }
    }
    // What the built-in pipeline asks for and the vars lack is wanting in the vars.
    for fault in faults.iter_mut().filter(|fault| file.path.is_none() && fault.code == "expression") {
        if let Some(at) = vars.wanting(&fault.message) {
            let lacks = fault.message.contains("is not defined");
            let todays = "today's bundles say `bundle:` with `name`, `img_base` and `properties`";
            *fault = at.with_help(if lacks { todays } else { fault.help.as_str() });
        }
    }
    faults.dedup_by(|one, other| one.file == other.file && one.message == other.message);
    for fault in faults.iter_mut().filter(of_template) {
        let usual = || Fault::new(&file.usual_template(), Span::default(), fault.code, &fault.message);
        let at = vars.fault("packer_file", fault.code, &fault.message).unwrap_or_else(usual);
        *fault = at.with_hint(&fault.hint).with_help(&fault.help);
    }
    faults
}

/// A flavor that reaches no machine.
fn dead_flavor(vars: &vars::Vars, bound: &Bound) -> Option<Fault> {
    let fault = vars.fault("vm_flavor", "dead-variable", "`vm_flavor` changes nothing")?;
    let help =
        "the packer template does not declare the variable that it is passed by: the template's own flavor counts";
    bound.found.flavor_is_dead.then(|| fault.with_help(help))
}

/// What a fault advises, to be put behind it.
fn advice(fault: &Fault) -> String {
    let advice = fault.advice();
    if advice.is_empty() { advice } else { format!("; {advice}") }
}

/// The faults in one line.
pub(super) fn summary(faults: &[Fault]) -> String {
    match faults {
        [] => "it can't be read".to_owned(),
        [fault] => format!("{fault}{}", advice(fault)),
        [fault, rest @ ..] => format!("{fault}{}, and {} more", advice(fault), rest.len()),
    }
}

fn is_uuid(text: &str) -> bool {
    let groups: Vec<usize> = text.split('-').map(str::len).collect();
    groups == [8, 4, 4, 4, 12] && text.chars().all(|c| c == '-' || c.is_ascii_hexdigit())
}
