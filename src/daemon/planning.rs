//! Plans repositories when a hint came, and all of them at start: what was pushed while the daemon was down is found then.

use anyhow::Result;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::domain::id::RepoName;
use crate::engine::Engine;
use crate::engine::planner::{PlanError, Planned, Plans};

/// Runs until `stop` is cancelled. A repository that can't be planned is said in the log, and tried at the next hint.
pub(super) async fn run(
    engine: Engine,
    mut hints: mpsc::Receiver<RepoName>,
    all: Vec<RepoName>,
    stop: CancellationToken,
) -> Result<()> {
    for repository in &all {
        said(repository, engine.plan_repository(repository).await);
    }
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            hint = hints.recv() => match hint {
                Some(repository) => hinted(&engine, &repository).await?,
                None => {
                    stop.cancelled().await;
                    return Ok(());
                }
            },
        }
    }
}

/// A hint that led to builds is a delivery: a push whose hook did not speak, or a poll.
async fn hinted(engine: &Engine, repository: &RepoName) -> Result<()> {
    let planned = said(repository, engine.plan_if_moved(repository).await);
    let queued: Vec<String> =
        planned.iter().flat_map(|planned| planned.queued.iter().map(|order| order.number.to_string())).collect();
    if !queued.is_empty() {
        let now = engine.clock().now();
        let delivery = engine.store().deliver(repository, "watch", "factoryd", "references moved", now).await?;
        engine.store().delivered(delivery, &format!("queued {}", queued.join(", "))).await?;
    }
    Ok(())
}

/// What was planned; what could not be is said in the log.
fn said(repository: &RepoName, plans: Result<Plans, PlanError>) -> Vec<Planned> {
    match plans {
        Ok(Plans { planned, failed }) => {
            for (branch, error) in failed {
                warn!(repository = repository.as_str(), branch = branch.as_str(), %error, "the branch can't be planned");
            }
            planned
        }
        Err(error) => {
            warn!(repository = repository.as_str(), %error, "the repository can't be planned");
            Vec::new()
        }
    }
}
