//! A whole message as a chat completion.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::RawValue;

use super::messages_answer::{ReadBlock, ReadMessage, finish_reason};
use crate::{
    answer_names::{id_of, model_of},
    json_string::{JsonString, joined},
    untranslatable_answer::UntranslatableAnswer,
    usage::{AnswerUsage, ChatUsage},
};

/// What is not in a server's answer, or is another in the client's.
#[derive(Clone, Copy, Debug)]
pub struct ChatAnswerTerms<'t> {
    /// The id of an answer that has none.
    pub id: &'t str,
    /// The client's name of the model; `None` for the server's.
    pub model: Option<&'t str>,
    /// When the answer was made, in seconds since 1970.
    pub created: u64,
    /// The client asked for a last chunk with the usage.
    pub include_usage: bool,
}

/// A translated answer, and what it cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TranslatedChat {
    /// The body for the client.
    pub body: Vec<u8>,
    /// As the server reported it.
    pub usage: AnswerUsage,
}

#[derive(Serialize)]
struct CompletionBody<'a> {
    id: Cow<'a, RawValue>,
    object: &'static str,
    created: u64,
    model: Cow<'a, RawValue>,
    choices: [CompletionChoice<'a>; 1],
    usage: ChatUsage,
}

#[derive(Serialize)]
struct CompletionChoice<'a> {
    index: u64,
    message: CompletionMessage<'a>,
    logprobs: Option<()>,
    finish_reason: &'static str,
    /// vLLM's field for what OpenAI's API does not say: the stop sequence.
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<JsonString<'a>>,
}

#[derive(Serialize)]
struct CompletionMessage<'a> {
    role: &'static str,
    content: Option<Cow<'a, RawValue>>,
    refusal: Option<JsonString<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<Cow<'a, RawValue>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    thinking_blocks: Vec<SignedThinking<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<CompletionCall<'a>>,
}

/// Thinking as its server needs it back, in the field that other translations have for it.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum SignedThinking<'a> {
    Thinking {
        thinking: Cow<'a, RawValue>,
        signature: JsonString<'a>,
    },
    RedactedThinking {
        data: JsonString<'a>,
    },
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "function")]
struct CompletionCall<'a> {
    id: JsonString<'a>,
    function: CompletionFunction<'a>,
}

#[derive(Serialize)]
struct CompletionFunction<'a> {
    name: JsonString<'a>,
    /// The text of the input.
    arguments: &'a str,
}

/// Translates a whole answer.
///
/// # Errors
///
/// If it is no message, or has blocks of a type that the client's API does not have.
pub fn translate_answer(
    body: &[u8],
    terms: &ChatAnswerTerms<'_>,
) -> Result<TranslatedChat, UntranslatableAnswer> {
    let malformed = |_| UntranslatableAnswer::Malformed;
    let answer: ReadMessage<'_> = serde_json::from_slice(body).map_err(malformed)?;
    let Some(blocks) = answer.content else {
        return Err(UntranslatableAnswer::Malformed);
    };
    let mut message = message(&blocks)?;
    let explanation = answer.stop_details.and_then(|details| details.explanation);
    let finish_reason = finish_reason(answer.stop_reason);
    message.refusal = explanation.filter(|_| finish_reason == "content_filter");
    let usage = answer.usage.map(AnswerUsage::from).unwrap_or_default();
    let translated = CompletionBody {
        id: id_of(answer.id, terms.id),
        object: "chat.completion",
        created: terms.created,
        model: model_of(answer.model, terms.model),
        choices: [CompletionChoice {
            index: 0,
            message,
            logprobs: None,
            finish_reason,
            stop_reason: answer.stop_sequence,
        }],
        usage: usage.into(),
    };
    Ok(TranslatedChat {
        body: crate::written(&translated, body.len()),
        usage,
    })
}

fn message<'a>(blocks: &[ReadBlock<'a>]) -> Result<CompletionMessage<'a>, UntranslatableAnswer> {
    let malformed = UntranslatableAnswer::Malformed;
    let mut texts = Vec::new();
    let mut thoughts = Vec::new();
    let mut thinking_blocks = Vec::new();
    let mut tool_calls = Vec::new();
    for block in blocks {
        match block.kind.text().as_deref() {
            Some("text") => texts.push(block.text.ok_or(malformed)?),
            Some("thinking") => {
                let thinking = block.thinking.ok_or(malformed)?;
                thoughts.push(thinking);
                thinking_blocks.extend(block.signature.map(|signature| {
                    let thinking = Cow::Borrowed(thinking.raw());
                    SignedThinking::Thinking {
                        thinking,
                        signature,
                    }
                }));
            }
            Some("redacted_thinking") => {
                let data = block.data.ok_or(malformed)?;
                thinking_blocks.push(SignedThinking::RedactedThinking { data });
            }
            Some("tool_use") => tool_calls.push(CompletionCall {
                id: block.id.ok_or(malformed)?,
                function: CompletionFunction {
                    name: block.name.ok_or(malformed)?,
                    arguments: block.input.map_or("{}", RawValue::get),
                },
            }),
            _ => return Err(UntranslatableAnswer::UnknownContent),
        }
    }
    thoughts.retain(|thinking| !thinking.is_empty());
    let has_content = !texts.is_empty() || tool_calls.is_empty();
    Ok(CompletionMessage {
        role: "assistant",
        content: has_content.then(|| as_one(&texts)),
        refusal: None,
        reasoning_content: (!thoughts.is_empty()).then(|| as_one(&thoughts)),
        thinking_blocks,
        tool_calls,
    })
}

/// The texts as one.
fn as_one<'a>(texts: &[JsonString<'a>]) -> Cow<'a, RawValue> {
    match texts {
        [text] => Cow::Borrowed(text.raw()),
        texts => Cow::Owned(joined(texts.iter().map(|text| text.escaped()))),
    }
}
