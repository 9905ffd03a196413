//! A factory in a scratch directory: its configuration, its daemon, and somebody who pushes to it.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_json::Value;
use tempfile::TempDir;

/// The program under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_factoryd");
/// How long anything that the daemon does by itself may take on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);
/// What makes every build wait: more free disk than there is anywhere.
pub(crate) const WAITING: &str = "[limits]\ndisk_free = \"900TiB\"\n";
/// The one pipeline of most scenarios: its base image has no meaning unless a scenario gives it one.
pub(crate) const PIPELINE: &str = "version: 1
bundles: [images/bundle-*]
stages:
  - boot: { image: \"{{ bundle.img_base }}\" }
  - test:
      steps:
        - shell: systemctl is-system-running --wait
  - snapshot: { name: \"{{ bundle.name }}-{{ build.stamp }}\" }
  - render: { templates: output }
";
/// Most that a daemon may ever have had resident, in KiB.
const MOST_RESIDENT: u64 = 200 * 1024;

/// A daemon's directory, and the daemon while it runs.
pub(crate) struct Factory {
    directory: TempDir,
    daemon: Option<Child>,
    /// Whose the state is and who takes pushes, where that is not who runs the tests.
    owner: Option<(u32, u32)>,
}

/// How a command ended and what it said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) took: Duration,
}

impl Said {
    fn of(output: Output, began: Instant) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is UTF-8");
        let code = output.status.code().expect("no signal ended it");
        Self { code, out: text(output.stdout), err: text(output.stderr), took: began.elapsed() }
    }

    /// Everything that was said, when it ended so.
    pub(crate) fn ended(self, code: i32) -> String {
        assert_eq!(self.code, code, "{self:?}");
        format!("{}{}", self.out, self.err)
    }

    /// What `remote:` lines said.
    pub(crate) fn remote(&self) -> String {
        let lines = self.err.lines().filter_map(|line| line.strip_prefix("remote:"));
        lines.map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(line).trim_end())).collect()
    }
}

impl Factory {
    /// A factory that people push to, started.
    pub(crate) fn new() -> Self {
        Self::with("", "")
    }

    /// With more in the configuration: keys at its top, and tables.
    pub(crate) fn with(top: &str, tables: &str) -> Self {
        let mut factory = Self::stopped(top, tables);
        factory.start();
        factory
    }

    /// Configured and not started.
    pub(crate) fn stopped(top: &str, tables: &str) -> Self {
        let factory = Self { directory: tempfile::tempdir().expect("a directory"), daemon: None, owner: None };
        std::fs::create_dir(factory.path("bases")).expect("a directory");
        factory.configure(top, tables);
        factory
    }

    /// Writes the configuration anew; the next start reads it.
    pub(crate) fn configure(&self, top: &str, tables: &str) {
        let repository = if tables.contains("[[repository]]") { "" } else { RECEIVING };
        let text = format!(
            "state_directory = \"{}\"\nbase_directories = [\"{}\"]\n{top}\n[server]\nsocket = \"{}\"\n\
             [driver.qemu]\nkind = \"qemu\"\naccelerator = \"tcg\"\n{repository}{tables}",
            self.state().display(),
            self.path("bases").display(),
            self.socket().display(),
        );
        std::fs::write(self.config(), text).expect("written");
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.path("config.toml")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.path("state")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("factoryd.sock")
    }

    /// The bare repository that people push to.
    pub(crate) fn repository(&self) -> PathBuf {
        self.state().join("repos/factory.git")
    }

    /// The daemon's process.
    pub(crate) fn pid(&self) -> u32 {
        self.daemon.as_ref().expect("it runs").id()
    }

    /// What a daemon says that does not start.
    pub(crate) fn refused(&self) -> String {
        let mut limited = program("timeout");
        said(limited.args(["20", BINARY, "serve", "--config"]).arg(self.config())).ended(1)
    }

    /// Starts the daemon and waits until it answers.
    pub(crate) fn start(&mut self) {
        self.start_with(&[]);
    }

    /// Starts it with more in its environment.
    pub(crate) fn start_with(&mut self, environment: &[(&str, &OsStr)]) {
        let mut command = program(BINARY);
        command.args([OsStr::new("serve"), "--config".as_ref(), self.config().as_os_str()]);
        command.envs(environment.iter().copied());
        self.start_as(command);
    }

    /// Starts it by a shell command in namespaces of its own, that ends in `exec "$@"`.
    pub(crate) fn start_in(&mut self, namespaces: &[&str], script: &str) {
        let mut command = program("unshare");
        command.args(namespaces).args(["sh", "-euc", script, "sh", BINARY, "serve", "--config"]).arg(self.config());
        self.start_as(command);
    }

    /// Starts it where another process sees the file systems.
    pub(crate) fn start_beside(&mut self, process: u32) {
        let mut command = program("nsenter");
        command.args(["--mount", "--target", &process.to_string(), BINARY, "serve", "--config"]).arg(self.config());
        self.start_as(command);
    }

    /// Starts it as the unit does, as far as that can be had without systemd: an ordinary user without any capability and
    /// without a way to one, its directory the only place to write to, nobody else's `/tmp`, homes and processes to see.
    /// Who runs the tests as an ordinary user has that user's daemon instead.
    pub(crate) fn start_as_service(&mut self) {
        if !rustix::process::geteuid().is_root() {
            return self.start();
        }
        let (user, group) = service_user();
        self.owner = Some((user, group));
        let directory = self.directory.path().to_owned();
        // The checkout may lie where that user can't go.
        let binary = self.path("factoryd");
        if !binary.exists() {
            std::fs::copy(BINARY, &binary).expect("copied");
        }
        said(program("chown").args(["-R", &format!("{user}:{group}")]).arg(&directory)).ended(0);
        let drop = format!("--reuid={user} --regid={group} --clear-groups");
        let script = format!(
            "umask 0027; export HOME=$1/state TMPDIR=/tmp; mount --bind $1 /mnt
            for hidden in /tmp /var/tmp; do mount -t tmpfs -o mode=1777 none $hidden; done
            for hidden in /root /home; do mount -t tmpfs -o mode=0755 none $hidden; done
            mkdir -p $1; mount --move /mnt $1; mount -o remount,bind,ro /
            mount -t proc -o hidepid=invisible none /proc; cd /
            exec setpriv --no-new-privs --bounding-set=-all --inh-caps=-all {drop} -- $1/factoryd serve --config $1/config.toml"
        );
        let mut command = program("unshare");
        command.args(["--mount", "sh", "-euc", &script, "sh"]).arg(directory);
        self.start_as(command);
    }

    fn start_as(&mut self, mut serve: Command) {
        let log = std::fs::File::options().create(true).append(true).open(self.path("daemon.log")).expect("a log");
        // It says when it is ready, as it says to systemd.
        let place = self.path("notify");
        drop(std::fs::remove_file(&place));
        let notify = UnixDatagram::bind(&place).expect("a socket");
        std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o666)).expect("changed");
        notify.set_read_timeout(Some(SOON)).expect("a deadline");
        serve.env("NOTIFY_SOCKET", &place).stdout(log.try_clone().expect("a log")).stderr(log);
        self.daemon = Some(serve.spawn().expect("it starts"));
        let mut said = [0; 1024];
        loop {
            let heard = notify.recv(&mut said);
            let length = heard.unwrap_or_else(|error| panic!("the daemon is not ready: {error}:\n{}", self.log()));
            if said[..length].starts_with(b"READY=1") {
                break;
            }
        }
    }

    /// Sends a signal and waits for the end.
    pub(crate) fn end(&mut self, signal: Signal) -> ExitStatus {
        let mut daemon = self.daemon.take().expect("it runs");
        let handle = pidfd_open(pid_of(&daemon), PidfdFlags::empty()).expect("it runs");
        kill_process(pid_of(&daemon), signal).expect("it is ours");
        let soon = Timespec::try_from(SOON).expect("a short time");
        let ended = poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&soon)).expect("polled");
        assert_eq!(ended, 1, "the daemon does not end:\n{}", self.log());
        daemon.wait().expect("it has ended")
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("daemon.log")).unwrap_or_default()
    }

    /// The command line, not yet run.
    pub(crate) fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = program(BINARY);
        command.args(arguments).env("FACTORYD_SOCKET", self.socket());
        command
    }

    /// Runs the command line.
    pub(crate) fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Said {
        said(&mut self.command(arguments))
    }

    /// What a command that must succeed said.
    pub(crate) fn tell<const N: usize>(&self, arguments: [&str; N]) -> String {
        self.run(arguments).ended(0)
    }

    /// The one JSON object that a command printed, whatever its exit code.
    pub(crate) fn json<const N: usize>(&self, arguments: [&str; N]) -> Value {
        let said = self.run(arguments.into_iter().chain(["--json"]));
        serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"))
    }

    /// Waits until something holds of the factory, and gives it.
    pub(crate) fn until<T>(&self, what: &str, look: impl FnMut(&Self) -> Option<T>) -> T {
        self.until_within(SOON, what, look)
    }

    /// The same for what takes longer than most.
    pub(crate) fn until_within<T>(
        &self,
        patience: Duration,
        what: &str,
        mut look: impl FnMut(&Self) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            assert!(Instant::now() < deadline, "not in time: {what}\n{}\n{}", self.tell_any("builds"), self.log());
            pause();
        }
    }

    fn tell_any(&self, command: &str) -> String {
        let said = self.run([command]);
        format!("{}{}", said.out, said.err)
    }

    /// Waits for the end of a build, and gives what `show` says of it.
    pub(crate) fn ended(&self, number: u64) -> Value {
        let number = number.to_string();
        self.until(&format!("#{number} ends"), |factory| {
            // Whoever follows is told of the end.
            let mut follow = program("timeout");
            follow.args([&SOON.as_secs().to_string(), BINARY, "logs", "-f", &number]);
            said(follow.env("FACTORYD_SOCKET", factory.socket()));
            let said = factory.run(["show", &number, "--json"]);
            let build: Value = serde_json::from_str(&said.out).ok()?;
            (build["state"] == "finished").then_some(build)
        })
    }

    /// What a failed build gives as its error: the message, and what to do next.
    pub(crate) fn failed(&self, number: u64) -> (String, String) {
        let build = self.ended(number);
        assert_eq!(build["outcome"], "failed", "{build}");
        (text(&build["error"]["message"]), text(&build["error"]["help"]))
    }

    /// Waits until a bundle has a build, and gives its newest build's number.
    pub(crate) fn build_of(&self, bundle: &str) -> u64 {
        self.until(&format!("a build of {bundle}"), |factory| {
            let said = factory.run(["builds", bundle, "--json"]);
            let builds: Value = serde_json::from_str(&said.out).ok()?;
            builds["builds"][0]["build"].as_u64()
        })
    }

    /// That the daemon is there, well, whole, and was never large.
    pub(crate) fn is_well(&self) {
        let status = self.json(["status"]);
        assert_eq!((&status["healthy"], &status["problems"]), (&true.into(), &Value::Array(Vec::new())), "{status}");
        assert!(self.tell(["verify"]).starts_with("The store is whole"), "verify");
        assert!(!self.log().contains("panicked"), "{}", self.log());
        self.was_small();
    }

    /// That the daemon never took more memory than is promised.
    pub(crate) fn was_small(&self) {
        let most = self.most_resident();
        assert!(most < MOST_RESIDENT, "the daemon had {} MiB resident", most / 1024);
    }

    /// The most that the daemon ever had resident, in KiB.
    pub(crate) fn most_resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux says it");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }
}

impl Drop for Factory {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = kill_process(pid_of(&daemon), Signal::TERM);
            drop(daemon.wait());
        }
    }
}

/// The user that `make install` makes, else who owns nothing.
fn service_user() -> (u32, u32) {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let found = users.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, user, group, ..] = fields[..] else { return None };
        (name == "factoryd").then(|| Some((user.parse().ok()?, group.parse().ok()?)))?
    });
    found.unwrap_or((65_534, 65_534))
}

const RECEIVING: &str = "[[repository]]\nname = \"factory\"\nreceive = true\n";

fn pid_of(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// Between two looks at something that takes its time.
pub(crate) fn pause() {
    pause_for(Duration::from_millis(50));
}

/// Lets time pass where the moment itself is what is tried.
pub(crate) fn pause_for(time: Duration) {
    std::thread::sleep(time);
}

/// A program in an environment that is the same wherever the tests run.
pub(crate) fn program(path: &str) -> Command {
    let mut command = Command::new(path);
    command.env_clear().envs([("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), ("LC_ALL", "C.UTF-8"), ("HOME", "/")]);
    command.envs([("GIT_CONFIG_NOSYSTEM", "1"), ("GIT_CONFIG_GLOBAL", "/dev/null"), ("TZ", "UTC")]);
    command.stdin(Stdio::null());
    command
}

/// Runs a command to its end.
pub(crate) fn said(command: &mut Command) -> Said {
    let began = Instant::now();
    let output =
        command.output().unwrap_or_else(|error| panic!("{command:?} does not start: {error}; run scripts/setup"));
    Said::of(output, began)
}

/// A JSON string.
pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Somebody's work tree.
pub(crate) struct Author {
    directory: TempDir,
}

impl Author {
    /// With the pipeline, and bundles that are based on nothing.
    pub(crate) fn new(bundles: &[&str]) -> Self {
        let author = Self { directory: tempfile::tempdir().expect("a directory") };
        author.git(["init", "--quiet", "--initial-branch=main"]);
        author.write("pipelines/bundle.yml", PIPELINE);
        for bundle in bundles {
            author.bundle(bundle, "nothing");
        }
        author
    }

    /// Writes a bundle with a base image's name.
    pub(crate) fn bundle(&self, name: &str, base: &str) {
        self.write(&format!("images/{name}/build-vars.yml"), format!("bundle:\n  name: {name}\n  img_base: {base}\n"));
        self.write(&format!("images/{name}/output/stack.yaml.j2"), "image: {{ result_img_id }}\n");
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().expect("below the work tree")).expect("a directory");
        std::fs::write(path, text).expect("written");
    }

    /// git in the work tree, not yet run.
    pub(crate) fn git_command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = program("git");
        command.current_dir(self.path()).args(["-c", "user.name=marie", "-c", "user.email=marie@localhost"]);
        command.args(arguments);
        command
    }

    /// What git printed; it must succeed.
    pub(crate) fn git<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> String {
        let said = said(&mut self.git_command(arguments));
        assert_eq!(said.code, 0, "{said:?}");
        said.out
    }

    pub(crate) fn commit(&self, message: &str) {
        self.git(["add", "--all"]);
        self.git(["commit", "--quiet", "--allow-empty", "--message", message]);
    }

    /// Pushes HEAD, and says what git said, whether it was taken or not.
    pub(crate) fn try_push(&self, factory: &Factory, branch: &str) -> Said {
        let to = factory.repository();
        let refspec = format!("HEAD:refs/heads/{branch}");
        let mut push = self.git_command(["push", "--force"]);
        // As over ssh: who takes the push is the owner of the repository.
        if let Some((user, group)) = factory.owner {
            push.arg(format!("--receive-pack=setpriv --reuid={user} --regid={group} --clear-groups git-receive-pack"));
        }
        said(push.arg(to).arg(refspec))
    }

    /// Commits all and pushes it; gives what the push showed.
    pub(crate) fn push(&self, factory: &Factory, message: &str) -> String {
        self.commit(message);
        let said = self.try_push(factory, "main");
        assert_eq!(said.code, 0, "{said:?}");
        said.remote()
    }
}
