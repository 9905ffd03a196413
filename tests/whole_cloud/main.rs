//! A whole OpenStack with real guests, from nothing: what `make test-openstack` runs, and nothing else does.
//!
//! One test, since a host has room for one such cloud and its machines are emulated where there is no KVM. Root, tens of
//! minutes without KVM.

#[path = "../openstack/caller.rs"]
mod caller;
#[path = "../openstack/real.rs"]
mod real;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use factoryd::domain::id::{BuildNo, Digest, DiskId, ImageId};
use factoryd::domain::pipeline::{HostKey, Placement, Recipe, RecipeContent, RecipeFile};
use factoryd::domain::stack::{StackTemplate, Verdict};
use factoryd::engine::ports::{
    BaseSource, Driver, Exit, ImageOrder, LineSink, Lines, Machine, MachineOrder, PublishedCopy, Wait,
};
use factoryd::machine::openstack::OpenStack;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::caller::{Caller, body};
use crate::real::RealCloud;

/// Long enough for emulated machines on a busy host; nothing waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(1800);

#[tokio::test(flavor = "multi_thread")]
async fn a_build_lives_in_a_real_cloud_and_leaves_an_image_that_does_what_images_must() {
    let world = World::new();
    let caller = Caller::enter(&world.cloud.environment("demo")).await;
    let strangers = Strangers::make(&world, &caller).await;
    let before = strangers.shown(&caller).await;

    let base = world.driver.base(&cloud_image(), &world.lines(), &wait()).await.expect("made and uploaded");
    let sealed = DiskId::new("sealed-1-0123456789abcdef");
    let mut machine = world.boot(1, "provision", &base.disk).await;
    assert_eq!(world.run(&*machine, "cat /etc/hostname").await, "factoryd-1-provision");
    world.run(&*machine, "echo made | sudo -n tee /root/made").await;
    let first_key = machine.access().host_key.clone();
    machine.seal(&sealed, &world.lines(), &wait()).await.expect("sealed");

    // The tests are run on a clone, which is somebody else.
    let mut clone = world.boot(1, "test", &sealed).await;
    assert_eq!(world.run(&*clone, "sudo -n cat /root/made").await, "made");
    assert_ne!(clone.access().host_key, first_key);
    assert_eq!(world.run(&*clone, "systemctl is-system-running --wait").await, "running");
    clone.destroy().await.expect("destroyed");
    let published = world.publish(&sealed).await;
    world.is_whole(&caller, &published).await;
    world.stacks(&published).await;

    // A daemon that dies while a machine boots: the next one finds what it left, and nothing else.
    world.die_while_booting(&caller, &sealed).await;
    let next = OpenStack::new(world.cloud.settings(world.state.path())).expect("the directory can be used");
    assert_eq!(next.tagged().await.expect("a list"), [BuildNo(2)]);
    assert!(next.release(BuildNo(2)).await.expect("released") >= 1);
    for build in [1, 2] {
        assert_eq!(next.release(BuildNo(build)).await.expect("twice is success"), 0);
    }
    assert_eq!(next.tagged().await.expect("a list"), []);

    world.suite(&published);
    next.remove(&published.copy.disk).await.expect("removed");
    next.remove(&base.disk).await.expect("removed");
    assert_eq!(next.disks().await.expect("a list"), []);
    assert_eq!(strangers.shown(&caller).await, before);
}

/// Debian with cloud-init, which takes what a machine is told from the disk that Nova gives it.
fn cloud_image() -> BaseSource {
    let file = |to: &str, text: &str| RecipeFile {
        to: to.to_owned(),
        content: RecipeContent::Text { text: text.to_owned(), mode: 0o644 },
    };
    BaseSource::Recipe(Recipe {
        suite: "bookworm".to_owned(),
        packages: vec!["cloud-init".to_owned()],
        files: vec![file(
            "/etc/cloud/cloud.cfg.d/90-here.cfg",
            "datasource_list: [ConfigDrive, OpenStack, None]\nnetwork: {config: disabled}\n",
        )],
    })
}

fn wait() -> Wait {
    Wait { cancel: CancellationToken::new(), deadline: Instant::now() + PATIENCE }
}

#[derive(Default)]
struct Log(Mutex<Vec<String>>);

impl LineSink for Log {
    fn line(&self, line: &[u8]) {
        self.0.lock().expect("no panic").push(String::from_utf8_lossy(line).into_owned());
    }
}

/// The cloud, the driver and a directory of this host.
struct World {
    driver: OpenStack,
    log: Arc<Log>,
    state: TempDir,
    cloud: RealCloud,
}

impl World {
    fn new() -> Self {
        let state = tempfile::tempdir().expect("a directory");
        let cloud = RealCloud::up(&std::env::temp_dir(), &["all"]);
        let driver = OpenStack::new(cloud.settings(state.path())).expect("the directory can be used");
        Self { driver, log: Arc::default(), state, cloud }
    }

    fn lines(&self) -> Lines {
        self.log.clone()
    }

    fn order(&self, build: u64, role: &str, disk: &DiskId) -> MachineOrder {
        MachineOrder {
            build: BuildNo(build),
            role: role.to_owned(),
            disk: disk.clone(),
            attach: None,
            cpus: 1,
            memory: 512 << 20,
            disk_size: None,
            user: "cloud".to_owned(),
            host_key: HostKey::Verified,
            terminal: false,
            ports: Vec::new(),
            ready_within: PATIENCE,
            console: self.console(build, role),
            placement: Placement::default(),
        }
    }

    fn console(&self, build: u64, role: &str) -> PathBuf {
        self.state.path().join(format!("console-{build}-{role}.log"))
    }

    async fn boot(&self, build: u64, role: &str, disk: &DiskId) -> Box<dyn Machine> {
        let booted = self.driver.boot(&self.order(build, role, disk), &self.lines(), &wait()).await;
        booted.unwrap_or_else(|error| {
            let console = std::fs::read_to_string(self.console(build, role)).unwrap_or_default();
            let last: Vec<&str> = console.lines().rev().take(40).collect();
            panic!("{error}; {}; the console ends with {last:#?}", error.help)
        })
    }

    async fn run(&self, machine: &dyn Machine, command: &str) -> String {
        let log = Arc::new(Log::default());
        let lines: Lines = log.clone();
        let exit = machine.guest().run(command, &[], &lines, &wait()).await.expect("it runs");
        let said = log.0.lock().expect("no panic").join("\n");
        assert_eq!(exit, Exit::Code(0), "{command}: {said}");
        said
    }

    async fn publish(&self, sealed: &DiskId) -> PublishedCopy {
        let order = ImageOrder {
            build: BuildNo(1),
            image: ImageId::new("1b4e28ba-2fa1-41d2-883f-0016d3cca427"),
            name: "web-2026".to_owned(),
            properties: vec![("cw_bundle".to_owned(), "web".to_owned())],
            min_disk: 2,
        };
        let keep = DiskId::new("image-1b4e28ba-2fa1-41d2-883f-0016d3cca427");
        self.driver.publish(sealed, &keep, &order, &self.lines(), &wait()).await.expect("published")
    }

    /// The published image is what Glance says, and its bytes sum to what was told.
    async fn is_whole(&self, caller: &Caller, published: &PublishedCopy) {
        let image = caller.get("image", &format!("/images/{}", published.copy.id)).await;
        let shown = ["name", "status", "cw_bundle"].map(|key| image[key].as_str().unwrap_or("none"));
        assert_eq!(shown, ["web-2026", "active", "web"]);
        assert_eq!((image["min_disk"].as_u64(), image["size"].as_u64()), (Some(2), Some(published.size)));
        let mut bytes = Vec::new();
        let mut reader = self.driver.read(&published.copy.disk).await.expect("it is there");
        reader.read_to_end(&mut bytes).await.expect("read");
        assert_eq!(Digest::of(&bytes), published.sha256);
    }

    /// Heat looks at templates for the image; it finds what is wrong with their shape, and looks at no value.
    async fn stacks(&self, published: &PublishedCopy) {
        let says = async |kind: &str, properties: &str| {
            let text = format!(
                "heat_template_version: 2015-10-15\nresources:\n  web: {{type: {kind}, properties: {{{properties}}}}}\n"
            );
            self.driver.validate(&StackTemplate { text, files: Vec::new() }, &wait()).await
        };
        let image = &published.copy.id;
        assert_eq!(says("OS::Nova::Server", &format!("flavor: no-such, image: {image}")).await, Verdict::Valid);
        for (kind, properties, word) in [
            ("OS::Nova::Server", format!("flavour: m1.tiny, image: {image}"), "flavour"),
            ("OS::Nova::Sever", format!("flavor: m1.tiny, image: {image}"), "OS::Nova::Sever"),
        ] {
            let verdict = says(kind, &properties).await;
            assert!(matches!(&verdict, Verdict::Refused(words) if words.contains(word)), "{verdict:?}");
        }
    }

    /// Asks for a machine and is gone when Nova has it.
    async fn die_while_booting(&self, caller: &Caller, disk: &DiskId) {
        let (order, lines, wait) = (self.order(2, "provision", disk), self.lines(), wait());
        let boot = self.driver.boot(&order, &lines, &wait);
        let made = async {
            let mut pause = tokio::time::interval(Duration::from_millis(500));
            loop {
                pause.tick().await;
                let all = caller.get("compute", "/servers?name=factoryd-2-provision").await;
                if all["servers"].as_array().is_some_and(|all| !all.is_empty()) {
                    return;
                }
            }
        };
        tokio::select! {
            booted = boot => panic!("it was to die before: {:?}", booted.err()),
            () = made => {}
        }
    }

    /// The suite of system images on what was published.
    fn suite(&self, published: &PublishedCopy) {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pytesting_os");
        let mut suite = Command::new("/usr/bin/python3");
        suite.args(["-B", "-m", "pytest", "-v"]).current_dir(directory).envs(self.cloud.environment("demo"));
        for (name, value) in [
            ("NOSE_IMAGE_ID", published.copy.id.as_str()),
            ("NOSE_FLAVOR", "m1.tiny"),
            ("NOSE_NET_ID", &self.network()),
            ("NOSE_SG_ID", "default"),
            ("PYTESTING_OTHER_FLAVOR", "m1.small"),
            ("PYTESTING_USER", "debian"),
            // No mirror is to be reached from here, and no console but the serial one is set up.
            ("PYTESTING_PACKAGE", "none"),
            ("PYTESTING_CONSOLE", "none"),
            ("PYTESTING_PATIENCE", "1800"),
        ] {
            suite.env(name, value);
        }
        let ran = suite.output().expect("python3 is there");
        let said = String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
        println!("{said}");
        assert!(ran.status.success(), "{said}");
    }

    fn network(&self) -> String {
        std::fs::read_to_string(self.state.path().join("network")).expect("noted")
    }
}

/// What other people have in the cloud, called and marked like ours.
struct Strangers {
    paths: Vec<(&'static str, String)>,
}

impl Strangers {
    async fn make(world: &World, caller: &Caller) -> Self {
        let mut paths = Vec::new();
        let network = caller.get("network", "/networks?name=provider").await["networks"][0]["id"].clone();
        let network = network.as_str().expect("an id").to_owned();
        std::fs::write(world.state.path().join("network"), &network).expect("noted");
        let make = async |kind: &'static str, path: &str, name: &str, order: Value| -> Value {
            let answer = caller.send(Method::POST, kind, path, &order).await;
            let status = answer.status();
            let said = body(answer).await;
            assert!(status.is_success(), "{path}: {said}");
            if name.is_empty() { said } else { said[name].clone() }
        };
        let order = json!({ "name": "web-2026", "disk_format": "raw", "container_format": "bare", "tags": ["factoryd"],
            "factoryd_factory": "elsewhere", "factoryd_build": "2" });
        let image = make("image", "/images", "", order).await["id"].as_str().expect("an id").to_owned();
        let upload = caller.request(Method::PUT, "image", &format!("/images/{image}/file"));
        let sent = upload.header("content-type", "application/octet-stream").body(vec![0; 1 << 20]).send().await;
        assert!(sent.expect("an answer").status().is_success());
        paths.push(("image", format!("/images/{image}")));
        let port = json!({ "port": { "network_id": network, "name": "factoryd-2-provision", "description": "factoryd build 2" } });
        let port = make("network", "/ports", "port", port).await["id"].as_str().expect("an id").to_owned();
        paths.push(("network", format!("/ports/{port}")));
        let ip =
            json!({ "floatingip": { "floating_network_id": network, "description": "factoryd-x build 2 provision" } });
        let ip = make("network", "/floatingips", "floatingip", ip).await["id"].as_str().expect("an id").to_owned();
        paths.push(("network", format!("/floatingips/{ip}")));
        let key = std::fs::read_to_string(keygen(&world.state)).expect("made");
        let pair = json!({ "keypair": { "name": "factoryd-2-provision", "public_key": key } });
        let pair = make("compute", "/os-keypairs", "keypair", pair).await;
        assert_eq!(pair["user_id"], caller.user);
        paths.push(("compute", "/os-keypairs/factoryd-2-provision".to_owned()));
        let flavors = caller.get("compute", "/flavors").await;
        let nano = flavors["flavors"].as_array().into_iter().flatten().find(|flavor| flavor["name"] == "m1.nano");
        let order = json!({ "server": { "name": "factoryd-2-provision", "imageRef": image, "flavorRef": nano.expect("it is there")["id"],
            "networks": "none", "tags": ["factoryd"], "metadata": { "factoryd_factory": "elsewhere", "factoryd_build": "2" } } });
        let server = make("compute", "/servers", "server", order).await["id"].as_str().expect("an id").to_owned();
        paths.push(("compute", format!("/servers/{server}")));
        let mut pause = tokio::time::interval(Duration::from_millis(500));
        while caller.server(&server).await["status"] != "ACTIVE" {
            pause.tick().await;
        }
        Self { paths }
    }

    /// Everything as its services show it.
    async fn shown(&self, caller: &Caller) -> BTreeMap<String, Value> {
        let mut all = BTreeMap::new();
        for (kind, path) in &self.paths {
            all.insert(path.clone(), caller.get(kind, path).await);
        }
        all
    }
}

/// The public half of a new key pair.
fn keygen(state: &TempDir) -> PathBuf {
    let path = state.path().join("theirs");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&path).status();
    assert!(made.expect("ssh-keygen is there: run `scripts/setup`").success());
    path.with_extension("pub")
}
