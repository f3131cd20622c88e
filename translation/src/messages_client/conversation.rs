//! The turns of Anthropic's API as the messages of a chat.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::{
    blocks::{self, ToolReturn},
    chat_body::{CalledFunction, ChatMessage, ChatPart, FunctionCall, PartContent},
    terms::ChatDialect,
};
use crate::{
    json_string::{JsonString, joined},
    object_members::{ObjectMembers, items},
    place::FieldPlace,
    untranslatable_request::UntranslatableRequest,
};

/// Reads `system` and `messages`.
pub(super) fn read<'a>(
    fields: &mut ObjectMembers<'a, '_>,
    root: &FieldPlace<'_>,
    dialect: ChatDialect,
) -> Result<Vec<ChatMessage<'a>>, UntranslatableRequest> {
    let mut messages = Vec::new();
    if let Some(raw) = fields.take("system") {
        let place = FieldPlace::Member(root, "system");
        let content = blocks::instructions(raw, &place)?;
        messages.extend(content.map(|content| ChatMessage::System { content }));
    }
    let place = FieldPlace::Member(root, "messages");
    let turns = fields.array("messages")?.unwrap_or_default();
    if turns.is_empty() {
        return Err(UntranslatableRequest::new(place, "must have a message"));
    }
    for (index, raw) in turns.into_iter().enumerate() {
        let place = FieldPlace::Item(&place, index);
        read_turn(raw, &place, dialect, &mut messages)?;
    }
    Ok(messages)
}

fn read_turn<'a>(
    raw: &'a RawValue,
    place: &FieldPlace<'_>,
    dialect: ChatDialect,
    messages: &mut Vec<ChatMessage<'a>>,
) -> Result<(), UntranslatableRequest> {
    let mut turn = ObjectMembers::of(raw, place)?;
    let role = turn.required_text("role")?;
    let content = turn.required("content")?;
    let content_place = FieldPlace::Member(place, "content");
    match &*role {
        "user" => user(content, &content_place, dialect, messages)?,
        "assistant" => messages.push(assistant(content, &content_place, dialect)?),
        "system" => {
            let content = blocks::instructions(content, &content_place)?;
            messages.extend(content.map(|content| ChatMessage::System { content }));
        }
        _ => return Err(turn.refusal("role", "must be user, assistant or system")),
    }
    turn.finish()
}

/// A user's turn: first the results of tools, which have to follow the calls; then the rest.
fn user<'a>(
    content: &'a RawValue,
    place: &FieldPlace<'_>,
    dialect: ChatDialect,
    messages: &mut Vec<ChatMessage<'a>>,
) -> Result<(), UntranslatableRequest> {
    if let Some(text) = JsonString::of(content) {
        let text = Cow::Borrowed(text.raw());
        let content = PartContent(vec![ChatPart::Text { text }]);
        messages.push(ChatMessage::User { content });
        return Ok(());
    }
    let blocks = items(content, place)?;
    let mut returned = Vec::new();
    let mut said = Vec::new();
    let mut has_results = false;
    for (index, raw) in blocks.into_iter().enumerate() {
        let place = FieldPlace::Item(place, index);
        let mut block = ObjectMembers::of(raw, &place)?;
        let kind = block.required_text("type")?;
        match &*kind {
            "text" => said.push(ChatPart::Text {
                text: Cow::Borrowed(blocks::text(&mut block)?.raw()),
            }),
            "image" | "document" => said.push(blocks::media(&kind, &mut block, &place, dialect)?),
            "tool_result" => {
                has_results = true;
                let (id, result) = tool_result(&mut block, &place, dialect)?;
                if !result.media.is_empty() {
                    returned.push(of_result(id));
                    returned.extend(result.media);
                }
                messages.push(ChatMessage::Tool {
                    tool_call_id: id,
                    content: result.text,
                });
            }
            _ => return Err(block.refusal("type", "must be text, image, document or tool_result")),
        }
        block.finish()?;
    }
    returned.append(&mut said);
    if !returned.is_empty() || !has_results {
        messages.push(ChatMessage::User {
            content: PartContent(returned),
        });
    }
    Ok(())
}

fn tool_result<'a>(
    block: &mut ObjectMembers<'a, '_>,
    place: &FieldPlace<'_>,
    dialect: ChatDialect,
) -> Result<(JsonString<'a>, ToolReturn<'a>), UntranslatableRequest> {
    let id = block.required_string("tool_use_id")?;
    block.leave_out("cache_control");
    let is_error = block.flag("is_error")? == Some(true);
    let content = block.take("content");
    let place = FieldPlace::Member(place, "content");
    let result = blocks::tool_return(content, is_error, &place, dialect)?;
    Ok((id, result))
}

/// The text in front of images that a tool returned, so that it is known which one.
fn of_result<'a>(id: JsonString<'_>) -> ChatPart<'a> {
    let pieces = ["Returned by the tool call ", id.escaped(), ":"];
    ChatPart::Text {
        text: Cow::Owned(joined(pieces.into_iter())),
    }
}

fn assistant<'a>(
    content: &'a RawValue,
    place: &FieldPlace<'_>,
    dialect: ChatDialect,
) -> Result<ChatMessage<'a>, UntranslatableRequest> {
    let mut said = Vec::new();
    let mut thought = Vec::new();
    let mut tool_calls = Vec::new();
    if let Some(text) = JsonString::of(content) {
        let text = Cow::Borrowed(text.raw());
        said.push(ChatPart::Text { text });
    } else {
        for (index, raw) in items(content, place)?.into_iter().enumerate() {
            let place = FieldPlace::Item(place, index);
            let mut block = ObjectMembers::of(raw, &place)?;
            match &*block.required_text("type")? {
                "text" => said.push(ChatPart::Text {
                    text: Cow::Borrowed(blocks::text(&mut block)?.raw()),
                }),
                "thinking" => {
                    thought.push(block.required_string("thinking")?);
                    block.leave_out("signature");
                }
                // Only the server that made it can read it.
                "redacted_thinking" => block.leave_out("data"),
                "tool_use" => tool_calls.push(tool_use(&mut block, &place)?),
                _ => {
                    let reason = "must be text, thinking, redacted_thinking or tool_use";
                    return Err(block.refusal("type", reason));
                }
            }
            block.finish()?;
        }
    }
    // OpenAI's servers keep the thinking of earlier turns to themselves, and refuse the field.
    let reasoning_content = match dialect {
        ChatDialect::OpenAi => None,
        ChatDialect::Engine => blocks::together(&thought, r"\n"),
    };
    let has_content = !said.is_empty() || tool_calls.is_empty();
    Ok(ChatMessage::Assistant {
        content: has_content.then_some(PartContent(said)),
        reasoning_content,
        tool_calls,
    })
}

fn tool_use<'a>(
    block: &mut ObjectMembers<'a, '_>,
    place: &FieldPlace<'_>,
) -> Result<FunctionCall<'a>, UntranslatableRequest> {
    let id = block.required_string("id")?;
    let name = block.required_string("name")?;
    let input = block.required("input")?;
    ObjectMembers::of(input, &block.at("input"))?;
    block.leave_out("cache_control");
    if let Some(raw) = block.take("caller") {
        let place = FieldPlace::Member(place, "caller");
        let mut caller = ObjectMembers::of(raw, &place)?;
        if caller.required_text("type")? != "direct" {
            return Err(caller.refusal("type", "must be direct"));
        }
    }
    let function = CalledFunction {
        name,
        arguments: input.get(),
    };
    Ok(FunctionCall { id, function })
}
