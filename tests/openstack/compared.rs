//! The real Keystone and Glance: the fake beside them, with the same questions and answers; the driver with them.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use factoryd::domain::id::{BuildNo, Digest, DiskId, ImageId};
use factoryd::domain::image::ImageState;
use factoryd::domain::pipeline::DiskFormat;
use factoryd::engine::ports::{BaseSource, Driver, ImageOrder, LineSink, Lines, Wait};
use factoryd::machine::openstack::OpenStack;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::caller::{Caller, body};
use crate::fake::{Cloud, Settings};
use crate::real::RealCloud;

/// The real ones, brought up once for all who ask them; they go down with this process.
fn real() -> &'static RealCloud {
    static REAL: OnceLock<RealCloud> = OnceLock::new();
    // In memory where that can be had: nothing here is to last.
    let memory = Path::new("/dev/shm");
    let below = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    REAL.get_or_init(|| RealCloud::up(&below, &["keystone", "glance"]))
}

#[tokio::test]
async fn the_fake_says_what_the_real_keystone_and_glance_say() {
    let fake = Cloud::start(Settings::default());
    let said = conversation(&fake.environment()).await;
    let truth = conversation(&real().environment("demo")).await;
    assert_eq!(said.join("\n"), truth.join("\n"));
}

#[tokio::test]
async fn a_base_image_is_uploaded_published_and_removed_at_the_real_glance() {
    let caller = Caller::enter(&real().environment("demo")).await;
    // Somebody else's, called and marked as if it were ours.
    let theirs = json!({ "name": "web-2026", "disk_format": "raw", "container_format": "bare", "tags": ["factoryd"],
        "factoryd_factory": "elsewhere", "factoryd_build": "7", "factoryd_image": IMAGE });
    let theirs = body(caller.send(Method::POST, "image", "/images", &theirs).await).await;
    let theirs = format!("/images/{}", theirs["id"].as_str().expect("an id"));
    let before = caller.get("image", &theirs).await;

    let state = tempfile::tempdir().expect("a directory");
    let driver = OpenStack::new(real().settings(state.path())).expect("the directory can be used");
    let raw = state.path().join("disk.raw");
    std::fs::write(&raw, vec![7; 3 << 20]).expect("written");
    let source = BaseSource::File { path: raw, format: DiskFormat::Raw };
    let base = driver.base(&source, &lines(), &wait()).await.expect("uploaded");
    assert_eq!(driver.base(&source, &lines(), &wait()).await.expect("again"), base);
    assert!(driver.has(&base.disk).await.expect("an answer"));

    let keep = DiskId::new(IMAGE);
    let mut order = ImageOrder {
        build: BuildNo(7),
        image: ImageId::new(IMAGE.trim_start_matches("image-")),
        name: "web-2026".to_owned(),
        properties: vec![("cw_bundle".to_owned(), "web".to_owned()), ("img_os".to_owned(), "debian".to_owned())],
        min_disk: 4,
    };
    let published = driver.publish(&base.disk, &keep, &order, &lines(), &wait()).await.expect("published");
    let path = format!("/images/{}", published.copy.id);
    let image = caller.get("image", &path).await;
    let shown =
        ["name", "status", "visibility", "cw_bundle", "img_os"].map(|key| image[key].as_str().unwrap_or("none"));
    assert_eq!(shown, ["web-2026", "active", "private", "web", "debian"]);
    assert_eq!((image["min_disk"].as_u64(), image["size"].as_u64()), (Some(4), Some(published.size)));
    let mut bytes = Vec::new();
    driver.read(&keep).await.expect("it is there").read_to_end(&mut bytes).await.expect("read");
    assert_eq!((Digest::of(&bytes), bytes.len() as u64), (published.sha256, published.size));

    // Another name, a property less, and hidden from who would begin to use it.
    order.name = "web-2027".to_owned();
    order.properties.pop();
    driver.amend(&published.copy, &order).await.expect("amended");
    driver.show(&published.copy, ImageState::Deprecated).await.expect("hidden");
    let image = caller.get("image", &path).await;
    assert_eq!(
        (&image["name"], &image["img_os"], &image["os_hidden"]),
        (&json!("web-2027"), &Value::Null, &json!(true))
    );
    assert_eq!(driver.disks().await.expect("a list").len(), 2);

    for disk in [&keep, &base.disk, &keep] {
        driver.remove(disk).await.expect("removed, or gone already");
    }
    assert_eq!(driver.disks().await.expect("a list"), []);
    let gone = caller.request(Method::GET, "image", &path).send().await.expect("an answer");
    assert_eq!(gone.status(), 404);
    assert_eq!(caller.get("image", &theirs).await, before);
}

const IMAGE: &str = "image-1b4e28ba-2fa1-41d2-883f-0016d3cca427";

fn lines() -> Lines {
    struct Nobody;
    impl LineSink for Nobody {
        fn line(&self, _: &[u8]) {}
    }
    Arc::new(Nobody)
}

fn wait() -> Wait {
    Wait { cancel: CancellationToken::new(), deadline: Instant::now() + Duration::from_secs(120) }
}

/// What was asked and how it was answered.
struct Talk<'c> {
    caller: &'c Caller,
    said: Vec<String>,
}

impl Talk<'_> {
    /// Notes an answer: its status, and what of its shape a client goes by.
    async fn note(&mut self, question: &str, answer: Response) -> Value {
        let status = answer.status().as_u16();
        let kind = answer.headers().get("content-type").map(|kind| kind.to_str().expect("text").to_owned());
        let kind = kind.unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().to_owned();
        let body = body(answer).await;
        let keys = |value: &Value| value.as_object().map(|map| map.keys().cloned().collect::<Vec<_>>().join(" "));
        // Of an error also which keys it has: `error`, and in it `code message title`.
        let shape = match status {
            400.. if body.is_object() => {
                let inside = body.as_object().and_then(|map| map.values().next()).and_then(keys);
                format!(" {} {}", keys(&body).unwrap_or_default(), inside.unwrap_or_default())
            }
            _ => String::new(),
        };
        // Nobody goes by the type of a body that is not there.
        let kind = if status == 204 || status == 202 { String::new() } else { kind };
        self.said.push(format!("{question}: {status} {kind}{shape}"));
        body
    }

    async fn send(&mut self, question: &str, method: Method, path: &str, json: &Value) -> Value {
        let answer = self.caller.send(method, "image", path, json).await;
        self.note(question, answer).await
    }

    async fn bytes(&mut self, question: &str, path: &str, kind: &str, bytes: &'static str) {
        let request = self.caller.request(Method::PUT, "image", path).header("content-type", kind);
        let answer = request.body(bytes).send().await.expect("an answer");
        self.note(question, answer).await;
    }

    async fn get(&mut self, question: &str, path: &str, range: Option<&str>) -> Value {
        let request = self.caller.request(Method::GET, "image", path);
        let request = range.into_iter().fold(request, |request, range| request.header("range", range));
        let answer = request.send().await.expect("an answer");
        self.note(question, answer).await
    }

    async fn patch(&mut self, question: &str, path: &str, operation: &Value) {
        let kind = "application/openstack-images-v2.1-json-patch";
        self.patch_as(question, path, kind, operation).await;
    }

    async fn patch_as(&mut self, question: &str, path: &str, kind: &str, operation: &Value) {
        let request = self.caller.request(Method::PATCH, "image", path).header("content-type", kind);
        let answer = request.body(json!([operation]).to_string()).send().await.expect("an answer");
        self.note(question, answer).await;
    }

    /// Notes what an image says of itself.
    async fn look(&mut self, question: &str, path: &str) {
        let image = self.caller.get("image", path).await;
        let kinds = image.as_object().expect("a map").iter().map(|(key, value)| match value {
            Value::String(text) if ["status", "visibility", "disk_format", "a", "b"].contains(&key.as_str()) => {
                format!("{key}={text}")
            }
            Value::Number(number) if key != "virtual_size" => format!("{key}={number}"),
            Value::Null if key == "virtual_size" => "virtual_size".to_owned(),
            Value::Null => format!("{key}=null"),
            Value::Bool(flag) => format!("{key}={flag}"),
            _ => key.clone(),
        });
        let mut kinds: Vec<String> = kinds.collect();
        kinds.sort();
        self.said.push(format!("{question}: {}", kinds.join(" ")));
    }

    /// Waits until an image has a status.
    async fn until(&mut self, path: &str, status: &str) {
        let mut pause = tokio::time::interval(Duration::from_millis(100));
        let looked = async {
            while self.caller.get("image", path).await["status"] != status {
                pause.tick().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), looked).await.expect("the status comes within a minute");
        self.said.push(format!("at last {status}"));
    }
}

async fn conversation(environment: &[(String, String)]) -> Vec<String> {
    let caller = Caller::enter(environment).await;
    let mut talk = Talk { caller: &caller, said: Vec::new() };
    an_image_and_its_bytes(&mut talk).await;
    an_import(&mut talk).await;
    lies(&mut talk).await;
    tokens(&mut talk, environment).await;
    talk.said
}

async fn an_image_and_its_bytes(talk: &mut Talk<'_>) {
    let order = json!({ "name": "twin", "disk_format": "raw", "container_format": "bare", "visibility": "private",
        "a": "1", "tags": ["mine"] });
    let first = talk.send("create", Method::POST, "/images", &order).await;
    talk.send("another of the same name", Method::POST, "/images", &order).await;
    let id = first["id"].as_str().expect("an id");
    talk.send("another of the same id", Method::POST, "/images", &json!({ "id": id })).await;
    talk.send("a number as property", Method::POST, "/images", &json!({ "c": 1 })).await;
    talk.send("a status", Method::POST, "/images", &json!({ "status": "active" })).await;
    talk.send("public", Method::POST, "/images", &json!({ "visibility": "public" })).await;
    talk.send("an unknown format", Method::POST, "/images", &json!({ "disk_format": "floppy" })).await;
    let (path, file) = (format!("/images/{id}"), format!("/images/{id}/file"));
    talk.look("queued", &path).await;
    talk.get("download of nothing", &file, None).await;
    talk.bytes("upload as text", &file, "text/plain", "twelve bytes").await;
    talk.bytes("upload", &file, "application/octet-stream", "twelve bytes").await;
    talk.bytes("second upload", &file, "application/octet-stream", "twelve bytes").await;
    talk.look("active", &path).await;
    let part = talk.get("a range", &file, Some("bytes=7-11")).await;
    assert_eq!(part, "bytes");
    let change = |op: &str, path: &str, value: Value| json!({ "op": op, "path": path, "value": value });
    talk.patch_as("patch as json", &path, "application/json", &change("replace", "/name", json!("x"))).await;
    talk.patch("replace what is missing", &path, &change("replace", "/b", json!("x"))).await;
    talk.patch("remove what is missing", &path, &json!({ "op": "remove", "path": "/b" })).await;
    talk.patch("add a number", &path, &change("add", "/b", json!(1))).await;
    talk.patch("add", &path, &change("add", "/b", json!("x"))).await;
    talk.patch("add again", &path, &change("add", "/b", json!("y"))).await;
    talk.patch("remove", &path, &json!({ "op": "remove", "path": "/a" })).await;
    talk.patch("a size", &path, &change("replace", "/size", json!(1))).await;
    talk.patch("become public", &path, &change("replace", "/visibility", json!("public"))).await;
    talk.patch("another format", &path, &change("replace", "/disk_format", json!("qcow2"))).await;
    talk.patch("min_disk", &path, &change("replace", "/min_disk", json!(3))).await;
    talk.patch("min_disk as text", &path, &change("replace", "/min_disk", json!("3"))).await;
    talk.patch("hide", &path, &change("replace", "/os_hidden", json!(true))).await;
    talk.patch("protect", &path, &change("replace", "/protected", json!(true))).await;
    talk.look("changed", &path).await;
    talk.get("list", "/images?name=twin", None).await;
    for (question, query) in [
        ("by tag", "tag=mine"),
        ("hidden by tag", "tag=mine&os_hidden=true"),
        ("hidden by property", "b=y&os_hidden=true"),
        ("by names", "name=in:twin,x"),
        ("by name and status", "name=twin&status=queued"),
    ] {
        let found = talk.get(question, &format!("/images?{query}"), None).await;
        let count = found["images"].as_array().map(Vec::len);
        talk.said.push(format!("{question}: {count:?}"));
    }
    talk.send("delete what is protected", Method::DELETE, &path, &Value::Null).await;
    talk.patch("unprotect", &path, &change("replace", "/protected", json!(false))).await;
    talk.send("delete", Method::DELETE, &path, &Value::Null).await;
    talk.send("delete again", Method::DELETE, &path, &Value::Null).await;
    talk.get("a look at what is gone", &path, None).await;
    talk.get("bytes of what is gone", &file, None).await;
}

async fn an_import(talk: &mut Talk<'_>) {
    let methods = talk.get("ways of import", "/info/import", None).await["import-methods"]["value"].clone();
    assert!(methods.as_array().is_some_and(|methods| methods.contains(&json!("glance-direct"))), "{methods}");
    let order = json!({ "name": "x", "disk_format": "raw", "container_format": "bare" });
    let made = talk.send("create", Method::POST, "/images", &order).await;
    let path = format!("/images/{}", made["id"].as_str().expect("an id"));
    let import = json!({ "method": { "name": "glance-direct" } });
    talk.send("import of nothing", Method::POST, &format!("{path}/import"), &import).await;
    talk.bytes("stage", &format!("{path}/stage"), "application/octet-stream", "bytes").await;
    talk.look("staged", &path).await;
    talk.send("import", Method::POST, &format!("{path}/import"), &import).await;
    talk.until(&path, "active").await;
    talk.send("delete", Method::DELETE, &path, &Value::Null).await;
}

async fn lies(talk: &mut Talk<'_>) {
    let order = json!({ "name": "x", "disk_format": "qcow2", "container_format": "bare" });
    let made = talk.send("create", Method::POST, "/images", &order).await;
    let path = format!("/images/{}", made["id"].as_str().expect("an id"));
    talk.bytes("no qcow2", &format!("{path}/file"), "application/octet-stream", "this is no qcow2").await;
    talk.look("and yet", &path).await;
    let made = talk.send("create without format", Method::POST, "/images", &json!({ "name": "x" })).await;
    let path = format!("/images/{}", made["id"].as_str().expect("an id"));
    talk.bytes("upload without format", &format!("{path}/file"), "application/octet-stream", "bytes").await;
}

async fn tokens(talk: &mut Talk<'_>, environment: &[(String, String)]) {
    let caller = talk.caller;
    let env =
        |name: &str| environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()).expect("given");
    let keystone = env("OS_AUTH_URL");
    let user = json!({ "name": env("OS_USERNAME"), "domain": { "id": "default" }, "password": "guessed" });
    let scope = json!({ "project": { "name": env("OS_PROJECT_NAME"), "domain": { "id": "default" } } });
    let guessed =
        json!({ "auth": { "identity": { "methods": ["password"], "password": { "user": user } }, "scope": scope } });
    let post = async |path: String, body: &Value| {
        let request = caller.http.post(format!("{keystone}{path}")).header("x-auth-token", &caller.token);
        request.header("content-type", "application/json").body(body.to_string()).send().await.expect("an answer")
    };
    let answer = post("/auth/tokens".to_owned(), &guessed).await;
    talk.note("a guessed password", answer).await;
    let answer = post("/auth/tokens".to_owned(), &json!({})).await;
    talk.note("no auth", answer).await;
    let credentials = format!("/users/{}/application_credentials", caller.user.as_str().expect("an id"));
    let order = json!({ "application_credential": { "name": "factory" } });
    let made =
        talk.note("a credential", post(credentials.clone(), &order).await).await["application_credential"].clone();
    talk.note("the same once more", post(credentials, &order).await).await;
    let by = |secret: &Value, scope: Option<&Value>| {
        let given = json!({ "id": made["id"], "secret": secret });
        let mut auth =
            json!({ "identity": { "methods": ["application_credential"], "application_credential": given } });
        if let Some(scope) = scope {
            auth["scope"] = scope.clone();
        }
        json!({ "auth": auth })
    };
    let entered = post("/auth/tokens".to_owned(), &by(&made["secret"], None)).await;
    let token = entered.headers()["x-subject-token"].to_str().expect("text").to_owned();
    talk.note("by the credential", entered).await;
    let answer = post("/auth/tokens".to_owned(), &by(&json!("guessed"), None)).await;
    talk.note("a guessed secret", answer).await;
    let look = async |token: &str| {
        let request = caller.http.get(caller.url("image", "/images?limit=1")).header("x-auth-token", token);
        request.send().await.expect("an answer")
    };
    talk.note("its token at Glance", look(&token).await).await;
    let revoke = caller.http.delete(format!("{keystone}/auth/tokens")).header("x-auth-token", &token);
    let answer = revoke.header("x-subject-token", &token).send().await.expect("an answer");
    talk.note("revoked", answer).await;
    talk.note("no token", look("guessed").await).await;
}
