//! The chunks of a streamed chat completion, as they are written.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::RawValue;

use super::answer::SignedThinking;
use crate::{
    json_string::{JsonString, encoded},
    stream_writer::write_data,
    usage::{AnswerUsage, ChatUsage},
};

/// Writes the chunks of one answer.
#[derive(Debug)]
pub(super) struct ChunkWriter {
    /// As JSON.
    pub(super) id: Box<RawValue>,
    /// As JSON.
    pub(super) model: Box<RawValue>,
    pub(super) created: u64,
}

#[derive(Serialize)]
struct ChunkBody<'a> {
    id: &'a RawValue,
    object: &'static str,
    created: u64,
    model: &'a RawValue,
    choices: &'a [ChunkChoice<'a>],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<ChatUsage>,
}

#[derive(Serialize)]
struct ChunkChoice<'a> {
    index: u64,
    delta: ChunkDelta<'a>,
    finish_reason: Option<&'static str>,
    /// vLLM's field for what OpenAI's API does not say: the stop sequence.
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<&'a RawValue>,
}

#[derive(Default, Serialize)]
struct ChunkDelta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<JsonString<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<JsonString<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking_blocks: Option<[NumberedThinking<'a>; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[CallFragment<'a>; 1]>,
}

/// OpenAI's SDKs put the items of lists together by their numbers.
#[derive(Serialize)]
struct NumberedThinking<'a> {
    index: u64,
    #[serde(flatten)]
    block: SignedThinking<'a>,
}

#[derive(Serialize)]
struct CallFragment<'a> {
    index: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<JsonString<'a>>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    function: FunctionFragment<'a>,
}

#[derive(Serialize)]
struct FunctionFragment<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<JsonString<'a>>,
    arguments: Cow<'a, RawValue>,
}

impl ChunkWriter {
    pub(super) fn role(&self, out: &mut Vec<u8>) {
        let empty = encoded("");
        let delta = ChunkDelta {
            role: Some("assistant"),
            content: Some(&empty),
            ..ChunkDelta::default()
        };
        self.delta(delta, out);
    }

    pub(super) fn text(&self, text: JsonString<'_>, out: &mut Vec<u8>) {
        let delta = ChunkDelta {
            content: Some(text.raw()),
            ..ChunkDelta::default()
        };
        self.delta(delta, out);
    }

    pub(super) fn refusal(&self, explanation: JsonString<'_>, out: &mut Vec<u8>) {
        let delta = ChunkDelta {
            refusal: Some(explanation),
            ..ChunkDelta::default()
        };
        self.delta(delta, out);
    }

    pub(super) fn thinking(&self, thinking: JsonString<'_>, out: &mut Vec<u8>) {
        let delta = ChunkDelta {
            reasoning_content: Some(thinking),
            ..ChunkDelta::default()
        };
        self.delta(delta, out);
    }

    /// A block that the server signed, by its number.
    pub(super) fn signed(&self, index: u64, block: SignedThinking<'_>, out: &mut Vec<u8>) {
        let delta = ChunkDelta {
            thinking_blocks: Some([NumberedThinking { index, block }]),
            ..ChunkDelta::default()
        };
        self.delta(delta, out);
    }

    /// Begins the call with this number.
    pub(super) fn start_call(
        &self,
        call: u64,
        (id, name): (JsonString<'_>, JsonString<'_>),
        arguments: &str,
        out: &mut Vec<u8>,
    ) {
        let fragment = CallFragment {
            index: call,
            id: Some(id),
            kind: Some("function"),
            function: FunctionFragment {
                name: Some(name),
                arguments: Cow::Owned(encoded(arguments)),
            },
        };
        self.call(fragment, out);
    }

    /// Adds to the arguments of a call.
    pub(super) fn arguments(&self, call: u64, arguments: &RawValue, out: &mut Vec<u8>) {
        let fragment = CallFragment {
            index: call,
            id: None,
            kind: None,
            function: FunctionFragment {
                name: None,
                arguments: Cow::Borrowed(arguments),
            },
        };
        self.call(fragment, out);
    }

    pub(super) fn end(
        &self,
        finish_reason: &'static str,
        stop_sequence: Option<&RawValue>,
        out: &mut Vec<u8>,
    ) {
        let choice = ChunkChoice {
            index: 0,
            delta: ChunkDelta::default(),
            finish_reason: Some(finish_reason),
            stop_reason: stop_sequence,
        };
        self.chunk(&[choice], None, out);
    }

    pub(super) fn usage(&self, usage: AnswerUsage, out: &mut Vec<u8>) {
        self.chunk(&[], Some(usage.into()), out);
    }

    fn call(&self, fragment: CallFragment<'_>, out: &mut Vec<u8>) {
        let delta = ChunkDelta {
            tool_calls: Some([fragment]),
            ..ChunkDelta::default()
        };
        self.delta(delta, out);
    }

    fn delta(&self, delta: ChunkDelta<'_>, out: &mut Vec<u8>) {
        let choice = ChunkChoice {
            index: 0,
            delta,
            finish_reason: None,
            stop_reason: None,
        };
        self.chunk(&[choice], None, out);
    }

    fn chunk(&self, choices: &[ChunkChoice<'_>], usage: Option<ChatUsage>, out: &mut Vec<u8>) {
        let chunk = ChunkBody {
            id: &self.id,
            object: "chat.completion.chunk",
            created: self.created,
            model: &self.model,
            choices,
            usage,
        };
        write_data(&chunk, out);
    }
}
