//! A lookup for tests: a prompt, and three instances that may hold it.

use hermes_core::snapshot::EndpointId;

use crate::cache_sources::kv_manager::{Lookup, LookupCandidate};

/// Tokens in a block.
pub(super) const BLOCK: u32 = 16;

/// Ten whole blocks and a rest.
pub(super) fn lookup() -> Lookup {
    let candidate = |id: u64| LookupCandidate {
        endpoint: EndpointId(id),
        authority: format!("10.0.0.{id}:8000").into(),
        name: format!("ai/chat-{id}").into(),
    };
    Lookup {
        model: "m".into(),
        token_ids: Some((0..165).collect()),
        block_size: Some(BLOCK),
        candidates: (1..=3).map(candidate).collect(),
        ..Lookup::default()
    }
}
