//! Glance v2: images made, shown, listed, changed and deleted. Their bytes go through [`super::glance_data`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use super::clock::written;
use super::faults::ImageFate;
use super::http::{Answer, Request, Service, refusal, unknown};
use super::state::{Image, Origin, State};
use super::{glance_data, keystone};

/// What a client may set, besides properties of its own.
const WRITABLE: [&str; 9] =
    ["name", "disk_format", "container_format", "visibility", "protected", "os_hidden", "min_disk", "min_ram", "tags"];
/// What only Glance sets.
const READ_ONLY: [&str; 13] = [
    "stores",
    "status",
    "checksum",
    "size",
    "virtual_size",
    "created_at",
    "updated_at",
    "owner",
    "file",
    "schema",
    "self",
    "os_hash_algo",
    "os_hash_value",
];

pub(crate) fn refused(status: u16, message: &str) -> Answer {
    refusal(Service::Glance, status, message)
}

pub(crate) fn not_found(id: &str) -> Answer {
    refused(404, &format!("No image found with ID {id}"))
}

/// An image as Glance shows it.
pub(crate) fn shown(image: &Image, base: jiff::Timestamp) -> Value {
    let active = image.status == "active" || image.status == "deactivated";
    let data = image.data.as_ref().filter(|_| active).or(image.staged.as_ref());
    let size = data.map(hyper::body::Bytes::len);
    let sums = |sum: &str| if active { json!(sum) } else { Value::Null };
    let mut shown = json!({
        "id": image.id, "name": image.name, "status": image.status, "visibility": image.visibility,
        "protected": image.protected, "os_hidden": image.hidden, "owner": image.owner, "tags": image.tags,
        "min_disk": image.min_disk, "min_ram": image.min_ram, "disk_format": image.disk_format,
        "container_format": image.container_format, "size": size, "virtual_size": null,
        "checksum": sums(&image.md5), "os_hash_algo": sums("sha512"), "os_hash_value": sums(&image.sha512),
        "created_at": written(base, image.created), "updated_at": written(base, image.updated),
        "file": format!("/v2/images/{}/file", image.id), "self": format!("/v2/images/{}", image.id),
        "schema": "/v2/schemas/image",
    });
    if active && image.disk_format.as_deref() == Some("qcow2") {
        shown["virtual_size"] = json!(1_u64 << 30);
    }
    if active {
        shown["stores"] = json!("file");
    }
    for (key, value) in &image.properties {
        shown[key] = json!(value);
    }
    shown
}

pub(crate) fn answer(state: &mut State, request: &Request) -> Answer {
    if request.method == "DELETE" && !request.json.is_null() {
        state.violation(format!("DELETE {} has a body", request.path));
        return refused(400, "A body is not expected with this request.");
    }
    match (request.method.as_str(), request.parts().as_slice()) {
        ("POST", ["images"]) => create(state, request),
        ("GET", ["images"]) => list(state, request),
        ("GET", ["info", "import"]) => {
            let methods: &[&str] =
                if state.settings.import { &["glance-direct", "web-download", "copy-image"] } else { &[] };
            let value = json!({ "import-methods": { "description": "Import methods available.", "type": "array", "value": methods } });
            Answer::json(200, &value)
        }
        (_, ["images", id, rest @ ..]) => {
            let now = state.now;
            let late = |image: &Image| matches!(image.fate, ImageFate::LateToAppear(by) if now < image.created + by);
            let seen =
                |image: &Image| !late(image) && (image.owner == request.project || image.visibility != "private");
            match state.images.get(*id) {
                Some(image) if seen(image) => on_image(state, request, id, rest),
                _ => not_found(id),
            }
        }
        _ => unknown(Service::Glance),
    }
}

fn on_image(state: &mut State, request: &Request, id: &str, rest: &[&str]) -> Answer {
    if request.method != "GET" {
        let image = &state.images[id];
        let (origin, what) = (image.origin, format!("the image {id}"));
        state.touch(request, origin, &what);
        if state.images[id].owner != request.project {
            return refused(403, "You are not permitted to modify this image.");
        }
    }
    let base = state.now_base;
    match (request.method.as_str(), rest) {
        ("GET", []) => Answer::json(200, &shown(&state.images[id], base)),
        ("PATCH", []) => patch(state, request, id),
        ("DELETE", []) => {
            let image = &state.images[id];
            if image.protected {
                return refused(403, &format!("Image {id} is protected and cannot be deleted."));
            }
            state.images.remove(id);
            Answer::empty(204)
        }
        ("GET", ["file"]) => glance_data::download(&state.images[id], request),
        ("POST", ["import"]) => glance_data::import(state, request, id),
        ("PUT", ["tags", tag]) => {
            let fits = tag.len() <= 255;
            let image = state.images.get_mut(id).expect("it is there");
            if fits {
                image.tags.insert((*tag).to_owned());
            }
            Answer::empty(if fits { 204 } else { 400 })
        }
        ("DELETE", ["tags", tag]) => match state.images.get_mut(id).expect("it is there").tags.remove(*tag) {
            true => Answer::empty(204),
            false => refused(404, "The resource could not be found."),
        },
        ("GET", ["members"]) => Answer::json(200, &json!({ "members": [], "schema": "/v2/schemas/members" })),
        ("POST", ["actions", "deactivate"]) => status(state, id, "deactivated"),
        ("POST", ["actions", "reactivate"]) => status(state, id, "active"),
        _ => unknown(Service::Glance),
    }
}

fn status(state: &mut State, id: &str, status: &'static str) -> Answer {
    let image = state.images.get_mut(id).expect("it is there");
    if !matches!(image.status, "active" | "deactivated") {
        return refused(403, &format!("Not allowed to change the status of image '{id}'"));
    }
    image.status = status;
    Answer::empty(204)
}

fn create(state: &mut State, request: &Request) -> Answer {
    let Some(given) = request.json.as_object() else { return refused(400, "Expected a JSON object") };
    let id = given.get("id").and_then(Value::as_str).map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned);
    if uuid::Uuid::parse_str(&id).is_err() {
        return refused(400, "Invalid image id format");
    }
    if state.images.contains_key(&id) {
        return refused(409, &format!("Image ID {id} already exists!"));
    }
    let mut image = Image {
        origin: Origin::Client,
        id: id.clone(),
        owner: request.project.clone(),
        name: None,
        status: "queued",
        disk_format: None,
        container_format: None,
        visibility: "shared".to_owned(),
        protected: false,
        hidden: false,
        min_disk: 0,
        min_ram: 0,
        tags: BTreeSet::new(),
        properties: BTreeMap::new(),
        data: None,
        staged: None,
        md5: String::new(),
        sha512: String::new(),
        fate: ImageFate::Well,
        created: state.now,
        updated: state.now,
    };
    for (key, value) in given.iter().filter(|(key, _)| *key != "id") {
        if let Err(refused) = set(&mut image, key, value) {
            return refused;
        }
    }
    image.fate = state.faults.image_fate();
    let shown = shown(&image, state.now_base);
    state.images.insert(id.clone(), image);
    let answer = Answer::json(201, &shown).with("location", format!("{}/v2/images/{id}", state.link(Service::Glance)));
    match state.settings.import {
        true => answer.with("openstack-image-import-methods", "glance-direct,web-download,copy-image"),
        false => answer,
    }
}

/// Sets one attribute or property, as Glance lets it be set.
fn set(image: &mut Image, key: &str, value: &Value) -> Result<(), Answer> {
    if READ_ONLY.contains(&key) {
        return Err(refused(403, &format!("Attribute '{key}' is read-only.")));
    }
    let text = || match value {
        Value::String(text) => Ok(text.clone()),
        _ => Err(refused(
            400,
            &format!("Provided object does not match schema 'image': {value} is not of type 'string'"),
        )),
    };
    let number = || {
        let wrong = || {
            refused(400, &format!("Provided object does not match schema 'image': {value} is not of type 'integer'"))
        };
        value.as_u64().ok_or_else(wrong)
    };
    let flag = || {
        let wrong = || {
            refused(400, &format!("Provided object does not match schema 'image': {value} is not of type 'boolean'"))
        };
        value.as_bool().ok_or_else(wrong)
    };
    match key {
        "name" if value.is_null() => image.name = None,
        "name" => image.name = Some(text()?).filter(|name| name.chars().count() <= 255),
        "disk_format" | "container_format" => {
            let text = text()?;
            if image.status != "queued" {
                return Err(refused(403, &format!("Attribute {key} can be only replaced for a queued image.")));
            }
            let known =
                ["qcow2", "raw", "vmdk", "vdi", "vhd", "vhdx", "iso", "ami", "ari", "aki", "bare", "ovf", "ova"];
            if !known.contains(&text.as_str()) {
                return Err(refused(400, &format!("Invalid {key} '{text}' for image.")));
            }
            let place = if key == "disk_format" { &mut image.disk_format } else { &mut image.container_format };
            *place = Some(text);
        }
        "visibility" => match text()?.as_str() {
            "public" => return Err(refused(403, "You are not authorized to complete publicize_image action.")),
            known @ ("private" | "shared" | "community") => image.visibility = known.to_owned(),
            other => {
                return Err(refused(
                    400,
                    &format!("Provided object does not match schema 'image': '{other}' is not one of"),
                ));
            }
        },
        "protected" => image.protected = flag()?,
        "os_hidden" => image.hidden = flag()?,
        "min_disk" => image.min_disk = number()?,
        "min_ram" => image.min_ram = number()?,
        "tags" => {
            let tags = value.as_array().into_iter().flatten().map(Value::as_str).collect::<Option<Vec<_>>>();
            let tags = tags.ok_or_else(|| refused(400, "Provided object does not match schema 'image': tags"))?;
            image.tags = tags.into_iter().map(str::to_owned).collect();
        }
        _ if key.len() > 255 => return Err(refused(400, "Property name is too long")),
        _ => {
            image.properties.insert(key.to_owned(), text()?);
        }
    }
    Ok(())
}

fn patch(state: &mut State, request: &Request, id: &str) -> Answer {
    let kind = request.header("content-type").unwrap_or_default();
    if kind != "application/openstack-images-v2.1-json-patch" {
        state.violation(format!("PATCH of an image is sent as {kind:?}"));
        return refused(415, "Unsupported Media Type");
    }
    let Some(operations) = request.json.as_array() else {
        return refused(400, "Request body must be a JSON array of operation objects.");
    };
    // All or nothing.
    let mut image = state.images[id].clone();
    for operation in operations {
        if let Err(refused) = change(&mut image, operation) {
            return refused;
        }
    }
    image.updated = state.now;
    let shown = shown(&image, state.now_base);
    state.images.insert(id.to_owned(), image);
    Answer::json(200, &shown)
}

fn change(image: &mut Image, operation: &Value) -> Result<(), Answer> {
    let path = operation["path"].as_str().unwrap_or_default();
    let Some(key) = path.strip_prefix('/').filter(|key| !key.is_empty() && !key.contains('/')) else {
        return Err(refused(400, &format!("Invalid JSON pointer for this resource: '{path}'")));
    };
    let key = key.replace("~1", "/").replace("~0", "~");
    if READ_ONLY.contains(&key.as_str()) || key == "id" {
        return Err(refused(403, &format!("Attribute '{key}' is read-only.")));
    }
    let missing = || refused(409, &format!("Property {key} does not exist."));
    let is_attribute = WRITABLE.contains(&key.as_str());
    let is_there = is_attribute || image.properties.contains_key(&key);
    match operation["op"].as_str().unwrap_or_default() {
        "add" => set(image, &key, &operation["value"]),
        "replace" if is_there => set(image, &key, &operation["value"]),
        "remove" if is_attribute => Err(refused(403, &format!("Property {key} may not be removed."))),
        "remove" if is_there => {
            image.properties.remove(&key);
            Ok(())
        }
        "replace" | "remove" => Err(missing()),
        other => Err(refused(400, &format!("Operation '{other}' is not one of add, replace, remove."))),
    }
}

/// Filters of the list that are no properties.
const FILTERS: [&str; 18] = [
    "limit",
    "marker",
    "sort_key",
    "sort_dir",
    "sort",
    "name",
    "status",
    "tag",
    "owner",
    "visibility",
    "os_hidden",
    "id",
    "disk_format",
    "container_format",
    "protected",
    "member_status",
    "size_min",
    "size_max",
];

fn list(state: &mut State, request: &Request) -> Answer {
    let now = state.now;
    let asked = |key: &str| request.asked(key);
    let one_of = |key: &str, value: &str| match asked(key) {
        Some(all) if all.starts_with("in:") => all[3..].split(',').any(|one| one.trim_matches('"') == value),
        Some(one) => one == value,
        None => true,
    };
    let tags: Vec<&String> = request.query.iter().filter(|(key, _)| key == "tag").map(|(_, value)| value).collect();
    let fits = |image: &&Image| {
        let own = image.owner == request.project;
        let seen = match asked("visibility") {
            Some("community") => image.visibility == "community",
            Some("all") => own || image.visibility != "private",
            Some(visibility) => image.visibility == visibility && (own || visibility == "public"),
            None => own || image.visibility == "public",
        };
        let late = matches!(image.fate, ImageFate::LateToAppear(by) if now < image.created + by);
        let property = |(key, value): &(String, String)| {
            FILTERS.contains(&key.as_str()) || image.properties.get(key) == Some(value)
        };
        seen && !late
            && image.hidden == (asked("os_hidden") == Some("true"))
            && one_of("name", image.name.as_deref().unwrap_or_default())
            && one_of("status", image.status)
            && one_of("id", &image.id)
            && one_of("owner", &image.owner)
            && one_of("disk_format", image.disk_format.as_deref().unwrap_or_default())
            && tags.iter().all(|tag| image.tags.contains(*tag))
            && request.query.iter().all(property)
    };
    let mut images: Vec<&Image> = state.images.values().filter(fits).collect();
    // The newest first, as Glance sorts unless asked otherwise.
    images.sort_by_key(|image| (std::cmp::Reverse(image.created), image.id.clone()));
    let limit = asked("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX).min(state.settings.page);
    let from = asked("marker")
        .map_or(0, |marker| images.iter().position(|image| image.id == marker).map_or(images.len(), |at| at + 1));
    let page: Vec<Value> = images.iter().skip(from).take(limit).map(|image| shown(image, state.now_base)).collect();
    let mut body = json!({ "first": "/v2/images", "schema": "/v2/schemas/images" });
    if from + page.len() < images.len() && !page.is_empty() {
        let mut query: Vec<(String, String)> =
            request.query.iter().filter(|(key, _)| key != "marker").cloned().collect();
        query.push(("marker".to_owned(), page[page.len() - 1]["id"].as_str().expect("an id").to_owned()));
        let url = reqwest::Url::parse_with_params("http://glance/v2/images", query).expect("an address");
        body["next"] = json!(url.as_str().trim_start_matches("http://glance"));
    }
    body["images"] = Value::Array(page);
    Answer::json(200, &body)
}

/// How long an upload or import takes until the image is active.
pub(crate) const QUICK: Duration = Duration::from_millis(500);

/// Makes an image that is active already.
pub(crate) fn seed(state: &mut State, origin: Origin, id: &str, owner: &str, name: &str) {
    let data = glance_data::made(&format!("{name}\n"));
    let mut image = Image {
        origin,
        id: id.to_owned(),
        owner: owner.to_owned(),
        name: Some(name.to_owned()),
        status: "active",
        disk_format: Some("qcow2".to_owned()),
        container_format: Some("bare".to_owned()),
        visibility: if owner == keystone::PROJECT_ID { "private" } else { "public" }.to_owned(),
        protected: false,
        hidden: false,
        min_disk: 1,
        min_ram: 0,
        tags: BTreeSet::new(),
        properties: BTreeMap::from([("hw_rng_model".to_owned(), "virtio".to_owned())]),
        data: Some(data),
        staged: None,
        md5: String::new(),
        sha512: String::new(),
        fate: ImageFate::Well,
        created: state.now,
        updated: state.now,
    };
    glance_data::sum(&mut image);
    state.images.insert(id.to_owned(), image);
}
