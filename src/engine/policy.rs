//! What the configuration lets the engine do, already checked.

use std::path::PathBuf;
use std::time::Duration;

use super::ports::Secret;
use crate::domain::id::{Branch, DriverName, RepoName};
use crate::domain::pipeline::{BaseImage, HostKey};

/// The engine's part of the configuration.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The repositories, in the order of the configuration.
    pub repositories: Vec<RepositoryPolicy>,
    /// The driver that builds.
    pub driver: DriverName,
    /// The drivers that get a copy of each image that is published.
    pub copies: Vec<DriverName>,
    /// Names of base images and what they stand for.
    pub aliases: Vec<(String, BaseImage)>,
    /// Directories below which base images may be taken by path.
    pub base_directories: Vec<PathBuf>,
    /// How many builds run at once.
    pub slots: usize,
    /// Bytes of memory that the machines of all builds may have together; `None` is no limit.
    pub memory: Option<u64>,
    /// What one machine may have.
    pub machine: MachineLimits,
    /// Bytes of disk that a build must leave free, or it does not start.
    pub disk_free: u64,
    /// Secrets that host steps may name.
    pub secrets: Vec<(String, Secret)>,
    /// How many images of a bundle stay published, besides the served and the pinned.
    pub keep: usize,
    /// How long an image stays published that is neither served nor pinned.
    pub keep_for: Option<Duration>,
    /// Where scratch files of builds lie.
    pub scratch: PathBuf,
}

/// What the configuration says of every machine of the driver.
#[derive(Clone, Copy, Debug, Default)]
pub struct MachineLimits {
    /// The most virtual processors.
    pub cpus: Option<u32>,
    /// The most memory in bytes.
    pub memory: Option<u64>,
    /// How host keys are known where a pipeline does not ask for more.
    pub host_key: HostKey,
}

/// What the configuration says of a repository.
#[derive(Clone, Debug)]
pub struct RepositoryPolicy {
    /// Its name.
    pub name: RepoName,
    /// The branches that publish; empty means the one that HEAD names.
    pub tracked: Vec<Branch>,
    /// Pipeline files whose host steps may say `network: full`.
    pub network_full: Vec<String>,
}

impl Policy {
    /// The policy of a repository.
    pub fn repository(&self, name: &RepoName) -> Option<&RepositoryPolicy> {
        self.repositories.iter().find(|repository| repository.name == *name)
    }
}
