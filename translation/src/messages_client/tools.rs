//! Tools of a message's request, and which of them the model may call.

use serde_json::value::RawValue;

use super::chat_body::{
    FunctionChoice, FunctionDefinition, FunctionName, FunctionTool, NamedFunctionChoice,
};
use crate::{
    json_string::JsonString, object_members::ObjectMembers, place::FieldPlace, schema,
    untranslatable_request::UntranslatableRequest,
};

/// What a request says of functions.
#[derive(Debug, Default)]
pub(super) struct FunctionSettings<'a> {
    pub(super) tools: Vec<FunctionTool<'a>>,
    pub(super) choice: Option<FunctionChoice<'a>>,
    pub(super) parallel: Option<bool>,
}

/// Reads `tools` and `tool_choice`.
pub(super) fn read<'a>(
    fields: &mut ObjectMembers<'a, '_>,
    root: &FieldPlace<'_>,
) -> Result<FunctionSettings<'a>, UntranslatableRequest> {
    let place = FieldPlace::Member(root, "tools");
    let mut settings = FunctionSettings::default();
    for (index, raw) in fields
        .array("tools")?
        .unwrap_or_default()
        .into_iter()
        .enumerate()
    {
        let tool = tool(raw, &FieldPlace::Item(&place, index))?;
        settings.tools.push(tool);
    }
    let Some(raw) = fields.take("tool_choice") else {
        return Ok(settings);
    };
    let place = FieldPlace::Member(root, "tool_choice");
    let mut choice = ObjectMembers::of(raw, &place)?;
    let kind = choice.required_text("type")?;
    settings.choice = match &*kind {
        "auto" => Some(FunctionChoice::Mode("auto")),
        "any" => Some(FunctionChoice::Mode("required")),
        "none" => Some(FunctionChoice::Mode("none")),
        "tool" => Some(FunctionChoice::Named(NamedFunctionChoice {
            function: FunctionName {
                name: choice.required_string("name")?,
            },
        })),
        _ => return Err(choice.refusal("type", "must be auto, any, tool or none")),
    };
    if choice.flag("disable_parallel_tool_use")? == Some(true) {
        settings.parallel = Some(false);
    }
    choice.finish()?;
    if settings.tools.is_empty() {
        if matches!(&*kind, "any" | "tool") {
            return Err(UntranslatableRequest::new(place, "needs `tools`"));
        }
        // Servers refuse a choice among no tools.
        return Ok(FunctionSettings::default());
    }
    Ok(settings)
}

fn tool<'a>(
    raw: &'a RawValue,
    place: &FieldPlace<'_>,
) -> Result<FunctionTool<'a>, UntranslatableRequest> {
    let mut fields = ObjectMembers::of(raw, place)?;
    if fields.text("type")?.is_some_and(|kind| kind != "custom") {
        let reason = "must be custom: the model's server has no tools of its own";
        return Err(fields.refusal("type", reason));
    }
    let name = fields.required_string("name")?;
    let description = fields.string("description")?;
    let strict = fields.flag("strict")? == Some(true);
    let schema = fields.required("input_schema")?;
    let parameters = schema::of_input(Some(schema), &fields.at("input_schema"))?;
    // How input is cached and streamed, which engines decide themselves.
    fields.leave_out("cache_control");
    fields.leave_out("eager_input_streaming");
    let is_false = |raw: &RawValue| raw.get() == "false";
    fields.only("defer_loading", is_false, "must be false, or left out")?;
    let is_empty = |raw: &RawValue| raw.get() == "[]";
    fields.only(
        "input_examples",
        is_empty,
        "must be part of the description",
    )?;
    fields.only(
        "allowed_callers",
        is_direct,
        "must be [\"direct\"], or left out",
    )?;
    fields.finish()?;
    Ok(FunctionTool {
        function: FunctionDefinition {
            name,
            description,
            parameters,
            strict,
        },
    })
}

fn is_direct(raw: &RawValue) -> bool {
    let callers: Vec<&RawValue> = serde_json::from_str(raw.get()).unwrap_or_default();
    let mut callers = callers.into_iter();
    callers.all(|caller| JsonString::of(caller).is_some_and(|caller| caller.is("direct")))
}
