//! The port to programs of the repository that run on the factory host.

use std::fmt;
use std::path::PathBuf;

use async_trait::async_trait;

use super::{Access, Exit, Lines, PortError, Wait};
use crate::domain::id::BuildNo;
use crate::domain::path::RepoPath;
use crate::domain::pipeline::{Network, Play};
use crate::domain::template::{Answer, Handed};

/// A secret; never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A program of the repository to be run on the host, in the sandbox.
#[derive(Clone, Debug)]
pub struct HostJob {
    /// The build it is for.
    pub build: BuildNo,
    /// What is run.
    pub program: HostProgram,
    /// The files of the repository: copied, and thrown away afterwards.
    pub checkout: PathBuf,
    /// The bundle's directory below the checkout.
    pub bundle: RepoPath,
    /// Variables of its environment.
    pub env: Vec<(String, String)>,
    /// Secrets, as variables of its environment.
    pub secrets: Vec<(String, Secret)>,
    /// What it may reach.
    pub network: Network,
    /// Its guest.
    pub access: Access,
    /// Files to keep when it ended: globs below the bundle.
    pub collect: Vec<String>,
    /// The directory they are copied into, under their paths below the bundle; only regular files.
    pub collect_into: PathBuf,
}

/// A program that the sandbox knows to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostProgram {
    /// `ansible-playbook` with the guest as the inventory's only host.
    Ansible {
        /// The playbook below the checkout.
        playbook: RepoPath,
        /// More arguments.
        extra_arguments: Vec<String>,
        /// Inventory and surroundings.
        play: Play,
    },
    /// `pytest`, in the bundle's directory.
    Pytest {
        /// The file or directory below the checkout.
        path: RepoPath,
        /// More arguments.
        args: Vec<String>,
        /// The JUnit report to write, below the bundle.
        report: String,
    },
}

impl HostProgram {
    /// Ansible as it is installed, whatever it is to run.
    pub fn any_ansible() -> Self {
        Self::Ansible { playbook: RepoPath::root(), extra_arguments: Vec::new(), play: Play::default() }
    }

    /// The directory of the repository that it runs in; `None` is the bundle's.
    pub fn directory(&self) -> Option<&RepoPath> {
        match self {
            Self::Ansible { play, .. } => play.directory.as_ref(),
            Self::Pytest { .. } => None,
        }
    }
}

/// What a host job left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostEnd {
    /// How the program ended.
    pub exit: Exit,
    /// The files that were kept, as paths below the bundle.
    pub collected: Vec<PathBuf>,
    /// What of the globs was left out, and why: a link, a file that is too large.
    pub refused: Vec<String>,
}

/// Runs the repository's programs on the host: the one door for child processes that a repository has a say in.
#[async_trait]
pub trait Host: Send + Sync {
    /// The versions of the tools that a program brings into the resolved fingerprint: `ansible-core 2.14.18`.
    async fn versions(&self, program: &HostProgram) -> Result<Vec<(String, String)>, PortError>;

    /// One line for `status`: whether the sandbox works; an error says why not.
    async fn health(&self) -> Result<String, PortError>;

    /// Runs a program to its end and keeps what was asked for.
    async fn run(&self, job: &HostJob, lines: &Lines, wait: &Wait) -> Result<HostEnd, PortError>;

    /// Renders templates with the installed Ansible, which reaches neither a guest nor a network; gives an answer for
    /// each that is wanted, in their order. An error says why none could be rendered.
    async fn render(&self, build: BuildNo, handed: &Handed, wait: &Wait) -> Result<Vec<Answer>, PortError>;

    /// Ends what still runs for a build and removes its private copies; says how many processes and directories that
    /// were. Doing it twice is success. For after a crash, or when [`Host::run`]'s future was dropped.
    async fn release(&self, build: BuildNo) -> Result<usize, PortError>;

    /// The builds that have a private copy: running ones, and those that [`Host::release`] is for.
    async fn tagged(&self) -> Result<Vec<BuildNo>, PortError>;
}
