//! The harness: a factory in a temporary directory, its clone, its world, and the daemon's life in it.

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use factoryd::domain::build::{BuildState, Failure};
use factoryd::domain::id::{Branch, BuildNo, Digest, DiskId, DriverName, RepoName};
use factoryd::domain::path::RepoPath;
use factoryd::domain::pipeline::{BaseImage, DiskFormat};
use factoryd::engine::care::Collected;
use factoryd::engine::planner::Planned;
use factoryd::engine::policy::{MachineLimits, Policy, RepositoryPolicy};
use factoryd::engine::ports::{Driver, Secret};
use factoryd::engine::verify::Looked;
use factoryd::engine::{BuildRequest, Engine, Parts, RequestError, reaper, scheduler};
use factoryd::source::mirror::{self, Receiving};
use factoryd::source::repositories::GitRepositories;
use factoryd::store::{BuildFilter, BuildRecord, ImageRecord, Served, Store, StoreError};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::clone::Clone;
use crate::fakes::{FakeClock, FakeDriver, FakeHost, Reach};
use crate::far::Far;
use crate::logs::Logs;
use crate::show;
use crate::world::{Kind, Life, World};

/// Long enough for a loaded machine; nothing waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(30);
const DRIVER: &str = "fake";

/// The pipeline of `images/*` in these scenarios.
const PIPELINE: &str = r#"version: 1
bundles: [images/*]
vars: build-vars.yml
on_shared_change: rebuild
timeout: 60s
stages:
  - boot: { image: "{{ bundle.img_base }}", user: root }
  - provision:
      steps:
        - upload: { from: files/motd, to: /etc/motd }
        - ansible: ansible/site.yml
        - script: { path: scripts/install.sh, args: ["{{ bundle.name }}"] }
        - name: clean
          shell: echo cleaning
  - test:
      ports: [80]
      steps:
        - name: boots
          shell: echo running
        - pytest: tests
      reports: ["reports/*.xml"]
  - snapshot:
      name: "{{ bundle.name }}-{{ build.stamp }}"
      properties: "{{ bundle.properties }}"
      min_disk: 2
  - render: { templates: output }
"#;

/// A factory and the people around it.
pub(crate) struct Factory {
    pub(crate) world: Arc<World>,
    pub(crate) clone: Clone,
    pub(crate) policy: Policy,
    /// What the last planning said, branch by branch.
    pub(crate) planned: Vec<Planned>,
    daemon: Option<Daemon>,
    logs: Logs,
    /// What may stand in the log at error level.
    pub(crate) expected_errors: Vec<&'static str>,
    /// Whether the scenario takes disks away behind everybody's back.
    pub(crate) loses_disks: bool,
    /// The driver that gets copies, where the policy names any.
    pub(crate) far: Arc<Far>,
    dir: TempDir,
}

struct Daemon {
    engine: Engine,
    life: Arc<Life>,
    runtime: Runtime,
    stop: CancellationToken,
    scheduler: Option<tokio::task::JoinHandle<()>>,
}

impl Factory {
    /// A factory whose repository has a pipeline and the bundle `images/web`, committed and not pushed.
    pub(crate) fn new() -> Self {
        let mut factory = Self::empty();
        factory.clone.write("pipelines/images.yml", PIPELINE);
        factory.bundle("images/web", "debian");
        factory.clone.commit();
        factory
    }

    /// A factory whose repository has nothing in it.
    pub(crate) fn empty() -> Self {
        // In memory where that can be had: the daemon is killed here, and the machine is not, so nothing rests on a disk.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a temporary directory");
        let repositories = GitRepositories::new(dir.path().join("repos"));
        let receiving = Receiving {
            max_input: 1 << 20,
            factoryd: dir.path().join("no-such-factoryd"),
            socket: dir.path().join("no-such-socket"),
        };
        let bare = mirror::prepare_receiving(&repositories, &name(), &receiving).expect("a receiving repository");
        let policy = Policy {
            repositories: vec![RepositoryPolicy { name: name(), tracked: Vec::new(), network_full: Vec::new() }],
            driver: DriverName::from(DRIVER),
            copies: Vec::new(),
            aliases: vec![("debian".to_owned(), base("debian")), ("suse".to_owned(), base("suse"))],
            base_directories: Vec::new(),
            slots: 2,
            memory: None,
            machine: MachineLimits::default(),
            disk_free: 0,
            secrets: vec![("token".to_owned(), Secret("hush".to_owned()))],
            keep: 3,
            keep_for: None,
            scratch: dir.path().join("scratch"),
        };
        let mut factory = Self {
            world: Arc::new(World::new()),
            clone: Clone::new(bare),
            policy,
            planned: Vec::new(),
            daemon: None,
            logs: Logs::default(),
            expected_errors: Vec::new(),
            loses_disks: false,
            far: Arc::default(),
            dir,
        };
        factory.start();
        factory
    }

    /// Writes the files of a bundle.
    pub(crate) fn bundle(&mut self, path: &str, base: &str) {
        let name = path.rsplit('/').next().expect("a name");
        let vars = format!("bundle:\n  name: {name}\n  img_base: {base}\n  properties:\n    os: Debian\n");
        for (file, text) in [
            ("build-vars.yml", vars.as_str()),
            ("README.md", "About it.\n"),
            ("files/motd", "Welcome.\n"),
            ("ansible/site.yml", "- hosts: all\n"),
            ("scripts/install.sh", "#!/bin/sh\necho installing\n"),
            ("tests/test_web.py", "def test_port():\n    assert True\n"),
            ("output/stack.yml.j2", "image: {{ result_img_id }}\n"),
        ] {
            self.clone.write(&format!("{path}/{file}"), text);
        }
        self.clone.mode(&format!("{path}/scripts/install.sh"), true);
    }

    /// Writes files and commits them.
    pub(crate) fn commit(&mut self, files: &[(&str, &str)]) -> git2::Oid {
        for (path, text) in files {
            self.clone.write(path, text);
        }
        self.clone.commit()
    }

    /// Replaces text in a file of the clone.
    pub(crate) fn edit(&mut self, path: &str, from: &str, to: &str) {
        let text = self.clone.files[path].0.clone();
        assert!(text.contains(from), "{path} has no {from:?}");
        self.clone.write(path, &text.replace(from, to));
    }

    /// Pushes the branch; a daemon that lives plans it.
    pub(crate) fn push(&mut self) {
        self.clone.push();
        if self.daemon.is_some() {
            self.plan();
        }
    }

    /// Commits some files, pushes, and waits until all is done.
    pub(crate) fn deliver(&mut self, files: &[(&str, &str)]) -> git2::Oid {
        let commit = self.commit(files);
        self.push();
        self.settle();
        commit
    }

    /// A hint: look at the repository.
    pub(crate) fn plan(&mut self) {
        let engine = self.engine().clone();
        let work = async move { engine.plan_repository(&name()).await };
        if let Some(planned) = self.try_run(work) {
            self.planned = planned.expect("a plan").planned;
        }
    }

    /// Starts the daemon, as `daemon.rs` does it.
    pub(crate) fn start(&mut self) {
        self.start_until(None);
    }

    /// Starts a daemon that is killed at its nth look at the clock.
    pub(crate) fn start_until(&mut self, tick: Option<u64>) {
        assert!(self.daemon.is_none(), "the daemon lives");
        let dispatch = self.logs.dispatch();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            // The guard is for the thread's whole life.
            .on_thread_start(move || std::mem::forget(tracing::dispatcher::set_default(&dispatch)))
            .build()
            .expect("a runtime");
        let life = Arc::new(Life::new(tick));
        let reach = Reach { world: Arc::clone(&self.world), life: Arc::clone(&life) };
        let here = FakeDriver { name: DriverName::from(DRIVER), reach: reach.clone() };
        let mut drivers: Vec<Arc<dyn Driver>> = vec![Arc::new(here)];
        if !self.policy.copies.is_empty() {
            drivers.push(self.far.clone());
        }
        let engine = Engine::new(Parts {
            store: self.open_store(),
            repositories: Arc::new(GitRepositories::new(self.dir.path().join("repos"))),
            drivers,
            host: Arc::new(FakeHost(reach.clone())),
            clock: Arc::new(FakeClock(reach)),
            policy: self.policy.clone(),
        });
        let stop = CancellationToken::new();
        self.daemon = Some(Daemon { engine: engine.clone(), life, runtime, stop: stop.clone(), scheduler: None });
        let recovering = engine.clone();
        let recovered = self.try_run(async move { reaper::recover(&recovering).await });
        let Some(recovered) = recovered else { return };
        recovered.expect("recovery");
        let daemon = self.daemon.as_mut().expect("just started");
        daemon.scheduler = Some(daemon.runtime.spawn(scheduler::run(engine, stop, CancellationToken::new())));
        self.plan();
    }

    /// Kills the daemon and tells what journal of a build it left; empty where there is no such build yet.
    pub(crate) fn left(&mut self, number: u64) -> Vec<String> {
        self.kill();
        let store = self.open_store();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let journal = runtime.block_on(store.journal(BuildNo(number))).unwrap_or_default();
        journal.iter().map(show::event).collect()
    }

    /// The lock goes when the last thread of the life before lets go of the store.
    fn open_store(&self) -> Store {
        let until = Instant::now() + PATIENCE;
        loop {
            match Store::open(&self.dir.path().join("state")) {
                Err(StoreError::Locked { .. }) if Instant::now() < until => std::thread::yield_now(),
                other => return other.expect("a store"),
            }
        }
    }

    /// Ends the daemon as `kill -9` does: nothing of it acts any more, nothing is told.
    pub(crate) fn kill(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.life.end();
            drop(daemon.engine);
            daemon.runtime.shutdown_timeout(PATIENCE);
        }
    }

    /// Tells the daemon to stop, as SIGTERM does.
    pub(crate) fn ask_to_stop(&self) {
        self.daemon.as_ref().expect("the daemon lives").stop.cancel();
    }

    /// Waits until a daemon that was told to stop has stopped.
    pub(crate) fn stopped(&mut self) {
        let daemon = self.daemon.as_mut().expect("the daemon lives");
        let scheduler = daemon.scheduler.take().expect("a scheduler");
        let within = async { tokio::time::timeout(PATIENCE, scheduler).await };
        daemon.runtime.block_on(within).expect("it stops in time").expect("the scheduler ends well");
        self.kill();
    }

    /// Kills the daemon and starts another in the same directories and the same world.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.start();
    }

    /// Whether the daemon was killed by a trouble or by its clock.
    pub(crate) fn is_dead(&self) -> bool {
        self.daemon.as_ref().is_none_or(|daemon| daemon.life.is_over())
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.daemon.as_ref().expect("the daemon lives").engine
    }

    /// Runs something of the daemon's; `None` when the daemon was killed during it.
    fn try_run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let daemon = self.daemon.as_ref().expect("the daemon lives");
        match daemon.runtime.block_on(daemon.runtime.spawn(work)) {
            Ok(result) => Some(result),
            Err(_) if daemon.life.is_over() => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Asks something of the daemon that must not kill it.
    pub(crate) fn run<T: Send + 'static, F>(&self, work: impl FnOnce(Engine) -> F) -> T
    where
        F: Future<Output = T> + Send + 'static,
    {
        self.try_run(work(self.engine().clone())).expect("the daemon lives")
    }

    /// Waits until no build is unfinished, or those that are can't start, and looks whether anything was left.
    pub(crate) fn settle(&mut self) {
        assert!(self.settle_or_die(), "the daemon was killed");
        self.check();
    }

    /// The same, for a daemon that may be killed meanwhile: `false` if it was.
    pub(crate) fn settle_or_die(&mut self) -> bool {
        let daemon = self.daemon.as_ref().expect("the daemon lives");
        let (engine, mut over) = (daemon.engine.clone(), daemon.life.over.subscribe());
        let settled = async move {
            let mut changes = engine.changes();
            loop {
                changes.mark_unchanged();
                if *over.borrow() {
                    return Ok(false);
                }
                let unfinished = engine.store().unfinished().await.expect("builds");
                let stuck = |record: &BuildRecord| {
                    record.build.state == BuildState::Queued
                        && engine.wait_reason(record.order.number).contains("which is not published")
                };
                if unfinished.iter().all(stuck) && !engine.is_busy() {
                    return Ok(true);
                }
                let waited = async {
                    tokio::select! {
                        _ = changes.changed() => {}
                        _ = over.changed() => {}
                    }
                };
                if tokio::time::timeout(PATIENCE, waited).await.is_err() {
                    return Err(unfinished);
                }
            }
        };
        match daemon.runtime.block_on(settled) {
            Ok(settled) => settled,
            Err(unfinished) => panic!("nothing happens any more, and these are unfinished: {unfinished:#?}"),
        }
    }

    /// Waits until something was done in the world whose line contains `text`.
    pub(crate) fn until(&self, text: &str) {
        let daemon = self.daemon.as_ref().expect("the daemon lives");
        let mut changes = self.world.changes();
        let seen = async {
            while !self.world.state().script.iter().any(|line| line.contains(text)) {
                changes.changed().await.expect("the world goes on");
            }
        };
        let within = async { tokio::time::timeout(PATIENCE, seen).await };
        daemon.runtime.block_on(within).unwrap_or_else(|_| panic!("nobody ever did {text:?}"));
    }

    /// Waits until something holds of the daemon.
    pub(crate) fn until_true<F: Future<Output = bool>>(&self, what: &str, look: impl Fn(Engine) -> F) {
        let daemon = self.daemon.as_ref().expect("the daemon lives");
        let mut changes = daemon.engine.changes();
        let holds = async {
            while !look(daemon.engine.clone()).await {
                changes.changed().await.expect("the engine goes on");
            }
        };
        let within = async { tokio::time::timeout(PATIENCE, holds).await };
        daemon.runtime.block_on(within).unwrap_or_else(|_| panic!("never: {what}"));
    }

    /// Waits until the scheduler says why a build waits.
    pub(crate) fn until_waiting(&self, number: u64) {
        let daemon = self.daemon.as_ref().expect("the daemon lives");
        let (engine, mut changes) = (daemon.engine.clone(), daemon.engine.changes());
        let waiting = async {
            while engine.wait_reason(BuildNo(number)).is_empty() {
                changes.changed().await.expect("the engine goes on");
            }
        };
        let within = async { tokio::time::timeout(PATIENCE, waiting).await };
        daemon.runtime.block_on(within).unwrap_or_else(|_| panic!("#{number} does not wait"));
    }

    /// What was planned last for a bundle of `main`, in a few words.
    pub(crate) fn said(&self, bundle: &str) -> String {
        self.said_on("main", bundle)
    }

    pub(crate) fn said_on(&self, branch: &str, bundle: &str) -> String {
        let planned = self.planned.iter().find(|planned| planned.branch.as_str() == branch);
        let found = planned.and_then(|planned| planned.plan.bundles.iter().find(|plan| plan.bundle == path(bundle)));
        found.map_or_else(|| "no such bundle".to_owned(), show::plan)
    }

    /// Why, as the last plan of `main` says.
    pub(crate) fn why(&self, bundle: &str) -> String {
        let planned = self.planned.iter().find(|planned| planned.branch.as_str() == "main");
        let found = planned.and_then(|planned| planned.plan.bundles.iter().find(|plan| plan.bundle == path(bundle)));
        found.map_or_else(|| "no such bundle".to_owned(), |plan| plan.reason.to_string())
    }

    /// How many builds were queued by the last planning.
    pub(crate) fn queued(&self) -> usize {
        self.planned.iter().map(|planned| planned.queued.len()).sum()
    }

    /// A build by its number.
    pub(crate) fn build(&self, number: u64) -> BuildRecord {
        let found = self.run(|engine| async move { engine.store().build(BuildNo(number)).await });
        found.expect("a store").unwrap_or_else(|| panic!("there is no build #{number}"))
    }

    /// How a build ended, in a few words.
    pub(crate) fn ended(&self, number: u64) -> String {
        show::build(&self.build(number))
    }

    /// Why a build failed.
    pub(crate) fn failure(&self, number: u64) -> Failure {
        self.build(number).build.failure.unwrap_or_else(|| panic!("#{number} did not fail"))
    }

    /// Disks vanish that are not of this kind.
    pub(crate) fn lose_all_but(&mut self, kinds: &[Kind]) {
        self.loses_disks = true;
        self.world.state().disks.retain(|_, disk| kinds.contains(&disk.kind));
    }

    /// All builds, oldest first.
    pub(crate) fn builds(&self) -> Vec<BuildRecord> {
        let filter = BuildFilter { limit: 10_000, ..BuildFilter::default() };
        let mut builds = self.run(|engine| async move { engine.store().builds(filter).await }).expect("builds");
        builds.reverse();
        builds
    }

    /// The events of a build in a few words.
    pub(crate) fn journal(&self, number: u64) -> Vec<String> {
        let journal = self.run(|engine| async move { engine.store().journal(BuildNo(number)).await });
        journal.expect("a journal").iter().map(show::event).collect()
    }

    /// What a bundle of a branch is served with.
    pub(crate) fn served_on(&self, branch: &str, bundle: &str) -> Option<Served> {
        let branch = Branch::from(branch);
        let mut served =
            self.run(|engine| async move { engine.store().served(&name(), &branch).await }).expect("served");
        served.remove(&path(bundle))
    }

    /// The image that serves a bundle of `main`.
    pub(crate) fn served(&self, bundle: &str) -> Option<ImageRecord> {
        self.served_on("main", bundle).map(|served| self.image(served.image.as_str()))
    }

    /// The id of the image that serves a bundle of `main`.
    pub(crate) fn served_id(&self, bundle: &str) -> String {
        self.served(bundle).unwrap_or_else(|| panic!("{bundle} is not served")).image.id.to_string()
    }

    pub(crate) fn image(&self, id: &str) -> ImageRecord {
        let wanted = id.to_owned();
        let found = self.run(|engine| async move { engine.store().image(&wanted).await });
        found.expect("a store").unwrap_or_else(|| panic!("there is no image {id}"))
    }

    /// All images, newest first.
    pub(crate) fn images(&self) -> Vec<ImageRecord> {
        self.run(|engine| async move { engine.store().images().await }).expect("images")
    }

    /// The text of an artifact of a build.
    pub(crate) fn artifact(&self, number: u64, wanted: &str) -> String {
        let store = self.engine().store().clone();
        let artifacts = self.run(|engine| async move { engine.store().artifacts(BuildNo(number)).await });
        let artifacts = artifacts.expect("artifacts");
        let paths: Vec<String> = artifacts.iter().map(|artifact| artifact.path.to_string()).collect();
        let found = artifacts.iter().find(|artifact| artifact.path.to_string() == wanted);
        let found = found.unwrap_or_else(|| panic!("#{number} has no {wanted}, only {paths:?}"));
        let mut text = Vec::new();
        store.blobs().copy(found.sha256, &mut text).expect("a blob");
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Asks for a build by hand.
    pub(crate) fn request(&mut self, request: BuildRequest) -> Result<u64, RequestError> {
        let request = BuildRequest { by: "ada".to_owned(), ..request };
        let order = self.run(|engine| async move { engine.request_build(&name(), request).await });
        order.map(|order| order.number.0)
    }

    pub(crate) fn cancel(&self, number: u64) {
        self.run(|engine| async move { engine.cancel(BuildNo(number), "ada").await }).expect("cancelled");
    }

    pub(crate) fn retry(&self, number: u64) -> u64 {
        let order = self.run(|engine| async move { engine.retry(BuildNo(number), None, "ada").await });
        order.expect("a retry").number.0
    }

    pub(crate) fn wait_reason(&self, number: u64) -> String {
        self.engine().wait_reason(BuildNo(number))
    }

    pub(crate) fn collect(&self) -> Collected {
        self.collect_or_die().expect("the daemon lives")
    }

    /// The same, for a daemon that may be killed meanwhile.
    pub(crate) fn collect_or_die(&self) -> Option<Collected> {
        let engine = self.engine().clone();
        Some(self.try_run(async move { engine.collect().await })?.expect("collected"))
    }

    /// What verification finds wrong.
    pub(crate) fn verify(&self) -> Vec<String> {
        let progress = tokio::sync::watch::Sender::new(Looked::default());
        let (report, looked) = self.run(|engine| async move { (engine.verify(&progress).await, *progress.borrow()) });
        let report = report.expect("a report");
        assert!(looked.bytes > 0 && report.disks > 0 || self.images().is_empty(), "{looked:?} {report:?}");
        assert!(!report.problems.iter().any(|problem| problem.stops_writing), "{report:?}");
        report.problems.into_iter().map(|problem| problem.what).collect()
    }

    /// What must hold whenever nothing runs.
    fn check(&self) {
        {
            let state = self.world.state();
            assert_eq!(state.offences, Vec::<String>::new());
            assert!(state.machines.is_empty(), "machines are left: {:?}", state.machines);
            assert!(state.copies.is_empty(), "private copies are left: {:?}", state.copies);
        }
        let left: Vec<PathBuf> = std::fs::read_dir(&self.policy.scratch)
            .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default();
        assert_eq!(left, Vec::<PathBuf>::new(), "scratch directories are left");
        let errors = self.logs.take();
        let unexpected: Vec<&String> =
            errors.iter().filter(|line| !self.expected_errors.iter().any(|known| line.contains(known))).collect();
        assert!(unexpected.is_empty(), "logged at error level: {unexpected:#?}");
        let problems = self.verify();
        assert!(problems.is_empty() || self.loses_disks, "{problems:#?}");
        let builds = self.builds();
        let numbers: BTreeSet<BuildNo> = builds.iter().map(|record| record.order.number).collect();
        assert_eq!(numbers.len(), builds.len(), "numbers are unique");
        self.check_images();
        self.check_made();
    }

    /// Whatever was sealed or published is known; base images wait for a collection.
    fn check_made(&self) {
        let known = self.known_disks();
        let state = self.world.state();
        let made =
            state.disks.iter().filter(|(_, disk)| !matches!(disk.kind, Kind::Base | Kind::Foreign)).map(|(id, _)| id);
        let left: Vec<&DiskId> = made.filter(|id| !known.contains(*id)).collect();
        assert_eq!(left, Vec::<&DiskId>::new(), "disks are left that nobody knows");
    }

    fn known_disks(&self) -> HashSet<DiskId> {
        let driver = DriverName::from(DRIVER);
        self.run(|engine| async move { engine.store().referenced_disks(&driver).await }).expect("disks")
    }

    /// What the catalogue says of an image is true.
    fn check_images(&self) {
        for record in self.images() {
            let (image, state) = (&record.image, self.world.state());
            let disk = &image.copies[0].disk;
            let real = state.disks.get(disk).unwrap_or_else(|| panic!("the image {} has lost {disk}", image.id));
            assert_eq!(real.bits, image.sha256, "the image {} has other bits", image.id);
            assert_eq!(real.label, Some((image.name.clone(), image.properties.clone())), "{}", image.id);
        }
    }

    /// What must hold when garbage was collected: nothing is kept that nobody knows, and nothing lacks what it needs.
    fn check_disks(&self) {
        self.collect();
        let known = self.known_disks();
        let state = self.world.state();
        for (id, disk) in state.disks.iter().filter(|(_, disk)| disk.kind != Kind::Foreign) {
            assert!(known.contains(id), "{id} is kept, and nobody knows it");
            for below in disk.backing.iter().filter(|_| !self.loses_disks) {
                assert!(state.disks.contains_key(below), "{id} stands on {below}, which is gone");
            }
        }
        for id in known.iter().filter(|_| !self.loses_disks) {
            assert!(state.disks.contains_key(id), "{id} is known, and gone");
        }
    }
}

impl Drop for Factory {
    /// The end of every scenario that did not fail.
    fn drop(&mut self) {
        if std::thread::panicking() {
            if let Some(daemon) = self.daemon.take() {
                daemon.life.end();
                daemon.runtime.shutdown_background();
            }
            return;
        }
        self.world.calm();
        if self.is_dead() {
            self.restart();
        }
        self.settle();
        self.check_disks();
        self.check();
        self.kill();
    }
}

/// The repository's name.
pub(crate) fn name() -> RepoName {
    RepoName::from("factory")
}

pub(crate) fn path(text: &str) -> RepoPath {
    RepoPath::new(text).expect("a path inside the repository")
}

fn base(name: &str) -> BaseImage {
    let url = format!("https://images.factory.example/{name}.qcow2");
    BaseImage::Url { sha256: Digest::of(url.as_bytes()), url, format: DiskFormat::Qcow2 }
}
