//! Looks at every repository at its interval, whatever else may hint: mirrors are fetched, receiving ones are hinted at.
//!
//! One task per repository, so that a remote that hangs keeps nobody else waiting. What happened last is kept for `status`.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::mirror;
use crate::domain::build::Moment;
use crate::domain::id::RepoName;
use crate::engine::ports::{Clock, PortError, PortErrorKind, Wait};

/// How long one fetch may take: a first one of gigabytes over a slow line.
const FETCH_WITHIN: Duration = Duration::from_secs(3600);
/// How long packing may take.
const REPACK_WITHIN: Duration = Duration::from_secs(3600);
/// The longest pause after failures, in intervals.
const BACKOFF: u32 = 10;

/// A repository to look at.
#[derive(Clone, Debug)]
pub struct Polled {
    /// Its name.
    pub name: RepoName,
    /// Where it lies; it has been prepared.
    pub path: PathBuf,
    /// The remote it mirrors; `None` if people push to it.
    pub url: Option<String>,
    /// From one look to the next.
    pub every: Duration,
}

/// What polling one repository came to.
#[derive(Clone, Debug, Default)]
pub struct PollState {
    /// When it was last fetched with success, or for a receiving one looked at.
    pub fetched: Option<Moment>,
    /// Why the last fetch failed; `None` after a success.
    pub error: Option<PortError>,
    /// How many fetches failed since the last success.
    pub failures: u32,
}

/// What polling came to, by repository, for `status`. Every clone sees the same.
#[derive(Clone, Debug, Default)]
pub struct PollStates(Arc<watch::Sender<BTreeMap<RepoName, PollState>>>);

impl PollStates {
    /// The state of one repository; before its first look all is empty.
    pub fn get(&self, repository: &RepoName) -> PollState {
        self.0.borrow().get(repository).cloned().unwrap_or_default()
    }

    /// Follows the states: it is told of every look.
    pub fn follow(&self) -> watch::Receiver<BTreeMap<RepoName, PollState>> {
        self.0.subscribe()
    }

    /// Keeps how a look ended; gives how often it failed in a row.
    fn record(&self, repository: &RepoName, at: Moment, error: Option<PortError>) -> u32 {
        let mut failures = 0;
        self.0.send_modify(|states| {
            let state = states.entry(repository.clone()).or_default();
            if error.is_none() {
                state.fetched = Some(at);
            }
            failures = if error.is_some() { state.failures.saturating_add(1) } else { 0 };
            (state.failures, state.error) = (failures, error);
        });
        failures
    }
}

/// Polls until cancelled or nobody listens to hints any more. The first look at each repository is at once.
pub async fn run(
    repositories: Vec<Polled>,
    states: PollStates,
    clock: Arc<dyn Clock>,
    hints: mpsc::Sender<RepoName>,
    cancel: CancellationToken,
) {
    let mut tasks = JoinSet::new();
    for polled in repositories {
        let one = Poll {
            polled,
            states: states.clone(),
            clock: Arc::clone(&clock),
            hints: hints.clone(),
            cancel: cancel.clone(),
        };
        tasks.spawn(one.run());
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "polling a repository broke off");
        }
    }
}

struct Poll {
    polled: Polled,
    states: PollStates,
    clock: Arc<dyn Clock>,
    hints: mpsc::Sender<RepoName>,
    cancel: CancellationToken,
}

impl Poll {
    async fn run(self) {
        loop {
            let (looked, failures) = match self.look().await {
                Ok(()) => (true, self.record(None)),
                Err(error) if error.kind == PortErrorKind::Cancelled => return,
                Err(error) => {
                    tracing::warn!(repository = %self.polled.name, %error, "polling");
                    (false, self.record(Some(error)))
                }
            };
            // Also where nothing moved: the plan that an earlier hint led to may have failed.
            if looked && self.hint().await.is_break() {
                return;
            }
            self.repack().await;
            tokio::select! {
                () = self.cancel.cancelled() => return,
                () = tokio::time::sleep(pause(self.polled.every, failures)) => {}
            }
        }
    }

    /// Fetches what is fetched; what receives has it already.
    async fn look(&self) -> Result<(), PortError> {
        match &self.polled.url {
            Some(url) => mirror::fetch(self.path(), url, &self.wait(FETCH_WITHIN)).await.map(drop),
            None => Ok(()),
        }
    }

    /// Breaks when cancelled, or when nobody listens any more.
    async fn hint(&self) -> ControlFlow<()> {
        let sent = self.cancel.run_until_cancelled(self.hints.send(self.polled.name.clone())).await;
        if matches!(sent, Some(Ok(()))) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    /// Costs a moment where there is nothing to pack; trouble here keeps nobody from reading.
    async fn repack(&self) {
        if let Err(error) = mirror::repack(self.path(), &self.wait(REPACK_WITHIN)).await
            && error.kind != PortErrorKind::Cancelled
        {
            tracing::warn!(repository = %self.polled.name, %error, "packing");
        }
    }

    fn record(&self, error: Option<PortError>) -> u32 {
        self.states.record(&self.polled.name, self.clock.now(), error)
    }

    fn path(&self) -> &Path {
        &self.polled.path
    }

    fn wait(&self, limit: Duration) -> Wait {
        Wait { cancel: self.cancel.clone(), deadline: Instant::now() + limit }
    }
}

/// Until the next look: twice as long after each failure, up to [`BACKOFF`] intervals.
fn pause(every: Duration, failures: u32) -> Duration {
    every.saturating_mul(2_u32.saturating_pow(failures).min(BACKOFF))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_make_the_pause_longer_up_to_ten_intervals() {
        let pauses: Vec<u64> =
            [0, 1, 2, 3, 4, 40].map(|failures| pause(Duration::from_secs(60), failures).as_secs()).into();
        assert_eq!(pauses, [60, 120, 240, 480, 600, 600]);
    }

    #[test]
    fn a_failure_keeps_the_last_success() {
        let (states, name) = (PollStates::default(), RepoName::from("factory"));
        states.record(&name, Moment(5), None);
        assert_eq!(states.record(&name, Moment(9), Some(PortError::unavailable("gone"))), 1);
        let state = states.get(&name);
        assert_eq!((state.fetched, state.failures), (Some(Moment(5)), 1));
        assert_eq!(state.error.map(|error| error.message), Some("gone".to_owned()));
        assert_eq!(states.record(&name, Moment(12), None), 0);
    }
}
