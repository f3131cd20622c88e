//! Any payload is decoded and applied to an index without a panic, and all of its blocks can be
//! removed again.
//!
//! Run with `control-plane/fuzz/run kv_events`.

#![no_main]

use hermes_control_plane::cache_sources::kv_events::decode;
use hermes_core::{
    block_index::{BlockEvent, BlockIndex, CacheIdentity, SyncState},
    snapshot::EndpointId,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|payload: &[u8]| {
    let _rank = decode::rank(payload);
    let Ok(batch) = decode::batch(payload) else { return };
    let mut index = BlockIndex::default();
    let mut rank = index.open(EndpointId(1));
    index.set_sync_state(&rank, SyncState::Synced);
    for event in batch.events {
        let mut changes = Vec::new();
        match event {
            BlockEvent::Stored(stored) => {
                assert!(stored.contents.is_empty() || stored.contents.len() == stored.names.len());
                let _tally = rank.store(&stored, &mut changes);
            }
            BlockEvent::Removed(removed) => {
                let _tally = rank.remove(&removed, &mut changes);
            }
            BlockEvent::Cleared => index.clear(&mut rank, SyncState::Synced),
        }
        index.apply(&rank, &changes);
    }
    let tokens = [1; 64];
    assert!(index.hits(&tokens, &CacheIdentity::default()).iter().all(|hit| hit.cached.disk < 64));
    index.close(&mut rank);
    while index.sweep(16) {}
    assert_eq!(index.blocks(), 0);
});
