//! Who the factory is to the cloud, from what `clouds.yaml`, `secure.yaml` and `OS_*` variables say. Reading those is the
//! daemon's; here their words are understood, and nothing is guessed: what is missing or unknown is said by name.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::error::Service;
use crate::engine::ports::Secret;

/// Which of a service's addresses is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Interface {
    /// For everybody.
    #[default]
    Public,
    /// For other services.
    Internal,
    /// For operators.
    Admin,
}

impl Interface {
    /// The word of a catalogue.
    pub fn word(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Internal => "internal",
            Self::Admin => "admin",
        }
    }

    /// The one that a word means: `public`, or as older profiles have it `publicURL`.
    pub fn from_word(word: &str) -> Option<Self> {
        let word = word.trim_end_matches("URL");
        [Self::Public, Self::Internal, Self::Admin].into_iter().find(|interface| interface.word() == word)
    }
}

/// A thing of Keystone's, by its id or by its name in a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Named {
    Id(String),
    Name(String, Box<Domain>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Domain {
    Id(String),
    Name(String),
}

/// How the factory shows who it is.
#[derive(Clone, Debug)]
enum Method {
    Password { user: Named, password: Secret },
    ApplicationCredential { id: Named, user: Option<Named>, secret: Secret },
    Token(Secret),
}

/// Who the factory is to the cloud, and where the cloud is.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// Keystone's address, ending in `/v3`.
    pub auth_url: String,
    method: Method,
    project: Option<Named>,
    /// The region, where the cloud has several.
    pub region: Option<String>,
    /// Which of a service's addresses is used.
    pub interface: Interface,
    /// The file of the authorities that sign the cloud's certificates.
    pub ca: Option<PathBuf>,
    /// Addresses that count instead of the catalogue's.
    pub endpoints: BTreeMap<Service, String>,
}

/// What is wrong with credentials, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialsFault {
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: String,
}

fn fault(message: impl Into<String>, help: impl Into<String>) -> CredentialsFault {
    CredentialsFault { message: message.into(), help: help.into() }
}

/// The keys of an entry of `clouds.yaml` that are understood, without `auth.` before them.
const KEYS: [&str; 33] = [
    "auth_url",
    "auth_type",
    "username",
    "user_id",
    "password",
    "user_domain_id",
    "user_domain_name",
    "project_id",
    "project_name",
    "project_domain_id",
    "project_domain_name",
    "default_domain",
    "domain_id",
    "domain_name",
    "tenant_id",
    "tenant_name",
    "token",
    "application_credential_id",
    "application_credential_name",
    "application_credential_secret",
    "region_name",
    "interface",
    "endpoint_type",
    "cacert",
    "verify",
    "identity_api_version",
    "compute_api_version",
    "image_api_version",
    "network_api_version",
    "volume_api_version",
    "orchestration_api_version",
    "tenant_domain_id",
    "tenant_domain_name",
];

/// The keys that name an address of a service.
const ENDPOINTS: [(&str, Service); 5] = [
    ("identity_endpoint_override", Service::Identity),
    ("compute_endpoint_override", Service::Compute),
    ("image_endpoint_override", Service::Image),
    ("network_endpoint_override", Service::Network),
    ("orchestration_endpoint_override", Service::Orchestration),
];

/// What was said, each key by its name in `clouds.yaml`.
struct Said(BTreeMap<String, String>);

impl Said {
    fn get(&self, keys: &[&str]) -> Option<String> {
        keys.iter().find_map(|key| self.0.get(*key)).filter(|value| !value.is_empty()).cloned()
    }

    fn named(&self, what: &str, names: (&[&str], &[&str]), domain: &str) -> Result<Option<Named>, CredentialsFault> {
        if let Some(id) = self.get(names.0) {
            return Ok(Some(Named::Id(id)));
        }
        let Some(name) = self.get(names.1) else { return Ok(None) };
        let by_id = format!("{domain}_domain_id");
        let by_name = format!("{domain}_domain_name");
        let domain = match (self.get(&[&by_id]), self.get(&[&by_name])) {
            (Some(id), _) => Domain::Id(id),
            (None, Some(name)) => Domain::Name(name),
            (None, None) => Domain::Id(self.get(&["default_domain"]).unwrap_or_else(|| "default".to_owned())),
        };
        if name.trim().is_empty() {
            return Err(fault(format!("the {what}'s name is empty"), "name it, or give its id"));
        }
        Ok(Some(Named::Name(name, Box::new(domain))))
    }

    fn method(&self) -> Result<Method, CredentialsFault> {
        let kind = self.get(&["auth_type"]).unwrap_or_default();
        let user = self.named("user", (&["user_id"], &["username"]), "user")?;
        let secret = self.get(&["application_credential_secret"]);
        if kind.contains("applicationcredential") || kind.is_empty() && secret.is_some() {
            let missing = |what| {
                fault(
                    format!("an application credential without its {what}"),
                    format!("give its {what}, as `openstack application credential create` printed it"),
                )
            };
            let secret = Secret(secret.ok_or_else(|| missing("secret"))?);
            let domain = Box::new(Domain::Id(String::new()));
            let by_name = self.get(&["application_credential_name"]).map(|name| Named::Name(name, domain));
            let id =
                self.get(&["application_credential_id"]).map(Named::Id).or(by_name).ok_or_else(|| missing("id"))?;
            if matches!(id, Named::Name(..)) && user.is_none() {
                return Err(fault("an application credential by its name, without its user", "give its id instead"));
            }
            return Ok(Method::ApplicationCredential { id, user, secret });
        }
        if kind.contains("token") || kind.is_empty() && self.get(&["token"]).is_some() {
            let token = self.get(&["token"]).ok_or_else(|| fault("no token", "give it as `token`"))?;
            return Ok(Method::Token(Secret(token)));
        }
        if !matches!(kind.as_str(), "" | "password" | "v3password") {
            return Err(fault(
                format!("the way `{kind}` to show who one is is not known"),
                "use a password, an application credential or a token",
            ));
        }
        let user = user.ok_or_else(|| fault("no user", "give username and password, or an application credential"))?;
        let password = self
            .get(&["password"])
            .ok_or_else(|| fault("a user without a password", "give it in secure.yaml, or as OS_PASSWORD"))?;
        Ok(Method::Password { user, password: Secret(password) })
    }

    fn credentials(&self) -> Result<Credentials, CredentialsFault> {
        let auth_url = self.get(&["auth_url"]).ok_or_else(|| {
            fault("no address of Keystone", "give auth_url (OS_AUTH_URL), such as https://cloud.example.org:5000/v3")
        })?;
        let method = self.method()?;
        let project =
            self.named("project", (&["project_id", "tenant_id"], &["project_name", "tenant_name"]), "project")?;
        if project.is_none() && !matches!(method, Method::ApplicationCredential { .. }) {
            return Err(fault(
                "no project",
                "give project_name or project_id: machines and images belong to a project",
            ));
        }
        let interface = match self.get(&["interface", "endpoint_type"]) {
            None => Interface::Public,
            Some(word) => Interface::from_word(&word).ok_or_else(|| {
                fault(format!("the interface {word:?} is not known"), "write public, internal or admin")
            })?,
        };
        let endpoints = ENDPOINTS.iter().filter_map(|(key, service)| Some((*service, self.get(&[key])?))).collect();
        Ok(Credentials {
            auth_url: v3(&auth_url)?,
            method,
            project,
            region: self.get(&["region_name"]),
            interface,
            ca: self.get(&["cacert"]).map(PathBuf::from),
            endpoints,
        })
    }
}

/// Keystone's address with its version: older profiles name `/v2.0`, which no cloud has any more, or none.
fn v3(url: &str) -> Result<String, CredentialsFault> {
    if !(url.starts_with("https://") || url.starts_with("http://")) {
        return Err(fault(format!("{url:?} is no address of Keystone"), "write https://HOST:5000/v3"));
    }
    let root = url.trim_end_matches('/').trim_end_matches("/v2.0").trim_end_matches("/v3");
    Ok(format!("{root}/v3"))
}

impl Credentials {
    /// Those of an entry of `clouds.yaml`, given as its keys (`auth.username` as `username`) and their texts. Later ones
    /// win: those of `secure.yaml` come after.
    ///
    /// # Errors
    /// What is missing, unknown or not supported.
    pub fn from_cloud(keys: impl IntoIterator<Item = (String, String)>) -> Result<Self, CredentialsFault> {
        let mut said = BTreeMap::new();
        for (key, value) in keys {
            let name = key.strip_prefix("auth.").unwrap_or(&key);
            let known = KEYS.contains(&name) || ENDPOINTS.iter().any(|(known, _)| *known == name);
            if !known {
                return Err(fault(
                    format!("the key {key} of the cloud is not known"),
                    "take it out: what has no effect would let somebody believe that it has one",
                ));
            }
            said.insert(name.to_owned(), value);
        }
        if said.get("verify").is_some_and(|verify| matches!(verify.to_lowercase().as_str(), "false" | "no" | "off")) {
            return Err(fault(
                "`verify: false`: a cloud that anybody could pretend to be is not used",
                "name the file of the authorities that sign its certificate as `cacert`",
            ));
        }
        Said(said).credentials()
    }

    /// Those of `OS_*` variables.
    ///
    /// # Errors
    /// What is missing or not supported.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self, CredentialsFault> {
        let of = |key: &str| Some((key.to_owned(), variable(&format!("OS_{}", key.to_uppercase()))?));
        let names = KEYS.iter().copied().chain(ENDPOINTS.iter().map(|(key, _)| *key)).filter(|key| *key != "verify");
        let said: BTreeMap<String, String> = names.filter_map(of).collect();
        let insecure =
            variable("OS_INSECURE").is_some_and(|text| matches!(text.to_lowercase().as_str(), "1" | "true" | "yes"));
        if insecure {
            return Err(fault("OS_INSECURE: a cloud that anybody could pretend to be is not used", "set OS_CACERT"));
        }
        Said(said).credentials()
    }

    /// What Keystone is asked for a token with.
    pub(super) fn question(&self) -> Value {
        let mut auth = match &self.method {
            Method::Password { user, password } => {
                let mut user = named(user);
                user["password"] = json!(password.0);
                json!({"identity": {"methods": ["password"], "password": {"user": user}}})
            }
            Method::ApplicationCredential { id, user, secret } => {
                let mut credential = match id {
                    Named::Id(id) => json!({"id": id}),
                    Named::Name(name, _) => json!({"name": name}),
                };
                if let (Named::Name(..), Some(user)) = (id, user) {
                    credential["user"] = named(user);
                }
                credential["secret"] = json!(secret.0);
                json!({"identity": {"methods": ["application_credential"], "application_credential": credential}})
            }
            Method::Token(token) => json!({"identity": {"methods": ["token"], "token": {"id": token.0}}}),
        };
        // An application credential is of one project already, and Keystone refuses a second word on it.
        if let (Some(project), false) = (&self.project, matches!(self.method, Method::ApplicationCredential { .. })) {
            auth["scope"] = json!({"project": named(project)});
        }
        json!({"auth": auth})
    }
}

fn named(named: &Named) -> Value {
    match named {
        Named::Id(id) => json!({"id": id}),
        Named::Name(name, domain) => match &**domain {
            Domain::Id(id) => json!({"name": name, "domain": {"id": id}}),
            Domain::Name(domain) => json!({"name": name, "domain": {"name": domain}}),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cloud(text: &str) -> Result<Credentials, CredentialsFault> {
        let pair =
            |line: &str| line.split_once('=').map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()));
        Credentials::from_cloud(text.lines().filter_map(pair))
    }

    fn environment(text: &str) -> Result<Credentials, CredentialsFault> {
        Credentials::from_environment(|name| {
            text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
        })
    }

    #[test]
    fn a_password_an_application_credential_and_a_token_are_asked_with() {
        let password = "auth.auth_url=http://k:5000\nauth.username=u\nauth.password=p\nauth.project_name=x\nauth.user_domain_name=Default\nauth.project_domain_id=d1";
        let application = "auth_type=v3applicationcredential\nauth.auth_url=http://k/identity/v3/\nauth.application_credential_id=i\nauth.application_credential_secret=s\nauth.project_id=ignored";
        let token = "auth_type=v3token\nauth.auth_url=http://k\nauth.token=t\nauth.project_id=x";
        let asked: Vec<String> = [password, application, token]
            .iter()
            .map(|text| {
                let credentials = cloud(text).expect("credentials");
                format!("{} {}", credentials.auth_url, credentials.question()["auth"])
            })
            .collect();
        insta::assert_snapshot!(asked.join("\n"), @r#"
        http://k:5000/v3 {"identity":{"methods":["password"],"password":{"user":{"domain":{"name":"Default"},"name":"u","password":"p"}}},"scope":{"project":{"domain":{"id":"d1"},"name":"x"}}}
        http://k/identity/v3 {"identity":{"application_credential":{"id":"i","secret":"s"},"methods":["application_credential"]}}
        http://k/v3 {"identity":{"methods":["token"],"token":{"id":"t"}},"scope":{"project":{"id":"x"}}}
        "#);
    }

    #[test]
    fn the_variables_of_an_old_profile_do() {
        let old = "OS_AUTH_URL=https://k:5000/v2.0/\nOS_USERNAME=u\nOS_PASSWORD=p\nOS_TENANT_NAME=factory\nOS_TENANT_ID=77\nOS_REGION_NAME=RegionOne\nOS_ENDPOINT_TYPE=internalURL\nOS_CACERT=/etc/ca.pem";
        let credentials = environment(old).expect("credentials");
        assert_eq!(credentials.auth_url, "https://k:5000/v3");
        assert_eq!((credentials.region.as_deref(), credentials.interface), (Some("RegionOne"), Interface::Internal));
        assert_eq!(credentials.ca, Some(PathBuf::from("/etc/ca.pem")));
        assert_eq!(credentials.question()["auth"]["scope"]["project"]["id"], "77");
        assert_eq!(credentials.question()["auth"]["identity"]["password"]["user"]["domain"]["id"], "default");
    }

    #[test]
    fn what_is_missing_or_unknown_is_said_by_name() {
        let told = |found: Result<Credentials, CredentialsFault>| found.expect_err("a fault").message;
        let lines = [
            told(cloud("auth.username=u")),
            told(cloud("auth.auth_url=k:5000\nauth.username=u\nauth.password=p\nauth.project_id=1")),
            told(cloud("auth.auth_url=http://k\nauth.username=u\nauth.project_id=1")),
            told(cloud("auth.auth_url=http://k\nauth.username=u\nauth.password=p")),
            told(cloud("auth.auth_url=http://k\nauth.application_credential_secret=s")),
            told(cloud("auth.auth_url=http://k\nauth_type=v3oidcpassword\nauth.username=u")),
            told(cloud("auth.auth_url=http://k\nprofile=vendor")),
            told(cloud("auth.auth_url=http://k\nverify=False")),
            told(cloud(
                "auth.auth_url=http://k\nauth.username=u\nauth.password=p\nauth.project_id=1\ninterface=secret",
            )),
            told(environment("OS_INSECURE=true")),
        ];
        insta::assert_snapshot!(lines.join("\n"), @r#"
        no address of Keystone
        "k:5000" is no address of Keystone
        a user without a password
        no project
        an application credential without its id
        the way `v3oidcpassword` to show who one is is not known
        the key profile of the cloud is not known
        `verify: false`: a cloud that anybody could pretend to be is not used
        the interface "secret" is not known
        OS_INSECURE: a cloud that anybody could pretend to be is not used
        "#);
    }

    #[test]
    fn secrets_are_not_printed() {
        let credentials = cloud("auth.auth_url=http://k\nauth.username=u\nauth.password=hunter2\nauth.project_id=1");
        assert!(!format!("{credentials:?}").contains("hunter2"));
    }
}
