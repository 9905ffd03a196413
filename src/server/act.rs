//! Requests that change something.

use axum::Json;
use axum::extract::{ConnectInfo, Path, State};

use super::answer::{No, repository};
use super::look::{build_view, find_image, image_view};
use super::wire::{BuildOrder, BuildView, GcView, ImageView, RetryOrder, VerifyView};
use super::{Caller, Served};
use crate::domain::id::BuildNo;
use crate::domain::image::ImageState;
use crate::domain::pipeline::Stage;
use crate::engine::BuildRequest;

pub(super) async fn build(
    State(served): State<Served>,
    ConnectInfo(peer): Caller,
    Json(order): Json<BuildOrder>,
) -> Result<Json<BuildView>, No> {
    let engine = &served.engine;
    let repository = repository(engine, order.repository.as_deref())?;
    let request = BuildRequest {
        bundle: order.bundle,
        revision: order.revision,
        reason: order.reason,
        from: stage(order.from.as_deref())?,
        until: stage(order.until.as_deref())?,
        no_cache: order.no_cache,
        by: peer.name,
    };
    let order = engine.request_build(&repository, request).await?;
    build_view(engine, order.number).await.map(Json)
}

fn stage(word: Option<&str>) -> Result<Option<Stage>, No> {
    let Some(word) = word else { return Ok(None) };
    Stage::from_word(word).map(Some).ok_or_else(|| {
        No::usage(format!("there is no stage `{word}`; stages are boot, provision, test, snapshot, render"))
    })
}

pub(super) async fn cancel(
    State(served): State<Served>,
    ConnectInfo(peer): Caller,
    Path(number): Path<u64>,
) -> Result<Json<BuildView>, No> {
    served.engine.cancel(BuildNo(number), &peer.name).await?;
    build_view(&served.engine, BuildNo(number)).await.map(Json)
}

pub(super) async fn retry(
    State(served): State<Served>,
    ConnectInfo(peer): Caller,
    Path(number): Path<u64>,
    Json(order): Json<RetryOrder>,
) -> Result<Json<BuildView>, No> {
    let from = stage(order.from.as_deref())?;
    let order = served.engine.retry(BuildNo(number), from, &peer.name).await?;
    build_view(&served.engine, order.number).await.map(Json)
}

pub(super) async fn image(
    State(served): State<Served>,
    Path((image, verb)): Path<(String, String)>,
) -> Result<Json<ImageView>, No> {
    let store = served.engine.store();
    let id = find_image(&served.engine, &image).await?.image.id;
    match verb.as_str() {
        "pin" => store.pin(&id).await?,
        "unpin" => store.unpin(&id).await?,
        "deprecate" => store.set_image_state(&id, ImageState::Deprecated).await?,
        _ => return Err(No::missing(format!("an image can't be told to {verb}"))),
    }
    Ok(Json(image_view(&find_image(&served.engine, id.as_str()).await?)))
}

pub(super) async fn gc(State(served): State<Served>) -> Result<Json<GcView>, No> {
    let done = served.engine.collect().await?;
    Ok(Json(GcView { deprecated: done.deprecated, disks: done.disks, blobs: done.blobs, freed: done.freed }))
}

pub(super) async fn verify(State(served): State<Served>) -> Result<Json<VerifyView>, No> {
    let report = served.engine.verify().await?;
    let problems = report.problems.into_iter().map(|problem| format!("{}; {}", problem.what, problem.help)).collect();
    let checked = usize::try_from(report.builds + report.blobs).unwrap_or(usize::MAX);
    Ok(Json(VerifyView { checked, problems }))
}
