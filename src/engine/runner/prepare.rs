//! What is looked up before the first stage of a build: its bundle at its commit, what is served, what its steps may use.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Run;
use crate::domain::build::{Event, Order, Outcome};
use crate::domain::image::Image;
use crate::domain::pipeline::Stage;
use crate::domain::plan::{StagePlan, StageState};
use crate::engine::Engine;
use crate::engine::failure::Problem;
use crate::engine::log::StepLog;
use crate::engine::planner::{PlanError, scratch_of};
use crate::engine::ports::Wait;
use crate::engine::stages::archive;
use crate::manifest::reading::Buildable;
use crate::store::{BuildRecord, StoreError};

impl Run {
    /// Everything that is needed before the first stage; `None` where the build ended already, since its commit or its
    /// bundle can't be read.
    pub(super) async fn prepare(
        engine: &Engine,
        record: BuildRecord,
        cancel: CancellationToken,
    ) -> Result<Option<Self>, StoreError> {
        let number = record.order.number;
        let attempt = record.build.attempt + 1;
        let now = engine.clock().now();
        let build = match engine.store().append(number, now, Event::Started { attempt }, Vec::new()).await {
            // Somebody ended it in the very moment it was to start.
            Err(StoreError::IllegalEvent { .. }) => return Ok(None),
            other => other?,
        };
        engine.changed();
        let buildable = match find_buildable(engine, &record.order).await {
            Ok(buildable) => buildable,
            Err(problem) => {
                refuse(engine, &record, problem).await?;
                return Ok(None);
            }
        };
        let disk_image = served_disk(engine, &record.order, &buildable).await?;
        let plans = engine.stage_plans(&record.order, &buildable).await?;
        let grants = match engine.grants(&record.order, &buildable).await {
            Ok(grants) => grants,
            Err(PlanError::Store(error)) => return Err(error),
            Err(error) => {
                let problem = Problem::new(error.to_string(), "the default branch says what host steps may use");
                refuse(engine, &record, problem).await?;
                return Ok(None);
            }
        };
        Ok(Some(Self {
            engine: engine.clone(),
            disk_image,
            grants,
            serving: None,
            reasons: plans.into_iter().map(|plan| (plan.stage, why(plan))).collect(),
            driver: Arc::clone(engine.driver()),
            wait: Wait { cancel, deadline: Instant::now() + buildable.pipeline.timeout },
            log: Arc::new(engine.store().log_writer(number)),
            scratch: scratch_of(engine, number),
            files: engine.store().build_directory(number)?,
            started: build.started.unwrap_or(now),
            machine: None,
            results: BTreeMap::new(),
            image: None,
            warnings: Vec::new(),
            archived: BTreeSet::new(),
            pending: Vec::new(),
            held: Vec::new(),
            buildable,
            build,
            order: record.order,
        }))
    }
}

/// Why a stage runs, as its plan has it. One that runs although a result is kept finds that what it stood for is gone.
fn why(plan: StagePlan) -> String {
    match plan.state {
        StageState::Hit => "what its kept result stood for is gone".to_owned(),
        _ => plan.reason.into_owned(),
    }
}

/// The image that is served for a bundle, if it was made from the same inputs up to its tests and nobody asked for those
/// stages to be done.
async fn served_disk(engine: &Engine, order: &Order, buildable: &Buildable) -> Result<Option<Image>, StoreError> {
    let key = &order.key;
    let asked = order.no_cache || order.from.is_some_and(|from| from < Stage::Snapshot);
    let Some(served) = engine.store().served_of(key).await? else {
        return Ok(None);
    };
    let mut disk = buildable.stages.iter().filter(|need| need.stage < Stage::Snapshot);
    if asked || !disk.all(|need| served.stages.contains(&(need.stage, need.declared))) {
        return Ok(None);
    }
    let image = engine.store().image(served.image.as_str()).await?.map(|record| record.image);
    let driver = engine.driver().name();
    Ok(image.filter(|image| image.copies.iter().any(|copy| copy.driver == *driver)))
}

/// Ends a build whose bundle can't be read, as a failure of its first stage.
async fn refuse(engine: &Engine, record: &BuildRecord, problem: Problem) -> Result<(), StoreError> {
    let number = record.order.number;
    let log = Arc::new(engine.store().log_writer(number));
    StepLog::new(&log, Stage::Boot, None).say(&format!("failed: {}", problem.message));
    let (records, _held) = archive::log_alone(engine, number).await?;
    let failure = Some(problem.at(Stage::Boot));
    let event = Event::Finished { outcome: Outcome::Failed, failure, reason: String::new() };
    engine.store().append(number, engine.clock().now(), event, records).await?;
    engine.store().finish_log(number).await
}

async fn find_buildable(engine: &Engine, order: &Order) -> Result<Arc<Buildable>, Problem> {
    let read = engine
        .read(&order.key.repository, order.commit.clone())
        .await
        .map_err(|error| Problem::new(error.to_string(), "push again, or look at the repository"))?;
    let bundle = read.reading.bundles.into_iter().find(|bundle| bundle.path == order.key.path);
    match bundle.map(|bundle| bundle.verdict) {
        Some(Ok(buildable)) => Ok(buildable),
        Some(Err(unbuildable)) => Err(Problem::new(unbuildable.reason, "factoryd check shows where")),
        None => Err(Problem::new(
            format!("{} is no bundle of {}", order.key.path, order.commit.short()),
            "factoryd plan lists the bundles",
        )),
    }
}
