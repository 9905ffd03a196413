//! The cloud's time: faster than the wall's by a factor, and put forward by hand.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Tells how long the cloud has been there, in its own time.
pub(crate) struct FakeClock {
    began: Instant,
    base: jiff::Timestamp,
    scale: u32,
    ahead: Mutex<Duration>,
}

impl FakeClock {
    /// A clock that runs so many times as fast as the wall's.
    pub(crate) fn start(scale: u32) -> Self {
        Self { began: Instant::now(), base: jiff::Timestamp::now(), scale, ahead: Mutex::default() }
    }

    /// What time it was on the wall when it began.
    pub(crate) fn base(&self) -> jiff::Timestamp {
        self.base
    }

    pub(crate) fn now(&self) -> Duration {
        self.began.elapsed() * self.scale + *self.ahead.lock().expect("no panic")
    }

    pub(crate) fn advance(&self, by: Duration) {
        *self.ahead.lock().expect("no panic") += by;
    }
}

/// A moment as the services write it: `2026-11-23T14:02:00Z`.
pub(crate) fn written(base: jiff::Timestamp, at: Duration) -> String {
    let moment = base + jiff::SignedDuration::try_from(at).expect("not so long");
    moment.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
