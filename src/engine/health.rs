//! Whether the driver and the sandbox work, as they last answered: asking starts processes, and `status` must not wait.
//! And what becomes of the factory when a driver's disk does not reach the disk.

use std::sync::Arc;

use super::Engine;
use super::ports::{PortError, PortErrorKind};
use crate::domain::build::Moment;
use crate::store::StoreError;

/// An answer that is older, in milliseconds, is given once more while the question is asked again.
const OLD: u64 = 30_000;

/// What the driver and the sandbox said of themselves.
#[derive(Clone, Debug)]
pub struct Health {
    /// One line of the driver, or why it does not work.
    pub driver: Result<String, PortError>,
    /// One line of the host's sandbox, or why it does not work.
    pub sandbox: Result<String, PortError>,
    /// When they said it.
    pub at: Moment,
}

impl Health {
    fn is_well(&self) -> bool {
        self.driver.is_ok() && self.sandbox.is_ok()
    }
}

impl Engine {
    /// What the driver and the sandbox said last. They are asked now if they never were, or if something was wrong: who
    /// mends it wants to see that. An old good answer is given, and asked for anew behind the caller's back.
    pub async fn health(&self) -> Arc<Health> {
        let mut last = self.shared.health.lock().await;
        match &*last {
            Some(health) if health.is_well() => {
                let health = Arc::clone(health);
                if self.clock().now().since(health.at) > OLD {
                    self.ask_again();
                }
                health
            }
            _ => {
                let health = Arc::new(self.ask().await);
                *last = Some(Arc::clone(&health));
                health
            }
        }
    }

    /// Asks behind the caller's back, as after a build: its boot may have shown what machines run on.
    pub(super) fn ask_again(&self) {
        let engine = self.clone();
        tokio::spawn(async move {
            // One at a time is enough, and whoever comes meanwhile gets the old answer.
            let Ok(_asking) = engine.shared.asking.try_lock() else { return };
            let health = Arc::new(engine.ask().await);
            *engine.shared.health.lock().await = Some(health);
        });
    }

    /// Stops all writing, since a sync of a driver's failed, and gives the error that says so from now on.
    pub(super) fn stop_writing(&self, error: &PortError) -> StoreError {
        let error = self.store().stop_writing(error.to_string());
        self.changed();
        error
    }

    /// An error of the driver's outside of a build. One that leaves doubt about what is on the disk stops all writing.
    pub(super) fn heeded(&self, error: PortError) -> PortError {
        if error.kind == PortErrorKind::NotDurable {
            // Whoever writes next is told.
            let _refused = self.stop_writing(&error);
        }
        error
    }

    async fn ask(&self) -> Health {
        let (driver, sandbox) = tokio::join!(self.driver().health(), self.host().health());
        Health { driver, sandbox, at: self.clock().now() }
    }
}
