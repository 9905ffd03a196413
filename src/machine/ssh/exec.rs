//! One command on one channel: what goes in, what comes out, how it ended.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use ssh2::{Channel, ErrorCode, ExtendedData, PtyModeOpcode, PtyModes, Session};

use super::connect::ended;
use super::shell::{END_SESSION, Wrapped};
use crate::engine::ports::{Exit, LineSink, PortError, PortErrorKind, Wait};
use crate::machine::lines::{LineSplitter, Nowhere};

/// libssh2's code for a call that took longer than a tick.
const TICKED: i32 = -9;
/// libssh2's code for a call that would block.
const AGAIN: i32 = -37;
/// How long ending a command's processes may take.
const ENDING: Duration = Duration::from_secs(5);

/// How often a guest whose command says nothing is told that somebody is there.
const ALIVE: Duration = Duration::from_secs(5);

/// Why a command has no exit code.
#[derive(Debug)]
pub(super) enum Fault {
    /// The connection is of no more use; nothing was started on this channel.
    NotStarted(String),
    /// The connection was lost while the command ran.
    Lost(String),
    /// The wait ended; what was started has been ended too.
    Ended(PortErrorKind),
    /// Something on this side.
    Here(PortError),
}

/// What is written to a command's standard input.
pub(super) trait Feed {
    /// Writes everything. Errors of the writer itself come back as they are.
    fn write_to(&self, input: &mut dyn Write) -> std::io::Result<()>;
}

/// Runs a framed command to its end.
pub(super) fn run(
    session: &Session,
    command: &Wrapped,
    feed: Option<&dyn Feed>,
    lines: &dyn LineSink,
    wait: &Wait,
) -> Result<Exit, Fault> {
    let mut channel = open(session, command, wait)?;
    let mut output = Output { command, lines, splitter: LineSplitter::default(), head: Some(Vec::new()), leader: None };
    let ran = feed
        .map_or(Ok(()), |feed| write(session, &mut channel, feed, &mut output, wait))
        .and_then(|()| read(session, &mut channel, &mut output, wait))
        .and_then(|()| exit(session, &mut channel, &output, wait));
    output.splitter.finish(lines);
    if matches!(ran, Err(Fault::Ended(_) | Fault::Here(_))) {
        find_leader(&mut channel, &mut output);
        if let Some(leader) = output.leader.clone() {
            end_session(session, &leader);
        }
    }
    ran
}

fn open(session: &Session, command: &Wrapped, wait: &Wait) -> Result<Channel, Fault> {
    let mut channel = patiently(wait, || session.channel_session()).map_err(not_started)?;
    channel.handle_extended_data(ExtendedData::Merge).map_err(|error| Fault::NotStarted(error.message().to_owned()))?;
    if command.terminal {
        patiently(wait, || channel.request_pty("xterm", Some(plain_terminal()), None)).map_err(not_started)?;
    }
    patiently(wait, || channel.exec(&command.text)).map_err(not_started)?;
    Ok(channel)
}

/// A terminal that repeats nothing and leaves the ends of lines as they are.
fn plain_terminal() -> PtyModes {
    let mut modes = PtyModes::new();
    modes.set_boolean(PtyModeOpcode::ECHO, false);
    modes.set_boolean(PtyModeOpcode::ONLCR, false);
    modes
}

/// Whether a channel can be opened and closed.
pub(super) fn answers(session: &Session, wait: &Wait) -> bool {
    patiently(wait, || session.channel_session()).and_then(|mut channel| patiently(wait, || channel.close())).is_ok()
}

fn not_started(fault: Fault) -> Fault {
    match fault {
        Fault::Lost(why) => Fault::NotStarted(why),
        other => other,
    }
}

fn write(
    session: &Session,
    channel: &mut Channel,
    feed: &dyn Feed,
    output: &mut Output<'_>,
    wait: &Wait,
) -> Result<(), Fault> {
    let mut input = Input { session, channel, output, wait, stopped: None };
    let written = feed.write_to(&mut input).and_then(|()| input.flush());
    if let Some(fault) = input.stopped.take() {
        return Err(fault);
    }
    match written {
        // The reader has gone: how it ended says why.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Fault::Here(PortError::failed(format!("the files to copy can't be read: {error}")))),
        Ok(()) => patiently(wait, || input.channel.send_eof()),
    }
}

fn read(session: &Session, channel: &mut Channel, output: &mut Output<'_>, wait: &Wait) -> Result<(), Fault> {
    let mut buffer = vec![0; 32 * 1024];
    let mut told = Instant::now();
    loop {
        patiently(wait, || keep_alive(session, &mut told))?;
        match channel.read(&mut buffer) {
            Ok(0) if channel.eof() => return Ok(()),
            // libssh2 also says 0 after a packet for somebody else.
            Ok(0) => std::thread::sleep(Duration::from_millis(2)),
            Ok(read) => output.take(&buffer[..read]),
            Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => {}
            Err(error) => return Err(Fault::Lost(error.to_string())),
        }
        if let Some(kind) = ended(wait) {
            return Err(Fault::Ended(kind));
        }
    }
}

/// A guest that went down without a word is only noticed by what is sent to it.
fn keep_alive(session: &Session, told: &mut Instant) -> Result<(), ssh2::Error> {
    if told.elapsed() > ALIVE {
        session.keepalive_send()?;
        *told = Instant::now();
    }
    Ok(())
}

/// Reads on until the mark has come: without it nobody knows what was started.
fn find_leader(channel: &mut Channel, output: &mut Output<'_>) {
    let limit = ending();
    let mut buffer = vec![0; 4 * 1024];
    while output.leader.is_none() && output.head.is_some() && ended(&limit).is_none() {
        match channel.read(&mut buffer) {
            Ok(0) if channel.eof() => return,
            Ok(0) => std::thread::sleep(Duration::from_millis(2)),
            Ok(read) => output.take(&buffer[..read]),
            Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => {}
            Err(_) => return,
        }
    }
}

/// How it ended. The end of the output is not the end of the command, which may have closed it: only when sshd closes the
/// channel has it said how the command ended, and a terminal that is closed before hangs up on it. A process killed by a
/// signal has exit status 0 as well, so the signal is looked at first.
fn exit(session: &Session, channel: &mut Channel, output: &Output<'_>, wait: &Wait) -> Result<Exit, Fault> {
    let mut told = Instant::now();
    patiently(wait, || keep_alive(session, &mut told).and_then(|()| channel.wait_close()))?;
    patiently(wait, || channel.close())?;
    let lost = |error: ssh2::Error| Fault::Lost(error.message().to_owned());
    if let Some(signal) = channel.exit_signal().map_err(lost)?.exit_signal {
        return Ok(Exit::Signal(signal));
    }
    let status = channel.exit_status().map_err(lost)?;
    if output.leader.is_none() && status == 0 {
        return Err(Fault::Here(
            PortError::failed("the guest's login shell did not run the command")
                .help("the user's shell, or a forced command in sshd's configuration, does something else"),
        ));
    }
    Ok(Exit::Code(status))
}

fn end_session(session: &Session, leader: &str) {
    let ended = Wrapped::script(END_SESSION, &[leader])
        .map_err(Fault::Here)
        .and_then(|script| run(session, &script, None, &Nowhere, &ending()));
    if !matches!(ended, Ok(Exit::Code(0))) {
        tracing::warn!(?ended, leader, "processes in the guest may still run");
    }
}

fn ending() -> Wait {
    Wait { cancel: tokio_util::sync::CancellationToken::new(), deadline: tokio::time::Instant::now() + ENDING }
}

/// Calls something of libssh2 again while it only ran out of its tick.
fn patiently<T>(wait: &Wait, mut call: impl FnMut() -> Result<T, ssh2::Error>) -> Result<T, Fault> {
    loop {
        match call() {
            Ok(value) => return Ok(value),
            Err(error) if matches!(error.code(), ErrorCode::Session(TICKED | AGAIN)) => {}
            Err(error) => return Err(Fault::Lost(error.message().to_owned())),
        }
        if let Some(kind) = ended(wait) {
            return Err(Fault::Ended(kind));
        }
    }
}

/// Output on its way to the sink, without the line that holds the mark.
struct Output<'a> {
    command: &'a Wrapped,
    lines: &'a dyn LineSink,
    splitter: LineSplitter,
    /// What came before the mark's line was whole; `None` once it was found, or was given up.
    head: Option<Vec<u8>>,
    leader: Option<String>,
}

impl Output<'_> {
    fn take(&mut self, bytes: &[u8]) {
        let Some(mut head) = self.head.take() else { return self.splitter.feed(bytes, self.lines) };
        head.extend_from_slice(bytes);
        let mark = self.command.mark.as_bytes();
        let found = head.windows(mark.len()).position(|window| window == mark);
        let end = found.and_then(|at| Some(at + head[at..].iter().position(|byte| *byte == b'\n')?));
        match (found, end) {
            (Some(at), Some(end)) => {
                self.leader = Some(String::from_utf8_lossy(&head[at + mark.len()..end]).trim().to_owned());
                self.splitter.feed(&head[..at], self.lines);
                self.splitter.feed(&head[end + 1..], self.lines);
            }
            // A login shell that prints this much before it runs anything prints for ever.
            _ if head.len() > 256 * 1024 => self.splitter.feed(&head, self.lines),
            _ => self.head = Some(head),
        }
    }
}

/// The command's standard input. While it takes nothing, its output is read: it may be about to say why.
struct Input<'a, 'b> {
    session: &'a Session,
    channel: &'a mut Channel,
    output: &'a mut Output<'b>,
    wait: &'a Wait,
    stopped: Option<Fault>,
}

impl Input<'_, '_> {
    /// Reads what there is; says whether the other side has closed.
    fn drain(&mut self) -> bool {
        let mut buffer = vec![0; 32 * 1024];
        self.session.set_blocking(false);
        while let Ok(read @ 1..) = self.channel.read(&mut buffer) {
            self.output.take(&buffer[..read]);
        }
        self.session.set_blocking(true);
        self.channel.eof()
    }
}

impl Write for Input<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        loop {
            match self.channel.write(bytes) {
                Ok(0) if !bytes.is_empty() => std::thread::sleep(Duration::from_millis(2)),
                Ok(written) => return Ok(written),
                Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => {}
                Err(_) if self.drain() => return Err(ErrorKind::BrokenPipe.into()),
                Err(error) => {
                    self.stopped = Some(Fault::Lost(error.to_string()));
                    return Err(error);
                }
            }
            if self.drain() {
                return Err(ErrorKind::BrokenPipe.into());
            }
            if let Some(kind) = ended(self.wait) {
                self.stopped = Some(Fault::Ended(kind));
                return Err(std::io::Error::other("the wait ended"));
            }
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
