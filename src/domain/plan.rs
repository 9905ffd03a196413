//! Plans: what would be done for each bundle of a commit, stage by stage, and why.
//!
//! Planning creates nothing. It compares the declared fingerprints of a commit with what is known: results that are kept,
//! what is served, what failed. Names, times and commit ranges decide nothing, so a force push, a first push, a merge or a
//! revert needs no case of its own here.

mod canary;
pub mod forecast;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::id::{BuildNo, CommitId, Digest, Fingerprint};
use super::inputs::{Difference, Inputs};
use super::path::RepoPath;
use super::pipeline::{SharedChange, Stage};

/// What a plan does with a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StageState {
    /// Its result is kept.
    Hit,
    /// Its own inputs differ from the last result's: the cause.
    Changed,
    /// It follows from a change, or was never done.
    Miss,
    /// This plan does not run it.
    Skipped,
}

impl StageState {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Changed => "changed",
            Self::Miss => "miss",
            Self::Skipped => "skipped",
        }
    }
}

/// What a plan does with a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// A machine is booted.
    Build,
    /// Only output templates are rendered.
    Render,
    /// An image that is there is published, or its name and properties are put right; no machine boots.
    Publish,
    /// What is served has these inputs.
    Unchanged,
    /// It should be built and is not, for the reason given.
    Stale,
    /// It can't be built, for the reason given.
    Unbuildable,
}

impl Action {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Build => "build",
            Self::Render => "render",
            Self::Publish => "publish",
            Self::Unchanged => "unchanged",
            Self::Stale => "stale",
            Self::Unbuildable => "unbuildable",
        }
    }

    /// Whether it takes a build.
    pub fn is_work(self) -> bool {
        matches!(self, Self::Build | Self::Render | Self::Publish)
    }
}

/// One stage of a bundle, as a commit has it.
#[derive(Clone, Debug, PartialEq)]
pub struct StageNeed<'a> {
    /// The stage.
    pub stage: Stage,
    /// Its declared fingerprint.
    pub declared: Fingerprint,
    /// The sum of its own inputs.
    pub own_digest: Digest,
    /// Its own inputs.
    pub own: &'a Inputs,
}

/// One bundle, as a commit has it.
#[derive(Clone, Debug)]
pub struct Candidate<'a> {
    /// Its directory.
    pub bundle: &'a RepoPath,
    /// What a change outside of the bundle does.
    pub policy: SharedChange,
    /// Its stages in order, or why it can't be built.
    pub stages: Result<Vec<StageNeed<'a>>, &'a str>,
}

/// The declared fingerprints that each bundle is served with.
pub type ServedPrints = HashMap<RepoPath, Vec<(Stage, Fingerprint)>>;

/// What is known about results: everything a plan depends on besides the commit.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Declared fingerprints whose result is kept and usable.
    pub kept: HashMap<Fingerprint, Kept>,
    /// Declared fingerprints that failed or were cancelled, with the build.
    pub failed: HashMap<Fingerprint, BuildNo>,
    /// What is served for a bundle: the declared fingerprints under which it was published.
    pub served: Arc<ServedPrints>,
    /// Bundles that are known and were never served, since they can't be built.
    pub unbuildable: Vec<RepoPath>,
    /// The own inputs of a bundle's last results.
    pub last: HashMap<RepoPath, Vec<(Stage, Inputs)>>,
    /// How long a bundle's last builds took, in milliseconds: the cheapest goes first.
    pub durations: HashMap<RepoPath, u64>,
    /// Bundles of which a build is queued or runs.
    pub active: HashSet<RepoPath>,
}

/// Whether a kept result may still be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It may.
    Usable,
    /// The pipeline's `expire` is over.
    Expired,
}

/// One stage of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagePlan {
    /// The stage.
    pub stage: Stage,
    /// What is done with it.
    pub state: StageState,
    /// Its declared fingerprint.
    pub fingerprint: Fingerprint,
    /// Why, in one line.
    pub reason: Cow<'static, str>,
    /// What differs from the last result, where its own inputs do.
    pub differences: Vec<Difference>,
}

/// One bundle of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundlePlan {
    /// Its directory.
    pub bundle: RepoPath,
    /// What is done with it.
    pub action: Action,
    /// Whether it goes first, for the others that the same shared change touches.
    pub canary: bool,
    /// Why, in one line.
    pub reason: Cow<'static, str>,
    /// Its stages; empty where it can't be built.
    pub stages: Vec<StagePlan>,
}

impl BundlePlan {
    /// The stages that run.
    pub fn work(&self) -> impl Iterator<Item = &StagePlan> {
        self.stages.iter().filter(|stage| matches!(stage.state, StageState::Changed | StageState::Miss))
    }

    /// Whether the disk is kept that its machines would make, so that none boots.
    pub fn has_its_disk(&self) -> bool {
        let mut machines = self.stages.iter().filter(|stage| stage.stage < Stage::Snapshot);
        !self.stages.is_empty() && machines.all(|stage| stage.state == StageState::Hit)
    }
}

/// A plan for one commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The commit.
    pub commit: CommitId,
    /// The commit it was compared with, where it was compared with one.
    pub base: Option<CommitId>,
    /// Every bundle of the commit, sorted by the bytes of their paths.
    pub bundles: Vec<BundlePlan>,
    /// Bundles that were known and are gone, sorted.
    pub removed: Vec<RepoPath>,
}

/// What would be done for each bundle. `candidates` are sorted by path, and so is the answer.
pub fn plan(commit: CommitId, base: Option<CommitId>, candidates: &[Candidate<'_>], facts: &Facts) -> Plan {
    let mut bundles: Vec<BundlePlan> = candidates.iter().map(|candidate| plan_bundle(candidate, facts)).collect();
    canary::hold(candidates, facts, &mut bundles);
    let mut removed: Vec<RepoPath> = facts
        .served
        .keys()
        .chain(&facts.unbuildable)
        .filter(|path| candidates.binary_search_by(|candidate| candidate.bundle.cmp(path)).is_err())
        .cloned()
        .collect();
    removed.sort();
    Plan { commit, base, bundles, removed }
}

/// What would be done for one bundle, whatever is done for others.
pub fn plan_bundle(candidate: &Candidate<'_>, facts: &Facts) -> BundlePlan {
    let bundle = |action, reason: Cow<'static, str>, stages| BundlePlan {
        bundle: candidate.bundle.clone(),
        action,
        canary: false,
        reason,
        stages,
    };
    let needs = match &candidate.stages {
        Ok(needs) => needs,
        Err(reason) => return bundle(Action::Unbuildable, (*reason).to_owned().into(), Vec::new()),
    };
    let served = facts.served.get(candidate.bundle).map(Vec::as_slice);
    let stages = stage_plans(candidate.bundle, needs, served, facts);
    let failed = stages
        .iter()
        .filter(|stage| stage.state != StageState::Hit)
        .find_map(|stage| facts.failed.get(&stage.fingerprint).map(|build| (stage.stage, *build)));
    if let Some((stage, build)) = failed {
        let reason = format!("{stage} failed in {build}");
        let mut plan = bundle(Action::Stale, Cow::default(), stages);
        canary::stall(&mut plan, &reason);
        return plan;
    }
    let (action, reason) = action(&stages, needs, served);
    bundle(action, reason, stages)
}

fn action(
    stages: &[StagePlan],
    needs: &[StageNeed<'_>],
    served: Option<&[(Stage, Fingerprint)]>,
) -> (Action, Cow<'static, str>) {
    let first = stages.iter().find(|stage| stage.state != StageState::Hit);
    let action = match first.map(|stage| stage.stage) {
        Some(Stage::Boot | Stage::Provision | Stage::Test) => Action::Build,
        Some(Stage::Snapshot) => Action::Publish,
        Some(Stage::Render) => Action::Render,
        None if !needs.iter().any(|need| need.stage == Stage::Snapshot) => Action::Unchanged,
        None if served.is_some_and(|served| same(needs, served)) => Action::Unchanged,
        None => Action::Publish,
    };
    // A stage that changed is the cause, even where an earlier one merely has to be done again for it.
    let cause = stages.iter().find(|stage| stage.state == StageState::Changed).or(first);
    let reason = match (action, cause) {
        (Action::Unchanged, _) => "what is served has these inputs".into(),
        (_, Some(stage)) => format!("{}: {}", stage.stage, stage.reason).into(),
        (_, None) => "its result is kept, and another image is served".into(),
    };
    (action, reason)
}

fn same(needs: &[StageNeed<'_>], served: &[(Stage, Fingerprint)]) -> bool {
    needs.len() == served.len() && needs.iter().all(|need| served.contains(&(need.stage, need.declared)))
}

fn stage_plans(
    bundle: &RepoPath,
    needs: &[StageNeed<'_>],
    served: Option<&[(Stage, Fingerprint)]>,
    facts: &Facts,
) -> Vec<StagePlan> {
    let in_served = |need: &StageNeed<'_>| served.is_some_and(|served| served.contains(&(need.stage, need.declared)));
    // The image that is served holds the disk, whether or not the disk is kept besides.
    let disk_is_served = needs.iter().filter(|need| need.stage < Stage::Snapshot).all(in_served);
    let last = facts.last.get(bundle).map(Vec::as_slice).unwrap_or_default();
    let mut cause: Option<Stage> = None;
    // A hit that the bundle did not have before: what follows it is not kept for that reason.
    let mut moved: Option<String> = None;
    let mut plans = Vec::with_capacity(needs.len());
    for need in needs {
        let kept = || facts.kept.get(&need.declared).copied();
        let is_hit = (disk_is_served && in_served(need)) || kept() == Some(Kept::Usable);
        // Another name of the same image leaves its outputs as they are.
        let follows = cause.is_some() && !(need.stage == Stage::Render && cause == Some(Stage::Snapshot));
        let plan = if is_hit && !follows {
            if moved.is_none() {
                moved = differences(need, last).first().map(|first| format!("follows {}: {first}", need.stage));
            }
            hit(need)
        } else {
            let follows = cause.map(|cause| format!("follows {cause}")).or_else(|| moved.clone());
            let plan = not_hit(need, last, kept(), follows);
            cause.get_or_insert(need.stage);
            plan
        };
        plans.push(plan);
    }
    plans
}

fn hit(need: &StageNeed<'_>) -> StagePlan {
    StagePlan {
        stage: need.stage,
        state: StageState::Hit,
        fingerprint: need.declared,
        reason: "its result is kept".into(),
        differences: Vec::new(),
    }
}

fn inputs_of(stage: Stage, last: &[(Stage, Inputs)]) -> Option<&Inputs> {
    last.iter().find(|(of, _)| *of == stage).map(|(_, inputs)| inputs)
}

/// What of a stage's own inputs differs from its last result.
fn differences(need: &StageNeed<'_>, last: &[(Stage, Inputs)]) -> Vec<Difference> {
    match inputs_of(need.stage, last) {
        Some(before) if !before.is(need.own) && before.digest() != need.own_digest => need.own.differences(before),
        _ => Vec::new(),
    }
}

fn not_hit(need: &StageNeed<'_>, last: &[(Stage, Inputs)], kept: Option<Kept>, follows: Option<String>) -> StagePlan {
    let (before, differences) = (inputs_of(need.stage, last), differences(need, last));
    let state = if differences.is_empty() { StageState::Miss } else { StageState::Changed };
    let reason: Cow<'static, str> = match (differences.as_slice(), before, kept, follows) {
        ([first], ..) => first.to_string().into(),
        ([first, rest @ ..], ..) => format!("{first} and {} more", rest.len()).into(),
        ([], _, _, Some(follows)) => follows.into(),
        ([], _, Some(Kept::Expired), None) => "its kept result has expired".into(),
        ([], Some(_), _, None) => "its result is no longer kept".into(),
        ([], None, _, None) => "never done".into(),
    };
    StagePlan { stage: need.stage, state, fingerprint: need.declared, reason, differences }
}

#[cfg(test)]
mod tests;
