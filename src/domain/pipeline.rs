//! Pipelines: which bundles they are for, and the five stages in their order, with what each one is told to do.
//!
//! What is here is bound to one bundle: every expression but `build.…` is filled in. Reading and checking the YAML is
//! `manifest`'s.

use std::time::Duration;

use super::expression::Text;
use super::id::Digest;
use super::path::RepoPath;
use super::value::Value;

/// The five stages, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// A machine on a copy-on-write layer of the base image.
    Boot,
    /// Steps in and on that machine, then sealing.
    Provision,
    /// Steps against clones of the sealed disk.
    Test,
    /// The sealed disk becomes an image of the catalogue.
    Snapshot,
    /// Output templates, with the image's id.
    Render,
}

impl Stage {
    /// All stages, in order.
    pub const ALL: [Self; 5] = [Self::Boot, Self::Provision, Self::Test, Self::Snapshot, Self::Render];

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Provision => "provision",
            Self::Test => "test",
            Self::Snapshot => "snapshot",
            Self::Render => "render",
        }
    }

    /// The stage that a word names.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.word() == word)
    }
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.word())
    }
}

/// What a change outside the bundle does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SharedChange {
    /// The image becomes stale, nothing is built.
    Mark,
    /// One bundle first, the others when it is green.
    #[default]
    Canary,
    /// Everything is rebuilt.
    Rebuild,
}

/// A pipeline, bound to one bundle.
#[derive(Clone, Debug, PartialEq)]
pub struct Pipeline {
    /// The file it was read from; `None` is the built-in one.
    pub file: Option<RepoPath>,
    /// What a change outside the bundle does.
    pub on_shared_change: SharedChange,
    /// How long a whole build may take.
    pub timeout: Duration,
    /// The first stage.
    pub boot: Boot,
    /// The second; without it the base's own disk is tested and published.
    pub provision: Option<Provision>,
    /// The third.
    pub test: Option<Test>,
    /// The fourth; without it nothing is published.
    pub snapshot: Option<Snapshot>,
    /// The last.
    pub render: Option<Render>,
    /// What of the build's files is archived, besides its reports and outputs: globs, with `build.…` still open.
    pub archive: Vec<Text>,
}

impl Pipeline {
    /// The stages that this pipeline has, in order.
    pub fn stages(&self) -> impl Iterator<Item = Stage> + '_ {
        Stage::ALL.into_iter().filter(|stage| match stage {
            Stage::Boot => true,
            Stage::Provision => self.provision.is_some(),
            Stage::Test => self.test.is_some(),
            Stage::Snapshot => self.snapshot.is_some(),
            Stage::Render => self.render.is_some(),
        })
    }

    /// The stage whose end fixes the disk's content: what a dependent bundle is based on.
    pub fn disk_stage(&self) -> Stage {
        if self.provision.is_some() { Stage::Provision } else { Stage::Boot }
    }

    /// The stage whose fingerprint a stage's is chained on.
    ///
    /// `render` follows the disk and its tests, not `snapshot`: another name or property of the same image leaves the
    /// outputs as they are, unless a template uses it, and then it is among the stage's own inputs.
    pub fn parent(&self, stage: Stage) -> Option<Stage> {
        self.stages().take_while(|earlier| *earlier < stage).filter(|earlier| *earlier != Stage::Snapshot).last()
    }
}

/// How a guest's host key is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostKey {
    /// Given to the guest, or read from its console; a guest whose key can't be known is refused.
    #[default]
    Verified,
    /// The first key seen is trusted.
    FirstSeen,
}

/// The `boot` stage.
#[derive(Clone, Debug, PartialEq)]
pub struct Boot {
    /// What to boot from.
    pub image: BaseImage,
    /// The user that SSH logs in as.
    pub user: String,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// The disk's virtual size in bytes; `None` keeps the base's.
    pub disk: Option<u64>,
    /// How the host key is known.
    pub host_key: HostKey,
    /// How long until SSH must answer.
    pub timeout: Duration,
    /// Whether commands in the guest are given a terminal, as a packer template's `ssh_pty` wants it.
    pub terminal: bool,
    /// Where a cloud puts the machine.
    pub placement: Placement,
}

/// Where a cloud puts a machine: for drivers that have flavors and networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// The flavor, by name or id.
    pub flavor: Option<String>,
    /// Networks by id; `$NAME` is a variable of the factory's environment.
    pub networks: Vec<String>,
    /// Security groups by name or id; `$NAME` is a variable of the factory's environment.
    pub security_groups: Vec<String>,
}

/// The memory of a machine in bytes, where nothing is said.
pub const MACHINE_MEMORY: u64 = 1 << 30;

/// What a machine is booted from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BaseImage {
    /// An id, the path or last part of a bundle, the name of an image, or an alias of the configuration.
    Named(String),
    /// A file of the host, below a directory that the configuration allows.
    Path {
        /// The absolute path.
        path: String,
        /// Its format, declared and never probed.
        format: DiskFormat,
    },
    /// A download.
    Url {
        /// Where it is; http or https.
        url: String,
        /// What its bytes must sum to.
        sha256: Digest,
        /// Its format, declared and never probed.
        format: DiskFormat,
    },
    /// Made here, from Debian's packages.
    Mmdebstrap(Recipe),
}

/// The formats of disk images that are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFormat {
    /// QEMU's copy-on-write format, version 2 or 3, without backing and data file.
    Qcow2,
    /// The bare bytes of the disk.
    Raw,
}

impl DiskFormat {
    /// The word for it, which is also QEMU's.
    pub fn word(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }
}

/// A base image as data: what is in it. How it boots, finds its network and gets its keys is the driver's affair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// Debian's suite: `bookworm`.
    pub suite: String,
    /// Packages beside those that any bootable image has.
    pub packages: Vec<String>,
    /// Files and links to lay into it.
    pub files: Vec<RecipeFile>,
}

/// A file or link of a [`Recipe`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecipeFile {
    /// The absolute path in the image.
    pub to: String,
    /// What it is.
    pub content: RecipeContent,
}

/// What a [`RecipeFile`] holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecipeContent {
    /// A file.
    Text {
        /// Its content.
        text: String,
        /// Its permission bits.
        mode: u32,
    },
    /// A symbolic link.
    Link {
        /// Its target.
        target: String,
    },
}

/// The `provision` stage.
#[derive(Clone, Debug, PartialEq)]
pub struct Provision {
    /// What to do, in order.
    pub steps: Vec<Step>,
    /// How long the result may be used; `None` is for ever.
    pub expire: Option<Duration>,
    /// How long the stage may take.
    pub timeout: Option<Duration>,
}

/// The `test` stage.
#[derive(Clone, Debug, PartialEq)]
pub struct Test {
    /// What to do, in order.
    pub steps: Vec<Step>,
    /// Ports of the guest that host steps reach.
    pub ports: Vec<u16>,
    /// JUnit reports to read: globs below the bundle.
    pub reports: Vec<String>,
    /// How long the stage may take.
    pub timeout: Option<Duration>,
}

/// The `snapshot` stage.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The image's name.
    pub name: Text,
    /// The image's properties, sorted by name.
    pub properties: Vec<(String, Text)>,
    /// The smallest disk it fits on, in GiB.
    pub min_disk: u64,
}

/// The `render` stage.
#[derive(Clone, Debug, PartialEq)]
pub struct Render {
    /// The directory of the templates, below the bundle.
    pub templates: RepoPath,
    /// The vars that templates see, as the bundle's file has them: shared, since they can be large.
    pub vars: std::sync::Arc<super::value::Value>,
    /// What becomes of what looks wrong in an output.
    pub lint: Lint,
}

/// What becomes of what looks wrong in an output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lint {
    /// It is said.
    #[default]
    Warn,
    /// It fails the stage.
    Error,
}

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
    pub said: std::sync::Arc<[(String, Value)]>,
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
