//! Errors as problem details (RFC 9457).

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::manifest::TemplateProblem;
use crate::registry::ImageError;
use crate::releases::ReleaseError;
use crate::store::StoreError;

/// An error (RFC 9457): what went wrong and, for an invalid request, where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// The meaning of the status code.
    pub title: String,
    /// The status code.
    pub status: u16,
    /// What went wrong.
    pub detail: String,
    /// Each problem of an invalid request, with its place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<TemplateProblem>,
}

// === impl Problem ===

impl Problem {
    /// A problem with one cause.
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            title: status.canonical_reason().unwrap_or_default().to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            problems: Vec::new(),
        }
    }

    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    pub(super) fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "the request has no valid key or token: send `Authorization: Bearer KEY`",
        )
    }

    pub(super) fn forbidden(scope: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, format!("the caller does not have the scope {scope} here"))
    }

    /// The same for what does not exist and for what the caller may not read.
    pub(super) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "there is nothing here")
    }

    /// An invalid value at a JSON pointer of the request.
    pub(super) fn invalid(pointer: &str, message: impl Into<String>) -> Self {
        let problem = TemplateProblem {
            pointer: Some(pointer.to_owned()),
            line: None,
            message: message.into(),
            help: "correct the value".to_owned(),
        };
        Self { problems: vec![problem], ..Self::unprocessable() }
    }

    /// The problems of a template.
    pub(super) fn template(mut problems: Vec<TemplateProblem>) -> Self {
        for pointer in problems.iter_mut().filter_map(|problem| problem.pointer.as_mut()) {
            pointer.insert_str(0, "/template");
        }
        Self { problems, ..Self::unprocessable() }
    }

    fn unprocessable() -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "the request is not valid")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        let problem = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, problem);
        if status == StatusCode::TOO_MANY_REQUESTS {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if status == StatusCode::UNAUTHORIZED {
            // RFC 9110 §11.6.1: a 401 names a scheme.
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let status = match &error {
            StoreError::Refused(_) | StoreError::Order(_) => StatusCode::CONFLICT,
            StoreError::NotFound(_) => return Self::not_found(),
            StoreError::Settings(problems) => {
                return Self { problems: problems.clone(), ..Self::unprocessable() };
            }
            StoreError::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
            StoreError::Outdated => StatusCode::PRECONDITION_FAILED,
            error => {
                tracing::error!(%error, "the store failed");
                // Nothing was recorded, so nothing was done: the request can be repeated.
                return Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the store cannot record the change: nothing was done",
                );
            }
        };
        Self::new(status, error.to_string())
    }
}

impl From<ReleaseError> for Problem {
    fn from(error: ReleaseError) -> Self {
        match error {
            ReleaseError::Template(problems) => Self::template(problems),
            ReleaseError::Image(error) => error.into(),
            ReleaseError::Store(error) => error.into(),
        }
    }
}

impl From<ImageError> for Problem {
    fn from(error: ImageError) -> Self {
        match &error {
            ImageError::Invalid(_) | ImageError::UnknownRegistry(_) | ImageError::NotFound(_) => {
                Self::invalid("/image", error.to_string())
            }
            ImageError::Unauthorized(_)
            | ImageError::Rejected(..)
            | ImageError::Unavailable(..) => {
                tracing::warn!(%error, "failed to resolve an image");
                Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
            }
        }
    }
}
