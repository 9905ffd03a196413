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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    use super::*;

    /// What the script calls in a guest with these programs, and its code; `true` where a program works.
    fn shut_down_with(programs: &[(&str, bool)]) -> (String, Option<i32>) {
        const SBIN: &str = ":/usr/local/sbin:/usr/sbin:/sbin";
        // The programs of the host must not be found: they would shut it down.
        assert!(POWEROFF.contains(SBIN), "the directories are taken out of the script");
        let script = POWEROFF.replace(SBIN, "");
        let guest = tempfile::tempdir().expect("a directory");
        for (name, works) in programs {
            let path = guest.path().join(name);
            let text = format!("#!/bin/sh\necho {name} \"$@\"\nexit {}\n", i32::from(!works));
            std::fs::write(&path, text).expect("a program");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("its mode");
        }
        let mut command = Command::new("/bin/sh");
        let done = command.args(["-c", &script]).env_clear().env("PATH", guest.path()).output().expect("a shell");
        (String::from_utf8_lossy(&done.stdout).into_owned(), done.status.code())
    }

    #[test]
    fn a_guest_is_shut_down_by_what_it_has_for_that() {
        let done = |said: &str| (said.to_owned(), Some(0));
        assert_eq!(shut_down_with(&[("systemctl", true), ("shutdown", true)]), done("systemctl poweroff\n"));
        assert_eq!(shut_down_with(&[("shutdown", true), ("poweroff", true)]), done("shutdown -h -P now\n"));
        assert_eq!(shut_down_with(&[("poweroff", true)]), done("poweroff\n"));
        // A systemctl that has no systemd to talk to.
        let (said, code) = shut_down_with(&[("systemctl", false), ("poweroff", true)]);
        assert_eq!((said.as_str(), code), ("systemctl poweroff\npoweroff\n", Some(0)));
        let (said, code) = shut_down_with(&[]);
        assert!(said.starts_with("E: neither systemctl nor shutdown") && code == Some(CANT), "{said} {code:?}");
    }
}
