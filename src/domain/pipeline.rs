//! Pipelines: which bundles they are for, and the five stages in their order, with what each one is told to do.
//!
//! What is here is bound to one bundle: every expression but `build.…` is filled in. Reading and checking the YAML is
//! `manifest`'s.

mod step;

use std::sync::Arc;
use std::time::Duration;

use super::expression::Text;
use super::id::Digest;
use super::path::RepoPath;
use super::pool::Pool;

pub use self::step::{Action, Course, Laid, Network, Play, Staged, Step, StepPath};

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
    /// What the vars call the bundle: packer's `bundle_path` of today. It names no input.
    pub called: Option<String>,
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
    /// Has this pipeline share with others in the pool what they have too.
    pub fn share(&mut self, pool: &mut Pool) {
        let provision = self.provision.as_mut().map(|provision| &mut provision.steps);
        for steps in provision.into_iter().chain(self.test.as_mut().map(|test| &mut test.steps)) {
            *steps = pool.steps(Arc::clone(steps));
        }
    }

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

    /// The steps of `provision` and `test`, in order, with the stage of each.
    pub fn steps(&self) -> impl Iterator<Item = (Stage, &Step)> {
        let provision = self.provision.iter().flat_map(|stage| stage.steps.iter());
        let test = self.test.iter().flat_map(|stage| stage.steps.iter());
        provision.map(|step| (Stage::Provision, step)).chain(test.map(|step| (Stage::Test, step)))
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
    /// What changes the disk before the machine's first boot: `shell`, `script` and `upload`, with the disk's root below
    /// `$ROOT`.
    pub changes: Vec<Step>,
    /// Whether commands in the guest are given a terminal, as a packer template's `ssh_pty` wants it.
    pub terminal: bool,
    /// Where a cloud puts the machine.
    pub placement: Placement,
}

/// Where a cloud puts a machine: for drivers that have flavors and networks. What is not said here, the driver's
/// configuration says.
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

/// What a machine is taken to write to its disk in bytes, where nothing is said of its size.
pub const MACHINE_DISK: u64 = 4 << 30;

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
    /// What to do, in order; one list for all bundles of a pipeline whose steps mention none of them.
    pub steps: Arc<[Step]>,
    /// How long the result may be used; `None` is for ever.
    pub expire: Option<Duration>,
    /// How long the stage may take.
    pub timeout: Option<Duration>,
}

/// The `test` stage.
#[derive(Clone, Debug, PartialEq)]
pub struct Test {
    /// What to do, in order; as in [`Provision`].
    pub steps: Arc<[Step]>,
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
    pub vars: Arc<super::value::Value>,
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
