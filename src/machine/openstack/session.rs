//! A token and the catalogue that came with it. However many calls find a token refused, one of them asks for the next.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::Value;
use tokio::time::Instant;

use super::credentials::Credentials;
use super::error::{ApiError, Fate, Service};
use crate::engine::ports::Secret;

/// A token younger than this before its end is not begun with.
const MARGIN: Duration = Duration::from_secs(120);

/// A token, and where the services are.
#[derive(Debug)]
pub(super) struct Session {
    /// Counts the tokens of this process: a call that was refused says which one it had.
    pub(super) generation: u64,
    pub(super) token: Secret,
    /// The project that everything belongs to.
    pub(super) project: String,
    began: Instant,
    life: Duration,
    endpoints: Vec<(Service, Result<String, String>)>,
}

impl Session {
    /// From Keystone's answer.
    pub(super) fn new(
        generation: u64,
        token: String,
        answer: &Value,
        credentials: &Credentials,
        asked: Instant,
    ) -> Result<Self, ApiError> {
        let told = &answer["token"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let project = text(&told["project"]["id"]);
        if project.is_empty() {
            let message = "the token is of no project, and machines and images belong to one";
            return Err(ApiError::silent(Service::Identity, "the credentials", Fate::Impossible, message));
        }
        let stamp = |key: &str| text(&told[key]).parse::<jiff::Timestamp>().ok();
        // Both are of Keystone's clock, so ours may be wrong.
        let life = match (stamp("issued_at"), stamp("expires_at")) {
            (Some(issued), Some(expires)) => {
                Duration::from_secs(u64::try_from(expires.as_second() - issued.as_second()).unwrap_or(0))
            }
            _ => Duration::from_secs(3600),
        };
        let endpoints = Service::ALL.iter().map(|service| (*service, endpoint(*service, told, credentials))).collect();
        Ok(Self { generation, token: Secret(token), project, began: asked, life, endpoints })
    }

    /// Whether a call that takes so long can still be begun with it.
    pub(super) fn lasts(&self, time: Duration) -> bool {
        let margin = MARGIN.min(self.life / 10);
        self.began.elapsed() + time.min(self.life / 2) + margin < self.life
    }

    /// Where a service is, without a slash at its end.
    pub(super) fn endpoint(&self, service: Service, call: &str) -> Result<&str, ApiError> {
        let found = self.endpoints.iter().find(|(known, _)| *known == service).map(|(_, found)| found);
        match found {
            Some(Ok(url)) => Ok(url),
            Some(Err(why)) => Err(ApiError::silent(service, call, Fate::Impossible, why.as_str())),
            None => Err(ApiError::silent(service, call, Fate::Impossible, "no such service is used")),
        }
    }
}

/// The address of a service: the configuration's, else the catalogue's for this region and interface. The version that it
/// lacks is added; a version document is never followed to another host, which behind a proxy is none that can be reached.
fn endpoint(service: Service, token: &Value, credentials: &Credentials) -> Result<String, String> {
    let url = match credentials.endpoints.get(&service) {
        Some(url) => url.clone(),
        None => of_catalogue(service, token, credentials)?,
    };
    let url = url.trim_end_matches('/');
    let version = match service {
        Service::Identity => "/v3",
        Service::Compute => "/v2.1",
        Service::Image => "/v2",
        Service::Network => "/v2.0",
        Service::Orchestration => "/v1",
    };
    let has_one = url.rsplit('/').take(2).any(|part| {
        let digits = part.strip_prefix('v').unwrap_or_default();
        digits.starts_with(|c: char| c.is_ascii_digit()) && digits.chars().all(|c| c.is_ascii_digit() || c == '.')
    });
    let url = if has_one { url.to_owned() } else { format!("{url}{version}") };
    // Heat has its project in each path, whether a catalogue says so or not.
    let project = token["project"]["id"].as_str().unwrap_or_default();
    let lacks_it = service == Service::Orchestration && !url.ends_with(project);
    Ok(if lacks_it { format!("{url}/{project}") } else { url })
}

fn of_catalogue(service: Service, token: &Value, credentials: &Credentials) -> Result<String, String> {
    let none = Vec::new();
    let word = service.word();
    let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
    let entries = token["catalog"].as_array().unwrap_or(&none);
    let all: Vec<Value> =
        entries.iter().filter(|entry| entry["type"] == word).flat_map(|entry| list(&entry["endpoints"])).collect();
    if all.is_empty() {
        return Err(format!("the cloud's catalogue has no service of type `{word}`"));
    }
    let interface = credentials.interface.word();
    let of_interface: Vec<&Value> = all.iter().filter(|endpoint| endpoint["interface"] == interface).collect();
    let region = |endpoint: &Value| {
        let named = endpoint["region_id"].as_str().or_else(|| endpoint["region"].as_str());
        named.unwrap_or_default().to_owned()
    };
    let mut regions: Vec<String> = of_interface.iter().map(|endpoint| region(endpoint)).collect();
    regions.sort();
    regions.dedup();
    let chosen = match (&credentials.region, regions.as_slice()) {
        (Some(wanted), _) => wanted.clone(),
        (None, [only]) => only.clone(),
        (None, []) => return Err(format!("the cloud's catalogue has no {interface} address of `{word}`")),
        (None, several) => {
            return Err(format!("`{word}` is in several regions ({}): name one", several.join(", ")));
        }
    };
    let found = of_interface.into_iter().find(|endpoint| region(endpoint) == chosen);
    found.and_then(|endpoint| endpoint["url"].as_str()).map(str::to_owned).ok_or_else(|| {
        format!("`{word}` has no {interface} address in the region {chosen:?}; it is in: {}", regions.join(", "))
    })
}

/// Asks Keystone for a token.
pub(super) async fn authenticate(
    http: &reqwest::Client,
    credentials: &Credentials,
    generation: u64,
    limit: Duration,
) -> Result<Session, ApiError> {
    const CALL: &str = "POST /auth/tokens";
    let asked = Instant::now();
    let transport = |error: reqwest::Error| ApiError::transport(Service::Identity, CALL, &error);
    let request = http
        .post(format!("{}/auth/tokens", credentials.auth_url))
        .header("content-type", "application/json")
        .header("accept", "application/json")
        .body(credentials.question().to_string())
        .timeout(limit);
    let response = request.send().await.map_err(transport)?;
    let (status, headers) = (response.status(), response.headers().clone());
    let body = response.bytes().await.map_err(transport)?;
    if status != StatusCode::CREATED {
        return Err(ApiError::answered(Service::Identity, CALL, status, &headers, &body));
    }
    let token = headers.get("x-subject-token").and_then(|token| token.to_str().ok());
    let answer = serde_json::from_slice::<Value>(&body).ok();
    match (token, answer) {
        (Some(token), Some(answer)) => Session::new(generation, token.to_owned(), &answer, credentials, asked),
        _ => Err(ApiError::silent(Service::Identity, CALL, Fate::InDoubt, "its answer holds no token")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn credentials(more: &[(&str, &str)]) -> Credentials {
        let keys = [("auth_url", "http://k"), ("token", "t"), ("project_id", "p")];
        Credentials::from_cloud(keys.iter().chain(more).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())))
            .expect("credentials")
    }

    fn answer() -> Value {
        let at =
            |interface: &str, region: &str, url: &str| json!({"interface": interface, "region_id": region, "url": url});
        json!({"token": {
            "project": {"id": "p"}, "issued_at": "2026-01-01T00:00:00.000000Z", "expires_at": "2026-01-01T01:00:00.000000Z",
            "catalog": [
                {"type": "image", "endpoints": [at("public", "A", "http://glance/"), at("internal", "A", "http://inside/image")]},
                {"type": "network", "endpoints": [at("public", "A", "http://neutron"), at("public", "B", "http://b")]},
                {"type": "compute", "endpoints": [at("public", "A", "http://nova/v2.1/p")]},
            ],
        }})
    }

    fn session(more: &[(&str, &str)]) -> Session {
        Session::new(1, "t".to_owned(), &answer(), &credentials(more), Instant::now()).expect("a session")
    }

    #[test]
    fn services_are_found_by_region_and_interface_with_the_version_they_lack() {
        let of = |session: &Session, service| match session.endpoint(service, "GET /") {
            Ok(url) => url.to_owned(),
            Err(error) => error.message.clone(),
        };
        let here = session(&[]);
        assert_eq!(of(&here, Service::Image), "http://glance/v2");
        assert_eq!(of(&here, Service::Compute), "http://nova/v2.1/p");
        assert_eq!(of(&here, Service::Network), "`network` is in several regions (A, B): name one");
        let there = session(&[("region_name", "B")]);
        assert_eq!(of(&there, Service::Network), "http://b/v2.0");
        assert_eq!(of(&there, Service::Image), "`image` has no public address in the region \"B\"; it is in: A");
        let inside = session(&[("region_name", "A"), ("interface", "internal")]);
        assert_eq!(of(&inside, Service::Image), "http://inside/image/v2");
        let own = session(&[("image_endpoint_override", "https://mine/v2/"), ("region_name", "A")]);
        assert_eq!(of(&own, Service::Image), "https://mine/v2");
    }

    #[test]
    fn a_token_near_its_end_is_not_begun_with() {
        let after = |minutes: u64| {
            let session = session(&[]);
            let began = session.began.checked_sub(Duration::from_secs(minutes * 60)).expect("the host is up longer");
            Session { began, ..session }
        };
        assert!(after(0).lasts(Duration::ZERO));
        assert!(after(40).lasts(Duration::ZERO));
        assert!(!after(40).lasts(Duration::from_secs(1800)), "an upload could outlive it");
        assert!(!after(59).lasts(Duration::ZERO));
    }
}
