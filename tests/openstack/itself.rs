//! The fake cloud itself: that it answers as the services do, that its guests are entered by SSH and that it sees what a
//! client does wrong. Asked with a plain HTTP client.

use std::process::Command;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::caller::{Caller, body};
use crate::fake::faults::{Effect, Fault, ImageFate, ServerFate, Storm};
use crate::fake::{Cloud, Service, Settings};

impl Caller {
    /// Has a server made; gives its id.
    pub(crate) async fn boot(&self, cloud: &Cloud, name: &str, more: &Value) -> String {
        let mut server = json!({ "name": name, "imageRef": cloud.base_image(), "flavorRef": "1",
            "networks": [{ "uuid": cloud.network("private") }] });
        server.as_object_mut().expect("a map").extend(more.as_object().cloned().unwrap_or_default());
        let answer = self.send(Method::POST, "compute", "/servers", &json!({ "server": server })).await;
        let status = answer.status();
        let answer = body(answer).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
        answer["server"]["id"].as_str().expect("an id").to_owned()
    }
}

fn cloud() -> Cloud {
    Cloud::start(Settings { scale: 1, ..Settings::default() })
}

/// A key pair in a directory: its path, and the public half.
fn key(directory: &tempfile::TempDir) -> (String, String) {
    let path = directory.path().join("key").display().to_string();
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &path]).status();
    assert!(made.expect("ssh-keygen is there: run `scripts/setup`").success());
    let public = std::fs::read_to_string(format!("{path}.pub")).expect("made");
    (path, public)
}

fn ssh(cloud: &Cloud, key: &str, address: &str, command: &str) -> (Option<i32>, String) {
    let port = cloud.ssh_port().to_string();
    let mut ssh = Command::new("ssh");
    for option in ["BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"] {
        ssh.args(["-o", option]);
    }
    let ran = ssh
        .args(["-F", "none", "-i", key, "-p", &port, &format!("root@{address}"), command])
        .output()
        .expect("ssh is there");
    (ran.status.code(), String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr))
}

#[tokio::test]
async fn a_whole_life_of_a_build() {
    let cloud = cloud();
    let strangers = cloud.strangers();
    assert!(strangers.len() > 30, "{strangers:#?}");
    let caller = Caller::enter(&cloud.environment()).await;
    let directory = tempfile::tempdir().expect("a directory");
    let (private, public) = key(&directory);
    let pair = json!({ "keypair": { "name": "ours", "public_key": public } });
    assert_eq!(caller.send(Method::POST, "compute", "/os-keypairs", &pair).await.status(), StatusCode::CREATED);
    assert_eq!(caller.send(Method::POST, "compute", "/os-keypairs", &pair).await.status(), StatusCode::CONFLICT);

    let id = caller.boot(&cloud, "ours", &json!({ "key_name": "ours", "tags": ["mine"] })).await;
    let server = caller.server(&id).await;
    assert_eq!((&server["status"], &server["addresses"]), (&json!("BUILD"), &json!({})));
    cloud.advance(Duration::from_secs(5));
    let server = caller.server(&id).await;
    assert_eq!((&server["status"], &server["tags"]), (&json!("ACTIVE"), &json!(["mine"])));
    let address = server["addresses"]["private"][0]["addr"].as_str().expect("an address").to_owned();

    // Its inside: commands, files that stay, an end.
    assert_eq!(
        ssh(&cloud, &private, &address, "echo kept >/root/kept; cat /etc/hostname; exit 7"),
        (Some(7), "ours\n".to_owned())
    );
    let clean = "rm -f /etc/ssh/ssh_host_* /root/.ssh/authorized_keys; systemctl poweroff";
    assert_eq!(ssh(&cloud, &private, &address, clean).0, Some(0));
    cloud.advance(Duration::from_secs(1));
    let _seen = caller.server(&id).await;
    cloud.advance(Duration::from_secs(2));
    assert_eq!(caller.server(&id).await["status"], "SHUTOFF");

    let action = format!("/servers/{id}/action");
    let make = json!({ "createImage": { "name": "made", "metadata": { "ours": "1" } } });
    let answer = caller.send(Method::POST, "compute", &action, &make).await;
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    let image = body(answer).await["image_id"].as_str().expect("an id").to_owned();
    assert_eq!(caller.send(Method::POST, "compute", &action, &make).await.status(), StatusCode::CONFLICT);
    let image_path = format!("/images/{image}");
    let mut states = Vec::new();
    for _ in 0..4 {
        let task = caller.server(&id).await["OS-EXT-STS:task_state"].clone();
        states.push((task, caller.get("image", &image_path).await["status"].clone()));
        cloud.advance(Duration::from_millis(1100));
    }
    let expected = [("image_snapshot", "queued"), ("image_uploading", "saving"), ("image_uploading", "saving")];
    let expected = expected.map(|(task, status)| (json!(task), json!(status)));
    assert_eq!((&states[..3], &states[3]), (&expected[..], &(Value::Null, json!("active"))));
    let made = caller.get("image", &image_path).await;
    assert_eq!(
        (&made["ours"], &made["instance_uuid"], &made["hw_rng_model"]),
        (&json!("1"), &json!(id), &json!("virtio"))
    );
    assert_eq!(made["min_disk"], 2);
    let bytes = caller.request(Method::GET, "image", &format!("{image_path}/file")).send().await.expect("an answer");
    let bytes = bytes.bytes().await.expect("bytes");
    assert_eq!((made["size"].as_u64(), &bytes[..4]), (Some(bytes.len() as u64), &b"QFI\xfb"[..]));
    assert_eq!(cloud.image_file(&image, "root/kept").as_deref(), Some("kept\n"));
    assert_eq!(cloud.image_file(&image, "root/.ssh/authorized_keys"), None);

    assert_eq!(
        caller.send(Method::DELETE, "compute", &format!("/servers/{id}"), &Value::Null).await.status(),
        StatusCode::NO_CONTENT
    );
    assert_eq!(caller.server(&id).await["OS-EXT-STS:task_state"], "deleting");
    cloud.advance(Duration::from_secs(5));
    let gone = caller.request(Method::GET, "compute", &format!("/servers/{id}")).send().await.expect("an answer");
    assert_eq!(gone.status(), StatusCode::NOT_FOUND);
    assert!(body(gone).await["itemNotFound"]["message"].is_string());
    assert_eq!(cloud.ours(), [format!("image {image} made"), "keypair ours".to_owned()]);
    assert_eq!(cloud.strangers(), strangers);
    assert_eq!(cloud.violations(), [""; 0]);
}

#[tokio::test]
async fn images_are_refused_as_glance_refuses_them() {
    let cloud = cloud();
    let caller = Caller::enter(&cloud.environment()).await;
    let order = json!({ "name": "twins", "disk_format": "raw", "container_format": "bare", "visibility": "private",
        "a": "1", "tags": ["mine"] });
    let answer = caller.send(Method::POST, "image", "/images", &order).await;
    assert_eq!(answer.status(), StatusCode::CREATED);
    let path = format!("/images/{}", body(answer).await["id"].as_str().expect("an id"));
    let file = format!("{path}/file");
    assert_eq!(caller.request(Method::GET, "image", &file).send().await.expect("an answer").status(), 204);
    let upload =
        |kind: &str| caller.request(Method::PUT, "image", &file).header("content-type", kind).body("twelve bytes");
    assert_eq!(upload("text/plain").send().await.expect("an answer").status(), 415);
    assert_eq!(upload("application/octet-stream").send().await.expect("an answer").status(), 204);
    assert_eq!(upload("application/octet-stream").send().await.expect("an answer").status(), 409);
    let image = caller.get("image", &path).await;
    assert_eq!((&image["status"], &image["size"]), (&json!("active"), &json!(12)));
    let part =
        caller.request(Method::GET, "image", &file).header("range", "bytes=7-11").send().await.expect("an answer");
    assert_eq!((part.status().as_u16(), part.text().await.expect("text").as_str()), (206, "bytes"));

    let patch = async |kind: &str, operations: Value| {
        let request = caller.request(Method::PATCH, "image", &path).header("content-type", kind);
        request.body(operations.to_string()).send().await.expect("an answer").status().as_u16()
    };
    let kind = "application/openstack-images-v2.1-json-patch";
    let replace = |path: &str, value: Value| json!([{ "op": "replace", "path": path, "value": value }]);
    assert_eq!(patch("application/json", replace("/name", json!("x"))).await, 415);
    assert_eq!(patch(kind, replace("/b", json!("x"))).await, 409);
    assert_eq!(patch(kind, json!([{ "op": "remove", "path": "/b" }])).await, 409);
    assert_eq!(patch(kind, json!([{ "op": "add", "path": "/b", "value": 1 }])).await, 400);
    assert_eq!(patch(kind, json!([{ "op": "add", "path": "/size", "value": 1 }])).await, 403);
    assert_eq!(patch(kind, replace("/visibility", json!("public"))).await, 403);
    assert_eq!(patch(kind, replace("/disk_format", json!("qcow2"))).await, 403);
    let hidden = json!([{ "op": "add", "path": "/b", "value": "x" }, { "op": "remove", "path": "/a" },
        { "op": "replace", "path": "/os_hidden", "value": true }, { "op": "replace", "path": "/protected", "value": true }]);
    assert_eq!(patch(kind, hidden).await, 200);
    let delete = async || caller.request(Method::DELETE, "image", &path).send().await.expect("an answer");
    assert_eq!(delete().await.status(), 403);
    assert_eq!(caller.get("image", "/images?tag=mine").await["images"], json!([]));
    let found = caller.get("image", "/images?tag=mine&os_hidden=true&b=x").await;
    assert_eq!(found["images"][0]["name"], "twins");
    assert_eq!(patch(kind, replace("/protected", json!(false))).await, 200);
    assert_eq!(delete().await.status(), 204);
    let gone = delete().await;
    assert_eq!(
        (gone.status().as_u16(), gone.headers()["content-type"].to_str().expect("text")),
        (404, "text/html; charset=UTF-8")
    );
    let broken = ["PUT", "PATCH of an image is sent as \"application/json\""];
    let violations = cloud.violations();
    assert!(
        violations.len() == 2 && violations.iter().zip(broken).all(|(said, begins)| said.starts_with(begins)),
        "{violations:?}"
    );

    let (mut next, mut names) = ("/images?visibility=all".to_owned(), Vec::new());
    loop {
        let page = caller.get("image", &next).await;
        names.extend(page["images"].as_array().expect("a list").iter().map(|image| image["name"].clone()));
        let Some(link) = page["next"].as_str() else { break };
        next = link.trim_start_matches("/v2").to_owned();
    }
    assert_eq!((names.len(), names.iter().filter(|name| *name == "twins").count()), (9, 2));
}

#[tokio::test]
async fn an_image_is_staged_and_imported() {
    let cloud = cloud();
    let caller = Caller::enter(&cloud.environment()).await;
    let order = json!({ "name": "x", "disk_format": "raw", "container_format": "bare" });
    let answer = caller.send(Method::POST, "image", "/images", &order).await;
    assert!(answer.headers()["openstack-image-import-methods"].to_str().expect("text").contains("glance-direct"));
    let path = format!("/images/{}", body(answer).await["id"].as_str().expect("an id"));
    let import = json!({ "method": { "name": "glance-direct" } });
    let import =
        async || caller.send(Method::POST, "image", &format!("{path}/import"), &import).await.status().as_u16();
    assert_eq!(import().await, 409);
    let stage = caller.request(Method::PUT, "image", &format!("{path}/stage"));
    let stage = stage.header("content-type", "application/octet-stream").body("bytes").send().await;
    assert_eq!(stage.expect("an answer").status(), 204);
    assert_eq!(caller.get("image", &path).await["status"], "uploading");
    assert_eq!(import().await, 202);
    assert_eq!(caller.get("image", &path).await["status"], "importing");
    cloud.advance(Duration::from_secs(2));
    assert_eq!(caller.get("image", &path).await["status"], "active");
    assert_eq!(cloud.violations(), [""; 0]);
}

#[tokio::test]
async fn servers_are_refused_as_nova_refuses_them() {
    let cloud = cloud();
    let caller = Caller::enter(&cloud.environment()).await;
    let order = async |change: &[(&str, Value)]| {
        let mut server = json!({ "name": "x", "imageRef": cloud.base_image(), "flavorRef": "1", "networks": "none" });
        change.iter().for_each(|(key, value)| server[*key] = value.clone());
        let answer = caller.send(Method::POST, "compute", "/servers", &json!({ "server": server })).await;
        (answer.status().as_u16(), body(answer).await)
    };
    let missing = order(&[("imageRef", json!("6c2f9a35-3f4d-4a86-9c42-999999999999"))]).await;
    assert_eq!(missing, (400, json!({ "badRequest": { "code": 400, "message": "Can not find requested image" } })));
    assert_eq!(order(&[("flavorRef", json!("999"))]).await.0, 400);
    assert_eq!(order(&[("key_name", json!("nobody's"))]).await.0, 400);
    assert_eq!(order(&[("networks", Value::Null)]).await.0, 400);
    assert_eq!(order(&[("networks", json!("auto"))]).await.0, 409);
    assert_eq!(order(&[("networks", json!([{ "uuid": cloud.network("provider") }]))]).await.0, 403);
    assert_eq!(order(&[("user_data", json!("not base64!"))]).await.0, 400);
    assert_eq!(cloud.violations(), [""; 0]);
    assert_eq!(order(&[("flavour", json!("1"))]).await.0, 400);
    assert_eq!(order(&[("tags", json!(["a,b"]))]).await.0, 400);
    assert_eq!(cloud.violations().len(), 2);

    cloud.quota(crate::fake::Quota { instances: 4, ..Default::default() });
    let id = caller.boot(&cloud, "x", &json!({})).await;
    let (status, said) = order(&[]).await;
    assert_eq!(
        (status, said["forbidden"]["message"].as_str().is_some_and(|said| said.starts_with("Quota exceeded"))),
        (403, true)
    );
    let act = async |action: Value| {
        caller.send(Method::POST, "compute", &format!("/servers/{id}/action"), &action).await.status()
    };
    assert_eq!(act(json!({ "os-getConsoleOutput": {} })).await, 409);
    assert_eq!(act(json!({ "createImage": { "name": "x" } })).await, 409);
    cloud.advance(Duration::from_secs(5));
    assert_eq!(act(json!({ "os-stop": null })).await, 202);
    assert_eq!(act(json!({ "os-stop": null })).await, 409);
    cloud.advance(Duration::from_secs(5));
    assert_eq!(act(json!({ "os-stop": null })).await, 409);
    let ask = caller.http.get(caller.url("compute", "/servers")).header("x-auth-token", &caller.token);
    let answer = ask.header("x-openstack-nova-api-version", "2.999").send().await.expect("an answer");
    assert_eq!((answer.status().as_u16(), body(answer).await["computeFault"]["code"].clone()), (406, json!(406)));
    let delete =
        async || caller.request(Method::DELETE, "compute", &format!("/servers/{id}")).send().await.expect("an answer");
    assert_eq!((delete().await.status().as_u16(), delete().await.status().as_u16()), (204, 204));
    cloud.advance(Duration::from_secs(5));
    assert_eq!(delete().await.status(), 404);
}

#[tokio::test]
async fn a_floating_address_leads_to_the_guest_whose_host_key_came_with_user_data() {
    let cloud = cloud();
    let caller = Caller::enter(&cloud.environment()).await;
    let directory = tempfile::tempdir().expect("a directory");
    let (private, public) = key(&directory);
    let port = json!({ "port": { "network_id": cloud.network("private"), "name": "ours" } });
    let answer = body(caller.send(Method::POST, "network", "/ports", &port).await).await;
    let port = answer["port"]["id"].as_str().expect("an id").to_owned();
    let host_key = std::fs::read_to_string(&private).expect("made");
    let config = json!({ "ssh_authorized_keys": [public], "ssh_keys": { "ed25519_private": host_key }, "mounts": [] });
    let data = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, format!("#cloud-config\n{config}"));
    let id = caller.boot(&cloud, "ours", &json!({ "user_data": data, "networks": [{ "port": port }] })).await;
    assert_eq!(cloud.violations(), ["user data has \"mounts\", which the guest does not know"]);
    cloud.advance(Duration::from_secs(5));
    let console = json!({ "os-getConsoleOutput": { "length": 10 } });
    let console = body(caller.send(Method::POST, "compute", &format!("/servers/{id}/action"), &console).await).await;
    let shown = public.split(' ').nth(1).expect("a key");
    assert!(console["output"].as_str().expect("text").contains(shown), "{console}");

    let tagged =
        json!({ "floatingip": { "floating_network_id": cloud.network("provider"), "port_id": port, "tags": ["x"] } });
    assert_eq!(caller.send(Method::POST, "network", "/floatingips", &tagged).await.status(), 400);
    let order = json!({ "floatingip": { "floating_network_id": cloud.network("provider"), "port_id": port } });
    let ip = body(caller.send(Method::POST, "network", "/floatingips", &order).await).await["floatingip"].clone();
    let address = ip["floating_ip_address"].as_str().expect("an address").to_owned();
    let ip = format!("/floatingips/{}", ip["id"].as_str().expect("an id"));
    let tags = caller.send(Method::PUT, "network", &format!("{ip}/tags"), &json!({ "tags": ["mine"] })).await;
    assert_eq!(tags.status(), 200);
    let listed = caller.get("network", "/floatingips?tags=mine").await;
    assert_eq!(listed["floatingips"].as_array().map(Vec::len), Some(1));
    assert_eq!(ssh(&cloud, &private, &address, "echo in").1, "in\n");
    assert_eq!(
        caller.get("network", &format!("/ports?device_id={id}")).await["ports"].as_array().map(Vec::len),
        Some(1)
    );

    let group = body(
        caller
            .send(Method::POST, "network", "/security-groups", &json!({ "security_group": { "name": "ours" } }))
            .await,
    )
    .await;
    let rule = json!({ "security_group_rule": { "security_group_id": group["security_group"]["id"], "direction": "ingress",
        "ethertype": "IPv4", "protocol": "tcp", "port_range_min": 22, "port_range_max": 22 } });
    let make = async || caller.send(Method::POST, "network", "/security-group-rules", &rule).await;
    assert_eq!(make().await.status(), 201);
    let twice = make().await;
    assert_eq!(
        (twice.status().as_u16(), body(twice).await["NeutronError"]["type"].clone()),
        (409, json!("SecurityGroupRuleExists"))
    );
    cloud.quota(crate::fake::Quota { floating_ips: 1, ..Default::default() });
    let more = body(caller.send(Method::POST, "network", "/floatingips", &order).await).await;
    assert_eq!(more["NeutronError"]["type"], "OverQuota");

    // A port that was there before its server outlives it.
    assert_eq!(
        caller.request(Method::DELETE, "compute", &format!("/servers/{id}")).send().await.expect("an answer").status(),
        204
    );
    cloud.advance(Duration::from_secs(5));
    assert_eq!(caller.get("network", &format!("/ports/{port}")).await["port"]["device_id"], "");
}

#[tokio::test]
async fn tokens_end_and_are_revoked() {
    let cloud = Cloud::start(Settings { scale: 1, token_life: Duration::from_secs(1000), ..Settings::default() });
    let caller = Caller::enter(&cloud.environment()).await;
    let status = async |kind: &str, path: &str| {
        caller.request(Method::GET, kind, path).send().await.expect("an answer").status().as_u16()
    };
    assert_eq!((status("compute", "/servers").await, status("image", "/images").await), (200, 200));
    cloud.revoke_tokens();
    // Nova has seen it, and believes it for five minutes more.
    assert_eq!((status("compute", "/flavors").await, status("image", "/images?tag=x").await), (200, 401));
    cloud.advance(Duration::from_secs(301));
    assert_eq!(status("compute", "/limits").await, 401);
    let later = Caller::enter(&cloud.environment()).await;
    cloud.advance(Duration::from_secs(1001));
    let answer = later.request(Method::GET, "compute", "/servers/detail").send().await.expect("an answer");
    assert_eq!((answer.status().as_u16(), body(answer).await["error"]["code"].clone()), (401, json!(401)));

    let (id, secret) = cloud.application_credential();
    let enter = async |secret: &str| {
        let given = json!({ "id": id, "secret": secret });
        let auth = json!({ "auth": { "identity": { "methods": ["application_credential"], "application_credential": given } } });
        let request =
            later.http.post(format!("{}/auth/tokens", cloud.auth_url())).header("content-type", "application/json");
        request.body(auth.to_string()).send().await.expect("an answer").status().as_u16()
    };
    assert_eq!((enter("guessed").await, enter(&secret).await), (401, 201));
    assert_eq!(cloud.violations(), [""; 0]);
}

#[tokio::test]
async fn what_a_client_does_wrong_is_remembered() {
    let cloud = cloud();
    let caller = Caller::enter(&cloud.environment()).await;
    let none = caller.http.get(caller.url("compute", "/flavors")).header("x-auth-token", &caller.token).send().await;
    assert_eq!(none.expect("an answer").status(), 200);
    for _ in 0..6 {
        caller.get("compute", "/servers").await;
    }
    let stranger = cloud.strangers().keys().find(|key| key.contains("-0101-")).expect("one").clone();
    let stranger = stranger.split(' ').nth(1).expect("an id").to_owned();
    let delete = caller.request(Method::DELETE, "compute", &format!("/servers/{stranger}")).send().await;
    assert_eq!(delete.expect("an answer").status(), 204);
    let elsewhere = caller.catalogue[1]["endpoints"][1]["url"].as_str().expect("an address").to_owned();
    caller.http.get(elsewhere).header("x-auth-token", &caller.token).send().await.expect("an answer");
    cloud.fault(Fault::on(Service::Nova, "GET", "/limits", Effect::Refuse { status: 429, retry_after: Some(30) }));
    let answer = caller.request(Method::GET, "compute", "/limits").send().await.expect("an answer");
    assert_eq!(answer.headers()["retry-after"], "30");
    assert!(body(answer).await["overLimit"]["code"] == 429);
    // Long enough that it can't have been on its way when that was said.
    cloud.advance(Duration::from_secs(1));
    caller.get("compute", "/flavors").await;
    // What was asked for is in seconds of the wall.
    cloud.advance(Duration::from_secs(30));
    let id = caller.boot(&cloud, "ours", &json!({})).await;
    cloud.advance(Duration::from_secs(5));
    let action = format!("/servers/{id}/action");
    caller.send(Method::POST, "compute", &action, &json!({ "createImage": { "name": "x" } })).await;
    let unknown = caller.request(Method::GET, "network", "/trunks").send().await.expect("an answer");
    assert_eq!(unknown.status(), 404);
    let said = cloud.violations();
    for (at, part) in [
        "GET /flavors has no microversion",
        "GET Nova /v2.1/servers is asked too fast",
        "touches the server web-server, which it did not make",
        "goes with a token where the catalogue does not lead",
        "before Retry-After has passed",
        "which runs",
        "GET /trunks is no call that the fake Neutron knows",
    ]
    .into_iter()
    .enumerate()
    {
        assert!(said[at].contains(part), "{part}: {said:#?}");
    }
    assert_eq!(said.len(), 7, "{said:#?}");
}

#[tokio::test]
async fn trouble_happens_as_it_was_ordered() {
    let cloud = cloud();
    let caller = Caller::enter(&cloud.environment()).await;
    // A lost reply, and an error after the work was done: the server is there both times.
    let order =
        json!({ "server": { "name": "x", "imageRef": cloud.base_image(), "flavorRef": "1", "networks": "none" } });
    let create = async || {
        let request = caller.request(Method::POST, "compute", "/servers").header("content-type", "application/json");
        request.body(order.to_string()).send().await.map(|answer| answer.status().as_u16())
    };
    cloud.fault(Fault::on(Service::Nova, "POST", "/servers", Effect::LoseReply));
    assert!(create().await.is_err());
    cloud.fault(Fault::on(Service::Nova, "POST", "/servers", Effect::DoneButRefuse { status: 500 }).after(1));
    assert_eq!((create().await.expect("an answer"), create().await.expect("an answer")), (202, 500));
    assert_eq!(cloud.ours().len(), 3);
    cloud.fault(Fault::on(Service::Nova, "POST", "/servers", Effect::LoseRequest));
    assert!(create().await.is_err());
    assert_eq!((cloud.ours().len(), cloud.count("POST", "/servers"), cloud.struck().len()), (3, 3, 3));
    assert!(cloud.server("x").is_some());

    // Fates of servers.
    cloud.next_server(ServerFate::Error { code: 500, message: "No valid host was found. ".to_owned() });
    cloud.next_server(ServerFate::LateToAppear(Duration::from_secs(1)));
    let broken = caller.boot(&cloud, "broken", &json!({})).await;
    let late = caller.boot(&cloud, "late", &json!({})).await;
    let look = async |id: &str| {
        let path = format!("/servers/{id}");
        caller.request(Method::GET, "compute", &path).send().await.expect("an answer").status().as_u16()
    };
    assert_eq!(look(&late).await, 404);
    cloud.advance(Duration::from_secs(5));
    assert_eq!(look(&late).await, 200);
    let broken = caller.server(&broken).await;
    assert_eq!(
        (&broken["status"], &broken["fault"]["message"]),
        (&json!("ERROR"), &json!("No valid host was found. "))
    );

    // A proxy, a redirect, a token that ends in the middle.
    cloud.fault(Fault::on(Service::Glance, "GET", "/images", Effect::Proxy { status: 404 }));
    cloud.fault(Fault::on(Service::Glance, "GET", "/images", Effect::Redirect { status: 307 }).after(1));
    cloud.fault(Fault::on(Service::Glance, "GET", "/images", Effect::Unauthorized).after(2));
    let mut seen = Vec::new();
    for _ in 0..4 {
        let answer = caller.request(Method::GET, "image", "/images").send().await.expect("an answer");
        seen.push(answer.status().as_u16());
    }
    assert_eq!(seen, [404, 307, 401, 401]);
    assert_eq!(cloud.violations(), [""; 0]);
}

#[tokio::test]
async fn trouble_with_bytes_happens_as_it_was_ordered() {
    let cloud = cloud();
    let caller = Caller::enter(&cloud.environment()).await;
    let upload = async || {
        let order = json!({ "name": "x", "disk_format": "raw", "container_format": "bare" });
        let made = body(caller.send(Method::POST, "image", "/images", &order).await).await;
        let id = made["id"].as_str().expect("an id").to_owned();
        let put = caller.request(Method::PUT, "image", &format!("/images/{id}/file"));
        let sent = put.header("content-type", "application/octet-stream").body(vec![7; 1000]).send().await;
        cloud.advance(Duration::from_secs(5));
        (
            id.clone(),
            sent.map(|answer| answer.status().as_u16()).ok(),
            cloud.image(&id).expect("there")["status"].clone(),
        )
    };
    cloud.next_image(ImageFate::StuckSaving);
    assert_eq!((upload().await.1, upload().await.2), (Some(204), json!("active")));
    cloud.next_image(ImageFate::Killed);
    assert_eq!(upload().await.2, "killed");
    cloud.fault(Fault::on(Service::Glance, "PUT", "/images/*/file", Effect::CutUpload { after: 10 }));
    let (_, status, left) = upload().await;
    assert_eq!((status, left), (None, json!("saving")));
    let (id, ..) = upload().await;
    cloud.fault(Fault::on(Service::Glance, "GET", "/images/*/file", Effect::CutDownload { after: 10 }));
    let file = caller.request(Method::GET, "image", &format!("/images/{id}/file")).send().await.expect("an answer");
    assert!(file.status() == 200 && file.bytes().await.is_err());

    // A request that waits until it is let through.
    let gate = crate::fake::faults::Gate::new();
    cloud.fault(Fault::on(Service::Nova, "GET", "/limits", Effect::Hold(gate.clone())));
    let held = caller.request(Method::GET, "compute", "/limits").send();
    let held = tokio::spawn(held);
    gate.arrived().await;
    cloud.reached(|seen| seen.service == Service::Nova && seen.path == "/limits" && seen.status == 0).await;
    gate.open();
    assert_eq!(held.await.expect("no panic").expect("an answer").status(), 200);
    assert_eq!(cloud.violations(), [""; 0]);
}

#[tokio::test]
async fn servers_and_images_meet_their_fates() {
    let cloud = cloud();
    let caller = Caller::enter(&cloud.environment()).await;
    let directory = tempfile::tempdir().expect("a directory");
    let (private, public) = key(&directory);
    let pair = json!({ "keypair": { "name": "ours", "public_key": public } });
    assert_eq!(caller.send(Method::POST, "compute", "/os-keypairs", &pair).await.status(), StatusCode::CREATED);
    for fate in [
        ServerFate::StuckInBuild,
        ServerFate::Mute,
        ServerFate::SlowDelete(Duration::from_secs(600)),
        ServerFate::NeverOff,
    ] {
        cloud.next_server(fate);
    }
    let boot = async |name: &str| caller.boot(&cloud, name, &json!({ "key_name": "ours" })).await;
    let (stuck, mute, slow, on) = (boot("stuck").await, boot("mute").await, boot("slow").await, boot("on").await);
    cloud.advance(Duration::from_secs(3600));
    assert_eq!(caller.server(&stuck).await["status"], "BUILD");
    let address = async |id: &str| {
        caller.server(id).await["addresses"]["private"][0]["addr"].as_str().expect("an address").to_owned()
    };
    assert_eq!(ssh(&cloud, &private, &address(&mute).await, "true").0, Some(255));
    assert_eq!(ssh(&cloud, &private, &address(&on).await, "poweroff").0, Some(0));
    assert_eq!(caller.send(Method::DELETE, "compute", &format!("/servers/{slow}"), &Value::Null).await.status(), 204);
    cloud.advance(Duration::from_secs(599));
    assert_eq!(caller.server(&slow).await["OS-EXT-STS:task_state"], "deleting");
    assert_eq!(caller.server(&on).await["status"], "ACTIVE");
    cloud.advance(Duration::from_secs(2));
    let action = format!("/servers/{on}/action");
    assert_eq!(caller.send(Method::POST, "compute", &action, &json!({ "os-stop": null })).await.status(), 202);
    cloud.advance(Duration::from_secs(2));

    cloud.next_image(ImageFate::StuckQueued);
    let gate = crate::fake::faults::Gate::new();
    cloud.fault(Fault::on(Service::Nova, "POST", "/servers/*/action", Effect::HoldReply(gate.clone())));
    let make = json!({ "createImage": { "name": "made" } });
    let (made, ()) = tokio::join!(caller.send(Method::POST, "compute", &action, &make), async {
        gate.arrived().await;
        gate.open();
    });
    let made = body(made).await["image_id"].as_str().expect("an id").to_owned();
    cloud.advance(Duration::from_secs(60));
    let at = cloud.seen().last().expect("some").at;
    assert_eq!(
        (cloud.image(&made).expect("there")["status"].clone(), at > Duration::from_secs(3600)),
        (json!("queued"), true)
    );
    assert_eq!(caller.server(&on).await["OS-EXT-STS:task_state"], Value::Null);
    cloud.next_image(ImageFate::Corrupted);
    let made = body(caller.send(Method::POST, "compute", &action, &make).await).await["image_id"].clone();
    cloud.advance(Duration::from_secs(60));
    assert_eq!(cloud.image(made.as_str().expect("an id")).expect("there")["status"], "active");

    // By chance, and no less often than was asked for.
    cloud.storm(Some(Storm::new(7, 5, 5)));
    cloud.fault(Fault::on(Service::Glance, "GET", "/images", Effect::Proxy { status: 502 }).times(2));
    let mut statuses = Vec::new();
    for number in 0..100 {
        let path = format!("/images?tag=t{number}");
        let answer = caller.request(Method::GET, "image", &path).send().await;
        statuses.push(answer.map_or(0, |answer| answer.status().as_u16()));
    }
    cloud.storm(None);
    assert_eq!(statuses[..2], [502, 502]);
    let struck = cloud.struck().len();
    assert!((4..30).contains(&struck), "{struck}: {statuses:?}");
    assert_eq!(cloud.violations(), [""; 0]);
}
