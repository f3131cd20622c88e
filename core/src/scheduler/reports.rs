//! What a dispatcher hears: from proxies about requests, from engines about themselves, from time.

use std::{sync::Arc, time::Duration};

use super::{RequestMetadata, Scheduler, fleet::PrefillWork};
use crate::{
    estimate::CacheClaims,
    ledger::{LedgerEntry, ProxyId, RequestId, RequestKey, RequestPhase},
    load::{EngineSample, Health},
    query::CacheSource,
    snapshot::EndpointId,
};

/// What a request came to, as far as its engine told.
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

/// What was expected of a cache and what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachePrediction {
    /// Who was believed.
    pub source: CacheSource,
    /// Tokens expected to be cached.
    pub expected: u32,
    /// Tokens that the engine reported.
    pub reported: u32,
}

impl Scheduler {
    /// A proxy sent a request to an endpoint, where `uncached` tokens are to be prefilled by its reckoning.
    /// `non_streaming`: its answer comes as a whole.
    pub fn started(
        &mut self,
        key: RequestKey,
        endpoint: EndpointId,
        uncached: u32,
        non_streaming: bool,
        now: Duration,
    ) {
        self.remove_queued(key);
        let prompt = self
            .metadata
            .get(&key)
            .map_or(uncached, |metadata| metadata.query.prompt_tokens);
        if self.fleet.started(
            key,
            endpoint,
            PrefillWork {
                prompt,
                uncached,
                non_streaming,
            },
            now,
        ) && let Some(metadata) = self.metadata.get_mut(&key)
        {
            // A retry elsewhere: what was expected of the first endpoint says nothing of this one.
            (metadata.claims, metadata.expected_cached) = (CacheClaims::default(), None);
            self.caches.routed(endpoint, &metadata.query);
        }
    }

    /// The first byte of an answer came, `ttft` after the request was sent. The entry as it was before, the first time.
    pub fn first_byte(
        &mut self,
        key: RequestKey,
        ttft: Option<Duration>,
        now: Duration,
    ) -> Option<LedgerEntry> {
        self.fleet.first_byte(key, ttft, now)
    }

    /// A request is over. Its entry, the first time only, and how its cache turned out.
    pub fn finished(
        &mut self,
        key: RequestKey,
        ended: EngineUsage,
        now: Duration,
    ) -> (Option<LedgerEntry>, Option<CachePrediction>) {
        self.remove_queued(key);
        self.fleet.assume_done(now);
        let open = self.fleet.release(|ledger| ledger.finish(key), now);
        let metadata = self.metadata.remove(&key);
        let position = open.and_then(|open| self.fleet.position(open.endpoint));
        let calibration = position.and_then(|position| self.learn(position, metadata?, ended));
        if let (Some(position), Some(decoding), Some(tokens)) =
            (position, ended.decoding, ended.completion_tokens)
        {
            self.fleet.engines[position]
                .decode
                .answered(decoding, tokens);
        }
        (open, calibration)
    }

    /// A proxy wants no answer any more: the request waits no longer, and a booking that nobody acted on is taken back.
    /// The booking, and whether the request waited.
    pub fn cancel(&mut self, key: RequestKey, now: Duration) -> (Option<LedgerEntry>, bool) {
        let waited = self.remove_queued(key).is_some();
        let open = self.fleet.release(|ledger| ledger.cancel(key), now);
        if open.is_some() {
            self.metadata.remove(&key);
        }
        (open, waited)
    }

    /// A proxy says what it really has open here.
    pub fn replace_proxy(
        &mut self,
        proxy: ProxyId,
        open: impl IntoIterator<Item = (RequestId, EndpointId, u32, RequestPhase)>,
        now: Duration,
    ) {
        let pool = Arc::clone(self.pool());
        let open = open
            .into_iter()
            .filter(|(_, endpoint, ..)| pool.position(*endpoint).is_some());
        self.fleet
            .change(|ledger| ledger.replace_proxy(proxy, open, now), now);
    }

    /// A proxy is gone for good, and with it what it had open or waiting. How many open requests that were.
    pub fn forget_proxy(&mut self, proxy: ProxyId, now: Duration) -> usize {
        let waiting: Vec<RequestKey> = self.queue.keys().filter(|key| key.proxy == proxy).collect();
        waiting
            .into_iter()
            .for_each(|key| _ = self.remove_queued(key));
        self.fleet.forget_proxy(proxy, now)
    }

    /// A proxy remembers that a prompt of these blocks was sent there, before this dispatcher knew of it.
    pub fn replay_history(&mut self, endpoint: EndpointId, blocks: &[u64]) {
        self.caches.replay(endpoint, blocks);
    }

    /// Lets time pass: bookings expire, and the pool's own speed becomes what is usual. How many bookings expired.
    pub fn tick(&mut self, now: Duration) -> usize {
        self.caches.settle();
        self.fleet.tick(
            super::kv_aware_or_default(self.pool()).default_prefill_rate,
            now,
        )
    }

    /// An engine's own figures; `None` when they are missing or stale.
    pub fn set_sample(&mut self, position: usize, sample: Option<EngineSample>) {
        let ours = self.fleet.flight(position);
        self.fleet.loads[position].sample = sample;
        self.fleet.engines[position].sampled(sample, ours);
    }

    /// Whether an endpoint may be chosen.
    pub fn set_health(&mut self, position: usize, health: Health) {
        self.fleet.loads[position].health = health;
    }

    /// The size of an engine's KV cache in tokens, if it told.
    pub fn set_capacity(&mut self, position: usize, tokens: Option<u64>) {
        self.fleet.engines[position].set_capacity(tokens);
        self.caches.set_capacity(position, tokens);
    }

    /// Another process answers at an endpoint now: its cache is empty, and its speed another.
    pub fn restarted(&mut self, position: usize) {
        self.fleet.engines[position].restarted();
        self.caches.clear(position);
        self.queue
            .iter_mut()
            .for_each(|waiting| waiting.lookup.at = None);
    }

    /// How an engine's counters of looked up and found prompt tokens moved: for engines that tell it of no request.
    pub fn hit_tokens_counted(&mut self, position: usize, found: u64) {
        self.caches.hit_tokens_counted(position, found);
    }

    /// What came true of what was believed of a request's cache.
    fn learn(
        &mut self,
        position: usize,
        metadata: RequestMetadata,
        ended: EngineUsage,
    ) -> Option<CachePrediction> {
        let RequestMetadata {
            query,
            claims,
            expected_cached,
        } = metadata;
        if let Some(prompt_tokens) = ended.prompt_tokens {
            self.caches.measured(&query, prompt_tokens);
        }
        let Some(reported) = ended.cached_tokens else {
            self.caches
                .unreported(position, expected_cached.map_or(0, |(_, tokens)| tokens));
            return None;
        };
        self.caches.reported(position, claims, reported);
        expected_cached.map(|(source, expected)| CachePrediction {
            source,
            expected,
            reported,
        })
    }
}
