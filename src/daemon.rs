//! The daemon: reads the configuration, wires the rooms together, runs until it is told to stop.
//!
//! ```text
//! watch (inotify) ─┐
//! poll  (timer)   ─┼─ hints ──► planner ──► queue ──► scheduler ──► runner ──► driver, host
//! hook  (socket)  ─┘                                     ▲
//! server (socket) ── look, build, cancel, retry ─────────┘
//! ```
//!
//! Nothing decides anything here. A task that ends by itself ends the daemon: half a daemon is worse than none.

mod cloud;
mod heap;
mod parts;
mod planning;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::Settings;
use crate::domain::id::RepoName;
use crate::engine::{Engine, reaper, scheduler};
use crate::machine::host::SandboxedHost;
use crate::machine::sandbox;
use crate::server::{self, Served, Surroundings};
use crate::source::poll::{self, PollStates};
use crate::source::watch::{RefWatch, WatchFault};
use crate::{systemd, telemetry};

/// Worker threads: the work is waiting, and each costs memory.
const WORKERS: usize = 2;
/// How many hints may wait; more say nothing new.
const HINTS: usize = 64;
/// How often leftovers are looked for and garbage is collected.
const CARE: Duration = Duration::from_secs(3600);
/// The sentence for systemd is written no oftener than this.
const SENTENCE: Duration = Duration::from_secs(1);
/// How long the tasks may take to end when the daemon stops.
const STOPPING: Duration = Duration::from_secs(20);

/// The host of sandboxed programs for a command that asks no daemon, with its private copies in a directory.
///
/// # Errors
/// When the program's own file is not found.
pub fn offline_host(scratch: &Path) -> std::io::Result<SandboxedHost> {
    Ok(SandboxedHost::new(sandbox::Settings::new(scratch, std::env::current_exe()?)))
}

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// When it can't start, or a part of it ended by itself.
pub fn serve(config: Option<&Path>) -> Result<()> {
    telemetry::start("info")?;
    heap::one_for_all();
    let settings = Settings::load(config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build()?;
    runtime.block_on(run(settings))
}

async fn run(settings: Settings) -> Result<()> {
    // Taken before anything is made: whoever stops us early is heard.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let parts = parts::open(&settings).await?;
    let engine = Engine::new(parts.engine);
    let stop = CancellationToken::new();
    let polls = PollStates::default();
    let (hints, received) = mpsc::channel(HINTS);
    let surroundings =
        Arc::new(Around { paths: parts.paths.clone(), polls: polls.clone(), watch: Ok(WatchFault::default()).into() });

    reaper::recover(&engine).await.context("recovering interrupted builds")?;
    let mut tasks = Tasks { set: JoinSet::new(), stop: stop.clone() };
    tasks.spawn("server", {
        let socket = &settings.server.socket;
        let listener = server::listen(socket, parts::group(&settings.server.group))
            .with_context(|| format!("can't listen at {}", socket.display()))?;
        let served = Served { engine: engine.clone(), surroundings: surroundings.clone() };
        let stop = stop.clone();
        async move { server::run(listener, served, stop).await.map_err(anyhow::Error::from) }
    });
    tasks
        .spawn("planner", planning::run(engine.clone(), received, parts.paths.keys().cloned().collect(), stop.clone()));
    let (drain, cut) = (CancellationToken::new(), CancellationToken::new());
    let mut building = tokio::spawn(scheduler::run(engine.clone(), drain.clone(), cut.clone()));
    tasks.spawn("poll", {
        let (polled, hints, stop) = (parts.polled, hints.clone(), stop.clone());
        let clock: Arc<dyn crate::engine::ports::Clock> = Arc::new(parts::SystemClock);
        async move {
            poll::run(polled, polls, clock, hints, stop.clone()).await;
            stop.cancelled().await;
            Ok(())
        }
    });
    watch(&parts.paths, &surroundings, hints, &mut tasks);
    tasks.spawn("care", care(engine.clone(), stop.clone()));
    tasks.spawn("watchdog", watchdog(engine.clone(), settings.server.socket.clone(), stop.clone()));

    systemd::ready();
    info!(socket = %settings.server.socket.display(), "ready");
    let ended = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        ended = tasks.first_end() => ended,
        ended = &mut building => Err(anyhow!("the scheduler ended by itself: {ended:?}")),
    };
    systemd::stopping();
    info!("stopping: each build ends the stage it is in; a second signal breaks it off");
    drain.cancel();
    while !building.is_finished() {
        tokio::select! {
            _ = terminate.recv() => cut.cancel(),
            _ = interrupt.recv() => cut.cancel(),
            _ = &mut building => break,
        }
    }
    stop.cancel();
    tasks.drain().await;
    drop(std::fs::remove_file(&settings.server.socket));
    ended
}

/// Watches the references, where inotify is to be had; else the poll is all there is, and `status` says so.
fn watch(
    paths: &BTreeMap<RepoName, PathBuf>,
    surroundings: &Arc<Around>,
    hints: mpsc::Sender<RepoName>,
    tasks: &mut Tasks,
) {
    let watched = paths.iter().map(|(name, path)| (name.clone(), path.clone())).collect();
    match RefWatch::start(watched) {
        Ok(watch) => {
            surroundings.watched(Ok(watch.fault()));
            let stop = tasks.stop.clone();
            tasks.spawn("watch", async move {
                watch.run(hints, stop.clone()).await;
                stop.cancelled().await;
                Ok(())
            });
        }
        Err(error) => {
            warn!(%error, "references can't be watched; polling finds what is pushed");
            surroundings.watched(Err(error.to_string()));
        }
    }
}

/// The tasks of the daemon. All of them run as long as it does.
struct Tasks {
    set: JoinSet<(&'static str, Result<()>)>,
    stop: CancellationToken,
}

impl Tasks {
    fn spawn(&mut self, name: &'static str, task: impl Future<Output = Result<()>> + Send + 'static) {
        self.set.spawn(async move { (name, task.await) });
    }

    async fn first_end(&mut self) -> Result<()> {
        match self.set.join_next().await {
            Some(Ok((name, Ok(())))) => Err(anyhow!("{name} ended by itself")),
            Some(Ok((name, Err(error)))) => Err(error.context(format!("{name} failed"))),
            Some(Err(error)) => Err(anyhow!("a task broke: {error}")),
            None => Err(anyhow!("nothing runs")),
        }
    }

    async fn drain(&mut self) {
        let all = async { while self.set.join_next().await.is_some() {} };
        if tokio::time::timeout(STOPPING, all).await.is_err() {
            warn!("some tasks did not end in time");
            self.set.abort_all();
        }
    }
}

/// Looks at once whether driver and sandbox work, so that nobody waits for it later; sweeps leftovers and collects garbage
/// now and then.
async fn care(engine: Engine, stop: CancellationToken) -> Result<()> {
    let health = engine.health().await;
    for error in [health.driver.as_ref().err(), health.sandbox.as_ref().err()].into_iter().flatten() {
        warn!(%error, help = error.help, "what builds need does not work");
    }
    if engine.store().opening_report().is_some() {
        verify_after_doubt(&engine).await;
    }
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(CARE) => {}
        }
        if let Err(error) = engine.collect().await {
            warn!(%error, "garbage can't be collected");
        }
    }
}

/// The store was verified before it was opened, since a write of an earlier life failed halfway; reading every image too
/// takes longer than a start may.
async fn verify_after_doubt(engine: &Engine) {
    match engine.verify(&tokio::sync::watch::Sender::default()).await {
        Ok(report) => {
            for problem in &report.problems {
                error!(problem = problem.what, help = problem.help, "after a write that failed: {}", problem.what);
            }
            info!(disks = report.disks, problems = report.problems.len(), "verified after a write that failed");
        }
        Err(error) => warn!(%error, "what an earlier write left in doubt can't be verified"),
    }
}

/// Tells systemd that we live, after a look at what must: whoever can't plan, journal or answer is dead, whatever else
/// runs.
async fn watchdog(engine: Engine, socket: PathBuf, stop: CancellationToken) -> Result<()> {
    let every = systemd::watchdog_interval().unwrap_or(Duration::from_secs(10));
    let mut changes = engine.changes();
    loop {
        changes.mark_unchanged();
        match tokio::time::timeout(every, look(&engine, &socket)).await {
            Ok(Ok(sentence)) => {
                systemd::alive();
                systemd::status(&sentence);
            }
            Ok(Err(error)) => warn!(%error, "the watchdog is told nothing"),
            Err(_) => warn!("the watchdog is told nothing: the database or the socket does not answer"),
        }
        // Builds change many things a second; a sentence that nobody could read needs no writing.
        let changed = async {
            tokio::time::sleep(SENTENCE.min(every)).await;
            changes.changed().await
        };
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(every) => {}
            _ = changed => {}
        }
    }
}

/// Looks at the database's threads, the scheduler's loop and the socket.
async fn look(engine: &Engine, socket: &Path) -> Result<String> {
    engine.store().ping().await?;
    if !engine.is_scheduling() {
        return Err(anyhow!("the scheduler stands still"));
    }
    server::answers(socket).await.with_context(|| format!("{} does not answer", socket.display()))?;
    Ok(sentence(&engine.store().open_builds().await?))
}

fn sentence(unfinished: &[crate::store::OpenBuild]) -> String {
    use crate::domain::build::BuildState;
    let running: Vec<String> = unfinished
        .iter()
        .filter(|build| build.state == BuildState::Running)
        .map(|build| format!("{} {}", build.number, build.key.path))
        .collect();
    match (running.as_slice(), unfinished.len()) {
        ([], 0) => "idle".to_owned(),
        ([], waiting) => format!("{waiting} waiting"),
        (running, all) => format!("building {}; {} waiting", running.join(", "), all - running.len()),
    }
}

/// What `status` says of repositories.
#[derive(Debug)]
struct Around {
    paths: BTreeMap<RepoName, PathBuf>,
    polls: PollStates,
    /// What the watch says of itself, or why there is none.
    watch: std::sync::Mutex<Result<WatchFault, String>>,
}

impl Around {
    fn watched(&self, watch: Result<WatchFault, String>) {
        *self.watch.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = watch;
    }
}

impl Surroundings for Around {
    fn path(&self, repository: &RepoName) -> PathBuf {
        self.paths.get(repository).cloned().unwrap_or_default()
    }

    fn problem(&self, repository: &RepoName) -> Option<String> {
        let fetch = self.polls.get(repository).error.map(|error| format!("{error}; what was fetched before is kept"));
        let watch = self.watch.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let watch = match &*watch {
            Ok(watch) => watch.get().map(|error| error.to_string()),
            Err(error) => Some(error.clone()),
        };
        fetch.or(watch.map(|error| format!("{error}; it is polled")))
    }
}
