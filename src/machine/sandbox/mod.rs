//! The sandbox around programs of a repository, and the door through which they are started (law 7).
//!
//! Walls: bubblewrap's own user, process, IPC, host-name and (unless `network: full`) network
//! namespaces; a read-only view of the operating system; no capability, no user namespace within; never uid 0 as the
//! host sees it. Limits hold in the same way for a root daemon and for a hardened service without a control group of its
//! own: resource limits for each process, and a watch over the memory of all of them together and over the disk.
//! Memory files that are mapped nowhere (`memfd_create`) escape that watch; sandboxed programs are therefore the first that
//! the kernel's out-of-memory killer takes.

pub(crate) mod inside;
mod output;
pub(crate) mod process;
pub(crate) mod scratch;
mod settings;
pub(crate) mod tool;
pub(crate) mod view;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use self::inside::{ENTER_COMMAND, INIT_COMMAND, Order, STAGE, staged_binary};
use self::output::Said;
use self::process::{Output, Running};
use self::scratch::Scratch;
use self::tool::{PATH, ask, find_program};
use self::view::View;
use crate::blocking;
use crate::domain::id::BuildNo;
use crate::domain::pipeline::Network;
use crate::engine::ports::{Exit, Lines, PortError, Wait};
use crate::machine::lines::pump;

pub use self::inside::dispatch;
pub use self::settings::{Limits, Settings};

/// The variable by which the processes of a job are found again after a crash: its directory.
pub(crate) const TAG: &str = "FACTORYD_SANDBOX";
/// The build number whose directory the probe uses; builds count from 1.
const PROBE: BuildNo = BuildNo(0);
/// How long the probe may take; it needs about 30 ms.
const PROBE_WITHIN: Duration = Duration::from_secs(20);
/// How often memory and disk are looked at. At a gigabyte a second, a hog is seen before it has taken half of one more.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What stands around programs here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Walls {
    /// bubblewrap, of some version.
    Bubblewrap {
        version: String,
        /// Whether programs can be kept from making user namespaces of their own.
        lock_namespaces: bool,
    },
    /// Nothing, because of this; the configuration allows it.
    None(String),
}

impl Walls {
    /// Whether there is no sandbox.
    pub(crate) fn are_missing(&self) -> bool {
        matches!(self, Self::None(_))
    }
}

/// A program to be run in a scratch directory.
pub(crate) struct Launch<'a> {
    pub(crate) build: BuildNo,
    pub(crate) scratch: &'a Scratch,
    pub(crate) network: Network,
    pub(crate) order: Order,
}

/// Makes sandboxes.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) settings: Settings,
    walls: OnceCell<Walls>,
}

impl Sandbox {
    pub(crate) fn new(settings: Settings) -> Self {
        Self { settings, walls: OnceCell::new() }
    }

    /// What stands around programs here, tried with a real program; what worked is not tried again.
    ///
    /// # Errors
    /// When nothing does and the configuration does not allow that.
    pub(crate) async fn walls(&self) -> Result<&Walls, PortError> {
        self.walls.get_or_try_init(|| self.probe()).await
    }

    async fn probe(&self) -> Result<Walls, PortError> {
        self.settings.owner()?;
        let why = match self.version().await {
            Err(why) => why,
            Ok(version) => {
                let mut why = String::new();
                // Before 0.8 bubblewrap can't lock them, and where /proc/sys is read-only no version can.
                for lock_namespaces in [true, false] {
                    let walls = Walls::Bubblewrap { version: version.clone(), lock_namespaces };
                    match self.try_walls(&walls).await {
                        Ok(()) => return Ok(walls),
                        Err(error) => why = error.message,
                    }
                }
                format!("bubblewrap {version} does not work here: {why}")
            }
        };
        if self.settings.allow_without_sandbox {
            return Ok(Walls::None(why));
        }
        Err(PortError::refused(format!("no sandbox for programs of a repository: {why}")).help(
            "install bubblewrap (`apt-get install bubblewrap`), and let the service make user namespaces; or allow \
             programs without a sandbox (sandbox.required = false in the configuration), where every author is trusted \
             with this host",
        ))
    }

    async fn version(&self) -> Result<String, String> {
        let path = find_program(&self.settings.bwrap)
            .ok_or_else(|| format!("{} is not installed", self.settings.bwrap.display()))?;
        let text = ask(&path, "--version").await?;
        Ok(text.trim_start_matches("bubblewrap ").trim().to_owned())
    }

    /// Runs `/bin/true` as every program would be run.
    async fn try_walls(&self, walls: &Walls) -> Result<(), PortError> {
        let scratch = self.scratch(PROBE).await?;
        let order = Order {
            program: PathBuf::from("/bin/true"),
            arguments: Vec::new(),
            directory: PathBuf::from("/"),
            environment: Vec::new(),
            limits: self.settings.limits.clone(),
            relay: None,
            bare: false,
        };
        let said = Arc::new(Said::default());
        let wait = Wait { cancel: Default::default(), deadline: Instant::now() + PROBE_WITHIN };
        let launch = Launch { build: PROBE, scratch: &scratch, network: Network::None, order };
        let ended = match self.prepare(&scratch).await {
            Ok(()) => self.run_within(walls, launch, &(said.clone() as Lines), &wait).await,
            Err(error) => Err(error),
        };
        self.discard(scratch).await?;
        match ended? {
            Exit::Code(0) => Ok(()),
            exit => Err(PortError::unavailable(said.last().unwrap_or_else(|| exit.to_string()))),
        }
    }

    /// Makes an empty scratch directory for a build.
    ///
    /// # Errors
    /// When it can't be made.
    pub(crate) async fn scratch(&self, build: BuildNo) -> Result<Scratch, PortError> {
        let (root, owner) = (self.settings.scratch.clone(), self.settings.owner()?);
        let shown = root.display().to_string();
        blocking::run(move || Scratch::create(&root, build, owner))
            .await
            .map_err(|error| PortError::unavailable(format!("can't make a scratch directory below {shown}: {error}")))
    }

    /// Writes what every sandbox needs besides its program.
    ///
    /// # Errors
    /// When a file can't be written.
    pub(crate) async fn prepare(&self, scratch: &Scratch) -> Result<(), PortError> {
        let id = view::INSIDE_ID;
        let tmp = view::TMP;
        let files = [
            ("passwd", format!("root:x:0:0:root:/nonexistent:/bin/false\nrunner:x:{id}:{id}::{tmp}:/bin/sh\n")),
            ("group", format!("root:x:0:\nrunner:x:{id}:\n")),
            ("hosts", "127.0.0.1 localhost sandbox\n::1 localhost\n".to_owned()),
            ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n".to_owned()),
        ];
        debug_assert!(files.iter().map(|(name, _)| *name).eq(view::GENERATED), "every generated file is written");
        let written = files.iter().try_for_each(|(name, text)| scratch.write(name, text.as_bytes()));
        written
            .and_then(|()| std::fs::write(scratch.path().join(staged_binary().file_name().unwrap_or_default()), ""))
            .map_err(|error| PortError::unavailable(format!("can't write {}: {error}", scratch.path().display())))
    }

    /// Throws a scratch directory away.
    ///
    /// # Errors
    /// When something of it stays.
    pub(crate) async fn discard(&self, scratch: Scratch) -> Result<(), PortError> {
        let shown = scratch.path().display().to_string();
        blocking::run(move || scratch.remove())
            .await
            .map_err(|error| PortError::unavailable(format!("can't remove {shown}: {error}")))
    }

    /// Runs a program to its end. When this returns, nothing of it runs any more.
    ///
    /// # Errors
    /// When it can't be started, uses more than it may, or the wait ends first.
    pub(crate) async fn run(&self, launch: Launch<'_>, lines: &Lines, wait: &Wait) -> Result<Exit, PortError> {
        let walls = self.walls().await?;
        self.run_within(walls, launch, lines, wait).await
    }

    async fn run_within(
        &self,
        walls: &Walls,
        launch: Launch<'_>,
        lines: &Lines,
        wait: &Wait,
    ) -> Result<Exit, PortError> {
        let command = self.command(walls, &launch)?;
        let order = serde_json::to_vec(&launch.order)
            .map_err(|error| PortError::failed(format!("the program's arguments can't be passed on: {error}")))?;
        let (mut running, output) = process::start(command, order)
            .await
            .map_err(|error| PortError::unavailable(format!("can't start the sandbox: {error}")))?;
        let ended = self.attend(&launch, &mut running, output, lines, wait).await;
        if ended.is_err() {
            self.end(&mut running, launch.scratch.path()).await?;
        }
        ended
    }

    /// The command line of the daemon's child.
    fn command(&self, walls: &Walls, launch: &Launch<'_>) -> Result<Command, PortError> {
        let owner = self.settings.owner()?;
        let directory = launch.scratch.path();
        let (base, init) = match owner {
            Some(_) => (PathBuf::from(STAGE), staged_binary()),
            None => (directory.to_owned(), self.settings.program.clone()),
        };
        let mut words: Vec<OsString> = Vec::new();
        if let Some((user, group)) = owner {
            words.extend(["unshare".into(), "--mount".into(), "--".into()]);
            words.extend([self.settings.program.clone().into(), ENTER_COMMAND.into()]);
            words.extend([format!("{user}:{group}").into(), directory.into()]);
        } else {
            words.extend([self.settings.program.clone().into(), ENTER_COMMAND.into(), "-".into()]);
        }
        match walls {
            Walls::Bubblewrap { lock_namespaces, .. } => {
                let view = View {
                    base: &base,
                    init: &init,
                    network: launch.network,
                    lock_namespaces: *lock_namespaces,
                    read_only: &self.settings.read_only,
                    limits: &self.settings.limits,
                };
                words.push(self.settings.bwrap.clone().into());
                words.extend(view.arguments());
            }
            Walls::None(_) => words.extend([init.into(), INIT_COMMAND.into()]),
        }
        tracing::debug!(build = launch.build.0, program = %launch.order.program.display(), "starting a sandbox");
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env_clear().env("PATH", PATH).current_dir("/");
        command.env("FACTORYD_BUILD", launch.build.0.to_string()).env(TAG, directory);
        Ok(command)
    }

    /// Passes lines on and watches over limits until the program ends, or must be ended.
    async fn attend(
        &self,
        launch: &Launch<'_>,
        running: &mut Running,
        output: Output,
        lines: &Lines,
        wait: &Wait,
    ) -> Result<Exit, PortError> {
        let what = name_of(&launch.order.program);
        let mut pumping = AbortOnDropHandle::new(tokio::spawn(pump(output, lines.clone())));
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let status = loop {
            tokio::select! {
                biased;
                () = wait.cancel.cancelled() => return Err(PortError::cancelled(&what)),
                status = timeout_at(wait.deadline, running.ended()) => match status {
                    Err(_) => return Err(PortError::timed_out(&what)),
                    Ok(status) => break status.map_err(|error| PortError::unavailable(error.to_string()))?,
                },
                _ = look.tick() => self.check(launch, running, &what)?,
            }
        };
        // Whoever could write has ended, so this ends at once; the limit is for a kernel that thinks otherwise.
        drop(timeout(Duration::from_secs(5), &mut pumping).await);
        Ok(exit(status))
    }

    /// Looks at what the program uses.
    fn check(&self, launch: &Launch<'_>, running: &Running, what: &str) -> Result<(), PortError> {
        let Limits { memory, disk_free, .. } = self.settings.limits;
        let used = running.memory();
        if used > memory {
            let message = format!("{what} used {} MiB of memory, and may use {} MiB", used >> 20, memory >> 20);
            return Err(PortError::failed(message)
                .help("let it keep less in memory, or run in more steps: no host step has more"));
        }
        if let Ok(disk) = rustix::fs::statvfs(launch.scratch.path())
            && disk.f_bavail * disk.f_frsize < disk_free
        {
            let message = format!("{what} was ended: less than {} MiB are free on the disk", disk_free >> 20);
            return Err(PortError::unavailable(message).help("run `factoryd gc`, or look at what the program writes"));
        }
        Ok(())
    }

    /// Ends all of a program's processes.
    async fn end(&self, running: &mut Running, directory: &Path) -> Result<(), PortError> {
        let ended = async {
            running.end().await?;
            // bubblewrap may have been killed between making its child and tying the child's life to its own.
            process::end_tagged(TAG, directory).await
        };
        ended.await.map(drop).map_err(|error: std::io::Error| PortError::unavailable(error.to_string()))
    }
}

/// How the sandbox's outermost process ended; inside, a signal became 128 and its number.
fn exit(status: std::process::ExitStatus) -> Exit {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    match code {
        129..=159 => Exit::Signal(signal_name(code - 128)),
        code => Exit::Code(code),
    }
}

/// Names of the signals that end programs, as `kill -l` has them.
fn signal_name(signal: i32) -> String {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
        "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF",
        "WINCH", "IO", "PWR", "SYS",
    ];
    let index = usize::try_from(signal - 1).unwrap_or(usize::MAX);
    NAMES.get(index).map_or_else(|| signal.to_string(), |name| (*name).to_owned())
}

fn name_of(program: &Path) -> String {
    program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned()
}
