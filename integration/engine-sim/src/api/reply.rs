//! Answers as vLLM's web server sends them: header set, error bodies, body types.

use std::convert::Infallible;
use std::fmt::Display;
use std::pin::Pin;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, SERVER, VARY};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body::Frame;
use http_body_util::{Either, Full, StreamBody};
use serde::Serialize;
use thiserror::Error;

/// The connection is to be broken off without a (complete) answer.
#[derive(Clone, Copy, Debug, Error)]
#[error("the simulated engine breaks the connection")]
pub(crate) struct Broken;

impl From<Infallible> for Broken {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// The frames of a streamed body.
pub(crate) type Frames = Pin<Box<dyn futures::Stream<Item = Result<Frame<Bytes>, Broken>> + Send>>;

/// A whole body or a stream.
pub(crate) type Body = Either<Full<Bytes>, StreamBody<Frames>>;

/// A request that the engine refuses, in vLLM's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) kind: &'static str,
    pub(crate) message: String,
    pub(crate) param: Option<String>,
}

#[derive(Serialize)]
struct OpenAiError<'a> {
    error: OpenAiErrorBody<'a>,
}

#[derive(Serialize)]
struct OpenAiErrorBody<'a> {
    message: &'a str,
    r#type: &'a str,
    param: Option<&'a str>,
    code: u16,
}

#[derive(Serialize)]
struct AnthropicError<'a> {
    r#type: &'static str,
    error: AnthropicErrorBody<'a>,
}

#[derive(Serialize)]
struct AnthropicErrorBody<'a> {
    r#type: &'a str,
    message: &'a str,
}

impl ApiError {
    /// A value that is well-formed and makes no sense (400).
    pub(crate) fn bad_request(param: Option<&str>, message: impl Display) -> Self {
        let (message, param) = (message.to_string(), param.map(str::to_owned));
        Self {
            status: StatusCode::BAD_REQUEST,
            kind: "BadRequestError",
            message,
            param,
        }
    }

    /// A body that does not have the documented shape (400).
    pub(crate) fn invalid(param: Option<String>, detail: impl Display) -> Self {
        let message = format!("1 validation error:\n  {detail}");
        Self {
            status: StatusCode::BAD_REQUEST,
            kind: "Bad Request",
            message,
            param,
        }
    }

    pub(crate) fn unknown_model(model: &str, aliases: &str) -> Self {
        let message = format!("The model `{model}` does not exist. Valid aliases: {aliases}.");
        Self {
            status: StatusCode::NOT_FOUND,
            kind: "NotFoundError",
            message,
            param: Some("model".to_owned()),
        }
    }

    pub(crate) fn with_status(status: StatusCode) -> Self {
        let (kind, message) = match status.as_u16() {
            429 => ("RateLimitError", "The simulated engine is rate limited."),
            503 => ("Service Unavailable", "The simulated engine is overloaded."),
            _ => ("InternalServerError", "Internal server error"),
        };
        Self {
            status,
            kind,
            message: message.to_owned(),
            param: None,
        }
    }

    /// The error as most routes answer it.
    pub(crate) fn into_response(self) -> Response<Body> {
        let Self {
            status,
            kind,
            message,
            param,
        } = &self;
        let body = OpenAiErrorBody {
            message,
            r#type: kind,
            param: param.as_deref(),
            code: status.as_u16(),
        };
        json(*status, &OpenAiError { error: body })
    }

    /// The error as `/v1/messages` answers it.
    pub(crate) fn into_anthropic(self) -> Response<Body> {
        let Self {
            status,
            kind,
            message,
            param: _,
        } = &self;
        json(
            *status,
            &AnthropicError {
                r#type: "error",
                error: AnthropicErrorBody {
                    r#type: kind,
                    message,
                },
            },
        )
    }
}

/// A JSON answer.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    // Serializing plain structs of numbers and strings into memory has no way to fail.
    let body = serde_json::to_vec(value).unwrap_or_default();
    raw_json(status, body)
}

/// A JSON answer whose bytes exist already.
pub(crate) fn raw_json(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    whole(status, Some("application/json"), body)
}

/// An answer of any content type.
pub(crate) fn whole(
    status: StatusCode,
    content_type: Option<&'static str>,
    body: impl Into<Bytes>,
) -> Response<Body> {
    respond(status, content_type, Either::Left(Full::new(body.into())))
}

/// A 200 with server-sent events.
pub(crate) fn events(frames: Frames) -> Response<Body> {
    respond(
        StatusCode::OK,
        Some("text/event-stream; charset=utf-8"),
        Either::Right(StreamBody::new(frames)),
    )
}

/// The framework's own errors, such as 404 and 405.
pub(crate) fn detail(status: StatusCode, detail: &str) -> Response<Body> {
    raw_json(status, format!(r#"{{"detail":"{detail}"}}"#))
}

/// 405 with the methods that would be right.
pub(crate) fn method_not_allowed(allow: &'static str) -> Response<Body> {
    let mut response = detail(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    response
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(allow));
    response
}

/// An injected status.
pub(crate) fn injected(code: u16, retry_after: Option<u32>) -> Response<Body> {
    let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = ApiError::with_status(status).into_response();
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

fn respond(status: StatusCode, content_type: Option<&'static str>, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    set(headers, SERVER, "uvicorn");
    if let Some(content_type) = content_type {
        set(headers, CONTENT_TYPE, content_type);
    }
    set(headers, VARY, "Origin");
    response
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &'static str) {
    headers.insert(name, HeaderValue::from_static(value));
}
