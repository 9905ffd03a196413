//! The embedded driver on the real thing: a base image made from Debian's packages, real QEMU, real SSH.
//!
//! One test does everything, since each machine takes half a minute where there is no KVM. The base image is kept in
//! `$FACTORYD_TEST_CACHE` (else `target/test-cache`), so that only the first run makes it.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use factoryd::domain::id::{BuildNo, DiskId, ImageId};
use factoryd::domain::pipeline::{DiskFormat, HostKey, Placement, Recipe, RecipeContent, RecipeFile};
use factoryd::engine::ports::{
    Base, BaseSource, Driver, Exit, ImageOrder, LineSink, Lines, Machine, MachineOrder, PortErrorKind, Wait,
};
use factoryd::machine::qemu::{AcceleratorChoice, AllowedInside, Qemu, QemuSettings};
use notify::{RecursiveMode, Watcher as _};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Set in the process that plays a daemon which is killed.
const CHILD: &str = "FACTORYD_TEST_KILLED_DAEMON";

#[derive(Default)]
struct Log(Mutex<Vec<String>>);

impl LineSink for Log {
    fn line(&self, line: &[u8]) {
        let text = String::from_utf8_lossy(line).into_owned();
        eprintln!("| {text}");
        self.0.lock().expect("no panic").push(text);
    }
}

impl Log {
    fn text(&self) -> String {
        std::mem::take(&mut *self.0.lock().expect("no panic")).join("\n")
    }
}

fn wait(seconds: u64) -> Wait {
    Wait { cancel: CancellationToken::new(), deadline: Instant::now() + Duration::from_secs(seconds) }
}

/// Whom machines of a root daemon run as.
const NOBODY: (u32, u32) = (65_534, 65_534);

fn is_root() -> bool {
    own_user() == 0
}

fn driver(state: &Path) -> Qemu {
    Qemu::new(QemuSettings {
        name: "qemu".into(),
        state_dir: state.to_owned(),
        accelerator: AcceleratorChoice::Auto,
        private_downloads: AllowedInside::new(|address| address.is_loopback()),
        largest_base: 8 << 30,
        disk_free: 0,
        run_as: is_root().then_some(NOBODY),
    })
    .expect("the state directory can be used")
}

fn recipe() -> BaseSource {
    let text = |to: &str, text: &str| RecipeFile {
        to: to.to_owned(),
        content: RecipeContent::Text { text: text.to_owned(), mode: 0o644 },
    };
    BaseSource::Recipe(Recipe {
        suite: "bookworm".to_owned(),
        packages: Vec::new(),
        files: vec![
            text("/etc/motd", "made from a recipe\n"),
            text("/etc/sysusers.d/cloud.conf", "u cloud 1000 \"Cloud\" /home/cloud /bin/bash\n"),
            text("/etc/tmpfiles.d/cloud.conf", "d /home/cloud 0755 cloud cloud -\n"),
            text("/etc/sudoers.d/cloud", "cloud ALL=(ALL) NOPASSWD:ALL\n"),
            RecipeFile {
                to: "/etc/systemd/system/sysinit.target.wants/sysusers-now.service".to_owned(),
                content: RecipeContent::Link { target: "/etc/systemd/system/sysusers-now.service".to_owned() },
            },
            text(
                "/etc/systemd/system/sysusers-now.service",
                "[Unit]\nDefaultDependencies=no\nAfter=systemd-remount-fs.service\nBefore=systemd-tmpfiles-setup.service\n\
                 [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=systemd-sysusers\n",
            ),
        ],
    })
}

fn order(state: &Path, build: u64, role: &str, disk: &DiskId, user: &str) -> MachineOrder {
    MachineOrder {
        build: BuildNo(build),
        role: role.to_owned(),
        disk: disk.clone(),
        attach: None,
        cpus: 2,
        memory: 1 << 30,
        disk_size: Some(6 << 30),
        user: user.to_owned(),
        host_key: HostKey::Verified,
        terminal: true,
        ports: vec![8080],
        ready_within: Duration::from_secs(240),
        console: state.join(format!("console-{role}.log")),
        placement: Placement::default(),
    }
}

/// The base image of the recipe, kept in the cache and fetched from there by its URL and sum.
async fn base(qemu: &Qemu, lines: &Lines) -> Base {
    let cache = std::env::var_os("FACTORYD_TEST_CACHE")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-cache"), PathBuf::from);
    std::fs::create_dir_all(&cache).expect("a directory");
    let BaseSource::Recipe(made) = recipe() else { unreachable!("it is a recipe") };
    let key = factoryd::domain::id::Digest::of(
        format!("{made:?}{}", include_str!("../src/machine/qemu/rootfs.rs")).as_bytes(),
    );
    let kept = cache.join(format!("base-{}.qcow2", &key.hex()[..16]));
    if !kept.exists() {
        let scratch = tempfile::tempdir_in(&cache).expect("a directory");
        let maker = driver(&scratch.path().canonicalize().expect("a path").join("s"));
        let made = maker.base(&recipe(), lines, &wait(900)).await.expect("a base image from the recipe");
        let again = maker.base(&recipe(), lines, &wait(5)).await.expect("the second time costs nothing");
        assert_eq!(made, again);
        let mut reader = maker.read(&made.disk).await.expect("its bytes");
        let mut file = tokio::fs::File::create(kept.with_extension("part")).await.expect("a file");
        tokio::io::copy(&mut reader, &mut file).await.expect("copied");
        std::fs::rename(kept.with_extension("part"), &kept).expect("renamed");
    }
    let by_path = BaseSource::File { path: kept.clone(), format: DiskFormat::Qcow2 };
    let scratch = tempfile::tempdir_in(&cache).expect("a directory");
    let other = driver(&scratch.path().canonicalize().expect("a path").join("s"));
    let found = other.base(&by_path, lines, &wait(300)).await.expect("a base image by path");
    let (url, asked) = serve(kept);
    let by_url = BaseSource::Download { url, sha256: found.sha256, format: DiskFormat::Qcow2 };
    let fetched = qemu.base(&by_url, lines, &wait(300)).await.expect("a base image by URL");
    assert_eq!((fetched.sha256, fetched.virtual_size), (found.sha256, found.virtual_size));
    assert_eq!(qemu.base(&by_url, lines, &wait(20)).await.expect("the second time"), fetched);
    assert_eq!(asked.load(Ordering::SeqCst), 1, "what is there is not fetched again");
    fetched
}

/// Serves a file over HTTP on loopback; gives its URL, and how often it was asked for.
fn serve(file: PathBuf) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/base.qcow2", listener.local_addr().expect("an address"));
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            count.fetch_add(1, Ordering::SeqCst);
            let mut request = [0; 4096];
            let read = stream.read(&mut request).expect("a request");
            assert!(request[..read].ends_with(b"\r\n\r\n"), "a request is one packet on loopback");
            let mut body = std::fs::File::open(&file).expect("the file");
            let length = body.metadata().expect("its size").len();
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n").expect("sent");
            std::io::copy(&mut body, &mut stream).expect("sent");
        }
    });
    (url, asked)
}

/// Waits until a guest has said something on its console: then QEMU runs.
async fn until_it_speaks(console: &Path) {
    let more = Arc::new(tokio::sync::Notify::new());
    let told = Arc::clone(&more);
    let mut watcher = notify::recommended_watcher(move |_| told.notify_one()).expect("inotify");
    let directory = console.parent().expect("a file in a directory");
    watcher.watch(directory, RecursiveMode::NonRecursive).expect("watched");
    let spoken = async {
        while std::fs::metadata(console).map_or(0, |console| console.len()) == 0 {
            more.notified().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), spoken).await.expect("it speaks");
}

async fn run(machine: &dyn Machine, command: &str, log: &Arc<Log>) -> String {
    let lines: Lines = log.clone();
    log.text();
    let exit = machine.guest().run(command, &[], &lines, &wait(120)).await.expect("it runs");
    assert_eq!(exit, Exit::Code(0), "{command}");
    log.text()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_made_sealed_cloned_published_and_released() {
    let scratch = tempfile::tempdir().expect("a directory");
    let state = scratch.path().canonicalize().expect("a path");
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o711)).expect("others may pass");
    let log = Arc::new(Log::default());
    let lines: Lines = log.clone();
    let qemu = driver(&state.join("s"));
    let base = base(&qemu, &lines).await;
    let settings = qemu.settings().await.expect("settings");
    eprintln!("{settings:?}; {}", qemu.health().await.expect("healthy"));
    assert_eq!(
        settings.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        ["accelerator", "cpu", "machine", "qemu"]
    );

    // Build 1 provisions as a user who is not root, and its last step deletes the key.
    let began = Instant::now();
    let mut machine =
        qemu.boot(&order(&state, 1, "provision", &base.disk, "cloud"), &lines, &wait(300)).await.expect("a machine");
    eprintln!("booted in {:?}", began.elapsed());
    assert_eq!(run(&*machine, "id -un; cat /etc/motd", &log).await, "cloud\nmade from a recipe");
    assert_eq!(qemu.tagged().await.expect("tags"), [BuildNo(1)]);
    assert_eq!(owner_of_qemu(&state.join("s/machines/1")), if is_root() { NOBODY.0 } else { own_user() });
    let grown = run(&*machine, "df --output=size -B1M / | tail -1", &log).await;
    assert!(grown.trim().parse::<u64>().expect("MiB") > 5000, "the root file system did not grow: {grown} MiB");
    upload(&*machine, scratch.path(), &log).await;
    let first = run(&*machine, "cat /etc/machine-id; cat /etc/ssh/ssh_host_ed25519_key.pub", &log).await;
    assert!(first.contains(&machine.access().host_key), "the host key is the one that was given");
    // Its clones show a host key that nobody gave them and nobody printed.
    let own = "sudo ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/own && echo HostKey /etc/ssh/own | \
        sudo tee /etc/ssh/sshd_config.d/20-own.conf > /dev/null";
    run(&*machine, own, &log).await;
    run(&*machine, "printf 'for root only\\n' | sudo tee /etc/proof > /dev/null; rm ~/.ssh/authorized_keys", &log)
        .await;
    let sealed = DiskId::new("sealed-1");
    let kept = machine.seal(&sealed, &lines, &wait(240)).await.expect("sealed");
    assert_eq!(kept.backing, std::slice::from_ref(&base.disk));
    assert!(kept.bytes > 0 && qemu.has(&sealed).await.expect("looked"));
    assert!(qemu.tagged().await.expect("tags").is_empty());

    // Build 2 tests a clone, as root: it is another machine with the same content, and can't change the sealed disk.
    let first_seen = MachineOrder { host_key: HostKey::FirstSeen, ..order(&state, 2, "test", &sealed, "root") };
    let mut clone = qemu.boot(&first_seen, &lines, &wait(300)).await.expect("a clone");
    let own = run(&*clone, "cat /etc/ssh/own.pub", &log).await;
    assert!(own.starts_with(&clone.access().host_key), "from now on the key that was seen is the only one");
    let second = run(&*clone, "cat /etc/machine-id; cat /etc/ssh/ssh_host_ed25519_key.pub", &log).await;
    assert!(first.lines().zip(second.lines()).all(|(first, second)| first != second), "{first}\n{second}");
    // QEMU looks the NoCloud disk's files up only now, as whoever it is by now.
    let seen = run(&*clone, "dd if=/dev/vdb bs=1M count=32 2> /dev/null | grep -ac '#cloud-config'", &log).await;
    assert_eq!(seen, "1");
    assert_eq!(run(&*clone, "cat /etc/proof; ls -A /home/cloud/.ssh", &log).await, "for root only");
    reboots(&*clone, &log).await;
    reaches_its_port(&*clone).await;
    powers_off(&*clone, &log).await;
    clone.destroy().await.expect("destroyed");
    clone.destroy().await.expect("twice is success");

    a_guest_that_never_answers_is_given_up(&qemu, &state, &lines).await;
    a_boot_is_cancelled_at_once(&qemu, &state, &base, &lines).await;
    publishes(&qemu, &sealed, &base, &lines).await;
    a_killed_daemon_leaves_nothing(&state, &qemu, &base).await;
}

async fn upload(machine: &dyn Machine, scratch: &Path, log: &Arc<Log>) {
    let from = scratch.join("files");
    std::fs::create_dir_all(from.join("deep")).expect("a directory");
    std::fs::write(from.join("deep/file"), "content").expect("written");
    std::os::unix::fs::symlink("deep/file", from.join("link")).expect("linked");
    let guest = machine.guest();
    guest.upload(&from, "/opt/new/files", None, &wait(60)).await.expect("a directory where only root may write");
    guest.upload(&from.join("deep/file"), "/etc/one.conf", Some(0o640), &wait(60)).await.expect("a file");
    let seen =
        run(machine, "sudo cat /etc/one.conf; echo; stat -c '%a %U' /etc/one.conf; cat /opt/new/files/link", log).await;
    assert_eq!(seen, "content\n640 root\ncontent");
}

async fn reaches_its_port(machine: &dyn Machine) {
    let (guest, host) = machine.access().ports[0];
    assert_eq!(guest, 8080);
    let serve = "setsid python3 -m http.server 8080 > /dev/null 2>&1 < /dev/null & \
        until python3 -c 'import urllib.request as u; u.urlopen(\"http://127.0.0.1:8080\")' 2> /dev/null; do sleep 0.2; done";
    machine.guest().run(serve, &[], &(Arc::new(Log::default()) as Lines), &wait(60)).await.expect("it serves");
    let page = reqwest::get(format!("http://127.0.0.1:{host}/")).await.expect("an answer");
    assert!(page.status().is_success());
}

async fn reboots(machine: &dyn Machine, log: &Arc<Log>) {
    let (lines, began): (Lines, _) = (log.clone(), Instant::now());
    let before = run(machine, "cat /proc/sys/kernel/random/boot_id", log).await;
    let cut = machine.guest().run("systemctl reboot; sleep 600", &[], &lines, &wait(300)).await;
    assert_eq!(cut.expect_err("the connection is cut").kind, PortErrorKind::Lost);
    let after = machine.guest().run("cat /proc/sys/kernel/random/boot_id", &[], &lines, &wait(240)).await;
    assert_eq!(after.expect("it is back"), Exit::Code(0));
    assert_ne!(before, log.text());
    eprintln!("rebooted in {:?}", began.elapsed());
}

async fn powers_off(machine: &dyn Machine, log: &Arc<Log>) {
    let lines: Lines = log.clone();
    let error =
        machine.guest().run("systemctl poweroff; sleep 600", &[], &lines, &wait(120)).await.expect_err("it is off");
    assert_eq!(error.message, "the guest powered off during a command");
    assert!(error.help.contains("console"), "{}", error.help);
}

async fn a_guest_that_never_answers_is_given_up(qemu: &Qemu, state: &Path, lines: &Lines) {
    let empty = state.join("empty.raw");
    std::fs::write(&empty, vec![0; 1 << 20]).expect("written");
    let source = BaseSource::File { path: empty, format: DiskFormat::Raw };
    let empty = qemu.base(&source, lines, &wait(60)).await.expect("a base image").disk;
    let silent = MachineOrder { ready_within: Duration::from_secs(6), ..order(state, 4, "test", &empty, "root") };
    let error = qemu.boot(&silent, lines, &wait(60)).await.err().expect("it never answers");
    assert_eq!(
        (error.kind, error.message.contains("SSH did not answer in time")),
        (PortErrorKind::TimedOut, true),
        "{error}"
    );
    assert!(error.help.contains("console"), "{}", error.help);

    let small = MachineOrder { disk_size: Some(4096), ..silent };
    let error = qemu.boot(&small, lines, &wait(60)).await.err().expect("refused");
    assert!(error.message.contains("smaller than its base image"), "{error}");
    assert!(qemu.tagged().await.expect("tags").is_empty());
    qemu.remove(&empty).await.expect("removed");
}

async fn a_boot_is_cancelled_at_once(qemu: &Qemu, state: &Path, base: &Base, lines: &Lines) {
    let order = order(state, 5, "cancelled", &base.disk, "root");
    let cancelled = wait(120);
    let cancel = async {
        until_it_speaks(&order.console).await;
        cancelled.cancel.cancel();
        Instant::now()
    };
    let (booted, began) = tokio::join!(qemu.boot(&order, lines, &cancelled), cancel);
    assert_eq!(booted.err().expect("cancelled").kind, PortErrorKind::Cancelled);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(qemu.tagged().await.expect("tags").is_empty());
}

async fn publishes(qemu: &Qemu, sealed: &DiskId, base: &Base, lines: &Lines) {
    let place = DiskId::new("image-1");
    let order = ImageOrder {
        build: BuildNo(3),
        image: ImageId::new("6f6d3d4e-0000-4000-8000-000000000001"),
        name: "debian".to_owned(),
        properties: vec![("os_distro".to_owned(), "debian".to_owned())],
        min_disk: 20,
    };
    let copy = qemu.publish(sealed, &place, &order, lines, &wait(120)).await.expect("published");
    let mut bytes = Vec::new();
    qemu.read(&place).await.expect("its bytes").read_to_end(&mut bytes).await.expect("read");
    assert_eq!(copy.size, bytes.len() as u64);
    assert_eq!(copy.sha256.0, <[u8; 32]>::from(Sha256::digest(&bytes)));
    assert!(copy.size < 220 << 20, "{} bytes are not compact", copy.size);
    qemu.amend(&copy.copy, &ImageOrder { name: "another".to_owned(), ..order.clone() }).await.expect("amended");
    let again = qemu.publish(sealed, &place, &order, lines, &wait(5)).await.expect_err("never written over");
    assert_eq!(again.kind, PortErrorKind::Refused);
    let as_base = BaseSource::Image { disk: place.clone(), sha256: copy.sha256 };
    assert_eq!(qemu.base(&as_base, lines, &wait(20)).await.expect("a base").virtual_size, 6 << 30);
    let disks: Vec<DiskId> = qemu.disks().await.expect("listed").into_iter().map(|(disk, _)| disk).collect();
    assert_eq!(disks, [base.disk.clone(), place.clone(), sealed.clone()]);
    for disk in [&place, &place, sealed] {
        qemu.remove(disk).await.expect("removed");
    }
}

/// Another process boots a machine and is killed: its machine lives on until the build is released.
async fn a_killed_daemon_leaves_nothing(state: &Path, qemu: &Qemu, base: &Base) {
    let console = order(state, 9, "provision", &base.disk, "root").console;
    std::fs::remove_file(&console).expect("that of build 1");
    let mut daemon = std::process::Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "a_daemon_to_be_killed"])
        .env(CHILD, state)
        .env("FACTORYD_TEST_DISK", base.disk.as_str())
        .spawn()
        .expect("started");
    until_it_speaks(&console).await;
    daemon.kill().expect("killed");
    daemon.wait().expect("it ended");
    // Released before anything is asserted, so that a failing test leaves no machine.
    let (outlived, tagged) = (qemu_runs(&state.join("s")), qemu.tagged().await.expect("tags"));
    let released = qemu.release(BuildNo(9)).await.expect("released");
    assert!(outlived, "the machine should outlive its daemon");
    assert_eq!((tagged, released >= 1), (vec![BuildNo(9)], true));
    assert_eq!(qemu.release(BuildNo(9)).await.expect("twice is success"), 0);
    assert!(!qemu_runs(&state.join("s")) && !state.join("s/machines/9").exists());
    assert!(qemu.tagged().await.expect("tags").is_empty());
}

fn qemu_runs(state: &Path) -> bool {
    qemu_of(&state.join("machines/9")).is_some()
}

/// The process whose disk lies below a directory.
fn qemu_of(directory: &Path) -> Option<PathBuf> {
    let needle = format!("{}/provision/disk.qcow2", directory.display());
    let processes = std::fs::read_dir("/proc").expect("proc").flatten().map(|entry| entry.path());
    processes.into_iter().find(|process| {
        let line = std::fs::read(process.join("cmdline")).unwrap_or_default();
        line.starts_with(b"qemu-system") && String::from_utf8_lossy(&line).contains(&needle)
    })
}

/// The user whose rights a machine's process has.
fn owner_of_qemu(directory: &Path) -> u32 {
    let status = std::fs::read_to_string(qemu_of(directory).expect("it runs").join("status")).expect("its status");
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).expect("uids");
    let uids: Vec<u32> = uids.split_whitespace().map(|uid| uid.parse().expect("a number")).collect();
    assert!(uids.iter().all(|uid| *uid == uids[0]), "real, effective, saved: {uids:?}");
    uids[0]
}

fn own_user() -> u32 {
    std::fs::metadata("/proc/self").expect("proc").uid()
}

/// Does nothing unless started by the test above.
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_to_be_killed() {
    let Some(state) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    let disk = DiskId::new(std::env::var("FACTORYD_TEST_DISK").expect("the disk"));
    let lines: Lines = Arc::new(Log::default());
    let qemu = driver(&state.join("s"));
    let booted = qemu.boot(&order(&state, 9, "provision", &disk, "root"), &lines, &wait(600)).await;
    drop(booted);
    std::future::pending::<()>().await;
}
