//! Seventy builds in a cloud where every fifth server and image has a fate and every tenth change meets trouble; builds
//! overlap, and every third round the daemon dies. What holds at the end: each build that says that it passed has left the
//! image that it made; no more builds failed than were made to; nothing else of ours is left; nobody else's was touched.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use factoryd::domain::id::{BuildNo, DiskId, ImageId};
use factoryd::domain::pipeline::{HostKey, Placement};
use factoryd::engine::ports::{
    BaseSource, Driver, Exit, ImageOrder, LineSink, Lines, Machine, MachineOrder, PortError, Wait,
};
use factoryd::machine::openstack::{OpenStack, OpenStackSettings, Pace};
use futures_util::future::join_all;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::fake::faults::Storm;
use crate::fake::{Cloud, Quota, Settings};
use crate::real;

const SCALE: u32 = 50;
const ROUNDS: u64 = 9;
const AT_ONCE: usize = 8;

/// The builds that passed, each with the id of its image; and those that failed, each with why.
#[derive(Default)]
struct Verdicts {
    passed: BTreeMap<u64, String>,
    failed: BTreeMap<u64, String>,
    killed: usize,
}

#[tokio::test(flavor = "multi_thread")]
async fn builds_in_a_storm_end_rightly_and_leave_nothing() {
    let cloud = Cloud::start(Settings { scale: SCALE, page: 100, callers: AT_ONCE, ..Settings::default() });
    cloud.quota(Quota { instances: 40, ..Quota::default() });
    let strangers = cloud.strangers();
    let state = tempfile::tempdir().expect("a directory");
    let mut verdicts = Verdicts::default();
    cloud.storm(Some(Storm::new(20_261_130, 10, 5)));
    for round in 0..ROUNDS {
        let driver = another(&cloud, state.path());
        let numbers: Vec<u64> = (round * AT_ONCE as u64 + 1..).take(AT_ONCE).collect();
        let builds = join_all(numbers.iter().map(|number| build(&driver, *number, state.path())));
        // A daemon that dies does so at another moment each time.
        let life = if round % 3 == 2 { Duration::from_millis(300 + 400 * round) } else { Duration::from_secs(600) };
        match tokio::time::timeout(life, builds).await {
            Ok(ended) => ended.into_iter().zip(&numbers).for_each(|(ended, number)| verdicts.note(*number, ended)),
            Err(_) => verdicts.killed += numbers.len(),
        }
        drop(driver);
        clean_up(&cloud, state.path(), &numbers).await;
    }
    cloud.storm(None);
    cloud.advance(Duration::from_secs(3600));
    let driver = another(&cloud, state.path());
    assert_eq!(driver.tagged().await.expect("a list"), []);
    let kept: Vec<DiskId> = verdicts.passed.keys().map(|number| image(*number).1).collect();
    for (disk, _) in driver.disks().await.expect("a list") {
        if !kept.contains(&disk) {
            driver.remove(&disk).await.expect("removed");
        }
    }
    verdicts.hold(&cloud);
    assert_eq!(cloud.strangers(), strangers);
    assert_eq!(cloud.violations(), [""; 0]);
}

impl Verdicts {
    fn note(&mut self, number: u64, ended: Result<String, PortError>) {
        match ended {
            Ok(image) => drop(self.passed.insert(number, image)),
            Err(error) => drop(self.failed.insert(number, format!("{error}; {}", error.help))),
        }
    }

    fn hold(&self, cloud: &Cloud) {
        // What makes a build fail whatever the driver does; the cloud's having no room passes.
        let fates = ["Killed", "StuckSaving", "no luck"];
        let handed = cloud.handed();
        let fatal = handed.iter().filter(|fate| fates.iter().any(|fatal| fate.contains(fatal))).count();
        let (passed, failed) = (self.passed.len(), self.failed.len());
        assert!(failed <= fatal, "{failed} builds failed, and {fatal} were made to: {:#?}", self.failed);
        let struck = cloud.struck().len();
        let was_a_storm = passed >= 30 && self.killed >= 16 && struck >= 15 && handed.len() >= 10;
        assert!(was_a_storm, "{passed} passed, {} killed, {struck} struck, fates: {handed:?}", self.killed);
        let mut left: Vec<String> = Vec::new();
        for (number, image) in &self.passed {
            assert_eq!(cloud.image_file(image, "root/made").as_deref(), Some(format!("{number}\n").as_str()));
            assert_eq!(cloud.image_file(image, "root/.ssh/authorized_keys"), None);
            assert_eq!(cloud.image(image).expect("there")["status"], "active");
            left.push(format!("image {image} web-{number}"));
        }
        left.sort();
        assert_eq!(cloud.ours(), left);
    }
}

/// The driver of a daemon that has just started.
fn another(cloud: &Cloud, state: &Path) -> OpenStack {
    cloud.another_client();
    OpenStack::new(settings(cloud, state)).expect("the directory can be used")
}

/// What the next daemon does for builds that it finds: until nothing is found any more.
async fn clean_up(cloud: &Cloud, state: &Path, numbers: &[u64]) {
    let driver = another(cloud, state);
    for number in numbers {
        let mut attempts = 0;
        while driver.release(BuildNo(*number)).await.map_or(true, |found| found > 0) {
            attempts += 1;
            assert!(attempts < 20, "build {number} is released for ever");
        }
    }
}

/// Provision, seal, test, publish: gives the id of the image.
async fn build(driver: &OpenStack, number: u64, state: &Path) -> Result<String, PortError> {
    let named = BaseSource::Named("debian-12".to_owned());
    let base = driver.base(&named, &lines(), &wait()).await?;
    let sealed = DiskId::new(format!("sealed-{number}-0123456789abcdef"));
    let mut machine = driver.boot(&order(number, "provision", &base.disk, state), &lines(), &wait()).await?;
    run(&*machine, &format!("echo {number} >/root/made")).await?;
    machine.seal(&sealed, &lines(), &wait()).await?;
    let mut clone = driver.boot(&order(number, "test", &sealed, state), &lines(), &wait()).await?;
    run(&*clone, &format!("grep -qx {number} /root/made")).await?;
    clone.destroy().await?;
    let (image, disk) = image(number);
    let order = ImageOrder {
        build: BuildNo(number),
        image,
        name: format!("web-{number}"),
        properties: vec![("cw_bundle".to_owned(), "web".to_owned())],
        min_disk: 2,
    };
    let published = driver.publish(&sealed, &disk, &order, &lines(), &wait()).await?;
    Ok(published.copy.id)
}

async fn run(machine: &dyn Machine, command: &str) -> Result<(), PortError> {
    match machine.guest().run(command, &[], &lines(), &wait()).await? {
        Exit::Code(0) => Ok(()),
        exit => Err(PortError::failed(format!("{command}: {exit}"))),
    }
}

fn image(number: u64) -> (ImageId, DiskId) {
    let id = format!("1b4e28ba-2fa1-41d2-883f-{number:012}");
    (ImageId::new(id.as_str()), DiskId::new(format!("image-{id}")))
}

fn order(number: u64, role: &str, disk: &DiskId, state: &Path) -> MachineOrder {
    MachineOrder {
        build: BuildNo(number),
        role: role.to_owned(),
        disk: disk.clone(),
        attach: None,
        cpus: 1,
        memory: 512 << 20,
        disk_size: None,
        user: "root".to_owned(),
        host_key: HostKey::Verified,
        terminal: false,
        ports: Vec::new(),
        ready_within: Duration::from_secs(120),
        console: state.join(format!("console-{number}-{role}.log")),
        placement: Placement::default(),
    }
}

fn settings(cloud: &Cloud, state: &Path) -> OpenStackSettings {
    let scaled = |seconds: u64| Duration::from_secs(seconds) / SCALE;
    let mut settings = real::settings(&cloud.environment(), state);
    settings.networks = vec!["private".to_owned()];
    settings.ssh_port = cloud.ssh_port();
    settings.pace = Pace {
        first: scaled(1),
        longest: scaled(30),
        look: scaled(1),
        stuck: scaled(120),
        busy: scaled(300),
        room: scaled(10),
        gone: Duration::from_secs(30),
        ..Pace::default()
    };
    settings
}

fn wait() -> Wait {
    Wait { cancel: CancellationToken::new(), deadline: Instant::now() + Duration::from_secs(180) }
}

fn lines() -> Lines {
    struct Nobody;
    impl LineSink for Nobody {
        fn line(&self, _: &[u8]) {}
    }
    Arc::new(Nobody)
}
