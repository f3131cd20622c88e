//! The answer to an admin request.

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::Full;

/// A whole answer: admin answers are small, and never streamed.
#[derive(Clone, Debug)]
pub struct AdminResponse {
    status: StatusCode,
    content_type: &'static str,
    allow: Option<&'static str>,
    body: Bytes,
}

impl AdminResponse {
    /// 200 with `application/json`.
    #[must_use]
    pub fn json(body: impl Into<Bytes>) -> Self {
        Self::new(StatusCode::OK, "application/json", body)
    }

    /// 200 with plain text.
    #[must_use]
    pub fn text(body: impl Into<Bytes>) -> Self {
        Self::error(StatusCode::OK, body)
    }

    /// Plain text with any status. The message is for an operator: what happened, and what would be right.
    #[must_use]
    pub fn error(status: StatusCode, message: impl Into<Bytes>) -> Self {
        Self::new(status, "text/plain; charset=utf-8", message)
    }

    /// 405. `allow` lists the right methods, such as `POST`.
    #[must_use]
    pub fn method_not_allowed(allow: &'static str) -> Self {
        let message = format!("method not allowed: use {allow}\n");
        Self { allow: Some(allow), ..Self::error(StatusCode::METHOD_NOT_ALLOWED, message) }
    }

    /// Any status and content type.
    #[must_use]
    pub fn new(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self { status, content_type, allow: None, body: body.into() }
    }

    pub(super) fn into_http(self) -> Response<Full<Bytes>> {
        let Self { status, content_type, allow, body } = self;
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(allow) = allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}
