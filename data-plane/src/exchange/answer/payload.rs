//! The class of a JSON body, or of the data of one event, in the shapes of the OpenAI APIs and of
//! Anthropic's.

use std::{borrow::Cow, collections::BTreeMap};

use memchr::memmem;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::error_class;
use crate::telemetry::metrics::AnswerClass;

/// What is read of a body or of an event.
#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct Payload<'a> {
    /// An error, inside an envelope.
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    /// `error` for an error without an envelope, as SGLang has it.
    object: Option<Cow<'a, str>>,
    /// The kind of an event of Responses and Messages.
    #[serde(rename = "type")]
    kind: Option<Cow<'a, str>>,
    choices: Option<Vec<Choice<'a>>>,
    response: Option<NestedResponse<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct NestedResponse<'a> {
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct Choice<'a> {
    #[serde(borrow)]
    delta: Option<BTreeMap<Cow<'a, str>, &'a RawValue>>,
    text: Option<Cow<'a, str>>,
    message: Option<IgnoredAny>,
    finish_reason: Option<IgnoredAny>,
}

/// Whether a value is empty, false or zero.
fn is_nothing(value: &RawValue) -> bool {
    matches!(value.get(), "null" | "\"\"" | "[]" | "{}" | "false" | "0")
}

impl Choice<'_> {
    /// Whether it holds more than the role.
    fn has_token(&self) -> bool {
        let is_content =
            |(name, value): (&Cow<'_, str>, &&RawValue)| name != "role" && !is_nothing(value);
        self.finish_reason.is_some()
            || self.message.is_some()
            || self.text.as_deref().is_some_and(|text| !text.is_empty())
            || self
                .delta
                .as_ref()
                .is_some_and(|delta| delta.iter().any(is_content))
    }
}

/// The class of a whole body, which is not empty.
pub(super) fn of_body(text: &[u8]) -> AnswerClass {
    let class = super::begins_as_json(text);
    if class != AnswerClass::Tokens || memmem::find(text, b"error").is_none() {
        return class;
    }
    let payload: Payload<'_> = serde_json::from_slice(text).unwrap_or_default();
    payload.error_class(text).unwrap_or(AnswerClass::Tokens)
}

/// The class that an event gives its answer; `None` if others have to follow.
pub(super) fn of_event(name: &[u8], data: &[u8]) -> Option<AnswerClass> {
    let data = data.trim_ascii();
    if data.is_empty() {
        return None;
    }
    if data == b"[DONE]" {
        return Some(AnswerClass::Empty);
    }
    let payload: Payload<'_> = match serde_json::from_slice(data) {
        Ok(payload) => payload,
        // JSON of another shape than those that are read here.
        Err(error) if error.is_data() => return Some(AnswerClass::Tokens),
        Err(_) => return Some(AnswerClass::NotAnAnswer),
    };
    if name == b"error" {
        let error = payload.error.map_or(data, |error| error.get().as_bytes());
        return Some(error_class::of(error));
    }
    if let Some(class) = payload.error_class(data) {
        return Some(class);
    }
    payload.has_token().then_some(AnswerClass::Tokens)
}

impl Payload<'_> {
    /// The class of the error that it is, if it is one.
    fn error_class(&self, text: &[u8]) -> Option<AnswerClass> {
        let nested = self.response.as_ref().and_then(|response| response.error);
        if let Some(error) = self.error.or(nested).filter(|error| !is_nothing(error)) {
            return Some(error_class::of(error.get().as_bytes()));
        }
        let is_error = |name: &Option<Cow<'_, str>>| name.as_deref() == Some("error");
        if is_error(&self.object) || is_error(&self.kind) {
            return Some(error_class::of(text));
        }
        (self.kind.as_deref() == Some("response.failed")).then_some(AnswerClass::ErrorEvent)
    }

    /// Whether it is a part of what was asked for. An event that is not known is.
    fn has_token(&self) -> bool {
        if let Some(choices) = &self.choices {
            return choices.iter().any(Choice::has_token);
        }
        !matches!(
            self.kind.as_deref(),
            Some(
                "response.created"
                    | "response.queued"
                    | "response.in_progress"
                    | "response.output_item.added"
                    | "response.content_part.added"
                    | "response.reasoning_part.added"
                    | "response.reasoning_summary_part.added"
                    | "message_start"
                    | "content_block_start"
                    | "ping"
            )
        )
    }
}
