//! Errors of both APIs: their shapes, types and statuses.
//!
//! Sources: OpenAI's and Anthropic's references of errors; vLLM 0.32 and FastAPI for the shapes of
//! engines.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    json_string::{JsonString, encoded},
    untranslatable_answer::UntranslatableAnswer,
    untranslatable_request::UntranslatableRequest,
};

/// An error of either API, with the message as it is written.
#[derive(Debug)]
pub(crate) struct ApiError<'a> {
    pub(crate) status: u16,
    pub(crate) message: Cow<'a, RawValue>,
    pub(crate) param: Option<Cow<'a, RawValue>>,
}

#[derive(Serialize)]
struct ChatErrorBody<'e> {
    error: ChatErrorDetails<'e>,
}

#[derive(Serialize)]
struct ChatErrorDetails<'e> {
    message: &'e RawValue,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<&'e RawValue>,
    code: Option<&'static str>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "error")]
struct MessagesErrorBody<'e> {
    error: MessagesErrorDetails<'e>,
}

#[derive(Serialize)]
struct MessagesErrorDetails<'e> {
    #[serde(rename = "type")]
    kind: &'static str,
    message: &'e RawValue,
}

/// The status and the body for a client of chat completions, of an error of a server of messages.
#[must_use]
pub fn chat_error(status: u16, body: &[u8]) -> (u16, Vec<u8>) {
    let error = ApiError::read(status, body);
    (error.chat_status(), error.for_chat())
}

/// The status and the body for a client of messages, of an error of a server of chat completions.
#[must_use]
pub fn messages_error(status: u16, body: &[u8]) -> (u16, Vec<u8>) {
    let error = ApiError::read(status, body);
    (status, error.for_messages())
}

impl UntranslatableRequest {
    /// The body of the response with status 400 for a client of chat completions.
    #[must_use]
    pub fn for_chat(&self) -> Vec<u8> {
        ApiError::from(self).for_chat()
    }

    /// The body of the response with status 400 for a client of messages.
    #[must_use]
    pub fn for_messages(&self) -> Vec<u8> {
        ApiError::from(self).for_messages()
    }
}

impl UntranslatableAnswer {
    /// The body of the response with status 502 for a client of chat completions.
    #[must_use]
    pub fn for_chat(&self) -> Vec<u8> {
        ApiError::from(*self).for_chat()
    }

    /// The body of the response with status 502 for a client of messages.
    #[must_use]
    pub fn for_messages(&self) -> Vec<u8> {
        ApiError::from(*self).for_messages()
    }
}

// === ApiError ===

impl<'a> ApiError<'a> {
    /// Reads an error's body. One of another shape, such as a page of a proxy, is not passed on.
    pub(crate) fn read(status: u16, body: &'a [u8]) -> Self {
        #[derive(Default, Deserialize)]
        struct Envelope<'a> {
            #[serde(borrow, default)]
            error: Option<&'a RawValue>,
            #[serde(borrow, default)]
            message: Option<&'a RawValue>,
            #[serde(borrow, default)]
            detail: Option<&'a RawValue>,
        }
        let envelope: Envelope<'a> = serde_json::from_slice(body).unwrap_or_default();
        if let Some(error) = envelope.error {
            return Self::of_details(status, error);
        }
        let message = envelope
            .message
            .or(envelope.detail)
            .and_then(JsonString::of);
        Self::with_message(status, message)
    }

    /// Of the value of `error`.
    pub(crate) fn of_details(status: u16, details: &'a RawValue) -> Self {
        #[derive(Default, Deserialize)]
        struct Details<'a> {
            #[serde(borrow, default)]
            message: Option<JsonString<'a>>,
            #[serde(borrow, default)]
            param: Option<JsonString<'a>>,
        }
        if let Some(message) = JsonString::of(details) {
            return Self::with_message(status, Some(message));
        }
        let details: Details<'a> = serde_json::from_str(details.get()).unwrap_or_default();
        Self {
            param: details.param.map(|param| Cow::Borrowed(param.raw())),
            ..Self::with_message(status, details.message)
        }
    }

    fn with_message(status: u16, message: Option<JsonString<'a>>) -> Self {
        let message = match message {
            Some(message) => Cow::Borrowed(message.raw()),
            None => Cow::Owned(encoded(&format!(
                "the model's server answered with status {status}"
            ))),
        };
        Self {
            status,
            message,
            param: None,
        }
    }

    /// OpenAI has no status of its own for overload.
    const fn chat_status(&self) -> u16 {
        match self.status {
            529 => 503,
            status => status,
        }
    }

    pub(crate) fn for_chat(&self) -> Vec<u8> {
        let (kind, code) = match self.status {
            401 => ("invalid_request_error", Some("invalid_api_key")),
            402 => ("insufficient_quota", Some("insufficient_quota")),
            404 => ("invalid_request_error", Some("model_not_found")),
            408 | 504 => ("timeout_error", None),
            429 => ("rate_limit_error", Some("rate_limit_exceeded")),
            503 | 529 => ("service_unavailable", None),
            500.. => ("server_error", None),
            _ => ("invalid_request_error", None),
        };
        let body = ChatErrorBody {
            error: ChatErrorDetails {
                message: &self.message,
                kind,
                param: self.param.as_deref(),
                code,
            },
        };
        crate::written(&body, self.message.get().len() + 128)
    }

    pub(crate) fn for_messages(&self) -> Vec<u8> {
        let kind = match self.status {
            401 => "authentication_error",
            402 => "billing_error",
            403 => "permission_error",
            404 => "not_found_error",
            408 | 504 => "timeout_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            503 | 529 => "overloaded_error",
            500.. => "api_error",
            _ => "invalid_request_error",
        };
        let body = MessagesErrorBody {
            error: MessagesErrorDetails {
                kind,
                message: &self.message,
            },
        };
        crate::written(&body, self.message.get().len() + 128)
    }
}

impl From<&UntranslatableRequest> for ApiError<'_> {
    fn from(refusal: &UntranslatableRequest) -> Self {
        let param = (!refusal.field().is_empty()).then(|| Cow::Owned(encoded(refusal.field())));
        Self {
            status: 400,
            message: Cow::Owned(encoded(&refusal.to_string())),
            param,
        }
    }
}

impl From<UntranslatableAnswer> for ApiError<'_> {
    fn from(fault: UntranslatableAnswer) -> Self {
        Self {
            status: 502,
            message: Cow::Owned(encoded(&fault.to_string())),
            param: None,
        }
    }
}

/// The status of an error in a stream of chunks, in which engines repeat it.
pub(crate) fn status_of_details(details: &RawValue) -> u16 {
    #[derive(Default, Deserialize)]
    struct Status<'a> {
        #[serde(borrow, default)]
        code: Option<&'a RawValue>,
    }
    let status: Status<'_> = serde_json::from_str(details.get()).unwrap_or_default();
    let code = status.code.and_then(|code| code.get().parse().ok());
    code.filter(|code| (400..600).contains(code)).unwrap_or(500)
}

/// The status that the type of an error in a stream of messages is for.
pub(crate) fn status_of_kind(kind: &str) -> u16 {
    match kind {
        "invalid_request_error" => 400,
        "authentication_error" => 401,
        "billing_error" => 402,
        "permission_error" => 403,
        "not_found_error" => 404,
        "request_too_large" => 413,
        "rate_limit_error" => 429,
        "timeout_error" => 504,
        "overloaded_error" => 529,
        _ => 500,
    }
}
