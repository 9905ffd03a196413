//! The API: HTTP and JSON over a Unix socket, the same for the command line, scripts and whatever comes.
//!
//! `curl --unix-socket /run/factoryd/factoryd.sock http://factoryd/v1/status` works. Who may open the socket may use all
//! of it; the user at its other end is recorded with what they ask for.

mod act;
mod answer;
mod files;
mod hint;
mod lists;
mod look;
mod status;
pub mod wire;

use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::domain::id::RepoName;
use crate::engine::Engine;

/// What the answers are made from.
#[derive(Clone, Debug)]
pub struct Served {
    /// The engine.
    pub engine: Engine,
    /// What of the daemon is not the engine's to know.
    pub surroundings: Arc<dyn Surroundings>,
}

/// What `status` says of the daemon's surroundings: repositories and what watches them.
pub trait Surroundings: Send + Sync + std::fmt::Debug {
    /// Where a repository lies.
    fn path(&self, repository: &RepoName) -> PathBuf;

    /// What is wrong with a repository: its last fetch, its watch.
    fn problem(&self, repository: &RepoName) -> Option<String>;
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    name: String,
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        let name = match stream.io().peer_cred() {
            Ok(credentials) => user_name(credentials.uid()),
            Err(_) => "unknown".to_owned(),
        };
        Self { name }
    }
}

/// The name of a user, as /etc/passwd has it; else the number.
fn user_name(uid: u32) -> String {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let wanted = uid.to_string();
    let found = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == wanted).then(|| name.to_owned())
    });
    found.unwrap_or_else(|| format!("uid {uid}"))
}

type Caller = ConnectInfo<Peer>;

/// More than this is no request of ours.
const MOST_BODY: usize = 1 << 20;

/// All routes.
pub fn router(served: Served) -> Router {
    Router::new()
        .route("/v1/alive", get(async || ()))
        .route("/v1/status", get(status::status))
        .route("/v1/plan", get(look::plan))
        .route("/v1/builds", get(look::builds).post(act::build))
        .route("/v1/builds/{number}", get(look::show))
        .route("/v1/builds/{number}/why", get(look::why))
        .route("/v1/builds/{number}/log", get(files::log))
        .route("/v1/builds/{number}/cancel", post(act::cancel))
        .route("/v1/builds/{number}/retry", post(act::retry))
        .route("/v1/builds/{number}/artifacts", get(look::artifacts))
        .route("/v1/builds/{number}/artifacts/{*path}", get(files::artifact))
        .route("/v1/images", get(look::images))
        .route("/v1/images/{image}", get(look::image))
        .route("/v1/images/{image}/export", get(files::export))
        .route("/v1/images/{image}/{verb}", post(act::image))
        .route("/v1/deliveries", get(look::deliveries))
        .route("/v1/hint", post(hint::hint))
        .route("/v1/gc", post(act::gc))
        .route("/v1/orphans", get(act::orphans).delete(act::remove_orphans))
        .route("/v1/verify", post(act::verify))
        .fallback(answer::unknown)
        .layer(DefaultBodyLimit::max(MOST_BODY))
        .layer(axum::middleware::map_response(answer::in_one_shape))
        .layer(axum::middleware::from_fn(note))
        .with_state(served)
}

/// Whether a request at the socket gets an answer.
///
/// # Errors
/// When nobody accepts it, or what comes back is no answer of ours.
pub async fn answers(path: &Path) -> io::Result<()> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::UnixStream::connect(path).await?;
    stream.write_all(b"GET /v1/alive HTTP/1.1\r\nhost: factoryd\r\nconnection: close\r\n\r\n").await?;
    let mut beginning = [0; 12];
    stream.read_exact(&mut beginning).await?;
    if &beginning == b"HTTP/1.1 200" { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Logs who asked for something to be done, and how that was answered. Who only looks is not written down.
async fn note(ConnectInfo(peer): Caller, request: Request, next: Next) -> Response {
    if request.method() == Method::GET {
        return next.run(request).await;
    }
    let asked = format!("{} {}", request.method(), request.uri().path());
    let answer = next.run(request).await;
    info!(by = peer.name, request = asked, status = answer.status().as_u16(), "asked");
    answer
}

/// Makes the socket: mode 0660, and of the group `factory` where that exists and we may give it. One that a dead daemon
/// left is replaced; one that answers, and what is no socket, is not.
///
/// # Errors
/// When a daemon or something else is there, or the socket can't be made.
pub fn listen(path: &Path, group: Option<u32>) -> io::Result<UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another daemon answers there"));
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path)?,
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something is there and is no socket")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    if let Some(group) = group {
        std::os::unix::fs::chown(path, None, Some(group))?;
    }
    Ok(listener)
}

/// Answers until `stop` is cancelled; open requests are then cut.
///
/// # Errors
/// When the listener fails.
pub async fn run(listener: UnixListener, served: Served, stop: CancellationToken) -> io::Result<()> {
    let service = router(served).into_make_service_with_connect_info::<Peer>();
    tokio::select! {
        result = axum::serve(listener, service) => result,
        () = stop.cancelled() => Ok(()),
    }
}
