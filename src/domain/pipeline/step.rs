//! Steps: what is done in a stage, and how.

use std::sync::Arc;
use std::time::Duration;

use crate::domain::expression::Text;
use crate::domain::path::RepoPath;
use crate::domain::value::Value;

/// Where a step finds a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StepPath {
    /// Below the bundle.
    Bundle(RepoPath),
    /// Below the repository's root: written with a leading `/`.
    Root(RepoPath),
}

impl StepPath {
    /// The path below the repository's root.
    pub fn in_repository(&self, bundle: &RepoPath) -> RepoPath {
        match self {
            Self::Bundle(path) => bundle.join(path.as_bytes()).unwrap_or_else(|| path.clone()),
            Self::Root(path) => path.clone(),
        }
    }
}

impl std::fmt::Display for StepPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bundle(path) => write!(f, "{path}"),
            Self::Root(path) => write!(f, "/{path}"),
        }
    }
}

/// What a host step may reach besides its own guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// Nothing, not even the guest.
    None,
    /// Its own guest only.
    #[default]
    Guest,
    /// The host's network; the configuration must allow it.
    Full,
}

impl Network {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Guest => "guest",
            Self::Full => "full",
        }
    }
}

/// One step of `provision` or `test`.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// What people call it: its `name`, else its kind.
    pub name: String,
    /// What it does.
    pub action: Action,
    /// Variables of its environment.
    pub env: Vec<(String, Text)>,
    /// How long it may take; `None` leaves it to the stage.
    pub timeout: Option<Duration>,
    /// Whether the build goes on when it fails.
    pub allow_failure: bool,
    /// More paths that its result depends on: files, directories.
    pub inputs: Vec<StepPath>,
    /// What it may reach; for host steps.
    pub network: Network,
    /// Secrets of the configuration that it is given; for host steps.
    pub secrets: Vec<String>,
    /// Where it is written: the file and the line, for messages.
    pub written: (String, usize),
    /// How it goes, where that is not simply once and to its end.
    pub course: Course,
    /// What a packer template says of it, by the template's own keys and with its variables filled in; shared by the steps
    /// of one provisioner.
    pub said: Arc<[(String, Value)]>,
}

/// How a step goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Course {
    /// How long is waited before it.
    pub pause_before: Duration,
    /// How long is waited after it.
    pub pause_after: Duration,
    /// The exit codes that are good; none means 0 alone.
    pub exit_codes: Vec<i32>,
    /// Whether it may cut the connection, by a reboot: that ends it well.
    pub expect_disconnect: bool,
    /// How often it is done again when it failed.
    pub max_retries: u32,
    /// How many of the steps before it belong to it: they are done again with it, and its time is theirs too.
    pub earlier: usize,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// A shell command in the guest.
    Shell {
        /// The command, given to the login user's shell; or the lines of a script, where it is laid.
        text: Text,
        /// How it is laid into the guest as a script.
        laid: Option<Laid>,
    },
    /// A script of the repository, copied into the guest and run there.
    Script {
        /// The script.
        path: StepPath,
        /// Its arguments.
        args: Vec<Text>,
        /// How it is laid into the guest, where that is said.
        laid: Option<Laid>,
    },
    /// A file or directory of the repository, copied into the guest.
    Upload {
        /// What is copied.
        from: StepPath,
        /// The absolute path in the guest; a packer template may also count from the login user's home.
        to: Text,
        /// Permission bits; `None` keeps those of the repository.
        mode: Option<u32>,
        /// Whether a directory goes below `to` under its own name where `to` is there, as scp does it.
        keeps_name: bool,
    },
    /// A playbook, run by the guest's own Ansible.
    AnsibleLocal {
        /// The playbook; its directory is copied into the guest.
        playbook: StepPath,
        /// More arguments for `ansible-playbook`.
        extra_arguments: Vec<Text>,
        /// What is copied and run instead, where that is said.
        staged: Option<Staged>,
    },
    /// A playbook, run by the host's Ansible against the guest.
    Ansible {
        /// The playbook.
        playbook: StepPath,
        /// More arguments for `ansible-playbook`.
        extra_arguments: Vec<Text>,
        /// Inventory and surroundings.
        play: Play,
    },
    /// A test suite, run by the host's pytest.
    Pytest {
        /// The file or directory.
        path: StepPath,
        /// More arguments for `pytest`.
        args: Vec<Text>,
    },
}

/// How a script is laid into the guest and run there.
#[derive(Clone, Debug, PartialEq)]
pub struct Laid {
    /// The absolute path in the guest.
    pub to: String,
    /// What stands behind `#!` in the first line, where the lines of a step are the script.
    pub shebang: String,
    /// The command that runs it, given to the login user's shell.
    pub command: Text,
    /// A file of variables laid beside it: its path in the guest and its text.
    pub variables: Option<(String, Text)>,
    /// Whether its bytes stay as they are; else lines that end in CR LF end in LF.
    pub binary: bool,
    /// Whether it stays in the guest afterwards.
    pub stays: bool,
    /// How long laying and removing it are tried again while the guest does not answer.
    pub start_within: Duration,
}

/// A playbook with everything it needs in the guest.
#[derive(Clone, Debug, PartialEq)]
pub struct Staged {
    /// The directory in the guest.
    pub directory: String,
    /// What is copied, in order: the path in the repository and the absolute one in the guest.
    pub uploads: Vec<(RepoPath, String)>,
    /// Files that are made: the absolute path in the guest and the text.
    pub texts: Vec<(String, String)>,
    /// The command, given to the login user's shell.
    pub command: Text,
    /// Whether the directory stays in the guest.
    pub stays: bool,
}

/// What a playbook of the host is run with, beside its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Play {
    /// What the guest is called in the inventory.
    pub host: String,
    /// What `ansible_user` says; `None` is the user that SSH logs in as.
    pub user: Option<String>,
    /// Whether SSH logs in as that user too, and not only the playbook is told so.
    pub user_logs_in: bool,
    /// The groups that the guest is in.
    pub groups: Vec<String>,
    /// Groups that are there and empty.
    pub empty_groups: Vec<String>,
    /// An inventory of the repository, instead of one that is made.
    pub inventory: Option<RepoPath>,
    /// The directory of the repository that the inventory is made in.
    pub inventory_directory: Option<RepoPath>,
    /// More arguments for ssh.
    pub ssh_arguments: String,
    /// Variables that every play sees.
    pub variables: Vec<(String, String)>,
    /// The directory of the repository that it runs in; `None` is the bundle's.
    pub directory: Option<RepoPath>,
}

impl Default for Play {
    /// The guest is the host `local`, alone.
    fn default() -> Self {
        Self {
            host: "local".to_owned(),
            user: None,
            user_logs_in: false,
            groups: Vec::new(),
            empty_groups: Vec::new(),
            inventory: None,
            inventory_directory: None,
            ssh_arguments: String::new(),
            variables: Vec::new(),
            directory: None,
        }
    }
}

impl Action {
    /// The word for it, which is its key in a pipeline.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Shell { .. } => "shell",
            Self::Script { .. } => "script",
            Self::Upload { .. } => "upload",
            Self::AnsibleLocal { .. } => "ansible-local",
            Self::Ansible { .. } => "ansible",
            Self::Pytest { .. } => "pytest",
        }
    }

    /// Whether it runs on the factory host, in the sandbox, rather than in the guest.
    pub fn is_host(&self) -> bool {
        matches!(self, Self::Ansible { .. } | Self::Pytest { .. })
    }
}
