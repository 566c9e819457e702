//! Errors of the HTTP API: a code for programs, a sentence for people.

use axum::Json;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

/// The body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorAnswer {
    /// The error.
    pub error: ErrorBody,
}

/// One error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// A short stable name.
    pub code: String,
    /// What is wrong and what to do.
    pub message: String,
}

/// An error on its way out.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
        }
    }

    pub(super) fn bad_request(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub(super) fn not_found(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = ErrorBody {
            code: self.code.into(),
            message: self.message,
        };
        (self.status, Json(ErrorAnswer { error: body })).into_response()
    }
}

pub(super) async fn no_route(uri: Uri) -> ApiError {
    ApiError::not_found(
        "no_route",
        format!("{} does not exist; see /openapi.json", uri.path()),
    )
}

/// Parses a digest in a path.
pub(super) fn digest(text: &str, what: &str) -> Result<falconet_types::Digest, ApiError> {
    text.parse().map_err(|_| {
        ApiError::bad_request(
            "bad_id",
            format!("{text:?} is not {what}: 64 hexadecimal digits are needed"),
        )
    })
}
