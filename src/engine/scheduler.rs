//! Starts queued builds, one loop for the whole factory: woken by whatever may have made room, and by a slow timer.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, info, info_span};

use super::queue::{BaseState, Capacity, Decision, Waiting, decide};
use super::{Engine, Stopped, runner, unpoisoned};
use crate::domain::build::BuildState;
use crate::domain::bundle::BundleKey;
use crate::domain::id::BuildNo;
use crate::domain::pipeline::MACHINE_MEMORY;
use crate::store::{BuildRecord, StoreError};

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
    let mut builds = JoinSet::new();
    loop {
        // Registered before looking, so that what happens in between wakes us.
        let woken = engine.shared.wake.notified();
        if let Err(error) = start_what_can(&engine, &mut builds, stop.is_cancelled()).await {
            error!(%error, "the queue can't be read");
        }
        tokio::select! {
            () = woken => {}
            () = stop.cancelled() => break,
            Some(ended) = builds.join_next() => note_end(&ended),
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
    drain(&engine, builds, cut).await;
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
        error!(%error, "a build's task panicked; its build is recovered when the daemon starts again");
    }
}

async fn start_what_can(engine: &Engine, builds: &mut JoinSet<()>, draining: bool) -> Result<(), StoreError> {
    let unfinished = engine.store().unfinished().await?;
    let (mut waiting, mut early) = (Vec::new(), Vec::new());
    for record in unfinished.iter().filter(|record| record.build.state == BuildState::Queued) {
        if engine.running().contains_key(&record.order.number) {
            continue;
        }
        if let Some(reason) = unplanned(engine, &record.order.key) {
            early.push((record.order.number, reason));
            continue;
        }
        let base = base_state(engine, record, &unfinished).await?;
        let memory = memory_of(engine, &record.order.key);
        waiting.push(Waiting { number: record.order.number, key: record.order.key.clone(), base, memory });
    }
    let decisions = decide(&waiting, &capacity(engine, draining)?);
    let mut waits = unpoisoned(&engine.shared.waits);
    let before = std::mem::replace(&mut *waits, early.into_iter().collect());
    for (number, decision) in decisions {
        match decision {
            Decision::Wait(reason) => drop(waits.insert(number, reason)),
            Decision::Start => start(engine, builds, number, &unfinished),
        }
    }
    let changed = *waits != before;
    drop(waits);
    if changed {
        engine.changed();
    }
    Ok(())
}

fn capacity(engine: &Engine, draining: bool) -> Result<Capacity, StoreError> {
    let taken: u64 = engine.running().values().map(|running| running.memory).sum();
    let running = engine.running().iter().map(|(number, running)| (*number, running.key.clone())).collect();
    Ok(Capacity {
        memory: engine.policy().memory.map(|all| all.saturating_sub(taken)),
        slots: engine.policy().slots,
        running,
        disk_free: engine.store().disk_space()?.free,
        disk_needed: engine.policy().disk_free,
        draining,
    })
}

fn start(engine: &Engine, builds: &mut JoinSet<()>, number: BuildNo, unfinished: &[BuildRecord]) {
    let Some(record) = unfinished.iter().find(|record| record.order.number == number) else { return };
    let memory = memory_of(engine, &record.order.key);
    let Some(place) = engine.take_place(number, record.order.key.clone(), memory) else { return };
    info!(build = number.0, bundle = %record.order.key.path, "starts");
    let (engine, record) = (engine.clone(), record.clone());
    let span = info_span!("build", build = number.0);
    builds.spawn(
        async move {
            runner::run(&engine, record, place.cancel.clone()).await;
            drop(place);
        }
        .instrument(span),
    );
}

/// Bytes of memory that a bundle's machine has, as its newest plan says; for a commit that is no branch's tip, what a
/// machine has where nothing is said.
fn memory_of(engine: &Engine, key: &BundleKey) -> u64 {
    engine.wanted().get(key).map_or(MACHINE_MEMORY, |wanted| wanted.memory)
}

/// Why it can't be said yet what is wanted of a bundle: a build of an earlier process may be wanted no more, or wait for a
/// base, and the first plan of its branch says so.
fn unplanned(engine: &Engine, key: &BundleKey) -> Option<String> {
    let outlooks = unpoisoned(&engine.shared.outlooks);
    let Some(outlook) = outlooks.get(&key.repository) else {
        return Some("for its repository to be planned".to_owned());
    };
    let known = || engine.wanted().keys().any(|other| other.repository == key.repository && other.branch == key.branch);
    let trouble = outlook.trouble.as_ref().or_else(|| outlook.unplanned.get(&key.branch))?;
    (!known()).then(|| format!("for its branch to be planned: {trouble}"))
}

/// Where the bundle stands that a queued build is based on; `None` where it is based on none.
async fn base_state(
    engine: &Engine,
    record: &BuildRecord,
    unfinished: &[BuildRecord],
) -> Result<Option<BaseState>, StoreError> {
    let key = &record.order.key;
    let wanted = engine.wanted().get(key).and_then(|wanted| wanted.base.clone());
    let Some((path, print)) = wanted else { return Ok(None) };
    let served = engine.store().served(&key.repository, &key.branch).await?;
    if served.get(&path).is_some_and(|served| served.stages.iter().any(|(_, have)| *have == print)) {
        return Ok(Some(BaseState::Ready));
    }
    let base_key = BundleKey { path: path.clone(), ..key.clone() };
    let bundle = path.to_string();
    if let Some(other) = unfinished.iter().find(|other| other.order.key == base_key) {
        return Ok(Some(BaseState::Building { bundle, build: other.order.number }));
    }
    let failed = engine.store().failures(&key.repository, base_prints(engine, &base_key), true).await?;
    let why = match failed.into_values().max() {
        Some(build) => format!("it failed in {build} (factoryd show {})", build.0),
        None => "nothing builds it now".to_owned(),
    };
    Ok(Some(BaseState::Missing { bundle, why }))
}

fn base_prints(engine: &Engine, base: &BundleKey) -> Vec<crate::domain::id::Fingerprint> {
    let wanted = engine.wanted();
    wanted.get(base).map(|wanted| wanted.stages.iter().map(|(_, print)| *print).collect()).unwrap_or_default()
}
