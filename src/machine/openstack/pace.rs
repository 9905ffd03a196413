//! How often the cloud is asked: pauses between attempts, with jitter, and never sooner than it wants to be asked again.

use std::time::Duration;

/// The longest that a service is left alone because it asks for it.
pub(super) const LONGEST_ASKED: Duration = Duration::from_secs(600);

/// How patient the driver is. Tests make it quicker; nothing else does.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The first pause before a call is made again; each further one is twice as long.
    pub first: Duration,
    /// The longest pause that nobody asked for.
    pub longest: Duration,
    /// How often a call is made before its error counts.
    pub attempts: u32,
    /// How often a list of servers or images is asked for while somebody waits for one of them.
    pub look: Duration,
    /// How long an image may stay as it is while its server has nothing to do with it any more.
    pub stuck: Duration,
    /// How long it may stay so while its server is said to be busy with it: a large disk takes its time.
    pub busy: Duration,
    /// How long is waited between two attempts to get a server where the cloud has no room.
    pub room: Duration,
    /// How long things may take to be gone that were deleted.
    pub gone: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(500),
            longest: Duration::from_secs(30),
            attempts: 6,
            look: Duration::from_secs(1),
            stuck: Duration::from_secs(300),
            busy: Duration::from_secs(3600),
            room: Duration::from_secs(20),
            gone: Duration::from_secs(600),
        }
    }
}

impl Pace {
    /// The pause before the attempt after `made` of them; what the service asks for counts, up to [`LONGEST_ASKED`].
    pub(super) fn pause(&self, made: u32, asked: Option<Duration>) -> Duration {
        let doubled = self.first.saturating_mul(1 << made.saturating_sub(1).min(16));
        let own = jittered(doubled.min(self.longest));
        asked.map_or(own, |asked| asked.min(LONGEST_ASKED) + jittered(self.first))
    }
}

/// Between half of it and all of it, so that those who were refused together don't come back together.
pub(super) fn jittered(time: Duration) -> Duration {
    let chance = uuid::Uuid::new_v4().as_bytes()[0];
    time / 2 + time.mul_f64(f64::from(chance) / 512.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_obey_the_service() {
        let pace = Pace::default();
        for (made, most) in [(1, 500), (2, 1000), (3, 2000), (20, 30_000)] {
            let pause = pace.pause(made, None);
            assert!(pause <= Duration::from_millis(most) && pause >= Duration::from_millis(most / 2), "{pause:?}");
        }
        let asked = pace.pause(1, Some(Duration::from_secs(7)));
        assert!(asked >= Duration::from_secs(7) && asked < Duration::from_secs(8), "{asked:?}");
        assert!(pace.pause(1, Some(Duration::from_secs(1 << 40))) < Duration::from_secs(601), "nobody waits for ever");
    }
}
