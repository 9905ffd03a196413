//! What `ansible-playbook` of the host is told: inventory, configuration, arguments. Pure.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::beneath;
use super::host::Place;
use crate::domain::ansible_config::AnsibleConfig;
use crate::domain::path::RepoPath;
use crate::domain::pipeline::Play;
use crate::engine::ports::{Access, PortError};

/// Options that would take the guest's place, long and short.
const REFUSED: [&str; 6] =
    ["--connection", "--inventory", "--inventory-file", "--key-file", "--private-key", "--ssh-common-args"];
/// Short options of `ansible-playbook` that take the rest of their word as value.
const WITH_VALUE: &str = "eflMtTu";
/// The variable that takes the place of the configuration's `ssh_args`.
const SSH_ARGS: &str = "ANSIBLE_SSH_ARGS";
/// What makes Ansible send its modules compiled: by emulation, compiling them took a guest longer than running them.
const COMPILED: (&str, &str) = ("factoryd_compiled.py", include_str!("ansible/factoryd_compiled.py"));
/// Where distributions put plugins; a directory of ours must not hide them.
const CALLBACKS: &str = "/usr/share/ansible/plugins/callback";
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

/// The inventory that is made.
pub(crate) const INVENTORY: &str = "inventory.json";

/// The arguments: ours, then the step's, then the playbook. Whatever an inventory of the repository says, its hosts are
/// the guest.
pub(crate) fn arguments(
    (place, access): (&Place, &Access),
    playbook: &RepoPath,
    extra: &[String],
    play: &Play,
) -> Vec<OsString> {
    let source = |path: &RepoPath| place.src.join(OsStr::from_bytes(path.as_bytes()));
    let inventory = match (&play.inventory, &play.inventory_directory) {
        (Some(file), _) => source(file),
        (None, Some(directory)) => source(directory).join(INVENTORY),
        (None, None) => place.run.join(INVENTORY),
    };
    let mut arguments: Vec<OsString> = vec!["--inventory".into(), inventory.into()];
    let mut variables: serde_json::Map<String, serde_json::Value> =
        play.variables.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    if play.inventory.is_some()
        && let serde_json::Value::Object(guest) = guest(place, access, play)
    {
        variables.extend(guest);
    }
    if !variables.is_empty() {
        arguments.extend(["--extra-vars".into(), serde_json::Value::Object(variables).to_string().into()]);
    }
    if !play.ssh_arguments.is_empty() {
        arguments.extend(["--ssh-extra-args".into(), play.ssh_arguments.clone().into()]);
    }
    arguments.extend(extra.iter().map(OsString::from));
    arguments.push(source(playbook).into());
    arguments
}

/// How Ansible reaches the guest.
fn guest(place: &Place, access: &Access, play: &Play) -> serde_json::Value {
    json!({
        "ansible_host": place.host,
        "ansible_port": place.port,
        "ansible_user": play.user.as_ref().unwrap_or(&access.user),
        "ansible_ssh_private_key_file": place.run.join("key"),
    })
}

/// The inventory: the guest, in its groups.
pub(crate) fn inventory(place: &Place, access: &Access, play: &Play) -> String {
    let mut groups = serde_json::Map::new();
    for group in &play.empty_groups {
        groups.insert(group.clone(), json!({}));
    }
    for group in &play.groups {
        groups.insert(group.clone(), json!({ "hosts": { &play.host: {} } }));
    }
    let mut all = json!({ "hosts": { &play.host: guest(place, access, play) } });
    if !groups.is_empty() {
        all["children"] = serde_json::Value::Object(groups);
    }
    json!({ "all": all }).to_string()
}

/// The files it reads, by their names in `run`.
pub(crate) fn files(place: &Place, access: &Access, play: &Play) -> [(&'static str, String); 4] {
    [
        (INVENTORY, inventory(place, access, play)),
        ("known_hosts", known_hosts(place, access)),
        // So that no other is looked for where the repository has none.
        (AnsibleConfig::FILE, String::new()),
        (COMPILED.0, COMPILED.1.to_owned()),
    ]
}

/// A playbook that is only told of another user still logs in as the guest's.
fn login(access: &Access, play: &Play) -> String {
    match &play.user {
        Some(user) if !play.user_logs_in && *user != access.user => format!("-o User={} ", access.user),
        _ => String::new(),
    }
}

/// The one host key that is right, in the form ssh looks it up by.
fn known_hosts(place: &Place, access: &Access) -> String {
    let name = if place.port == 22 { place.host.clone() } else { format!("[{}]:{}", place.host, place.port) };
    format!("{name} {}\n", access.host_key.trim())
}

/// What ssh is told: the first word that it hears of a setting counts.
fn ssh_arguments(place: &Place, login: &str) -> String {
    let run = place.run.display();
    let control = if place.tmp.as_os_str().len() <= CONTROL_DIRECTORY {
        "-o ControlMaster=auto -o ControlPersist=60s"
    } else {
        "-o ControlMaster=no"
    };
    format!(
        "-F /dev/null {login}{control} -o UserKnownHostsFile={run}/known_hosts -o GlobalKnownHostsFile=/dev/null \
         -o StrictHostKeyChecking=yes -o IdentitiesOnly=yes -o PreferredAuthentications=publickey"
    )
}

/// A configuration of the repository: where it lies for Ansible, and what it says.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    pub(crate) path: PathBuf,
    pub(crate) says: AnsibleConfig,
}

/// The most bytes that are read of a configuration.
const MOST_CONFIGURATION: u64 = 1 << 20;

/// The repository's configuration for a step: the one that its environment names, else the one of the directory that it
/// runs in; `checkout` is the private copy.
pub(crate) fn own(
    checkout: &Path,
    place: &Place,
    directory: &RepoPath,
    given: &[(String, String)],
) -> std::io::Result<Option<Own>> {
    let named = given.iter().rev().find(|(name, _)| name == "ANSIBLE_CONFIG").map(|(_, value)| value.as_str());
    let Some(path) = directory.join(named.unwrap_or(AnsibleConfig::FILE)) else { return Ok(None) };
    let Some(text) = beneath::read(checkout, path.as_bytes(), MOST_CONFIGURATION)? else { return Ok(None) };
    let path = place.src.join(OsStr::from_bytes(path.as_bytes()));
    Ok(Some(Own { path, says: AnsibleConfig::read(&String::from_utf8_lossy(&text)) }))
}

/// What is said where neither the repository nor the step does.
struct Usual {
    variable: &'static str,
    value: &'static str,
    /// The settings of a file, by section and key, that say it.
    settings: &'static [(&'static str, &'static str)],
}

const USUAL: [Usual; 4] = [
    Usual {
        variable: "ANSIBLE_PYTHON_INTERPRETER",
        value: "auto_silent",
        settings: &[("defaults", "interpreter_python")],
    },
    Usual { variable: "ANSIBLE_NOCOWS", value: "True", settings: &[("defaults", "nocows"), ("defaults", "cowpath")] },
    Usual { variable: "ANSIBLE_STDOUT_CALLBACK", value: "default", settings: &[("defaults", "stdout_callback")] },
    Usual {
        variable: "ANSIBLE_PIPELINING",
        value: "True",
        settings: &[("defaults", "pipelining"), ("connection", "pipelining"), ("ssh_connection", "pipelining")],
    },
];

/// Its environment, besides what every program gets: Ansible takes a variable before any file, so what the sandbox must
/// say stands here, whatever the repository's `ansible.cfg` says, and what is only usual where that says nothing.
pub(crate) fn environment(
    place: &Place,
    access: &Access,
    play: &Play,
    (own, given): (Option<&Own>, &[(String, String)]),
) -> Vec<(String, String)> {
    let tmp = place.tmp.display();
    let said = |section: &str, key: &str| own.and_then(|own| own.says.get(section, key));
    let is_given = |name: &str| given.iter().any(|(given, _)| given == name);
    let file = own.map_or_else(|| place.run.join(AnsibleConfig::FILE), |own| own.path.clone());
    let mut all = vec![
        ("ANSIBLE_CONFIG", file.display().to_string()),
        ("ANSIBLE_NOCOLOR", "1".to_owned()),
        ("ANSIBLE_SSH_ARGS", all_ssh_arguments(place, &login(access, play), given, said("ssh_connection", "ssh_args"))),
    ];
    let mut firm = vec![
        ("ANSIBLE_CALLBACK_PLUGINS", callbacks(place, own)),
        ("ANSIBLE_HOST_KEY_CHECKING", "True".to_owned()),
        ("ANSIBLE_LOCAL_TEMP", format!("{tmp}/ansible")),
        ("ANSIBLE_RETRY_FILES_ENABLED", "False".to_owned()),
        ("ANSIBLE_SSH_CONTROL_PATH_DIR", format!("{tmp}/cp")),
    ];
    let is_said = |usual: &&Usual| usual.settings.iter().any(|(section, key)| said(section, key).is_some());
    firm.extend(USUAL.iter().filter(|usual| !is_said(usual)).map(|usual| (usual.variable, usual.value.to_owned())));
    all.extend(firm.into_iter().filter(|(name, _)| !is_given(name)));
    all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// What a step or a configuration has ssh told comes behind what it must be told.
fn all_ssh_arguments(place: &Place, login: &str, given: &[(String, String)], said: Option<&str>) -> String {
    let given = given.iter().rev().find(|(name, _)| name == SSH_ARGS).map(|(_, value)| value.trim_matches('\''));
    let ours = ssh_arguments(place, login);
    match given.or(said) {
        Some(more) => format!("{ours} {}", more.replace('\n', " ")),
        None => ours,
    }
}

/// Where callbacks lie: ours, which sends modules compiled, those of the distribution, and the configuration's.
fn callbacks(place: &Place, own: Option<&Own>) -> String {
    let mut all = format!("{}:{CALLBACKS}", place.run.display());
    let Some(own) = own else { return all };
    let top = own.path.parent().unwrap_or(&place.src);
    for path in
        own.says.get("defaults", "callback_plugins").unwrap_or_default().split(':').filter(|path| !path.is_empty())
    {
        all.push(':');
        all.push_str(&top.join(path).display().to_string());
    }
    all
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
