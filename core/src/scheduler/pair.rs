//! Requests that are split between a prefill and a decode endpoint: both legs are booked under one
//! key, each at its endpoint, and released once.
//!
//! The main leg is the one that decodes. Its endpoint computes no prompt, so that it is booked
//! without tokens and with the whole prompt's memory.

use std::time::Duration;

use smallvec::SmallVec;

use super::{
    Scheduler,
    fleet::{Fleet, PrefillWork},
    lookup::{CacheExpectation, CacheLookup},
    requests::{RequestMetadata, RequestProgress},
};
use crate::{
    ledger::{LegId, RequestKey},
    query::{CacheSource, DecodePartner, MAX_RANKED, Query, RankedEndpoint},
    snapshot::EndpointId,
};

impl Scheduler {
    /// A ranking with decode endpoints for those of its positions that only compute the prompt.
    /// What cannot be paired is as it was.
    pub(super) fn paired(
        &mut self,
        ranked: SmallVec<[RankedEndpoint; MAX_RANKED]>,
        is_pair: &[usize],
        (query, model): (&Query, Option<&str>),
        lookup: &CacheLookup,
        now: Duration,
    ) -> SmallVec<[RankedEndpoint; MAX_RANKED]> {
        if is_pair.is_empty() {
            return ranked;
        }
        let Self { endpoints, rng, .. } = self;
        let (draw, start) = (rng.unit(), rng.next_u64() as usize);
        let is_paired = |ranked: &RankedEndpoint| is_pair.contains(&ranked.position);
        let rank = |prefill: usize, decode: usize| {
            endpoints.takeover_rank((prefill, decode), (query, lookup), draw, now)
        };
        let picker = endpoints.picker();
        let paired = picker.pair_up(&ranked, is_paired, model, start, rank);
        paired.unwrap_or(ranked)
    }

    /// Books the legs of a pair. Returns the source of the estimate of the prefill endpoint's
    /// cache.
    pub(super) fn book_pair(
        &mut self,
        key: RequestKey,
        (prefill, decode): (RankedEndpoint, DecodePartner),
        query: &Query,
        lookup: &CacheLookup,
        now: Duration,
    ) -> Option<CacheSource> {
        self.endpoints.pair_is_made();
        let uncached = query.prompt_tokens.saturating_sub(prefill.cached_tokens);
        let replaced = self.endpoints.ledger().get(key);
        let legs = [
            (LegId::PREFILL, prefill.position, uncached),
            (LegId::MAIN, decode.position, 0),
        ];
        let charges = legs.map(|(leg, position, uncached)| {
            let memory = self.endpoints.memory(position, query);
            let work = PrefillWork {
                memory,
                uncached,
                // A prefill leg is answered when the prompt is computed.
                non_streaming: false,
            };
            self.endpoints.book(key.leg(leg), position, work, now);
            memory
        });
        if let Some(replaced) = replaced {
            self.free_memory(key, replaced.endpoint);
        }
        let [computed, taken_over] = charges;
        self.endpoints.routed(prefill.endpoint, query);
        self.endpoints.routed(decode.endpoint, query);
        self.round_robin_counter = self.round_robin_counter.wrapping_add(1);
        let expected = lookup.expectation(prefill.position);
        let metadata = RequestMetadata {
            query: query.clone(),
            expectation: CacheExpectation::default(),
            sent: None,
            memory: self.endpoints.charge(decode.position, taken_over),
            prefill: Some(self.endpoints.charge(prefill.position, computed)),
            progress: RequestProgress {
                moves: self.endpoints.moved_tokens(decode.position, query, lookup),
                ..RequestProgress::default()
            },
        };
        let open = self.endpoints.ledger();
        self.requests.booked(key, metadata, uncached, open, now);
        expected.cached.map(|(source, _)| source)
    }

    /// The prefill leg of a request is not at this endpoint any more.
    pub(super) fn free_prefill(&mut self, request: RequestKey, endpoint: EndpointId) {
        if let Some(position) = self.endpoints.position(endpoint)
            && let Some(RequestMetadata {
                query,
                prefill: Some(charge),
                ..
            }) = self.requests.metadata(request)
        {
            self.endpoints.freed(position, query, *charge);
        }
    }
}

impl Fleet {
    /// Whether a request is split, if it may be.
    pub(super) fn splits(&self, query: &Query, model: Option<&str>, lookup: &CacheLookup) -> bool {
        let estimates = lookup.estimates.iter();
        let cached = estimates.map(|estimate| (estimate.position as usize, estimate.tokens));
        let loads = self.loads();
        self.picker().splits(query, model, cached, |position| {
            loads[position].health.takes_turns()
        })
    }
}
