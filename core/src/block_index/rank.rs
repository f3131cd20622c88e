//! The blocks of one stream: maps the engine's names of blocks to ours.
//!
//! ```text
//!   Stored, Removed (engine's names) ──▶ Rank ──▶ changes (our names) ──▶ Residency, in slices
//! ```
//!
//! Removals and parents come by the engine's names alone, and every process of an engine may have
//! names of its own (a seed at random). So each rank keeps a map from them, outside the index and
//! its lock.
//!
//! Engines report every copy of a block. When a prompt is cached to its end, vLLM computes its last
//! block again and stores it once more, and each copy is removed by an event of its own. Copies are
//! counted here, and a block stays until its last one is gone.
//!
//! Invariant: at most [`MAX_BLOCKS`] names; a rank with more of them is cleared.

use std::collections::HashMap;

use smallvec::SmallVec;

use super::{
    Attention, RankSlot, RemovedBlocks, StoredBlocks, Tier, TierSet, link,
    table::{ShardedTable, TableEntries, TableValue},
};
use crate::hash::MixBuildHasher;

/// Blocks of one rank at most: with 16 tokens each, 16 million tokens, more than host memory holds
/// beside a GPU.
pub const MAX_BLOCKS: usize = 1 << 20;

/// Block sizes of one rank at most: a pool of several sizes is looked up once for each.
pub const MAX_SIZES: usize = 4;

/// Shards of a rank's map.
const SHARDS: usize = 64;

/// See the module.
#[derive(Debug)]
pub struct RankBlocks {
    pub(super) slot: RankSlot,
    pub(super) sizes: SmallVec<[u32; MAX_SIZES]>,
    names: ShardedTable<TieredBlock>,
    /// Copies beyond the first, by name and tier.
    copies: HashMap<(u64, u64), u32, MixBuildHasher>,
    /// The group whose blocks count, once it is known.
    group: Option<u32>,
    limit: usize,
}

/// A block and its tiers, by the engine's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TieredBlock(u64);

/// From now on a rank holds a block in exactly these tiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockChange(u64);

/// What became of the blocks of one event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockCounts {
    /// Taken in.
    pub applied: u64,
    /// Of another group than the one that counts, or of one block size too many.
    pub skipped: u64,
    /// Stored after a parent, or as a copy of a block, that is not known.
    pub orphaned: u64,
    /// Removed and not known.
    pub unknown: u64,
}

/// The rank would hold more than [`MAX_BLOCKS`] blocks: its owner has to clear it and set it
/// unsynced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {MAX_BLOCKS} blocks in one rank")]
pub struct TooManyBlocks;

// === RankBlocks ===

impl RankBlocks {
    pub(super) fn new(slot: RankSlot) -> Self {
        Self {
            slot,
            sizes: SmallVec::new(),
            names: ShardedTable::new(SHARDS),
            copies: HashMap::default(),
            group: None,
            limit: MAX_BLOCKS,
        }
    }

    /// A rank that is overfull sooner.
    #[cfg(test)]
    pub(super) fn limited(self, limit: usize) -> Self {
        Self { limit, ..self }
    }

    /// Blocks that it holds.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.names.len()
    }

    /// About how many bytes it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.names.bytes() + self.copies.capacity() * (size_of::<((u64, u64), u32)>() + 1)
    }

    /// Takes in stored blocks, and adds to `changes` what that means for the index.
    ///
    /// # Errors
    /// When there are too many of them.
    pub fn store(
        &mut self,
        stored: &StoredBlocks,
        changes: &mut Vec<BlockChange>,
    ) -> Result<BlockCounts, TooManyBlocks> {
        let StoredBlocks {
            names,
            contents,
            parent,
            root,
            block_tokens,
            tier,
            group,
            attention,
        } = stored;
        let blocks = names.len() as u64;
        if !self.counts(*group, *attention) {
            return Ok(BlockCounts {
                skipped: blocks,
                ..BlockCounts::default()
            });
        }
        if contents.is_empty() {
            return Ok(self.spread(names, *tier, changes));
        }
        let parent = match parent {
            None => Some(*root),
            Some(name) => self.names.get(*name).map(TieredBlock::block),
        };
        let Some(mut block) = parent else {
            return Ok(BlockCounts {
                orphaned: blocks,
                ..BlockCounts::default()
            });
        };
        if !self.knows_size(*block_tokens) {
            return Ok(BlockCounts {
                skipped: blocks,
                ..BlockCounts::default()
            });
        }
        for (name, content) in names.iter().zip(contents) {
            block = link(block, *content);
            self.hold(*name, block, *tier, changes)?;
        }
        Ok(BlockCounts {
            applied: blocks,
            ..BlockCounts::default()
        })
    }

    /// Takes in removed blocks, and adds to `changes` what that means for the index.
    pub fn remove(
        &mut self,
        removed: &RemovedBlocks,
        changes: &mut Vec<BlockChange>,
    ) -> BlockCounts {
        let RemovedBlocks { names, tier, group } = removed;
        if group.is_some() && self.group.is_some() && *group != self.group {
            return BlockCounts {
                skipped: names.len() as u64,
                ..BlockCounts::default()
            };
        }
        let mut tally = BlockCounts::default();
        for name in names {
            match self.names.get(*name).filter(|held| held.tiers().has(*tier)) {
                Some(held) => {
                    self.drop_copy(*name, held, *tier, changes);
                    tally.applied += 1;
                }
                None => tally.unknown += 1,
            }
        }
        tally
    }

    /// All blocks that it still holds.
    pub(super) fn into_rest(self) -> RemainingBlocks {
        RemainingBlocks(self.names.into_entries())
    }

    /// Whether blocks of this group count. The first group whose layers look at everything does,
    /// and no other: a hybrid model reports the same blocks once for each group.
    fn counts(&mut self, group: Option<u32>, attention: Attention) -> bool {
        let Some(group) = group else {
            return attention != Attention::Partial;
        };
        match attention {
            Attention::Partial => false,
            Attention::Unspecified if self.group.is_none() && group != 0 => false,
            Attention::Unspecified | Attention::Full => *self.group.get_or_insert(group) == group,
        }
    }

    fn knows_size(&mut self, block_tokens: u32) -> bool {
        let known = self.sizes.contains(&block_tokens);
        if !known && block_tokens > 0 && self.sizes.len() < MAX_SIZES {
            self.sizes.push(block_tokens);
            return true;
        }
        known
    }

    /// Blocks that are in a further tier now.
    fn spread(&mut self, names: &[u64], tier: Tier, changes: &mut Vec<BlockChange>) -> BlockCounts {
        let mut tally = BlockCounts::default();
        for name in names {
            match self.names.get(*name) {
                Some(held) => {
                    self.add_copy(*name, held, tier, changes);
                    tally.applied += 1;
                }
                None => tally.orphaned += 1,
            }
        }
        tally
    }

    fn hold(
        &mut self,
        name: u64,
        block: u64,
        tier: Tier,
        changes: &mut Vec<BlockChange>,
    ) -> Result<(), TooManyBlocks> {
        match self.names.get(name) {
            Some(held) if held.block() == block => self.add_copy(name, held, tier, changes),
            // The engine reuses the name for another block: the old one is gone.
            Some(held) => {
                changes.push(BlockChange::new(held.block(), TierSet::default()));
                for tier in [Tier::Gpu, Tier::Host, Tier::Disk] {
                    self.copies.remove(&copy(name, tier));
                }
                self.set(
                    name,
                    TieredBlock::new(block, TierSet::default().with(tier)),
                    changes,
                );
            }
            None if self.names.len() >= self.limit => return Err(TooManyBlocks),
            None => self.set(
                name,
                TieredBlock::new(block, TierSet::default().with(tier)),
                changes,
            ),
        }
        Ok(())
    }

    fn add_copy(
        &mut self,
        name: u64,
        held: TieredBlock,
        tier: Tier,
        changes: &mut Vec<BlockChange>,
    ) {
        if held.tiers().has(tier) {
            let copies = self.copies.entry(copy(name, tier)).or_default();
            *copies = copies.saturating_add(1);
        } else {
            self.set(
                name,
                TieredBlock::new(held.block(), held.tiers().with(tier)),
                changes,
            );
        }
    }

    fn drop_copy(
        &mut self,
        name: u64,
        held: TieredBlock,
        tier: Tier,
        changes: &mut Vec<BlockChange>,
    ) {
        if let Some(copies) = self.copies.get_mut(&copy(name, tier)) {
            *copies -= 1;
            if *copies == 0 {
                self.copies.remove(&copy(name, tier));
            }
            return;
        }
        let tiers = held.tiers().without(tier);
        if tiers.is_empty() {
            self.names.remove(name);
            changes.push(BlockChange::new(held.block(), tiers));
        } else {
            self.set(name, TieredBlock::new(held.block(), tiers), changes);
        }
    }

    fn set(&mut self, name: u64, held: TieredBlock, changes: &mut Vec<BlockChange>) {
        self.names.insert(name, held);
        changes.push(BlockChange::new(held.block(), held.tiers()));
    }
}

/// The key of a name's copies in a tier.
fn copy(name: u64, tier: Tier) -> (u64, u64) {
    (name, tier as u64)
}

// === RemainingBlocks ===

/// What a rank held that is given up.
#[derive(Debug)]
pub(super) struct RemainingBlocks(TableEntries<TieredBlock>);

impl Iterator for RemainingBlocks {
    type Item = BlockChange;

    fn next(&mut self) -> Option<BlockChange> {
        self.0
            .next()
            .map(|(_, held)| BlockChange::new(held.block(), TierSet::default()))
    }
}

// === TieredBlock ===

impl TieredBlock {
    const fn new(block: u64, tiers: TierSet) -> Self {
        Self(block & !TierSet::MASK | tiers.0 as u64)
    }

    const fn block(self) -> u64 {
        self.0 & !TierSet::MASK
    }

    const fn tiers(self) -> TierSet {
        TierSet((self.0 & TierSet::MASK) as u8)
    }
}

impl TableValue for TieredBlock {
    /// In no tier, which is never stored.
    const FREE: Self = Self(0);
}

// === BlockChange ===

impl BlockChange {
    const fn new(block: u64, tiers: TierSet) -> Self {
        Self(TieredBlock::new(block, tiers).0)
    }

    pub(super) const fn block(self) -> u64 {
        TieredBlock(self.0).block()
    }

    pub(super) const fn tiers(self) -> TierSet {
        TieredBlock(self.0).tiers()
    }
}

// === BlockCounts ===

impl std::ops::AddAssign for BlockCounts {
    fn add_assign(&mut self, other: Self) {
        let Self {
            applied,
            skipped,
            orphaned,
            unknown,
        } = other;
        self.applied += applied;
        self.skipped += skipped;
        self.orphaned += orphaned;
        self.unknown += unknown;
    }
}
