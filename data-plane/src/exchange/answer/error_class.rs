//! Whose fault an error is that came with a status of 200.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;

use crate::telemetry::metrics::AnswerClass;

/// What is read of an error.
#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct ReportedError<'a> {
    /// A status, as a number or as text, or a word.
    code: Value,
    #[serde(rename = "type")]
    kind: Option<Cow<'a, str>>,
}

/// Words of the types and codes of errors that a request causes (vLLM's, SGLang's, OpenAI's,
/// Anthropic's), in lower case.
const REQUEST: [&str; 9] = [
    "badrequest",
    "bad request",
    "bad_request",
    "invalid",
    "notfound",
    "not_found",
    "authentication",
    "permission",
    "context_length",
];

/// The same of an endpoint that has too much to do.
const OVERLOAD: [&str; 4] = [
    "overloaded",
    "rate_limit",
    "service unavailable",
    "serviceunavailable",
];

/// The class of the error with this JSON. One that gives no reason is the engine's.
pub(super) fn of(error: &[u8]) -> AnswerClass {
    let reported: ReportedError<'_> = serde_json::from_slice(error).unwrap_or_default();
    let status = match &reported.code {
        Value::Number(code) => code.as_u64(),
        Value::String(code) => code.parse().ok(),
        _ => None,
    };
    match status {
        Some(429 | 503 | 529) => return AnswerClass::Overloaded,
        Some(400..500) => return AnswerClass::ClientError,
        Some(500..600) => return AnswerClass::ErrorEvent,
        _ => {}
    }
    let code = reported.code.as_str().unwrap_or_default();
    let kind = reported.kind.as_deref().unwrap_or_default();
    let words = format!("{kind} {code}").to_ascii_lowercase();
    let names = |list: &[&str]| list.iter().any(|word| words.contains(word));
    if names(&OVERLOAD) {
        AnswerClass::Overloaded
    } else if names(&REQUEST) {
        AnswerClass::ClientError
    } else {
        AnswerClass::ErrorEvent
    }
}
