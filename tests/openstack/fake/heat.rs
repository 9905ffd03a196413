//! Heat v1: looks at templates, and says as much of them as Heat does.

use serde_json::{Value, json};

use super::http::{Answer, Request, Service, unknown};
use super::state::State;

/// An error in Heat's own shape.
pub(crate) fn refusal(status: u16, kind: &str, message: &str) -> Answer {
    Answer::json(
        status,
        &json!({ "code": status, "title": "Bad Request",
        "explanation": "The server could not comply with the request since it is either malformed or otherwise incorrect.",
        "error": { "type": kind, "message": message, "traceback": null } }),
    )
}

pub(crate) fn answer(state: &mut State, request: &Request) -> Answer {
    match (request.method.as_str(), request.parts().as_slice()) {
        ("POST", ["validate"]) => validate(state, request),
        _ => unknown(Service::Heat),
    }
}

fn validate(state: &mut State, request: &Request) -> Answer {
    let known = ["template", "files", "environment", "parameters", "environment_files", "template_url"];
    state.strange_keys(&request.json, &known, "POST /validate");
    let template = match &request.json["template"] {
        Value::String(text) => match serde_yaml::from_str::<Value>(text) {
            Ok(template) => template,
            Err(error) => return refusal(400, "HTTPBadRequest", &format!("Error parsing template: {error}")),
        },
        other => other.clone(),
    };
    if template["heat_template_version"].is_null() {
        return refusal(
            400,
            "InvalidTemplateVersion",
            "The template version is invalid: Template format version not found.",
        );
    }
    for (name, resource) in template["resources"].as_object().into_iter().flatten() {
        let kind = resource["type"].as_str().unwrap_or_default();
        if !["OS::Nova::", "OS::Neutron::", "OS::Cinder::", "OS::Heat::"].iter().any(|known| kind.starts_with(known)) {
            let message = format!("The Resource Type ({kind}) could not be found: resources.{name}");
            return refusal(404, "EntityNotFound", &message);
        }
    }
    let described = template["description"].as_str().unwrap_or("No description");
    Answer::json(200, &json!({ "Description": described, "Parameters": template["parameters"], "Environment": {} }))
}
