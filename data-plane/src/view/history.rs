//! The routing history of one pool: which prompts this proxy sent where.
//!
//! It lives as long as snapshots contain the pool. Only pools whose strategy uses prefix hashes
//! have one.

use hermes_core::{
    history::{HistoryLimits, RoutedPrompt, RoutingHistory},
    query::{CacheHit, Query},
    snapshot::EndpointId,
};
use parking_lot::Mutex;

use crate::clock::uptime;

/// Recent prompts of one pool by endpoint.
pub(crate) struct PoolHistory {
    /// Locked to insert or look up one prompt, and to copy the history for a replay.
    entries: Mutex<RoutingHistory>,
    block_bytes: u32,
}

impl PoolHistory {
    /// An empty history. Prompts are hashed over blocks of `block_bytes`.
    pub(crate) fn new(block_bytes: u32) -> Self {
        let entries = Mutex::new(RoutingHistory::new(block_bytes, HistoryLimits::default()));
        Self {
            entries,
            block_bytes,
        }
    }

    pub(crate) const fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    /// The prompt is sent to `endpoint`.
    pub(crate) fn remember(&self, endpoint: EndpointId, query: &Query) {
        self.entries
            .lock()
            .record(endpoint, &query.blocks, query.prompt_tokens, uptime());
    }

    /// Endpoints to which this proxy sent a prompt with the same beginning.
    pub(crate) fn hits(&self, query: &Query) -> Vec<CacheHit> {
        self.entries.lock().hits(query)
    }

    /// All entries, newest first.
    pub(crate) fn decisions(&self) -> Vec<RoutedPrompt> {
        self.entries.lock().newest_first(uptime()).collect()
    }
}
