//! An exact index of the KV blocks that the engines of one pool hold, built from their KV events.
//!
//! ```text
//!   stream of a rank ──▶ Rank ──changes──▶ Residency ◀── hits(tokens, identity)
//!                     engine's name        our name of a block ─▶ set of seats, each with its tiers
//!                     ─▶ our name
//! ```
//!
//! Blocks go by names of our own, chained over token ids ([`content`](mod@content)), so that
//! engines with other hash algorithms, seeds and widths meet in one index. Adapter and salt are in
//! the chain: no hit crosses them. A block counts for an endpoint only if that endpoint's own
//! stream reported it and all blocks before it.
//!
//! Invariants:
//! * pure: no clock, no lock, no I/O. The owner of a stream has its [`RankBlocks`]; a shared index
//!   is guarded by a lock, to which changes are applied in slices of microseconds;
//! * clearing and closing a rank take constant time; what it held is swept away in slices and
//!   counts for nothing meanwhile;
//! * bounded: at most [`MAX_BLOCKS`] blocks a rank, [`MAX_SIZES`] block sizes a rank; memory is
//!   given back with the blocks.
//!
//! It does not know streams, sequences or endpoints' health, only what [`SyncState`] its caller
//! gives each rank.

mod content;
mod event;
mod rank;
mod sets;
mod table;
mod tier;
mod walk;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use smallvec::SmallVec;

pub use self::{
    content::{Adapter, ExtraKeys, content, link, root},
    event::{Attention, BlockEvent, RemovedBlocks, StoredBlocks},
    rank::{BlockChange, BlockCounts, MAX_BLOCKS, MAX_SIZES, RankBlocks, TooManyBlocks},
    tier::Tier,
};
use self::{
    rank::RemainingBlocks,
    sets::{HolderSetId, HolderSets, SlotTiers},
    table::ShardedTable,
    tier::TierSet,
    walk::{RankReach, walk},
};
use crate::{
    query::{CacheHit, CacheSource, CachedTokens},
    snapshot::EndpointId,
};

/// Shards of the map of all blocks: a shard of ten million blocks moves in a fraction of a
/// millisecond.
const SHARDS: usize = 1_024;

/// The index of one pool; see the module.
#[derive(Debug)]
pub struct BlockIndex {
    blocks: ShardedTable<HolderSetId>,
    sets: HolderSets,
    slots: Vec<Option<RankEntry>>,
    free: Vec<RankSlot>,
    /// The slots of each endpoint's ranks, sorted by endpoint.
    endpoint_ranks: Vec<(EndpointId, RankSlot)>,
    /// Block sizes in use, and by how many seats.
    sizes: BTreeMap<u32, usize>,
    /// Blocks of ranks that were cleared or closed, still in the map.
    pending_removals: VecDeque<(RankSlot, RemainingBlocks)>,
}

/// What keeps caches of equal tokens apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct CacheIdentity {
    /// The LoRA adapter; nothing for the base model.
    pub adapter: Option<Arc<str>>,
    /// The request's `cache_salt`.
    pub salt: Option<Arc<str>>,
}

/// How complete the blocks of a rank are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SyncState {
    /// Not usable: its stream is broken, or has only begun.
    #[default]
    Unsynced,
    /// Its blocks are cached, and there may be more: the stream was joined late, or lost events.
    Partial,
    /// Complete: a block that is absent is not cached.
    Synced,
}

/// The number of a rank among the holders of blocks. A rank that is cleared gets another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct RankSlot(u32);

/// The rank that uses a slot.
#[derive(Debug)]
struct RankEntry {
    endpoint: EndpointId,
    sync_state: SyncState,
    sizes: SmallVec<[u32; MAX_SIZES]>,
}

// === BlockIndex ===

impl Default for BlockIndex {
    fn default() -> Self {
        Self {
            blocks: ShardedTable::new(SHARDS),
            sets: HolderSets::default(),
            slots: Vec::new(),
            free: Vec::new(),
            endpoint_ranks: Vec::new(),
            sizes: BTreeMap::new(),
            pending_removals: VecDeque::new(),
        }
    }
}

impl BlockIndex {
    /// Adds a rank of this endpoint, which stands [`SyncState::Unsynced`] and has to be closed in
    /// the end.
    pub fn open(&mut self, endpoint: EndpointId) -> RankBlocks {
        RankBlocks::new(self.allocate_slot(endpoint, SyncState::Unsynced))
    }

    /// Sets the sync state of a rank.
    pub fn set_sync_state(&mut self, rank: &RankBlocks, sync_state: SyncState) {
        if let Some(stand) = self.entry_mut(rank.slot) {
            stand.sync_state = sync_state;
        }
    }

    /// Applies the changes of `rank`. A lock around this index is held meanwhile: pass slices.
    pub fn apply(&mut self, rank: &RankBlocks, changes: &[BlockChange]) {
        if self.entry_mut(rank.slot).is_none() {
            return;
        }
        self.learn_sizes(rank);
        for change in changes {
            self.change(rank.slot, *change);
        }
    }

    /// Empties a rank at once.
    pub fn clear(&mut self, rank: &mut RankBlocks, sync_state: SyncState) {
        let Some(endpoint) = self.entry_mut(rank.slot).map(|stand| stand.endpoint) else {
            return;
        };
        let fresh = self.allocate_slot(endpoint, sync_state);
        self.close(rank);
        rank.slot = fresh;
    }

    /// Ends a rank at once. Whatever is done with it afterwards means nothing.
    pub fn close(&mut self, rank: &mut RankBlocks) {
        let rank = std::mem::replace(rank, RankBlocks::new(RankSlot::NOWHERE));
        let slot = rank.slot;
        let Some(RankEntry {
            endpoint, sizes, ..
        }) = self.slots.get_mut(slot.0 as usize).and_then(Option::take)
        else {
            return;
        };
        for size in sizes {
            if let Some(slots) = self.sizes.get_mut(&size) {
                *slots -= 1;
            }
        }
        self.sizes.retain(|_, slots| *slots > 0);
        self.endpoint_ranks
            .retain(|place| *place != (endpoint, slot));
        self.pending_removals.push_back((slot, rank.into_rest()));
    }

    /// Removes at most `blocks` blocks of ranks that were cleared or closed. Returns whether some
    /// are left.
    pub fn sweep(&mut self, blocks: usize) -> bool {
        let Some((slot, mut rest)) = self.pending_removals.pop_front() else {
            return false;
        };
        let mut budget = blocks;
        loop {
            if budget == 0 {
                self.pending_removals.push_front((slot, rest));
                return true;
            }
            let Some(change) = rest.next() else { break };
            self.change(slot, change);
            budget -= 1;
        }
        self.free.push(slot);
        !self.pending_removals.is_empty()
    }

    /// How much of this prompt each endpoint has cached that is known at all. One whose ranks all
    /// stand whole is among them even when it has nothing: that is known too. Of an endpoint's
    /// ranks the best counts.
    ///
    /// The last token is never cached for a request: engines compute at least one, to have
    /// something to sample from, and as they compute whole blocks, a prompt that is cached to its
    /// end costs its last block.
    #[must_use]
    pub fn hits(&self, tokens: &[u32], identity: &CacheIdentity) -> Vec<CacheHit> {
        let mut best = vec![CachedTokens::default(); self.slots.len()];
        for size in self.sizes.keys() {
            for reach in self.reach(tokens, *size, identity) {
                let cached = reach.cached(*size);
                let best = &mut best[reach.slot.0 as usize];
                if cached.saved_tokens() > best.saved_tokens() {
                    *best = cached;
                }
            }
        }
        let mut hits = Vec::with_capacity(self.endpoint_ranks.len());
        for ranks in self.endpoint_ranks.chunk_by(|one, other| one.0 == other.0) {
            let (mut cached, mut is_whole) = (CachedTokens::default(), true);
            for (_, slot) in ranks {
                let here = best[slot.0 as usize];
                if here.saved_tokens() > cached.saved_tokens() {
                    cached = here;
                }
                is_whole &= self.sync_state(*slot) == SyncState::Synced;
            }
            if is_whole || cached != CachedTokens::default() {
                hits.push(CacheHit {
                    endpoint: ranks[0].0,
                    cached,
                    source: CacheSource::KvEvents,
                    at_least: !is_whole,
                });
            }
        }
        hits
    }

    /// The number of ranks in this state.
    #[must_use]
    pub fn ranks_in(&self, sync_state: SyncState) -> usize {
        self.slots
            .iter()
            .flatten()
            .filter(|stand| stand.sync_state == sync_state)
            .count()
    }

    /// Different blocks with at least one holder.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// About how many bytes the index takes, without its ranks.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.blocks.bytes()
            + self.sets.bytes()
            + self.slots.capacity() * size_of::<Option<RankEntry>>()
    }

    fn reach(&self, tokens: &[u32], size: u32, identity: &CacheIdentity) -> Vec<RankReach> {
        let adapter = identity
            .adapter
            .as_deref()
            .map_or(Adapter::None, Adapter::Name);
        let salt = identity
            .salt
            .as_deref()
            .map(ExtraKeys::salt)
            .unwrap_or_default();
        let usable = tokens.len().saturating_sub(1) / size as usize;
        let mut block = root(size, adapter);
        let mut extras = salt;
        let chain = tokens
            .chunks_exact(size as usize)
            .take(usable)
            .map(|tokens| {
                block = link(block, std::mem::take(&mut extras).apply(content(tokens)));
                block
            });
        walk(chain, &self.blocks, &self.sets, |slot| {
            self.sync_state(slot) != SyncState::Unsynced
        })
    }

    fn change(&mut self, slot: RankSlot, change: BlockChange) {
        let before = self.blocks.get(change.block());
        match self.sets.change(before, slot, change.tiers()) {
            Some(after) if Some(after) == before => {}
            Some(after) => {
                self.blocks.insert(change.block(), after);
            }
            None => {
                self.blocks.remove(change.block());
            }
        }
    }

    fn allocate_slot(&mut self, endpoint: EndpointId, sync_state: SyncState) -> RankSlot {
        let stand = Some(RankEntry {
            endpoint,
            sync_state,
            sizes: SmallVec::new(),
        });
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot.0 as usize] = stand;
                slot
            }
            None => {
                debug_assert!(
                    self.slots.len() < SlotTiers::SLOTS as usize,
                    "a slot for every rank of every endpoint"
                );
                self.slots.push(stand);
                RankSlot(self.slots.len() as u32 - 1)
            }
        };
        let at = self
            .endpoint_ranks
            .partition_point(|place| *place < (endpoint, slot));
        self.endpoint_ranks.insert(at, (endpoint, slot));
        slot
    }

    fn entry_mut(&mut self, slot: RankSlot) -> Option<&mut RankEntry> {
        self.slots.get_mut(slot.0 as usize)?.as_mut()
    }

    fn sync_state(&self, slot: RankSlot) -> SyncState {
        let stand = self.slots.get(slot.0 as usize).and_then(Option::as_ref);
        stand.map_or(SyncState::Unsynced, |stand| stand.sync_state)
    }

    fn learn_sizes(&mut self, rank: &RankBlocks) {
        let Some(Some(stand)) = self.slots.get_mut(rank.slot.0 as usize) else {
            return;
        };
        for size in &rank.sizes[stand.sizes.len().min(rank.sizes.len())..] {
            stand.sizes.push(*size);
            *self.sizes.entry(*size).or_default() += 1;
        }
    }
}

// === RankSlot ===

impl RankSlot {
    /// Of a rank that was closed.
    const NOWHERE: Self = Self(u32::MAX);
}

// === RankReach ===

impl RankReach {
    /// In tokens.
    fn cached(self, block_tokens: u32) -> CachedTokens {
        let Self {
            slot: _,
            gpu,
            host,
            disk,
        } = self;
        let tokens = |blocks: u32| blocks.saturating_mul(block_tokens);
        CachedTokens {
            gpu: tokens(gpu),
            host: tokens(host),
            disk: tokens(disk),
        }
    }
}

#[cfg(test)]
mod tests;
