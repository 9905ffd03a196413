//! Which flavor a machine gets. Pure: the cloud's flavors and what is wanted go in, one of them comes out.

use super::nova::Flavor;
use crate::engine::ports::{MachineOrder, PortError};

pub(super) const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// The flavor that the bundle names, where the cloud has it; else the one that the driver's configuration names; else the
/// smallest that holds what is ordered. `disk` is what the image needs, in bytes.
///
/// # Errors
/// When the cloud has none such or several of the name, or when its disk is too small.
pub(super) fn choose<'a>(
    all: &'a [Flavor],
    order: &MachineOrder,
    configured: Option<&str>,
    disk: u64,
) -> Result<&'a Flavor, PortError> {
    let disk = disk.max(order.disk_size.unwrap_or(0)).div_ceil(GIB);
    let wanted = order.placement.flavor.as_deref();
    match (wanted.filter(|name| !of_name(all, name).is_empty() || configured.is_none()), configured) {
        (Some(name), _) => named(all, name, disk, "in the bundle's packer template or vars"),
        (None, Some(name)) => named(all, name, disk, "as `flavor` of the driver"),
        (None, None) => smallest(all, order, disk),
    }
}

/// By id where there is one such, since a name may look like the id of another.
fn of_name<'a>(all: &'a [Flavor], name: &str) -> Vec<&'a Flavor> {
    let by = |of: fn(&Flavor) -> &str| all.iter().filter(|flavor| of(flavor) == name).collect::<Vec<_>>();
    let by_id = by(|flavor| &flavor.id);
    if by_id.is_empty() { by(|flavor| &flavor.name) } else { by_id }
}

fn named<'a>(all: &'a [Flavor], name: &str, disk: u64, place: &str) -> Result<&'a Flavor, PortError> {
    match of_name(all, name).as_slice() {
        [flavor] if flavor.disk != 0 && flavor.disk < disk => {
            let message = format!("the flavor {name} has a disk of {} GiB, and {disk} GiB are needed", flavor.disk);
            Err(PortError::failed(message).help(format!("name a larger one {place}, or ask for less in `boot.disk`")))
        }
        [flavor] => Ok(flavor),
        [] => Err(PortError::failed(format!("the cloud has no flavor {name}")).help(format!(
            "it is named {place}; `flavor` of the driver is used where the cloud lacks a bundle's; {}",
            listed(all)
        ))),
        several => {
            let ids: Vec<&str> = several.iter().map(|flavor| flavor.id.as_str()).collect();
            Err(PortError::failed(format!("{} flavors are called {name}", several.len()))
                .help(format!("name one by its id {place}: {}", ids.join(", "))))
        }
    }
}

fn smallest<'a>(all: &'a [Flavor], order: &MachineOrder, disk: u64) -> Result<&'a Flavor, PortError> {
    let memory = order.memory.div_ceil(MIB);
    let fits = |flavor: &&Flavor| {
        flavor.cpus >= order.cpus
            && flavor.memory >= memory
            && (flavor.disk == 0 && order.disk_size.is_none() || flavor.disk >= disk)
    };
    let best = all.iter().filter(fits).min_by_key(|flavor| (flavor.cpus, flavor.memory, flavor.disk));
    best.ok_or_else(|| {
        let what = format!("{} processors, {memory} MiB of memory and a disk of {disk} GiB", order.cpus);
        PortError::failed(format!("no flavor of the cloud has {what}"))
            .help(format!("ask for less in `boot`, or name a flavor in the driver's configuration; {}", listed(all)))
    })
}

fn listed(all: &[Flavor]) -> String {
    let one = |flavor: &Flavor| {
        format!("{} ({} processors, {} MiB, {} GiB)", flavor.name, flavor.cpus, flavor.memory, flavor.disk)
    };
    let mut listed: Vec<String> = all.iter().take(12).map(one).collect();
    if all.len() > listed.len() {
        listed.push("…".to_owned());
    }
    format!("there are: {}", listed.join(", "))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::id::{BuildNo, DiskId};
    use crate::domain::pipeline::{HostKey, Placement};

    fn flavor(id: &str, name: &str, cpus: u32, memory: u64, disk: u64) -> Flavor {
        Flavor { id: id.to_owned(), name: name.to_owned(), cpus, memory, disk }
    }

    fn order(wanted: Option<&str>) -> MachineOrder {
        MachineOrder {
            build: BuildNo(1),
            role: "provision".to_owned(),
            disk: DiskId::new("base-1"),
            attach: None,
            cpus: 1,
            memory: 512 * MIB,
            disk_size: None,
            user: "root".to_owned(),
            host_key: HostKey::Verified,
            terminal: false,
            ports: Vec::new(),
            ready_within: Duration::from_secs(1),
            console: "console".into(),
            placement: Placement { flavor: wanted.map(str::to_owned), ..Placement::default() },
        }
    }

    #[test]
    fn a_bundles_flavor_goes_before_the_drivers_where_the_cloud_has_it() {
        let all = [
            flavor("42", "n1.standard", 2, 4096, 50),
            flavor("7", "small", 1, 1024, 20),
            flavor("8", "42", 8, 9, 9),
            flavor("9", "twice", 1, 1, 20),
            flavor("10", "twice", 1, 1, 20),
        ];
        let chosen = |wanted, configured| match choose(&all, &order(wanted), configured, 10 * GIB) {
            Ok(flavor) => flavor.id.clone(),
            Err(error) => format!("{error}; {}", error.help),
        };
        assert_eq!(chosen(Some("42"), Some("small")), "42", "by id before by name");
        assert_eq!(chosen(Some("43"), Some("small")), "7", "the cloud lacks the bundle's");
        assert_eq!(chosen(None, Some("n1.standard")), "42");
        assert_eq!(chosen(None, None), "7", "the smallest that fits");
        let lacking = chosen(Some("43"), None);
        assert!(
            lacking.starts_with("the cloud has no flavor 43; it is named in the bundle's packer template"),
            "{lacking}"
        );
        assert!(lacking.contains("small (1 processors, 1024 MiB, 20 GiB)"), "{lacking}");
        assert_eq!(
            chosen(None, Some("twice")),
            "2 flavors are called twice; name one by its id as `flavor` of the driver: 9, 10"
        );
        let small = choose(&all, &order(Some("small")), None, 30 * GIB).expect_err("too small");
        assert_eq!(small.message, "the flavor small has a disk of 20 GiB, and 30 GiB are needed");
    }
}
