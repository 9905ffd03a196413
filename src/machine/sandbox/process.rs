//! Process trees of the host: started by a thread of their own, measured, and ended whole.
//!
//! Nothing here knows what runs. A tree is found by its parent ids and, after a crash, by a tag in its environment. The
//! tree's root is addressed by a pidfd, so that a number which the kernel gave to somebody else is never killed.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use crate::blocking;

/// How long killed processes may take to vanish. The kernel needs milliseconds; a process in an uninterruptible wait
/// (a dead network file system) can take for ever, and then the operator must know.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// `PF_EXITING` among the flags of a process.
const EXITING: u32 = 4;

/// A started tree. Dropping it kills the tree without waiting for it.
#[derive(Debug)]
pub(crate) struct Running {
    root: Pid,
    handle: OwnedFd,
    ended: oneshot::Receiver<io::Result<ExitStatus>>,
    over: bool,
}

/// What the tree writes to standard output and standard error, in one stream.
pub(crate) type Output = pipe::Receiver;

/// Starts a command, gives it `input` and takes both its outputs as one stream.
///
/// A thread of its own starts the process and waits for it: `--die-with-parent` means the death of the *thread* that
/// started it, and threads of a pool come and go.
pub(crate) async fn start(mut command: Command, input: Vec<u8>) -> io::Result<(Running, Output)> {
    let (reader, writer) = io::pipe()?;
    command.stdin(Stdio::piped()).stderr(writer.try_clone()?).stdout(writer);
    let output = pipe::Receiver::from_owned_fd(reader.into())?;
    let (tell_started, started) = oneshot::channel();
    let (tell_ended, ended) = oneshot::channel();
    std::thread::Builder::new()
        .name("sandbox".to_owned())
        .spawn(move || attend(command, &input, tell_started, tell_ended))?;
    let (root, handle) = started.await.map_err(|_| io::Error::other("the thread that starts it has ended"))??;
    Ok((Running { root, handle, ended, over: false }, output))
}

/// The life of the thread that starts a process and waits for it.
fn attend(
    mut command: Command,
    input: &[u8],
    started: oneshot::Sender<io::Result<(Pid, OwnedFd)>>,
    ended: oneshot::Sender<io::Result<ExitStatus>>,
) {
    let child = command.spawn();
    // The command holds the writing end of the output; the reader sees its end only when every copy is closed.
    drop(command);
    let mut child = match child {
        Ok(child) => child,
        Err(error) => return drop(started.send(Err(error))),
    };
    let pid = Pid::from_child(&child);
    let told = pidfd_open(pid, PidfdFlags::empty()).map(|handle| (pid, handle)).map_err(io::Error::from);
    let failed = told.is_err();
    if started.send(told).is_err() || failed {
        drop(child.kill());
    }
    if let Some(mut stdin) = child.stdin.take() {
        // A process that ended before it read all of its input says why by its exit.
        drop(stdin.write_all(input));
    }
    drop(ended.send(child.wait()));
}

impl Running {
    /// Waits until the root of the tree has ended. May be called again when its future was dropped.
    pub(crate) async fn ended(&mut self) -> io::Result<ExitStatus> {
        let status = (&mut self.ended).await.map_err(|_| io::Error::other("the thread that waits has ended"))?;
        self.over = true;
        status
    }

    /// The resident memory of the whole tree in bytes; pages that processes share count for each of them.
    pub(crate) fn memory(&self) -> u64 {
        descendants(self.root).iter().map(|process| process.resident).sum()
    }

    /// Kills the whole tree and waits until it is gone.
    pub(crate) async fn end(&mut self) -> io::Result<()> {
        gone(self.kill()).await?;
        if self.over {
            return Ok(());
        }
        tokio::time::timeout(GONE_WITHIN, self.ended())
            .await
            .map_err(|_| io::Error::other(format!("process {} does not end", self.root.as_raw_nonzero())))?
            .map(drop)
    }

    /// Kills everything below the root, then the root: the first child is process 1 of the sandbox, and all others go
    /// with it.
    fn kill(&self) -> Vec<OwnedFd> {
        let (mut handles, mut seen) = (Vec::new(), HashSet::new());
        loop {
            let below = descendants(self.root);
            let new: Vec<&Process> = below.iter().filter(|process| seen.insert(process.pid)).collect();
            if new.is_empty() {
                break;
            }
            handles.extend(new.into_iter().filter_map(kill_exactly));
        }
        // It may have ended already, of what was killed below it.
        let _ = pidfd_send_signal(&self.handle, Signal::KILL);
        handles
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.over {
            drop(self.kill());
        }
    }
}

/// One process of the host.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    /// Its id.
    pub(crate) pid: Pid,
    parent: i32,
    /// Whether it is on its way out, or dead and not waited for.
    exiting: bool,
    resident: u64,
}

/// Kills a process if it is still the one that was seen, and is not dead already.
fn kill_exactly(process: &Process) -> Option<OwnedFd> {
    let handle = pidfd_open(process.pid, PidfdFlags::empty()).ok()?;
    if look(process.pid)?.parent != process.parent || is_dead(&handle) {
        return None;
    }
    pidfd_send_signal(&handle, Signal::KILL).ok()?;
    Some(handle)
}

/// Whether a process is dead with all its threads: its first thread alone may be a zombie long before.
fn is_dead(handle: &OwnedFd) -> bool {
    poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// Waits until killed processes are dead; the first process of a namespace is dead only after all others of it are.
async fn gone(handles: Vec<OwnedFd>) -> io::Result<()> {
    if handles.is_empty() {
        return Ok(());
    }
    blocking::run(move || {
        let until = Instant::now() + GONE_WITHIN;
        for handle in &handles {
            let left = Timespec::try_from(until.saturating_duration_since(Instant::now())).map_err(io::Error::other)?;
            if poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(&left))? == 0 {
                return Err(io::Error::other("a killed process does not end"));
            }
        }
        Ok(())
    })
    .await
}

/// Everything below a process, children before their own children.
pub(crate) fn descendants(root: Pid) -> Vec<Process> {
    let mut children: HashMap<i32, Vec<Process>> = HashMap::new();
    for process in all() {
        children.entry(process.parent).or_default().push(process);
    }
    let mut found = children.remove(&root.as_raw_nonzero().get()).unwrap_or_default();
    let mut next = 0;
    while next < found.len() {
        let below = children.remove(&found[next].pid.as_raw_nonzero().get()).unwrap_or_default();
        found.extend(below);
        next += 1;
    }
    found
}

/// Kills every process whose environment has this variable with this path or one below it, and waits until they and
/// all in their namespaces are gone. Says how many there were. Processes of others can't be read and are not touched.
pub(crate) async fn end_tagged(name: &str, value: &Path) -> io::Result<usize> {
    let mut count = 0;
    loop {
        let mut handles = Vec::new();
        for process in all() {
            if is_tagged(process.pid, name, value) {
                let killed = kill_exactly(&process);
                count += usize::from(killed.is_some());
                handles.extend(killed);
            } else if process.exiting && is_first_of_namespace(process.pid) {
                // Its environment is gone already, while those that go with it may still run.
                handles.extend(pidfd_open(process.pid, PidfdFlags::empty()).ok().filter(|handle| !is_dead(handle)));
            }
        }
        if handles.is_empty() {
            return Ok(count);
        }
        gone(handles).await?;
    }
}

/// Whether a process is number 1 of a process namespace within ours.
fn is_first_of_namespace(pid: Pid) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
    numbers.split_whitespace().skip(1).last() == Some("1")
}

/// Whether a process carries a tag: the variable's value is this path or one below it.
fn is_tagged(pid: Pid, name: &str, value: &Path) -> bool {
    let Ok(environment) = std::fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())) else { return false };
    environment.split(|byte| *byte == 0).any(|variable| {
        let found = variable.strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"="));
        found.is_some_and(|found| Path::new(OsStr::from_bytes(found)).starts_with(value))
    })
}

fn all() -> impl Iterator<Item = Process> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| look(Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?))
}

/// Reads one line of `/proc/PID/stat` (proc(5)): the name in parentheses may hold anything, fields count after it.
fn look(pid: Pid) -> Option<Process> {
    let text = std::fs::read(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    let text = String::from_utf8_lossy(&text);
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let pages: u64 = fields.get(21)?.parse().ok()?;
    let flags: u32 = fields.get(6)?.parse().ok()?;
    Some(Process {
        pid,
        parent: fields.get(1)?.parse().ok()?,
        exiting: flags & EXITING != 0,
        resident: pages * rustix::param::page_size() as u64,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tree_that_ignores_signals_is_ended_with_its_grandchildren() {
        let mut command = Command::new("/bin/sh");
        // The kernel counts a process's memory in rough steps: of a few pages it may say that there are none.
        let large = "m=$(head -c 4000000 /dev/zero | tr '\\0' x)";
        let child = format!("(trap '' TERM; {large}; echo up; exec 3>&1; while :; do read -r x <&3; done)");
        command.args(["-c", &format!("trap '' TERM HUP INT; read -r x; {child} & wait")]);
        command.args(["sh"]);
        let (mut running, output) = start(command, b"go\n".to_vec()).await.unwrap();
        let mut seen = [0_u8; 3];
        let mut output = output;
        tokio::io::AsyncReadExt::read_exact(&mut output, &mut seen).await.unwrap();
        assert_eq!(&seen, b"up\n");
        assert!(!descendants(running.root).is_empty());
        assert!(running.memory() > 0);
        running.end().await.unwrap();
        let mut rest = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut output, &mut rest).await.unwrap();
        assert!(descendants(running.root).is_empty());
    }

    #[tokio::test]
    async fn tagged_processes_are_found_by_whole_path_components() {
        let place = tempfile::tempdir().unwrap();
        let mut command = Command::new("/bin/cat");
        command.env("FACTORYD_TEST_TAG", place.path().join("7/0")).arg("/dev/zero");
        let (mut running, _output) = start(command, Vec::new()).await.unwrap();
        assert_eq!(end_tagged("FACTORYD_TEST_TAG", &place.path().join("70")).await.unwrap(), 0);
        assert_eq!(end_tagged("FACTORYD_TEST_TAG", &place.path().join("7")).await.unwrap(), 1);
        assert!(!running.ended().await.unwrap().success());
    }
}
