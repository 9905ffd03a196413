//! Checking of `[driver.NAME]`: which keys belong to which kind, and what they say.

use std::collections::BTreeMap;

use super::checked::{Checker, count, flag, is_name, path, size, text, texts};
use super::fragment::Group;
use super::{Accelerator, CloudSettings, DriverKind, DriverSettings};
use crate::domain::id::DriverName;
use crate::domain::pipeline::HostKey;

/// The keys that only the embedded driver has.
const OF_QEMU: [&str; 1] = ["accelerator"];
/// The keys that only a cloud has.
const OF_CLOUD: [&str; 19] = [
    "clouds",
    "cloud",
    "credential",
    "region",
    "interface",
    "ca",
    "identity_endpoint",
    "compute_endpoint",
    "image_endpoint",
    "network_endpoint",
    "orchestration_endpoint",
    "networks",
    "floating_network",
    "security_groups",
    "flavor",
    "availability_zone",
    "ssh_port",
    "config_drive",
    "visibility",
];

impl Checker {
    pub(super) fn driver(&mut self, group: &Group) -> Option<(DriverName, DriverSettings)> {
        let g = Some(group);
        let accelerators = [("auto", Accelerator::Auto), ("kvm", Accelerator::Kvm), ("tcg", Accelerator::Tcg)];
        let host_keys = [("verified", HostKey::Verified), ("first-seen", HostKey::FirstSeen)];
        let kind = self.word(group, "kind", &[("qemu", DriverKind::Qemu), ("openstack", DriverKind::OpenStack)]);
        if text(g, "kind").is_none() {
            self.missing(group, "kind", "write kind = \"qemu\" or \"openstack\"");
        }
        let accelerator = self.word(group, "accelerator", &accelerators).unwrap_or(Accelerator::Auto);
        let host_key = self.word(group, "host_key", &host_keys).unwrap_or_default();
        if !is_name(&group.name) {
            let help = "a name has letters, digits, `-`, `_` and `.`, and begins with a letter or a digit";
            self.fault(&group.place, &group.title, "the driver's name is no name", help);
        }
        match kind {
            Some(DriverKind::Qemu) => self.idle(group, &OF_CLOUD, "it is a key of a driver of the kind openstack"),
            Some(DriverKind::OpenStack) => self.idle(group, &OF_QEMU, "how a cloud runs its machines is the cloud's"),
            None => {}
        }
        let cloud = self.cloud(group);
        let (cpus, memory) = (count(g, "cpus"), size(g, "memory"));
        let copy_to = texts(g, "copy_to").map(|(names, _)| names.iter().map(|name| name.as_str().into()).collect());
        let copy_to = copy_to.unwrap_or_default();
        let settings = DriverSettings { kind: kind?, accelerator, host_key, cpus, memory, copy_to, cloud };
        Some((DriverName::from(group.name.as_str()), settings))
    }

    /// Copies go to other drivers, of the kind that takes them.
    pub(super) fn copies(&mut self, groups: &[Group], drivers: &BTreeMap<DriverName, DriverSettings>) {
        let takes = |name: &str| drivers.get(&name.into()).is_some_and(|to| to.kind == DriverKind::OpenStack);
        for group in groups {
            let Some((names, place)) = texts(Some(group), "copy_to") else { continue };
            for name in names.iter().filter(|name| !takes(name) || **name == group.name) {
                let key = format!("{}.copy_to", group.title);
                let message = format!("{name:?} is no other driver that takes copies of images");
                self.fault(place, &key, message, "name drivers of the kind openstack");
            }
        }
    }

    fn port(&mut self, group: &Group) -> Option<u16> {
        let port = count(Some(group), "ssh_port")?;
        let found = u16::try_from(port).ok();
        if let (None, Some((_, place))) = (found, group.values.get("ssh_port")) {
            let full = format!("{}.ssh_port", group.title);
            self.fault(place, &full, format!("{port} is no port"), "write one from 1 to 65535; SSH's own is 22");
        }
        found
    }

    fn cloud(&mut self, group: &Group) -> CloudSettings {
        let g = Some(group);
        let own = |key: &str| text(g, key).map(|(text, _)| text.to_owned());
        let list = |key: &str| texts(g, key).map(|(texts, _)| texts.to_vec()).unwrap_or_default();
        let same = |words: &[&'static str]| words.iter().map(|word| (*word, *word)).collect::<Vec<_>>();
        let interface = self.word(group, "interface", &same(&["public", "internal", "admin"]));
        let visibility = self.word(group, "visibility", &same(&["private", "shared", "community", "public"]));
        if path(g, "clouds").is_some() {
            self.idle(group, &["credential"], "clouds.yaml is read from one place");
        }
        let mut endpoints = Vec::new();
        for service in ["identity", "compute", "image", "network", "orchestration"] {
            let key = format!("{service}_endpoint");
            let Some((url, place)) = text(g, &key) else { continue };
            if !(url.starts_with("https://") || url.starts_with("http://")) {
                let full = format!("{}.{key}", group.title);
                self.fault(place, &full, format!("{url:?} is no address of a service"), "write https://… or http://…");
            }
            endpoints.push((service, url.to_owned()));
        }
        CloudSettings {
            clouds: path(g, "clouds"),
            cloud: own("cloud"),
            credential: own("credential"),
            region: own("region"),
            interface,
            ca: path(g, "ca"),
            endpoints,
            networks: list("networks"),
            floating_network: own("floating_network"),
            security_groups: list("security_groups"),
            flavor: own("flavor"),
            availability_zone: own("availability_zone"),
            ssh_port: self.port(group).unwrap_or(22),
            config_drive: flag(g, "config_drive").unwrap_or(true),
            visibility: visibility.unwrap_or("private"),
        }
    }
}
