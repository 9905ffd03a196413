//! What is asked of Nova: servers, their snapshots and consoles, flavors, key pairs.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Value, json};

use super::client::{Call, Client};
use super::error::{ApiError, Fate, Service};

/// The newest microversion whose meaning is known here.
const NEWEST: (u32, u32) = (2, 73);
/// The oldest that will do: since it, a server gets its tags when it is made.
const OLDEST: (u32, u32) = (2, 52);

/// A microversion of a cloud, chosen once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Microversion {
    /// What is sent with each call.
    pub(super) used: String,
    /// The newest that the cloud knows.
    pub(super) newest: String,
}

/// A server, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) status: String,
    /// What Nova is doing with it, if anything.
    pub(super) task: Option<String>,
    pub(super) metadata: BTreeMap<String, String>,
    /// Addresses: of which network, which address, of which kind (`fixed`, `floating`).
    pub(super) addresses: Vec<(String, String, String)>,
    /// Why it is in `ERROR`.
    pub(super) fault: String,
}

/// A kind of machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flavor {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) cpus: u32,
    /// Memory in MiB.
    pub(super) memory: u64,
    /// The disk in GiB; 0 is the image's own size.
    pub(super) disk: u64,
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| if value.is_null() { String::new() } else { value.to_string() }, str::to_owned)
}

fn items<'v>(answer: &'v Value, key: &str) -> &'v [Value] {
    answer[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

impl Server {
    fn read(told: &Value) -> Self {
        let metadata = told["metadata"].as_object().into_iter().flatten();
        let networks = told["addresses"].as_object().into_iter().flatten();
        let addresses = networks.flat_map(|(network, list)| {
            list.as_array()
                .into_iter()
                .flatten()
                .map(|address| (network.clone(), text(&address["addr"]), text(&address["OS-EXT-IPS:type"])))
        });
        Self {
            id: text(&told["id"]),
            name: text(&told["name"]),
            status: text(&told["status"]),
            task: told["OS-EXT-STS:task_state"].as_str().map(str::to_owned),
            metadata: metadata.map(|(key, value)| (key.clone(), text(value))).collect(),
            addresses: addresses.collect(),
            fault: text(&told["fault"]["message"]),
        }
    }
}

/// Chooses a microversion from what the cloud says of its range.
fn choose(told: &Value) -> Result<Microversion, String> {
    let read = |key: &str| {
        let text = told["version"][key].as_str().unwrap_or_default();
        let (major, minor) = text.split_once('.')?;
        Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
    };
    let (Some(newest), Some(oldest)) = (read("version"), read("min_version")) else {
        return Err("it does not say which microversions it knows".to_owned());
    };
    if newest < OLDEST || oldest > NEWEST {
        return Err(format!(
            "it knows the microversions {}.{} to {}.{}; {}.{} to {}.{} are understood here",
            oldest.0, oldest.1, newest.0, newest.1, OLDEST.0, OLDEST.1, NEWEST.0, NEWEST.1
        ));
    }
    let used = newest.min(NEWEST);
    Ok(Microversion { used: format!("{}.{}", used.0, used.1), newest: format!("{}.{}", newest.0, newest.1) })
}

/// Nova, asked with one microversion.
#[derive(Debug)]
pub(super) struct Nova<'c> {
    pub(super) client: &'c Client,
    pub(super) version: &'c Microversion,
}

impl Client {
    /// Reads which microversions Nova knows.
    pub(super) async fn microversion(&self) -> Result<Microversion, ApiError> {
        const PATH: &str = "GET / (its versions)";
        let session = self.session(0, std::time::Duration::ZERO).await?;
        // Its own document lies at `/v2.1/`, above the project that some catalogues have in the address.
        let endpoint = session.endpoint(Service::Compute, PATH)?;
        let up =
            endpoint.rsplit_once('/').filter(|(_, last)| !last.starts_with("v2")).map(|_| "/..").unwrap_or_default();
        let told = self.call(&Call::new(Service::Compute, Method::GET, format!("{up}/"))).await?.body;
        choose(&told).map_err(|why| ApiError::silent(Service::Compute, PATH, Fate::Impossible, why))
    }
}

impl Nova<'_> {
    fn call(&self, method: Method, path: impl Into<String>) -> Call {
        let call = Call::new(Service::Compute, method, path);
        call.header("openstack-api-version", format!("compute {}", self.version.used))
            .header("x-openstack-nova-api-version", self.version.used.clone())
    }

    /// All of a list that comes in pages.
    async fn pages(&self, path: &str, key: &str) -> Result<Vec<Value>, ApiError> {
        let mut all: Vec<Value> = Vec::new();
        let mut marker = String::new();
        loop {
            let separator = if path.contains('?') { '&' } else { '?' };
            let next = if marker.is_empty() { path.to_owned() } else { format!("{path}{separator}marker={marker}") };
            let answer = self.client.call(&self.call(Method::GET, next)).await?.body;
            let page = items(&answer, key);
            all.extend_from_slice(page);
            let goes_on = items(&answer, &format!("{key}_links")).iter().any(|link| link["rel"] == "next");
            match page.last().filter(|_| goes_on) {
                // A key pair has no id, and is named by its name.
                Some(last) if last["id"].is_null() => marker = encoded(&text(&last["keypair"]["name"])),
                Some(last) => marker = text(&last["id"]),
                None => return Ok(all),
            }
        }
    }

    /// The servers that have a tag.
    pub(super) async fn servers(&self, tag: &str) -> Result<Vec<Server>, ApiError> {
        let path = format!("/servers/detail?tags={}", encoded(tag));
        Ok(self.pages(&path, "servers").await?.iter().map(Server::read).collect())
    }

    /// A server; `None` where Nova says that there is none.
    pub(super) async fn server(&self, id: &str) -> Result<Option<Server>, ApiError> {
        match self.client.call(&self.call(Method::GET, format!("/servers/{id}"))).await {
            Ok(answer) => Ok(Some(Server::read(&answer.body["server"]))),
            Err(error) if error.is_gone() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks for a server; gives its id.
    pub(super) async fn create_server(&self, server: Value) -> Result<String, ApiError> {
        let call = self.call(Method::POST, "/servers").json(json!({"server": server}));
        Ok(text(&self.client.call(&call).await?.body["server"]["id"]))
    }

    /// Deletes a server. One that is gone is no error; it takes a while until it is.
    pub(super) async fn delete_server(&self, id: &str) -> Result<(), ApiError> {
        gone_is_fine(self.client.call(&self.call(Method::DELETE, format!("/servers/{id}"))).await.map(drop))
    }

    /// Stops a server. One that stops or has stopped is no error.
    pub(super) async fn stop(&self, id: &str) -> Result<(), ApiError> {
        let call = self.call(Method::POST, format!("/servers/{id}/action")).json(json!({"os-stop": null}));
        match self.client.call(&call).await {
            Err(error) if error.has_status(409) => Ok(()),
            answered => answered.map(drop),
        }
    }

    /// Begins to make an image of a server's disk; gives the image's id.
    pub(super) async fn create_image(
        &self,
        id: &str,
        name: &str,
        marks: &BTreeMap<String, String>,
    ) -> Result<String, ApiError> {
        let body = json!({"createImage": {"name": name, "metadata": marks}});
        let call = self.call(Method::POST, format!("/servers/{id}/action")).json(body);
        Ok(text(&self.client.call(&call).await?.body["image_id"]))
    }

    /// What a server has printed so far; `None` while it has no console.
    pub(super) async fn console(&self, id: &str) -> Result<Option<String>, ApiError> {
        let call = self.call(Method::POST, format!("/servers/{id}/action")).json(json!({"os-getConsoleOutput": {}}));
        let call = call.repeatable();
        match self.client.call(&call).await {
            Ok(answer) => Ok(Some(text(&answer.body["output"]))),
            Err(error) if error.has_status(409) || error.has_status(404) || error.has_status(501) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All kinds of machines.
    pub(super) async fn flavors(&self) -> Result<Vec<Flavor>, ApiError> {
        let read = |told: &Value| Flavor {
            id: text(&told["id"]),
            name: text(&told["name"]),
            cpus: u32::try_from(told["vcpus"].as_u64().unwrap_or(0)).unwrap_or(u32::MAX),
            memory: told["ram"].as_u64().unwrap_or(0),
            disk: told["disk"].as_u64().unwrap_or(0),
        };
        Ok(self.pages("/flavors/detail", "flavors").await?.iter().map(read).collect())
    }

    /// Gives Nova a public key under a name. One that is there is no error: nobody else makes such names.
    pub(super) async fn create_keypair(&self, name: &str, public_key: &str) -> Result<(), ApiError> {
        let body = json!({"keypair": {"name": name, "public_key": public_key, "type": "ssh"}});
        let call = self.call(Method::POST, "/os-keypairs").json(body).repeatable();
        let mut made = 1;
        loop {
            match self.client.call(&call).await {
                Err(error) if error.has_status(409) && !error.is_shortage() && made < self.client.pace.attempts => {
                    // It is of an earlier attempt, with another key, or its answer was lost.
                    self.delete_keypair(name).await?;
                    made += 1;
                }
                answered => return answered.map(drop),
            }
        }
    }

    /// The names of the user's key pairs.
    pub(super) async fn keypairs(&self) -> Result<Vec<String>, ApiError> {
        let told = self.pages("/os-keypairs", "keypairs").await?;
        Ok(told.iter().map(|pair| text(&pair["keypair"]["name"])).collect())
    }

    /// Deletes a key pair; one that is gone is no error.
    pub(super) async fn delete_keypair(&self, name: &str) -> Result<(), ApiError> {
        gone_is_fine(
            self.client.call(&self.call(Method::DELETE, format!("/os-keypairs/{}", encoded(name)))).await.map(drop),
        )
    }
}

/// What is deleted and not there is deleted.
pub(super) fn gone_is_fine(deleted: Result<(), ApiError>) -> Result<(), ApiError> {
    match deleted {
        Err(error) if error.is_gone() => Ok(()),
        deleted => deleted,
    }
}

/// A text as a part of an address.
pub(super) fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(min: &str, max: &str) -> Result<String, String> {
        choose(&json!({"version": {"version": max, "min_version": min}})).map(|chosen| chosen.used)
    }

    #[test]
    fn a_microversion_within_the_clouds_range_is_chosen() {
        assert_eq!(range("2.1", "2.93").as_deref(), Ok("2.73"));
        assert_eq!(range("2.1", "2.60").as_deref(), Ok("2.60"));
        assert!(range("2.1", "2.38").expect_err("too old").contains("2.1 to 2.38; 2.52 to 2.73"));
        assert!(range("2.80", "2.99").is_err());
        assert!(range("", "").expect_err("nothing said").contains("does not say"));
    }

    #[test]
    fn a_server_is_read_with_its_addresses_and_its_fault() {
        let told = json!({
            "id": "1", "name": "n", "status": "ERROR", "OS-EXT-STS:task_state": null, "metadata": {"k": "v"},
            "addresses": {"net": [{"addr": "10.0.0.5", "version": 4, "OS-EXT-IPS:type": "fixed"}]},
            "fault": {"code": 500, "message": "No valid host was found."},
        });
        let server = Server::read(&told);
        assert_eq!(server.addresses, [("net".to_owned(), "10.0.0.5".to_owned(), "fixed".to_owned())]);
        assert_eq!((server.task, server.fault.as_str()), (None, "No valid host was found."));
        assert_eq!(encoded("factoryd:a b/c"), "factoryd%3Aa%20b%2Fc");
    }
}
