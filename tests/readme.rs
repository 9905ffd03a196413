//! The README and the guide for people who come from Jenkins as their readers use them: every command, option, target,
//! file and key in them exists, and the commands that boot no machine are run in the order in which they stand, with the
//! output that is promised.
//!
//! A fenced block says in its first line what becomes of it:
//!
//! - `console test`: its lines after `$ ` are run; the lines below each are found in its output, `…` standing for anything.
//! - `console machines`, `sh machines`: boots machines, which the test of the demo does. Only looked at here.
//! - `sh install`: changes the system it is typed on. Only looked at.
//! - `sh install starts until=WORD`: the same, and a daemon starts or starts again here; `factoryd status` or `factoryd
//!   plan main` says the word once it has looked at its repository.
//! - `console picture`: what somebody saw. Only looked at.
//! - `yaml file=PATH`, and the like: is written to PATH before what follows is run.
//!
//! What a document calls `/tmp/factory`, `/etc/factoryd` or `/srv/image_factory` lies in a scratch directory here. Builds
//! are queued there and never start: a drop-in of the configuration wants more free disk than there is.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use factoryd::config::Settings;

const FACTORYD: &str = env!("CARGO_BIN_EXE_factoryd");
/// What people read.
const DOCUMENTS: [&str; 4] = ["README.md", GUIDE, "CONTRIBUTING.md", "ARCHITECTURE.md"];
/// The guide for people who come from Jenkins.
const GUIDE: &str = "docs/from-jenkins.md";
/// Where documents work, and where that lies in the scratch directory.
const PLACES: [(&str, &str); 4] = [
    ("/tmp/factory", ""),
    ("/etc/factoryd", "/etc"),
    ("/srv/image_factory", "/image_factory"),
    ("https://git.example.org/image_factory.git", "/origin.git"),
];
/// What may become of a block of commands.
const MARKS: [&str; 4] = ["test", "machines", "install", "picture"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// A fenced block.
struct Block {
    line: usize,
    /// The words after the fence: language and marks.
    info: Vec<String>,
    text: String,
}

impl Block {
    fn is(&self, mark: &str) -> bool {
        self.info.iter().skip(1).any(|word| word == mark)
    }

    fn holds_commands(&self) -> bool {
        matches!(self.info.first().map(String::as_str), Some("console" | "sh"))
    }

    fn file(&self) -> Option<&str> {
        self.info.iter().find_map(|word| word.strip_prefix("file="))
    }

    /// The commands with the output that is promised below each.
    fn commands(&self) -> Vec<(String, Vec<&str>)> {
        let mut commands: Vec<(String, Vec<&str>)> = Vec::new();
        for line in self.text.lines() {
            let command = if self.info[0] == "sh" { Some(line) } else { line.strip_prefix("$ ") };
            match (command, commands.last_mut()) {
                (Some(command), _) => commands.push((command.to_owned(), Vec::new())),
                (None, Some((_, output))) => output.push(line),
                (None, None) => panic!("README.md:{}: output before any command", self.line),
            }
        }
        commands
    }
}

fn blocks(markdown: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in (1..).zip(markdown.lines()) {
        match (line.strip_prefix("```"), open.take()) {
            (Some(_), Some(block)) => blocks.push(block),
            (Some(info), None) => {
                let info = info.split_whitespace().map(str::to_owned).collect();
                open = Some(Block { line: number, info, text: String::new() });
            }
            (None, Some(mut block)) => {
                block.text.push_str(line);
                block.text.push('\n');
                open = Some(block);
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is never closed");
    blocks
}

/// The lines outside of blocks.
fn prose(markdown: &str) -> String {
    let mut inside = false;
    let outside = markdown.lines().filter(|line| {
        let is_fence = line.starts_with("```");
        inside ^= is_fence;
        !inside && !is_fence
    });
    outside.collect::<Vec<_>>().join("\n")
}

/// What stands between single backticks. One that a line's end breaks is put together.
fn spans(markdown: &str) -> Vec<String> {
    let prose = prose(markdown);
    prose.split('`').skip(1).step_by(2).map(|span| span.replace('\n', " ")).collect()
}

/// The commands of a line of shell, each as its words; redirections and comments are left out.
fn commands_of(line: &str) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let mut quote = None;
    let mut word = String::new();
    let ended = |word: &mut String, commands: &mut Vec<Vec<String>>| {
        let word = std::mem::take(word);
        match word.as_str() {
            "" => {}
            "&&" | "||" | "|" | "&" | ";" => commands.push(Vec::new()),
            _ => commands.last_mut().expect("there is one from the start").push(word),
        }
    };
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if open == c => quote = None,
            (Some(_), c) => word.push(c),
            (None, '\'' | '"') => quote = Some(c),
            (None, '#') if word.is_empty() => break,
            (None, c) if c.is_whitespace() => ended(&mut word, &mut commands),
            (None, c) => word.push(c),
        }
    }
    ended(&mut word, &mut commands);
    let is_redirection = |word: &String| word.trim_start_matches(['1', '2']).starts_with(['>', '<']);
    commands.iter_mut().for_each(|words| words.retain(|word| !is_redirection(word)));
    commands
}

/// Every command that a document names, in blocks and in running text, each as its words.
fn named_commands(markdown: &str) -> Vec<Vec<String>> {
    let blocks = blocks(markdown);
    let typed = blocks.iter().filter(|block| block.holds_commands()).flat_map(|block| {
        // Output names the next command to type: `Follow: factoryd logs -f 1`.
        let output = block.text.lines().filter_map(|line| line.find(": factoryd ").map(|at| line[at + 2..].to_owned()));
        block.commands().into_iter().map(|(command, _)| command).chain(output).collect::<Vec<_>>()
    });
    typed.chain(spans(markdown)).flat_map(|line| commands_of(&line)).filter(|words| !words.is_empty()).collect()
}

#[test]
fn every_block_of_commands_says_what_becomes_of_it() {
    for document in ["README.md", GUIDE] {
        for block in blocks(&read(document)).iter().filter(|block| block.holds_commands()) {
            let marks = MARKS.iter().filter(|mark| block.is(mark)).count();
            assert_eq!(marks, 1, "{document}:{}: one of {MARKS:?} belongs after the fence", block.line);
        }
    }
}

#[test]
fn every_command_and_option_exists() {
    for document in DOCUMENTS {
        let mut seen = 0;
        for words in named_commands(&read(document)).iter().filter(|words| words[0] == "factoryd" && words.len() > 1) {
            // Help is given only if everything before it is known, and whatever is missing after it.
            let arguments = words[1..].iter().map(|word| if word == "N" { "1" } else { word });
            let output = Command::new(FACTORYD).args(arguments).arg("--help").output().expect("factoryd runs");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{document}: `{}`: {said}", words.join(" "));
            seen += 1;
        }
        assert!(seen > 0 || document != "README.md", "{document} names no command");
    }
}

#[test]
fn every_target_of_make_exists() {
    let makefile = read("Makefile");
    let targets: BTreeSet<&str> =
        makefile.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name).collect();
    for document in DOCUMENTS {
        for words in named_commands(&read(document)).iter().filter(|words| words[0] == "make") {
            for target in words[1..].iter().filter(|word| !word.contains('=')) {
                assert!(targets.contains(target.as_str()), "{document}: `make {target}` is no target of the Makefile");
            }
        }
    }
}

#[test]
fn every_file_exists() {
    let folders =
        ["src/", "tests/", "scripts/", "systemd/", "images/base", "images/bundle-debian", "images/scripted", "bench/"];
    for document in DOCUMENTS {
        let text = read(document);
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        let links = links.filter(|link| !link.contains("://")).map(str::to_owned);
        let named = spans(&text).into_iter().filter(|span| folders.iter().any(|folder| span.starts_with(folder)));
        for path in links.chain(named) {
            // A family of files, and the arguments of a script.
            let path = path.split([' ', '*', '{', '#']).next().unwrap_or_default();
            let from = Path::new(document).parent().unwrap_or(Path::new(""));
            let exists = [from, Path::new("")].iter().any(|from| root().join(from).join(path).exists());
            assert!(exists, "{document}: {path} does not exist");
        }
    }
}

#[test]
fn every_configuration_is_one() {
    let place = tempfile::tempdir().expect("a scratch directory");
    for document in ["README.md", GUIDE] {
        let is_toml = |block: &&Block| block.info.first().is_some_and(|first| first == "toml");
        for block in blocks(&read(document)).iter().filter(is_toml) {
            let file = place.path().join("config.toml");
            fs::write(&file, &block.text).expect("a scratch file");
            if let Err(error) = Settings::load(Some(&file)) {
                panic!("{document}:{}: {error}", block.line);
            }
        }
    }
}

#[test]
fn the_table_of_the_configuration_has_every_key_and_no_other() {
    let example = read("config.example.toml");
    let key_of = |line: &str| {
        let (key, _) = line.trim_start_matches('#').split_once(" = ")?;
        key.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit()).then(|| key.to_owned())
    };
    let mut known: BTreeSet<String> = example.lines().filter_map(key_of).collect();
    let tables = example.lines().map(|line| line.trim_start_matches('#')).filter(|line| line.starts_with('['));
    known.extend(
        tables.map(|line| line.split(['[', ']', '.']).find(|part| !part.is_empty()).unwrap_or_default().to_owned()),
    );
    let text = read("README.md");
    let section =
        text.split("### Configuration").nth(1).and_then(|rest| rest.split("\n#").next()).expect("its section");
    let rows: String = section.lines().filter(|line| line.starts_with('|')).collect::<Vec<_>>().join("\n");
    let told: BTreeSet<String> = spans(&rows)
        .iter()
        .filter_map(|span| span.split(['[', ']', '.']).find(|part| !part.is_empty()).map(str::to_owned))
        .collect();
    assert_eq!(told, known);
}

#[test]
fn every_key_of_a_pipeline_is_told() {
    let output = Command::new(FACTORYD).args(["schema", "pipeline"]).output().expect("factoryd runs");
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let mut keys = BTreeSet::new();
    collect_keys(&schema, &mut keys);
    assert!(keys.contains("provision") && keys.contains("allow_failure"), "{keys:?}");
    let spans = spans(&read("README.md"));
    let words: BTreeSet<&str> = spans
        .iter()
        .flat_map(|span| span.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-'))
        .collect();
    let untold: Vec<&String> = keys.iter().filter(|key| !words.contains(key.as_str())).collect();
    assert!(untold.is_empty(), "README.md does not name these keys of pipelines: {untold:?}");
}

fn collect_keys(schema: &serde_json::Value, keys: &mut BTreeSet<String>) {
    match schema {
        serde_json::Value::Object(entries) => {
            for (name, value) in entries {
                match (name.as_str(), value.as_object()) {
                    // Keys that are free, and one of them may be called `properties`.
                    ("properties", Some(properties)) => {
                        keys.extend(properties.keys().cloned());
                        properties.values().for_each(|schema| collect_keys(schema, keys));
                    }
                    _ => collect_keys(value, keys),
                }
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| collect_keys(item, keys)),
        _ => {}
    }
}

/// Everything that is run, as one script, so that `cd`, `export` and what runs in the background last. What each command
/// said goes to a file of its own.
fn script(blocks: &[Block], place: &Path) -> (String, Vec<(String, Vec<String>)>) {
    let place_name = place.to_str().expect("a plain path");
    let here = |text: &str| {
        PLACES.iter().fold(text.to_owned(), |text, (told, real)| text.replace(told, &format!("{place_name}{real}")))
    };
    let mut script = String::new();
    let mut commands = Vec::new();
    for block in blocks {
        if let Some(file) = block.file() {
            let _ = writeln!(script, "mkdir -p \"$(dirname '{0}')\"\ncat >'{0}' <<'END OF FILE'", here(file));
            let _ = writeln!(script, "{}END OF FILE", here(&block.text));
        }
        if let Some(word) = block.info.iter().find_map(|word| word.strip_prefix("until=")) {
            let _ = writeln!(script, "starts '{word}'");
        }
        if !block.is("test") {
            continue;
        }
        for (command, promised) in block.commands() {
            let (command, said) = (here(&command), place.join(format!("said-{}", commands.len())));
            let _ = writeln!(script, "{{\n{command}\n}} >{0} 2>&1 || fail {0}", said.display());
            if command.ends_with('&') {
                script.push_str("daemon=$!\nanswers\n");
            }
            commands.push((command, promised.into_iter().map(here).collect()));
        }
    }
    (script, commands)
}

#[test]
fn what_boots_no_machine_runs_as_it_stands() {
    let place = tempfile::tempdir().expect("a scratch directory");
    fs::create_dir(place.path().join("config.toml.d")).expect("a scratch directory");
    fs::write(place.path().join("config.toml.d/test.toml"), WAITING).expect("a drop-in");
    follows("README.md", place.path());
}

#[test]
fn the_guide_leads_from_jenkins_to_a_factory_as_it_stands() {
    let place = tempfile::tempdir().expect("a scratch directory");
    let at = |name: &str| place.path().join(name);
    fs::create_dir_all(at("etc/config.toml.d")).expect("a scratch directory");
    let state =
        format!("state_directory = \"{0}/state\"\n[server]\nsocket = \"{0}/factoryd.sock\"\n", place.path().display());
    fs::write(at("etc/config.toml.d/test.toml"), state + WAITING).expect("a drop-in");
    for (file, text) in jenkins::files() {
        let file = at("image_factory").join(file);
        fs::create_dir_all(file.parent().expect("a directory")).expect("a scratch directory");
        fs::write(file, text).expect("a scratch file");
    }
    let made = run(
        "git init --quiet --bare --initial-branch=main origin.git && cd image_factory && \
         git init --quiet --initial-branch=main && git remote add origin ../origin.git && git add --all && \
         git commit --quiet --message 'The bundles' && git push --quiet origin main",
        place.path(),
    );
    assert!(made.status.success(), "{made:?}");
    follows(GUIDE, place.path());
}

/// No build starts: there is never so much room.
const WAITING: &str = "[limits]\ndisk_free = \"1000TiB\"\n";

/// Does what a document says, and compares.
fn follows(document: &str, place: &Path) {
    let (script, commands) = script(&blocks(&read(document)), place);
    let output = run(&script, place);
    for (number, (command, promised)) in commands.iter().enumerate() {
        let said = fs::read_to_string(place.join(format!("said-{number}")));
        let said = said.unwrap_or_else(|_| panic!("`{command}` was never run: {output:?}"));
        assert!(!place.join(format!("said-{number}.failed")).exists(), "`{command}` failed:\n{said}");
        check_output(command, &said, promised);
    }
    assert!(output.status.success(), "{output:?}");
}

/// What the commands of a document stand on.
const HEAD: &str = r#"
set -u
daemon=
fail() { : >"$1.failed"; exit 1; }
end() { [ -z "$daemon" ] || { kill "$daemon" && wait "$daemon"; }; }
trap end EXIT
wait_until() { timeout 60 sh -c "until $1; do sleep 0.05; done"; }
answers() { wait_until 'factoryd --socket PLACE/factoryd.sock status >/dev/null 2>&1'; }
starts() {
  end
  factoryd serve --config PLACE/etc/config.toml 2>PLACE/log &
  daemon=$!
  wait_until "{ factoryd status; factoryd plan main; } 2>/dev/null | grep -q '$1'"
}
"#;

fn run(script: &str, place: &Path) -> Output {
    // A socket is there before it answers; the daemon's start takes a moment, and its end is what the test waits for.
    let head = HEAD.replace("PLACE", place.to_str().expect("a plain path"));
    let path = std::env::var("PATH").unwrap_or_default();
    let binaries = Path::new(FACTORYD).parent().expect("the binary lies in a directory").display();
    Command::new("bash")
        .arg("-c")
        .arg(format!("{head}{script}"))
        .current_dir(place)
        .env_clear()
        .env("PATH", format!("{binaries}:{path}"))
        .env("HOME", place)
        .env("LANG", "C.UTF-8")
        .env("FACTORYD_SOCKET", place.join("factoryd.sock"))
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_AUTHOR_NAME", "Marie")
        .env("GIT_AUTHOR_EMAIL", "marie@example.org")
        .env("GIT_COMMITTER_NAME", "Marie")
        .env("GIT_COMMITTER_EMAIL", "marie@example.org")
        .output()
        .expect("bash runs")
}

/// Every promised line is found in what was said, in order; `…` stands for anything, white space for white space.
fn check_output(command: &str, said: &str, promised: &[String]) {
    let squeeze = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut lines = said.lines().map(squeeze);
    for wanted in promised.iter().map(|line| squeeze(line)).filter(|line| !line.is_empty() && line != "…") {
        assert!(lines.any(|line| is_like(&line, &wanted)), "`{command}` does not say `{wanted}`; it says\n{said}");
    }
}

fn is_like(line: &str, wanted: &str) -> bool {
    let mut parts = wanted.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    let mut last = first;
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
        last = part;
    }
    rest.is_empty() || (last.is_empty() && wanted.ends_with('…'))
}

/// A repository as people have it who build with Jenkins and packer.
mod jenkins {
    const TEMPLATE: &str = r#"{
  "variables": {
    "source_image": "unknown",
    "image_name": "unknown",
    "bundle_path": "unknown",
    "build_flavor": "42",
    "network_id": "{{ env `FACTORY_NETWORK_ID` }}",
    "security_group": "{{ env `FACTORY_SECURITY_GROUP_NAME` }}"
  },
  "builders": [{
    "type": "openstack",
    "ssh_username": "cloud",
    "ssh_pty": true,
    "ssh_timeout": "10m",
    "image_name": "{{ user `image_name` }}",
    "source_image": "{{ user `source_image` }}",
    "flavor": "{{ user `build_flavor` }}",
    "networks": "{{ user `network_id` }}",
    "security_groups": ["{{ user `security_group` }}"]
  }],
  "provisioners": [
    { "type": "shell", "inline": ["sudo apt-get update", "sudo apt-get install -y python3"] },
    { "type": "ansible", "playbook_file": "{{ user `bundle_path` }}/ansible/bootstrap.yml", "host_alias": "local" },
    { "type": "shell", "inline": ["sudo apt-get clean"] }
  ]
}
"#;
    const OLD_PLAYBOOK: &str = "---\n- hosts: local\n  user: cloud\n  sudo: true\n\n  tasks:\n    - name: Apache\n      \
                                apt: pkg=apache2 state=present update_cache=yes\n";
    const PLAYBOOK: &str = "---\n- hosts: local\n  become: true\n  tasks:\n    - name: A wiki\n      \
                            apt: { pkg: dokuwiki, update_cache: true }\n";

    const OS_SCRIPT: &str = "#!/bin/sh\nBASENAME=\"debian-jessie\"\nBUILDMARK=\"$(date +%Y-%m-%d-%H%M)\"\n\
                             IMG=debian-8.qcow2\nIMG_URL=http://cloud.example.org/jessie/$IMG\nTMP_DIR=guest\n\
                             wget -q $IMG_URL\nguestmount -a $IMG -i $TMP_DIR\n\
                             sed -i 's/name: debian/name: cloud/' $TMP_DIR/etc/cloud/cloud.cfg\nguestunmount $TMP_DIR\n\
                             cd ..\n./build.sh debian-jessie\n";
    const OS_VARS: &str = "---\nbundle_target_name: B_TARGET_NAME\nbundle:\n  name: Debian Jessie\n  \
                           img_base: TMP_IMAGE_ID\n  path: debian-jessie\n  properties:\n    cw_os: Debian\n";

    fn vars(name: &str) -> String {
        format!(
            "---\nbundle:\n  name: {name}\n  img_base: 0c6d43a1-4f5b-4e0b-9d7f-2f8a7f3d1b60\n  properties:\n    \
             img_os: Ubuntu\n    cw_origin: Factory\n"
        )
    }

    fn heat(image: &str) -> String {
        format!(
            "heat_template_version: 2013-05-23\nresources:\n  server:\n    type: OS::Nova::Server\n    \
             properties:\n      image: {image}\n"
        )
    }

    /// Paths and texts: one bundle of an older Ansible, one whose output holds the id of another image, one that is called
    /// otherwise than its directory, one without vars, and an image of an operating system.
    pub(crate) fn files() -> Vec<(&'static str, String)> {
        vec![
            ("images/build.packer.json", TEMPLATE.to_owned()),
            ("images/ansible_local_inventory", "[local]\nlocalhost\n".to_owned()),
            ("images/bundle-freebsd-pfsense/files/config", "x\n".to_owned()),
            ("images/bundle-trusty-lamp/build-vars.yml", vars("bundle-trusty-lamp")),
            ("images/bundle-trusty-lamp/ansible/bootstrap.yml", OLD_PLAYBOOK.to_owned()),
            ("images/bundle-trusty-lamp/output/bundle-trusty-lamp.heat.yml.j2", heat("{{ result_img_id }}")),
            ("images/bundle-trusty-webmail-antispam/build-vars.yml", vars("bundle-trusty-webmail")),
            ("images/bundle-trusty-webmail-antispam/ansible/bootstrap.yml", PLAYBOOK.to_owned()),
            ("images/bundle-trusty-wiki/build-vars.yml", vars("bundle-trusty-wiki")),
            ("images/bundle-trusty-wiki/ansible/bootstrap.yml", PLAYBOOK.to_owned()),
            (
                "images/bundle-trusty-wiki/output/bundle-trusty-wiki.heat.yml.j2",
                heat("7d1f0f1e-5c55-4d0e-8a3c-0f6c4f2b9e11"),
            ),
            ("os/build.packer.json", TEMPLATE.to_owned()),
            ("os/debian-jessie/build.sh", OS_SCRIPT.to_owned()),
            ("os/debian-jessie/build-vars.template.yml", OS_VARS.to_owned()),
            ("os/debian-jessie/ansible/bootstrap.yml", PLAYBOOK.to_owned()),
        ]
    }
}
