//! What of a lookup has to become tokens: the one form that both ways of doing it start from.

use std::sync::Arc;

use hermes_proto::v1::{
    PromptText,
    prompt_text::{Api, Kind},
};
use serde::Deserialize;

use super::{Failure, chat::Chat, responses};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TokenizeInput {
    /// They are tokens already.
    Ids(Arc<[u32]>),
    /// A text.
    Text {
        /// The text.
        text: String,
        /// Whether the tokenizer adds its special tokens, such as one for the beginning.
        special: bool,
    },
    /// A conversation, for the chat template.
    Chat(Box<Chat>),
}

/// The value of `prompt`.
#[derive(Deserialize)]
#[serde(untagged)]
enum PromptField {
    Text(String),
    Ids(Vec<u32>),
    Texts([String; 1]),
    Lists([Vec<u32>; 1]),
}

// === TokenizeInput ===

impl TokenizeInput {
    /// What `text` asks for.
    ///
    /// # Errors
    /// [`Failure::Unsupported`] for what becomes tokens in the engine alone, [`Failure::Malformed`]
    /// for what no engine would take.
    pub(super) fn read(text: &PromptText) -> Result<Self, Failure> {
        if text.incomplete {
            return Err(Failure::Unsupported);
        }
        match (text.api(), text.kind()) {
            (Api::Completions, Kind::Prompt) => Self::prompt(text),
            (Api::Chat, Kind::Messages) => {
                Ok(Self::Chat(Box::new(Chat::of(text, text.json.clone()))))
            }
            (Api::Responses, Kind::Prompt) => {
                responses::read(text).map(|chat| Self::Chat(Box::new(chat)))
            }
            _ => Err(Failure::Unsupported),
        }
    }

    fn prompt(text: &PromptText) -> Result<Self, Failure> {
        // Several prompts in one request are several requests to the engine.
        let prompt: PromptField =
            serde_json::from_slice(&text.json).map_err(|_| Failure::Unsupported)?;
        match prompt {
            PromptField::Ids(ids) | PromptField::Lists([ids]) => Ok(Self::Ids(ids.into())),
            PromptField::Text(prompt) | PromptField::Texts([prompt]) => Ok(Self::Text {
                text: prompt,
                special: text.add_special_tokens.unwrap_or(true),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use minijinja::Value;
    use proptest::prelude::*;

    use super::*;

    fn text(api: Api, json: &str) -> PromptText {
        let kind = if api == Api::Chat {
            Kind::Messages
        } else {
            Kind::Prompt
        };
        PromptText {
            api: api.into(),
            kind: kind.into(),
            json: Bytes::copy_from_slice(json.as_bytes()),
            ..PromptText::default()
        }
    }

    #[test]
    fn a_prompt_is_a_text_or_tokens_and_there_is_one() {
        let read = |json| TokenizeInput::read(&text(Api::Completions, json));
        let hello = TokenizeInput::Text {
            text: "hello".into(),
            special: true,
        };
        assert_eq!(read(r#""hello""#), Ok(hello.clone()));
        assert_eq!(read(r#"["hello"]"#), Ok(hello));
        assert_eq!(read("[1,2]"), Ok(TokenizeInput::Ids([1, 2].into())));
        assert_eq!(read("[[1,2]]"), Ok(TokenizeInput::Ids([1, 2].into())));
        for several in [r#"["a","b"]"#, "[[1],[2]]", "{}", "[-1]", "7"] {
            assert_eq!(read(several), Err(Failure::Unsupported), "{several}");
        }
    }

    #[test]
    fn what_is_not_all_there_is_left_to_the_engine() {
        let incomplete = PromptText {
            incomplete: true,
            ..text(Api::Chat, "[]")
        };
        assert_eq!(TokenizeInput::read(&incomplete), Err(Failure::Unsupported));
        for api in [Api::Unspecified, Api::Embeddings, Api::Messages] {
            assert_eq!(
                TokenizeInput::read(&text(api, r#""x""#)),
                Err(Failure::Unsupported)
            );
        }
    }

    #[test]
    fn an_effort_switches_thinking_on_unless_the_request_says_otherwise() {
        let kwargs_of = |kwargs: &'static str, reasoning: &'static str| {
            let asked = PromptText {
                template_kwargs: Bytes::from_static(kwargs.as_bytes()),
                reasoning: Bytes::from_static(reasoning.as_bytes()),
                ..text(Api::Chat, "[]")
            };
            let Ok(TokenizeInput::Chat(chat)) = TokenizeInput::read(&asked) else {
                panic!("a chat")
            };
            let fields = Value::from_pairs(chat.kwargs().expect("an object"));
            fields.to_string()
        };
        assert_eq!(
            kwargs_of("", r#""low""#),
            "{'enable_thinking': True, 'reasoning_effort': 'low'}"
        );
        assert_eq!(
            kwargs_of("", r#""none""#),
            "{'enable_thinking': False, 'reasoning_effort': 'none'}"
        );
        let off = kwargs_of(r#"{"enable_thinking":false,"x":1}"#, r#""high""#);
        assert_eq!(
            off,
            "{'enable_thinking': False, 'x': 1, 'reasoning_effort': 'high'}"
        );
    }

    #[test]
    fn a_template_cannot_come_with_the_request() {
        let chat = Chat {
            template_kwargs: Some(Bytes::from_static(br#"{"chat_template":"x"}"#)),
            ..Chat::default()
        };
        assert_eq!(chat.kwargs().err(), Some(Failure::Unsupported));
    }

    proptest! {
        #[test]
        fn any_bytes_are_wanted_or_refused(json in proptest::collection::vec(any::<u8>(), 0..60), api in 0..7_i32) {
            let asked = PromptText { json: json.into(), api, kind: api % 2, ..PromptText::default() };
            let _ = TokenizeInput::read(&asked);
        }
    }
}
