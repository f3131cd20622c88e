//! Who holds one block: twelve bytes for one or two holders, a list apart for more.

use super::Slot;

/// Slots from here on mean something else.
pub(super) const MAX_SLOTS: usize = 65_000;

/// No holder.
const NONE: Slot = u16::MAX;
/// The first place holds the number of a list instead of a holder.
const WIDE: Slot = u16::MAX - 1;

/// One endpoint, and the last of its routes that covered the block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holder {
    slot: Slot,
    /// Two halves, so that a holder needs no more alignment than its slot.
    touch: [u16; 2],
}

/// The holders of one block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holders([Holder; 2]);

/// The lists of blocks with three holders and more.
#[derive(Debug, Default)]
pub(super) struct Lists {
    /// Each sorted by slot.
    lists: Vec<Vec<Holder>>,
    free: Vec<u32>,
}

/// The holders of one block, to look at.
#[derive(Clone, Copy)]
pub(super) struct View<'a>(&'a [Holder]);

// === Holder ===

impl Holder {
    const NOBODY: Self = Self {
        slot: NONE,
        touch: [0; 2],
    };

    fn new(slot: Slot, touch: u32) -> Self {
        Self {
            slot,
            touch: [touch as u16, (touch >> 16) as u16],
        }
    }

    fn touch(self) -> u32 {
        u32::from(self.touch[0]) | u32::from(self.touch[1]) << 16
    }
}

// === Holders ===

impl Holders {
    pub(super) const NOBODY: Self = Self([Holder::NOBODY; 2]);

    pub(super) fn view<'a>(&'a self, lists: &'a Lists) -> View<'a> {
        let Self([first, second]) = self;
        match (first.slot, second.slot) {
            (WIDE, _) => View(&lists.lists[first.touch() as usize]),
            (NONE, _) => View(&[]),
            (_, NONE) => View(&self.0[..1]),
            _ => View(&self.0),
        }
    }

    /// The last touch of a holder.
    pub(super) fn touch_of(&self, slot: Slot, lists: &Lists) -> Option<u32> {
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
    pub(super) fn touch(&mut self, slot: Slot, touch: u32, lists: &mut Lists) -> bool {
        let holder = Holder::new(slot, touch);
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
                self.0 = [Holder::new(WIDE, list), Holder::NOBODY];
            }
        }
        true
    }

    /// Takes a holder away; true when nobody is left.
    pub(super) fn release(&mut self, slot: Slot, lists: &mut Lists) -> bool {
        if self.0[0].slot == WIDE {
            let list = self.0[0].touch();
            if let Some(pair) = lists.release(list, slot) {
                self.0 = pair;
            }
        } else if self.0[0].slot == slot {
            self.0 = [self.0[1], Holder::NOBODY];
        } else if self.0[1].slot == slot {
            self.0[1] = Holder::NOBODY;
        }
        self.0[0].slot == NONE
    }
}

// === View ===

impl View<'_> {
    pub(super) fn len(self) -> usize {
        self.0.len()
    }

    pub(super) fn for_each(self, mut each: impl FnMut(Slot)) {
        self.0.iter().for_each(|holder| each(holder.slot));
    }
}

// === Lists ===

impl Lists {
    pub(super) fn bytes(&self) -> usize {
        let lists = self
            .lists
            .iter()
            .map(|list| list.capacity() * size_of::<Holder>())
            .sum::<usize>();
        lists
            + self.lists.capacity() * size_of::<Vec<Holder>>()
            + self.free.capacity() * size_of::<u32>()
    }

    fn open(&mut self, mut holders: [Holder; 3]) -> u32 {
        holders.sort_unstable_by_key(|holder| holder.slot);
        let list = self.free.pop().unwrap_or_else(|| {
            self.lists.push(Vec::new());
            (self.lists.len() - 1) as u32
        });
        self.lists[list as usize] = holders.to_vec();
        list
    }

    fn touch(&mut self, list: u32, holder: Holder) -> bool {
        let list = &mut self.lists[list as usize];
        match list.binary_search_by_key(&holder.slot, |known| known.slot) {
            Ok(at) => list[at] = holder,
            Err(at) => {
                if list.len() == list.capacity() {
                    // By half and not by twice: most lists stay short.
                    list.reserve_exact(list.len() / 2);
                }
                list.insert(at, holder);
                return true;
            }
        }
        false
    }

    /// Takes a holder out of a list; when two are left, they need no list any more and are handed out.
    fn release(&mut self, list: u32, slot: Slot) -> Option<[Holder; 2]> {
        let holders = &mut self.lists[list as usize];
        let at = holders
            .binary_search_by_key(&slot, |known| known.slot)
            .ok()?;
        holders.remove(at);
        let &[first, second] = holders.as_slice() else {
            if holders.capacity() > 2 * holders.len() {
                holders.shrink_to_fit();
            }
            return None;
        };
        *holders = Vec::new();
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
        assert_eq!(size_of::<Holders>(), 12);
    }

    proptest! {
        #[test]
        fn it_is_a_map_from_endpoints_to_their_last_touch(
            steps in proptest::collection::vec((0u16..8, any::<u32>(), any::<bool>()), 0..60),
        ) {
            let (mut holders, mut lists, mut model) = (Holders::NOBODY, Lists::default(), BTreeMap::new());
            for (slot, touch, release) in steps {
                if release {
                    model.remove(&slot);
                    prop_assert_eq!(holders.release(slot, &mut lists), model.is_empty());
                } else {
                    prop_assert_eq!(holders.touch(slot, touch, &mut lists), model.insert(slot, touch).is_none());
                }
                prop_assert_eq!(holders.view(&lists).len(), model.len());
                for slot in 0..8 {
                    prop_assert_eq!(holders.touch_of(slot, &lists), model.get(&slot).copied());
                }
            }
        }
    }
}
