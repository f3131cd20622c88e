//! `trtllm`: servers of TensorRT-LLM (`trtllm-serve`), in which the generation server reads the KV
//! cache from the context server's memory.
//!
//! ```text
//!   context leg     the request, whole and not as a stream, with disaggregated_params
//!                   {"request_type":"context_only","disagg_request_id":…}
//!     answer        one choice with disaggregated_params, and prompt_token_ids
//!   generation leg  the request with that object, whose request_type is "generation_only", and
//!                   with those ids: as the prompt of a completion, beside the messages of a chat
//! ```
//!
//! The first token is the context server's, so that its answer may be the whole one. A server
//! refuses fields that its release does not have: the ids and the usage are passed on only if the
//! context server has them.

use bytes::Bytes;

use super::{
    FinalAnswer, Handoff, LegEdits, PrefillResult, cached_tokens, object_fields::ObjectFields,
};
use crate::request::{api::Api, body_edit::BodyEdit};

/// The field of both legs, and of the choice between them.
const FIELD: &str = "disaggregated_params";

/// The prompt of a chat as tokens: what the client sets there is another prompt than that which
/// the endpoints were chosen for.
const TOKENS: &str = "prompt_token_ids";

/// Whether its servers split requests of this API.
pub(super) const fn carries(api: Api) -> bool {
    matches!(api, Api::Chat | Api::Completions)
}

/// `number`: one that no other request has.
pub(super) fn prefill(number: u64) -> LegEdits {
    // A positive one of 63 bits; servers number their own requests from 0.
    let id = (number >> 2) | (1 << 62);
    let params = format!("{{\"request_type\":\"context_only\",\"disagg_request_id\":{id}}}");
    LegEdits {
        body: vec![
            BodyEdit::set("stream", "false"),
            BodyEdit::Remove("stream_options"),
            BodyEdit::Remove(TOKENS),
            BodyEdit::set(FIELD, params),
        ],
        is_for_once: true,
        ..LegEdits::default()
    }
}

pub(super) fn after_prefill(api: Api, answer: &Bytes) -> PrefillResult {
    read(api, answer).unwrap_or_else(PrefillResult::Unusable)
}

fn read(api: Api, answer: &Bytes) -> Result<PrefillResult, &'static str> {
    let cached_tokens = || cached_tokens(answer);
    let answer = str::from_utf8(answer).ok().and_then(ObjectFields::parse);
    let answer = answer.ok_or("the context server's answer is no JSON object")?;
    let choices = answer.get("choices").unwrap_or_default().to_owned();
    let mut choices: Vec<ObjectFields<'_>> = serde_json::from_str(&choices).unwrap_or_default();
    let (Some(choice), true) = (choices.pop(), choices.is_empty()) else {
        return Err("the context server's answer has not one choice");
    };
    match choice.get("finish_reason") {
        Some("\"length\"" | "\"not_finished\"") => {}
        Some("\"stop\"" | "\"tool_calls\"" | "\"content_filter\"") => {
            return Ok(PrefillResult::Final(FinalAnswer::new(answer, choice)));
        }
        _ => return Err("the context server's answer has no finish_reason that is known"),
    }
    let params = choice.get(FIELD).and_then(ObjectFields::parse);
    let mut params = params.ok_or("the context server's answer has no disaggregated_params")?;
    if params.get("ctx_request_id").is_none() || params.get("disagg_request_id").is_none() {
        return Err("the context server's disaggregated_params have no ids");
    }
    params.set("request_type", "\"generation_only\"");
    // The generation server reports by it.
    let usage = answer.get("usage").filter(|_| params.has("ctx_usage"));
    let cached_tokens = match usage {
        Some(usage) => {
            params.set("ctx_usage", usage);
            None
        }
        None => cached_tokens(),
    };
    let mut edits = vec![BodyEdit::set(FIELD, params.to_json())];
    if let Some(tokens) = answer.get(TOKENS) {
        let name = if api == Api::Chat { TOKENS } else { "prompt" };
        edits.push(BodyEdit::set(name, tokens.to_owned()));
    }
    Ok(PrefillResult::HandOver(Handoff {
        edits: LegEdits {
            body: edits,
            is_for_once: true,
            ..LegEdits::default()
        },
        is_taken: true,
        cached_tokens,
    }))
}
