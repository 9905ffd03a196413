//! The engine's ports over the [`World`]: stricter than anything real, and quick.
//!
//! In a guest, `echo TEXT` prints and `fail TEXT` prints an error and ends with code 1, in commands, scripts and playbooks;
//! pytest runs functions called `test_…`, and one fails that says `assert False`. `flood N` prints N lines; what follows
//! `report:` in the tests is the report, as it stands.

use std::collections::BTreeSet;
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use factoryd::domain::build::Moment;
use factoryd::domain::id::{BuildNo, Digest, DiskId, DriverName};
use factoryd::domain::image::ImageCopy;
use factoryd::domain::path::RepoPath;
use factoryd::domain::template::{Answer, Handed};
use factoryd::engine::ports::{
    Access, Base, BaseSource, Clock, DiskUse, Driver, Exit, Guest, Host, HostEnd, HostJob, HostProgram, ImageOrder,
    Lines, LocalTime, Machine, MachineOrder, PortError, PortErrorKind, PublishedCopy, SealedDisk, Wait,
};
use tokio::io::AsyncRead;

use crate::world::{Disk, Kind, Life, Vm, World};

const GIB: u64 = 1 << 30;

/// The world as one life of the daemon reaches it.
#[derive(Clone)]
pub(crate) struct Reach {
    pub(crate) world: Arc<World>,
    pub(crate) life: Arc<Life>,
}

pub(crate) struct FakeClock(pub(crate) Reach);

impl Clock for FakeClock {
    fn now(&self) -> Moment {
        self.0.life.tick();
        self.0.world.look_at_clock()
    }

    fn local(&self, at: Moment) -> LocalTime {
        let stamp = jiff::Timestamp::from_millisecond(at.0).expect("a moment of this age");
        let local = stamp.to_zoned_datetime(jiff::tz::TimeZone::UTC);
        let unsigned = |number: i8| u8::try_from(number).expect("a positive number");
        LocalTime {
            year: local.year(),
            month: unsigned(local.month()),
            day: unsigned(local.day()),
            hour: unsigned(local.hour()),
            minute: unsigned(local.minute()),
            second: unsigned(local.second()),
        }
    }
}

pub(crate) struct FakeDriver {
    pub(crate) name: DriverName,
    pub(crate) reach: Reach,
}

#[async_trait]
impl Driver for FakeDriver {
    fn name(&self) -> &DriverName {
        &self.name
    }

    async fn settings(&self) -> Result<Vec<(String, String)>, PortError> {
        Ok(vec![("emulator".to_owned(), "10.0".to_owned())])
    }

    async fn health(&self) -> Result<String, PortError> {
        Ok("fake".to_owned())
    }

    async fn base(&self, source: &BaseSource, lines: &Lines, wait: &Wait) -> Result<Base, PortError> {
        let Reach { world, life } = &self.reach;
        let act = world.act(life, format!("base {}", source_name(source)), Some(wait)).await?;
        lines.line(b"looking for the base image");
        let base = {
            let mut state = world.state();
            match source {
                BaseSource::Image { disk, sha256 } => {
                    let found = state.disks.get(disk).cloned();
                    let Some(found) = found.filter(|found| found.kind == Kind::Image && found.bits == *sha256) else {
                        return Err(state.offence(format!("{disk} is no image of that sum to boot from")));
                    };
                    Base { disk: disk.clone(), sha256: found.bits, virtual_size: GIB }
                }
                BaseSource::Named(name) => {
                    return Err(PortError::failed(format!("no image, bundle or alias is called `{name}`")));
                }
                other => {
                    let bits = Digest::of(source_name(other).as_bytes());
                    let disk = DiskId::new(format!("base-{}", bits.hex()));
                    let made = Disk::new(Kind::Base, source_name(other), Vec::new());
                    state.disks.entry(disk.clone()).or_insert(made);
                    Base { disk, sha256: bits, virtual_size: GIB }
                }
            }
        };
        act.end();
        Ok(base)
    }

    async fn boot(&self, order: &MachineOrder, lines: &Lines, wait: &Wait) -> Result<Box<dyn Machine>, PortError> {
        let Reach { world, life } = &self.reach;
        life.check();
        let machine = self.make(order)?;
        fs::write(&order.console, "booting\n").map_err(|error| PortError::unavailable(error.to_string()))?;
        let line = format!("boot {} {} of {}", order.role, order.disk, order.build);
        let act = world.act(life, line, Some(&wait.within(order.ready_within))).await?;
        lines.line(b"SSH answers");
        act.end();
        Ok(Box::new(machine))
    }

    async fn publish(
        &self,
        disk: &DiskId,
        keep: &DiskId,
        order: &ImageOrder,
        _: &Lines,
        wait: &Wait,
    ) -> Result<PublishedCopy, PortError> {
        let Reach { world, life } = &self.reach;
        let act = world.act(life, format!("publish {disk}"), Some(wait)).await?;
        let bits = {
            let mut state = world.state();
            if state.disks.contains_key(keep) {
                return Err(state.offence(format!("an image is kept as {keep}, which is there already")));
            }
            let Some(content) = state.disks.get(disk).map(|disk| disk.content.clone()) else {
                return Err(state.offence(format!("{disk} is published, and not there")));
            };
            let label = Some((order.name.clone(), order.properties.clone()));
            let image = Disk { label, ..Disk::new(Kind::Image, content, Vec::new()) };
            let bits = image.bits;
            state.disks.insert(keep.clone(), image);
            bits
        };
        act.end();
        let copy = ImageCopy {
            driver: self.name.clone(),
            region: String::new(),
            id: order.image.to_string(),
            disk: keep.clone(),
        };
        Ok(PublishedCopy { copy, sha256: bits, size: 1000, virtual_size: GIB })
    }

    async fn amend(&self, copy: &ImageCopy, order: &ImageOrder) -> Result<(), PortError> {
        let Reach { world, life } = &self.reach;
        let act = world.act(life, format!("amend {}", copy.disk), None).await?;
        {
            let mut state = world.state();
            match state.disks.get_mut(&copy.disk) {
                Some(disk) if disk.kind == Kind::Image => {
                    disk.label = Some((order.name.clone(), order.properties.clone()));
                }
                _ => return Err(state.offence(format!("{} is amended, and is no image", copy.disk))),
            }
        }
        act.end();
        Ok(())
    }

    async fn has(&self, disk: &DiskId) -> Result<bool, PortError> {
        self.reach.life.check();
        Ok(self.reach.world.state().disks.contains_key(disk))
    }

    async fn disks(&self) -> Result<Vec<(DiskId, u64)>, PortError> {
        self.reach.life.check();
        Ok(self.reach.world.state().disks.keys().map(|disk| (disk.clone(), 1000)).collect())
    }

    async fn read(&self, disk: &DiskId) -> Result<Box<dyn AsyncRead + Send + Unpin>, PortError> {
        let content = self.reach.world.state().disks.get(disk).map(|disk| disk.content.clone());
        let content = content.ok_or_else(|| PortError::failed(format!("there is no disk {disk}")))?;
        Ok(Box::new(Cursor::new(content.into_bytes())))
    }

    async fn disk_use(&self) -> Result<Option<DiskUse>, PortError> {
        self.reach.life.check();
        let state = self.reach.world.state();
        let taken = |vm: &Vm| (vm.build, vm.written);
        Ok(Some(DiskUse { free: state.free, written: state.machines.values().map(taken).collect() }))
    }

    async fn remove(&self, disk: &DiskId) -> Result<(), PortError> {
        let Reach { world, life } = &self.reach;
        let act = world.act(life, format!("remove {disk}"), None).await?;
        {
            let mut state = world.state();
            if let Some(vm) = state.machines.values().find(|vm| vm.disk == *disk || vm.attached.as_ref() == Some(disk))
            {
                let what = format!("{disk} is removed under the machine {} of {}", vm.role, vm.build);
                return Err(state.offence(what));
            }
            state.disks.remove(disk);
        }
        act.end();
        Ok(())
    }

    async fn tidy(&self) -> Result<(usize, u64), PortError> {
        self.reach.life.check();
        Ok((0, 0))
    }

    async fn release(&self, build: BuildNo) -> Result<usize, PortError> {
        let Reach { world, life } = &self.reach;
        let act = world.act(life, format!("release {build}"), None).await?;
        let released = {
            let mut state = world.state();
            let before = state.machines.len();
            state.machines.retain(|_, vm| vm.build != build);
            before - state.machines.len()
        };
        act.end();
        Ok(released)
    }

    async fn tagged(&self) -> Result<Vec<BuildNo>, PortError> {
        self.reach.life.check();
        let builds: BTreeSet<BuildNo> = self.reach.world.state().machines.values().map(|vm| vm.build).collect();
        Ok(builds.into_iter().collect())
    }
}

impl FakeDriver {
    /// The machine is there from now on, whether or not SSH will ever answer.
    fn make(&self, order: &MachineOrder) -> Result<FakeMachine, PortError> {
        let mut state = self.reach.world.state();
        if !state.disks.contains_key(&order.disk) {
            return Err(state.offence(format!("{} is booted, and there is no disk {}", order.role, order.disk)));
        }
        if let Some(disk) = order.attach.iter().find(|disk| !state.disks.contains_key(disk)) {
            return Err(state.offence(format!("{disk} is attached to {}, and not there", order.role)));
        }
        if let Some(other) = state.machines.values().find(|vm| vm.build == order.build) {
            let what = format!("{} boots {} while its {} is there", order.build, order.role, other.role);
            return Err(state.offence(what));
        }
        state.last_machine += 1;
        let number = state.last_machine;
        let vm = Vm {
            build: order.build,
            role: order.role.clone(),
            disk: order.disk.clone(),
            attached: order.attach.clone(),
            is_up: true,
            away: 0,
            written: 0,
            done: Vec::new(),
            files: Default::default(),
        };
        state.machines.insert(number, vm);
        let access = Access {
            host: "127.0.0.1".to_owned(),
            port: number,
            user: order.user.clone(),
            key: PathBuf::from("/nowhere/key"),
            host_key: "ssh-ed25519 AAAA".to_owned(),
            ports: order.ports.iter().map(|port| (*port, *port)).collect(),
        };
        let attached = order.attach.as_ref().map(|_| "fake-serial".to_owned());
        Ok(FakeMachine { guest: FakeGuest { number, reach: self.reach.clone() }, access, attached })
    }
}

struct FakeMachine {
    guest: FakeGuest,
    access: Access,
    attached: Option<String>,
}

#[async_trait]
impl Machine for FakeMachine {
    fn access(&self) -> &Access {
        &self.access
    }

    fn guest(&self) -> &dyn Guest {
        &self.guest
    }

    async fn seal(&mut self, keep: &DiskId, _: &Lines, wait: &Wait) -> Result<SealedDisk, PortError> {
        let Reach { world, life } = &self.guest.reach;
        let act = world.act(life, format!("seal {keep}"), Some(wait)).await?;
        let backing = {
            let mut state = world.state();
            let vm = self.guest.running(&mut state)?;
            let backing = keep_layer(&mut state, (keep, Kind::Sealed), &vm.disk, &vm.done)?;
            state.machines.remove(&self.guest.number);
            backing
        };
        act.end();
        Ok(SealedDisk { disk: keep.clone(), bytes: 1000, backing })
    }

    fn attached(&self) -> Option<&str> {
        self.attached.as_deref()
    }

    async fn keep_attached(&mut self, keep: &DiskId, _: &Lines, wait: &Wait) -> Result<SealedDisk, PortError> {
        let Reach { world, life } = &self.guest.reach;
        let act = world.act(life, format!("keep {keep}"), Some(wait)).await?;
        let backing = {
            let mut state = world.state();
            let vm = self.guest.running(&mut state)?;
            let Some(disk) = vm.attached else {
                return Err(state.offence(format!("{keep} is kept of {}, which has nothing attached", vm.role)));
            };
            if !vm.done.last().is_some_and(|done| done.ends_with("umount")) {
                return Err(state.offence(format!("{keep} is kept while it is mounted")));
            }
            let backing = keep_layer(&mut state, (keep, Kind::Changed), &disk, &vm.done)?;
            state.machines.remove(&self.guest.number);
            backing
        };
        act.end();
        Ok(SealedDisk { disk: keep.clone(), bytes: 1000, backing })
    }

    async fn destroy(&mut self) -> Result<(), PortError> {
        let Reach { world, life } = &self.guest.reach;
        let act = world.act(life, format!("destroy {}", self.guest.number), None).await?;
        world.state().machines.remove(&self.guest.number);
        act.end();
        Ok(())
    }
}

/// Keeps what was done as a layer on a disk; gives all that it lies on.
fn keep_layer(
    state: &mut crate::world::State,
    (keep, kind): (&DiskId, Kind),
    below: &DiskId,
    done: &[String],
) -> Result<Vec<DiskId>, PortError> {
    if state.disks.contains_key(keep) {
        return Err(state.offence(format!("a disk is kept as {keep}, which is there already")));
    }
    let Some(disk) = state.disks.get(below).cloned() else {
        return Err(state.offence(format!("{keep} is kept on {below}, which is gone")));
    };
    let backing: Vec<DiskId> = std::iter::once(below.clone()).chain(disk.backing).collect();
    let content = format!("{}\n{}", disk.bits, done.join("\n"));
    state.disks.insert(keep.clone(), Disk::new(kind, content, backing.clone()));
    Ok(backing)
}

struct FakeGuest {
    number: u16,
    reach: Reach,
}

impl FakeGuest {
    fn running(&self, state: &mut crate::world::State) -> Result<Vm, PortError> {
        running(state, self.number)
    }
}

/// The machine, if it is there and up. To ask of one that was destroyed or sealed is an offence.
fn running(state: &mut crate::world::State, number: u16) -> Result<Vm, PortError> {
    if let Some(vm) = state.machines.get_mut(&number).filter(|vm| vm.away > 0) {
        vm.away -= 1;
        return Err(PortError::unavailable("SSH does not answer"));
    }
    match state.machines.get(&number).cloned() {
        Some(vm) if vm.is_up => Ok(vm),
        Some(_) => Err(PortError::unavailable("the connection was lost")),
        None => Err(state.offence(format!("the machine {number} is used after its end"))),
    }
}

#[async_trait]
impl Guest for FakeGuest {
    async fn run(
        &self,
        command: &str,
        env: &[(String, String)],
        lines: &Lines,
        wait: &Wait,
    ) -> Result<Exit, PortError> {
        let Reach { world, life } = &self.reach;
        let act = world.act(life, format!("run {command}"), Some(wait)).await?;
        let text = {
            let mut state = world.state();
            let vm = self.running(&mut state)?;
            let command = unwrapped(command);
            let mut words = command.split([' ', ';', '\'']).filter(|_| !command.starts_with("rm "));
            let text = words.find_map(|word| vm.files.get(word).cloned()).unwrap_or_else(|| command.clone());
            let vm = state.machines.get_mut(&self.number).expect("it runs");
            vm.done.push(format!("{env:?} {command}\n{text}"));
            vm.is_up = !act.powers_off;
            vm.away = act.reboots.unwrap_or(0);
            text
        };
        if act.reboots.is_some() {
            return Err(PortError::new(PortErrorKind::Lost, "the connection was cut"));
        }
        let exit = perform(&text, lines);
        if act.powers_off {
            return Err(PortError::unavailable("the connection was lost"));
        }
        act.end();
        Ok(exit)
    }

    async fn upload(&self, from: &Path, to: &str, mode: Option<u32>, wait: &Wait) -> Result<(), PortError> {
        let Reach { world, life } = &self.reach;
        let act = world.act(life, format!("upload {to}"), Some(wait)).await?;
        {
            let mut state = world.state();
            self.running(&mut state)?;
            if !from.exists() {
                return Err(state.offence(format!("{} is uploaded, and not there", from.display())));
            }
            let text = texts(from).concat();
            let vm = state.machines.get_mut(&self.number).expect("it runs");
            vm.done.push(format!("{to} {mode:?} {text}"));
            vm.files.insert(to.to_owned(), text);
        }
        act.end();
        Ok(())
    }
}

pub(crate) struct FakeHost(pub(crate) Reach);

#[async_trait]
impl Host for FakeHost {
    async fn versions(&self, program: &HostProgram) -> Result<Vec<(String, String)>, PortError> {
        let tool = match program {
            HostProgram::Ansible { .. } => "ansible-core",
            HostProgram::Pytest { .. } => "pytest",
        };
        Ok(vec![(tool.to_owned(), "1.0".to_owned())])
    }

    async fn health(&self) -> Result<String, PortError> {
        Ok("fake".to_owned())
    }

    async fn run(&self, job: &HostJob, lines: &Lines, wait: &Wait) -> Result<HostEnd, PortError> {
        let Reach { world, life } = &self.0;
        life.check();
        world.state().copies.insert(job.build);
        let line = match &job.program {
            HostProgram::Ansible { playbook, .. } => format!("ansible {playbook}"),
            HostProgram::Pytest { path, .. } => format!("pytest {path}"),
        };
        let act = world.act(life, line, Some(wait)).await?;
        let ended = self.program(job, lines);
        world.state().copies.remove(&job.build);
        if act.powers_off
            && let Some(vm) = world.state().machines.get_mut(&job.access.port)
        {
            vm.is_up = false;
        }
        act.end();
        ended
    }

    async fn render(&self, build: BuildNo, handed: &Handed, wait: &Wait) -> Result<Vec<Answer>, PortError> {
        let Reach { world, life } = &self.0;
        life.check();
        world.state().copies.insert(build);
        let act = world.act(life, format!("render {}", handed.wanted.len()), Some(wait)).await?;
        let answers = handed.wanted.iter().map(|at| match handed.files.get(*at) {
            // Not what Ansible makes of it: a mark by which a test knows that it came from here.
            Some((_, content)) => Answer::Text([b"by ansible: ".as_slice(), content].concat()),
            None => Answer::Failed("it is not among the files".to_owned()),
        });
        let answers = answers.collect();
        world.state().copies.remove(&build);
        act.end();
        Ok(answers)
    }

    async fn release(&self, build: BuildNo) -> Result<usize, PortError> {
        self.0.life.check();
        Ok(usize::from(self.0.world.state().copies.remove(&build)))
    }

    async fn tagged(&self) -> Result<Vec<BuildNo>, PortError> {
        self.0.life.check();
        Ok(self.0.world.state().copies.iter().copied().collect())
    }
}

impl FakeHost {
    fn program(&self, job: &HostJob, lines: &Lines) -> Result<HostEnd, PortError> {
        let mut state = self.0.world.state();
        running(&mut state, job.access.port)?;
        let file = |path: &RepoPath| job.checkout.join(path.to_string());
        if !file(&job.bundle).is_dir() {
            return Err(state.offence(format!("the checkout has no {}", job.bundle)));
        }
        match &job.program {
            HostProgram::Ansible { playbook, .. } => {
                let text = texts(&file(playbook)).concat();
                let vm = state.machines.get_mut(&job.access.port).expect("it runs");
                // Not its path: a copy of a bundle has the same bits.
                vm.done.push(text.clone());
                Ok(HostEnd { exit: perform(&text, lines), collected: Vec::new(), refused: Vec::new() })
            }
            HostProgram::Pytest { path, report, .. } => {
                let text = texts(&file(path)).concat();
                let (cases, failed) = cases(&text, lines);
                let suite = || format!("<testsuite name=\"suite\">{cases}</testsuite>");
                let xml = text.split_once("report:").map_or_else(suite, |(_, xml)| xml.trim().to_owned());
                let to = job.collect_into.join(report);
                let written = fs::create_dir_all(to.parent().expect("a parent")).and_then(|()| fs::write(&to, xml));
                written.map_err(|error| PortError::unavailable(error.to_string()))?;
                let exit = Exit::Code(i32::from(failed));
                Ok(HostEnd { exit, collected: vec![PathBuf::from(report)], refused: Vec::new() })
            }
        }
    }
}

/// Runs the tests of a text; gives the cases of a JUnit report.
fn cases(text: &str, lines: &Lines) -> (String, bool) {
    let (mut cases, mut failed) = (Vec::new(), false);
    for test in text.split("def test_").skip(1) {
        let name: String = test.chars().take_while(|char| char.is_alphanumeric() || *char == '_').collect();
        if test.contains("assert False") {
            failed = true;
            lines.line(format!("test_{name} FAILED").as_bytes());
            lines.line(b"E   assert False");
            cases.push(format!("<testcase name=\"test_{name}\"><failure message=\"assert False\"/></testcase>"));
        } else {
            lines.line(format!("test_{name} PASSED").as_bytes());
            cases.push(format!("<testcase name=\"test_{name}\"/>"));
        }
    }
    (cases.concat(), failed)
}

/// Does what a command, script or playbook says.
/// What a command that becomes root runs; a script that mounts does nothing here.
fn unwrapped(command: &str) -> String {
    match command.split_once(" /bin/sh -c '").filter(|_| command.starts_with("exec ")) {
        Some((_, script)) if script.contains("umount \"") => "umount".to_owned(),
        Some((_, script)) if script.contains("mount -t") => "mount -t".to_owned(),
        Some((_, script)) => script.rsplit_once("' sh").map_or(script, |(script, _)| script).replace(r"'\''", "'"),
        None => command.to_owned(),
    }
}

fn perform(text: &str, lines: &Lines) -> Exit {
    for command in text.split(['\n', ';']).map(str::trim) {
        if let Some(said) = command.strip_prefix("echo ") {
            lines.line(said.as_bytes());
        }
        if let Some(count) = command.strip_prefix("flood ").and_then(|count| count.parse().ok()) {
            (0..count).for_each(|at: u64| lines.line(format!("line {at} of a flood").as_bytes()));
        }
        if let Some(said) = command.strip_prefix("fail ") {
            lines.line(format!("E: {said}").as_bytes());
            return Exit::Code(1);
        }
        if let Some(code) = command.strip_prefix("exit ").and_then(|code| code.parse().ok()) {
            return Exit::Code(code);
        }
    }
    Exit::Code(0)
}

/// The text of a file, or those of a directory's files by name.
fn texts(path: &Path) -> Vec<String> {
    if path.is_file() {
        return vec![fs::read_to_string(path).unwrap_or_default()];
    }
    let mut below: Vec<PathBuf> =
        fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    below.sort();
    below.iter().flat_map(|path| texts(path)).collect()
}

fn source_name(source: &BaseSource) -> String {
    match source {
        BaseSource::File { path, .. } => path.display().to_string(),
        BaseSource::Download { url, .. } => url.clone(),
        BaseSource::Image { disk, .. } => disk.to_string(),
        BaseSource::Recipe(recipe) => recipe.suite.clone(),
        BaseSource::Named(name) => name.clone(),
    }
}
