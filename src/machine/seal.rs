//! How a machine's identity is removed and how it is shut down: the last things that are done in it, whatever made it.

use crate::engine::ports::{Exit, Guest, Lines, PortError, PortErrorKind, Wait};

/// What is run in a guest to remove its identity.
const SEAL: &str = include_str!("seal.sh");
/// What is run in a guest to shut it down.
const POWEROFF: &str = include_str!("poweroff.sh");
/// The code of [`POWEROFF`] in a guest that has nothing to shut it down with.
const CANT: i32 = 3;

/// Removes a guest's identity through a session of this user.
pub(in crate::machine) async fn remove_identity(
    guest: &dyn Guest,
    user: &str,
    lines: &Lines,
    wait: &Wait,
) -> Result<(), PortError> {
    match guest.run(&as_root(user, SEAL), &[], lines, wait).await? {
        exit if exit.is_success() => Ok(()),
        exit => Err(PortError::failed(format!("sealing failed in the guest: {exit}"))
            .help("its output is in the log; a user other than root needs `sudo` without a password until the end")),
    }
}

/// Has a guest shut itself down. The connection may break before the answer comes, so that success says only that it was
/// asked: whoever runs the machine tells whether it worked.
pub(in crate::machine) async fn power_off(
    guest: &dyn Guest,
    user: &str,
    lines: &Lines,
    wait: &Wait,
) -> Result<(), PortError> {
    match guest.run(&as_root(user, POWEROFF), &[], lines, wait).await {
        Err(error) if matches!(error.kind, PortErrorKind::Cancelled | PortErrorKind::TimedOut) => Err(error),
        Ok(Exit::Code(CANT)) => Err(PortError::failed("the guest has nothing to shut it down with")
            .help("it needs `systemctl`, `shutdown` or `poweroff` that root can run")),
        _ => Ok(()),
    }
}

/// The command that has root's shell run a script.
fn as_root(user: &str, script: &str) -> String {
    let quoted = format!("'{}'", script.replace('\'', r"'\''"));
    match user {
        "root" => format!("exec /bin/sh -c {quoted}"),
        _ => format!("exec sudo -n /bin/sh -c {quoted}"),
    }
}
