//! The disk while builds run: what they are still likely to write is not given to others, and whoever would fill it is
//! ended before it is full.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use super::failure::Problem;
use super::planner::scratch_of;
use super::ports::DiskUse;
use super::queue::{Disk, DiskNeed, size};
use super::{Engine, Stopped, Written, unpoisoned};
use crate::blocking;
use crate::domain::bundle::BundleKey;
use crate::domain::id::{BuildNo, RepoName};
use crate::domain::path::RepoPath;
use crate::domain::pipeline::MACHINE_DISK;
use crate::store::StoreError;

/// How often the disk is looked at while builds run. A machine writes a gigabyte in this time at most.
const LOOK: Duration = Duration::from_secs(1);

/// What the last build of each bundle left on the disk, in bytes.
pub(super) type Left = HashMap<(RepoName, RepoPath), u64>;

/// What a build of a bundle is likely to write.
pub(super) fn need(engine: &Engine, left: &Left, key: &BundleKey) -> DiskNeed {
    if let Some(bytes) = left.get(&(key.repository.clone(), key.path.clone())) {
        return DiskNeed::Measured(*bytes);
    }
    let said = engine.wanted(key).and_then(|buildable| buildable.pipeline.boot.disk);
    DiskNeed::Guessed(said.unwrap_or(MACHINE_DISK))
}

/// How the disk stands, and what of it the builds that run have a claim to.
pub(super) async fn look(engine: &Engine) -> Result<Disk, StoreError> {
    let keep = engine.policy().disk_free;
    let free = free(engine, keep).await?;
    let running = engine.running();
    let promised = running.values().map(|running| running.needs.disk.saturating_sub(running.written.most));
    Ok(Disk { free, keep, promised: promised.sum() })
}

/// Looks at the disk as long as builds run, and ends the one that has written most when too little is free.
pub(super) async fn watch(engine: &Engine) {
    let mut changes = engine.changes();
    // Half of what must stay free for a build to start: those that run may go into it a little.
    let least = engine.policy().disk_free / 2;
    loop {
        changes.mark_unchanged();
        if least == 0 || engine.running().is_empty() {
            // The engine holds the other end.
            let _always_ok = changes.changed().await;
            continue;
        }
        match free(engine, least).await {
            Ok(free) if free < least => end_who_fills(engine, free, least).await,
            Ok(_) => {}
            Err(error) => warn!(%error, "the disk can't be looked at"),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Bytes free: on the disk that machines write to, and on the store's where that lacks what must be free. Notes what builds
/// have written.
async fn free(engine: &Engine, least: u64) -> Result<u64, StoreError> {
    let of_store = engine.store().disk_space()?.free;
    let found = match engine.driver().disk_use().await {
        Ok(Some(found)) => found,
        Ok(None) => DiskUse { free: u64::MAX, written: Vec::new() },
        Err(error) => {
            warn!(%error, "what machines have written is not known");
            DiskUse { free: of_store, written: Vec::new() }
        }
    };
    let mut running = engine.running();
    let written: HashMap<BuildNo, u64> = found.written.into_iter().collect();
    for (build, running) in running.iter_mut() {
        let now = written.get(build).copied().unwrap_or(0);
        running.written = Written { now, most: running.written.most.max(now) };
    }
    Ok(if of_store < least { of_store } else { found.free })
}

async fn end_who_fills(engine: &Engine, free: u64, least: u64) {
    let mut written: BTreeMap<BuildNo, u64> = BTreeMap::new();
    for (number, running) in engine.running().iter() {
        if running.cancel.is_cancelled() {
            // It gives back what it has: then is looked again.
            return;
        }
        written.insert(*number, running.written.now);
    }
    // What host steps write is looked for only now: a checkout may have many files.
    for (number, bytes) in &mut written {
        let scratch = scratch_of(engine, *number);
        *bytes += blocking::run(move || taken(&scratch)).await;
    }
    let Some((number, bytes)) = who_fills(written) else { return };
    let message = format!(
        "the disk would be full: {} are free and {} must be while builds run; this build has written {}, the most of those \
         that run",
        size(free),
        size(least),
        size(bytes)
    );
    warn!(build = number.0, free, least, written = bytes, "ended before the disk is full");
    let help = format!(
        "let it write less, or make room (factoryd gc, a larger disk, a smaller limits.disk_free), then factoryd retry {}",
        number.0
    );
    if let Some(build) = engine.running().get_mut(&number) {
        build.stopped.get_or_insert(Stopped::Full(Problem::new(message, help)));
        build.cancel.cancel();
    }
}

/// The build that has written most. One that has written nothing would free nothing.
fn who_fills(written: BTreeMap<BuildNo, u64>) -> Option<(BuildNo, u64)> {
    written.into_iter().filter(|(_, bytes)| *bytes > 0).max_by_key(|(_, bytes)| *bytes)
}

/// What the files below a directory take in bytes. Links are not followed, and what can't be read counts nothing.
fn taken(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| {
        let found = entry.metadata().ok()?;
        Some(found.blocks() * 512 + if found.is_dir() { taken(&entry.path()) } else { 0 })
    });
    sizes.sum()
}

impl Engine {
    /// What the last build of each bundle left, as it was known after the last build that ended.
    pub(super) async fn left_by_last_builds(&self) -> Result<Arc<Left>, StoreError> {
        if let Some(left) = unpoisoned(&self.shared.left).clone() {
            return Ok(left);
        }
        let left = Arc::new(self.store().left_by_last_builds().await?);
        *unpoisoned(&self.shared.left) = Some(Arc::clone(&left));
        Ok(left)
    }

    /// A build ended: the next question is answered from the store.
    pub(super) fn forget_left(&self) {
        *unpoisoned(&self.shared.left) = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_written_most_is_ended_and_nobody_who_has_written_nothing() {
        assert_eq!(who_fills([(BuildNo(1), 5), (BuildNo(2), 70), (BuildNo(3), 0)].into()), Some((BuildNo(2), 70)));
        assert_eq!(who_fills([(BuildNo(3), 0)].into()), None, "somebody else fills it");
    }
}
