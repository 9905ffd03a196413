//! HTTP: one listener for each service, requests read and judged, answers written or lost.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use http_body_util::{BodyExt, Either, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{HeaderName, HeaderValue};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::faults::{Effect, Struck};
use super::state::State;
use super::{AT_ONCE, Inner, cinder, glance, glance_data, heat, keystone, neutron, nova};

/// The services that listen, and what listens where no client should look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Service {
    Keystone,
    Nova,
    Glance,
    Neutron,
    Cinder,
    Heat,
    /// Where redirects, version documents, other regions and other interfaces lead.
    Trap,
}

impl Service {
    pub(crate) const ALL: [Self; 7] =
        [Self::Keystone, Self::Nova, Self::Glance, Self::Neutron, Self::Cinder, Self::Heat, Self::Trap];
}

/// A request whose head was read.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) service: Service,
    pub(crate) method: String,
    /// Without the service's version: `/servers/ID`.
    pub(crate) path: String,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) headers: Vec<(String, String)>,
    /// The body, where it is JSON.
    pub(crate) json: Value,
    /// Of Nova: the microversion's minor number.
    pub(crate) version: u32,
    /// Whose token it came with.
    pub(crate) project: String,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn asked(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The parts of the path, to be matched.
    pub(crate) fn parts(&self) -> Vec<&str> {
        self.path.split('/').filter(|part| !part.is_empty()).collect()
    }
}

/// What is answered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(status: u16, body: &Value) -> Self {
        Self { status, headers: Vec::new(), body: body.to_string().into() }.with("content-type", "application/json")
    }

    pub(crate) fn empty(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub(crate) fn html(status: u16, title: &str, text: &str) -> Self {
        let page = format!(
            "<html>\n <head>\n  <title>{status} {title}</title>\n </head>\n <body>\n  <h1>{status} {title}</h1>\n  \
             {text}<br /><br />\n\n\n\n </body>\n</html>"
        );
        Self { status, headers: Vec::new(), body: page.into() }.with("content-type", "text/html; charset=UTF-8")
    }

    #[must_use]
    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

/// What a service says of an error, in its own shape.
pub(crate) fn refusal(service: Service, status: u16, message: &str) -> Answer {
    match service {
        Service::Nova | Service::Cinder => {
            let name = match status {
                400 => "badRequest",
                401 => "unauthorized",
                403 => "forbidden",
                404 => "itemNotFound",
                405 => "badMethod",
                409 => "conflictingRequest",
                413 | 429 => "overLimit",
                415 => "badMediaType",
                503 => "serviceUnavailable",
                _ => "computeFault",
            };
            Answer::json(status, &json!({ name: { "code": status, "message": message } }))
        }
        Service::Glance => Answer::html(status, title(status), message),
        Service::Neutron => neutron::refusal(status, "HTTPError", message),
        Service::Heat => heat::refusal(status, "HTTPError", message),
        Service::Keystone | Service::Trap => {
            Answer::json(status, &json!({ "error": { "code": status, "message": message, "title": title(status) } }))
        }
    }
}

fn title(status: u16) -> &'static str {
    hyper::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Error")
}

type Stream = std::pin::Pin<Box<dyn futures_util::Stream<Item = io::Result<Frame<Bytes>>> + Send>>;
type Body = Either<Full<Bytes>, StreamBody<Stream>>;

/// Accepts connections of a service for ever.
pub(crate) async fn serve(inner: Arc<Inner>, service: Service, listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let inner = inner.clone();
        tokio::spawn(async move {
            let answer = hyper::service::service_fn(|request| respond(inner.clone(), service, request));
            // An error is a reply that was lost on purpose, or a client that went away.
            let _ended =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

/// Answers one request. An error closes the connection without a word.
async fn respond(
    inner: Arc<Inner>,
    service: Service,
    request: hyper::Request<Incoming>,
) -> io::Result<hyper::Response<Body>> {
    let (head, body) = request.into_parts();
    let mut request = read(service, &head);
    let struck = begin(&inner, &mut request);
    let _counted = Counted::of(&inner);
    inner.requests.send_modify(|count| *count += 1);
    let answer = match struck {
        Ok(None) => perform(&inner, &mut request, body).await?,
        Ok(Some(struck)) => strike(&inner, &mut request, body, struck).await?,
        Err(refused) => refused,
    };
    let mut state = inner.settled();
    state.remember_answer(&request, &answer);
    let cut = state.faults.cut_download(&request);
    drop(state);
    write(answer, cut)
}

/// Lets a fault happen instead of the answer, or after it.
async fn strike(inner: &Arc<Inner>, request: &mut Request, body: Incoming, struck: Struck) -> io::Result<Answer> {
    let lost = || io::Error::other("the reply is lost");
    match struck.effect {
        Effect::LoseRequest => Err(lost()),
        Effect::LoseReply => {
            perform(inner, request, body).await?;
            Err(lost())
        }
        Effect::Refuse { status, retry_after } => {
            let mut answer = refusal(request.service, status, "ordered by the test");
            if let Some(seconds) = retry_after {
                answer = answer.with("retry-after", seconds.to_string());
            }
            Ok(answer)
        }
        Effect::DoneButRefuse { status } => {
            perform(inner, request, body).await?;
            Ok(refusal(
                request.service,
                status,
                "an unexpected error prevented the server from fulfilling your request.",
            ))
        }
        Effect::Unauthorized => {
            inner.settled().revoke(request.header("x-auth-token").unwrap_or_default());
            Ok(keystone::unauthorized(request.service))
        }
        Effect::Proxy { status } => Ok(Answer::html(status, title(status), "nginx").with("server", "nginx")),
        Effect::Redirect { status } => {
            let to = format!("{}{}", inner.settled().endpoints.trap, request.path);
            Ok(Answer::empty(status).with("location", to))
        }
        Effect::CutUpload { after } => {
            glance_data::upload(inner, request, body, Some(after)).await?;
            Err(lost())
        }
        Effect::CutDownload { .. } => perform(inner, request, body).await,
        Effect::Hold(gate) => {
            gate.pass().await;
            perform(inner, request, body).await
        }
        Effect::HoldReply(gate) => {
            let answer = perform(inner, request, body).await?;
            gate.pass().await;
            Ok(answer)
        }
    }
}

fn read(service: Service, head: &hyper::http::request::Parts) -> Request {
    let whole = head.uri.path_and_query().map_or("/", |whole| whole.as_str());
    let url = reqwest::Url::parse(&format!("http://service{whole}")).expect("a path is a part of an address");
    let query = url.query_pairs().map(|(key, value)| (key.into_owned(), value.into_owned())).collect();
    let header = |(name, value): (&HeaderName, &HeaderValue)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    Request {
        service,
        method: head.method.as_str().to_owned(),
        path: percent_decoded(url.path()),
        query,
        headers: head.headers.iter().map(header).collect(),
        json: Value::Null,
        version: 1,
        project: String::new(),
    }
}

/// A path with its escapes read. One that hides a slash stays as it is, as nothing here is called so.
fn percent_decoded(path: &str) -> String {
    // A query reads escapes, and takes + for a space, which a path does not.
    let query = reqwest::Url::parse(&format!("http://service/?{}", path.replace('+', "%2B"))).expect("escaped");
    let decoded = query.query_pairs().next().map(|(key, _)| key.into_owned()).unwrap_or_default();
    if path.to_ascii_lowercase().contains("%2f") { path.to_owned() } else { decoded }
}

/// Judges the request before its body is read: rules, token, faults.
fn begin(inner: &Inner, request: &mut Request) -> Result<Option<Struck>, Answer> {
    let mut state = inner.settled();
    state.judge(request);
    if request.service == Service::Trap {
        return Err(Answer::html(404, "Not Found", "nothing is here"));
    }
    state.strip_version(request)?;
    if let Some(struck) = state.faults.strike(request) {
        if !matches!(struck.effect, Effect::Unauthorized | Effect::LoseRequest | Effect::Refuse { .. }) {
            state.admit(request)?;
        }
        return Ok(Some(struck));
    }
    state.admit(request)?;
    Ok(None)
}

/// Reads the body and does what is asked.
async fn perform(inner: &Arc<Inner>, request: &mut Request, body: Incoming) -> io::Result<Answer> {
    if glance_data::is_upload(request) {
        return glance_data::upload(inner, request, body, None).await;
    }
    let bytes = body.collect().await.map_err(io::Error::other)?.to_bytes();
    if !bytes.is_empty() {
        let kind = request.header("content-type").unwrap_or_default().to_owned();
        match serde_json::from_slice(&bytes) {
            Ok(Value::Null) => request.json = json!({}),
            Ok(json) if kind.starts_with("application/") && kind.contains("json") => request.json = json,
            Ok(_) => {
                inner.settled().violation(format!("{} {} sends JSON as {kind:?}", request.method, request.path));
                return Ok(refusal(request.service, 415, "Unsupported Media Type"));
            }
            Err(error) => {
                inner.settled().violation(format!("{} {} sends no JSON: {error}", request.method, request.path));
                return Ok(refusal(request.service, 400, "Malformed request body"));
            }
        }
    }
    let mut state = inner.settled();
    let answer = dispatch(&mut state, request, inner);
    if answer.status == 404 && answer.headers.iter().any(|(name, _)| name == "x-fake-unknown") {
        let what = format!("{} {} is no call that the fake {:?} knows", request.method, request.path, request.service);
        state.violation(what);
    }
    Ok(answer)
}

fn dispatch(state: &mut State, request: &Request, inner: &Arc<Inner>) -> Answer {
    match request.service {
        Service::Keystone => keystone::answer(state, request),
        Service::Nova => nova::answer(state, request, &inner.runtime),
        Service::Glance => glance::answer(state, request),
        Service::Neutron => neutron::answer(state, request, &inner.runtime),
        Service::Cinder => cinder::answer(state, request),
        Service::Heat => heat::answer(state, request),
        Service::Trap => Answer::empty(404),
    }
}

/// What is answered to a call that no service knows; the client's rule is broken with it.
pub(crate) fn unknown(service: Service) -> Answer {
    refusal(service, 404, "The resource could not be found.").with("x-fake-unknown", "1")
}

fn write(answer: Answer, cut: Option<usize>) -> io::Result<hyper::Response<Body>> {
    let mut response = hyper::Response::builder().status(answer.status);
    for (name, value) in &answer.headers {
        response = response.header(name, value);
    }
    // Only services have such ids.
    if !answer.headers.iter().any(|(name, _)| name == "server") {
        response = response.header("x-openstack-request-id", format!("req-{}", uuid::Uuid::new_v4()));
    }
    let body = match cut.filter(|cut| *cut < answer.body.len()) {
        None => Either::Left(Full::new(answer.body)),
        Some(cut) => {
            response = response.header("content-length", answer.body.len());
            let part = futures_util::stream::iter([Ok(Frame::data(answer.body.slice(..cut)))]);
            // What was sent goes out before it ends.
            let end = futures_util::stream::once(async {
                tokio::task::yield_now().await;
                Err(io::Error::other("the download is cut"))
            });
            let stream: Stream = Box::pin(part.chain(end));
            Either::Right(StreamBody::new(stream))
        }
    };
    response.body(body).map_err(io::Error::other)
}

/// Counts what is asked at the same time.
struct Counted<'i>(&'i Inner);

impl<'i> Counted<'i> {
    fn of(inner: &'i Inner) -> Self {
        let mut state = inner.settled();
        state.at_once += 1;
        if state.at_once > AT_ONCE {
            let what = format!("{} requests at once, {AT_ONCE} are the most", state.at_once);
            state.violation(what);
        }
        Self(inner)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.settled().at_once -= 1;
    }
}

/// So long after an answer with `Retry-After` nobody is blamed, in the wall's time: what is on its way then comes all the
/// same.
pub(crate) const LENIENCE: Duration = Duration::from_millis(250);
