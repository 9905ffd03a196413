//! Compares branch tips with what is served, and queues what that takes: truth is looked at, hints only say when.
//!
//! Planning a repository is one at a time. For each branch the tip's tree is read (on a thread that may block), facts are
//! gathered for the bundles that are not simply unchanged, `domain::plan` decides, and one transaction queues new builds,
//! supersedes the queued ones whose inputs are no longer the newest, and remembers the tip as planned.

mod asked;
mod facts;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use tracing::{debug, info, instrument};

pub(super) use self::facts::Known;
use super::policies::Policies;
use super::ports::{CommitInfo, PortError, Tip};
use super::{Engine, Outlook, Stopped, unpoisoned};
use crate::blocking;
use crate::domain::build::{BuildState, Order};
use crate::domain::bundle::BundleKey;
use crate::domain::id::{Branch, CommitId, Fingerprint, RepoName};
use crate::domain::path::RepoPath;
use crate::domain::pipeline::Stage;
use crate::domain::plan::{Action, BundlePlan, Plan, plan};
use crate::domain::tree::TreeError;
use crate::manifest::fault::Fault;
use crate::manifest::read;
use crate::manifest::reading::{Buildable, Reading};
use crate::store::{Enqueue, NewBuild, OpenBuild, StoreError};

/// More builds than this, queued by one plan, are counted in the log and not listed.
const MOST_LINES: usize = 20;

/// A plan for one commit of one branch, and the builds it queued.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The repository.
    pub repository: RepoName,
    /// The branch.
    pub branch: Branch,
    /// Whether the branch publishes.
    pub tracked: bool,
    /// What a person wants to know of the commit.
    pub info: CommitInfo,
    /// The plan.
    pub plan: Arc<Plan>,
    /// What is wrong with the pipelines.
    pub faults: Vec<Fault>,
    /// The builds that this plan queued.
    pub queued: Vec<Order>,
}

/// What a look at a repository led to.
#[derive(Debug, Default)]
pub struct Plans {
    /// A plan for each branch that could be planned.
    pub planned: Vec<Planned>,
    /// The branches that could not, and why: one bad branch hides no other.
    pub failed: Vec<(Branch, PlanError)>,
}

/// Why nothing could be planned.
#[derive(Debug, Error)]
pub enum PlanError {
    /// The repository or the revision.
    #[error("{0}")]
    Repository(#[from] PortError),
    /// The tree.
    #[error("{0}")]
    Tree(#[from] TreeError),
    /// The database.
    #[error("{0}")]
    Store(#[from] StoreError),
}

/// Decides on a thread that may take long: inputs may be many.
async fn planned(read: Read, base: Option<CommitId>, known: Known, policies: Policies) -> (Read, Arc<Plan>, Known) {
    blocking::run(move || {
        let mut candidates = read.reading.candidates();
        for candidate in &mut candidates {
            let said = policies.as_ref().and_then(|policies| policies.get(candidate.bundle));
            candidate.policy = said.copied().unwrap_or(candidate.policy);
        }
        let plan = plan(read.commit.clone(), base, &candidates, known.facts());
        (read, Arc::new(plan), known)
    })
    .await
}

/// The declared fingerprints of a bundle's stages, in order.
pub(super) type Prints = Vec<(Stage, Fingerprint)>;

/// The branches of a repository with their tips, and its default branch.
pub(super) type Heads = (Vec<Tip>, Option<Branch>);

/// A hint that comes so soon after a plan, with every branch where it was, is about what was planned.
const JUST_PLANNED: Duration = Duration::from_secs(2);

/// A commit that was read.
pub(super) struct Read {
    pub(super) commit: CommitId,
    pub(super) info: CommitInfo,
    pub(super) reading: Reading,
}

impl Engine {
    /// Plans every branch of a repository and queues what its tracked branches need.
    ///
    /// # Errors
    /// When the repository or the database can't be read. Branches planned before stay planned.
    pub async fn plan_repository(&self, repository: &RepoName) -> Result<Plans, PlanError> {
        self.plan_pushed(repository, |_| false).await
    }

    /// [`Engine::plan_repository`] for somebody who wants to see the plans of some branches, whether they moved or not.
    /// Of the others that are not tracked, those are left out that are where they were: nothing comes of their plans, and
    /// there may be thousands.
    ///
    /// # Errors
    /// As [`Engine::plan_repository`].
    #[instrument(skip(self, is_asked))]
    pub async fn plan_pushed(
        &self,
        repository: &RepoName,
        is_asked: impl Fn(&Branch) -> bool + Send,
    ) -> Result<Plans, PlanError> {
        let _one_at_a_time = self.shared.planning.lock().await;
        self.look_at(repository, None, is_asked).await
    }

    /// [`Engine::plan_repository`], but for a hint that only repeats another: one push is told by its hook and seen by a
    /// watch.
    ///
    /// # Errors
    /// As [`Engine::plan_repository`].
    pub async fn plan_if_moved(&self, repository: &RepoName) -> Result<Plans, PlanError> {
        let _one_at_a_time = self.shared.planning.lock().await;
        let last = unpoisoned(&self.shared.planned).get(repository).cloned();
        let known = last.filter(|(_, at)| at.elapsed() < JUST_PLANNED).map(|(heads, _)| heads);
        self.look_at(repository, known, |_| false).await
    }

    /// Plans a repository unless its heads are these, and remembers how that went.
    async fn look_at(
        &self,
        repository: &RepoName,
        known: Option<Heads>,
        is_asked: impl Fn(&Branch) -> bool + Send,
    ) -> Result<Plans, PlanError> {
        let plans = match self.tips(repository).await {
            Ok(heads) if known.as_ref() == Some(&heads) => return Ok(Plans::default()),
            Ok(heads) => self.plan_heads(repository, heads, is_asked).await,
            Err(error) => Err(error.into()),
        };
        let mut outlook = Outlook::default();
        match &plans {
            Ok(plans) => {
                let failed = plans.failed.iter().map(|(branch, error)| (branch.clone(), error.to_string()));
                outlook.unplanned = failed.collect();
            }
            Err(error) => outlook.trouble = Some(error.to_string()),
        }
        unpoisoned(&self.shared.outlooks).insert(repository.clone(), outlook);
        self.wake();
        plans
    }

    async fn plan_heads(
        &self,
        repository: &RepoName,
        heads: Heads,
        is_asked: impl Fn(&Branch) -> bool + Send,
    ) -> Result<Plans, PlanError> {
        let (tips, head) = &heads;
        let head = head.as_ref();
        let tracked = self.tracked(repository, head);
        let (mut planned, mut failed) = (Vec::new(), Vec::new());
        let shown = self.shown_before(repository);
        for tip in tips {
            let is_tracked = tracked.contains(&tip.branch);
            if !is_tracked && !is_asked(&tip.branch) && shown.get(&tip.branch) == Some(&tip.commit) {
                continue;
            }
            match self.plan_tip(repository, tip, is_tracked, &heads).await {
                Ok(plan) => planned.push(plan),
                Err(error @ PlanError::Store(_)) => return Err(error),
                Err(error) => failed.push((tip.branch.clone(), error)),
            }
        }
        // A branch that is tracked no more is served no more, whether it is there or not.
        let mut before: BTreeSet<Branch> = self.store().planned_branches(repository).await?.into_iter().collect();
        before.extend(tracked.iter().cloned());
        let is_served = |branch: &Branch| tracked.contains(branch) && tips.iter().any(|tip| tip.branch == *branch);
        for branch in before.iter().filter(|branch| !is_served(branch)) {
            self.retire_branch(repository, branch).await?;
        }
        unpoisoned(&self.shared.planned).insert(repository.clone(), (heads, Instant::now()));
        Ok(Plans { planned, failed })
    }

    /// The branches that were planned when the repository was last looked at, and where they were.
    fn shown_before(&self, repository: &RepoName) -> HashMap<Branch, CommitId> {
        let outlooks = unpoisoned(&self.shared.outlooks);
        let failed = |branch: &Branch| outlooks.get(repository).is_some_and(|last| last.unplanned.contains_key(branch));
        let planned = unpoisoned(&self.shared.planned);
        let tips = planned.get(repository).into_iter().flat_map(|((tips, _), _)| tips);
        tips.filter(|tip| !failed(&tip.branch)).map(|tip| (tip.branch.clone(), tip.commit.clone())).collect()
    }

    /// Whether a repository has no branch yet.
    ///
    /// # Errors
    /// When it can't be read.
    pub async fn is_empty(&self, repository: &RepoName) -> Result<bool, PortError> {
        Ok(self.tips(repository).await?.0.is_empty())
    }

    pub(super) async fn tips(&self, repository: &RepoName) -> Result<Heads, PortError> {
        let (repositories, name) = (Arc::clone(self.repositories()), repository.clone());
        blocking::run(move || Ok((repositories.tips(&name)?, repositories.head(&name)?))).await
    }

    pub(super) async fn resolve(&self, repository: &RepoName, revision: &str) -> Result<CommitId, PortError> {
        let (repositories, name, revision) = (Arc::clone(self.repositories()), repository.clone(), revision.to_owned());
        blocking::run(move || repositories.resolve(&name, &revision)).await
    }

    /// The branches of a repository that publish.
    pub(super) fn tracked(&self, repository: &RepoName, head: Option<&Branch>) -> BTreeSet<Branch> {
        match self.policy().repository(repository) {
            Some(policy) if !policy.tracked.is_empty() => policy.tracked.iter().cloned().collect(),
            Some(_) => head.cloned().into_iter().collect(),
            None => BTreeSet::new(),
        }
    }

    pub(super) async fn read(&self, repository: &RepoName, commit: CommitId) -> Result<Read, PlanError> {
        let cache = self.shared.caches.get(repository).cloned().unwrap_or_default();
        let (repositories, name) = (Arc::clone(self.repositories()), repository.clone());
        blocking::run(move || {
            let tree = repositories.tree(&name, &commit)?;
            let reading = read(tree.as_ref(), &name, &cache)?;
            let info = repositories.describe(&name, &commit)?;
            Ok(Read { commit, info, reading })
        })
        .await
    }

    async fn plan_tip(
        &self,
        repository: &RepoName,
        tip: &Tip,
        tracked: bool,
        heads: &Heads,
    ) -> Result<Planned, PlanError> {
        let began = Instant::now();
        let read = self.read(repository, tip.commit.clone()).await?;
        let known = if tracked { self.take_known(repository, &tip.branch) } else { Known::default() };
        let known = self.facts(repository, &tip.branch, tracked, heads.1.as_ref(), &read.reading, known).await?;
        let policies = self.policies(repository, Some(&tip.branch), heads).await;
        let (read, plan, known) = planned(read, None, known, policies).await;
        if tracked {
            self.remember_known(repository, &tip.branch, known);
        }
        let queued = if tracked { self.queue(repository, tip, &read, &plan).await? } else { Vec::new() };
        let planned = Planned {
            repository: repository.clone(),
            branch: tip.branch.clone(),
            tracked,
            info: read.info,
            plan,
            faults: read.reading.faults,
            queued,
        };
        if tracked {
            self.remember_plan(&planned);
        }
        let (bundles, elapsed) = (planned.plan.bundles.len(), began.elapsed().as_secs_f64());
        debug!(branch = tip.branch.as_str(), bundles, elapsed, "planned");
        Ok(planned)
    }

    async fn queue(
        &self,
        repository: &RepoName,
        tip: &Tip,
        read: &Read,
        plan: &Plan,
    ) -> Result<Vec<Order>, StoreError> {
        let key = |path: &RepoPath| BundleKey {
            repository: repository.clone(),
            branch: tip.branch.clone(),
            path: path.clone(),
        };
        self.remember_wanted(repository, &tip.branch, &read.reading);
        let active = self.active(repository, &tip.branch).await?;
        let mut batch = Enqueue { at: self.clock().now(), ..Enqueue::default() };
        batch.planned = Some((repository.clone(), tip.branch.clone(), tip.commit.clone()));
        let mut under_way: HashMap<&RepoPath, Vec<&[(Stage, Fingerprint)]>> = HashMap::new();
        for (build, declared) in &active {
            self.supersede(build, declared, &tip.commit, &mut batch);
            if build.until.is_none() {
                under_way.entry(&build.key.path).or_default().push(declared);
            }
        }
        for bundle in plan.bundles.iter().filter(|bundle| bundle.action.is_work()) {
            let Some(buildable) = read.reading.buildable(&bundle.bundle) else { continue };
            let wanted = prints(buildable);
            if !under_way.get(&bundle.bundle).is_some_and(|builds| builds.contains(&wanted.as_slice())) {
                let new = new_build(key(&bundle.bundle), tip.commit.clone(), bundle, buildable);
                batch.new.push(NewBuild { tracked: true, ..new });
            }
        }
        let orders = self.store().enqueue(batch).await?;
        if read.reading.complete {
            self.store().unserve(plan.removed.iter().map(key).collect()).await?;
        }
        for order in orders.iter().take(MOST_LINES) {
            info!(build = order.number.0, bundle = %order.key.path, commit = order.commit.as_str(), "queued");
        }
        if orders.len() > MOST_LINES {
            info!("queued {} more builds", orders.len() - MOST_LINES);
        }
        Ok(orders)
    }

    /// A queued build whose inputs are not the newest is superseded; a running one goes on and will not publish, unless
    /// its bundle is gone.
    fn supersede(&self, build: &OpenBuild, declared: &[(Stage, Fingerprint)], commit: &CommitId, batch: &mut Enqueue) {
        let wanted = self.wanted(&build.key);
        let is_wanted = wanted.as_ref().is_some_and(|wanted| wanted.prints().eq(declared.iter().copied()));
        if is_wanted || !build.tracked {
            return;
        }
        let reason = format!("superseded by {}", commit.short());
        match build.state {
            BuildState::Queued => batch.supersede.push((build.number, reason)),
            BuildState::Running if wanted.is_none() => self.stop_superseded(build.number, &reason),
            BuildState::Running | BuildState::Finished => {}
        }
    }

    /// The unfinished builds of a branch, with the declared fingerprints they were queued for.
    async fn active(
        &self,
        repository: &RepoName,
        branch: &Branch,
    ) -> Result<Vec<(OpenBuild, Arc<[(Stage, Fingerprint)]>)>, StoreError> {
        let mut declared = self.store().declared_unfinished().await?;
        let open = self.store().open_builds().await?;
        let active = open.iter().filter(|build| build.key.repository == *repository && build.key.branch == *branch);
        let with_prints = active.map(|build| {
            let prints = declared.remove(&build.number).unwrap_or_default();
            (build.clone(), prints)
        });
        Ok(with_prints.collect())
    }

    fn stop_superseded(&self, build: crate::domain::id::BuildNo, reason: &str) {
        if let Some(running) = self.running().get_mut(&build) {
            running.stopped = Some(Stopped::Superseded(reason.to_owned()));
            running.cancel.cancel();
        }
    }

    pub(super) fn remember_wanted(&self, repository: &RepoName, branch: &Branch, reading: &Reading) {
        let buildable = reading.bundles.iter().filter_map(|bundle| {
            let buildable = bundle.verdict.as_ref().ok()?;
            Some((bundle.path.clone(), Arc::clone(buildable)))
        });
        let wanted = Arc::new(buildable.collect());
        let before = unpoisoned(&self.shared.wanted).insert((repository.clone(), branch.clone()), wanted);
        // Not while the lock is held.
        drop(before);
    }

    /// A branch that is gone or tracked no more: its queued builds end superseded and nothing of it is served any more.
    async fn retire_branch(&self, repository: &RepoName, branch: &Branch) -> Result<(), StoreError> {
        let served = self.store().served(repository, branch).await?;
        let active = self.active(repository, branch).await?;
        unpoisoned(&self.shared.wanted).remove(&(repository.clone(), branch.clone()));
        unpoisoned(&self.shared.known).remove(&(repository.clone(), branch.clone()));
        unpoisoned(&self.shared.plans).remove(&(repository.clone(), branch.clone()));
        let mut batch = Enqueue { at: self.clock().now(), ..Enqueue::default() };
        for (build, declared) in &active {
            self.supersede(build, declared, &CommitId::from("the end of its branch"), &mut batch);
        }
        if !batch.supersede.is_empty() {
            self.store().enqueue(batch).await?;
        }
        let key = |path| BundleKey { repository: repository.clone(), branch: branch.clone(), path };
        self.store().unserve(served.into_keys().map(key).collect()).await?;
        self.store().forget_planned(repository, branch).await
    }
}

/// The declared fingerprints of a bundle's stages, as a commit has them.
pub(super) fn prints(buildable: &Buildable) -> Prints {
    buildable.prints().collect()
}

/// The bundle this one is based on, and the fingerprint of the disk that it counts on.
pub(super) fn base_print(buildable: &Buildable) -> Option<(RepoPath, Fingerprint)> {
    use crate::domain::inputs::Input;
    buildable.stages.first()?.own.iter().find_map(|input| match input {
        Input::Base { bundle, fingerprint } => Some((bundle.clone(), *fingerprint)),
        _ => None,
    })
}

/// A build of a bundle as a plan asks for it.
pub(super) fn new_build(key: BundleKey, commit: CommitId, plan: &BundlePlan, buildable: &Buildable) -> NewBuild {
    let inputs = buildable.stages.iter().map(|stage| (stage.stage, stage.declared, stage.own.clone()));
    let stages = buildable.stages.iter().map(|stage| stage.stage).collect();
    NewBuild {
        key,
        commit,
        reason: plan.reason.clone().into_owned(),
        by: "push".to_owned(),
        from: None,
        until: None,
        no_cache: false,
        tracked: false,
        stages,
        inputs: inputs.collect(),
    }
}

/// Whether anything in a plan would be done.
pub fn has_work(plan: &Plan) -> bool {
    plan.bundles.iter().any(|bundle| bundle.action.is_work())
}

/// How many bundles of a plan have an action.
pub fn count(plan: &Plan, action: Action) -> usize {
    plan.bundles.iter().filter(|bundle| bundle.action == action).count()
}

/// The directory below which a build's scratch files lie.
pub(super) fn scratch_of(engine: &Engine, build: crate::domain::id::BuildNo) -> PathBuf {
    engine.policy().scratch.join(build.0.to_string())
}
