//! A repository at one commit: every bundle with the inputs and declared fingerprints of its stages, or why it has none.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use super::bases::{self, Base, Names};
use super::budget::{Budget, Cost};
use super::bundle::{self, Outcome, Parsed};
use super::cache::{BundleKey, Cache, Entry, Kept, Surroundings};
use super::discovery::{self, Candidate, Discovery};
use super::fault::{Fault, Span};
use super::files::{Files, Filter};
use super::packer::Templates;
use super::pipeline::PipelineFile;
use super::reader::{Need, Reads};
use super::step_files;
use super::wanting;
use crate::domain::id::{Digest, Fingerprint, RepoName};
use crate::domain::inputs::{self, From, Input, Inputs, SharedInputs};
use crate::domain::path::RepoPath;
use crate::domain::pipeline::{Pipeline, Stage, StepPath};
use crate::domain::tree::{Tree, TreeError};

/// The most faults of bundles that a reading keeps whole; after these, each bundle keeps its first.
const MOST_BUNDLE_FAULTS: usize = 2000;

/// What a repository holds at one commit.
#[derive(Debug)]
pub struct Reading {
    /// The bundles, sorted by the bytes of their paths.
    pub bundles: Vec<BundleReading>,
    /// Directories of today's factory that nothing here builds, with what they lack; in no plan. Sorted by path.
    pub elsewhere: Vec<(RepoPath, Unbuildable)>,
    /// What is wrong with the pipelines.
    pub faults: Vec<Fault>,
    /// Whether these are all the bundles there are. Where a pipeline's globs can't be read, a bundle that is missing here
    /// must not be taken for deleted.
    pub complete: bool,
}

/// One bundle of a reading.
#[derive(Debug)]
pub struct BundleReading {
    /// Its directory.
    pub path: RepoPath,
    /// The bundle, or why it can't be built.
    pub verdict: Result<Arc<Buildable>, Unbuildable>,
}

/// Why a bundle can't be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unbuildable {
    /// In one line.
    pub reason: String,
    /// What is wrong, with places; may be empty.
    pub faults: Vec<Fault>,
}

/// A bundle that can be built.
#[derive(Debug)]
pub struct Buildable {
    /// What its stages do.
    pub pipeline: Arc<Pipeline>,
    /// The pipeline's file, as messages name it.
    pub pipeline_name: String,
    /// The inputs of its stages, in order.
    pub stages: Vec<StageInputs>,
    /// The bundle it is based on.
    pub base: Option<RepoPath>,
    /// What an author should know.
    pub warnings: Arc<[Fault]>,
}

/// What a stage depends on.
#[derive(Clone, Debug)]
pub struct StageInputs {
    /// The stage.
    pub stage: Stage,
    /// Its own inputs, without those of the stages before.
    pub own: Inputs,
    /// The sum of its own inputs.
    pub own_digest: Digest,
    /// Its declared fingerprint.
    pub declared: Fingerprint,
}

impl Reading {
    /// A bundle that can be built.
    pub fn buildable(&self, path: &RepoPath) -> Option<&Arc<Buildable>> {
        let index = self.bundles.binary_search_by(|bundle| bundle.path.cmp(path)).ok()?;
        self.bundles[index].verdict.as_ref().ok()
    }
}

impl Buildable {
    /// The declared fingerprints of its stages, in order.
    pub fn prints(&self) -> impl Iterator<Item = (Stage, Fingerprint)> {
        self.stages.iter().map(|stage| (stage.stage, stage.declared))
    }

    /// The own inputs of its stages, in order.
    pub fn own(&self) -> Vec<(Stage, Inputs)> {
        self.stages.iter().map(|stage| (stage.stage, stage.own.clone())).collect()
    }

    /// The inputs of a stage, if the pipeline has it.
    pub fn stage(&self, stage: Stage) -> Option<&StageInputs> {
        self.stages.iter().find(|inputs| inputs.stage == stage)
    }

    /// The declared fingerprint of its disk: what bundles based on it depend on.
    pub fn disk(&self) -> Option<Fingerprint> {
        self.stage(self.pipeline.disk_stage()).map(|inputs| inputs.declared)
    }
}

/// What lies at a path outside of bundles: the inputs it gives, or why it gives none.
#[derive(Debug)]
pub(super) struct Outside {
    inputs: SharedInputs,
    cost: Cost,
}

/// Reads a repository. `cache` keeps what did not change from reading to reading; use one per repository.
///
/// # Errors
/// When the tree itself can't be read. Whatever is wrong *in* the repository is in the reading.
pub fn read(tree: &dyn Tree, repository: &RepoName, cache: &Cache) -> Result<Reading, TreeError> {
    let mut kept = cache.begin();
    let Discovery { pipelines, bundles, faults, elsewhere, complete } = discovery::discover(tree)?;
    let mut run = Run {
        tree,
        repository,
        identities: pipelines.iter().map(|file| identity(repository, file)).collect(),
        pipelines: &pipelines,
        kept: &mut kept,
        budget: Budget::new(),
        outside: HashMap::new(),
        templates: Templates::new(tree),
    };
    let mut entries = Vec::with_capacity(bundles.len());
    for candidate in &bundles {
        entries.push(run.entry(candidate)?);
    }
    let mut verdicts = run.finish(&bundles, entries)?;
    kept.end();
    few_faults(&mut verdicts);
    let reading = |(bundle, verdict): (Candidate, _)| BundleReading { path: bundle.path, verdict };
    let bundles = bundles.into_iter().zip(verdicts).map(reading).collect();
    Ok(Reading { bundles, elsewhere, faults, complete })
}

type Verdict = Result<Arc<Buildable>, Unbuildable>;

struct Run<'r> {
    tree: &'r dyn Tree,
    repository: &'r RepoName,
    pipelines: &'r [PipelineFile],
    /// What each pipeline is, for the keys of what is kept.
    identities: Vec<Digest>,
    kept: &'r mut Kept,
    budget: Budget,
    /// What lies outside, looked up once per reading.
    outside: HashMap<(Reads, RepoPath), Arc<Outside>>,
    /// Packer templates, parsed once per reading.
    templates: Templates<'r>,
}

impl Run<'_> {
    /// A bundle for itself: kept, or read now. `Err` where it needs no reading to be refused.
    fn entry(&mut self, candidate: &Candidate) -> Result<Result<Arc<Entry>, Unbuildable>, TreeError> {
        let refuse = |reason: String| Ok(Err(Unbuildable { reason, faults: Vec::new() }));
        let index = match candidate.pipelines.as_slice() {
            [one] => *one,
            several => {
                let names: Vec<&str> = several.iter().map(|index| self.pipelines[*index].name()).collect();
                return refuse(format!("more than one pipeline matches it: {}", names.join(", ")));
            }
        };
        let file = &self.pipelines[index];
        if !file.faults.is_empty() {
            let many =
                if file.faults.len() == 1 { "a fault".to_owned() } else { format!("{} faults", file.faults.len()) };
            return refuse(format!("{} has {many}", file.name()));
        }
        let key = candidate.oid.map(|tree| BundleKey {
            pipeline: self.identities[index],
            path: candidate.path.clone(),
            tree,
        });
        if let Some(entry) = key.as_ref().and_then(|key| self.kept.bundle(key, &self.templates)) {
            self.budget.begin();
            return match self.budget.take(entry.outcome.cost) {
                Ok(()) => Ok(Ok(entry)),
                Err(exceeded) => refuse(exceeded.to_string()),
            };
        }
        let around = (file, &self.templates);
        let mut outcome = bundle::read(self.tree, (&candidate.path, self.repository), around, &mut self.budget)?;
        outcome.share(&mut self.kept.pool);
        let lasting = outcome.lasting;
        let entry = Arc::new(Entry { outcome, last: std::sync::Mutex::new(None) });
        if let Some(key) = key.filter(|_| lasting) {
            self.kept.keep_bundle(key, Arc::clone(&entry));
        }
        Ok(Ok(entry))
    }

    /// Puts bundles together, a base before those based on it.
    fn finish(
        &mut self,
        bundles: &[Candidate],
        entries: Vec<Result<Arc<Entry>, Unbuildable>>,
    ) -> Result<Vec<Verdict>, TreeError> {
        let names = Names::new(bundles.iter().map(|bundle| &bundle.path));
        let meant: Vec<Base> =
            entries.iter().map(|entry| parsed(entry).map_or(Base::None, |p| base_of(&names, p))).collect();
        let edges: Vec<Option<usize>> =
            meant.iter().map(|base| if let Base::Bundle(index) = base { Some(*index) } else { None }).collect();
        let order = bases::sort(&edges);
        let path = |index: usize| &bundles[index].path;
        let refuse = |index: usize, code: &'static str, reason: String, help: &str| -> Verdict {
            let candidate = &bundles[index];
            let vars = candidate
                .pipelines
                .first()
                .map_or_else(String::new, |pipeline| self.pipelines[*pipeline].vars.to_string());
            let file = format!("{}/{vars}", candidate.path);
            let fault = Fault::new(&file, Span::default(), code, &reason).with_help(help);
            Err(Unbuildable { reason, faults: vec![fault] })
        };
        let is_broken = "mend that one first, or base this bundle on another image";
        let mut verdicts: Vec<Option<Verdict>> = entries.iter().map(|_| None).collect();
        for index in order.order {
            let verdict = match (&entries[index], &meant[index]) {
                (Err(why), _) => Err(why.clone()),
                (Ok(_), Base::Several(several)) => {
                    let paths: Vec<String> = several.iter().map(|index| path(*index).to_string()).collect();
                    let name = parsed(&entries[index]).and_then(Parsed::base_name).unwrap_or_default();
                    let reason = format!("its base `{name}` may be any of {}; name one by its path", paths.join(", "));
                    refuse(index, "ambiguous-base", reason, "a path begins at the repository's root")
                }
                (Ok(entry), Base::None) => self.whole(&bundles[index], entry, None)?,
                (Ok(entry), Base::Bundle(base)) => match verdicts[*base].as_ref().and_then(|base| base.as_ref().ok()) {
                    None => refuse(index, "base", format!("its base {} can't be built", path(*base)), is_broken),
                    Some(buildable) => {
                        let base = buildable.disk().map(|disk| (path(*base).clone(), disk));
                        self.whole(&bundles[index], entry, base)?
                    }
                },
            };
            verdicts[index] = Some(verdict);
        }
        for (index, cycle) in order.cycles {
            let around = cycle.iter().chain([&index]).map(|index| path(*index).to_string()).collect::<Vec<_>>();
            let reason = format!("it is based on itself: {}", around.join(" → "));
            verdicts[index] = Some(refuse(index, "base-cycle", reason, "base one of them on an image"));
        }
        for index in order.behind {
            let base = edges[index].map(|base| path(base).to_string()).unwrap_or_default();
            verdicts[index] = Some(refuse(index, "base", format!("its base {base} can't be built"), is_broken));
        }
        // Every index is in exactly one of the three.
        Ok(verdicts.into_iter().flatten().collect())
    }

    /// A bundle with what lies outside of it, and its fingerprints.
    fn whole(
        &mut self,
        candidate: &Candidate,
        entry: &Arc<Entry>,
        base: Option<(RepoPath, Fingerprint)>,
    ) -> Result<Verdict, TreeError> {
        let parsed = match &entry.outcome.parsed {
            Ok(parsed) => parsed,
            Err(why) => return Ok(Err(why.clone())),
        };
        let file = &self.pipelines[candidate.pipelines[0]];
        let mut outside = Vec::with_capacity(parsed.outside.len());
        let mut wanting = Vec::new();
        for need in &parsed.outside {
            match self.outside(file, &candidate.path, need)? {
                Ok(found) => outside.push(found),
                Err(why) => wanting.push(why),
            }
        }
        if !wanting.is_empty() {
            return Ok(Err(wanting::all_of(wanting)));
        }
        let surroundings = Surroundings { outside: outside.iter().map(|found| found.inputs.digest()).collect(), base };
        let mut last = entry.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((before, buildable)) = &*last
            && *before == surroundings
        {
            return Ok(Ok(Arc::clone(buildable)));
        }
        let buildable = Arc::new(assemble(parsed, file, &outside, surroundings.base.as_ref()));
        *last = Some((surroundings, Arc::clone(&buildable)));
        Ok(Ok(buildable))
    }

    /// What lies at a path outside of bundles: once per reading, and kept while its id is the same.
    fn outside(
        &mut self,
        file: &PipelineFile,
        bundle: &RepoPath,
        need: &Need,
    ) -> Result<Result<Arc<Outside>, Unbuildable>, TreeError> {
        let StepPath::Root(path) = &need.path else { unreachable!("what lies inside is not looked for outside") };
        let memo = (need.reads, path.clone());
        if let Some(found) = self.outside.get(&memo) {
            return Ok(Ok(Arc::clone(found)));
        }
        // What pytest reads lies also above the path, so no one id stands for it.
        let is_playbook = matches!(need.reads, Reads::Playbook | Reads::Beside);
        let place = if is_playbook { path.parent() } else { path.clone() };
        let oid = self.tree.entry(&place)?.and_then(|entry| entry.oid).filter(|_| need.reads != Reads::Tests);
        let key = oid.map(|oid| (need.reads, path.clone(), oid));
        if let Some(found) = key.as_ref().and_then(|key| self.kept.outside(key)) {
            self.budget.begin();
            if self.budget.take(found.cost).is_ok() {
                self.outside.insert(memo, Arc::clone(&found));
                return Ok(Ok(found));
            }
        }
        self.budget.begin();
        let mut files = Files::new(self.tree, From::Root, RepoPath::root(), Filter::All);
        if let Err(problem) = step_files::add(&mut files, need, &RepoPath::root(), &mut self.budget) {
            return wanting::refusal(file, bundle, need, problem).map(|(why, _)| Err(why));
        }
        let (has_links, inputs) = (files.has_links, SharedInputs::new(Inputs::new(files.into_inputs())));
        let found = Arc::new(Outside { inputs, cost: self.budget.cost() });
        if let Some(key) = key.filter(|_| !has_links) {
            self.kept.keep_outside(key, Arc::clone(&found));
        }
        self.outside.insert(memo, Arc::clone(&found));
        Ok(Ok(found))
    }
}

fn parsed(entry: &Result<Arc<Entry>, Unbuildable>) -> Option<&Parsed> {
    let Outcome { parsed, .. } = &entry.as_ref().ok()?.outcome;
    parsed.as_ref().ok()
}

fn base_of(names: &Names<'_>, parsed: &Parsed) -> Base {
    parsed.base_name().map_or(Base::None, |name| names.find(name))
}

/// The stages with all their inputs, chained.
fn assemble(
    parsed: &Parsed,
    file: &PipelineFile,
    outside: &[Arc<Outside>],
    base: Option<&(RepoPath, Fingerprint)>,
) -> Buildable {
    let mut stages: Vec<StageInputs> = Vec::with_capacity(parsed.inside.len());
    for (stage, inside) in &parsed.inside {
        let found = parsed.outside.iter().zip(outside).filter(|(need, _)| need.stage == *stage);
        let base = base
            .filter(|_| *stage == Stage::Boot)
            .map(|(bundle, fingerprint)| Input::Base { bundle: bundle.clone(), fingerprint: *fingerprint });
        let own = inside.with(base).with_shared(found.map(|(_, found)| found.inputs.clone()));
        let own_digest = own.digest();
        let parent = parsed.pipeline.parent(*stage);
        let parent = stages.iter().find(|earlier| Some(earlier.stage) == parent).map(|earlier| earlier.declared);
        let declared = inputs::declared(*stage, parent, own_digest);
        stages.push(StageInputs { stage: *stage, own, own_digest, declared });
    }
    let mut warnings = Arc::clone(&parsed.warnings);
    if let (Some(unknown), None) = (&parsed.unknown_base, base) {
        warnings = warnings.iter().chain([unknown.as_ref()]).cloned().collect();
    }
    Buildable {
        pipeline: Arc::clone(&parsed.pipeline),
        pipeline_name: file.name().to_owned(),
        stages,
        base: base.map(|(path, _)| path.clone()),
        warnings,
    }
}

fn identity(repository: &RepoName, file: &PipelineFile) -> Digest {
    let path = file.path.as_ref().map_or(&b""[..], |path| path.as_bytes());
    Digest::of(&[repository.as_str().as_bytes(), b"\0", path, b"\0", file.source.text().as_bytes()].concat())
}

/// A fault of the pipeline comes up in every bundle; nobody reads it ten thousand times.
fn few_faults(verdicts: &mut [Verdict]) {
    let mut left = MOST_BUNDLE_FAULTS;
    for why in verdicts.iter_mut().filter_map(|verdict| verdict.as_mut().err()) {
        why.faults.truncate(left.max(1));
        left = left.saturating_sub(why.faults.len());
    }
}

#[cfg(test)]
#[path = "reading_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "os_tests.rs"]
mod os_tests;
