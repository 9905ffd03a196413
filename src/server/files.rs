//! Answers that are streams: logs, artifacts, images.

use std::io::Read as _;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use futures_util::stream;
use serde::Deserialize;
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;

use super::Served;
use super::answer::No;
use super::look::{find_image, known_build, line_view, view};
use super::wire::LogEnd;
use crate::blocking;
use crate::domain::build::BuildState;
use crate::domain::id::{BuildNo, Digest};
use crate::domain::path::RepoPath;
use crate::domain::pipeline::Stage;
use crate::engine::Engine;
use crate::engine::memory::{LogLine, StoreError};

/// Pieces that wait for a slow reader, of up to [`PIECE`] bytes each.
const PIECES: usize = 8;
/// Bytes of one piece.
const PIECE: usize = 64 << 10;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogQuery {
    #[serde(default)]
    follow: bool,
    stage: Option<String>,
    from: Option<u64>,
}

pub(super) type Pieces = mpsc::Sender<Result<Vec<u8>, std::io::Error>>;

/// One JSON object a line; a log that is followed ends with `{"end": BUILD}`.
pub(super) async fn log(
    State(served): State<Served>,
    Path(number): Path<u64>,
    Query(query): Query<LogQuery>,
) -> Result<Response, No> {
    let engine = served.engine;
    let number = BuildNo(number);
    known_build(&engine, number).await?;
    let stage = match query.stage.as_deref() {
        Some(word) => Some(Stage::from_word(word).ok_or_else(|| No::usage(format!("there is no stage `{word}`")))?),
        None => None,
    };
    let from = query.from.unwrap_or(1);
    let (pieces, body) = pipe();
    tokio::spawn(async move {
        let result = if query.follow {
            follow(&engine, number, from, stage, &pieces).await
        } else {
            page_through(&engine, number, from, stage, &pieces).await
        };
        if let Err(error) = result {
            // A reader that went away is told nothing, and anybody else that the stream broke off.
            drop(pieces.send(Err(std::io::Error::other(error.to_string()))).await);
        }
    });
    Ok(Response::new(body))
}

/// A body that is written piece by piece.
pub(super) fn pipe() -> (Pieces, Body) {
    let (sender, receiver) = mpsc::channel(PIECES);
    let stream = stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) });
    (sender, Body::from_stream(stream))
}

async fn page_through(
    engine: &Engine,
    number: BuildNo,
    from: u64,
    stage: Option<Stage>,
    pieces: &Pieces,
) -> Result<(), StoreError> {
    let mut pages = engine.store().log_pages(number, from, stage);
    while let Some(lines) = pages.next().await? {
        if pieces.send(Ok(encode(lines))).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

async fn follow(
    engine: &Engine,
    number: BuildNo,
    from: u64,
    stage: Option<Stage>,
    pieces: &Pieces,
) -> Result<(), StoreError> {
    let mut changes = engine.changes();
    let mut follower = engine.store().follow_log(number, from, stage).await?;
    while let Some(lines) = follower.next().await? {
        if pieces.send(Ok(encode(lines))).await.is_err() {
            return Ok(());
        }
    }
    // The log ends a moment before the journal says how the build did.
    let record = loop {
        changes.mark_unchanged();
        match engine.store().build(number).await? {
            Some(record) if record.build.state == BuildState::Finished => break record,
            Some(_) => drop(changes.changed().await),
            None => return Ok(()),
        }
    };
    let mut end = serde_json::to_vec(&LogEnd { end: view(engine, &record) }).unwrap_or_default();
    end.push(b'\n');
    drop(pieces.send(Ok(end)).await);
    Ok(())
}

fn encode(lines: Vec<LogLine>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in lines {
        if let Ok(json) = serde_json::to_vec(&line_view(line)) {
            bytes.extend(json);
            bytes.push(b'\n');
        }
    }
    bytes
}

/// The bytes of an artifact. Should they not sum to what was archived, the stream breaks off before its end.
pub(super) async fn artifact(
    State(served): State<Served>,
    Path((number, path)): Path<(u64, String)>,
) -> Result<Response, No> {
    let engine = served.engine;
    let number = BuildNo(number);
    known_build(&engine, number).await?;
    let wanted = RepoPath::new(&path).unwrap_or_default();
    let found = engine.store().artifacts(number).await?.into_iter().find(|artifact| artifact.path == wanted);
    let artifact = found.ok_or_else(|| No::missing(format!("{number} has no artifact {path}")))?;
    let mut reader = engine.store().blobs().open_verified(artifact.sha256)?;
    let (pieces, body) = pipe();
    tokio::spawn(blocking::run(move || {
        loop {
            let mut piece = vec![0; PIECE];
            let read = reader.read(&mut piece);
            let end = !matches!(read, Ok(count) if count > 0);
            let sent = match read {
                Ok(0) => return,
                Ok(count) => {
                    piece.truncate(count);
                    pieces.blocking_send(Ok(piece))
                }
                Err(error) => pieces.blocking_send(Err(error)),
            };
            if end || sent.is_err() {
                return;
            }
        }
    }));
    Ok(with_size(body, artifact.size))
}

fn with_size(body: Body, size: u64) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert("x-content-size", size.into());
    response
}

/// The bytes of an image. Should they not sum to what was published, the stream breaks off before its end.
pub(super) async fn export(State(served): State<Served>, Path(image): Path<String>) -> Result<Response, No> {
    let engine = served.engine;
    let image = find_image(&engine, &image).await?.image;
    let copy = image.copies.iter().find_map(|copy| Some((engine.driver_named(&copy.driver)?, copy)));
    let (driver, copy) = copy.ok_or_else(|| No::conflict(format!("no driver here has a copy of {}", image.name)))?;
    let mut reader = driver.read(&copy.disk).await?;
    let (pieces, body) = pipe();
    tokio::spawn(async move {
        let mut sum = Sum::default();
        // The last piece waits for the verdict: what does not verify is never whole.
        let mut held: Option<Vec<u8>> = None;
        loop {
            let mut piece = vec![0; PIECE];
            match reader.read(&mut piece).await {
                Ok(0) => break,
                Ok(count) => {
                    piece.truncate(count);
                    sum.add(&piece);
                    if let Some(before) = held.replace(piece)
                        && pieces.send(Ok(before)).await.is_err()
                    {
                        return;
                    }
                }
                Err(error) => return drop(pieces.send(Err(error)).await),
            }
        }
        let last = match (sum.end() == image.sha256, held) {
            (true, Some(last)) => Ok(last),
            (true, None) => return,
            (false, _) => Err(std::io::Error::other("the image's file does not have the sum that was published")),
        };
        drop(pieces.send(last).await);
    });
    Ok(with_size(body, image.size))
}

#[derive(Default)]
struct Sum(sha2::Sha256);

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        use sha2::Digest as _;
        self.0.update(bytes);
    }

    fn end(self) -> Digest {
        use sha2::Digest as _;
        Digest(self.0.finalize().into())
    }
}
