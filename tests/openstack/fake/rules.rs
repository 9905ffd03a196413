//! What a client must keep to, judged request by request: paces, microversions, whose token goes where.

use std::time::Duration;

use super::http::{Answer, LENIENCE, Request, Service, refusal};
use super::keystone;
use super::nova;
use super::state::State;

/// So many looks at one thing in a row, each sooner than [`super::Settings::min_poll`] after the last, are too many for one
/// who looks.
const HASTY: usize = 4;
/// For so long Nova believes a token that it has seen before, whatever Keystone says of it now.
const REMEMBERED: Duration = Duration::from_secs(300);

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) service: Service,
    pub(crate) method: String,
    pub(crate) path: String,
    /// The name of a Nova action, else empty.
    pub(crate) action: String,
    /// What was answered; 0 before that.
    pub(crate) status: u16,
    /// In the cloud's time.
    pub(crate) at: Duration,
}

impl State {
    pub(crate) fn violation(&mut self, what: impl Into<String>) {
        let what = what.into();
        if !self.violations.contains(&what) {
            self.violations.push(what);
        }
    }

    /// Looks whether the request may be asked at all, and now.
    pub(crate) fn judge(&mut self, request: &Request) {
        let line = format!("{} {:?} {}", request.method, request.service, request.path);
        if request.service == Service::Trap {
            let with = if request.header("x-auth-token").is_some() { " with a token" } else { "" };
            self.violation(format!("{line} goes{with} where the catalogue does not lead"));
            return;
        }
        if let Some((since, until, told)) = self.not_before.get(&request.service)
            && self.now < *until
            && self.now > *since + LENIENCE * self.settings.scale
        {
            let early = (*until - self.now) / self.settings.scale;
            self.violation(format!("{line} comes {early:.1?} before Retry-After has passed, which {told} was told"));
        }
        if request.method == "GET" {
            let looks = self.looks.entry(format!("{line} {:?}", request.query)).or_default();
            let hasty = looks.0.is_some_and(|last| self.now.saturating_sub(last) < self.settings.min_poll);
            *looks = (Some(self.now), if hasty { looks.1 + 1 } else { 0 });
            if looks.1 >= HASTY * self.settings.callers {
                self.violation(format!("{line} is asked too fast"));
            }
        }
    }

    /// Takes the version off the path; a path without one leads to the versions' document, or nowhere.
    pub(crate) fn strip_version(&mut self, request: &mut Request) -> Result<(), Answer> {
        let project = format!("/{}", keystone::PROJECT_ID);
        let prefixes: Vec<String> = match request.service {
            Service::Keystone => vec!["/v3".to_owned()],
            Service::Nova => vec!["/v2.1".to_owned()],
            Service::Glance => vec!["/v2".to_owned()],
            Service::Neutron => vec!["/v2.0".to_owned()],
            Service::Cinder => vec![format!("/v3{project}"), "/v3".to_owned()],
            Service::Heat => vec![format!("/v1{project}"), "/v1".to_owned()],
            Service::Trap => Vec::new(),
        };
        let path = request.path.trim_end_matches('/');
        if path.is_empty() || path == "/versions" {
            return Err(self.versions(request.service));
        }
        let Some(rest) = prefixes.iter().find_map(|prefix| path.strip_prefix(prefix.as_str())) else {
            self.violation(format!("{} {:?} {path} has no version in its path", request.method, request.service));
            return Err(refusal(request.service, 404, "The resource could not be found."));
        };
        request.path = if rest.is_empty() { "/".to_owned() } else { rest.to_owned() };
        if request.path == "/" && request.service != Service::Keystone {
            return Err(self.versions(request.service));
        }
        Ok(())
    }

    /// Lets in who has a token that counts, and reads Nova's microversion.
    pub(crate) fn admit(&mut self, request: &mut Request) -> Result<(), Answer> {
        let line = format!("{} {}", request.method, request.path);
        self.seen.push(Seen {
            service: request.service,
            method: request.method.clone(),
            path: request.path.clone(),
            action: String::new(),
            status: 0,
            at: self.now,
        });
        if request.service == Service::Keystone {
            return Ok(());
        }
        let token = request.header("x-auth-token").unwrap_or_default().to_owned();
        let now = self.now;
        let Some(known) = self.tokens.get_mut(&token) else {
            self.violation(format!("{line} comes with a token that nobody gave out"));
            return Err(keystone::unauthorized(request.service));
        };
        let remembers =
            request.service == Service::Nova && known.validated.is_some_and(|at| now.saturating_sub(at) < REMEMBERED);
        if now >= known.expires || (known.revoked.is_some() && !remembers) {
            return Err(keystone::unauthorized(request.service));
        }
        if request.service == Service::Nova {
            known.validated = known.validated.or(Some(now));
        }
        request.project = known.project.clone();
        if request.service == Service::Nova {
            return self.microversion(request);
        }
        Ok(())
    }

    fn microversion(&mut self, request: &mut Request) -> Result<(), Answer> {
        let general = request.header("openstack-api-version").and_then(|value| value.strip_prefix("compute "));
        let Some(asked) = general.or_else(|| request.header("x-openstack-nova-api-version")) else {
            self.violation(format!("{} {} has no microversion", request.method, request.path));
            request.version = 1;
            return Ok(());
        };
        let minor = asked.trim().strip_prefix("2.").and_then(|minor| minor.parse().ok());
        match minor {
            Some(minor) if (1..=nova::LATEST).contains(&minor) => {
                request.version = minor;
                Ok(())
            }
            _ if asked == "latest" => {
                self.violation(format!("{} {} asks for the latest microversion, unread", request.method, request.path));
                request.version = nova::LATEST;
                Ok(())
            }
            _ => {
                let what = format!("{} {} asks for the microversion {asked}", request.method, request.path);
                self.violation(what);
                let message = format!(
                    "Version {asked} is not supported by the API. Minimum is 2.1 and maximum is 2.{}.",
                    nova::LATEST
                );
                Err(refusal(Service::Nova, 406, &message))
            }
        }
    }

    pub(crate) fn remember_answer(&mut self, request: &Request, answer: &Answer) {
        let number = |value: &str| value.parse::<u64>().ok();
        let retry_after = answer.headers.iter().find(|(name, _)| name == "retry-after");
        if let Some(seconds) = retry_after.and_then(|(_, value)| number(value)) {
            // A client's seconds are not scaled.
            let until = self.now + Duration::from_secs(seconds) * self.settings.scale;
            let told = format!("{} {}", request.method, request.path);
            let held = self.not_before.entry(request.service).or_insert((self.now, until, told.clone()));
            if held.1 < self.now {
                *held = (self.now, until, told);
            } else {
                held.1 = held.1.max(until);
            }
        }
        let open = |seen: &&mut Seen| seen.status == 0 && seen.method == request.method && seen.path == request.path;
        if let Some(seen) = self.seen.iter_mut().rev().find(open) {
            seen.status = answer.status;
            if let (true, Some(action)) = (request.path.ends_with("/action"), request.json.as_object()) {
                seen.action = action.keys().next().cloned().unwrap_or_default();
            }
        }
    }

    /// Blames the client for keys that the service does not know; the service's own refusal is the caller's.
    pub(crate) fn strange_keys(&mut self, given: &serde_json::Value, known: &[&str], what: &str) -> Option<String> {
        let strange = given.as_object()?.keys().find(|key| !known.contains(&key.as_str()))?.clone();
        self.violation(format!("{what} has the unknown field {strange:?}"));
        Some(strange)
    }

    /// Blames the client for filters that the service does not know.
    pub(crate) fn strange_filters(&mut self, request: &Request, known: &[&str]) -> Option<String> {
        let strange = request.query.iter().find(|(key, _)| !known.contains(&key.as_str()))?.0.clone();
        self.violation(format!("GET {} asks for the unknown filter {strange:?}", request.path));
        Some(strange)
    }

    /// Blames the client for touching what is not its own.
    pub(crate) fn touch(&mut self, request: &Request, origin: super::state::Origin, what: &str) {
        if origin != super::state::Origin::Client {
            self.violation(format!("{} {} touches {what}, which it did not make", request.method, request.path));
        }
    }
}
