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

/// What people of a project have: with names and tags as another factory, or somebody who looks at ours, gives them.
fn strangers(state: &mut State, number: u64, project: &str) {
    let id = |kind: u64, one: u64| format!("5c2f9a35-3f4d-4a86-{number:02}{kind:02}-{one:012}");
    let tags = |tags: &[&str]| tags.iter().map(|tag| (*tag).to_owned()).collect::<BTreeSet<_>>();
    let alike = ["factoryd", "factoryd-build-1", "factoryd:elsewhere"];
    for (one, name) in ["web-server", "factoryd-1-provision", "factoryd-elsewhere-1-test"].into_iter().enumerate() {
        let one = one as u64;
        let server = Server {
            origin: Origin::Stranger,
            id: id(1, one),
            project: project.to_owned(),
            name: name.to_owned(),
            image: BASE_IMAGE.to_owned(),
            flavor: "1",
            key_name: None,
            public_key: None,
            user_data: None,
            metadata: BTreeMap::from([("factoryd_factory".to_owned(), "elsewhere".to_owned())]),
            tags: tags(if one == 0 { &[] } else { &alike }),
            description: None,
            security_groups: vec!["default".to_owned()],
            config_drive: false,
            status: if one == 2 { "SHUTOFF" } else { "ACTIVE" },
            task: None,
            fault: None,
            fate: ServerFate::Well,
            created: state.now,
            updated: state.now,
            guest: None,
            disk: state.directory.join("disks").join(id(1, one)),
        };
        let port = Port {
            origin: Origin::Stranger,
            id: id(2, one),
            project: project.to_owned(),
            name: name.to_owned(),
            network: networks()[0].id,
            address: fixed_address(40_000 + number * 100 + one),
            mac: format!("fa:16:3e:ff:{number:02x}:{one:02x}"),
            device: server.id.clone(),
            novas: false,
            security_groups: vec!["default".to_owned()],
            tags: server.tags.clone(),
            description: name.to_owned(),
        };
        let ip = FloatingIp {
            origin: Origin::Stranger,
            id: id(3, one),
            project: project.to_owned(),
            network: networks()[1].id,
            address: floating_address(40_000 + number * 100 + one),
            // One that nobody uses, as a cleaner would like to find it.
            port: Some(port.id.clone()).filter(|_| one != 1),
            tags: server.tags.clone(),
            description: name.to_owned(),
        };
        state.servers.insert(server.id.clone(), server);
        state.ports.insert(port.id.clone(), port);
        state.floating_ips.insert(ip.id.clone(), ip);
        let mut image_name = name.to_owned();
        image_name.push_str("-2026-11-231402");
        glance::seed(state, Origin::Stranger, &id(4, one), project, &image_name);
        let image = state.images.get_mut(&id(4, one)).expect("made");
        image.tags = tags(if one == 0 { &[] } else { &alike });
        image.properties.insert("factoryd_factory".to_owned(), "elsewhere".to_owned());
        let volume = Volume {
            origin: Origin::Stranger,
            id: id(5, one),
            project: project.to_owned(),
            name: name.to_owned(),
            size: 1,
            status: "available",
            metadata: BTreeMap::from([("factoryd_factory".to_owned(), "elsewhere".to_owned())]),
            server: None,
            created: state.now,
        };
        state.volumes.insert(volume.id.clone(), volume);
    }
    if project != PROJECT_ID {
        return;
    }
    for name in ["alice", "factoryd-1-provision", "factoryd-elsewhere-1"] {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMmLZ6Qx4m0mR7kM2r1GkPZrH5c9w8bGZJm0V1cQ0f5b alice".to_owned();
        let pair = Keypair { origin: Origin::Stranger, name: name.to_owned(), public_key: key };
        state.keypairs.insert(name.to_owned(), pair);
    }
    let group = SecurityGroup {
        origin: Origin::Stranger,
        id: id(6, 1),
        project: project.to_owned(),
        name: "factoryd-1-test".to_owned(),
        description: "somebody's".to_owned(),
        tags: tags(&alike),
        rules: Vec::new(),
    };
    state.security_groups.insert(group.id.clone(), group);
}
