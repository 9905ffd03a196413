//! Nova makes a server: everything that is wrong with an order is refused as Nova refuses it.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::faults::ServerFate;
use super::guests::{Guest, Setup};
use super::http::{Answer, Request, Service};
use super::nova::refused;
use super::state::{Event, Origin, Port, Server, State};
use super::{glance_data, strangers};

/// The fields of an order, each with the microversion that brought it.
const FIELDS: [(&str, u32); 18] = [
    ("name", 1),
    ("imageRef", 1),
    ("flavorRef", 1),
    ("networks", 1),
    ("key_name", 1),
    ("user_data", 1),
    ("security_groups", 1),
    ("metadata", 1),
    ("config_drive", 1),
    ("availability_zone", 1),
    ("min_count", 1),
    ("max_count", 1),
    ("OS-DCF:diskConfig", 1),
    ("block_device_mapping_v2", 1),
    ("description", 19),
    ("tags", 52),
    ("hostname", 90),
    ("adminPass", 1),
];

pub(crate) fn strange(field: &str) -> Answer {
    let message =
        format!("Invalid input for field/attribute. Additional properties are not allowed ('{field}' was unexpected)");
    refused(400, &message)
}

/// An order that was checked.
struct Order {
    name: String,
    image: String,
    flavor: &'static str,
    ports: Vec<Wanted>,
}

/// What a server is to be attached to.
enum Wanted {
    Network(&'static str),
    Port(String),
}

pub(crate) fn create(state: &mut State, request: &Request, runtime: &Handle) -> Answer {
    let given = request.json["server"].clone();
    state.strange_keys(&request.json, &["server", "os:scheduler_hints"], "POST /servers");
    let known: Vec<&str> =
        FIELDS.iter().filter(|(_, since)| *since <= request.version).map(|(name, _)| *name).collect();
    if let Some(field) = state.strange_keys(&given, &known, "POST /servers") {
        return strange(&field);
    }
    let order = match check(state, request, &given) {
        Ok(order) => order,
        Err(refused) => return refused,
    };
    let id = make(state, request, &given, order, runtime);
    let groups = &state.servers[&id].security_groups;
    let groups: Vec<Value> = groups.iter().map(|name| json!({ "name": name })).collect();
    let server =
        json!({ "id": id, "links": [], "OS-DCF:diskConfig": "MANUAL", "security_groups": groups, "adminPass": "x" });
    let location = format!("{}/v2.1/servers/{id}", state.link(Service::Nova));
    Answer::json(202, &json!({ "server": server })).with("location", location)
}

fn check(state: &mut State, request: &Request, given: &Value) -> Result<Order, Answer> {
    let text = |field: &str| given[field].as_str();
    let bad = |message: &str| Err(refused(400, message));
    let Some(name) = text("name").filter(|name| (1..=255).contains(&name.len()) && name.trim() == *name) else {
        return bad("Invalid input for field/attribute name.");
    };
    for (field, limit) in [("metadata", 255), ("tags", 60)] {
        let values = given[field].as_object().map(|map| map.values().cloned().collect());
        let values: Vec<Value> = values.or_else(|| given[field].as_array().cloned()).unwrap_or_default();
        let wrong = |value: &Value| {
            value.as_str().is_none_or(|text| text.len() > limit || (field == "tags" && text.contains([',', '/'])))
        };
        if values.iter().any(wrong) {
            state.violation(format!("POST /servers has wrong {field}: {}", given[field]));
            return bad(&format!("Invalid input for field/attribute {field}."));
        }
    }
    let image = text("imageRef").unwrap_or_default().to_owned();
    let size = match state.images.get(&image) {
        Some(image) if image.status != "active" => return bad(&format!("Image {} is not active.", image.id)),
        Some(image) => image.min_disk,
        None if !image.is_empty() => return bad("Can not find requested image"),
        None => 0,
    };
    let flavor = text("flavorRef").unwrap_or_default();
    let Some(flavor) = state.flavor(flavor) else {
        return bad(&format!("Flavor {flavor} could not be found."));
    };
    if flavor.disk < size {
        let message = format!(
            "Flavor's disk is too small for requested image. Flavor disk is {} bytes, image is {} bytes.",
            flavor.disk << 30,
            size << 30
        );
        return bad(&message);
    }
    let flavor = flavor.id;
    if text("key_name").is_some_and(|name| !state.keypairs.contains_key(name)) {
        return bad("Invalid key_name provided.");
    }
    if let Some(data) = text("user_data") {
        let decoded = base64::engine::general_purpose::STANDARD.decode(data);
        if data.len() > 65535 || decoded.is_err() {
            return bad("Invalid input for field/attribute user_data. Not a 'base64' or too long");
        }
    }
    for group in given["security_groups"].as_array().into_iter().flatten() {
        let name = group["name"].as_str().unwrap_or_default();
        let fits = |group: &&super::state::SecurityGroup| {
            group.project == request.project && (group.name == name || group.id == name)
        };
        match state.security_groups.values().filter(fits).count() {
            0 => return bad(&format!("Security group {name} not found.")),
            1 => {}
            _ => {
                return Err(refused(
                    409,
                    &format!("Multiple security groups found matching '{name}'. Use an ID to be more specific."),
                ));
            }
        }
    }
    let ports = networks(state, request, &given["networks"])?;
    let used = state.servers.values().filter(|server| server.project == request.project).count();
    if used >= state.quota.instances {
        let allowed = state.quota.instances;
        let message =
            format!("Quota exceeded for instances: Requested 1, but already used {used} of {allowed} instances");
        return Err(refused(403, &message));
    }
    Ok(Order { name: name.to_owned(), image, flavor, ports })
}

fn networks(state: &State, request: &Request, given: &Value) -> Result<Vec<Wanted>, Answer> {
    if given == "none" {
        return Ok(Vec::new());
    }
    if given.is_null() && request.version >= 37 {
        return Err(refused(400, "Invalid input for field/attribute server. 'networks' is a required property"));
    }
    if given.is_null() || given == "auto" {
        return Err(refused(409, "Multiple possible networks found, use a Network ID to be more specific."));
    }
    let mut wanted = Vec::new();
    for one in given.as_array().into_iter().flatten() {
        if let Some(port) = one["port"].as_str() {
            match state.ports.get(port) {
                Some(port) if port.device.is_empty() => wanted.push(Wanted::Port(port.id.clone())),
                Some(port) => return Err(refused(409, &format!("Port {} is still in use.", port.id))),
                None => return Err(refused(400, &format!("Port {port} could not be found."))),
            }
            continue;
        }
        let id = one["uuid"].as_str().unwrap_or_default();
        match strangers::networks().iter().find(|network| network.id == id) {
            Some(network) if network.external => {
                return Err(refused(
                    403,
                    &format!("It is not allowed to create an interface on external network {id}"),
                ));
            }
            Some(network) => wanted.push(Wanted::Network(network.id)),
            None => return Err(refused(400, &format!("Network {id} could not be found."))),
        }
    }
    Ok(wanted)
}

fn make(state: &mut State, request: &Request, given: &Value, order: Order, runtime: &Handle) -> String {
    let id = uuid::Uuid::new_v4().to_string();
    let fate = state.faults.server_fate();
    let strings =
        |value: &Value| value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    let tags: BTreeSet<String> = strings(&given["tags"]);
    let metadata: BTreeMap<String, String> = serde_json::from_value(given["metadata"].clone()).unwrap_or_default();
    let groups = given["security_groups"].as_array().into_iter().flatten();
    let mut security_groups: Vec<String> =
        groups.filter_map(|group| group["name"].as_str()).map(str::to_owned).collect();
    if security_groups.is_empty() {
        security_groups.push("default".to_owned());
    }
    attach(state, &id, &request.project, order.ports, &security_groups);
    let key_name = given["key_name"].as_str().map(str::to_owned);
    let public_key = key_name.as_ref().map(|name| state.keypairs[name].public_key.clone());
    let user_data = given["user_data"].as_str().map(|data| {
        let data = base64::engine::general_purpose::STANDARD.decode(data).expect("checked");
        String::from_utf8_lossy(&data).into_owned()
    });
    let disk = state.directory.join("disks").join(&id);
    let data = state.images.get(&order.image).and_then(|image| image.data.clone()).unwrap_or_default();
    glance_data::unpack(&data, &disk);
    let mut server = Server {
        origin: Origin::Client,
        id: id.clone(),
        project: request.project.clone(),
        name: order.name,
        image: order.image,
        flavor: order.flavor,
        key_name,
        public_key,
        user_data,
        metadata,
        tags,
        description: given["description"].as_str().map(str::to_owned),
        security_groups,
        config_drive: given["config_drive"] == json!(true),
        status: "BUILD",
        task: Some("scheduling"),
        fault: None,
        fate,
        created: state.now,
        updated: state.now,
        guest: None,
        disk,
    };
    if !matches!(server.fate, ServerFate::Mute | ServerFate::StuckInBuild | ServerFate::Error { .. }) {
        start_guest(state, &mut server, true, runtime);
    }
    state.servers.insert(id.clone(), server);
    let boot = state.settings.boot;
    state.later(boot / 2, Event::ServerTask(id.clone(), Some("spawning")));
    state.later(boot, Event::ServerUp(id.clone()));
    id
}

/// Gives a server its ports: those that it was ordered with, and new ones in networks.
fn attach(state: &mut State, server: &str, project: &str, wanted: Vec<Wanted>, groups: &[String]) {
    for wanted in wanted {
        match wanted {
            Wanted::Port(id) => state.ports.get_mut(&id).expect("checked").device = server.to_owned(),
            Wanted::Network(network) => {
                let number = state.number();
                let port = Port {
                    origin: Origin::Client,
                    id: uuid::Uuid::new_v4().to_string(),
                    project: project.to_owned(),
                    name: String::new(),
                    network,
                    address: strangers::fixed_address(number),
                    mac: format!("fa:16:3e:00:{:02x}:{:02x}", number / 256 % 256, number % 256),
                    device: server.to_owned(),
                    novas: true,
                    security_groups: groups.to_vec(),
                    tags: BTreeSet::new(),
                    description: String::new(),
                };
                state.ports.insert(port.id.clone(), port);
            }
        }
    }
}

/// Lets a server's guest answer at all its addresses.
pub(crate) fn start_guest(state: &mut State, server: &mut Server, first_boot: bool, runtime: &Handle) {
    let setup = Setup {
        disk: server.disk.clone(),
        run: state.directory.join("run").join(&server.id),
        hostname: server.name.chars().take(63).collect::<String>().to_lowercase(),
        size: state.flavor(server.flavor).expect("it was looked up").disk << 30,
        public_key: server.public_key.clone(),
        user_data: server.user_data.clone(),
        first_boot,
    };
    let (guest, complaints) = Guest::start(setup, runtime.clone());
    for complaint in complaints {
        state.violation(complaint);
    }
    let ports: Vec<String> = state.ports_of(&server.id).map(|port| port.id.clone()).collect();
    let fixed = ports.iter().map(|port| state.ports[port].address.clone());
    let floating = state.floating_ips.values().filter(|ip| ip.port.as_ref().is_some_and(|port| ports.contains(port)));
    for address in fixed.chain(floating.map(|ip| ip.address.clone())) {
        guest.listen(&address, state.ssh_port);
    }
    server.guest = Some(guest);
}
