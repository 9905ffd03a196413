//! Nova: routes, keypairs, flavors and limits. Servers are made in [`super::nova_create`], acted on in
//! [`super::nova_actions`] and shown in [`super::nova_lists`].

use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::http::{Answer, Request, Service, refusal, unknown};
use super::state::{Keypair, Origin, State};
use super::{keystone, nova_actions, nova_create, nova_lists};

/// The minor number of the newest microversion: 2.93.
pub(crate) const LATEST: u32 = 93;

pub(crate) fn refused(status: u16, message: &str) -> Answer {
    refusal(Service::Nova, status, message)
}

pub(crate) fn not_found(id: &str) -> Answer {
    refused(404, &format!("Instance {id} could not be found."))
}

pub(crate) fn answer(state: &mut State, request: &Request, runtime: &Handle) -> Answer {
    match (request.method.as_str(), request.parts().as_slice()) {
        ("POST", ["servers"]) => nova_create::create(state, request, runtime),
        ("GET", ["servers"]) => nova_lists::servers(state, request, false),
        ("GET", ["servers", "detail"]) => nova_lists::servers(state, request, true),
        (_, ["servers", id, rest @ ..]) => {
            let hidden = |server: &super::state::Server| server.project != request.project || server.is_late(state.now);
            match state.servers.get(*id) {
                Some(server) if !hidden(server) => nova_actions::on_server(state, request, id, rest, runtime),
                _ => not_found(id),
            }
        }
        ("GET", ["flavors"]) => flavors(state, request, false),
        ("GET", ["flavors", "detail"]) => flavors(state, request, true),
        ("GET", ["flavors", id]) => match state.flavor(id) {
            Some(flavor) => Answer::json(200, &json!({ "flavor": nova_lists::flavor(flavor) })),
            None => refused(404, &format!("Flavor {id} could not be found.")),
        },
        (_, ["os-keypairs", rest @ ..]) => keypairs(state, request, rest),
        ("GET", ["limits"]) => limits(state),
        ("GET", ["os-availability-zone"]) => Answer::json(
            200,
            &json!({ "availabilityZoneInfo": [{ "zoneName": "nova", "hosts": null, "zoneState": { "available": true } }] }),
        ),
        ("GET", ["extensions"]) => Answer::json(200, &json!({ "extensions": [] })),
        _ => unknown(Service::Nova),
    }
}

impl super::state::Server {
    /// Whether it is not shown yet, although it was made.
    pub(crate) fn is_late(&self, now: std::time::Duration) -> bool {
        matches!(self.fate, super::faults::ServerFate::LateToAppear(by) if now < self.created + by)
    }
}

fn flavors(state: &mut State, request: &Request, detailed: bool) -> Answer {
    state.strange_filters(request, &["limit", "marker", "is_public", "minDisk", "minRam", "sort_key", "sort_dir"]);
    let (page, next) =
        nova_lists::page(state, request, state.flavors.iter().map(|flavor| flavor.id.to_owned()).collect());
    let show = |id: &String| {
        let flavor = state.flavor(id).expect("it is listed");
        let short = json!({ "id": flavor.id, "name": flavor.name, "links": [] });
        if detailed { nova_lists::flavor(flavor) } else { short }
    };
    let shown: Vec<Value> = page.iter().map(show).collect();
    let path = if detailed { "/flavors/detail" } else { "/flavors" };
    Answer::json(200, &nova_lists::listed("flavors", shown, nova_lists::next_link(state, path, request, next)))
}

fn limits(state: &State) -> Answer {
    let used = state.servers.values().filter(|server| State::is_ours(&server.project)).count();
    let absolute = json!({ "maxTotalInstances": state.quota.instances, "totalInstancesUsed": used,
        "maxTotalCores": 1000, "totalCoresUsed": used, "maxTotalRAMSize": 1_000_000, "totalRAMUsed": used * 1024,
        "maxTotalKeypairs": 100, "maxServerMeta": 128, "maxServerGroups": 10, "totalServerGroupsUsed": 0,
        "maxServerGroupMembers": 10 });
    Answer::json(200, &json!({ "limits": { "rate": [], "absolute": absolute } }))
}

fn keypairs(state: &mut State, request: &Request, rest: &[&str]) -> Answer {
    let show = |pair: &Keypair| {
        json!({ "name": pair.name, "public_key": pair.public_key, "type": "ssh", "user_id": keystone::USER_ID,
            "fingerprint": format!("SHA256:{}", pair.name) })
    };
    match (request.method.as_str(), rest) {
        ("GET", []) => {
            state.strange_filters(request, if request.version >= 35 { &["limit", "marker"] } else { &[] });
            let names: Vec<String> = state.keypairs.keys().cloned().collect();
            let (names, next) = match request.version >= 35 {
                true => nova_lists::page(state, request, names),
                false => (names, None),
            };
            let shown = names.iter().map(|name| json!({ "keypair": show(&state.keypairs[name]) })).collect();
            let link = nova_lists::next_link(state, "/os-keypairs", request, next);
            Answer::json(200, &nova_lists::listed("keypairs", shown, link))
        }
        ("POST", []) => make_keypair(state, request, show),
        (method, [name]) => {
            let Some(pair) = state.keypairs.get(*name).cloned() else {
                let message = format!("Keypair {name} not found for user {}", keystone::USER_ID);
                return refused(404, &message);
            };
            match method {
                "GET" => Answer::json(200, &json!({ "keypair": show(&pair) })),
                "DELETE" => {
                    state.touch(request, pair.origin, &format!("the keypair {name}"));
                    state.keypairs.remove(*name);
                    Answer::empty(if request.version >= 2 { 204 } else { 202 })
                }
                _ => unknown(Service::Nova),
            }
        }
        _ => unknown(Service::Nova),
    }
}

fn make_keypair(state: &mut State, request: &Request, show: impl Fn(&Keypair) -> Value) -> Answer {
    let given = &request.json["keypair"];
    let mut known = vec!["name", "public_key"];
    if request.version >= 2 {
        known.push("type");
    }
    if let Some(strange) = state.strange_keys(given, &known, "POST /os-keypairs") {
        return nova_create::strange(&strange);
    }
    let Some(name) = given["name"].as_str().filter(|name| !name.is_empty() && name.len() <= 255) else {
        return refused(400, "Invalid input for field/attribute keypair. 'name' is a required property");
    };
    let Some(key) = given["public_key"].as_str() else {
        if request.version < 92 {
            state.violation("POST /os-keypairs lets Nova make the private key");
        }
        return refused(400, "Invalid input for field/attribute keypair. 'public_key' is a required property");
    };
    if !key.starts_with("ssh-") && !key.starts_with("ecdsa-") {
        return refused(400, "Keypair data is invalid: failed to generate fingerprint");
    }
    if state.keypairs.contains_key(name) {
        return refused(409, &format!("Key pair '{name}' already exists."));
    }
    let pair = Keypair { origin: Origin::Client, name: name.to_owned(), public_key: key.to_owned() };
    let shown = show(&pair);
    state.keypairs.insert(name.to_owned(), pair);
    Answer::json(if request.version >= 2 { 201 } else { 200 }, &json!({ "keypair": shown }))
}
