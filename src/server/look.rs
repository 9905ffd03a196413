//! Requests that only look.

use std::collections::HashMap;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use serde::Deserialize;

use super::answer::{No, repository};
use super::lists::{self, ROWS, Rows};
use super::wire::{
    ArtifactsView, BuildView, BuildsView, BundlePlanView, DeliveriesView, FreshnessView, ImageView, ImagesView,
    LineView, PlanView, ShowView, StagePlanView, StageView, TestView, WhyView,
};
use super::{Served, wire};
use crate::blocking;
use crate::domain::build::Event;
use crate::domain::id::BuildNo;
use crate::domain::inputs::Inputs;
use crate::domain::path::RepoPath;
use crate::domain::pipeline::Stage;
use crate::domain::plan::BundlePlan;
use crate::domain::range::Range;
use crate::engine::Engine;
use crate::engine::memory::{BuildFilter, BuildRecord, ImageRecord, LogLine, LogPage};
use crate::engine::ports::CommitInfo;

/// The most builds that one answer lists.
const MOST_BUILDS: usize = 1000;
/// How many lines of the log `show` puts on top, from the failing one on.
const ERROR_LINES: usize = 6;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PlanQuery {
    repository: Option<String>,
    revision: Option<String>,
}

pub(super) async fn plan(State(served): State<Served>, Query(query): Query<PlanQuery>) -> Result<Response, No> {
    let engine = &served.engine;
    let repository = repository(engine, query.repository.as_deref())?;
    if engine.is_empty(&repository).await? {
        return Err(No::conflict(format!("nothing was pushed to {repository} yet")));
    }
    let revision = query.revision.unwrap_or_default();
    let planned = match Range::parse(&revision) {
        Some(Range::Between { base, tip }) => engine.plan_range(&repository, base, tip).await?,
        Some(Range::Commit(revision)) => engine.plan_revision(&repository, revision).await?,
        None => return Err(No::usage(format!("{revision} is no range; write A..B"))),
    };
    let (each, all) = engine.forecast(&planned).await?;
    let faults = planned.faults.iter().map(|fault| fault.render("error")).collect();
    let head = PlanView { about: all.map(wire::seconds), faults, ..PlanView::without_bundles(&planned.plan) };
    let write = async move |mut rows: Rows| {
        rows.list("bundles");
        for bundles in planned.plan.bundles.chunks(ROWS) {
            let about = |path: &RepoPath| each.get(path).copied().map(wire::seconds);
            let view =
                |bundle: &BundlePlan| BundlePlanView { about: about(&bundle.bundle), ..BundlePlanView::from(bundle) };
            rows.rows(bundles.iter().map(view)).await?;
        }
        Ok(rows)
    };
    Ok(lists::answer(&head, &["bundles"], write))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BuildsQuery {
    repository: Option<String>,
    bundle: Option<String>,
    before: Option<u64>,
    limit: Option<usize>,
}

pub(super) async fn builds(
    State(served): State<Served>,
    Query(query): Query<BuildsQuery>,
) -> Result<Json<BuildsView>, No> {
    let engine = &served.engine;
    let repository = match &query.repository {
        Some(name) => Some(repository(engine, Some(name))?),
        None => None,
    };
    let limit = query.limit.unwrap_or(20).clamp(1, MOST_BUILDS);
    let bundle = match &query.bundle {
        Some(name) => Some(known_bundle(engine, name).await?),
        None => None,
    };
    let before = query.before.map(BuildNo);
    let mut records = engine.store().builds(BuildFilter { repository, bundle, before, limit: limit + 1 }).await?;
    let more = records.len() > limit;
    records.truncate(limit);
    let next = records.last().filter(|_| more).map(|record| record.order.number.0);
    let freshness = engine.freshness().await?;
    let with_freshness = |record: &BuildRecord| BuildView {
        freshness: record.build.image.as_ref().and_then(|image| freshness.get(image)).map(FreshnessView::from),
        ..view(engine, record)
    };
    Ok(Json(BuildsView { builds: records.iter().map(with_freshness).collect(), next }))
}

/// The path of a bundle that was built or is planned: as it is, or by its last part.
async fn known_bundle(engine: &Engine, name: &str) -> Result<RepoPath, No> {
    let wanted = RepoPath::new(name).unwrap_or_default();
    let is_known = |path: &RepoPath| *path == wanted || path.name() == wanted.as_bytes();
    let planned = engine.planned_bundles();
    let built = engine.store().builds(BuildFilter { limit: MOST_BUILDS, ..BuildFilter::default() }).await?;
    let paths = planned.iter().chain(built.iter().map(|record| &record.order.key.path));
    let mut found: Vec<RepoPath> = paths.filter(|path| is_known(path)).cloned().collect();
    found.sort();
    found.dedup();
    match found.as_slice() {
        [path] => Ok(path.clone()),
        [] => Err(No::missing(format!("there is no bundle {name}"))),
        several if several.contains(&wanted) => Ok(wanted),
        several => {
            let paths: Vec<String> = several.iter().map(ToString::to_string).collect();
            Err(No::conflict(format!("{name} could be {}", paths.join(" or "))))
        }
    }
}

/// A build as the API says it, with the reason why it waits.
pub(super) fn view(engine: &Engine, record: &BuildRecord) -> BuildView {
    let mut view = BuildView::new(record, engine.clock().now());
    let waits = engine.wait_reason(record.order.number);
    if !waits.is_empty() {
        view.reason = waits;
    }
    view
}

pub(super) async fn known_build(engine: &Engine, number: BuildNo) -> Result<BuildRecord, No> {
    let found = engine.store().build(number).await?;
    found.ok_or_else(|| No::missing(format!("there is no build {number}")))
}

pub(super) async fn build_view(engine: &Engine, number: BuildNo) -> Result<BuildView, No> {
    Ok(view(engine, &known_build(engine, number).await?))
}

pub(super) async fn show(State(served): State<Served>, Path(number): Path<u64>) -> Result<Json<ShowView>, No> {
    let engine = &served.engine;
    let number = BuildNo(number);
    let record = known_build(engine, number).await?;
    let key = &record.order.key;
    let image = match &record.build.image {
        Some(image) => Some(image.clone()),
        None => engine.store().served_of(key).await?.map(|served| served.image),
    };
    let image = match image {
        Some(image) => engine.store().image(image.as_str()).await?,
        None => None,
    };
    let tests = engine.store().test_cases(number).await?.into_iter().map(TestView::from).collect();
    let artifacts = engine.store().artifacts(number).await?.into_iter().map(wire::ArtifactView::from).collect();
    let (subject, author) = commit_info(engine, &record).await.map(|info| (info.subject, info.author)).unzip();
    let freshness = engine.freshness().await?;
    let own = record.build.image.as_ref().and_then(|image| freshness.get(image)).map(FreshnessView::from);
    Ok(Json(ShowView {
        subject,
        author,
        lines: error_lines(engine, &record).await?,
        build: BuildView { freshness: own, stages: stages(engine, &record).await?, ..view(engine, &record) },
        tests,
        served: image.as_ref().map(|image| ImageView::new(image, freshness.get(&image.image.id))),
        artifacts,
        warnings: engine.store().warnings(number).await?.into_iter().map(wire::FaultView::from).collect(),
    }))
}

/// A build's stages with what their plan said, and what each hit saved.
async fn stages(engine: &Engine, record: &BuildRecord) -> Result<Vec<StageView>, No> {
    let (_, compared) = compare(engine, record).await?;
    let mut from = HashMap::new();
    for entry in engine.store().journal(record.order.number).await? {
        if let Event::StageHit { stage, from: build, .. } = entry.event {
            from.insert(stage.word(), build);
        }
    }
    let mut views = view(engine, record).stages;
    for view in &mut views {
        let compared = compared.iter().find(|stage| stage.stage == view.stage);
        if let Some(changed) = compared.filter(|stage| stage.state == "changed") {
            view.reason.clone_from(&changed.reason);
        }
        view.plan = compared.map(|stage| stage.state.clone());
        let Some(build) = from.get(view.stage.as_str()).filter(|_| view.state == "hit") else { continue };
        let source = engine.store().build(*build).await?;
        let mut of_source = source.iter().flat_map(|source| &source.build.stages);
        let run = of_source.find(|(stage, _)| stage.word() == view.stage);
        view.saved = run.and_then(|(_, run)| run.millis()).map(wire::seconds);
    }
    Ok(views)
}

/// What a person wants to know of the commit, where it is still there.
async fn commit_info(engine: &Engine, record: &BuildRecord) -> Option<CommitInfo> {
    let repositories = std::sync::Arc::clone(engine.repositories());
    let (repository, commit) = (record.order.key.repository.clone(), record.order.commit.clone());
    blocking::run(move || repositories.describe(&repository, &commit)).await.ok()
}

async fn error_lines(engine: &Engine, record: &BuildRecord) -> Result<Vec<LineView>, No> {
    let Some(line) = record.build.failure.as_ref().and_then(|failure| failure.line) else { return Ok(Vec::new()) };
    let page = LogPage { from: line, limit: ERROR_LINES, stage: None };
    Ok(engine.store().read_log(record.order.number, page).await?.into_iter().map(line_view).collect())
}

pub(super) fn line_view(line: LogLine) -> LineView {
    LineView {
        line: line.number,
        at: line.at.0,
        stage: line.stage.map(|stage| stage.word().to_owned()).unwrap_or_default(),
        step: line.step,
        text: line.text,
    }
}

pub(super) async fn why(State(served): State<Served>, Path(number): Path<u64>) -> Result<Json<WhyView>, No> {
    let engine = &served.engine;
    let record = known_build(engine, BuildNo(number)).await?;
    let inputs = engine.store().inputs(record.order.number).await?;
    let (before, stages) = compare(engine, &record).await?;
    Ok(Json(WhyView {
        build: number,
        commit: record.order.commit.to_string(),
        bundle: record.order.key.path.to_string(),
        reason: record.order.reason.clone(),
        before: before.map(|before| before.0),
        stages,
        inputs: inputs.iter().map(|(_, _, inputs): &(_, _, Inputs)| inputs.len()).sum(),
    }))
}

/// The build before one, and the inputs of the one's stages against the other's.
async fn compare(engine: &Engine, record: &BuildRecord) -> Result<(Option<BuildNo>, Vec<StagePlanView>), No> {
    let inputs = engine.store().inputs(record.order.number).await?;
    let before = build_before(engine, record).await?.map(|before| before.order.number);
    let old = match before {
        Some(before) => engine.store().inputs(before).await?,
        None => Vec::new(),
    };
    let stages = inputs.iter().map(|(stage, declared, own)| {
        let was = old.iter().find(|(other, ..)| other == stage).map(|(_, _, inputs)| inputs);
        let run = record.build.stages.get(stage);
        let differences: Vec<String> =
            was.map(|was| own.differences(was).iter().map(ToString::to_string).collect()).unwrap_or_default();
        let state = why_state(record, *stage, &differences);
        // The plan's reason is about the last result, and the build before may have left none.
        let reason = match differences.as_slice() {
            [first] if state == "changed" => first.clone(),
            [first, rest @ ..] if state == "changed" => format!("{first} and {} more", rest.len()),
            _ => run.map(|run| run.reason.clone()).unwrap_or_default(),
        };
        StagePlanView {
            stage: stage.word().to_owned(),
            state: state.to_owned(),
            fingerprint: Some(declared.to_string()),
            reason,
            differences,
        }
    });
    Ok((before, stages.collect()))
}

fn why_state(record: &BuildRecord, stage: Stage, differences: &[String]) -> &'static str {
    use crate::domain::build::StageProgress::{Hit, Skipped};
    match record.build.stages.get(&stage).map(|run| run.progress) {
        Some(Hit) => "hit",
        Some(Skipped) | None => "skipped",
        Some(_) if differences.is_empty() => "miss",
        Some(_) => "changed",
    }
}

/// The last build of the same bundle and branch before one.
async fn build_before(engine: &Engine, record: &BuildRecord) -> Result<Option<BuildRecord>, No> {
    let key = &record.order.key;
    let filter = BuildFilter {
        repository: Some(key.repository.clone()),
        bundle: Some(key.path.clone()),
        before: Some(record.order.number),
        limit: 50,
    };
    let earlier = engine.store().builds(filter).await?;
    Ok(earlier.into_iter().find(|earlier| earlier.order.key == *key))
}

pub(super) async fn artifacts(
    State(served): State<Served>,
    Path(number): Path<u64>,
) -> Result<Json<ArtifactsView>, No> {
    let engine = &served.engine;
    known_build(engine, BuildNo(number)).await?;
    let artifacts = engine.store().artifacts(BuildNo(number)).await?.into_iter().map(wire::ArtifactView::from);
    Ok(Json(ArtifactsView { artifacts: artifacts.collect() }))
}

pub(super) async fn images(State(served): State<Served>) -> Result<Response, No> {
    let engine = served.engine;
    let freshness = engine.freshness().await?;
    let ids = engine.store().image_ids().await?;
    let write = async move |mut rows: Rows| {
        rows.list("images");
        for ids in ids.chunks(ROWS) {
            let images = engine.store().images_of(ids.to_vec()).await?;
            rows.rows(images.iter().map(|image| ImageView::new(image, freshness.get(&image.image.id)))).await?;
        }
        Ok(rows)
    };
    Ok(lists::answer(&ImagesView::default(), &["images"], write))
}

pub(super) async fn image(State(served): State<Served>, Path(image): Path<String>) -> Result<Json<ImageView>, No> {
    Ok(Json(image_view(&served.engine, &find_image(&served.engine, &image).await?).await?))
}

pub(super) async fn find_image(engine: &Engine, image: &str) -> Result<ImageRecord, No> {
    if let Some(found) = engine.store().image(image).await? {
        return Ok(found);
    }
    let mut named = engine.store().images_named(image).await?;
    match (named.len(), named.pop()) {
        (1, Some(only)) => Ok(only),
        (0, _) => Err(No::missing(format!("there is no image {image}"))),
        _ => Err(No::conflict(format!("several images are called {image}: name one by its id"))),
    }
}

pub(super) async fn image_view(engine: &Engine, record: &ImageRecord) -> Result<ImageView, No> {
    let freshness = engine.freshness().await?;
    Ok(ImageView::new(record, freshness.get(&record.image.id)))
}

pub(super) async fn deliveries(State(served): State<Served>) -> Result<Json<DeliveriesView>, No> {
    let deliveries = served.engine.store().deliveries(50).await?;
    Ok(Json(DeliveriesView { deliveries: deliveries.into_iter().map(wire::DeliveryView::from).collect() }))
}
