//! The one door through which child processes of the factory host are started.
//!
//! Every child gets a process group of its own, an environment made for it (nothing of the daemon's own leaks in), and
//! two variables by which [`super::reap`] finds it again after a crash: the state directory and the build's number.
//! It must not know what the programs are for.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use super::lines::{Both, LastLines, pump};
use crate::domain::id::BuildNo;
use crate::engine::ports::{Exit, LineSink, Lines, PortError, Wait};

/// The variable that holds a child's build number, or `base` for work that many builds share.
pub const BUILD_VARIABLE: &str = "FACTORYD_BUILD";
/// The variable that holds the state directory of the daemon that started a child.
pub const STATE_VARIABLE: &str = "FACTORYD_STATE";
/// How long a child has between TERM and KILL.
const GRACE: Duration = Duration::from_secs(3);
/// How long output is still read after a child ended, when something else holds its pipe open.
const LINGER: Duration = Duration::from_secs(1);
/// Variables of the daemon's environment that children see.
const INHERITED: [&str; 9] =
    ["PATH", "HOME", "TMPDIR", "http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR"];

/// Whose process it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    state: PathBuf,
    build: String,
}

impl Tag {
    /// A process of one build.
    pub fn build(state: impl Into<PathBuf>, build: BuildNo) -> Self {
        Self { state: state.into(), build: build.0.to_string() }
    }

    /// A process that makes something many builds share, such as a base image.
    pub fn shared(state: impl Into<PathBuf>) -> Self {
        Self { state: state.into(), build: "base".to_owned() }
    }

    /// The state directory.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The number, or `base`.
    pub fn owner(&self) -> &str {
        &self.build
    }
}

/// A program to be started.
#[derive(Clone, Debug)]
pub struct Program {
    name: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    directory: Option<PathBuf>,
    tag: Tag,
}

impl Program {
    /// A program by its name (looked up in `PATH`) or its path.
    pub fn new(name: impl Into<OsString>, tag: &Tag) -> Self {
        Self { name: name.into(), args: Vec::new(), env: Vec::new(), directory: None, tag: tag.clone() }
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// A variable of its environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// The directory it starts in; `/` if none is named.
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Starts it, standard output and error in one stream, in order.
    ///
    /// # Errors
    /// When it can't be started; says how to install it if it is not there.
    pub fn spawn(&self, lines: &Lines) -> Result<Running, PortError> {
        let (reader, writer) = std::io::pipe().map_err(|error| self.not_started(&error))?;
        let second = writer.try_clone().map_err(|error| self.not_started(&error))?;
        // The command holds the pipe's writing ends: it must be gone before anybody waits for the stream's end.
        let child = {
            let mut command = self.command();
            command.stdout(Stdio::from(writer)).stderr(Stdio::from(second));
            command.spawn().map_err(|error| self.not_started(&error))?
        };
        let reader = pipe::Receiver::from_owned_fd(reader.into()).map_err(|error| self.not_started(&error))?;
        Ok(self.running(child, vec![tokio::spawn(pump(reader, lines.clone()))]))
    }

    /// Starts it with standard output and error apart.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn spawn_apart(&self, output: &Lines, errors: &Lines) -> Result<Running, PortError> {
        let mut command = self.command();
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| self.not_started(&error))?;
        let mut pumps = Vec::new();
        pumps.extend(child.stdout.take().map(|stream| tokio::spawn(pump(stream, output.clone()))));
        pumps.extend(child.stderr.take().map(|stream| tokio::spawn(pump(stream, errors.clone()))));
        Ok(self.running(child, pumps))
    }

    /// Runs it to its end, or until the wait ends: then its whole group is stopped.
    ///
    /// # Errors
    /// When it can't be started, or the wait ended.
    pub async fn run(&self, lines: &Lines, wait: &Wait) -> Result<Exit, PortError> {
        let mut running = self.spawn(lines)?;
        let ended = wait.run(&self.label(), running.wait()).await;
        if ended.is_err() {
            running.stop().await;
        }
        ended
    }

    /// Runs it and takes anything but exit code 0 for a failure, which quotes its last lines.
    ///
    /// # Errors
    /// When it fails, can't be started, or the wait ended.
    pub async fn check(&self, lines: &Lines, wait: &Wait) -> Result<(), PortError> {
        let last = Arc::new(LastLines::new(12));
        let both: Lines = Arc::new(Both(lines.clone(), last.clone()));
        match self.run(&both, wait).await? {
            exit if exit.is_success() => Ok(()),
            exit => Err(self.unsuccessful(&exit, &last.text())),
        }
    }

    /// Runs it quietly and returns its standard output, of which at most `limit` bytes are kept.
    ///
    /// # Errors
    /// When it fails, can't be started, or the wait ended.
    pub async fn read(&self, limit: usize, wait: &Wait) -> Result<Vec<u8>, PortError> {
        let output = Arc::new(Collected { limit, bytes: std::sync::Mutex::default() });
        let last = Arc::new(LastLines::new(12));
        let (to_output, to_last): (Lines, Lines) = (output.clone(), last.clone());
        let mut running = self.spawn_apart(&to_output, &to_last)?;
        match wait.run(&self.label(), running.wait()).await {
            Ok(exit) if exit.is_success() => Ok(output.take()),
            Ok(exit) => Err(self.unsuccessful(&exit, &last.text())),
            Err(error) => {
                running.stop().await;
                Err(error)
            }
        }
    }

    /// The program's name without its directory, for messages.
    pub fn label(&self) -> String {
        Path::new(&self.name).file_name().unwrap_or(&self.name).to_string_lossy().into_owned()
    }

    fn command(&self) -> Command {
        tracing::debug!(program = ?self.name, args = ?self.args, build = self.tag.build, "starting a program");
        let mut command = Command::new(&self.name);
        command.args(&self.args).env_clear().envs(inherited()).env("LC_ALL", "C.UTF-8");
        command.env(BUILD_VARIABLE, &self.tag.build).env(STATE_VARIABLE, &self.tag.state);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.current_dir(self.directory.as_deref().unwrap_or(Path::new("/")));
        command.stdin(Stdio::null()).process_group(0).kill_on_drop(true);
        command
    }

    fn running(&self, child: Child, pumps: Vec<JoinHandle<()>>) -> Running {
        let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        Running { name: self.label(), child, group, pumps }
    }

    fn not_started(&self, error: &std::io::Error) -> PortError {
        let name = self.label();
        let here = self.directory.as_deref().is_none_or(Path::is_dir);
        if error.kind() == std::io::ErrorKind::NotFound && here {
            return PortError::unavailable(format!("{name} is not installed"))
                .help(format!("run `scripts/setup run`, or install the package {}", package(&name)));
        }
        PortError::unavailable(format!("{name} can't be started: {error}"))
    }

    fn unsuccessful(&self, exit: &Exit, last: &str) -> PortError {
        let name = self.label();
        let message = if last.is_empty() {
            format!("{name} ended with {exit}")
        } else {
            format!("{name} ended with {exit}:\n{last}")
        };
        if last.contains("No space left on device") {
            return PortError::unavailable(message)
                .help("free space in the state directory: `factoryd gc`, or a larger disk");
        }
        PortError::failed(message)
    }
}

/// A child process under way. Dropping it kills its whole group.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
    group: Option<Pid>,
    pumps: Vec<JoinHandle<()>>,
}

impl Running {
    /// Waits until it ended and its output was handed on. Safe to drop and call again.
    ///
    /// # Errors
    /// When the operating system does not say how it ended.
    pub async fn wait(&mut self) -> Result<Exit, PortError> {
        let status = self.child.wait().await;
        let status =
            status.map_err(|error| PortError::unavailable(format!("waiting for {} failed: {error}", self.name)))?;
        let deadline = tokio::time::Instant::now() + LINGER;
        for pump in &mut self.pumps {
            if !pump.is_finished() && tokio::time::timeout_at(deadline, &mut *pump).await.is_err() {
                pump.abort();
            }
        }
        // Whatever it left running in its group ends with it.
        self.signal(Signal::KILL);
        self.group = None;
        Ok(exit_of(status))
    }

    /// Ends the whole group: TERM, a grace of three seconds, then KILL.
    pub async fn stop(&mut self) {
        self.signal(Signal::TERM);
        if tokio::time::timeout(GRACE, self.child.wait()).await.is_err() {
            self.signal(Signal::KILL);
            if let Err(error) = self.child.wait().await {
                tracing::warn!(program = self.name, %error, "a killed program was not reaped");
            }
        }
        self.signal(Signal::KILL);
        self.group = None;
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            // No such group: everything in it has ended, which is what was wanted.
            let _gone = kill_process_group(group, signal);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

struct Collected {
    limit: usize,
    bytes: std::sync::Mutex<Vec<u8>>,
}

impl Collected {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.bytes.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl LineSink for Collected {
    fn line(&self, line: &[u8]) {
        let mut bytes = self.bytes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if bytes.len() + line.len() < self.limit {
            bytes.extend_from_slice(line);
            bytes.push(b'\n');
        }
    }
}

fn inherited() -> impl Iterator<Item = (&'static str, OsString)> {
    INHERITED.into_iter().filter_map(|name| std::env::var_os(name).map(|value| (name, value)))
}

fn exit_of(status: ExitStatus) -> Exit {
    match status.signal() {
        Some(signal) => Exit::Signal(signal_name(signal)),
        None => Exit::Code(status.code().unwrap_or(-1)),
    }
}

/// A signal's name without `SIG`; its number where it has none that people know.
pub fn signal_name(number: i32) -> String {
    let known = [
        (1, "HUP"),
        (2, "INT"),
        (3, "QUIT"),
        (4, "ILL"),
        (5, "TRAP"),
        (6, "ABRT"),
        (7, "BUS"),
        (8, "FPE"),
        (9, "KILL"),
        (10, "USR1"),
        (11, "SEGV"),
        (12, "USR2"),
        (13, "PIPE"),
        (14, "ALRM"),
        (15, "TERM"),
        (24, "XCPU"),
        (25, "XFSZ"),
        (31, "SYS"),
    ];
    known.iter().find(|(known, _)| *known == number).map_or_else(|| number.to_string(), |(_, name)| (*name).to_owned())
}

/// The Debian package that a program comes in.
fn package(program: &str) -> &str {
    let known = [
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("qemu-img", "qemu-utils"),
        ("ssh-keygen", "openssh-client"),
        ("mke2fs", "e2fsprogs"),
        ("sfdisk", "fdisk"),
        ("grub-mkimage", "grub-common and grub-pc-bin"),
        ("bwrap", "bubblewrap"),
        ("ansible-playbook", "ansible-core"),
        ("pytest", "python3-pytest"),
    ];
    known.iter().find(|(name, _)| *name == program).map_or(program, |(_, package)| package)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::time::Instant;
    use tokio_util::sync::CancellationToken;

    use super::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<String>>);

    impl LineSink for Kept {
        fn line(&self, line: &[u8]) {
            self.0.lock().expect("no panic").push(String::from_utf8_lossy(line).into_owned());
        }
    }

    fn wait(seconds: u64) -> Wait {
        Wait { cancel: CancellationToken::new(), deadline: Instant::now() + Duration::from_secs(seconds) }
    }

    fn shell(text: &str) -> Program {
        Program::new("sh", &Tag::build("/nowhere", BuildNo(7))).arg("-c").arg(text)
    }

    #[tokio::test]
    async fn output_and_errors_come_in_order_and_the_environment_is_ours() {
        let kept = Arc::new(Kept::default());
        let lines: Lines = kept.clone();
        let exit =
            shell("echo one; echo two >&2; echo $FACTORYD_BUILD $FACTORYD_STATE ${CARGO_MANIFEST_DIR-none}; exit 3");
        assert_eq!(exit.run(&lines, &wait(20)).await.expect("it ran"), Exit::Code(3));
        assert_eq!(*kept.0.lock().expect("no panic"), ["one", "two", "7 /nowhere none"]);
    }

    #[tokio::test]
    async fn a_cancelled_program_ends_with_all_that_it_started() {
        let cancelled = wait(20);
        let kept = Arc::new(CancelOnLine(cancelled.cancel.clone(), Mutex::default()));
        let lines: Lines = kept.clone();
        let error =
            shell("trap '' TERM; sleep 600 & echo $!; wait").run(&lines, &cancelled).await.expect_err("cancelled");
        assert_eq!(error.kind, crate::engine::ports::PortErrorKind::Cancelled);
        let sleeper: i32 = kept.1.lock().expect("no panic").parse().expect("a process id");
        // KILL was sent, and the kernel carries it out in its own time.
        let deadline = Instant::now() + Duration::from_secs(5);
        let state = || std::fs::read_to_string(format!("/proc/{sleeper}/stat")).unwrap_or_default();
        while !(state().is_empty() || state().contains(") Z ")) {
            assert!(Instant::now() < deadline, "the sleeper still runs: {}", state());
            tokio::task::yield_now().await;
        }
    }

    struct CancelOnLine(CancellationToken, Mutex<String>);

    impl LineSink for CancelOnLine {
        fn line(&self, line: &[u8]) {
            *self.1.lock().expect("no panic") = String::from_utf8_lossy(line).into_owned();
            self.0.cancel();
        }
    }

    #[tokio::test]
    async fn failures_quote_the_last_lines_and_say_what_to_install() {
        let nowhere: Lines = Arc::new(super::super::lines::Nowhere);
        let error = shell("echo broken >&2; kill -9 $$").check(&nowhere, &wait(20)).await.expect_err("it failed");
        assert_eq!(error.message, "sh ended with signal KILL:\nbroken");
        let missing = Program::new("mmdebstrap-not-there", &Tag::shared("/nowhere"));
        let error = missing.check(&nowhere, &wait(20)).await.expect_err("it is not there");
        assert_eq!(error.message, "mmdebstrap-not-there is not installed");
        assert!(error.help.contains("scripts/setup run"));
    }
}
