//! `status`: the answer first, then everything that it rests on.

use axum::extract::{Query, State};
use axum::response::Response;
use serde::Deserialize;

use super::answer::No;
use super::lists::{self, Broken, ROWS, Rows};
use super::look::view;
use super::wire::{BundleView, DiskView, QueuedView, RepositoryView, StatusView, seconds};
use super::{Served, wire};
use crate::engine::Engine;
use crate::engine::memory::{BuildRecord, StoreError};
use crate::engine::views::{BundleState, Standing, Standings, Which};

/// How long a queued build is likely to take is looked up for so many: those behind them wait too long for it to matter.
const MOST_ESTIMATES: usize = 100;
/// So many bundles in each state, and so many builds of the queue, are shown where only those that want attention are:
/// nobody reads more of them, and thousands would take seconds.
const MOST_ROWS: usize = 100;

/// So many bundles are shown whatever their state.
const FEW: usize = 10;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct StatusQuery {
    /// Leaves out fresh bundles, where there are more than a few bundles in all.
    attention: bool,
}

pub(super) async fn status(State(served): State<Served>, Query(query): Query<StatusQuery>) -> Result<Response, No> {
    let engine = served.engine.clone();
    let which = if query.attention { Which::Attention { few: FEW, most: MOST_ROWS } } else { Which::All };
    let standings = engine.standings(which).await?;
    let mut problems: Vec<String> = engine.store().broken().into_iter().collect();
    let health = engine.health().await;
    let driver = health.driver.clone().unwrap_or_else(|error| {
        problems.push(format!("the driver {} does not work: {error}; {}", engine.policy().driver, error.help));
        format!("{} does not answer", engine.policy().driver)
    });
    // A sandbox that does not work is a warning: guests' steps run without it.
    let sandbox = match &health.sandbox {
        Ok(works) => works.clone(),
        Err(error) => format!("does not work: {error}; {}", error.help),
    };
    let space = engine.store().disk_space()?;
    let repositories = engine.policy().repositories.iter().map(|repository| RepositoryView {
        repository: repository.name.to_string(),
        path: served.surroundings.path(&repository.name).display().to_string(),
        problem: served.surroundings.problem(&repository.name).or_else(|| engine.trouble(&repository.name)),
    });
    let repositories: Vec<RepositoryView> = repositories.collect();
    let head = StatusView {
        summary: summary(&standings, &problems, &repositories),
        healthy: problems.is_empty(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        bundles: Vec::new(),
        total: standings.counts.values().sum(),
        counts: standings.counts.iter().map(|(standing, count)| (standing.word().to_owned(), *count)).collect(),
        running: standings.running.iter().map(|record| view(&engine, record)).collect(),
        queue: Vec::new(),
        queued: standings.queued,
        driver,
        sandbox,
        checked: health.at.0,
        slots: engine.policy().slots,
        disk: DiskView { free: space.free, total: space.total },
        repositories,
        problems,
    };
    Ok(lists::answer(&head, &["bundles", "queue"], |rows| long_lists(engine, standings, rows)))
}

async fn long_lists(engine: Engine, standings: Standings, mut rows: Rows) -> Result<Rows, Broken> {
    rows.list("bundles");
    for positions in standings.shown.chunks(ROWS) {
        let states = engine.states(positions).await?;
        rows.rows(states.iter().map(|state| bundle_view(&engine, state))).await?;
    }
    rows.list("queue");
    let mut estimates = MOST_ESTIMATES;
    for numbers in standings.queue.chunks(ROWS) {
        let mut views = Vec::with_capacity(numbers.len());
        for record in engine.store().builds_of(numbers.to_vec()).await? {
            let about = if estimates > 0 { estimate(&engine, &record).await? } else { None };
            estimates = estimates.saturating_sub(1);
            views.push(queued(&engine, &record, about));
        }
        rows.rows(views.into_iter()).await?;
    }
    Ok(rows)
}

/// A queued build, with what it waits for and the seconds it is likely to take.
pub(super) fn queued(engine: &Engine, record: &BuildRecord, about: Option<f64>) -> QueuedView {
    QueuedView { waits: engine.wait_reason(record.order.number), build: view(engine, record), about }
}

/// The seconds that a build is likely to take.
pub(super) async fn estimate(engine: &Engine, record: &BuildRecord) -> Result<Option<f64>, StoreError> {
    let key = &record.order.key;
    Ok(engine.estimate(&key.repository, &key.path, |_| true).await?.map(seconds))
}

/// One sentence a person could say aloud.
fn summary(standings: &Standings, problems: &[String], repositories: &[RepositoryView]) -> String {
    if !problems.is_empty() {
        return format!("The factory is not well: {}.", problems[0]);
    }
    let count = |standing: Standing| standings.counts.get(&standing).copied().unwrap_or(0);
    let total = standings.counts.values().sum();
    let fresh = count(Standing::Fresh);
    let troubled = repositories.iter().find(|repository| repository.problem.is_some());
    let mut sentence = match (total, fresh) {
        (0, _) if let Some(troubled) = troubled => {
            return format!("Nothing can be built: something is wrong in the repository {}.", troubled.repository);
        }
        (0, _) => return "Nothing to build yet: no bundle was pushed.".to_owned(),
        (1, 1) => "The bundle is fresh.".to_owned(),
        (total, fresh) if total == fresh => format!("All {total} bundles are fresh."),
        (1, _) => "0 of 1 bundle is fresh.".to_owned(),
        (total, fresh) => format!("{fresh} of {total} bundles {} fresh.", if fresh == 1 { "is" } else { "are" }),
    };
    let rest: Vec<String> = [
        (Standing::Failed, "failed", "failed"),
        (Standing::Running, "runs", "run"),
        (Standing::Waiting, "waits", "wait"),
        (Standing::Stale, "is stale", "are stale"),
        (Standing::Unbuildable, "can't be built", "can't be built"),
    ]
    .into_iter()
    .filter_map(|(standing, one, many)| match count(standing) {
        0 => None,
        1 => Some(format!("1 {one}")),
        several => Some(format!("{several} {many}")),
    })
    .collect();
    if !rest.is_empty() {
        sentence = format!("{sentence} {}.", rest.join(", "));
    }
    sentence
}

fn bundle_view(engine: &Engine, state: &BundleState) -> BundleView {
    let build = state.build.as_ref().map(|record| view(engine, record));
    BundleView {
        repository: state.key.repository.to_string(),
        branch: state.key.branch.to_string(),
        bundle: state.key.path.to_string(),
        state: state.standing.word().to_owned(),
        reason: state.reason.clone(),
        build: build.as_ref().map(|build| build.build),
        outcome: build.as_ref().and_then(|build| build.outcome.clone()),
        image: state.served.as_ref().map(|served| served.image.to_string()),
        since: state.served.as_ref().map(|served| served.at.0),
        left: state.left.map(wire::seconds),
        error: build.as_ref().and_then(|build| build.error.clone()),
        ended: build.as_ref().and_then(|build| build.ended),
        stages: build.map(|build| build.stages).unwrap_or_default(),
    }
}
