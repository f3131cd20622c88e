//! Who holds one block: twelve bytes for one or two holders, a list apart for more.

use super::EndpointSlot;

/// Slots from here on mean something else.
pub(super) const MAX_SLOTS: usize = 65_000;

/// No holder.
const NONE: EndpointSlot = u16::MAX;
/// The first place holds the number of a list instead of a holder.
const WIDE: EndpointSlot = u16::MAX - 1;

/// One endpoint, and the last of its routes that covered the block.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockHolder {
    slot: EndpointSlot,
    /// Two halves, so that a holder needs no more alignment than its slot.
    touch: [u16; 2],
}

/// The holders of one block.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockHolders([BlockHolder; 2]);

/// The lists of blocks with three holders and more.
#[derive(Debug, Default)]
pub(super) struct HolderLists {
    /// Each sorted by slot.
    lists: Vec<Vec<BlockHolder>>,
    free: Vec<u32>,
    /// Holders that the lists have room for, all together.
    room: usize,
}

/// The holders of one block, to look at.
#[derive(Clone, Copy)]
pub(super) struct HolderSlice<'a>(&'a [BlockHolder]);

// === BlockHolder ===

impl BlockHolder {
    const EMPTY: Self = Self {
        slot: NONE,
        touch: [0; 2],
    };

    fn new(slot: EndpointSlot, touch: u32) -> Self {
        Self {
            slot,
            touch: [touch as u16, (touch >> 16) as u16],
        }
    }

    fn touch(self) -> u32 {
        u32::from(self.touch[0]) | u32::from(self.touch[1]) << 16
    }
}

// === BlockHolders ===

impl BlockHolders {
    pub(super) const EMPTY: Self = Self([BlockHolder::EMPTY; 2]);

    pub(super) fn view<'a>(&'a self, lists: &'a HolderLists) -> HolderSlice<'a> {
        let Self([first, second]) = self;
        match (first.slot, second.slot) {
            (WIDE, _) => HolderSlice(&lists.lists[first.touch() as usize]),
            (NONE, _) => HolderSlice(&[]),
            (_, NONE) => HolderSlice(&self.0[..1]),
            _ => HolderSlice(&self.0),
        }
    }

    /// The last touch of a holder.
    pub(super) fn touch_of(&self, slot: EndpointSlot, lists: &HolderLists) -> Option<u32> {
        let holders = self.view(lists).0;
        let found = if holders.len() <= 2 {
            holders.iter().find(|holder| holder.slot == slot)
        } else {
            holders
                .binary_search_by_key(&slot, |holder| holder.slot)
                .ok()
                .map(|at| &holders[at])
        };
        found.map(|holder| holder.touch())
    }

    /// Notes a touch; true when the endpoint did not hold the block before.
    pub(super) fn touch(
        &mut self,
        slot: EndpointSlot,
        touch: u32,
        lists: &mut HolderLists,
    ) -> bool {
        let holder = BlockHolder::new(slot, touch);
        if self.0[0].slot == WIDE {
            return lists.touch(self.0[0].touch(), holder);
        }
        if let Some(place) = self.0.iter_mut().find(|place| place.slot == slot) {
            *place = holder;
            return false;
        }
        match self.0.iter_mut().find(|place| place.slot == NONE) {
            Some(place) => *place = holder,
            None => {
                let list = lists.open([self.0[0], self.0[1], holder]);
                self.0 = [BlockHolder::new(WIDE, list), BlockHolder::EMPTY];
            }
        }
        true
    }

    /// Takes a holder away; true when none is left.
    pub(super) fn release(&mut self, slot: EndpointSlot, lists: &mut HolderLists) -> bool {
        if self.0[0].slot == WIDE {
            let list = self.0[0].touch();
            if let Some(pair) = lists.release(list, slot) {
                self.0 = pair;
            }
        } else if self.0[0].slot == slot {
            self.0 = [self.0[1], BlockHolder::EMPTY];
        } else if self.0[1].slot == slot {
            self.0[1] = BlockHolder::EMPTY;
        }
        self.0[0].slot == NONE
    }
}

// === HolderSlice ===

impl HolderSlice<'_> {
    pub(super) fn len(self) -> usize {
        self.0.len()
    }

    pub(super) fn for_each(self, mut each: impl FnMut(EndpointSlot)) {
        self.0.iter().for_each(|holder| each(holder.slot));
    }
}

// === HolderLists ===

impl HolderLists {
    pub(super) fn bytes(&self) -> usize {
        self.room * size_of::<BlockHolder>()
            + self.lists.capacity() * size_of::<Vec<BlockHolder>>()
            + self.free.capacity() * size_of::<u32>()
    }

    fn open(&mut self, mut holders: [BlockHolder; 3]) -> u32 {
        holders.sort_unstable_by_key(|holder| holder.slot);
        let list = self.free.pop().unwrap_or_else(|| {
            self.lists.push(Vec::new());
            (self.lists.len() - 1) as u32
        });
        self.lists[list as usize] = holders.to_vec();
        self.room += self.lists[list as usize].capacity();
        list
    }

    fn touch(&mut self, list: u32, holder: BlockHolder) -> bool {
        let list = &mut self.lists[list as usize];
        match list.binary_search_by_key(&holder.slot, |known| known.slot) {
            Ok(at) => list[at] = holder,
            Err(at) => {
                let room = list.capacity();
                if list.len() == room {
                    // By half and not by twice: most lists stay short.
                    list.reserve_exact(list.len() / 2);
                    self.room += list.capacity() - room;
                }
                list.insert(at, holder);
                return true;
            }
        }
        false
    }

    /// Takes a holder out of a list; when two are left, they need no list any more and are handed
    /// out.
    fn release(&mut self, list: u32, slot: EndpointSlot) -> Option<[BlockHolder; 2]> {
        let holders = &mut self.lists[list as usize];
        let at = holders
            .binary_search_by_key(&slot, |known| known.slot)
            .ok()?;
        holders.remove(at);
        let room = holders.capacity();
        let &[first, second] = holders.as_slice() else {
            if room > 2 * holders.len() {
                holders.shrink_to_fit();
                self.room -= room - holders.capacity();
            }
            return None;
        };
        *holders = Vec::new();
        self.room -= room;
        self.free.push(list);
        Some([first, second])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_block_with_two_holders_takes_twelve_bytes() {
        assert_eq!(size_of::<BlockHolders>(), 12);
    }

    proptest! {
        #[test]
        fn it_is_a_map_from_endpoints_to_their_last_touch(
            steps in proptest::collection::vec((0u16..8, any::<u32>(), any::<bool>()), 0..60),
        ) {
            let (mut holders, mut lists, mut model) = (BlockHolders::EMPTY, HolderLists::default(), BTreeMap::new());
            for (slot, touch, release) in steps {
                if release {
                    model.remove(&slot);
                    prop_assert_eq!(holders.release(slot, &mut lists), model.is_empty());
                } else {
                    prop_assert_eq!(holders.touch(slot, touch, &mut lists), model.insert(slot, touch).is_none());
                }
                prop_assert_eq!(holders.view(&lists).len(), model.len());
                let room = lists.lists.iter().map(Vec::capacity).sum::<usize>();
                prop_assert_eq!(lists.room, room);
                for slot in 0..8 {
                    prop_assert_eq!(holders.touch_of(slot, &lists), model.get(&slot).copied());
                }
            }
        }
    }
}
