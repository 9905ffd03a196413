//! Against a real sshd on loopback, started by each test for itself.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::engine::ports::{LineSink, PortErrorKind};

struct Sshd {
    directory: TempDir,
    address: SocketAddr,
    host_key: String,
    server: Child,
}

impl Sshd {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name).display().to_string();
        for name in ["host", "user"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f", &path(name)])
                .status();
            assert!(made.expect("ssh-keygen is there: run `scripts/setup`").success());
        }
        // The port is free now; between this and sshd's start nothing else here asks for one by number.
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port").local_addr().expect("an address");
        let config = format!(
            "ListenAddress {free}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\nStrictModes no\n\
             PermitRootLogin yes\nMaxStartups 100\nSetEnv HOME={}\n",
            path("host"),
            path("user.pub"),
            // What this host's login shell says of its own accord is none of the tests' business.
            directory.path().display()
        );
        std::fs::write(directory.path().join("config"), config).expect("written");
        // As root, sshd insists on this directory, which only its service makes.
        let _there = std::fs::create_dir_all("/run/sshd");
        let server = Command::new("/usr/sbin/sshd")
            .args(["-D", "-f", &path("config")])
            .stderr(Stdio::null())
            .spawn()
            .expect("sshd is there: run `scripts/setup test`");
        let public = std::fs::read_to_string(path("host.pub")).expect("a key");
        let host_key = public.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
        Self { directory, address: free, host_key, server }
    }

    fn target(&self) -> SshTarget {
        let user = Command::new("id").arg("-un").output().expect("id is part of coreutils").stdout;
        SshTarget {
            address: self.address,
            user: String::from_utf8(user).expect("text").trim().to_owned(),
            key: std::fs::read_to_string(self.directory.path().join("user")).expect("a key"),
            trust: Arc::new(KnownKey(self.host_key.clone())),
            terminal: false,
        }
    }

    async fn session(&self) -> SshSession {
        SshSession::connect(self.target(), &wait(30)).await.expect("a session")
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.server.kill().expect("it is ours");
        self.server.wait().expect("it ended");
    }
}

fn wait(seconds: u64) -> Wait {
    Wait { cancel: CancellationToken::new(), deadline: Instant::now() + Duration::from_secs(seconds) }
}

#[derive(Default)]
struct Kept {
    lines: Mutex<Vec<String>>,
    cancel_at_first: Option<CancellationToken>,
}

impl LineSink for Kept {
    fn line(&self, line: &[u8]) {
        self.lines.lock().expect("no panic").push(String::from_utf8_lossy(line).into_owned());
        if let Some(cancel) = &self.cancel_at_first {
            cancel.cancel();
        }
    }
}

async fn run(session: &SshSession, command: &str) -> (Exit, Vec<String>) {
    let kept = Arc::new(Kept::default());
    let lines: Lines = kept.clone();
    let exit = session.run(command, &[], &lines, &wait(60)).await.expect("it runs");
    let lines = kept.lines.lock().expect("no panic").clone();
    (exit, lines)
}

#[tokio::test]
async fn commands_tell_their_lines_codes_and_signals() {
    let sshd = Sshd::start();
    let session = sshd.session().await;
    assert_eq!(session.host_key(), sshd.host_key);
    let (exit, lines) = run(&session, "echo out; echo \"it's\" >&2; printf 'no end'; exit 7").await;
    assert_eq!((exit, lines), (Exit::Code(7), vec!["out".to_owned(), "it's".to_owned(), "no end".to_owned()]));
    assert_eq!(run(&session, "kill -SEGV $$").await.0, Exit::Signal("SEGV".to_owned()));
    assert_eq!(run(&session, "true").await, (Exit::Code(0), vec![]));

    let kept = Arc::new(Kept::default());
    let lines: Lines = kept.clone();
    let env = [("QUOTED".to_owned(), "a 'b' \"c\" $HOME\nd".to_owned())];
    session.run("printf '%s\\n' \"$QUOTED\"", &env, &lines, &wait(60)).await.expect("it runs");
    assert_eq!(*kept.lines.lock().expect("no panic"), ["a 'b' \"c\" $HOME", "d"]);
}

#[derive(Default)]
struct Counted(AtomicU64);

impl LineSink for Counted {
    fn line(&self, line: &[u8]) {
        self.0.fetch_add(line.len() as u64 + 1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn two_hundred_megabytes_pass_through_without_staying() {
    let sshd = Sshd::start();
    let session = sshd.session().await;
    let before = resident();
    let counted = Arc::new(Counted::default());
    let lines: Lines = counted.clone();
    let print = "head -c 100000000 /dev/zero | tr '\\0' x; echo; yes 0123456789 | head -c 110000000 >&2";
    let exit = session.run(print, &[], &lines, &wait(120)).await.expect("it runs");
    assert_eq!(exit, Exit::Code(0));
    // Pieces of the line without an end count one byte too much each.
    assert_eq!(counted.0.load(Ordering::Relaxed), 210_000_001 + 100_000_000 / (64 * 1024));
    // The other tests of this process grow it meanwhile; the 200 MB themselves would show all the same.
    let grown = resident().saturating_sub(before);
    assert!(grown < 160 << 20, "{} MiB stayed", grown >> 20);
}

fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("statm");
    statm.split_whitespace().nth(1).expect("a number").parse::<u64>().expect("a number") * 4096
}

#[tokio::test]
async fn a_cancelled_command_is_ended_in_the_guest() {
    let sshd = Sshd::start();
    let session = sshd.session().await;
    let mark = uuid::Uuid::new_v4().simple().to_string();
    let cancelled = wait(60);
    let sink = Kept { cancel_at_first: Some(cancelled.cancel.clone()), ..Kept::default() };
    let lines: Lines = Arc::new(sink);
    let endless =
        format!("echo begun; trap '' HUP; sh -c 'sleep 600; : {mark}' & while :; do : {mark}; sleep 0.1; done");
    let began = Instant::now();
    let error = session.run(&endless, &[], &lines, &cancelled).await.expect_err("cancelled");
    assert_eq!(error.kind, PortErrorKind::Cancelled);
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(processes_with(&mark), Vec::<String>::new());
    assert_eq!(run(&session, "echo still here").await.1, ["still here"]);
}

#[tokio::test]
async fn a_command_that_takes_too_long_is_ended_in_the_guest() {
    let sshd = Sshd::start();
    let session = sshd.session().await;
    let mark = uuid::Uuid::new_v4().simple().to_string();
    let lines: Lines = Arc::new(Kept::default());
    let flood = format!("yes {mark}");
    let error = session.run(&flood, &[], &lines, &wait(1)).await.expect_err("too long");
    assert_eq!((error.kind, error.message.starts_with("`yes ")), (PortErrorKind::TimedOut, true));
    assert_eq!(processes_with(&mark), Vec::<String>::new());
}

fn processes_with(mark: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").expect("proc").flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).into_owned()).filter(|line| line.contains(mark)).collect()
}

#[tokio::test]
async fn files_arrive_with_their_modes_and_links() {
    let sshd = Sshd::start();
    let session = sshd.session().await;
    let here = tempfile::tempdir().expect("a directory");
    let from = here.path().join("from");
    std::fs::create_dir_all(from.join("deep/er")).expect("made");
    std::fs::write(from.join("deep/er/run.sh"), "#!/bin/sh\n").expect("written");
    std::fs::set_permissions(from.join("deep/er/run.sh"), PermissionsExt::from_mode(0o755)).expect("changed");
    std::fs::write(from.join("big"), vec![7; 5_000_000]).expect("written");
    std::os::unix::fs::symlink("deep/er", from.join("link")).expect("linked");
    // A link to a directory that is there stays a link, as `/lib` must.
    let to = here.path().join("to");
    std::fs::create_dir_all(to.join("usr-deep")).expect("made");
    std::os::unix::fs::symlink("usr-deep", to.join("deep")).expect("linked");

    session.upload(&from, to.to_str().expect("text"), None, &wait(60)).await.expect("copied");
    assert_eq!(std::fs::read(to.join("big")).expect("there").len(), 5_000_000);
    assert_eq!(std::fs::read_link(to.join("link")).expect("a link").to_str(), Some("deep/er"));
    assert!(to.join("deep").is_symlink());
    let mode = to.join("usr-deep/er/run.sh").metadata().expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o755);

    let one = to.join("new/name.conf");
    session.upload(&from.join("big"), one.to_str().expect("text"), Some(0o600), &wait(60)).await.expect("copied");
    assert_eq!(one.metadata().expect("there").permissions().mode() & 0o777, 0o600);

    let file = to.join("big/inside");
    let error =
        session.upload(&from, file.to_str().expect("text"), None, &wait(60)).await.expect_err("a file is in the way");
    assert!(error.message.contains("can't be copied to"), "{error}");
    let error = session.upload(&here.path().join("none"), "/tmp", None, &wait(60)).await.expect_err("not there");
    assert!(error.message.contains("No such file"), "{error}");
}

#[tokio::test]
async fn a_command_on_a_terminal_sees_one_and_its_lines_stay_as_they_are() {
    let sshd = Sshd::start();
    let target = SshTarget { terminal: true, ..sshd.target() };
    let session = SshSession::connect(target, &wait(30)).await.expect("a session");
    let (exit, lines) = run(&session, "[ -t 0 ] && [ -t 1 ] && tty; printf 'a\\nb\\n'; exit 3").await;
    assert_eq!(exit, Exit::Code(3));
    assert!(lines[0].starts_with("/dev/"), "{lines:?}");
    assert_eq!(lines[1..], ["a", "b"]);
    // Files go another way, where no terminal would change them.
    let here = tempfile::tempdir().expect("a directory");
    let (from, to) = (here.path().join("from"), here.path().join("to"));
    std::fs::write(&from, b"a\r\n\x04\x03b").expect("written");
    session.upload(&from, to.to_str().expect("text"), None, &wait(60)).await.expect("copied");
    assert_eq!(std::fs::read(to).expect("there"), b"a\r\n\x04\x03b");
    let mark = uuid::Uuid::new_v4().simple().to_string();
    let lines: Lines = Arc::new(Kept::default());
    let error = session.run(&format!("sleep 600; : {mark}"), &[], &lines, &wait(1)).await.expect_err("too long");
    assert_eq!(error.kind, PortErrorKind::TimedOut);
    assert_eq!(processes_with(&mark), Vec::<String>::new());
}

#[tokio::test]
async fn a_command_that_closes_its_output_is_waited_for() {
    let sshd = Sshd::start();
    for terminal in [false, true] {
        let session = SshSession::connect(SshTarget { terminal, ..sshd.target() }, &wait(30)).await.expect("a session");
        let (exit, lines) = run(&session, "echo said; exec 0<&- 1>&- 2>&-; sleep 0.5; exit 7").await;
        assert_eq!((exit, lines), (Exit::Code(7), vec!["said".to_owned()]), "terminal: {terminal}");
        let brief =
            session.run("exec 0<&- 1>&- 2>&-; sleep 600", &[], &(Arc::new(Kept::default()) as Lines), &wait(1)).await;
        assert_eq!(brief.map_err(|error| error.kind), Err(PortErrorKind::TimedOut), "terminal: {terminal}");
    }
}

#[tokio::test]
async fn a_wrong_host_key_is_refused_before_the_login() {
    let sshd = Sshd::start();
    let target = SshTarget { trust: Arc::new(KnownKey("ssh-ed25519 AAAA".to_owned())), ..sshd.target() };
    let error = SshSession::connect(target, &wait(30)).await.expect_err("refused");
    assert_eq!(error.kind, PortErrorKind::Refused);
    assert!(error.message.contains(&sshd.host_key) && error.message.contains("ssh-ed25519 AAAA"), "{error}");
}

#[tokio::test]
async fn what_does_not_answer_is_given_up_at_the_deadline() {
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let sshd = Sshd::start();
    let target = SshTarget { address: silent.local_addr().expect("an address"), ..sshd.target() };
    let short = Wait { deadline: Instant::now() + Duration::from_millis(500), ..wait(0) };
    let error = SshSession::connect(target, &short).await.expect_err("silent");
    assert_eq!(error.kind, PortErrorKind::TimedOut);
    assert!(error.message.contains("no SSH banner"), "{error}");

    let key = std::fs::read_to_string(sshd.directory.path().join("host")).expect("a key");
    let stranger = SshTarget { key, ..sshd.target() };
    let error = SshSession::connect(stranger, &wait(1)).await.expect_err("no login");
    assert!(error.message.contains("login as"), "{error}");
    assert!(error.help.contains("`boot.user` must be one that the image has"), "{}", error.help);
}

#[tokio::test]
async fn a_lost_connection_is_an_error_and_the_next_command_connects_again() {
    let sshd = Sshd::start();
    let session = sshd.session().await;
    let lines: Lines = Arc::new(Kept::default());
    // The parent of the shell is the process of sshd that serves this connection.
    let cut = "echo before; kill -KILL $(cut -d' ' -f4 /proc/$$/stat); sleep 600";
    let error = session.run(cut, &[], &lines, &wait(60)).await.expect_err("lost");
    assert_eq!(error.kind, PortErrorKind::Lost);
    assert!(error.message.contains("the connection to the guest was lost during `echo before"), "{error}");
    assert_eq!(run(&session, "echo again").await.1, ["again"]);
}

#[tokio::test]
async fn a_session_that_is_dropped_ends_what_it_runs() {
    let sshd = Sshd::start();
    let session = sshd.session().await;
    let lines: Lines = Arc::new(Kept::default());
    let (command, limit) = ("sleep 600", wait(60));
    let running = session.run(command, &[], &lines, &limit);
    tokio::time::timeout(Duration::from_millis(300), running).await.expect_err("it still runs");
    let began = Instant::now();
    assert_eq!(run(&session, "echo free").await.1, ["free"]);
    assert!(began.elapsed() < Duration::from_secs(10), "the dropped command held the session");
}
