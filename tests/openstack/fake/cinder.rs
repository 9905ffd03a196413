//! Cinder v3: volumes made, shown and deleted.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::http::{Answer, Request, Service, refusal, unknown};
use super::state::{Event, Origin, State, Volume};

fn refused(status: u16, message: &str) -> Answer {
    refusal(Service::Cinder, status, message)
}

pub(crate) fn shown(state: &State, volume: &Volume) -> Value {
    let attached =
        volume.server.iter().map(|server| json!({ "server_id": server, "volume_id": volume.id, "device": "/dev/vdb" }));
    json!({ "id": volume.id, "name": volume.name, "size": volume.size, "status": volume.status,
        "metadata": volume.metadata, "attachments": attached.collect::<Vec<_>>(), "bootable": "false",
        "os-vol-tenant-attr:tenant_id": volume.project, "description": null, "availability_zone": "nova",
        "volume_type": "lvm", "encrypted": false, "multiattach": false, "created_at": state.written(volume.created) })
}

pub(crate) fn answer(state: &mut State, request: &Request) -> Answer {
    match (request.method.as_str(), request.parts().as_slice()) {
        ("POST", ["volumes"]) => create(state, request),
        ("GET", ["volumes"] | ["volumes", "detail"]) => {
            state.strange_filters(request, &["limit", "marker", "name", "status", "metadata", "sort", "all_tenants"]);
            let fits = |volume: &&Volume| {
                volume.project == request.project
                    && request.asked("name").is_none_or(|name| volume.name == name)
                    && request.asked("status").is_none_or(|status| volume.status == status)
            };
            let all: Vec<Value> = state.volumes.values().filter(fits).map(|volume| shown(state, volume)).collect();
            Answer::json(200, &json!({ "volumes": all }))
        }
        (method, ["volumes", id]) => {
            let Some(volume) = state.volumes.get(*id).filter(|volume| volume.project == request.project).cloned()
            else {
                return refused(404, &format!("Volume {id} could not be found."));
            };
            match method {
                "GET" => Answer::json(200, &json!({ "volume": shown(state, &volume) })),
                "DELETE" => {
                    state.touch(request, volume.origin, &format!("the volume {}", volume.name));
                    delete(state, &volume)
                }
                _ => unknown(Service::Cinder),
            }
        }
        _ => unknown(Service::Cinder),
    }
}

fn create(state: &mut State, request: &Request) -> Answer {
    let given = &request.json["volume"];
    let known =
        ["name", "size", "description", "metadata", "availability_zone", "volume_type", "imageRef", "snapshot_id"];
    if let Some(field) = state.strange_keys(given, &known, "POST /volumes") {
        return refused(400, &format!("Additional properties are not allowed ('{field}' was unexpected)"));
    }
    let Some(size) = given["size"].as_u64().filter(|size| *size > 0) else {
        return refused(400, "Invalid input for field/attribute size.");
    };
    let used = state.volumes.values().filter(|volume| volume.project == request.project).count();
    if used >= state.quota.volumes {
        let message =
            format!("VolumeLimitExceeded: Maximum number of volumes allowed ({used}) exceeded for quota 'volumes'.");
        return refused(413, &message).with("retry-after", "0");
    }
    let metadata: BTreeMap<String, String> = serde_json::from_value(given["metadata"].clone()).unwrap_or_default();
    let volume = Volume {
        origin: Origin::Client,
        id: uuid::Uuid::new_v4().to_string(),
        project: request.project.clone(),
        name: given["name"].as_str().unwrap_or_default().to_owned(),
        size,
        status: "creating",
        metadata,
        server: None,
        created: state.now,
    };
    let shown = shown(state, &volume);
    state.later(Duration::from_secs(1), Event::VolumeStatus(volume.id.clone(), "available"));
    state.volumes.insert(volume.id.clone(), volume);
    Answer::json(202, &json!({ "volume": shown }))
}

fn delete(state: &mut State, volume: &Volume) -> Answer {
    if volume.status == "deleting" {
        return Answer::empty(202);
    }
    if !matches!(volume.status, "available" | "error") {
        return refused(
            400,
            "Invalid volume: Volume status must be available or error or error_restoring or error_extending or error_managing and must not be migrating, attached, belong to a group, have snapshots, awaiting a transfer, or be disassociated from snapshots after volume transfer.",
        );
    }
    state.volumes.get_mut(&volume.id).expect("it is there").status = "deleting";
    state.later(Duration::from_secs(1), Event::VolumeGone(volume.id.clone()));
    Answer::empty(202)
}
