//! The answer to an admin request.

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Body;
use std::convert::Infallible;

/// What goes out: nearly always all at once.
pub(super) type AdminBody = Either<Full<Bytes>, UnsyncBoxBody<Bytes, Infallible>>;

/// An answer, mostly small and whole.
#[derive(Debug)]
pub struct AdminResponse {
    status: StatusCode,
    content_type: &'static str,
    allow: Option<&'static str>,
    body: AdminBody,
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

    /// Plain text with any status. The message is for an operator: what happened, and what would be
    /// right.
    #[must_use]
    pub fn error(status: StatusCode, message: impl Into<Bytes>) -> Self {
        Self::new(status, "text/plain; charset=utf-8", message)
    }

    /// 405. `allow` lists the right methods, such as `POST`.
    #[must_use]
    pub fn method_not_allowed(allow: &'static str) -> Self {
        let message = format!("method not allowed: use {allow}\n");
        Self {
            allow: Some(allow),
            ..Self::error(StatusCode::METHOD_NOT_ALLOWED, message)
        }
    }

    /// Any status and content type.
    #[must_use]
    pub fn new(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            content_type,
            allow: None,
            body: Either::Left(Full::new(body.into())),
        }
    }

    /// 200 with a body that goes on for as long as it, or its reader, wants. The handler bounds how
    /// many there are and what each of them holds: a reader may be slow.
    #[must_use]
    pub fn stream<B>(content_type: &'static str, body: B) -> Self
    where
        B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
    {
        Self {
            status: StatusCode::OK,
            content_type,
            allow: None,
            body: Either::Right(body.boxed_unsync()),
        }
    }

    /// Whether it may go on for longer than other answers.
    pub(super) const fn is_stream(&self) -> bool {
        matches!(self.body, Either::Right(_))
    }

    pub(super) fn into_http(self) -> Response<AdminBody> {
        let Self {
            status,
            content_type,
            allow,
            body,
        } = self;
        let mut response = Response::new(body);
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
