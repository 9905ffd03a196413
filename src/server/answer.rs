//! Answers that are no success, in one shape.

use axum::Json;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use super::wire::{Refusal, RefusalBody};
use crate::domain::id::RepoName;
use crate::engine::Engine;
use crate::engine::RequestError;
use crate::engine::care::CareError;
use crate::engine::memory::StoreError;
use crate::engine::planner::PlanError;
use crate::engine::ports::{PortError, PortErrorKind};

/// The framework says no more than a sentence.
const MOST_REFUSAL: usize = 64 << 10;

/// An answer that is no success.
#[derive(Debug)]
pub(super) struct No {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl No {
    pub(super) fn missing(message: impl Into<String>) -> Self {
        Self { status: StatusCode::NOT_FOUND, code: "missing", message: message.into() }
    }

    pub(super) fn conflict(message: impl Into<String>) -> Self {
        Self { status: StatusCode::CONFLICT, code: "conflict", message: message.into() }
    }

    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code: "usage", message: message.into() }
    }

    pub(super) fn broken(message: impl Into<String>) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, code: "broken", message: message.into() }
    }
}

impl IntoResponse for No {
    fn into_response(self) -> Response {
        let error = RefusalBody { code: self.code.to_owned(), message: self.message };
        (self.status, Json(Refusal { error })).into_response()
    }
}

impl From<StoreError> for No {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Ambiguous { .. } => Self::conflict(error.to_string()),
            other => Self::broken(other.to_string()),
        }
    }
}

impl From<PortError> for No {
    fn from(error: PortError) -> Self {
        let message = if error.help.is_empty() { error.message } else { format!("{} ({})", error.message, error.help) };
        match error.kind {
            PortErrorKind::Failed | PortErrorKind::Refused => Self::conflict(message),
            _ => Self::broken(message),
        }
    }
}

impl From<PlanError> for No {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::Repository(error) => error.into(),
            PlanError::Tree(error) => Self::conflict(error.to_string()),
            PlanError::Store(error) => error.into(),
        }
    }
}

impl From<RequestError> for No {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Missing(message) => Self::missing(message),
            RequestError::Conflict(message) => Self::conflict(message),
            RequestError::Plan(error) => error.into(),
            RequestError::Store(error) => error.into(),
        }
    }
}

impl From<CareError> for No {
    fn from(error: CareError) -> Self {
        match error {
            CareError::Store(error) => error.into(),
            CareError::Driver(error) => error.into(),
        }
    }
}

/// The repository that a request names, or the only one.
pub(super) fn repository(engine: &Engine, named: Option<&str>) -> Result<RepoName, No> {
    let all = &engine.policy().repositories;
    match (named, all.as_slice()) {
        (Some(name), _) if engine.has_repository(&RepoName::from(name)) => Ok(RepoName::from(name)),
        (None, [only]) => Ok(only.name.clone()),
        (named, _) => {
            let names: Vec<&str> = all.iter().map(|repository| repository.name.as_str()).collect();
            let names = names.join(", ");
            Err(match named {
                Some(name) => No::missing(format!("there is no repository {name}; there are: {names}")),
                None => No::usage(format!("say which repository: {names}")),
            })
        }
    }
}

/// Puts what the framework refuses by itself (a body that is no JSON, an unknown key, a wrong method) into our shape.
pub(super) async fn in_one_shape(response: Response) -> Response {
    let status = response.status();
    let ours = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if ours || !status.is_client_error() {
        return response;
    }
    let text = axum::body::to_bytes(response.into_body(), MOST_REFUSAL).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let message = match text.trim() {
        "" => status.canonical_reason().unwrap_or("the request is not understood").to_owned(),
        said => said.to_owned(),
    };
    // To a caller, what is not understood and what does not fit are one thing.
    let status = if status == StatusCode::UNPROCESSABLE_ENTITY { StatusCode::BAD_REQUEST } else { status };
    No { status, code: "usage", message }.into_response()
}

pub(super) async fn unknown() -> No {
    No::missing("the API has nothing there; it lives under /v1")
}
