//! Makes the parts that the daemon wires together, from the configuration.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};

use super::cloud;
use crate::blocking;
use crate::config::{Accelerator, Base, DriverKind, DriverSettings, Origin, SecretSource, Settings};
use crate::domain::build::Moment;
use crate::domain::id::RepoName;
use crate::domain::pipeline::BaseImage;
use crate::engine::Parts;
use crate::engine::policy::{MachineLimits, Policy, RepositoryPolicy};
use crate::engine::ports::{Clock, Driver, LocalTime, PortError, Secret};
use crate::machine::host::SandboxedHost;
use crate::machine::openstack::{OpenStack, OpenStackSettings, Pace, Visibility};
use crate::machine::qemu::{AcceleratorChoice, AllowedInside, Qemu, QemuSettings};
use crate::machine::sandbox;
use crate::source::mirror::{self, Receiving};
use crate::source::poll::Polled;
use crate::source::repositories::GitRepositories;
use crate::store::{LogLimits, Store};

/// The largest base image that is taken, in bytes.
const LARGEST_BASE: u64 = 64 << 30;

/// The parts of a daemon.
pub(super) struct Opened {
    pub(super) engine: Parts,
    pub(super) paths: BTreeMap<RepoName, PathBuf>,
    pub(super) polled: Vec<Polled>,
}

/// Opens the store, the repositories and the drivers.
pub(super) async fn open(settings: &Settings) -> Result<Opened> {
    let settings = settings.clone();
    blocking::run(move || open_blocking(&settings)).await
}

fn open_blocking(settings: &Settings) -> Result<Opened> {
    let state = &settings.state_directory;
    std::fs::create_dir_all(state).with_context(|| format!("can't make the state directory {}", state.display()))?;
    let state = state.canonicalize()?;
    let limits = LogLimits { build: settings.limits.log, ..LogLimits::default() };
    let store = Store::open_with(&state, limits)?;
    let program = std::env::current_exe().context("can't find out where factoryd itself lies")?;
    let repositories = GitRepositories::new(state.join("repos"));
    let (paths, polled) = open_repositories(settings, &repositories, &program)?;
    let mut sandbox = sandbox::Settings::new(&state, program);
    sandbox.allow_without_sandbox = !settings.sandbox.required;
    // Machines run as whoever programs of a repository run as: a guest has no more business with root than they have.
    let run_as = sandbox.owner().map_err(|error| anyhow!("{error}; {}", error.help))?;
    let drivers = settings
        .drivers
        .iter()
        .map(|(name, driver)| make_driver(settings, &state, run_as, name.clone(), driver))
        .collect::<Result<Vec<Arc<dyn Driver>>>>()?;
    let engine = Parts {
        store,
        repositories: Arc::new(repositories),
        drivers,
        host: Arc::new(SandboxedHost::new(sandbox)),
        clock: Arc::new(SystemClock),
        policy: policy(settings, &state)?,
    };
    Ok(Opened { engine, paths, polled })
}

fn open_repositories(
    settings: &Settings,
    repositories: &GitRepositories,
    program: &std::path::Path,
) -> Result<(BTreeMap<RepoName, PathBuf>, Vec<Polled>)> {
    let receiving = Receiving {
        max_input: settings.limits.push,
        factoryd: program.to_path_buf(),
        socket: settings.server.socket.clone(),
    };
    let (mut paths, mut polled) = (BTreeMap::new(), Vec::new());
    for repository in &settings.repositories {
        let name = repository.name.clone();
        let (path, url) = match &repository.origin {
            Origin::Receive => (mirror::prepare_receiving(repositories, &name, &receiving), None),
            Origin::Url(url) => (mirror::prepare_mirror(repositories, &name), Some(url.clone())),
        };
        let path = path.map_err(|error| anyhow!("repository {name}: {error}; {}", error.help))?;
        polled.push(Polled { name: name.clone(), path: path.clone(), url, every: repository.poll });
        paths.insert(name, path);
    }
    Ok((paths, polled))
}

fn make_driver(
    settings: &Settings,
    state: &std::path::Path,
    run_as: Option<(u32, u32)>,
    name: crate::domain::id::DriverName,
    driver: &DriverSettings,
) -> Result<Arc<dyn Driver>> {
    let told = |error: PortError| anyhow!("driver {name}: {error}; {}", error.help);
    let maker = qemu_settings(settings, state, run_as, name.clone(), driver);
    match driver.kind {
        DriverKind::Qemu => Ok(Arc::new(Qemu::new(maker).map_err(told)?)),
        DriverKind::OpenStack => {
            let made = openstack_settings(state, name.clone(), driver, maker);
            let made = made.with_context(|| format!("driver {name}"))?;
            Ok(Arc::new(OpenStack::new(made).map_err(told)?))
        }
    }
}

fn qemu_settings(
    settings: &Settings,
    state: &std::path::Path,
    run_as: Option<(u32, u32)>,
    name: crate::domain::id::DriverName,
    driver: &DriverSettings,
) -> QemuSettings {
    QemuSettings {
        name,
        state_dir: state.to_path_buf(),
        accelerator: match driver.accelerator {
            Accelerator::Auto => AcceleratorChoice::Auto,
            Accelerator::Kvm => AcceleratorChoice::Kvm,
            Accelerator::Tcg => AcceleratorChoice::Tcg,
        },
        private_downloads: {
            let download = settings.download.clone();
            AllowedInside::new(move |address| download.allows(address))
        },
        largest_base: LARGEST_BASE,
        disk_free: settings.limits.disk_free,
        run_as,
    }
}

fn openstack_settings(
    state: &std::path::Path,
    name: crate::domain::id::DriverName,
    driver: &DriverSettings,
    maker: QemuSettings,
) -> Result<OpenStackSettings> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let cloud = &driver.cloud;
    let (credentials, authorities) = cloud::credentials(cloud, &variable)?;
    // As the profile of a factory that Jenkins runs has them.
    let or = |named: &[String], name: &str| match named {
        [] => variable(name).into_iter().collect(),
        named => named.to_vec(),
    };
    Ok(OpenStackSettings {
        directory: state.join("cloud").join(name.as_str()),
        name,
        credentials,
        authorities,
        networks: or(&cloud.networks, "FACTORY_NETWORK_ID"),
        floating_network: cloud.floating_network.clone(),
        security_groups: or(&cloud.security_groups, "FACTORY_SECURITY_GROUP_NAME"),
        flavor: cloud.flavor.clone(),
        availability_zone: cloud.availability_zone.clone(),
        config_drive: cloud.config_drive,
        visibility: Visibility::ALL.into_iter().find(|known| known.word() == cloud.visibility).unwrap_or_default(),
        pace: Pace::default(),
        ssh_port: cloud.ssh_port,
        maker,
    })
}

fn policy(settings: &Settings, state: &std::path::Path) -> Result<Policy> {
    // What a cloud's machines have is the cloud's.
    let driver = settings.drivers.get(&settings.default_driver);
    let is_here = driver.is_none_or(|driver| driver.kind == DriverKind::Qemu);
    Ok(Policy {
        repositories: settings
            .repositories
            .iter()
            .map(|repository| RepositoryPolicy {
                name: repository.name.clone(),
                tracked: repository.branches.clone(),
                network_full: repository.network_full.iter().map(ToString::to_string).collect(),
            })
            .collect(),
        driver: settings.default_driver.clone(),
        copies: driver.map(|driver| driver.copy_to.clone()).unwrap_or_default(),
        aliases: settings.bases.iter().map(|(name, base)| (name.clone(), base_image(base))).collect(),
        base_directories: settings.base_directories.clone(),
        memory: settings.limits.memory.or_else(|| if is_here { most_memory() } else { None }),
        machine: settings.drivers.get(&settings.default_driver).map(machine_limits).unwrap_or_default(),
        slots: usize::try_from(settings.limits.builds).unwrap_or(usize::MAX),
        disk_free: settings.limits.disk_free,
        secrets: settings
            .secrets
            .iter()
            .map(|(name, source)| Ok((name.clone(), secret(name, source)?)))
            .collect::<Result<_>>()?,
        keep: settings.retention.keep,
        keep_for: settings.retention.age.map(Duration::from_millis),
        scratch: state.join("scratch"),
    })
}

/// What machines may have together where the configuration does not say: three quarters of the host's memory, in bytes.
fn most_memory() -> Option<u64> {
    let told = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kib: u64 =
        told.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib / 4 * 3 * 1024)
}

fn machine_limits(driver: &DriverSettings) -> MachineLimits {
    MachineLimits { cpus: driver.cpus, memory: driver.memory, host_key: driver.host_key }
}

fn base_image(base: &Base) -> BaseImage {
    match base {
        Base::Path { path, format } => BaseImage::Path { path: path.display().to_string(), format: *format },
        Base::Url { url, sha256, format } => BaseImage::Url { url: url.clone(), sha256: *sha256, format: *format },
        Base::Image(name) => BaseImage::Named(name.clone()),
    }
}

/// Read once, at start; a changed secret is read at the next.
fn secret(name: &str, source: &SecretSource) -> Result<Secret> {
    let path = match source {
        SecretSource::File(path) => path.clone(),
        SecretSource::Credential(credential) => {
            let directory = std::env::var_os("CREDENTIALS_DIRECTORY")
                .ok_or_else(|| anyhow!("secret {name} is a credential, and systemd passed none to this process"))?;
            PathBuf::from(directory).join(credential)
        }
    };
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("secret {name} can't be read from {}", path.display()))?;
    Ok(Secret(text.trim_end_matches('\n').to_owned()))
}

/// The group's number, where there is such a group.
pub(super) fn group(name: &str) -> Option<u32> {
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
    })
}

/// The time of this machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Moment {
        Moment(jiff::Timestamp::now().as_millisecond())
    }

    fn local(&self, at: Moment) -> LocalTime {
        let stamp = jiff::Timestamp::from_millisecond(at.0).unwrap_or_default();
        let local = stamp.to_zoned_datetime(jiff::tz::TimeZone::system());
        LocalTime {
            year: local.year(),
            month: local.month().unsigned_abs(),
            day: local.day().unsigned_abs(),
            hour: local.hour().unsigned_abs(),
            minute: local.minute().unsigned_abs(),
            second: local.second().unsigned_abs(),
        }
    }
}
