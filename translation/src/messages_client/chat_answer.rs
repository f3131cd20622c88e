//! What is read of a chat completion, whole or in chunks.
//!
//! Fields that are not read have no place in the other API: `created`, `object`, `logprobs` and
//! what engines add.

use serde::{Deserialize, Deserializer, de::Error};
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
    finish_reason: Option<JsonString<'a>>,
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
    content: Option<SaidContent<'a>>,
    #[serde(borrow, default)]
    refusal: Option<JsonString<'a>>,
    /// DeepSeek's, SGLang's and older vLLM's name of it.
    #[serde(borrow, default)]
    reasoning_content: Option<JsonString<'a>>,
    /// vLLM's and OpenRouter's.
    #[serde(borrow, default)]
    reasoning: Option<JsonString<'a>>,
    #[serde(borrow, default)]
    pub(super) tool_calls: Option<Vec<MadeCall<'a>>>,
}

/// A text. Mistral's models that think return parts, of which each is a text or thinking.
#[derive(Debug, Default)]
struct SaidContent<'a>(Vec<SaidText<'a>>);

/// A text that is not empty.
#[derive(Clone, Copy, Debug)]
pub(super) struct SaidText<'a> {
    pub(super) is_thinking: bool,
    pub(super) text: JsonString<'a>,
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

    /// Why the answer ended. Some servers write an empty reason while it goes on.
    pub(super) fn finish_reason(&self) -> Option<JsonString<'a>> {
        self.finish_reason.filter(|reason| !reason.is_empty())
    }
}

// === SaidMessage ===

impl<'a> SaidMessage<'a> {
    /// What was said, in its order.
    pub(super) fn texts(&self) -> impl Iterator<Item = SaidText<'a>> {
        let said = |is_thinking| move |text| SaidText { is_thinking, text };
        let thinking = self.reasoning_content.or(self.reasoning).map(said(true));
        let content = self
            .content
            .iter()
            .flat_map(|content| content.0.iter().copied());
        let refusal = self.refusal.map(said(false));
        let texts = thinking.into_iter().chain(content).chain(refusal);
        texts.filter(|said| !said.text.is_empty())
    }

    pub(super) fn is_refusal(&self) -> bool {
        self.refusal.is_some_and(|refusal| !refusal.is_empty())
    }
}

// === SaidContent ===

impl<'de: 'a, 'a> Deserialize<'de> for SaidContent<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&'a RawValue>::deserialize(deserializer)?;
        let mut texts = Vec::new();
        match JsonString::of(raw) {
            Some(text) => texts.push(SaidText {
                is_thinking: false,
                text,
            }),
            None => read_parts(raw, false, &mut texts).map_err(D::Error::custom)?,
        }
        Ok(Self(texts))
    }
}

/// Reads `[{"type": "thinking", "thinking": [{"type": "text", "text": …}]}, …]`.
fn read_parts<'a>(
    raw: &'a RawValue,
    is_thinking: bool,
    texts: &mut Vec<SaidText<'a>>,
) -> Result<(), &'static str> {
    #[derive(Deserialize)]
    struct Part<'a> {
        #[serde(borrow, rename = "type")]
        kind: JsonString<'a>,
        #[serde(borrow, default)]
        text: Option<JsonString<'a>>,
        #[serde(borrow, default)]
        thinking: Option<&'a RawValue>,
    }
    let unknown = "parts of texts and thinking are expected";
    let parts: Vec<Part<'a>> = serde_json::from_str(raw.get()).map_err(|_| unknown)?;
    for part in parts {
        match (part.kind.text().as_deref(), part.text, part.thinking) {
            (Some("text"), Some(text), _) => texts.push(SaidText { is_thinking, text }),
            (Some("thinking"), _, Some(parts)) if !is_thinking => read_parts(parts, true, texts)?,
            _ => return Err(unknown),
        }
    }
    Ok(())
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
