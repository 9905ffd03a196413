//! Clears away what a process left that died, and sends its builds on: at start, and now and then for what was missed.
//!
//! For each unfinished build that a dead process had taken up: everything outside that carries its number is removed
//! (twice is success), then its journal says so, and the scheduler takes it up again; after its third attempt it ends.

use std::collections::{BTreeSet, HashSet};

use tracing::{info, warn};

use super::Engine;
use super::planner::scratch_of;
use super::ports::PortError;
use crate::blocking;
use crate::domain::build::{BuildState, Effect, Event, Failure, Outcome, StageEnd};
use crate::domain::id::{BuildNo, DiskId};
use crate::store::{BuildRecord, StoreError};

/// How often a build is taken up: it goes on twice at most after the daemon died.
const ATTEMPTS: u32 = 3;

/// To be called once, before anything is scheduled.
///
/// # Errors
/// When the database can't be read or written.
pub async fn recover(engine: &Engine) -> Result<(), StoreError> {
    for open in engine.store().open_builds().await?.iter() {
        let repository = &open.key.repository;
        let is_known = engine.has_repository(repository);
        if is_known && open.state != BuildState::Running {
            continue;
        }
        let Some(record) = engine.store().build(open.number).await? else { continue };
        if is_known {
            recover_build(engine, &record).await?;
        } else {
            let reason = format!("{repository} is no longer in the configuration");
            release(engine, &record).await;
            end(engine, &record, StageEnd::Cancelled, Outcome::Superseded, None, reason).await?;
        }
    }
    sweep(engine).await;
    engine.wake();
    Ok(())
}

/// Sends on a build that nobody runs although its journal says that it runs.
pub(super) async fn recover_one(engine: &Engine, build: BuildNo) -> Result<(), StoreError> {
    match engine.store().build(build).await? {
        Some(record) if record.build.state == BuildState::Running => recover_build(engine, &record).await,
        _ => Ok(()),
    }
}

async fn recover_build(engine: &Engine, record: &BuildRecord) -> Result<(), StoreError> {
    let number = record.order.number;
    info!(build = number.0, attempt = record.build.attempt, "the build was interrupted");
    release(engine, record).await;
    let now = || engine.clock().now();
    if let Some(by) = &record.build.cancel_asked {
        let reason = format!("cancelled by {by}; the daemon was stopped meanwhile");
        return end(engine, record, StageEnd::Cancelled, Outcome::Cancelled, None, reason).await;
    }
    if record.build.attempt < ATTEMPTS {
        engine.store().append(number, now(), Event::Interrupted, Vec::new()).await?;
        return Ok(());
    }
    let failure = Failure {
        stage: record.build.current().map(|(stage, _)| stage),
        step: None,
        line: None,
        message: format!(
            "the build was broken off {} times: the daemon died, or could not write",
            record.build.attempt
        ),
        help: format!("look at the daemon's own log, then factoryd retry {}", number.0),
    };
    end(engine, record, StageEnd::Failed, Outcome::Failed, Some(failure), String::new()).await
}

/// Ends a build for good, and the stage it was in with it, so that the same inputs are not queued again by themselves.
async fn end(
    engine: &Engine,
    record: &BuildRecord,
    stage_end: StageEnd,
    outcome: Outcome,
    failure: Option<Failure>,
    reason: String,
) -> Result<(), StoreError> {
    let number = record.order.number;
    let current = record.build.current().map(|(stage, _)| stage);
    if let Some(stage) = current {
        let event = Event::StageFinished { stage, end: stage_end };
        engine.store().append(number, engine.clock().now(), event, Vec::new()).await?;
    }
    let event = Event::Finished { outcome, failure, reason };
    engine.store().append(number, engine.clock().now(), event, Vec::new()).await?;
    engine.store().finish_log(number).await
}

/// Removes what the build had made outside. Disks whose row was never written are removed too: nothing knows them.
async fn release(engine: &Engine, record: &BuildRecord) {
    let number = record.order.number;
    release_tagged(engine, number).await;
    if let Err(error) = drop_unrecorded(engine, record).await {
        warn!(build = number.0, %error, "a disk without a row can't be removed; gc will");
    }
    let scratch = scratch_of(engine, number);
    let removed = blocking::run(move || std::fs::remove_dir_all(scratch)).await;
    if let Err(error) = removed
        && error.kind() != std::io::ErrorKind::NotFound
    {
        warn!(build = number.0, %error, "scratch files can't be removed");
    }
}

async fn drop_unrecorded(engine: &Engine, record: &BuildRecord) -> Result<(), PortError> {
    let known = recorded_disks(engine).await.map_err(|error| PortError::unavailable(error.to_string()))?;
    for effect in &record.build.open {
        let disk = match effect {
            Effect::Disk(disk) | Effect::Image { disk, .. } => disk,
            Effect::Machine { .. } => continue,
        };
        if !known.contains(disk) {
            remove_everywhere(engine, disk).await?;
        }
    }
    Ok(())
}

/// Removes a disk wherever it may have been made: an image is copied to other drivers before there is a row of it.
pub(super) async fn remove_everywhere(engine: &Engine, disk: &DiskId) -> Result<(), PortError> {
    for driver in engine.drivers() {
        driver.remove(disk).await.map_err(|error| engine.heeded(error))?;
    }
    Ok(())
}

/// The disks that rows tell of. What a journal has open is none of them.
async fn recorded_disks(engine: &Engine) -> Result<HashSet<DiskId>, StoreError> {
    let results = engine.store().all_results().await?;
    let mut disks: HashSet<DiskId> = results.iter().flat_map(|result| result.payload.disks()).cloned().collect();
    let images = engine.store().images().await?;
    disks.extend(images.into_iter().flat_map(|image| image.image.copies).map(|copy| copy.disk));
    Ok(disks)
}

/// Removes what carries a build's number, at the drivers and at the host.
pub(super) async fn release_tagged(engine: &Engine, build: BuildNo) {
    let mut all = Vec::new();
    for driver in engine.drivers() {
        all.push(driver.release(build).await);
    }
    all.push(engine.host().release(build).await);
    for released in all {
        match released {
            Ok(0) => {}
            Ok(count) => info!(build = build.0, count, "removed what the build had left outside"),
            Err(error) => warn!(build = build.0, %error, "not everything of the build can be removed"),
        }
    }
}

/// Removes machines, processes and private copies that carry the number of a build that has ended, or of none that is
/// known.
pub async fn sweep(engine: &Engine) {
    let mut tagged = BTreeSet::new();
    let mut all = Vec::new();
    for driver in engine.drivers() {
        all.push(driver.tagged().await);
    }
    all.push(engine.host().tagged().await);
    for found in all {
        match found {
            Ok(found) => tagged.extend(found),
            Err(error) => warn!(%error, "can't look for leftovers"),
        }
    }
    for number in tagged {
        if engine.is_over(number).await.unwrap_or(false) {
            info!(build = number.0, "sweeping leftovers");
            release_tagged(engine, number).await;
        }
    }
}
