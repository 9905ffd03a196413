//! Takes one build through its stages: next stage → journal the intent → do it → journal the result.
//!
//! A stage does not run if its fingerprint has a usable result, unless someone asked for it. Whatever happens, the machine
//! is released, scratch is removed, the build's files are archived, and the last event says how it ended. When the journal
//! itself can't be written, the build stops where it is: the next start of the daemon finds it unfinished.

mod prepare;
mod scope;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::failure::Stop;
use super::grants::Grants;
use super::log::StepLog;
use super::ports::{Driver, Machine, PortErrorKind, Wait};
use super::stages;
use super::{Engine, Stopped};
use crate::blocking;
use crate::domain::build::{Build, Effect, Event, Failure, Moment, Order, Outcome, StageEnd, StageProgress};
use crate::domain::expression::Text;
use crate::domain::id::{BuildNo, Digest, DiskId, Fingerprint};
use crate::domain::image::Image;
use crate::domain::inputs;
use crate::domain::path::RepoPath;
use crate::domain::pipeline::Stage;
use crate::domain::places::Places;
use crate::domain::value::Value;
use crate::manifest::reading::{Buildable, StageInputs};
use crate::store::{Artifact, Blob, BuildRecord, LogWriter, Payload, Record, StageResult, StoreError, Warning};

pub(super) use scope::build_scope;

/// One build under way.
pub(super) struct Run {
    pub(super) engine: Engine,
    pub(super) order: Order,
    pub(super) buildable: Arc<Buildable>,
    pub(super) driver: Arc<dyn Driver>,
    pub(super) wait: Wait,
    pub(super) log: Arc<LogWriter>,
    /// Where scratch files lie; removed at the end.
    pub(super) scratch: PathBuf,
    /// What is archived as the build's files.
    pub(super) files: PathBuf,
    /// When the build was first taken up.
    pub(super) started: Moment,
    /// The machine that is up, for the stage that needs it.
    pub(super) machine: Option<Box<dyn Machine>>,
    /// The results of stages, this build's or kept ones, as later stages need them.
    pub(super) results: BTreeMap<Stage, StageResult>,
    /// The image that is served and holds the very disk that the stages before `snapshot` would make, so that none of
    /// them need run even where the sealed disk is gone.
    pub(super) disk_image: Option<Image>,
    /// The image that this build leaves served.
    pub(super) image: Option<Image>,
    /// Held from the look at what is served until it is written what serves.
    pub(super) serving: Option<OwnedMutexGuard<()>>,
    /// What host steps may use.
    pub(super) grants: Grants,
    /// Why each stage runs, if it does, as a plan says it at the start of this run.
    reasons: BTreeMap<Stage, String>,
    /// What looks wrong in the outputs.
    pub(super) warnings: Vec<Warning>,
    /// The paths of this build's artifacts.
    pub(super) archived: BTreeSet<RepoPath>,
    /// Rows that are written with the next event.
    pending: Vec<Record>,
    /// Files of the store that no row refers to yet: held, so that garbage collection leaves them alone.
    held: Vec<Blob>,
    build: Build,
}

/// What a stage leaves when it ran well.
pub(super) struct Done {
    pub(super) resolved: Fingerprint,
    pub(super) payload: Payload,
    /// The result that was kept under another fingerprint, where what it stands for was put right in place: it has moved.
    pub(super) moved: Option<StageResult>,
    pub(super) expires: Option<Moment>,
}

/// Runs a build to its end. Every outcome is journalled.
///
/// # Errors
/// When the journal can't be written, which is in the log then. Whoever looks at the build later sends it on.
pub(super) async fn run(engine: &Engine, record: BuildRecord, cancel: CancellationToken) -> Result<(), StoreError> {
    let number = record.order.number;
    let prepared = Run::prepare(engine, record, cancel).await;
    let ended = match prepared {
        Ok(None) => Ok(()),
        Ok(Some(mut run)) => match run.stages().await.map_err(|(stage, stop)| (stage, run.as_stopped(stop))) {
            Err((stage, Stop::Drained)) => run.pause(stage).await,
            end => run.finish(end).await,
        },
        Err(error) => Err(error),
    };
    ended.inspect_err(|error| error!(build = number.0, %error, "the build can't be journalled, and stops where it is"))
}

impl Run {
    /// Runs the stages in order, up to where the build was asked to go.
    async fn stages(&mut self) -> Result<(), (Stage, Stop)> {
        let buildable = Arc::clone(&self.buildable);
        for need in &buildable.stages {
            if self.order.until.is_some_and(|until| need.stage > until) {
                break;
            }
            if !self.order.tracked && need.stage >= Stage::Snapshot {
                break;
            }
            if self.engine.shared.draining.is_cancelled() {
                return Err((need.stage, Stop::Drained));
            }
            self.stage(need).await.map_err(|stop| (need.stage, stop))?;
        }
        Ok(())
    }

    async fn stage(&mut self, need: &StageInputs) -> Result<(), Stop> {
        if self.wait.cancel.is_cancelled() {
            return Err(Stop::Cancelled);
        }
        if need.stage == Stage::Snapshot {
            let lock = Arc::clone(&self.engine.shared.serving).lock_owned();
            self.serving = Some(self.wait.run("waiting for another build to publish", async { Ok(lock.await) }).await?);
        }
        let done = self.do_or_keep(need).await;
        self.serving = None;
        done
    }

    async fn do_or_keep(&mut self, need: &StageInputs) -> Result<(), Stop> {
        if let Some(result) = self.usable(need).await? {
            let progress = self.build.stages.get(&need.stage).map(|run| run.progress);
            if progress == Some(StageProgress::Waiting) {
                let event = Event::StageHit { stage: need.stage, from: result.build, declared: need.declared };
                self.journal(event, Vec::new()).await?;
                self.stage_log(need.stage).say(&format!("kept from {}", result.build));
            }
            self.results.insert(need.stage, result);
            if need.stage == Stage::Snapshot {
                stages::snapshot::serve_kept(self).await?;
            }
            return Ok(());
        }
        if let Some(from) = self.in_served_disk(need) {
            let event = Event::StageHit { stage: need.stage, from, declared: need.declared };
            return Ok(self.journal(event, Vec::new()).await?);
        }
        let reason = self.reason(need.stage);
        self.journal(Event::StageStarted { stage: need.stage, declared: need.declared, reason }, Vec::new()).await?;
        info!(stage = need.stage.word(), "stage starts");
        let done = match need.stage {
            Stage::Boot => stages::boot::run(self).await?,
            Stage::Provision => stages::provision::run(self).await?,
            Stage::Test => stages::test::run(self).await?,
            Stage::Snapshot => stages::snapshot::run(self).await?,
            Stage::Render => stages::render::run(self).await?,
        };
        self.keep(need, done).await
    }

    /// Writes a stage's result and its end in one transaction.
    async fn keep(&mut self, need: &StageInputs, done: Done) -> Result<(), Stop> {
        let event = Event::StageFinished { stage: need.stage, end: StageEnd::Passed };
        if let Some(moved) = done.moved {
            self.results.insert(need.stage, moved);
            return Ok(self.journal(event, Vec::new()).await?);
        }
        let result = StageResult {
            number: None,
            repository: self.order.key.repository.clone(),
            stage: need.stage,
            declared: need.declared,
            resolved: done.resolved,
            driver: self.driver.name().clone(),
            build: self.order.number,
            tracked: self.order.tracked,
            made: self.engine.clock().now(),
            expires: done.expires,
            payload: done.payload,
        };
        self.results.insert(need.stage, result.clone());
        Ok(self.journal(event, vec![Record::Result(result)]).await?)
    }

    /// A kept result that serves for this stage, unless somebody asked for the stage to be done.
    async fn usable(&self, need: &StageInputs) -> Result<Option<StageResult>, Stop> {
        // What this build did itself, in an earlier attempt, is used whatever was asked for.
        let own = |result: &StageResult| result.build == self.order.number;
        let forced = self.order.no_cache || self.order.from.is_some_and(|from| need.stage >= from);
        let now = self.engine.clock().now();
        let key = &self.order.key;
        let driver = self.driver.name();
        let found = self
            .engine
            .store()
            .usable(&key.repository, need.stage, need.declared, driver, self.order.tracked, now)
            .await?;
        let Some(result) = found.filter(|result| !forced || own(result)) else { return Ok(None) };
        Ok(stages::still_there(self, &result).await?.then_some(result))
    }

    /// The build whose served image holds what this stage would make.
    fn in_served_disk(&self, need: &StageInputs) -> Option<BuildNo> {
        let waits = self.build.stages.get(&need.stage).map(|run| run.progress) == Some(StageProgress::Waiting);
        let image = self.disk_image.as_ref().filter(|_| waits && need.stage < Stage::Snapshot)?;
        Some(image.lineage.build)
    }

    fn reason(&self, stage: Stage) -> String {
        if self.order.no_cache || self.order.from.is_some_and(|from| stage >= from) {
            return format!("asked for by {}", self.order.by);
        }
        self.reasons.get(&stage).unwrap_or(&self.order.reason).clone()
    }

    /// Journals what a stage found besides its declared inputs, and gives the resolved fingerprint.
    pub(super) async fn resolved(
        &mut self,
        stage: Stage,
        mut found: Vec<(String, String)>,
    ) -> Result<Fingerprint, StoreError> {
        found.sort();
        found.insert(0, ("driver".to_owned(), self.driver.name().to_string()));
        let declared = self.need(stage).map_or(Fingerprint(Digest([0; 32])), |need| need.declared);
        let parent = self.buildable.pipeline.parent(stage).and_then(|parent| self.results.get(&parent));
        let resolved = inputs::resolved(declared, parent.map(|parent| parent.resolved), &found);
        self.journal(Event::StageResolved { stage, resolved, found }, Vec::new()).await?;
        Ok(resolved)
    }

    pub(super) fn need(&self, stage: Stage) -> Option<&StageInputs> {
        self.buildable.stages.iter().find(|need| need.stage == stage)
    }

    /// Writes an event, and rows with it, in one transaction. After an error nothing more may be done.
    pub(super) async fn journal(&mut self, event: Event, records: Vec<Record>) -> Result<(), StoreError> {
        let at = self.engine.clock().now();
        let mut all = std::mem::take(&mut self.pending);
        all.extend(records);
        self.build = self.engine.store().append(self.order.number, at, event, all).await?;
        self.held.clear();
        self.engine.changed();
        Ok(())
    }

    /// Rows to be written with the next event.
    pub(super) fn attach(&mut self, records: impl IntoIterator<Item = Record>) {
        self.pending.extend(records);
    }

    /// An artifact whose bytes are in the store, to be written down with the next event.
    pub(super) fn archive(&mut self, path: RepoPath, blob: Blob) {
        if self.archived.insert(path.clone()) {
            self.attach([Record::Artifact(Artifact { path, sha256: blob.sha256, size: blob.size })]);
            self.held.push(blob);
        }
    }

    /// The log of a stage, apart from its steps.
    pub(super) fn stage_log(&self, stage: Stage) -> Arc<StepLog> {
        StepLog::new(&self.log, stage, None)
    }

    /// What `build.…` and everything else in a late expression means.
    pub(super) fn scope(&self) -> Value {
        build_scope(&self.order, self.started, self.engine.clock().local(self.started))
    }

    /// Where people look for what this build leaves.
    pub(super) fn places(&self) -> Places {
        Places::of(&self.order.key.path, self.buildable.pipeline.called.as_deref())
    }

    /// A late text with everything filled in.
    pub(super) fn fill(&self, text: &Text) -> Result<String, Stop> {
        text.fill(&self.scope()).map_err(|error| Stop::failed(error.message, error.help))
    }

    /// Releases what is up, archives, and journals how the build ended.
    async fn finish(&mut self, end: Result<(), (Stage, Stop)>) -> Result<(), StoreError> {
        if let Err((_, Stop::Store(error))) = end {
            self.release().await;
            return Err(error);
        }
        if let Err((stage, stop)) = &end {
            self.end_stage(*stage, stop).await?;
        }
        self.release().await;
        self.drop_unkept().await?;
        if let Err(error) = stages::archive::run(self).await {
            warn!(%error, "not everything could be archived");
        }
        let (outcome, failure, reason) = self.ending(end);
        if let Some(failure) = &failure {
            warn!(outcome = outcome.word(), message = %failure.message, "build ended");
        } else {
            info!(outcome = outcome.word(), "build ended");
        }
        self.journal(Event::Finished { outcome, failure, reason }, Vec::new()).await?;
        self.engine.store().finish_log(self.order.number).await
    }

    /// The stage that did not end well ends in the journal, begun or not, so that its failure is known under its inputs.
    async fn end_stage(&mut self, stage: Stage, stop: &Stop) -> Result<(), StoreError> {
        let Some(declared) = self.need(stage).map(|need| need.declared) else { return Ok(()) };
        let progress = self.build.stages.get(&stage).map(|run| run.progress);
        if progress != Some(StageProgress::Running) {
            let reason = self.reason(stage);
            self.journal(Event::StageStarted { stage, declared, reason }, Vec::new()).await?;
        }
        // What no program has printed would be nowhere in the log that people keep.
        if let Stop::Failed(problem) = stop
            && problem.line.is_none()
        {
            self.stage_log(stage).say(&format!("failed: {}", problem.message));
        }
        let end = stop.stage_end();
        self.journal(Event::StageFinished { stage, end }, Vec::new()).await
    }

    fn as_stopped(&self, stop: Stop) -> Stop {
        if let Stop::NotDurable(error) = stop {
            return Stop::Store(self.engine.stop_writing(&error));
        }
        let running = self.engine.running();
        match running.get(&self.order.number).and_then(|running| running.stopped.clone()) {
            Some(Stopped::Superseded(reason)) if matches!(stop, Stop::Cancelled) => Stop::Superseded(reason),
            Some(Stopped::Full(problem)) if matches!(stop, Stop::Cancelled) => Stop::Failed(problem),
            Some(Stopped::Drained) if matches!(stop, Stop::Cancelled) => Stop::Drained,
            _ => stop,
        }
    }

    /// Gives everything back and leaves the build to the next start of the daemon, unless somebody cancelled it meanwhile.
    async fn pause(&mut self, stage: Stage) -> Result<(), StoreError> {
        self.stage_log(stage).say("the daemon stops; the build goes on when it is back");
        self.release().await;
        self.drop_unkept().await?;
        self.journal(Event::Drained, Vec::new()).await?;
        info!(stage = stage.word(), "paused");
        let Some(by) = self.build.cancel_asked.clone() else { return Ok(()) };
        let reason = format!("cancelled by {by} while the daemon stopped");
        let event = Event::Finished { outcome: Outcome::Cancelled, failure: None, reason };
        self.journal(event, Vec::new()).await?;
        self.engine.store().finish_log(self.order.number).await
    }

    fn ending(&self, end: Result<(), (Stage, Stop)>) -> (Outcome, Option<Failure>, String) {
        match end {
            Ok(()) => (Outcome::Passed, None, String::new()),
            Err((stage, stop)) => {
                let outcome = stop.outcome();
                match stop {
                    Stop::Failed(problem) => (outcome, Some(problem.at(stage)), String::new()),
                    Stop::Superseded(reason) => (outcome, None, reason),
                    Stop::Cancelled | Stop::Drained => {
                        let by = self.build.cancel_asked.clone().unwrap_or_else(|| "the daemon".to_owned());
                        (outcome, None, format!("cancelled by {by} during {stage}"))
                    }
                    Stop::Store(error) => (outcome, None, error.to_string()),
                    Stop::NotDurable(error) => (outcome, None, error.to_string()),
                }
            }
        }
    }

    /// Gives back everything outside that is this build's and not a result. What can't be given back now carries our tag
    /// and is found by the reaper.
    async fn release(&mut self) {
        if let Some(mut machine) = self.machine.take()
            && let Err(error) = machine.destroy().await
        {
            warn!(%error, "the machine can't be destroyed; it is swept later");
        }
        if let Err(error) = self.driver.release(self.order.number).await {
            warn!(%error, "not everything of this build can be released; it is swept later");
        }
        if let Err(error) = self.engine.host().release(self.order.number).await {
            warn!(%error, "private copies of this build can't be removed; they are swept later");
        }
        let scratch = self.scratch.clone();
        let removed = blocking::run(move || std::fs::remove_dir_all(scratch)).await;
        if let Err(error) = removed
            && error.kind() != std::io::ErrorKind::NotFound
        {
            warn!(%error, "scratch files can't be removed; they are swept later");
        }
    }

    /// Removes disks that were to be a stage's result when the stage failed. What can't be removed now is no row's and
    /// goes with the next garbage collection; what can't be made durable stops the build where it is.
    async fn drop_unkept(&self) -> Result<(), StoreError> {
        let kept = |disk: &DiskId| self.results.values().any(|result| result.payload.disks().contains(&disk));
        for effect in &self.build.open {
            if let Effect::Disk(disk) = effect
                && !kept(disk)
                && let Err(error) = self.driver.remove(disk).await
            {
                if error.kind == PortErrorKind::NotDurable {
                    return Err(self.engine.stop_writing(&error));
                }
                warn!(%error, "a disk that is no result can't be removed; gc will");
            }
        }
        Ok(())
    }

    /// Stops the machine that is up; its disk is thrown away.
    pub(super) async fn destroy_machine(&mut self, role: &str) -> Result<(), Stop> {
        if let Some(mut machine) = self.machine.take() {
            machine.destroy().await?;
            self.journal(Event::Released(Effect::Machine { role: role.to_owned() }), Vec::new()).await?;
        }
        Ok(())
    }
}
