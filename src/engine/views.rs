//! What people ask to see, put together from what is remembered and what runs.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::freshness::EXPIRED;
use super::planner::Planned;
use super::{Engine, unpoisoned};
use crate::domain::build::{Build, BuildState, Outcome, StageProgress};
use crate::domain::bundle::BundleKey;
use crate::domain::id::{Branch, BuildNo, RepoName};
use crate::domain::path::RepoPath;
use crate::domain::pipeline::Stage;
use crate::domain::plan::forecast::{Job, span};
use crate::domain::plan::{Action, Plan};
use crate::manifest::reading::Buildable;
use crate::store::{BuildRecord, Durations, OpenBuild, Served, StoreError};

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
    /// Those that are not fresh; the fresh ones only where there are no more bundles than `few` in all.
    Attention {
        /// So many bundles are all shown.
        few: usize,
        /// At most so many are shown in each [`Standing`], and so many builds of the queue.
        most: usize,
    },
}

/// The factory as a person wants to see it.
#[derive(Clone, Debug)]
pub struct Standings {
    /// Bundles of tracked branches, those that want attention first; [`Engine::states`] reads what is said of them.
    pub shown: Vec<Position>,
    /// How many there are in each standing, shown or not.
    pub counts: BTreeMap<Standing, usize>,
    /// The builds that run, oldest first.
    pub running: Vec<BuildRecord>,
    /// The builds that are queued, oldest first.
    pub queue: Vec<BuildNo>,
    /// How many are queued, shown or not.
    pub queued: usize,
}

impl Engine {
    /// How the bundles of every tracked branch stand. That is known by what is in memory and by how the last builds ended;
    /// whole builds are read only of what is shown.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn standings(&self, which: Which) -> Result<Standings, StoreError> {
        let plans = unpoisoned(&self.shared.plans).clone();
        let all: usize = plans.values().map(|plan| plan.plan.bundles.len()).sum();
        let (leaves_out, most) = match which {
            Which::All => (false, usize::MAX),
            Which::Attention { few, most } => (all > few, most),
        };
        let open = self.store().open_builds().await?;
        // The oldest of a bundle is the one that runs, or will first.
        let active: HashMap<&BundleKey, &OpenBuild> = open.iter().rev().map(|build| (&build.key, build)).collect();
        let mut positions = Vec::with_capacity(all);
        for ((repository, branch), plan) in &plans {
            positions.extend(self.positions(repository, branch, &plan.plan, &active).await?);
        }
        let mut counts = BTreeMap::new();
        positions.iter().for_each(|position| *counts.entry(position.standing).or_insert(0) += 1);
        positions.sort_by(|a, b| (a.standing, &a.key).cmp(&(b.standing, &b.key)));
        let mut taken = BTreeMap::new();
        positions.retain(|position| {
            let taken: &mut usize = taken.entry(position.standing).or_insert(0);
            *taken += 1;
            !(leaves_out && position.standing == Standing::Fresh) && *taken <= most
        });
        let in_state = |state| open.iter().filter(move |build| build.state == state).map(|build| build.number);
        let running = self.store().builds_of(in_state(BuildState::Running).collect()).await?;
        let queue = in_state(BuildState::Queued).take(most).collect();
        Ok(Standings { shown: positions, counts, running, queue, queued: in_state(BuildState::Queued).count() })
    }

    /// Where the bundles of a plan stand.
    async fn positions(
        &self,
        repository: &RepoName,
        branch: &Branch,
        plan: &Plan,
        active: &HashMap<&BundleKey, &OpenBuild>,
    ) -> Result<Vec<Position>, StoreError> {
        let wanted = self.wanted_on(repository, branch);
        let served = self.store().served_prints(repository, branch).await?;
        let expired = self.expired_disks(repository).await?;
        let key =
            |path: &RepoPath| BundleKey { repository: repository.clone(), branch: branch.clone(), path: path.clone() };
        let (mut positions, mut open) = (Vec::with_capacity(plan.bundles.len()), Vec::new());
        for bundle in &plan.bundles {
            let (key, wanted, served) = (key(&bundle.bundle), wanted.get(&bundle.bundle), served.get(&bundle.bundle));
            let is_served =
                served.is_some_and(|served| wanted.is_some_and(|wanted| wanted.prints().eq(served.iter().copied())));
            match active.get(&key) {
                Some(build) if build.state == BuildState::Running => {
                    positions.push(Position::under_way(key, Standing::Running, build.number));
                }
                Some(build) => positions.push(Position::under_way(key, Standing::Waiting, build.number)),
                None if plan_is_fresh(bundle.action, is_served)
                    && served.is_some_and(|served| served.iter().any(|(_, print)| expired.contains(print))) =>
                {
                    positions.push(Position::new(key, Standing::Stale, EXPIRED));
                }
                None if plan_is_fresh(bundle.action, is_served) => {
                    positions.push(Position::new(key, Standing::Fresh, ""));
                }
                None if bundle.action == Action::Unbuildable => {
                    positions.push(Position::new(key, Standing::Unbuildable, &bundle.reason));
                }
                None => open.push((key, bundle, served.is_none() && wanted.is_some_and(publishes_nothing))),
            }
        }
        let outcomes = self.store().last_outcomes(open.iter().map(|(key, ..)| key.clone()).collect()).await?;
        positions.extend(open.into_iter().map(|(key, bundle, never_serves)| {
            let (standing, reason) = match outcomes.get(&key) {
                Some(Outcome::Failed) => (Standing::Failed, bundle.reason.as_ref()),
                Some(Outcome::Cancelled) => (Standing::Stale, "its build was cancelled"),
                Some(Outcome::Passed) if never_serves => (Standing::Fresh, ""),
                _ => (Standing::Stale, bundle.reason.as_ref()),
            };
            Position::new(key, standing, reason)
        }));
        Ok(positions)
    }

    /// What is shown of bundles: of a few at a time, since whole builds are read.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn states(&self, positions: &[Position]) -> Result<Vec<BundleState>, StoreError> {
        let keys: Vec<BundleKey> = positions.iter().map(|position| position.key.clone()).collect();
        let mut served = self.store().served_among(keys.clone()).await?;
        let mut last = self.store().last_builds(keys).await?;
        let under_way = positions.iter().filter_map(|position| position.build).collect();
        let under_way = self.store().builds_of(under_way).await?.into_iter();
        let mut under_way: HashMap<BuildNo, BuildRecord> =
            under_way.map(|record| (record.order.number, record)).collect();
        let mut states = Vec::with_capacity(positions.len());
        for position in positions {
            let (key, build) = (&position.key, position.build.and_then(|number| under_way.remove(&number)));
            let (reason, left) = match (position.standing, &build) {
                (Standing::Waiting, Some(record)) => (self.wait_reason(record.order.number), None),
                (Standing::Running, Some(record)) => {
                    let durations = self.store().durations(&key.repository, &key.path).await?;
                    let doing = match self.driver().waiting(record.order.number) {
                        Some(why) => why,
                        None => doing(&record.build),
                    };
                    (doing, left(record, &durations, self.clock().now().0))
                }
                _ => (position.reason.clone(), None),
            };
            let (served, build) = (served.remove(key), build.or_else(|| last.remove(key)));
            states.push(BundleState { key: key.clone(), standing: position.standing, reason, build, served, left });
        }
        Ok(states)
    }

    /// The bundles that the newest plans of the tracked branches know.
    pub fn planned_bundles(&self) -> Vec<RepoPath> {
        let plans = unpoisoned(&self.shared.plans);
        let bundles = plans.values().flat_map(|plan| &plan.plan.bundles);
        bundles.map(|bundle| bundle.bundle.clone()).collect()
    }

    /// Why a build waits, for its turn or for what the driver can't give now; empty where nothing was found that holds it.
    pub fn wait_reason(&self, build: BuildNo) -> String {
        if let Some(why) = self.driver().waiting(build) {
            return why;
        }
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

/// Where a bundle stands, before anything of it is read.
#[derive(Clone, Debug)]
pub struct Position {
    /// The bundle.
    pub key: BundleKey,
    /// Where it stands.
    pub standing: Standing,
    /// Why, while no build of it is under way.
    pub reason: String,
    /// The build that is under way.
    build: Option<BuildNo>,
}

impl Position {
    fn new(key: BundleKey, standing: Standing, reason: &str) -> Self {
        Self { key, standing, reason: reason.to_owned(), build: None }
    }

    fn under_way(key: BundleKey, standing: Standing, build: BuildNo) -> Self {
        Self { key, standing, reason: String::new(), build: Some(build) }
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
