//! What the configuration says about sandboxes.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::scratch::Owner;
use crate::engine::ports::PortError;

/// A user who owns nothing: what Debian calls `nobody`.
const NOBODY: (u32, u32) = (65_534, 65_534);
/// The user that a root daemon's sandboxes run as, where there is one.
const RUNNER: &str = "factoryd";

/// What a sandbox may use. Sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory of all its processes together, and data of each of them.
    pub memory: u64,
    /// Processes and threads.
    pub processes: u64,
    /// The largest file it may write.
    pub file_size: u64,
    /// Files that one process may have open.
    pub open_files: u64,
    /// Each of its file systems in memory: `/tmp` and `/dev/shm`.
    pub temporary: u64,
    /// What must stay free on the disk that the copy lies on; a program is ended when less is.
    pub disk_free: u64,
}

impl Default for Limits {
    fn default() -> Self {
        const MIB: u64 = 1 << 20;
        Self {
            memory: 2048 * MIB,
            processes: 512,
            file_size: 2048 * MIB,
            open_files: 4096,
            temporary: 256 * MIB,
            disk_free: 512 * MIB,
        }
    }
}

/// How sandboxes are made.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The directory for private copies: `scratch` in the state directory.
    pub scratch: PathBuf,
    /// factoryd's own binary, which is run with hidden subcommands.
    pub program: PathBuf,
    /// bubblewrap: a name in the system's directories, or a path.
    pub bwrap: PathBuf,
    /// The uid and gid that programs run as when the daemon is root; by default those of the user `factoryd`, else 65534.
    pub runner: Option<(u32, u32)>,
    /// More of the host to show to programs, read-only: where Ansible is installed outside of `/usr`.
    pub read_only: Vec<PathBuf>,
    /// What a program may use.
    pub limits: Limits,
    /// Whether programs run without a sandbox where bubblewrap does not work.
    pub allow_without_sandbox: bool,
}

impl Settings {
    /// The usual settings of a daemon with its state in a directory.
    pub fn new(state: &Path, program: PathBuf) -> Self {
        Self {
            scratch: state.join("scratch"),
            program,
            bwrap: PathBuf::from("bwrap"),
            runner: None,
            read_only: Vec::new(),
            limits: Limits::default(),
            allow_without_sandbox: false,
        }
    }

    /// Who a root daemon's programs run as; `None` where the daemon is an ordinary user and they run as itself.
    pub(crate) fn owner(&self) -> Result<Owner, PortError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let runner = self.runner.unwrap_or_else(|| user_named(RUNNER).unwrap_or(NOBODY));
        if runner.0 == 0 || runner.1 == 0 {
            return Err(PortError::refused(format!("the user {RUNNER}, whom programs run as, is root"))
                .help(format!("give {RUNNER} a uid and a gid of its own: adduser --system --group {RUNNER}")));
        }
        Ok(Some(runner))
    }
}

/// The uid and gid of a user of `/etc/passwd`.
fn user_named(name: &str) -> Option<(u32, u32)> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != name {
            return None;
        }
        Some((fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?))
    })
}
