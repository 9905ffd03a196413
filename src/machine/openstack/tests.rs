//! The client against a small server that says what a healthy cloud won't say on demand.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::bytes::{OfFile, Passing, passed, sum};
use super::client::{Call, Client};
use super::credentials::Credentials;
use super::error::{ApiError, Fate, Service};
use super::pace::Pace;
use crate::domain::id::Digest;
use crate::engine::ports::{PortError, PortErrorKind};

/// A request, as the server saw it.
#[derive(Clone, Debug)]
struct Asked {
    line: String,
    token: String,
    headers: HeaderMap,
    body: Bytes,
}

type Answers = Arc<dyn Fn(&Asked) -> Response + Send + Sync>;

/// A server that gives out tokens and answers everything else as it is told.
#[derive(Clone)]
struct Play {
    answers: Answers,
    root: String,
    tokens: Arc<AtomicU32>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Play {
    async fn start(answers: impl Fn(&Asked) -> Response + Send + Sync + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let root = format!("http://{}", listener.local_addr().expect("an address"));
        let play = Self { answers: Arc::new(answers), root, tokens: Arc::default(), asked: Arc::default() };
        let app = Router::new().fallback(answer).layer(DefaultBodyLimit::disable()).with_state(play.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        play
    }

    fn client(&self) -> Client {
        let keys = [("auth_url", self.root.as_str()), ("username", "u"), ("password", "p"), ("project_id", "p1")];
        let keys = keys.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let pace = Pace { first: Duration::from_millis(2), longest: Duration::from_millis(10), ..Pace::default() };
        Client::new(Credentials::from_cloud(keys).expect("credentials"), None, pace).expect("a client")
    }

    fn lines(&self) -> Vec<String> {
        self.asked.lock().expect("no panic").iter().map(|asked| asked.line.clone()).collect()
    }
}

async fn answer(State(play): State<Play>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    if uri.path() == "/v3/auth/tokens" {
        let number = play.tokens.fetch_add(1, Ordering::SeqCst) + 1;
        let at = |path: &str| json!([{"interface": "public", "region_id": "R", "url": format!("{}{path}", play.root)}]);
        let told = json!({"token": {
            "project": {"id": "p1"}, "issued_at": "2026-01-01T00:00:00Z", "expires_at": "2026-01-01T04:00:00Z",
            "catalog": [{"type": "image", "endpoints": at("/image")}, {"type": "compute", "endpoints": at("/compute/v2.1")}],
        }});
        return (StatusCode::CREATED, [("x-subject-token", format!("token-{number}"))], told.to_string())
            .into_response();
    }
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let asked =
        Asked { line: format!("{method} {uri}"), token: header("x-auth-token"), headers: headers.clone(), body };
    play.asked.lock().expect("no panic").push(asked.clone());
    (play.answers)(&asked)
}

fn said(status: u16, body: &Value) -> Response {
    let status = StatusCode::from_u16(status).expect("a status");
    (status, [("x-openstack-request-id", "req-1")], body.to_string()).into_response()
}

fn refused() -> Response {
    said(401, &json!({"error": {"code": 401, "title": "Unauthorized", "message": "the token is revoked"}}))
}

fn get(path: &str) -> Call {
    Call::new(Service::Image, Method::GET, path)
}

#[tokio::test]
async fn however_many_calls_find_the_token_refused_one_new_one_is_asked_for() {
    let play = Play::start(|asked| match asked.token.as_str() {
        "token-1" => refused(),
        token => said(200, &json!({"token": token})),
    })
    .await;
    let client = play.client();
    let call = get("/images");
    let one = || client.call(&call);
    let all: [_; 6] = tokio::join!(one(), one(), one(), one(), one(), one()).into();
    for answer in all {
        assert_eq!(answer.expect("an answer").body["token"], "token-2");
    }
    assert_eq!(play.tokens.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn tokens_that_are_refused_one_after_the_other_are_an_error_and_no_loop() {
    let play = Play::start(|_| refused()).await;
    let error = play.client().call(&get("/images")).await.expect_err("refused");
    assert_eq!((error.status, error.code.as_str()), (Some(401), "Unauthorized"));
    assert_eq!(PortError::from(error).kind, PortErrorKind::Refused);
    assert_eq!((play.lines().len(), play.tokens.load(Ordering::SeqCst)), (4, 4));
}

#[tokio::test]
async fn redirects_are_not_followed_with_the_token() {
    let elsewhere = Play::start(|_| said(200, &json!({}))).await;
    let to = format!("{}/stolen", elsewhere.root);
    let play = Play::start(move |_| (StatusCode::FOUND, [("location", to.clone())]).into_response()).await;
    for error in [
        play.client().call(&get("/images")).await.expect_err("a redirect"),
        play.client().image_bytes("1", None).await.expect_err("a redirect"),
    ] {
        assert!(error.message.contains("/stolen"), "{error}");
        assert!(PortError::from(error).help.contains("endpoint"));
    }
    assert!(elsewhere.lines().is_empty(), "{:?}", elsewhere.lines());
}

#[tokio::test]
async fn what_can_do_no_harm_is_asked_again_and_what_could_is_not() {
    let count = Arc::new(AtomicU32::new(0));
    let counted = count.clone();
    let play = Play::start(move |asked| {
        let before = counted.fetch_add(1, Ordering::SeqCst);
        match (asked.line.starts_with("POST"), before) {
            (false, 0) => said(500, &json!({})),
            (false, 1) => (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "0.01")]).into_response(),
            (true, 0) => (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "0")]).into_response(),
            (true, 1) => said(500, &json!({"computeFault": {"message": "it broke after it was made"}})),
            _ => said(200, &json!({"done": before})),
        }
    })
    .await;
    let client = play.client();
    assert_eq!(client.call(&get("/images")).await.expect("at last").body["done"], 2);
    count.store(0, Ordering::SeqCst);
    let create = Call::new(Service::Compute, Method::POST, "/servers").json(json!({"server": {}}));
    let error = client.call(&create).await.expect_err("in doubt");
    assert!(error.is_in_doubt() && error.message == "it broke after it was made", "{error}");
    assert_eq!(count.load(Ordering::SeqCst), 2, "503 with Retry-After was not begun with, 500 may have been done");
}

#[tokio::test]
async fn what_a_service_asks_of_one_caller_holds_for_all_and_not_for_other_services() {
    let (began, asked_to_wait) = (std::time::Instant::now(), Arc::new(Mutex::new(None)));
    let told = asked_to_wait.clone();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = seen.clone();
    let play = Play::start(move |asked| {
        let mut first = told.lock().expect("no panic");
        if asked.line == "GET /image/v2/busy" && first.is_none() {
            *first = Some(began.elapsed());
            return (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "2")]).into_response();
        }
        noted.lock().expect("no panic").push((asked.line.clone(), began.elapsed()));
        said(200, &json!({}))
    })
    .await;
    let client = play.client();
    let busy = async { client.call(&get("/busy")).await.map(drop) };
    let others = async {
        let held = async {
            while client.gates.is_open(Service::Image) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), held).await.expect("the service is left alone");
        let (nova, a, b) = (Call::new(Service::Compute, Method::GET, "/servers"), get("/a"), get("/b"));
        tokio::try_join!(client.call(&a), client.call(&b), client.call(&nova)).map(drop)
    };
    tokio::try_join!(busy, others).expect("answers at last");
    let until = asked_to_wait.lock().expect("no panic").expect("asked") + Duration::from_secs(2);
    let seen = seen.lock().expect("no panic").clone();
    let early: Vec<&str> = seen.iter().filter(|(_, at)| *at < until).map(|(line, _)| line.as_str()).collect();
    assert_eq!(early, ["GET /compute/v2.1/servers"], "{seen:?}");
    assert_eq!(seen.len(), 4, "{seen:?}");
}

#[tokio::test]
async fn a_service_that_is_not_there_is_told_from_one_that_does_not_answer() {
    let play = Play::start(|_| said(200, &json!({}))).await;
    let error = play.client().call(&Call::new(Service::Network, Method::GET, "/networks")).await.expect_err("none");
    assert_eq!(error.fate, Fate::Impossible);
    assert_eq!(error.to_string(), "GET /networks of Neutron: the cloud's catalogue has no service of type `network`");
    let nobody = [("auth_url", "http://127.0.0.1:1"), ("token", "t"), ("project_id", "p")];
    let nobody = nobody.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let pace = Pace { first: Duration::from_millis(1), attempts: 2, ..Pace::default() };
    let client = Client::new(Credentials::from_cloud(nobody).expect("credentials"), None, pace).expect("a client");
    let error = client.call(&get("/images")).await.expect_err("nobody there");
    assert_eq!((error.service, error.fate), (Service::Identity, Fate::NotSent));
    assert!(error.to_string().starts_with("Keystone is not reached for POST /auth/tokens: "), "{error}");
}

#[tokio::test]
async fn an_answer_without_end_is_cut() {
    let play = Play::start(|_| (StatusCode::BAD_REQUEST, "x".repeat(1 << 20)).into_response()).await;
    let error = play.client().call(&get("/images")).await.expect_err("refused");
    assert_eq!((error.body.len(), error.message.len()), (64 * 1024, 500));
}

#[tokio::test]
async fn an_upload_begins_again_with_a_new_token_and_is_whole() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("disk");
    let content: Vec<u8> = (0..3_000_000_u32).map(|at| at.to_le_bytes()[1]).collect();
    std::fs::write(&path, &content).expect("written");
    let play = Play::start(|asked| match asked.token.as_str() {
        "token-1" => refused(),
        _ => StatusCode::NO_CONTENT.into_response(),
    })
    .await;
    let passing = Passing::default();
    let bytes = OfFile { path, passing: passing.clone() };
    play.client().upload_image("7", &bytes).await.expect("uploaded");
    let last = play.asked.lock().expect("no panic").last().cloned().expect("asked");
    assert_eq!(last.line, "PUT /image/v2/images/7/file");
    assert_eq!(last.headers["content-type"], "application/octet-stream");
    assert!(last.body == content.as_slice(), "{} bytes arrived", last.body.len());
    assert_eq!(passed(&passing).sha256(), Digest::of(&content));
}

#[tokio::test]
async fn what_a_service_says_instead_of_bytes_is_not_taken_for_them() {
    let count = AtomicU32::new(0);
    let play = Play::start(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 => StatusCode::NO_CONTENT.into_response(),
        1 => said(404, &json!({"message": "no such image"})),
        2 => said(502, &json!({})),
        _ => (StatusCode::OK, "bytes").into_response(),
    })
    .await;
    let client = play.client();
    let error = sum(&client, "1").await.expect_err("queued");
    assert_eq!((error.fate, error.message.as_str()), (Fate::Impossible, "it has no bytes yet"));
    assert!(sum(&client, "1").await.is_err_and(|error: ApiError| error.is_gone()));
    assert_eq!(sum(&client, "1").await.expect("after a hiccup").sha256(), Digest::of(b"bytes"));
}

#[tokio::test]
async fn novas_microversion_is_read_once_and_sent_with_each_call() {
    let play = Play::start(|asked| match asked.line.as_str() {
        "GET /compute/v2.1/" => said(200, &json!({"version": {"version": "2.93", "min_version": "2.1"}})),
        _ => said(200, &json!({"flavors": [{"id": "1", "name": "nano", "vcpus": 1, "ram": 64, "disk": 1}]})),
    })
    .await;
    let client = play.client();
    let version = client.microversion().await.expect("a version");
    let nova = super::nova::Nova { client: &client, version: &version };
    assert_eq!(nova.flavors().await.expect("flavors")[0].name, "nano");
    let asked = play.asked.lock().expect("no panic").last().cloned().expect("asked");
    assert_eq!(asked.headers["openstack-api-version"], "compute 2.73");
}
