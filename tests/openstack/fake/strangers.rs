//! What was there before the client came: networks, flavors, images to boot from, and resources of other people, some
//! of them called and tagged like ours.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::faults::ServerFate;
use super::glance;
use super::keystone::{OTHER_PROJECT_ID, PROJECT_ID};
use super::state::{Flavor, FloatingIp, Keypair, Origin, Port, SecurityGroup, Server, State, Volume};

/// The image `debian-12`, which everybody may boot from.
pub(crate) const BASE_IMAGE: &str = "6c2f9a35-3f4d-4a86-9c42-000000000001";
const TWINS: [&str; 2] = ["6c2f9a35-3f4d-4a86-9c42-000000000002", "6c2f9a35-3f4d-4a86-9c42-000000000003"];

/// A network that is there.
pub(crate) struct Network {
    pub(crate) id: &'static str,
    pub(crate) name: &'static str,
    pub(crate) external: bool,
}

pub(crate) fn networks() -> &'static [Network] {
    const fn network(id: &'static str, name: &'static str, external: bool) -> Network {
        Network { id, name, external }
    }
    const ALL: [Network; 3] = [
        network("1f3c8f52-7a3e-4c55-8a33-000000000001", "private", false),
        network("1f3c8f52-7a3e-4c55-8a33-000000000002", "provider", true),
        network("1f3c8f52-7a3e-4c55-8a33-000000000003", "office", false),
    ];
    &ALL
}

pub(crate) fn network_name(id: &str) -> &'static str {
    networks().iter().find(|network| network.id == id).map_or("", |network| network.name)
}

pub(crate) fn subnet_of(network: &str) -> String {
    network.replacen("1f3c8f52", "2f3c8f52", 1)
}

/// Addresses of loopback, at which guests answer.
pub(crate) fn fixed_address(number: u64) -> String {
    format!("127.66.{}.{}", number / 250 % 250, number % 250 + 2)
}

pub(crate) fn floating_address(number: u64) -> String {
    format!("127.67.{}.{}", number / 250 % 250, number % 250 + 2)
}

pub(crate) fn seed(state: &mut State) {
    let flavor = |id, name, ram, disk, vcpus| Flavor { id, name, ram, disk, vcpus };
    state.flavors = vec![
        flavor("1", "m1.tiny", 512, 2, 1),
        flavor("16", "small", 2048, 10, 1),
        flavor("21", "medium", 4096, 20, 2),
        flavor("42", "large", 8192, 40, 4),
    ];
    glance::seed(state, Origin::Seed, BASE_IMAGE, OTHER_PROJECT_ID, "debian-12");
    for id in TWINS {
        glance::seed(state, Origin::Stranger, id, OTHER_PROJECT_ID, "twins");
    }
    for (number, project) in [(1, PROJECT_ID), (2, OTHER_PROJECT_ID)] {
        strangers(state, number, project);
    }
    default_groups(state);
}

fn default_groups(state: &mut State) {
    for (id, project) in [
        ("3f3c8f52-7a3e-4c55-8a33-000000000001", PROJECT_ID),
        ("3f3c8f52-7a3e-4c55-8a33-000000000002", OTHER_PROJECT_ID),
    ] {
        let rule = json!({ "id": format!("{id}-ssh"), "security_group_id": id, "direction": "ingress", "ethertype": "IPv4",
            "protocol": "tcp", "port_range_min": 22, "port_range_max": 22 });
        let group = SecurityGroup {
            origin: Origin::Seed,
            id: id.to_owned(),
            project: project.to_owned(),
            name: "default".to_owned(),
            description: "Default security group".to_owned(),
            tags: BTreeSet::new(),
            rules: vec![rule],
        };
        state.security_groups.insert(id.to_owned(), group);
    }
}

/// The tags of another factory, and of somebody who looks at ours.
const ALIKE: [&str; 3] = ["factoryd", "factoryd-build-1", "factoryd:elsewhere"];
/// What others call their things.
const NAMES: [&str; 3] = ["web-server", "factoryd-1-provision", "factoryd-elsewhere-1-test"];

/// One of the things that people of a project have.
struct Thing<'p> {
    number: u64,
    project: &'p str,
    one: u64,
    name: &'static str,
}

impl Thing<'_> {
    fn id(&self, kind: u64) -> String {
        format!("5c2f9a35-3f4d-4a86-{:02}{kind:02}-{:012}", self.number, self.one)
    }

    fn tags(&self) -> BTreeSet<String> {
        let tags: &[&str] = if self.one == 0 { &[] } else { &ALIKE };
        tags.iter().map(|tag| (*tag).to_owned()).collect()
    }

    fn metadata(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("factoryd_factory".to_owned(), "elsewhere".to_owned())])
    }

    fn server(&self, state: &State) -> Server {
        Server {
            origin: Origin::Stranger,
            id: self.id(1),
            project: self.project.to_owned(),
            name: self.name.to_owned(),
            image: BASE_IMAGE.to_owned(),
            flavor: "1",
            key_name: None,
            public_key: None,
            user_data: None,
            metadata: self.metadata(),
            tags: self.tags(),
            description: None,
            security_groups: vec!["default".to_owned()],
            config_drive: false,
            status: if self.one == 2 { "SHUTOFF" } else { "ACTIVE" },
            task: None,
            fault: None,
            fate: ServerFate::Well,
            created: state.now,
            updated: state.now,
            guest: None,
            disk: state.directory.join("disks").join(self.id(1)),
        }
    }

    fn port(&self) -> Port {
        Port {
            origin: Origin::Stranger,
            id: self.id(2),
            project: self.project.to_owned(),
            name: self.name.to_owned(),
            network: networks()[0].id,
            address: fixed_address(40_000 + self.number * 100 + self.one),
            mac: format!("fa:16:3e:ff:{:02x}:{:02x}", self.number, self.one),
            device: self.id(1),
            novas: false,
            security_groups: vec!["default".to_owned()],
            tags: self.tags(),
            description: self.name.to_owned(),
        }
    }

    fn floating_ip(&self) -> FloatingIp {
        FloatingIp {
            origin: Origin::Stranger,
            id: self.id(3),
            project: self.project.to_owned(),
            network: networks()[1].id,
            address: floating_address(40_000 + self.number * 100 + self.one),
            // One that nobody uses, as a cleaner would like to find it.
            port: Some(self.id(2)).filter(|_| self.one != 1),
            tags: self.tags(),
            description: self.name.to_owned(),
        }
    }

    fn volume(&self, state: &State) -> Volume {
        Volume {
            origin: Origin::Stranger,
            id: self.id(5),
            project: self.project.to_owned(),
            name: self.name.to_owned(),
            size: 1,
            status: "available",
            metadata: self.metadata(),
            server: None,
            created: state.now,
        }
    }
}

/// What people of a project have: with names and tags as another factory, or somebody who looks at ours, gives them.
fn strangers(state: &mut State, number: u64, project: &str) {
    for (one, name) in NAMES.into_iter().enumerate() {
        let thing = Thing { number, project, one: one as u64, name };
        let server = thing.server(state);
        state.servers.insert(server.id.clone(), server);
        state.ports.insert(thing.id(2), thing.port());
        state.floating_ips.insert(thing.id(3), thing.floating_ip());
        glance::seed(state, Origin::Stranger, &thing.id(4), project, &format!("{name}-2026-11-231402"));
        let image = state.images.get_mut(&thing.id(4)).expect("made");
        image.tags = thing.tags();
        image.properties.extend(thing.metadata());
        let volume = thing.volume(state);
        state.volumes.insert(volume.id.clone(), volume);
    }
    if project == PROJECT_ID {
        keys_and_groups(state);
    }
}

fn keys_and_groups(state: &mut State) {
    for name in ["alice", "factoryd-1-provision", "factoryd-elsewhere-1"] {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMmLZ6Qx4m0mR7kM2r1GkPZrH5c9w8bGZJm0V1cQ0f5b alice".to_owned();
        let pair = Keypair { origin: Origin::Stranger, name: name.to_owned(), public_key: key };
        state.keypairs.insert(name.to_owned(), pair);
    }
    let group = SecurityGroup {
        origin: Origin::Stranger,
        id: "5c2f9a35-3f4d-4a86-0106-000000000001".to_owned(),
        project: PROJECT_ID.to_owned(),
        name: "factoryd-1-test".to_owned(),
        description: "somebody's".to_owned(),
        tags: ALIKE.iter().map(|tag| (*tag).to_owned()).collect(),
        rules: Vec::new(),
    };
    state.security_groups.insert(group.id.clone(), group);
}
