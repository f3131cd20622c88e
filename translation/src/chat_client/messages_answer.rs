//! What is read of a message, whole or as events.
//!
//! Fields that are not read have no place in the other API: `container`, `citations` of texts and
//! what servers add.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{json_string::JsonString, usage::MessagesUsage};

/// A message, or the beginning of one.
#[derive(Debug, Deserialize)]
pub(super) struct ReadMessage<'a> {
    #[serde(borrow, default)]
    pub(super) id: Option<JsonString<'a>>,
    #[serde(borrow, default)]
    pub(super) model: Option<JsonString<'a>>,
    #[serde(borrow, default)]
    pub(super) content: Option<Vec<ReadBlock<'a>>>,
    #[serde(borrow, default)]
    pub(super) stop_reason: Option<JsonString<'a>>,
    #[serde(borrow, default)]
    pub(super) stop_sequence: Option<JsonString<'a>>,
    #[serde(borrow, default)]
    pub(super) stop_details: Option<ReadStopDetails<'a>>,
    #[serde(default)]
    pub(super) usage: Option<MessagesUsage>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct ReadStopDetails<'a> {
    #[serde(borrow, default)]
    pub(super) explanation: Option<JsonString<'a>>,
}

/// A block of content, of any type.
#[derive(Debug, Deserialize)]
pub(super) struct ReadBlock<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: JsonString<'a>,
    #[serde(borrow, default)]
    pub(super) text: Option<JsonString<'a>>,
    #[serde(borrow, default)]
    pub(super) thinking: Option<JsonString<'a>>,
    #[serde(borrow, default)]
    pub(super) signature: Option<JsonString<'a>>,
    #[serde(borrow, default)]
    pub(super) data: Option<JsonString<'a>>,
    #[serde(borrow, default)]
    pub(super) id: Option<JsonString<'a>>,
    #[serde(borrow, default)]
    pub(super) name: Option<JsonString<'a>>,
    #[serde(borrow, default)]
    pub(super) input: Option<&'a RawValue>,
}

/// An event of a stream, of any type.
#[derive(Debug, Deserialize)]
pub(super) struct ReadEvent<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: JsonString<'a>,
    #[serde(default)]
    pub(super) index: Option<u64>,
    #[serde(borrow, default)]
    pub(super) message: Option<ReadMessage<'a>>,
    #[serde(borrow, default)]
    pub(super) content_block: Option<ReadBlock<'a>>,
    #[serde(borrow, default)]
    pub(super) delta: Option<ReadDelta<'a>>,
    #[serde(default)]
    pub(super) usage: Option<MessagesUsage>,
    #[serde(borrow, default)]
    pub(super) error: Option<&'a RawValue>,
}

/// What is added to a block, or to the message.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct ReadDelta<'a> {
    #[serde(borrow, default, rename = "type")]
    pub(super) kind: Option<JsonString<'a>>,
    #[serde(borrow, default)]
    pub(super) text: Option<JsonString<'a>>,
    #[serde(borrow, default)]
    pub(super) thinking: Option<JsonString<'a>>,
    #[serde(borrow, default)]
    pub(super) signature: Option<JsonString<'a>>,
    #[serde(borrow, default)]
    pub(super) partial_json: Option<JsonString<'a>>,
    #[serde(borrow, default)]
    pub(super) stop_reason: Option<JsonString<'a>>,
    #[serde(borrow, default)]
    pub(super) stop_sequence: Option<JsonString<'a>>,
    #[serde(borrow, default)]
    pub(super) stop_details: Option<ReadStopDetails<'a>>,
}

/// `finish_reason` of a message that ended so.
pub(super) fn finish_reason(stop_reason: Option<JsonString<'_>>) -> &'static str {
    match stop_reason.and_then(JsonString::text).as_deref() {
        Some("max_tokens" | "model_context_window_exceeded") => "length",
        Some("tool_use") => "tool_calls",
        Some("refusal") => "content_filter",
        _ => "stop",
    }
}
