//! A question to a KV manager, `POST /match_sort`, which an engine answers for itself at
//! `/sim/held`.

use serde_json::Value;

use super::prompt::Prompt;

/// One question, as the server understood it.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// The model that was asked about.
    pub model: String,
    /// The prompt: a text, or the messages of a chat.
    pub prompt: QuestionPrompt,
    /// `ip:port` of the endpoints that may be named; empty when the question named none.
    pub candidates: Vec<String>,
}

/// What a question is about.
#[derive(Clone, Debug, PartialEq)]
pub enum QuestionPrompt {
    /// `prompt`.
    Text(Value),
    /// `messages`.
    Messages(Value),
}

impl Question {
    /// Reads a body in the documented shape; any other is `None`.
    pub fn read(body: &[u8]) -> Option<Self> {
        let mut body: Value = serde_json::from_slice(body).ok()?;
        let prompt = match body.get_mut("prompt").map(Value::take) {
            Some(text) => QuestionPrompt::Text(text),
            None => QuestionPrompt::Messages(body.get_mut("messages")?.take()),
        };
        let candidates = match body.get("candidates") {
            Some(named) => named
                .as_array()?
                .iter()
                .map(|id| id.as_str().map(str::to_owned))
                .collect::<Option<_>>()?,
            None => Vec::new(),
        };
        Some(Self {
            model: body.get("model")?.as_str()?.to_owned(),
            prompt,
            candidates,
        })
    }

    /// The share of the prompt that an engine holds, given its number of cached leading tokens. The
    /// simulated tokenizer makes about four bytes a token.
    pub fn share(&self, held: impl FnOnce(&str, Prompt<'_>) -> usize) -> f64 {
        let (tokens, bytes) = match &self.prompt {
            QuestionPrompt::Text(text) => {
                let text = text.as_str().unwrap_or_default();
                (held(&self.model, Prompt::Text(text)), text.len())
            }
            QuestionPrompt::Messages(messages) => {
                let json = messages.to_string();
                (held(&self.model, Prompt::Messages(&json)), json.len())
            }
        };
        (tokens as f64 * 4.0 / bytes.max(1) as f64).min(1.0)
    }
}
