//! The embedded driver: machines are QEMU processes of this host, disks are qcow2 files below one directory.
//!
//! Everything outside goes through [`super::process`] and [`super::ssh`]; which file means which disk is `disks`'s.

mod accelerator;
mod args;
mod base;
mod boot;
pub(in crate::machine) mod disks;
mod download;
mod machine;
mod publish;
pub(in crate::machine) mod qcow2;
mod qmp;
mod recipe;
mod room;
mod rootfs;
mod unprivileged;
mod vm;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::AsyncRead;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::accelerator::Accelerator;
pub use self::accelerator::AcceleratorChoice;
use self::disks::Disks;
pub use self::download::AllowedInside;
use self::room::Room;
use super::lines::Nowhere;
use super::making::Making;
use super::process::{Program, Tag};
use super::reap;
use crate::blocking;
use crate::domain::id::{BuildNo, DiskId, DriverName};
use crate::domain::image::ImageCopy;
use crate::engine::ports::{
    Base, BaseSource, DiskUse, Driver, ImageOrder, Lines, Machine, MachineOrder, PortError, PublishedCopy, Wait,
};

/// How long a question to a program on the host may take.
const QUESTION: Duration = Duration::from_secs(20);
/// How long settings may take to be found: the first time, a guest is booted for them.
const SETTINGS: Duration = Duration::from_secs(180);

/// What the configuration says of the driver.
#[derive(Clone, Debug)]
pub struct QemuSettings {
    /// Its name in the configuration.
    pub name: DriverName,
    /// Where it keeps its disks and machines: an absolute path of at most 60 bytes. One daemon at a time may use it.
    pub state_dir: PathBuf,
    /// What machines run on.
    pub accelerator: AcceleratorChoice,
    /// Loopback, private and link-local addresses that base images may come from all the same.
    pub private_downloads: AllowedInside,
    /// The largest base image that is taken, in bytes.
    pub largest_base: u64,
    /// Bytes that stay free on the disk of the state directory when a base image is made.
    pub disk_free: u64,
    /// The user and group that QEMU changes to once its files are open; for a daemon that is root. Where directories on
    /// the way to the state directory do not let that user through, QEMU stays what the daemon is, and a warning says so.
    pub run_as: Option<(u32, u32)>,
}

/// The embedded driver.
#[derive(Debug)]
pub struct Qemu {
    settings: QemuSettings,
    disks: Disks,
    room: Room,
    accelerator: Mutex<Option<Accelerator>>,
    making: Making,
}

impl Qemu {
    /// Opens the state directory, and removes what an earlier daemon left of work for base images. Blocks.
    ///
    /// # Errors
    /// When the directory can't be used.
    pub fn new(mut settings: QemuSettings) -> Result<Self, PortError> {
        let state = &settings.state_dir;
        let length = state.as_os_str().len();
        if !state.is_absolute() || state.to_str().is_none() || length > 60 {
            return Err(PortError::refused(format!("the state directory {} can't be used", state.display()))
                .help("it must be an absolute path in UTF-8 of at most 60 bytes, since sockets lie below it"));
        }
        let disks = Disks::open(state)?;
        reap::kill(&Tag::shared(state))?;
        for left in std::fs::read_dir(disks.work()).into_iter().flatten().flatten().map(|entry| entry.path()) {
            // Parts of downloads stay: they are continued.
            if left.is_dir() {
                disks::remove_directory(&left)?;
            } else if left.extension().is_none_or(|extension| extension != "part") {
                std::fs::remove_file(&left).map_err(|error| disks::trouble("removed", &left, &error))?;
            }
        }
        let room = Room::on(state, settings.disk_free);
        settings.run_as = unprivileged::usable(settings.run_as, &disks)?;
        Ok(Self { settings, disks, room, accelerator: Mutex::default(), making: Making::default() })
    }

    /// The file of a disk that is here.
    pub(in crate::machine) fn file_of(&self, disk: &DiskId) -> Result<PathBuf, PortError> {
        self.disks.existing(disk).map(|(file, _)| file)
    }

    /// Removes a base image from this host, where it is here.
    pub(in crate::machine) async fn drop_base(&self, disk: &DiskId) -> Result<(), PortError> {
        let (disks, disk) = (self.disks.clone(), disk.clone());
        blocking::run(move || match disk.as_str().starts_with("base-") {
            true => disks.remove(&disk),
            false => Ok(()),
        })
        .await
    }

    /// QEMU's version: `10.0.2`.
    async fn version(&self, wait: &Wait) -> Result<String, PortError> {
        let tag = Tag::shared(&self.settings.state_dir);
        let text = Program::new(args::PROGRAM, &tag).arg("--version").read(4096, wait).await?;
        let text = String::from_utf8_lossy(&text);
        let version = text.split_whitespace().skip_while(|word| *word != "version").nth(1);
        version.map(str::to_owned).ok_or_else(|| PortError::unavailable(format!("QEMU's version is not in {text:?}")))
    }

    /// Any base image, to find out with whether KVM works.
    fn any_base(&self) -> Result<Option<DiskId>, PortError> {
        Ok(self.disks.all()?.into_iter().map(|(disk, _)| disk).find(|disk| disk.as_str().starts_with("base-")))
    }
}

fn own_wait(limit: Duration) -> Wait {
    Wait { cancel: CancellationToken::new(), deadline: Instant::now() + limit }
}

#[async_trait]
impl Driver for Qemu {
    fn name(&self) -> &DriverName {
        &self.settings.name
    }

    /// Asked before any base image was made, it can't say whether KVM works, and fails; so make the base first.
    async fn settings(&self) -> Result<Vec<(String, String)>, PortError> {
        let wait = own_wait(SETTINGS);
        let version = self.version(&wait).await?;
        let quiet: Lines = Arc::new(Nowhere);
        let accelerator = self.accelerator(self.any_base()?.as_ref(), &quiet, &wait).await?;
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        Ok(vec![
            pair("accelerator", accelerator.word()),
            pair("cpu", accelerator.processor()),
            pair("machine", args::MACHINE),
            pair("qemu", &version),
        ])
    }

    async fn health(&self) -> Result<String, PortError> {
        let wait = own_wait(QUESTION);
        let version = self.version(&wait).await?;
        let tag = Tag::shared(&self.settings.state_dir);
        Program::new("qemu-img", &tag).arg("--version").read(64 * 1024, &wait).await?;
        let on = match self.accelerator.try_lock().map(|decided| *decided) {
            Ok(Some(accelerator)) => accelerator.word().to_owned(),
            _ => accelerator::remembered(&self.settings.state_dir).map_or_else(
                || "accelerator not known yet".to_owned(),
                |finding| finding.accelerator.word().to_owned(),
            ),
        };
        Ok(format!("QEMU {version}, {on}"))
    }

    async fn base(&self, source: &BaseSource, lines: &Lines, wait: &Wait) -> Result<Base, PortError> {
        let base = self.make_base(source, lines, wait).await?;
        self.accelerator(Some(&base.disk), lines, wait).await?;
        Ok(base)
    }

    async fn boot(&self, order: &MachineOrder, lines: &Lines, wait: &Wait) -> Result<Box<dyn Machine>, PortError> {
        Ok(Box::new(self.boot_machine(order, lines, wait).await?))
    }

    async fn publish(
        &self,
        disk: &DiskId,
        keep: &DiskId,
        order: &ImageOrder,
        lines: &Lines,
        wait: &Wait,
    ) -> Result<PublishedCopy, PortError> {
        self.publish_disk(disk, keep, order, lines, wait).await
    }

    async fn amend(&self, copy: &ImageCopy, order: &ImageOrder) -> Result<(), PortError> {
        let (disks, disk, order) = (self.disks.clone(), copy.disk.clone(), order.clone());
        blocking::run(move || publish::describe(&disks, &disk, &order)).await
    }

    async fn has(&self, disk: &DiskId) -> Result<bool, PortError> {
        self.disks.has(disk)
    }

    async fn disks(&self) -> Result<Vec<(DiskId, u64)>, PortError> {
        self.disks.all()
    }

    async fn read(&self, disk: &DiskId) -> Result<Box<dyn AsyncRead + Send + Unpin>, PortError> {
        let (file, _) = self.disks.existing(disk)?;
        let opened = std::fs::File::open(&file).map_err(|error| disks::trouble("opened", &file, &error))?;
        Ok(Box::new(tokio::fs::File::from_std(opened)))
    }

    async fn disk_use(&self) -> Result<Option<DiskUse>, PortError> {
        let (disks, room) = (self.disks.clone(), self.room.clone());
        blocking::run(move || Ok(Some(DiskUse { free: room.free()?, written: disks.written()? }))).await
    }

    async fn remove(&self, disk: &DiskId) -> Result<(), PortError> {
        let (disks, disk) = (self.disks.clone(), disk.clone());
        blocking::run(move || disks.remove(&disk)).await
    }

    async fn tidy(&self) -> Result<(usize, u64), PortError> {
        let (making, work) = (self.making.clone(), self.disks.work());
        blocking::run(move || download::sweep(&work, &making)).await
    }

    async fn release(&self, build: BuildNo) -> Result<usize, PortError> {
        let (tag, directory) = (Tag::build(&self.settings.state_dir, build), self.disks.of_build(build));
        blocking::run(move || {
            let processes = reap::kill(&tag)?;
            let machines = std::fs::read_dir(&directory).map_or(0, |entries| entries.flatten().count());
            disks::remove_directory(&directory)?;
            Ok(processes.max(machines))
        })
        .await
    }

    async fn tagged(&self) -> Result<Vec<BuildNo>, PortError> {
        let (state, machines) = (self.settings.state_dir.clone(), self.disks.machines());
        blocking::run(move || {
            let mut owners = reap::owners(&state)?;
            let entries = std::fs::read_dir(&machines).map_err(|error| disks::trouble("listed", &machines, &error))?;
            owners.extend(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()));
            let mut builds: Vec<BuildNo> = owners.iter().filter_map(|owner| owner.parse().ok().map(BuildNo)).collect();
            builds.sort();
            Ok(builds)
        })
        .await
    }
}
