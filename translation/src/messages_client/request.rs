//! A message's request as a chat completion's.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::{
    chat_body::{ChatBody, ChatMessage, NamedSchema, NamedSchemaFormat, UsageOptions},
    conversation,
    terms::{ChatDialect, ChatTerms},
    tools,
};
use crate::{
    json_string::{JsonString, encoded},
    object_members::{ObjectMembers, items},
    place::FieldPlace,
    untranslatable_request::UntranslatableRequest,
};

/// A translated request, and what of it the translation of the answer needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessagesRequestForChat {
    /// The body for the server.
    pub body: Vec<u8>,
    /// The client asks for a stream.
    pub stream: bool,
    /// The client asks for answers without the text of the thinking.
    pub omit_thinking: bool,
}

/// Translates the body of a request.
///
/// # Errors
///
/// Names the first field that has no equivalent.
pub fn translate_request(
    body: &[u8],
    terms: &ChatTerms<'_>,
) -> Result<MessagesRequestForChat, UntranslatableRequest> {
    let root = FieldPlace::Body;
    let mut fields = ObjectMembers::of_body(body, &root)?;
    let own_model = fields.required_string("model")?;
    let stream = fields.flag("stream")?;
    let limit = max_tokens(&mut fields)?;
    let messages = conversation::read(&mut fields, &root, terms.dialect)?;
    let is_engine = terms.dialect == ChatDialect::Engine;
    // A last message of the assistant is the beginning of its answer.
    let continues = matches!(messages.last(), Some(ChatMessage::Assistant { .. }));
    if continues && !is_engine {
        let reason = "must end with a user's message: the model's server continues no answer";
        return Err(fields.refusal("messages", reason));
    }
    let thinking = thinking(&mut fields, &root, terms.dialect)?;
    let mut translated = ChatBody {
        model: match terms.model {
            Some(name) => Cow::Owned(encoded(name)),
            None => Cow::Borrowed(own_model.raw()),
        },
        messages,
        max_tokens: is_engine.then_some(limit),
        max_completion_tokens: (!is_engine).then_some(limit),
        reasoning_effort: thinking.effort,
        thinking_token_budget: thinking.budget,
        add_generation_prompt: continues.then_some(false),
        continue_final_message: continues.then_some(true),
        stream,
        stream_options: (stream == Some(true)).then_some(UsageOptions {
            include_usage: true,
            continuous_usage_stats: is_engine,
        }),
        ..ChatBody::default()
    };
    read_settings(&mut translated, &mut fields, &root, terms.dialect)?;
    read_edits(&mut fields, &root)?;
    fields.finish()?;
    Ok(MessagesRequestForChat {
        body: crate::written(&translated, body.len()),
        stream: stream == Some(true),
        omit_thinking: thinking.is_omitted,
    })
}

/// Reads what is asked of the answer.
fn read_settings<'a>(
    body: &mut ChatBody<'a>,
    fields: &mut ObjectMembers<'a, '_>,
    root: &FieldPlace<'_>,
    dialect: ChatDialect,
) -> Result<(), UntranslatableRequest> {
    let functions = tools::read(fields, root)?;
    body.tools = functions.tools;
    body.tool_choice = functions.choice;
    body.parallel_tool_calls = functions.parallel;
    let (response_format, effort) = output_config(fields, root)?;
    body.response_format = response_format;
    // Thinking that is switched off needs no effort; a budget is one only where there are none.
    if body.reasoning_effort != Some("none") {
        body.reasoning_effort = effort.or(body.reasoning_effort);
    }
    body.temperature = fields.number("temperature")?;
    body.top_p = fields.number("top_p")?;
    body.stop = stop(fields, root)?;
    body.user = user(fields, root, dialect)?;
    body.service_tier = service_tier(fields, dialect)?;
    if dialect == ChatDialect::Engine {
        body.top_k = fields.number("top_k")?;
        body.priority = fields.number("priority")?;
        body.cache_salt = fields.take("cache_salt");
        body.chat_template_kwargs = fields.take("chat_template_kwargs");
    }
    // Engines cache every prefix.
    fields.leave_out("cache_control");
    let is_standard = |raw| JsonString::of(raw).is_some_and(|speed| speed.is("standard"));
    fields.only("speed", is_standard, "must be standard, or left out")
}

fn max_tokens(fields: &mut ObjectMembers<'_, '_>) -> Result<u64, UntranslatableRequest> {
    match fields.count("max_tokens")? {
        None => Err(fields.refusal("max_tokens", "is required")),
        Some(0) => Err(fields.refusal("max_tokens", "must be at least 1")),
        Some(limit) => Ok(limit),
    }
}

fn stop<'a>(
    fields: &mut ObjectMembers<'a, '_>,
    root: &FieldPlace<'_>,
) -> Result<Option<Vec<JsonString<'a>>>, UntranslatableRequest> {
    let place = FieldPlace::Member(root, "stop_sequences");
    let raws = fields.array("stop_sequences")?.unwrap_or_default();
    let mut sequences = Vec::with_capacity(raws.len());
    for (index, raw) in raws.into_iter().enumerate() {
        let sequence = JsonString::of(raw);
        let place = FieldPlace::Item(&place, index);
        sequences
            .push(sequence.ok_or_else(|| UntranslatableRequest::new(place, "must be a string"))?);
    }
    Ok((!sequences.is_empty()).then_some(sequences))
}

type OutputSettings<'a> = (Option<NamedSchemaFormat<'a>>, Option<&'static str>);

/// The format of the answer, and the effort that is made for it.
fn output_config<'a>(
    fields: &mut ObjectMembers<'a, '_>,
    root: &FieldPlace<'_>,
) -> Result<OutputSettings<'a>, UntranslatableRequest> {
    let Some(raw) = fields.take("output_config") else {
        return Ok((None, None));
    };
    let place = FieldPlace::Member(root, "output_config");
    let mut config = ObjectMembers::of(raw, &place)?;
    let effort = match config.text("effort")?.as_deref() {
        None => None,
        Some("low") => Some("low"),
        Some("medium") => Some("medium"),
        Some("high") => Some("high"),
        Some("xhigh") => Some("xhigh"),
        Some("max") => Some("max"),
        Some(_) => {
            return Err(config.refusal("effort", "must be low, medium, high, xhigh or max"));
        }
    };
    let raw = config.take("format");
    config.finish()?;
    let Some(raw) = raw else {
        return Ok((None, effort));
    };
    let place = FieldPlace::Member(&place, "format");
    let mut format = ObjectMembers::of(raw, &place)?;
    if format.required_text("type")? != "json_schema" {
        return Err(format.refusal("type", "must be json_schema"));
    }
    let schema = format.required("schema")?;
    ObjectMembers::of(schema, &format.at("schema"))?;
    format.finish()?;
    let json_schema = NamedSchema {
        name: "output",
        schema,
        strict: true,
    };
    Ok((Some(NamedSchemaFormat { json_schema }), effort))
}

#[derive(Default)]
struct ThinkingSettings {
    effort: Option<&'static str>,
    budget: Option<u64>,
    is_omitted: bool,
}

fn thinking(
    fields: &mut ObjectMembers<'_, '_>,
    root: &FieldPlace<'_>,
    dialect: ChatDialect,
) -> Result<ThinkingSettings, UntranslatableRequest> {
    let mut settings = ThinkingSettings::default();
    let Some(raw) = fields.take("thinking") else {
        return Ok(settings);
    };
    let place = FieldPlace::Member(root, "thinking");
    let mut thinking = ObjectMembers::of(raw, &place)?;
    match &*thinking.required_text("type")? {
        // Without a field, the model decides.
        "adaptive" => {}
        "disabled" => settings.effort = Some("none"),
        "enabled" => {
            let Some(budget) = thinking.count("budget_tokens")? else {
                return Err(thinking.refusal("budget_tokens", "is required"));
            };
            match dialect {
                ChatDialect::Engine => settings.budget = Some(budget),
                ChatDialect::OpenAi => settings.effort = Some(effort_of(budget)),
            }
        }
        _ => return Err(thinking.refusal("type", "must be adaptive, enabled or disabled")),
    }
    settings.is_omitted = match thinking.text("display")?.as_deref() {
        None | Some("summarized") => false,
        Some("omitted") => true,
        Some(_) => return Err(thinking.refusal("display", "must be summarized or omitted")),
    };
    thinking.finish()?;
    Ok(settings)
}

/// The effort that is nearest to a budget, for servers which have no budgets.
const fn effort_of(budget: u64) -> &'static str {
    match budget {
        0..=2_047 => "low",
        2_048..=8_191 => "medium",
        _ => "high",
    }
}

/// The longest `user` that OpenAI's servers take, in characters.
const LONGEST_USER: usize = 64;

/// The end user. Longer names, such as Claude Code's, begin with the user and go on with the
/// session.
fn user<'a>(
    fields: &mut ObjectMembers<'a, '_>,
    root: &FieldPlace<'_>,
    dialect: ChatDialect,
) -> Result<Option<Cow<'a, str>>, UntranslatableRequest> {
    let Some(raw) = fields.take("metadata") else {
        return Ok(None);
    };
    let place = FieldPlace::Member(root, "metadata");
    let mut metadata = ObjectMembers::of(raw, &place)?;
    let user = metadata.text("user_id")?;
    metadata.finish()?;
    let is_long = |user: &Cow<'_, str>| user.chars().nth(LONGEST_USER).is_some();
    Ok(match user {
        Some(user) if dialect == ChatDialect::OpenAi && is_long(&user) => {
            Some(Cow::Owned(user.chars().take(LONGEST_USER).collect()))
        }
        user => user,
    })
}

fn service_tier(
    fields: &mut ObjectMembers<'_, '_>,
    dialect: ChatDialect,
) -> Result<Option<&'static str>, UntranslatableRequest> {
    let tier = match fields.text("service_tier")?.as_deref() {
        None => None,
        Some("auto") => Some("auto"),
        Some("standard_only") => Some("default"),
        Some(_) => return Err(fields.refusal("service_tier", "must be auto or standard_only")),
    };
    // Engines have one tier.
    Ok(tier.filter(|_| dialect == ChatDialect::OpenAi))
}

/// Edits of the context that change nothing: Claude Code asks for the thinking of all turns.
fn read_edits(
    fields: &mut ObjectMembers<'_, '_>,
    root: &FieldPlace<'_>,
) -> Result<(), UntranslatableRequest> {
    let Some(raw) = fields.take("context_management") else {
        return Ok(());
    };
    let place = FieldPlace::Member(root, "context_management");
    let mut management = ObjectMembers::of(raw, &place)?;
    let edits = management.take("edits");
    management.finish()?;
    let Some(edits) = edits else {
        return Ok(());
    };
    let place = FieldPlace::Member(&place, "edits");
    for (index, raw) in items(edits, &place)?.into_iter().enumerate() {
        let place = FieldPlace::Item(&place, index);
        let mut edit = ObjectMembers::of(raw, &place)?;
        let kind = edit.required_text("type")?;
        let keeps_all = |raw: &RawValue| JsonString::of(raw).is_some_and(|keep| keep.is("all"));
        if !kind.starts_with("clear_thinking") || !edit.take("keep").is_some_and(keeps_all) {
            let reason = "must keep all thinking: the model's server edits no context";
            return Err(UntranslatableRequest::new(place, reason));
        }
        edit.finish()?;
    }
    Ok(())
}
