//! How Nova shows servers and flavors, and how its lists are filtered and cut into pages.

use serde_json::{Value, json};

use super::http::{Answer, Request, Service};
use super::keystone;
use super::state::{Flavor, Server, State};

/// A server as `GET /servers/ID` shows it at a microversion.
pub(crate) fn shown(state: &State, server: &Server, version: u32) -> Value {
    let flavor = state.flavor(server.flavor).expect("it was looked up");
    let flavor = match version >= 47 {
        true => json!({ "original_name": flavor.name, "ram": flavor.ram, "disk": flavor.disk, "vcpus": flavor.vcpus,
            "ephemeral": 0, "swap": 0, "extra_specs": {} }),
        false => json!({ "id": flavor.id, "links": [] }),
    };
    let power = match server.status {
        "ACTIVE" | "REBOOT" => 1,
        "SHUTOFF" => 4,
        _ => 0,
    };
    let state_of_machine = match server.status {
        "BUILD" => "building",
        "SHUTOFF" => "stopped",
        "ERROR" => "error",
        _ => "active",
    };
    let image = if server.image.is_empty() { json!("") } else { json!({ "id": server.image, "links": [] }) };
    let mut shown = json!({
        "id": server.id, "name": server.name, "status": server.status, "tenant_id": server.project,
        "user_id": keystone::USER_ID, "image": image, "flavor": flavor, "key_name": server.key_name,
        "metadata": server.metadata, "addresses": addresses(state, server),
        "security_groups": server.security_groups.iter().map(|name| json!({ "name": name })).collect::<Vec<_>>(),
        "created": state.written(server.created), "updated": state.written(server.updated),
        "config_drive": if server.config_drive { "True" } else { "" },
        "OS-EXT-STS:task_state": server.task, "OS-EXT-STS:vm_state": state_of_machine, "OS-EXT-STS:power_state": power,
        "OS-EXT-AZ:availability_zone": "nova", "OS-DCF:diskConfig": "MANUAL", "accessIPv4": "", "accessIPv6": "",
        "OS-SRV-USG:launched_at": null, "OS-SRV-USG:terminated_at": null, "hostId": "h1", "links": [],
        "os-extended-volumes:volumes_attached": volumes(state, server),
    });
    if server.status != "ERROR" && server.status != "BUILD" {
        shown["progress"] = json!(0);
    }
    if let Some((code, message)) = &server.fault {
        shown["fault"] = json!({ "code": code, "message": message, "created": state.written(server.updated) });
    }
    if version >= 19 {
        shown["description"] = json!(server.description);
    }
    if version >= 26 {
        shown["tags"] = json!(server.tags);
    }
    if version >= 9 {
        shown["locked"] = json!(false);
    }
    shown
}

fn volumes(state: &State, server: &Server) -> Value {
    let attached = state.volumes.values().filter(|volume| volume.server.as_ref() == Some(&server.id));
    attached.map(|volume| json!({ "id": volume.id, "delete_on_termination": false })).collect()
}

fn addresses(state: &State, server: &Server) -> Value {
    let mut addresses = json!({});
    if server.status == "BUILD" {
        return addresses;
    }
    for port in state.ports_of(&server.id) {
        let entry = |address: &str, kind: &str| json!({ "version": 4, "addr": address, "OS-EXT-IPS:type": kind, "OS-EXT-IPS-MAC:mac_addr": port.mac });
        let mut all = vec![entry(&port.address, "fixed")];
        let floating = state.floating_ips.values().filter(|ip| ip.port.as_ref() == Some(&port.id));
        all.extend(floating.map(|ip| entry(&ip.address, "floating")));
        let name = super::strangers::network_name(port.network);
        match addresses[name].as_array_mut() {
            Some(known) => known.extend(all),
            None => addresses[name] = Value::Array(all),
        }
    }
    addresses
}

pub(crate) fn flavor(flavor: &Flavor) -> Value {
    json!({ "id": flavor.id, "name": flavor.name, "ram": flavor.ram, "disk": flavor.disk, "vcpus": flavor.vcpus,
        "swap": 0, "OS-FLV-EXT-DATA:ephemeral": 0, "OS-FLV-DISABLED:disabled": false, "os-flavor-access:is_public": true,
        "rxtx_factor": 1.0, "extra_specs": {}, "description": null, "links": [] })
}

pub(crate) fn servers(state: &mut State, request: &Request, detailed: bool) -> Answer {
    let mut known = vec![
        "limit",
        "marker",
        "name",
        "status",
        "image",
        "flavor",
        "ip",
        "sort_key",
        "sort_dir",
        "changes-since",
        "deleted",
        "reservation_id",
    ];
    if request.version >= 26 {
        known.extend(["tags", "tags-any", "not-tags", "not-tags-any"]);
    }
    state.strange_filters(request, &known);
    if request.asked("all_tenants").is_some() {
        return super::nova::refused(
            403,
            "Policy doesn't allow os_compute_api:servers:index:get_all_tenants to be performed.",
        );
    }
    let tags = |name: &str| -> Vec<String> {
        request.asked(name).map(|tags| tags.split(',').map(str::to_owned).collect()).unwrap_or_default()
    };
    let (all, any) = (tags("tags"), tags("tags-any"));
    let fits = |server: &&Server| {
        server.project == request.project
            && !server.is_late(state.now)
            // A pattern, as with Nova: a name that only begins alike fits, too.
            && request.asked("name").is_none_or(|name| server.name.contains(name.trim_matches(['^', '$'])))
            && request.asked("status").is_none_or(|status| server.status.eq_ignore_ascii_case(status))
            && all.iter().all(|tag| server.tags.contains(tag))
            && (any.is_empty() || any.iter().any(|tag| server.tags.contains(tag)))
    };
    let ids = state.servers.values().filter(fits).map(|server| server.id.clone()).collect();
    let (ids, next) = page(state, request, ids);
    let show = |id: &String| {
        let server = &state.servers[id];
        if detailed {
            shown(state, server, request.version)
        } else {
            json!({ "id": server.id, "name": server.name, "links": [] })
        }
    };
    let shown = ids.iter().map(show).collect();
    let path = if detailed { "/servers/detail" } else { "/servers" };
    Answer::json(200, &listed("servers", shown, next_link(state, path, request, next)))
}

/// The page of a list that was asked for, and the marker of the next one.
pub(crate) fn page(state: &State, request: &Request, ids: Vec<String>) -> (Vec<String>, Option<String>) {
    let limit = request.asked("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
    let limit = if limit == 0 { state.settings.page } else { limit.min(state.settings.page) };
    let from = match request.asked("marker") {
        Some(marker) => ids.iter().position(|id| id == marker).map_or(ids.len(), |at| at + 1),
        None => 0,
    };
    let rest = &ids[from..];
    let page: Vec<String> = rest.iter().take(limit).cloned().collect();
    let next = if rest.len() > page.len() { page.last().cloned() } else { None };
    (page, next)
}

/// The address of the next page, on the host of which the service knows: not that of the catalogue.
pub(crate) fn next_link(state: &State, path: &str, request: &Request, marker: Option<String>) -> Option<String> {
    let marker = marker?;
    let mut query: Vec<(String, String)> = request.query.iter().filter(|(key, _)| key != "marker").cloned().collect();
    query.push(("marker".to_owned(), marker));
    let url = reqwest::Url::parse_with_params(&format!("{}/v2.1{path}", state.link(Service::Nova)), query);
    Some(url.expect("an address").to_string())
}

pub(crate) fn listed(name: &str, shown: Vec<Value>, next: Option<String>) -> Value {
    let mut list = json!({ name: shown });
    if let Some(next) = next {
        list[format!("{name}_links")] = json!([{ "rel": "next", "href": next }]);
    }
    list
}
