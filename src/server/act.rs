//! Requests that change something.

use std::time::Duration;

use axum::Json;
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::answer::{No, repository};
use super::files::{Pieces, pipe};
use super::look::{build_view, find_image, image_view};
use super::wire::{BuildOrder, BuildView, GcView, ImageView, OrphansView, RetryOrder, VerifyProgress, VerifyView};
use super::{Caller, Served};
use crate::domain::id::BuildNo;
use crate::domain::pipeline::Stage;
use crate::engine::memory::Report;
use crate::engine::verify::Looked;
use crate::engine::{BuildRequest, Engine};

/// How often it is said how far a verification has come.
const TELL_EVERY: Duration = Duration::from_millis(200);

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
        "deprecate" => served.engine.deprecate(&id).await?,
        _ => return Err(No::missing(format!("an image can't be told to {verb}"))),
    }
    Ok(Json(image_view(&served.engine, &find_image(&served.engine, id.as_str()).await?).await?))
}

pub(super) async fn gc(State(served): State<Served>) -> Result<Json<GcView>, No> {
    let done = served.engine.collect().await?;
    Ok(Json(GcView { deprecated: done.deprecated, disks: done.disks, blobs: done.blobs, freed: done.freed }))
}

pub(super) async fn orphans(State(served): State<Served>) -> Result<Json<OrphansView>, No> {
    Ok(Json(served.engine.orphans(false).await?.into()))
}

pub(super) async fn remove_orphans(State(served): State<Served>) -> Result<Json<OrphansView>, No> {
    Ok(Json(served.engine.orphans(true).await?.into()))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VerifyQuery {
    /// Whether to say how far it has come, one JSON object a line; the last line is the answer.
    #[serde(default)]
    progress: bool,
}

pub(super) async fn verify(State(served): State<Served>, Query(query): Query<VerifyQuery>) -> Result<Response, No> {
    let engine = served.engine;
    if !query.progress {
        let report = engine.verify(&watch::Sender::default()).await?;
        return Ok(Json(verified(report)).into_response());
    }
    let (pieces, body) = pipe();
    tokio::spawn(async move { tell_verify(&engine, &pieces).await });
    Ok(Response::new(body))
}

fn verified(report: Report) -> VerifyView {
    let problems = report.problems.into_iter().map(|problem| format!("{}; {}", problem.what, problem.help)).collect();
    let checked = usize::try_from(report.builds + report.blobs + report.disks).unwrap_or(usize::MAX);
    VerifyView { checked, problems }
}

/// Verifies until the reader goes away.
async fn tell_verify(engine: &Engine, pieces: &Pieces) {
    let (progress, looked) = watch::channel(Looked::default());
    let mut often = tokio::time::interval(TELL_EVERY);
    let mut verifying = std::pin::pin!(engine.verify(&progress));
    let piece = loop {
        tokio::select! {
            report = &mut verifying => break match report {
                Ok(report) => Ok(line(&verified(report))),
                // Anybody sees that the stream broke off.
                Err(error) => Err(std::io::Error::other(error.to_string())),
            },
            () = pieces.closed() => return,
            _ = often.tick() => {
                let Looked { bytes, of } = *looked.borrow();
                // Who reads slowly misses some of them.
                drop(pieces.try_send(Ok(line(&VerifyProgress { bytes, of }))));
            }
        }
    };
    drop(pieces.send(piece).await);
}

fn line(value: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}
