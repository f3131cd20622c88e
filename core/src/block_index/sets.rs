//! Who holds a block: sets of holders, each kept once, however many blocks share it.
//!
//! Neighboring blocks of a prompt are nearly always held by the same ranks. So a block has only the
//! id of a set, and a walk along a prompt looks into a set when the id changes, not for every block
//! and rank. A set of one, by far the most common, is its own id and lives nowhere else.
//!
//! Invariants: equal sets have equal ids; an interned set has at least two holders, sorted by seat,
//! and lives exactly as long as blocks use it.

use std::{collections::HashMap, sync::Arc};

use super::{RankSlot, TierSet, table::TableValue};
use crate::hash::MixBuildHasher;

/// A seat that holds something, and in which tiers: `slot << 3 | tiers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SlotTiers(u32);

/// A set that is not empty: one holder, or the place of an interned set with the highest bit set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HolderSetId(u32);

/// All sets of an index.
#[derive(Debug, Default)]
pub(super) struct HolderSets {
    places: Vec<Option<InternedSet>>,
    free: Vec<u32>,
    by_members: HashMap<Arc<[u32]>, u32, MixBuildHasher>,
    /// Room to build the next set in.
    scratch: Vec<u32>,
}

#[derive(Debug)]
struct InternedSet {
    members: Arc<[u32]>,
    /// Blocks that have it.
    users: u32,
}

const INTERNED: u32 = 1 << 31;

// === SlotTiers ===

impl SlotTiers {
    /// Seats are below this.
    pub(super) const SLOTS: u32 = 1 << 28;

    const fn new(slot: RankSlot, tiers: TierSet) -> Self {
        Self(slot.0 << 3 | tiers.0 as u32)
    }

    pub(super) const fn slot(self) -> RankSlot {
        RankSlot(self.0 >> 3)
    }

    pub(super) const fn tiers(self) -> TierSet {
        TierSet((self.0 & 7) as u8)
    }
}

// === HolderSetId ===

impl TableValue for HolderSetId {
    const FREE: Self = Self(u32::MAX);
}

// === HolderSets ===

impl HolderSets {
    /// The set that a block has instead of `before` (`None`: without holders) once `slot` holds it
    /// in exactly these tiers; `None` when no holder is left. One use of `before` ends and one of
    /// the result begins.
    pub(super) fn change(
        &mut self,
        before: Option<HolderSetId>,
        slot: RankSlot,
        tiers: TierSet,
    ) -> Option<HolderSetId> {
        let mut members = std::mem::take(&mut self.scratch);
        members.clear();
        if let Some(before) = before {
            self.read(before, |holder| members.push(holder.0));
        }
        let at = members.binary_search_by_key(&slot, |member| SlotTiers(*member).slot());
        match (at, tiers.is_empty()) {
            (Ok(at), true) => {
                members.remove(at);
            }
            (Ok(at), false) => members[at] = SlotTiers::new(slot, tiers).0,
            (Err(_), true) => {}
            (Err(at), false) => members.insert(at, SlotTiers::new(slot, tiers).0),
        }
        // First the new use, so that a set that stays is not given up in between.
        let after = self.intern(&members);
        if let Some(before) = before {
            self.release(before);
        }
        self.scratch = members;
        after
    }

    /// Calls `each` with every holder of a set, in order of their slots.
    pub(super) fn read(&self, set: HolderSetId, mut each: impl FnMut(SlotTiers)) {
        if set.0 & INTERNED == 0 {
            return each(SlotTiers(set.0));
        }
        if let Some(Some(interned)) = self.places.get((set.0 & !INTERNED) as usize) {
            interned
                .members
                .iter()
                .for_each(|member| each(SlotTiers(*member)));
        }
    }

    /// Sets of more than one holder.
    #[cfg(test)]
    pub(super) fn interned(&self) -> usize {
        self.by_members.len()
    }

    /// About how many bytes the interned sets take.
    pub(super) fn bytes(&self) -> usize {
        let each =
            |set: &InternedSet| 2 * size_of::<usize>() + set.members.len() * size_of::<u32>();
        let places = self.places.capacity() * size_of::<Option<InternedSet>>()
            + self.free.capacity() * size_of::<u32>();
        let map = self.by_members.capacity() * (size_of::<(Arc<[u32]>, u32)>() + 1);
        places + map + self.places.iter().flatten().map(each).sum::<usize>()
    }

    fn intern(&mut self, members: &[u32]) -> Option<HolderSetId> {
        let [_, _, ..] = members else {
            return members.first().map(|only| HolderSetId(*only));
        };
        if let Some(place) = self.by_members.get(members) {
            if let Some(Some(interned)) = self.places.get_mut(*place as usize) {
                interned.users += 1;
            }
            return Some(HolderSetId(INTERNED | place));
        }
        let members: Arc<[u32]> = members.into();
        let interned = Some(InternedSet {
            members: Arc::clone(&members),
            users: 1,
        });
        let place = match self.free.pop() {
            Some(place) => {
                self.places[place as usize] = interned;
                place
            }
            None => {
                self.places.push(interned);
                self.places.len() as u32 - 1
            }
        };
        self.by_members.insert(members, place);
        Some(HolderSetId(INTERNED | place))
    }

    fn release(&mut self, set: HolderSetId) {
        if set.0 & INTERNED == 0 {
            return;
        }
        let place = set.0 & !INTERNED;
        let Some(slot) = self.places.get_mut(place as usize) else {
            return;
        };
        let Some(interned) = slot else { return };
        interned.users -= 1;
        if interned.users == 0 {
            let members = Arc::clone(&interned.members);
            *slot = None;
            self.by_members.remove(&members);
            self.free.push(place);
            self.tidy();
        }
    }

    /// Gives memory back when nearly all places are free.
    fn tidy(&mut self) {
        if self.by_members.is_empty() {
            *self = Self {
                scratch: std::mem::take(&mut self.scratch),
                ..Self::default()
            };
        } else if self.by_members.capacity() > 64
            && self.by_members.len() * 8 < self.by_members.capacity()
        {
            self.by_members.shrink_to(self.by_members.len() * 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const GPU: TierSet = TierSet(1);

    fn holders(sets: &HolderSets, set: Option<HolderSetId>) -> BTreeMap<u32, u8> {
        let mut holders = BTreeMap::new();
        if let Some(set) = set {
            sets.read(set, |holder| {
                assert_eq!(holders.insert(holder.slot().0, holder.tiers().0), None);
            });
        }
        holders
    }

    #[test]
    fn blocks_with_the_same_holders_have_the_same_set() {
        let mut sets = HolderSets::default();
        let mut blocks = [None; 100];
        for slot in 0..3 {
            blocks
                .iter_mut()
                .for_each(|block| *block = sets.change(*block, RankSlot(slot), GPU));
        }
        assert!(blocks.iter().all(|block| *block == blocks[0]));
        assert_eq!(sets.interned(), 1, "the sets on the way are gone");
    }

    #[test]
    fn a_holder_alone_needs_no_memory() {
        let mut sets = HolderSets::default();
        let one = sets.change(None, RankSlot(7), GPU);
        let two = sets.change(one, RankSlot(3), GPU);
        assert_eq!((holders(&sets, two).len(), sets.interned()), (2, 1));
        let one = sets.change(two, RankSlot(3), TierSet::default());
        assert_eq!(
            (holders(&sets, one), sets.bytes()),
            (BTreeMap::from([(7, 1)]), 0)
        );
        assert_eq!(sets.change(one, RankSlot(7), TierSet::default()), None);
    }

    proptest! {
        #[test]
        fn every_block_has_the_holders_that_it_was_given(
            steps in proptest::collection::vec((0..8usize, 0..6u32, 0..8u8), 0..400),
        ) {
            let mut sets = HolderSets::default();
            let mut blocks = [None; 8];
            let mut model: Vec<BTreeMap<u32, u8>> = vec![BTreeMap::new(); 8];
            for (block, slot, tiers) in steps {
                blocks[block] = sets.change(blocks[block], RankSlot(slot), TierSet(tiers));
                if tiers == 0 {
                    model[block].remove(&slot);
                } else {
                    model[block].insert(slot, tiers);
                }
            }
            for (block, model) in blocks.iter().zip(&model) {
                prop_assert_eq!(&holders(&sets, *block), model);
            }
            let shared: std::collections::BTreeSet<_> = model.iter().filter(|model| model.len() > 1).collect();
            prop_assert_eq!(sets.interned(), shared.len());
            blocks.iter().zip(&model).for_each(|(block, model)| {
                let slots = model.keys();
                slots.fold(*block, |block, slot| sets.change(block, RankSlot(*slot), TierSet::default()));
            });
            prop_assert_eq!(sets.bytes(), 0);
        }
    }
}
