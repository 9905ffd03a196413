//! What the service manager is told: ready, a status line, the watchdog's sign of life, stopping.
//!
//! Outside systemd (no `NOTIFY_SOCKET` in the environment) every call does nothing. A message that can't be sent is
//! logged and forgotten: the factory works without anybody listening.

use std::time::Duration;

use sd_notify::NotifyState;

/// A status line is one line of `systemctl status`; more than this is of no use there (bytes).
const STATUS_LIMIT: usize = 400;

/// Says that the daemon serves. `Type=notify` waits for it.
pub fn ready() {
    send(&NotifyState::Ready);
}

/// Says in one line what the daemon does: `STATUS=` of `systemctl status`.
pub fn status(text: &str) {
    send(&NotifyState::Status(&one_line(text)));
}

/// Says that the daemon drains and will end.
pub fn stopping() {
    send(&NotifyState::Stopping);
}

/// Says that the daemon is alive. To be said only after looking: at the loops, the database, the socket.
pub fn alive() {
    send(&NotifyState::Watchdog);
}

/// How often [`alive`] is to be said: half of what the unit's `WatchdogSec=` allows, so that one may come late. `None`
/// where nobody waits for it.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()).map(|limit| limit / 2)
}

fn send(state: &NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(std::slice::from_ref(state)) {
        tracing::debug!(%error, "The service manager was not told {state}.");
    }
}

/// A line end in a status would begin another assignment of the protocol, and the text may come from a repository.
fn one_line(text: &str) -> String {
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    line.truncate(line.floor_char_boundary(STATUS_LIMIT));
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_can_say_nothing_but_a_status() {
        assert_eq!(one_line("#7 images/x\nREADY=1\u{1b}[31m"), "#7 images/x READY=1 [31m");
        assert_eq!(one_line(&"é".repeat(STATUS_LIMIT)).len(), STATUS_LIMIT);
    }

    #[test]
    fn outside_systemd_nothing_happens() {
        assert_eq!(std::env::var_os("NOTIFY_SOCKET"), None, "run the tests outside a unit");
        ready();
        status("1 build runs");
        alive();
        stopping();
        assert_eq!(watchdog_interval(), None);
    }

    #[test]
    fn the_unit_stays_as_closed_as_it_is() {
        let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/factoryd.service");
        let analysis = std::process::Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager", "--threshold=26", unit])
            .output()
            .expect("systemd-analyze runs; scripts/setup installs systemd");
        let said = String::from_utf8_lossy(&analysis.stdout);
        assert!(analysis.status.success(), "the unit is more exposed than 2.6:\n{said}");
    }
}
