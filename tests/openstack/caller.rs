//! A plain HTTP client of a cloud, fake or real: somebody with a token who knows where the services are.

use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

/// Somebody with a token, who knows where the services are.
pub(crate) struct Caller {
    pub(crate) http: reqwest::Client,
    pub(crate) token: String,
    pub(crate) catalogue: Value,
    /// The user's id.
    pub(crate) user: Value,
}

impl Caller {
    /// Enters with the user and the password that `OS_*` variables name.
    pub(crate) async fn enter(environment: &[(String, String)]) -> Self {
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build();
        let http = http.expect("a client");
        let env = |name: &str| environment.iter().find(|(key, _)| key == name).map(|(_, value)| value).expect("given");
        let user = json!({ "name": env("OS_USERNAME"), "domain": { "id": "default" }, "password": env("OS_PASSWORD") });
        let project = json!({ "project": { "name": env("OS_PROJECT_NAME"), "domain": { "name": "Default" } } });
        let identity = json!({ "methods": ["password"], "password": { "user": user } });
        let auth = json!({ "auth": { "identity": identity, "scope": project } });
        let request =
            http.post(format!("{}/auth/tokens", env("OS_AUTH_URL"))).header("content-type", "application/json");
        let answer = request.body(auth.to_string()).send().await.expect("Keystone answers");
        assert_eq!(answer.status(), StatusCode::CREATED);
        let token = answer.headers()["x-subject-token"].to_str().expect("text").to_owned();
        let shown = body(answer).await["token"].clone();
        Self { http, token, catalogue: shown["catalog"].clone(), user: shown["user"]["id"].clone() }
    }

    /// The address of a call of a service, by the service's type.
    pub(crate) fn url(&self, kind: &str, path: &str) -> String {
        let service =
            self.catalogue.as_array().expect("a list").iter().find(|one| one["type"] == kind).expect("listed");
        let endpoints = service["endpoints"].as_array().expect("a list");
        let public = endpoints.iter().find(|one| one["interface"] == "public" && one["region"] == "RegionOne");
        let base = public.expect("listed")["url"].as_str().expect("text").trim_end_matches('/').to_owned();
        let version = match kind {
            "image" if !base.ends_with("/v2") => "/v2",
            "network" if !base.ends_with("/v2.0") => "/v2.0",
            _ => "",
        };
        format!("{base}{version}{path}")
    }

    /// A call with the token, and of Nova with a microversion.
    pub(crate) fn request(&self, method: Method, kind: &str, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, self.url(kind, path)).header("x-auth-token", &self.token);
        if kind == "compute" { request.header("openstack-api-version", "compute 2.73") } else { request }
    }

    /// What a GET that succeeds says.
    pub(crate) async fn get(&self, kind: &str, path: &str) -> Value {
        let answer = self.request(Method::GET, kind, path).send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK, "GET {path}");
        body(answer).await
    }

    /// A call with JSON in it; `null` is no body.
    pub(crate) async fn send(&self, method: Method, kind: &str, path: &str, json: &Value) -> Response {
        let request = self.request(method, kind, path);
        let request = match json {
            Value::Null => request,
            json => request.header("content-type", "application/json").body(json.to_string()),
        };
        request.send().await.expect("an answer")
    }

    /// A server as Nova shows it.
    pub(crate) async fn server(&self, id: &str) -> Value {
        self.get("compute", &format!("/servers/{id}")).await["server"].clone()
    }
}

/// What an answer says: JSON, or else text.
pub(crate) async fn body(answer: Response) -> Value {
    let text = answer.text().await.expect("a body");
    serde_json::from_str(&text).unwrap_or(Value::String(text))
}
