//! The provisioner `ansible-local`: a playbook that is copied into the guest and run by the Ansible there.

use super::super::reader::Reads;
use super::ansible::{plain_list, playbook};
use super::keys::{Keys, Place, Reader, Said};
use super::provisioners::{Gives, Made, check};
use crate::domain::expression::Text;
use crate::domain::path::RepoPath;
use crate::domain::pipeline::{Action, Staged};
use crate::domain::value::Value;

/// The keys that are understood.
const KEYS: [&str; 16] = [
    "playbook_file",
    "playbook_files",
    "playbook_dir",
    "playbook_paths",
    "role_paths",
    "group_vars",
    "host_vars",
    "inventory_file",
    "inventory_groups",
    "extra_arguments",
    "command",
    "staging_directory",
    "clean_staging_directory",
    "galaxy_file",
    "galaxy_command",
    "galaxy_roles_path",
];

/// Keys that packer knows, and whose effect is not understood.
const KNOWN: [&str; 2] = ["collection_paths", "galaxy_collections_path"];

/// Where packer copies to, without the part that is another in every build.
const STAGING: &str = "/tmp/packer-provisioner-ansible-local";

/// What packer runs.
const COMMAND: &str = "ANSIBLE_FORCE_COLOR=1 PYTHONUNBUFFERED=1 ansible-playbook";

/// An ansible-local provisioner.
pub(super) fn read(reader: &mut Reader<'_>, keys: &Keys) -> Option<Gives> {
    check(reader, keys, &KEYS, &KNOWN);
    let before = reader.faults.len();
    let named = reader.plain(keys, "staging_directory").map(|(text, _)| text);
    if let Some(named) = &named {
        reader.count("staging_directory", &Value::String(named.clone()));
    }
    let cleans = reader.flag(keys, "clean_staging_directory").unwrap_or(false);
    let directory = named.as_deref().unwrap_or(STAGING).trim_end_matches('/').to_owned();
    if !directory.starts_with('/') {
        let help = "where the login user's files lie is not known before the guest is: write `/tmp/…`";
        let span = keys.place("staging_directory");
        reader.fault(span, "bad-path", "`staging_directory` takes an absolute path in the guest", help);
    }
    let mut copy = Copy { directory: &directory, uploads: Vec::new() };
    let main = playbooks(reader, keys, &mut copy)?;
    let (inventory, texts) = inventory(reader, keys, &mut copy);
    let galaxy = surroundings(reader, keys, &mut copy);
    let command = command(reader, keys, &directory, &main, &inventory, galaxy.as_deref())?;
    let extra_arguments = Vec::new();
    let stays = named.is_some() && !cleans;
    let uploads = copy.uploads;
    let staged = Staged { directory, uploads, texts, command, stays };
    let action = Action::AnsibleLocal { playbook: main.first()?.0.clone(), extra_arguments, staged: Some(staged) };
    (reader.faults.len() == before).then(|| Gives { made: vec![Made { action, line: None }], ..Gives::default() })
}

/// What is copied, below the staging directory.
struct Copy<'d> {
    directory: &'d str,
    uploads: Vec<(RepoPath, String)>,
}

impl Copy<'_> {
    fn add(&mut self, place: &Place, below: &str) {
        let to = if below.is_empty() { self.directory.to_owned() } else { format!("{}/{below}", self.directory) };
        self.uploads.push((place.path.clone(), to));
    }
}

fn name_of(place: &Place) -> String {
    String::from_utf8_lossy(place.path.name()).into_owned()
}

/// The playbooks: as a step has them, and where they lie in the guest.
fn playbooks(
    reader: &mut Reader<'_>,
    keys: &Keys,
    copy: &mut Copy<'_>,
) -> Option<Vec<(crate::domain::pipeline::StepPath, String)>> {
    let directory = reader.text(keys, "playbook_dir");
    let directory = directory.and_then(|said| reader.needed(&said, "playbook_dir", Reads::Directory));
    if let Some(place) = &directory {
        reader.count_path("playbook_dir", place);
        copy.add(place, "");
    }
    let several = reader.texts(keys, "playbook_files").filter(|files| !files.is_empty());
    let Some(several) = several else {
        let said = playbook(reader, keys, "playbook_file")?;
        let place = reader.needed(&said, "playbook_file", Reads::Script)?;
        reader.count_path("playbook_file", &place);
        let name = name_of(&place);
        copy.add(&place, &name);
        return Some(vec![(place.step, format!("{}/{name}", copy.directory))]);
    };
    if reader.text(keys, "playbook_file").is_some() {
        let help = "take one of them out";
        let message = "`playbook_file` and `playbook_files` can't stand together";
        reader.fault(keys.place("playbook_files"), "two-actions", message, help);
    }
    let mut found = Vec::new();
    for said in &several {
        let place = reader.needed(said, "playbook_files", Reads::Script)?;
        reader.count_path("playbook_files", &place);
        // One that lies in the playbook directory is there already; others keep their path below the template.
        let below = match directory.as_ref().and_then(|directory| place.path.below(&directory.path)) {
            Some(below) => below.to_string(),
            None => {
                let below = place.path.to_string();
                copy.add(&place, &below);
                below
            }
        };
        found.push((place.step, format!("{}/{below}", copy.directory)));
    }
    Some(found)
}

/// The inventory's path in the guest, and the files to make for it.
fn inventory(reader: &mut Reader<'_>, keys: &Keys, copy: &mut Copy<'_>) -> (String, Vec<(String, String)>) {
    if let Some(said) = reader.text(keys, "inventory_file") {
        let Some(place) = reader.needed(&said, "inventory_file", Reads::Script) else { return Default::default() };
        reader.count_path("inventory_file", &place);
        let name = name_of(&place);
        copy.add(&place, &name);
        return (format!("{}/{name}", copy.directory), Vec::new());
    }
    let groups = plain_list(reader, keys, "inventory_groups");
    if !groups.is_empty() {
        reader.count("inventory_groups", &Value::List(groups.iter().cloned().map(Value::String).collect()));
    }
    let text = match groups.as_slice() {
        [] => "127.0.0.1".to_owned(),
        groups => groups.iter().map(|group| format!("[{group}]\n127.0.0.1\n")).collect(),
    };
    let path = format!("{}/factoryd-inventory", copy.directory);
    (path.clone(), vec![(path, text)])
}

/// Variables, roles and further playbooks; gives the galaxy file's path in the guest.
fn surroundings(reader: &mut Reader<'_>, keys: &Keys, copy: &mut Copy<'_>) -> Option<String> {
    let galaxy = reader.text(keys, "galaxy_file").and_then(|said| {
        let place = reader.needed(&said, "galaxy_file", Reads::Script)?;
        reader.count_path("galaxy_file", &place);
        let name = name_of(&place);
        copy.add(&place, &name);
        Some(format!("{}/{name}", copy.directory))
    });
    for name in ["group_vars", "host_vars"] {
        let Some(said) = reader.text(keys, name) else { continue };
        let Some(place) = reader.needed(&said, name, Reads::Directory) else { continue };
        reader.count_path(name, &place);
        copy.add(&place, name);
    }
    for (name, below) in [("role_paths", "roles"), ("playbook_paths", "playbooks")] {
        for said in reader.texts(keys, name).unwrap_or_default() {
            let Some(place) = reader.needed(&said, name, Reads::Directory) else { continue };
            reader.count_path(name, &place);
            copy.add(&place, &format!("{below}/{}", name_of(&place)));
        }
    }
    galaxy
}

/// What is run in the guest, as packer puts it together.
fn command(
    reader: &mut Reader<'_>,
    keys: &Keys,
    directory: &str,
    playbooks: &[(crate::domain::pipeline::StepPath, String)],
    inventory: &str,
    galaxy: Option<&str>,
) -> Option<Text> {
    let given = reader.text(keys, "command");
    if let Some(said) = &given {
        reader.count_text("command", said);
    }
    let program = match &given {
        Some(said) => reader.build_text(said, "command")?,
        None => Text::literal(COMMAND),
    };
    let mut commands = vec![Text::literal(format!("cd {directory}"))];
    let galaxy_command = reader.plain(keys, "galaxy_command");
    if let Some(file) = galaxy {
        let program = galaxy_command.map_or_else(|| "ansible-galaxy".to_owned(), |(text, _)| text);
        let roles =
            reader.plain(keys, "galaxy_roles_path").map_or_else(|| format!("{directory}/roles"), |(text, _)| text);
        commands.push(Text::literal(format!(" && {program} install -r {file} -p {roles}")));
    }
    let arguments = arguments(reader, keys)?;
    for (_, playbook) in playbooks {
        commands.push(Text::literal(" && "));
        commands.push(program.clone());
        commands.push(Text::literal(format!(" {playbook}")));
        commands.push(arguments.clone());
        commands.push(Text::literal(format!(" -c local -i {inventory}")));
    }
    Some(Text::concat(commands))
}

/// The arguments: they go through the guest's shell as they are written.
fn arguments(reader: &mut Reader<'_>, keys: &Keys) -> Option<Text> {
    let (builder, kind) = reader.scope.builder.unwrap_or(("", ""));
    let ours = format!(" --extra-vars \"packer_build_name={builder} packer_builder_type={kind}\" ");
    let texts: Vec<Said> = reader.texts(keys, "extra_arguments").unwrap_or_default();
    if !texts.is_empty() {
        reader.count_texts("extra_arguments", &texts);
    }
    let mut all = vec![Text::literal(ours)];
    for (index, said) in texts.iter().enumerate() {
        if index > 0 {
            all.push(Text::literal(" "));
        }
        all.push(reader.build_text(said, "extra_arguments")?);
    }
    Some(Text::concat(all))
}
