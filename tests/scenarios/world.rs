//! Everything outside of the daemon: disks, machines, images, private copies. It outlives every daemon, writes down what
//! was done, and takes note of whatever should never have been asked of it.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use factoryd::domain::build::Moment;
use factoryd::domain::id::{BuildNo, Digest, DiskId};
use factoryd::engine::ports::{PortError, Wait};
use tokio::sync::watch;

/// The settable clock begins here: 2026-11-23 14:02:00 UTC.
const BEGINNING: i64 = 1_795_442_520_000;

/// More bytes than anything here takes.
pub(crate) const PLENTY: u64 = 1 << 60;

/// The world.
pub(crate) struct World {
    state: Mutex<State>,
    now: AtomicI64,
    changes: watch::Sender<u64>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) disks: BTreeMap<DiskId, Disk>,
    pub(crate) machines: BTreeMap<u16, Vm>,
    /// Builds that have a private copy on the host.
    pub(crate) copies: BTreeSet<BuildNo>,
    pub(crate) last_machine: u16,
    /// Bytes free on the host's disk.
    pub(crate) free: u64,
    /// What was done, in order.
    pub(crate) script: Vec<String>,
    troubles: Vec<Planned>,
    is_let_go: bool,
    /// What should never have been asked.
    pub(crate) offences: Vec<String>,
}

/// What a disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Base,
    Changed,
    Sealed,
    Image,
    /// None of ours.
    Foreign,
}

/// A disk that the driver keeps.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) kind: Kind,
    /// Its bytes.
    pub(crate) content: String,
    /// Their sum.
    pub(crate) bits: Digest,
    pub(crate) backing: Vec<DiskId>,
    /// Name and properties of an image.
    pub(crate) label: Option<(String, Vec<(String, String)>)>,
}

impl Disk {
    pub(crate) fn new(kind: Kind, content: String, backing: Vec<DiskId>) -> Self {
        Self { kind, bits: Digest::of(content.as_bytes()), content, backing, label: None }
    }
}

/// A machine.
#[derive(Clone, Debug)]
pub(crate) struct Vm {
    pub(crate) build: BuildNo,
    pub(crate) role: String,
    pub(crate) disk: DiskId,
    pub(crate) is_up: bool,
    /// What a layer of is attached to it.
    pub(crate) attached: Option<DiskId>,
    /// For how many looks it does not answer.
    pub(crate) away: u8,
    /// Bytes that its disk takes on the host.
    pub(crate) written: u64,
    /// What was done in it, from which its disk's bits follow.
    pub(crate) done: Vec<String>,
    pub(crate) files: BTreeMap<String, String>,
}

/// What goes wrong with an operation.
#[derive(Clone, Debug)]
pub(crate) enum Trouble {
    /// It fails so.
    Fail(PortError),
    /// It does nothing until [`World::let_go`], or until its wait ends.
    Hold,
    /// The machine goes down in the middle of it.
    PowerOff,
    /// The machine reboots in the middle of it, and is away for as many looks.
    Reboot(u8),
    /// The task that asks for it panics.
    Panic,
    /// The daemon is killed before anything is done.
    Die,
    /// The daemon is killed when it is done, before it hears of it.
    DieAfter,
}

struct Planned {
    pattern: String,
    trouble: Trouble,
    left: usize,
}

/// One life of the daemon. After its end nothing of it may act any more, wherever its threads were.
#[derive(Debug)]
pub(crate) struct Life {
    is_over: AtomicBool,
    ticks: AtomicU64,
    last_tick: AtomicU64,
    pub(crate) over: watch::Sender<bool>,
}

impl Life {
    pub(crate) fn new(last_tick: Option<u64>) -> Self {
        Self {
            is_over: AtomicBool::new(false),
            ticks: AtomicU64::new(0),
            last_tick: AtomicU64::new(last_tick.unwrap_or(u64::MAX)),
            over: watch::Sender::new(false),
        }
    }

    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        self.over.send_replace(true);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    /// Ends the life and the task that calls this: what unwinds here never gets to act again.
    pub(crate) fn die(&self) -> ! {
        self.end();
        resume_unwind(Box::new("killed"));
    }

    pub(crate) fn check(&self) {
        if self.is_over() {
            self.die();
        }
    }

    /// Counts a look at the clock: every event of a journal is preceded by one.
    pub(crate) fn tick(&self) {
        self.check();
        if self.ticks.fetch_add(1, Ordering::SeqCst) + 1 >= self.last_tick.load(Ordering::SeqCst) {
            self.die();
        }
    }
}

/// An operation under way.
pub(crate) struct Act<'a> {
    life: &'a Life,
    pub(crate) powers_off: bool,
    pub(crate) reboots: Option<u8>,
    dies_after: bool,
}

impl Act<'_> {
    /// The operation is done.
    pub(crate) fn end(self) {
        if self.dies_after {
            self.life.die();
        }
    }
}

impl World {
    pub(crate) fn new() -> Self {
        let state = State { free: PLENTY, ..State::default() };
        Self { state: Mutex::new(state), now: AtomicI64::new(BEGINNING), changes: watch::Sender::new(0) }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A look at the clock. It goes on by a millisecond each time.
    pub(crate) fn look_at_clock(&self) -> Moment {
        Moment(self.now.fetch_add(1, Ordering::SeqCst))
    }

    /// Lets days pass.
    pub(crate) fn days_pass(&self, days: i64) {
        self.now.fetch_add(days * 86_400_000, Ordering::SeqCst);
    }

    /// The next operation whose line in the script contains `pattern` meets this trouble.
    pub(crate) fn next(&self, pattern: &str, trouble: Trouble) {
        self.plan(pattern, trouble, 1);
    }

    /// Every operation whose line in the script contains `pattern` meets this trouble.
    pub(crate) fn always(&self, pattern: &str, trouble: Trouble) {
        self.plan(pattern, trouble, usize::MAX);
    }

    fn plan(&self, pattern: &str, trouble: Trouble, left: usize) {
        let mut state = self.state();
        state.is_let_go = false;
        state.troubles.push(Planned { pattern: pattern.to_owned(), trouble, left });
    }

    /// Whatever is held goes on.
    pub(crate) fn let_go(&self) {
        self.state().is_let_go = true;
        self.changes.send_modify(|count| *count += 1);
    }

    /// No trouble any more.
    pub(crate) fn calm(&self) {
        self.state().troubles.clear();
        self.let_go();
    }

    /// How often something was done whose line begins so.
    pub(crate) fn count(&self, beginning: &str) -> usize {
        self.state().script.iter().filter(|line| line.starts_with(beginning)).count()
    }

    /// Forgets what was done so far.
    pub(crate) fn forget_script(&self) {
        self.state().script.clear();
    }

    /// Follows what is done.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Writes down what is about to be done, and lets it meet its trouble.
    pub(crate) async fn act<'a>(
        &self,
        life: &'a Life,
        line: String,
        wait: Option<&Wait>,
    ) -> Result<Act<'a>, PortError> {
        life.check();
        let trouble = {
            let mut state = self.state();
            let planned = state.troubles.iter_mut().find(|plan| plan.left > 0 && line.contains(&plan.pattern));
            let trouble = planned.map(|plan| {
                plan.left -= 1;
                plan.trouble.clone()
            });
            state.script.push(line.clone());
            trouble
        };
        self.changes.send_modify(|count| *count += 1);
        let mut act = Act { life, powers_off: false, reboots: None, dies_after: false };
        match trouble {
            None => {}
            Some(Trouble::Fail(error)) => return Err(error),
            Some(Trouble::Hold) => match wait {
                Some(wait) => wait.run(&line, self.held()).await?,
                None => self.held().await?,
            },
            Some(Trouble::PowerOff) => act.powers_off = true,
            Some(Trouble::Reboot(away)) => act.reboots = Some(away),
            Some(Trouble::Panic) => panic!("{line} met a fault of ours"),
            Some(Trouble::Die) => life.die(),
            Some(Trouble::DieAfter) => act.dies_after = true,
        }
        life.check();
        Ok(act)
    }

    async fn held(&self) -> Result<(), PortError> {
        let mut changes = self.changes();
        while !self.state().is_let_go {
            changes.changed().await.map_err(|_| PortError::unavailable("the world ended"))?;
        }
        Ok(())
    }
}

impl State {
    /// Something that a real driver might let pass, and that is wrong all the same.
    pub(crate) fn offence(&mut self, what: impl Into<String>) -> PortError {
        let what = what.into();
        self.offences.push(what.clone());
        PortError::failed(what)
    }
}
