//! What a service of the cloud says when it refuses, in one shape: each has its own way to write it, and proxies another.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde_json::Value;

use crate::engine::ports::{PortError, PortErrorKind};

/// The most that is kept of an answer that refuses, in bytes.
pub(super) const MOST_BODY: usize = 64 * 1024;

/// A service of the cloud. Their order is that of [`Service::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// Keystone.
    Identity,
    /// Nova.
    Compute,
    /// Glance.
    Image,
    /// Neutron.
    Network,
    /// Heat.
    Orchestration,
}

impl Service {
    /// Every service that is used.
    pub const ALL: [Self; 5] = [Self::Identity, Self::Compute, Self::Image, Self::Network, Self::Orchestration];

    /// Its type in a catalogue, which also begins the name of its key in `clouds.yaml`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Compute => "compute",
            Self::Image => "image",
            Self::Network => "network",
            Self::Orchestration => "orchestration",
        }
    }

    fn project(self) -> &'static str {
        match self {
            Self::Identity => "Keystone",
            Self::Compute => "Nova",
            Self::Image => "Glance",
            Self::Network => "Neutron",
            Self::Orchestration => "Heat",
        }
    }
}

/// How far a call came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The service answered, and refused.
    Answered,
    /// It never reached the service.
    NotSent,
    /// It was sent and nothing came back: it may have been done.
    InDoubt,
    /// It can't be made at all: no such service, no such setting.
    Impossible,
}

/// A call that did not succeed. Small to hand on, whatever it says.
#[derive(Clone, Debug)]
pub(super) struct ApiError(Box<Told>);

/// What is known of it.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) service: Service,
    /// The call: `POST /servers`.
    pub(super) call: String,
    pub(super) fate: Fate,
    pub(super) status: Option<u16>,
    /// The service's own word for it: `itemNotFound`, `OverQuota`; may be empty.
    pub(super) code: String,
    pub(super) message: String,
    /// By which the cloud's operator finds the call in the service's log; may be empty.
    pub(super) request_id: String,
    pub(super) retry_after: Option<Duration>,
    /// The answer as it came, at most [`MOST_BODY`] bytes.
    pub(super) body: String,
}

impl Deref for ApiError {
    type Target = Told;

    fn deref(&self) -> &Told {
        &self.0
    }
}

impl DerefMut for ApiError {
    fn deref_mut(&mut self) -> &mut Told {
        &mut self.0
    }
}

impl ApiError {
    /// An answer that refuses.
    pub(super) fn answered(service: Service, call: &str, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let body = String::from_utf8_lossy(&body[..body.len().min(MOST_BODY)]).into_owned();
        let (code, message) = read(&body);
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let request_id = match header("x-openstack-request-id") {
            "" => header("x-compute-request-id"),
            id => id,
        };
        let message = match message {
            text if text.is_empty() => status.canonical_reason().unwrap_or("no reason").to_owned(),
            text => text,
        };
        Self(Box::new(Told {
            service,
            call: call.to_owned(),
            fate: Fate::Answered,
            status: Some(status.as_u16()),
            code,
            message,
            request_id: request_id.to_owned(),
            retry_after: retry_after(headers),
            body,
        }))
    }

    /// A call without an answer.
    pub(super) fn silent(service: Service, call: &str, fate: Fate, message: impl Into<String>) -> Self {
        Self(Box::new(Told {
            service,
            call: call.to_owned(),
            fate,
            status: None,
            code: String::new(),
            message: message.into(),
            request_id: String::new(),
            retry_after: None,
            body: String::new(),
        }))
    }

    /// What the HTTP client met.
    pub(super) fn transport(service: Service, call: &str, error: &reqwest::Error) -> Self {
        let mut causes = Vec::new();
        let mut cause: Option<&dyn std::error::Error> = Some(error);
        while let Some(next) = cause {
            causes.push(next.to_string());
            cause = next.source();
        }
        let fate = if error.is_connect() || error.is_builder() { Fate::NotSent } else { Fate::InDoubt };
        Self::silent(service, call, fate, causes.join(": "))
    }

    pub(super) fn has_status(&self, status: u16) -> bool {
        self.status == Some(status)
    }

    /// Whether the service itself says that there is no such thing. A proxy's 404 says nothing of the kind.
    pub(super) fn is_gone(&self) -> bool {
        self.has_status(404) && (!self.request_id.is_empty() || !self.code.is_empty())
    }

    /// Whether the project has used up what it may have, or the cloud what it has. Then it may work later.
    pub(super) fn is_shortage(&self) -> bool {
        let text = self.message.to_lowercase();
        let says_quota = text.contains("quota") || text.contains("no valid host") || text.contains("not enough");
        match self.status {
            Some(413) => true,
            Some(403 | 409) => says_quota || self.code.contains("OverQuota") || self.code.contains("overLimit"),
            _ => false,
        }
    }

    /// Whether something may have been done all the same: nothing came back, a service broke on the way, or something
    /// between answered for it.
    pub(super) fn is_in_doubt(&self) -> bool {
        let broke = self.status.is_some_and(|status| (500..600).contains(&status));
        self.fate == Fate::InDoubt || broke || self.has_status(404) && !self.is_gone()
    }

    /// Whether the same call may be made again as if it had never been made.
    pub(super) fn is_untouched(&self) -> bool {
        let busy = matches!(self.status, Some(429)) || self.has_status(413) && self.retry_after.is_some();
        busy || self.fate == Fate::NotSent || self.has_status(503) && self.retry_after.is_some()
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    // A date. The clocks of two hosts differ, so no more than a few seconds are read from it.
    let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    let seconds = at.as_second() - jiff::Timestamp::now().as_second();
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// The service's word and sentence, whichever of their shapes it is: `{"itemNotFound": {"message"}}` (Nova),
/// `{"NeutronError": {"type", "message"}}`, `{"error": {"title", "message"}}` (Keystone), HTML (Glance).
fn read(body: &str) -> (String, String) {
    let Ok(Value::Object(answer)) = serde_json::from_str::<Value>(body) else {
        return (String::new(), plain(body));
    };
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    for (key, value) in &answer {
        let message = text(value, "message");
        if !message.is_empty() {
            let code = [text(value, "type"), text(value, "title")].into_iter().find(|word| !word.is_empty());
            return (code.unwrap_or_else(|| key.clone()), plain(&message));
        }
    }
    let whole = Value::Object(answer);
    let message = [text(&whole, "message"), text(&whole, "explanation")].into_iter().find(|text| !text.is_empty());
    (text(&whole, "code"), message.unwrap_or_default())
}

/// The text of a page, in one line: without its head, its tags and its headings.
fn plain(page: &str) -> String {
    let page = page.split_once("</h1>").map_or(page, |(_, rest)| rest);
    let (mut text, mut inside) = (String::new(), false);
    for c in page.chars() {
        match c {
            '<' => inside = true,
            '>' if inside => {
                inside = false;
                text.push(' ');
            }
            c if !inside => text.push(if c.is_control() { ' ' } else { c }),
            _ => {}
        }
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().take(500).collect()
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.service.project();
        match (self.status, self.fate) {
            (Some(status), _) => write!(f, "{name} answered {status} to {}: {}", self.call, self.message)?,
            (None, Fate::NotSent) => write!(f, "{name} is not reached for {}: {}", self.call, self.message)?,
            (None, Fate::Impossible) => write!(f, "{} of {name}: {}", self.call, self.message)?,
            (None, _) => write!(f, "{name} gave no answer to {}: {}", self.call, self.message)?,
        }
        if !self.request_id.is_empty() {
            write!(f, " ({})", self.request_id)?;
        }
        Ok(())
    }
}

impl From<ApiError> for PortError {
    fn from(error: ApiError) -> Self {
        let (kind, help) = match error.status {
            _ if error.is_shortage() => {
                (PortErrorKind::Unavailable, "free something of the project, or have its quota raised")
            }
            Some(401) => (PortErrorKind::Refused, "look at the credentials that the driver's configuration names"),
            Some(403) => (PortErrorKind::Refused, "the project's user lacks a role for it; ask the cloud's operator"),
            Some(300..=399) => (
                PortErrorKind::Failed,
                "redirects are not followed with a token: name the right address as the service's endpoint in the driver's configuration",
            ),
            Some(429 | 500..) | None if error.fate != Fate::Impossible => {
                (PortErrorKind::Unavailable, "try again later; the cloud's operator finds the call by its request id")
            }
            _ => (PortErrorKind::Failed, ""),
        };
        Self::new(kind, error.to_string()).help(help)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(service: Service, status: u16, body: &str) -> ApiError {
        let mut headers = HeaderMap::new();
        headers.insert("x-openstack-request-id", "req-7".parse().expect("a header"));
        let status = StatusCode::from_u16(status).expect("a status");
        ApiError::answered(service, "GET /x", status, &headers, body.as_bytes())
    }

    #[test]
    fn every_service_is_understood_in_its_own_shape() {
        let shapes = [
            (Service::Compute, 404, r#"{"itemNotFound": {"code": 404, "message": "Instance x could not be found."}}"#),
            (
                Service::Network,
                409,
                r#"{"NeutronError": {"type": "OverQuota", "message": "Quota exceeded for resources: ['floatingip'].", "detail": ""}}"#,
            ),
            (
                Service::Identity,
                401,
                r#"{"error": {"code": 401, "title": "Unauthorized", "message": "The request you have made requires authentication."}}"#,
            ),
            (
                Service::Image,
                403,
                "<html>\n <head>\n  <title>403 Forbidden</title>\n </head>\n <body>\n  <h1>403 Forbidden</h1>\n  Image x is protected.<br /><br />\n\n\n </body>\n</html>",
            ),
            (Service::Image, 502, ""),
        ];
        let told: Vec<String> = shapes
            .iter()
            .map(|(service, status, body)| {
                let error = error(*service, *status, body);
                format!("{:?} [{}] {error}", PortError::from(error.clone()).kind, error.code)
            })
            .collect();
        insta::assert_snapshot!(told.join("\n"), @r"
        Failed [itemNotFound] Nova answered 404 to GET /x: Instance x could not be found. (req-7)
        Unavailable [OverQuota] Neutron answered 409 to GET /x: Quota exceeded for resources: ['floatingip']. (req-7)
        Refused [Unauthorized] Keystone answered 401 to GET /x: The request you have made requires authentication. (req-7)
        Refused [] Glance answered 403 to GET /x: Image x is protected. (req-7)
        Unavailable [] Glance answered 502 to GET /x: Bad Gateway (req-7)
        ");
    }

    #[test]
    fn a_proxys_404_is_not_the_services() {
        let page = b"<html><h1>Not Found</h1>nginx</html>";
        let proxy = ApiError::answered(Service::Image, "GET /x", StatusCode::NOT_FOUND, &HeaderMap::new(), page);
        assert!(!proxy.is_gone());
        assert!(error(Service::Image, 404, "<h1>404 Not Found</h1>No image found").is_gone());
    }

    #[test]
    fn shortages_are_told_from_what_is_forbidden() {
        let quota = r#"{"forbidden": {"code": 403, "message": "Quota exceeded for cores: Requested 2, but already used 7 of 8 cores"}}"#;
        assert!(error(Service::Compute, 403, quota).is_shortage());
        let policy = r#"{"forbidden": {"code": 403, "message": "Policy doesn't allow os_compute_api:servers:create to be performed."}}"#;
        assert!(!error(Service::Compute, 403, policy).is_shortage());
        assert!(error(Service::Image, 413, "").is_shortage(), "Glance's quota of bytes");
    }

    #[test]
    fn the_time_to_wait_is_read_as_seconds_or_as_a_date() {
        let after = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().expect("a header"));
            retry_after(&headers)
        };
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        assert_eq!(after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(after("soon"), None);
        assert_eq!(after("-3"), None);
    }
}
