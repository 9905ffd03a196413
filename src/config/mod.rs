//! The configuration: TOML fragments to checked settings.
//!
//! `config.toml` is read first and then the files of `config.toml.d/` in the order of their names. A later file's value
//! wins, key by key; `[[repository]]` tables add up. Every fault of every file is said at once, with its place.
//! `config.example.toml` has every key with a comment.

mod checked;
mod drivers;
mod fault;
mod fragment;
mod keys;
mod units;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::domain::id::{Branch, Digest, DriverName, RepoName};
use crate::domain::path::RepoPath;
use crate::domain::pipeline::{DiskFormat, HostKey};
use crate::domain::retention::Retention;

pub use fault::{ConfigError, Fault};

/// Where the configuration is looked for when nobody says.
pub const DEFAULT_FILE: &str = "/etc/factoryd/config.toml";

/// What the daemon is told, checked and complete.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The files that were read, in their order.
    pub files: Vec<PathBuf>,
    /// The directory of everything that is remembered.
    pub state_directory: PathBuf,
    /// Directories below which a pipeline's base image may be named by path.
    pub base_directories: Vec<PathBuf>,
    /// The driver that builds use.
    pub default_driver: DriverName,
    /// Where the API is.
    pub server: Server,
    /// The repositories, in the order they are written.
    pub repositories: Vec<Repository>,
    /// The drivers.
    pub drivers: BTreeMap<DriverName, DriverSettings>,
    /// What names of base images stand for.
    pub bases: BTreeMap<String, Base>,
    /// What may be used up.
    pub limits: Limits,
    /// What is kept how long.
    pub retention: Retention,
    /// Secrets by name.
    pub secrets: BTreeMap<String, SecretSource>,
    /// Where programs of repositories run on the host.
    pub sandbox: Sandbox,
    /// What downloads may reach.
    pub download: Download,
}

/// Where the API is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// The Unix socket.
    pub socket: PathBuf,
    /// The group that may use it, besides root and the daemon's own user.
    pub group: String,
}

/// A repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    /// Its name; also that of its directory.
    pub name: RepoName,
    /// Where its commits come from.
    pub origin: Origin,
    /// The branches that publish; empty: the one that HEAD names.
    pub branches: Vec<Branch>,
    /// How often it is looked at without a hint.
    pub poll: Duration,
    /// The pipelines whose steps may use `network: full`.
    pub network_full: Vec<RepoPath>,
}

/// Where a repository's commits come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// People push to it here.
    Receive,
    /// It is fetched from there: https, ssh, file, or a path.
    Url(String),
}

/// A driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverSettings {
    /// What it is.
    pub kind: DriverKind,
    /// How guests are run.
    pub accelerator: Accelerator,
    /// How host keys are known where a pipeline does not say.
    pub host_key: HostKey,
    /// The most virtual processors of one machine; `None` is what the host has.
    pub cpus: Option<u32>,
    /// The most memory of one machine in bytes; `None` is what the host has.
    pub memory: Option<u64>,
    /// The drivers that get a copy of each image that this one publishes.
    pub copy_to: Vec<DriverName>,
    /// What only a cloud has.
    pub cloud: CloudSettings,
}

/// What the configuration says of a cloud. What it leaves out, `clouds.yaml` or the environment may say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloudSettings {
    /// The file of clouds; `secure.yaml` lies beside it.
    pub clouds: Option<PathBuf>,
    /// Which of its clouds.
    pub cloud: Option<String>,
    /// The systemd credential that holds the file of clouds.
    pub credential: Option<String>,
    /// The region.
    pub region: Option<String>,
    /// Which of a service's addresses is used: `public`, `internal`, `admin`.
    pub interface: Option<&'static str>,
    /// The authorities that sign the cloud's certificates.
    pub ca: Option<PathBuf>,
    /// Addresses of services that count instead of the catalogue's, by `identity`, `compute`, `image`,
    /// `network`, `orchestration`.
    pub endpoints: Vec<(&'static str, String)>,
    /// The networks that machines are in, by id or name.
    pub networks: Vec<String>,
    /// The network of floating addresses.
    pub floating_network: Option<String>,
    /// Security groups by name.
    pub security_groups: Vec<String>,
    /// The flavor, by id or name.
    pub flavor: Option<String>,
    /// Where in the cloud machines are made.
    pub availability_zone: Option<String>,
    /// The port that guests answer SSH at.
    pub ssh_port: u16,
    /// Whether machines get what they are told by a disk, too.
    pub config_drive: bool,
    /// Who sees what is published: `private`, `shared`, `community`, `public`.
    pub visibility: &'static str,
}

/// The kinds of drivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriverKind {
    /// Embedded: QEMU on this host.
    Qemu,
    /// Servers and images of an OpenStack cloud.
    OpenStack,
}

/// How guests are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// By KVM if a guest really boots under it, else emulated.
    Auto,
    /// By KVM; without it builds fail.
    Kvm,
    /// Emulated.
    Tcg,
}

/// What a name of a base image stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    /// A file of the host.
    Path {
        /// The absolute path.
        path: PathBuf,
        /// Its format, declared and never probed.
        format: DiskFormat,
    },
    /// A download.
    Url {
        /// http or https.
        url: String,
        /// What its bytes must sum to.
        sha256: Digest,
        /// Its format, declared and never probed.
        format: DiskFormat,
    },
    /// Another name: an image's id or name, or a bundle.
    Image(String),
}

/// What may be used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Builds that run at once.
    pub builds: u32,
    /// Memory of all machines together in bytes; `None` leaves it to the host's size.
    pub memory: Option<u64>,
    /// Bytes that must stay free on the disk of the state directory; a build that would not leave them does not start.
    pub disk_free: u64,
    /// Bytes of one build's log.
    pub log: u64,
    /// Bytes of one push.
    pub push: u64,
}

/// Where a secret comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// A file that only the daemon can read.
    File(PathBuf),
    /// A credential that systemd passes to the service.
    Credential(String),
}

/// Where programs of repositories run on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// Whether host steps are refused where the sandbox does not work. Without it, authors are trusted with the host.
    pub required: bool,
}

/// What downloads may reach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Download {
    /// Private, link-local and loopback networks that are allowed.
    pub allow_private: Vec<Network>,
}

impl Download {
    /// Whether the configuration names this address as allowed although it is private.
    pub fn allows(&self, address: IpAddr) -> bool {
        self.allow_private.iter().any(|network| network.contains(address))
    }
}

/// A network: an address and how many of its bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u32,
}

impl Network {
    /// A network; `None` where an address of this kind has fewer bits.
    pub fn new(address: IpAddr, bits: u32) -> Option<Self> {
        let width = if address.is_ipv4() { 32 } else { 128 };
        (bits <= width).then_some(Self { address, bits })
    }

    /// Whether an address lies in it. An IPv4 address in IPv6's clothes counts as what it is.
    pub fn contains(&self, address: IpAddr) -> bool {
        let same = |a: u128, b: u128, width: u32| {
            let drop = width - self.bits;
            a.checked_shr(drop).unwrap_or(0) == b.checked_shr(drop).unwrap_or(0)
        };
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => same(a.to_bits().into(), b.to_bits().into(), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128),
            _ => false,
        }
    }
}

impl Settings {
    /// Reads the configuration: of `path`, which must be there, or of [`DEFAULT_FILE`] if it is, with its drop-ins.
    ///
    /// # Errors
    /// All faults of all files at once, or that a file can't be read.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        match path {
            Some(path) => Self::read(path, true),
            None => Self::read(Path::new(DEFAULT_FILE), false),
        }
    }

    fn read(path: &Path, required: bool) -> Result<Self, ConfigError> {
        let (merged, files) = fragment::read_all(path, required)?;
        let mut settings = checked::settings(merged)?;
        settings.files = files;
        Ok(settings)
    }
}

impl Default for Settings {
    /// What holds without any file: one repository that receives pushes, built with QEMU.
    fn default() -> Self {
        Self {
            files: Vec::new(),
            state_directory: "/var/lib/factoryd".into(),
            base_directories: Vec::new(),
            default_driver: "qemu".into(),
            server: Server { socket: "/run/factoryd/factoryd.sock".into(), group: "factory".into() },
            repositories: vec![Repository {
                name: "factory".into(),
                origin: Origin::Receive,
                branches: Vec::new(),
                poll: Duration::from_secs(60),
                network_full: Vec::new(),
            }],
            drivers: [("qemu".into(), DriverSettings::default())].into(),
            bases: BTreeMap::new(),
            limits: Limits::default(),
            // Thirty days: long enough to notice that an image was deprecated.
            retention: Retention { keep: 3, age: Some(30 * 24 * 60 * 60 * 1000) },
            secrets: BTreeMap::new(),
            sandbox: Sandbox { required: true },
            download: Download::default(),
        }
    }
}

impl Default for DriverSettings {
    fn default() -> Self {
        Self {
            kind: DriverKind::Qemu,
            accelerator: Accelerator::Auto,
            host_key: HostKey::Verified,
            cpus: None,
            memory: None,
            copy_to: Vec::new(),
            cloud: CloudSettings::default(),
        }
    }
}

impl Default for CloudSettings {
    fn default() -> Self {
        Self {
            clouds: None,
            cloud: None,
            credential: None,
            region: None,
            interface: None,
            ca: None,
            endpoints: Vec::new(),
            networks: Vec::new(),
            floating_network: None,
            security_groups: Vec::new(),
            flavor: None,
            availability_zone: None,
            ssh_port: 22,
            config_drive: true,
            visibility: "private",
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { builds: 2, memory: None, disk_free: 4 << 30, log: 64 << 20, push: 512 << 20 }
    }
}
