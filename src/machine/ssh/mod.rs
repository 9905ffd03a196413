//! A session with a guest: one thread and one SSH connection per machine.
//!
//! ```text
//!   async callers ──Request──► thread "ssh" ──libssh2──► sshd
//!        ▲  ▲                      │
//!        │  └───── lines ──────────┤   (straight into the caller's sink: its pace is the guest's pace)
//!        └──────── result ─────────┘
//! ```
//!
//! libssh2 blocks, so its thread is never inside a call for longer than a tick; between ticks it looks whether the
//! caller's wait has ended. Dropping the session shuts the socket, which frees a blocked read at once.

mod connect;
mod exec;
mod shell;
mod upload;
mod worker;

use std::fmt;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::oneshot;
use tokio_util::sync::DropGuard;

use crate::engine::ports::{Exit, Guest, Lines, PortError, Wait};
use worker::{Request, Work};

/// How long a connecting thread may take to notice that the wait has ended: it may wait for a banner.
const LATE: Duration = Duration::from_secs(4);
/// How long a working thread may take to end what it started in the guest.
const ENDING: Duration = Duration::from_secs(6);

/// What is known of a host key that a guest shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the guest's.
    Trusted,
    /// Nothing is known yet; it is asked again until the deadline. Says what is waited for.
    Unknown(String),
    /// It is another one. Says why.
    Refused(String),
}

/// Judges host keys, before anything is said to their owner.
pub trait Trust: Send + Sync {
    /// Judges a key, given as `ssh-ed25519 AAAA…`.
    fn judge(&self, seen: &str) -> Verdict;
}

/// Trusts one key.
#[derive(Clone, Debug)]
pub struct KnownKey(pub String);

impl Trust for KnownKey {
    fn judge(&self, seen: &str) -> Verdict {
        match self.0 == seen {
            true => Verdict::Trusted,
            false => Verdict::Refused(format!("the guest shows the host key {seen}, its own is {}", self.0)),
        }
    }
}

/// Where a guest answers, and how it is logged in to.
#[derive(Clone)]
pub struct SshTarget {
    /// A numeric address.
    pub address: SocketAddr,
    /// The user to log in as.
    pub user: String,
    /// The private key, in OpenSSH's format.
    pub key: String,
    /// Knows the guest's host key.
    pub trust: Arc<dyn Trust>,
    /// Whether commands are given a terminal.
    pub terminal: bool,
}

impl fmt::Debug for SshTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SshTarget({}@{})", self.user, self.address)
    }
}

/// Waits until something at an address says that it is an SSH server.
///
/// # Errors
/// When the wait ended first.
pub async fn greets(address: SocketAddr, wait: &Wait) -> Result<(), PortError> {
    let (theirs, _cancel_if_dropped) = child(wait);
    crate::blocking::run(move || connect::greets(address, &theirs)).await
}

/// What the thread answers; after the wait has ended, it has so much longer to say what it was about and to tidy up.
async fn answer<T>(
    told: oneshot::Receiver<Result<T, PortError>>,
    wait: &Wait,
    longer: Duration,
    what: &str,
) -> Result<T, PortError> {
    let over = async {
        let error = tokio::select! {
            () = wait.cancel.cancelled() => PortError::cancelled(what),
            () = tokio::time::sleep_until(wait.deadline) => PortError::timed_out(what),
        };
        tokio::time::sleep(longer).await;
        error
    };
    tokio::select! {
        biased;
        told = told => told.unwrap_or_else(|_| Err(PortError::unavailable("the SSH session is closed"))),
        error = over => Err(error),
    }
}

/// A wait for another thread, cancelled when the guard is dropped: with the future that it belongs to.
fn child(wait: &Wait) -> (Wait, DropGuard) {
    let cancel = wait.cancel.child_token();
    (Wait { cancel: cancel.clone(), deadline: wait.deadline }, cancel.drop_guard())
}

/// The socket of a session, so that another thread can shut it.
#[derive(Clone, Debug, Default)]
struct Socket(Arc<Mutex<Option<TcpStream>>>);

impl Socket {
    fn hold(&self, stream: &TcpStream) -> std::io::Result<()> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream.try_clone()?);
        Ok(())
    }

    fn shut(&self) {
        if let Some(stream) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // An error means that it is shut already.
            let _shut = stream.shutdown(Shutdown::Both);
        }
    }
}

/// An open session with a guest.
#[derive(Debug)]
pub struct SshSession {
    requests: mpsc::Sender<Request>,
    socket: Socket,
    host_key: String,
    terminal: bool,
}

impl SshSession {
    /// Waits until SSH answers, its host key is trusted, the login works and a first command has run.
    ///
    /// Nothing tells the host when a guest's sshd is up, so this tries again in short intervals until the deadline.
    ///
    /// # Errors
    /// When the wait ended first (the message says how far it came), or the host key is another one.
    pub async fn connect(target: SshTarget, wait: &Wait) -> Result<Self, PortError> {
        let (requests, received) = mpsc::channel();
        let (ready, told) = oneshot::channel();
        let socket = Socket::default();
        let (theirs, guard) = child(wait);
        let terminal = target.terminal;
        let socket_there = socket.clone();
        std::thread::Builder::new()
            .name("ssh".to_owned())
            .spawn(move || worker::serve(&target, &socket_there, &theirs, ready, &received))
            .map_err(|error| PortError::unavailable(format!("no thread for the SSH session: {error}")))?;
        let cut = CutOnDrop(socket.clone(), true);
        let host_key = answer(told, wait, LATE, "waiting for SSH").await?;
        cut.disarm();
        guard.disarm();
        Ok(Self { requests, socket, host_key, terminal })
    }

    /// The host key that was trusted: `ssh-ed25519 AAAA…`.
    pub fn host_key(&self) -> &str {
        &self.host_key
    }

    async fn ask(&self, work: Work, wait: &Wait) -> Result<Exit, PortError> {
        let (reply, told) = oneshot::channel();
        let (wait, guard) = child(wait);
        let request = Request { work, wait: wait.clone(), reply };
        self.requests.send(request).map_err(|_| PortError::unavailable("the SSH session is closed"))?;
        let result = answer(told, &wait, ENDING, "work in the guest").await;
        guard.disarm();
        result
    }
}

impl Drop for SshSession {
    fn drop(&mut self) {
        self.socket.shut();
    }
}

/// Shuts a socket unless disarmed: for a caller that goes away while the thread still connects.
struct CutOnDrop(Socket, bool);

impl CutOnDrop {
    fn disarm(mut self) {
        self.1 = false;
    }
}

impl Drop for CutOnDrop {
    fn drop(&mut self) {
        if self.1 {
            self.0.shut();
        }
    }
}

#[async_trait]
impl Guest for SshSession {
    async fn run(
        &self,
        command: &str,
        env: &[(String, String)],
        lines: &Lines,
        wait: &Wait,
    ) -> Result<Exit, PortError> {
        let run = shell::Wrapped { terminal: self.terminal, ..shell::Wrapped::command(command, env)? };
        self.ask(Work::Run { run, lines: lines.clone() }, wait).await
    }

    async fn upload(&self, from: &Path, to: &str, mode: Option<u32>, wait: &Wait) -> Result<(), PortError> {
        let upload = upload::Upload::new(from, to, mode)?;
        let last = Arc::new(super::lines::LastLines::new(5));
        let lines: Lines = last.clone();
        match self.ask(Work::Upload { upload, lines }, wait).await? {
            exit if exit.is_success() => Ok(()),
            exit => {
                Err(PortError::failed(format!("{} can't be copied to {to}: {exit}: {}", from.display(), last.text()))
                    .help("a user other than root needs `sudo` without a password, or a place that is its own"))
            }
        }
    }
}

#[cfg(test)]
mod tests;
