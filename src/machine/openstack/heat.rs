//! What is asked of Heat: whether it would take a template. Nothing is ever deployed.
//!
//! It looks at sections, functions, types of resources and their properties, but at no property's value: whether there is
//! such an image or flavor is known when a stack is made.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Map, Value, json};

use super::Cloud;
use super::client::{Call, Client};
use super::error::{ApiError, Fate, Service};
use crate::domain::stack::{StackTemplate, Verdict};
use crate::engine::ports::{PortError, Wait};

/// How long Heat may take for a template.
const LOOK: Duration = Duration::from_secs(60);

impl Client {
    /// Heat's look at a template. An error may be the cloud's as well as the template's.
    async fn validate_template(&self, template: &StackTemplate) -> Result<(), ApiError> {
        let files: Map<String, Value> = template.files.iter().map(|(name, text)| (name.clone(), json!(text))).collect();
        let call = Call::new(Service::Orchestration, Method::POST, "/validate").repeatable();
        self.call(&call.json(json!({"template": template.text, "files": files}))).await.map(drop)
    }
}

impl Cloud {
    /// What Heat says of a template, if there is a Heat that says something.
    pub(super) async fn validated(&self, template: &StackTemplate, wait: &Wait) -> Verdict {
        let asked = async { Ok(self.client.validate_template(template).await) };
        match wait.within(LOOK).run("Heat's look", asked).await {
            Ok(Ok(())) => Verdict::Valid,
            Ok(Err(error)) => verdict(&error),
            Err(PortError { message, .. }) => Verdict::NoAnswer(message),
        }
    }
}

/// What an answer that refuses says of the template. Heat finds types of resources missing with a 404, as it does paths.
fn verdict(error: &ApiError) -> Verdict {
    let is_of_template = error.has_status(400)
        || error.has_status(404) && error.code.ends_with("NotFound") && error.code != "HTTPNotFound";
    match error.fate {
        Fate::Answered if is_of_template => Verdict::Refused(error.message.clone()),
        Fate::Impossible => Verdict::NoService(error.message.clone()),
        _ => Verdict::NoAnswer(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use reqwest::StatusCode;
    use reqwest::header::HeaderMap;

    use super::*;

    fn told(status: u16, kind: &str, message: &str) -> Verdict {
        let body =
            json!({"code": status, "title": "x", "explanation": "y", "error": {"type": kind, "message": message}});
        let status = StatusCode::from_u16(status).expect("a status");
        let (call, headers, body) = ("POST /validate", HeaderMap::new(), body.to_string());
        verdict(&ApiError::answered(Service::Orchestration, call, status, &headers, body.as_bytes()))
    }

    #[test]
    fn what_is_wrong_with_a_template_is_told_from_what_is_wrong_with_heat() {
        let refused = |words: &str| Verdict::Refused(words.to_owned());
        assert_eq!(told(400, "HTTPBadRequest", "Unknown Property x"), refused("Unknown Property x"));
        let gone = "The Resource Type (OS::Nova::Sever) could not be found.";
        assert_eq!(told(404, "EntityNotFound", gone), refused(gone));
        for (status, kind, message) in [
            (404, "HTTPNotFound", ""),
            (403, "Forbidden", "no"),
            (401, "x", "no"),
            (500, "HTTPInternalServerError", ""),
        ] {
            assert!(matches!(told(status, kind, message), Verdict::NoAnswer(_)), "{status}");
        }
        let none =
            ApiError::silent(Service::Orchestration, "POST /validate", Fate::Impossible, "none in the catalogue");
        assert_eq!(verdict(&none), Verdict::NoService("none in the catalogue".to_owned()));
    }
}
