//! Binding: books a request at its endpoint and updates the ledger, the learned index and the fair
//! shares.

use std::time::Duration;

use smallvec::SmallVec;

use super::{
    Assignment, Scheduler,
    cost::{CandidateSet, CostRanking, CostedPrompt, EndpointCost, WastePrice},
    fleet::PrefillWork,
    lookup::CacheLookup,
    requests::{RequestMetadata, RequestProgress},
    seconds,
};
use crate::{
    estimate,
    explanation::ExpectedCosts,
    ledger::RequestKey,
    pick::{NoEndpoint, PickRequest},
    query::{CacheSource, EndpointChoice, MAX_RANKED, Query, RankedEndpoint},
};

/// A request that is to be bound.
#[derive(Clone, Copy)]
pub(super) struct PendingBinding<'a> {
    pub(super) key: RequestKey,
    pub(super) query: &'a Query,
    pub(super) model: Option<&'a str>,
    pub(super) lookup: &'a CacheLookup,
    pub(super) waited: Duration,
}

impl Scheduler {
    /// Books the request where it costs least, the first of `ranking`, which is not empty.
    pub(super) fn bind(
        &mut self,
        pending: PendingBinding<'_>,
        candidates: &CandidateSet,
        ranking: &CostRanking,
        price: WastePrice,
        now: Duration,
    ) -> Assignment {
        let PendingBinding {
            key,
            query,
            model,
            lookup,
            waited,
        } = pending;
        let (cost, candidate) = (ranking[0], candidates.candidates[ranking[0].candidate]);
        let ranked: SmallVec<[RankedEndpoint; MAX_RANKED]> = ranking
            .iter()
            .map(|cost| self.ranked(candidates, cost))
            .collect();
        let is_pair: SmallVec<[usize; MAX_RANKED]> = (ranking.iter().zip(&ranked))
            .filter_map(|(cost, ranked)| cost.is_pair.then_some(ranked.position))
            .collect();
        let ranked = self.paired(ranked, &is_pair, (query, model), lookup, now);
        let costs = ExpectedCosts {
            queue_delay: seconds(candidate.queue_delay),
            ttft: seconds(cost.finish),
            wasted_prefill: seconds(cost.wasted_prefill),
            gamma: price.at(&candidate) as f32,
            runner_up: ranked.get(1).map(|second| second.endpoint),
        };
        let prompt = CostedPrompt {
            tokens: query.prompt_tokens,
            hits: &lookup.hits,
            credit: self.rents.credit(query, now),
            handovers: None,
        };
        let paid = candidates.rent(prompt, cost, waited.as_secs_f64()) - cost.spared;
        self.rents.bound(query, paid, now);
        let source = self.book(key, ranked[0], query, lookup, now);
        let choice = EndpointChoice {
            ranked,
            panic_mode: false,
        };
        Assignment {
            choice,
            prompt_tokens: query.prompt_tokens,
            source,
            waited,
            costs: Some(costs),
        }
    }

    /// Books what the pool's strategy picks.
    ///
    /// # Errors
    /// When no endpoint may serve the request.
    pub(super) fn pick(
        &mut self,
        pending: PendingBinding<'_>,
        now: Duration,
    ) -> Result<Assignment, NoEndpoint> {
        let PendingBinding {
            key,
            query,
            model,
            lookup,
            waited,
        } = pending;
        let hits = estimate::cache_hits(&lookup.estimates, self.pool());
        let Self {
            endpoints,
            round_robin_counter: turn,
            rng,
            ..
        } = self;
        let total_in_flight = Some(endpoints.ledger().len() as u64);
        let ask = PickRequest {
            query,
            model,
            hits: &hits,
            round_robin_counter: *turn,
            total_in_flight,
        };
        let loads = endpoints.loads();
        let choice = endpoints
            .picker()
            .pick(&ask, |position| loads[position], rng)?;
        if is_uncached(query, choice.ranked[0].cached_tokens) {
            return Err(NoEndpoint::NotCached);
        }
        let source = self.book(key, choice.ranked[0], query, lookup, now);
        Ok(Assignment {
            choice,
            prompt_tokens: query.prompt_tokens,
            source,
            waited,
            costs: None,
        })
    }

    /// Books a fixed endpoint, regardless of cost: only it can serve the request. Nothing changes
    /// if the request was sent already.
    pub fn book_fixed(&mut self, key: RequestKey, position: usize, query: &Query, now: Duration) {
        if self.endpoints.ledger().is_sent(key) {
            return;
        }
        let query = &self.endpoints.corrected(query);
        let endpoint = self.pool().endpoints[position].id;
        self.book(
            key,
            RankedEndpoint::alone(position, endpoint, 0),
            query,
            &CacheLookup::default(),
            now,
        );
    }

    /// Books a choice and updates the learned index. Returns the source of its estimate.
    pub(super) fn book(
        &mut self,
        key: RequestKey,
        first: RankedEndpoint,
        query: &Query,
        lookup: &CacheLookup,
        now: Duration,
    ) -> Option<CacheSource> {
        if let Some(decode) = first.decode {
            return self.book_pair(key, (first, decode), query, lookup, now);
        }
        let RankedEndpoint {
            position,
            endpoint,
            cached_tokens,
            decode: _,
        } = first;
        let uncached = query.prompt_tokens.saturating_sub(cached_tokens);
        let memory = self.endpoints.memory(position, query);
        let replaced = self.endpoints.ledger().get(key);
        self.endpoints.book(
            key.into(),
            position,
            PrefillWork {
                memory,
                uncached,
                non_streaming: query.non_streaming,
            },
            now,
        );
        if let Some(replaced) = replaced {
            self.free_memory(key, replaced.endpoint);
        }
        self.endpoints.routed(endpoint, query);
        self.round_robin_counter = self.round_robin_counter.wrapping_add(1);
        let expectation = lookup.expectation(position);
        let metadata = RequestMetadata {
            query: query.clone(),
            expectation,
            sent: Some(
                self.endpoints
                    .sent_claim(position, expectation, query.prompt_tokens),
            ),
            memory: self.endpoints.charge(position, memory),
            prefill: None,
            progress: RequestProgress::default(),
        };
        let open = self.endpoints.ledger();
        self.requests.booked(key, metadata, uncached, open, now);
        expectation.cached.map(|(source, _)| source)
    }

    fn ranked(&self, candidates: &CandidateSet, cost: &EndpointCost) -> RankedEndpoint {
        let position = candidates.candidates[cost.candidate].position as usize;
        let endpoint = self.pool().endpoints[position].id;
        RankedEndpoint::alone(position, endpoint, cost.cached)
    }
}

/// Whether the request is not to be served where this number of tokens is cached.
pub(super) fn is_uncached(query: &Query, cached_tokens: u32) -> bool {
    query.only_cached && !query.is_covered_by(cached_tokens)
}
