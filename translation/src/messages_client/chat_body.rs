//! The body of a chat completion's request, as it is written.
//!
//! Source: the reference of `POST /v1/chat/completions`, the types of OpenAI's Python SDK 3.57, and
//! vLLM 0.32's `ChatCompletionRequest` for what is not in it.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::json_string::JsonString;

#[derive(Debug, Default, Serialize)]
pub(super) struct ChatBody<'a> {
    pub(super) model: Cow<'a, RawValue>,
    pub(super) messages: Vec<ChatMessage<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) max_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) max_completion_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) tools: Vec<FunctionTool<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tool_choice: Option<FunctionChoice<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) parallel_tool_calls: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) temperature: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) top_p: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) top_k: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stop: Option<Vec<JsonString<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) response_format: Option<NamedSchemaFormat<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reasoning_effort: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) thinking_token_budget: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) service_tier: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) priority: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cache_salt: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) chat_template_kwargs: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) add_generation_prompt: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) continue_final_message: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stream: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stream_options: Option<UsageOptions>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "role", rename_all = "lowercase")]
pub(super) enum ChatMessage<'a> {
    System {
        content: Cow<'a, RawValue>,
    },
    User {
        content: PartContent<'a>,
    },
    Assistant {
        content: Option<PartContent<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        reasoning_content: Option<Cow<'a, RawValue>>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        tool_calls: Vec<FunctionCall<'a>>,
    },
    Tool {
        tool_call_id: JsonString<'a>,
        content: Cow<'a, RawValue>,
    },
}

/// The content of a message. One text is written without the list.
#[derive(Debug)]
pub(super) struct PartContent<'a>(pub(super) Vec<ChatPart<'a>>);

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum ChatPart<'a> {
    Text { text: Cow<'a, RawValue> },
    ImageUrl { image_url: ImageAddress<'a> },
    File { file: FileData<'a> },
}

#[derive(Debug, Serialize)]
pub(super) struct ImageAddress<'a> {
    pub(super) url: Cow<'a, RawValue>,
}

#[derive(Debug, Serialize)]
pub(super) struct FileData<'a> {
    pub(super) file_data: Cow<'a, RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) filename: Option<JsonString<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename = "function")]
pub(super) struct FunctionCall<'a> {
    pub(super) id: JsonString<'a>,
    pub(super) function: CalledFunction<'a>,
}

#[derive(Debug, Serialize)]
pub(super) struct CalledFunction<'a> {
    pub(super) name: JsonString<'a>,
    pub(super) arguments: &'a str,
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename = "function")]
pub(super) struct FunctionTool<'a> {
    pub(super) function: FunctionDefinition<'a>,
}

#[derive(Debug, Serialize)]
pub(super) struct FunctionDefinition<'a> {
    pub(super) name: JsonString<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) description: Option<JsonString<'a>>,
    pub(super) parameters: Cow<'a, RawValue>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) strict: bool,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum FunctionChoice<'a> {
    Mode(&'static str),
    Named(NamedFunctionChoice<'a>),
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename = "function")]
pub(super) struct NamedFunctionChoice<'a> {
    pub(super) function: FunctionName<'a>,
}

#[derive(Debug, Serialize)]
pub(super) struct FunctionName<'a> {
    pub(super) name: JsonString<'a>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename = "json_schema")]
pub(super) struct NamedSchemaFormat<'a> {
    pub(super) json_schema: NamedSchema<'a>,
}

#[derive(Debug, Serialize)]
pub(super) struct NamedSchema<'a> {
    pub(super) name: &'static str,
    pub(super) schema: &'a RawValue,
    pub(super) strict: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct UsageOptions {
    pub(super) include_usage: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) continuous_usage_stats: bool,
}

// === PartContent ===

impl Serialize for PartContent<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &*self.0 {
            [] => serializer.serialize_str(""),
            [ChatPart::Text { text }] => text.serialize(serializer),
            parts => parts.serialize(serializer),
        }
    }
}
