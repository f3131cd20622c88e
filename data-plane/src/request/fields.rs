//! The fields of a JSON body that routing reads: borrowed from its bytes, never encoded again.
//!
//! One pass over the top level. Values that are only forwarded (messages, tools) stay raw; of a key
//! that appears twice the last value counts, as in the engines' parser. Fields that control an
//! engine's internals are detected here and cut out in [`super::body_edit`].

use std::{borrow::Cow, fmt};

use serde::{
    Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::control_fields::{self, CONTROL_FIELDS, EXTRA_ARGUMENTS};

/// Top-level fields that change which tokens an engine makes of the prompt, and that the proxy does
/// not interpret.
const PROMPT_FIELDS: [&str; 5] = [
    "chat_template",
    "truncate_prompt_tokens",
    "prompt_embeds",
    "suffix",
    "previous_input_messages",
];

/// A body's routing fields.
#[derive(Debug, Default)]
pub(crate) struct BodyFields<'a> {
    pub(crate) model: Option<Cow<'a, str>>,
    pub(crate) stream: bool,
    /// Parts of the prompt in the order in which chat templates put them.
    pub(crate) tools: Option<&'a RawValue>,
    pub(crate) instructions: Option<&'a RawValue>,
    pub(crate) system: Option<&'a RawValue>,
    pub(crate) messages: Option<&'a RawValue>,
    pub(crate) prompt: Option<&'a RawValue>,
    pub(crate) input: Option<&'a RawValue>,
    /// Keeps the caches of tenants apart inside an engine.
    pub(crate) cache_salt: Option<&'a RawValue>,
    /// Other fields that go into the prompt.
    pub(crate) template: TemplateFields<'a>,
    /// The end user: `user`, or one of its newer names.
    pub(crate) user: Option<Cow<'a, str>>,
    pub(crate) previous_response_id: Option<Cow<'a, str>>,
    /// vLLM's convention: lower goes first.
    pub(crate) priority: i32,
    /// `prompt_logprobs` is set, or `echo` with `logprobs`: the engine computes the whole prompt,
    /// because it caches no log-probabilities.
    pub(crate) recomputes_prompt: bool,
    /// The endpoint keeps the response, or works on it after its answer.
    pub(crate) has_side_effects: bool,
    /// Some [`CONTROL_FIELDS`] are there.
    pub(crate) has_control_fields: bool,
    /// Some are in its [`EXTRA_ARGUMENTS`].
    pub(crate) hides_control_fields: bool,
}

/// Parameters of chat templates and tokenizers besides the conversation.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TemplateFields<'a> {
    pub(crate) kwargs: Option<&'a RawValue>,
    pub(crate) documents: Option<&'a RawValue>,
    /// `reasoning_effort`, or `reasoning` of the Responses API.
    pub(crate) reasoning: Option<&'a RawValue>,
    pub(crate) add_generation_prompt: Option<bool>,
    pub(crate) continue_final_message: Option<bool>,
    pub(crate) add_special_tokens: Option<bool>,
    /// A field that changes the prompt is not read here.
    pub(crate) has_more: bool,
}

/// Why a body cannot be routed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnreadableBody {
    #[error("the body is not valid JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl<'a> BodyFields<'a> {
    /// Reads the top level of `body`, which must be a JSON object.
    pub(crate) fn parse(body: &'a [u8]) -> Result<Self, UnreadableBody> {
        let mut json = serde_json::Deserializer::from_slice(body);
        let fields = json.deserialize_map(TopLevel)?;
        json.end()?;
        Ok(fields)
    }
}

struct TopLevel;

impl<'de> Visitor<'de> for TopLevel {
    type Value = BodyFields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<BodyFields<'de>, A::Error> {
        let mut fields = BodyFields::default();
        let (mut echo, mut logprobs) = (false, false);
        while let Some(key) = map.next_key::<FieldName<'de>>()? {
            match &*key.0 {
                "model" => fields.model = map.next_value::<TextField<'de>>()?.0,
                "stream" => fields.stream = map.next_value::<Option<bool>>()?.unwrap_or(false),
                "tools" => fields.tools = map.next_value()?,
                "instructions" => fields.instructions = map.next_value()?,
                "system" => fields.system = map.next_value()?,
                "messages" => fields.messages = map.next_value()?,
                "prompt" => fields.prompt = map.next_value()?,
                "input" => fields.input = map.next_value()?,
                "cache_salt" => fields.cache_salt = map.next_value()?,
                "chat_template_kwargs" => fields.template.kwargs = map.next_value()?,
                "documents" => fields.template.documents = map.next_value()?,
                "reasoning_effort" | "reasoning" => fields.template.reasoning = map.next_value()?,
                "add_generation_prompt" => {
                    fields.template.add_generation_prompt = flag(map.next_value()?);
                }
                "continue_final_message" => {
                    fields.template.continue_final_message = flag(map.next_value()?);
                }
                "add_special_tokens" => {
                    fields.template.add_special_tokens = flag(map.next_value()?);
                }
                "user" | "prompt_cache_key" | "safety_identifier" => {
                    if let TextField(Some(user)) = map.next_value()? {
                        fields.user = Some(user);
                    }
                }
                "previous_response_id" => {
                    fields.previous_response_id = map.next_value::<TextField<'de>>()?.0;
                }
                "prompt_logprobs" => {
                    fields.recomputes_prompt = map.next_value::<Option<IgnoredAny>>()?.is_some();
                }
                "echo" => echo = flag(map.next_value()?) == Some(true),
                "logprobs" => logprobs = map.next_value::<Option<IgnoredAny>>()?.is_some(),
                "store" | "background" => {
                    fields.has_side_effects |= flag(map.next_value()?) == Some(true);
                }
                "priority" => fields.priority = clamped(map.next_value()?),
                EXTRA_ARGUMENTS => {
                    let arguments = map.next_value::<&RawValue>()?.get();
                    fields.hides_control_fields |=
                        control_fields::are_hidden_in(arguments.as_bytes());
                }
                name => {
                    fields.has_control_fields |= CONTROL_FIELDS.contains(&name);
                    if PROMPT_FIELDS.contains(&name) {
                        fields.template.has_more |=
                            map.next_value::<Option<IgnoredAny>>()?.is_some();
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
            }
        }
        fields.recomputes_prompt |= echo && logprobs;
        Ok(fields)
    }
}

/// Clamped, so that a client's number cannot overflow; a value that is not a number counts as 0 and
/// is rejected by the engine.
fn clamped(raw: Option<&RawValue>) -> i32 {
    let number = raw
        .and_then(|raw| raw.get().parse::<f64>().ok())
        .unwrap_or(0.0);
    number.clamp(-1_000_000.0, 1_000_000.0) as i32
}

/// A boolean; a value of another type reads as absent and is validated by the engine.
fn flag(raw: Option<&RawValue>) -> Option<bool> {
    raw.and_then(|raw| raw.get().parse().ok())
}

/// A key, borrowed unless it has escapes.
pub(super) struct FieldName<'a>(pub(super) Cow<'a, str>);

/// A string field; any other type of value reads as absent and is validated by the engine.
#[derive(Default)]
struct TextField<'a>(Option<Cow<'a, str>>);

impl<'de> serde::Deserialize<'de> for FieldName<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Borrow;
        impl<'de> Visitor<'de> for Borrow {
            type Value = FieldName<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<FieldName<'de>, E> {
                Ok(FieldName(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<FieldName<'de>, E> {
                Ok(FieldName(Cow::Owned(text.to_owned())))
            }
        }
        from.deserialize_str(Borrow)
    }
}

impl<'de> serde::Deserialize<'de> for TextField<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(from)?.get();
        if !raw.starts_with('"') {
            return Ok(Self(None));
        }
        let FieldName(text) = serde_json::from_str(raw).map_err(serde::de::Error::custom)?;
        Ok(Self(Some(text)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn routing_fields_are_read_and_others_are_ignored() {
        let body =
            br#" {"model":"qwen","messages":[{"role":"user","content":"hi"}],"stream":true,"user":"u-1","x":1} "#;
        let fields = BodyFields::parse(body).expect("valid");
        assert_eq!(fields.model.as_deref(), Some("qwen"));
        assert!(fields.stream && !fields.has_control_fields);
        assert_eq!(
            fields.messages.map(RawValue::get),
            Some(r#"[{"role":"user","content":"hi"}]"#)
        );
        assert_eq!(fields.user.as_deref(), Some("u-1"));
    }

    #[test]
    fn log_probabilities_of_the_prompt_make_the_engine_compute_all_of_it() {
        let recomputes = |body: &str| {
            let fields = BodyFields::parse(body.as_bytes()).expect("valid");
            fields.recomputes_prompt
        };
        for body in [
            r#"{"prompt_logprobs":1}"#,
            r#"{"prompt_logprobs":0}"#,
            r#"{"logprobs":5,"echo":true}"#,
        ] {
            assert!(recomputes(body), "{body}");
        }
        for body in [
            r#"{"prompt_logprobs":null}"#,
            r#"{"echo":true}"#,
            r#"{"echo":true,"logprobs":null}"#,
            r#"{"echo":false,"logprobs":5}"#,
            r#"{"logprobs":true}"#,
        ] {
            assert!(!recomputes(body), "{body}");
        }
    }

    #[test]
    fn an_escaped_model_name_is_the_same_model() {
        assert_eq!(
            BodyFields::parse(br#"{"model":"Qwen\/Qwen3"}"#)
                .expect("valid")
                .model
                .as_deref(),
            Some("Qwen/Qwen3")
        );
        assert_eq!(
            BodyFields::parse(br#"{"mod\u0065l":"a"}"#)
                .expect("valid")
                .model
                .as_deref(),
            Some("a")
        );
    }

    #[test]
    fn the_last_of_two_equal_keys_counts_as_in_the_engine() {
        assert_eq!(
            BodyFields::parse(br#"{"model":"a","model":"b"}"#)
                .expect("valid")
                .model
                .as_deref(),
            Some("b")
        );
    }

    #[test]
    fn a_model_that_is_not_a_string_is_forwarded() {
        assert!(
            BodyFields::parse(br#"{"model":7,"stream":null}"#)
                .expect("valid")
                .model
                .is_none()
        );
    }

    #[test]
    fn a_body_that_is_not_a_json_object_is_rejected() {
        for body in ["", "[]", "{", r#"{"model":"a"} x"#, "{\"model\":\"\u{7}\"}"] {
            assert!(BodyFields::parse(body.as_bytes()).is_err(), "{body:?}");
        }
    }

    #[test]
    fn a_control_field_is_detected_in_any_spelling() {
        assert!(
            BodyFields::parse(br#"{"kv_transfer\u005fparams":null}"#)
                .expect("valid")
                .has_control_fields
        );
        assert!(
            !BodyFields::parse(br#"{"messages":[{"kv_transfer_params":1}]}"#)
                .expect("valid")
                .has_control_fields
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_rejected(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = BodyFields::parse(&body);
        }
    }
}
