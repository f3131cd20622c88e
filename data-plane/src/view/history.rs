//! What this proxy remembers of one pool: its own choices, and whether the engines tell what they had cached.
//!
//! Lives as long as any snapshot has the pool. Only pools whose strategy reads prompts' hashes have one.

use std::sync::atomic::{AtomicBool, Ordering};

use hermes_core::{
    memory::{Decision, Limits, Memory},
    query::{Hit, Query},
    snapshot::EndpointId,
};
use parking_lot::Mutex;

use crate::{clock::uptime, telemetry::usage::TokenUsage};

/// See the module.
pub(crate) struct PoolHistory {
    /// Held for as long as it takes to enter or find one prompt, and a little longer when a new owner is taught.
    memory: Mutex<Memory>,
    block_bytes: u32,
    /// Some answer told its cached tokens.
    tells_cached: AtomicBool,
}

impl PoolHistory {
    /// Remembers nothing yet. Prompts are hashed over blocks of `block_bytes`.
    pub(crate) fn new(block_bytes: u32) -> Self {
        let memory = Mutex::new(Memory::new(block_bytes, Limits::default()));
        Self {
            memory,
            block_bytes,
            tells_cached: AtomicBool::new(false),
        }
    }

    pub(crate) const fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    /// The prompt is sent to `endpoint`.
    pub(crate) fn remember(&self, endpoint: EndpointId, query: &Query) {
        self.memory
            .lock()
            .remember(endpoint, &query.blocks, query.prompt_tokens, uptime());
    }

    /// Who got the beginning of this prompt from this proxy.
    pub(crate) fn hits(&self, query: &Query) -> Vec<Hit> {
        self.memory.lock().hits(query)
    }

    /// Every choice that is remembered, newest first.
    pub(crate) fn decisions(&self) -> Vec<Decision> {
        self.memory.lock().newest(uptime()).collect()
    }

    /// The cached tokens that this answer tells. Engines that tell them may leave them out where there are none; of
    /// those that never do, nothing is known.
    pub(crate) fn cached_tokens(&self, usage: TokenUsage) -> Option<u32> {
        if usage.cached_tokens.is_some() && !self.tells_cached.load(Ordering::Relaxed) {
            self.tells_cached.store(true, Ordering::Relaxed);
        }
        usage
            .cached_tokens
            .or_else(|| self.tells_cached.load(Ordering::Relaxed).then_some(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_told_cached_tokens_once_has_none_where_it_is_silent() {
        let recall = PoolHistory::new(256);
        let usage = |cached_tokens| TokenUsage {
            cached_tokens,
            ..TokenUsage::default()
        };
        assert_eq!(recall.cached_tokens(usage(None)), None);
        assert_eq!(recall.cached_tokens(usage(Some(7))), Some(7));
        assert_eq!(recall.cached_tokens(usage(None)), Some(0));
    }
}
