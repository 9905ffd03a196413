//! From an order to a server whose SSH runs commands.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::Cloud;
use super::console::Printed;
use super::flavors::{self, GIB};
use super::machine::CloudMachine;
use super::neutron::FloatingIp;
use super::nova::Server;
use crate::domain::pipeline::{HostKey, Placement};
use crate::engine::ports::{Access, Lines, MachineOrder, PortError, Wait};
use crate::machine::console::{Console, GuestKey};
use crate::machine::keys::Keys;
use crate::machine::process::Tag;
use crate::machine::qemu::disks::trouble;
use crate::machine::ssh::{SshSession, SshTarget};

impl Cloud {
    pub(super) async fn boot_machine(
        self: &Arc<Self>,
        order: &MachineOrder,
        lines: &Lines,
        wait: &Wait,
    ) -> Result<CloudMachine, PortError> {
        if order.attach.is_some() {
            return Err(PortError::refused("a disk can't be changed before its first boot in the cloud: nothing there can be attached to another machine")
                .help("make the change as steps of `provision`, or build this bundle with the qemu driver and publish a copy to the cloud"));
        }
        let booted = wait.run("getting a machine of the cloud", self.start(order, lines, wait)).await;
        self.waits(order.build, None);
        booted
    }

    async fn start(
        self: &Arc<Self>,
        order: &MachineOrder,
        lines: &Lines,
        wait: &Wait,
    ) -> Result<CloudMachine, PortError> {
        if let Some(server) = self.servers_of(order.build, &order.role).await?.first() {
            return Err(PortError::refused(format!(
                "{} has the server {server} as its {} already",
                order.build, order.role
            ))
            .help("destroy it, or release its build, before another is made in its role"));
        }
        let image = self.image_of(&order.disk).await?;
        let size = self.virtual_size(&image).await?;
        let all = self.nova().await?.flavors().await?;
        let needed = size.max(image.min_disk * GIB);
        let flavor = flavors::choose(&all, order, self.settings.flavor.as_deref(), needed)?;
        let networks = self.networks(&order.placement).await?;
        let directory = self.of_build(order.build).join(&order.role);
        make_directory(&directory)?;
        let keys = Keys::make(&directory, &Tag::build(&self.directory, order.build), wait).await?;
        let keypair = self.marks.keypair(order.build, &order.role);
        self.nova().await?.create_keypair(&keypair, keys.login_public()).await?;
        let wanted = self.wanted(order, (&image.id, &flavor.id, &keypair), &networks, &keys);
        lines.line(format!("asking the cloud for a machine of the flavor {}", flavor.name).as_bytes());
        let server = self.get_server(order.build, &order.role, &wanted, lines).await?;
        self.waits(order.build, None);
        let address = self.address(order, &server, &networks).await?;
        lines.line(format!("the server {} is at {address}", server.id).as_bytes());
        let console = Console::create(&order.console)?;
        let printed = Printed::new(server.id.clone(), console.clone());
        let trust = GuestKey { given: keys.host_key().to_owned(), console, policy: order.host_key };
        let target = SshTarget {
            address: SocketAddr::new(address, self.settings.ssh_port),
            user: order.user.clone(),
            key: keys.login_key().to_owned(),
            trust: Arc::new(trust),
            terminal: order.terminal,
        };
        let session = self.ready(&server, target, &printed, order, wait).await?;
        let access = Access {
            host: address.to_string(),
            port: self.settings.ssh_port,
            user: order.user.clone(),
            key: keys.login_file.clone(),
            host_key: session.host_key().to_owned(),
            ports: order.ports.iter().map(|port| (*port, *port)).collect(),
        };
        Ok(CloudMachine::new(self.clone(), session, access, (order.build, order.role.clone()), server.id, printed))
    }

    /// What Nova is asked for, but for what says whose it is.
    fn wanted(
        &self,
        order: &MachineOrder,
        (image, flavor, keypair): (&str, &str, &str),
        networks: &[String],
        keys: &Keys,
    ) -> Value {
        let [(_, user_data), _] = keys.seed(&order.user, order.build, &order.role);
        let mut wanted = json!({
            "name": format!("factoryd-{}-{}", order.build.0, order.role),
            "imageRef": image, "flavorRef": flavor, "key_name": keypair,
            "config_drive": self.settings.config_drive,
            "user_data": STANDARD.encode(user_data),
            "tags": [self.marks.tag()],
            "networks": networks.iter().map(|id| json!({"uuid": id})).collect::<Vec<_>>(),
        });
        let groups = named(&order.placement.security_groups, &self.settings.security_groups);
        if !groups.is_empty() {
            wanted["security_groups"] = groups.iter().map(|name| json!({"name": name})).collect();
        }
        if let Some(zone) = &self.settings.availability_zone {
            wanted["availability_zone"] = json!(zone);
        }
        wanted
    }

    /// The ids of the networks that machines are in, looked up once.
    async fn networks(&self, placement: &Placement) -> Result<Vec<String>, PortError> {
        let mut ids = Vec::new();
        for name in named(&placement.networks, &self.settings.networks) {
            ids.push(self.network(name).await?);
        }
        if ids.is_empty() {
            return Err(PortError::refused("no network is named that machines are to be in")
                .help("name one as `networks` of the driver, or set FACTORY_NETWORK_ID"));
        }
        Ok(ids)
    }

    async fn network(&self, name: &str) -> Result<String, PortError> {
        if let Some(id) = super::unpoisoned(&self.networks).get(name) {
            return Ok(id.clone());
        }
        let found = self.client.networks(name).await?;
        match found.as_slice() {
            [network] => {
                super::unpoisoned(&self.networks).insert(name.to_owned(), network.id.clone());
                Ok(network.id.clone())
            }
            [] => Err(PortError::failed(format!("the cloud has no network {name}"))
                .help("look at `openstack network list`, and at `networks` of the driver")),
            several => {
                let ids: Vec<&str> = several.iter().map(|network| network.id.as_str()).collect();
                Err(PortError::failed(format!("{} networks are called {name}: {}", ids.len(), ids.join(", ")))
                    .help("name one by its id"))
            }
        }
    }

    /// Where a server answers: a floating address where the configuration names a network of those, else its own.
    async fn address(&self, order: &MachineOrder, server: &Server, networks: &[String]) -> Result<IpAddr, PortError> {
        let Some(outside) = &self.settings.floating_network else { return own_address(server) };
        let outside = self.network(outside).await?;
        let ports = self.client.ports(&server.id).await?;
        let port = ports.first().ok_or_else(|| {
            PortError::unavailable(format!("the server {} has no port in {}", server.id, networks.join(", ")))
        })?;
        let description = self.marks.description(order.build, &order.role);
        let made = match self.client.create_floating_ip(&outside, port, &description).await {
            // Its answer may have been lost on the way.
            Err(error) if error.is_in_doubt() => self.looked_for_address(&description, port).await?.ok_or(error)?,
            made => made?,
        };
        made.address
            .parse()
            .map_err(|_| PortError::unavailable(format!("{:?} is no address of the server", made.address)))
    }

    /// A floating address of which no answer told, looked for more than once: it may be there a moment later. One of an
    /// earlier attempt is another port's.
    async fn looked_for_address(&self, description: &str, port: &str) -> Result<Option<FloatingIp>, PortError> {
        for made in 1..=3 {
            let mut all = self.client.floating_ips().await?.into_iter();
            if let Some(found) = all.find(|address| address.description == description && address.port == port) {
                return Ok(Some(found));
            }
            tokio::time::sleep(self.client.pace.pause(made, None)).await;
        }
        Ok(None)
    }

    /// Waits for SSH, reads the console meanwhile, and no longer than the server is up.
    async fn ready(
        self: &Arc<Self>,
        server: &Server,
        target: SshTarget,
        printed: &Arc<Printed>,
        order: &MachineOrder,
        wait: &Wait,
    ) -> Result<SshSession, PortError> {
        let over = self.server_until(&server.id, |server| match server {
            Some(server) if server.status == "ERROR" => Some(super::servers::in_error(server)),
            Some(server) if server.status == "SHUTOFF" => {
                Some(PortError::failed("the guest powered off before SSH answered"))
            }
            _ => None,
        });
        let within = wait.within(order.ready_within);
        let is_needed = order.host_key == HostKey::Verified;
        let ended = tokio::select! {
            biased;
            session = SshSession::connect(target, &within) => session,
            over = over => Err(over.unwrap_or_else(|error| error)),
            never = self.read_on(printed, is_needed) => match never {},
        };
        // Whatever it came to, what was printed until now belongs to the build.
        self.read_console(printed).await;
        ended.map_err(|error| {
            let help = if error.help.is_empty() { String::new() } else { format!("{}; ", error.help) };
            let last = printed.console.last();
            error.help(format!("{help}{last}"))
        })
    }
}

/// What a bundle names itself; where it names nothing, or variables of the factory's profile, what the configuration does.
fn named<'a>(placed: &'a [String], configured: &'a [String]) -> &'a [String] {
    match placed.is_empty() || placed.iter().any(|name| name.starts_with('$')) {
        true => configured,
        false => placed,
    }
}

/// The address of a server in its networks; IPv4 where it has one.
fn own_address(server: &Server) -> Result<IpAddr, PortError> {
    let fixed = server.addresses.iter().filter(|(_, _, kind)| kind != "floating");
    let mut addresses: Vec<IpAddr> = fixed.filter_map(|(_, address, _)| address.parse().ok()).collect();
    addresses.sort_by_key(IpAddr::is_ipv6);
    addresses.first().copied().ok_or_else(|| {
        PortError::unavailable(format!("the server {} has no address", server.id))
            .help("look at the network's subnets: one of them must give addresses")
    })
}

/// A directory that is the daemon's alone.
fn make_directory(directory: &Path) -> Result<(), PortError> {
    use std::os::unix::fs::DirBuilderExt;
    // Of an attempt that ended before there was a server.
    crate::machine::qemu::disks::remove_directory(directory)?;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|error| trouble("made", directory, &error))
}
