//! The driver on the fake cloud: the life of a build's machines and images, and what becomes of it when the cloud has a bad
//! day. Whatever happens, nothing of ours is left that is not known, and nobody else's is touched.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use factoryd::domain::id::{BuildNo, Digest, DiskId, ImageId};
use factoryd::domain::image::ImageState;
use factoryd::domain::pipeline::{DiskFormat, HostKey, Placement};
use factoryd::engine::ports::{
    Base, BaseSource, Driver, Exit, ImageOrder, LineSink, Lines, Machine, MachineOrder, PortError, PortErrorKind,
    SealedDisk, Wait,
};
use factoryd::machine::openstack::{Credentials, OpenStack, OpenStackSettings, Pace, Visibility};
use factoryd::machine::qemu::{AcceleratorChoice, AllowedInside, Qemu, QemuSettings};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::fake::faults::{Effect, Fault, Gate, ImageFate, ServerFate};
use crate::fake::{Cloud, Quota, Service, Settings};

/// The cloud's time against the wall's.
const SCALE: u32 = 50;

#[derive(Default)]
struct Log(Mutex<Vec<String>>);

impl LineSink for Log {
    fn line(&self, line: &[u8]) {
        self.0.lock().expect("no panic").push(String::from_utf8_lossy(line).into_owned());
    }
}

/// A cloud, the driver, and a directory of this host.
pub(crate) struct World {
    pub(crate) cloud: Cloud,
    pub(crate) driver: OpenStack,
    strangers: BTreeMap<String, Value>,
    state: TempDir,
    log: Arc<Log>,
}

fn pace() -> Pace {
    let scaled = |seconds: u64| Duration::from_secs(seconds) / SCALE;
    Pace {
        first: scaled(1),
        longest: scaled(30),
        attempts: 6,
        look: scaled(1),
        stuck: scaled(60),
        busy: scaled(120),
        room: scaled(10),
        gone: Duration::from_secs(30),
    }
}

fn maker(state: &Path) -> QemuSettings {
    QemuSettings {
        name: "maker".into(),
        state_dir: state.to_owned(),
        accelerator: AcceleratorChoice::Tcg,
        private_downloads: AllowedInside::new(|address| address.is_loopback()),
        largest_base: 1 << 30,
        disk_free: 0,
        run_as: None,
    }
}

fn driver(cloud: &Cloud, state: &Path, change: impl FnOnce(&mut OpenStackSettings)) -> OpenStack {
    let environment = cloud.environment();
    let variable = |name: &str| environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    let mut settings = OpenStackSettings {
        name: "cloud".into(),
        credentials: Credentials::from_environment(variable).expect("credentials"),
        authorities: None,
        networks: vec!["private".to_owned()],
        floating_network: None,
        security_groups: vec!["default".to_owned()],
        flavor: None,
        availability_zone: None,
        ssh_port: cloud.ssh_port(),
        config_drive: true,
        visibility: Visibility::Private,
        pace: pace(),
        directory: state.join("cloud"),
        maker: maker(state),
    };
    change(&mut settings);
    OpenStack::new(settings).expect("the directory can be used")
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(Settings { scale: SCALE, ..Settings::default() }, |_| {})
    }

    fn with(settings: Settings, change: impl FnOnce(&mut OpenStackSettings)) -> Self {
        let cloud = Cloud::start(settings);
        let state = tempfile::tempdir().expect("a directory");
        let driver = driver(&cloud, state.path(), change);
        let strangers = cloud.strangers();
        Self { cloud, driver, strangers, state, log: Arc::default() }
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
            memory: 1 << 30,
            disk_size: None,
            user: "root".to_owned(),
            host_key: HostKey::Verified,
            terminal: false,
            ports: vec![80],
            ready_within: Duration::from_secs(30),
            console: self.state.path().join(format!("console-{build}-{role}.log")),
            placement: Placement::default(),
        }
    }

    async fn base(&self) -> Base {
        let named = BaseSource::Named("debian-12".to_owned());
        self.driver.base(&named, &self.lines(), &wait()).await.expect("the cloud has it")
    }

    async fn boot(&self, build: u64, role: &str, disk: &DiskId) -> Result<Box<dyn Machine>, PortError> {
        self.driver.boot(&self.order(build, role, disk), &self.lines(), &wait()).await
    }

    async fn run(&self, machine: &dyn Machine, command: &str) -> String {
        let log = Arc::new(Log::default());
        let lines: Lines = log.clone();
        let exit = machine.guest().run(command, &[], &lines, &wait()).await.expect("it runs");
        assert_eq!(exit, Exit::Code(0), "{command}");
        log.0.lock().expect("no panic").join("\n")
    }

    /// A machine from the base that was changed and sealed.
    async fn sealed(&self, build: u64) -> Result<SealedDisk, PortError> {
        let base = self.base().await;
        let mut machine = self.boot(build, "provision", &base.disk).await?;
        self.run(&*machine, "echo made >/root/made").await;
        machine.seal(&sealed_id(build), &self.lines(), &wait()).await
    }

    fn image(&self, build: u64) -> ImageOrder {
        ImageOrder {
            build: BuildNo(build),
            image: ImageId::new("1b4e28ba-2fa1-41d2-883f-0016d3cca427"),
            name: "web-2026".to_owned(),
            properties: vec![("cw_bundle".to_owned(), "web".to_owned()), ("img_os".to_owned(), "debian".to_owned())],
            min_disk: 4,
        }
    }

    /// The build is over: everything of it goes, and the rest stands as it stood.
    async fn over(&self, build: u64) {
        self.driver.release(BuildNo(build)).await.expect("released");
        assert_eq!(self.driver.release(BuildNo(build)).await.expect("twice is success"), 0);
        assert_eq!(self.driver.tagged().await.expect("a list"), []);
        self.untouched();
    }

    pub(crate) fn untouched(&self) {
        assert_eq!(self.cloud.strangers(), self.strangers, "what is others' is as it was");
        assert_eq!(self.cloud.violations(), [""; 0]);
    }

    /// The one image that is ours, as Glance shows it.
    fn only_image(&self) -> Value {
        let ours = self.cloud.ours();
        let ids: Vec<&str> = ours.iter().filter_map(|line| line.strip_prefix("image ")?.split(' ').next()).collect();
        let [id] = ids.as_slice() else { panic!("one image, and not {ours:?}") };
        self.cloud.image(id).expect("it is there")
    }
}

pub(crate) fn wait() -> Wait {
    Wait { cancel: CancellationToken::new(), deadline: Instant::now() + Duration::from_secs(60) }
}

fn sealed_id(build: u64) -> DiskId {
    DiskId::new(format!("sealed-{build}-0123456789abcdef"))
}

fn image_disk() -> DiskId {
    DiskId::new("image-1b4e28ba-2fa1-41d2-883f-0016d3cca427")
}

#[tokio::test]
async fn a_build_ends_in_the_image_that_was_tested() {
    let world = World::new();
    assert!(world.driver.health().await.expect("it answers").starts_with("OpenStack at http://127.0.0.1:"));
    let base = world.base().await;
    assert_eq!(world.base().await, base, "summed once, known again");
    let mut machine = world.boot(7, "provision", &base.disk).await.expect("a machine");
    assert_eq!(machine.access().ports, [(80, 80)]);
    world.run(&*machine, "echo made >/root/made").await;
    let file = world.state.path().join("file");
    std::fs::write(&file, "copied").expect("written");
    machine.guest().upload(&file, "/root/copied", Some(0o600), &wait()).await.expect("copied");
    assert_eq!(world.driver.tagged().await.expect("a list"), [BuildNo(7)]);
    let sealed = machine.seal(&sealed_id(7), &world.lines(), &wait()).await.expect("sealed");
    assert!(sealed.bytes > 0 && sealed.backing.is_empty());
    assert_eq!(world.driver.disks().await.expect("a list"), [(sealed_id(7), sealed.bytes)]);
    let id = world.only_image()["id"].as_str().expect("an id").to_owned();
    assert_eq!(world.cloud.image_file(&id, "root/made").as_deref(), Some("made\n"));
    assert_eq!(world.cloud.image_file(&id, "root/.ssh/authorized_keys"), None, "its identity is gone");

    // A clone of it is tested, and changes nothing.
    let mut clone = world.boot(7, "test", &sealed.disk).await.expect("a clone");
    assert_eq!(world.run(&*clone, "cat /root/made /root/copied").await, "made\ncopied");
    clone.destroy().await.expect("destroyed");
    clone.destroy().await.expect("twice is success");

    let order = world.image(7);
    let published = world.driver.publish(&sealed.disk, &image_disk(), &order, &world.lines(), &wait()).await;
    let published = published.expect("published");
    assert_eq!(published.copy.id, id, "the tested bits are the published bits");
    let mut bytes = Vec::new();
    world.driver.read(&image_disk()).await.expect("opened").read_to_end(&mut bytes).await.expect("read");
    assert_eq!((Digest::of(&bytes), bytes.len() as u64), (published.sha256, published.size));
    let shown = world.only_image();
    assert_eq!(
        (&shown["name"], &shown["min_disk"], &shown["visibility"]),
        (&"web-2026".into(), &4.into(), &"private".into())
    );
    let keys: Vec<&String> = shown
        .as_object()
        .expect("a map")
        .keys()
        .filter(|key| key.starts_with("factoryd") || key.contains("_os") || key.contains("cw"))
        .collect();
    let marks = [
        "cw_bundle",
        "factoryd_build",
        "factoryd_factory",
        "factoryd_image",
        "factoryd_sealed",
        "factoryd_server",
        "factoryd_sha256",
        "img_os",
    ];
    assert_eq!(keys, marks);
    assert!(shown["base_image_ref"].is_null() && shown["instance_uuid"].is_null(), "{shown}");
    assert_eq!(shown["hw_rng_model"], "virtio", "what every image of its line has");
    world.over(7).await;
}

#[tokio::test]
async fn a_published_image_is_put_right_hidden_and_goes_with_its_last_name() {
    let world = World::new();
    let sealed = world.sealed(3).await.expect("sealed");
    let order = world.image(3);
    let published =
        world.driver.publish(&sealed.disk, &image_disk(), &order, &world.lines(), &wait()).await.expect("published");
    let other = ImageOrder {
        name: "web-2".to_owned(),
        properties: vec![("a".to_owned(), "1".to_owned())],
        min_disk: 0,
        ..order
    };
    world.driver.amend(&published.copy, &other).await.expect("put right");
    let shown = world.only_image();
    assert_eq!((&shown["name"], &shown["a"], &shown["img_os"]), (&"web-2".into(), &"1".into(), &Value::Null));
    world.driver.show(&published.copy, ImageState::Deprecated).await.expect("hidden");
    assert_eq!(world.only_image()["os_hidden"], true);
    assert!(world.driver.has(&image_disk()).await.expect("looked"), "hidden is not gone");
    assert_eq!(world.driver.disks().await.expect("a list").len(), 2);

    // A second image of the same disk has bytes of its own.
    let second = DiskId::new("image-00000000-2fa1-41d2-883f-0016d3cca427");
    let again = world.driver.publish(&sealed.disk, &second, &other, &world.lines(), &wait()).await.expect("a second");
    assert_ne!(again.copy.id, published.copy.id);
    assert_eq!(again.sha256, published.sha256);
    let taken = world.driver.publish(&sealed.disk, &second, &other, &world.lines(), &wait()).await.expect_err("taken");
    assert_eq!(taken.kind, PortErrorKind::Refused);

    // Retention: the kept result goes, the image stays; then the images go.
    world.driver.remove(&sealed.disk).await.expect("removed");
    assert!(!world.driver.has(&sealed.disk).await.expect("looked"));
    assert!(world.driver.has(&image_disk()).await.expect("looked"));
    for disk in [&image_disk(), &second, &second] {
        world.driver.remove(disk).await.expect("twice is success");
    }
    world.over(3).await;
    assert_eq!(world.cloud.ours(), [""; 0]);
}

#[tokio::test]
async fn what_was_unpublished_is_the_tested_disk_again() {
    let world = World::new();
    let sealed = world.sealed(4).await.expect("sealed");
    let order = world.image(4);
    world.driver.publish(&sealed.disk, &image_disk(), &order, &world.lines(), &wait()).await.expect("published");
    world.driver.remove(&image_disk()).await.expect("removed");
    assert_eq!(world.only_image()["name"], sealed.disk.as_str());
    world.driver.publish(&sealed.disk, &image_disk(), &order, &world.lines(), &wait()).await.expect("published again");
    world.over(4).await;
}

#[tokio::test]
async fn a_machine_is_reached_by_a_floating_address_that_goes_with_it() {
    let world = World::with(Settings { scale: SCALE, ..Settings::default() }, |settings| {
        settings.floating_network = Some("provider".to_owned());
        settings.flavor = Some("small".to_owned());
    });
    let base = world.base().await;
    world.cloud.fault(Fault::on(Service::Neutron, "POST", "/floatingips", Effect::LoseReply));
    let mut machine = world.boot(5, "provision", &base.disk).await.expect("a machine");
    assert!(machine.access().host.starts_with("127.67."), "{:?}", machine.access());
    world.run(&*machine, "true").await;
    assert_eq!(world.cloud.ours().iter().filter(|line| line.starts_with("floating ip")).count(), 1);
    machine.destroy().await.expect("destroyed");
    world.over(5).await;
    assert_eq!(world.cloud.ours(), [""; 0]);
}

#[tokio::test]
async fn a_name_of_several_images_is_refused_with_their_ids() {
    let world = World::new();
    let ask = |name: &str| {
        let source = BaseSource::Named(name.to_owned());
        let (driver, lines) = (&world.driver, world.lines());
        async move { driver.base(&source, &lines, &wait()).await }
    };
    let several = ask("twins").await.expect_err("two of a name");
    assert!(several.message.starts_with("2 images of the cloud are called `twins`: 6c2f9a35-"), "{several}");
    assert_eq!(several.help, "name one by its id");
    assert!(ask("beos").await.expect_err("none").message.contains("the cloud has none"));
    let by_id = ask(&world.cloud.base_image()).await.expect("by its id");
    assert_eq!(by_id, world.base().await);
    world.untouched();
}

#[tokio::test]
async fn a_base_image_of_this_host_is_uploaded_once_and_checked_on_the_way() {
    let world = World::new();
    let raw = world.state.path().join("disk.raw");
    std::fs::write(&raw, vec![5; 700_000]).expect("written");
    let source = BaseSource::File { path: raw.clone(), format: DiskFormat::Raw };
    world.cloud.fault(Fault::on(Service::Glance, "PUT", "/images/", Effect::CutUpload { after: 1000 }));
    let base = world.driver.base(&source, &world.lines(), &wait()).await.expect("at the second attempt");
    assert_eq!(base.sha256, Digest::of(&vec![5; 700_000]));
    let uploads = world.cloud.count("PUT", "/images/");
    assert_eq!(world.driver.base(&source, &world.lines(), &wait()).await.expect("again"), base);
    assert_eq!(world.cloud.count("PUT", "/images/"), uploads, "the second time costs nothing");
    assert_eq!(world.only_image()["disk_format"], "qcow2");
    let wrong = BaseSource::File { path: raw, format: DiskFormat::Qcow2 };
    let error = world.driver.base(&wrong, &world.lines(), &wait()).await.expect_err("no qcow2");
    assert!(error.message.contains("not a usable qcow2 file"), "{error}");
    // What arrives with other bytes is not kept.
    world.driver.remove(&base.disk).await.expect("removed");
    world.cloud.next_image(ImageFate::Corrupted);
    let error = world.driver.base(&source, &world.lines(), &wait()).await.expect_err("other bytes");
    assert!(error.message.contains("did not arrive whole"), "{error}");
    assert_eq!(world.cloud.ours(), [""; 0]);
    world.untouched();
}

#[tokio::test]
async fn an_image_of_this_host_is_copied_to_the_cloud() {
    let world = World::new();
    let raw = world.state.path().join("disk.raw");
    std::fs::write(&raw, vec![7; 700_000]).expect("written");
    let here = Qemu::new(maker(&world.state.path().join("here"))).expect("the directory can be used");
    let source = BaseSource::File { path: raw, format: DiskFormat::Raw };
    let base = here.base(&source, &world.lines(), &wait()).await.expect("a disk of this host");
    let mut bytes = Vec::new();
    here.read(&base.disk).await.expect("opened").read_to_end(&mut bytes).await.expect("read");
    world.cloud.fault(Fault::on(Service::Glance, "PUT", "/images/", Effect::CutUpload { after: 1000 }));
    let taken = world.driver.take(&here, &base.disk, &image_disk(), &world.image(2), &world.lines(), &wait()).await;
    let taken = taken.expect("at the second attempt");
    assert_eq!((taken.sha256, taken.size), (Digest::of(&bytes), bytes.len() as u64));
    let shown = world.only_image();
    assert_eq!((&shown["id"], &shown["name"]), (&taken.copy.id.as_str().into(), &"web-2026".into()));
    assert_eq!(
        (&shown["min_disk"], &shown["img_os"], &shown["disk_format"]),
        (&4.into(), &"debian".into(), &"qcow2".into())
    );
    assert_eq!(world.driver.disks().await.expect("a list"), [(image_disk(), taken.size)]);
    world.over(2).await;
}

/// Boots although this goes wrong, once for each; gives what was said.
async fn boots_all_the_same(fate: Option<ServerFate>, fault: Option<Fault>) -> Vec<String> {
    let world = World::new();
    let base = world.base().await;
    fate.into_iter().for_each(|fate| world.cloud.next_server(fate));
    fault.into_iter().for_each(|fault| world.cloud.fault(fault));
    let mut machine = world.boot(9, "provision", &base.disk).await.expect("a machine all the same");
    world.run(&*machine, "true").await;
    let servers = world.cloud.ours().into_iter().filter(|line| line.starts_with("server ")).count();
    assert_eq!(servers, 1, "{:?}", world.cloud.ours());
    machine.destroy().await.expect("destroyed");
    world.over(9).await;
    assert_eq!(world.cloud.ours(), [""; 0]);
    std::mem::take(&mut *world.log.0.lock().expect("no panic"))
}

#[tokio::test]
async fn a_lost_answer_makes_no_second_server() {
    let servers = |effect| Some(Fault::on(Service::Nova, "POST", "/servers", effect));
    for effect in [Effect::LoseReply, Effect::DoneButRefuse { status: 500 }, Effect::LoseRequest] {
        let told = boots_all_the_same(None, servers(effect)).await.join("\n");
        assert!(told.contains("looking whether the machine was made"), "{told}");
    }
    for effect in [
        Effect::Refuse { status: 429, retry_after: Some(1) },
        Effect::Refuse { status: 503, retry_after: Some(1) },
        Effect::Unauthorized,
    ] {
        boots_all_the_same(None, servers(effect)).await;
    }
}

#[tokio::test]
async fn a_server_that_appears_late_or_goes_slowly_is_waited_for() {
    boots_all_the_same(Some(ServerFate::LateToAppear(Duration::from_secs(3))), None).await;
    boots_all_the_same(Some(ServerFate::SlowDelete(Duration::from_secs(120))), None).await;
}

#[tokio::test]
async fn a_cloud_without_room_is_asked_again_and_says_why_it_waits() {
    let no_host = ServerFate::Error {
        code: 500,
        message: "No valid host was found. There are not enough hosts available.".to_owned(),
    };
    let told = boots_all_the_same(Some(no_host), None).await.join("\n");
    assert!(told.contains("the cloud has no room for the machine: No valid host was found."), "{told}");

    let world = World::new();
    let base = world.base().await;
    world.cloud.quota(Quota { instances: 0, ..Quota::default() });
    let order = world.order(2, "provision", &base.disk);
    let (lines, wait) = (world.lines(), wait());
    let booting = world.driver.boot(&order, &lines, &wait);
    let freed = async {
        world.cloud.reached(|seen| seen.method == "POST" && seen.path == "/servers" && seen.status == 403).await;
        let told = loop {
            tokio::task::yield_now().await;
            if let Some(told) = world.driver.waiting(BuildNo(2)) {
                break told;
            }
        };
        assert!(told.contains("no room") && told.to_lowercase().contains("quota"), "{told}");
        world.cloud.quota(Quota::default());
    };
    let (machine, ()) = tokio::join!(booting, freed);
    machine.expect("as soon as there is room").destroy().await.expect("destroyed");
    assert_eq!(world.driver.waiting(BuildNo(2)), None);
    world.over(2).await;
}

#[tokio::test]
async fn a_server_in_error_is_an_error_with_novas_reason() {
    let world = World::new();
    let base = world.base().await;
    world.cloud.next_server(ServerFate::Error { code: 500, message: "Build of instance aborted: no luck".to_owned() });
    let error = world.boot(6, "provision", &base.disk).await.err().expect("in error");
    assert_eq!(error.kind, PortErrorKind::Unavailable);
    assert!(error.message.contains("went to ERROR: Build of instance aborted: no luck"), "{error}");
    world.over(6).await;
    assert_eq!(world.cloud.ours(), [""; 0]);
}

#[tokio::test]
async fn a_boot_that_is_cancelled_leaves_what_release_finds() {
    let world = World::new();
    let base = world.base().await;
    let gate = Gate::new();
    world.cloud.fault(Fault::on(Service::Nova, "POST", "/servers", Effect::HoldReply(gate.clone())));
    let order = world.order(8, "provision", &base.disk);
    let (wait, lines) = (wait(), world.lines());
    let booting = world.driver.boot(&order, &lines, &wait);
    let cancelled = async {
        gate.arrived().await;
        wait.cancel.cancel();
    };
    let (booted, ()) = tokio::join!(booting, cancelled);
    assert_eq!(booted.err().expect("cancelled").kind, PortErrorKind::Cancelled);
    gate.open();
    let outside = world.driver.outside().await.expect("a list");
    assert!(outside.iter().any(|one| one.kind == "server" && one.build == BuildNo(8)), "{outside:?}");
    world.over(8).await;
    assert_eq!(world.cloud.ours(), [""; 0]);
}

#[tokio::test]
async fn a_snapshot_is_made_once_whatever_becomes_of_the_answer() {
    for effect in [Effect::LoseReply, Effect::DoneButRefuse { status: 500 }] {
        let world = World::new();
        let base = world.base().await;
        let mut machine = world.boot(1, "provision", &base.disk).await.expect("a machine");
        world.cloud.fault(Fault::on(Service::Nova, "POST", "/servers/*/action", effect).after(0));
        let sealed = machine.seal(&sealed_id(1), &world.lines(), &wait()).await.expect("sealed");
        assert_eq!(world.only_image()["factoryd_sealed"], sealed.disk.as_str());
        world.over(1).await;
    }
}

#[tokio::test]
async fn a_snapshot_that_fails_leaves_the_server_until_its_build_is_over() {
    let fates = [
        (ImageFate::Killed, "while it was made"),
        (ImageFate::StuckSaving, "stays as it is, and nothing works on it any more or for too long"),
        (ImageFate::StuckQueued, "stays as it is, and nothing works on it any more or for too long"),
    ];
    for (fate, told) in fates {
        let world = World::new();
        let base = world.base().await;
        let mut machine = world.boot(1, "provision", &base.disk).await.expect("a machine");
        world.cloud.next_image(fate.clone());
        let error = machine.seal(&sealed_id(1), &world.lines(), &wait()).await.expect_err("no image");
        assert!(error.message.contains(told), "{fate:?}: {error}");
        assert_eq!(error.kind, PortErrorKind::Unavailable);
        assert_eq!(world.cloud.ours().iter().filter(|line| line.starts_with("server ")).count(), 1);
        world.over(1).await;
        assert_eq!(world.cloud.ours(), [""; 0], "{fate:?}");
    }
}

#[tokio::test]
async fn an_image_that_appears_late_and_a_guest_that_nova_does_not_hear_are_waited_for() {
    let world = World::new();
    let base = world.base().await;
    let mut machine = world.boot(1, "provision", &base.disk).await.expect("a machine");
    world.cloud.next_image(ImageFate::LateToAppear(Duration::from_secs(2)));
    machine.seal(&sealed_id(1), &world.lines(), &wait()).await.expect("sealed");
    world.over(1).await;
}

#[tokio::test]
async fn a_strangers_copy_of_our_image_stays_theirs() {
    let world = World::new();
    let sealed = world.sealed(1).await.expect("sealed");
    world
        .driver
        .publish(&sealed.disk, &image_disk(), &world.image(1), &world.lines(), &wait())
        .await
        .expect("published");
    let ours = world.only_image()["id"].as_str().expect("an id").to_owned();
    // Somebody boots from it and makes an image of that: Nova hands our properties on.
    let caller = crate::caller::Caller::enter(&world.cloud.environment()).await;
    let server = caller.boot(&world.cloud, "theirs", &serde_json::json!({"imageRef": ours, "flavorRef": "16"})).await;
    world.cloud.advance(Duration::from_secs(5));
    let make = serde_json::json!({"createImage": {"name": "theirs", "metadata": {}}});
    caller.send(reqwest::Method::POST, "compute", &format!("/servers/{server}/action"), &make).await;
    world.cloud.advance(Duration::from_secs(10));
    assert_eq!(world.driver.disks().await.expect("a list").len(), 2, "the sealed and the published one");
    for disk in [&sealed.disk, &image_disk()] {
        world.driver.remove(disk).await.expect("removed");
    }
    world.driver.release(BuildNo(1)).await.expect("released");
    let left: Vec<String> =
        world.cloud.ours().iter().map(|line| line.split(' ').next_back().unwrap_or_default().to_owned()).collect();
    assert_eq!(left.iter().filter(|name| *name == "theirs").count(), 2, "{left:?}");
}
