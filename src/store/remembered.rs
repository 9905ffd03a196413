//! What was read once and is kept in memory until something of it changes: whoever changes it says so after the commit.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Answers of the database, each under what it was asked for.
#[derive(Debug)]
pub(super) struct Remembered<K, V: ?Sized>(Mutex<Kept<K, V>>);

#[derive(Debug)]
struct Kept<K, V: ?Sized> {
    /// Counts the changes: what was read before one must not be kept after it.
    generation: u64,
    answers: HashMap<K, Arc<V>>,
}

impl<K, V: ?Sized> Default for Remembered<K, V> {
    fn default() -> Self {
        Self(Mutex::new(Kept { generation: 0, answers: HashMap::new() }))
    }
}

impl<K: Eq + Hash, V: ?Sized> Remembered<K, V> {
    /// To be called after a change was committed.
    pub(super) fn forget(&self) {
        let mut kept = self.kept();
        kept.generation += 1;
        kept.answers.clear();
    }

    /// What is remembered, and the moment that [`Self::keep`] asks for.
    pub(super) fn find(&self, asked: &K) -> (u64, Option<Arc<V>>) {
        let kept = self.kept();
        (kept.generation, kept.answers.get(asked).cloned())
    }

    /// Keeps what was read since [`Self::find`] gave `generation`, unless something changed meanwhile.
    pub(super) fn keep(&self, asked: K, generation: u64, answer: &Arc<V>) {
        let mut kept = self.kept();
        if kept.generation == generation {
            kept.answers.insert(asked, Arc::clone(answer));
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept<K, V>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
