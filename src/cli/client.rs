//! The daemon's API over its Unix socket: one request, one answer, or a stream of lines.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::Failure;
use crate::server::wire::Refusal;

/// How long the daemon may take to accept a connection before it counts as away.
const CONNECT: Duration = Duration::from_secs(5);

/// The daemon.
#[derive(Clone, Debug)]
pub(super) struct Client {
    socket: PathBuf,
}

impl Client {
    pub(super) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_path_buf() }
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.json(Method::GET, path, &()).await
    }

    pub(super) async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        self.json(Method::POST, path, body).await
    }

    pub(super) async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.json(Method::DELETE, path, &()).await
    }

    async fn json<T: DeserializeOwned>(&self, method: Method, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        let response = self.send(method, path, body).await?;
        let bytes = response.into_body().collect().await.map_err(|error| self.lost(&error))?.to_bytes();
        serde_json::from_slice(&bytes).map_err(|error| {
            Failure::failed(format!("the daemon's answer to {path} is not understood: {error}")).help(
                "the daemon and this program are of different versions: factoryd --version, and status of the daemon",
            )
        })
    }

    /// Gives every line of a streamed answer to a closure, as it comes.
    pub(super) async fn lines(
        &self,
        method: Method,
        path: &str,
        mut each: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut body = self.send(method, path, &()).await?.into_body();
        let mut partial = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.lost(&error))?;
            let Some(data) = frame.data_ref() else { continue };
            partial.extend_from_slice(data);
            while let Some(end) = partial.iter().position(|byte| *byte == b'\n') {
                each(&partial[..end])?;
                partial.drain(..=end);
            }
        }
        Ok(())
    }

    /// Writes a streamed answer, and tells after each piece how many bytes there were so far, of how many.
    pub(super) async fn download(
        &self,
        path: &str,
        into: &mut (impl AsyncWrite + Unpin),
        mut progress: impl FnMut(u64, Option<u64>),
    ) -> Result<u64, Failure> {
        let response = self.send(Method::GET, path, &()).await?;
        let expected = response
            .headers()
            .get("x-content-size")
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.parse::<u64>().ok());
        let mut body = response.into_body();
        let mut written = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.lost(&error))?;
            let Some(data) = frame.data_ref() else { continue };
            into.write_all(data).await.map_err(|error| Failure::failed(format!("can't write the output: {error}")))?;
            written += data.len() as u64;
            progress(written, expected);
        }
        into.flush().await.map_err(|error| Failure::failed(format!("can't write the output: {error}")))?;
        if expected.is_some_and(|expected| expected != written) {
            return Err(Failure::failed("the daemon broke off: what it sent did not verify or could not be read")
                .help("factoryd verify says what is wrong"));
        }
        Ok(written)
    }

    async fn send(&self, method: Method, path: &str, body: &impl Serialize) -> Result<Response<Incoming>, Failure> {
        let connecting = tokio::time::timeout(CONNECT, UnixStream::connect(&self.socket)).await;
        let stream = match connecting {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(self.away(&error)),
            Err(_) => return Err(self.away(&std::io::Error::from(std::io::ErrorKind::TimedOut))),
        };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.lost(&error))?;
        tokio::spawn(connection);
        let body = if method == Method::GET { Vec::new() } else { serde_json::to_vec(body).unwrap_or_default() };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "factoryd")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| Failure::usage(format!("{path} can't be asked for: {error}")))?;
        let response = sender.send_request(request).await.map_err(|error| self.lost(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let bytes = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        Err(refused(status, &bytes))
    }

    fn away(&self, error: &std::io::Error) -> Failure {
        let socket = self.socket.display();
        if error.kind() == std::io::ErrorKind::PermissionDenied {
            return Failure::denied(format!("{socket} may not be used by this user"))
                .help("join its group: adduser NAME factory, then log in again");
        }
        Failure::unreachable(format!("no daemon answers at {socket}: {error}")).help(
            "start it (systemctl start factoryd, or factoryd serve), or name its socket: --socket or FACTORYD_SOCKET",
        )
    }

    fn lost(&self, error: &hyper::Error) -> Failure {
        Failure::unreachable(format!("the daemon at {} broke off: {error}", self.socket.display()))
            .help("look at its log: journalctl -u factoryd")
    }
}

fn refused(status: StatusCode, body: &[u8]) -> Failure {
    let message = match serde_json::from_slice::<Refusal>(body) {
        Ok(refusal) => refusal.error.message,
        Err(_) => format!("the daemon answered {status}"),
    };
    match status {
        StatusCode::NOT_FOUND => Failure::missing(message),
        StatusCode::FORBIDDEN => Failure::denied(message),
        StatusCode::BAD_REQUEST => Failure::usage(message),
        _ => Failure::failed(message),
    }
}

/// A text as a part of a URL's query or path.
pub(super) fn escape(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}
