//! From nothing to a session that may run commands: banner, host key, login.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ssh2::{MethodType, Session};
use tokio::time::Instant;

use super::{Socket, SshTarget, Verdict};
use crate::engine::ports::{PortError, PortErrorKind, Wait};

/// How long one call of libssh2 may block once the session is up. Cancelling takes at most this long.
const TICK: Duration = Duration::from_millis(100);
/// How long a TCP connection or a banner is waited for at least before a new connection is tried. QEMU's user-mode network
/// accepts connections before the guest does, and one accepted too early may never be answered.
const BANNER: Duration = Duration::from_secs(3);
/// What part of the time that the guest had already is waited for a banner: one that is starved of processors needs longer
/// for its hello than one that is quick, and would be asked by one connection after the other without ever answering.
const PATIENCE: u32 = 10;
/// How long key exchange and login may take: an emulated processor needs seconds for what others do in milliseconds.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// How often, in seconds, a guest may be told that somebody is there.
const ALIVE: u32 = 4;
/// How long is waited between two attempts to hear anything.
const PAUSE: Duration = Duration::from_millis(150);
/// How long is waited after an attempt that sshd noticed: since 9.8 it shuts out who fails to log in too often.
const LOGIN_PAUSE: Duration = Duration::from_secs(2);
/// Host key algorithms, best first: the key that is given to guests is an ed25519 one.
const HOST_KEYS: &str = "ssh-ed25519,ecdsa-sha2-nistp256,rsa-sha2-512,rsa-sha2-256";

/// What helps where a guest is not heard of in time.
const NO_ANSWER: &str = "the console's log shows how far the guest came; a slow guest needs a longer `boot.timeout`";
/// What helps where it is there and lets nobody in.
const NO_USER: &str = "the guest answers, but takes no key for this user: `boot.user` must be one that the image has, or that cloud-init makes";

/// Why one attempt did not end in a session.
enum Trouble {
    /// It may work in a moment.
    NotYet(String),
    /// It may work, and sshd must not be asked too often; with what helps if it never does.
    NoLogin(String, &'static str),
    /// It will not.
    Final(PortError),
}

/// A session and the host key that was trusted for it.
pub(super) struct Connected {
    pub(super) session: Session,
    pub(super) host_key: String,
}

/// Tries until it works or the wait ends.
pub(super) fn connect(target: &SshTarget, socket: &Socket, wait: &Wait) -> Result<Connected, PortError> {
    repeat(wait, |patience| attempt(target, socket, patience))
}

/// Waits for a banner.
pub(super) fn greets(address: SocketAddr, wait: &Wait) -> Result<(), PortError> {
    let not_yet = |error: std::io::Error| Trouble::NotYet(error.to_string());
    repeat(wait, |patience| banner(address, &Socket::default(), patience).map(drop).map_err(not_yet))
}

fn repeat<T>(wait: &Wait, mut attempt: impl FnMut(Duration) -> Result<T, Trouble>) -> Result<T, PortError> {
    let began = Instant::now();
    loop {
        let left = wait.deadline.saturating_duration_since(Instant::now());
        let patience = BANNER.max(began.elapsed() / PATIENCE).min(left.max(BANNER));
        let (why, help, pause) = match attempt(patience) {
            Ok(value) => return Ok(value),
            Err(Trouble::Final(error)) => return Err(error),
            Err(Trouble::NotYet(why)) => (why, NO_ANSWER, PAUSE),
            Err(Trouble::NoLogin(why, help)) => (why, help, LOGIN_PAUSE),
        };
        std::thread::sleep(pause.min(wait.deadline.saturating_duration_since(Instant::now())));
        if let Some(kind) = ended(wait) {
            return Err(PortError::new(kind, format!("SSH did not answer in time: {why}")).help(help));
        }
    }
}

/// Whether a wait has ended, and how.
pub(super) fn ended(wait: &Wait) -> Option<PortErrorKind> {
    if wait.cancel.is_cancelled() {
        return Some(PortErrorKind::Cancelled);
    }
    (Instant::now() >= wait.deadline).then_some(PortErrorKind::TimedOut)
}

fn attempt(target: &SshTarget, socket: &Socket, patience: Duration) -> Result<Connected, Trouble> {
    let heard = banner(target.address, socket, patience);
    let stream = heard.map_err(|error| Trouble::NotYet(format!("no SSH banner: {error}")))?;
    let mut session = Session::new().map_err(|error| Trouble::Final(PortError::unavailable(error.to_string())))?;
    session.set_timeout(millis(HANDSHAKE));
    session.set_tcp_stream(stream);
    let not_yet = |what: &str, error: &ssh2::Error| Trouble::NotYet(format!("{what}: {}", error.message()));
    session.method_pref(MethodType::HostKey, HOST_KEYS).map_err(|error| not_yet("host key algorithms", &error))?;
    session.handshake().map_err(|error| not_yet("key exchange failed", &error))?;
    let host_key = shown_key(&session).ok_or_else(|| Trouble::NotYet("no host key was shown".to_owned()))?;
    match target.trust.judge(&host_key) {
        Verdict::Trusted => {}
        Verdict::Unknown(why) => return Err(Trouble::NoLogin(why, NO_ANSWER)),
        Verdict::Refused(why) => {
            return Err(Trouble::Final(PortError::refused(why).help(
                "something else answers at the guest's address, or the image brings a host key of its own: remove it from the image",
            )));
        }
    }
    session
        .userauth_pubkey_memory(&target.user, None, &target.key, None)
        .map_err(|error| Trouble::NoLogin(format!("login as {} failed: {}", target.user, error.message()), NO_USER))?;
    session.set_timeout(millis(TICK));
    session.set_keepalive(false, ALIVE);
    Ok(Connected { session, host_key })
}

/// Connects and looks at the first bytes without taking them.
fn banner(address: SocketAddr, socket: &Socket, patience: Duration) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, patience)?;
    socket.hold(&stream)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(patience))?;
    let (mut head, give_up) = ([0; 4], Instant::now() + patience);
    loop {
        match stream.peek(&mut head)? {
            4.. => break,
            0 => return Err(std::io::Error::new(ErrorKind::UnexpectedEof, "the connection was closed")),
            // The rest is under way, or will never come.
            _ if Instant::now() > give_up => return Err(ErrorKind::TimedOut.into()),
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    if &head != b"SSH-" {
        let mut text = vec![0; 64];
        let read = (&stream).read(&mut text)?;
        let text = String::from_utf8_lossy(&text[..read]).escape_debug().to_string();
        return Err(std::io::Error::other(format!("what answers is not SSH: {text}")));
    }
    stream.set_read_timeout(None)?;
    Ok(stream)
}

fn shown_key(session: &Session) -> Option<String> {
    let (blob, _) = session.host_key()?;
    let length = u32::from_be_bytes(blob.get(..4)?.try_into().ok()?);
    let kind = blob.get(4..4 + usize::try_from(length).ok()?)?;
    Some(format!("{} {}", std::str::from_utf8(kind).ok()?, STANDARD.encode(blob)))
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
