//! The fields of a JSON body that routing reads, found while the body arrives.
//!
//! Only the top level is looked at. Values that are only forwarded (messages, tools) are spans of
//! the body; of a name that appears twice the last value counts, as in the engines' parser. Fields
//! that control an engine's internals are detected here and cut out in [`super::body_edit`].
//!
//! What routing does not need is the engine's to judge: a field of an unexpected type reads as
//! absent, and nothing is refused for a value that is only forwarded.

use bytes::Bytes;
use smallvec::SmallVec;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::{
    answer_count::AnswerCount,
    control_fields::{self, EXTRA_ARGUMENTS},
    object_scanner::{MalformedObject, ObjectScanner, ScannedField},
    request_body::{BodySpan, RequestBody},
};

/// Longest string or number that is decoded, in bytes of JSON.
const MAX_DECODED: usize = 4 << 10;

/// Values of [`EXTRA_ARGUMENTS`] that are looked at. A body has one, of which parsers take the
/// last.
const MAX_EXTRA_ARGUMENTS: usize = 8;

/// A body's routing fields.
#[derive(Debug, Default)]
pub(crate) struct BodyFields {
    /// An empty name counts as none.
    pub(crate) model: Option<String>,
    pub(crate) stream: bool,
    pub(crate) prompt: PromptSpans,
    /// Hash of the end user: `user`, or one of its newer names.
    pub(crate) user: Option<u64>,
    pub(crate) previous_response_id: Option<String>,
    /// vLLM's convention: lower goes first.
    pub(crate) priority: i32,
    /// `prompt_logprobs` is set, or `echo` with `logprobs`: the engine computes the whole prompt,
    /// because it caches no log-probabilities.
    pub(crate) recomputes_prompt: bool,
    /// It asks for one answer to one prompt.
    pub(crate) has_one_answer: bool,
    /// The endpoint keeps the response, or works on it after its answer.
    pub(crate) has_side_effects: bool,
    /// Some [`control_fields::CONTROL_FIELDS`] are there.
    pub(crate) has_control_fields: bool,
    /// Some are in its [`EXTRA_ARGUMENTS`].
    pub(crate) hides_control_fields: bool,
}

/// The fields that become the prompt. `null` is none.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PromptSpans {
    pub(crate) tools: Option<BodySpan>,
    pub(crate) instructions: Option<BodySpan>,
    pub(crate) system: Option<BodySpan>,
    pub(crate) messages: Option<BodySpan>,
    pub(crate) prompt: Option<BodySpan>,
    pub(crate) input: Option<BodySpan>,
    /// Keeps the caches of tenants apart inside an engine.
    pub(crate) cache_salt: Option<BodySpan>,
    /// `chat_template_kwargs`.
    pub(crate) template_kwargs: Option<BodySpan>,
    pub(crate) documents: Option<BodySpan>,
    /// `reasoning_effort`, or `reasoning` of the Responses API.
    pub(crate) reasoning: Option<BodySpan>,
    pub(crate) add_generation_prompt: Option<bool>,
    pub(crate) continue_final_message: Option<bool>,
    pub(crate) add_special_tokens: Option<bool>,
    /// A field that changes the prompt is not among these.
    pub(crate) has_more: bool,
}

/// Why a body cannot be routed. It repeats nothing of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UnreadableBody {
    #[error("the body is not a valid JSON object: {0}")]
    Malformed(#[from] MalformedObject),
    #[error("the field `model` at byte {at} is not a valid string of at most {MAX_DECODED} bytes")]
    Model { at: usize },
}

/// Reads the fields of a body that arrives in pieces.
#[derive(Debug, Default)]
pub(crate) struct FieldScanner {
    scanner: ObjectScanner,
    found: FoundFields,
    malformed: Option<MalformedObject>,
}

/// Fields as they are found. Those that are decoded are spans until the body is complete.
#[derive(Debug, Default)]
struct FoundFields {
    prompt: PromptSpans,
    model: Option<BodySpan>,
    stream: Option<BodySpan>,
    user: Option<BodySpan>,
    previous_response_id: Option<BodySpan>,
    priority: Option<BodySpan>,
    add_generation_prompt: Option<BodySpan>,
    continue_final_message: Option<BodySpan>,
    add_special_tokens: Option<BodySpan>,
    answers: AnswerCount,
    prompt_logprobs: Option<BodySpan>,
    echo: Option<BodySpan>,
    logprobs: Option<BodySpan>,
    store: Option<BodySpan>,
    background: Option<BodySpan>,
    /// The objects that are values of [`EXTRA_ARGUMENTS`].
    extra_arguments: SmallVec<[BodySpan; 1]>,
    has_control_fields: bool,
    /// There are more such objects than are looked at.
    hides_control_fields: bool,
}

// === FieldScanner ===

impl FieldScanner {
    /// Scans the next piece; returns whether the body can still become valid.
    pub(crate) fn scan(&mut self, piece: &[u8]) -> bool {
        if self.malformed.is_none() {
            let found = &mut self.found;
            let scanned = self.scanner.scan(piece, |field| found.note(&field));
            self.malformed = scanned.err();
        }
        self.malformed.is_none()
    }

    /// The fields of `body`, whose pieces were all scanned.
    pub(crate) fn finish(self, body: &RequestBody) -> Result<BodyFields, UnreadableBody> {
        self.malformed.map_or_else(|| self.scanner.finish(), Err)?;
        self.found.decode(body)
    }
}

impl BodyFields {
    /// Reads a complete body.
    pub(crate) fn parse(body: &RequestBody) -> Result<Self, UnreadableBody> {
        let mut scanner = FieldScanner::default();
        for piece in body.pieces() {
            scanner.scan(piece);
        }
        scanner.finish(body)
    }
}

// === FoundFields ===

impl FoundFields {
    fn note(&mut self, field: &ScannedField<'_>) {
        let value = Some(field.value);
        let unless_null = value.filter(|_| field.first != b'n');
        let if_text = value.filter(|_| field.first == b'"');
        let prompt = &mut self.prompt;
        match field.name {
            b"model" => self.model = if_text,
            b"stream" => self.stream = value,
            b"tools" => prompt.tools = unless_null,
            b"instructions" => prompt.instructions = unless_null,
            b"system" => prompt.system = unless_null,
            b"messages" => prompt.messages = unless_null,
            b"prompt" => prompt.prompt = unless_null,
            b"input" => prompt.input = unless_null,
            b"cache_salt" => prompt.cache_salt = unless_null,
            b"chat_template_kwargs" => prompt.template_kwargs = unless_null,
            b"documents" => prompt.documents = unless_null,
            b"reasoning_effort" | b"reasoning" => prompt.reasoning = unless_null,
            b"add_generation_prompt" => self.add_generation_prompt = value,
            b"continue_final_message" => self.continue_final_message = value,
            b"add_special_tokens" => self.add_special_tokens = value,
            b"user" | b"prompt_cache_key" | b"safety_identifier" => {
                self.user = if_text.or(self.user);
            }
            b"previous_response_id" => self.previous_response_id = if_text,
            b"priority" => self.priority = value,
            b"prompt_logprobs" => self.prompt_logprobs = unless_null,
            b"echo" => self.echo = value,
            b"logprobs" => self.logprobs = unless_null,
            b"store" => self.store = value,
            b"background" => self.background = value,
            name if AnswerCount::is_of(name) => self.answers.note(name, field.value),
            // They change which tokens an engine makes of the prompt, and are not interpreted here.
            b"chat_template"
            | b"truncate_prompt_tokens"
            | b"prompt_embeds"
            | b"suffix"
            | b"previous_input_messages" => prompt.has_more |= unless_null.is_some(),
            // What is no object has none: engines reject it.
            name if name == EXTRA_ARGUMENTS.as_bytes() && field.first == b'{' => {
                if self.extra_arguments.len() < MAX_EXTRA_ARGUMENTS {
                    self.extra_arguments.push(field.value);
                } else {
                    self.hides_control_fields = true;
                }
            }
            name => self.has_control_fields |= control_fields::is_control_field(name),
        }
    }

    fn decode(self, body: &RequestBody) -> Result<BodyFields, UnreadableBody> {
        let model = match self.model {
            Some(span) => {
                let at = span.start;
                let name = text(body, span).ok_or(UnreadableBody::Model { at })?;
                Some(name).filter(|name| !name.is_empty())
            }
            None => None,
        };
        let flag = |span: Option<BodySpan>| span.and_then(|span| flag(body, span));
        let is_set = |span: Option<BodySpan>| span.is_some_and(|span| is_true(body, span));
        Ok(BodyFields {
            model,
            stream: is_set(self.stream),
            prompt: PromptSpans {
                add_generation_prompt: flag(self.add_generation_prompt),
                continue_final_message: flag(self.continue_final_message),
                add_special_tokens: flag(self.add_special_tokens),
                has_more: self.prompt.has_more || self.previous_response_id.is_some(),
                ..self.prompt
            },
            user: self.user.map(|span| user(body, span)),
            previous_response_id: self.previous_response_id.and_then(|span| text(body, span)),
            priority: self.priority.map_or(0, |span| priority(body, span)),
            recomputes_prompt: self.prompt_logprobs.is_some()
                || flag(self.echo) == Some(true) && self.logprobs.is_some(),
            has_one_answer: self.answers.is_one(body, self.prompt.prompt),
            has_side_effects: is_set(self.store) || is_set(self.background),
            has_control_fields: self.has_control_fields,
            hides_control_fields: self.hides_control_fields(body),
        })
    }
}

impl FoundFields {
    fn hides_control_fields(&self, body: &RequestBody) -> bool {
        let mut arguments = self.extra_arguments.iter();
        self.hides_control_fields
            || arguments.any(|&span| control_fields::are_hidden_in(body.slices(span)))
    }
}

// === Values ===

/// A value's JSON, unless it is too long to be decoded.
fn short(body: &RequestBody, span: BodySpan) -> Option<Bytes> {
    (span.len() <= MAX_DECODED).then(|| body.contiguous(span))
}

/// A string, unless it is too long or not valid.
fn text(body: &RequestBody, span: BodySpan) -> Option<String> {
    serde_json::from_slice(&short(body, span)?).ok()
}

/// A hash of the end user. A string that cannot be decoded (half of a surrogate pair, which engines
/// accept) is hashed as it is written.
fn user(body: &RequestBody, span: BodySpan) -> u64 {
    if let Some(text) = text(body, span) {
        return xxh3_64(text.as_bytes());
    }
    let mut hash = Xxh3::new();
    body.slices(span).for_each(|slice| hash.update(slice));
    hash.digest()
}

/// A boolean; a value of another type reads as absent and is validated by the engine.
fn flag(body: &RequestBody, span: BodySpan) -> Option<bool> {
    let json = short(body, span)?;
    str::from_utf8(&json).ok()?.parse().ok()
}

/// A boolean as engines read it, in pydantic's lax mode: numbers and words count too. What is
/// neither true nor false there is refused by the engine.
fn is_true(body: &RequestBody, span: BodySpan) -> bool {
    let Some(json) = short(body, span) else {
        return false;
    };
    match serde_json::from_slice(&json) {
        Ok(serde_json::Value::Bool(value)) => value,
        Ok(serde_json::Value::Number(number)) => number.as_f64() == Some(1.0),
        Ok(serde_json::Value::String(word)) => {
            let words = ["true", "t", "yes", "y", "on", "1"];
            words.iter().any(|known| word.eq_ignore_ascii_case(known))
        }
        _ => false,
    }
}

/// Clamped, so that a client's number cannot overflow; a value that is not a number counts as 0 and
/// is rejected by the engine.
fn priority(body: &RequestBody, span: BodySpan) -> i32 {
    let number = short(body, span)
        .and_then(|json| str::from_utf8(&json).ok()?.parse::<f64>().ok())
        .unwrap_or(0.0);
    number.clamp(-1_000_000.0, 1_000_000.0) as i32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(body: &str) -> BodyFields {
        BodyFields::parse(&Bytes::copy_from_slice(body.as_bytes()).into()).expect("valid")
    }

    #[test]
    fn routing_fields_are_read_and_others_are_ignored() {
        let body = Bytes::from_static(
            br#" {"model":"qwen","messages":[{"role":"user","content":"hi"}],"stream":true,"user":"u-1","x":1} "#,
        );
        let body = RequestBody::from(body);
        let fields = BodyFields::parse(&body).expect("valid");
        assert_eq!(fields.model.as_deref(), Some("qwen"));
        assert!(fields.stream && !fields.has_control_fields);
        assert_eq!(
            fields.prompt.messages.map(|span| body.contiguous(span)),
            Some(r#"[{"role":"user","content":"hi"}]"#.into())
        );
        assert_eq!(fields.user, Some(xxh3_64(b"u-1")));
    }

    #[test]
    fn log_probabilities_of_the_prompt_make_the_engine_compute_all_of_it() {
        let recomputes = |body: &str| parse(body).recomputes_prompt;
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
            parse(r#"{"model":"Qwen\/Qwen3"}"#).model.as_deref(),
            Some("Qwen/Qwen3")
        );
        assert_eq!(parse(r#"{"mod\u0065l":"a"}"#).model.as_deref(), Some("a"));
    }

    #[test]
    fn the_last_of_two_equal_keys_counts_as_in_the_engine() {
        assert_eq!(
            parse(r#"{"model":"a","model":"b"}"#).model.as_deref(),
            Some("b")
        );
    }

    #[test]
    fn a_model_that_is_not_a_string_is_forwarded() {
        assert!(parse(r#"{"model":7,"stream":null}"#).model.is_none());
    }

    #[test]
    fn a_stream_is_asked_for_in_every_way_that_engines_accept() {
        let stream = |value: &str| parse(&format!("{{\"stream\":{value}}}")).stream;
        for value in ["true", "\"True\"", "\"yes\"", "1", "1.0", "\"\\u0031\""] {
            assert!(stream(value), "{value}");
        }
        let long = format!("\"{}\"", "x".repeat(9_000));
        for value in [
            "false",
            "null",
            "0",
            "\"false\"",
            "2",
            "[true]",
            "NaN",
            &long,
        ] {
            assert!(!stream(value), "{value}");
        }
    }

    #[test]
    fn an_empty_model_counts_as_none() {
        assert!(parse(r#"{"model":""}"#).model.is_none());
    }

    #[test]
    fn a_string_that_only_identifies_its_client_need_not_be_valid_unicode() {
        let user = |body: &str| parse(body).user;
        let lone = user(r#"{"user":"\ud800"}"#);
        assert!(lone.is_some() && lone == user(r#"{"safety_identifier":"\ud800"}"#));
        assert_ne!(lone, user(r#"{"user":"\ud801"}"#));
        let long = |letter: &str| user(&format!("{{\"user\":\"{}\"}}", letter.repeat(9_000)));
        assert_ne!(long("a"), long("b"));
        let stored = parse(r#"{"previous_response_id":"\ud800"}"#);
        assert!(stored.previous_response_id.is_none() && stored.prompt.has_more);
    }

    #[test]
    fn an_error_names_the_place_and_repeats_nothing_of_the_body() {
        let error = |body: String| {
            let error = BodyFields::parse(&Bytes::from(body).into()).expect_err("unreadable");
            error.to_string()
        };
        assert_eq!(
            error(r#"{"stream":true,"model":"\ud800"}"#.to_owned()),
            "the field `model` at byte 23 is not a valid string of at most 4096 bytes"
        );
        let secret = "secret ".repeat(100_000);
        for body in [
            format!("\"{secret}\""),
            format!("{{\"{secret}\" 1}}"),
            format!("{{\"model\":\"{secret}\"}}"),
            format!("{{\"messages\":[\"{secret}\"}}"),
        ] {
            let error = error(body);
            assert!(!error.contains("secret") && error.len() < 200, "{error}");
        }
    }

    #[test]
    fn fields_are_the_same_in_pieces_of_any_size() {
        let text = r#"{"mod\u0065l":"q\u00fc","priority":-3,"stream":"on","add_special_tokens":false,
            "user":"ü","previous_response_id":"r\"1","tools":[{"a":"\\"}],"bootstrap_room":1}"#;
        let expected = format!("{:?}", parse(text));
        for size in 1..text.len() {
            let mut pieces = RequestBody::default();
            for piece in text.as_bytes().chunks(size) {
                pieces.push(Bytes::copy_from_slice(piece));
            }
            let fields = BodyFields::parse(&pieces).expect("valid");
            assert_eq!(format!("{fields:?}"), expected, "pieces of {size}");
        }
        assert!(
            expected.contains("qü") && expected.contains("r\\\"1"),
            "{expected}"
        );
    }

    #[test]
    fn a_body_that_is_not_a_json_object_is_rejected() {
        for body in ["", "[]", "{", r#"{"model":"a"} x"#, "{\"model\":\"\u{7}\"}"] {
            assert!(
                BodyFields::parse(&Bytes::from(body).into()).is_err(),
                "{body:?}"
            );
        }
    }

    #[test]
    fn a_response_is_stored_by_whatever_engines_read_as_true() {
        for body in [
            r#"{"store":true}"#,
            r#"{"store":1}"#,
            r#"{"background":"true"}"#,
        ] {
            assert!(parse(body).has_side_effects, "{body}");
        }
        for body in [r#"{"store":false}"#, r#"{"background":null}"#, "{}"] {
            assert!(!parse(body).has_side_effects, "{body}");
        }
    }

    #[test]
    fn many_objects_of_extra_arguments_count_as_hiding_a_control_field() {
        let body =
            |count: usize| format!("{{{}\"n\":1}}", r#""vllm_xargs":{"a":1},"#.repeat(count));
        assert!(!parse(&body(MAX_EXTRA_ARGUMENTS)).hides_control_fields);
        assert!(parse(&body(MAX_EXTRA_ARGUMENTS + 1)).hides_control_fields);
        assert!(!parse(r#"{"vllm_xargs":["kv_transfer_params"]}"#).hides_control_fields);
    }

    #[test]
    fn a_control_field_is_detected_in_any_spelling() {
        assert!(parse(r#"{"kv_transfer\u005fparams":null}"#).has_control_fields);
        assert!(!parse(r#"{"messages":[{"kv_transfer_params":1}]}"#).has_control_fields);
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_rejected(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = BodyFields::parse(&Bytes::from(body).into());
        }
    }
}
