//! One answer from every source: how many tokens of a prompt each endpoint of a pool has cached, and who says so.
//!
//! ```text
//!   routed prompts ─▶ index ──────── learned ─┐
//!   KV manager ───────────────────── manager ─┼─ × trust ─▶ claims ─▶ the most exact one that is trusted
//!   KV events ────────────────────── events ──┘     ▲
//!   usage.cached_tokens, counters ── expected : reported
//! ```
//!
//! Each source can lie, lag or vanish. What it claimed of a request is compared with what the engine reports afterwards,
//! and its later claims count in proportion. Events of a stream that was heard from its beginning know what is *not*
//! cached, too: while they are trusted they overrule the others, but for prompts that are being computed, which are cached
//! soon. The index learns its size in the same way: claims that fail mean that the engine evicts sooner.

use std::collections::HashMap;

use smallvec::SmallVec;

use super::{cost::PositionHits, trust::SourceConfidence};
use crate::{
    learned_index::{EndpointSlot, LearnedIndex},
    query::{CacheHit, CacheSource, CachedTokens, Query},
    snapshot::{EndpointId, Pool},
};

/// Tokens of one block until prompts have told: 256 bytes of English.
const USUAL_BLOCK: f64 = 64.0;
/// How fast the mean of tokens per block follows.
const FOLLOW: f64 = 0.02;
/// How far tokens per block may drift before capacities follow.
const DRIFT: f64 = 0.1;
/// Estimates of a prompt's length are corrected within these bounds.
const RATIO: (f64, f64) = (0.25, 4.0);
/// Endpoints that are sorted, when they hold the beginning of a prompt.
const FEW: usize = 32;
/// Below this a source does not overrule others.
const TRUSTED: f32 = 0.5;

/// See the module.
#[derive(Debug)]
pub(super) struct CacheEstimator {
    index: LearnedIndex,
    /// Position in the pool, by slot of the index.
    positions: Vec<u32>,
    /// Parallel to the pool's endpoints.
    holders: Vec<EndpointCache>,
    tokens_per_block: f64,
    /// What they were when endpoints' capacities were last turned into blocks.
    sized_for: f64,
    /// Tokens that an engine is taken to cache when it does not tell.
    usual_capacity: u32,
    /// True tokens per token that proxies estimate.
    ratio: f64,
}

/// What is known of one endpoint's cache.
#[derive(Clone, Debug)]
struct EndpointCache {
    endpoint: EndpointId,
    capacity: Option<u64>,
    trust: SourceConfidence,
    /// Tokens that were expected to be cached, of requests of which the engine told nothing.
    unreported: u64,
}

/// What every source says of one endpoint, in tokens of prefill saved; `None` from a source that says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CacheClaims {
    pub(super) learned: u32,
    pub(super) manager: Option<u32>,
    pub(super) events: Option<u32>,
    /// Events tell of a part only, so that what they do not tell of may be there, or be there soon.
    pub(super) events_in_part: bool,
}

/// One endpoint's claims, as they are believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CacheEstimate {
    pub(super) position: u32,
    /// Cached tokens.
    pub(super) tokens: u32,
    pub(super) source: CacheSource,
    pub(super) claims: CacheClaims,
}

/// In ascending order of position, each once.
pub(super) type CacheEstimates = SmallVec<[CacheEstimate; 8]>;

// === Caches ===

impl CacheEstimator {
    pub(super) fn new() -> Self {
        Self {
            index: LearnedIndex::default(),
            positions: Vec::new(),
            holders: Vec::new(),
            tokens_per_block: USUAL_BLOCK,
            sized_for: USUAL_BLOCK,
            usual_capacity: 0,
            ratio: 1.0,
        }
    }

    /// Follows a changed pool; endpoints that stay keep what is known of them. Engines that do not tell are taken to
    /// cache `usual_capacity` tokens.
    pub(super) fn apply(&mut self, pool: &Pool, usual_capacity: u32) {
        self.usual_capacity = usual_capacity;
        self.index
            .retain(|endpoint| pool.position(endpoint).is_some());
        let before = std::mem::take(&mut self.holders)
            .into_iter()
            .map(|holder| (holder.endpoint, holder));
        let mut before: HashMap<EndpointId, EndpointCache> = before.collect();
        let ids = pool.endpoints.iter().map(|endpoint| endpoint.id);
        self.holders = ids
            .map(|id| before.remove(&id).unwrap_or_else(|| EndpointCache::new(id)))
            .collect();
        self.resize();
    }

    /// What is believed of `query`, with what other sources said of it. `computing` is how many prompts are being computed
    /// at a position.
    pub(super) fn beliefs(
        &self,
        query: &Query,
        others: &[CacheHit],
        position: impl Fn(EndpointId) -> Option<usize>,
        computing: impl Fn(usize) -> u32,
    ) -> CacheEstimates {
        let mut claims = self.learned(query);
        for hit in others {
            let Some(position) = position(hit.endpoint) else {
                continue;
            };
            let at =
                match claims.binary_search_by_key(&(position as u32), |(position, _)| *position) {
                    Ok(at) => at,
                    Err(at) => {
                        claims.insert(at, (position as u32, CacheClaims::default()));
                        at
                    }
                };
            claims[at].1.note(*hit);
        }
        // The last token is always computed: its answer is wanted.
        let most = query.prompt_tokens.saturating_sub(1);
        let believe = |(position, claims): (u32, CacheClaims)| {
            let claims = self.with_coming(position as usize, claims, query, &computing);
            self.holders[position as usize].believe(position, claims, most)
        };
        claims.into_iter().map(believe).collect()
    }

    /// What the index knows of a prompt, in ascending order of position.
    fn learned(&self, query: &Query) -> SmallVec<[(u32, CacheClaims); 8]> {
        let per_block = tokens_per_block(query);
        let tokens = |depth: u32| (f64::from(depth) * per_block) as u32;
        let matches = self.index.lookup(&query.blocks);
        let claim = |(position, depth)| {
            (
                position,
                CacheClaims {
                    learned: tokens(depth),
                    ..CacheClaims::default()
                },
            )
        };
        let at = |slot: EndpointSlot| self.positions[usize::from(slot)];
        if matches.len() <= FEW {
            let mut few: SmallVec<[(u32, u32); FEW]> = matches
                .iter()
                .map(|&(slot, depth)| (at(slot), depth))
                .collect();
            few.sort_unstable();
            return few.into_iter().map(claim).collect();
        }
        // Where a beginning is shared by many endpoints, writing all positions down is cheaper than sorting.
        let mut depths = vec![0; self.holders.len()];
        matches
            .iter()
            .for_each(|&(slot, depth)| depths[at(slot) as usize] = depth);
        let held = depths
            .into_iter()
            .enumerate()
            .filter(|(_, depth)| *depth > 0);
        held.map(|(position, depth)| claim((position as u32, depth)))
            .collect()
    }

    /// Events tell what is stored, not what is being computed: the latest prompts, as many as are not answered yet, are
    /// cached by the time that another one which begins alike gets its turn there.
    fn with_coming(
        &self,
        position: usize,
        claims: CacheClaims,
        query: &Query,
        computing: impl Fn(usize) -> u32,
    ) -> CacheClaims {
        let Some(stored) = claims
            .events
            .filter(|stored| !claims.events_in_part && claims.learned > *stored)
        else {
            return claims;
        };
        let Some(slot) = self.index.slot(self.holders[position].endpoint) else {
            return claims;
        };
        let depth = self
            .index
            .depth_of_latest(slot, &query.blocks, computing(position));
        let coming = (f64::from(depth) * tokens_per_block(query)) as u32;
        if coming > stored {
            CacheClaims {
                learned: coming,
                events_in_part: true,
                ..claims
            }
        } else {
            claims
        }
    }

    /// What the index knows of one endpoint now, in place of what it knew.
    pub(super) fn relearn(
        &self,
        beliefs: &mut CacheEstimates,
        position: usize,
        query: &Query,
        computing: u32,
    ) {
        let holder = &self.holders[position];
        let depth = self
            .index
            .slot(holder.endpoint)
            .map_or(0, |slot| self.index.depth(slot, &query.blocks));
        let learned = (f64::from(depth) * tokens_per_block(query)) as u32;
        let most = query.prompt_tokens.saturating_sub(1);
        let at = beliefs.binary_search_by_key(&(position as u32), |belief| belief.position);
        let before = at.map_or_else(|_| CacheClaims::default(), |at| beliefs[at].claims);
        let claims = self.with_coming(position, CacheClaims { learned, ..before }, query, |_| {
            computing
        });
        let belief = holder.believe(position as u32, claims, most);
        match at {
            Ok(at) => beliefs[at] = belief,
            Err(at) => beliefs.insert(at, belief),
        }
    }

    /// The prompt was routed there.
    pub(super) fn routed(&mut self, endpoint: EndpointId, query: &Query) {
        if query.blocks.is_empty() {
            return;
        }
        let per_block = tokens_per_block(query);
        self.tokens_per_block += FOLLOW * (per_block - self.tokens_per_block);
        self.index.insert(endpoint, &query.blocks);
    }

    /// A prompt of these blocks was routed there some time ago, says somebody who was there.
    pub(super) fn taught(&mut self, endpoint: EndpointId, blocks: &[u64]) {
        self.index.insert(endpoint, blocks);
    }

    /// The engine reported how many tokens of a prompt it had cached, of which this was claimed.
    pub(super) fn reported(&mut self, position: usize, claims: CacheClaims, cached: u32) {
        let holder = &mut self.holders[position];
        let before = holder.trust.size();
        holder
            .trust
            .reported(claims, cached, self.tokens_per_block as u32);
        if holder.trust.size() != before {
            self.resize_one(position);
        }
    }

    /// The engine told how many tokens it caches at most.
    pub(super) fn set_capacity(&mut self, position: usize, tokens: Option<u64>) {
        if self.holders[position].capacity != tokens {
            self.holders[position].capacity = tokens;
            self.resize_one(position);
        }
    }

    /// Turns capacities into blocks anew, once blocks have turned out to be of another length.
    pub(super) fn settle(&mut self) {
        if (self.tokens_per_block / self.sized_for - 1.0).abs() > DRIFT {
            self.resize();
        }
    }

    /// The engine lost its cache.
    pub(super) fn clear(&mut self, position: usize) {
        self.index.clear(self.holders[position].endpoint);
    }

    /// How many of the tokens that were expected to be cached the engine found, by its counters: for engines that report
    /// it for no request.
    pub(super) fn counted(&mut self, position: usize, found: u64) {
        let holder = &mut self.holders[position];
        let expected = std::mem::take(&mut holder.unreported);
        if expected > 0 {
            let learned = u32::try_from(expected).unwrap_or(u32::MAX);
            let found = u32::try_from(found).unwrap_or(u32::MAX);
            holder.trust.reported(
                CacheClaims {
                    learned,
                    ..CacheClaims::default()
                },
                found,
                self.tokens_per_block as u32,
            );
            self.resize_one(position);
        }
    }

    /// So many tokens were expected to be cached, and the engine did not say.
    pub(super) fn unreported(&mut self, position: usize, expected: u32) {
        self.holders[position].unreported += u64::from(expected);
    }

    /// How long a prompt really was.
    pub(super) fn measured(&mut self, query: &Query, prompt_tokens: u32) {
        if query.exact_tokens {
            return;
        }
        let factor = f64::from(prompt_tokens) / f64::from(query.prompt_tokens.max(1));
        let (least, most) = RATIO;
        self.ratio =
            (self.ratio * (1.0 + FOLLOW * (factor.clamp(least, most) - 1.0))).clamp(least, most);
    }

    /// A query as it would be had its proxy counted tokens, and not bytes.
    pub(super) fn in_true_tokens(&self, query: &Query) -> Query {
        if query.exact_tokens {
            return query.clone();
        }
        let tokens = f64::from(query.prompt_tokens) * self.ratio;
        Query {
            prompt_tokens: (tokens.round() as u32).max(1),
            ..query.clone()
        }
    }

    /// Who holds what, as routed.
    pub(super) fn index(&self) -> &LearnedIndex {
        &self.index
    }

    pub(super) fn trust(&self, position: usize) -> &SourceConfidence {
        &self.holders[position].trust
    }

    fn resize(&mut self) {
        self.sized_for = self.tokens_per_block;
        self.positions.clear();
        for position in 0..self.holders.len() {
            self.resize_one(position);
        }
    }

    fn resize_one(&mut self, position: usize) {
        let holder = &self.holders[position];
        let tokens = holder.capacity.unwrap_or(self.usual_capacity.into()) as f64
            * f64::from(holder.trust.size());
        let blocks = (tokens / self.tokens_per_block.max(1.0)) as usize;
        let Some(slot) = self.index.set_capacity(holder.endpoint, blocks.max(1)) else {
            return;
        };
        let slot = usize::from(slot);
        if self.positions.len() <= slot {
            self.positions.resize(slot + 1, u32::MAX);
        }
        self.positions[slot] = position as u32;
    }
}

/// Tokens in one block of this prompt.
fn tokens_per_block(query: &Query) -> f64 {
    let blocks = (query.blocks.len() as f64).max(1.0);
    let hashed = (query.blocks.len() as u64 * u64::from(query.block_bytes))
        .min(query.prompt_bytes.max(1)) as f64;
    f64::from(query.prompt_tokens) * (hashed / query.prompt_bytes.max(1) as f64) / blocks
}

// === Claims ===

impl CacheClaims {
    fn note(&mut self, hit: CacheHit) {
        let worth = hit.cached.saved_tokens();
        match hit.source {
            CacheSource::Learned => self.learned = self.learned.max(worth),
            CacheSource::KvManager => self.manager = self.manager.max(Some(worth)),
            CacheSource::KvEvents => {
                self.events = self.events.max(Some(worth));
                self.events_in_part = hit.at_least;
            }
        }
    }

    /// The most that anyone but events claims.
    pub(super) fn best_of_others(&self) -> u32 {
        self.learned.max(self.manager.unwrap_or(0))
    }

    /// What one source claims.
    pub(super) const fn of(&self, source: CacheSource) -> Option<u32> {
        match source {
            CacheSource::Learned => Some(self.learned),
            CacheSource::KvManager => self.manager,
            CacheSource::KvEvents => self.events,
        }
    }
}

// === Holder ===

impl EndpointCache {
    fn new(endpoint: EndpointId) -> Self {
        Self {
            endpoint,
            capacity: None,
            trust: SourceConfidence::default(),
            unreported: 0,
        }
    }

    fn believe(&self, position: u32, claims: CacheClaims, most: u32) -> CacheEstimate {
        let believed = |source| {
            let tokens = claims.of(source)? as f32 * self.trust.of(source);
            Some((tokens as u32, source))
        };
        let overrule = !claims.events_in_part && self.trust.of(CacheSource::KvEvents) >= TRUSTED;
        let exact = believed(CacheSource::KvEvents).filter(|_| overrule);
        let best = exact.or_else(|| CacheSource::ALL.into_iter().filter_map(believed).max());
        let (tokens, source) = best.unwrap_or((0, CacheSource::Learned));
        CacheEstimate {
            position,
            tokens: tokens.min(most),
            source,
            claims,
        }
    }
}

/// What costs are made of.
pub(super) fn worth(beliefs: &CacheEstimates) -> PositionHits {
    beliefs
        .iter()
        .filter(|belief| belief.tokens > 0)
        .map(|belief| (belief.position, belief.tokens))
        .collect()
}

/// What pickers read.
pub(super) fn as_hits(beliefs: &CacheEstimates, pool: &Pool) -> Vec<CacheHit> {
    let hit = |belief: &CacheEstimate| CacheHit {
        endpoint: pool.endpoints[belief.position as usize].id,
        cached: CachedTokens::on_gpu(belief.tokens),
        source: belief.source,
        at_least: false,
    };
    beliefs
        .iter()
        .filter(|belief| belief.tokens > 0)
        .map(hit)
        .collect()
}
