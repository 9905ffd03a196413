//! The thread of a session: does one piece of work after the other, and connects again when the connection was lost.

use std::sync::mpsc;
use std::time::Duration;

use ssh2::Session;
use tokio::sync::oneshot;

use super::connect::{Connected, connect};
use super::exec::{self, Fault};
use super::shell::Wrapped;
use super::upload::Upload;
use super::{Socket, SshTarget};
use crate::engine::ports::{Exit, LineSink, Lines, PortError, PortErrorKind, Wait};
use crate::machine::lines::Nowhere;

/// How long a lost connection is tried to be had again, at the start of the next piece of work: a reboot takes that long.
const AGAIN: Duration = Duration::from_secs(300);
/// How long a session may be idle before it says something. An sshd that was told to look for dead clients would
/// end it otherwise while a long host step runs, and its login may not work a second time.
const IDLE: Duration = Duration::from_secs(15);

/// One piece of work.
pub(super) enum Work {
    /// A command.
    Run { run: Wrapped, lines: Lines },
    /// Files to copy.
    Upload { upload: Upload, lines: Lines },
}

/// A piece of work, how long it may take and where its result goes.
pub(super) struct Request {
    pub(super) work: Work,
    pub(super) wait: Wait,
    pub(super) reply: oneshot::Sender<Result<Exit, PortError>>,
}

/// Connects, says so, and works until nobody asks any more.
pub(super) fn serve(
    target: &SshTarget,
    socket: &Socket,
    wait: &Wait,
    ready: oneshot::Sender<Result<String, PortError>>,
    requests: &mpsc::Receiver<Request>,
) {
    let mut session = match first(target, socket, wait) {
        Ok(connected) => {
            // Nobody there: the caller has gone, and with it the sender of requests.
            let _told = ready.send(Ok(connected.host_key));
            Some(connected.session)
        }
        Err(error) => {
            let _told = ready.send(Err(error));
            return;
        }
    };
    loop {
        match requests.recv_timeout(IDLE) {
            Ok(request) => {
                let result = work(&mut session, target, socket, &request);
                let is_late = result.as_ref().is_err_and(|error| error.kind == PortErrorKind::TimedOut);
                let _told = request.reply.send(result);
                // A guest that went down without a word answers nothing: the next work needs a session of its own.
                session = session.filter(|session| !is_late || answers(session));
            }
            Err(mpsc::RecvTimeoutError::Timeout) => session = session.filter(answers),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    socket.shut();
}

/// A session in which a command has run. A boot that still goes on may refuse users (`pam_nologin`) or end sessions.
fn first(target: &SshTarget, socket: &Socket, wait: &Wait) -> Result<Connected, PortError> {
    loop {
        let connected = connect(target, socket, wait)?;
        let probe = Wrapped::script("exit 0", &[])?;
        let why = match exec::run(&connected.session, &probe, None, &Nowhere, wait) {
            Ok(exit) if exit.is_success() => return Ok(connected),
            Ok(exit) => exit.to_string(),
            Err(fault) => format!("{fault:?}"),
        };
        std::thread::sleep(Duration::from_secs(1));
        if let Some(kind) = super::connect::ended(wait) {
            return Err(PortError::new(kind, format!("SSH logs in, but runs no command: {why}")));
        }
    }
}

fn work(
    session: &mut Option<Session>,
    target: &SshTarget,
    socket: &Socket,
    request: &Request,
) -> Result<Exit, PortError> {
    let mut tried_again = false;
    loop {
        if session.is_none() {
            *session = Some(connect(target, socket, &request.wait.within(AGAIN))?.session);
        }
        let Some(open) = session.as_ref() else { continue };
        match act(open, &request.work, &request.wait) {
            Ok(exit) => return Ok(exit),
            Err(Fault::NotStarted(why)) if !tried_again => {
                tracing::debug!(why, "the SSH session was lost while idle; connecting again");
                tried_again = true;
                *session = None;
            }
            Err(fault) => {
                if matches!(fault, Fault::NotStarted(_) | Fault::Lost(_)) {
                    *session = None;
                }
                return Err(told(fault, &request.work));
            }
        }
    }
}

fn act(session: &Session, work: &Work, wait: &Wait) -> Result<Exit, Fault> {
    let sink: &dyn LineSink = match work {
        Work::Run { lines, .. } | Work::Upload { lines, .. } => &**lines,
    };
    match work {
        Work::Run { run, .. } => exec::run(session, run, None, sink, wait),
        Work::Upload { upload, .. } => {
            let command = upload.command().map_err(Fault::Here)?;
            exec::run(session, &command, Some(upload), sink, wait)
        }
    }
}

fn told(fault: Fault, work: &Work) -> PortError {
    let what = match work {
        Work::Run { run, .. } => format!("`{}`", run.summary),
        Work::Upload { .. } => "the copying of files".to_owned(),
    };
    match fault {
        Fault::NotStarted(why) => PortError::unavailable(format!("{what} can't be started in the guest: {why}")),
        Fault::Lost(why) => {
            PortError::new(PortErrorKind::Lost, format!("the connection to the guest was lost during {what}: {why}"))
                .help("the guest powered off, rebooted or ended its sshd: its console's log shows which")
        }
        Fault::Ended(PortErrorKind::Cancelled) => PortError::cancelled(&what),
        Fault::Ended(_) => PortError::timed_out(&what),
        Fault::Here(error) => error,
    }
}

/// Opens a channel and closes it again: the guest sees that somebody is there, and answers that it is.
fn answers(session: &Session) -> bool {
    let wait = Wait {
        cancel: tokio_util::sync::CancellationToken::new(),
        deadline: tokio::time::Instant::now() + Duration::from_secs(10),
    };
    exec::answers(session, &wait)
}
