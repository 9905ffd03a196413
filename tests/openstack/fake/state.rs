//! What is in the cloud: everything that services keep, whose it is, and what will become of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use hyper::body::Bytes;
use serde_json::Value;

use super::clock::written;
use super::faults::{Faults, ImageFate, ServerFate};
use super::guests::Guest;
use super::http::Service;
use super::keystone;
use super::rules::Seen;

/// How the cloud is set up.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// How many times faster than the wall's its time runs.
    pub(crate) scale: u32,
    /// How long a token lives, in the cloud's time.
    pub(crate) token_life: Duration,
    /// How long a server takes to become ACTIVE, a snapshot to be taken, a server to go; in the cloud's time.
    pub(crate) boot: Duration,
    pub(crate) snapshot: Duration,
    pub(crate) delete: Duration,
    /// The shortest time between looks at one thing, in the cloud's time.
    pub(crate) min_poll: Duration,
    /// How many look at one thing at once, none of whom can know of the others' first look.
    pub(crate) callers: usize,
    /// How many entries a list has at most.
    pub(crate) page: usize,
    /// Whether images can be imported.
    pub(crate) import: bool,
    /// Whether the catalogue has Cinder, and Heat.
    pub(crate) volumes: bool,
    pub(crate) heat: bool,
    /// Whether the catalogue's addresses of Glance and Neutron hold the version.
    pub(crate) versions_in_catalogue: bool,
    /// Whether version documents, lists and answers link to the services, and not to where no client should go.
    pub(crate) honest_links: bool,
    /// The port of the guests' sshd; `None` takes a free one.
    pub(crate) ssh_port: Option<u16>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            scale: 50,
            token_life: Duration::from_hours(4),
            boot: Duration::from_secs(2),
            snapshot: Duration::from_secs(3),
            delete: Duration::from_secs(1),
            min_poll: Duration::from_millis(200),
            callers: 1,
            page: 3,
            import: true,
            volumes: true,
            heat: true,
            versions_in_catalogue: false,
            honest_links: false,
            ssh_port: None,
        }
    }
}

/// Where the services are.
#[derive(Clone, Debug)]
pub(crate) struct Endpoints {
    pub(crate) keystone: String,
    pub(crate) nova: String,
    pub(crate) glance: String,
    pub(crate) neutron: String,
    pub(crate) cinder: String,
    pub(crate) heat: String,
    pub(crate) trap: String,
}

impl Endpoints {
    pub(crate) fn new(url: impl Fn(Service) -> String) -> Self {
        Self {
            keystone: url(Service::Keystone),
            nova: url(Service::Nova),
            glance: url(Service::Glance),
            neutron: url(Service::Neutron),
            cinder: url(Service::Cinder),
            heat: url(Service::Heat),
            trap: url(Service::Trap),
        }
    }
}

/// Who made something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The cloud's operator, before the client came.
    Seed,
    /// Other people, before the client came.
    Stranger,
    /// The client.
    Client,
}

/// How much of everything our project may have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quota {
    pub(crate) instances: usize,
    pub(crate) floating_ips: usize,
    pub(crate) ports: usize,
    pub(crate) volumes: usize,
}

impl Default for Quota {
    fn default() -> Self {
        Self { instances: 100, floating_ips: 100, ports: 200, volumes: 20 }
    }
}

pub(crate) struct Token {
    pub(crate) project: String,
    pub(crate) expires: Duration,
    pub(crate) revoked: Option<Duration>,
    /// When Nova saw it first.
    pub(crate) validated: Option<Duration>,
    /// The method that it was got by.
    pub(crate) method: String,
}

pub(crate) struct Flavor {
    pub(crate) id: &'static str,
    pub(crate) name: &'static str,
    pub(crate) ram: u64,
    pub(crate) disk: u64,
    pub(crate) vcpus: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Keypair {
    pub(crate) origin: Origin,
    pub(crate) name: String,
    pub(crate) public_key: String,
}

pub(crate) struct Server {
    pub(crate) origin: Origin,
    pub(crate) id: String,
    pub(crate) project: String,
    pub(crate) name: String,
    pub(crate) image: String,
    pub(crate) flavor: &'static str,
    pub(crate) key_name: Option<String>,
    pub(crate) public_key: Option<String>,
    pub(crate) user_data: Option<String>,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) tags: BTreeSet<String>,
    pub(crate) description: Option<String>,
    pub(crate) security_groups: Vec<String>,
    pub(crate) config_drive: bool,
    /// `BUILD`, `ACTIVE`, `SHUTOFF`, `REBOOT`, `ERROR`.
    pub(crate) status: &'static str,
    pub(crate) task: Option<&'static str>,
    pub(crate) fault: Option<(u16, String)>,
    pub(crate) fate: ServerFate,
    pub(crate) created: Duration,
    pub(crate) updated: Duration,
    pub(crate) guest: Option<Guest>,
    /// Where its disk lies.
    pub(crate) disk: PathBuf,
}

#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) origin: Origin,
    pub(crate) id: String,
    pub(crate) owner: String,
    pub(crate) name: Option<String>,
    pub(crate) status: &'static str,
    pub(crate) disk_format: Option<String>,
    pub(crate) container_format: Option<String>,
    pub(crate) visibility: String,
    pub(crate) protected: bool,
    pub(crate) hidden: bool,
    pub(crate) min_disk: u64,
    pub(crate) min_ram: u64,
    pub(crate) tags: BTreeSet<String>,
    pub(crate) properties: BTreeMap<String, String>,
    pub(crate) data: Option<Bytes>,
    /// What was staged for an import.
    pub(crate) staged: Option<Bytes>,
    pub(crate) md5: String,
    pub(crate) sha512: String,
    pub(crate) fate: ImageFate,
    pub(crate) created: Duration,
    pub(crate) updated: Duration,
}

#[derive(Clone, Debug)]
pub(crate) struct Port {
    pub(crate) origin: Origin,
    pub(crate) id: String,
    pub(crate) project: String,
    pub(crate) name: String,
    pub(crate) network: &'static str,
    pub(crate) address: String,
    pub(crate) mac: String,
    pub(crate) device: String,
    /// Made by Nova for its server, and removed with it.
    pub(crate) novas: bool,
    pub(crate) security_groups: Vec<String>,
    pub(crate) tags: BTreeSet<String>,
    pub(crate) description: String,
}

#[derive(Clone, Debug)]
pub(crate) struct FloatingIp {
    pub(crate) origin: Origin,
    pub(crate) id: String,
    pub(crate) project: String,
    pub(crate) network: &'static str,
    pub(crate) address: String,
    pub(crate) port: Option<String>,
    pub(crate) tags: BTreeSet<String>,
    pub(crate) description: String,
}

#[derive(Clone, Debug)]
pub(crate) struct SecurityGroup {
    pub(crate) origin: Origin,
    pub(crate) id: String,
    pub(crate) project: String,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) tags: BTreeSet<String>,
    pub(crate) rules: Vec<Value>,
}

#[derive(Clone, Debug)]
pub(crate) struct Volume {
    pub(crate) origin: Origin,
    pub(crate) id: String,
    pub(crate) project: String,
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) status: &'static str,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) server: Option<String>,
    pub(crate) created: Duration,
}

/// What happens when its time has come.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    ServerUp(String),
    ServerGone(String),
    ServerTask(String, Option<&'static str>),
    ServerStatus(String, &'static str),
    ImageSaving(String),
    ImageActive(String),
    VolumeStatus(String, &'static str),
    VolumeGone(String),
}

pub(crate) struct State {
    pub(crate) settings: Settings,
    pub(crate) endpoints: Endpoints,
    pub(crate) directory: PathBuf,
    pub(crate) ssh_port: u16,
    /// The cloud's time.
    pub(crate) now: Duration,
    /// What the wall's clock said at its beginning.
    pub(crate) now_base: jiff::Timestamp,
    pub(crate) faults: Faults,
    pub(crate) quota: Quota,
    pub(crate) violations: Vec<String>,
    pub(crate) seen: Vec<Seen>,
    pub(crate) at_once: usize,
    /// Since when and until when each service has asked to be left alone, and which request it answered so.
    pub(crate) not_before: HashMap<Service, (Duration, Duration, String)>,
    pub(crate) looks: HashMap<String, (Option<Duration>, usize)>,
    pub(crate) tokens: HashMap<String, Token>,
    pub(crate) application_credentials: BTreeMap<String, (String, String)>,
    pub(crate) flavors: Vec<Flavor>,
    pub(crate) keypairs: BTreeMap<String, Keypair>,
    pub(crate) servers: BTreeMap<String, Server>,
    pub(crate) images: BTreeMap<String, Image>,
    pub(crate) ports: BTreeMap<String, Port>,
    pub(crate) floating_ips: BTreeMap<String, FloatingIp>,
    pub(crate) security_groups: BTreeMap<String, SecurityGroup>,
    pub(crate) volumes: BTreeMap<String, Volume>,
    pub(crate) events: BTreeMap<(Duration, u64), Event>,
    numbers: u64,
}

impl State {
    pub(crate) fn new(settings: Settings, endpoints: Endpoints, directory: PathBuf, now_base: jiff::Timestamp) -> Self {
        let ssh_port = settings.ssh_port.unwrap_or_else(super::guests::free_port);
        Self {
            settings,
            endpoints,
            directory,
            ssh_port,
            now: Duration::ZERO,
            now_base,
            faults: Faults::default(),
            quota: Quota::default(),
            violations: Vec::new(),
            seen: Vec::new(),
            at_once: 0,
            not_before: HashMap::new(),
            looks: HashMap::new(),
            tokens: HashMap::new(),
            application_credentials: BTreeMap::new(),
            flavors: Vec::new(),
            keypairs: BTreeMap::new(),
            servers: BTreeMap::new(),
            images: BTreeMap::new(),
            ports: BTreeMap::new(),
            floating_ips: BTreeMap::new(),
            security_groups: BTreeMap::new(),
            volumes: BTreeMap::new(),
            events: BTreeMap::new(),
            numbers: 0,
        }
    }

    /// A number that nobody else has.
    pub(crate) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Lets something happen so long from now.
    pub(crate) fn later(&mut self, after: Duration, event: Event) {
        let number = self.number();
        self.events.insert((self.now + after, number), event);
    }

    /// Where a service says that it is. Behind a proxy that is elsewhere, and a client keeps to the catalogue.
    pub(crate) fn link(&self, service: Service) -> &str {
        let at = &self.endpoints;
        match service {
            _ if !self.settings.honest_links => &at.trap,
            Service::Keystone => &at.keystone,
            Service::Nova => &at.nova,
            Service::Glance => &at.glance,
            Service::Neutron => &at.neutron,
            Service::Cinder => &at.cinder,
            Service::Heat => &at.heat,
            Service::Trap => &at.trap,
        }
    }

    /// A moment as services write it.
    pub(crate) fn written(&self, at: Duration) -> String {
        written(self.now_base, at)
    }

    pub(crate) fn flavor(&self, id: &str) -> Option<&Flavor> {
        self.flavors.iter().find(|flavor| flavor.id == id)
    }

    pub(crate) fn ports_of(&self, server: &str) -> impl Iterator<Item = &Port> {
        self.ports.values().filter(move |port| port.device == server)
    }

    /// What somebody made and is still there, by kind, id and name; as the services show it.
    pub(crate) fn made_by(&self, origin: Origin) -> BTreeMap<String, Value> {
        let mut made = BTreeMap::new();
        for server in self.servers.values().filter(|one| one.origin == origin) {
            let shown = super::nova_lists::shown(self, server, super::nova::LATEST);
            made.insert(format!("server {} {}", server.id, server.name), shown);
        }
        for image in self.images.values().filter(|one| one.origin == origin) {
            let name = image.name.as_deref().unwrap_or_default();
            made.insert(format!("image {} {name}", image.id), super::glance::shown(image, self.now_base));
        }
        for one in self.keypairs.values().filter(|one| one.origin == origin) {
            made.insert(format!("keypair {}", one.name), Value::String(one.public_key.clone()));
        }
        for one in self.ports.values().filter(|one| one.origin == origin) {
            made.insert(format!("port {} {}", one.id, one.name), super::neutron_lists::port(self, one));
        }
        for one in self.floating_ips.values().filter(|one| one.origin == origin) {
            made.insert(
                format!("floating ip {} {}", one.id, one.description),
                super::neutron_lists::floating_ip(self, one),
            );
        }
        for one in self.security_groups.values().filter(|one| one.origin == origin) {
            made.insert(format!("security group {} {}", one.id, one.name), super::neutron_lists::security_group(one));
        }
        for one in self.volumes.values().filter(|one| one.origin == origin) {
            made.insert(format!("volume {} {}", one.id, one.name), super::cinder::shown(self, one));
        }
        made
    }

    pub(crate) fn revoke(&mut self, token: &str) {
        let now = self.now;
        if let Some(token) = self.tokens.get_mut(token) {
            token.revoked = Some(now);
        }
    }

    pub(crate) fn seed_application_credential(&mut self) -> (String, String) {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let secret = format!("secret-{}", self.number());
        self.application_credentials.insert(id.clone(), (format!("factory-{}", self.numbers), secret.clone()));
        (id, secret)
    }

    pub(crate) fn end_guests(&mut self) {
        self.servers.values_mut().for_each(|server| drop(server.guest.take()));
    }

    /// What of our project counts against its quota.
    pub(crate) fn is_ours(project: &str) -> bool {
        project == keystone::PROJECT_ID
    }
}
