//! The provisioner `ansible`: a playbook, run by the host's Ansible against the guest.
//!
//! Packer puts a proxy of its own between the two; here Ansible reaches the guest itself, so what only shapes the proxy
//! has no effect.

use super::super::fault::quoted;
use super::super::reader::Reads;
use super::engine::Piece;
use super::keys::{Keys, Reader, Said};
use super::provisioners::{Gives, Made, Remote, check};
use crate::domain::expression::Text;
use crate::domain::pipeline::{Action, Play};
use crate::domain::value::Value;

/// The keys that are understood: with an effect, and without.
const KEYS: [&str; 27] = [
    "playbook_file",
    "extra_arguments",
    "ansible_env_vars",
    "host_alias",
    "groups",
    "empty_groups",
    "inventory_file",
    "inventory_directory",
    "user",
    "use_proxy",
    "ansible_ssh_extra_args",
    "command",
    "roles_path",
    "collections_path",
    "galaxy_command",
    "galaxy_force_install",
    "galaxy_force_with_deps",
    // These shape packer's proxy and its temporary files.
    "local_port",
    "ssh_host_key_file",
    "ssh_authorized_key_file",
    "sftp_command",
    "use_sftp",
    "skip_version_check",
    "keep_inventory_file",
    "ansible_proxy_key_type",
    "ansible_proxy_host",
    "show_extra_vars",
];

/// Keys that packer knows, and whose effect is not understood.
const KNOWN: [&str; 3] = ["galaxy_file", "inventory_file_template", "ansible_winrm_use_http"];

/// Arguments that would take the guest's place.
const OURS_TO_SAY: [&str; 8] =
    ["-i", "--inventory", "--inventory-file", "-c", "--connection", "--private-key", "--key-file", "--ssh-common-args"];

/// Variables that the sandbox sets itself.
const OURS: [&str; 2] = ["HOME", "TMPDIR"];

/// An ansible provisioner.
pub(super) fn read(reader: &mut Reader<'_>, keys: &Keys) -> Option<Gives> {
    check(reader, keys, &KEYS, &KNOWN);
    galaxy(reader, keys);
    if let Some((command, span)) = reader.plain(keys, "command")
        && command != "ansible-playbook"
    {
        let help = "the factory host's own ansible-playbook is run, in the sandbox; its version is recorded per build";
        reader.fault(span, "unsupported-key", "`command` is not understood", help);
    }
    let said = playbook(reader, keys, "playbook_file")?;
    let place = reader.path(&said, "playbook_file")?;
    // A directory that holds the bundle holds much that no playbook reads.
    let holds_bundle = reader.bundle.below(&place.path.parent()).is_some();
    reader.need(&place, if holds_bundle { Reads::Beside } else { Reads::Playbook });
    reader.count_path("playbook_file", &place);
    let play = play(reader, keys);
    let extra_arguments = arguments(reader, keys);
    let env = environment(reader, keys);
    let mut names = vec![play.host.clone()];
    names.extend(play.groups.iter().cloned());
    let remote =
        Remote { path: place.path.clone(), span: place.span, names: play.inventory.is_none().then_some(names) };
    let action = Action::Ansible { playbook: place.step, extra_arguments, play };
    Some(Gives { made: vec![Made { action, line: None }], env, remote: Some(remote), ..Gives::default() })
}

/// The playbook's path; without it there is nothing to do.
pub(super) fn playbook(reader: &mut Reader<'_>, keys: &Keys, name: &str) -> Option<Said> {
    let said = reader.text(keys, name);
    if said.is_none() && keys.get(name).is_none_or(|(_, node)| node.text() == Some("")) {
        reader.fault(keys.span, "missing-key", format!("{} lacks `{name}`", keys.what), "it names the playbook to run");
    }
    said
}

/// `ansible-galaxy` fetches from the network while a build runs.
fn galaxy(reader: &mut Reader<'_>, keys: &Keys) {
    for (key, node) in &keys.entries {
        if key.text == "galaxy_file" && node.text() != Some("") {
            let help = "what it fetches is no input of the build: commit the roles beside the playbook, in `roles/`";
            let at =
                reader.faults.iter().position(|fault| fault.line == key.span.line && fault.column == key.span.column);
            match at {
                Some(at) => reader.faults[at].help = help.to_owned(),
                None => reader.fault(key.span, "unsupported-key", "`galaxy_file` is not understood", help),
            }
        }
    }
    if keys.get("galaxy_file").is_none() {
        return;
    }
    for name in ["roles_path", "collections_path", "galaxy_command", "galaxy_force_install"] {
        let _ = reader.text(keys, name);
    }
}

fn play(reader: &mut Reader<'_>, keys: &Keys) -> Play {
    let (builder, kind) = reader.scope.builder.unwrap_or(("", ""));
    let variables =
        vec![("packer_build_name".to_owned(), builder.to_owned()), ("packer_builder_type".to_owned(), kind.to_owned())];
    let host = reader.plain(keys, "host_alias").map_or_else(|| "default".to_owned(), |(text, _)| text);
    reader.count("host_alias", &Value::String(host.clone()));
    let [groups, empty_groups] = ["groups", "empty_groups"].map(|name| {
        let found = plain_list(reader, keys, name);
        if !found.is_empty() {
            reader.count(name, &Value::List(found.iter().cloned().map(Value::String).collect()));
        }
        found
    });
    let user = reader.plain(keys, "user").map(|(text, _)| text);
    let user_logs_in = reader.flag(keys, "use_proxy") == Some(false);
    if let Some(user) = &user {
        reader.count("user", &Value::List(vec![Value::String(user.clone()), Value::Bool(user_logs_in)]));
    }
    let ssh_arguments = plain_list(reader, keys, "ansible_ssh_extra_args").concat();
    let ssh_arguments = ssh_arguments.trim_matches('\'').to_owned();
    if !ssh_arguments.is_empty() {
        reader.count("ansible_ssh_extra_args", &Value::String(ssh_arguments.clone()));
    }
    let inventory = path(reader, keys, "inventory_file");
    let inventory_directory = path(reader, keys, "inventory_directory");
    let directory = Some(reader.directory.clone());
    Play {
        host,
        user,
        user_logs_in,
        groups,
        empty_groups,
        inventory,
        inventory_directory,
        ssh_arguments,
        variables,
        directory,
    }
}

fn path(reader: &mut Reader<'_>, keys: &Keys, name: &str) -> Option<crate::domain::path::RepoPath> {
    let said = reader.text(keys, name)?;
    let reads = if name == "inventory_file" { Reads::Script } else { Reads::All };
    let place = reader.needed(&said, name, reads)?;
    reader.count_path(name, &place);
    Some(place.path)
}

/// A list of texts that are known as they stand.
pub(super) fn plain_list(reader: &mut Reader<'_>, keys: &Keys, name: &str) -> Vec<String> {
    let texts = reader.texts(keys, name).unwrap_or_default();
    texts.iter().filter_map(|said| reader.closed(said, name)).collect()
}

/// The arguments, with the files that they name.
fn arguments(reader: &mut Reader<'_>, keys: &Keys) -> Vec<Text> {
    let texts = reader.texts(keys, "extra_arguments").unwrap_or_default();
    if !texts.is_empty() {
        reader.count_texts("extra_arguments", &texts);
    }
    for said in &texts {
        named_file(reader, said);
        let shown = said.value.shown();
        let option = shown.split('=').next().unwrap_or_default();
        if OURS_TO_SAY.contains(&option) {
            let help = "inventory, connection and key are the build's own; `inventory_file`, `groups` and `user` are understood";
            reader.fault(
                said.span,
                "unsupported-key",
                format!("`extra_arguments` can't hold {}", quoted(option)),
                help,
            );
        }
    }
    texts.iter().filter_map(|said| reader.build_text(&in_sandbox(said), "extra_arguments")).collect()
}

/// `-e @vars.yml` and the like read a file, which counts from the template's directory.
fn named_file(reader: &mut Reader<'_>, said: &Said) {
    const OPTIONS: [&str; 2] = ["--vault-password-file=", "--vault-id="];
    let [Piece::Literal(text)] = said.value.pieces.as_slice() else { return };
    let options = ["--extra-vars=@", "-e@", "@"].iter().chain(&OPTIONS);
    let Some(path) = options.filter_map(|option| text.strip_prefix(option)).next() else { return };
    let value = super::engine::Rendered::literal(path);
    let _ = reader.needed(&Said { value, span: said.span }, "extra_arguments", Reads::Script);
}

/// What runs on the host runs in the template's directory, which is `.` there.
fn in_sandbox(said: &Said) -> Said {
    let mut said = said.clone();
    for piece in &mut said.value.pieces {
        if *piece == Piece::Directory {
            *piece = Piece::Literal(".".to_owned());
        }
    }
    said
}

fn environment(reader: &mut Reader<'_>, keys: &Keys) -> Vec<(String, Text)> {
    let texts = reader.texts(keys, "ansible_env_vars").unwrap_or_default();
    if !texts.is_empty() {
        reader.count_texts("ansible_env_vars", &texts);
    }
    let mut env = Vec::new();
    for said in &texts {
        let Some(text) = reader.build_text(&in_sandbox(said), "ansible_env_vars") else { continue };
        let shown = text.to_string();
        if shown.is_empty() {
            continue;
        }
        let Some((name, _)) = shown.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            let message = format!("{} is no variable", quoted(&shown));
            reader.fault(said.span, "bad-variable", message, "variables are written `NAME=value`");
            continue;
        };
        if OURS.contains(&name) {
            let help =
                "the sandbox sets it; other settings of Ansible have variables of their own: ANSIBLE_ROLES_PATH …";
            reader.fault(said.span, "unsupported-key", format!("`ansible_env_vars` can't set {name}"), help);
            continue;
        }
        let value = text.after(name.len() + 1);
        env.push((name.to_owned(), value));
    }
    env
}
