//! The engine's [`Host`]: ansible-playbook and pytest of the factory host, run in the sandbox on a private copy.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use tokio::time::Instant;

use super::collect::{Collected, collect};
use super::relay::{Relay, inside_port};
use super::sandbox::inside::{Order, STAGE};
use super::sandbox::scratch::{self, Scratch};
use super::sandbox::tool::{PATH, ask, find_program};
use super::sandbox::{Launch, Sandbox, Settings, TAG, Walls, process, view};
use super::{ansible, pytest, templates};
use crate::blocking;
use crate::domain::ansible_config::AnsibleConfig;
use crate::domain::id::BuildNo;
use crate::domain::path::RepoPath;
use crate::domain::pipeline::{Network, Play};
use crate::domain::template::{Answer, Handed};
use crate::engine::ports::{Access, Host, HostEnd, HostJob, HostProgram, Lines, PortError, Wait};

/// The relay's socket in a job's `run` directory.
const RELAY_SOCKET: &str = "relay.sock";

/// Where a program finds things, and its guest.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The copy of the checkout.
    pub(crate) src: PathBuf,
    /// The daemon's files for it.
    pub(crate) run: PathBuf,
    /// Its temporary files.
    pub(crate) tmp: PathBuf,
    /// Where the guest answers.
    pub(crate) host: String,
    /// At which port SSH does.
    pub(crate) port: u16,
    /// Guest ports, and where each is reached.
    pub(crate) ports: Vec<(u16, u16)>,
}

/// Version facts by the path of a tool, as old as the tool's file was.
type Known = HashMap<PathBuf, (SystemTime, Vec<(String, String)>)>;

/// Runs programs of repositories in sandboxes.
#[derive(Debug)]
pub struct SandboxedHost {
    sandbox: Sandbox,
    known: Mutex<Known>,
}

impl SandboxedHost {
    /// A host with these settings. Nothing is tried or made yet.
    pub fn new(settings: Settings) -> Self {
        Self { sandbox: Sandbox::new(settings), known: Mutex::default() }
    }

    async fn run_in(
        &self,
        scratch: &Scratch,
        job: &HostJob,
        program: PathBuf,
        lines: &Lines,
        wait: &Wait,
    ) -> Result<HostEnd, PortError> {
        let walls = self.sandbox.walls().await?;
        if let Walls::None(why) = walls {
            lines.line(format!("this program runs without a sandbox, as the configuration allows: {why}").as_bytes());
        }
        self.sandbox.prepare(scratch).await?;
        copy(scratch, job, wait).await?;
        let place = place(scratch, job, walls.are_missing());
        write_files(scratch, job, &place)?;
        let directory = job.program.directory().unwrap_or(&job.bundle).clone();
        prepare_source(scratch, job, &place, &directory)?;
        let own = ansible::own(&scratch.path().join("src"), &place, &directory, &job.env)
            .map_err(|error| PortError::unavailable(format!("can't read {}: {error}", AnsibleConfig::FILE)))?;
        let relayed = job.network == Network::Guest && !walls.are_missing();
        let relay = if relayed { Some(listen(scratch, &job.access)?) } else { None };
        let order = Order {
            program,
            arguments: arguments(job, &place),
            directory: place.src.join(OsStr::from_bytes(directory.as_bytes())),
            environment: environment(job, &place, own.as_ref(), walls.are_missing().then(|| scratch.path())),
            limits: self.sandbox.settings.limits.clone(),
            relay: relay.as_ref().map(|(_, targets)| (place.run.join(RELAY_SOCKET), *targets)),
            bare: walls.are_missing(),
        };
        let launch = Launch { build: job.build, scratch, network: job.network, order };
        let exit = self.sandbox.run(launch, lines, wait).await?;
        drop(relay);
        let Collected { files, refused } = keep(scratch, job).await?;
        Ok(HostEnd { exit, collected: files, refused })
    }

    async fn render_in(
        &self,
        scratch: &Scratch,
        build: BuildNo,
        handed: &Handed,
        program: PathBuf,
        wait: &Wait,
    ) -> Result<Vec<Answer>, PortError> {
        let bare = self.sandbox.walls().await?.are_missing();
        self.sandbox.prepare(scratch).await?;
        let place = paths(scratch, bare);
        let (own, job, at) = (scratch.clone(), handed.clone(), place.clone());
        blocking::run(move || templates::lay(&own, &job, &at)).await?;
        let mut environment = usual(&place);
        environment.extend(templates::environment(&place));
        environment.extend(bare.then(|| (TAG.to_owned(), scratch.path().display().to_string())));
        let order = Order {
            program,
            arguments: templates::arguments(&place),
            directory: place.src.clone(),
            environment,
            limits: self.sandbox.settings.limits.clone(),
            relay: None,
            bare,
        };
        let complaint = Arc::new(templates::Complaint::default());
        let lines: Lines = complaint.clone();
        let launch = Launch { build, scratch, network: Network::None, order };
        let exit = self.sandbox.run(launch, &lines, &wait.within(templates::within(handed))).await?;
        if !exit.is_success() {
            let said = complaint.text().map(|text| format!(": {text}")).unwrap_or_default();
            return Err(PortError::failed(format!("ansible-playbook ended with {exit}{said}")));
        }
        let (own, count, most) = (scratch.clone(), handed.wanted.len(), handed.output);
        blocking::run(move || templates::answers(&own, count, most)).await
    }

    /// Throws a private copy away. A build's result stands even where that fails: what is left is found again by its
    /// number.
    async fn discard(&self, build: BuildNo, scratch: Scratch) {
        if let Err(error) = self.sandbox.discard(scratch).await {
            tracing::warn!(build = build.0, %error, "a private copy was not removed");
        }
    }
}

#[async_trait]
impl Host for SandboxedHost {
    async fn versions(&self, program: &HostProgram) -> Result<Vec<(String, String)>, PortError> {
        let path = tool(program)?;
        let changed = |path: &Path| std::fs::metadata(path).and_then(|metadata| metadata.modified());
        let changed = changed(&path).map_err(|error| PortError::unavailable(format!("{}: {error}", path.display())))?;
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&path).cloned();
        if let Some((then, versions)) = known
            && then == changed
        {
            return Ok(versions);
        }
        let text = ask(&path, "--version").await.map_err(PortError::unavailable)?;
        let versions = match program {
            HostProgram::Ansible { .. } => ansible::versions(&text),
            HostProgram::Pytest { .. } => {
                let python = find_program(Path::new("python3")).unwrap_or_else(|| PathBuf::from("/usr/bin/python3"));
                pytest::versions(&text, &ask(&python, "--version").await.map_err(PortError::unavailable)?)
            }
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(path, (changed, versions.clone()));
        Ok(versions)
    }

    async fn health(&self) -> Result<String, PortError> {
        Ok(match self.sandbox.walls().await? {
            Walls::Bubblewrap { version, lock_namespaces: true } => format!("sandbox works (bubblewrap {version})"),
            Walls::Bubblewrap { version, lock_namespaces: false } => {
                format!("sandbox works (bubblewrap {version}; programs could make user namespaces within)")
            }
            Walls::None(why) => format!("no sandbox, as the configuration allows: {why}"),
        })
    }

    async fn run(&self, job: &HostJob, lines: &Lines, wait: &Wait) -> Result<HostEnd, PortError> {
        if let HostProgram::Ansible { extra_arguments, .. } = &job.program {
            ansible::check(extra_arguments)?;
        }
        self.sandbox.walls().await?;
        let program = tool(&job.program)?;
        let scratch = self.sandbox.scratch(job.build).await?;
        let ended = self.run_in(&scratch, job, program, lines, wait).await;
        self.discard(job.build, scratch).await;
        ended
    }

    async fn render(&self, build: BuildNo, handed: &Handed, wait: &Wait) -> Result<Vec<Answer>, PortError> {
        self.sandbox.walls().await?;
        let any = HostProgram::any_ansible();
        let program = tool(&any)?;
        let scratch = self.sandbox.scratch(build).await?;
        let answers = self.render_in(&scratch, build, handed, program, wait).await;
        self.discard(build, scratch).await;
        answers
    }

    async fn release(&self, build: BuildNo) -> Result<usize, PortError> {
        let root = self.sandbox.settings.scratch.clone();
        let unable = |error: std::io::Error| PortError::unavailable(format!("can't clear build {build}: {error}"));
        let ended = process::end_tagged(TAG, &root.join(build.0.to_string())).await.map_err(unable)?;
        let removed = blocking::run(move || scratch::remove_build(&root, build)).await.map_err(unable)?;
        Ok(ended + usize::from(removed))
    }

    async fn tagged(&self) -> Result<Vec<BuildNo>, PortError> {
        let root = self.sandbox.settings.scratch.clone();
        blocking::run(move || scratch::builds(&root))
            .await
            .map_err(|error| PortError::unavailable(format!("can't read the scratch directory: {error}")))
    }
}

/// Where the program is installed.
fn tool(program: &HostProgram) -> Result<PathBuf, PortError> {
    let (names, package): (&[&str], _) = match program {
        HostProgram::Ansible { .. } => (&["ansible-playbook"], "ansible-core"),
        HostProgram::Pytest { .. } => (&["pytest-3", "pytest"], "python3-pytest"),
    };
    names.iter().find_map(|name| find_program(Path::new(name))).ok_or_else(|| {
        PortError::unavailable(format!("{} is not installed in {PATH}", names[0]))
            .help(format!("`apt-get install {package}` on the factory host"))
    })
}

/// Copies the checkout, until the wait ends.
async fn copy(scratch: &Scratch, job: &HostJob, wait: &Wait) -> Result<(), PortError> {
    const WHAT: &str = "copying the checkout";
    let (scratch, checkout, wait) = (scratch.clone(), job.checkout.clone(), wait.clone());
    let bundle = scratch.path().join("src").join(OsStr::from_bytes(job.bundle.as_bytes()));
    let is_over = {
        let wait = wait.clone();
        move || wait.cancel.is_cancelled() || Instant::now() >= wait.deadline
    };
    let copied = blocking::run(move || scratch.copy_checkout(&checkout, &is_over)).await;
    if wait.cancel.is_cancelled() {
        return Err(PortError::cancelled(WHAT));
    }
    if Instant::now() >= wait.deadline {
        return Err(PortError::timed_out(WHAT));
    }
    copied.map_err(|error| PortError::unavailable(format!("{WHAT} failed: {error}")))?;
    if !std::fs::symlink_metadata(&bundle).is_ok_and(|metadata| metadata.is_dir()) {
        return Err(PortError::failed(format!("the checkout has no directory {}", job.bundle)));
    }
    Ok(())
}

/// Where a program will find its files.
fn paths(scratch: &Scratch, bare: bool) -> Place {
    let (src, run, tmp) = if bare {
        let base = if scratch.is_given_away() { Path::new(STAGE) } else { scratch.path() };
        (base.join("src"), base.join("run"), base.join("tmp"))
    } else {
        (view::SRC.into(), view::RUN.into(), view::TMP.into())
    };
    Place { src, run, tmp, host: String::new(), port: 0, ports: Vec::new() }
}

/// Where the program will find things, its guest among them.
fn place(scratch: &Scratch, job: &HostJob, bare: bool) -> Place {
    let (paths, access) = (paths(scratch, bare), &job.access);
    if bare || job.network == Network::Full {
        return Place { host: access.host.clone(), port: access.port, ports: access.ports.clone(), ..paths };
    }
    let ports = (1_u8..).zip(&access.ports).map(|(target, (guest, _))| (*guest, inside_port(target))).collect();
    Place { host: "127.0.0.1".to_owned(), port: inside_port(0), ports, ..paths }
}

/// Writes key, known host and, for Ansible, its inventory.
fn write_files(scratch: &Scratch, job: &HostJob, place: &Place) -> Result<(), PortError> {
    let key = &job.access.key;
    let key = std::fs::read(key)
        .map_err(|error| PortError::unavailable(format!("can't read the build's key {}: {error}", key.display())))?;
    let usual = Play::default();
    let play = if let HostProgram::Ansible { play, .. } = &job.program { play } else { &usual };
    ansible::files(place, &job.access, play)
        .iter()
        .try_for_each(|(name, text)| scratch.write(name, text.as_bytes()))
        .and_then(|()| scratch.write("key", &key))
        .map_err(|error| PortError::unavailable(format!("can't write {}: {error}", scratch.path().display())))
}

/// Makes the directory that the program runs in, and lays an inventory into a directory that wants one.
fn prepare_source(scratch: &Scratch, job: &HostJob, place: &Place, directory: &RepoPath) -> Result<(), PortError> {
    let source = scratch.path().join("src");
    let below = |path: &RepoPath| source.join(OsStr::from_bytes(path.as_bytes()));
    let unable = |error: std::io::Error| PortError::unavailable(format!("can't write {}: {error}", source.display()));
    std::fs::create_dir_all(below(directory)).map_err(unable)?;
    let HostProgram::Ansible { play, .. } = &job.program else { return Ok(()) };
    let Some(directory) = &play.inventory_directory else { return Ok(()) };
    let path = below(directory).join(ansible::INVENTORY);
    let write = |text: String| {
        let mut file = std::fs::File::options().write(true).create_new(true).open(&path)?;
        std::io::Write::write_all(&mut file, text.as_bytes())?;
        scratch.give(&path)
    };
    write(ansible::inventory(place, &job.access, play)).map_err(unable)
}

/// Starts the job's relay: SSH is target 0, the ports follow.
fn listen(scratch: &Scratch, access: &Access) -> Result<(Relay, u8), PortError> {
    let mut targets = vec![(access.host.clone(), access.port)];
    targets.extend(access.ports.iter().map(|(_, port)| (access.host.clone(), *port)));
    let count = u8::try_from(targets.len())
        .map_err(|_| PortError::failed("a machine with more than 254 ports can't be reached from a sandbox"))?;
    let directory = scratch.path().join("run");
    let relay = Relay::listen(&directory, RELAY_SOCKET, targets)
        .and_then(|relay| scratch.give(&directory.join(RELAY_SOCKET)).map(|()| relay))
        .map_err(|error| PortError::unavailable(format!("can't listen for the sandbox: {error}")))?;
    Ok((relay, count))
}

fn arguments(job: &HostJob, place: &Place) -> Vec<std::ffi::OsString> {
    match &job.program {
        HostProgram::Ansible { playbook, extra_arguments, play } => {
            ansible::arguments((place, &job.access), playbook, extra_arguments, play)
        }
        HostProgram::Pytest { path, args, report } => pytest::arguments(place, path, args, report),
    }
}

/// What every program has in its environment.
fn usual(place: &Place) -> Vec<(String, String)> {
    let tmp = place.tmp.display().to_string();
    let usual = [
        ("HOME", tmp.as_str()),
        ("LANG", "C.UTF-8"),
        ("LOGNAME", "runner"),
        ("PATH", PATH),
        ("PYTHONDONTWRITEBYTECODE", "1"),
        ("PYTHONUNBUFFERED", "1"),
        ("TMPDIR", tmp.as_str()),
        ("USER", "runner"),
    ];
    usual.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

/// The whole environment: what is usual, what the step says, its secrets, and last what nobody replaces.
fn environment(job: &HostJob, place: &Place, own: Option<&ansible::Own>, tag: Option<&Path>) -> Vec<(String, String)> {
    let mut all = usual(place);
    all.extend(job.env.iter().cloned());
    all.extend(job.secrets.iter().map(|(name, secret)| (name.clone(), secret.0.clone())));
    if let HostProgram::Ansible { play, .. } = &job.program {
        all.extend(ansible::environment(place, &job.access, play, (own, &job.env)));
    }
    let ours = [
        ("FACTORYD_HOST", place.host.clone()),
        ("FACTORYD_PORT", place.port.to_string()),
        ("FACTORYD_USER", job.access.user.clone()),
        ("FACTORYD_KEY", place.run.join("key").display().to_string()),
    ];
    all.extend(ours.map(|(name, value)| (name.to_owned(), value)));
    all.extend(place.ports.iter().map(|(guest, port)| (format!("FACTORYD_PORT_{guest}"), port.to_string())));
    // Without a process namespace this is how a later daemon finds what a killed one left running.
    all.extend(tag.map(|path| (TAG.to_owned(), path.display().to_string())));
    all
}

async fn keep(scratch: &Scratch, job: &HostJob) -> Result<Collected, PortError> {
    let (src, bundle) = (scratch.path().join("src"), job.bundle.clone());
    let (globs, into) = (job.collect.clone(), job.collect_into.clone());
    let shown = into.display().to_string();
    blocking::run(move || collect(&src, &bundle, &globs, &into))
        .await
        .map_err(|error| PortError::unavailable(format!("can't keep files in {shown}: {error}")))
}
