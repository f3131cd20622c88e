//! A conversation as a request carries it: messages, tools, and the arguments of its chat template.
//! Raw JSON.

use bytes::Bytes;
use hermes_proto::v1::{PromptText, prompt_text::Api};
use minijinja::{Value, value::ValueKind};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Failure, conversation};

/// A conversation and the arguments of its template. Raw JSON, not checked yet.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Chat {
    pub(super) messages: Bytes,
    pub(super) tools: Option<Bytes>,
    /// An object, if there is one.
    pub(super) template_kwargs: Option<Bytes>,
    pub(super) documents: Option<Bytes>,
    /// `low`, `medium` and so on.
    pub(super) effort: Option<String>,
    /// `add_generation_prompt`
    pub(super) generates: bool,
    /// `continue_final_message`
    pub(super) continues: bool,
    /// Whether the tokenizer adds its special tokens to those of the template.
    pub(super) special: bool,
}

// === Chat ===

impl Chat {
    /// `messages`, with everything else that `text` says.
    pub(super) fn of(text: &PromptText, messages: Bytes) -> Self {
        let given = |raw: &Bytes| Some(raw.clone()).filter(|raw| !raw.is_empty());
        Self {
            messages,
            tools: given(&text.tools),
            template_kwargs: given(&text.template_kwargs),
            documents: given(&text.documents),
            effort: effort(&text.reasoning, text.api()),
            generates: text.add_generation_prompt.unwrap_or(true),
            continues: text.continue_final_message.unwrap_or(false),
            special: text.add_special_tokens.unwrap_or(false),
        }
    }

    /// Its length.
    pub(super) fn bytes(&self) -> usize {
        let Self {
            messages,
            tools,
            template_kwargs,
            documents,
            effort: _,
            generates: _,
            continues: _,
            special: _,
        } = self;
        let others = [tools, template_kwargs, documents].into_iter().flatten();
        messages.len() + others.map(Bytes::len).sum::<usize>()
    }

    /// The request's arguments of the template, besides messages and tools. The request's own
    /// fields come after its `chat_template_kwargs`, and so count.
    pub(super) fn kwargs(&self) -> Result<Vec<(Value, Value)>, Failure> {
        let mut fields = Vec::new();
        if let Some(raw) = &self.template_kwargs {
            let kwargs = conversation::json(raw)?;
            if kwargs.kind() != ValueKind::Map {
                return Err(Failure::Malformed);
            }
            for key in kwargs.try_iter().map_err(|_| Failure::Malformed)? {
                let value = kwargs.get_item(&key).map_err(|_| Failure::Malformed)?;
                fields.push((key, value));
            }
        }
        let has = |name: &str| fields.iter().any(|(key, _)| key.as_str() == Some(name));
        // The engine refuses it there, or takes it for another template.
        if has("chat_template") {
            return Err(Failure::Unsupported);
        }
        if let Some(effort) = &self.effort {
            // Asking for an effort switches thinking on in templates that have it off.
            let thinks = (!has("enable_thinking")).then(|| {
                (
                    Value::from("enable_thinking"),
                    Value::from(effort != "none"),
                )
            });
            fields.extend(thinks);
            fields.push((
                Value::from("reasoning_effort"),
                Value::from(effort.as_str()),
            ));
        }
        if let Some(raw) = &self.documents {
            fields.push((Value::from("documents"), conversation::json(raw)?));
        }
        Ok(fields)
    }
}

/// The conversation is not shown.
impl std::fmt::Debug for Chat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chat")
            .field("bytes", &self.messages.len())
            .finish_non_exhaustive()
    }
}

/// `"low"` of a chat, `{"effort": "low"}` of a response.
fn effort(raw: &[u8], api: Api) -> Option<String> {
    #[derive(Deserialize)]
    struct Reasoning<'a> {
        #[serde(borrow)]
        effort: Option<&'a RawValue>,
    }
    if api != Api::Responses {
        return serde_json::from_slice(raw).ok();
    }
    let reasoning: Reasoning<'_> = serde_json::from_slice(raw).ok()?;
    serde_json::from_str(reasoning.effort?.get()).ok()
}
