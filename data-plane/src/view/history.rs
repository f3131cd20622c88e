//! The routing history of one pool: which prompts this proxy sent where, and whether the engines
//! report cached tokens.
//!
//! It lives as long as snapshots contain the pool. Only pools whose strategy uses prefix hashes
//! have one.

use std::sync::atomic::{AtomicBool, Ordering};

use hermes_core::{
    history::{HistoryLimits, RoutedPrompt, RoutingHistory},
    query::{CacheHit, Query},
    snapshot::EndpointId,
};
use parking_lot::Mutex;

use crate::{clock::uptime, telemetry::usage::TokenUsage};

/// Recent prompts of one pool by endpoint.
pub(crate) struct PoolHistory {
    /// Locked to insert or look up one prompt, and to copy the history for a replay.
    entries: Mutex<RoutingHistory>,
    block_bytes: u32,
    /// Some answer reported cached tokens.
    reports_cached_tokens: AtomicBool,
}

impl PoolHistory {
    /// An empty history. Prompts are hashed over blocks of `block_bytes`.
    pub(crate) fn new(block_bytes: u32) -> Self {
        let entries = Mutex::new(RoutingHistory::new(block_bytes, HistoryLimits::default()));
        Self {
            entries,
            block_bytes,
            reports_cached_tokens: AtomicBool::new(false),
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

    /// Cached tokens of this answer. Engines that report them may omit them when there are none;
    /// for engines that never report them the number is unknown.
    pub(crate) fn cached_tokens(&self, usage: TokenUsage) -> Option<u32> {
        if usage.cached_tokens.is_some() && !self.reports_cached_tokens.load(Ordering::Relaxed) {
            self.reports_cached_tokens.store(true, Ordering::Relaxed);
        }
        usage.cached_tokens.or_else(|| {
            self.reports_cached_tokens
                .load(Ordering::Relaxed)
                .then_some(0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn omitted_cached_tokens_are_zero_once_an_engine_reported_some() {
        let history = PoolHistory::new(256);
        let usage = |cached_tokens| TokenUsage {
            cached_tokens,
            ..TokenUsage::default()
        };
        assert_eq!(history.cached_tokens(usage(None)), None);
        assert_eq!(history.cached_tokens(usage(Some(7))), Some(7));
        assert_eq!(history.cached_tokens(usage(None)), Some(0));
    }
}
