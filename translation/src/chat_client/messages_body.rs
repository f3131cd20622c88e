//! The body of a messages request, as it is written.
//!
//! Source: the reference of `POST /v1/messages`, and the types of Anthropic's Python SDK 2.14.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::json_string::JsonString;

#[derive(Debug, Serialize)]
pub(super) struct MessagesBody<'a> {
    pub(super) model: Cow<'a, RawValue>,
    pub(super) max_tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) system: Option<BlockContent<'a>>,
    pub(super) messages: Vec<MessageTurn<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) tools: Vec<MessagesTool<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tool_choice: Option<MessagesToolChoice<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) temperature: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) top_p: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) top_k: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) stop_sequences: Vec<JsonString<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) output_config: Option<OutputConfig<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) thinking: Option<Cow<'a, RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) metadata: Option<UserMetadata<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) service_tier: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cache_control: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stream: Option<bool>,
}

#[derive(Debug, Serialize)]
pub(super) struct MessageTurn<'a> {
    pub(super) role: TurnRole,
    pub(super) content: BlockContent<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum TurnRole {
    User,
    Assistant,
    System,
}

/// The content of a message, of `system` or of a tool's result. The API reads a text as one block.
#[derive(Debug)]
pub(super) struct BlockContent<'a>(pub(super) Vec<MessageBlock<'a>>);

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum MessageBlock<'a> {
    Text {
        text: JsonString<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_control: Option<&'a RawValue>,
    },
    Image {
        source: MediaSource<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_control: Option<&'a RawValue>,
    },
    Document {
        source: MediaSource<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        title: Option<JsonString<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_control: Option<&'a RawValue>,
    },
    ToolUse {
        id: Cow<'a, str>,
        name: JsonString<'a>,
        input: Cow<'a, RawValue>,
    },
    ToolResult {
        tool_use_id: Cow<'a, str>,
        #[serde(skip_serializing_if = "BlockContent::is_empty")]
        content: BlockContent<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_control: Option<&'a RawValue>,
    },
    /// What the server thought earlier, with its signature.
    Thinking {
        thinking: JsonString<'a>,
        signature: JsonString<'a>,
    },
    RedactedThinking {
        data: JsonString<'a>,
    },
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(super) enum MediaSource<'a> {
    Base64 {
        media_type: Cow<'a, str>,
        data: Cow<'a, str>,
    },
    Url {
        url: JsonString<'a>,
    },
}

#[derive(Debug, Serialize)]
pub(super) struct MessagesTool<'a> {
    pub(super) name: JsonString<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) description: Option<JsonString<'a>>,
    pub(super) input_schema: Cow<'a, RawValue>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) strict: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cache_control: Option<&'a RawValue>,
}

#[derive(Debug, Serialize)]
pub(super) struct MessagesToolChoice<'a> {
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<JsonString<'a>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) disable_parallel_tool_use: bool,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct OutputConfig<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) effort: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) format: Option<SchemaFormat<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename = "json_schema")]
pub(super) struct SchemaFormat<'a> {
    pub(super) schema: Cow<'a, RawValue>,
}

#[derive(Debug, Serialize)]
pub(super) struct UserMetadata<'a> {
    pub(super) user_id: JsonString<'a>,
}

// === BlockContent ===

impl BlockContent<'_> {
    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for BlockContent<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &*self.0 {
            [
                MessageBlock::Text {
                    text,
                    cache_control: None,
                },
            ] => text.serialize(serializer),
            blocks => blocks.serialize(serializer),
        }
    }
}
