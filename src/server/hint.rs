//! Hints: something moved, says a hook. The planner looks for itself; the answer is what it found.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::{ConnectInfo, State};

use super::answer::{No, repository};
use super::look::view;
use super::status::queued;
use super::wire::{Hint, HintAnswer, PlanView, PushedPlan, seconds};
use super::{Caller, Served};
use crate::domain::id::RepoName;
use crate::engine::Engine;
use crate::engine::planner::Planned;

/// A push is answered within two seconds; a plan that takes longer goes on without it.
const PATIENCE: Duration = Duration::from_millis(1500);

pub(super) async fn hint(
    State(served): State<Served>,
    ConnectInfo(peer): Caller,
    Json(hint): Json<Hint>,
) -> Result<Json<HintAnswer>, No> {
    let engine = served.engine;
    let repository = repository(&engine, Some(&hint.repository))?;
    let what = hint.updates.join("; ");
    let delivery = engine.store().deliver(&repository, &hint.kind, &peer.name, &what, engine.clock().now()).await?;
    // In a task of its own: when the push goes away, planning goes on.
    let task = tokio::spawn(plan(engine.clone(), repository, delivery));
    let planned = match tokio::time::timeout(PATIENCE, task).await {
        Ok(Ok(planned)) => planned?,
        Ok(Err(panic)) => return Err(No::broken(format!("planning broke: {panic}"))),
        Err(_) => return Ok(Json(HintAnswer { plans: Vec::new(), planning: true })),
    };
    let mut plans = Vec::new();
    for planned in planned.iter().filter(|planned| moved(&hint, planned)) {
        plans.push(pushed(&engine, planned).await?);
    }
    Ok(Json(HintAnswer { plans, planning: false }))
}

async fn plan(engine: Engine, repository: RepoName, delivery: u64) -> Result<Vec<Planned>, No> {
    let planned = engine.plan_repository(&repository).await;
    let became = match &planned {
        Ok(planned) => {
            let builds: Vec<String> =
                planned.iter().flat_map(|plan| &plan.queued).map(|order| order.number.to_string()).collect();
            if builds.is_empty() { "nothing to build".to_owned() } else { format!("queued {}", builds.join(", ")) }
        }
        Err(error) => format!("not planned: {error}"),
    };
    engine.store().delivered(delivery, &became).await?;
    Ok(planned?)
}

/// Whether a branch is among those that the hint names; a hint that names none is about all.
fn moved(hint: &Hint, planned: &Planned) -> bool {
    let name = format!("refs/heads/{}", planned.branch);
    hint.updates.is_empty() || hint.updates.iter().any(|update| update.split(' ').nth(2) == Some(&name))
}

async fn pushed(engine: &Engine, planned: &Planned) -> Result<PushedPlan, No> {
    let mut builds = Vec::new();
    for order in &planned.queued {
        if let Some(record) = engine.store().build(order.number).await? {
            builds.push(queued(engine, view(engine, &record), &record).await?);
        }
    }
    let mut about = BTreeMap::new();
    for bundle in planned.plan.bundles.iter().filter(|bundle| bundle.action.is_work()).take(20) {
        let runs = |stage| bundle.work().any(|work| work.stage == stage);
        if let Some(millis) = engine.estimate(&planned.repository, &bundle.bundle, runs).await? {
            about.insert(bundle.bundle.to_string(), seconds(millis));
        }
    }
    Ok(PushedPlan {
        branch: planned.branch.to_string(),
        tracked: planned.tracked,
        subject: planned.info.subject.clone(),
        plan: PlanView::from(planned.plan.as_ref()),
        faults: planned.faults.iter().map(ToString::to_string).collect(),
        queued: builds,
        about,
    })
}
