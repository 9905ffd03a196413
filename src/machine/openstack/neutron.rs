//! What is asked of Neutron: networks, ports, floating addresses.

use reqwest::Method;
use serde_json::{Value, json};

use super::client::{Call, Client};
use super::error::{ApiError, Fate, Service};
use super::nova::{encoded, gone_is_fine};

/// A network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Network {
    pub(super) id: String,
    pub(super) name: String,
}

/// A floating address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FloatingIp {
    pub(super) id: String,
    pub(super) address: String,
    /// The port that it leads to; empty where it leads to none.
    pub(super) port: String,
    /// What it was made for.
    pub(super) description: String,
}

fn call(method: Method, path: impl Into<String>) -> Call {
    Call::new(Service::Network, method, path)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn floating(told: &Value) -> FloatingIp {
    FloatingIp {
        id: text(&told["id"]),
        address: text(&told["floating_ip_address"]),
        port: text(&told["port_id"]),
        description: text(&told["description"]),
    }
}

impl Client {
    async fn listed(&self, what: &str, query: &str) -> Result<Vec<Value>, ApiError> {
        let answer = self.call(&call(Method::GET, format!("/{what}?{query}"))).await?.body;
        Ok(answer[what].as_array().cloned().unwrap_or_default())
    }

    /// The networks of an id, or else of a name.
    pub(super) async fn networks(&self, wanted: &str) -> Result<Vec<Network>, ApiError> {
        for key in ["id", "name"] {
            let found = self.listed("networks", &format!("{key}={}", encoded(wanted))).await?;
            let networks: Vec<Network> =
                found.iter().map(|told| Network { id: text(&told["id"]), name: text(&told["name"]) }).collect();
            if !networks.is_empty() {
                return Ok(networks);
            }
        }
        Ok(Vec::new())
    }

    /// The ports of a server.
    pub(super) async fn ports(&self, server: &str) -> Result<Vec<String>, ApiError> {
        let ports = self.listed("ports", &format!("device_id={}", encoded(server))).await?;
        Ok(ports.iter().map(|told| text(&told["id"])).collect())
    }

    /// The project's floating addresses; none where the cloud has no service for networks.
    pub(super) async fn floating_ips(&self) -> Result<Vec<FloatingIp>, ApiError> {
        match self.listed("floatingips", "").await {
            Err(error) if error.fate == Fate::Impossible => Ok(Vec::new()),
            listed => Ok(listed?.iter().map(floating).collect()),
        }
    }

    /// Takes a floating address of a network for a port.
    pub(super) async fn create_floating_ip(
        &self,
        network: &str,
        port: &str,
        description: &str,
    ) -> Result<FloatingIp, ApiError> {
        let body = json!({"floatingip": {
            "floating_network_id": network, "port_id": port, "description": description,
        }});
        Ok(floating(&self.call(&call(Method::POST, "/floatingips").json(body)).await?.body["floatingip"]))
    }

    /// Gives a floating address back; one that is gone is no error.
    pub(super) async fn delete_floating_ip(&self, id: &str) -> Result<(), ApiError> {
        gone_is_fine(self.call(&call(Method::DELETE, format!("/floatingips/{}", encoded(id)))).await.map(drop))
    }
}
