//! What people ask to see, put together from what is remembered and what runs.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::planner::Planned;
use super::{Engine, unpoisoned};
use crate::domain::build::{Build, BuildState, Outcome, StageProgress};
use crate::domain::bundle::BundleKey;
use crate::domain::id::{BuildNo, RepoName};
use crate::domain::path::RepoPath;
use crate::domain::pipeline::Stage;
use crate::domain::plan::forecast::{Job, span};
use crate::domain::plan::{Action, BundlePlan, Plan};
use crate::manifest::reading::Buildable;
use crate::store::{BuildRecord, Durations, Served, StoreError};

/// How long work takes is looked up for so many bundles of a plan.
const MOST_FORECASTS: usize = 200;

/// What a branch's newest plan said, kept for those who look.
#[derive(Clone, Debug)]
pub struct LastPlan {
    /// The plan.
    pub plan: Arc<Plan>,
    /// The faults of its pipelines, one line each.
    pub faults: Vec<String>,
}

/// Where a bundle stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Its last build failed, and its inputs have not changed since.
    Failed,
    /// A build of it runs.
    Running,
    /// A build of it waits.
    Waiting,
    /// Its served image's inputs are no longer those of the branch, or nothing of it is served.
    Stale,
    /// It can't be built.
    Unbuildable,
    /// What is served has the branch's inputs.
    Fresh,
}

impl Standing {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Stale => "stale",
            Self::Unbuildable => "unbuildable",
            Self::Fresh => "fresh",
        }
    }
}

/// A bundle of a tracked branch, as a person wants to see it.
#[derive(Clone, Debug)]
pub struct BundleState {
    /// The bundle.
    pub key: BundleKey,
    /// Where it stands.
    pub standing: Standing,
    /// Why, where it is not fresh.
    pub reason: String,
    /// Its last build: the one under way, else the last that ended.
    pub build: Option<BuildRecord>,
    /// What is served.
    pub served: Option<Served>,
    /// Milliseconds that are likely left of a running build.
    pub left: Option<u64>,
}

/// Which bundles somebody wants to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// All of them.
    All,
    /// Those that are not fresh; the fresh ones only where there are no more than this in all.
    Attention(usize),
}

/// The factory as a person wants to see it.
#[derive(Clone, Debug)]
pub struct Standings {
    /// Bundles of tracked branches, those that want attention first.
    pub shown: Vec<BundleState>,
    /// How many fresh ones there are besides.
    pub more_fresh: usize,
    /// The builds that are queued or running, oldest first.
    pub unfinished: Vec<BuildRecord>,
}

impl Engine {
    /// How the bundles of every tracked branch stand. A fresh bundle is known by what is in memory; of the others the
    /// last builds are read.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn standings(&self, which: Which) -> Result<Standings, StoreError> {
        let plans = unpoisoned(&self.shared.plans).clone();
        let all: usize = plans.values().map(|plan| plan.plan.bundles.len()).sum();
        let leaves_out = matches!(which, Which::Attention(few) if all > few);
        let unfinished = self.store().unfinished().await?;
        // The oldest of a bundle is the one that runs, or will first.
        let active: HashMap<_, _> = unfinished.iter().rev().map(|record| (&record.order.key, record)).collect();
        let mut shown = Vec::new();
        for ((repository, branch), plan) in &plans {
            let wanted = self.wanted_on(repository, branch);
            let served = self.store().served_prints(repository, branch).await?;
            let mut open = Vec::new();
            for bundle in &plan.plan.bundles {
                let key =
                    BundleKey { repository: repository.clone(), branch: branch.clone(), path: bundle.bundle.clone() };
                let wanted = wanted.get(&key.path);
                let is_served = served
                    .get(&key.path)
                    .is_some_and(|served| wanted.is_some_and(|wanted| wanted.prints().eq(served.iter().copied())));
                let is_fresh = plan_is_fresh(bundle.action, is_served) && !active.contains_key(&key);
                if !(is_fresh && leaves_out) {
                    open.push(Open { key, bundle, wanted, is_served });
                }
            }
            shown.extend(self.states(open, &active).await?);
        }
        shown.retain(|state| !(leaves_out && state.standing == Standing::Fresh));
        shown.sort_by(|a, b| (a.standing, &a.key).cmp(&(b.standing, &b.key)));
        Ok(Standings { more_fresh: all - shown.len(), shown, unfinished })
    }

    async fn states(
        &self,
        open: Vec<Open<'_>>,
        active: &HashMap<&BundleKey, &BuildRecord>,
    ) -> Result<Vec<BundleState>, StoreError> {
        let keys: Vec<BundleKey> = open.iter().map(|bundle| bundle.key.clone()).collect();
        let mut served = self.store().served_among(keys.clone()).await?;
        let mut last = self.store().last_builds(keys).await?;
        let mut states = Vec::with_capacity(open.len());
        for bundle in open {
            let (served, last) = (served.remove(&bundle.key), last.remove(&bundle.key));
            states.push(match active.get(&bundle.key) {
                Some(record) => self.under_way(bundle.key, served, record).await?,
                None => bundle.at_rest(served, last),
            });
        }
        Ok(states)
    }

    async fn under_way(
        &self,
        key: BundleKey,
        served: Option<Served>,
        record: &BuildRecord,
    ) -> Result<BundleState, StoreError> {
        let (number, build) = (record.order.number, &record.build);
        let (standing, reason, left) = if build.state == BuildState::Queued {
            (Standing::Waiting, self.wait_reason(number), None)
        } else {
            let durations = self.store().durations(&key.repository, &key.path).await?;
            (Standing::Running, doing(build), left(record, &durations, self.clock().now().0))
        };
        Ok(BundleState { key, standing, reason, build: Some(record.clone()), served, left })
    }

    /// The bundles that the newest plans of the tracked branches know.
    pub fn planned_bundles(&self) -> Vec<RepoPath> {
        let plans = unpoisoned(&self.shared.plans);
        let bundles = plans.values().flat_map(|plan| &plan.plan.bundles);
        bundles.map(|bundle| bundle.bundle.clone()).collect()
    }

    /// Why a queued build waits; empty where nothing was found yet that holds it.
    pub fn wait_reason(&self, build: BuildNo) -> String {
        unpoisoned(&self.shared.waits).get(&build).cloned().unwrap_or_default()
    }

    /// Whether the scheduler has decided about a new build: it runs, or it is known what it waits for.
    pub fn was_looked_at(&self, build: BuildNo) -> bool {
        self.running().contains_key(&build) || unpoisoned(&self.shared.waits).contains_key(&build)
    }

    /// How long a build of a bundle is likely to take, in milliseconds, from the stages of earlier ones.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn estimate(
        &self,
        repository: &RepoName,
        bundle: &RepoPath,
        stages: impl Fn(Stage) -> bool,
    ) -> Result<Option<u64>, StoreError> {
        let durations = self.store().durations(repository, bundle).await?;
        let known: Vec<u64> =
            durations.iter().filter(|(stage, _)| stages(**stage)).map(|(_, time)| time.median).collect();
        Ok((!known.is_empty()).then(|| known.iter().sum()))
    }

    /// How long each of the first bundles that a plan does something with is likely to take, in milliseconds, and all
    /// that are known together; bundles without history are missing.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn forecast(&self, planned: &Planned) -> Result<(BTreeMap<RepoPath, u64>, Option<u64>), StoreError> {
        let mut each = BTreeMap::new();
        for bundle in planned.plan.bundles.iter().filter(|bundle| bundle.action.is_work()).take(MOST_FORECASTS) {
            let runs = |stage| bundle.work().any(|work| work.stage == stage);
            if let Some(millis) = self.estimate(&planned.repository, &bundle.bundle, runs).await? {
                each.insert(bundle.bundle.clone(), millis);
            }
        }
        let wanted = self.wanted_on(&planned.repository, &planned.branch);
        let place = |path: &RepoPath| each.keys().position(|known| known == path);
        let base = |path: &RepoPath| wanted.get(path).and_then(|wanted| wanted.base.as_ref()).and_then(place);
        let jobs: Vec<Job> = each.iter().map(|(path, millis)| Job { millis: *millis, after: base(path) }).collect();
        let all = (!jobs.is_empty()).then(|| span(&jobs, self.policy().slots));
        Ok((each, all))
    }

    /// Remembers what a plan said of a tracked branch.
    pub(super) fn remember_plan(&self, planned: &Planned) {
        let last = LastPlan {
            plan: Arc::clone(&planned.plan),
            faults: planned.faults.iter().map(ToString::to_string).collect(),
        };
        unpoisoned(&self.shared.plans).insert((planned.repository.clone(), planned.branch.clone()), last);
    }

    /// Whether the disk is kept that a bundle's machines would make, as the newest plan of its branch said.
    pub(super) fn has_its_disk(&self, key: &BundleKey) -> bool {
        let plans = unpoisoned(&self.shared.plans);
        let Some(last) = plans.get(&(key.repository.clone(), key.branch.clone())) else { return false };
        let bundles = &last.plan.bundles;
        let at = bundles.binary_search_by(|bundle| bundle.bundle.cmp(&key.path));
        at.is_ok_and(|at| bundles[at].has_its_disk())
    }

    /// What keeps a repository, a branch of it or a pipeline from being planned; `None` where nothing does.
    pub fn trouble(&self, repository: &RepoName) -> Option<String> {
        if let Some(outlook) = unpoisoned(&self.shared.outlooks).get(repository) {
            if let Some(trouble) = &outlook.trouble {
                return Some(format!("can't be planned: {trouble}"));
            }
            if let Some((branch, trouble)) = outlook.unplanned.first_key_value() {
                return Some(format!("{branch} can't be planned: {trouble}"));
            }
        }
        let plans = unpoisoned(&self.shared.plans);
        let mut of_tracked = plans.iter().filter(|((name, _), _)| name == repository);
        of_tracked.find_map(|((_, branch), plan)| {
            let first = plan.faults.first()?;
            let more =
                if plan.faults.len() > 1 { format!(" (and {} more)", plan.faults.len() - 1) } else { String::new() };
            Some(format!("the pipelines on {branch} have a fault: {first}{more}; factoryd plan {branch} shows where"))
        })
    }
}

/// A bundle that is looked at more closely.
struct Open<'a> {
    key: BundleKey,
    bundle: &'a BundlePlan,
    wanted: Option<&'a Arc<Buildable>>,
    /// Whether it is served with what is wanted.
    is_served: bool,
}

impl Open<'_> {
    /// Where it stands while no build of it is under way.
    fn at_rest(self, served: Option<Served>, last: Option<BuildRecord>) -> BundleState {
        let planned = || self.bundle.reason.clone().into_owned();
        let outcome = last.as_ref().and_then(|record| record.build.outcome);
        let (standing, reason) = match (self.bundle.action, outcome) {
            (Action::Unbuildable, _) => (Standing::Unbuildable, planned()),
            (action, _) if plan_is_fresh(action, self.is_served) => (Standing::Fresh, String::new()),
            (_, Some(Outcome::Failed)) => (Standing::Failed, planned()),
            (_, Some(Outcome::Cancelled)) => (Standing::Stale, "its build was cancelled".to_owned()),
            (_, Some(Outcome::Passed)) if served.is_none() && self.wanted.is_some_and(publishes_nothing) => {
                (Standing::Fresh, String::new())
            }
            _ => (Standing::Stale, planned()),
        };
        BundleState { key: self.key, standing, reason, build: last, served, left: None }
    }
}

pub(super) fn plan_is_fresh(action: Action, is_served: bool) -> bool {
    action == Action::Unchanged || (action != Action::Unbuildable && is_served)
}

/// What a running build does now.
fn doing(build: &Build) -> String {
    build
        .current()
        .map(|(stage, run)| match &run.step {
            Some((step, of, name)) => format!("{stage} › {name}, step {step} of {of}"),
            None => stage.to_string(),
        })
        .unwrap_or_default()
}

/// Whether a bundle's pipeline publishes nothing, so that nothing can be served.
fn publishes_nothing(wanted: &Arc<Buildable>) -> bool {
    wanted.stage(Stage::Snapshot).is_none()
}

/// Milliseconds that are likely left, from the medians of the stages that have not ended; `None` where one of them never
/// passed before.
fn left(record: &BuildRecord, durations: &Durations, now: i64) -> Option<u64> {
    let to_come = record.build.stages.iter().filter_map(|(stage, run)| match run.progress {
        StageProgress::Waiting => Some((stage, 0)),
        StageProgress::Running => {
            Some((stage, run.started.map_or(0, |started| u64::try_from(now - started.0).unwrap_or(0))))
        }
        _ => None,
    });
    to_come.map(|(stage, spent)| Some(durations.get(stage)?.median.saturating_sub(spent))).sum()
}
