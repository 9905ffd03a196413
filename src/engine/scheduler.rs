//! Starts queued builds, one loop for the whole factory: woken by whatever may have made room, and by a slow timer.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, info, info_span};

use super::queue::{BaseState, Capacity, Decision, Waiting, decide};
use super::{Engine, Running, runner, unpoisoned};
use crate::domain::build::BuildState;
use crate::domain::bundle::BundleKey;
use crate::domain::id::BuildNo;
use crate::store::{BuildRecord, StoreError};

/// The queue is looked at this often even if nothing woke the scheduler: a lost wake costs no more.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Runs until `stop` is cancelled, then waits for the builds that run, which are left to be recovered: their journals say
/// where they are.
pub async fn run(engine: Engine, stop: CancellationToken) {
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
    builds.abort_all();
    while builds.join_next().await.is_some() {}
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
    let mut waiting = Vec::new();
    for record in unfinished.iter().filter(|record| waits(engine, record)) {
        let base = base_state(engine, record, &unfinished).await?;
        waiting.push(Waiting { number: record.order.number, key: record.order.key.clone(), base });
    }
    let decisions = decide(&waiting, &capacity(engine, draining)?);
    let mut waits = unpoisoned(&engine.shared.waits);
    let before = std::mem::take(&mut *waits);
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

/// Whether a build is to be taken up: for the first time, or again after a process that died. A build whose journal says
/// that it runs, and that nobody runs, broke in this process; it is left to the next.
fn waits(engine: &Engine, record: &BuildRecord) -> bool {
    let number = &record.order.number;
    let recovered = || unpoisoned(&engine.shared.recovered).contains(number);
    !engine.running().contains_key(number) && (record.build.state == BuildState::Queued || recovered())
}

fn capacity(engine: &Engine, draining: bool) -> Result<Capacity, StoreError> {
    let running = engine.running().iter().map(|(number, running)| (*number, running.key.clone())).collect();
    Ok(Capacity {
        slots: engine.policy().slots,
        running,
        disk_free: engine.store().disk_space()?.free,
        disk_needed: engine.policy().disk_free,
        draining,
    })
}

fn start(engine: &Engine, builds: &mut JoinSet<()>, number: BuildNo, unfinished: &[BuildRecord]) {
    let Some(record) = unfinished.iter().find(|record| record.order.number == number) else { return };
    let cancel = CancellationToken::new();
    let running = Running { key: record.order.key.clone(), cancel: cancel.clone(), superseded: None };
    engine.running().insert(number, running);
    unpoisoned(&engine.shared.recovered).remove(&number);
    info!(build = number.0, bundle = %record.order.key.path, "starts");
    let (engine, record) = (engine.clone(), record.clone());
    let span = info_span!("build", build = number.0);
    builds.spawn(
        async move {
            runner::run(&engine, record, cancel).await;
            engine.running().remove(&number);
            engine.wake();
        }
        .instrument(span),
    );
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
