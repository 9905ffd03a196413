//! What people ask for by hand: build, cancel, retry.

use std::sync::Arc;

use thiserror::Error;

use super::planner::{PlanError, new_build};
use super::{Engine, Needs};
use crate::domain::build::{BuildState, Event, Order, Outcome};
use crate::domain::bundle::BundleKey;
use crate::domain::id::{Branch, BuildNo, RepoName};
use crate::domain::path::RepoPath;
use crate::domain::pipeline::Stage;
use crate::domain::plan::{Facts, plan_bundle};
use crate::manifest::reading::{Buildable, BundleReading};
use crate::store::{Enqueue, NewBuild, StoreError};

/// A build asked for by hand.
#[derive(Clone, Debug, Default)]
pub struct BuildRequest {
    /// The bundle: its path, or the last part of it where only one bundle ends so.
    pub bundle: String,
    /// The branch, tag or commit; the default branch without it.
    pub revision: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// The first stage that runs even if its result is known.
    pub from: Option<Stage>,
    /// The last stage that runs.
    pub until: Option<Stage>,
    /// Whether no kept result is used.
    pub no_cache: bool,
    /// Who asks.
    pub by: String,
}

/// Why a request is not done.
#[derive(Debug, Error)]
pub enum RequestError {
    /// Nothing has this name or number.
    #[error("{0}")]
    Missing(String),
    /// It can't be done as things are.
    #[error("{0}")]
    Conflict(String),
    /// The repository can't be read.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Engine {
    /// Queues a build of one bundle. A build of a tracked branch's tip publishes; any other goes as far as `test`.
    ///
    /// # Errors
    /// When there is no such bundle or revision, or the bundle can't be built.
    pub async fn request_build(&self, repository: &RepoName, request: BuildRequest) -> Result<Order, RequestError> {
        let _one_at_a_time = self.shared.planning.lock().await;
        let (tips, head) = self.tips(repository).await.map_err(PlanError::from)?;
        let head = head.ok_or_else(|| RequestError::Missing(format!("nothing was pushed to {repository} yet")))?;
        let revision = request.revision.clone().unwrap_or_else(|| head.to_string());
        let commit = self.resolve(repository, &revision).await.map_err(PlanError::from)?;
        let tracked = self.tracked(repository, Some(&head));
        let tip = tips.iter().find(|tip| tip.commit == commit && tracked.contains(&tip.branch));
        let branch = tip.map(|tip| tip.branch.clone());
        let read = self.read(repository, commit.clone()).await?;
        let (path, buildable) = find(&read.reading.bundles, &request.bundle)?;
        let is_tip = branch.is_some();
        let key = BundleKey {
            repository: repository.clone(),
            branch: branch.unwrap_or_else(|| Branch::from(revision.as_str())),
            path,
        };
        if is_tip {
            self.remember_wanted(repository, &key.branch, &read.reading);
        }
        let new = self.by_hand(&request, key, commit, &buildable, is_tip);
        self.enqueue_one(new).await
    }

    fn by_hand(
        &self,
        request: &BuildRequest,
        key: BundleKey,
        commit: crate::domain::id::CommitId,
        buildable: &Arc<Buildable>,
        tracked: bool,
    ) -> NewBuild {
        let candidate = buildable.candidate(&key.path);
        let plan = plan_bundle(&candidate, &Facts::default());
        NewBuild {
            reason: request.reason.clone().unwrap_or_else(|| format!("asked for by {}", request.by)),
            by: request.by.clone(),
            from: request.from,
            until: request.until,
            no_cache: request.no_cache,
            tracked,
            ..new_build(key, commit, &plan, buildable)
        }
    }

    async fn enqueue_one(&self, new: NewBuild) -> Result<Order, RequestError> {
        let prints = new.inputs.iter().map(|(_, print, _)| *print).collect();
        self.store().clear_failures(&new.key.repository, prints).await?;
        let mut batch = Enqueue { at: self.clock().now(), ..Enqueue::default() };
        batch.new.push(new);
        let order = self.store().enqueue(batch).await?.pop();
        self.wake();
        order.ok_or_else(|| RequestError::Conflict("the build was not queued".to_owned()))
    }

    /// Stops a build: a queued one ends at once, a running one as soon as its machine is gone.
    ///
    /// # Errors
    /// When there is no such build, or it has ended.
    pub async fn cancel(&self, number: BuildNo, by: &str) -> Result<(), RequestError> {
        let record = self.known_build(number).await?;
        // While its place is ours it can't start.
        let event = match self.take_place(number, record.order.key, Needs::default()) {
            Some(_place) if record.build.state == BuildState::Queued => {
                let reason = format!("cancelled by {by} before it started");
                let event = Event::Finished { outcome: Outcome::Cancelled, failure: None, reason };
                return self.asked_for(number, event).await;
            }
            _ => Event::CancelAsked { by: by.to_owned() },
        };
        let asked = self.asked_for(number, event).await;
        // Also where that can't be written down: what fills the disk must be stopped.
        if let Some(running) = self.running().get(&number) {
            running.cancel.cancel();
        }
        self.wake();
        asked
    }

    /// Journals what somebody asked for; that it can't follow means that the build ended meanwhile.
    async fn asked_for(&self, number: BuildNo, event: Event) -> Result<(), RequestError> {
        match self.store().append(number, self.clock().now(), event, Vec::new()).await {
            Err(StoreError::IllegalEvent { .. }) => Err(RequestError::Conflict(format!("{number} has ended already"))),
            other => Ok(other.map(drop)?),
        }
    }

    /// Queues a new build like an ended one, of the same commit and bundle.
    ///
    /// # Errors
    /// When there is no such build, or it has not ended.
    pub async fn retry(&self, number: BuildNo, from: Option<Stage>, by: &str) -> Result<Order, RequestError> {
        let _one_at_a_time = self.shared.planning.lock().await;
        let record = self.known_build(number).await?;
        if record.build.state != BuildState::Finished {
            return Err(RequestError::Conflict(format!("{number} has not ended; cancel it first")));
        }
        let order = record.order;
        let inputs = self.store().inputs(number).await?;
        self.enqueue_one(NewBuild {
            key: order.key,
            commit: order.commit,
            reason: format!("retry of {number} by {by}"),
            by: by.to_owned(),
            from: from.or(order.from),
            until: order.until,
            no_cache: order.no_cache,
            tracked: order.tracked,
            stages: inputs.iter().map(|(stage, ..)| *stage).collect(),
            inputs,
        })
        .await
    }

    async fn known_build(&self, number: BuildNo) -> Result<crate::store::BuildRecord, RequestError> {
        let found = self.store().build(number).await?;
        found.ok_or_else(|| RequestError::Missing(format!("there is no build {number}")))
    }
}

fn find(bundles: &[BundleReading], name: &str) -> Result<(RepoPath, Arc<Buildable>), RequestError> {
    let wanted = RepoPath::new(name).unwrap_or_default();
    let exact = bundles.iter().find(|bundle| bundle.path == wanted);
    let by_name: Vec<&BundleReading> =
        bundles.iter().filter(|bundle| bundle.path.name() == wanted.as_bytes()).collect();
    let found = match (exact, by_name.as_slice()) {
        (Some(bundle), _) => bundle,
        (None, [bundle]) => *bundle,
        (None, []) => {
            let known: Vec<String> = bundles.iter().take(10).map(|bundle| bundle.path.to_string()).collect();
            return Err(RequestError::Missing(format!("there is no bundle {name}; there are: {}", known.join(", "))));
        }
        (None, several) => {
            let paths: Vec<String> = several.iter().map(|bundle| bundle.path.to_string()).collect();
            return Err(RequestError::Conflict(format!("{name} could be {}", paths.join(" or "))));
        }
    };
    match &found.verdict {
        Ok(buildable) => Ok((found.path.clone(), Arc::clone(buildable))),
        Err(unbuildable) => {
            Err(RequestError::Conflict(format!("{} can't be built: {}", found.path, unbuildable.reason)))
        }
    }
}
