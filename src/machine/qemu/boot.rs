//! From an order to a machine whose SSH runs commands, and the question whether KVM works.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Qemu;
use super::accelerator::{self, Accelerator, Finding, Known};
use super::args::Hardware;
use super::disks::{remove_directory, trouble};
use super::machine::{ATTACHED_LAYER, LAYER, Place, QemuMachine, SERIAL};
use super::unprivileged;
use super::vm::{State, Vm};
use crate::domain::id::DiskId;
use crate::domain::pipeline::{HostKey, Placement};
use crate::engine::ports::{Access, Lines, MachineOrder, PortError, PortErrorKind, Wait};
use crate::machine::console::{Console, GuestKey};
use crate::machine::keys::Keys;
use crate::machine::lines::Nowhere;
use crate::machine::process::{Program, Tag};
use crate::machine::ssh::{self, SshSession, SshTarget};

/// What a machine is made of, for a build or for a question.
struct Plan<'a> {
    name: String,
    accelerator: Accelerator,
    order: &'a MachineOrder,
    directory: PathBuf,
    tag: Tag,
}

impl Qemu {
    pub(super) async fn boot_machine(
        &self,
        order: &MachineOrder,
        lines: &Lines,
        wait: &Wait,
    ) -> Result<QemuMachine, PortError> {
        check(order)?;
        let accelerator = self.accelerator(Some(&order.disk), lines, wait).await?;
        let directory = self.disks.of_build(order.build).join(&order.role);
        let name = format!("factoryd-{}-{}", order.build.0, order.role);
        let tag = Tag::build(&self.settings.state_dir, order.build);
        let plan = Plan { name, accelerator, order, directory, tag };
        let booted = self.boot_plan(&plan, wait).await;
        if booted.is_err() {
            self.disks.remove_of_build(&plan.directory)?;
        }
        booted
    }

    async fn boot_plan(&self, plan: &Plan<'_>, wait: &Wait) -> Result<QemuMachine, PortError> {
        let (vm, keys) = self.start(plan, wait).await?;
        let trust =
            GuestKey { given: keys.host_key().to_owned(), console: vm.console.clone(), policy: plan.order.host_key };
        let target = SshTarget {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, vm.forward(22)?)),
            user: plan.order.user.clone(),
            key: keys.login_key().to_owned(),
            trust: Arc::new(trust),
            terminal: plan.order.terminal,
        };
        let mut session = ready(&vm, target, &wait.within(plan.order.ready_within)).await;
        if plan.order.attach.is_some()
            && session.is_ok()
            && let Err(error) = vm.plug(SERIAL, wait).await
        {
            session = Err(error);
        }
        let session = match session {
            Ok(session) => session,
            Err(error) => {
                vm.kill().await;
                return Err(error);
            }
        };
        let ports =
            plan.order.ports.iter().map(|port| Ok((*port, vm.forward(*port)?))).collect::<Result<_, PortError>>()?;
        let access = Access {
            host: Ipv4Addr::LOCALHOST.to_string(),
            port: vm.forward(22)?,
            user: plan.order.user.clone(),
            key: keys.login_file.clone(),
            host_key: session.host_key().to_owned(),
            ports,
        };
        let place = Place {
            directory: plan.directory.clone(),
            disks: self.disks.clone(),
            backing: plan.order.disk.clone(),
            attached: plan.order.attach.clone(),
        };
        Ok(QemuMachine::new(session, vm, access, place))
    }

    /// Makes the machine's directory with all that QEMU is given, and starts it.
    async fn start(&self, plan: &Plan<'_>, wait: &Wait) -> Result<(Vm, Keys), PortError> {
        let (order, directory) = (plan.order, &plan.directory);
        self.make_directory(directory)?;
        let (layer, attached) = (directory.join(LAYER), directory.join(ATTACHED_LAYER));
        self.lay(&order.disk, &layer, order.disk_size, &plan.tag, wait).await?;
        if let Some(disk) = &order.attach {
            self.lay(disk, &attached, None, &plan.tag, wait).await?;
        }
        let keys = Keys::make(directory, &plan.tag, wait).await?;
        let (credential, seed) = (directory.join("credential"), directory.join("seed"));
        write(&credential, &keys.credential(&order.user))?;
        std::fs::create_dir(&seed).map_err(|error| trouble("made", &seed, &error))?;
        for (name, content) in keys.seed(&order.user, order.build, &order.role) {
            write(&seed.join(name), &content)?;
        }
        self.give_to_qemu(&seed)?;
        let console = Console::create(&order.console)?;
        let run_as = match self.settings.run_as {
            Some(user) => Some(unprivileged::option(&self.version(wait).await?, user)),
            None => None,
        };
        let hardware = Hardware {
            name: &plan.name,
            accelerator: plan.accelerator,
            cpus: order.cpus,
            memory: order.memory,
            disk: &layer,
            attached: order.attach.as_ref().map(|_| attached.as_path()),
            seed: &seed,
            credential: &credential,
            qmp: &directory.join("qmp"),
            ports: &order.ports,
            run_as,
        };
        let vm = Vm::start(&hardware, directory, console, &plan.tag, wait).await?;
        Ok((vm, keys))
    }

    /// A directory that is the daemon's alone. One that is there belongs to a machine that was not taken away.
    fn make_directory(&self, directory: &Path) -> Result<(), PortError> {
        use std::os::unix::fs::DirBuilderExt;
        if directory.exists() {
            return Err(PortError::refused(format!("there is a machine in {} already", directory.display()))
                .help("destroy it, or release its build, before another is made in its role"));
        }
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|error| trouble("made", directory, &error))?;
        if self.settings.run_as.is_none() {
            return Ok(());
        }
        let ours = |above: &&Path| above.starts_with(self.disks.machines()) || above.starts_with(self.disks.work());
        directory.ancestors().take_while(ours).try_for_each(unprivileged::open)
    }

    fn give_to_qemu(&self, seed: &Path) -> Result<(), PortError> {
        let Some((user, group)) = self.settings.run_as else { return Ok(()) };
        let names = std::fs::read_dir(seed).map_err(|error| trouble("listed", seed, &error))?;
        let files = names.flatten().map(|entry| entry.path());
        for path in files.chain([seed.to_owned()]) {
            std::os::unix::fs::chown(&path, Some(user), Some(group))
                .map_err(|error| trouble("given to QEMU's user", &path, &error))?;
        }
        Ok(())
    }

    /// Lays a writable layer on a disk, which stays as it is.
    async fn lay(
        &self,
        disk: &DiskId,
        layer: &Path,
        size: Option<u64>,
        tag: &Tag,
        wait: &Wait,
    ) -> Result<(), PortError> {
        let (file, header) = self.disks.existing(disk)?;
        if let Some(size) = size.filter(|size| *size < header.virtual_size) {
            let (size, base) = (size >> 20, header.virtual_size >> 20);
            let message = format!("a disk of {size} MiB is smaller than its base image of {base} MiB");
            return Err(PortError::failed(message).help("make `boot.disk` larger, or leave it out"));
        }
        let program = Program::new("qemu-img", tag)
            .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"])
            .arg(file)
            .arg(layer);
        let program = size.into_iter().fold(program, |program, size| program.arg(size.to_string()));
        program.check(&(Arc::new(Nowhere) as Lines), wait).await
    }

    /// Which accelerator machines run on. Without an answer yet, a disk is booted to find out; without a disk, it is an
    /// error.
    pub(super) async fn accelerator(
        &self,
        disk: Option<&DiskId>,
        lines: &Lines,
        wait: &Wait,
    ) -> Result<Accelerator, PortError> {
        let lock = async { Ok(self.accelerator.lock().await) };
        let mut decided = wait.run("waiting for the accelerator to be found out", lock).await?;
        if let Some(accelerator) = *decided {
            return Ok(accelerator);
        }
        let (state, qemu, host_boot) = (&self.settings.state_dir, self.version(wait).await?, accelerator::host_boot());
        let remembered = accelerator::remembered(state);
        let known = accelerator::known(
            self.settings.accelerator,
            accelerator::device(),
            remembered.as_ref(),
            &qemu,
            &host_boot,
        )?;
        let accelerator = match (known, disk) {
            (Known::Is(accelerator), _) => accelerator,
            (Known::MustProbe, None) => {
                return Err(PortError::unavailable("whether KVM works is not known yet")
                    .help("it is found out with the first base image: ask for the settings after it was made"));
            }
            (Known::MustProbe, Some(disk)) => {
                lines.line(b"finding out whether KVM works, with this base image (once per start of the host)");
                let (accelerator, reason) = self.probe(disk, wait).await?;
                lines.line(format!("machines run on {}: {reason}", accelerator.word()).as_bytes());
                accelerator::remember(state, &Finding { qemu, host_boot, accelerator, reason })?;
                accelerator
            }
        };
        *decided = Some(accelerator);
        Ok(accelerator)
    }

    /// Boots a disk under KVM until its sshd says hello.
    async fn probe(&self, disk: &DiskId, wait: &Wait) -> Result<(Accelerator, String), PortError> {
        let directory = self.disks.work().join(format!("kvm-{}", uuid::Uuid::new_v4().simple()));
        let order = MachineOrder {
            build: crate::domain::id::BuildNo(0),
            role: "probe".to_owned(),
            disk: disk.clone(),
            cpus: 1,
            memory: 1 << 30,
            disk_size: None,
            attach: None,
            user: "root".to_owned(),
            host_key: HostKey::FirstSeen,
            terminal: false,
            ports: Vec::new(),
            ready_within: accelerator::PROBE,
            console: directory.with_extension("console"),
            placement: Placement::default(),
        };
        let name = "factoryd-probe".to_owned();
        let tag = Tag::shared(&self.settings.state_dir);
        let plan = Plan { name, accelerator: Accelerator::Kvm, order: &order, directory: directory.clone(), tag };
        let greeted = self.greets(&plan, wait).await;
        remove_directory(&directory)?;
        // Without the file nothing is left to remove.
        let _gone = std::fs::remove_file(&order.console);
        match greeted {
            Ok(()) => Ok((Accelerator::Kvm, "a guest came up under KVM".to_owned())),
            Err(error) if error.kind == PortErrorKind::Cancelled || wait.deadline <= tokio::time::Instant::now() => {
                Err(error)
            }
            Err(error) => {
                Ok((Accelerator::Tcg, format!("under KVM: {}", error.message.lines().next().unwrap_or_default())))
            }
        }
    }

    async fn greets(&self, plan: &Plan<'_>, wait: &Wait) -> Result<(), PortError> {
        let (vm, _) = self.start(plan, wait).await?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, vm.forward(22)?));
        let wait = wait.within(plan.order.ready_within);
        let greeted = tokio::select! {
            biased;
            over = vm.over() => Err(PortError::failed(format!("the guest did not come up: {over:?}"))),
            greeted = ssh::greets(address, &wait) => greeted,
        };
        vm.kill().await;
        greeted
    }
}

/// Waits for SSH, and no longer than QEMU lives.
async fn ready(vm: &Vm, target: SshTarget, wait: &Wait) -> Result<SshSession, PortError> {
    tokio::select! {
        biased;
        over = vm.over() => Err(match over {
            State::Stuck(event) => PortError::failed(format!("the guest stood still before SSH answered: {event}")),
            State::Ended(exit, said) => PortError::failed(format!("QEMU ended before SSH answered ({exit}): {said}")),
            State::Running => PortError::unavailable("the machine's watcher has ended"),
        }),
        session = SshSession::connect(target, wait) => session,
    }
    .map_err(|error| {
        let help = if error.help.is_empty() { String::new() } else { format!("{}; ", error.help) };
        let last = vm.console.last();
        error.help(format!("{help}{last}"))
    })
}

fn check(order: &MachineOrder) -> Result<(), PortError> {
    let word = |text: &str, more: &str| {
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || more.contains(c);
        !text.is_empty() && text.len() <= 32 && text.chars().all(good) && !text.starts_with('-')
    };
    if !word(&order.role, "-") {
        return Err(PortError::refused(format!("{:?} can't be the role of a machine", order.role)));
    }
    if !word(&order.user, "-_") {
        return Err(PortError::refused(format!("{:?} can't be the name of a user", order.user))
            .help("`boot.user` is lower-case letters, digits, `-` and `_`"));
    }
    Ok(())
}

fn write(path: &Path, content: &str) -> Result<(), PortError> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let opened = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    opened.and_then(|mut file| file.write_all(content.as_bytes())).map_err(|error| trouble("written", path, &error))
}
