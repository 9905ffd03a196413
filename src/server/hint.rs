//! Hints: something moved, says a hook. The planner looks for itself; the answer is what it found.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use axum::Json;
use axum::extract::{ConnectInfo, State};

use super::answer::{No, repository};
use super::look::view;
use super::status::queued;
use super::wire::{Hint, HintAnswer, PlanView, PushedPlan, seconds};
use super::{Caller, Served};
use crate::domain::id::{Branch, BuildNo, RepoName};
use crate::engine::Engine;
use crate::engine::memory::BuildRecord;
use crate::engine::planner::{Planned, Plans};

/// A push is answered within two seconds; a plan that takes longer goes on without it.
const PATIENCE: Duration = Duration::from_millis(1500);

/// How long the scheduler may take to look at new builds.
const LOOKED_WITHIN: Duration = Duration::from_millis(200);

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
    let Plans { planned, failed } = match tokio::time::timeout(PATIENCE, task).await {
        Ok(Ok(plans)) => plans?,
        Ok(Err(panic)) => return Err(No::broken(format!("planning broke: {panic}"))),
        Err(_) => return Ok(Json(HintAnswer { planning: true, ..HintAnswer::default() })),
    };
    settle(&engine, &planned).await;
    let mut plans = Vec::new();
    for planned in planned.iter().filter(|planned| moved(&hint, &planned.branch)) {
        plans.push(pushed(&engine, planned).await?);
    }
    let failed = failed.iter().filter(|(branch, _)| moved(&hint, branch));
    let unplanned = failed.map(|(branch, error)| format!("{branch} can't be planned: {error}")).collect();
    Ok(Json(HintAnswer { plans, unplanned, planning: false }))
}

/// Waits until the scheduler has looked at what was queued, so that a build that waits is not said to start.
async fn settle(engine: &Engine, planned: &[Planned]) {
    let mut changes = engine.changes();
    let numbers: Vec<BuildNo> = planned.iter().flat_map(|plan| &plan.queued).map(|order| order.number).collect();
    let looked = async {
        while numbers.iter().any(|number| !engine.was_looked_at(*number)) && changes.changed().await.is_ok() {}
    };
    drop(tokio::time::timeout(LOOKED_WITHIN, looked).await);
}

async fn plan(engine: Engine, repository: RepoName, delivery: u64) -> Result<Plans, No> {
    let plans = engine.plan_repository(&repository).await;
    let became = match &plans {
        Ok(Plans { planned, failed }) => {
            let builds = numbers(planned.iter().flat_map(|plan| &plan.queued).map(|order| order.number));
            let mut others = Vec::new();
            for planned in planned {
                others.extend(under_way(&engine, planned).await?.into_iter().map(|record| record.order.number));
            }
            // The watch may have been quicker than the hook.
            let unplanned = failed.iter().map(|(branch, error)| format!("; {branch} not planned: {error}"));
            let became = match (builds.is_empty(), others.is_empty()) {
                (true, true) => "nothing to build".to_owned(),
                (true, false) => format!("under way: {}", numbers(others)),
                (false, _) => format!("queued {builds}"),
            };
            became + &unplanned.collect::<String>()
        }
        Err(error) => format!("not planned: {error}"),
    };
    engine.store().delivered(delivery, &became).await?;
    Ok(plans?)
}

fn numbers(builds: impl IntoIterator<Item = BuildNo>) -> String {
    builds.into_iter().map(|number| number.to_string()).collect::<Vec<_>>().join(", ")
}

/// The unfinished builds of what a plan wants done: those it queued, and those that were queued by whoever planned first.
async fn under_way(engine: &Engine, planned: &Planned) -> Result<Vec<BuildRecord>, No> {
    let wanted: BTreeSet<_> =
        planned.plan.bundles.iter().filter(|bundle| bundle.action.is_work()).map(|bundle| &bundle.bundle).collect();
    let mut records = engine.store().unfinished().await?;
    records.retain(|BuildRecord { order, .. }| {
        let key = &order.key;
        key.repository == planned.repository && key.branch == planned.branch && wanted.contains(&key.path)
    });
    Ok(records)
}

/// Whether a branch is among those that the hint names; a hint that names none is about all.
fn moved(hint: &Hint, branch: &Branch) -> bool {
    let name = format!("refs/heads/{branch}");
    hint.updates.is_empty() || hint.updates.iter().any(|update| update.split(' ').nth(2) == Some(&name))
}

async fn pushed(engine: &Engine, planned: &Planned) -> Result<PushedPlan, No> {
    let mut records = under_way(engine, planned).await?;
    // One that was queued a moment ago may have ended already.
    for order in &planned.queued {
        if !records.iter().any(|record| record.order.number == order.number) {
            records.extend(engine.store().build(order.number).await?);
        }
    }
    records.sort_by_key(|record| record.order.number);
    let mut builds = Vec::new();
    for record in records {
        builds.push(queued(engine, view(engine, &record), &record).await?);
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
        faults: planned.faults.iter().map(|fault| fault.render("error")).collect(),
        queued: builds,
        about,
    })
}
