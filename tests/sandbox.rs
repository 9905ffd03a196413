//! Programs of a repository on the factory host: what they can do, and above all what they can't.
//!
//! Everything is real: bubblewrap, ansible-playbook, pytest, and an sshd on loopback in the guest's place. Runs as root
//! and as an ordinary user. Tests meet programs under way through a port of the guest, never by waiting a while.

#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use factoryd::domain::id::BuildNo;
use factoryd::domain::path::RepoPath;
use factoryd::domain::pipeline::{Network, Play};
use factoryd::engine::junit::{self, Outcome};
use factoryd::engine::ports::{
    Access, Exit, Host, HostEnd, HostJob, HostProgram, LineSink, Lines, PortError, PortErrorKind, Secret, Wait,
};
use factoryd::machine::host::SandboxedHost;
use factoryd::machine::sandbox::Settings;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const CANARY: &str = "canary-4711";
const BUNDLE: &str = "images/bundle-x";
/// Where the program lies, where that is not where it was built: `tests/system.rs` runs some of this in a guest.
const ELSEWHERE: &str = "FACTORYD_BINARY";

#[derive(Default)]
struct Heard {
    lines: Mutex<Vec<String>>,
    more: tokio::sync::Notify,
}

impl LineSink for Heard {
    fn line(&self, line: &[u8]) {
        self.lines.lock().unwrap().push(String::from_utf8_lossy(line).into_owned());
        self.more.notify_one();
    }
}

impl Heard {
    fn text(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    async fn until(&self, wanted: &str) {
        tokio::time::timeout(Duration::from_secs(60), async {
            while !self.text().contains(wanted) {
                self.more.notified().await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("`{wanted}` was not said: {}", self.text()));
    }
}

/// A factory host with one bundle's checkout, a guest, and secrets of its own that nothing inside may see.
struct Factory {
    place: tempfile::TempDir,
    settings: Settings,
    access: Access,
    /// The guest's port 80: programs under way wait here.
    meeting: TcpListener,
    heard: Arc<Heard>,
}

impl Factory {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        fs::create_dir_all(at("checkout").join(BUNDLE)).unwrap();
        fs::create_dir_all(at("state/builds/6")).unwrap();
        fs::write(at("state/builds/6/log"), CANARY).unwrap();
        fs::write(at("canary"), CANARY).unwrap();
        for key in ["host_key", "key"] {
            let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(at(key)).status();
            assert!(made.expect("ssh-keygen is not installed: run scripts/setup").success());
        }
        let host_key = fs::read_to_string(at("host_key.pub")).unwrap();
        let meeting = TcpListener::bind("127.0.0.1:0").unwrap();
        let access = Access {
            host: "127.0.0.1".to_owned(),
            port: guest(place.path()),
            user: user(),
            key: at("key"),
            host_key: host_key.split_whitespace().take(2).collect::<Vec<_>>().join(" "),
            ports: vec![(80, meeting.local_addr().unwrap().port())],
        };
        let settings = Settings::new(&at("state"), binary());
        Self { place, settings, access, meeting, heard: Arc::default() }
    }

    fn host(&self) -> SandboxedHost {
        SandboxedHost::new(self.settings.clone())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// Writes a file of the bundle, with the test's own paths in the place of `@canary@` and `@state@`.
    fn file(&self, name: &str, text: &str) -> &Self {
        let path = self.path("checkout").join(BUNDLE).join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let text = text.replace("@canary@", self.path("canary").to_str().unwrap());
        fs::write(path, text.replace("@state@", self.path("state").to_str().unwrap())).unwrap();
        self
    }

    fn pytest(&self, text: &str) -> HostJob {
        self.file("tests/test_it.py", text);
        let path = RepoPath::new(format!("{BUNDLE}/tests")).unwrap();
        self.job(HostProgram::Pytest { path, args: vec!["-sq".to_owned()], report: "reports/it.xml".to_owned() })
    }

    fn ansible(&self, text: &str) -> HostJob {
        self.file("ansible/play.yml", text);
        let playbook = RepoPath::new(format!("{BUNDLE}/ansible/play.yml")).unwrap();
        self.job(HostProgram::Ansible { playbook, extra_arguments: Vec::new(), play: Play::default() })
    }

    fn job(&self, program: HostProgram) -> HostJob {
        HostJob {
            build: BuildNo(7),
            program,
            checkout: self.path("checkout"),
            bundle: RepoPath::new(BUNDLE).unwrap(),
            env: vec![("FACTORYD_IMAGE_ID".to_owned(), "image-1".to_owned())],
            secrets: Vec::new(),
            network: Network::Guest,
            access: self.access.clone(),
            collect: vec!["reports/*".to_owned()],
            collect_into: self.path("kept"),
        }
    }

    fn lines(&self) -> Lines {
        let heard: Arc<Heard> = Arc::clone(&self.heard);
        heard
    }

    async fn run(&self, job: &HostJob) -> Result<HostEnd, PortError> {
        let ended = self.host().run(job, &self.lines(), &patience()).await;
        assert_eq!(self.left(), 0, "nothing is left in the scratch directory");
        ended
    }

    /// Runs a job whose tests all pass.
    async fn passes(&self, job: &HostJob) -> HostEnd {
        let end = self.run(job).await.unwrap();
        assert_eq!(end.exit, Exit::Code(0), "{}", self.heard.text());
        end
    }

    /// What is left in the scratch directory.
    fn left(&self) -> usize {
        fs::read_dir(self.path("state/scratch")).map_or(0, Iterator::count)
    }

    /// Waits until the program inside connects to its guest's port 80.
    async fn meet(&self) -> TcpStream {
        let listener = self.meeting.try_clone().unwrap();
        tokio::task::spawn_blocking(move || listener.accept().unwrap().0).await.unwrap()
    }
}

/// A guest: each connection is served by an sshd of its own, as inetd would. Gives its port.
fn guest(place: &Path) -> u16 {
    let sshd = "/usr/sbin/sshd";
    assert!(Path::new(sshd).exists(), "sshd is not installed: run scripts/setup");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let configuration = place.join("sshd_config");
    let path = place.display();
    let text = format!(
        "HostKey {path}/host_key\nAuthorizedKeysFile {path}/key.pub\nStrictModes no\nUsePAM no\nPidFile none\n\
         PermitRootLogin prohibit-password\nPasswordAuthentication no\nLogLevel ERROR\n\
         Subsystem sftp internal-sftp\n"
    );
    fs::write(&configuration, text).unwrap();
    if user() == "root" {
        fs::create_dir_all("/run/sshd").unwrap();
    }
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let (input, output) = (OwnedFd::from(connection.try_clone().unwrap()), OwnedFd::from(connection));
            let mut server = Command::new(sshd);
            server.arg("-ie").arg("-f").arg(&configuration).stdin(input).stdout(output).stderr(Stdio::null());
            let mut child = server.spawn().unwrap();
            std::thread::spawn(move || child.wait());
        }
    });
    port
}

fn binary() -> PathBuf {
    std::env::var_os(ELSEWHERE).map_or_else(|| env!("CARGO_BIN_EXE_factoryd").into(), PathBuf::from)
}

fn user() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// How long a job may take; where this host is emulated itself, whoever runs the tests says so.
fn patience() -> Wait {
    let said = std::env::var("FACTORYD_TEST_MINUTES").ok().and_then(|text| text.parse().ok());
    minutes(said.unwrap_or(2))
}

fn minutes(minutes: u64) -> Wait {
    Wait { cancel: CancellationToken::new(), deadline: Instant::now() + Duration::from_secs(60 * minutes) }
}

/// Real user ids of the processes of this host whose command line holds a text.
fn uids_of(text: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&command).contains(text) {
            let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
            found.extend(line.split_whitespace().next().and_then(|uid| uid.parse::<u32>().ok()));
        }
    }
    found
}

/// A pytest that meets the test at port 80 and then waits for a byte; a text before stands at its beginning.
fn meets(before: &str) -> String {
    format!(
        "import os, signal, socket, subprocess, sys, time\n\
         def test_it():\n    \
             {before}\n    \
             with socket.create_connection(('127.0.0.1', int(os.environ['FACTORYD_PORT_80']))) as guest:\n        \
                 assert guest.recv(1) == b'g'\n"
    )
}

#[tokio::test]
async fn the_sandbox_says_that_it_works_and_which_tools_count() {
    let factory = Factory::new();
    let host = factory.host();
    let health = host.health().await.unwrap();
    assert!(health.starts_with("sandbox works (bubblewrap 0."), "{health}");
    assert_eq!(factory.left(), 0);
    let job = factory.pytest("");
    let names = |versions: Vec<(String, String)>| versions.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names(host.versions(&job.program).await.unwrap()), ["pytest", "python"]);
    let job = factory.ansible("");
    assert_eq!(names(host.versions(&job.program).await.unwrap()), ["ansible-core", "python", "jinja2"]);
    assert_eq!(names(host.versions(&job.program).await.unwrap()), ["ansible-core", "python", "jinja2"]);
}

#[tokio::test]
async fn a_playbook_works_on_its_guest_through_the_relay() {
    let factory = Factory::new();
    let target = factory.path("made-on-the-guest");
    let job = factory.ansible(&format!(
        "- hosts: local\n  gather_facts: false\n  tasks:\n  - copy: {{content: hello, dest: {}}}\n  \
         - command: echo on the guest\n    register: said\n  - debug: {{var: said.stdout}}\n",
        target.display()
    ));
    factory.passes(&job).await;
    assert_eq!(fs::read_to_string(target).unwrap(), "hello");
    let text = factory.heard.text();
    assert!(text.contains("\"said.stdout\": \"on the guest\""), "{text}");
    assert!(text.contains("local                      : ok=3    changed=2"), "{text}");
    assert!(!text.contains('\x1b') && !text.contains("WARNING"), "{text}");
}

/// A guest need not compile what Ansible sends; a module of the repository's own is sent in the same way.
#[tokio::test]
async fn modules_reach_the_guest_compiled() {
    let factory = Factory::new();
    factory.file(
        "ansible/library/whence.py",
        "from ansible.module_utils import basic\nbasic.AnsibleModule({}).exit_json(kinds=[path.rsplit('.', 1)[1] for path in \
         (basic.__file__, __file__)])\n",
    );
    let job = factory.ansible(
        "- hosts: local\n  gather_facts: false\n  tasks:\n  - whence:\n    register: came\n  - debug: {msg: \"as {{ \
         came.kinds | join(' and ') }}\"}\n",
    );
    factory.passes(&job).await;
    assert!(factory.heard.text().contains("as pyc and pyc"), "{}", factory.heard.text());
}

/// What a packer template says of inventory, user and surroundings holds for the real Ansible.
#[tokio::test]
async fn a_playbook_is_run_as_its_packer_template_says() {
    let factory = Factory::new();
    let play = "- hosts: web\n  gather_facts: false\n  tasks:\n  - raw: id -un\n    register: me\n  - debug:\n      msg: >-\n        \
                {{ inventory_hostname }} as {{ ansible_user }}, in truth {{ me.stdout | trim }}, {{ groups['none'] | length }} in none,\n        \
                by {{ packer_builder_type }} {{ packer_build_name }}, {{ beside | default('-') }}, {{ mark }}\n";
    let mut job = factory.ansible(play);
    fs::write(factory.path("checkout/images/mark.yml"), "mark: in images\n").unwrap();
    factory.file("stock/group_vars/web.yml", "beside: from group_vars\n");
    factory.file("own/hosts", "[web]\nother ansible_host=192.0.2.1\n[none]\n");
    let said = Play {
        host: "guest".to_owned(),
        user: Some("jenkins".to_owned()),
        groups: vec!["web".to_owned()],
        empty_groups: vec!["none".to_owned()],
        ssh_arguments: "-o ForwardAgent=no".to_owned(),
        variables: vec![
            ("packer_build_name".to_owned(), "a \"b\"".to_owned()),
            ("packer_builder_type".to_owned(), "openstack".to_owned()),
        ],
        directory: RepoPath::new("images"),
        ..Play::default()
    };
    let put = |job: &mut HostJob, said: Play| {
        let HostProgram::Ansible { play, extra_arguments, .. } = &mut job.program else { unreachable!() };
        *extra_arguments = vec!["-e".to_owned(), "@mark.yml".to_owned()];
        *play = said;
    };
    job.env.push(("ANSIBLE_SSH_ARGS".to_owned(), "'-o Compression=no'".to_owned()));
    put(&mut job, said.clone());
    factory.passes(&job).await;
    let me = user();
    let told = format!("guest as jenkins, in truth {me}, 0 in none, by openstack a \\\"b\\\", -, in images");
    assert!(factory.heard.text().contains(&told), "{}", factory.heard.text());

    let stock = RepoPath::new(format!("{BUNDLE}/stock"));
    put(&mut job, Play { inventory_directory: stock, user: None, ..said.clone() });
    factory.passes(&job).await;
    let told = format!("guest as {me}, in truth {me}, 0 in none, by openstack a \\\"b\\\", from group_vars, in images");
    assert!(factory.heard.text().contains(&told), "{}", factory.heard.text());

    // Whatever an inventory says of addresses, its hosts are the guest.
    let own = RepoPath::new(format!("{BUNDLE}/own/hosts"));
    put(&mut job, Play { inventory: own, user: None, ..said });
    factory.passes(&job).await;
    assert!(
        factory.heard.text().contains(&format!("other as {me}, in truth {me}, 0 in none")),
        "{}",
        factory.heard.text()
    );
}

/// A repository brings its `ansible.cfg`: roles, callbacks and options are as it says. What must not be otherwise is not,
/// and what it says of ssh comes behind that.
#[tokio::test]
async fn a_repositorys_own_configuration_of_ansible_holds() {
    let factory = Factory::new();
    factory.file(
        "ansible.cfg",
        "[defaults]\nroles_path = shared\ncallback_plugins = ears\ncallbacks_enabled = heard\nstdout_callback = oneline\n\
         hash_behaviour = merge\nlocal_tmp = /nowhere\nhost_key_checking = False\nprivate_key_file = /nowhere\n\
         [ssh_connection]\nssh_args = -o SendEnv=MARK -o StrictHostKeyChecking=no\npipelining = False\n",
    );
    factory.file(
        "shared/web/tasks/main.yml",
        "- debug: {msg: \"a role of the repository, {{ both | dict2items | length }} merged\"}\n",
    );
    factory.file("shared/web/defaults/main.yml", "both: {one: 1}\n");
    let ear = "from ansible.plugins.callback import CallbackBase\n\n\nclass CallbackModule(CallbackBase):\n    CALLBACK_NAME = 'heard'\n\n    \
               def v2_playbook_on_start(self, playbook):\n        self._display.display('a callback of the repository')\n";
    factory.file("ears/heard.py", ear);
    let play = "- hosts: local\n  gather_facts: false\n  vars: {both: {two: 2}}\n  roles: [web]\n  tasks:\n  - raw: echo reached\n";
    let job = factory.ansible(play);
    factory.passes(&job).await;
    let text = factory.heard.text();
    for told in
        ["a role of the repository, 2 merged", "a callback of the repository", "local | CHANGED | rc=0 | (stdout)"]
    {
        assert!(text.contains(told), "{told}: {text}");
    }

    // A step's own environment goes before the file.
    let mut job = job;
    job.env.push(("ANSIBLE_STDOUT_CALLBACK".to_owned(), "minimal".to_owned()));
    factory.passes(&job).await;
    assert!(factory.heard.text().contains("local | CHANGED | rc=0 >>"), "{}", factory.heard.text());

    let mut factory = factory;
    let other = fs::read_to_string(factory.path("key.pub")).unwrap();
    factory.access.host_key = other.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    let refused = factory.run(&factory.ansible(play)).await.unwrap();
    assert_eq!(refused.exit, Exit::Code(4), "another guest is not talked to, whatever the repository says");
}

#[tokio::test]
async fn a_guest_with_another_host_key_is_not_talked_to() {
    let mut factory = Factory::new();
    let other = fs::read_to_string(factory.path("key.pub")).unwrap();
    factory.access.host_key = other.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    let job = factory.ansible("- hosts: all\n  gather_facts: false\n  tasks:\n  - raw: echo reached\n");
    let end = factory.run(&job).await.unwrap();
    assert_eq!(end.exit, Exit::Code(4));
    assert!(factory.heard.text().contains("Host key verification failed"), "{}", factory.heard.text());
}

#[tokio::test]
async fn arguments_that_replace_the_guest_are_refused() {
    let factory = Factory::new();
    let mut job = factory.ansible("- hosts: all\n");
    let HostProgram::Ansible { extra_arguments, .. } = &mut job.program else { unreachable!() };
    extra_arguments.push("--inventory=localhost,".to_owned());
    let error = factory.run(&job).await.unwrap_err();
    assert_eq!(error.kind, PortErrorKind::Refused);
    assert!(error.message.contains("`--inventory=localhost,` is refused"), "{error}");
}

#[tokio::test]
async fn a_playbook_that_runs_on_the_host_itself_finds_nothing_there() {
    let factory = Factory::new();
    let job = factory.ansible(
        "- hosts: localhost\n  connection: local\n  gather_facts: false\n  ignore_errors: true\n  tasks:\n  \
         - command: cat @canary@\n  - command: cat @state@/builds/6/log\n  - shell: echo spoiled > @canary@\n  \
         - command: cat /etc/shadow\n  - command: ls -la /root /home /var /mnt /srv\n\
         - hosts: local\n  gather_facts: false\n  ignore_errors: true\n  tasks:\n  \
         - debug: {msg: \"{{ lookup('pipe', 'cat @canary@') }}\"}\n  \
         - debug: {msg: \"{{ lookup('file', '@canary@') }}\"}\n  \
         - command: cat @canary@\n    delegate_to: localhost\n  \
         - slurp: {src: '@canary@'}\n    delegate_to: localhost\n  \
         - copy: {content: spoiled, dest: '{{ playbook_dir }}/play.yml'}\n    delegate_to: localhost\n  \
         - command: echo all tried\n",
    );
    let playbook = factory.path("checkout").join(BUNDLE).join("ansible/play.yml");
    let written = fs::read(&playbook).unwrap();
    factory.passes(&job).await;
    let text = factory.heard.text();
    assert!(text.contains("local                      : ok=6    changed=3    unreachable=0    failed=0"), "{text}");
    assert!(
        text.contains("ignored=4") && text.contains("ignored=5"),
        "every try but that on its own copy failed: {text}"
    );
    assert!(!text.contains(CANARY) && !text.contains("root:"), "{text}");
    assert_eq!(fs::read_to_string(factory.path("canary")).unwrap(), CANARY);
    assert_eq!(fs::read(playbook).unwrap(), written, "only its own copy was spoiled");
}

#[tokio::test]
async fn a_test_sees_no_other_build_no_socket_and_no_network_but_its_guest() {
    let factory = Factory::new();
    let socket = UnixListener::bind(factory.path("state/factoryd.sock")).unwrap();
    let outside = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = outside.local_addr().unwrap().port();
    let job = factory.pytest(&format!(
        r#"
import os, socket, subprocess, pytest

def refused(address, family=socket.AF_INET):
    with pytest.raises(OSError) as error:
        with socket.socket(family) as it:
            it.settimeout(20)
            it.connect(address)
    assert not isinstance(error.value, TimeoutError)

def test_no_other_build():
    assert not os.path.exists("@state@")
    assert not os.path.exists("@canary@")
    assert os.listdir("/work/src") == ["images"]
    assert not set(os.listdir("/")) & {{"root", "home", "var", "mnt", "srv", "opt", "boot", "sys", "media"}}

def test_no_socket():
    refused("@state@/factoryd.sock", socket.AF_UNIX)

def test_no_network():
    refused(("127.0.0.1", {port}))
    refused(("192.0.2.1", 80))
    refused(("169.254.169.254", 80))
    with open("/proc/net/dev") as devices:
        assert [line.split(":")[0].strip() for line in devices][2:] == ["lo"]

def test_its_guest_answers():
    with socket.create_connection((os.environ["FACTORYD_HOST"], int(os.environ["FACTORYD_PORT"]))) as guest:
        assert guest.recv(4) == b"SSH-"

def test_no_other_process():
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    assert len(pids) < 6

def test_no_rights():
    assert os.getuid() != 0
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    assert int(status["CapEff"], 16) == 0 and int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"].strip() == "1"
    assert subprocess.run(["unshare", "--user", "true"], capture_output=True).returncode != 0
    for path in ["/usr/x", "/etc/x", "/x", "/dev/x", "/run/factoryd/x"]:
        with pytest.raises(OSError):
            open(path, "w")
"#
    ));
    let end = factory.passes(&job).await;
    assert_eq!(end.collected, [Path::new("reports/it.xml")]);
    let mut reports = junit::Reports::default();
    reports.read(&fs::read(factory.path("kept/reports/it.xml")).unwrap()).unwrap();
    let cases = reports.cases;
    assert_eq!(cases.len(), 6);
    assert!(cases.iter().all(|case| case.outcome == Outcome::Passed), "{cases:?}");
    drop(socket);
}

#[tokio::test]
async fn with_network_none_not_even_the_guest_is_reached_and_with_full_the_host_is() {
    let factory = Factory::new();
    let outside = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = outside.local_addr().unwrap().port();
    let mut job = factory.pytest(&format!(
        "import os, socket\n\ndef reached(port):\n    with socket.socket() as it:\n        \
         return it.connect_ex(('127.0.0.1', int(port))) == 0\n\n\
         def test_it():\n    full = os.environ['WANTED'] == 'full'\n    \
         assert reached(os.environ['FACTORYD_PORT']) == full\n    assert reached({port}) == full\n"
    ));
    job.network = Network::None;
    job.env.push(("WANTED".to_owned(), "none".to_owned()));
    factory.passes(&job).await;
    job.network = Network::Full;
    job.env.push(("WANTED".to_owned(), "full".to_owned()));
    factory.passes(&job).await;
}

#[tokio::test]
async fn a_program_is_told_what_its_step_names_and_nothing_else() {
    let factory = Factory::new();
    let show = "import os\n\ndef test_it():\n    print('names', *sorted(os.environ))\n    \
                print('secret', os.environ.get('TOKEN'), 'preload', os.environ.get('LD_PRELOAD'))\n    \
                print('key', os.stat(os.environ['FACTORYD_KEY']).st_mode & 0o777)\n";
    let mut job = factory.pytest(show);
    factory.passes(&job).await;
    let names = "names FACTORYD_HOST FACTORYD_IMAGE_ID FACTORYD_KEY FACTORYD_PORT FACTORYD_PORT_80 FACTORYD_USER HOME LANG \
                 LOGNAME PATH PYTEST_CURRENT_TEST PYTHONDONTWRITEBYTECODE PYTHONUNBUFFERED TMPDIR USER";
    let text = factory.heard.text();
    assert!(text.contains(names) && text.contains("secret None") && text.contains("key 384"), "{text}");

    // A variable that changes how programs are loaded reaches only the program, never what still runs outside.
    job.secrets.push(("TOKEN".to_owned(), Secret("s3cret".to_owned())));
    job.env.push(("LD_PRELOAD".to_owned(), "/work/src/evil.so".to_owned()));
    factory.passes(&job).await;
    let text = factory.heard.text();
    assert!(text.contains("secret s3cret preload /work/src/evil.so"), "{text}");
}

#[tokio::test]
async fn the_host_sees_an_ordinary_user_and_no_secret() {
    let factory = Factory::new();
    let mut job = factory.pytest(&meets("subprocess.Popen(['sleep', '47110815'])"));
    job.secrets.push(("TOKEN".to_owned(), Secret("s3cret-815".to_owned())));
    let (host, lines, wait) = (factory.host(), factory.lines(), minutes(2));
    let (end, ()) = tokio::join!(host.run(&job, &lines, &wait), async {
        let mut inside = factory.meet().await;
        let uids = uids_of("47110815");
        assert_eq!(uids.len(), 1);
        assert!(uids.iter().chain(&uids_of("sandbox-init")).all(|uid| *uid != 0), "{uids:?}");
        assert_eq!(uids_of("s3cret-815"), [] as [u32; 0]);
        inside.write_all(b"g").unwrap();
    });
    assert_eq!(end.unwrap().exit, Exit::Code(0), "{}", factory.heard.text());
    assert_eq!(uids_of("47110815"), [] as [u32; 0], "what a program started ends with it");
}

#[tokio::test]
async fn lines_arrive_while_the_program_runs() {
    let factory = Factory::new();
    let job = factory.pytest(&meets("print('first line')"));
    let (host, lines, wait) = (factory.host(), factory.lines(), minutes(2));
    let (end, ()) = tokio::join!(host.run(&job, &lines, &wait), async {
        factory.heard.until("first line").await;
        factory.meet().await.write_all(b"g").unwrap();
    });
    assert_eq!(end.unwrap().exit, Exit::Code(0), "{}", factory.heard.text());
}

#[tokio::test]
async fn reports_that_are_links_are_refused_and_not_read() {
    let factory = Factory::new();
    let job = factory.pytest(
        "import os\n\ndef test_it():\n    os.makedirs('reports')\n    os.symlink('/etc/shadow', 'reports/x.xml')\n    \
         os.symlink('@canary@', 'reports/y.xml')\n    os.mkfifo('reports/pipe.xml')\n    \
         os.mkdir('/work/src/locked', 0)\n",
    );
    let mut end = factory.passes(&job).await;
    end.refused.sort();
    assert_eq!(end.collected, [Path::new("reports/it.xml")]);
    let canary = format!("reports/y.xml is a link to {}", factory.path("canary").display());
    assert_eq!(
        end.refused,
        ["reports/pipe.xml is not a regular file", "reports/x.xml is a link to /etc/shadow", canary.as_str()]
    );
    assert_eq!(fs::read_dir(factory.path("kept/reports")).unwrap().count(), 1);
}

#[tokio::test]
async fn a_fork_bomb_and_large_files_meet_their_limits() {
    let mut factory = Factory::new();
    factory.settings.limits.processes = 64;
    factory.settings.limits.file_size = 1 << 20;
    factory.settings.limits.temporary = 1 << 20;
    let job = factory.pytest(
        "import errno, os, pytest, signal\n\ndef test_forks():\n    count = 0\n    \
         with pytest.raises(BlockingIOError):\n        while count < 10000:\n            \
         if os.fork() == 0:\n                signal.pause()\n            count += 1\n    assert 20 < count < 64\n\n\
         def test_files():\n    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n    \
         with pytest.raises(OSError) as error, open('large', 'wb') as file:\n        file.write(bytes(2 << 20))\n    \
         assert error.value.errno == errno.EFBIG\n\n\
         def test_temporary():\n    with pytest.raises(OSError) as error:\n        for name in 'ab':\n            \
         with open('/tmp/' + name, 'wb') as file:\n                file.write(bytes(900 << 10))\n    \
         assert error.value.errno == errno.ENOSPC\n",
    );
    factory.passes(&job).await;
}

#[tokio::test]
async fn a_memory_hog_is_ended_alone_or_in_company() {
    let mut factory = Factory::new();
    factory.settings.limits.memory = 256 << 20;
    let alone = factory
        .pytest("import pytest\n\ndef test_it():\n    with pytest.raises(MemoryError):\n        bytes(512 << 20)\n");
    factory.passes(&alone).await;
    let company = factory.pytest(
        "import os, signal\n\ndef test_it():\n    for _ in range(4):\n        if os.fork() == 0:\n            \
         hog = b'x' * (100 << 20)\n            signal.pause()\n    signal.pause()\n",
    );
    let error = factory.run(&company).await.unwrap_err();
    assert_eq!(error.kind, PortErrorKind::Failed);
    assert!(error.message.starts_with("pytest-3 used "), "{error}");
    assert!(error.message.ends_with(" MiB of memory, and may use 256 MiB"), "{error}");
}

/// Starts a process that ignores signals, leaves its session and its parent, and can be told by its command line.
const DAEMONISES: &str = "signal.signal(signal.SIGTERM, signal.SIG_IGN); subprocess.Popen(['sh', '-c', \
                          \"trap '' TERM HUP INT; setsid sleep MARK & sleep MARK & wait\"], start_new_session=True)";

#[tokio::test]
async fn a_cancelled_program_is_gone_whatever_it_ignores() {
    let factory = Factory::new();
    let job = factory.pytest(&meets(&DAEMONISES.replace("MARK", "47110816")));
    let (host, lines, wait) = (factory.host(), factory.lines(), minutes(2));
    let (end, ()) = tokio::join!(host.run(&job, &lines, &wait), async {
        let _inside = factory.meet().await;
        wait.cancel.cancel();
    });
    let error = end.unwrap_err();
    assert_eq!((error.kind, error.message.as_str()), (PortErrorKind::Cancelled, "pytest-3 was cancelled"));
    assert_eq!(uids_of("47110816"), [] as [u32; 0]);
    assert_eq!(factory.left(), 0);
}

#[tokio::test]
async fn a_program_that_hangs_ends_at_its_deadline() {
    let factory = Factory::new();
    let job = factory.pytest("import signal\n\ndef test_it():\n    print('hangs')\n    signal.pause()\n");
    let wait = Wait { cancel: CancellationToken::new(), deadline: Instant::now() + Duration::from_secs(3) };
    let error = factory.host().run(&job, &factory.lines(), &wait).await.unwrap_err();
    assert_eq!(error.kind, PortErrorKind::TimedOut);
    assert_eq!(factory.left(), 0);
}

#[tokio::test]
async fn a_dropped_run_is_cleared_by_its_builds_number() {
    let factory = Factory::new();
    let job = factory.pytest(&meets(&DAEMONISES.replace("MARK", "47110817")));
    let (host, lines, wait) = (factory.host(), factory.lines(), minutes(2));
    tokio::select! {
        end = host.run(&job, &lines, &wait) => panic!("it waits for its guest: {end:?}"),
        _inside = factory.meet() => {}
    }
    assert_eq!(host.tagged().await.unwrap(), [BuildNo(0), BuildNo(7)][1..]);
    assert!(host.release(BuildNo(7)).await.unwrap() > 0);
    assert_eq!(host.release(BuildNo(7)).await.unwrap(), 0);
    assert_eq!(uids_of("47110817"), [] as [u32; 0]);
    assert_eq!(host.tagged().await.unwrap(), []);
}

/// Not a scenario of its own: what the next test starts, and kills.
#[tokio::test]
async fn a_daemon_to_be_killed() {
    let Ok(port) = std::env::var("FACTORYD_TEST_MEETING") else { return };
    let mut factory = Factory::new();
    factory.access.ports = vec![(80, port.parse().unwrap())];
    println!("state={}", factory.path("state").display());
    let job = factory.pytest(&meets(&DAEMONISES.replace("MARK", "47110818")));
    drop(factory.run(&job).await);
}

#[tokio::test]
async fn a_killed_daemon_leaves_nothing_that_release_does_not_find() {
    let factory = Factory::new();
    let port = factory.meeting.local_addr().unwrap().port().to_string();
    let mut daemon = Command::new(std::env::current_exe().unwrap());
    daemon.args(["--exact", "--nocapture", "a_daemon_to_be_killed"]).env("FACTORYD_TEST_MEETING", port);
    let mut daemon = daemon.stdout(Stdio::piped()).spawn().unwrap();
    let mut inside = factory.meet().await;
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    // The connection's other end was the relay in the daemon: that it ends says that the daemon is gone.
    assert_eq!(inside.read(&mut [0]).unwrap_or(0), 0);
    let mut said = String::new();
    daemon.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    let state = said.lines().find_map(|line| line.split_once("state=")).unwrap().1;

    let host = SandboxedHost::new(Settings::new(Path::new(state), PathBuf::from(env!("CARGO_BIN_EXE_factoryd"))));
    assert_eq!(host.tagged().await.unwrap(), [BuildNo(7)]);
    assert!(host.release(BuildNo(7)).await.unwrap() > 0);
    assert_eq!(uids_of("47110818"), [] as [u32; 0]);
    assert_eq!(host.tagged().await.unwrap(), []);
    fs::remove_dir_all(Path::new(state).parent().unwrap()).unwrap();
}

#[tokio::test]
async fn without_bubblewrap_programs_are_refused_unless_the_configuration_says_otherwise() {
    let mut factory = Factory::new();
    factory.settings.bwrap = PathBuf::from("/nonexistent/bwrap");
    let job = factory.pytest(&meets(&DAEMONISES.replace("MARK", "47110819")));
    let error = factory.run(&job).await.unwrap_err();
    assert_eq!(error.kind, PortErrorKind::Refused);
    assert_eq!(error.message, "no sandbox for programs of a repository: /nonexistent/bwrap is not installed");
    assert!(error.help.contains("apt-get install bubblewrap"), "{}", error.help);

    factory.settings.allow_without_sandbox = true;
    let host = factory.host();
    let health = host.health().await.unwrap();
    assert_eq!(health, "no sandbox, as the configuration allows: /nonexistent/bwrap is not installed");
    let (lines, wait) = (factory.lines(), minutes(2));
    let (end, ()) = tokio::join!(host.run(&job, &lines, &wait), async {
        let mut inside = factory.meet().await;
        assert!(uids_of("47110819").iter().all(|uid| *uid != 0));
        inside.write_all(b"g").unwrap();
    });
    assert_eq!(end.unwrap().exit, Exit::Code(0), "{}", factory.heard.text());
    assert!(factory.heard.text().contains("runs without a sandbox"), "{}", factory.heard.text());
    assert_eq!(uids_of("47110819"), [] as [u32; 0]);
    assert_eq!(factory.left(), 0);
    let play = factory.ansible("- hosts: local\n  gather_facts: false\n  tasks:\n  - command: 'true'\n");
    factory.passes(&play).await;
}
