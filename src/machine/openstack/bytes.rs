//! Bytes on their way to and from the cloud, summed as they pass and never whole in memory.

use std::fs::File;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use async_trait::async_trait;
use futures_util::{Stream, StreamExt};
use reqwest::{Body, Response};
use sha2::{Digest as _, Sha256, Sha512};
use tokio::io::AsyncRead;
use tokio_util::io::{ReaderStream, StreamReader};

use super::client::{Client, Opens};
use super::error::{ApiError, Fate, Service};
use super::glance::GlanceImage;
use crate::domain::id::{Digest, DiskId};
use crate::engine::ports::Driver;

/// Bytes that are read from a file at once.
const PIECE: usize = 256 * 1024;

/// What passed.
#[derive(Clone, Debug, Default)]
pub(super) struct Passed {
    sha256: Sha256,
    sha512: Sha512,
    /// Bytes.
    pub(super) size: u64,
}

impl Passed {
    fn take(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        self.sha512.update(bytes);
        self.size += bytes.len() as u64;
    }

    /// The sum that an image of ours is known by.
    pub(super) fn sha256(&self) -> Digest {
        Digest(self.sha256.clone().finalize().into())
    }

    /// Whether these are the bytes that Glance says it has. What it sums in another way is only compared by its size.
    pub(super) fn agrees(&self, image: &GlanceImage) -> Result<(), String> {
        if image.size != Some(self.size) {
            return Err(format!("it has {} bytes there, and {} passed", image.size.unwrap_or(0), self.size));
        }
        let hex = |sum: &[u8]| sum.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let own = match image.hash.as_ref() {
            Some((kind, theirs)) if kind == "sha512" => Some((hex(&self.sha512.clone().finalize()), theirs)),
            Some((kind, theirs)) if kind == "sha256" => Some((self.sha256().hex(), theirs)),
            _ => None,
        };
        match own {
            Some((own, theirs)) if own != *theirs => Err(format!("its bytes sum to {theirs} there, and {own} passed")),
            _ => Ok(()),
        }
    }
}

/// Sums of what passes, to be looked at when all has.
pub(super) type Passing = Arc<Mutex<Passed>>;

pub(super) fn passed(passing: &Passing) -> Passed {
    passing.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn note(passing: &Passing, bytes: &[u8]) {
    passing.lock().unwrap_or_else(PoisonError::into_inner).take(bytes);
}

fn begin(passing: &Passing) {
    *passing.lock().unwrap_or_else(PoisonError::into_inner) = Passed::default();
}

/// The bytes of a file, for an upload.
#[derive(Debug)]
pub(super) struct OfFile {
    pub(super) path: PathBuf,
    pub(super) passing: Passing,
}

#[async_trait]
impl Opens for OfFile {
    async fn open(&self) -> Result<Body, ApiError> {
        begin(&self.passing);
        let file = File::open(&self.path).map_err(|error| {
            let why = format!("{} can't be opened: {error}", self.path.display());
            ApiError::silent(Service::Image, "the upload", Fate::Impossible, why)
        })?;
        let passing = self.passing.clone();
        let stream = ReaderStream::with_capacity(tokio::fs::File::from_std(file), PIECE);
        Ok(Body::wrap_stream(stream.inspect(move |piece| {
            if let Ok(piece) = piece {
                note(&passing, piece);
            }
        })))
    }
}

/// The bytes of another image, for an upload.
pub(super) struct OfImage<'c> {
    pub(super) client: &'c Client,
    pub(super) image: &'c str,
    pub(super) passing: Passing,
}

#[async_trait]
impl Opens for OfImage<'_> {
    async fn open(&self) -> Result<Body, ApiError> {
        begin(&self.passing);
        let response = self.client.image_bytes(self.image, None).await?;
        let passing = self.passing.clone();
        Ok(Body::wrap_stream(response.bytes_stream().inspect(move |piece| {
            if let Ok(piece) = piece {
                note(&passing, piece);
            }
        })))
    }
}

/// The bytes of another driver's disk, for an upload.
pub(super) struct OfDriver<'d> {
    pub(super) driver: &'d dyn Driver,
    pub(super) disk: &'d DiskId,
    pub(super) passing: Passing,
}

#[async_trait]
impl Opens for OfDriver<'_> {
    async fn open(&self) -> Result<Body, ApiError> {
        begin(&self.passing);
        let reader = self
            .driver
            .read(self.disk)
            .await
            .map_err(|error| ApiError::silent(Service::Image, "the upload", Fate::Impossible, error.to_string()))?;
        let passing = self.passing.clone();
        Ok(Body::wrap_stream(ReaderStream::with_capacity(reader, PIECE).inspect(move |piece| {
            if let Ok(piece) = piece {
                note(&passing, piece);
            }
        })))
    }
}

/// Reads an image to its end, and sums it.
pub(super) async fn sum(client: &Client, image: &str) -> Result<Passed, ApiError> {
    let mut response = client.image_bytes(image, None).await?;
    let mut passed = Passed::default();
    let broken = |error: reqwest::Error| ApiError::transport(Service::Image, "GET /images/…/file", &error);
    while let Some(piece) = response.chunk().await.map_err(broken)? {
        // Hashing a piece of a response takes well under a millisecond.
        passed.take(&piece);
    }
    Ok(passed)
}

/// The bytes of a response, to be read.
pub(super) struct Reader(Pin<Box<dyn AsyncRead + Send>>);

impl Reader {
    pub(super) fn new(response: Response) -> Self {
        let stream: Pin<Box<dyn Stream<Item = _> + Send>> =
            Box::pin(response.bytes_stream().map(|piece| piece.map_err(std::io::Error::other)));
        Self(Box::pin(StreamReader::new(stream)))
    }
}

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        self.0.as_mut().poll_read(context, buffer)
    }
}
