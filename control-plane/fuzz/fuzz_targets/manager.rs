//! Whatever a KV manager answers, reading it ends without a panic, and no hit is more than the
//! prompt has.
//!
//! Run with `control-plane/fuzz/run manager`. The first byte picks the dialect.

#![no_main]

use hermes_control_plane::cache_sources::kv_manager::{LookupCandidate, Conductor, Dialect, Encoding, Lookup, MatchSort};
use hermes_core::snapshot::EndpointId;
use libfuzzer_sys::fuzz_target;

const TOKENS: u32 = 165;

fuzz_target!(|input: &[u8]| {
    let Some((which, answer)) = input.split_first() else { return };
    let conductor = |encoding| Dialect::Conductor(Box::new(Conductor { encoding, ..Conductor::default() }));
    let dialect = match which % 3 {
        0 => Dialect::MatchSort(MatchSort::default()),
        1 => conductor(Encoding::Json),
        _ => conductor(Encoding::Msgpack),
    };
    let candidate = |id: u64| LookupCandidate {
        endpoint: EndpointId(id),
        authority: format!("10.0.0.{id}:8000").into(),
        name: format!("ai/chat-{id}").into(),
    };
    let lookup = Lookup {
        token_ids: Some((0..TOKENS).collect()),
        block_size: Some(16),
        prompt_tokens: TOKENS,
        candidates: (1..=3).map(candidate).collect(),
        ..Lookup::default()
    };
    for hit in dialect.hits(answer, &lookup).unwrap_or_default() {
        let cached = hit.cached;
        assert!(cached.gpu <= cached.host && cached.host <= cached.disk && cached.disk <= TOKENS);
    }
});
