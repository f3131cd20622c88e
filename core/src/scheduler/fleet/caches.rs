//! The caches of a fleet: estimates for prompts, and what is learned about them.

use std::time::Duration;

use super::Fleet;
use crate::{
    estimate::{self, CacheCounters, SentClaim},
    query::{CacheHit, CacheSource, Query},
    scheduler::lookup::{CacheExpectation, CacheLookup},
    snapshot::EndpointId,
};

impl Fleet {
    /// The query with its estimated prompt length corrected to the engines' tokens.
    pub(in crate::scheduler) fn corrected(&self, query: &Query) -> Query {
        self.caches.corrected(query)
    }

    /// What each endpoint has cached of a prompt, by the learned index and the hits of other
    /// sources. Nothing counts as cached of a prompt that is computed whole: its report says
    /// nothing about caches.
    pub(in crate::scheduler) fn lookup(
        &self,
        query: &Query,
        others: &[CacheHit],
        now: Duration,
    ) -> CacheLookup {
        let at = Some(now);
        if query.recomputes_prompt {
            return CacheLookup {
                at,
                ..CacheLookup::default()
            };
        }
        let computing = |position| self.flight(position).unanswered;
        let estimates =
            self.caches
                .estimate(query, others, |endpoint| self.position(endpoint), computing);
        let hits = estimate::position_hits(&estimates);
        CacheLookup {
            estimates,
            hits,
            at,
        }
    }

    /// A prompt was booked at this position: updates the lookup of another one that begins alike.
    pub(in crate::scheduler) fn refresh_learned(
        &self,
        lookup: &mut CacheLookup,
        position: usize,
        query: &Query,
    ) {
        if query.recomputes_prompt {
            return;
        }
        let computing = self.flight(position).unanswered;
        self.caches
            .refresh_learned(&mut lookup.estimates, position, query, computing);
        lookup.hits = estimate::position_hits(&lookup.estimates);
    }

    /// A prompt was routed to this endpoint.
    pub(in crate::scheduler) fn routed(&mut self, endpoint: EndpointId, query: &Query) {
        self.caches.routed(endpoint, query);
    }

    /// A prompt of these blocks was routed to this endpoint before this fleet existed.
    pub(in crate::scheduler) fn replay_history(&mut self, endpoint: EndpointId, blocks: &[u64]) {
        self.caches.replay(endpoint, blocks);
    }

    /// Compares what was expected of a request with what its engine reported: the length of its
    /// prompt, and its cached tokens. `position` is where it ended.
    pub(in crate::scheduler) fn cache_reported(
        &mut self,
        position: usize,
        query: &Query,
        expectation: CacheExpectation,
        prompt_tokens: Option<u32>,
        cached_tokens: Option<u32>,
    ) {
        if let Some(prompt_tokens) = prompt_tokens {
            self.caches.measured(query, prompt_tokens);
        }
        match cached_tokens {
            Some(cached) => self.caches.reported(position, expectation.claims, cached),
            None => self.caches.unreported(position),
        }
    }

    /// What is claimed of a prompt that is sent to this position now, for its engine's counters.
    pub(in crate::scheduler) fn sent_claim(
        &self,
        position: usize,
        expectation: CacheExpectation,
        prompt_tokens: u32,
    ) -> SentClaim {
        let used = expectation.cached.map(|(source, _)| source);
        self.caches
            .sent(position, expectation.claims, used, prompt_tokens)
    }

    /// The first byte of an answer came of which this was claimed.
    pub(in crate::scheduler) fn claim_answered(&mut self, position: usize, sent: SentClaim) {
        self.caches.answered(position, sent);
    }

    /// An engine's counters of its prefix cache were read.
    pub(in crate::scheduler) fn cache_counted(
        &mut self,
        position: usize,
        counters: CacheCounters,
        now: Duration,
    ) {
        self.caches.counted(position, counters, now);
    }

    /// The size of an engine's KV cache in tokens, if it reports it.
    pub(in crate::scheduler) fn set_capacity(&mut self, position: usize, tokens: Option<u64>) {
        self.engines[position].set_capacity(tokens);
        self.caches.set_capacity(position, tokens);
    }

    /// The process at an endpoint was replaced: its cache is empty, and its speed unknown.
    pub(in crate::scheduler) fn restarted(&mut self, position: usize) {
        self.engines[position].restarted();
        self.read_terms(position);
        self.caches.clear(position);
    }

    /// Several engines answer at an endpoint's address, or one.
    pub(in crate::scheduler) fn set_shared(&mut self, position: usize, is_shared: bool) {
        self.caches.set_shared(position, is_shared);
    }

    /// Confidence in each source at this position, in the order of [`CacheSource::ALL`].
    pub(in crate::scheduler) fn confidence(&self, position: usize) -> [f32; 3] {
        let confidence = self.caches.confidence(position);
        CacheSource::ALL.map(|source| confidence.of(source))
    }

    /// The share of an engine's stated capacity that the learned index uses.
    #[cfg(test)]
    pub(in crate::scheduler) fn index_share(&self, position: usize) -> f32 {
        self.caches.confidence(position).index_share()
    }

    /// Pairs of a block and an endpoint that the learned index holds, and its bytes of memory.
    pub(in crate::scheduler) fn learned_index_size(&self) -> (usize, usize) {
        let index = self.caches.index();
        (index.len(), index.bytes())
    }
}
