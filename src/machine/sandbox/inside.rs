//! The two ends of a sandbox that factoryd's own binary plays, as hidden subcommands.
//!
//! ```text
//! daemon ─► [unshare --mount ─►] factoryd sandbox-enter ─► bwrap ─► factoryd sandbox-init ─► program
//!            only where root      drops the user             walls     process 1: limits,
//!                                                                      forwarders, reaping
//! ```
//!
//! What the program is and what it is told comes to `sandbox-init` through its standard input, never by arguments or
//! by bubblewrap's own environment: those other users of the host can read, and a variable like `LD_PRELOAD` from a
//! pipeline must not reach a process that is still outside.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use rustix::process::{Pid, Resource, Rlimit, Signal, WaitOptions, WaitStatus};
use serde::{Deserialize, Serialize};

use super::{Limits, process};
use crate::machine::relay;

/// The subcommand that leaves the daemon's rights behind.
pub(crate) const ENTER_COMMAND: &str = "sandbox-enter";
/// The subcommand that is process 1 of the sandbox.
pub(crate) const INIT_COMMAND: &str = "sandbox-init";
/// Where a root daemon's sandbox finds its job's directory: a place that every user may pass through, covered only in a
/// mount namespace of the sandbox's own.
pub(crate) const STAGE: &str = "/mnt";
/// The exit code of a program that could not be started, as shells have it.
const NOT_STARTED: u8 = 127;
/// The kernel's out-of-memory killer takes sandboxed programs before the daemon or a machine.
const OOM_SCORE: &str = "1000";

/// What `sandbox-init` is to run. It holds secrets, so it can't be printed.
#[derive(Serialize, Deserialize)]
pub(crate) struct Order {
    /// The program, an absolute path.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) arguments: Vec<OsString>,
    /// Its working directory.
    pub(crate) directory: PathBuf,
    /// Its whole environment.
    pub(crate) environment: Vec<(String, String)>,
    /// Its limits.
    pub(crate) limits: Limits,
    /// The daemon's relay, and how many targets it has.
    pub(crate) relay: Option<(PathBuf, u8)>,
    /// Whether there is no sandbox around it.
    pub(crate) bare: bool,
}

/// Runs one of the hidden subcommands if the program was started as one; `main` asks before anything else.
pub fn dispatch(mut arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    let command = arguments.nth(1)?;
    let ended = if command == ENTER_COMMAND {
        enter(arguments.collect())
    } else if command == INIT_COMMAND {
        init()
    } else {
        return None;
    };
    Some(ended.unwrap_or_else(|error| {
        eprintln!("factoryd: {error}");
        ExitCode::from(NOT_STARTED)
    }))
}

/// Arguments: `- PROGRAM…` as an ordinary user, or `UID:GID DIRECTORY PROGRAM…` as root in a mount namespace of its own.
fn enter(arguments: Vec<OsString>) -> io::Result<ExitCode> {
    std::fs::write("/proc/self/oom_score_adj", OOM_SCORE)?;
    let usage = || io::Error::other("sandbox-enter is for the daemon's own use");
    let (user, rest) = arguments.split_first().ok_or_else(usage)?;
    let user = if user == "-" { None } else { Some(parse_user(user).ok_or_else(usage)?) };
    let rest = if user.is_some() { stage(rest).ok_or_else(usage)?? } else { rest };
    let (program, arguments) = rest.split_first().ok_or_else(usage)?;
    let mut command = Command::new(program);
    command.args(arguments);
    if let Some((user, group)) = user {
        // Supplementary groups go with the user: std clears them before it changes to another one.
        command.uid(user).gid(group);
    }
    let error = command.exec();
    Err(io::Error::new(error.kind(), format!("can't start {}: {error}", program.to_string_lossy())))
}

fn parse_user(text: &OsStr) -> Option<(u32, u32)> {
    let (user, group) = text.to_str()?.split_once(':')?;
    Some((user.parse().ok()?, group.parse().ok()?))
}

/// Makes the job's directory and factoryd's binary reachable for a user who may not pass through the state directory.
fn stage(arguments: &[OsString]) -> Option<io::Result<&[OsString]>> {
    let (directory, rest) = arguments.split_first()?;
    let mounted = std::env::current_exe().and_then(|binary| {
        rustix::mount::mount_bind(Path::new(directory), STAGE)?;
        rustix::mount::mount_bind(binary, staged_binary())?;
        Ok(rest)
    });
    Some(mounted.map_err(|error| io::Error::new(error.kind(), format!("can't mount the job at {STAGE}: {error}"))))
}

/// Where factoryd's binary lies on the stage: on an empty file of the job's directory.
pub(crate) fn staged_binary() -> PathBuf {
    Path::new(STAGE).join("factoryd")
}

/// Process 1 of the sandbox: takes its order, limits itself, forwards ports, runs the program, reaps.
fn init() -> io::Result<ExitCode> {
    let mut order = Vec::new();
    io::stdin().lock().read_to_end(&mut order)?;
    let order: Order = serde_json::from_slice(&order)?;
    if order.bare {
        // Without a process namespace, what daemonises must stay ours, and we must not outlive the daemon.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    }
    limit(&order)?;
    if let Some((socket, targets)) = &order.relay {
        relay::forward(socket, *targets)?;
    }
    let child = Command::new(&order.program)
        .args(&order.arguments)
        .env_clear()
        .envs(order.environment.iter().map(|(name, value)| (name, value)))
        .current_dir(&order.directory)
        .stdin(Stdio::null())
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("can't start {}: {error}", order.program.display())))?;
    let code = reap(Pid::from_child(&child))?;
    if order.bare {
        end_orphans()?;
    }
    Ok(ExitCode::from(code))
}

/// Limits of this process and all that it starts. Memory of the whole sandbox is watched by the daemon.
fn limit(order: &Order) -> io::Result<()> {
    let limits = &order.limits;
    set(Resource::Core, 0)?;
    set(Resource::Fsize, limits.file_size)?;
    set(Resource::Nofile, limits.open_files)?;
    set(Resource::Data, limits.memory)?;
    if !order.bare {
        // Counted within our own user namespace; outside it would count the daemon's own processes too.
        set(Resource::Nproc, limits.processes)?;
    }
    Ok(())
}

/// Sets a limit for good; one that is already lower stays.
fn set(resource: Resource, most: u64) -> io::Result<()> {
    let hard = rustix::process::getrlimit(resource).maximum;
    let most = Some(hard.map_or(most, |hard| hard.min(most)));
    Ok(rustix::process::setrlimit(resource, Rlimit { current: most, maximum: most })?)
}

/// Waits for the program and, as process 1, for every orphan that ends before it. A signal becomes 128 and its number.
fn reap(program: Pid) -> io::Result<u8> {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == program => return Ok(code(status)),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn code(status: WaitStatus) -> u8 {
    let signal = status.terminating_signal().map(|signal| 128 + signal);
    let code = status.exit_status().or(signal).unwrap_or(i32::from(NOT_STARTED));
    u8::try_from(code).unwrap_or(u8::MAX)
}

/// Kills what the program left behind, which a process namespace would do for us.
fn end_orphans() -> io::Result<()> {
    loop {
        for process in process::descendants(rustix::process::getpid()) {
            // One that ended by itself meanwhile is as good as killed.
            let _ = rustix::process::kill_process(process.pid, Signal::KILL);
        }
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CHILD) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
