//! `shared-storage`: both endpoints read and write one store of KV caches (LMCache,
//! `MooncakeStore`, vLLM's example connector).
//!
//! The prefill leg computes the prompt into the store, for one token. Then the decode leg is the
//! client's request, and finds the prompt there. Nothing is copied, and the store keeps what it
//! has: the decode leg may be repeated.

use bytes::Bytes;

use super::{Handoff, LegEdits, cached_tokens, one_token};
use crate::request::api::Api;

pub(super) fn prefill(api: Api) -> LegEdits {
    LegEdits {
        body: one_token::edits(api),
        ..LegEdits::default()
    }
}

pub(super) fn handoff(answer: &Bytes) -> Handoff {
    Handoff {
        is_taken: true,
        cached_tokens: cached_tokens(answer),
        ..Handoff::default()
    }
}
