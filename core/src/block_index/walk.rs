//! A walk along a prompt's blocks: how far each rank holds them without a gap, tier by tier.

use smallvec::SmallVec;

use super::{
    RankSlot, Tier, TierSet,
    sets::{HolderSetId, HolderSets, SlotTiers},
    table::ShardedTable,
};

/// How many blocks from the first one rank holds, by how far down one has to reach for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RankReach {
    pub(super) slot: RankSlot,
    pub(super) gpu: u32,
    pub(super) host: u32,
    pub(super) disk: u32,
}

/// A rank that has held every block so far.
#[derive(Clone, Copy, Debug)]
struct ActiveRank {
    reach: RankReach,
    /// Every block so far was in the accelerator's memory.
    on_gpu: bool,
    /// Every block so far was there or in the host's memory.
    on_host: bool,
}

/// Walks until no rank is left that holds everything so far.
pub(super) fn walk(
    blocks: impl Iterator<Item = u64>,
    table: &ShardedTable<HolderSetId>,
    sets: &HolderSets,
    is_live: impl Fn(RankSlot) -> bool,
) -> Vec<RankReach> {
    let (mut active, mut done) = (Vec::<ActiveRank>::new(), Vec::new());
    let (mut last, mut at) = (None, 0);
    let mut holders: SmallVec<[SlotTiers; 8]> = SmallVec::new();
    for block in blocks {
        let Some(set) = table.get(block) else { break };
        if last != Some(set) {
            holders.clear();
            sets.read(set, |holder| holders.push(holder));
            if last.is_none() {
                active.extend(
                    holders
                        .iter()
                        .filter(|holder| is_live(holder.slot()))
                        .map(|holder| ActiveRank::new(*holder)),
                );
            } else {
                narrow(&mut active, &holders, at, &mut done);
            }
            if active.is_empty() {
                break;
            }
            last = Some(set);
        }
        at += 1;
    }
    done.extend(active.into_iter().map(|slot| slot.ends(at)));
    done
}

/// Keeps those of `active` that are among `holders`; both are in order of their slots.
fn narrow(active: &mut Vec<ActiveRank>, holders: &[SlotTiers], at: u32, done: &mut Vec<RankReach>) {
    let mut rest = holders;
    active.retain_mut(|active| {
        let skipped = rest
            .iter()
            .take_while(|holder| holder.slot() < active.reach.slot)
            .count();
        rest = &rest[skipped..];
        match rest
            .first()
            .filter(|holder| holder.slot() == active.reach.slot)
        {
            Some(holder) => {
                active.sees(holder.tiers(), at);
                true
            }
            None => {
                done.push(active.ends(at));
                false
            }
        }
    });
}

// === ActiveRank ===

impl ActiveRank {
    fn new(holder: SlotTiers) -> Self {
        let reach = RankReach {
            slot: holder.slot(),
            gpu: 0,
            host: 0,
            disk: 0,
        };
        let mut active = Self {
            reach,
            on_gpu: true,
            on_host: true,
        };
        active.sees(holder.tiers(), 0);
        active
    }

    /// Block number `at` is in these tiers.
    fn sees(&mut self, tiers: TierSet, at: u32) {
        if self.on_gpu && !tiers.has(Tier::Gpu) {
            (self.on_gpu, self.reach.gpu) = (false, at);
        }
        if self.on_host && !tiers.has(Tier::Gpu) && !tiers.has(Tier::Host) {
            (self.on_host, self.reach.host) = (false, at);
        }
    }

    /// Block number `at` is not held, or was not asked for.
    fn ends(&self, at: u32) -> RankReach {
        let RankReach {
            slot, gpu, host, ..
        } = self.reach;
        RankReach {
            slot,
            gpu: if self.on_gpu { at } else { gpu },
            host: if self.on_host { at } else { host },
            disk: at,
        }
    }
}
