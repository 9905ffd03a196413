//! Hints: something moved, says a hook. The planner looks for itself; the answer is what it found.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use axum::Json;
use axum::extract::{ConnectInfo, State};

use super::answer::{No, repository};
use super::status::{estimate, queued};
use super::wire::{BundlePlanView, Hint, HintAnswer, PlanView, PushedCount, PushedPlan, QueuedView, seconds};
use super::{Caller, Served};
use crate::domain::id::{Branch, BuildNo, RepoName};
use crate::domain::path::RepoPath;
use crate::domain::plan::{Action, BundlePlan, Plan};
use crate::engine::Engine;
use crate::engine::memory::OpenBuild;
use crate::engine::planner::{Planned, Plans};

/// A push is answered within two seconds; a plan that takes longer goes on without it.
const PATIENCE: Duration = Duration::from_millis(1500);
/// More bundles or builds than this are counted in the answer and not listed: nobody reads them in a push's output, and
/// ten thousand of them would take longer than the plan.
const MOST_ROWS: usize = 20;
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
    let task = tokio::spawn(plan(engine.clone(), repository, delivery, hint.clone()));
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
    let queued = planned.iter().flat_map(|plan| plan.queued.iter().take(MOST_ROWS));
    let numbers: Vec<BuildNo> = queued.map(|order| order.number).collect();
    let looked = async {
        while numbers.iter().any(|number| !engine.was_looked_at(*number)) && changes.changed().await.is_ok() {}
    };
    drop(tokio::time::timeout(LOOKED_WITHIN, looked).await);
}

async fn plan(engine: Engine, repository: RepoName, delivery: u64, hint: Hint) -> Result<Plans, No> {
    let named: HashSet<Branch> = hint.updates.iter().filter_map(|update| branch_of(update)).collect();
    let plans = engine.plan_pushed(&repository, |branch| named.contains(branch)).await;
    let became = match &plans {
        Ok(Plans { planned, failed }) => {
            let builds = numbers(planned.iter().flat_map(|plan| &plan.queued).map(|order| order.number).collect());
            let mut others = Vec::new();
            for planned in planned {
                others.extend(under_way(&engine, planned).await?);
            }
            // The watch may have been quicker than the hook.
            let unplanned = failed.iter().map(|(branch, error)| format!("; {branch} not planned: {error}"));
            let became = match (builds.is_empty(), others.is_empty()) {
                (true, true) => "nothing to build".to_owned(),
                (true, false) => format!("under way: {}", numbers(others)),
                (false, _) => format!("queued {builds}"),
            };
            let faulty = planned.iter().filter(|planned| !planned.faults.is_empty());
            let faulty = faulty.map(|planned| format!("; the pipelines on {} have a fault", planned.branch));
            became + &unplanned.chain(faulty).collect::<String>()
        }
        Err(error) => format!("not planned: {error}"),
    };
    engine.store().delivered(delivery, &became).await?;
    Ok(plans?)
}

fn numbers(builds: Vec<BuildNo>) -> String {
    let mut words: Vec<String> = builds.iter().take(MOST_ROWS).map(ToString::to_string).collect();
    if builds.len() > MOST_ROWS {
        words.push(format!("and {} more", builds.len() - MOST_ROWS));
    }
    words.join(", ")
}

/// The unfinished builds of what a plan wants done, oldest first: those it queued, and those that were queued by whoever
/// planned first.
async fn under_way(engine: &Engine, planned: &Planned) -> Result<Vec<BuildNo>, No> {
    let work = planned.plan.bundles.iter().filter(|bundle| bundle.action.is_work());
    let wanted: HashSet<&RepoPath> = work.map(|bundle| &bundle.bundle).collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let open = engine.store().open_builds().await?;
    let ours = open.iter().filter(|OpenBuild { key, .. }| {
        key.repository == planned.repository && key.branch == planned.branch && wanted.contains(&key.path)
    });
    Ok(ours.map(|build| build.number).collect())
}

/// Whether a branch is among those that the hint names; a hint that names none is about all.
fn moved(hint: &Hint, branch: &Branch) -> bool {
    hint.updates.is_empty() || hint.updates.iter().any(|update| branch_of(update).as_ref() == Some(branch))
}

/// The branch of git's `old new ref`.
fn branch_of(update: &str) -> Option<Branch> {
    update.split(' ').nth(2)?.strip_prefix("refs/heads/").map(Branch::from)
}

async fn pushed(engine: &Engine, planned: &Planned) -> Result<PushedPlan, No> {
    let work = first(planned, |action| action.is_work());
    let (each, all) = engine.forecast(planned).await?;
    let shown = work.iter().filter_map(|bundle| Some((bundle.bundle.to_string(), seconds(*each.get(&bundle.bundle)?))));
    let about: BTreeMap<String, f64> = shown.collect();
    // One that was queued a moment ago may have ended already.
    let mut builds: BTreeSet<BuildNo> = under_way(engine, planned).await?.into_iter().collect();
    builds.extend(planned.queued.iter().map(|order| order.number));
    let held = first(planned, |action| matches!(action, Action::Stale | Action::Unbuildable));
    let plan = PlanView { bundles: work.into_iter().chain(held).map(BundlePlanView::from).collect(), ..head(planned) };
    let plan = PlanView { about: all.map(seconds), ..plan };
    Ok(PushedPlan {
        branch: planned.branch.to_string(),
        tracked: planned.tracked,
        subject: planned.info.subject.clone(),
        plan,
        count: count(planned, builds.len()),
        faults: planned.faults.iter().map(|fault| fault.render("error")).collect(),
        queued: first_builds(engine, &builds).await?,
        about,
    })
}

/// The first bundles of a plan with one of these actions.
fn first(planned: &Planned, is_one: impl Fn(Action) -> bool) -> Vec<&BundlePlan> {
    planned.plan.bundles.iter().filter(|bundle| is_one(bundle.action)).take(MOST_ROWS).collect()
}

/// A plan without its bundles.
fn head(planned: &Planned) -> PlanView {
    let Plan { commit, base, removed, .. } = planned.plan.as_ref();
    PlanView {
        commit: commit.to_string(),
        base: base.as_ref().map(ToString::to_string),
        bundles: Vec::new(),
        removed: removed.iter().take(MOST_ROWS).map(ToString::to_string).collect(),
        about: None,
        // Those of a push stand beside its plan.
        faults: Vec::new(),
    }
}

fn count(planned: &Planned, queued: usize) -> PushedCount {
    let mut count = PushedCount { queued, ..PushedCount::default() };
    for bundle in &planned.plan.bundles {
        match bundle.action {
            Action::Unchanged => count.unchanged += 1,
            Action::Stale | Action::Unbuildable => count.held += 1,
            Action::Build | Action::Render | Action::Publish => count.work += 1,
        }
    }
    count
}

async fn first_builds(engine: &Engine, builds: &BTreeSet<BuildNo>) -> Result<Vec<QueuedView>, No> {
    let mut views = Vec::new();
    for number in builds.iter().take(MOST_ROWS) {
        if let Some(record) = engine.store().build(*number).await? {
            let about = estimate(engine, &record).await?;
            views.push(queued(engine, &record, about));
        }
    }
    Ok(views)
}
