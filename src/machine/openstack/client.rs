//! The one way to the cloud's services: a token of its own accord, calls that are made again where that can do no harm,
//! and one kind of error. What the calls mean is `nova`'s, `glance`'s and `neutron`'s.
//!
//! Redirects are never followed: the token would go with them. Every call has time-outs; those that carry a disk have one
//! for silence only.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Body, Method, Response, StatusCode};
use serde_json::Value;
use tokio::sync::{Mutex, Semaphore, SemaphorePermit};

use super::credentials::Credentials;
use super::error::{ApiError, Fate, MOST_BODY, Service};
use super::gates::Gates;
use super::pace::{self, Pace};
use super::session::{self, Session};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(20);
/// How long a service may send nothing.
const SILENCE: Duration = Duration::from_secs(120);
/// How long a call without a disk in it may take.
const CALL: Duration = Duration::from_secs(120);
/// How long a transfer may take, as far as anybody can say before it.
const TRANSFER: Duration = Duration::from_secs(1800);
/// The most that is taken of an answer that is no disk, in bytes.
const MOST_ANSWER: usize = 64 << 20;
/// How often one call asks for another token: a service that refuses one after the other means the user, not the token.
const MOST_RENEWALS: usize = 3;
/// Calls that are made at once. Beyond, services get slower and not faster.
const AT_ONCE: usize = 8;

/// A call to a service.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) service: Service,
    pub(super) method: Method,
    /// Below the service's address, beginning with a slash; with its query.
    pub(super) path: String,
    pub(super) body: Option<Value>,
    pub(super) content_type: &'static str,
    pub(super) headers: Vec<(&'static str, String)>,
    /// Whether twice is as good as once although its method does not say so.
    again: bool,
}

impl Call {
    pub(super) fn new(service: Service, method: Method, path: impl Into<String>) -> Self {
        let path = path.into();
        Self { service, method, path, body: None, content_type: "application/json", headers: Vec::new(), again: false }
    }

    pub(super) fn json(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }

    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Lets it be made again where nobody knows whether it was done: whoever makes it copes with that.
    pub(super) fn repeatable(self) -> Self {
        Self { again: true, ..self }
    }

    /// How it is named in errors; the query says little there.
    fn name(&self) -> String {
        let path = self.path.split('?').next().unwrap_or_default();
        format!("{} {path}", self.method)
    }

    /// Whether making it twice is as good as once.
    fn is_repeatable(&self) -> bool {
        self.again || matches!(self.method, Method::GET | Method::HEAD | Method::PUT | Method::DELETE)
    }
}

/// What a service answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) body: Value,
}

/// What opens the bytes of an upload, once for each time it is begun.
#[async_trait::async_trait]
pub(super) trait Opens: Send + Sync {
    /// From the beginning.
    async fn open(&self) -> Result<Body, ApiError>;
}

/// The cloud.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    credentials: Credentials,
    session: Mutex<Option<Arc<Session>>>,
    at_once: Semaphore,
    pub(super) gates: Gates,
    pub(super) pace: Pace,
}

impl Client {
    /// Nothing is asked yet. `ca` is the text of the authorities' certificates.
    pub(super) fn new(credentials: Credentials, ca: Option<&[u8]>, pace: Pace) -> Result<Self, String> {
        let builder = reqwest::Client::builder()
            .redirect(Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE);
        let builder = match ca {
            None => builder,
            Some(pem) => {
                let authorities = reqwest::Certificate::from_pem_bundle(pem)
                    .map_err(|error| format!("the authorities' certificates can't be read: {error}"))?;
                builder.tls_certs_merge(authorities)
            }
        };
        let http = builder.build().map_err(|error| format!("no HTTP client: {error}"))?;
        Ok(Self {
            http,
            credentials,
            session: Mutex::default(),
            at_once: Semaphore::new(AT_ONCE),
            gates: Gates::default(),
            pace,
        })
    }

    /// Where Keystone is.
    pub(super) fn auth_url(&self) -> &str {
        &self.credentials.auth_url
    }

    /// The region that is chosen, where there is a choice.
    pub(super) fn region(&self) -> &str {
        self.credentials.region.as_deref().unwrap_or_default()
    }

    /// A session whose token lasts so long and is none of the refused ones. Whoever comes while one asks Keystone waits
    /// for that answer.
    pub(super) async fn session(&self, refused: u64, lasting: Duration) -> Result<Arc<Session>, ApiError> {
        let mut held = self.session.lock().await;
        if let Some(session) = held.as_ref().filter(|held| held.generation > refused && held.lasts(lasting)) {
            return Ok(session.clone());
        }
        let generation = held.as_ref().map_or(0, |held| held.generation) + 1;
        let mut made = 1;
        loop {
            self.gates.pass(Service::Identity).await;
            match session::authenticate(&self.http, &self.credentials, generation, CALL).await {
                Ok(session) => {
                    let session = Arc::new(session);
                    *held = Some(session.clone());
                    return Ok(session);
                }
                Err(error) if made < self.pace.attempts && (error.is_in_doubt() || error.is_untouched()) => {
                    tokio::time::sleep(self.pause(made, &error)).await;
                    made += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes a call, again where it is refused for the moment, and with a new token where that is why.
    pub(super) async fn call(&self, call: &Call) -> Result<Answer, ApiError> {
        let (mut made, mut refused, mut renewed) = (1, 0, 0);
        loop {
            let session = self.session(refused, Duration::ZERO).await?;
            let error = match self.once(call, &session).await {
                Ok(answer) => return Ok(answer),
                Err(error) => self.heard(error),
            };
            if error.has_status(401) && renewed < MOST_RENEWALS {
                (refused, renewed) = (session.generation, renewed + 1);
                continue;
            }
            let again = error.is_untouched() || call.is_repeatable() && error.is_in_doubt();
            if !again || made >= self.pace.attempts {
                return Err(error);
            }
            let pause = self.pause(made, &error);
            tracing::debug!(%error, ?pause, "asking the cloud again");
            tokio::time::sleep(pause).await;
            made += 1;
        }
    }

    /// An error of a service; what it asks for holds for everybody who asks it.
    fn heard(&self, error: ApiError) -> ApiError {
        if let Some(time) = error.retry_after.filter(|_| error.is_untouched()) {
            self.gates.hold(error.service, time.min(pace::LONGEST_ASKED));
        }
        error
    }

    /// The pause before a call is made again. One that is refused without a word of when stops others for that time, too.
    fn pause(&self, made: u32, error: &ApiError) -> Duration {
        let pause = self.pace.pause(made, error.retry_after);
        if error.is_untouched() && error.fate == Fate::Answered {
            self.gates.hold(error.service, pause);
        }
        pause
    }

    /// A turn among the calls at once, at a time at which the service may be asked.
    async fn turn(&self, service: Service) -> Option<SemaphorePermit<'_>> {
        loop {
            self.gates.pass(service).await;
            // Nobody closes it.
            let turn = self.at_once.acquire().await.ok();
            if self.gates.is_open(service) {
                return turn;
            }
        }
    }

    async fn once(&self, call: &Call, session: &Session) -> Result<Answer, ApiError> {
        let name = call.name();
        let _turn = self.turn(call.service).await;
        let mut request = self.request(call, session, &name)?.timeout(CALL);
        if let Some(body) = &call.body {
            request = request.header(CONTENT_TYPE, call.content_type).body(body.to_string());
        }
        let response = request.send().await.map_err(|error| ApiError::transport(call.service, &name, &error))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let most = if status.is_success() { MOST_ANSWER } else { MOST_BODY };
        let body = gathered(response, most).await.map_err(|error| ApiError::transport(call.service, &name, &error))?;
        if !status.is_success() {
            return Err(refusal(call.service, &name, status, &headers, &body));
        }
        // Answers of 202 and 204 have no body, and are successes.
        if body.is_empty() {
            return Ok(Answer { body: Value::Null });
        }
        let body = serde_json::from_slice(&body).map_err(|error| {
            ApiError::silent(call.service, &name, Fate::InDoubt, format!("its answer is no JSON: {error}"))
        })?;
        Ok(Answer { body })
    }

    fn request(&self, call: &Call, session: &Session, name: &str) -> Result<reqwest::RequestBuilder, ApiError> {
        let url = format!("{}{}", session.endpoint(call.service, name)?, call.path);
        let mut headers = HeaderMap::new();
        for (name, value) in &call.headers {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(*name), HeaderValue::from_str(value)) {
                headers.insert(name, value);
            }
        }
        let request = self.http.request(call.method.clone(), url).headers(headers);
        Ok(request.header("x-auth-token", &session.token.0).header(ACCEPT, "application/json, */*;q=0.1"))
    }

    /// Sends bytes, from the beginning again where the token is refused. Any other trouble is the caller's, who knows what
    /// became of the image.
    pub(super) async fn upload(&self, call: &Call, bytes: &dyn Opens) -> Result<(), ApiError> {
        let name = call.name();
        let (mut refused, mut renewed) = (0, 0);
        loop {
            let session = self.session(refused, TRANSFER).await?;
            self.gates.pass(call.service).await;
            let request = self.request(call, &session, &name)?;
            let request = request.header(CONTENT_TYPE, "application/octet-stream").body(bytes.open().await?);
            let response = request.send().await.map_err(|error| ApiError::transport(call.service, &name, &error))?;
            let (status, headers) = (response.status(), response.headers().clone());
            if status.is_success() {
                return Ok(());
            }
            let body = gathered(response, MOST_BODY).await.unwrap_or_default();
            let error = self.heard(refusal(call.service, &name, status, &headers, &body));
            if !error.has_status(401) || renewed == MOST_RENEWALS {
                return Err(error);
            }
            (refused, renewed) = (session.generation, renewed + 1);
        }
    }

    /// Receives bytes. What the service says of them is looked at before any is handed on.
    pub(super) async fn download(&self, call: &Call) -> Result<Response, ApiError> {
        let name = call.name();
        let (mut refused, mut renewed, mut made) = (0, 0, 1);
        loop {
            let session = self.session(refused, TRANSFER).await?;
            self.gates.pass(call.service).await;
            let request = self.request(call, &session, &name)?;
            let error = match request.send().await {
                Ok(response) if matches!(response.status(), StatusCode::OK | StatusCode::PARTIAL_CONTENT) => {
                    return Ok(response);
                }
                Ok(response) if response.status() == StatusCode::NO_CONTENT => {
                    return Err(ApiError::silent(call.service, &name, Fate::Impossible, "it has no bytes yet"));
                }
                Ok(response) => {
                    let (status, headers) = (response.status(), response.headers().clone());
                    let body = gathered(response, MOST_BODY).await.unwrap_or_default();
                    self.heard(refusal(call.service, &name, status, &headers, &body))
                }
                Err(error) => ApiError::transport(call.service, &name, &error),
            };
            if error.has_status(401) && renewed < MOST_RENEWALS {
                (refused, renewed) = (session.generation, renewed + 1);
            } else if made < self.pace.attempts && (error.is_untouched() || error.is_in_doubt()) {
                tokio::time::sleep(self.pause(made, &error)).await;
                made += 1;
            } else {
                return Err(error);
            }
        }
    }
}

fn refusal(service: Service, name: &str, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> ApiError {
    let mut error = ApiError::answered(service, name, status, headers, body);
    tracing::debug!(body = error.body, "{error}");
    if status.is_redirection() {
        let to = headers.get("location").and_then(|to| to.to_str().ok()).unwrap_or("nowhere");
        error.message = format!("it redirects to {to}");
    }
    error
}

async fn gathered(mut response: Response, most: usize) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await? {
        body.extend_from_slice(&piece[..piece.len().min(most - body.len())]);
        if body.len() == most {
            break;
        }
    }
    Ok(body)
}
