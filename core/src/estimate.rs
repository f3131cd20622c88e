//! One estimate from every source: how many tokens of a prompt each endpoint of a pool has cached,
//! and which source says so.
//!
//! ```text
//!   routed prompts ─▶ learned index ─ learned ────┐
//!   KV manager ───────────────────── kv_manager ──┼─▶ claims ─ × confidence ─▶ the most exact trusted source
//!   KV events ────────────────────── kv_events ───┘                ▲
//!   usage.cached_tokens, counters ──────────── expected : reported ┘
//! ```
//!
//! Each source can be wrong, late or missing. What it claimed for a request is compared with what
//! the engine reports afterwards, and its later claims are scaled by that ([`SourceConfidence`]). A
//! complete KV-event stream also shows what is *not* cached: above a minimum confidence it
//! overrules the other sources, except for prompts that are being computed, which will be cached by
//! the time the next request reaches them. The size of the learned index is calibrated in the same
//! way: claims that fail mean that the engine evicts earlier. Engines that report no cached tokens
//! per request are judged by their counters ([`counter_window`]).
//!
//! Positions are those of the pool that was applied last.

use std::{collections::HashMap, time::Duration};

use smallvec::SmallVec;

use crate::{
    departures::Departures,
    learned_index::{EndpointSlot, LearnedIndex},
    query::{CacheHit, CacheSource, CachedTokens, Query},
    snapshot::{EndpointId, Pool},
};

mod calibration;
mod claims;
mod confidence;
mod counter_window;
mod merge;

use calibration::PromptCalibration;
pub(crate) use claims::CacheClaims;
pub(crate) use confidence::SourceConfidence;
pub use counter_window::CacheCounters;
use counter_window::CounterWindow;
pub(crate) use counter_window::SentClaim;
pub(crate) use merge::CacheEstimate;

/// Up to this many holders of a prompt's beginning are sorted by position; more are written into a
/// dense table.
const MAX_SORTED: usize = 32;

/// Steps of sweeping the index in one tick, ten times a second: half a millisecond of the
/// scheduler's lock.
const SWEPT: usize = 4_096;

/// Estimates for one prompt: in ascending order of position, each once.
pub(crate) type CacheEstimates = SmallVec<[CacheEstimate; 8]>;

/// Cached tokens of one prompt: positions in ascending order, and tokens.
pub(crate) type PositionHits = SmallVec<[(u32, u32); 8]>;

/// See the module.
#[derive(Debug)]
pub(crate) struct CacheEstimator {
    index: LearnedIndex,
    /// Position in the pool, by slot of the index; `u32::MAX` of an endpoint that left, or whose
    /// address several engines share.
    positions: Vec<u32>,
    /// Parallel to the pool's endpoints.
    endpoints: Vec<EndpointCache>,
    /// Their part of the index stays.
    departed: Departures<EndpointCache>,
    calibration: PromptCalibration,
    /// Cache capacity in tokens to assume when an engine does not report it.
    default_capacity: u32,
}

/// The cache of one endpoint.
#[derive(Clone, Debug)]
struct EndpointCache {
    endpoint: EndpointId,
    /// In tokens, if the engine reports it.
    capacity: Option<u64>,
    confidence: SourceConfidence,
    counters: CounterWindow,
    /// Several engines answer at its address.
    is_shared: bool,
}

// === CacheEstimator ===

impl CacheEstimator {
    pub(crate) fn new() -> Self {
        Self {
            index: LearnedIndex::default(),
            positions: Vec::new(),
            endpoints: Vec::new(),
            departed: Departures::default(),
            calibration: PromptCalibration::default(),
            default_capacity: 0,
        }
    }

    /// Applies a changed pool; endpoints that stay or return keep their state. An engine that does
    /// not report its capacity is assumed to cache `default_capacity` tokens.
    pub(crate) fn apply(&mut self, pool: &Pool, default_capacity: u32, now: Duration) {
        self.default_capacity = default_capacity;
        let before = std::mem::take(&mut self.endpoints)
            .into_iter()
            .map(|cache| (cache.endpoint, cache));
        let mut before: HashMap<EndpointId, EndpointCache> = before.collect();
        let ids = pool.endpoints.iter().map(|endpoint| endpoint.id);
        let departed = &mut self.departed;
        let mut cache = |id| before.remove(&id).or_else(|| departed.take_back(id));
        self.endpoints = ids
            .map(|id| cache(id).unwrap_or_else(|| EndpointCache::new(id)))
            .collect();
        for (endpoint, cache) in before {
            self.departed.leave(endpoint, cache, now);
        }
        self.index.retain(|endpoint| {
            pool.position(endpoint).is_some() || self.departed.contains(endpoint)
        });
        self.resize();
    }

    /// Estimates of `query` from the learned index and from the hits of other sources. `computing`
    /// is the number of prompts that are being computed at a position.
    pub(crate) fn estimate(
        &self,
        query: &Query,
        others: &[CacheHit],
        position: impl Fn(EndpointId) -> Option<usize>,
        computing: impl Fn(usize) -> u32,
    ) -> CacheEstimates {
        let mut claims = self.learned_claims(query);
        for hit in others {
            let Some(position) = position(hit.endpoint) else {
                continue;
            };
            let position = position as u32;
            let at = match claims.binary_search_by_key(&position, |(position, _)| *position) {
                Ok(at) => at,
                Err(at) => {
                    claims.insert(at, (position, CacheClaims::default()));
                    at
                }
            };
            claims[at].1.add(*hit);
        }
        let merge = |(position, claims): (u32, CacheClaims)| {
            let claims = self.with_computing(position as usize, claims, query, &computing);
            self.merge(position, claims, query)
        };
        claims.into_iter().map(merge).collect()
    }

    /// Replaces what the learned index claims for one endpoint by its present claim.
    pub(crate) fn refresh_learned(
        &self,
        estimates: &mut CacheEstimates,
        position: usize,
        query: &Query,
        computing: u32,
    ) {
        let cache = &self.endpoints[position];
        let slot = self.index.slot(cache.endpoint).filter(|_| !cache.is_shared);
        let depth = slot.map_or(0, |slot| self.index.depth(slot, &query.blocks));
        let learned = calibration::tokens_of_blocks(query, depth);
        let at = estimates.binary_search_by_key(&(position as u32), |one| one.position);
        let before = at.map_or_else(|_| CacheClaims::default(), |at| estimates[at].claims);
        let claims = CacheClaims { learned, ..before };
        let claims = self.with_computing(position, claims, query, |_| computing);
        let estimate = self.merge(position as u32, claims, query);
        match at {
            Ok(at) => estimates[at] = estimate,
            Err(at) => estimates.insert(at, estimate),
        }
    }

    /// The prompt was routed to this endpoint.
    pub(crate) fn routed(&mut self, endpoint: EndpointId, query: &Query) {
        if query.blocks.is_empty() {
            return;
        }
        self.calibration.observe_blocks(query);
        self.index.insert(endpoint, &query.blocks);
    }

    /// A prompt of these blocks was routed to this endpoint before this estimator existed.
    pub(crate) fn replay(&mut self, endpoint: EndpointId, blocks: &[u64]) {
        self.index.insert(endpoint, blocks);
    }

    /// Tokens of a prompt, from its start, that the last `running` prompts which were routed to
    /// this position cover: they share memory.
    pub(crate) fn in_use(&self, position: usize, query: &Query, running: u32) -> u32 {
        let slot = self.index.slot(self.endpoints[position].endpoint);
        let latest = |slot| self.index.depth_of_latest(slot, &query.blocks, running);
        calibration::tokens_of_blocks(query, slot.map_or(0, latest)).min(query.prompt_tokens)
    }

    /// As [`Self::in_use`], of those that were routed there after `route`.
    pub(crate) fn in_use_since(
        &self,
        position: usize,
        query: &Query,
        route: u32,
        running: u32,
    ) -> u32 {
        let later = self.latest_route(position).wrapping_sub(route);
        self.in_use(position, query, running.min(later))
    }

    /// The number of the latest prompt that was routed to this position.
    pub(crate) fn latest_route(&self, position: usize) -> u32 {
        let slot = self.index.slot(self.endpoints[position].endpoint);
        slot.map_or(0, |slot| self.index.latest_route(slot))
    }

    /// The engine reported the cached tokens of a request for which `claims` were made.
    pub(crate) fn reported(&mut self, position: usize, claims: CacheClaims, cached: u32) {
        let tolerance = self.calibration.tokens_per_block() as u32;
        let confidence = &mut self.endpoints[position].confidence;
        let before = confidence.index_share();
        confidence.observe(claims, cached, tolerance);
        if confidence.index_share() != before {
            self.resize_one(position);
        }
    }

    /// The engine reported its cache capacity in tokens; `None` when it reports none.
    pub(crate) fn set_capacity(&mut self, position: usize, tokens: Option<u64>) {
        if self.endpoints[position].capacity != tokens {
            self.endpoints[position].capacity = tokens;
            self.resize_one(position);
        }
    }

    /// Converts capacities to blocks again when the mean block length has drifted, forgets
    /// endpoints of `pool` that left too long ago, and sweeps a part of what is forgotten.
    pub(crate) fn settle(&mut self, pool: &Pool, now: Duration) {
        self.index.sweep(SWEPT);
        if self.departed.expire(now) {
            self.index.retain(|endpoint| {
                pool.position(endpoint).is_some() || self.departed.contains(endpoint)
            });
        }
        if self.calibration.has_drifted() {
            self.resize();
        }
    }

    /// Several engines answer at this endpoint's address, or one: of several, none is known to have
    /// what was routed there, so that the learned index claims nothing.
    pub(crate) fn set_shared(&mut self, position: usize, is_shared: bool) {
        self.endpoints[position].is_shared = is_shared;
        self.clear(position);
        self.resize_one(position);
    }

    /// The engine lost its cache.
    pub(crate) fn clear(&mut self, position: usize) {
        let cache = &mut self.endpoints[position];
        cache.counters.restart();
        self.index.clear(cache.endpoint);
        // It has another slot.
        self.resize_one(position);
    }

    /// The claims for a prompt that is sent to this position now; `used` is the source that
    /// decided.
    pub(crate) fn sent(
        &self,
        position: usize,
        claims: CacheClaims,
        used: Option<CacheSource>,
        prompt_tokens: u32,
    ) -> SentClaim {
        let counters = &self.endpoints[position].counters;
        counters.sent(claims, used, prompt_tokens)
    }

    /// The first byte of an answer came of which this was claimed.
    pub(crate) fn answered(&mut self, position: usize, sent: SentClaim) {
        let tolerance = self.calibration.tokens_per_block() as u32;
        self.endpoints[position].counters.answered(sent, tolerance);
    }

    /// A request ended without usage.
    pub(crate) fn unreported(&mut self, position: usize) {
        self.endpoints[position].counters.unreported();
    }

    /// The engine's counters were read: they judge the claims for requests whose usage is not
    /// reported.
    pub(crate) fn counted(&mut self, position: usize, counters: CacheCounters, now: Duration) {
        let tolerance = self.calibration.tokens_per_block() as u32;
        let cache = &mut self.endpoints[position];
        let before = cache.confidence.index_share();
        for verdict in cache.counters.scraped(counters, tolerance, now) {
            cache.confidence.judged(verdict);
        }
        if cache.confidence.index_share() != before {
            self.resize_one(position);
        }
    }

    /// The engine reported the length of a prompt.
    pub(crate) fn measured(&mut self, query: &Query, prompt_tokens: u32) {
        self.calibration.observe_length(query, prompt_tokens);
    }

    /// The query with its estimated prompt length corrected to the engine's tokens.
    pub(crate) fn corrected(&self, query: &Query) -> Query {
        self.calibration.corrected(query)
    }

    /// What was routed where.
    pub(crate) fn index(&self) -> &LearnedIndex {
        &self.index
    }

    pub(crate) fn confidence(&self, position: usize) -> &SourceConfidence {
        &self.endpoints[position].confidence
    }

    /// The claims of the learned index, in ascending order of position.
    fn learned_claims(&self, query: &Query) -> SmallVec<[(u32, CacheClaims); 8]> {
        let matches = self.index.lookup(&query.blocks);
        let claim = |(position, depth)| {
            let learned = calibration::tokens_of_blocks(query, depth);
            let claims = CacheClaims {
                learned,
                ..CacheClaims::default()
            };
            (position, claims)
        };
        // Those that left, or share an address, have no position.
        let at = |slot: EndpointSlot| {
            let position = self.positions.get(usize::from(slot)).copied();
            position.filter(|position| *position != u32::MAX)
        };
        if matches.len() <= MAX_SORTED {
            let held = matches.iter();
            let few = held.filter_map(|&(slot, depth)| Some((at(slot)?, depth)));
            let mut few: SmallVec<[(u32, u32); MAX_SORTED]> = few.collect();
            few.sort_unstable();
            return few.into_iter().map(claim).collect();
        }
        // Many endpoints share this beginning: a dense table is cheaper than sorting.
        let mut depths = vec![0; self.endpoints.len()];
        for &(slot, depth) in &matches {
            if let Some(position) = at(slot) {
                depths[position as usize] = depth;
            }
        }
        let held = depths.into_iter().enumerate();
        let held = held.filter(|(_, depth)| *depth > 0);
        held.map(|(position, depth)| claim((position as u32, depth)))
            .collect()
    }

    /// KV events report what is stored, not what is being computed: the latest routed prompts, as
    /// many as are not answered yet, are cached by the time another one with the same beginning is
    /// scheduled there.
    fn with_computing(
        &self,
        position: usize,
        claims: CacheClaims,
        query: &Query,
        computing: impl Fn(usize) -> u32,
    ) -> CacheClaims {
        let complete = claims.kv_events.filter(|_| !claims.kv_events_partial);
        let Some(stored) = complete.filter(|stored| claims.learned > *stored) else {
            return claims;
        };
        let Some(slot) = self.index.slot(self.endpoints[position].endpoint) else {
            return claims;
        };
        let latest = computing(position);
        let depth = self.index.depth_of_latest(slot, &query.blocks, latest);
        let coming = calibration::tokens_of_blocks(query, depth);
        if coming > stored {
            CacheClaims {
                learned: coming,
                kv_events_partial: true,
                ..claims
            }
        } else {
            claims
        }
    }

    fn merge(&self, position: u32, claims: CacheClaims, query: &Query) -> CacheEstimate {
        let confidence = &self.endpoints[position as usize].confidence;
        // The last token is always computed: the engine samples from its output.
        let most = query.prompt_tokens.saturating_sub(1);
        CacheEstimate::merge(position, claims, confidence, most)
    }

    fn resize(&mut self) {
        self.calibration.settle();
        self.positions.clear();
        for position in 0..self.endpoints.len() {
            self.resize_one(position);
        }
    }

    fn resize_one(&mut self, position: usize) {
        let cache = &self.endpoints[position];
        let capacity = cache.capacity.unwrap_or(self.default_capacity.into());
        let tokens = capacity as f64 * f64::from(cache.confidence.index_share());
        let blocks = (tokens / self.calibration.tokens_per_block().max(1.0)) as usize;
        let Some(slot) = self.index.set_capacity(cache.endpoint, blocks.max(1)) else {
            return;
        };
        let slot = usize::from(slot);
        if self.positions.len() <= slot {
            self.positions.resize(slot + 1, u32::MAX);
        }
        self.positions[slot] = if cache.is_shared {
            u32::MAX
        } else {
            position as u32
        };
    }
}

// === EndpointCache ===

impl EndpointCache {
    fn new(endpoint: EndpointId) -> Self {
        Self {
            endpoint,
            capacity: None,
            confidence: SourceConfidence::default(),
            counters: CounterWindow::default(),
            is_shared: false,
        }
    }
}

/// The estimates as the scheduler's costs read them.
pub(crate) fn position_hits(estimates: &CacheEstimates) -> PositionHits {
    let cached = estimates.iter().filter(|estimate| estimate.tokens > 0);
    cached
        .map(|estimate| (estimate.position, estimate.tokens))
        .collect()
}

/// The estimates as pickers read them.
pub(crate) fn cache_hits(estimates: &CacheEstimates, pool: &Pool) -> Vec<CacheHit> {
    let hit = |estimate: &CacheEstimate| CacheHit {
        endpoint: pool.endpoints[estimate.position as usize].id,
        cached: CachedTokens::on_gpu(estimate.tokens),
        source: estimate.source,
        at_least: false,
    };
    let cached = estimates.iter().filter(|estimate| estimate.tokens > 0);
    cached.map(hit).collect()
}
