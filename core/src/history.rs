//! The recent routing decisions of one proxy: which endpoint got which prompt.
//!
//! ```text
//!   decisions   ┌─ oldest ────────────────── newest ─┐     each with its prompt's chained hashes
//!               └──────────────▲─────────────────────┘
//!   marks       hash at depth 1, 2, … 8, 16, 24, … ──▶ for each endpoint, the newest decision that passed there
//! ```
//!
//! It serves two ends: a proxy that has to choose by itself knows where a prompt may be cached
//! ([`RoutingHistory::hits`]), and the control-plane replica that newly owns a pool replays what
//! its predecessor had learned ([`RoutingHistory::newest_first`]).
//!
//! Costs, because every request is remembered: a chain is entered at a few marks instead of at
//! every block, and equal hashes mean equal prefixes, so that one comparison finds the length of a
//! shared prefix. A hit may be up to [`STRIDE`]` - 1` blocks shorter than what is shared, and never
//! longer.
//!
//! Invariants:
//! * decisions and hashes are bounded ([`HistoryLimits`]); the oldest are dropped first;
//! * a decision whose prompt begins like a newer one's at the same endpoint keeps no hashes: the
//!   newer one says it all;
//! * every mark leads to the newest decision of its endpoint that passed there, or to none.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    iter,
    sync::Arc,
    time::Duration,
};

use smallvec::SmallVec;

use crate::{
    hash::MixBuildHasher,
    query::{CacheHit, CacheSource, CachedTokens, Query},
    snapshot::EndpointId,
};

/// Blocks between two marks; each of the first `STRIDE` blocks is a mark.
pub const STRIDE: usize = 8;

/// Endpoints that one mark remembers; of a beginning that all prompts share, those that got it most
/// recently.
const HOLDERS: usize = 32;

/// One request that was sent to one endpoint, which therefore has, or had, its prompt cached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutedPrompt {
    /// Where it went.
    pub endpoint: EndpointId,
    /// Prompt length in tokens, estimated.
    pub prompt_tokens: u32,
    /// Chained hashes of the prompt's whole blocks, see [`crate::prefix`].
    pub blocks: Arc<[u64]>,
    /// Since it was sent.
    pub age: Duration,
}

/// How much is remembered.
#[derive(Clone, Copy, Debug)]
pub struct HistoryLimits {
    /// Decisions; some 50 bytes each.
    pub prompts: usize,
    /// Hashes of all decisions; some 16 bytes each, marks included.
    pub hashes: usize,
}

/// The recent decisions of one proxy in one pool.
#[derive(Debug)]
pub struct RoutingHistory {
    limits: HistoryLimits,
    block_bytes: u32,
    /// Oldest first.
    decisions: VecDeque<KeptPrompt>,
    /// The number of the oldest: decisions are numbered in the order they come.
    oldest: u64,
    /// Hashes of all decisions.
    hashes: usize,
    marks: HashMap<u64, SmallVec<[MarkEntry; 1]>, MixBuildHasher>,
}

#[derive(Debug)]
struct KeptPrompt {
    endpoint: EndpointId,
    prompt_tokens: u32,
    /// Empty once a newer decision says the same and more.
    blocks: Arc<[u64]>,
    /// Since the proxy's start.
    sent: Duration,
}

/// The newest decision of one endpoint at one mark.
#[derive(Clone, Copy, Debug)]
struct MarkEntry {
    endpoint: EndpointId,
    decision: u64,
}

// === HistoryLimits ===

impl Default for HistoryLimits {
    /// About ten mebibytes; 134 MB of prompts in blocks of 256 bytes.
    fn default() -> Self {
        Self {
            prompts: 1 << 14,
            hashes: 1 << 19,
        }
    }
}

// === RoutingHistory ===

impl RoutingHistory {
    /// Remembers nothing yet. Prompts are hashed over blocks of `block_bytes`.
    #[must_use]
    pub fn new(block_bytes: u32, limits: HistoryLimits) -> Self {
        Self {
            limits,
            block_bytes,
            decisions: VecDeque::new(),
            oldest: 0,
            hashes: 0,
            marks: HashMap::default(),
        }
    }

    /// Bytes of one block of the hashes that it holds.
    #[must_use]
    pub const fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    /// A prompt was sent to `endpoint` at `now`. One without whole blocks is not remembered.
    pub fn record(
        &mut self,
        endpoint: EndpointId,
        blocks: &Arc<[u64]>,
        prompt_tokens: u32,
        now: Duration,
    ) {
        if blocks.is_empty() || blocks.len() > self.limits.hashes {
            return;
        }
        let decision = self.oldest + self.decisions.len() as u64;
        let mut before = None;
        for depth in marks(blocks.len()) {
            let passed = self.marks.entry(blocks[depth - 1]).or_default();
            before = before.or(enter(passed, MarkEntry { endpoint, decision }));
        }
        if let Some(before) = before {
            self.supersede(before, blocks);
        }
        self.hashes += blocks.len();
        self.decisions.push_back(KeptPrompt {
            endpoint,
            prompt_tokens,
            blocks: Arc::clone(blocks),
            sent: now,
        });
        while self.decisions.len() > self.limits.prompts || self.hashes > self.limits.hashes {
            self.forget_oldest();
        }
    }

    /// Who got the beginning of this prompt, and how much of it: for each endpoint the longest that
    /// is known.
    #[must_use]
    pub fn hits(&self, query: &Query) -> Vec<CacheHit> {
        let mut hits: Vec<CacheHit> = Vec::new();
        // Deepest first: what is found first of an endpoint is the longest.
        for depth in marks(query.blocks.len()) {
            let Some(passed) = self.marks.get(&query.blocks[depth - 1]) else {
                continue;
            };
            for &MarkEntry { endpoint, decision } in passed {
                if hits.iter().any(|hit| hit.endpoint == endpoint) {
                    continue;
                }
                let shared = self
                    .kept(decision)
                    .map_or(0, |kept| shared(&kept.blocks, &query.blocks, depth));
                let cached = CachedTokens::on_gpu(self.tokens(query, shared));
                hits.push(CacheHit {
                    endpoint,
                    cached,
                    source: CacheSource::Learned,
                    at_least: false,
                });
            }
        }
        hits
    }

    /// Every decision that says something, newest first, as of `now`.
    pub fn newest_first(&self, now: Duration) -> impl Iterator<Item = RoutedPrompt> {
        self.decisions
            .iter()
            .rev()
            .filter(|kept| !kept.blocks.is_empty())
            .map(move |kept| RoutedPrompt {
                endpoint: kept.endpoint,
                prompt_tokens: kept.prompt_tokens,
                blocks: Arc::clone(&kept.blocks),
                age: now.saturating_sub(kept.sent),
            })
    }

    fn kept(&self, decision: u64) -> Option<&KeptPrompt> {
        self.decisions
            .get(usize::try_from(decision.checked_sub(self.oldest)?).ok()?)
    }

    /// The share of the prompt's tokens in `blocks` of its blocks.
    fn tokens(&self, query: &Query, blocks: usize) -> u32 {
        let shared = blocks as u64 * u64::from(self.block_bytes);
        let tokens = u64::from(query.prompt_tokens) * shared / query.prompt_bytes.max(1);
        u32::try_from(tokens)
            .unwrap_or(u32::MAX)
            .min(query.prompt_tokens)
    }

    /// Drops the hashes of an older decision if `blocks` begins with them.
    fn supersede(&mut self, decision: u64, blocks: &[u64]) {
        let Some(index) = decision.checked_sub(self.oldest) else {
            return;
        };
        let Some(older) = self.decisions.get_mut(index as usize) else {
            return;
        };
        let length = older.blocks.len();
        // At one depth of two chains, equal hashes mean that all before them are equal.
        if length > 0 && blocks.get(length - 1) == older.blocks.last() {
            self.hashes -= length;
            older.blocks = Arc::default();
        }
    }

    fn forget_oldest(&mut self) {
        let Some(kept) = self.decisions.pop_front() else {
            return;
        };
        let decision = self.oldest;
        self.oldest += 1;
        self.hashes -= kept.blocks.len();
        for depth in marks(kept.blocks.len()) {
            let Entry::Occupied(mut mark) = self.marks.entry(kept.blocks[depth - 1]) else {
                continue;
            };
            mark.get_mut().retain(|passed| passed.decision != decision);
            if mark.get().is_empty() {
                mark.remove();
            }
        }
    }
}

/// The depths at which a chain of `blocks` blocks is entered, deepest first.
fn marks(length: usize) -> impl Iterator<Item = usize> {
    let sparse = (2 * STRIDE..length + 1).step_by(STRIDE).rev();
    sparse.chain((1..=length.min(STRIDE)).rev())
}

/// Enters a decision at a mark; returns the one of the same endpoint that it replaces.
fn enter(passed: &mut SmallVec<[MarkEntry; 1]>, newest: MarkEntry) -> Option<u64> {
    if let Some(known) = passed
        .iter_mut()
        .find(|known| known.endpoint == newest.endpoint)
    {
        return Some(std::mem::replace(known, newest).decision);
    }
    if passed.len() < HOLDERS {
        passed.push(newest);
    } else if let Some(oldest) = passed.iter_mut().min_by_key(|known| known.decision) {
        *oldest = newest;
    }
    None
}

/// Blocks that two chains share, given that they share `at_least`.
fn shared(one: &[u64], other: &[u64], at_least: usize) -> usize {
    let more = iter::zip(&one[at_least..], &other[at_least..]).take_while(|(a, b)| a == b);
    at_least + more.count()
}

#[cfg(test)]
mod tests;
