//! Looks at the cloud that all who wait share: one list serves everybody who waits for something in it, and is asked for
//! no oftener than the cloud can well answer. Nobody who only waits has a thread or a task of their own.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::error::ApiError;
use super::pace::jittered;

/// A look takes at most one part in so many of the time.
const SHARE: u32 = 4;

/// What was seen, and since when nobody could have known better.
#[derive(Debug)]
struct Seen<T> {
    began: Instant,
    ended: Instant,
    found: Arc<Vec<T>>,
}

/// Looks at one list.
#[derive(Debug)]
pub(super) struct Looks<T> {
    every: Duration,
    seen: Mutex<Option<Seen<T>>>,
}

impl<T> Looks<T> {
    /// Of which one is made each so often.
    pub(super) fn new(every: Duration) -> Self {
        Self { every, seen: Mutex::default() }
    }

    /// The list as it was at some time after `after`, and that time. Whoever waits while another asks takes what it sees.
    pub(super) async fn after(
        &self,
        after: Instant,
        ask: impl AsyncFnOnce() -> Result<Vec<T>, ApiError>,
    ) -> Result<(Instant, Arc<Vec<T>>), ApiError> {
        let mut seen = self.seen.lock().await;
        if let Some(seen) = seen.as_ref() {
            if seen.began > after {
                return Ok((seen.began, seen.found.clone()));
            }
            let pause = self.every.max((seen.ended - seen.began) * (SHARE - 1));
            tokio::time::sleep_until(seen.ended + jittered(pause)).await;
        }
        let began = Instant::now();
        let found = Arc::new(ask().await?);
        *seen = Some(Seen { began, ended: Instant::now(), found: found.clone() });
        Ok((began, found))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn many_who_wait_are_served_by_one_look() {
        let (looks, asked) = (Looks::new(Duration::from_millis(50)), AtomicU32::new(0));
        let ask = async || {
            tokio::task::yield_now().await;
            Ok(vec![asked.fetch_add(1, Ordering::SeqCst)])
        };
        // A first look, so that those who come next wait for the second together.
        let (first, _) = looks.after(Instant::now(), ask).await.expect("a list");
        let wait = || looks.after(first, ask);
        let found: [_; 4] = tokio::join!(wait(), wait(), wait(), wait()).into();
        assert!(found.iter().all(|found| matches!(found, Ok((at, list)) if *at > first && **list == [1])));
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }
}
