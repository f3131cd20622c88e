//! `vllm-nixl`: vLLM's `NixlConnector`, in which the decode endpoint reads the KV cache from the
//! prefill endpoint's memory (and `NixlPushConnector`, which has the same bodies).
//!
//! The prefill leg asks for a remote decode and one token. Its answer has `kv_transfer_params`, an
//! object that is copied into the decode leg as it is. Without it (the prefill was cut off, or has
//! no connector) the decode endpoint computes the prompt itself. An endpoint that is sent a part of
//! the object waits for ever, and dies when its client leaves; so it is copied whole or not at all.
//!
//! The prefill endpoint keeps the blocks for a lease, and frees them when they were read: later, or
//! a second time, a decode would read what other requests wrote there.

use bytes::Bytes;
use memchr::memmem;

use super::{Handoff, LegEdits, answer_fields, one_token};
use crate::{
    request::{api::Api, body_edit::BodyEdit},
    telemetry::usage,
};

/// The field of both legs.
const FIELD: &str = "kv_transfer_params";

/// Of the parameters of newer releases: the decode endpoint reports this number.
const CACHED_TOKENS: &[u8] = b"\"remote_prefill_cached_tokens\"";

/// What asks a prefill endpoint to keep the KV cache for another one.
const REMOTE_DECODE: &str = "{\"do_remote_decode\":true,\"do_remote_prefill\":false,\
\"remote_engine_id\":null,\"remote_block_ids\":null,\"remote_host\":null,\"remote_port\":null}";

pub(super) fn prefill(api: Api) -> LegEdits {
    let mut body = one_token::edits(api);
    body.push(BodyEdit::set(FIELD, REMOTE_DECODE));
    LegEdits {
        body,
        ..LegEdits::default()
    }
}

pub(super) fn handoff(answer: &Bytes) -> Handoff {
    let fields = answer_fields::of(answer, [FIELD, "usage"]);
    let Some([Some(params), usage]) = fields else {
        return Handoff::default();
    };
    let states_it = memmem::find(&params, CACHED_TOKENS).is_some();
    let usage = usage.filter(|_| !states_it);
    Handoff {
        cached_tokens: usage.and_then(|usage| usage::of_json(&usage)?.cached_tokens),
        edits: LegEdits {
            body: vec![BodyEdit::Set(FIELD, params)],
            is_for_once: true,
            ..LegEdits::default()
        },
        is_taken: true,
    }
}
