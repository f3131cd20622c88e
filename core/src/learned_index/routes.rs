//! What was routed to one endpoint, oldest first: the order in which its blocks are evicted.

use std::collections::VecDeque;

use super::{BlockId, BlockTable, EndpointSlot};

/// One prompt that was routed.
#[derive(Clone, Copy, Debug)]
struct RoutedChain {
    touch: u32,
    /// Its last block, or what is left of it.
    tail: BlockId,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct EndpointRoutes {
    /// Blocks at most.
    pub(super) capacity: usize,
    /// Blocks now.
    pub(super) held: usize,
    /// Numbers routes; wraps, and then only the order of routes four billion apart is confused.
    touches: u32,
    queue: VecDeque<RoutedChain>,
}

impl EndpointRoutes {
    /// The number of the next route.
    pub(super) fn begin(&mut self) -> u32 {
        self.touches = self.touches.wrapping_add(1);
        self.touches
    }

    /// The number of the latest route.
    pub(super) fn latest(&self) -> u32 {
        self.touches
    }

    /// Everything up to `tail` was touched, and `added` blocks of it are new here.
    pub(super) fn end(&mut self, touch: u32, tail: Option<BlockId>, added: usize) {
        self.held += added;
        self.queue
            .extend(tail.map(|tail| RoutedChain { touch, tail }));
    }

    /// Lets the oldest go until the capacity suffices.
    pub(super) fn evict(&mut self, slot: EndpointSlot, blocks: &mut BlockTable) {
        while self.held > self.capacity {
            let Some(oldest) = self.queue.front_mut() else {
                return;
            };
            // What a later route touched is that route's to evict, and so is everything before it.
            if !blocks.holds(oldest.tail, slot, oldest.touch) {
                self.queue.pop_front();
                continue;
            }
            let parent = blocks.parent(oldest.tail);
            blocks.release(oldest.tail, slot);
            self.held -= 1;
            match parent {
                Some(parent) => oldest.tail = parent,
                None => _ = self.queue.pop_front(),
            }
        }
    }

    /// Drops routes that evict nothing any more, once they are the most.
    pub(super) fn compact(&mut self, slot: EndpointSlot, blocks: &BlockTable) {
        if self.queue.len() > 64 + 2 * self.held {
            self.queue
                .retain(|route| blocks.holds(route.tail, slot, route.touch));
        }
    }

    pub(super) fn clear(&mut self, slot: EndpointSlot, blocks: &mut BlockTable) {
        let capacity = std::mem::take(&mut self.capacity);
        self.evict(slot, blocks);
        self.capacity = capacity;
        self.queue = VecDeque::new();
    }

    pub(super) fn bytes(&self) -> usize {
        self.queue.capacity() * size_of::<RoutedChain>()
    }
}
