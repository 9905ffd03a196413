//! Heat v1: looks at templates as Heat 19 does, and says as much of them: sections, keywords, types of resources, names of
//! properties, references. It looks at no value of a property, and at no file that is only read.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::http::{Answer, Request, Service, unknown};
use super::state::State;

/// The top of a template.
const SECTIONS: [&str; 7] =
    ["heat_template_version", "description", "parameter_groups", "parameters", "resources", "outputs", "conditions"];
/// What a resource may say.
const KEYWORDS: [&str; 9] = [
    "type",
    "properties",
    "metadata",
    "depends_on",
    "deletion_policy",
    "update_policy",
    "description",
    "external_id",
    "condition",
];
/// Types that Heat knows here: the service that they need, what must be said of them, and what may be.
const TYPES: [(&str, &str, &[&str], &[&str]); 5] = [
    (
        "OS::Nova::Server",
        "compute",
        &["flavor"],
        &["image", "name", "key_name", "networks", "security_groups", "user_data", "user_data_format", "metadata"],
    ),
    ("OS::Neutron::Port", "network", &["network"], &["fixed_ips", "name", "security_groups"]),
    ("OS::Neutron::SecurityGroup", "network", &[], &["name", "description", "rules"]),
    ("OS::Cinder::Volume", "volumev3", &[], &["size", "name", "image"]),
    ("OS::Heat::Value", "orchestration", &["value"], &["type"]),
];
const VERSIONS: [&str; 5] = ["2013-05-23", "2015-10-15", "2016-10-14", "2018-08-31", "2021-04-16"];

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
    if !request.json.is_object() {
        state.violation("POST /validate is given no JSON object");
    }
    state.strange_keys(&request.json, &known, "POST /validate");
    let files: BTreeMap<String, Value> = match &request.json["files"] {
        Value::Object(files) => files.clone().into_iter().collect(),
        Value::Null => BTreeMap::new(),
        _ => {
            state.violation("POST /validate is given files that are no map");
            BTreeMap::new()
        }
    };
    if files.values().any(|text| !text.is_string()) {
        state.violation("POST /validate is given a file that is no text");
    }
    let looked = parsed(&request.json["template"]).and_then(|template| {
        let volumes = state.settings.volumes;
        looked_at(&template, &files, volumes)?;
        Ok(template)
    });
    match looked {
        Ok(template) => {
            let described = template["description"].as_str().unwrap_or("No description");
            let parameters = template["parameters"].clone();
            Answer::json(200, &json!({ "Description": described, "Parameters": parameters, "Environment": {} }))
        }
        Err(message) => refusal(400, "HTTPBadRequest", &message),
    }
}

fn parsed(given: &Value) -> Result<Value, String> {
    let template = match given {
        Value::Null => return Err("No template specified".to_owned()),
        Value::String(text) => serde_yaml::from_str::<Value>(text)
            .map_err(|error| format!("Template not in valid format: Error parsing template [root stack] {error}"))?,
        other => other.clone(),
    };
    if !template.is_object() {
        return Err("Template not in valid format: The template is not a JSON object or YAML mapping.".to_owned());
    }
    match template["heat_template_version"].as_str() {
        None => Err("Template not in valid format: Template format version not found.".to_owned()),
        Some(version) if !VERSIONS.contains(&version) => Err(format!(
            "The template version is invalid: \"heat_template_version: {version}\". \"heat_template_version\" should be one \
             of: {}",
            VERSIONS.join(", ")
        )),
        Some(_) => Ok(template),
    }
}

fn looked_at(template: &Value, files: &BTreeMap<String, Value>, volumes: bool) -> Result<(), String> {
    let mut sections = template.as_object().into_iter().flatten();
    if let Some((section, _)) = sections.find(|(name, _)| !SECTIONS.contains(&name.as_str())) {
        return Err(format!("The template section is invalid: {section}"));
    }
    let names = |section: &str| -> Vec<String> {
        template[section].as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect()
    };
    for (name, resource) in template["resources"].as_object().into_iter().flatten() {
        let Some(said) = resource.as_object().filter(|said| said.contains_key("type")) else {
            return Err("Each resource must contain a type key.".to_owned());
        };
        if let Some(keyword) = said.keys().find(|keyword| !KEYWORDS.contains(&keyword.as_str())) {
            return Err(format!("\"{keyword}\" is not a valid keyword inside a resource definition"));
        }
        of_type(name, resource, files, volumes)?;
    }
    referring(template, &names("resources"), &names("parameters"))
}

fn of_type(name: &str, resource: &Value, files: &BTreeMap<String, Value>, volumes: bool) -> Result<(), String> {
    let kind = resource["type"].as_str().unwrap_or_default();
    if kind.ends_with(".yaml") || kind.ends_with(".template") {
        let Some(text) = files.get(kind).and_then(Value::as_str).filter(|text| !text.is_empty()) else {
            return Err(format!("Could not fetch remote template \"{kind}\": Invalid URL scheme "));
        };
        return looked_at(&parsed(&json!(text))?, files, volumes);
    }
    let Some((_, service, required, optional)) = TYPES.iter().find(|(known, ..)| *known == kind) else {
        return Err(format!("The Resource Type ({kind}) could not be found."));
    };
    if *service == "volumev3" && !volumes {
        return Err(format!(
            "HEAT-E99001 Service cinder is not available for resource type {kind}, reason: cinder volumev3 endpoint is not in \
             service catalog."
        ));
    }
    let at = format!("Property error: resources.{name}.properties: ");
    let given: Vec<&String> = resource["properties"].as_object().into_iter().flatten().map(|(name, _)| name).collect();
    if let Some(strange) =
        given.iter().find(|key| !required.contains(&key.as_str()) && !optional.contains(&key.as_str()))
    {
        return Err(format!("{at}Unknown Property {strange}"));
    }
    match required.iter().find(|key| !given.iter().any(|given| given == *key)) {
        Some(missing) => Err(format!("{at}Property {missing} not assigned")),
        None => Ok(()),
    }
}

/// Functions that name a resource or a parameter which is not there.
fn referring(node: &Value, resources: &[String], parameters: &[String]) -> Result<(), String> {
    match node {
        Value::Array(items) => items.iter().try_for_each(|item| referring(item, resources, parameters)),
        Value::Object(entries) => {
            for (key, value) in entries {
                let first = value.as_str().or_else(|| value[0].as_str()).unwrap_or_default();
                let is_pseudo = first.starts_with("OS::");
                match key.as_str() {
                    "get_resource" | "get_attr" if !resources.iter().any(|name| name == first) => {
                        return Err(format!("The specified reference \"{first}\" (in unknown) is incorrect."));
                    }
                    "get_param" if !is_pseudo && !parameters.iter().any(|name| name == first) => {
                        return Err(format!("The Parameter ({first}) was not provided."));
                    }
                    _ => referring(value, resources, parameters)?,
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}
