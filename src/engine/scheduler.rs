//! Starts queued builds, one loop for the whole factory: woken by whatever may have made room, and by a slow timer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, info, info_span};

use super::planner::base_print;
use super::queue::{BaseState, Capacity, Decision, Waiting, decide};
use super::{Engine, Needs, Place, Stopped, disk, reaper, runner, unpoisoned};
use crate::domain::build::BuildState;
use crate::domain::bundle::BundleKey;
use crate::domain::id::{Branch, BuildNo, Fingerprint, RepoName};
use crate::domain::path::RepoPath;
use crate::domain::pipeline::MACHINE_MEMORY;
use crate::domain::plan::ServedPrints;
use crate::store::{OpenBuild, StoreError};

/// The queue is looked at this often even if nothing woke the scheduler: a lost wake costs no more.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// How long the stages that run may still take when the daemon is to stop.
const GRACE: Duration = Duration::from_secs(60);
/// How long builds may take to give back what they hold, once they are told to.
const UNWIND: Duration = Duration::from_secs(15);

/// Runs until `stop` is cancelled, then drains: nothing starts any more, each build ends the stage it is in and waits for
/// the next start of the daemon. A stage that takes longer than a minute, or than `cut` allows, is broken off and done
/// again then.
pub async fn run(engine: Engine, stop: CancellationToken, cut: CancellationToken) {
    tokio::select! {
        () = schedule(&engine, stop, cut) => {}
        () = disk::watch(&engine) => {}
    }
}

async fn schedule(engine: &Engine, stop: CancellationToken, cut: CancellationToken) {
    let mut builds = JoinSet::new();
    loop {
        // Registered before looking, so that what happens in between wakes us.
        let woken = engine.shared.wake.notified();
        if let Err(error) = start_what_can(engine, &mut builds, stop.is_cancelled()).await {
            error!(%error, "the queue can't be read");
        }
        *unpoisoned(&engine.shared.looked) = Instant::now();
        tokio::select! {
            () = woken => {}
            () = stop.cancelled() => break,
            Some(ended) = builds.join_next() => note_end(&ended),
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
    drain(engine, builds, cut).await;
}

impl Engine {
    /// Whether the scheduler goes round: it looked at the queue lately, or it drains.
    pub fn is_scheduling(&self) -> bool {
        self.shared.draining.is_cancelled() || unpoisoned(&self.shared.looked).elapsed() < 2 * LOOK_AGAIN
    }
}

async fn drain(engine: &Engine, mut builds: JoinSet<()>, cut: CancellationToken) {
    engine.shared.draining.cancel();
    engine.changed();
    let all_ended = async |builds: &mut JoinSet<()>| while builds.join_next().await.is_some() {};
    tokio::select! {
        () = all_ended(&mut builds) => return,
        () = cut.cancelled() => {}
        () = tokio::time::sleep(GRACE) => {}
    }
    for running in engine.running().values_mut() {
        running.stopped.get_or_insert(Stopped::Drained);
        running.cancel.cancel();
    }
    if tokio::time::timeout(UNWIND, all_ended(&mut builds)).await.is_err() {
        builds.abort_all();
        all_ended(&mut builds).await;
    }
}

fn note_end(ended: &Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        error!(%error, "a build's task panicked; its build is sent on as after a restart");
    }
}

async fn start_what_can(engine: &Engine, builds: &mut JoinSet<()>, draining: bool) -> Result<(), StoreError> {
    let open = engine.store().open_builds().await?;
    for build in open.iter().filter(|build| build.state == BuildState::Running) {
        take_up(engine, builds, build);
    }
    let left = engine.left_by_last_builds().await?;
    let mut bases = Bases::new(engine, &open);
    let (mut waiting, mut early) = (Vec::new(), Vec::new());
    for build in open.iter().filter(|build| build.state == BuildState::Queued) {
        // A long queue on a slow disk takes its time, and whoever looks on is not standing still.
        *unpoisoned(&engine.shared.looked) = Instant::now();
        if engine.running().contains_key(&build.number) {
            continue;
        }
        if let Some(reason) = unplanned(engine, &build.key) {
            early.push((build.number, reason));
            continue;
        }
        let (base, memory) = (bases.state(&build.key).await?, memory_of(engine, &build.key));
        let disk = disk::need(engine, &left, &build.key);
        waiting.push(Waiting { number: build.number, key: build.key.clone(), base, memory, disk });
    }
    let decisions = decide(&waiting, &capacity(engine, draining).await?);
    for (build, (number, decision)) in waiting.iter().zip(&decisions) {
        if *decision == Decision::Start {
            let needs = Needs { memory: build.memory, disk: build.disk.bytes() };
            start(engine, builds, *number, needs).await?;
        }
    }
    let mut waits = unpoisoned(&engine.shared.waits);
    let before = std::mem::replace(&mut *waits, early.into_iter().collect());
    for (number, decision) in decisions {
        match decision {
            Decision::Wait(reason) => drop(waits.insert(number, reason)),
            Decision::Start => {}
        }
    }
    let changed = *waits != before;
    drop(waits);
    if changed {
        engine.changed();
    }
    Ok(())
}

async fn capacity(engine: &Engine, draining: bool) -> Result<Capacity, StoreError> {
    let disk = disk::look(engine).await?;
    let taken: u64 = engine.running().values().map(|running| running.needs.memory).sum();
    let running = engine.running().iter().map(|(number, running)| (*number, running.key.clone())).collect();
    Ok(Capacity {
        memory: engine.policy().memory.map(|all| all.saturating_sub(taken)),
        slots: engine.policy().slots,
        running,
        broken: engine.store().broken(),
        disk,
        draining,
    })
}

async fn start(engine: &Engine, builds: &mut JoinSet<()>, number: BuildNo, needs: Needs) -> Result<(), StoreError> {
    let Some(record) = engine.store().build(number).await? else { return Ok(()) };
    if record.build.state != BuildState::Queued {
        return Ok(());
    }
    let Some(place) = engine.take_place(number, record.order.key.clone(), needs) else { return Ok(()) };
    info!(build = number.0, bundle = %record.order.key.path, "starts");
    let (engine, record) = (engine.clone(), record.clone());
    let span = info_span!("build", build = number.0);
    builds.spawn(
        async move {
            let key = record.order.key.clone();
            let ended = runner::run(&engine, record, place.cancel.clone()).await;
            engine.forget_left();
            engine.look_again(&key).await;
            engine.ask_again();
            give_back(place, ended).await;
        }
        .instrument(span),
    );
    Ok(())
}

/// A build that runs as its journal says, and here nowhere: its task broke, or its end could not be written. It is sent
/// on as one that an earlier process left.
fn take_up(engine: &Engine, builds: &mut JoinSet<()>, build: &OpenBuild) {
    if engine.store().broken().is_some() || engine.shared.draining.is_cancelled() {
        return;
    }
    let Some(place) = engine.take_place(build.number, build.key.clone(), Needs::default()) else { return };
    let (engine, number) = (engine.clone(), build.number);
    builds.spawn(async move {
        let recovered = reaper::recover_one(&engine, number).await;
        if let Err(error) = &recovered {
            error!(build = number.0, %error, "the build can't be sent on");
        }
        give_back(place, recovered).await;
    });
}

/// Gives a build's place back: after a while where nothing could be written, since the same would only happen again.
async fn give_back(place: Place, written: Result<(), StoreError>) {
    if written.is_err() {
        let draining = place.engine.shared.draining.clone();
        drop(tokio::time::timeout(LOOK_AGAIN, draining.cancelled()).await);
    }
    drop(place);
}

/// Bytes of memory that a bundle's machine has, as its newest plan says; for a commit that is no branch's tip, what a
/// machine has where nothing is said.
fn memory_of(engine: &Engine, key: &BundleKey) -> u64 {
    engine.wanted(key).map_or(MACHINE_MEMORY, |buildable| buildable.pipeline.boot.memory)
}

/// Why it can't be said yet what is wanted of a bundle: a build of an earlier process may be wanted no more, or wait for a
/// base, and the first plan of its branch says so.
fn unplanned(engine: &Engine, key: &BundleKey) -> Option<String> {
    let outlooks = unpoisoned(&engine.shared.outlooks);
    let Some(outlook) = outlooks.get(&key.repository) else {
        return Some("for its repository to be planned".to_owned());
    };
    let trouble = outlook.trouble.as_ref().or_else(|| outlook.unplanned.get(&key.branch))?;
    let was_planned = unpoisoned(&engine.shared.wanted).contains_key(&(key.repository.clone(), key.branch.clone()));
    (!was_planned).then(|| format!("for its branch to be planned: {trouble}"))
}

/// Where the bases of queued builds stand. What is asked once holds for one look at the queue: thousands of builds may
/// wait for the same base.
struct Bases<'e> {
    engine: &'e Engine,
    open: HashMap<&'e BundleKey, BuildNo>,
    served: HashMap<(RepoName, Branch), Arc<ServedPrints>>,
    missing: HashMap<BundleKey, String>,
}

impl<'e> Bases<'e> {
    fn new(engine: &'e Engine, open: &'e [OpenBuild]) -> Self {
        // The oldest of a bundle counts: it is the one that is waited for.
        let open = open.iter().rev().map(|build| (&build.key, build.number)).collect();
        Self { engine, open, served: HashMap::new(), missing: HashMap::new() }
    }

    /// Where the bundle stands that another is based on; `None` where it is based on none.
    async fn state(&mut self, key: &BundleKey) -> Result<Option<BaseState>, StoreError> {
        let wanted = self.engine.wanted(key).and_then(|wanted| base_print(&wanted));
        let Some((path, print)) = wanted else { return Ok(None) };
        if self.is_served(key, &path, print).await? {
            return Ok(Some(BaseState::Ready));
        }
        let bundle = path.to_string();
        let base = BundleKey { path, ..key.clone() };
        if let Some(build) = self.open.get(&base) {
            return Ok(Some(BaseState::Building { bundle, build: *build }));
        }
        Ok(Some(BaseState::Missing { bundle, why: self.why_missing(base).await? }))
    }

    async fn is_served(&mut self, key: &BundleKey, base: &RepoPath, print: Fingerprint) -> Result<bool, StoreError> {
        let place = (key.repository.clone(), key.branch.clone());
        if !self.served.contains_key(&place) {
            let served = self.engine.store().served_prints(&key.repository, &key.branch).await?;
            self.served.insert(place.clone(), served);
        }
        let served = self.served.get(&place).and_then(|served| served.get(base));
        Ok(served.is_some_and(|served| served.iter().any(|(_, have)| *have == print)))
    }

    async fn why_missing(&mut self, base: BundleKey) -> Result<String, StoreError> {
        if let Some(why) = self.missing.get(&base) {
            return Ok(why.clone());
        }
        let prints = base_prints(self.engine, &base);
        let failed = self.engine.store().failures(&base.repository, prints, true).await?;
        let why = match failed.into_values().max() {
            Some(build) => format!("it failed in {build} (factoryd show {})", build.0),
            None => "nothing builds it now".to_owned(),
        };
        self.missing.insert(base, why.clone());
        Ok(why)
    }
}

fn base_prints(engine: &Engine, base: &BundleKey) -> Vec<Fingerprint> {
    engine.wanted(base).map(|wanted| wanted.prints().map(|(_, print)| print).collect()).unwrap_or_default()
}
