//! A chat completion's request as a message's.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::{
    conversation::{self, Conversation},
    messages_body::{BlockContent, MessagesBody, OutputConfig, SchemaFormat, UserMetadata},
    terms::MessagesTerms,
    tools,
};
use crate::{
    json_string::{JsonString, encoded},
    object_members::ObjectMembers,
    place::FieldPlace,
    schema,
    untranslatable_request::UntranslatableRequest,
};

/// A translated request, and what of it the translation of the answer needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatRequestForMessages {
    /// The body for the server.
    pub body: Vec<u8>,
    /// The client asks for a stream.
    pub stream: bool,
    /// The client asks for a last chunk with the usage.
    pub include_usage: bool,
}

/// Translates the body of a request.
///
/// # Errors
///
/// Names the first field that has no equivalent.
pub fn translate_request(
    body: &[u8],
    terms: &MessagesTerms<'_>,
) -> Result<ChatRequestForMessages, UntranslatableRequest> {
    let root = FieldPlace::Body;
    let mut fields = ObjectMembers::of_body(body, &root)?;
    let own_model = fields.required_string("model")?;
    let stream = fields.flag("stream")?;
    let include_usage = stream_options(&mut fields, &root)?;
    let conversation = conversation::read(&mut fields, &root, terms.late_system)?;
    let Conversation { system, turns } = conversation;
    let (tools, tool_choice) = tools::read(&mut fields, &root)?;
    let (output_config, thinking) = output(&mut fields, &root)?;
    let translated = MessagesBody {
        model: match terms.model {
            Some(name) => Cow::Owned(encoded(name)),
            None => Cow::Borrowed(own_model.raw()),
        },
        max_tokens: max_tokens(&mut fields)?.unwrap_or(terms.max_tokens),
        system: (!system.is_empty()).then_some(BlockContent(system)),
        messages: turns,
        tools,
        tool_choice,
        temperature: temperature(&mut fields)?,
        top_p: fields.number("top_p")?,
        top_k: fields.number("top_k")?,
        stop_sequences: stop(&mut fields, &root)?,
        output_config,
        thinking,
        metadata: user(&mut fields)?.map(|user_id| UserMetadata { user_id }),
        service_tier: service_tier(&mut fields)?,
        cache_control: fields.take("cache_control"),
        stream,
    };
    refuse_what_is_asked_of_others(&mut fields)?;
    fields.finish()?;
    Ok(ChatRequestForMessages {
        body: crate::written(&translated, body.len()),
        stream: stream == Some(true),
        include_usage: include_usage && stream == Some(true),
    })
}

/// Whether the usage is asked for.
fn stream_options(
    fields: &mut ObjectMembers<'_, '_>,
    root: &FieldPlace<'_>,
) -> Result<bool, UntranslatableRequest> {
    let Some(raw) = fields.take("stream_options") else {
        return Ok(false);
    };
    let place = FieldPlace::Member(root, "stream_options");
    let mut options = ObjectMembers::of(raw, &place)?;
    let include_usage = options.flag("include_usage")?;
    for name in ["include_obfuscation", "continuous_usage_stats"] {
        options.only(name, is_false, NOT_MADE)?;
    }
    options.finish()?;
    Ok(include_usage == Some(true))
}

const NOT_MADE: &str = "cannot be made of the answer of the model's server, and must be left out";

fn max_tokens(fields: &mut ObjectMembers<'_, '_>) -> Result<Option<u64>, UntranslatableRequest> {
    let newer = fields.count("max_completion_tokens")?;
    let older = fields.count("max_tokens")?;
    if let (Some(newer), Some(older)) = (newer, older)
        && newer != older
    {
        return Err(fields.refusal("max_tokens", "must be `max_completion_tokens`, or left out"));
    }
    let (name, limit) = match newer {
        Some(_) => ("max_completion_tokens", newer),
        None => ("max_tokens", older),
    };
    match limit {
        Some(0) => Err(fields.refusal(name, "must be at least 1")),
        limit => Ok(limit),
    }
}

fn temperature<'a>(
    fields: &mut ObjectMembers<'a, '_>,
) -> Result<Option<&'a RawValue>, UntranslatableRequest> {
    let raw = fields.number("temperature")?;
    let is_high = |raw: &RawValue| serde_json::from_str(raw.get()).is_ok_and(|t: f64| t > 1.0);
    if raw.is_some_and(is_high) {
        let reason = "must be at most 1: the API of the model's server has no higher one";
        return Err(fields.refusal("temperature", reason));
    }
    Ok(raw)
}

fn stop<'a>(
    fields: &mut ObjectMembers<'a, '_>,
    root: &FieldPlace<'_>,
) -> Result<Vec<JsonString<'a>>, UntranslatableRequest> {
    let Some(raw) = fields.take("stop") else {
        return Ok(Vec::new());
    };
    let place = FieldPlace::Member(root, "stop");
    let raws = match JsonString::of(raw) {
        Some(_) => vec![raw],
        None => crate::object_members::items(raw, &place)?,
    };
    let mut sequences = Vec::with_capacity(raws.len());
    for (index, raw) in raws.into_iter().enumerate() {
        let refusal = |reason| {
            Err(UntranslatableRequest::new(
                FieldPlace::Item(&place, index),
                reason,
            ))
        };
        let Some(sequence) = JsonString::of(raw) else {
            return refusal("must be a string");
        };
        if sequence.text().is_some_and(|text| text.trim().is_empty()) {
            return refusal("must have characters other than spaces");
        }
        sequences.push(sequence);
    }
    Ok(sequences)
}

/// The format of the answer, and how much is thought about it.
fn output<'a>(
    fields: &mut ObjectMembers<'a, '_>,
    root: &FieldPlace<'_>,
) -> Result<(Option<OutputConfig<'a>>, Option<Cow<'a, RawValue>>), UntranslatableRequest> {
    let mut config = OutputConfig {
        format: response_format(fields, root)?,
        effort: None,
    };
    // Clients that know of the server send what its API has.
    let mut thinking = fields.take("thinking").map(Cow::Borrowed);
    let effort = fields.text("reasoning_effort")?;
    if let Some(effort) = effort.as_deref() {
        config.effort = match effort {
            "none" => None,
            // The API has no lower one.
            "minimal" | "low" => Some("low"),
            "medium" => Some("medium"),
            "high" => Some("high"),
            "xhigh" => Some("xhigh"),
            "max" => Some("max"),
            _ => return Err(fields.refusal("reasoning_effort", EFFORTS)),
        };
        let kind = if effort == "none" {
            "disabled"
        } else {
            "adaptive"
        };
        let own = || Cow::Owned(schema::typed(kind));
        thinking = Some(thinking.unwrap_or_else(own));
    }
    let is_empty = config.format.is_none() && config.effort.is_none();
    Ok(((!is_empty).then_some(config), thinking))
}

const EFFORTS: &str = "must be none, minimal, low, medium, high, xhigh or max";

fn response_format<'a>(
    fields: &mut ObjectMembers<'a, '_>,
    root: &FieldPlace<'_>,
) -> Result<Option<SchemaFormat<'a>>, UntranslatableRequest> {
    let Some(raw) = fields.take("response_format") else {
        return Ok(None);
    };
    let place = FieldPlace::Member(root, "response_format");
    let mut format = ObjectMembers::of(raw, &place)?;
    let kind = format.required_text("type")?;
    let translated = match &*kind {
        "text" => None,
        "json_schema" => Some(format.required("json_schema")?),
        _ => {
            let reason = "must be text or json_schema: the model's server needs the schema of JSON";
            return Err(format.refusal("type", reason));
        }
    };
    format.finish()?;
    let Some(raw) = translated else {
        return Ok(None);
    };
    let place = FieldPlace::Member(&place, "json_schema");
    let mut named = ObjectMembers::of(raw, &place)?;
    // A label, and a promise that the server always keeps.
    named.leave_out("name");
    named.leave_out("strict");
    let described = named.string("description")?;
    let schema_place = FieldPlace::Member(&place, "schema");
    let schema = schema::described(named.required("schema")?, described, &schema_place)?;
    named.finish()?;
    Ok(Some(SchemaFormat { schema }))
}

/// The end user.
fn user<'a>(
    fields: &mut ObjectMembers<'a, '_>,
) -> Result<Option<JsonString<'a>>, UntranslatableRequest> {
    let newer = fields.string("safety_identifier")?;
    let older = fields.string("user")?;
    if let (Some(newer), Some(older)) = (newer, older)
        && newer.text() != older.text()
    {
        return Err(fields.refusal("user", "must be `safety_identifier`, or left out"));
    }
    Ok(newer.or(older))
}

fn service_tier(
    fields: &mut ObjectMembers<'_, '_>,
) -> Result<Option<&'static str>, UntranslatableRequest> {
    match fields.text("service_tier")?.as_deref() {
        None => Ok(None),
        Some("auto") => Ok(Some("auto")),
        Some("default") => Ok(Some("standard_only")),
        Some(_) => Err(fields.refusal("service_tier", "must be auto or default")),
    }
}

/// Fields that are taken with a value that asks for nothing.
fn refuse_what_is_asked_of_others(
    fields: &mut ObjectMembers<'_, '_>,
) -> Result<(), UntranslatableRequest> {
    let one = |raw: &RawValue| raw.get() == "1";
    fields.only("n", one, "must be 1: the model's server makes one answer")?;
    for name in ["logprobs", "store"] {
        fields.only(name, is_false, NOT_MADE)?;
    }
    for name in ["top_logprobs", "frequency_penalty", "presence_penalty"] {
        fields.only(name, is_zero, crate::object_members::NO_EQUIVALENT)?;
    }
    for name in ["logit_bias", "metadata"] {
        let is_nothing = |raw: &RawValue| schema::is_empty(raw);
        fields.only(name, is_nothing, crate::object_members::NO_EQUIVALENT)?;
    }
    let text_only = |raw: &RawValue| {
        let kinds: Vec<Cow<'_, str>> = serde_json::from_str(raw.get()).unwrap_or_default();
        kinds == ["text"]
    };
    fields.only("modalities", text_only, "must be [\"text\"]")?;
    let medium = |raw| JsonString::of(raw).is_some_and(|text| text.is("medium"));
    fields.only("verbosity", medium, "must be medium, or left out")?;
    for name in ["functions", "function_call"] {
        fields.only(name, |_| false, "must be `tools` and `tool_choice`")?;
    }
    // The router orders requests by it.
    fields.leave_out("priority");
    // Hints about caches. The answer is the same without them.
    for name in [
        "prompt_cache_key",
        "prompt_cache_retention",
        "prompt_cache_options",
    ] {
        fields.leave_out(name);
    }
    Ok(())
}

fn is_false(raw: &RawValue) -> bool {
    raw.get() == "false"
}

fn is_zero(raw: &RawValue) -> bool {
    serde_json::from_str(raw.get()).is_ok_and(|number: f64| number == 0.0)
}
