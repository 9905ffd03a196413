//! What people ask to see, put together from what is remembered and what runs.

use std::collections::HashMap;
use std::sync::Arc;

use super::planner::{Planned, prints};
use super::{Engine, unpoisoned};
use crate::domain::build::{BuildState, Outcome, StageProgress};
use crate::domain::bundle::BundleKey;
use crate::domain::id::{Branch, BuildNo, RepoName};
use crate::domain::path::RepoPath;
use crate::domain::pipeline::Stage;
use crate::domain::plan::{Action, BundlePlan, Plan};
use crate::store::{BuildRecord, Durations, Served, StoreError};

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

impl Engine {
    /// The bundles of every tracked branch, those that want attention first.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn bundle_states(&self) -> Result<Vec<BundleState>, StoreError> {
        let plans = unpoisoned(&self.shared.plans).clone();
        let unfinished = self.store().unfinished().await?;
        // The oldest of a bundle is the one that runs, or will first.
        let active: HashMap<_, _> = unfinished.iter().rev().map(|record| (&record.order.key, record)).collect();
        let mut states = Vec::new();
        for ((repository, branch), plan) in plans {
            let served = self.store().served(&repository, &branch).await?;
            let last = self.store().last_builds(&repository, &branch).await?;
            let mut look = Look { engine: self, repository, branch, served, last, active: &active };
            for bundle in &plan.plan.bundles {
                states.push(look.at(bundle).await?);
            }
        }
        states.sort_by(|a, b| (a.standing, &a.key).cmp(&(b.standing, &b.key)));
        Ok(states)
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

    /// Remembers what a plan said of a tracked branch.
    pub(super) fn remember_plan(&self, planned: &Planned) {
        let last = LastPlan {
            plan: Arc::clone(&planned.plan),
            faults: planned.faults.iter().map(ToString::to_string).collect(),
        };
        unpoisoned(&self.shared.plans).insert((planned.repository.clone(), planned.branch.clone()), last);
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

struct Look<'a> {
    engine: &'a Engine,
    repository: RepoName,
    branch: Branch,
    served: HashMap<RepoPath, Served>,
    last: HashMap<RepoPath, BuildRecord>,
    active: &'a HashMap<&'a BundleKey, &'a BuildRecord>,
}

impl Look<'_> {
    async fn at(&mut self, plan: &BundlePlan) -> Result<BundleState, StoreError> {
        let planned = || plan.reason.clone().into_owned();
        let path = plan.bundle.clone();
        let key = BundleKey { repository: self.repository.clone(), branch: self.branch.clone(), path };
        let served = self.served.remove(&key.path);
        let wanted = self.engine.wanted(&key).map(|wanted| prints(&wanted));
        let active = self.active.get(&key);
        let last = self.last.remove(&key.path);
        let is_fresh = served.as_ref().map(|served| &served.stages) == wanted.as_ref();
        let mut state =
            BundleState { key, standing: Standing::Fresh, reason: String::new(), build: None, served, left: None };
        if let Some(record) = active {
            self.under_way(&mut state, record).await?;
            return Ok(state);
        }
        state.build = last;
        let outcome = state.build.as_ref().and_then(|record| record.build.outcome);
        (state.standing, state.reason) = match (plan.action, is_fresh, outcome) {
            (Action::Unbuildable, ..) => (Standing::Unbuildable, planned()),
            (_, true, _) | (Action::Unchanged, ..) => (Standing::Fresh, String::new()),
            (_, false, Some(Outcome::Failed)) => (Standing::Failed, planned()),
            (_, false, Some(Outcome::Cancelled)) => (Standing::Stale, "its build was cancelled".to_owned()),
            (_, false, Some(Outcome::Passed)) if state.served.is_none() && wanted_without_image(wanted.as_ref()) => {
                (Standing::Fresh, String::new())
            }
            (_, false, _) => (Standing::Stale, planned()),
        };
        Ok(state)
    }

    async fn under_way(&self, state: &mut BundleState, record: &BuildRecord) -> Result<(), StoreError> {
        state.build = Some(record.clone());
        if record.build.state == BuildState::Queued {
            state.standing = Standing::Waiting;
            state.reason = self.engine.wait_reason(record.order.number);
            return Ok(());
        }
        state.standing = Standing::Running;
        let durations = self.engine.store().durations(&state.key.repository, &state.key.path).await?;
        state.left = left(record, &durations, self.engine.clock().now().0);
        state.reason = record
            .build
            .current()
            .map(|(stage, run)| match &run.step {
                Some((step, of, name)) => format!("{stage} › {name}, step {step} of {of}"),
                None => stage.to_string(),
            })
            .unwrap_or_default();
        Ok(())
    }
}

/// Whether a bundle's pipeline publishes nothing, so that nothing can be served.
fn wanted_without_image(wanted: Option<&Vec<(Stage, crate::domain::id::Fingerprint)>>) -> bool {
    wanted.is_some_and(|stages| stages.iter().all(|(stage, _)| *stage != Stage::Snapshot))
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
