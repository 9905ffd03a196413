//! The whole program on the fake cloud: a push ends in an image of the cloud, and a daemon that is killed leaves nothing
//! there that it does not find again.

use rustix::process::Signal;
use serde_json::Value;

use crate::factory::{Author, Factory};
use crate::fake::faults::{Effect, Fault, Gate};
use crate::fake::{Cloud, Service, Settings};

pub(crate) const PIPELINE: &str = "version: 1
bundles: [images/bundle-*]
stages:
  - boot: { image: debian-12, user: root }
  - provision:
      steps:
        - shell: echo made >/root/made
  - test:
      steps:
        - shell: test \"$(cat /root/made)\" = made
  - snapshot: { name: \"{{ bundle.name }}-{{ build.number }}\", properties: { img_os: debian }, min_disk: 4 }
  - render: { templates: output }
";

pub(crate) struct World {
    pub(crate) cloud: Cloud,
    strangers: std::collections::BTreeMap<String, Value>,
    pub(crate) factory: Factory,
    pub(crate) author: Author,
}

impl World {
    fn new() -> Self {
        Self::with(Settings::default(), &[])
    }

    /// A cloud of one's own, and files of the repository besides or instead of the usual ones.
    pub(crate) fn with(settings: Settings, files: &[(&str, &str)]) -> Self {
        let cloud = Cloud::start(settings);
        let strangers = cloud.strangers();
        let factory = Factory::stopped("", "");
        let of = |name: &str| cloud.environment().into_iter().find(|(key, _)| key == name).map(|(_, value)| value);
        let text = |name: &str| of(name).expect("the cloud says it");
        let clouds = format!(
            "clouds:\n  factory:\n    region_name: {}\n    auth:\n      auth_url: {}\n      username: {}\n      project_name: {}\n      \
             user_domain_name: Default\n      project_domain_name: Default\n",
            text("OS_REGION_NAME"),
            text("OS_AUTH_URL"),
            text("OS_USERNAME"),
            text("OS_PROJECT_NAME"),
        );
        let secure = format!("clouds: {{factory: {{auth: {{password: {}}}}}}}\n", text("OS_PASSWORD"));
        std::fs::write(factory.path("clouds.yaml"), clouds).expect("written");
        std::fs::write(factory.path("secure.yaml"), secure).expect("written");
        let driver = format!(
            "[driver.cloud]\nkind = \"openstack\"\nclouds = \"{}\"\nnetworks = [\"private\"]\nssh_port = {}\n",
            factory.path("clouds.yaml").display(),
            cloud.ssh_port()
        );
        factory.configure("default_driver = \"cloud\"\n", &driver);
        let author = Author::new(&[]);
        author.write("pipelines/bundle.yml", PIPELINE);
        author.write("images/bundle-web/build-vars.yml", "bundle: { name: web, img_base: debian-12 }\n");
        author.write("images/bundle-web/output/web.yaml.j2", "image: {{ result_img_id }}\n");
        files.iter().for_each(|(path, text)| author.write(path, text));
        let mut world = Self { cloud, strangers, factory, author };
        world.factory.start();
        world
    }

    pub(crate) fn push(&self) {
        self.author.push(&self.factory, "a bundle");
    }

    /// The build passed; gives what it published, which is all that is ours in the cloud.
    pub(crate) fn published(&self, number: u64) -> String {
        let build = self.factory.ended(number);
        assert_eq!(build["outcome"], "passed", "{build:#}\n{}", self.factory.log());
        let images = self.factory.json(["images"]);
        let copy = &images["images"][0]["copies"][0];
        let id = copy["id"].as_str().expect("an id").to_owned();
        assert_eq!(copy["driver"], "cloud", "{images:#}");
        let shown = self.cloud.image(&id).expect("it is in the cloud");
        assert_eq!(
            (&shown["status"], &shown["min_disk"], &shown["img_os"]),
            (&"active".into(), &4.into(), &"debian".into())
        );
        assert_eq!(self.cloud.ours(), [format!("image {id} web-{number}")]);
        let number = number.to_string();
        let rendered = self.factory.tell(["artifacts", &number, "get", "images/target/bundle-web/output/web.yaml"]);
        assert_eq!(rendered, format!("image: {id}\n"));
        self.is_untouched();
        id
    }

    pub(crate) fn is_untouched(&self) {
        assert_eq!(self.cloud.strangers(), self.strangers);
        assert_eq!(self.cloud.violations(), [""; 0]);
        assert_eq!(self.factory.tell(["orphans"]), "Nothing is left of builds that are over.\n");
    }
}

#[test]
fn a_push_ends_in_an_image_of_the_cloud() {
    let world = World::new();
    world.push();
    let id = world.published(1);
    let status = world.factory.json(["status"]).to_string();
    assert!(status.contains("OpenStack at http://127.0.0.1:"), "{status}");
    assert_eq!(world.factory.run(["verify"]).code, 0, "its bytes sum to what was published");
    world.factory.tell(["images", "deprecate", "web-1"]);
    assert_eq!(world.cloud.image(&id).expect("there")["os_hidden"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_killed_while_the_image_is_made_makes_one_image() {
    let gate = Gate::new();
    let mut world = tokio::task::block_in_place(World::new);
    let hold = |gate: &Gate| Effect::HoldReply(gate.clone());
    world.cloud.fault(Fault::on(Service::Nova, "POST", "/servers/*/action", hold(&gate)));
    tokio::task::block_in_place(|| world.push());
    gate.arrived().await;
    tokio::task::block_in_place(|| {
        world.factory.end(Signal::KILL);
        gate.open();
        world.factory.start();
        world.published(1);
    });
}

#[test]
fn a_cloud_that_can_not_be_asked_what_is_left_is_named() {
    let world = World::new();
    let refuse = Effect::Refuse { status: 403, retry_after: None };
    world.cloud.fault(Fault::on(Service::Nova, "GET", "/servers/detail", refuse).times(40));
    let said = world.factory.run(["orphans"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert_eq!(said.out, "Nothing is known to be left of builds that are over, but for cloud.\n");
    assert!(said.err.contains("the driver cloud could not be asked: Nova answered 403"), "{said:?}");
}

#[test]
fn what_could_not_be_removed_is_listed_and_removed_later() {
    let world = World::new();
    let refuse = Effect::Refuse { status: 403, retry_after: None };
    world.cloud.fault(Fault::on(Service::Nova, "DELETE", "/servers/", refuse).times(40));
    world.push();
    let build = world.factory.ended(1);
    assert_eq!(build["outcome"], "failed", "{build:#}");
    let listed = world.factory.tell(["orphans"]);
    assert!(listed.contains("#1 server ") && listed.contains("factoryd orphans --delete"), "{listed}");
    let found = world.factory.json(["orphans"]);
    assert_eq!((&found["orphans"][0]["build"], &found["removed"]), (&1.into(), &Value::Array(Vec::new())));
    let refused = world.factory.run(["orphans", "--delete"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    world.factory.until("what is left is removed", |factory| {
        let removed = factory.run(["orphans", "--delete"]);
        (removed.code == 0).then_some(())
    });
    world.is_untouched();
}
