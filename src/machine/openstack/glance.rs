//! What is asked of Glance: images, their properties and their bytes.

use std::collections::BTreeMap;

use reqwest::{Method, Response};
use serde_json::{Value, json};

use super::client::{Call, Client, Opens};
use super::error::{ApiError, Service};
use super::nova::{encoded, gone_is_fine};

/// The keys of an image that are Glance's own; every other one is a property that somebody gave it.
const OWN: [&str; 26] = [
    "id",
    "name",
    "status",
    "visibility",
    "protected",
    "checksum",
    "owner",
    "size",
    "virtual_size",
    "container_format",
    "disk_format",
    "created_at",
    "updated_at",
    "tags",
    "direct_url",
    "locations",
    "min_ram",
    "min_disk",
    "self",
    "file",
    "schema",
    "os_hidden",
    "os_hash_algo",
    "os_hash_value",
    "stores",
    "links",
];

/// An image of the cloud.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct GlanceImage {
    pub(super) id: String,
    pub(super) name: String,
    /// `queued`, `saving`, `importing`, `active`, `killed`, `deleted`, `deactivated`, …
    pub(super) status: String,
    pub(super) owner: String,
    pub(super) size: Option<u64>,
    pub(super) virtual_size: Option<u64>,
    pub(super) min_disk: u64,
    pub(super) disk_format: String,
    /// Of which kind the sum of its bytes is, and the sum in hexadecimal digits.
    pub(super) hash: Option<(String, String)>,
    pub(super) visibility: String,
    pub(super) protected: bool,
    pub(super) hidden: bool,
    pub(super) tags: Vec<String>,
    pub(super) properties: BTreeMap<String, String>,
    /// When it last changed, as Glance writes it.
    pub(super) updated: String,
}

impl GlanceImage {
    fn read(told: &Value) -> Self {
        let text = |key: &str| told[key].as_str().unwrap_or_default().to_owned();
        let entries = told.as_object().into_iter().flatten();
        let own = |key: &str| OWN.contains(&key) || key.starts_with("os_glance_");
        let properties = entries.filter(|(key, _)| !own(key)).filter_map(|(key, value)| match value {
            Value::String(value) => Some((key.clone(), value.clone())),
            Value::Null => None,
            other => Some((key.clone(), other.to_string())),
        });
        let hash = (text("os_hash_algo"), text("os_hash_value"));
        Self {
            id: text("id"),
            name: text("name"),
            status: text("status"),
            owner: text("owner"),
            size: told["size"].as_u64(),
            virtual_size: told["virtual_size"].as_u64(),
            min_disk: told["min_disk"].as_u64().unwrap_or(0),
            disk_format: text("disk_format"),
            hash: Some(hash).filter(|(kind, sum)| !kind.is_empty() && !sum.is_empty()),
            visibility: text("visibility"),
            protected: told["protected"].as_bool().unwrap_or(false),
            hidden: told["os_hidden"].as_bool().unwrap_or(false),
            tags: told["tags"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|tag| Some(tag.as_str()?.to_owned()))
                .collect(),
            properties: properties.collect(),
            updated: text("updated_at"),
        }
    }

    pub(super) fn is_active(&self) -> bool {
        self.status == "active"
    }

    /// Whether its bytes are still to come. What somebody took out of use is finished.
    pub(super) fn is_unfinished(&self) -> bool {
        matches!(self.status.as_str(), "queued" | "saving" | "importing" | "uploading" | "killed")
    }

    pub(super) fn property(&self, name: &str) -> &str {
        self.properties.get(name).map(String::as_str).unwrap_or_default()
    }
}

/// A change of an image, one key at a time. A list of them is done as a whole or not at all.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change {
    /// Gives a key a value, whether it had one or not.
    Set(String, Value),
    /// Takes away a key that is there.
    Remove(String),
}

impl Change {
    fn patch(&self) -> Value {
        // JSON pointers have their own way to write two characters.
        let path = |key: &str| format!("/{}", key.replace('~', "~0").replace('/', "~1"));
        match self {
            // `replace` is what Glance's own keys want, and `add` what a new property wants; `add` does for both.
            Self::Set(key, value) => json!({"op": "add", "path": path(key), "value": value}),
            Self::Remove(key) => json!({"op": "remove", "path": path(key)}),
        }
    }
}

fn call(method: Method, path: impl Into<String>) -> Call {
    Call::new(Service::Image, method, path)
}

impl Client {
    /// The images that all these hold of: properties, or `name`, `status`, `tag`, `visibility`, `os_hidden`.
    pub(super) async fn images(&self, filter: &[(&str, &str)]) -> Result<Vec<GlanceImage>, ApiError> {
        let query: Vec<String> = filter.iter().map(|(key, value)| format!("{key}={}", encoded(value))).collect();
        let mut path = format!("/images?limit=200&{}", query.join("&"));
        let mut all = Vec::new();
        loop {
            let answer = self.call(&call(Method::GET, path)).await?.body;
            all.extend(answer["images"].as_array().into_iter().flatten().map(GlanceImage::read));
            // It names the next page from the root of its host, wherever a proxy has put it: what counts is the query.
            match answer["next"].as_str().and_then(|next| next.split_once('?')) {
                Some((_, query)) => path = format!("/images?{query}"),
                None => return Ok(all),
            }
        }
    }

    /// An image; `None` where Glance says that there is none.
    pub(super) async fn image(&self, id: &str) -> Result<Option<GlanceImage>, ApiError> {
        match self.call(&call(Method::GET, format!("/images/{}", encoded(id)))).await {
            Ok(answer) => Ok(Some(GlanceImage::read(&answer.body))),
            Err(error) if error.is_gone() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes an image without bytes.
    pub(super) async fn create_image_row(&self, row: Value) -> Result<GlanceImage, ApiError> {
        Ok(GlanceImage::read(&self.call(&call(Method::POST, "/images").json(row)).await?.body))
    }

    /// Changes an image, and tells what it is then. Where an answer was lost, an attempt before may have done it, and what
    /// it took away can't be taken away again.
    pub(super) async fn change_image(&self, id: &str, changes: &[Change]) -> Result<GlanceImage, ApiError> {
        match self.patched(id, changes).await {
            Err(error) if error.has_status(409) => {
                let Some(now) = self.image(id).await? else { return Err(error) };
                let is_open = |change: &&Change| match change {
                    Change::Set(..) => true,
                    Change::Remove(key) => now.properties.contains_key(key),
                };
                let open: Vec<Change> = changes.iter().filter(is_open).cloned().collect();
                match open.len() {
                    0 => Ok(now),
                    count if count == changes.len() => Err(error),
                    _ => self.patched(id, &open).await,
                }
            }
            answered => answered,
        }
    }

    async fn patched(&self, id: &str, changes: &[Change]) -> Result<GlanceImage, ApiError> {
        let patch = Value::Array(changes.iter().map(Change::patch).collect());
        let mut call = call(Method::PATCH, format!("/images/{}", encoded(id))).json(patch).repeatable();
        call.content_type = "application/openstack-images-v2.1-json-patch";
        Ok(GlanceImage::read(&self.call(&call).await?.body))
    }

    /// Gives an image a tag; one that it has is no error.
    pub(super) async fn tag_image(&self, id: &str, tag: &str) -> Result<(), ApiError> {
        let path = format!("/images/{}/tags/{}", encoded(id), encoded(tag));
        self.call(&call(Method::PUT, path)).await.map(drop)
    }

    /// Deletes an image; one that is gone is no error.
    pub(super) async fn delete_image(&self, id: &str) -> Result<(), ApiError> {
        gone_is_fine(self.call(&call(Method::DELETE, format!("/images/{}", encoded(id)))).await.map(drop))
    }

    /// Gives an image its bytes.
    pub(super) async fn upload_image(&self, id: &str, bytes: &dyn Opens) -> Result<(), ApiError> {
        self.upload(&call(Method::PUT, format!("/images/{}/file", encoded(id))), bytes).await
    }

    /// The other way to give an image its bytes, for clouds that allow only this one: put aside, then taken in. It takes a
    /// while until the image is active.
    pub(super) async fn import_image(&self, id: &str, bytes: &dyn Opens) -> Result<(), ApiError> {
        self.upload(&call(Method::PUT, format!("/images/{}/stage", encoded(id))), bytes).await?;
        let body = json!({"method": {"name": "glance-direct"}});
        self.call(&call(Method::POST, format!("/images/{}/import", encoded(id))).json(body)).await.map(drop)
    }

    /// The bytes of an image, from the beginning, or only so many of them.
    pub(super) async fn image_bytes(&self, id: &str, first: Option<u64>) -> Result<Response, ApiError> {
        let call = call(Method::GET, format!("/images/{}/file", encoded(id)));
        let call = match first {
            Some(bytes) => call.header("range", format!("bytes=0-{}", bytes.saturating_sub(1))),
            None => call,
        };
        self.download(&call).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_read_with_what_others_gave_it_apart() {
        let told = json!({
            "id": "1", "name": "n", "status": "active", "size": 5, "virtual_size": null, "min_disk": 2, "tags": ["t"],
            "os_hash_algo": "sha512", "os_hash_value": "ab", "os_hidden": true, "protected": false, "checksum": "c",
            "self": "/v2/images/1", "os_glance_import_task": "x", "hw_rng_model": "virtio", "factoryd_build": "7",
        });
        let image = GlanceImage::read(&told);
        assert_eq!(image.properties.keys().collect::<Vec<_>>(), ["factoryd_build", "hw_rng_model"]);
        assert_eq!((image.size, image.virtual_size, image.hidden), (Some(5), None, true));
        assert_eq!(image.hash, Some(("sha512".to_owned(), "ab".to_owned())));
    }

    #[test]
    fn changes_are_written_as_patches() {
        let changes = [Change::Set("a/b~c".to_owned(), json!("v")), Change::Remove("x".to_owned())];
        let patch = Value::Array(changes.iter().map(Change::patch).collect()).to_string();
        assert_eq!(patch, r#"[{"op":"add","path":"/a~1b~0c","value":"v"},{"op":"remove","path":"/x"}]"#);
    }
}
