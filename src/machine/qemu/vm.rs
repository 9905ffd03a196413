//! One QEMU process under way: started, watched by a task of its own, and ended with everything it has.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::args::{ATTACHED, Hardware, PROGRAM};
use super::qmp::{self, Qmp};
use crate::engine::ports::{Exit, Lines, PortError, Wait};
use crate::machine::console::Console;
use crate::machine::lines::LastLines;
use crate::machine::process::{Program, Running, Tag};

/// How long QEMU may take from its start to its first answer.
const START: Duration = Duration::from_secs(30);

/// What became of a QEMU process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The guest runs, or boots again.
    Running,
    /// The guest's processors stand still, and QEMU waits for somebody: the accelerator failed, or the guest panicked.
    Stuck(String),
    /// The process has ended, after these events.
    Ended(Exit, String),
}

/// A QEMU process. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Vm {
    /// Guest ports and where the host reaches them on its loopback.
    pub(super) forwards: Vec<(u16, u16)>,
    /// The guest's console.
    pub(super) console: Arc<Console>,
    state: watch::Receiver<State>,
    commands: mpsc::Sender<Command>,
    stop: CancellationToken,
    _stop_when_dropped: DropGuard,
}

/// A command for QEMU's monitor, and where its answer goes.
type Command = (&'static str, Value, oneshot::Sender<Result<Value, PortError>>);

impl Vm {
    /// Starts QEMU and waits until it says where the guest's ports are.
    pub(super) async fn start(
        hardware: &Hardware<'_>,
        directory: &Path,
        console: Arc<Console>,
        tag: &Tag,
        wait: &Wait,
    ) -> Result<Self, PortError> {
        let listener = qmp::listen(hardware.qmp)?;
        let errors = Arc::new(LastLines::new(5));
        let (to_console, to_errors): (Lines, Lines) = (console.clone(), errors.clone());
        let program = Program::new(PROGRAM, tag).args(hardware.args()).directory(directory);
        let mut running = program.spawn_apart(&to_console, &to_errors)?;
        let greeted = wait.within(START).run("starting QEMU", greet(&listener, &mut running, &errors)).await;
        let (qmp, forwards) = match greeted {
            Ok(greeted) => greeted,
            Err(error) => {
                running.stop().await;
                return Err(error);
            }
        };
        let (report, state) = watch::channel(State::Running);
        let stop = CancellationToken::new();
        let (commands, asked) = mpsc::channel(1);
        tokio::spawn(supervise(running, (qmp, asked), stop.clone(), report, errors));
        Ok(Self { forwards, console, state, commands, stop: stop.clone(), _stop_when_dropped: stop.drop_guard() })
    }

    /// Where the host reaches a guest's port on its loopback.
    pub(super) fn forward(&self, guest: u16) -> Result<u16, PortError> {
        let found = self.forwards.iter().find(|(from, _)| *from == guest).map(|(_, to)| *to);
        found.ok_or_else(|| {
            PortError::unavailable(format!("QEMU does not say where the guest's port {guest} is reached"))
        })
    }

    /// Plugs in the layer that is there for it, while the guest runs. The guest finds the disk by its serial number.
    pub(super) async fn plug(&self, serial: &str, wait: &Wait) -> Result<(), PortError> {
        let device = json!({"driver": "virtio-blk-pci", "drive": ATTACHED, "serial": serial});
        self.ask("device_add", device, wait).await
    }

    async fn ask(&self, command: &'static str, arguments: Value, wait: &Wait) -> Result<(), PortError> {
        let gone = || PortError::unavailable(format!("QEMU ended before it could do {command}"));
        let asked = async {
            let (reply, answer) = oneshot::channel();
            self.commands.send((command, arguments, reply)).await.map_err(|_| gone())?;
            answer.await.map_err(|_| gone())?
        };
        wait.within(START).run("asking QEMU", asked).await.map(drop)
    }

    /// What became of it so far.
    pub(super) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Waits until the guest runs no more, one way or the other. May be dropped and called again.
    pub(super) async fn over(&self) -> State {
        let mut state = self.state.clone();
        let over = state.wait_for(|state| *state != State::Running).await.map(|state| state.clone());
        over.unwrap_or_else(|_| State::Ended(Exit::Code(-1), "its watcher has ended".to_owned()))
    }

    /// Waits until the guest's processors stand still while its process goes on, and says why. May be dropped and called
    /// again.
    pub(super) async fn stuck(&self) -> String {
        let mut state = self.state.clone();
        let stuck = state.wait_for(|state| matches!(state, State::Stuck(_))).await.map(|state| state.clone());
        match stuck {
            Ok(State::Stuck(event)) => event,
            // Its end is for others to tell.
            _ => std::future::pending().await,
        }
    }

    /// Waits until the process has ended.
    pub(super) async fn ended(&self) -> Result<(), PortError> {
        let mut state = self.state.clone();
        // A watcher that is gone has ended its process before.
        let _ended = state.wait_for(|state| matches!(state, State::Ended(..))).await;
        Ok(())
    }

    /// Ends the process at once and waits for its end.
    pub(super) async fn kill(&self) {
        self.stop.cancel();
        let _always_ok = self.ended().await;
    }
}

async fn greet(
    listener: &UnixListener,
    running: &mut Running,
    errors: &LastLines,
) -> Result<(Qmp, Vec<(u16, u16)>), PortError> {
    let hello = async {
        let mut qmp = Qmp::accept(listener).await?;
        let forwards = qmp.forwards().await?;
        Ok((qmp, forwards))
    };
    tokio::select! {
        biased;
        exit = running.wait() => Err(not_started(&exit?, &errors.text())),
        hello = hello => match hello {
            Ok(hello) => Ok(hello),
            // The monitor breaks off when QEMU gives up: what it wrote says more.
            Err(error) => match tokio::time::timeout(Duration::from_secs(2), running.wait()).await {
                Ok(exit) => Err(not_started(&exit?, &errors.text())),
                Err(_) => Err(error),
            },
        },
    }
}

fn not_started(exit: &Exit, text: &str) -> PortError {
    let error = PortError::unavailable(format!("QEMU did not start ({exit}): {text}"));
    if text.contains("KVM") || text.contains("kvm") {
        return error.help(
            "KVM does not work here: set `accelerator = \"tcg\"` for this driver, or let it choose with \"auto\"",
        );
    }
    if text.contains("annot allocate memory") || text.contains("annot set up guest memory") {
        return error.help("the machine needs more memory than is free: lower `boot.memory`, or the number of slots");
    }
    error.help("compare `qemu-system-x86_64 --version` with `qemu-img --version`; `scripts/setup run` installs both in one version")
}

async fn supervise(
    mut running: Running,
    (mut qmp, mut commands): (Qmp, mpsc::Receiver<Command>),
    stop: CancellationToken,
    report: watch::Sender<State>,
    errors: Arc<LastLines>,
) {
    let mut events = Events::default();
    let mut listening = true;
    let exit = loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => {
                running.stop().await;
                break Ok(Exit::Signal("TERM".to_owned()));
            }
            exit = running.wait() => break exit,
            Some((command, arguments, reply)) = commands.recv() => {
                // A QEMU that does not answer is ended all the same.
                let answer = tokio::select! {
                    biased;
                    () = stop.cancelled() => continue,
                    answer = qmp.execute(command, arguments) => answer,
                };
                // Who asked may be gone.
                let _sent = reply.send(answer);
            }
            event = qmp.event(), if listening => match event {
                Ok(event) => {
                    tracing::debug!(event, "QEMU");
                    if let Some(why) = events.note(event) {
                        report.send_replace(State::Stuck(why));
                    }
                }
                Err(_) => listening = false,
            },
        }
    };
    let said = [events.text(), errors.text()].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>();
    let exit = exit.unwrap_or(Exit::Code(-1));
    report.send_replace(State::Ended(exit, said.join(": ")));
}

/// How many of QEMU's events are told when it has ended.
const TOLD: usize = 16;

/// What QEMU has said of the guest so far. Days of building may be full of events: only the last ones are kept, and apart
/// from them what decides what a later one means.
#[derive(Debug, Default)]
struct Events {
    last: VecDeque<String>,
    /// Why the disk could not be written, since the guest last went on.
    block_error: Option<String>,
    shutting_down: bool,
}

impl Events {
    /// Takes one more; says why the guest's processors stand still where this one tells it.
    fn note(&mut self, event: String) -> Option<String> {
        let is = |name: &str| event.split(' ').next() == Some(name);
        // A guest that shuts down is stopped for a moment before QEMU ends.
        self.shutting_down |= is("SHUTDOWN");
        let stuck = (is("STOP") || is("GUEST_PANICKED")) && !self.shutting_down;
        // What the processors were stopped for is said before.
        let why = stuck.then(|| self.block_error.clone().unwrap_or_else(|| event.clone()));
        if is("BLOCK_IO_ERROR") {
            self.block_error = Some(event.clone());
        } else if is("RESUME") {
            self.block_error = None;
        }
        if !event.starts_with("NIC_RX") {
            if self.last.len() == TOLD {
                self.last.pop_front();
            }
            self.last.push_back(event);
        }
        why
    }

    /// The last ones, in order.
    fn text(&self) -> String {
        self.last.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The events of a guest that has booted again and again.
    fn long() -> Events {
        let mut events = Events::default();
        for number in 0..3 * TOLD {
            assert_eq!(events.note(format!("RESET (guest-reset {number})")), None);
        }
        events
    }

    #[test]
    fn after_many_events_a_full_disk_is_still_why_the_guest_stands_still() {
        let mut events = long();
        assert_eq!(events.note("BLOCK_IO_ERROR (No space left on device)".to_owned()), None);
        let told = Some("BLOCK_IO_ERROR (No space left on device)".to_owned());
        assert_eq!(events.note("STOP".to_owned()), told);
        assert_eq!(events.note("RESUME".to_owned()), None);
        assert_eq!(events.note("STOP".to_owned()), Some("STOP".to_owned()), "it had gone on since");
    }

    #[test]
    fn after_many_events_a_guest_that_shuts_down_is_not_stuck() {
        let mut events = long();
        assert_eq!(events.note("SHUTDOWN (guest-shutdown)".to_owned()), None);
        assert_eq!(events.note("STOP".to_owned()), None);
        assert!(events.text().ends_with("(guest-reset 47), SHUTDOWN (guest-shutdown), STOP"), "{}", events.text());
        assert_eq!(events.text().split(", ").count(), TOLD, "the last ones");
        assert_eq!(Events::default().note("GUEST_PANICKED".to_owned()), Some("GUEST_PANICKED".to_owned()));
    }
}
