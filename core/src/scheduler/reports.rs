//! Reports to the scheduler: from proxies about requests, from engines about themselves, and the
//! passing of time.

use std::{sync::Arc, time::Duration};

use super::{Scheduler, fleet::PrefillWork, requests::RequestMetadata};
use crate::{
    estimate::CacheCounters,
    ledger::{LedgerEntry, LegId, LegKey, ListedLeg, OpenLeg, ProxyId, RequestKey},
    load::{EngineSample, Health},
    query::CacheSource,
    snapshot::EndpointId,
};

/// The usage of a finished request, as far as its engine reported it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineUsage {
    /// Tokens of its prompt.
    pub prompt_tokens: Option<u32>,
    /// How many of them were cached.
    pub cached_tokens: Option<u32>,
    /// Tokens of its answer.
    pub completion_tokens: Option<u32>,
    /// From the first byte of the answer to its last.
    pub decoding: Option<Duration>,
}

/// The expected and the reported cached tokens of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachePrediction {
    /// The source of the expectation.
    pub source: CacheSource,
    /// Tokens expected to be cached.
    pub expected: u32,
    /// Tokens that the engine reported.
    pub reported: u32,
}

impl Scheduler {
    /// A proxy sent a leg of a request to an endpoint, with `uncached` tokens to prefill by its own
    /// estimate. `non_streaming`: its answer comes as a whole.
    pub fn started(
        &mut self,
        leg: impl Into<LegKey>,
        endpoint: EndpointId,
        uncached: u32,
        non_streaming: bool,
        now: Duration,
    ) {
        let leg = leg.into();
        self.requests.queue.remove(leg.request);
        let before = self.endpoints.ledger().get(leg);
        let moves = before.is_none_or(|open| open.endpoint != endpoint);
        let position = self.endpoints.position(endpoint);
        let metadata = self.requests.metadata(leg.request);
        let memory = match (metadata, position) {
            (Some(metadata), Some(position)) if moves => {
                self.endpoints.memory(position, &metadata.query)
            }
            _ => uncached,
        };
        if self.endpoints.started(
            leg,
            endpoint,
            PrefillWork {
                memory,
                uncached,
                non_streaming,
            },
            now,
        ) {
            if let (LegId::MAIN, Some(before)) = (leg.leg, before) {
                self.free_memory(leg.request, before.endpoint);
            }
            if let Some(RequestMetadata { query, .. }) = self.requests.metadata(leg.request) {
                self.endpoints.routed(endpoint, query);
            }
            if let (LegId::PREFILL, Some(before)) = (leg.leg, before) {
                self.free_prefill(leg.request, before.endpoint);
            }
            let charge = position.map(|position| self.endpoints.charge(position, memory));
            match (leg.leg, charge) {
                // A retry elsewhere: the expectations were for the first endpoint.
                (LegId::MAIN, Some(charge)) => self.requests.moved(leg.request, charge),
                (LegId::PREFILL, Some(charge)) => self.requests.prefill_moved(leg.request, charge),
                _ => {}
            }
        }
    }

    /// The first byte of an answer came, `ttft` after its leg was sent. Returns the leg before
    /// that, the first time.
    pub fn first_byte(
        &mut self,
        leg: impl Into<LegKey>,
        ttft: Option<Duration>,
        now: Duration,
    ) -> Option<OpenLeg> {
        let leg = leg.into();
        self.claim_answered(leg);
        let before = self.endpoints.first_byte(leg, ttft, now)?;
        match (leg.leg, self.endpoints.position(before.endpoint)) {
            (LegId::PREFILL, _) => self.requests.prefilled(leg.request, before.endpoint, now),
            (LegId::MAIN, Some(position)) => self.answering(leg.request, position, ttft, now),
            _ => {}
        }
        Some(before)
    }

    /// A leg ended, and its request goes on. Returns the leg, the first time only.
    pub fn leg_finished(&mut self, leg: LegKey, now: Duration) -> Option<OpenLeg> {
        self.endpoints.assume_done(now);
        let ended = self.endpoints.release_leg(leg, now)?;
        match leg.leg {
            LegId::MAIN => self.free_memory(leg.request, ended.endpoint),
            LegId::PREFILL => self.free_prefill(leg.request, ended.endpoint),
            _ => {}
        }
        Some(ended)
    }

    /// A leg of a request went on in another pool. Returns the leg, the first time only. Its
    /// request may have other legs here, which stay.
    pub fn leg_left(&mut self, leg: LegKey, now: Duration) -> Option<OpenLeg> {
        let left = self.leg_finished(leg, now);
        if !self.endpoints.ledger().has_request(leg.request) {
            self.requests.ended(leg.request);
        }
        left
    }

    /// A request ended, with all its legs. Returns those that were open, the first time only, and
    /// how its cache estimate compares.
    pub fn finished(
        &mut self,
        key: RequestKey,
        ended: EngineUsage,
        now: Duration,
    ) -> (Option<LedgerEntry>, Option<CachePrediction>) {
        self.requests.queue.remove(key);
        self.endpoints.assume_done(now);
        let released = self
            .endpoints
            .release(key, |ledger| ledger.finish(key), now);
        if let Some(prefill) = released.as_ref().and_then(|legs| legs.leg(LegId::PREFILL)) {
            self.free_prefill(key, prefill.endpoint);
        }
        let metadata = self.requests.ended(key);
        let main = released.as_ref().and_then(LedgerEntry::main);
        let position = main.and_then(|open| self.endpoints.position(open.endpoint));
        if let (Some(position), Some(metadata)) = (position, &metadata) {
            self.endpoints
                .freed(position, &metadata.query, metadata.memory);
            if let (Some(cached), None) = (ended.cached_tokens, &metadata.prefill) {
                let prompt = ended.prompt_tokens.unwrap_or(metadata.query.prompt_tokens);
                self.endpoints
                    .prefilled(position, key, prompt.saturating_sub(cached));
            }
        }
        let answering = metadata
            .as_ref()
            .and_then(|metadata| metadata.progress.answering);
        let learnt_from = metadata.filter(|metadata| metadata.prefill.is_none());
        let calibration = position.and_then(|position| self.learn(position, learnt_from?, ended));
        if let (Some(position), Some(decoding), Some(tokens)) =
            (position, ended.decoding, ended.completion_tokens)
        {
            let answer = (decoding, tokens);
            self.endpoints.decoded(position, answer, answering, now);
        }
        (released, calibration)
    }

    /// A proxy cancels a request: it leaves the queue, and an unconfirmed booking is released.
    /// Returns the booking, and whether the request was queued.
    pub fn cancel(&mut self, key: RequestKey, now: Duration) -> (Option<LedgerEntry>, bool) {
        let waited = self.requests.queue.remove(key).is_some();
        let booking = self
            .endpoints
            .release(key, |ledger| ledger.cancel(key), now);
        if let Some(prefill) = booking.as_ref().and_then(|legs| legs.leg(LegId::PREFILL)) {
            self.free_prefill(key, prefill.endpoint);
        }
        if let Some(booking) = &booking
            && !self.endpoints.ledger().has_request(key)
            && let Some(metadata) = self.requests.ended(key)
            && let Some(open) = booking.main()
            && let Some(position) = self.endpoints.position(open.endpoint)
        {
            self.endpoints
                .freed(position, &metadata.query, metadata.memory);
        }
        (booking, waited)
    }

    /// A proxy reports all its open requests.
    pub fn replace_proxy(
        &mut self,
        proxy: ProxyId,
        open: impl IntoIterator<Item = ListedLeg>,
        now: Duration,
    ) {
        let pool = Arc::clone(self.pool());
        let open = open
            .into_iter()
            .filter(|listed| pool.position(listed.endpoint).is_some());
        self.endpoints
            .change(|ledger| ledger.replace_proxy(proxy, open, now), now);
    }

    /// A proxy is gone for good, with its open and queued requests. Returns the number of open
    /// ones.
    pub fn forget_proxy(&mut self, proxy: ProxyId, now: Duration) -> usize {
        let queue = &self.requests.queue;
        let waiting: Vec<RequestKey> = queue.keys().filter(|key| key.proxy == proxy).collect();
        waiting
            .into_iter()
            .for_each(|key| _ = self.requests.queue.remove(key));
        self.endpoints.forget_proxy(proxy, now)
    }

    /// A prompt of these blocks was sent there before this scheduler existed, by a proxy's routing
    /// history.
    pub fn replay_history(&mut self, endpoint: EndpointId, blocks: &[u64]) {
        self.endpoints.replay_history(endpoint, blocks);
    }

    /// Advances time: bookings expire, and the pool's median speed becomes the usual one.
    /// Returns the number of expired bookings.
    pub fn tick(&mut self, now: Duration) -> usize {
        self.endpoints.tick(now)
    }

    /// An engine's own figures; `None` when they are missing or stale.
    pub fn set_sample(&mut self, position: usize, sample: Option<EngineSample>) {
        self.endpoints.set_sample(position, sample);
    }

    /// Sets the health of an endpoint.
    pub fn set_health(&mut self, position: usize, health: Health) {
        self.endpoints.set_health(position, health);
    }

    /// The size of an engine's KV cache in tokens, if it reports it.
    pub fn set_capacity(&mut self, position: usize, tokens: Option<u64>) {
        self.endpoints.set_capacity(position, tokens);
    }

    /// The number of independent schedulers behind an endpoint's URL, each of which computes one
    /// prompt at a time; 0 counts as 1.
    pub fn set_lanes(&mut self, position: usize, lanes: u32, now: Duration) {
        self.endpoints.set_lanes(position, lanes, now);
    }

    /// The process at an endpoint was replaced: its cache is empty, and its speed unknown.
    pub fn restarted(&mut self, position: usize) {
        self.endpoints.restarted(position);
        self.outdate_lookups();
    }

    /// Several engines answer at an endpoint's address in turn, or one again: what is cached there
    /// of the prompts that were routed to it is unknown, and is not learned from now on, or is.
    pub fn set_shared(&mut self, position: usize, is_shared: bool) {
        self.endpoints.set_shared(position, is_shared);
        self.outdate_lookups();
    }

    /// What is known of the caches for queued requests is looked up again.
    fn outdate_lookups(&mut self) {
        self.requests
            .queue
            .iter_mut()
            .for_each(|waiting| waiting.lookup.at = None);
    }

    /// An engine's counters of its prefix cache were read: for engines that report no usage per
    /// request.
    pub fn cache_counted(&mut self, position: usize, counters: CacheCounters, now: Duration) {
        self.endpoints.cache_counted(position, counters, now);
    }

    /// The first byte of a main leg came: its engine has counted the hits of the prompt.
    fn claim_answered(&mut self, leg: LegKey) {
        let open = self.endpoints.ledger().get(leg);
        let open = open.filter(|_| leg.leg == LegId::MAIN);
        let position = open.and_then(|open| self.endpoints.position(open.endpoint));
        if let Some(position) = position
            && let Some(sent) = self.requests.take_claim(leg.request)
        {
            self.endpoints.claim_answered(position, sent);
        }
    }

    /// The answer of a request begins at a position: of a pair, that shows how long the transfer
    /// took.
    fn answering(
        &mut self,
        request: RequestKey,
        position: usize,
        ttft: Option<Duration>,
        now: Duration,
    ) {
        let mark = self.endpoints.occupancy(position, now);
        let Some(moved) = self.requests.answering(request, mark, now) else {
            return;
        };
        if let Some(prefill) = self.endpoints.position(moved.from) {
            // A leg that was sent after the prefill knows better than two reports.
            let took = ttft.map_or(moved.took, |ttft| ttft.min(moved.took));
            self.endpoints
                .transferred((prefill, position), moved.tokens, took);
        }
    }

    /// The main leg of a request is not at this endpoint any more.
    pub(super) fn free_memory(&mut self, request: RequestKey, endpoint: EndpointId) {
        if let Some(position) = self.endpoints.position(endpoint)
            && let Some(RequestMetadata { query, memory, .. }) = self.requests.metadata(request)
        {
            self.endpoints.freed(position, query, *memory);
        }
    }

    /// Compares the reported usage with the expectations.
    fn learn(
        &mut self,
        position: usize,
        metadata: RequestMetadata,
        ended: EngineUsage,
    ) -> Option<CachePrediction> {
        let RequestMetadata {
            query, expectation, ..
        } = metadata;
        let (prompt, cached) = (ended.prompt_tokens, ended.cached_tokens);
        self.endpoints
            .cache_reported(position, &query, expectation, prompt, cached);
        let (source, expected) = expectation.cached?;
        cached.map(|reported| CachePrediction {
            source,
            expected,
            reported,
        })
    }
}
