//! What is done with a server that is there: looks, actions, tags, metadata, volumes, its end.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::faults::{ImageFate, ServerFate};
use super::http::{Answer, Request, Service, unknown};
use super::nova::refused;
use super::state::{Event, Image, Origin, State};
use super::{glance_data, nova_create, nova_lists};

pub(crate) fn on_server(state: &mut State, request: &Request, id: &str, rest: &[&str], runtime: &Handle) -> Answer {
    if request.method != "GET" {
        let server = &state.servers[id];
        let (origin, what) = (server.origin, format!("the server {}", server.name));
        if !is_look(request) {
            state.touch(request, origin, &what);
        }
    }
    match (request.method.as_str(), rest) {
        ("GET", []) => {
            let server = nova_lists::shown(state, &state.servers[id], request.version);
            Answer::json(200, &json!({ "server": server }))
        }
        ("DELETE", []) => delete(state, id),
        ("PUT", []) => rename(state, request, id),
        ("POST", ["action"]) => act(state, request, id, runtime),
        (_, ["metadata", ..]) => metadata(state, request, id),
        (_, ["tags", rest @ ..]) => tags(state, request, id, rest),
        ("GET", ["os-interface"]) => interfaces(state, id),
        (_, ["os-volume_attachments", rest @ ..]) => volumes(state, request, id, rest),
        ("POST", ["remote-consoles"]) => {
            let url = format!("{}/spice_auto.html?token=1", state.link(Service::Nova));
            let kind = request.json["remote_console"].clone();
            Answer::json(
                200,
                &json!({ "remote_console": { "protocol": kind["protocol"], "type": kind["type"], "url": url } }),
            )
        }
        ("GET", ["os-instance-actions"]) => Answer::json(200, &json!({ "instanceActions": [] })),
        _ => unknown(Service::Nova),
    }
}

/// Whether a POST only looks.
fn is_look(request: &Request) -> bool {
    request.path.ends_with("/remote-consoles") || request.json.get("os-getConsoleOutput").is_some()
}

fn delete(state: &mut State, id: &str) -> Answer {
    let normal = state.settings.delete;
    let server = state.servers.get_mut(id).expect("it is there");
    if server.task == Some("deleting") {
        return Answer::empty(204);
    }
    server.task = Some("deleting");
    server.guest = None;
    let after = match server.fate {
        ServerFate::SlowDelete(after) => after,
        _ => normal,
    };
    state.later(after, Event::ServerGone(id.to_owned()));
    Answer::empty(204)
}

fn rename(state: &mut State, request: &Request, id: &str) -> Answer {
    let given = &request.json["server"];
    if let Some(field) = state.strange_keys(given, &["name", "description", "accessIPv4", "hostname"], "PUT /servers") {
        return nova_create::strange(&field);
    }
    let server = state.servers.get_mut(id).expect("it is there");
    if let Some(name) = given["name"].as_str() {
        server.name = name.to_owned();
    }
    if let Some(description) = given["description"].as_str() {
        server.description = Some(description.to_owned());
    }
    let server = nova_lists::shown(state, &state.servers[id], request.version);
    Answer::json(200, &json!({ "server": server }))
}

fn act(state: &mut State, request: &Request, id: &str, runtime: &Handle) -> Answer {
    let Some((action, given)) =
        request.json.as_object().filter(|body| body.len() == 1).and_then(|body| body.iter().next())
    else {
        return refused(400, "There is no such action: None");
    };
    let server = &state.servers[id];
    let conflict = |what: &str| {
        let message = format!("Cannot '{action}' instance {id} while it is in {what}");
        refused(409, &message)
    };
    if server.status == "BUILD" && action != "forceDelete" {
        return match action.as_str() {
            "os-getConsoleOutput" => refused(409, &format!("Instance {id} is not ready")),
            _ => conflict("vm_state building"),
        };
    }
    if let Some(task) = server.task.filter(|_| !matches!(action.as_str(), "os-getConsoleOutput" | "forceDelete")) {
        return conflict(&format!("task_state {task}"));
    }
    match (action.as_str(), server.status) {
        ("createImage", "ACTIVE" | "SHUTOFF") => create_image(state, request, id, given),
        ("os-stop", "ACTIVE") => {
            let server = state.servers.get_mut(id).expect("it is there");
            server.task = Some("powering-off");
            server.guest = None;
            state.later(Duration::from_secs(1), Event::ServerStatus(id.to_owned(), "SHUTOFF"));
            Answer::empty(202)
        }
        ("os-start", "SHUTOFF") => {
            restart(state, id, "powering-on", runtime);
            Answer::empty(202)
        }
        ("reboot", "ACTIVE" | "SHUTOFF") => match given["type"].as_str() {
            Some("SOFT" | "HARD") => {
                restart(state, id, "rebooting", runtime);
                Answer::empty(202)
            }
            _ => refused(400, "Invalid input for field/attribute type."),
        },
        ("os-getConsoleOutput", _) => console(state, id, given),
        ("forceDelete", _) => {
            delete(state, id);
            Answer::empty(202)
        }
        ("createImage" | "os-stop" | "os-start" | "reboot", status) => {
            conflict(&format!("vm_state {}", if status == "SHUTOFF" { "stopped" } else { "active" }))
        }
        _ => unknown(Service::Nova),
    }
}

fn restart(state: &mut State, id: &str, task: &'static str, runtime: &Handle) {
    let mut server = state.servers.remove(id).expect("it is there");
    server.guest = None;
    server.task = Some(task);
    if task == "rebooting" {
        server.status = "REBOOT";
    }
    nova_create::start_guest(state, &mut server, false, runtime);
    state.servers.insert(id.to_owned(), server);
    state.later(Duration::from_secs(1), Event::ServerStatus(id.to_owned(), "ACTIVE"));
}

fn console(state: &State, id: &str, given: &Value) -> Answer {
    let server = &state.servers[id];
    let text = server.guest.as_ref().map(super::guests::Guest::console).unwrap_or_default();
    let length = given["length"].as_u64().or_else(|| given["length"].as_str().and_then(|length| length.parse().ok()));
    let lines: Vec<&str> = text.lines().collect();
    let from = length.map_or(0, |length| lines.len().saturating_sub(usize::try_from(length).expect("a length")));
    Answer::json(200, &json!({ "output": lines[from..].join("\n") + "\n" }))
}

fn create_image(state: &mut State, request: &Request, id: &str, given: &Value) -> Answer {
    if let Some(field) = state.strange_keys(given, &["name", "metadata"], "createImage") {
        return nova_create::strange(&field);
    }
    let Some(name) = given["name"].as_str().filter(|name| !name.is_empty() && name.len() <= 255) else {
        return refused(400, "Invalid input for field/attribute createImage. 'name' is a required property");
    };
    if let Some(wrong) = given["metadata"].as_object().and_then(|map| map.iter().find(|(_, value)| !value.is_string()))
    {
        return refused(400, &format!("Invalid input for field/attribute {}.", wrong.0));
    }
    let fate = state.faults.image_fate();
    let image = snapshot(state, request, id, name, given, fate);
    let new = image.id.clone();
    if state.servers[id].status == "ACTIVE" {
        state.violation(format!("an image is made of the server {id}, which runs"));
    }
    state.images.insert(new.clone(), image);
    let whole = state.settings.snapshot;
    state.servers.get_mut(id).expect("it is there").task = Some("image_snapshot");
    let server = || id.to_owned();
    state.later(whole / 4, Event::ServerTask(server(), Some("image_pending_upload")));
    state.later(whole / 3, Event::ServerTask(server(), Some("image_uploading")));
    state.later(whole / 3, Event::ImageSaving(new.clone()));
    state.later(whole, Event::ImageActive(new.clone()));
    if state.images[&new].fate != ImageFate::StuckSaving {
        state.later(whole, Event::ServerTask(server(), None));
    }
    if request.version >= 45 {
        return Answer::json(202, &json!({ "image_id": new }));
    }
    Answer::empty(202).with("location", format!("{}/images/{new}", state.endpoints.glance))
}

/// The image of a server's disk, as Nova asks Glance for it: with what the base image had, and whose it is.
fn snapshot(state: &State, request: &Request, id: &str, name: &str, given: &Value, fate: ImageFate) -> Image {
    let server = &state.servers[id];
    let base = state.images.get(&server.image);
    let mut properties = base.map(|base| base.properties.clone()).unwrap_or_default();
    for (key, value) in [
        ("base_image_ref", server.image.as_str()),
        ("image_type", "snapshot"),
        ("image_location", "snapshot"),
        ("image_state", "available"),
        ("instance_uuid", id),
        ("user_id", super::keystone::USER_ID),
        ("owner_id", &server.project),
        ("boot_roles", "member,reader"),
        ("owner_project_name", super::keystone::PROJECT),
        ("owner_user_name", super::keystone::USER),
    ] {
        properties.insert(key.to_owned(), value.to_owned());
    }
    for (key, value) in given["metadata"].as_object().into_iter().flatten() {
        properties.insert(key.clone(), value.as_str().expect("checked").to_owned());
    }
    Image {
        origin: Origin::Client,
        id: uuid::Uuid::new_v4().to_string(),
        owner: request.project.clone(),
        name: Some(name.to_owned()),
        status: "queued",
        disk_format: Some("qcow2".to_owned()),
        container_format: Some("bare".to_owned()),
        visibility: "private".to_owned(),
        protected: false,
        hidden: false,
        min_disk: state.flavor(server.flavor).expect("it was looked up").disk,
        min_ram: base.map_or(0, |base| base.min_ram),
        tags: BTreeSet::new(),
        properties,
        data: Some(glance_data::pack(&server.disk)),
        staged: None,
        md5: String::new(),
        sha512: String::new(),
        fate,
        created: state.now,
        updated: state.now,
    }
}

fn metadata(state: &mut State, request: &Request, id: &str) -> Answer {
    let given = request.json["metadata"].as_object().cloned().unwrap_or_default();
    if given.values().any(|value| value.as_str().is_none_or(|text| text.len() > 255)) {
        return refused(400, "Invalid input for field/attribute metadata.");
    }
    let server = state.servers.get_mut(id).expect("it is there");
    let pairs = given.iter().map(|(key, value)| (key.clone(), value.as_str().expect("checked").to_owned()));
    match request.method.as_str() {
        "GET" => {}
        "POST" => server.metadata.extend(pairs),
        "PUT" => server.metadata = pairs.collect(),
        _ => return unknown(Service::Nova),
    }
    Answer::json(200, &json!({ "metadata": server.metadata }))
}

fn tags(state: &mut State, request: &Request, id: &str, rest: &[&str]) -> Answer {
    if request.version < 26 {
        return unknown(Service::Nova);
    }
    let given: Vec<String> =
        request.json["tags"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    if given.iter().any(|tag| tag.len() > 60 || tag.contains([',', '/'])) {
        return refused(400, "Invalid input for field/attribute tags.");
    }
    let server = state.servers.get_mut(id).expect("it is there");
    match (request.method.as_str(), rest) {
        ("GET", []) => Answer::json(200, &json!({ "tags": server.tags })),
        ("PUT", []) => {
            server.tags = given.into_iter().collect();
            Answer::json(200, &json!({ "tags": server.tags }))
        }
        ("PUT", [tag]) => Answer::empty(if server.tags.insert((*tag).to_owned()) { 201 } else { 204 }),
        ("DELETE", [tag]) if server.tags.remove(*tag) => Answer::empty(204),
        _ => unknown(Service::Nova),
    }
}

fn interfaces(state: &State, id: &str) -> Answer {
    let show = |port: &super::state::Port| {
        json!({ "port_id": port.id, "net_id": port.network, "mac_addr": port.mac, "port_state": "ACTIVE",
            "fixed_ips": [{ "ip_address": port.address, "subnet_id": super::strangers::subnet_of(port.network) }] })
    };
    let all: Vec<Value> = state.ports_of(id).map(show).collect();
    Answer::json(200, &json!({ "interfaceAttachments": all }))
}

fn volumes(state: &mut State, request: &Request, id: &str, rest: &[&str]) -> Answer {
    let show = |volume: &str| json!({ "id": volume, "volumeId": volume, "serverId": id, "device": "/dev/vdb" });
    match (request.method.as_str(), rest) {
        ("GET", []) => {
            let attached = state.volumes.values().filter(|volume| volume.server.as_deref() == Some(id));
            let all: Vec<Value> = attached.map(|volume| show(&volume.id)).collect();
            Answer::json(200, &json!({ "volumeAttachments": all }))
        }
        ("GET", [volume]) => match state.volumes.get(*volume).filter(|one| one.server.as_deref() == Some(id)) {
            Some(volume) => Answer::json(200, &json!({ "volumeAttachment": show(&volume.id) })),
            None => refused(404, &format!("volume_id not found: {volume}")),
        },
        ("POST", []) => {
            let volume = request.json["volumeAttachment"]["volumeId"].as_str().unwrap_or_default().to_owned();
            match state.volumes.get_mut(&volume) {
                None => return refused(404, &format!("Volume {volume} could not be found.")),
                Some(volume) if volume.status != "available" => {
                    let message = format!("Invalid volume: Volume {} status must be available", volume.id);
                    return refused(400, &message);
                }
                Some(found) => (found.server, found.status) = (Some(id.to_owned()), "attaching"),
            }
            state.later(Duration::from_secs(1), Event::VolumeStatus(volume.clone(), "in-use"));
            Answer::json(200, &json!({ "volumeAttachment": show(&volume) }))
        }
        ("DELETE", [volume]) => match state.volumes.get_mut(*volume).filter(|one| one.server.as_deref() == Some(id)) {
            Some(found) => {
                found.status = "detaching";
                state.later(Duration::from_secs(1), Event::VolumeStatus((*volume).to_owned(), "available"));
                Answer::empty(202)
            }
            None => refused(404, &format!("volume_id not found: {volume}")),
        },
        _ => unknown(Service::Nova),
    }
}
