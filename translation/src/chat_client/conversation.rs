//! The messages of a chat as the turns of Anthropic's API.

use std::{borrow::Cow, fmt::Write};

use serde_json::value::RawValue;

use super::{
    content::{ContentParts, blocks},
    messages_body::{BlockContent, MessageBlock, MessageTurn, TurnRole},
    terms::LateSystem,
};
use crate::{
    json_string::JsonString,
    object_members::{ObjectMembers, items},
    place::FieldPlace,
    schema,
    untranslatable_request::UntranslatableRequest,
};

/// A conversation in the other API.
#[derive(Debug, Default)]
pub(super) struct Conversation<'a> {
    pub(super) system: Vec<MessageBlock<'a>>,
    /// No two in succession have the same role: the API reads them as one.
    pub(super) turns: Vec<MessageTurn<'a>>,
}

/// Reads `messages`.
pub(super) fn read<'a>(
    fields: &mut ObjectMembers<'a, '_>,
    root: &FieldPlace<'_>,
    late_system: LateSystem,
) -> Result<Conversation<'a>, UntranslatableRequest> {
    let place = FieldPlace::Member(root, "messages");
    let mut conversation = Conversation::default();
    let messages = fields.array("messages")?.unwrap_or_default();
    for (index, raw) in messages.into_iter().enumerate() {
        let place = FieldPlace::Item(&place, index);
        conversation.add(ObjectMembers::of(raw, &place)?, &place, late_system)?;
    }
    if conversation.turns.is_empty() {
        return Err(UntranslatableRequest::new(
            place,
            "must have a message with content of a user",
        ));
    }
    Ok(conversation)
}

impl<'a> Conversation<'a> {
    fn add(
        &mut self,
        mut message: ObjectMembers<'a, '_>,
        place: &FieldPlace<'_>,
        late_system: LateSystem,
    ) -> Result<(), UntranslatableRequest> {
        let role = message.required_text("role")?;
        let content = message.take("content");
        let content_place = FieldPlace::Member(place, "content");
        match &*role {
            "system" | "developer" => {
                let blocks = blocks(content, ContentParts::Text, &content_place)?;
                if self.turns.is_empty() || late_system == LateSystem::Hoisted {
                    self.system.extend(blocks);
                } else {
                    self.extend(TurnRole::System, blocks);
                }
            }
            "user" => {
                let blocks = blocks(content, ContentParts::Media, &content_place)?;
                self.extend(TurnRole::User, blocks);
            }
            "tool" => {
                let tool_use_id = tool_id(message.required_string("tool_call_id")?);
                let cache_control = message.take("cache_control");
                // The call has it.
                message.leave_out("name");
                let content = blocks(content, ContentParts::Media, &content_place)?;
                let result = MessageBlock::ToolResult {
                    tool_use_id,
                    content: BlockContent(content),
                    cache_control,
                };
                self.extend(TurnRole::User, vec![result]);
            }
            "assistant" => {
                let mut said = thinking(&mut message, place)?;
                said.extend(blocks(content, ContentParts::Assistant, &content_place)?);
                if let Some(text) = message.string("refusal")?
                    && !text.is_empty()
                {
                    said.push(MessageBlock::Text {
                        text,
                        cache_control: None,
                    });
                }
                tool_calls(&mut message, place, &mut said)?;
                leave_out_of_answers(&mut message)?;
                self.extend(TurnRole::Assistant, said);
            }
            _ => return Err(message.refusal("role", ROLES)),
        }
        message.finish()
    }

    fn extend(&mut self, role: TurnRole, blocks: Vec<MessageBlock<'a>>) {
        if blocks.is_empty() {
            return;
        }
        match self.turns.last_mut() {
            Some(last) if last.role == role => last.content.0.extend(blocks),
            _ => self.turns.push(MessageTurn {
                role,
                content: BlockContent(blocks),
            }),
        }
    }
}

const ROLES: &str = "must be system, developer, user, assistant or tool";

/// What clients repeat of an answer, and does not belong into a request.
fn leave_out_of_answers(message: &mut ObjectMembers<'_, '_>) -> Result<(), UntranslatableRequest> {
    // Thinking without a signature: the server takes none, and needs none of earlier turns.
    for name in ["reasoning_content", "reasoning"] {
        message.string(name)?;
    }
    let is_empty = |raw: &RawValue| raw.get() == "[]";
    message.only("annotations", is_empty, "must be left out")
}

/// Thinking that [`super::answer`] gave to the client beside the text.
fn thinking<'a>(
    message: &mut ObjectMembers<'a, '_>,
    place: &FieldPlace<'_>,
) -> Result<Vec<MessageBlock<'a>>, UntranslatableRequest> {
    let Some(raw) = message.take("thinking_blocks") else {
        return Ok(Vec::new());
    };
    let place = FieldPlace::Member(place, "thinking_blocks");
    let mut blocks = Vec::new();
    for (index, raw) in items(raw, &place)?.into_iter().enumerate() {
        let place = FieldPlace::Item(&place, index);
        let mut block = ObjectMembers::of(raw, &place)?;
        // Its place in a stream, which clients repeat.
        block.leave_out("index");
        blocks.push(match &*block.required_text("type")? {
            "thinking" => MessageBlock::Thinking {
                thinking: block.required_string("thinking")?,
                signature: block.required_string("signature")?,
            },
            "redacted_thinking" => MessageBlock::RedactedThinking {
                data: block.required_string("data")?,
            },
            _ => return Err(block.refusal("type", "must be thinking or redacted_thinking")),
        });
        block.finish()?;
    }
    Ok(blocks)
}

fn tool_calls<'a>(
    message: &mut ObjectMembers<'a, '_>,
    place: &FieldPlace<'_>,
    said: &mut Vec<MessageBlock<'a>>,
) -> Result<(), UntranslatableRequest> {
    let place = FieldPlace::Member(place, "tool_calls");
    for (index, raw) in message
        .array("tool_calls")?
        .unwrap_or_default()
        .into_iter()
        .enumerate()
    {
        let place = FieldPlace::Item(&place, index);
        let mut call = ObjectMembers::of(raw, &place)?;
        if call.text("type")?.is_some_and(|kind| kind != "function") {
            return Err(call.refusal("type", "must be function"));
        }
        let id = tool_id(call.required_string("id")?);
        // Its place in a stream, which clients repeat.
        call.leave_out("index");
        let raw = call.required("function")?;
        call.finish()?;
        let place = FieldPlace::Member(&place, "function");
        let mut function = ObjectMembers::of(raw, &place)?;
        let name = function.required_string("name")?;
        let arguments = function.required_string("arguments")?;
        let input = input(arguments, function.at("arguments"))?;
        function.finish()?;
        said.push(MessageBlock::ToolUse { id, name, input });
    }
    Ok(())
}

/// The object that arguments are the text of.
fn input<'a>(
    arguments: JsonString<'a>,
    place: FieldPlace<'_>,
) -> Result<Cow<'a, RawValue>, UntranslatableRequest> {
    schema::object_of_text(&arguments.inner_json())
        .map(Cow::Owned)
        .ok_or_else(|| UntranslatableRequest::new(place, "must be the text of a JSON object"))
}

/// An id of a tool call, in the letters that the API takes. Others, which some engines' ids have,
/// are replaced by their number, so that different ids stay different.
fn tool_id(id: JsonString<'_>) -> Cow<'_, str> {
    let is_taken = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-');
    let text = id.text().unwrap_or(Cow::Borrowed(id.escaped()));
    if text.chars().all(is_taken) {
        return text;
    }
    let mut taken = String::with_capacity(text.len() + 8);
    for letter in text.chars() {
        if is_taken(letter) {
            taken.push(letter);
        } else {
            // Writing to a string cannot fail.
            let _ = write!(taken, "_x{:x}", u32::from(letter));
        }
    }
    Cow::Owned(taken)
}
