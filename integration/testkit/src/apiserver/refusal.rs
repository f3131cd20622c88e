//! Refusals as the API server words them: a `Status` object.

use hyper::StatusCode;
use serde_json::{Value, json};

/// A request that is not served, or the last event of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    status: StatusCode,
    reason: &'static str,
    message: String,
}

// === Refusal ===

impl Refusal {
    fn new(status: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            reason,
            message: message.into(),
        }
    }

    pub(crate) fn not_found() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "NotFound",
            "the server could not find the requested resource",
        )
    }

    pub(crate) fn read_only() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            "this server only lists and watches",
        )
    }

    pub(crate) fn bad_parameter(name: &str) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "BadRequest",
            format!("unable to parse the parameter {name}"),
        )
    }

    pub(crate) fn immutable(field: &str) -> Self {
        let message = format!("{field}: field is immutable");
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
    }

    pub(crate) fn no_watch_list() -> Self {
        let message =
            "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
    }

    pub(crate) fn forbidden(plural: &str) -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "Forbidden",
            format!("{plural} is forbidden: the role has no rule for it"),
        )
    }

    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "Conflict", message)
    }

    pub(crate) fn expired(version: u64, oldest: u64) -> Self {
        let message = format!("too old resource version: {version} ({oldest})");
        Self::new(StatusCode::GONE, "Expired", message)
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// The `Status` object.
    pub(crate) fn object(&self) -> Value {
        let Self {
            status,
            reason,
            message,
        } = self;
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": reason, "code": status.as_u16(),
        })
    }
}
