//! Keystone v3: tokens by password, application credential and token; the catalogue; application credentials.

use serde_json::{Value, json};

use super::http::{Answer, Request, Service, refusal, unknown};
use super::state::{State, Token};

pub(crate) const USER: &str = "jenkins";
pub(crate) const PASSWORD: &str = "the factory's password";
pub(crate) const USER_ID: &str = "0f4c5b21d3e94a52b1f3c1d7a0f10001";
pub(crate) const PROJECT: &str = "factory";
pub(crate) const PROJECT_ID: &str = "0f4c5b21d3e94a52b1f3c1d7a0f10002";
pub(crate) const OTHER_PROJECT_ID: &str = "0f4c5b21d3e94a52b1f3c1d7a0f10003";
pub(crate) const REGION: &str = "RegionOne";

/// Glance lets its own code refuse a token; for the others, the middleware does in Keystone's shape.
pub(crate) fn unauthorized(service: Service) -> Answer {
    let message = "The request you have made requires authentication.";
    match service {
        Service::Glance => refusal(service, 401, "This server could not verify that you are authorized to access it."),
        _ => refusal(Service::Keystone, 401, message).with("www-authenticate", "Keystone uri=\"http://keystone\""),
    }
}

fn bad(message: &str) -> Answer {
    refusal(Service::Keystone, 400, message)
}

pub(crate) fn answer(state: &mut State, request: &Request) -> Answer {
    match (request.method.as_str(), request.parts().as_slice()) {
        ("GET", []) => Answer::json(200, &json!({ "version": version(state) })),
        ("POST", ["auth", "tokens"]) => give_token(state, request),
        (method, ["auth", "tokens"]) => with_token(state, request, |state| known_token(state, request, method)),
        ("GET", ["auth", "catalog"]) => {
            with_token(state, request, |state| Answer::json(200, &json!({ "catalog": catalogue(state), "links": {} })))
        }
        ("GET", ["auth", "projects"]) => with_token(state, request, |_| {
            let project = json!({ "id": PROJECT_ID, "name": PROJECT, "domain_id": "default", "enabled": true });
            Answer::json(200, &json!({ "projects": [project], "links": {} }))
        }),
        (_, ["users", user, "application_credentials", ..]) if *user == USER_ID => {
            with_token(state, request, |state| application_credentials(state, request))
        }
        _ => unknown(Service::Keystone),
    }
}

fn version(state: &State) -> Value {
    let link = format!("{}/v3/", state.link(Service::Keystone));
    json!({ "id": "v3.14", "status": "stable", "updated": "2020-04-07T00:00:00Z", "links": [{ "rel": "self", "href": link }] })
}

impl State {
    /// The document at a service's root, whose links lead where no client should follow, unless they are honest.
    pub(crate) fn versions(&self, service: Service) -> Answer {
        let base = self.link(service);
        let links = |path: &str| json!([{ "rel": "self", "href": format!("{base}{path}") }]);
        match service {
            Service::Keystone => Answer::json(300, &json!({ "versions": { "values": [version(self)] } })),
            Service::Nova => {
                let version = json!({ "id": "v2.1", "status": "CURRENT", "version": format!("2.{}", super::nova::LATEST),
                    "min_version": "2.1", "updated": "2013-07-23T11:33:21Z", "links": links("/v2.1/") });
                Answer::json(200, &json!({ "versions": [version], "version": version }))
            }
            Service::Glance => {
                let version = |id: &str, status: &str| json!({ "id": id, "status": status, "links": links("/v2/") });
                Answer::json(300, &json!({ "versions": [version("v2.15", "CURRENT"), version("v2.14", "SUPPORTED")] }))
            }
            Service::Neutron => {
                let version = json!({ "id": "v2.0", "status": "CURRENT", "links": links("/v2.0/") });
                Answer::json(200, &json!({ "versions": [version], "resources": [] }))
            }
            Service::Cinder | Service::Heat | Service::Trap => {
                let version = json!({ "id": "v3.0", "status": "CURRENT", "version": "3.70", "min_version": "3.0",
                    "links": links("/v3/") });
                Answer::json(300, &json!({ "versions": [version] }))
            }
        }
    }
}

fn give_token(state: &mut State, request: &Request) -> Answer {
    let auth = &request.json["auth"];
    if !auth.is_object() {
        return bad("Expecting to find auth in request body.");
    }
    state.strange_keys(&request.json, &["auth"], "POST /auth/tokens");
    state.strange_keys(auth, &["identity", "scope"], "POST /auth/tokens");
    let identity = &auth["identity"];
    let methods: Vec<&str> = identity["methods"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let known = match methods.as_slice() {
        ["password"] => is_our_user(&identity["password"]["user"]),
        ["application_credential"] => {
            if !auth["scope"].is_null() {
                return bad("Application credentials cannot request a scope.");
            }
            is_our_credential(state, &identity["application_credential"])
        }
        ["token"] => {
            let id = identity["token"]["id"].as_str().unwrap_or_default();
            state.tokens.get(id).is_some_and(|token| token.revoked.is_none() && token.expires > state.now)
        }
        _ => return bad("Expecting to find one known method in identity.methods."),
    };
    let by_credential = methods == ["application_credential"];
    if !known || !(by_credential || is_our_scope(&auth["scope"])) {
        return refusal(Service::Keystone, 401, "The request you have made requires authentication.");
    }
    let method = methods[0].to_owned();
    let id = format!("gAAAAA{}", uuid::Uuid::new_v4().simple());
    let expires = state.now + state.settings.token_life;
    let token = Token { project: PROJECT_ID.to_owned(), expires, revoked: None, validated: None, method };
    let shown = shown(state, &token, request.asked("nocatalog").is_none());
    state.tokens.insert(id.clone(), token);
    Answer::json(201, &shown).with("x-subject-token", id).with("vary", "X-Auth-Token")
}

fn shown(state: &State, token: &Token, catalogue_too: bool) -> Value {
    let mut body = json!({ "token": {
        "methods": [token.method], "audit_ids": ["x"],
        "user": { "id": USER_ID, "name": USER, "domain": { "id": "default", "name": "Default" }, "password_expires_at": null },
        "project": { "id": token.project, "name": PROJECT, "domain": { "id": "default", "name": "Default" } },
        "is_domain": false, "roles": [{ "id": "r1", "name": "member" }, { "id": "r2", "name": "reader" }],
        "issued_at": state.written(state.now).replace('Z', ".000000Z"),
        "expires_at": state.written(token.expires).replace('Z', ".000000Z"),
    } });
    if catalogue_too {
        body["token"]["catalog"] = catalogue(state);
    }
    body
}

/// Every service in two regions and at three interfaces, of which one leads to the service.
fn catalogue(state: &State) -> Value {
    let Endpoint { nova, glance, neutron, cinder, heat } = Endpoint::of(state);
    let trap = &state.endpoints.trap;
    let entry = |name: &str, kind: &str, url: &str| {
        let endpoint = |interface: &str, region: &str, url: &str| {
            json!({ "id": format!("{kind}-{region}-{interface}"), "interface": interface, "region": region,
                "region_id": region, "url": url })
        };
        let path = url.splitn(4, '/').nth(3).map(|path| format!("/{path}")).unwrap_or_default();
        let elsewhere = format!("{trap}{path}");
        json!({ "id": kind, "name": name, "type": kind, "endpoints": [
            endpoint("admin", REGION, &elsewhere), endpoint("public", "RegionTwo", &elsewhere),
            endpoint("internal", REGION, &elsewhere), endpoint("public", REGION, url),
        ] })
    };
    let mut entries = vec![
        entry("keystone", "identity", &format!("{}/v3/", state.endpoints.keystone)),
        entry("nova", "compute", &nova),
        entry("glance", "image", &glance),
        entry("neutron", "network", &neutron),
    ];
    if state.settings.volumes {
        entries.push(entry("cinderv3", "volumev3", &cinder));
    }
    if state.settings.heat {
        entries.push(entry("heat", "orchestration", &heat));
    }
    Value::Array(entries)
}

struct Endpoint {
    nova: String,
    glance: String,
    neutron: String,
    cinder: String,
    heat: String,
}

impl Endpoint {
    fn of(state: &State) -> Self {
        let at = &state.endpoints;
        let versions = state.settings.versions_in_catalogue;
        let maybe = |url: &str, version: &str| if versions { format!("{url}{version}") } else { url.to_owned() };
        Self {
            nova: format!("{}/v2.1", at.nova),
            glance: maybe(&at.glance, "/v2/"),
            neutron: maybe(&at.neutron, "/v2.0"),
            cinder: format!("{}/v3/{PROJECT_ID}", at.cinder),
            heat: format!("{}/v1/{PROJECT_ID}", at.heat),
        }
    }
}

fn is_our_user(user: &Value) -> bool {
    let by_name = user["name"] == USER && is_default_domain(&user["domain"]);
    (by_name || user["id"] == USER_ID) && user["password"] == PASSWORD
}

fn is_our_scope(scope: &Value) -> bool {
    let project = &scope["project"];
    project["id"] == PROJECT_ID || (project["name"] == PROJECT && is_default_domain(&project["domain"]))
}

fn is_default_domain(domain: &Value) -> bool {
    domain["id"] == "default" || domain["name"] == "Default"
}

fn is_our_credential(state: &State, given: &Value) -> bool {
    let by_id = given["id"].as_str().and_then(|id| state.application_credentials.get(id));
    let by_name = || {
        let user = &given["user"];
        let ours = user["id"] == USER_ID || (user["name"] == USER && is_default_domain(&user["domain"]));
        state.application_credentials.values().find(|(name, _)| ours && given["name"] == name.as_str())
    };
    by_id.or_else(by_name).is_some_and(|(_, secret)| given["secret"] == secret.as_str())
}

/// Lets in who has a token that counts; Keystone itself forgets nothing.
fn with_token(state: &mut State, request: &Request, then: impl FnOnce(&mut State) -> Answer) -> Answer {
    let now = state.now;
    let token = request.header("x-auth-token").and_then(|id| state.tokens.get(id));
    match token {
        Some(token) if token.revoked.is_none() && token.expires > now => then(state),
        _ => unauthorized(Service::Keystone),
    }
}

fn known_token(state: &mut State, request: &Request, method: &str) -> Answer {
    let id = request.header("x-subject-token").unwrap_or_default().to_owned();
    let now = state.now;
    let Some(token) = state.tokens.get(&id).filter(|token| token.revoked.is_none() && token.expires > now) else {
        return refusal(Service::Keystone, 404, "Could not find token.");
    };
    match method {
        "GET" => Answer::json(200, &shown(state, token, request.asked("nocatalog").is_none())),
        "HEAD" => Answer::empty(200),
        "DELETE" => {
            state.revoke(&id);
            Answer::empty(204)
        }
        _ => unknown(Service::Keystone),
    }
}

fn application_credentials(state: &mut State, request: &Request) -> Answer {
    let show = |id: &str, name: &str| {
        json!({ "id": id, "name": name, "project_id": PROJECT_ID, "unrestricted": false,
        "roles": [{ "id": "r1", "name": "member" }], "expires_at": null })
    };
    match (request.method.as_str(), &request.parts()[3..]) {
        ("GET", []) => {
            let all: Vec<Value> = state.application_credentials.iter().map(|(id, (name, _))| show(id, name)).collect();
            Answer::json(200, &json!({ "application_credentials": all, "links": {} }))
        }
        ("POST", []) => {
            let given = &request.json["application_credential"];
            state.strange_keys(
                given,
                &["name", "secret", "description", "roles", "expires_at", "unrestricted"],
                "POST",
            );
            let Some(name) = given["name"].as_str() else { return bad("'name' is a required property") };
            if state.application_credentials.values().any(|(known, _)| known == name) {
                return refusal(Service::Keystone, 409, "Duplicate entry found with name.");
            }
            let (id, secret) = state.seed_application_credential();
            state.application_credentials.insert(id.clone(), (name.to_owned(), secret.clone()));
            let mut shown = show(&id, name);
            shown["secret"] = json!(given["secret"].as_str().unwrap_or(&secret));
            Answer::json(201, &json!({ "application_credential": shown }))
        }
        ("DELETE", [id]) => match state.application_credentials.remove(*id) {
            Some(_) => Answer::empty(204),
            None => refusal(Service::Keystone, 404, "Could not find application credential."),
        },
        _ => unknown(Service::Keystone),
    }
}
