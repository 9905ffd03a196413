//! What an author should know of a pipeline that can be run: a base that no bundle is, a disk that is larger than the image
//! says, globs of `archive` that nothing lies under.

use super::build_script::no_checksum;
use super::fault::{Fault, Span};
use super::node::{Kind, Node};
use super::pipeline::PipelineFile;
use super::vars::Vars;
use crate::domain::path::RepoPath;
use crate::domain::pipeline::Pipeline;
use crate::domain::places::{LATEST_LOG, Places};

/// Where a pipeline and the vars that it is bound to say things.
pub(super) struct Written<'w> {
    /// The pipeline's file.
    pub(super) file: &'w PipelineFile,
    /// The bundle's vars.
    pub(super) vars: &'w Vars,
}

impl Written<'_> {
    /// A fault where a stage says something; what the built-in pipeline says comes from the vars.
    fn at(&self, stage: &str, name: &str, in_vars: &[&str], code: &'static str, message: &str) -> Fault {
        if self.file.path.is_none() {
            return self.vars.at(in_vars, code, message);
        }
        let stage = stage_of(self.file, stage);
        let value = stage.and_then(|node| node.get(name)).or(stage);
        self.file.source.fault(value.map(|node| node.span).unwrap_or_default(), code, message)
    }
}

/// What an author should know, though the bundle can be built.
pub(super) fn of(written: &Written<'_>, bundle: &RepoPath, pipeline: &Pipeline) -> Vec<Fault> {
    disk(written, pipeline).into_iter().chain(archive(written.file, bundle, pipeline)).collect()
}

/// What an author should know of a base that is no bundle; of a script's download the script's reading says it.
pub(super) fn unknown_base(written: &Written<'_>, image: Span, name: &str) -> Option<Fault> {
    let (file, is_todays) = (written.file, written.file.path.is_none());
    let at = |code, message: &str| written.vars.at(&["bundle", "img_base"], code, message);
    if name.starts_with("http://") || name.starts_with("https://") {
        let said = no_checksum(&file.source, image, name);
        let meant = if is_todays { at(said.code, &said.message).with_help(&said.help) } else { said };
        return (!file.is_todays_os()).then_some(meant);
    }
    let (code, message) = ("unknown-base", format!("no bundle of this repository is called `{name}`"));
    let fault = if is_todays { at(code, &message) } else { file.source.fault(image, code, message) };
    Some(fault.with_help("it is taken for the name of an image, or for an alias of the configuration"))
}

/// The image says that it fits on a smaller disk than it was made on.
fn disk(written: &Written<'_>, pipeline: &Pipeline) -> Option<Fault> {
    const GIB: u64 = 1 << 30;
    let (disk, least) = (pipeline.boot.disk?, pipeline.snapshot.as_ref()?.min_disk);
    if least == 0 || disk <= least.saturating_mul(GIB) {
        return None;
    }
    let needed = disk.div_ceil(GIB);
    let message = format!("the machine's disk is of {needed} GiB, and the image says that {least} GiB are enough");
    let fault = written.at("snapshot", "min_disk", &["final_glance_options"], "small-min-disk", &message);
    Some(fault.with_help(format!("say at least {needed}: a cloud puts the image on no smaller disk then")))
}

/// Globs that match nothing that a build can leave.
fn archive(file: &PipelineFile, bundle: &RepoPath, pipeline: &Pipeline) -> Vec<Fault> {
    let root = file.root.as_ref().and_then(|root| root.get("archive"));
    let spans: Vec<Span> = match root.map(|node| (&node.kind, node.span)) {
        Some((Kind::List(items), _)) => items.iter().map(|item| item.span).collect(),
        Some((_, span)) => vec![span],
        None => return Vec::new(),
    };
    let roots = left_by_builds(bundle, pipeline.called.as_deref());
    let is_lost = |glob: &str| {
        let begins = literal(&glob.replace("{{ build.directory }}", &String::from_utf8_lossy(bundle.name())));
        !roots.iter().any(|root| match root.strip_suffix('*') {
            Some(root) => root.starts_with(&begins) || begins.starts_with(root),
            None => *root == glob || (begins != glob && root.starts_with(&begins)),
        })
    };
    let texts = pipeline.archive.iter().map(ToString::to_string).zip(spans);
    let lost = texts.filter(|(glob, _)| is_lost(glob)).map(|(glob, span)| {
        let fault = file.source.fault(span, "lost-glob", format!("no file of a build lies under `{glob}`"));
        fault.with_help(format!("builds leave {}", roots.join(", ")))
    });
    lost.collect()
}

/// What builds leave, as globs whose only `*` is at the end.
fn left_by_builds(bundle: &RepoPath, called: Option<&str>) -> Vec<String> {
    let mut roots = vec![LATEST_LOG.to_owned(), "reports/*".to_owned(), "console/*".to_owned()];
    for directory in Places::of(bundle, called).directories() {
        roots.push(format!("{directory}/packer.*"));
        roots.push(format!("{directory}/output/*"));
    }
    roots
}

/// The beginning of a glob that stands for itself alone.
fn literal(glob: &str) -> String {
    let end = glob.find(['*', '?', '[', '{', '\\']).unwrap_or(glob.len());
    glob[..end].to_owned()
}

/// What a pipeline says of a stage.
fn stage_of<'f>(file: &'f PipelineFile, name: &str) -> Option<&'f Node> {
    let Kind::List(items) = &file.root.as_ref()?.get("stages")?.kind else { return None };
    items.iter().find_map(|item| item.get(name))
}
