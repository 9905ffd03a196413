//! What `ansible-playbook` of the host is told: inventory, configuration, arguments. Pure.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use serde_json::json;

use super::host::Place;
use crate::domain::path::RepoPath;
use crate::engine::ports::{Access, PortError};

/// Options that would take the guest's place, long and short.
const REFUSED: [&str; 6] =
    ["--connection", "--inventory", "--inventory-file", "--key-file", "--private-key", "--ssh-common-args"];
/// Short options of `ansible-playbook` that take the rest of their word as value.
const WITH_VALUE: &str = "eflMtTu";
/// A control socket's path may have 107 bytes; Ansible and ssh add about 60 to the directory.
const CONTROL_DIRECTORY: usize = 40;

/// Refuses arguments that replace the inventory, the connection or the key that every playbook is run with.
///
/// # Errors
/// Names the argument.
pub(crate) fn check(extra: &[String]) -> Result<(), PortError> {
    match extra.iter().find(|argument| replaces_ours(argument)) {
        None => Ok(()),
        Some(argument) => Err(PortError::refused(format!(
            "ansible-playbook's argument `{argument}` is refused: inventory, connection and key are the build's own"
        ))
        .help("take it out of the step's extra_arguments; the guest is the inventory's host `local`")),
    }
}

/// Also abbreviations (`--inv=x`), which Ansible accepts, and letters within a cluster (`-vi x`).
fn replaces_ours(argument: &str) -> bool {
    if let Some(long) = argument.strip_prefix("--") {
        let name = long.split('=').next().unwrap_or_default();
        return !name.is_empty() && REFUSED.iter().any(|option| option[2..].starts_with(name));
    }
    let letters = argument.strip_prefix('-').unwrap_or_default();
    letters.chars().take_while(|letter| !WITH_VALUE.contains(*letter)).any(|letter| matches!(letter, 'i' | 'c'))
}

/// The arguments: ours, then the step's, then the playbook.
pub(crate) fn arguments(place: &Place, playbook: &RepoPath, extra: &[String]) -> Vec<OsString> {
    let mut arguments = vec!["--inventory".into(), place.run.join("inventory.json").into()];
    arguments.extend(extra.iter().map(OsString::from));
    arguments.push(place.src.join(OsStr::from_bytes(playbook.as_bytes())).into());
    arguments
}

/// The files it reads, by their names in `run`.
pub(crate) fn files(place: &Place, access: &Access) -> [(&'static str, String); 3] {
    let host = json!({
        "ansible_host": place.host,
        "ansible_port": place.port,
        "ansible_user": access.user,
        "ansible_ssh_private_key_file": place.run.join("key"),
    });
    let inventory = json!({ "all": { "hosts": { "local": host } } });
    [
        ("inventory.json", inventory.to_string()),
        ("known_hosts", known_hosts(place, access)),
        ("ansible.cfg", configuration(place)),
    ]
}

/// The one host key that is right, in the form ssh looks it up by.
fn known_hosts(place: &Place, access: &Access) -> String {
    let name = if place.port == 22 { place.host.clone() } else { format!("[{}]:{}", place.host, place.port) };
    format!("{name} {}\n", access.host_key.trim())
}

fn configuration(place: &Place) -> String {
    let (run, tmp) = (place.run.display(), place.tmp.display());
    let control = if place.tmp.as_os_str().len() <= CONTROL_DIRECTORY {
        "-o ControlMaster=auto -o ControlPersist=60s"
    } else {
        "-o ControlMaster=no"
    };
    format!(
        "[defaults]\n\
         host_key_checking = True\n\
         interpreter_python = auto_silent\n\
         local_tmp = {tmp}/ansible\n\
         nocolor = True\n\
         nocows = True\n\
         retry_files_enabled = False\n\
         stdout_callback = default\n\
         \n\
         [ssh_connection]\n\
         control_path_dir = {tmp}/cp\n\
         pipelining = True\n\
         ssh_args = -F /dev/null {control} -o UserKnownHostsFile={run}/known_hosts -o GlobalKnownHostsFile=/dev/null \
         -o StrictHostKeyChecking=yes -o IdentitiesOnly=yes -o PreferredAuthentications=publickey\n"
    )
}

/// Its environment, besides what every program gets.
pub(crate) fn environment(place: &Place) -> Vec<(String, String)> {
    let configuration = place.run.join("ansible.cfg").display().to_string();
    vec![("ANSIBLE_CONFIG".to_owned(), configuration), ("ANSIBLE_NOCOLOR".to_owned(), "1".to_owned())]
}

/// Versions from what `ansible-playbook --version` prints.
pub(crate) fn versions(text: &str) -> Vec<(String, String)> {
    let mut versions = Vec::new();
    if let Some((_, rest)) = text.lines().next().unwrap_or_default().split_once("[core ") {
        versions.push(("ansible-core".to_owned(), rest.trim_end_matches(']').to_owned()));
    }
    let found = |name: &str| {
        let value = text.lines().find_map(|line| line.trim().strip_prefix(name)?.trim().strip_prefix('='))?;
        value.split_whitespace().next().map(str::to_owned)
    };
    versions.extend(found("python version").map(|version| ("python".to_owned(), version)));
    versions.extend(found("jinja version").map(|version| ("jinja2".to_owned(), version)));
    versions
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn arguments_that_would_take_the_guests_place_are_refused_by_name() {
        let refused =
            ["-i", "-ihosts", "-vvi", "--inventory=x", "--inv", "--private-key", "--key-f=x", "-c", "-clocal"];
        for argument in refused {
            let error = check(&["--check".to_owned(), argument.to_owned()]).unwrap_err();
            assert!(error.message.contains(argument), "{error}");
        }
        let allowed =
            ["--check", "-vvv", "-e", "a=i", "--tags", "inventory", "-tci", "--connection-password-file=x", "--"];
        check(&allowed.map(str::to_owned)).unwrap();
    }

    #[test]
    fn versions_are_read() {
        let text = "ansible-playbook [core 2.14.18]\n  config file = None\n  python version = 3.11.2 (main, x) [GCC]\n  \
                    jinja version = 3.1.2\n";
        let shown: Vec<String> = versions(text).iter().map(|(name, version)| format!("{name} {version}")).collect();
        assert_eq!(shown, ["ansible-core 2.14.18", "python 3.11.2", "jinja2 3.1.2"]);
    }
}
