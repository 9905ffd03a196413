//! What is kept between readings: bundles by the ids of their trees, so that a push costs what it changes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::bundle::Outcome;
use super::packer::Templates;
use super::reading::{Buildable, Outside};
use crate::domain::id::{Digest, Fingerprint, Oid};
use crate::domain::path::RepoPath;
use crate::domain::pool::Pool;

/// For how many readings something unused is kept: two trees can be compared in turn.
const READINGS: u64 = 2;
/// Where more bundles than this are kept, each takes its kilobytes, and unused ones go at once.
const MANY_BUNDLES: usize = 12_000;

/// What earlier readings found. One belongs to one repository; it holds what its last readings used, and no more.
#[derive(Debug, Default)]
pub struct Cache(Mutex<Kept>);

#[derive(Debug, Default)]
pub(super) struct Kept {
    reading: u64,
    bundles: HashMap<BundleKey, (u64, Arc<Entry>)>,
    outside: HashMap<OutsideKey, (u64, Arc<Outside>)>,
    /// What the bundles have in common.
    pub(super) pool: Pool,
}

/// A bundle as it was: everything that its own reading depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct BundleKey {
    /// Repository, path and text of the pipeline.
    pub(super) pipeline: Digest,
    /// The bundle.
    pub(super) path: RepoPath,
    /// The id of its tree.
    pub(super) tree: Oid,
}

/// A path outside of bundles, what is read there, and what lies there.
pub(super) type OutsideKey = (super::reader::Reads, RepoPath, Oid);

/// A bundle that was read, and what it came to the last time.
#[derive(Debug)]
pub(super) struct Entry {
    /// The bundle for itself.
    pub(super) outcome: Outcome,
    /// The whole, with what it depended on besides.
    pub(super) last: Mutex<Option<(Surroundings, Arc<Buildable>)>>,
}

/// What a bundle depends on besides itself and its pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Surroundings {
    /// The sums of what its stages read outside, in the order of its needs.
    pub(super) outside: Vec<Digest>,
    /// The bundle it is based on, with the fingerprint of its disk.
    pub(super) base: Option<(RepoPath, Fingerprint)>,
}

impl Cache {
    /// Begins a reading.
    pub(super) fn begin(&self) -> MutexGuard<'_, Kept> {
        // A reading that panicked left whole entries or none.
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.reading += 1;
        kept
    }
}

impl Kept {
    /// A bundle that an earlier reading found, if the templates that it looked at are the same.
    pub(super) fn bundle(&mut self, key: &BundleKey, templates: &Templates<'_>) -> Option<Arc<Entry>> {
        let (used, entry) = self.bundles.get_mut(key)?;
        if !templates.are_same(&entry.outcome.used) {
            return None;
        }
        *used = self.reading;
        Some(Arc::clone(entry))
    }

    /// Keeps a bundle.
    pub(super) fn keep_bundle(&mut self, key: BundleKey, entry: Arc<Entry>) {
        self.bundles.insert(key, (self.reading, entry));
    }

    /// What lies at a path outside of bundles.
    pub(super) fn outside(&mut self, key: &OutsideKey) -> Option<Arc<Outside>> {
        let (used, outside) = self.outside.get_mut(key)?;
        *used = self.reading;
        Some(Arc::clone(outside))
    }

    /// Keeps what lies at a path outside of bundles.
    pub(super) fn keep_outside(&mut self, key: OutsideKey, outside: Arc<Outside>) {
        self.outside.insert(key, (self.reading, outside));
    }

    /// Ends a reading, and lets go of what was not used for some.
    pub(super) fn end(&mut self) {
        let reading = self.reading;
        if self.bundles.len() > MANY_BUNDLES {
            self.bundles.retain(|_, (used, _)| *used == reading);
            self.bundles.shrink_to_fit();
        }
        self.bundles.retain(|_, (used, _)| *used + READINGS > reading);
        self.outside.retain(|_, (used, _)| *used + READINGS > reading);
        self.pool.sweep();
    }
}
