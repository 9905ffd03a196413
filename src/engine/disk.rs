//! The disk while builds run: what they are still likely to write is not given to others, and whoever would fill it is
//! ended before it is full.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::warn;

use super::failure::Problem;
use super::planner::scratch_of;
use super::ports::DiskUse;
use super::queue::{Disk, DiskNeed, size};
use super::{Engine, Stopped, Written, unpoisoned};
use crate::blocking;
use crate::domain::id::{BuildNo, RepoName};
use crate::domain::path::RepoPath;
use crate::domain::pipeline::{MACHINE_DISK, Stage};
use crate::store::{OpenBuild, StoreError};

/// How often the disk is looked at while builds run. A machine writes a gigabyte in this time at most.
const LOOK: Duration = Duration::from_secs(1);

/// How deep and at how many files a build's scratch is looked at, and for no longer than [`LOOK`]: of what lies beyond, a
/// guess is not worth the wait while the disk fills.
const MOST_DEPTH: usize = 64;
const MOST_ENTRIES: usize = 200_000;

/// What the last build of each bundle left on the disk, in bytes.
pub(super) type Left = HashMap<(RepoName, RepoPath), u64>;

/// What a queued build is likely to write.
pub(super) fn need(engine: &Engine, left: &Left, build: &OpenBuild) -> DiskNeed {
    let key = &build.key;
    if boots_nothing(engine, build) {
        return DiskNeed::Nothing;
    }
    if let Some(bytes) = left.get(&(key.repository.clone(), key.path.clone())) {
        return DiskNeed::Measured(*bytes);
    }
    let said = engine.wanted(key).and_then(|buildable| buildable.pipeline.boot.disk);
    DiskNeed::Guessed(said.unwrap_or(MACHINE_DISK))
}

/// Whether the newest plan keeps what the machines of a build would make, and nobody asked for it to be made again.
fn boots_nothing(engine: &Engine, build: &OpenBuild) -> bool {
    let asked = build.no_cache || build.from.is_some_and(|from| from < Stage::Snapshot);
    // A plan is of a tip, and of what tracked branches made.
    build.tracked && !asked && engine.has_its_disk(&build.key)
}

/// How the disk stands, and what of it the builds that run have a claim to.
pub(super) async fn look(engine: &Engine) -> Result<Disk, StoreError> {
    let keep = engine.policy().disk_free;
    let free = free(engine).await?.bytes(keep);
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
        match free(engine).await.map(|free| free.lacking(least)) {
            Ok(Some(free)) => end_who_fills(engine, free, least).await,
            Ok(None) => {}
            Err(error) => warn!(%error, "the disk can't be looked at"),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What is free, in bytes.
struct Free {
    /// On the store's disk.
    of_store: u64,
    /// On the disk that machines write to; `None` where the driver could not say it.
    of_machines: Option<u64>,
}

impl Free {
    /// What is free to machines, and on the store's disk where that lacks what must be free.
    fn bytes(&self, least: u64) -> u64 {
        self.of_machines.filter(|_| self.of_store >= least).unwrap_or(self.of_store)
    }

    /// What is free, where that is too little and it is known who writes how much: else the wrong one would be ended.
    fn lacking(&self, least: u64) -> Option<u64> {
        self.of_machines?;
        Some(self.bytes(least)).filter(|free| *free < least)
    }
}

/// Looks at what is free, and notes what builds have written. Where the driver does not say it, what it said last stays.
async fn free(engine: &Engine) -> Result<Free, StoreError> {
    let of_store = engine.store().disk_space()?.free;
    let found = match engine.driver().disk_use().await {
        Ok(found) => found.unwrap_or(DiskUse { free: u64::MAX, written: Vec::new() }),
        Err(error) => {
            warn!(%error, "what machines have written is not known");
            return Ok(Free { of_store, of_machines: None });
        }
    };
    let written: HashMap<BuildNo, u64> = found.written.into_iter().collect();
    for (build, running) in engine.running().iter_mut() {
        let now = written.get(build).copied().unwrap_or(0);
        running.written = Written { now, most: running.written.most.max(now) };
    }
    Ok(Free { of_store, of_machines: Some(found.free) })
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
        let limits = Limits { depth: MOST_DEPTH, entries: MOST_ENTRIES, until: Instant::now() + LOOK };
        *bytes += blocking::run(move || taken(&scratch, &limits)).await;
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

/// How much of a directory is looked at: a host step of anybody's may have made it, as deep and as full as it liked.
struct Limits {
    depth: usize,
    entries: usize,
    until: Instant,
}

/// What the files below a directory take in bytes; no more than was seen within the limits. Links are not followed, and what
/// can't be read counts nothing.
fn taken(directory: &Path, limits: &Limits) -> u64 {
    let (mut bytes, mut seen) = (0_u64, 0);
    let mut open = vec![(directory.to_owned(), 1)];
    while let Some((directory, depth)) = open.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if seen == limits.entries || Instant::now() >= limits.until {
                return bytes;
            }
            seen += 1;
            let Ok(found) = entry.metadata() else { continue };
            bytes = bytes.saturating_add(found.blocks().saturating_mul(512));
            if found.is_dir() && depth < limits.depth {
                open.push((entry.path(), depth + 1));
            }
        }
    }
    bytes
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
    #[test]
    fn nobody_is_ended_where_it_is_not_known_who_writes() {
        let seen = |of_store, of_machines| Free { of_store, of_machines };
        assert_eq!(seen(100, Some(9)).lacking(10), Some(9));
        assert_eq!(seen(8, Some(100)).lacking(10), Some(8), "the store's disk counts too");
        assert_eq!(seen(100, Some(100)).lacking(10), None);
        assert_eq!(seen(8, None).lacking(10), None, "the driver did not say who");
        assert_eq!(seen(8, None).bytes(10), 8, "a build that waits is held back all the same");
    }

    #[test]
    fn a_tree_is_looked_at_no_deeper_no_wider_and_no_longer_than_allowed() {
        let tree = tempfile::tempdir().expect("a directory");
        let deep = tree.path().join("1/2/3");
        std::fs::create_dir_all(&deep).expect("made");
        std::fs::write(deep.join("large"), vec![1; 1 << 20]).expect("written");
        let later = Instant::now() + Duration::from_secs(3600);
        let look = |depth, entries, until| taken(tree.path(), &Limits { depth, entries, until });
        assert!(look(4, 4, later) >= 1 << 20);
        assert!(look(3, 4, later) < 1 << 20, "deeper");
        assert!(look(4, 3, later) < 1 << 20, "one more");
        assert_eq!(look(4, 4, Instant::now()), 0, "later");
    }
}
