//! What people write, and what they are told.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::keys::{Form, SECTIONS};
use super::*;

struct Directory(tempfile::TempDir);

impl Directory {
    fn with(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for (name, text) in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().expect("below the directory")).expect("made");
            fs::write(path, text).expect("written");
        }
        Self(directory)
    }

    fn load(&self) -> Result<Settings, ConfigError> {
        Settings::load(Some(&self.file()))
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("config.toml")
    }

    /// The faults, each as it is shown, without the directory.
    fn faults(&self) -> Vec<String> {
        let Err(ConfigError::Faults { faults }) = self.load() else { panic!("faults were expected") };
        let directory = format!("{}/", self.0.path().display());
        faults.iter().map(|fault| fault.to_string().replace(&directory, "")).collect()
    }
}

fn faults(text: &str) -> Vec<String> {
    Directory::with(&[("config.toml", text)]).faults()
}

fn load(text: &str) -> Settings {
    Directory::with(&[("config.toml", text)]).load().expect("settings")
}

#[test]
fn without_a_file_there_is_one_receiving_repository_and_qemu() {
    let directory = Directory::with(&[]);
    let settings = Settings::read(&directory.file(), false).expect("settings");
    assert_eq!(settings, Settings::default());
    assert_eq!(settings.repositories[0].name.as_str(), "factory");
    assert_eq!(settings.repositories[0].origin, Origin::Receive);
    assert!(settings.drivers.contains_key(&settings.default_driver));
    assert!(matches!(directory.load(), Err(ConfigError::Read { .. })), "a file that somebody names must be there");
}

#[test]
fn the_example_says_the_defaults_and_has_every_key() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.example.toml");
    let example = fs::read_to_string(path).expect("the example");
    assert_eq!(Settings { files: Vec::new(), ..load(&example) }, Settings::default());

    // A `#` before a key comments it out; prose has a space after it. Of a key that is there twice, the example wins.
    let is_key = |line: &str| line.starts_with("#[") || line.contains(" = ") && !line.starts_with("# ");
    let shown: Vec<&str> = example.lines().filter(|line| line.starts_with('#') && is_key(line)).collect();
    let keys: Vec<&str> = shown.iter().filter_map(|line| line[1..].split_once(" = ")).map(|(key, _)| key).collect();
    let doubled = ["base_directories", "allow_private"];
    assert!(doubled.iter().all(|key| keys.contains(key)));
    let full: Vec<&str> = example
        .lines()
        .filter(|line| !doubled.iter().any(|key| *line == format!("{key} = []")))
        .map(|line| if is_key(line) { line.trim_start_matches('#') } else { line })
        .collect();
    let settings = load(&full.join("\n"));
    assert_eq!((settings.repositories.len(), settings.bases.len(), settings.secrets.len()), (2, 3, 2));
    for section in SECTIONS {
        let opening = match section.form {
            Form::Top => String::new(),
            Form::Table => format!("[{}]", section.name),
            Form::List => format!("[[{}]]", section.name),
            Form::Named => format!("[{}.", section.name),
        };
        for (key, _) in section.keys {
            let mut here = section.form == Form::Top;
            let written = full.iter().any(|line| {
                if line.starts_with('[') {
                    here = section.form != Form::Top && line.starts_with(&opening);
                }
                here && line.starts_with(&format!("{key} = "))
            });
            assert!(written, "config.example.toml lacks {key} of {opening:?}");
        }
    }
}

#[test]
fn every_key_is_read() {
    let settings = load(
        r#"
        state_directory = "/srv/state"
        base_directories = ["/srv/images"]
        default_driver = "local"
        [server]
        socket = "/tmp/s"
        group = "builders"
        [[repository]]
        name = "images"
        url = "git@example.org:images.git"
        branches = ["main"]
        poll = "1h"
        network_full = ["pipelines/os.yml"]
        [driver.local]
        kind = "qemu"
        accelerator = "tcg"
        host_key = "first-seen"
        cpus = 4
        memory = "2GiB"
        [base.a]
        path = "/srv/a.raw"
        format = "raw"
        [limits]
        builds = 3
        memory = "8GiB"
        disk_free = "1GiB"
        log = "1MiB"
        push = "2MiB"
        [retention]
        keep = 1
        age = "1d"
        [secrets.token]
        credential = "token"
        [sandbox]
        required = false
        [download]
        allow_private = ["10.0.0.0/8"]
        "#,
    );
    assert_eq!(settings.state_directory, Path::new("/srv/state"));
    assert_eq!(settings.base_directories, [Path::new("/srv/images")]);
    assert_eq!(settings.server, Server { socket: "/tmp/s".into(), group: "builders".into() });
    let repository = Repository {
        name: "images".into(),
        origin: Origin::Url("git@example.org:images.git".into()),
        branches: vec!["main".into()],
        poll: Duration::from_secs(3600),
        network_full: vec![RepoPath::new("pipelines/os.yml").expect("a path")],
    };
    assert_eq!(settings.repositories, [repository]);
    let driver = DriverSettings {
        kind: DriverKind::Qemu,
        accelerator: Accelerator::Tcg,
        host_key: HostKey::FirstSeen,
        cpus: Some(4),
        memory: Some(2 << 30),
        copy_to: Vec::new(),
        cloud: CloudSettings::default(),
    };
    assert_eq!(settings.drivers, [("local".into(), driver)].into());
    assert_eq!(settings.bases["a"], Base::Path { path: "/srv/a.raw".into(), format: DiskFormat::Raw });
    let limits = Limits { builds: 3, memory: Some(8 << 30), disk_free: 1 << 30, log: 1 << 20, push: 2 << 20 };
    assert_eq!(settings.limits, limits);
    assert_eq!(settings.retention, Retention { keep: 1, age: Some(86_400_000) });
    assert_eq!(settings.secrets["token"], SecretSource::Credential("token".into()));
    assert_eq!(settings.sandbox, Sandbox { required: false });
    assert!(settings.download.allows("10.1.2.3".parse().expect("an address")));
    assert!(!settings.download.allows("127.0.0.1".parse().expect("an address")));
}

#[test]
fn every_key_of_a_cloud_is_read() {
    let settings = load(
        r#"
        default_driver = "far"
        [driver.far]
        kind = "openstack"
        clouds = "/etc/openstack/clouds.yaml"
        cloud = "factory"
        region = "RegionOne"
        interface = "internal"
        ca = "/etc/ssl/cloud.pem"
        identity_endpoint = "https://k/v3"
        compute_endpoint = "https://n/v2.1"
        image_endpoint = "https://g/v2"
        network_endpoint = "https://q/v2.0"
        orchestration_endpoint = "https://h/v1"
        networks = ["inside"]
        floating_network = "outside"
        security_groups = ["ssh"]
        flavor = "m1.small"
        availability_zone = "az1"
        ssh_port = 2222
        config_drive = false
        visibility = "shared"
        "#,
    );
    let cloud = CloudSettings {
        clouds: Some("/etc/openstack/clouds.yaml".into()),
        cloud: Some("factory".to_owned()),
        credential: None,
        region: Some("RegionOne".to_owned()),
        interface: Some("internal"),
        ca: Some("/etc/ssl/cloud.pem".into()),
        endpoints: vec![
            ("identity", "https://k/v3".to_owned()),
            ("compute", "https://n/v2.1".to_owned()),
            ("image", "https://g/v2".to_owned()),
            ("network", "https://q/v2.0".to_owned()),
            ("orchestration", "https://h/v1".to_owned()),
        ],
        networks: vec!["inside".to_owned()],
        floating_network: Some("outside".to_owned()),
        security_groups: vec!["ssh".to_owned()],
        flavor: Some("m1.small".to_owned()),
        availability_zone: Some("az1".to_owned()),
        ssh_port: 2222,
        config_drive: false,
        visibility: "shared",
    };
    let far = &settings.drivers[&"far".into()];
    assert_eq!((far.kind, &far.cloud), (DriverKind::OpenStack, &cloud));
}

#[test]
fn drop_ins_win_key_by_key_and_repositories_add_up() {
    let directory = Directory::with(&[
        ("config.toml", "[limits]\nbuilds = 1\nlog = \"1MiB\"\n[[repository]]\nname = \"a\"\nreceive = true\n"),
        ("config.toml.d/20-more.toml", "[limits]\nbuilds = 5\n"),
        ("config.toml.d/10-first.toml", "[limits]\nbuilds = 4\n[[repository]]\nname = \"b\"\nreceive = true\n"),
        ("config.toml.d/README", "not read"),
    ]);
    let settings = directory.load().expect("settings");
    assert_eq!((settings.limits.builds, settings.limits.log), (5, 1 << 20));
    let names: Vec<&str> = settings.repositories.iter().map(|repository| repository.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(settings.files.len(), 3);
}

#[test]
fn all_faults_of_all_files_are_said_at_once() {
    let directory = Directory::with(&[
        (
            "config.toml",
            "stat_directory = \"/x\"\n[limits]\nbuild = 2\n  disk_free = \"2 GB\"\nlog = 5\n[limit]\n[colour]\n",
        ),
        ("config.toml.d/a.toml", "[[repository]]\nname = \"../x\"\nurl = \"ext::sh -c id\"\npolll = \"1m\"\n"),
        ("config.toml.d/b.toml", "[server\n"),
    ]);
    insta::assert_snapshot!(directory.faults().join("\n"), @r#"
    config.toml:1:1: stat_directory: there is no such key; did you mean `state_directory`?
    config.toml:3:1: limits.build: there is no such key; did you mean `builds`?
    config.toml:4:15: limits.disk_free: "2 GB" does not fit; write a size as in "512MiB" or "2GiB"
    config.toml:5:7: limits.log: an integer does not fit; write a size as in "512MiB" or "2GiB"
    config.toml:6:2: limit: there is no such key; did you mean `limits`?
    config.toml:7:2: colour: there is no such key; there are: state_directory, base_directories, default_driver, server, repository, driver, base, limits, retention, secrets, sandbox, download
    config.toml.d/a.toml:2:1: repository.name: "../x" is no name; a name has letters, digits, `-`, `_` and `.`, begins with a letter or a digit and does not end in .git
    config.toml.d/a.toml:3:1: repository.url: "ext::sh -c id" can't be fetched from; write https://…, ssh://…, user@host:path, file:///… or an absolute path
    config.toml.d/a.toml:4:1: repository.polll: there is no such key; did you mean `poll`?
    config.toml.d/b.toml:1:8: this is not TOML: unclosed table, expected `]`
    "#);
}

#[test]
fn what_does_not_hold_together_is_a_fault() {
    let text = r#"
default_driver = "qmeu"
[[repository]]
name = "a"
[[repository]]
name = "b"
url = "https://example.org/b.git"
receive = true
[[repository]]
name = "b"
receive = false
network_full = ["../x"]
[driver.qemu]
kind = "qemo"
[driver.near]
kind = "qemu"
flavor = "m1.small"
copy_to = ["far", "near", "nowhere"]
[driver.far]
kind = "openstack"
accelerator = "kvm"
interface = "secret"
clouds = "/c.yaml"
credential = "clouds"
image_endpoint = "glance:9292"
ssh_port = 70000
[base.x]
url = "ftp://example.org/x"
format = "qcow2"
[base.y]
image = "z"
sha256 = "12"
[base.z]
path = "relative"
format = "vmdk"
[secrets.s]
[download]
allow_private = ["example.org"]
"#;
    insta::assert_snapshot!(faults(text).join("\n"), @r#"
    config.toml:2:1: default_driver: there is no driver "qmeu"; did you mean "qemu"?
    config.toml:3:1: repository: says too little; it needs one of url, receive, and one only
    config.toml:5:1: repository: says too much; it needs one of url, receive, and one only
    config.toml:10:1: repository.name: "b" is taken, at config.toml:6; give it another name
    config.toml:11:1: repository.receive: false says too little; give its url, or set receive to true
    config.toml:12:1: repository.network_full: "../x" is no pipeline's path; write paths below the repository's root: "pipelines/bundle.yml"
    config.toml:14:1: driver.qemu.kind: there is no "qemo"; did you mean "qemu"?
    config.toml:17:1: driver.near.flavor: has no effect here; take it out: it is a key of a driver of the kind openstack
    config.toml:18:1: driver.near.copy_to: "near" is no other driver that takes copies of images; name drivers of the kind openstack
    config.toml:18:1: driver.near.copy_to: "nowhere" is no other driver that takes copies of images; name drivers of the kind openstack
    config.toml:21:1: driver.far.accelerator: has no effect here; take it out: how a cloud runs its machines is the cloud's
    config.toml:22:1: driver.far.interface: there is no "secret"; write one of public, internal, admin
    config.toml:24:1: driver.far.credential: has no effect here; take it out: clouds.yaml is read from one place
    config.toml:25:1: driver.far.image_endpoint: "glance:9292" is no address of a service; write https://… or http://…
    config.toml:26:1: driver.far.ssh_port: 70000 is no port; write one from 1 to 65535; SSH's own is 22
    config.toml:27:7: base.x: sha256 is missing; what is downloaded is used only if its bytes sum to it
    config.toml:28:1: base.x.url: "ftp://example.org/x" can't be downloaded; write https://… or http://…
    config.toml:32:1: base.y.sha256: has no effect here; take it out: an image of the catalogue has its own
    config.toml:34:8: base.z.path: "relative" does not fit; write an absolute path in quotes
    config.toml:35:1: base.z.format: there is no "vmdk"; write one of qcow2, raw
    config.toml:36:10: secrets.s: says too little; it needs one of file, credential, and one only
    config.toml:38:1: download.allow_private: "example.org" is no address; write "10.0.0.0/8" or "192.168.1.5"
    "#);
}
