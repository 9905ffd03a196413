//! Neutron v2.0: networks that are there; ports, security groups and floating IPs that are made and removed.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::http::{Answer, Request, Service, unknown};
use super::neutron_lists::{self, tagged};
use super::state::{FloatingIp, Origin, Port, SecurityGroup, State};
use super::strangers;

/// An error in Neutron's own shape.
pub(crate) fn refusal(status: u16, kind: &str, message: &str) -> Answer {
    Answer::json(status, &json!({ "NeutronError": { "type": kind, "message": message, "detail": "" } }))
}

fn not_found(kind: &str, id: &str) -> Answer {
    refusal(404, &format!("{kind}NotFound"), &format!("{kind} {id} could not be found."))
}

fn strange(field: &str) -> Answer {
    refusal(400, "HTTPBadRequest", &format!("Unrecognized attribute(s) '{field}'"))
}

fn over_quota(what: &str) -> Answer {
    refusal(409, "OverQuota", &format!("Quota exceeded for resources: ['{what}']."))
}

pub(crate) fn answer(state: &mut State, request: &Request, runtime: &Handle) -> Answer {
    let parts = request.parts();
    match (request.method.as_str(), parts.as_slice()) {
        (
            "GET",
            [
                "networks"
                | "subnets"
                | "ports"
                | "security-groups"
                | "floatingips"
                | "security-group-rules"
                | "routers",
            ],
        ) => neutron_lists::list(state, request, parts[0]),
        ("GET", ["extensions"]) => {
            let known =
                ["standard-attr-tag", "standard-attr-description", "filter-validation", "router", "security-group"];
            let known: Vec<Value> = known.iter().map(|alias| json!({ "alias": alias, "name": alias })).collect();
            Answer::json(200, &json!({ "extensions": known }))
        }
        ("GET", ["networks", id]) => match strangers::networks().iter().find(|network| network.id == *id) {
            Some(network) => Answer::json(200, &json!({ "network": neutron_lists::network(network) })),
            None => not_found("Network", id),
        },
        ("POST", ["ports"]) => make_port(state, request),
        ("POST", ["floatingips"]) => make_floating_ip(state, request, runtime),
        ("POST", ["security-groups"]) => make_group(state, request),
        ("POST", ["security-group-rules"]) => make_rule(state, request),
        (_, [kind @ ("ports" | "floatingips" | "security-groups"), id, "tags", rest @ ..]) => {
            tags(state, request, kind, id, rest)
        }
        (_, ["ports", id]) => on_port(state, request, id),
        (_, ["floatingips", id]) => on_floating_ip(state, request, id, runtime),
        (_, ["security-groups", id]) => on_group(state, request, id),
        ("GET", ["quotas", _]) => {
            let quota = state.quota;
            Answer::json(200, &json!({ "quota": { "floatingip": quota.floating_ips, "port": quota.ports } }))
        }
        _ => unknown(Service::Neutron),
    }
}

fn text(given: &Value, field: &str) -> String {
    given[field].as_str().unwrap_or_default().to_owned()
}

fn make_port(state: &mut State, request: &Request) -> Answer {
    let given = &request.json["port"];
    let known =
        ["network_id", "name", "description", "security_groups", "admin_state_up", "fixed_ips", "tags", "device_id"];
    if let Some(field) = state.strange_keys(given, &known, "POST /ports") {
        return strange(&field);
    }
    let id = text(given, "network_id");
    let Some(network) = strangers::networks().iter().find(|network| network.id == id) else {
        return not_found("Network", &id);
    };
    if state.ports.values().filter(|port| port.project == request.project).count() >= state.quota.ports {
        return over_quota("port");
    }
    let number = state.number();
    let groups = given["security_groups"].as_array().into_iter().flatten();
    let port = Port {
        origin: Origin::Client,
        id: uuid::Uuid::new_v4().to_string(),
        project: request.project.clone(),
        name: text(given, "name"),
        network: network.id,
        address: strangers::fixed_address(number),
        mac: format!("fa:16:3e:00:{:02x}:{:02x}", number / 256 % 256, number % 256),
        device: String::new(),
        novas: false,
        security_groups: groups.filter_map(Value::as_str).map(str::to_owned).collect(),
        tags: BTreeSet::new(),
        description: text(given, "description"),
    };
    let shown = neutron_lists::port(state, &port);
    state.ports.insert(port.id.clone(), port);
    Answer::json(201, &json!({ "port": shown }))
}

fn on_port(state: &mut State, request: &Request, id: &str) -> Answer {
    let Some(port) = state.ports.get(id).filter(|port| port.project == request.project) else {
        return not_found("Port", id);
    };
    let (origin, what) = (port.origin, format!("the port {id}"));
    match request.method.as_str() {
        "GET" => Answer::json(200, &json!({ "port": neutron_lists::port(state, port) })),
        "DELETE" => {
            state.touch(request, origin, &what);
            state.ports.remove(id);
            for ip in state.floating_ips.values_mut().filter(|ip| ip.port.as_deref() == Some(id)) {
                ip.port = None;
            }
            Answer::empty(204)
        }
        _ => unknown(Service::Neutron),
    }
}

fn make_floating_ip(state: &mut State, request: &Request, runtime: &Handle) -> Answer {
    let given = &request.json["floatingip"];
    let known = ["floating_network_id", "port_id", "description", "fixed_ip_address", "floating_ip_address"];
    if let Some(field) = state.strange_keys(given, &known, "POST /floatingips") {
        return strange(&field);
    }
    let id = text(given, "floating_network_id");
    let Some(network) = strangers::networks().iter().find(|network| network.id == id) else {
        return not_found("Network", &id);
    };
    if !network.external {
        return refusal(
            400,
            "BadRequest",
            &format!("Bad floatingip request: Network {id} is not a valid external network."),
        );
    }
    if state.floating_ips.values().filter(|ip| ip.project == request.project).count() >= state.quota.floating_ips {
        return over_quota("floatingip");
    }
    let port = given["port_id"].as_str().map(str::to_owned);
    if let Some(port) = port.as_ref().filter(|port| !state.ports.contains_key(*port)) {
        return not_found("Port", port);
    }
    let number = state.number();
    let ip = FloatingIp {
        origin: Origin::Client,
        id: uuid::Uuid::new_v4().to_string(),
        project: request.project.clone(),
        network: network.id,
        address: strangers::floating_address(number),
        port,
        tags: BTreeSet::new(),
        description: text(given, "description"),
    };
    associate(state, &ip, runtime);
    let shown = neutron_lists::floating_ip(state, &ip);
    state.floating_ips.insert(ip.id.clone(), ip);
    Answer::json(201, &json!({ "floatingip": shown }))
}

/// Lets the guest answer at a floating address.
fn associate(state: &State, ip: &FloatingIp, _: &Handle) {
    let port = ip.port.as_ref().and_then(|port| state.ports.get(port));
    if let Some(guest) = port.and_then(|port| state.servers.get(&port.device)).and_then(|server| server.guest.as_ref())
    {
        guest.listen(&ip.address, state.ssh_port);
    }
}

fn on_floating_ip(state: &mut State, request: &Request, id: &str, runtime: &Handle) -> Answer {
    let Some(ip) = state.floating_ips.get(id).filter(|ip| ip.project == request.project).cloned() else {
        return not_found("Floating IP", id);
    };
    if request.method != "GET" {
        state.touch(request, ip.origin, &format!("the floating ip {id}"));
    }
    let guest_of = |state: &State, ip: &FloatingIp| {
        let port = ip.port.as_ref().and_then(|port| state.ports.get(port));
        port.map(|port| port.device.clone())
    };
    match request.method.as_str() {
        "GET" => Answer::json(200, &json!({ "floatingip": neutron_lists::floating_ip(state, &ip) })),
        "PUT" => {
            let given = &request.json["floatingip"];
            if let Some(field) =
                state.strange_keys(given, &["port_id", "description", "fixed_ip_address"], "PUT /floatingips")
            {
                return strange(&field);
            }
            let mut ip = ip;
            ip.port = given["port_id"].as_str().map(str::to_owned);
            if let Some(description) = given["description"].as_str() {
                ip.description = description.to_owned();
            }
            associate(state, &ip, runtime);
            let shown = neutron_lists::floating_ip(state, &ip);
            state.floating_ips.insert(id.to_owned(), ip);
            Answer::json(200, &json!({ "floatingip": shown }))
        }
        "DELETE" => {
            let server = guest_of(state, &ip).and_then(|device| state.servers.get(&device));
            if let Some(guest) = server.and_then(|server| server.guest.as_ref()) {
                guest.leave(&ip.address);
            }
            state.floating_ips.remove(id);
            Answer::empty(204)
        }
        _ => unknown(Service::Neutron),
    }
}

fn make_group(state: &mut State, request: &Request) -> Answer {
    let given = &request.json["security_group"];
    if let Some(field) = state.strange_keys(given, &["name", "description", "stateful"], "POST /security-groups") {
        return strange(&field);
    }
    let group = SecurityGroup {
        origin: Origin::Client,
        id: uuid::Uuid::new_v4().to_string(),
        project: request.project.clone(),
        name: text(given, "name"),
        description: text(given, "description"),
        tags: BTreeSet::new(),
        rules: Vec::new(),
    };
    let shown = neutron_lists::security_group(&group);
    state.security_groups.insert(group.id.clone(), group);
    Answer::json(201, &json!({ "security_group": shown }))
}

fn make_rule(state: &mut State, request: &Request) -> Answer {
    let mut given = request.json["security_group_rule"].clone();
    let id = text(&given, "security_group_id");
    let Some(group) = state.security_groups.get(&id).cloned() else { return not_found("SecurityGroup", &id) };
    state.touch(request, group.origin, &format!("the security group {}", group.name));
    let same =
        |rule: &&Value| given.as_object().is_some_and(|given| given.iter().all(|(key, value)| rule[key] == *value));
    if let Some(rule) = group.rules.iter().find(same) {
        let message =
            format!("Security group rule already exists. Rule id is {}.", rule["id"].as_str().unwrap_or_default());
        return refusal(409, "SecurityGroupRuleExists", &message);
    }
    given["id"] = json!(uuid::Uuid::new_v4().to_string());
    state.security_groups.get_mut(&id).expect("it is there").rules.push(given.clone());
    Answer::json(201, &json!({ "security_group_rule": given }))
}

fn on_group(state: &mut State, request: &Request, id: &str) -> Answer {
    let Some(group) = state.security_groups.get(id).filter(|group| group.project == request.project).cloned() else {
        return not_found("SecurityGroup", id);
    };
    match request.method.as_str() {
        "GET" => Answer::json(200, &json!({ "security_group": neutron_lists::security_group(&group) })),
        "DELETE" => {
            state.touch(request, group.origin, &format!("the security group {}", group.name));
            if state
                .ports
                .values()
                .any(|port| port.security_groups.iter().any(|one| *one == group.id || *one == group.name))
            {
                return refusal(409, "SecurityGroupInUse", &format!("Security Group {id} in use."));
            }
            state.security_groups.remove(id);
            Answer::empty(204)
        }
        _ => unknown(Service::Neutron),
    }
}

fn tags(state: &mut State, request: &Request, kind: &str, id: &str, rest: &[&str]) -> Answer {
    let Some((origin, known)) = tagged(state, kind, id) else { return not_found("TagResource", id) };
    let mut known = known.clone();
    if request.method != "GET" {
        state.touch(request, origin, &format!("{kind} {id}"));
    }
    let answer = match (request.method.as_str(), rest) {
        ("GET", []) => Answer::json(200, &json!({ "tags": known })),
        ("PUT", []) => {
            let given = request.json["tags"].as_array().into_iter().flatten();
            known = given.filter_map(Value::as_str).map(str::to_owned).collect();
            if known.iter().any(|tag| tag.is_empty() || tag.len() > 60) {
                return refusal(400, "HTTPBadRequest", "Invalid input for tags.");
            }
            Answer::json(200, &json!({ "tags": known }))
        }
        ("PUT", [tag]) => {
            known.insert((*tag).to_owned());
            Answer::empty(201)
        }
        ("DELETE", [tag]) if known.remove(*tag) => Answer::empty(204),
        ("DELETE", [tag]) => return not_found("Tag", tag),
        _ => return unknown(Service::Neutron),
    };
    if let Some((_, place)) = neutron_lists::tagged_mut(state, kind, id) {
        *place = known;
    }
    answer
}
