//! A machine of the embedded driver: its guest, how it is sealed, how it is taken away.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::disks::Disks;
use super::vm::{State, Vm};
use crate::domain::id::DiskId;
use crate::engine::ports::{Access, Exit, Guest, Lines, Machine, PortError, PortErrorKind, SealedDisk, Wait};
use crate::machine::seal;
use crate::machine::ssh::SshSession;

/// How long a guest may take to shut down. systemd gives a service that hangs 90 seconds before it kills it.
const SHUTDOWN: Duration = Duration::from_secs(150);
/// How long is waited for QEMU's end before a lost connection is explained.
const EXPLAIN: Duration = Duration::from_secs(3);

/// The file of a machine's own layer, and of the one that is attached.
pub(super) const LAYER: &str = "disk.qcow2";
pub(super) const ATTACHED_LAYER: &str = "attached.qcow2";
/// The serial number of an attached disk.
pub(super) const SERIAL: &str = "factoryd-attached";

/// A machine under way.
#[derive(Debug)]
pub(super) struct QemuMachine {
    guest: QemuGuest,
    access: Access,
    place: Place,
}

/// Where a machine has its disks.
#[derive(Debug)]
pub(super) struct Place {
    /// Its directory, with the writable layer as `disk.qcow2`, and the attached one as `attached.qcow2`.
    pub(super) directory: PathBuf,
    pub(super) disks: Disks,
    /// The disk that its own layer lies on.
    pub(super) backing: DiskId,
    /// The disk that the attached layer lies on.
    pub(super) attached: Option<DiskId>,
}

/// A guest whose errors say what became of its machine.
#[derive(Debug)]
struct QemuGuest {
    session: SshSession,
    vm: Arc<Vm>,
}

impl QemuMachine {
    pub(super) fn new(session: SshSession, vm: Vm, access: Access, place: Place) -> Self {
        Self { guest: QemuGuest { session, vm: Arc::new(vm) }, access, place }
    }

    async fn shut_down(&self, lines: &Lines, wait: &Wait) -> Result<(), PortError> {
        seal::power_off(&self.guest.session, &self.access.user, lines, wait).await?;
        let ended = wait.within(SHUTDOWN).run("shutting the guest down", self.guest.vm.ended()).await;
        ended.map_err(|error| error.help(self.guest.vm.console.last()))?;
        match self.guest.vm.state() {
            State::Ended(Exit::Code(0), _) => Ok(()),
            state => Err(PortError::failed(format!("the guest was not shut down cleanly: {state:?}"))),
        }
    }
}

#[async_trait]
impl Machine for QemuMachine {
    fn access(&self) -> &Access {
        &self.access
    }

    fn guest(&self) -> &dyn Guest {
        &self.guest
    }

    async fn seal(&mut self, keep: &DiskId, lines: &Lines, wait: &Wait) -> Result<SealedDisk, PortError> {
        self.place.disks.refuse_if_there(keep)?;
        seal::remove_identity(&self.guest, &self.access.user, lines, wait).await?;
        self.shut_down(lines, wait).await?;
        let kept = self.place.keep(LAYER, &self.place.backing, keep).await?;
        self.destroy().await?;
        Ok(kept)
    }

    fn attached(&self) -> Option<&str> {
        self.place.attached.as_ref().map(|_| SERIAL)
    }

    async fn keep_attached(&mut self, keep: &DiskId, lines: &Lines, wait: &Wait) -> Result<SealedDisk, PortError> {
        let Some(backing) = self.place.attached.clone() else {
            return Err(PortError::refused("no disk is attached to the machine"));
        };
        self.place.disks.refuse_if_there(keep)?;
        self.shut_down(lines, wait).await?;
        let kept = self.place.keep(ATTACHED_LAYER, &backing, keep).await?;
        self.destroy().await?;
        Ok(kept)
    }

    async fn destroy(&mut self) -> Result<(), PortError> {
        self.guest.vm.kill().await;
        self.place.disks.remove_of_build(&self.place.directory)
    }
}

impl Place {
    /// Keeps a layer of a machine that has ended.
    async fn keep(&self, layer: &str, backing: &DiskId, keep: &DiskId) -> Result<SealedDisk, PortError> {
        let bytes = self.disks.keep_layer(&self.directory.join(layer), keep).await?;
        Ok(SealedDisk { disk: keep.clone(), bytes, backing: self.disks.chain(backing)? })
    }
}

impl QemuGuest {
    /// Says what became of the machine, where that is why the connection was lost.
    async fn explain(&self, error: PortError, what: &str) -> PortError {
        if !matches!(error.kind, PortErrorKind::Unavailable | PortErrorKind::Lost) {
            return error;
        }
        match tokio::time::timeout(EXPLAIN, self.vm.over()).await {
            Ok(State::Ended(Exit::Code(0), _)) => PortError::failed(format!("the guest powered off during {what}"))
                .help(format!("a step must not power its machine off: sealing does; {}", self.vm.console.last())),
            Ok(State::Ended(exit, said)) => {
                PortError::unavailable(format!("QEMU ended during {what} with {exit}: {said}"))
                    .help(self.vm.console.last())
            }
            Ok(State::Stuck(event)) => self.stood_still(&event, what),
            Ok(State::Running) | Err(_) => {
                let help = format!("{}; {}", error.help, self.vm.console.last());
                error.help(help)
            }
        }
    }

    /// A guest whose processors were stopped: nobody lets them go on.
    fn stood_still(&self, event: &str, what: &str) -> PortError {
        let error = PortError::unavailable(format!("the guest stood still during {what}: {event}"));
        match event.starts_with("BLOCK_IO_ERROR") {
            true => error.help("its disk can't be written on the factory host: make room (factoryd gc, a larger disk)"),
            false => error.help(self.vm.console.last()),
        }
    }
}

#[async_trait]
impl Guest for QemuGuest {
    async fn run(
        &self,
        command: &str,
        env: &[(String, String)],
        lines: &Lines,
        wait: &Wait,
    ) -> Result<Exit, PortError> {
        tokio::select! {
            biased;
            ended = self.session.run(command, env, lines, wait) => match ended {
                Ok(exit) => Ok(exit),
                Err(error) => Err(self.explain(error, "a command").await),
            },
            event = self.vm.stuck() => Err(self.stood_still(&event, "a command")),
        }
    }

    async fn upload(&self, from: &Path, to: &str, mode: Option<u32>, wait: &Wait) -> Result<(), PortError> {
        match self.session.upload(from, to, mode, wait).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.explain(error, "the copying of files").await),
        }
    }
}
