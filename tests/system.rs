//! The whole factory on real machines: the demo, a system image, a base image by URL that is changed before its first boot,
//! a daemon that is killed while it provisions, and the unit under systemd.
//!
//! One after the other, since each machine takes all of a small host where there is no KVM. Base images that recipes make
//! are kept in `$FACTORYD_TEST_CACHE` (else `target/test-cache`), so that only the first run makes them.

#[path = "daemon/factory.rs"]
#[allow(dead_code, reason = "the other test binary uses the rest")]
mod factory;
#[path = "daemon/small_disk.rs"]
#[allow(dead_code, reason = "the other test binary uses the rest")]
mod small_disk;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use factory::{Author, BINARY, Factory, pause, program, said, text};
use small_disk::SmallDisk;

const HERE: &str = env!("CARGO_MANIFEST_DIR");
/// How long a build with real machines may take.
const BUILD_WITHIN: Duration = Duration::from_secs(900);

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says what is going on: these tests take minutes.
fn tell(since: Instant, what: &str) {
    eprintln!("[{:>4} s] {what}", since.elapsed().as_secs());
}

fn cache() -> PathBuf {
    let kept = std::env::var_os("FACTORYD_TEST_CACHE")
        .map_or_else(|| Path::new(HERE).join("target/test-cache"), PathBuf::from);
    kept.join("system-bases")
}

/// Copies the base images that one state directory has and another lacks.
fn share_bases(from: &Path, to: &Path) {
    share(from, to, |_| true);
}

/// Copies one base image by its sum, with what says which recipe it was made from.
fn share_base(sum: &str, from: &Path, to: &Path) {
    let is_its = |path: &Path| {
        let is_small = path.metadata().is_ok_and(|file| file.len() < 1024);
        path.file_stem().is_some_and(|name| name == sum)
            || is_small && std::fs::read_to_string(path).is_ok_and(|text| text.contains(sum))
    };
    share(from, to, is_its);
}

fn share(from: &Path, to: &Path, is_wanted: impl Fn(&Path) -> bool) {
    std::fs::create_dir_all(to).expect("a directory");
    let Ok(entries) = std::fs::read_dir(from) else { return };
    for entry in entries.flatten().filter(|entry| is_wanted(&entry.path())) {
        let (place, part) = (to.join(entry.file_name()), to.join("part"));
        if entry.path().is_file() && !place.exists() {
            std::fs::copy(entry.path(), &part).expect("copied");
            std::fs::rename(&part, &place).expect("renamed");
        }
    }
}

/// Processes that carry a state directory in their environment: what a daemon started.
fn processes_of(state: &Path) -> Vec<String> {
    let state = state.canonicalize().unwrap_or_else(|_| state.to_owned());
    let needle = [b"FACTORYD_STATE=", state.as_os_str().as_bytes()].concat();
    let entries = std::fs::read_dir("/proc").expect("proc").flatten();
    let ours = entries.filter(|entry| {
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|pair| pair == needle)
    });
    ours.filter_map(|entry| std::fs::read_to_string(entry.path().join("comm")).ok()).collect()
}

#[test]
fn the_demo_builds_images_that_boot_anywhere_and_redoes_only_what_changed() {
    let _alone = alone();
    let began = Instant::now();
    let demo = Demo::new();
    tell(began, "the demo runs for the first time");
    let shown = demo.run("start").ended(0);
    tell(began, "all is built");
    let builds = demo.builds();
    assert!(builds.len() >= 3 && builds.iter().all(|build| build["outcome"] == "passed"), "{builds:?}\n{shown}");
    for wanted in ["All 3 bundles are fresh.", "factoryd artifacts", "Stop it and remove it all: ", "make clean-demo"] {
        assert!(shown.contains(wanted), "{wanted} is not in {shown}");
    }

    // The image that the newest build left is in its rendered template, and boots without factoryd.
    let nginx = builds.iter().find(|build| build["bundle"] == "images/bundle-debian-nginx").expect("a build of nginx");
    let image = text(&nginx["image"]);
    assert!(demo.template(nginx).contains(&image), "the template names the image");
    let disk = demo.directory.path().join("nginx.qcow2");
    demo.ask(&["images", "export", &image, "-o", disk.to_str().expect("UTF-8")]).ended(0);
    boots_to_a_login(&disk, demo.directory.path());
    tell(began, "the exported image boots by itself");

    demo.run("start").ended(0);
    assert_eq!(demo.builds().len(), builds.len(), "nothing changed, so nothing is built");
    tell(began, "the demo ran again and built nothing");

    let template = demo.checkout().join("images/bundle-debian-nginx/output/nginx_stack.heat.yml.j2");
    let changed =
        std::fs::read_to_string(&template).expect("the template").replace("description:", "description: New.");
    std::fs::write(&template, format!("{changed}# changed\n")).expect("written");
    let rerun = Instant::now();
    demo.run("start").ended(0);
    let after = demo.builds();
    assert_eq!(after.len(), builds.len() + 1);
    assert_eq!(states_of(&after[0]), ["boot hit", "provision hit", "test hit", "snapshot hit", "render passed"]);
    assert_eq!(text(&after[0]["image"]), image, "the image is the same");
    assert!(demo.template(&after[0]).ends_with("# changed\n") && demo.template(&after[0]).contains(&image));
    tell(began, &format!("a changed template was rendered in {:?}", rerun.elapsed()));

    // What people do with images and builds by hand.
    let pinned = demo.ask(&["images", "pin", &image]).ended(0);
    assert!(pinned.ends_with(" is published, pinned.\n"), "{pinned}");
    assert!(demo.ask(&["images"]).ended(0).contains("served, fresh, pinned"), "it is listed so");
    assert!(demo.ask(&["images", "unpin", &image]).ended(0).ends_with(" is published.\n"), "unpinned");
    assert!(demo.ask(&["images", "deprecate", &image]).ended(0).ends_with(" is deprecated.\n"), "deprecated");
    assert_eq!(demo.image(&image)["state"], "deprecated");
    let number = after[0]["build"].to_string();
    let queued = demo.ask(&["retry", &number, "--from", "render", "--json"]).ended(0);
    let queued: Value = serde_json::from_str(&queued).expect("JSON");
    demo.ask(&["logs", "-f", &queued["build"].to_string()]).ended(0);
    let again = demo.builds()[0].clone();
    assert_eq!(states_of(&again), ["boot hit", "provision hit", "test hit", "snapshot hit", "render passed"]);
    // What serves again is nobody's past.
    assert_eq!(demo.image(&image)["state"], "published");
    tell(began, "an image was pinned, unpinned and deprecated, and served again by a retry");

    share_bases(&demo.state().join("bases"), &cache());
    demo.run("stop").ended(0);
    assert!(!demo.place().exists() && processes_of(&demo.state()).is_empty(), "something is left");
    tell(began, "the demo is gone");
}

/// The stages of a build with their states.
fn states_of(build: &Value) -> Vec<String> {
    let stages = build["stages"].as_array().expect("stages").iter();
    stages.map(|stage| format!("{} {}", text(&stage["stage"]), text(&stage["state"]))).collect()
}

/// The demo on a copy of this checkout, so that files can be changed.
struct Demo {
    directory: tempfile::TempDir,
}

impl Demo {
    fn new() -> Self {
        let demo = Self { directory: tempfile::tempdir().expect("a directory") };
        std::fs::create_dir(demo.checkout()).expect("a directory");
        for part in ["images", "pipelines", "scripts"] {
            said(program("cp").arg("-r").arg(Path::new(HERE).join(part)).arg(demo.checkout())).ended(0);
        }
        share_bases(&cache(), &demo.state().join("bases"));
        std::fs::write(demo.place().join(".factoryd-demo"), "").expect("written");
        demo
    }

    fn checkout(&self) -> PathBuf {
        self.directory.path().join("checkout")
    }

    fn place(&self) -> PathBuf {
        self.directory.path().join("demo")
    }

    fn state(&self) -> PathBuf {
        self.place().join("state")
    }

    /// Runs the script. The binary is built already, and building it again here could only make another one.
    fn run(&self, word: &str) -> factory::Said {
        let target = Path::new(BINARY).ancestors().nth(2).expect("target/debug/factoryd");
        let mut demo = Command::new(self.checkout().join("scripts/demo"));
        demo.arg(word).env("FACTORYD_DEMO", self.place()).env("CARGO", "true").env("CARGO_TARGET_DIR", target);
        let output = demo.env("LC_ALL", "C.UTF-8").stdin(Stdio::null()).output().expect("the demo starts");
        let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let code = output.status.code().expect("no signal ended it");
        factory::Said { code, out: lossy(&output.stdout), err: lossy(&output.stderr), took: Duration::ZERO }
    }

    fn ask(&self, arguments: &[&str]) -> factory::Said {
        said(program(BINARY).args(arguments).env("FACTORYD_SOCKET", self.place().join("factoryd.sock")))
    }

    fn image(&self, id: &str) -> Value {
        serde_json::from_str(&self.ask(&["images", "show", id, "--json"]).ended(0)).expect("JSON")
    }

    /// The newest first.
    fn builds(&self) -> Vec<Value> {
        let listed: Value = serde_json::from_str(&self.ask(&["builds", "--json"]).out).expect("JSON");
        listed["builds"].as_array().expect("builds").clone()
    }

    /// The rendered Heat template of a build, as the archive gives it.
    fn template(&self, build: &Value) -> String {
        let number = build["build"].to_string();
        let listed: Value = serde_json::from_str(&self.ask(&["artifacts", &number, "--json"]).out).expect("JSON");
        let mut paths =
            listed["artifacts"].as_array().expect("artifacts").iter().map(|artifact| text(&artifact["path"]));
        let path = paths.find(|path| path.ends_with("nginx_stack.heat.yml")).unwrap_or_else(|| panic!("{listed}"));
        self.ask(&["artifacts", &number, "get", &path]).ended(0)
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if self.place().exists() {
            self.run("stop");
        }
    }
}

/// Boots a disk with plain QEMU until its serial console asks who logs in.
fn boots_to_a_login(disk: &Path, scratch: &Path) {
    let console = scratch.join("console");
    let qemu = program("qemu-system-x86_64")
        .args(["-machine", "pc,accel=tcg", "-cpu", "max", "-smp", "2", "-m", "1024", "-nodefaults", "-display", "none"])
        .args(["-snapshot", "-drive", &format!("file={},format=qcow2,if=virtio", disk.display())])
        .args(["-serial", &format!("file:{}", console.display())])
        .spawn()
        .expect("QEMU starts; scripts/setup installs it");
    let mut qemu = Killed(qemu);
    let deadline = Instant::now() + Duration::from_secs(180);
    loop {
        let said = String::from_utf8_lossy(&std::fs::read(&console).unwrap_or_default()).into_owned();
        if said.contains("login:") {
            return;
        }
        let ended = qemu.0.try_wait().expect("a state");
        assert!(ended.is_none() && Instant::now() < deadline, "no login prompt: {ended:?}\n{said}");
        pause();
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A factory with the shared base images, and one author with the pipeline of the base image in this repository.
fn factory_with_bases() -> Factory {
    let mut factory = Factory::stopped("", "");
    share_bases(&cache(), &factory.state().join("bases"));
    factory.start();
    factory
}

/// The lines of `boot` in this repository's pipeline for base images, so that the same base image serves here.
fn recipe() -> String {
    let pipeline = std::fs::read_to_string(Path::new(HERE).join("pipelines/base.yml")).expect("the pipeline");
    let lines = pipeline.lines().skip_while(|line| !line.contains("- boot:"));
    lines.take_while(|line| !line.contains("- test:")).map(|line| format!("{line}\n")).collect()
}

/// Waits for a build's end, telling what its log says.
fn follow(factory: &Factory, build: u64, since: Instant) -> Value {
    let number = build.to_string();
    let mut follower = factory.command(["logs", "-f", &number]).stderr(Stdio::inherit()).spawn().expect("it starts");
    let deadline = Instant::now() + BUILD_WITHIN;
    while follower.try_wait().expect("a state").is_none() {
        assert!(Instant::now() < deadline, "#{build} takes too long");
        pause();
    }
    tell(since, &format!("#{build} has ended"));
    factory.ended(build)
}

/// Copies a directory of this repository into an author's.
fn take(author: &Author, name: &str) {
    let into = author.path().join(name);
    std::fs::create_dir_all(into.parent().expect("a directory")).expect("made");
    said(program("cp").arg("-r").arg(Path::new(HERE).join(name)).arg(into)).ended(0);
}

#[test]
fn the_system_image_of_this_repository_is_built_and_tested_as_a_cloud_would_boot_it() {
    let _alone = alone();
    let began = Instant::now();
    let factory = factory_with_bases();
    let author = Author::new(&[]);
    take(&author, "os");
    take(&author, "pipelines/os.yml");
    author.push(&factory, "A system image");
    let build = follow(&factory, 1, began);
    share_bases(&factory.state().join("bases"), &cache());
    assert_eq!(build["outcome"], "passed", "{build:#}\n{}", factory.tell(["logs", "1"]));
    let tests: Vec<String> = build["tests"].as_array().expect("tests").iter().map(|test| text(&test["name"])).collect();
    assert!(
        tests.len() >= 12 && tests.contains(&"test_the_hostname_is_the_one_of_the_metadata".to_owned()),
        "{tests:?}"
    );
    let image = factory.json(["images", "show", &text(&build["image"])]);
    assert_eq!(image["properties"]["hw_rng_model"], "virtio", "{image:#}");
    let kept = factory.tell(["artifacts", "1"]);
    for console in ["console/change.log", "console/provision.log", "console/test.log"] {
        assert!(kept.contains(console), "{kept}");
    }
    assert!(processes_of(&factory.state()).is_empty(), "{:?}", processes_of(&factory.state()));
    factory.is_well();
}

/// Serves a file over HTTP on loopback; gives its URL.
fn serve(file: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/base.qcow2", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let read = stream.read(&mut [0; 4096]).expect("a request");
            assert!(read > 0, "a request");
            let mut body = std::fs::File::open(&file).expect("the file");
            let length = body.metadata().expect("its size").len();
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n").expect("sent");
            std::io::copy(&mut body, &mut stream).expect("sent");
        }
    });
    url
}

/// The stages on a base image by URL. What the changes leave is seen by the first boot, and what a first boot makes was not
/// there before.
const CHANGED: &str = r#"      user: root
      changes:
        - upload: { from: files/early, to: /etc/early }
        - name: a name
          shell: |
            test "$(id -u)" = 0
            echo early-bird >"$ROOT/etc/hostname"
            chroot "$ROOT" sh -c 'cat /etc/early /etc/hostname >/dev/null'
            ls "$ROOT"/etc/ssh/ssh_host_*_key >"$ROOT/etc/keys-before" 2>/dev/null || true
            cat "$ROOT/etc/machine-id" >>"$ROOT/etc/keys-before"
  - provision:
      steps:
        - shell: test "$(hostname) $(cat /etc/early)" = "early-bird before the first boot"
        - shell: test ! -s /etc/keys-before && test -s /etc/ssh/ssh_host_ed25519_key && test -s /etc/machine-id
        - shell: cat /etc/machine-id >/etc/first-id
  - test:
      steps:
        - shell: test "$(hostname)" = early-bird && test "$(cat /etc/machine-id)" != "$(cat /etc/first-id)"
  - snapshot: { name: changed }
"#;

#[test]
fn a_base_image_by_url_is_changed_before_its_first_boot() {
    let _alone = alone();
    let began = Instant::now();
    let mut factory = Factory::stopped("", "[download]\nallow_private = [\"127.0.0.0/8\"]\n");
    share_bases(&cache(), &factory.state().join("bases"));
    factory.start();
    let author = Author::new(&[]);
    author.write("images/base-debian/build-vars.yml", "bundle:\n  name: base-debian\n");
    let pipeline = |bundle: &str, stages: &str| format!("version: 1\nbundles: [{bundle}]\nstages:\n{stages}");
    author.write(
        "pipelines/base.yml",
        pipeline("images/base-debian", &format!("{}  - snapshot: {{ name: base }}\n", recipe())),
    );
    author.push(&factory, "A base image");
    let base = follow(&factory, 1, began);
    share_bases(&factory.state().join("bases"), &cache());
    let disk = factory.path("base.qcow2");
    factory.run(["images", "export", &text(&base["image"]), "-o", disk.to_str().expect("UTF-8")]).ended(0);
    let listed = factory.json(["images", "show", &text(&base["image"])]);
    let (url, sum) = (serve(disk), text(&listed["sha256"]));

    author.write("os/by-url/build-vars.yml", "bundle:\n  name: by-url\n");
    author.write("os/by-url/files/early", "before the first boot\n");
    let boot = format!("  - boot:\n      image: {{ url: \"{url}\", sha256: \"{sum}\", format: qcow2 }}\n{CHANGED}");
    author.write("pipelines/by-url.yml", pipeline("os/by-url", &boot));
    author.push(&factory, "A changed one");
    let build = follow(&factory, 2, began);
    let log = factory.tell(["logs", "2"]);
    assert_eq!(build["outcome"], "passed", "{build:#}\n{log}");
    assert!(log.contains("(ext4) is mounted on /run/factoryd-root"), "{log}");
    assert!(build["image"].is_string(), "{build}");
    factory.is_well();
}

/// A bundle that takes its time in the middle of its first step, and whose playbook and tests run on the factory's host.
fn slow_bundle(author: &Author) {
    author.write("images/bundle-slow/build-vars.yml", "bundle:\n  name: bundle-slow\n");
    let playbook = "- hosts: all\n  gather_facts: false\n  tasks:\n    - copy: { content: \"from a playbook\\n\", dest: /etc/proof }\n";
    author.write("images/bundle-slow/ansible/site.yml", playbook);
    let test = r#"import os, subprocess

def test_the_playbook_left_its_mark():
    ssh = ["ssh", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
    guest = ["-i", os.environ["FACTORYD_KEY"], "-p", os.environ["FACTORYD_PORT"]]
    to = os.environ["FACTORYD_USER"] + "@" + os.environ["FACTORYD_HOST"]
    assert subprocess.check_output([*ssh, *guest, to, "cat /etc/proof"], timeout=60) == b"from a playbook\n"
"#;
    author.write("images/bundle-slow/tests/test_proof.py", test);
    // The machine of the second attempt is a new one, so the file is not there.
    let steps = "      steps:
        - shell: test ! -e /begun && touch /begun && echo in the middle && sleep 8
        - ansible: ansible/site.yml
  - test:
      steps:
        - pytest: tests
  - snapshot: { name: slow }
";
    let pipeline = format!("version: 1\nbundles: [images/bundle-slow]\nstages:\n{}  - provision:\n{steps}", recipe());
    author.write("pipelines/bundle.yml", pipeline);
}

#[test]
fn a_service_that_is_killed_while_it_provisions_goes_on_and_leaves_nothing() {
    let _alone = alone();
    let began = Instant::now();
    let mut factory = Factory::stopped("", "");
    // Without the shared base images: what makes them is different where the daemon is not root.
    factory.start_as_service();
    let author = Author::new(&[]);
    slow_bundle(&author);
    author.push(&factory, "Take your time");
    let deadline = Instant::now() + BUILD_WITHIN;
    while !factory.run(["logs", "1"]).out.contains("in the middle") {
        let build = factory.json(["show", "1"]);
        assert!(
            build["state"] != "finished" && Instant::now() < deadline,
            "{build}\n{}{}",
            factory.run(["logs", "1"]).out,
            factory.log()
        );
        pause();
    }
    tell(began, "the guest is in the middle of its step; the daemon is killed");
    assert_eq!(factory.json(["show", "1"])["stages"][0]["state"], "passed");
    factory.end(Signal::KILL);
    let left = processes_of(&factory.state());
    assert!(
        left.iter().any(|name| name.contains("qemu") || name.contains("factoryd")),
        "the machine outlives it: {left:?}"
    );
    factory.start_as_service();
    let build = follow(&factory, 1, began);
    assert_eq!((&build["outcome"], &build["attempt"]), (&"passed".into(), &2.into()), "{build}");
    assert!(build["image"].is_string(), "{build}");
    assert_eq!(build["tests"][0]["name"], "test_the_playbook_left_its_mark", "{build:#}");
    let log = factory.tell(["logs", "1"]);
    assert_eq!(log.lines().filter(|line| line.ends_with("  in the middle")).count(), 2, "{log}");
    assert_eq!(factory.json(["builds"])["builds"].as_array().map(Vec::len), Some(1));
    assert!(processes_of(&factory.state()).is_empty(), "{:?}", processes_of(&factory.state()));
    for place in ["machines", "scratch", "work"] {
        let left = std::fs::read_dir(factory.state().join(place)).map(Iterator::count).unwrap_or(0);
        assert_eq!(left, 0, "something is left in {place}");
    }
    factory.is_well();
    share_bases(&factory.state().join("bases"), &cache());
}

/// The tests of the sandbox as they were built beside this one.
fn sandbox_tests() -> PathBuf {
    let here = std::env::current_exe().expect("this program");
    let built = std::fs::read_dir(here.parent().expect("a directory")).expect("a directory").flatten();
    let programs = built.map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("sandbox-") && path.extension().is_none()
    });
    let age = |path: &PathBuf| path.metadata().and_then(|found| found.modified()).ok();
    programs.max_by_key(age).expect("tests/sandbox.rs is built: cargo test --test sandbox --no-run")
}

/// What is asked of the service inside the guest. A line that fails ends it, and is the last that the log shows.
const UNDER_SYSTEMD: &str = r#"#!/bin/bash
PS4='+ $SECONDS '
set -euxo pipefail
install -D -m 0644 /root/unit/factoryd.service /etc/systemd/system/factoryd.service
install -D -m 0644 /root/unit/factoryd.sysusers /usr/lib/sysusers.d/factoryd.conf
install -D -m 0644 /root/unit/factoryd.tmpfiles /usr/lib/tmpfiles.d/factoryd.conf
systemd-sysusers && systemd-tmpfiles --create && systemctl daemon-reload
sed -i 's|^base_directories = .*|base_directories = ["/srv/bases"]|' /root/unit/config.example.toml
install -m 0640 -g factory /root/unit/config.example.toml /etc/factoryd/config.toml
systemctl start factoryd
systemctl is-active factoryd
test "$(systemctl show -P NotifyAccess factoryd)" = main
useradd --create-home --groups factory marie
as() { runuser -u "$@"; }
as marie -- factoryd status | tee /tmp/status
grep '^driver QEMU [0-9.]*, ' /tmp/status
grep '^sandbox works (bubblewrap [0-9.]*)$' /tmp/status
code=0; as nobody -- factoryd status || code=$?
test "$code" = 4
# People push over ssh, as the factory's user, who can do nothing else.
as marie -- mkdir -m 0700 /home/marie/.ssh
as marie -- ssh-keygen -q -t ed25519 -N '' -f /home/marie/.ssh/id_ed25519
install -d -m 0750 -o factoryd -g factory /var/lib/factoryd/.ssh
install -m 0640 -o factoryd -g factory /home/marie/.ssh/id_ed25519.pub /var/lib/factoryd/.ssh/authorized_keys
cat >/home/marie/push <<'PUSH'
set -eux
git init --quiet --initial-branch=main ~/work && cd ~/work
mkdir -p images/bundle-x/ansible
printf 'bundle:\n  name: bundle-x\n  img_base: nothing\n' >images/bundle-x/build-vars.yml
echo '- hosts: all' >images/bundle-x/ansible/bootstrap.yml
git add --all
git -c user.name=marie -c user.email=marie@localhost commit --quiet --message Begin
export GIT_SSH_COMMAND='ssh -o StrictHostKeyChecking=accept-new'
git push factoryd@localhost:repos/factory.git HEAD:main
! ssh factoryd@localhost id
PUSH
as marie -- env HOME=/home/marie sh /home/marie/push
as marie -- timeout 120 factoryd logs -f 1 || test $? = 1
as marie -- factoryd builds | grep 'failed    #1 '
as marie -- factoryd plan | grep images/bundle-x
as marie -- factoryd show 1 | grep 'no image, bundle or alias is called `nothing`'
systemctl show -P StatusText factoryd | grep idle
# A machine under the unit: its boot sector says so on the serial console, and answers no SSH.
mkdir /srv/bases
code='\xfc\xba\xf8\x03\xbe\x12\x7c\xac\x84\xc0\x74\x03\xee\xeb\xf8\xf4\xeb\xfd\r\na machine runs under the unit\r\n\0'
printf "$code" >/srv/bases/says.raw
truncate -s 1M /srv/bases/says.raw
printf '\x55\xaa' | dd of=/srv/bases/says.raw bs=1 seek=510 conv=notrunc status=none
cat >/home/marie/push <<'PUSH'
set -eux
cd ~/work
mkdir -p os/says pipelines
printf 'bundle:\n  name: says\n' >os/says/build-vars.yml
cat >pipelines/says.yml <<'PIPELINE'
version: 1
bundles: [os/says]
timeout: 20s
stages:
  - boot: { image: { path: /srv/bases/says.raw, format: raw }, memory: 64MiB }
  - snapshot: { name: says }
PIPELINE
git add --all
git -c user.name=marie -c user.email=marie@localhost commit --quiet --message 'Boot something'
git push factoryd@localhost:repos/factory.git HEAD:main
PUSH
as marie -- env HOME=/home/marie sh /home/marie/push
as marie -- timeout 200 factoryd logs -f 2 || test $? = 1
as marie -- factoryd show 2 | grep 'a machine runs under the unit'
# What the daemon starts to make a base image, under the unit's own settings; all of it takes minutes in here.
cat >/usr/local/bin/probe <<'PROBE'
#!/bin/bash
set -euxo pipefail
mkdir /var/lib/factoryd/probe && cd /var/lib/factoryd/probe
TMPDIR=$PWD mmdebstrap --mode=fakechroot --variant=extract --format=directory --aptopt='Acquire::Languages "none"' \
  --include=passwd bookworm root /etc/apt/sources.list.d/0000sources.list
# Where the unit forbids it, this bit is lost, and with it the file.
test -u root/usr/bin/passwd
PROBE
chmod 0755 /usr/local/bin/probe
sed -e 's|^ExecStart=.*|ExecStart=/usr/local/bin/probe|' -e 's|^Type=.*|Type=oneshot|' -e 's|^RuntimeDirectory=.*|RuntimeDirectory=probe|' \
  -e '/^WatchdogSec/d;/^Restart/d;s/^TimeoutStartSec=.*/TimeoutStartSec=8min/' /etc/systemd/system/factoryd.service >/etc/systemd/system/probe.service
systemctl start probe || { journalctl -u probe -n 80 --no-pager; exit 1; }
journalctl -u probe -n 20 --no-pager
# A repository's tests and playbook in the sandbox, and an sshd in the place of their guest: what a build does on this host,
# under the unit's own settings. A whole machine does not end in an hour in here.
cat >/usr/local/bin/steps <<'STEPS'
#!/bin/sh
set -eux
export FACTORYD_BINARY=/usr/bin/factoryd FACTORYD_TEST_MINUTES=7
exec /usr/local/bin/sandbox-tests --test-threads 1 --exact a_playbook_works_on_its_guest_through_the_relay \
  a_test_sees_no_other_build_no_socket_and_no_network_but_its_guest
STEPS
chmod 0755 /usr/local/bin/steps
# That guest is the factory's user itself, who needs a shell for it.
chsh -s /bin/sh factoryd
sed -e 's|^ExecStart=.*|ExecStart=/usr/local/bin/steps|' -e 's|^TimeoutStartSec=.*|TimeoutStartSec=15min|' /etc/systemd/system/probe.service >/etc/systemd/system/steps.service
systemctl start steps || { journalctl -u steps -n 80 --no-pager; exit 1; }
journalctl -u steps -n 20 --no-pager | tee /tmp/steps
grep '2 passed; 0 failed' /tmp/steps
# What the daemon's memory is at rest, unoptimised.
grep VmRSS "/proc/$(systemctl show -P MainPID factoryd)/status"
began=$SECONDS
systemctl stop factoryd
test $((SECONDS - began)) -lt 60
test "$(systemctl show -P Result factoryd)" = success
test ! -e /run/factoryd/factoryd.sock
systemctl start factoryd
as marie -- factoryd builds | grep 'failed    #1 '
echo the unit works
"#;

#[test]
fn the_unit_runs_under_systemd_with_its_sandbox() {
    let _alone = alone();
    let began = Instant::now();
    let factory = factory_with_bases();
    let author = Author::new(&[]);
    author.write("os/host/build-vars.yml", "bundle:\n  name: host\n");
    author.write("os/host/check.sh", UNDER_SYSTEMD);
    let unit = author.path().join("os/host/unit");
    std::fs::create_dir_all(&unit).expect("a directory");
    for file in
        ["systemd/factoryd.service", "systemd/factoryd.sysusers", "systemd/factoryd.tmpfiles", "config.example.toml"]
    {
        let from = Path::new(HERE).join(file);
        std::fs::copy(&from, unit.join(from.file_name().expect("a name"))).expect("copied");
    }
    for (name, built) in [("factoryd", PathBuf::from(BINARY)), ("sandbox-tests", sandbox_tests())] {
        said(program("strip").arg("-o").arg(author.path().join("os/host").join(name)).arg(built)).ended(0);
    }
    let packages = "packages: [git, bubblewrap, qemu-system-x86, qemu-utils, mmdebstrap, fakechroot, fakeroot, \
                    python3-pytest, ansible-core, openssh-client, ";
    // Room for what the daemon wants to be free before it starts a build.
    let stages = recipe().replace("packages: [", packages).replace("memory: 1GiB", "memory: 1GiB\n      disk: 8GiB");
    assert!(stages.contains(packages) && stages.contains("disk: 8GiB"), "{stages}");
    let pipeline = format!(
        "version: 1\nbundles: [os/host]\nstages:\n{stages}  - provision:\n      steps:\n\
         \x20       - upload: {{ from: factoryd, to: /usr/bin/factoryd, mode: \"0755\" }}\n\
         \x20       - upload: {{ from: sandbox-tests, to: /usr/local/bin/sandbox-tests, mode: \"0755\" }}\n\
         \x20       - upload: {{ from: unit, to: /root/unit }}\n\
         \x20       - script: check.sh\n"
    );
    author.write("pipelines/host.yml", pipeline);
    author.push(&factory, "Run the unit");
    tell(began, "a guest with systemd boots");
    let build = follow(&factory, 1, began);
    let log = factory.tell(["logs", "1"]);
    share_bases(&factory.state().join("bases"), &cache());
    assert!(build["outcome"] == "passed" && log.contains("the unit works"), "{build:#}\n{log}");
}

/// Makes the shared base image where there is none yet, and gives its sum: a small disk has no room for making it, nor for
/// those that other tests keep there too.
fn make_base_once(since: Instant) -> String {
    let kept = sum_of_the_base();
    if let Ok(sum) = std::fs::read_to_string(&kept) {
        return sum;
    }
    let factory = factory_with_bases();
    let author = Author::new(&[]);
    author.write("images/bundle-base/build-vars.yml", "bundle:\n  name: bundle-base\n");
    let stages =
        format!("version: 1\nbundles: [images/bundle-base]\nstages:\n{}  - snapshot: {{ name: base }}\n", recipe());
    author.write("pipelines/bundle.yml", stages);
    author.push(&factory, "Make the base image");
    assert_eq!(follow(&factory, 1, since)["outcome"], "passed");
    share_bases(&factory.state().join("bases"), &cache());
    let base = factory.json(["images"])["images"][0]["base"].clone();
    let sum = text(&base).trim_start_matches("sha256:").to_owned();
    std::fs::write(kept, &sum).expect("written");
    sum
}

/// Where the sum of this repository's base image is kept; another recipe makes another.
fn sum_of_the_base() -> PathBuf {
    let mut hasher = std::hash::DefaultHasher::new();
    std::hash::Hash::hash(&recipe(), &mut hasher);
    cache().join(format!("base-of-{:016x}", std::hash::Hasher::finish(&hasher)))
}

/// A bundle on the base image of this repository, whose only step is a shell command.
fn step(author: &Author, name: &str, command: &str) {
    author.write(&format!("os/{name}/build-vars.yml"), format!("bundle:\n  name: {name}\n"));
    let steps = format!("  - provision:\n      steps:\n        - shell: {command}\n");
    let pipeline = format!(
        "version: 1\nbundles: [os/{name}]\nstages:\n{}      disk: 8GiB\n{steps}  - snapshot: {{ name: {name} }}\n",
        recipe()
    );
    author.write(&format!("pipelines/{name}.yml"), pipeline);
}

#[test]
fn a_guest_that_fills_the_disk_is_ended_and_the_next_floods_its_log() {
    let _alone = alone();
    let began = Instant::now();
    let base = make_base_once(began);
    let mut disk = SmallDisk::new(1536, "[limits]\ndisk_free = \"256MiB\"\nlog = \"1MiB\"\n");
    share_base(&base, &cache(), &disk.file("bases"));
    disk.start();
    let author = Author::new(&[]);
    step(&author, "fill", "\"yes | dd of=/big bs=1M iflag=fullblock\"");
    // A gigabyte takes eight minutes where machines are emulated, and nothing but time changes with it.
    step(&author, "flood", "\"yes $(printf %0999d 0) | head -c 128M; echo the flood is over\"");
    let shown = disk.push(&author, "Fill and flood").ended(0);
    assert!(shown.contains("waits for disk space: it may write 8.0 GiB; of "), "{shown}");
    let filled = follow(&disk.factory, 1, began);
    assert_eq!((&filled["outcome"], &filled["error"]["stage"]), (&"failed".into(), &"provision".into()), "{filled:#}");
    let message = text(&filled["error"]["message"]);
    assert!(message.starts_with("the disk would be full: ") && message.contains("128.0 MiB must be"), "{message}");

    // Its machine is gone, so the other one has room, and its log has its limit.
    let flooded = follow(&disk.factory, 2, began);
    assert_eq!(flooded["outcome"], "passed", "{flooded:#}");
    let log = disk.factory.tell(["logs", "2"]);
    assert!(
        log.len() < 4 << 20 && log.contains(" bytes of the log were dropped"),
        "{}",
        &log[log.len().saturating_sub(2000)..]
    );
    tell(began, &format!("the daemon had at most {} MiB resident", disk.factory.most_resident() >> 10));
    disk.factory.is_well();
}
