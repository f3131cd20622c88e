//! Local replies: the errors that the proxy itself answers with, and the one place where they
//! become responses.
//!
//! The texts are for clients and contain nothing internal: no endpoint, no address, no error of a
//! library. Errors of engines are not local replies; they are forwarded unchanged.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use serde_json::json;

use crate::request::{api::Api, picker_reply::PickerReply};

/// Why the proxy answers by itself.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum LocalReply {
    #[error("nothing is served at this path; see the list of APIs in the documentation")]
    UnknownPath,
    #[error("no route takes this request")]
    NoRoute,
    #[error("the route of this request leads nowhere")]
    InvalidBackend,
    #[error("this path takes {0} only")]
    Method(&'static str),
    #[error("{0}")]
    BadBody(String),
    #[error("the body is larger than {0} bytes")]
    TooLarge(u64),
    #[error("the headers are larger than {0} bytes")]
    HeadTooLarge(usize),
    #[error("the body did not arrive in time")]
    SlowClient,
    #[error("the request must name a `model`; available: {}", list(.0))]
    NoModel(Vec<String>),
    #[error("the model `{model}` does not exist{}", hint(.nearest))]
    UnknownModel { model: String, nearest: Vec<String> },
    #[error("too many requests at once; try again in a moment")]
    Overloaded,
    #[error("the router does not know its model servers yet")]
    NotReady,
    #[error("no model server is available for this model")]
    NoEndpoint,
    #[error("every model server that was tried failed ({0} of them)")]
    Exhausted(u32),
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("too many requests wait for this model already; try again in {} s", seconds(*.0))]
    QueueFull(Option<Duration>),
    #[error("no model server had room within {:.1} s; try again in {} s", .waited.as_secs_f32(), seconds(*.retry_after))]
    QueueTimeout {
        waited: Duration,
        retry_after: Option<Duration>,
    },
    #[error("no model server has this prompt cached, and the request prefers no answer then")]
    PromptNotCached,
    #[error("the response `{0}` is not known here")]
    UnknownResponse(String),
    #[error("it could not be determined where the response is stored; try again in a moment")]
    UnlocatedResponse,
    #[error("the request came back to this router; an endpoint's address leads to it")]
    Loop,
    #[error("a body with content-encoding `{0}` is not read; send it as it is")]
    Encoded(String),
    /// Another picker, which chooses the endpoints of the pool, answers by itself. With its status.
    #[error("the endpoint picker answers with the status {0}")]
    FromPicker(StatusCode, Box<PickerReply>),
    #[error("the endpoint picker of this pool failed: {0}")]
    PickerFailed(&'static str),
}

/// The header with the reason for which a request was dropped.
const DROPPED_REASON: HeaderName = HeaderName::from_static("x-llm-d-request-dropped-reason");

/// The longest client-made name that an error repeats.
const LONGEST_ECHO: usize = 256;

impl LocalReply {
    pub(crate) const fn status(&self) -> StatusCode {
        match self {
            Self::UnknownPath
            | Self::NoRoute
            | Self::UnknownModel { .. }
            | Self::UnknownResponse(_) => StatusCode::NOT_FOUND,
            Self::InvalidBackend => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::BadBody(_) | Self::NoModel(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::HeadTooLarge(_) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::SlowClient => StatusCode::REQUEST_TIMEOUT,
            Self::Overloaded | Self::QueueFull(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::NotReady
            | Self::NoEndpoint
            | Self::QueueTimeout { .. }
            | Self::UnlocatedResponse
            | Self::PickerFailed(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::FromPicker(status, _) => *status,
            Self::Exhausted(_) => StatusCode::BAD_GATEWAY,
            Self::TimedOut(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::Loop => StatusCode::LOOP_DETECTED,
            Self::Encoded(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::PromptNotCached => StatusCode::PRECONDITION_FAILED,
        }
    }

    /// Every [`LocalReply::code`].
    pub(crate) const CODES: [&str; 24] = [
        "unknown_url",
        "route_not_found",
        "invalid_backend",
        "method_not_allowed",
        "invalid_body",
        "request_too_large",
        "headers_too_large",
        "request_timeout",
        "model_required",
        "model_not_found",
        "rate_limit_exceeded",
        "not_ready",
        "no_healthy_upstream",
        "upstream_failed",
        "upstream_timeout",
        "queue_full",
        "queue_timeout",
        "response_not_found",
        "response_not_located",
        "request_loop",
        "unsupported_encoding",
        "prompt_not_cached",
        "picker_reply",
        "picker_failed",
    ];

    /// OpenAI's `code`; also the value of metrics' and spans' `error.type`.
    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Self::UnknownPath => "unknown_url",
            Self::NoRoute => "route_not_found",
            Self::InvalidBackend => "invalid_backend",
            Self::Method(_) => "method_not_allowed",
            Self::BadBody(_) => "invalid_body",
            Self::TooLarge(_) => "request_too_large",
            Self::HeadTooLarge(_) => "headers_too_large",
            Self::SlowClient => "request_timeout",
            Self::NoModel(_) => "model_required",
            Self::UnknownModel { .. } => "model_not_found",
            Self::Overloaded => "rate_limit_exceeded",
            Self::NotReady => "not_ready",
            Self::NoEndpoint => "no_healthy_upstream",
            Self::Exhausted(_) => "upstream_failed",
            Self::TimedOut(_) => "upstream_timeout",
            Self::QueueFull(_) => "queue_full",
            Self::QueueTimeout { .. } => "queue_timeout",
            Self::UnknownResponse(_) => "response_not_found",
            Self::UnlocatedResponse => "response_not_located",
            Self::Loop => "request_loop",
            Self::Encoded(_) => "unsupported_encoding",
            Self::PromptNotCached => "prompt_not_cached",
            Self::FromPicker(..) => "picker_reply",
            Self::PickerFailed(_) => "picker_failed",
        }
    }

    const fn kind(&self) -> &'static str {
        match self.status() {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::GATEWAY_TIMEOUT | StatusCode::REQUEST_TIMEOUT => "timeout_error",
            StatusCode::BAD_GATEWAY
            | StatusCode::LOOP_DETECTED
            | StatusCode::INTERNAL_SERVER_ERROR => "server_error",
            StatusCode::SERVICE_UNAVAILABLE => "service_unavailable",
            _ => "invalid_request_error",
        }
    }

    const fn param(&self) -> Option<&'static str> {
        match self {
            Self::NoModel(_) | Self::UnknownModel { .. } => Some("model"),
            Self::UnknownResponse(_) | Self::UnlocatedResponse => Some("response_id"),
            _ => None,
        }
    }

    /// The value of `Retry-After`.
    fn retry_after(&self) -> Option<HeaderValue> {
        match self {
            Self::Overloaded
            | Self::NotReady
            | Self::NoEndpoint
            | Self::UnlocatedResponse
            | Self::PickerFailed(_) => Some(HeaderValue::from_static("1")),
            Self::QueueFull(after)
            | Self::QueueTimeout {
                retry_after: after, ..
            } => Some(HeaderValue::from(seconds(*after))),
            _ => None,
        }
    }

    /// Whether the pool is overloaded, and the request was rejected before it was sent.
    pub(crate) const fn is_overload(&self) -> bool {
        matches!(self, Self::QueueFull(_) | Self::QueueTimeout { .. })
    }

    /// Why a request was dropped that could have been served, in the words of llm-d's picker.
    const fn dropped_reason(&self) -> Option<&'static str> {
        match self {
            Self::NoEndpoint | Self::NotReady | Self::PickerFailed(_) => {
                Some("rejected-no-endpoints")
            }
            Self::Overloaded | Self::QueueFull(_) => Some("rejected-saturated"),
            Self::QueueTimeout { .. } => Some("rejected-ttl-expired"),
            _ => None,
        }
    }

    /// The response, in the shape that clients of `api` read.
    pub(crate) fn into_response(self, api: Option<Api>, request_id: &str) -> Response<Bytes> {
        if let Self::FromPicker(_, reply) = self {
            return reply.into_response();
        }
        let message = self.to_string();
        let body = if api == Some(Api::Messages) {
            json!({"type": "error", "error": {"type": self.anthropic_kind(), "message": message}, "request_id": request_id})
        } else {
            json!({"error": {"message": message, "type": self.kind(), "param": self.param(), "code": self.code()}})
        };
        let mut response = Response::new(Bytes::from(body.to_string()));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        if let Some(after) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, after);
        }
        if let Some(reason) = self.dropped_reason() {
            headers.insert(DROPPED_REASON, HeaderValue::from_static(reason));
        }
        if let Self::Method(allow) = self {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        if matches!(self, Self::SlowClient) {
            // The rest of the body is not waited for: the connection cannot be used again.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if matches!(self, Self::Encoded(_)) {
            // RFC 7694, 3: which encodings would be right.
            let none = HeaderValue::from_static("identity");
            headers.insert(header::ACCEPT_ENCODING, none);
        }
        response
    }

    /// The error types of Anthropic's API.
    const fn anthropic_kind(&self) -> &'static str {
        match self.status() {
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::GATEWAY_TIMEOUT | StatusCode::REQUEST_TIMEOUT => "timeout_error",
            StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
            StatusCode::BAD_GATEWAY
            | StatusCode::LOOP_DETECTED
            | StatusCode::INTERNAL_SERVER_ERROR => "api_error",
            _ => "invalid_request_error",
        }
    }
}

/// Whole seconds to wait: at least one, also when the time is unknown.
fn seconds(after: Option<Duration>) -> u64 {
    after
        .map_or(1, |after| {
            after
                .as_millis()
                .div_ceil(1_000)
                .try_into()
                .unwrap_or(u64::MAX)
        })
        .max(1)
}

/// Text of a client, cut to a length that an error may repeat.
pub(crate) fn echo(text: &str) -> String {
    text.chars().take(LONGEST_ECHO).collect()
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

fn hint(nearest: &[String]) -> String {
    if nearest.is_empty() {
        String::new()
    } else {
        format!("; did you mean {}?", nearest.join(" or "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(reply: LocalReply, api: Option<Api>) -> serde_json::Value {
        serde_json::from_slice(reply.into_response(api, "req-1").body()).expect("JSON")
    }

    #[test]
    fn an_unknown_model_is_a_404_in_openais_shape_with_the_nearest_names() {
        let reply = LocalReply::UnknownModel {
            model: "qwen".into(),
            nearest: vec!["Qwen/Qwen3-8B".into()],
        };
        assert_eq!(reply.status(), StatusCode::NOT_FOUND);
        assert_eq!(
            body(reply, Some(Api::Chat)),
            json!({"error": {
                "message": "the model `qwen` does not exist; did you mean Qwen/Qwen3-8B?",
                "type": "invalid_request_error", "param": "model", "code": "model_not_found",
            }})
        );
    }

    #[test]
    fn every_code_is_in_the_list_of_codes() {
        let all = [
            LocalReply::UnknownPath,
            LocalReply::NoRoute,
            LocalReply::InvalidBackend,
            LocalReply::Method("POST"),
            LocalReply::BadBody(String::new()),
            LocalReply::TooLarge(1),
            LocalReply::HeadTooLarge(1),
            LocalReply::SlowClient,
            LocalReply::NoModel(Vec::new()),
            LocalReply::UnknownModel {
                model: String::new(),
                nearest: Vec::new(),
            },
            LocalReply::Overloaded,
            LocalReply::NotReady,
            LocalReply::NoEndpoint,
            LocalReply::Exhausted(1),
            LocalReply::TimedOut(Duration::ZERO),
            LocalReply::QueueFull(None),
            LocalReply::QueueTimeout {
                waited: Duration::ZERO,
                retry_after: None,
            },
            LocalReply::UnknownResponse(String::new()),
            LocalReply::UnlocatedResponse,
            LocalReply::Loop,
            LocalReply::Encoded(String::new()),
            LocalReply::PromptNotCached,
            LocalReply::FromPicker(
                StatusCode::TOO_MANY_REQUESTS,
                Box::new(PickerReply {
                    status: StatusCode::TOO_MANY_REQUESTS,
                    headers: http::HeaderMap::new(),
                    body: Bytes::new(),
                }),
            ),
            LocalReply::PickerFailed("it broke off"),
        ];
        assert_eq!(all.map(|reply| reply.code()), LocalReply::CODES);
    }

    #[test]
    fn clients_of_messages_get_anthropics_shape() {
        let body = body(LocalReply::NoEndpoint, Some(Api::Messages));
        assert_eq!(body["type"], "error");
        assert_eq!(body["error"]["type"], "overloaded_error");
        assert_eq!(body["request_id"], "req-1");
    }

    #[test]
    fn a_request_that_is_dropped_has_a_reason_and_one_that_is_wrong_has_none() {
        let reason = |reply: LocalReply| {
            let response = reply.into_response(None, "r");
            let reason = response.headers().get(DROPPED_REASON)?;
            Some(reason.to_str().expect("text").to_owned())
        };
        let queued = LocalReply::QueueTimeout {
            waited: Duration::ZERO,
            retry_after: None,
        };
        assert_eq!(
            reason(LocalReply::NoEndpoint).as_deref(),
            Some("rejected-no-endpoints")
        );
        assert_eq!(
            reason(LocalReply::Overloaded).as_deref(),
            Some("rejected-saturated")
        );
        assert_eq!(reason(queued).as_deref(), Some("rejected-ttl-expired"));
        assert_eq!(reason(LocalReply::UnknownPath), None);
    }

    #[test]
    fn overload_and_missing_endpoints_set_retry_after() {
        let after = |reply: LocalReply| {
            reply
                .into_response(None, "r")
                .headers()
                .get("retry-after")
                .cloned()
        };
        assert_eq!(
            after(LocalReply::Overloaded),
            Some(HeaderValue::from_static("1"))
        );
        assert_eq!(
            after(LocalReply::NoEndpoint),
            Some(HeaderValue::from_static("1"))
        );
        assert_eq!(after(LocalReply::UnknownPath), None);
        assert_eq!(
            after(LocalReply::QueueFull(None)),
            Some(HeaderValue::from_static("1"))
        );
        assert_eq!(
            after(LocalReply::QueueFull(Some(Duration::from_millis(2_001)))),
            Some(HeaderValue::from_static("3"))
        );
    }
}
