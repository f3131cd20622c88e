//! `vllm-mooncake`: vLLM's `MooncakeConnector`, in which the prefill endpoint writes the KV cache
//! into the decode endpoint's memory.
//!
//! ```text
//!   prefill   one token, do_remote_decode and a transfer_id; to the rank that X-data-parallel-rank
//!             names, whose engine the decode leg names
//!   decode    the request, do_remote_prefill and the same transfer_id; the prefill endpoint's
//!             bootstrap server, and the engine id of the rank
//! ```
//!
//! Both are sent at once. The decode endpoint waits up to 480 s for the prefill endpoint, which
//! transfers nothing unless its leg ended at its limit of one token: so the end of a text is not to
//! end it, and where it does all the same, the decode endpoint is to compute the prompt itself. A
//! prefill leg that is cut off while the decode endpoint asks for its blocks would occupy one of few
//! senders as long.

use std::num::NonZeroU16;

use bytes::Bytes;
use hermes_core::{
    address::{ServerAddress, ServerScheme},
    snapshot::{Endpoint, EngineRank},
};
use serde::Deserialize;

use super::{ConcurrentLegs, Handoff, LegEdits, PrefillResult, cached_tokens, one_token};
use crate::request::{api::Api, body_edit::BodyEdit};

/// The field of both legs.
const FIELD: &str = "kv_transfer_params";

/// Where a leg is computed behind one URL.
const RANK: &str = "x-data-parallel-rank";

/// What is read of a prefill's answer: how it ended, in the terms of each API.
#[derive(Default, Deserialize)]
#[serde(default)]
struct EndedPrefill {
    choices: Vec<EndedChoice>,
    status: Option<String>,
    stop_reason: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct EndedChoice {
    finish_reason: Option<String>,
}

/// `None` while no rank of the prefill endpoint is known. `number`: one that no other request has.
pub(super) fn legs(
    api: Api,
    prefill: &Endpoint,
    port: NonZeroU16,
    number: u64,
) -> Option<ConcurrentLegs> {
    let ranks = prefill.pairing.ranks.as_deref()?;
    let EngineRank { rank, engine_id } = ranks.get(number as usize % ranks.len().max(1))?;
    let transfer = format!("\"xfer-{number:016x}\"");
    let bootstrap = ServerAddress::new(ServerScheme::Http, prefill.address.host().clone(), port);
    let sends = format!(
        "{{\"do_remote_decode\":true,\"do_remote_prefill\":false,\"transfer_id\":{transfer}}}"
    );
    let receives = format!(
        "{{\"do_remote_decode\":false,\"do_remote_prefill\":true,\"transfer_id\":{transfer},\
         \"remote_bootstrap_addr\":{},\"remote_engine_id\":{}}}",
        serde_json::Value::from(bootstrap.to_string()),
        serde_json::Value::from(&**engine_id),
    );
    let mut body = one_token::edits(api);
    body.extend(["stop", "stop_sequences"].map(BodyEdit::Remove));
    if matches!(api, Api::Chat | Api::Completions) {
        // No token that ends a text is sampled before it is reached.
        body.push(BodyEdit::set("min_tokens", "1"));
    }
    body.push(BodyEdit::set(FIELD, sends));
    Some(ConcurrentLegs {
        prefill: LegEdits {
            body,
            is_for_once: true,
            ..LegEdits::header(RANK, &rank.to_string())
        },
        decode: LegEdits {
            body: vec![BodyEdit::set(FIELD, receives)],
            is_for_once: true,
            ..LegEdits::default()
        },
        must_end: true,
    })
}

pub(super) fn after_prefill(api: Api, answer: &Bytes) -> PrefillResult {
    let cached_tokens = cached_tokens(answer);
    let answer: EndedPrefill = serde_json::from_slice(answer).unwrap_or_default();
    let end = match api {
        Api::Responses => answer.status,
        Api::Messages => answer.stop_reason,
        _ => {
            let choice = answer.choices.into_iter().next();
            choice.and_then(|choice| choice.finish_reason)
        }
    };
    match end.as_deref() {
        Some("length" | "incomplete" | "max_tokens") => PrefillResult::HandOver(Handoff {
            is_taken: true,
            cached_tokens,
            ..Handoff::default()
        }),
        Some("stop" | "tool_calls" | "completed" | "end_turn" | "stop_sequence" | "tool_use") => {
            PrefillResult::HandOver(Handoff::default())
        }
        _ => PrefillResult::Unusable("the prefill's answer has no end that is known"),
    }
}
