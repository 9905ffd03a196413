//! How Neutron shows what it has, and how its lists are filtered and cut into pages.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::http::{Answer, Request, Service};
use super::neutron::refusal;
use super::state::{FloatingIp, Origin, Port, SecurityGroup, State};
use super::strangers::{self, Network};

pub(crate) fn network(network: &Network) -> Value {
    json!({ "id": network.id, "name": network.name, "router:external": network.external, "shared": true,
        "status": "ACTIVE", "admin_state_up": true, "subnets": [strangers::subnet_of(network.id)], "tags": [],
        "project_id": super::keystone::OTHER_PROJECT_ID, "mtu": 1500 })
}

pub(crate) fn port(state: &State, port: &Port) -> Value {
    let used = state.servers.contains_key(&port.device);
    json!({ "id": port.id, "name": port.name, "network_id": port.network, "project_id": port.project,
        "tenant_id": port.project, "device_id": port.device, "device_owner": if used { "compute:nova" } else { "" },
        "status": if used { "ACTIVE" } else { "DOWN" }, "mac_address": port.mac, "admin_state_up": true,
        "fixed_ips": [{ "subnet_id": strangers::subnet_of(port.network), "ip_address": port.address }],
        "security_groups": port.security_groups, "tags": port.tags, "description": port.description })
}

pub(crate) fn floating_ip(state: &State, ip: &FloatingIp) -> Value {
    let port = ip.port.as_ref().and_then(|port| state.ports.get(port));
    json!({ "id": ip.id, "floating_ip_address": ip.address, "floating_network_id": ip.network,
        "project_id": ip.project, "tenant_id": ip.project, "port_id": port.map(|port| &port.id),
        "fixed_ip_address": port.map(|port| &port.address), "status": if port.is_some() { "ACTIVE" } else { "DOWN" },
        "router_id": port.map(|_| "router1"), "tags": ip.tags, "description": ip.description })
}

pub(crate) fn security_group(group: &SecurityGroup) -> Value {
    json!({ "id": group.id, "name": group.name, "description": group.description, "project_id": group.project,
        "tenant_id": group.project, "tags": group.tags, "security_group_rules": group.rules, "stateful": true })
}

/// Whose something is that can have tags, and what tags it has.
pub(crate) fn tagged<'s>(state: &'s State, kind: &str, id: &str) -> Option<(Origin, &'s BTreeSet<String>)> {
    match kind {
        "ports" => state.ports.get(id).map(|one| (one.origin, &one.tags)),
        "floatingips" => state.floating_ips.get(id).map(|one| (one.origin, &one.tags)),
        _ => state.security_groups.get(id).map(|one| (one.origin, &one.tags)),
    }
}

/// The same, to be changed.
pub(crate) fn tagged_mut<'s>(state: &'s mut State, kind: &str, id: &str) -> Option<(Origin, &'s mut BTreeSet<String>)> {
    match kind {
        "ports" => state.ports.get_mut(id).map(|one| (one.origin, &mut one.tags)),
        "floatingips" => state.floating_ips.get_mut(id).map(|one| (one.origin, &mut one.tags)),
        _ => state.security_groups.get_mut(id).map(|one| (one.origin, &mut one.tags)),
    }
}

/// What a list may be filtered by; the extension `filter-validation` refuses the rest.
fn filters(kind: &str) -> &'static [&'static str] {
    match kind {
        "networks" => &["id", "name", "router:external", "shared", "status", "project_id"],
        "subnets" => &["id", "name", "network_id", "ip_version"],
        "ports" => &[
            "id",
            "name",
            "network_id",
            "device_id",
            "device_owner",
            "project_id",
            "tenant_id",
            "status",
            "description",
            "mac_address",
            "fixed_ips",
        ],
        "floatingips" => &[
            "id",
            "floating_ip_address",
            "floating_network_id",
            "port_id",
            "project_id",
            "tenant_id",
            "status",
            "description",
            "fixed_ip_address",
        ],
        "security-groups" => &["id", "name", "project_id", "tenant_id", "description"],
        _ => &["id", "security_group_id", "project_id", "name"],
    }
}

pub(crate) fn list(state: &mut State, request: &Request, kind: &str) -> Answer {
    let mut known = vec![
        "limit",
        "marker",
        "page_reverse",
        "sort_key",
        "sort_dir",
        "fields",
        "tags",
        "tags-any",
        "not-tags",
        "not-tags-any",
    ];
    let own = filters(kind);
    known.extend(own);
    if let Some(strange) = state.strange_filters(request, &known) {
        return refusal(
            400,
            "HTTPBadRequest",
            &format!("Invalid input for operation: ['{strange}'] is invalid attribute for filtering."),
        );
    }
    let ours = |project: &str| project == request.project;
    let all: Vec<Value> = match kind {
        "networks" => strangers::networks().iter().map(network).collect(),
        "subnets" => strangers::networks().iter().map(subnet).collect(),
        "ports" => state.ports.values().filter(|one| ours(&one.project)).map(|one| port(state, one)).collect(),
        "floatingips" => {
            state.floating_ips.values().filter(|one| ours(&one.project)).map(|one| floating_ip(state, one)).collect()
        }
        "security-groups" => {
            state.security_groups.values().filter(|one| ours(&one.project)).map(security_group).collect()
        }
        "security-group-rules" => state.security_groups.values().flat_map(|one| one.rules.clone()).collect(),
        _ => Vec::new(),
    };
    let all: Vec<Value> = all.into_iter().filter(|one| fits(one, request, own)).collect();
    let name = kind.replace('-', "_");
    let (page, next) = page(state, request, all);
    let mut body = json!({ name.clone(): page });
    if let Some(marker) = next {
        let mut query: Vec<(String, String)> =
            request.query.iter().filter(|(key, _)| key != "marker").cloned().collect();
        query.push(("marker".to_owned(), marker));
        let url = reqwest::Url::parse_with_params(&format!("{}/v2.0/{kind}", state.link(Service::Neutron)), query);
        body[format!("{name}_links")] = json!([{ "rel": "next", "href": url.expect("an address").as_str() }]);
    }
    Answer::json(200, &body)
}

fn subnet(network: &Network) -> Value {
    json!({ "id": strangers::subnet_of(network.id), "name": format!("{}-v4", network.name), "network_id": network.id,
        "ip_version": 4, "cidr": "127.0.0.0/8", "enable_dhcp": true, "gateway_ip": null })
}

/// Whether an entry is asked for. A value may be given several times: one of them must be it.
fn fits(entry: &Value, request: &Request, filters: &[&str]) -> bool {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let fits_field = |field: &&str| {
        let mut wanted = request.query.iter().filter(|(key, _)| key == *field).map(|(_, value)| value).peekable();
        wanted.peek().is_none() || wanted.any(|wanted| text(&entry[*field]).eq_ignore_ascii_case(wanted))
    };
    let has = |tag: &str| entry["tags"].as_array().into_iter().flatten().any(|one| one == tag);
    filters.iter().all(fits_field)
        && request.asked("tags").is_none_or(|tags| tags.split(',').all(has))
        && request.asked("tags-any").is_none_or(|tags| tags.split(',').any(has))
}

/// The page that was asked for. Neutron cuts only where a limit is given, and never above its own.
fn page(state: &State, request: &Request, all: Vec<Value>) -> (Vec<Value>, Option<String>) {
    let Some(limit) = request.asked("limit").and_then(|limit| limit.parse::<usize>().ok()) else { return (all, None) };
    let marker = request.asked("marker");
    let from = marker.map_or(0, |marker| all.iter().position(|one| one["id"] == marker).map_or(all.len(), |at| at + 1));
    let page: Vec<Value> = all[from..].iter().take(limit.min(state.settings.page)).cloned().collect();
    let more = from + page.len() < all.len();
    let next = page.last().filter(|_| more).and_then(|last| last["id"].as_str()).map(str::to_owned);
    (page, next)
}
