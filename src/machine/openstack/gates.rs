//! What a service asks of one caller holds for all: until then nobody asks that service anything.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::error::Service;
use super::pace::jittered;

/// Those who were held back together come in a crowd of up to this length, and not at once.
const CROWD: Duration = Duration::from_millis(200);

/// Until when each service wants to be left alone.
#[derive(Debug, Default)]
pub(super) struct Gates([Mutex<Option<Instant>>; Service::ALL.len()]);

impl Gates {
    /// Leaves a service alone for so long from now. What was asked for longer, stays.
    pub(super) fn hold(&self, service: Service, time: Duration) {
        let until = Instant::now() + time;
        let mut held = self.of(service).lock().unwrap_or_else(PoisonError::into_inner);
        *held = Some(held.map_or(until, |held| held.max(until)));
    }

    /// Whether the service may be asked now.
    pub(super) fn is_open(&self, service: Service) -> bool {
        self.held(service).is_none()
    }

    /// Waits until the service may be asked.
    pub(super) async fn pass(&self, service: Service) {
        while let Some(until) = self.held(service) {
            tokio::time::sleep_until(until + jittered(CROWD)).await;
        }
    }

    fn held(&self, service: Service) -> Option<Instant> {
        let held = *self.of(service).lock().unwrap_or_else(PoisonError::into_inner);
        held.filter(|until| Instant::now() < *until)
    }

    fn of(&self, service: Service) -> &Mutex<Option<Instant>> {
        &self.0[service as usize]
    }
}
