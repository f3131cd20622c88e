//! The learned index: which endpoint was sent which prompt, and so probably holds its KV cache.
//!
//! ```text
//!   chain of a prompt     h1 ── h2 ── h3 ── h4            blocks: one record per hash, with its parent and its holders
//!   routed to a, touch 7   a:7   a:7   a:7   a:7          each holder remembers the last touch that covered the block
//!   h1 h2 h5 to a, touch 8 a:8   a:8   a:7   a:7   h5 a:8
//!   evict                               ▲ touch 7 is the oldest: its tail goes first, block by block
//! ```
//!
//! It needs nothing from the engine. What an endpoint holds is bounded by its capacity, and leaves
//! in the order in which an engine evicts: the least recently used prompt first, and of it the tail
//! before the head.
//!
//! Invariants:
//! * who holds a block holds every block before it, so that the longest match is found by
//!   bisection;
//! * an endpoint holds at most its capacity of blocks, and an endpoint that is cleared or gone
//!   holds none;
//! * a block without holders does not exist, and its memory is given back.
//!
//! Clearing takes constant time: the endpoint gets another slot, and what the retired one holds
//! counts for nothing until it is swept away, in steps ([`LearnedIndex::sweep`]), as is what
//! exceeds a capacity that shrank. Every insertion sweeps as much as it adds, so the memory that is
//! owed does not grow.
//!
//! Costs, for a chain of n blocks: `lookup` probes the hash table log2(n) times and then follows
//! parents, looking at holders only where a new one appears; `insert` touches n records. State: 24
//! bytes a block, 5 to 11 for its place in the hash table, and 8 for every holder after the second;
//! 8 bytes for each prompt that was routed.

use std::collections::{HashMap, VecDeque};

use smallvec::SmallVec;

use crate::{hash::MixBuildHasher, snapshot::EndpointId};

mod blocks;
mod holders;
mod routes;

use blocks::{BlockId, BlockTable};
use routes::EndpointRoutes;

/// Names an endpoint inside one index: small, and used again when its endpoint is gone.
pub type EndpointSlot = u16;

/// Endpoints that an index knows at most; more are not learned about.
pub const MAX_ENDPOINTS: usize = holders::MAX_SLOTS;

/// Blocks per endpoint at most, whatever its engine claims to hold.
pub const MAX_CAPACITY: usize = 1 << 20;

/// See the module. One per pool.
#[derive(Debug, Default)]
pub struct LearnedIndex {
    blocks: BlockTable,
    slots: HashMap<EndpointId, EndpointSlot, MixBuildHasher>,
    /// By slot.
    routes: Vec<EndpointRoutes>,
    /// Slots without an endpoint, and without a block.
    free: Vec<EndpointSlot>,
    /// Slots that hold more than their capacity, retired ones among them. Each is there once, but
    /// one whose capacity shrank again.
    owed: VecDeque<EndpointSlot>,
    retired: usize,
}

/// Who holds how many of a chain's blocks, from its start; each slot once, the longest first.
pub type PrefixMatches = SmallVec<[(EndpointSlot, u32); 16]>;

// === LearnedIndex ===

impl LearnedIndex {
    /// Makes an endpoint known, or changes how many blocks it holds at most. `None` when the index
    /// is full.
    pub fn set_capacity(&mut self, endpoint: EndpointId, blocks: usize) -> Option<EndpointSlot> {
        let slot = match self.slots.get(&endpoint) {
            Some(&slot) => slot,
            None => self.admit(endpoint)?,
        };
        let routes = &mut self.routes[usize::from(slot)];
        let was_over = routes.is_over();
        routes.capacity = blocks.min(MAX_CAPACITY);
        if routes.is_over() && !was_over {
            self.owed.push_back(slot);
        }
        Some(slot)
    }

    /// The endpoint's slot.
    #[must_use]
    pub fn slot(&self, endpoint: EndpointId) -> Option<EndpointSlot> {
        self.slots.get(&endpoint).copied()
    }

    /// A prompt was routed to the endpoint: from now on it holds the prompt's blocks. Unknown
    /// endpoints learn nothing.
    pub fn insert(&mut self, endpoint: EndpointId, chain: &[u64]) {
        let Some(&slot) = self.slots.get(&endpoint) else {
            return;
        };
        self.sweep(chain.len());
        let Self { blocks, routes, .. } = self;
        let routes = &mut routes[usize::from(slot)];
        let chain = &chain[..chain.len().min(routes.capacity)];
        if chain.is_empty() {
            return;
        }
        // What exceeds a capacity that shrank leaves as fast as blocks are added, and not at once.
        let most = if routes.is_over() {
            chain.len()
        } else {
            usize::MAX
        };
        let touch = routes.begin();
        let (known, deepest) = blocks.bisect(chain);
        let mut added = blocks.touch_upwards(deepest, slot, touch);
        let mut tail = deepest;
        for &hash in &chain[known..] {
            tail = Some(blocks.insert(hash, tail));
            added += blocks.touch_one(tail, slot, touch);
        }
        routes.end(touch, tail, added);
        routes.evict(slot, blocks, most);
        routes.compact(slot, blocks);
    }

    /// Who holds how much of a chain.
    #[must_use]
    pub fn lookup(&self, chain: &[u64]) -> PrefixMatches {
        let mut matches = PrefixMatches::new();
        let (mut depth, mut at) = self.blocks.bisect(chain);
        let mut seen = SlotSet::default();
        // Blocks are found by their hashes alone. Where one is equal to another's of a longer
        // chain, that chain goes on upwards when this one is at its start.
        while let Some(id) = at.filter(|_| depth > 0) {
            let holders = self.blocks.holders(id);
            // Holders only grow towards the head: an equal number means that none is new.
            if holders.len() > matches.len() {
                holders.for_each(|slot| {
                    if seen.insert(slot) {
                        matches.push((slot, depth as u32));
                    }
                });
                if matches.len() >= self.slots.len() + self.retired {
                    break;
                }
            }
            at = self.blocks.parent(id);
            depth -= 1;
        }
        if self.retired > 0 {
            matches.retain(|(slot, _)| !self.routes[usize::from(*slot)].is_retired);
        }
        matches
    }

    /// How many of a chain's blocks one endpoint holds, from the start.
    #[must_use]
    pub fn depth(&self, slot: EndpointSlot, chain: &[u64]) -> u32 {
        self.blocks
            .depth_where(chain, |id| self.blocks.touch_of(id, slot).is_some())
    }

    /// The number of the latest prompt that was routed there.
    #[must_use]
    pub fn latest_route(&self, slot: EndpointSlot) -> u32 {
        self.routes[usize::from(slot)].latest()
    }

    /// How many of a chain's blocks the last `routes` prompts that were routed there cover, from
    /// the start.
    #[must_use]
    pub fn depth_of_latest(&self, slot: EndpointSlot, chain: &[u64], routes: u32) -> u32 {
        let latest = self.routes[usize::from(slot)].latest();
        self.blocks.depth_where(chain, |id| {
            self.blocks
                .touch_of(id, slot)
                .is_some_and(|touch| latest.wrapping_sub(touch) < routes)
        })
    }

    /// The endpoint lost its cache: it restarted, or said so. It has another slot afterwards.
    pub fn clear(&mut self, endpoint: EndpointId) {
        let Some(slot) = self.slot(endpoint) else {
            return;
        };
        let successor = self.routes[usize::from(slot)].successor();
        self.slots.remove(&endpoint);
        self.retire(slot);
        if let Some(next) = self.admit(endpoint) {
            self.routes[usize::from(next)] = successor;
        }
    }

    /// Forgets endpoints that do not exist any more.
    pub fn retain(&mut self, exists: impl Fn(EndpointId) -> bool) {
        let gone = self.slots.extract_if(|&endpoint, _| !exists(endpoint));
        let gone: Vec<EndpointSlot> = gone.map(|(_, slot)| slot).collect();
        gone.into_iter().for_each(|slot| self.retire(slot));
    }

    /// Releases blocks that count for nothing any more, in `most` steps at most; a step is some 100
    /// ns. Returns whether any may be left.
    pub fn sweep(&mut self, most: usize) -> bool {
        let mut left = most;
        while let Some(&slot) = self.owed.front() {
            let routes = &mut self.routes[usize::from(slot)];
            left -= routes.evict(slot, &mut self.blocks, left);
            if routes.is_over() && left == 0 {
                return true;
            }
            if routes.is_retired {
                *routes = EndpointRoutes::default();
                self.retired -= 1;
                self.free.push(slot);
            }
            self.owed.pop_front();
        }
        false
    }

    /// Blocks that the endpoint holds.
    #[must_use]
    pub fn held(&self, endpoint: EndpointId) -> usize {
        self.slot(endpoint)
            .map_or(0, |slot| self.routes[usize::from(slot)].held)
    }

    /// Pairs of a block and an endpoint that holds it.
    #[must_use]
    pub fn len(&self) -> usize {
        let in_use = self.routes.iter().filter(|routes| !routes.is_retired);
        in_use.map(|routes| routes.held).sum()
    }

    /// Whether no endpoint holds a block.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Heap memory in use, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.blocks.bytes() + self.routes.iter().map(EndpointRoutes::bytes).sum::<usize>()
    }

    /// The slot has no endpoint any more.
    fn retire(&mut self, slot: EndpointSlot) {
        let routes = &mut self.routes[usize::from(slot)];
        let was_over = routes.is_over();
        (routes.capacity, routes.is_retired) = (0, true);
        self.retired += 1;
        if !was_over {
            self.owed.push_back(slot);
        }
        if !routes.is_over() {
            // It holds nothing.
            self.sweep(0);
        }
    }

    fn admit(&mut self, endpoint: EndpointId) -> Option<EndpointSlot> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.routes.len() < MAX_ENDPOINTS => {
                self.routes.push(EndpointRoutes::default());
                (self.routes.len() - 1) as EndpointSlot
            }
            None => return None,
        };
        self.slots.insert(endpoint, slot);
        Some(slot)
    }
}

// === SlotSet ===

/// A set of slots; inline up to 1,024.
#[derive(Default)]
struct SlotSet(SmallVec<[u64; 16]>);

impl SlotSet {
    /// Whether the slot is new.
    fn insert(&mut self, slot: EndpointSlot) -> bool {
        let (word, bit) = (usize::from(slot / 64), 1 << (slot % 64));
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        let new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        new
    }
}

#[cfg(test)]
mod tests;
