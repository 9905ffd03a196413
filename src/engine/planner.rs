//! Compares branch tips with what is served, and queues what that takes: truth is looked at, hints only say when.
//!
//! Planning a repository is one at a time. For each branch the tip's tree is read (on a thread that may block), facts are
//! gathered for the bundles that are not simply unchanged, `domain::plan` decides, and one transaction queues new builds,
//! supersedes the queued ones whose inputs are no longer the newest, and remembers the tip as planned.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;
use tracing::{info, instrument};

use super::ports::{CommitInfo, PortError, Tip};
use super::{Engine, Outlook, Stopped, Wanted, unpoisoned};
use crate::blocking;
use crate::domain::build::{BuildState, Moment, Order};
use crate::domain::bundle::BundleKey;
use crate::domain::id::{Branch, CommitId, Fingerprint, RepoName};
use crate::domain::path::RepoPath;
use crate::domain::pipeline::Stage;
use crate::domain::plan::{Action, BundlePlan, Facts, Kept, Plan, StagePlan, plan, plan_bundle};
use crate::domain::tree::TreeError;
use crate::manifest::fault::Fault;
use crate::manifest::read;
use crate::manifest::reading::{Buildable, Reading};
use crate::store::{BuildRecord, Enqueue, NewBuild, StoreError};

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
#[derive(Debug)]
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

/// The declared fingerprints of a bundle's stages, in order.
pub(super) type Prints = Vec<(Stage, Fingerprint)>;

/// What each bundle of a branch is served with.
type ServedPrints = HashMap<RepoPath, Prints>;

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
    #[instrument(skip(self))]
    pub async fn plan_repository(&self, repository: &RepoName) -> Result<Plans, PlanError> {
        let _one_at_a_time = self.shared.planning.lock().await;
        let plans = self.plan_branches(repository).await;
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

    async fn plan_branches(&self, repository: &RepoName) -> Result<Plans, PlanError> {
        let (tips, head) = self.tips(repository).await?;
        let tracked = self.tracked(repository, head.as_ref());
        let (mut planned, mut failed) = (Vec::new(), Vec::new());
        for tip in &tips {
            let is_tracked = tracked.contains(&tip.branch);
            match self.plan_tip(repository, tip, is_tracked, head.as_ref()).await {
                Ok(plan) => planned.push(plan),
                Err(error @ PlanError::Store(_)) => return Err(error),
                Err(error) => failed.push((tip.branch.clone(), error)),
            }
        }
        // A deleted HEAD is tracked no more, so those that were are looked at too.
        let mut gone: BTreeSet<Branch> = self.store().planned_branches(repository).await?.into_iter().collect();
        gone.extend(tracked);
        for branch in gone.iter().filter(|branch| !tips.iter().any(|tip| tip.branch == **branch)) {
            self.retire_branch(repository, branch).await?;
        }
        Ok(Plans { planned, failed })
    }

    /// The plan of a revision against what is known; creates nothing.
    ///
    /// # Errors
    /// When the revision does not exist, or something can't be read.
    pub async fn plan_revision(&self, repository: &RepoName, revision: &str) -> Result<Planned, PlanError> {
        let (tips, head) = self.tips(repository).await?;
        let commit = self.resolve(repository, revision).await?;
        let branch = tips.iter().find(|tip| tip.branch.as_str() == revision).map(|tip| tip.branch.clone());
        let branch = branch.or_else(|| head.clone()).unwrap_or_else(|| Branch::from("HEAD"));
        let tracked = self.tracked(repository, head.as_ref()).contains(&branch);
        let read = self.read(repository, commit).await?;
        let facts = self.facts(repository, &branch, tracked, head.as_ref(), &read.reading).await?;
        let plan = plan(read.commit.clone(), None, &read.reading.candidates(), &facts);
        Ok(Planned {
            repository: repository.clone(),
            branch,
            tracked,
            info: read.info,
            plan: Arc::new(plan),
            faults: read.reading.faults,
            queued: Vec::new(),
        })
    }

    /// The plan from one revision to another, as if every bundle of the first had been built; creates nothing.
    ///
    /// # Errors
    /// When a revision does not exist, or something can't be read.
    pub async fn plan_range(&self, repository: &RepoName, from: &str, to: &str) -> Result<Planned, PlanError> {
        let base = self.resolve(repository, from).await?;
        let before = self.read(repository, base).await?;
        let commit = self.resolve(repository, to).await?;
        let read = self.read(repository, commit).await?;
        let plan =
            plan(read.commit.clone(), Some(before.commit), &read.reading.candidates(), &before.reading.as_built());
        Ok(Planned {
            repository: repository.clone(),
            branch: Branch::from(to),
            tracked: false,
            info: read.info,
            plan: Arc::new(plan),
            faults: read.reading.faults,
            queued: Vec::new(),
        })
    }

    /// Whether a repository has no branch yet.
    ///
    /// # Errors
    /// When it can't be read.
    pub async fn is_empty(&self, repository: &RepoName) -> Result<bool, PortError> {
        Ok(self.tips(repository).await?.0.is_empty())
    }

    pub(super) async fn tips(&self, repository: &RepoName) -> Result<(Vec<Tip>, Option<Branch>), PortError> {
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
        head: Option<&Branch>,
    ) -> Result<Planned, PlanError> {
        let read = self.read(repository, tip.commit.clone()).await?;
        let facts = self.facts(repository, &tip.branch, tracked, head, &read.reading).await?;
        let plan = Arc::new(plan(read.commit.clone(), None, &read.reading.candidates(), &facts));
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
        Ok(planned)
    }

    /// What is known about the bundles of a reading. An untracked branch is compared with what the default branch serves.
    async fn facts(
        &self,
        repository: &RepoName,
        branch: &Branch,
        tracked: bool,
        head: Option<&Branch>,
        reading: &Reading,
    ) -> Result<Facts, StoreError> {
        let serving = if tracked { branch } else { head.unwrap_or(branch) };
        let served = self.served_prints(repository, serving).await?;
        // What is served as it should be needs no further look: usually that is nearly everything.
        let open = reading
            .bundles
            .iter()
            .filter_map(|bundle| Some((&bundle.path, bundle.verdict.as_ref().ok()?.as_ref())))
            .filter(|(path, buildable)| served.get(*path) != Some(&prints(buildable)))
            .collect();
        self.facts_about(repository, serving, tracked, served, open).await
    }

    /// What a plan says now of each stage of a build, so that the build can say why each one runs.
    pub(super) async fn stage_plans(&self, order: &Order, buildable: &Buildable) -> Result<Vec<StagePlan>, StoreError> {
        let (repository, path) = (&order.key.repository, &order.key.path);
        let head = if order.tracked { None } else { self.tips(repository).await.ok().and_then(|(_, head)| head) };
        let serving = head.unwrap_or_else(|| order.key.branch.clone());
        let served = self.served_prints(repository, &serving).await?;
        let mut facts = self.facts_about(repository, &serving, order.tracked, served, vec![(path, buildable)]).await?;
        // Somebody asked for it, whatever failed before.
        facts.failed.clear();
        Ok(plan_bundle(&buildable.candidate(path), &facts).stages)
    }

    async fn served_prints(&self, repository: &RepoName, branch: &Branch) -> Result<ServedPrints, StoreError> {
        let served = self.store().served(repository, branch).await?;
        Ok(served.into_iter().map(|(path, served)| (path, served.stages)).collect())
    }

    async fn facts_about(
        &self,
        repository: &RepoName,
        serving: &Branch,
        tracked: bool,
        served: ServedPrints,
        bundles: Vec<(&RepoPath, &Buildable)>,
    ) -> Result<Facts, StoreError> {
        let all: Vec<Fingerprint> =
            bundles.iter().flat_map(|(_, buildable)| buildable.stages.iter().map(|stage| stage.declared)).collect();
        let now = self.clock().now();
        let driver = &self.policy().driver;
        let mut kept: HashMap<Fingerprint, Kept> = HashMap::new();
        for (print, result) in self.store().results(repository, all.clone(), driver, tracked, Moment(i64::MIN)).await? {
            let is_over = result.expires.is_some_and(|expires| expires <= now);
            kept.insert(print, if is_over { Kept::Expired } else { Kept::Usable });
        }
        let failed = self.store().failures(repository, all, tracked).await?;
        let key =
            |path: &RepoPath| BundleKey { repository: repository.clone(), branch: serving.clone(), path: path.clone() };
        let keys = bundles.iter().map(|(path, _)| key(path)).collect();
        let last =
            self.store().last_inputs_of(keys).await?.into_iter().map(|(key, inputs)| (key.path, inputs)).collect();
        Ok(Facts { kept, failed, served, last })
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
        for (record, declared) in &active {
            self.supersede(record, declared, &tip.commit, &mut batch);
        }
        let buildables: HashMap<&RepoPath, &Arc<Buildable>> = read
            .reading
            .bundles
            .iter()
            .filter_map(|bundle| Some((&bundle.path, bundle.verdict.as_ref().ok()?)))
            .collect();
        for bundle in plan.bundles.iter().filter(|bundle| bundle.action.is_work()) {
            let Some(buildable) = buildables.get(&bundle.bundle) else { continue };
            let wanted = prints(buildable);
            let is_under_way = active.iter().any(|(record, declared)| {
                record.order.key.path == bundle.bundle && *declared == wanted && record.order.until.is_none()
            });
            if !is_under_way {
                let new = new_build(key(&bundle.bundle), tip.commit.clone(), bundle, buildable);
                batch.new.push(NewBuild { tracked: true, ..new });
            }
        }
        let orders = self.store().enqueue(batch).await?;
        if read.reading.complete {
            self.store().unserve(plan.removed.iter().map(key).collect()).await?;
        }
        for order in &orders {
            info!(build = order.number.0, bundle = %order.key.path, commit = order.commit.as_str(), "queued");
        }
        Ok(orders)
    }

    /// A queued build whose inputs are not the newest is superseded; a running one goes on and will not publish, unless
    /// its bundle is gone.
    fn supersede(&self, record: &BuildRecord, declared: &Prints, commit: &CommitId, batch: &mut Enqueue) {
        let wanted = self.wanted().get(&record.order.key).cloned();
        if wanted.as_ref().is_some_and(|wanted| wanted.stages == *declared) || !record.order.tracked {
            return;
        }
        let reason = format!("superseded by {}", commit.short());
        match record.build.state {
            BuildState::Queued => batch.supersede.push((record.order.number, reason)),
            BuildState::Running if wanted.is_none() => self.stop_superseded(record.order.number, &reason),
            BuildState::Running | BuildState::Finished => {}
        }
    }

    /// The unfinished builds of a branch, with the declared fingerprints they were queued for.
    async fn active(&self, repository: &RepoName, branch: &Branch) -> Result<Vec<(BuildRecord, Prints)>, StoreError> {
        let mut declared = self.store().declared_unfinished().await?;
        let mut active = self.store().unfinished().await?;
        active.retain(|record| record.order.key.repository == *repository && record.order.key.branch == *branch);
        let with_prints = active.into_iter().map(|record| {
            let prints = declared.remove(&record.order.number).unwrap_or_default();
            (record, prints)
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
        let mut wanted = self.wanted();
        wanted.retain(|key, _| key.repository != *repository || key.branch != *branch);
        for bundle in &reading.bundles {
            let Ok(buildable) = &bundle.verdict else { continue };
            let key = BundleKey { repository: repository.clone(), branch: branch.clone(), path: bundle.path.clone() };
            wanted.insert(
                key,
                Wanted {
                    memory: buildable.pipeline.boot.memory,
                    stages: prints(buildable),
                    base: base_print(buildable),
                },
            );
        }
    }

    /// A tracked branch that is gone: its queued builds end superseded and nothing of it is served any more.
    async fn retire_branch(&self, repository: &RepoName, branch: &Branch) -> Result<(), StoreError> {
        let served = self.store().served(repository, branch).await?;
        let active = self.active(repository, branch).await?;
        self.wanted().retain(|key, _| key.repository != *repository || key.branch != *branch);
        unpoisoned(&self.shared.plans).remove(&(repository.clone(), branch.clone()));
        let mut batch = Enqueue { at: self.clock().now(), ..Enqueue::default() };
        for (record, declared) in &active {
            self.supersede(record, declared, &CommitId::from("the end of its branch"), &mut batch);
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
    buildable.stages.iter().map(|stage| (stage.stage, stage.declared)).collect()
}

/// The bundle this one is based on, and the fingerprint of the disk that it counts on.
fn base_print(buildable: &Buildable) -> Option<(RepoPath, Fingerprint)> {
    use crate::domain::inputs::Input;
    buildable.stages.first()?.own.iter().find_map(|input| match input {
        Input::Base { bundle, fingerprint } => Some((bundle.clone(), *fingerprint)),
        _ => None,
    })
}

/// A build of a bundle as a plan asks for it.
pub(super) fn new_build(key: BundleKey, commit: CommitId, plan: &BundlePlan, buildable: &Buildable) -> NewBuild {
    let inputs = buildable.stages.iter().map(|stage| (stage.stage, stage.declared, stage.own.as_ref().clone()));
    let stages = buildable.stages.iter().map(|stage| stage.stage).collect();
    NewBuild {
        key,
        commit,
        reason: plan.reason.clone(),
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
