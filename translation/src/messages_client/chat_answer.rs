//! What is read of a chat completion, whole or in chunks.
//!
//! Fields that are not read have no place in the other API: `created`, `object`, `logprobs` and
//! what engines add.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{json_string::JsonString, usage::ChatUsage};

/// A whole answer, or a chunk of one.
#[derive(Debug, Deserialize)]
pub(super) struct ChatAnswer<'a> {
    #[serde(borrow, default)]
    pub(super) id: Option<JsonString<'a>>,
    #[serde(borrow, default)]
    pub(super) model: Option<JsonString<'a>>,
    #[serde(borrow, default)]
    pub(super) choices: Option<Vec<ChatChoice<'a>>>,
    #[serde(default)]
    pub(super) usage: Option<ChatUsage>,
    #[serde(borrow, default)]
    pub(super) error: Option<&'a RawValue>,
}

#[derive(Debug, Deserialize)]
pub(super) struct ChatChoice<'a> {
    #[serde(default)]
    pub(super) index: Option<u64>,
    /// `delta` in chunks.
    #[serde(borrow, default, alias = "delta")]
    pub(super) message: Option<SaidMessage<'a>>,
    #[serde(borrow, default)]
    pub(super) finish_reason: Option<JsonString<'a>>,
    /// vLLM's: the stop sequence, or the number of the stop token.
    #[serde(borrow, default)]
    stop_reason: Option<&'a RawValue>,
    /// SGLang's of the same.
    #[serde(borrow, default)]
    matched_stop: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct SaidMessage<'a> {
    #[serde(borrow, default)]
    pub(super) content: Option<JsonString<'a>>,
    #[serde(borrow, default)]
    pub(super) refusal: Option<JsonString<'a>>,
    /// DeepSeek's, SGLang's and older vLLM's name of it.
    #[serde(borrow, default)]
    reasoning_content: Option<JsonString<'a>>,
    /// vLLM's and OpenRouter's.
    #[serde(borrow, default)]
    reasoning: Option<JsonString<'a>>,
    #[serde(borrow, default)]
    pub(super) tool_calls: Option<Vec<MadeCall<'a>>>,
}

/// A call, or a fragment of one.
#[derive(Debug, Deserialize)]
pub(super) struct MadeCall<'a> {
    #[serde(default)]
    pub(super) index: Option<u64>,
    #[serde(borrow, default)]
    pub(super) id: Option<JsonString<'a>>,
    #[serde(borrow, default)]
    function: Option<MadeFunction<'a>>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct MadeFunction<'a> {
    #[serde(borrow, default)]
    name: Option<JsonString<'a>>,
    #[serde(borrow, default)]
    arguments: Option<JsonString<'a>>,
}

// === ChatChoice ===

impl<'a> ChatChoice<'a> {
    /// The stop sequence at which the answer ended, if the server reports it.
    pub(super) fn stop_sequence(&self) -> Option<JsonString<'a>> {
        let reported = self.stop_reason.or(self.matched_stop);
        reported.and_then(JsonString::of)
    }
}

// === SaidMessage ===

impl<'a> SaidMessage<'a> {
    /// The thinking, of servers that return it.
    pub(super) fn thinking(&self) -> Option<JsonString<'a>> {
        let thinking = self.reasoning_content.or(self.reasoning);
        thinking.filter(|thinking| !thinking.is_empty())
    }
}

// === MadeCall ===

impl<'a> MadeCall<'a> {
    pub(super) fn name(&self) -> Option<JsonString<'a>> {
        let name = self.function.and_then(|function| function.name);
        name.filter(|name| !name.is_empty())
    }

    pub(super) fn arguments(&self) -> Option<JsonString<'a>> {
        let arguments = self.function.and_then(|function| function.arguments);
        arguments.filter(|arguments| !arguments.is_empty())
    }
}
