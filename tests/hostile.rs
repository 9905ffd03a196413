//! Broken and hostile repositories: what `factoryd check` says of each, and that a neighbour is never hurt.
//!
//! A case is one thing put into a repository of two bundles: `images/bad` reads it, `images/good` does not. The program
//! runs under limits of the kernel's, so a case that takes 5 s of a processor or 200 MB of memory ends it, and fails.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

const FACTORYD: &str = env!("CARGO_BIN_EXE_factoryd");
const UUID: &str = "ae3082cb-fac1-46b1-97aa-507aaa8f184f";

/// Runs a program with 5 s of a processor, 200 MB of memory and 60 s by the clock, which a busy host may need.
const LIMITED: &str = "ulimit -t 5; ulimit -d 195312; ulimit -c 0; exec timeout -k 1 60 \"$0\" \"$@\"";

const PIPELINE: &str = "version: 1\nbundles: [images/bad]\nvars: build-vars.yml\nstages:\n  - boot: { image: \"{{ bundle.img_base }}\", \
                        user: root }\n  - provision: { steps: [ { packer: bad.json }, { script: bad.sh }, { ansible: \
                        ansible/play.yml } ] }\n  - snapshot: { name: x }\n  - render: {}\n";
const NEIGHBOUR: &str = "version: 1\nbundles: [images/good]\nvars: build-vars.yml\nstages:\n  - boot: { image: \"{{ bundle.img_base }}\", \
                         user: root }\n  - provision: { steps: [ { shell: \"true\" } ] }\n  - snapshot: { name: x }\n";
const TEMPLATE: &str =
    r#"{ "builders": [{ "type": "qemu" }], "provisioners": [{ "type": "shell", "inline": ["true"] }] }"#;

const VARS: &str = "images/bad/build-vars.yml";
const PACKER: &str = "bad.json";
const PIPE: &str = "pipelines/bad.yml";

/// What a case puts in its place.
enum Put {
    Bytes(Vec<u8>),
    Link(&'static str),
    Directory,
    Nothing,
}

struct Case {
    name: String,
    path: Vec<u8>,
    put: Put,
    /// Whether the repository is good all the same.
    is_harmless: bool,
}

fn bytes(path: &str, name: &str, content: impl Into<Vec<u8>>, is_harmless: bool) -> Case {
    let name = format!("{path}: {name}");
    Case { name, path: path.into(), put: Put::Bytes(content.into()), is_harmless }
}

/// Contents that are none of any language.
fn broken() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("nul", b"\0".to_vec()),
        ("nuls", vec![0; 4096]),
        ("not UTF-8", b"a: \xff\xfe\xfa\n".to_vec()),
        ("UTF-16", "\u{feff}{ a: b }".encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ("an escape", b"\x1b]0;owned\x07\x1b[2J: {\n".to_vec()),
        ("an open brace", b"{".to_vec()),
        ("open brackets", b"[".repeat(200_000)),
        ("open maps", b"{\"a\":".repeat(100_000)),
        ("a text without end", b"{\"a\": \"".to_vec()),
        ("elf", b"\x7fELF\x02\x01\x01\0\0".to_vec()),
        ("a list", b"[1, 2, 3]\n".to_vec()),
        ("a number", b"17\n".to_vec()),
        ("a huge number", [b"[".to_vec(), b"9".repeat(100_000), b"]".to_vec()].concat()),
        ("empty", Vec::new()),
        ("a conflict", b"<<<<<<< HEAD\na: 1\n=======\na: 2\n>>>>>>> b\n".to_vec()),
        ("too large", b"#".repeat(5 << 20)),
    ]
}

fn vars_with(rest: &str) -> String {
    format!("bundle:\n  name: bad\n  img_base: {UUID}\n{rest}")
}

/// Vars: YAML's own traps.
fn vars() -> Vec<Case> {
    let laughs: String =
        (1..30).map(|at| format!("a{at}: &a{at} [{}]\n", vec![format!("*a{}", at - 1); 9].join(", "))).collect();
    let laughs = format!("a0: &a0 [x, x]\n{laughs}");
    let refused = [
        ("a laugh", vars_with(&laughs)),
        ("a key twice", vars_with("x: 1\nx: 2\n")),
        ("an unknown alias", vars_with("x: *nowhere\n")),
        ("a tag of python", vars_with("x: !!python/object/apply:os.system [id]\n")),
        ("a tab", vars_with("x:\n\t- y\n")),
        ("two documents", vars_with("---\nx: 1\n")),
        ("a huge number", vars_with(&format!("x: {}\n", "9".repeat(10_000)))),
        ("no base", "bundle:\n  name: bad\n".to_owned()),
        ("a base of itself", "bundle:\n  name: bad\n  img_base: images/bad\n".to_owned()),
        ("a bundle that is a list", "bundle: [1]\n".to_owned()),
        ("properties that are a text", vars_with("  properties: x\n")),
        ("deep", vars_with(&format!("x: {}{}\n", "[".repeat(3000), "]".repeat(3000)))),
    ];
    let harmless = [
        ("a name that nothing uses is missing", format!("bundle:\n  img_base: {UUID}\n")),
        ("a BOM", format!("\u{feff}{}", vars_with(""))),
        ("CRLF", vars_with("").replace('\n', "\r\n")),
        ("a long key", vars_with(&format!("{}: 1\n", "k".repeat(900)))),
        ("a long line", vars_with(&format!("x: {}\n", "v".repeat(300_000)))),
        ("many keys", vars_with(&(0..5000).map(|at| format!("k{at}: 1\n")).collect::<String>())),
        ("a text that looks like an escape", vars_with("x: \"\\x1b[2J\"\n")),
    ];
    let mut all = cases(VARS, false, refused);
    all.extend(cases(VARS, true, harmless));
    all
}

fn cases(path: &str, is_harmless: bool, all: impl IntoIterator<Item = (&'static str, String)>) -> Vec<Case> {
    all.into_iter().map(|(name, text)| bytes(path, name, text, is_harmless)).collect()
}

/// Packer templates.
fn templates() -> Vec<Case> {
    let root = |more: &str| TEMPLATE.replacen('{', &format!("{{ {more},"), 1);
    let line = |text: &str| TEMPLATE.replace("\"true\"", &serde_json::to_string(text).expect("a text"));
    let key = |more: &str| TEMPLATE.replace("\"inline\"", &format!("{more}, \"inline\""));
    let doubling: Vec<String> =
        (1..40).map(|at| format!("\"v{at}\": \"{0}{0}\"", format!("{{{{user `v{}`}}}}", at - 1))).collect();
    let doubling = format!("\"variables\": {{ \"v0\": \"xx\", {} }}", doubling.join(", "));
    let refused = vec![
        ("an unknown root", root("\"bilders\": []")),
        ("a key twice", root("\"description\": \"a\", \"description\": \"b\"")),
        ("an escape in a key", root("\"\\u001b[2J\\u0007\": 1")),
        ("a lone surrogate in a key", root("\"\\ud800\": 1")),
        ("a huge key", root(&format!("\"{}\": 1", "k".repeat(200_000)))),
        ("a trailing comma", TEMPLATE.replace("] }", "], }")),
        ("a comment", format!("// no JSON\n{TEMPLATE}")),
        ("two values", format!("{TEMPLATE} {TEMPLATE}")),
        ("single quotes", TEMPLATE.replace('"', "'")),
        ("HCL2", "source \"qemu\" \"x\" {\n}\n".to_owned()),
        ("an unknown function", line("{{ nope }}")),
        ("an action without end", line("{{ user `a`")),
        ("an if without end", line("{{ if true }}x")),
        ("ten thousand ifs", line(&"{{ if true }}".repeat(10_000))),
        ("deep brackets", line(&format!("{{{{ {}true{} }}}}", "(".repeat(50_000), ")".repeat(50_000)))),
        ("printf too wide", line("{{ printf \"%999999999d\" 1 }}")),
        ("an environment here", line("{{ env `HOME` }}")),
        ("variables that double", root(&doubling).replace("\"true\"", "\"{{ user `v39` }}\"")),
        (
            "a circle",
            root("\"variables\": {\"a\": \"{{user `b`}}\", \"b\": \"{{user `a`}}\"}")
                .replace("\"true\"", "\"{{ user `a` }}\""),
        ),
        ("a variable without value", root("\"variables\": {\"a\": null}")),
        ("a variable that is a list", root("\"variables\": {\"a\": [1]}")),
        ("an unknown key", key("\"inlin\": [\"x\"]")),
        ("a pause that is none", key("\"pause_before\": \"soon\"")),
        ("a pause before the past", key("\"pause_before\": \"-5\"")),
        ("retries without number", key("\"max_retries\": \"x\"")),
        ("exit codes that are none", key("\"valid_exit_codes\": [\"x\"]")),
        ("an only of nobody", key("\"only\": [\"nobody\"]")),
        ("only and except", key("\"only\": [\"qemu\"], \"except\": [\"qemu\"]")),
        ("an environment without value", key("\"environment_vars\": [\"A\"]")),
        ("puppet", TEMPLATE.replace("shell", "puppet-masterless")),
        ("chef", TEMPLATE.replace("shell", "chef-solo")),
        ("powershell", TEMPLATE.replace("shell", "powershell")),
        ("a shell of the host", TEMPLATE.replace("shell", "shell-local")),
        ("an escape as a type", TEMPLATE.replace("shell", "\\u001b[31mshell\\u0000")),
        ("another builder", TEMPLATE.replace("qemu", "amazon-ebs")),
        ("no builder", TEMPLATE.replace("{ \"type\": \"qemu\" }", "")),
        ("a script outside", TEMPLATE.replace("\"inline\": [\"true\"]", "\"script\": \"../../../etc/passwd\"")),
        ("a script of the host", TEMPLATE.replace("\"inline\": [\"true\"]", "\"script\": \"/etc/passwd\"")),
        ("a script that is not there", TEMPLATE.replace("\"inline\": [\"true\"]", "\"script\": \"nowhere.sh\"")),
        ("deep", root(&format!("\"x\": {}{}", "[".repeat(100_000), "]".repeat(100_000)))),
    ];
    let harmless = vec![
        ("a BOM", format!("\u{feff}{TEMPLATE}")),
        ("CRLF", TEMPLATE.replace(", \"prov", ",\r\n\"prov")),
        ("a text with escapes", line("printf '\\033[2J' # \u{1b}[2J")),
        ("a long line", line(&"x".repeat(100_000))),
        ("a newer packer", root("\"min_packer_version\": \"1.8.0\"")),
    ];
    let mut all = cases(PACKER, false, refused);
    all.extend(cases(PACKER, true, harmless));
    all
}

/// Pipelines.
fn pipelines() -> Vec<Case> {
    let step = |text: &str| PIPELINE.replace("{ script: bad.sh }", text);
    let refused = [
        ("another version", PIPELINE.replace("version: 1", "version: 2")),
        ("a version that is no number", PIPELINE.replace("version: 1", "version: {}")),
        ("no stages", "version: 1\nbundles: [images/bad]\n".to_owned()),
        ("a glob that leads out", PIPELINE.replace("[images/bad]", "[../*]")),
        ("an absolute glob", PIPELINE.replace("[images/bad]", "[/etc]")),
        ("an unknown stage", PIPELINE.replace("  - render: {}", "  - rendr: {}")),
        ("a stage twice", PIPELINE.replace("  - render: {}", "  - render: {}\n  - render: {}")),
        ("an unknown step", step("{ shel: x }")),
        ("two steps in one", step("{ shell: x, script: bad.sh }")),
        ("a step that says nothing", step("{}")),
        ("a playbook outside", step("{ ansible: ../../play.yml }")),
        ("a script that is not there", step("{ script: nowhere.sh }")),
        ("an expression without end", step("{ shell: \"{{ bundle.name\" }")),
        ("an unknown variable", step("{ shell: \"{{ nope.nope }}\" }")),
        ("an unknown build", step("{ shell: \"{{ build.nope }}\" }")),
        ("a timeout that is none", step("{ shell: x, timeout: forever }")),
        ("a giant timeout", step("{ shell: x, timeout: 99999999999999999999h }")),
        ("an escape", step("{ \"\\e[2J\\a\": x }")),
        ("a name of a direction", step("{ \"\u{202e}llehs\": x }")),
        ("memory that is none", PIPELINE.replace("user: root", "user: root, memory: 9999999999999999TiB")),
        ("cpus that are none", PIPELINE.replace("user: root", "user: root, cpus: -1")),
    ];
    cases(PIPE, false, refused)
}

/// What git and directories can hold.
fn shapes() -> Vec<Case> {
    let mut all = Vec::new();
    for path in [VARS, PACKER, "images/bad/bad.sh", "images/bad/ansible/play.yml"] {
        let case =
            |name: &str, put| Case { name: format!("{path}: {name}"), path: path.into(), put, is_harmless: false };
        all.push(case("a link out", Put::Link("../../../../../../../etc/passwd")));
        all.push(case("an absolute link", Put::Link("/etc/passwd")));
        all.push(case("a link to nowhere", Put::Link("nowhere")));
        all.push(case("a link to a device", Put::Link("/dev/zero")));
        all.push(case("a link to its directory", Put::Link(".")));
        all.push(case("a directory", Put::Directory));
        all.push(case("nothing", Put::Nothing));
    }
    let names: [&[u8]; 9] = [
        b"images/bad/a b",
        b"images/bad/\xff\xfe",
        b"images/bad/\x1b[2J",
        b"images/bad/new\nline",
        b"images/bad/-rf",
        b"images/bad/$(id)",
        b"images/bad/;id",
        "images/bad/\u{202e}txt".as_bytes(),
        b"images/bad/'\"`",
    ];
    for path in names {
        let name = format!("a file called {}", path.escape_ascii());
        all.push(Case { name, path: path.into(), put: Put::Bytes(b"x".to_vec()), is_harmless: true });
    }
    all
}

/// Every kind of file with contents of no language. A script may be anything, and a playbook is Ansible's to read.
fn anything() -> Vec<Case> {
    let mut all = Vec::new();
    for path in [VARS, PACKER, PIPE] {
        all.extend(broken().into_iter().map(|(name, content)| bytes(path, name, content, false)));
    }
    for path in
        ["images/bad/ansible/play.yml", "images/bad/bad.sh", "images/bad/README.md", "images/bad/output/static.txt"]
    {
        all.extend(broken().into_iter().map(|(name, content)| bytes(path, name, content, true)));
    }
    all
}

fn lay(root: &Path, path: &[u8], put: &Put) {
    let path = root.join(std::ffi::OsStr::from_bytes(path));
    fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
    if !matches!(put, Put::Bytes(_)) && path.exists() {
        fs::remove_file(&path).expect("a file");
    }
    match put {
        Put::Bytes(content) => fs::write(path, content).expect("a file"),
        Put::Link(target) => symlink(target, path).expect("a link"),
        Put::Directory => fs::create_dir(path).expect("a directory"),
        Put::Nothing => {}
    }
}

fn repository(case: Option<&Case>) -> TempDir {
    let root = tempfile::tempdir().expect("a directory");
    let bad = vars_with("");
    let good = format!("bundle:\n  name: good\n  img_base: {UUID}\n");
    let files: [(&str, &str); 8] = [
        (PIPE, PIPELINE),
        ("pipelines/good.yml", NEIGHBOUR),
        (VARS, &bad),
        ("images/good/build-vars.yml", &good),
        (PACKER, TEMPLATE),
        ("images/bad/bad.sh", "#!/bin/sh\ntrue\n"),
        ("images/bad/ansible/play.yml", "- hosts: all\n  tasks: []\n"),
        ("images/bad/output/x.txt.j2", "{{ result_img_id }}\n"),
    ];
    for (path, text) in files {
        lay(root.path(), path.as_bytes(), &Put::Bytes(text.into()));
    }
    if let Some(case) = case {
        lay(root.path(), &case.path, &case.put);
    }
    root
}

/// Runs `check`: its exit code, and what it prints.
fn check(root: &Path, json: bool) -> (Option<i32>, String, String) {
    let mut command = Command::new("sh");
    command.args(["-c", LIMITED, FACTORYD, "check"]).arg(root).args(json.then_some("--json"));
    let done = command.env("NO_COLOR", "1").output().expect("sh");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (done.status.code(), text(done.stdout), text(done.stderr))
}

fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

/// Every fault and warning, wherever it stands.
fn faults(said: &Value) -> Vec<&Value> {
    let of_bundles =
        list(said, "bundles").iter().flat_map(|bundle| list(bundle, "faults").iter().chain(list(bundle, "warnings")));
    list(said, "faults").iter().chain(of_bundles).collect()
}

/// What of a case is not as it has to be.
fn wrong(case: &Case) -> Option<String> {
    let root = repository(Some(case));
    let (code, text, complaints) = check(root.path(), false);
    let expected = i32::from(!case.is_harmless);
    if code != Some(expected) {
        return Some(format!("ends with {code:?} and not {expected}: {text}{complaints}"));
    }
    if complaints.contains("panicked") {
        return Some(format!("panics: {complaints}"));
    }
    if let Some(found) = text.chars().chain(complaints.chars()).find(|c| c.is_control() && *c != '\n') {
        return Some(format!("prints {found:?}: {text:?}{complaints:?}"));
    }
    let (_, json, _) = check(root.path(), true);
    let Ok(said) = serde_json::from_str::<Value>(&json) else { return Some(format!("prints no JSON: {json}")) };
    let verdict = |name: &str| {
        list(&said, "bundles").iter().find(|bundle| bundle["bundle"] == name)?["verdict"].as_str().map(str::to_owned)
    };
    if verdict("images/good").as_deref() != Some("buildable") {
        return Some(format!("the neighbour is {:?}: {json}", verdict("images/good")));
    }
    let nowhere =
        |fault: &&&Value| fault["file"].as_str().is_none_or(str::is_empty) || fault["line"].as_u64().is_none();
    faults(&said).iter().find(nowhere).map(|fault| format!("says of no place: {fault}"))
}

fn all_are_right(cases: &[Case]) {
    let wrong: Vec<String> = cases.iter().filter_map(|case| Some(format!("{}: {}", case.name, wrong(case)?))).collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn without_a_hostile_file_the_repository_is_good() {
    let root = repository(None);
    let (code, text, complaints) = check(root.path(), false);
    assert_eq!(code, Some(0), "{text}{complaints}");
}

#[test]
fn hostile_vars_are_refused_with_their_place_and_hurt_no_neighbour() {
    all_are_right(&vars());
}

#[test]
fn hostile_packer_templates_are_refused_with_their_place_and_hurt_no_neighbour() {
    all_are_right(&templates());
}

#[test]
fn hostile_pipelines_are_refused_with_their_place_and_hurt_no_neighbour() {
    all_are_right(&pipelines());
}

#[test]
fn links_directories_and_odd_names_hurt_no_neighbour() {
    all_are_right(&shapes());
}

#[test]
fn files_of_no_language_hurt_no_neighbour() {
    all_are_right(&anything());
}
