//! From a request to prompt tokens: a chat template for the toy tokenizer.
//!
//! Every message becomes `<|role|>`, its content and an end mark, each tokenized as its own
//! segment, so that a longer conversation begins with exactly the tokens of the shorter one. Tools
//! come first, as in real templates.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::fields::{Fields, LIST, OBJECT, STRING, Text, mismatch};
use super::reply::ApiError;
use crate::model::tokenizer::tokenize_into;

/// What ends a message; one token.
const END: &str = "</s>";

/// A prompt as a caller of the engine hands it over.
#[derive(Clone, Copy, Debug)]
pub enum Prompt<'a> {
    /// Text, tokenized as `/v1/completions` does.
    Text(&'a str),
    /// Token ids, taken as they are.
    Tokens(&'a [u32]),
    /// The JSON array `messages` of a chat, rendered without tools.
    Messages(&'a str),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Prompts<'a> {
    Text(#[serde(borrow)] Text<'a>),
    Tokens(Vec<u32>),
    Texts(#[serde(borrow)] Vec<Text<'a>>),
    TokenLists(Vec<Vec<u32>>),
}

impl Prompt<'_> {
    /// The tokens of this prompt; `None` for messages that do not parse.
    pub(crate) fn tokens(self) -> Option<Vec<u32>> {
        let mut tokens = Vec::new();
        match self {
            Self::Text(text) => tokenize_into(text, &mut tokens),
            Self::Tokens(ids) => tokens.extend_from_slice(ids),
            Self::Messages(json) => {
                let body = format!(r#"{{"messages":{json}}}"#);
                return chat(&Fields::parse(body.as_bytes()).ok()?, "messages").ok();
            }
        }
        Some(tokens)
    }
}

/// The tokens of a chat: `tools` and `system` if there are any, then the list of messages in the
/// field `name`.
pub(crate) fn chat(fields: &Fields<'_>, name: &str) -> Result<Vec<u32>, ApiError> {
    let messages: Vec<&RawValue> = fields.required(name, LIST)?;
    let mut tokens = Vec::new();
    if let Some(tools) = fields.raw("tools") {
        message("tools", &mut tokens, |tokens| {
            tokenize_into(tools.get(), tokens);
        });
    }
    for field in ["system", "instructions"] {
        if let Some(system) = fields.raw(field) {
            message("system", &mut tokens, |tokens| content(system, tokens));
        }
    }
    for raw in messages {
        let Ok(parsed) = Fields::parse(raw.get().as_bytes()) else {
            return Err(mismatch(name, OBJECT, raw));
        };
        let role: Text<'_> = parsed
            .optional("role", STRING)?
            .unwrap_or(Text(Cow::Borrowed("user")));
        message(&role.0, &mut tokens, |tokens| {
            for part in ["content", "tool_calls"] {
                if let Some(value) = parsed.raw(part) {
                    content(value, tokens);
                }
            }
        });
    }
    header("assistant", &mut tokens);
    Ok(tokens)
}

/// The prompts of `/v1/completions`: text, token ids, or a list of either.
pub(crate) fn completion(fields: &Fields<'_>) -> Result<Vec<Vec<u32>>, ApiError> {
    let prompts: Prompts<'_> = fields.required("prompt", STRING)?;
    let tokenized = |text: &Text<'_>| crate::model::tokenizer::tokenize(&text.0);
    Ok(match prompts {
        Prompts::Text(text) => vec![tokenized(&text)],
        Prompts::Tokens(tokens) if tokens.is_empty() => Vec::new(),
        Prompts::Tokens(tokens) => vec![tokens],
        Prompts::Texts(texts) => texts.iter().map(tokenized).collect(),
        Prompts::TokenLists(lists) => lists,
    })
}

/// The input of `/v1/responses`: a string or a list of items.
pub(crate) fn response_input(fields: &Fields<'_>) -> Result<Vec<u32>, ApiError> {
    let Some(input) = fields.raw("input") else {
        return Err(fields.missing("input"));
    };
    if input.get().starts_with('[') {
        return chat(fields, "input");
    }
    let text: Text<'_> = fields.required("input", STRING)?;
    let mut tokens = Vec::new();
    message("user", &mut tokens, |tokens| tokenize_into(&text.0, tokens));
    header("assistant", &mut tokens);
    Ok(tokens)
}

fn header(role: &str, tokens: &mut Vec<u32>) {
    for piece in ["<|", role, "|>"] {
        tokenize_into(piece, tokens);
    }
}

fn message(role: &str, tokens: &mut Vec<u32>, body: impl FnOnce(&mut Vec<u32>)) {
    header(role, tokens);
    body(tokens);
    tokenize_into(END, tokens);
}

/// Text as text; of a list, the texts of its parts, and anything else (images, audio, tool calls)
/// as its JSON.
fn content(raw: &RawValue, tokens: &mut Vec<u32>) {
    if let Ok(text) = serde_json::from_str::<Text<'_>>(raw.get()) {
        return tokenize_into(&text.0, tokens);
    }
    let Ok(parts) = serde_json::from_str::<Vec<&RawValue>>(raw.get()) else {
        return tokenize_into(raw.get(), tokens);
    };
    for part in parts {
        let fields = Fields::parse(part.get().as_bytes()).ok();
        let text =
            fields.and_then(|fields| fields.optional::<Text<'_>>("text", STRING).ok().flatten());
        match text {
            Some(text) => tokenize_into(&text.0, tokens),
            None => tokenize_into(part.get(), tokens),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat_tokens(body: &str) -> Vec<u32> {
        chat(&Fields::parse(body.as_bytes()).unwrap(), "messages").unwrap()
    }

    #[test]
    fn the_next_turn_begins_with_the_tokens_of_this_one() {
        let first = chat_tokens(r#"{"messages":[{"role":"user","content":"hello there"}]}"#);
        let body = r#"{"messages":[{"role":"user","content":"hello there"},{"role":"assistant","content":" the sun"},{"role":"user","content":"x"}]}"#;
        let second = chat_tokens(body);
        assert_eq!(
            second[..first.len()],
            first,
            "the header of the answer included"
        );
    }

    #[test]
    fn parts_and_plain_text_of_the_same_words_are_the_same_prompt() {
        let plain = chat_tokens(r#"{"messages":[{"role":"user","content":"hello"}]}"#);
        let parts = chat_tokens(
            r#"{"messages":[{"role":"user","content":[{"type":"text","text":"hello"}]}]}"#,
        );
        assert_eq!(plain, parts);
        assert_ne!(
            plain,
            chat_tokens(r#"{"tools":[{}],"messages":[{"role":"user","content":"hello"}]}"#)
        );
    }

    #[test]
    fn completion_prompts_come_as_text_ids_or_lists() {
        let prompts = |body: &str| completion(&Fields::parse(body.as_bytes()).unwrap()).unwrap();
        assert_eq!(prompts(r#"{"prompt":[1,2,3]}"#), [vec![1, 2, 3]]);
        assert_eq!(prompts(r#"{"prompt":["ab","cd"]}"#).len(), 2);
        assert_eq!(prompts(r#"{"prompt":[[1],[2,3]]}"#), [vec![1], vec![2, 3]]);
        assert_eq!(prompts(r#"{"prompt":"abcdefgh"}"#)[0].len(), 2);
    }
}
