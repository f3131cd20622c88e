//! A whole chat completion as a message.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    chat_answer::{ChatAnswer, MadeCall, SaidMessage},
    stop_reason::{AnswerParts, is_whole, stop_reason},
};
use crate::{
    answer_names::{id_of, model_of},
    json_string::{JsonString, encoded},
    schema,
    untranslatable_answer::UntranslatableAnswer,
    usage::{AnswerUsage, MessagesUsage},
};

/// What is not in a server's answer, or is another in the client's.
#[derive(Clone, Copy, Debug)]
pub struct MessagesAnswerTerms<'t> {
    /// The id of an answer that has none.
    pub id: &'t str,
    /// The client's name of the model; `None` for the server's.
    pub model: Option<&'t str>,
    /// The client asked for answers without the text of the thinking.
    pub omit_thinking: bool,
}

/// A translated answer, and what it cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TranslatedMessage {
    /// The body for the client.
    pub body: Vec<u8>,
    /// As the server reported it.
    pub usage: AnswerUsage,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "message")]
pub(super) struct MessageBody<'a> {
    pub(super) id: Cow<'a, RawValue>,
    pub(super) role: &'static str,
    pub(super) model: Cow<'a, RawValue>,
    pub(super) content: Vec<AnswerBlock<'a>>,
    pub(super) stop_reason: Option<&'static str>,
    pub(super) stop_sequence: Option<JsonString<'a>>,
    pub(super) usage: MessagesUsage,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum AnswerBlock<'a> {
    Thinking {
        thinking: Cow<'a, RawValue>,
        /// Empty, because only Anthropic's servers sign what they thought.
        signature: &'static str,
    },
    Text {
        text: Cow<'a, RawValue>,
    },
    ToolUse {
        id: Cow<'a, RawValue>,
        name: JsonString<'a>,
        input: Cow<'a, RawValue>,
    },
}

/// Translates a whole answer.
///
/// # Errors
///
/// If it is no chat completion, or calls a tool in a way that the client's API cannot express.
pub fn translate_answer(
    body: &[u8],
    terms: &MessagesAnswerTerms<'_>,
) -> Result<TranslatedMessage, UntranslatableAnswer> {
    let malformed = |_| UntranslatableAnswer::Malformed;
    let answer: ChatAnswer<'_> = serde_json::from_slice(body).map_err(malformed)?;
    let choices = answer.choices.unwrap_or_default();
    let Some(choice) = choices.into_iter().next() else {
        return Err(UntranslatableAnswer::NoChoice);
    };
    let stop_sequence = choice.stop_sequence();
    let finish_reason = choice.finish_reason();
    let said = choice.message.unwrap_or_default();
    let is_cut = stop_sequence.is_some() || !finish_reason.is_some_and(is_whole);
    let id = id_of(answer.id, terms.id);
    let mut content = texts(&said, terms.omit_thinking);
    let is_refused = said.is_refusal();
    let calls = said.tool_calls.unwrap_or_default();
    let has_calls = !calls.is_empty();
    for (index, call) in calls.iter().enumerate() {
        content.extend(tool_use(call, index, &id, is_cut)?);
    }
    let parts = AnswerParts {
        has_calls,
        is_refused,
    };
    let has_sequence = stop_sequence.is_some();
    let reason = finish_reason.and_then(|reason| stop_reason(reason, has_sequence, parts));
    let usage = answer.usage.map(AnswerUsage::from).unwrap_or_default();
    let translated = MessageBody {
        model: model_of(answer.model, terms.model),
        id,
        role: "assistant",
        content,
        stop_reason: reason,
        stop_sequence: stop_sequence.filter(|_| reason == Some("stop_sequence")),
        usage: usage.into(),
    };
    Ok(TranslatedMessage {
        body: crate::written(&translated, body.len()),
        usage,
    })
}

/// The blocks of what was said.
fn texts<'a>(said: &SaidMessage<'a>, omit_thinking: bool) -> Vec<AnswerBlock<'a>> {
    let said = said.texts().map(|said| {
        let text = Cow::Borrowed(said.text.raw());
        if !said.is_thinking {
            return AnswerBlock::Text { text };
        }
        AnswerBlock::Thinking {
            thinking: if omit_thinking {
                Cow::Owned(encoded(""))
            } else {
                text
            },
            signature: "",
        }
    });
    said.collect()
}

/// The block of a call. `None` for one that the end of the answer cut off: `stop_reason` says so.
fn tool_use<'a>(
    call: &MadeCall<'a>,
    index: usize,
    answer: &RawValue,
    is_cut: bool,
) -> Result<Option<AnswerBlock<'a>>, UntranslatableAnswer> {
    let arguments = call.arguments().map(JsonString::inner_json);
    let Some(input) = schema::object_of_text(&arguments.unwrap_or_default()) else {
        return match is_cut {
            true => Ok(None),
            false => Err(UntranslatableAnswer::BrokenArguments),
        };
    };
    Ok(Some(AnswerBlock::ToolUse {
        id: call_id(call.id, index, answer),
        name: call.name().ok_or(UntranslatableAnswer::NamelessCall)?,
        input: Cow::Owned(input),
    }))
}

/// The id of a call. One of a server that gives none is made of the answer's.
pub(super) fn call_id<'a>(
    own: Option<JsonString<'a>>,
    index: usize,
    answer: &RawValue,
) -> Cow<'a, RawValue> {
    match own {
        Some(id) if !id.is_empty() => Cow::Borrowed(id.raw()),
        _ => {
            let answer = JsonString::of(answer).and_then(JsonString::text);
            let answer = answer.unwrap_or_default();
            Cow::Owned(encoded(&format!("toolu_{answer}_{index}")))
        }
    }
}
