//! A base image is made once: whoever wants one that is being made waits for it, and nobody waits for any other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

use crate::domain::id::Digest;
use crate::engine::ports::{PortError, Wait};

type Lock = tokio::sync::Mutex<()>;

/// The base images that are being made, each with those who wait for it.
#[derive(Clone, Debug, Default)]
pub(in crate::machine) struct Making(Arc<Mutex<HashMap<String, Weak<Lock>>>>);

impl Making {
    /// The turn to make what a key stands for; nobody else has it until it is dropped. Whoever gets it looks first whether
    /// another has made it meanwhile.
    pub(in crate::machine) async fn turn(&self, key: String, wait: &Wait) -> Result<OwnedMutexGuard<()>, PortError> {
        let lock = self.lock(key);
        wait.run("waiting for a base image that is being made", async { Ok(lock.lock_owned().await) }).await
    }

    /// The turn, if nobody has it or waits for it.
    pub(in crate::machine) fn free_turn(&self, key: String) -> Option<OwnedMutexGuard<()>> {
        self.lock(key).try_lock_owned().ok()
    }

    /// The key of what has a sum.
    pub(in crate::machine) fn of_sum(sha256: &Digest) -> String {
        format!("sum {}", sha256.hex())
    }

    fn lock(&self, key: String) -> Arc<Lock> {
        // The map is whole after every statement.
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = all.get(&key).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(Lock::default());
        all.insert(key, Arc::downgrade(&lock));
        lock
    }
}
