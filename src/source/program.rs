//! Runs the `git` program for what libgit2 does worse: talking to other machines, and repacking.
//!
//! It never asks anybody anything, runs no hook, speaks only the protocols named here, and ends when its wait does: TERM
//! to its process group, so that it removes its lock files, then KILL.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};

use crate::engine::ports::{PortError, Wait};

/// The most that git may print before it is stopped: the refs of the largest repositories take a tenth of it.
const STDOUT_BYTES: usize = 64 << 20;
/// How much of the end of its complaints is kept.
const STDERR_BYTES: usize = 8 << 10;
/// How long git has to remove its lock files after TERM.
const GRACE: Duration = Duration::from_secs(2);
/// How long output may still come after git itself has ended: a connection that ssh keeps open for the next one holds
/// git's standard error for as long.
const DRAIN: Duration = Duration::from_millis(500);

/// Settings that hold for every run. `ext::` and helpers of other names would run a command out of a URL.
const SETTINGS: [&str; 11] = [
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "protocol.allow=never",
    "protocol.https.allow=always",
    "protocol.http.allow=always",
    "protocol.ssh.allow=always",
    "protocol.git.allow=always",
    "protocol.file.allow=always",
    "http.lowSpeedLimit=1000",
    "http.lowSpeedTime=60",
    "advice.defaultBranchName=false",
];

/// What the daemon's own environment must not say about another repository.
const NOT_INHERITED: [&str; 9] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_NAMESPACE",
    "GIT_QUARANTINE_PATH",
    "GIT_CEILING_DIRECTORIES",
];

/// Runs git in a repository and gives what it printed. `what` names the work in errors: `fetching URL`.
pub(super) async fn git<A: AsRef<OsStr>>(
    repository: &Path,
    what: &str,
    arguments: &[A],
    wait: &Wait,
) -> Result<Vec<u8>, PortError> {
    let mut running = Running::start(repository, arguments).map_err(|error| not_started(what, &error))?;
    let ended = tokio::select! {
        biased;
        () = wait.cancel.cancelled() => Err(PortError::cancelled(what)),
        ended = running.end() => Ok(ended),
        () = tokio::time::sleep_until(wait.deadline) => Err(PortError::timed_out(what)),
    };
    match ended {
        Ok(ended) => ended.map_err(|error| PortError::unavailable(format!("{what} failed: {error}")))?.result(what),
        Err(stopped) => {
            running.stop().await;
            Err(stopped)
        }
    }
}

fn command<A: AsRef<OsStr>>(repository: &Path, arguments: &[A]) -> Command {
    let mut command = Command::new("git");
    command.arg("--git-dir").arg(repository);
    for setting in SETTINGS {
        command.args(["-c", setting]);
    }
    for name in NOT_INHERITED {
        command.env_remove(name);
    }
    // Whatever wants a password or a yes gets a no at once, also where the daemon was started in a terminal.
    command.envs([("GIT_TERMINAL_PROMPT", "0"), ("GIT_ASKPASS", "/bin/false")]);
    command.envs([("SSH_ASKPASS", "/bin/false"), ("SSH_ASKPASS_REQUIRE", "force"), ("LC_ALL", "C")]);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true);
    command
}

/// A git under way. Dropped before its end, it is killed with all that it started.
struct Running {
    child: Child,
    group: Option<Pid>,
}

impl Running {
    fn start<A: AsRef<OsStr>>(repository: &Path, arguments: &[A]) -> io::Result<Self> {
        let child = command(repository, arguments).spawn()?;
        let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        Ok(Self { child, group })
    }

    async fn end(&mut self) -> io::Result<Ended> {
        let (mut stdout, mut stderr) = (Printed::up_to(STDOUT_BYTES), Printed::up_to(STDERR_BYTES));
        let (out, err) = (self.child.stdout.take(), self.child.stderr.take());
        let status = {
            let reading = async { tokio::join!(stdout.read_head(out), stderr.read_tail(err)) };
            tokio::pin!(reading);
            tokio::select! {
                status = self.child.wait() => {
                    // What is missing after this is held by somebody else.
                    drop(tokio::time::timeout(DRAIN, &mut reading).await);
                    status?
                }
                _ = &mut reading => self.child.wait().await?,
            }
        };
        self.group = None;
        Ok(Ended { status, stdout, stderr: stderr.bytes })
    }

    async fn stop(&mut self) {
        if let Some(group) = self.group {
            signal(group, Signal::TERM);
            drop(tokio::time::timeout(GRACE, self.child.wait()).await);
            // git may be gone and what it started not: the group's number stays taken as long as one of them lives.
            signal(group, Signal::KILL);
            drop(self.child.wait().await);
            self.group = None;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            signal(group, Signal::KILL);
        }
    }
}

/// A group that has ended already is what was wanted.
fn signal(group: Pid, signal: Signal) {
    let _ = kill_process_group(group, signal);
}

struct Ended {
    status: ExitStatus,
    stdout: Printed,
    stderr: Vec<u8>,
}

impl Ended {
    fn result(self, what: &str) -> Result<Vec<u8>, PortError> {
        if self.stdout.cut {
            return Err(PortError::failed(format!("{what} failed: git printed more than {STDOUT_BYTES} bytes")));
        }
        if self.status.success() {
            return Ok(self.stdout.bytes);
        }
        let said = complaint(&self.stderr);
        let why = if said.is_empty() { self.status.to_string() } else { said };
        Err(PortError::unavailable(format!("{what} failed: {why}")))
    }
}

/// What came through a pipe, up to a limit.
struct Printed {
    bytes: Vec<u8>,
    limit: usize,
    cut: bool,
}

impl Printed {
    fn up_to(limit: usize) -> Self {
        Self { bytes: Vec::new(), limit, cut: false }
    }

    /// Keeps the beginning; beyond the limit the pipe is closed, which ends the writer.
    async fn read_head(&mut self, pipe: Option<impl AsyncRead + Unpin>) -> io::Result<()> {
        let Some(pipe) = pipe else { return Ok(()) };
        pipe.take(self.limit as u64 + 1).read_to_end(&mut self.bytes).await?;
        self.cut = self.bytes.len() > self.limit;
        Ok(())
    }

    /// Keeps the end.
    async fn read_tail(&mut self, pipe: Option<impl AsyncRead + Unpin>) -> io::Result<()> {
        let Some(mut pipe) = pipe else { return Ok(()) };
        let mut piece = [0; 4096];
        loop {
            let got = pipe.read(&mut piece).await?;
            if got == 0 {
                return Ok(());
            }
            self.bytes.extend_from_slice(&piece[..got]);
            self.bytes.drain(..self.bytes.len().saturating_sub(self.limit));
        }
    }
}

/// Git's complaints as one phrase: the lines joined, without what is the same in each and what drives terminals.
fn complaint(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let clean = |line: &str| line.chars().filter(|char| !char.is_control()).collect::<String>();
    let lines: Vec<String> = text
        .split(['\n', '\r'])
        .map(|line| clean(line.trim().trim_start_matches("fatal: ").trim_start_matches("error: ")))
        .filter(|line| !line.is_empty())
        .collect();
    lines.join("; ")
}

fn not_started(what: &str, error: &io::Error) -> PortError {
    let message = format!("{what} failed: the git program can't be started: {error}");
    PortError::unavailable(message).help("install git (Debian: `apt-get install git`)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_become_one_phrase() {
        let stderr = b"fatal: '/x' does not appear to be a git repository\nfatal: Could not read \x1b[31mfrom remote repository.\n\n";
        let expected = "'/x' does not appear to be a git repository; Could not read [31mfrom remote repository.";
        assert_eq!(complaint(stderr), expected);
    }
}
