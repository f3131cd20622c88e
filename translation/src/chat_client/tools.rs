//! Tools of a chat completion, and which of them the model may call.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::messages_body::{MessagesTool, MessagesToolChoice};
use crate::{
    json_string::JsonString, object_members::ObjectMembers, place::FieldPlace, schema,
    untranslatable_request::UntranslatableRequest,
};

type ToolSettings<'a> = (Vec<MessagesTool<'a>>, Option<MessagesToolChoice<'a>>);

/// Reads `tools`, `tool_choice` and `parallel_tool_calls`.
pub(super) fn read<'a>(
    fields: &mut ObjectMembers<'a, '_>,
    root: &FieldPlace<'_>,
) -> Result<ToolSettings<'a>, UntranslatableRequest> {
    let place = FieldPlace::Member(root, "tools");
    let mut tools = Vec::new();
    for (index, raw) in fields
        .array("tools")?
        .unwrap_or_default()
        .into_iter()
        .enumerate()
    {
        tools.push(tool(raw, &FieldPlace::Item(&place, index))?);
    }
    let is_parallel = fields.flag("parallel_tool_calls")?;
    let choice_place = FieldPlace::Member(root, "tool_choice");
    let choice = match fields.take("tool_choice") {
        Some(raw) => Some(choice(raw, &choice_place)?),
        None => None,
    };
    if tools.is_empty() {
        // Without tools the model calls none, in parallel or not.
        return match choice {
            Some(MessagesToolChoice {
                kind: "any" | "tool",
                ..
            }) => Err(UntranslatableRequest::new(choice_place, "needs `tools`")),
            _ => Ok((tools, None)),
        };
    }
    if is_parallel == Some(false) {
        let mut choice = choice.unwrap_or_else(|| by_kind("auto"));
        choice.disable_parallel_tool_use = choice.kind != "none";
        return Ok((tools, Some(choice)));
    }
    Ok((tools, choice))
}

fn tool<'a>(
    raw: &'a RawValue,
    place: &FieldPlace<'_>,
) -> Result<MessagesTool<'a>, UntranslatableRequest> {
    let mut fields = ObjectMembers::of(raw, place)?;
    if fields.required_text("type")? != "function" {
        return Err(fields.refusal("type", "must be function"));
    }
    let cache_control = fields.take("cache_control");
    let raw = fields.required("function")?;
    fields.finish()?;
    let place = FieldPlace::Member(place, "function");
    let mut function = ObjectMembers::of(raw, &place)?;
    let name = function.required_string("name")?;
    let description = function.string("description")?;
    let strict = function.flag("strict")? == Some(true);
    let parameters = function.take("parameters");
    let input_schema = schema::of_input(parameters, &function.at("parameters"))?;
    function.finish()?;
    Ok(MessagesTool {
        name,
        description,
        input_schema,
        strict,
        cache_control,
    })
}

const CHOICES: &str = "must be none, auto, required, or a function by its name";

fn choice<'a>(
    raw: &'a RawValue,
    place: &FieldPlace<'_>,
) -> Result<MessagesToolChoice<'a>, UntranslatableRequest> {
    if let Some(word) = JsonString::of(raw) {
        return match word.text().as_deref() {
            Some("none") => Ok(by_kind("none")),
            Some("auto") => Ok(by_kind("auto")),
            Some("required") => Ok(by_kind("any")),
            _ => Err(UntranslatableRequest::new(*place, CHOICES)),
        };
    }
    let mut fields = ObjectMembers::of(raw, place)?;
    let kind: Cow<'_, str> = fields.required_text("type")?;
    if kind != "function" {
        return Err(fields.refusal("type", CHOICES));
    }
    let raw = fields.required("function")?;
    fields.finish()?;
    let place = FieldPlace::Member(place, "function");
    let mut function = ObjectMembers::of(raw, &place)?;
    let name = function.required_string("name")?;
    function.finish()?;
    Ok(MessagesToolChoice {
        name: Some(name),
        ..by_kind("tool")
    })
}

const fn by_kind<'a>(kind: &'static str) -> MessagesToolChoice<'a> {
    MessagesToolChoice {
        kind,
        name: None,
        disable_parallel_tool_use: false,
    }
}
