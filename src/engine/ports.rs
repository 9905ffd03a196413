//! What the engine needs of the world, in its own words: drivers and their machines, guests, sandboxed host programs,
//! repositories and the clock.
//!
//! Adapters (`machine`, `source`) implement these; strict fakes in the tests do too. Every call that can take long is
//! given a [`Wait`]: it must end with [`PortErrorKind::TimedOut`] or [`PortErrorKind::Cancelled`] soon after the wait
//! does, and leave nothing behind that [`Driver::release`] would not find.

mod clock;
mod host;
mod repositories;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::AsyncRead;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::domain::id::{BuildNo, Digest, DiskId, DriverName, ImageId};
use crate::domain::image::{ImageCopy, ImageState};
use crate::domain::pipeline::{DiskFormat, HostKey, Placement, Recipe};
use crate::domain::stack::{StackTemplate, Verdict};

pub use self::clock::{Clock, LocalTime};
pub use self::host::{Host, HostEnd, HostJob, HostProgram, Secret};
pub use self::repositories::{CommitInfo, Repositories, Tip};

/// How long a call may take, and how it is stopped earlier.
#[derive(Clone, Debug)]
pub struct Wait {
    /// Cancelled when somebody wants it to stop.
    pub cancel: CancellationToken,
    /// When it must have ended.
    pub deadline: Instant,
}

impl Wait {
    /// A wait of its own that ends at the earlier of this one's deadline and `limit` from now.
    pub fn within(&self, limit: Duration) -> Self {
        Self { cancel: self.cancel.clone(), deadline: self.deadline.min(Instant::now() + limit) }
    }

    /// Runs a future to its end, to the deadline or until cancelled. Dropping the future must be enough to stop it.
    ///
    /// # Errors
    /// The future's own error, or that the wait ended first; `what` names the work in that error.
    pub async fn run<T>(&self, what: &str, future: impl Future<Output = Result<T, PortError>>) -> Result<T, PortError> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(PortError::cancelled(what)),
            result = future => result,
            () = tokio::time::sleep_until(self.deadline) => Err(PortError::timed_out(what)),
        }
    }
}

/// What kind of trouble a port met. The engine decides by this and never by the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortErrorKind {
    /// The work itself is wrong: a broken base image, a command that can't run. Doing it again changes nothing.
    Failed,
    /// A law or the configuration forbids it.
    Refused,
    /// The world is in the way: no space, no process, a lost connection. It may work later.
    Unavailable,
    /// The deadline passed.
    TimedOut,
    /// The connection to the guest was cut while something ran there.
    Lost,
    /// Somebody cancelled it.
    Cancelled,
    /// A sync failed: what was written may or may not be on the disk, and asking again would not tell. Nothing more is
    /// written until the next start has verified.
    NotDurable,
}

/// Trouble at a port: what failed and why, and what to do next.
#[derive(Clone, Debug)]
pub struct PortError {
    /// What kind.
    pub kind: PortErrorKind,
    /// What failed and why, as a lower-case phrase without a final dot.
    pub message: String,
    /// What to do next; may be empty.
    pub help: String,
}

impl PortError {
    /// An error of some kind.
    pub fn new(kind: PortErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), help: String::new() }
    }

    /// The work itself is wrong.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(PortErrorKind::Failed, message)
    }

    /// A law or the configuration forbids it.
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(PortErrorKind::Refused, message)
    }

    /// The world is in the way.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(PortErrorKind::Unavailable, message)
    }

    /// What was written may not be on the disk.
    pub fn not_durable(message: impl Into<String>) -> Self {
        Self::new(PortErrorKind::NotDurable, message)
    }

    /// The deadline passed during `what`.
    pub fn timed_out(what: &str) -> Self {
        Self::new(PortErrorKind::TimedOut, format!("{what} took longer than it may"))
    }

    /// Somebody cancelled `what`.
    pub fn cancelled(what: &str) -> Self {
        Self::new(PortErrorKind::Cancelled, format!("{what} was cancelled"))
    }

    /// The same error with what to do next.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = help.into();
        self
    }
}

impl fmt::Display for PortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for PortError {}

/// Takes the output of running work, line by line. Called from any thread; must not block for long.
pub trait LineSink: Send + Sync {
    /// One line without its end, as the program wrote it. Lines longer than 64 KiB come in pieces.
    fn line(&self, line: &[u8]);
}

/// A sink that many can hold.
pub type Lines = Arc<dyn LineSink>;

/// What a base image is made from, after names and aliases are resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BaseSource {
    /// A file of the host: the configuration's own, or already found to lie below an allowed directory.
    File {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: DiskFormat,
    },
    /// A download.
    Download {
        /// Where from; http or https.
        url: String,
        /// What its bytes must sum to.
        sha256: Digest,
        /// Its format.
        format: DiskFormat,
    },
    /// The disk of an image in the catalogue.
    Image {
        /// The driver's disk.
        disk: DiskId,
        /// The sum of its bytes.
        sha256: Digest,
    },
    /// Made here, from Debian's packages.
    Recipe(Recipe),
    /// What nothing else knows: an image that the driver may have by this id or name.
    Named(String),
}

/// A base image that is ready to be booted from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// The driver's disk.
    pub disk: DiskId,
    /// The sum of its bytes.
    pub sha256: Digest,
    /// Its virtual size in bytes.
    pub virtual_size: u64,
}

/// A machine to be made.
#[derive(Clone, Debug)]
pub struct MachineOrder {
    /// The build it is for; everything made carries this number.
    pub build: BuildNo,
    /// Which of the build's machines: `change`, `provision`, `test`.
    pub role: String,
    /// The disk that a copy-on-write layer is laid on; it stays as it is.
    pub disk: DiskId,
    /// A disk of which a copy-on-write layer is attached once SSH answers, and no earlier: it may be the very disk that
    /// the machine boots from.
    pub attach: Option<DiskId>,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// The virtual size of the new layer in bytes; `None` keeps the disk's.
    pub disk_size: Option<u64>,
    /// The user that SSH logs in as.
    pub user: String,
    /// How the host key is known.
    pub host_key: HostKey,
    /// Whether commands are given a terminal.
    pub terminal: bool,
    /// Guest ports to reach from the host, besides SSH.
    pub ports: Vec<u16>,
    /// How long until SSH must answer.
    pub ready_within: Duration,
    /// Where the console's text goes: `console-ROLE.log` in the build's files.
    pub console: PathBuf,
    /// Where a cloud is to put it; drivers without flavors and networks have no use for it.
    pub placement: Placement,
}

/// How to reach a machine from the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Where SSH answers: an address of the host or of the cloud.
    pub host: String,
    /// The port that SSH answers at.
    pub port: u16,
    /// The user to log in as.
    pub user: String,
    /// The private key, in OpenSSH's format, readable by the daemon alone.
    pub key: PathBuf,
    /// The host's public key: `ssh-ed25519 AAAA…`.
    pub host_key: String,
    /// Guest ports, and where each is reached at [`Access::host`].
    pub ports: Vec<(u16, u16)>,
}

/// A disk of a machine that was kept: sealed, or changed before any machine booted from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedDisk {
    /// The driver's disk.
    pub disk: DiskId,
    /// What it takes in bytes.
    pub bytes: u64,
    /// The disks that must stay as long as this one does.
    pub backing: Vec<DiskId>,
}

/// A machine under way. Dropping it stops what it runs; [`Driver::release`] clears what is left.
#[async_trait]
pub trait Machine: Send + Sync {
    /// How host programs reach it.
    fn access(&self) -> &Access;

    /// Its inside.
    fn guest(&self) -> &dyn Guest;

    /// Removes the machine's identity through the session that is open, shuts it down cleanly and keeps its disk under
    /// `keep`. The machine is gone afterwards.
    async fn seal(&mut self, keep: &DiskId, lines: &Lines, wait: &Wait) -> Result<SealedDisk, PortError>;

    /// The serial number by which its guest knows the disk that was attached; `None` where the order wanted none.
    fn attached(&self) -> Option<&str>;

    /// Shuts the machine down cleanly and keeps the attached layer under `keep`; the machine's own disk is thrown away.
    /// The machine is gone afterwards.
    async fn keep_attached(&mut self, keep: &DiskId, lines: &Lines, wait: &Wait) -> Result<SealedDisk, PortError>;

    /// Stops it at once and removes its disks. Doing it twice is success.
    async fn destroy(&mut self) -> Result<(), PortError>;
}

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// With an exit code.
    Code(i32),
    /// By a signal, named without `SIG`.
    Signal(String),
}

impl Exit {
    /// Whether it ended with code 0.
    pub fn is_success(&self) -> bool {
        *self == Self::Code(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(name) => write!(f, "signal {name}"),
        }
    }
}

/// The inside of a machine, over a session that stays open as long as the machine does.
#[async_trait]
pub trait Guest: Send + Sync {
    /// Runs a shell command as the login user, standard output and error in one stream. What it started is ended with
    /// it when the wait ends.
    async fn run(&self, command: &str, env: &[(String, String)], lines: &Lines, wait: &Wait)
    -> Result<Exit, PortError>;

    /// Copies a file or a directory (with what is in it) from the host to an absolute path in the guest, which may be a
    /// place where only root may write. `mode` is for a file; without it modes are kept.
    async fn upload(&self, from: &Path, to: &str, mode: Option<u32>, wait: &Wait) -> Result<(), PortError>;
}

/// An image to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageOrder {
    /// The build that publishes.
    pub build: BuildNo,
    /// Our id.
    pub image: ImageId,
    /// Its name.
    pub name: String,
    /// Its properties, sorted by name.
    pub properties: Vec<(String, String)>,
    /// The smallest disk that it fits on, in GiB.
    pub min_disk: u64,
}

/// A copy that was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedCopy {
    /// The copy.
    pub copy: ImageCopy,
    /// The sum of its file.
    pub sha256: Digest,
    /// The size of its file in bytes.
    pub size: u64,
    /// Its virtual size in bytes.
    pub virtual_size: u64,
}

/// Something outside that carries a build's number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// The build.
    pub build: BuildNo,
    /// What it is: `server`, `floating address`.
    pub kind: &'static str,
    /// Its id there.
    pub id: String,
    /// What it is called there.
    pub name: String,
}

/// The disk of this host that machines write to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskUse {
    /// Bytes free.
    pub free: u64,
    /// Bytes that what a build has under way takes there now, for each that has anything.
    pub written: Vec<(BuildNo, u64)>,
}

/// Makes machines and images. Every disk it keeps is known by a [`DiskId`] that the engine chose before it existed.
#[async_trait]
pub trait Driver: Send + Sync {
    /// Its name in the configuration.
    fn name(&self) -> &DriverName;

    /// What of this driver is part of every resolved fingerprint: versions, accelerator.
    async fn settings(&self) -> Result<Vec<(String, String)>, PortError>;

    /// One line for `status`: what it is and whether it answers.
    async fn health(&self) -> Result<String, PortError>;

    /// Makes a base image ready to be booted from. Cached by content: the second time costs nothing.
    async fn base(&self, source: &BaseSource, lines: &Lines, wait: &Wait) -> Result<Base, PortError>;

    /// Makes a machine and waits until SSH runs a command in it.
    async fn boot(&self, order: &MachineOrder, lines: &Lines, wait: &Wait) -> Result<Box<dyn Machine>, PortError>;

    /// Makes an image of the catalogue from a sealed or base disk: compact, on no backing file, kept under `keep`.
    async fn publish(
        &self,
        disk: &DiskId,
        keep: &DiskId,
        order: &ImageOrder,
        lines: &Lines,
        wait: &Wait,
    ) -> Result<PublishedCopy, PortError>;

    /// Makes a copy of an image that another driver has published: the same bytes, kept under `keep` here, too.
    async fn take(
        &self,
        _from: &dyn Driver,
        _disk: &DiskId,
        _keep: &DiskId,
        _order: &ImageOrder,
        _lines: &Lines,
        _wait: &Wait,
    ) -> Result<PublishedCopy, PortError> {
        Err(PortError::refused(format!("the driver {} takes no copies of other drivers' images", self.name())))
    }

    /// Puts name and properties of a copy right.
    async fn amend(&self, copy: &ImageCopy, order: &ImageOrder) -> Result<(), PortError>;

    /// Shows whoever looks where the driver keeps its images in which state one is, where there is somebody to look.
    async fn show(&self, _copy: &ImageCopy, _state: ImageState) -> Result<(), PortError> {
        Ok(())
    }

    /// Has a template of a stack looked at by what would deploy it where this driver's images are.
    async fn validate(&self, _template: &StackTemplate, _wait: &Wait) -> Verdict {
        Verdict::NoCloud(format!("the driver {} deploys no stacks", self.name()))
    }

    /// Whether a disk is there, whole as far as a look at its size and head tells.
    async fn has(&self, disk: &DiskId) -> Result<bool, PortError>;

    /// All disks it keeps for us, with their sizes in bytes.
    async fn disks(&self) -> Result<Vec<(DiskId, u64)>, PortError>;

    /// The bytes of a disk.
    async fn read(&self, disk: &DiskId) -> Result<Box<dyn AsyncRead + Send + Unpin>, PortError>;

    /// The disk of this host that its machines write to; `None` where they write elsewhere.
    async fn disk_use(&self) -> Result<Option<DiskUse>, PortError>;

    /// Removes a disk. Doing it twice is success.
    async fn remove(&self, disk: &DiskId) -> Result<(), PortError>;

    /// Removes what was begun for base images and nobody goes on with; says how many files it was and their bytes.
    async fn tidy(&self) -> Result<(usize, u64), PortError>;

    /// Removes whatever machines, processes and temporary files carry this build's number; says how many it found.
    /// Doing it twice is success.
    async fn release(&self, build: BuildNo) -> Result<usize, PortError>;

    /// The builds that anything outside still carries the number of.
    async fn tagged(&self) -> Result<Vec<BuildNo>, PortError>;

    /// What carries the number of a build, one by one; [`Driver::release`] takes it away.
    async fn outside(&self) -> Result<Vec<Orphan>, PortError> {
        let name = self.name().to_string();
        let of = |build| Orphan { build, kind: "machine", id: format!("{build}"), name: name.clone() };
        Ok(self.tagged().await?.into_iter().map(of).collect())
    }

    /// Why a build waits for what the driver can't give now.
    fn waiting(&self, _build: BuildNo) -> Option<String> {
        None
    }
}
