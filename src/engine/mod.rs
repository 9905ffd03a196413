//! Orchestration: what is planned becomes builds, builds become images, and nothing that was made is forgotten.
//!
//! [`Engine`] is the handle that the server and the daemon hold. Behind it:
//!
//! - [`planner`] compares branch tips with what is served and queues builds, each plan in one transaction;
//! - [`scheduler`] decides which queued build starts, and why the others wait;
//! - `runner` takes one build through its stages, journalling each intent before and each result after it;
//! - [`reaper`] clears away what a process left that died, and sends its builds on;
//! - [`care`] is retention and garbage collection, [`verify`] looks whether all is whole.

pub mod care;
pub mod diagnose;
mod disk;
mod failure;
mod freshness;
mod grants;
mod health;
pub mod junit;
mod log;
pub mod outside;
pub mod planner;
mod policies;
pub mod policy;
pub mod ports;
pub mod queue;
pub mod reaper;
mod requests;
mod runner;
pub mod scheduler;
mod stages;
pub mod verify;
pub mod views;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::domain::bundle::BundleKey;
use crate::domain::id::{Branch, BuildNo, DriverName, RepoName};
use crate::domain::path::RepoPath;
use crate::manifest::Cache;
use crate::manifest::reading::Buildable;
use crate::store::Store;

use self::failure::Problem;
pub use self::health::Health;
use self::policy::Policy;
use self::ports::{Clock, Driver, Host, Repositories};
pub use self::requests::{BuildRequest, RequestError};

/// What the engine remembers, as those may see it who hold its handle: rows, and how they are asked for.
pub mod memory {
    pub use crate::store::{
        Artifact, BuildFilter, BuildRecord, Delivery, ImageRecord, LogLine, LogPage, OpenBuild, Report, StoreError,
        TestCase, Warning,
    };
}

/// What the engine works with, handed in by the daemon or a test.
pub struct Parts {
    /// What is remembered.
    pub store: Store,
    /// The repositories.
    pub repositories: Arc<dyn Repositories>,
    /// The drivers.
    pub drivers: Vec<Arc<dyn Driver>>,
    /// Where host programs run.
    pub host: Arc<dyn Host>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What the configuration allows.
    pub policy: Policy,
}

/// The engine's handle; clones are the same engine.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

struct Shared {
    parts: Parts,
    drivers: BTreeMap<DriverName, Arc<dyn Driver>>,
    /// What earlier readings of trees parsed, one cache for each repository.
    caches: HashMap<RepoName, Arc<Cache>>,
    /// What the newest planned tip wants of each bundle: what may publish, and what it is based on.
    wanted: Mutex<HashMap<(RepoName, Branch), Arc<Wanted>>>,
    /// How the last look at each repository went. Before the first one nobody knows what is wanted of it.
    outlooks: Mutex<BTreeMap<RepoName, Outlook>>,
    /// The builds that run in this process.
    running: Mutex<BTreeMap<BuildNo, Running>>,
    /// What the last build of each bundle left on the disk; `None` until it is asked for after a build.
    left: Mutex<Option<Arc<disk::Left>>>,
    /// Why queued builds wait, as the scheduler last saw it.
    waits: Mutex<BTreeMap<BuildNo, String>>,
    /// What was looked up for the newest plan of each tracked branch.
    known: Mutex<HashMap<(RepoName, Branch), planner::Known>>,
    /// What the newest plan of each tracked branch said.
    plans: Mutex<BTreeMap<(RepoName, Branch), views::LastPlan>>,
    /// The branches of each repository as they were last planned, and when.
    planned: Mutex<HashMap<RepoName, (planner::Heads, Instant)>>,
    /// Planning of one repository is one at a time, so that two hints can't queue the same build twice.
    planning: tokio::sync::Mutex<()>,
    /// What an image that is there serves, and under which name, is changed by one build at a time: two bundles may be
    /// served by one image until one of them wants another name.
    serving: Arc<tokio::sync::Mutex<()>>,
    /// Cancelled when the daemon is to stop: no stage begins any more.
    draining: CancellationToken,
    /// What the driver and the sandbox said last.
    health: tokio::sync::Mutex<Option<Arc<Health>>>,
    /// Held while they are asked behind somebody's back.
    asking: tokio::sync::Mutex<()>,
    /// When the scheduler last looked at the queue.
    looked: Mutex<Instant>,
    /// Wakes the scheduler.
    wake: Notify,
    /// Counts whatever changed, for those who follow.
    changes: watch::Sender<u64>,
}

/// The bundles of a branch's newest planned tip.
type Wanted = HashMap<RepoPath, Arc<Buildable>>;

/// What could not be planned when a repository was looked at last.
#[derive(Clone, Debug, Default)]
struct Outlook {
    /// Why nothing could.
    trouble: Option<String>,
    /// The branches that could not, and why.
    unplanned: BTreeMap<Branch, String>,
}

/// A build that runs in this process.
#[derive(Clone, Debug)]
struct Running {
    key: BundleKey,
    needs: Needs,
    written: Written,
    cancel: CancellationToken,
    /// Set when it is stopped for another reason than that a person cancelled it.
    stopped: Option<Stopped>,
}

/// What a running build is counted with.
#[derive(Clone, Copy, Debug, Default)]
struct Needs {
    /// Bytes of memory that its machine has.
    memory: u64,
    /// Bytes that it is likely to write.
    disk: u64,
}

/// What a running build's machines have written, in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Written {
    /// What is there when it was looked last: a sealed disk is no machine's any more.
    now: u64,
    /// The most that was there at once.
    most: u64,
}

/// Why a running build is stopped, where no person asked for it.
#[derive(Clone, Debug)]
enum Stopped {
    /// A newer plan made it pointless, as this says.
    Superseded(String),
    /// The daemon stops; the next one goes on.
    Drained,
    /// It was about to fill the disk.
    Full(Problem),
}

/// A build's place among those that run, which only one can have. It is given back however its holder ends.
struct Place {
    engine: Engine,
    number: BuildNo,
    cancel: CancellationToken,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.engine.running().remove(&self.number);
        self.engine.wake();
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("policy", &self.shared.parts.policy).finish_non_exhaustive()
    }
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl Engine {
    /// An engine that does nothing yet: see [`reaper::recover`] and [`scheduler::run`].
    pub fn new(parts: Parts) -> Self {
        let caches =
            parts.policy.repositories.iter().map(|repository| (repository.name.clone(), Arc::default())).collect();
        let drivers = parts.drivers.iter().map(|driver| (driver.name().clone(), Arc::clone(driver))).collect();
        Self {
            shared: Arc::new(Shared {
                parts,
                drivers,
                caches,
                known: Mutex::default(),
                plans: Mutex::default(),
                wanted: Mutex::default(),
                outlooks: Mutex::default(),
                running: Mutex::default(),
                left: Mutex::default(),
                waits: Mutex::default(),
                planned: Mutex::default(),
                planning: tokio::sync::Mutex::default(),
                serving: Arc::default(),
                draining: CancellationToken::new(),
                health: tokio::sync::Mutex::default(),
                asking: tokio::sync::Mutex::default(),
                looked: Mutex::new(Instant::now()),
                wake: Notify::new(),
                changes: watch::Sender::new(0),
            }),
        }
    }

    /// What is remembered.
    pub fn store(&self) -> &Store {
        &self.shared.parts.store
    }

    /// What the configuration allows.
    pub fn policy(&self) -> &Policy {
        &self.shared.parts.policy
    }

    /// The driver that builds.
    ///
    /// # Panics
    /// Never: the daemon refuses a configuration whose driver it did not make.
    pub fn driver(&self) -> &Arc<dyn Driver> {
        self.shared.drivers.get(&self.policy().driver).expect("the configured driver was made at start")
    }

    /// All drivers that the configuration has.
    pub fn drivers(&self) -> impl Iterator<Item = &Arc<dyn Driver>> {
        self.shared.drivers.values()
    }

    /// A driver by its name, for images that another one made.
    pub fn driver_named(&self, name: &DriverName) -> Option<&Arc<dyn Driver>> {
        self.shared.drivers.get(name)
    }

    /// Where host programs run.
    pub fn host(&self) -> &Arc<dyn Host> {
        &self.shared.parts.host
    }

    /// The repositories.
    pub fn repositories(&self) -> &Arc<dyn Repositories> {
        &self.shared.parts.repositories
    }

    /// The time.
    pub fn clock(&self) -> &dyn Clock {
        self.shared.parts.clock.as_ref()
    }

    /// Changes whenever something did that a person could see.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    fn changed(&self) {
        self.shared.changes.send_modify(|count| *count += 1);
    }

    /// Something may be able to start now.
    fn wake(&self) {
        self.shared.wake.notify_one();
        self.changed();
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<BuildNo, Running>> {
        unpoisoned(&self.shared.running)
    }

    /// A place among the builds that run; `None` where this build has one.
    fn take_place(&self, number: BuildNo, key: BundleKey, needs: Needs) -> Option<Place> {
        let mut running = self.running();
        if running.contains_key(&number) {
            return None;
        }
        let cancel = CancellationToken::new();
        let build = Running { key, needs, written: Written::default(), cancel: cancel.clone(), stopped: None };
        running.insert(number, build);
        Some(Place { engine: self.clone(), number, cancel })
    }

    /// What the newest planned tip of its branch wants of a bundle.
    fn wanted(&self, key: &BundleKey) -> Option<Arc<Buildable>> {
        self.wanted_on(&key.repository, &key.branch).get(&key.path).cloned()
    }

    /// What the newest planned tip of a branch wants; nothing where none was planned.
    fn wanted_on(&self, repository: &RepoName, branch: &Branch) -> Arc<Wanted> {
        let wanted = unpoisoned(&self.shared.wanted);
        wanted.get(&(repository.clone(), branch.clone())).cloned().unwrap_or_default()
    }

    /// Whether the configuration has a repository of this name.
    pub fn has_repository(&self, name: &RepoName) -> bool {
        self.policy().repository(name).is_some()
    }
}

/// These maps are whole after every statement, so a panic elsewhere leaves nothing half done in them.
fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
