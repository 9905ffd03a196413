//! Finds what a dead daemon left: processes that carry our state directory and a build's number in their environment.
//!
//! Only processes started through [`super::process`] carry both, so nothing else is ever touched. A zombie has no
//! environment any more and does not count.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::process::{BUILD_VARIABLE, STATE_VARIABLE, Tag};
use crate::engine::ports::PortError;

/// How long killed processes have to disappear.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often is looked again whether they have.
const TICK: Duration = Duration::from_millis(20);

/// The owners (`BuildNo` as text, or `base`) of all living processes of a state directory. Blocks.
///
/// # Errors
/// When `/proc` can't be read.
pub fn owners(state: &Path) -> Result<BTreeSet<String>, PortError> {
    Ok(tagged(state)?.into_iter().map(|(_, owner)| owner).collect())
}

/// Kills every process of one owner, and waits until all are gone; says how many there were. Blocks.
///
/// # Errors
/// When `/proc` can't be read, or a process does not end.
pub fn kill(tag: &Tag) -> Result<usize, PortError> {
    let give_up = Instant::now() + PATIENCE;
    let mut seen = BTreeSet::new();
    loop {
        let ours: Vec<i32> =
            tagged(tag.state())?.into_iter().filter(|(_, owner)| owner == tag.owner()).map(|(pid, _)| pid).collect();
        if ours.is_empty() {
            return Ok(seen.len());
        }
        if Instant::now() > give_up {
            return Err(PortError::unavailable(format!("processes {ours:?} of build {} do not end", tag.owner()))
                .help("look at them with `ps`: they hang in the kernel, or belong to another user"));
        }
        for pid in ours {
            kill_one(pid, tag)?;
            seen.insert(pid);
        }
        std::thread::sleep(TICK);
    }
}

/// Kills one process, after making sure through a file descriptor that the number still means the same process.
fn kill_one(pid: i32, tag: &Tag) -> Result<(), PortError> {
    let Some(id) = Pid::from_raw(pid) else { return Ok(()) };
    let sent = pidfd_open(id, PidfdFlags::empty()).and_then(|process| match owner_of(pid, tag.state()) {
        Some(owner) if owner == tag.owner() => pidfd_send_signal(process, Signal::KILL),
        _ => Ok(()),
    });
    match sent {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(error) => {
            Err(PortError::unavailable(format!("process {pid} of build {} can't be killed: {error}", tag.owner()))
                .help("it runs as another user: end it by hand"))
        }
    }
}

fn tagged(state: &Path) -> Result<Vec<(i32, String)>, PortError> {
    let entries =
        std::fs::read_dir("/proc").map_err(|error| PortError::unavailable(format!("/proc can't be read: {error}")))?;
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let me = std::process::id().cast_signed();
    Ok(pids.filter(|pid| *pid != me).filter_map(|pid| Some((pid, owner_of(pid, state)?))).collect())
}

/// The owner of a process of this state directory; `None` for every other process, gone ones and zombies.
fn owner_of(pid: i32, state: &Path) -> Option<String> {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let value = |name: &str| {
        environment.split(|byte| *byte == 0).find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
    };
    (value(STATE_VARIABLE)? == state.as_os_str().as_bytes()).then_some(())?;
    Some(String::from_utf8_lossy(value(BUILD_VARIABLE)?).into_owned())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::domain::id::BuildNo;

    #[test]
    fn only_processes_of_this_state_directory_and_build_are_killed() {
        let state = tempfile::tempdir().expect("a directory");
        let other = tempfile::tempdir().expect("a directory");
        let start = |state: &Path, build: &str| {
            let mut command = Command::new("sleep");
            command.arg("600").env(STATE_VARIABLE, state).env(BUILD_VARIABLE, build);
            command.spawn().expect("sleep is part of coreutils")
        };
        let mut mine = start(state.path(), "3");
        let mut others = [start(state.path(), "33"), start(other.path(), "3")];
        let mine_reaped = std::thread::spawn(move || mine.wait());

        assert_eq!(owners(state.path()).expect("read"), BTreeSet::from(["3".to_owned(), "33".to_owned()]));
        let tag = Tag::build(state.path(), BuildNo(3));
        assert_eq!(kill(&tag).expect("killed"), 1);
        assert_eq!(kill(&tag).expect("nothing to do"), 0);
        mine_reaped.join().expect("no panic").expect("it ended");
        for child in &mut others {
            assert!(child.try_wait().expect("a state").is_none(), "a stranger was killed");
            child.kill().expect("it is ours");
            child.wait().expect("it ended");
        }
    }
}
