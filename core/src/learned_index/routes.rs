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
    /// Its blocks count for nothing any more: the endpoint is gone, or lost its cache.
    pub(super) is_retired: bool,
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

    /// What takes the place of the routes of an endpoint that lost its cache: none, of the same
    /// capacity. Numbers continue, so that none is used twice.
    pub(super) fn successor(&self) -> Self {
        Self {
            capacity: self.capacity,
            touches: self.touches,
            ..Self::default()
        }
    }

    /// Whether more is held than the capacity.
    pub(super) fn is_over(&self) -> bool {
        self.held > self.capacity
    }

    /// Lets the oldest go until the capacity suffices, in `most` steps at most. Returns the steps.
    pub(super) fn evict(
        &mut self,
        slot: EndpointSlot,
        blocks: &mut BlockTable,
        most: usize,
    ) -> usize {
        let mut steps = 0;
        while self.is_over() && steps < most {
            let Some(oldest) = self.queue.front_mut() else {
                return steps;
            };
            steps += 1;
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
        steps
    }

    /// Drops routes that evict nothing any more, once they are the most.
    pub(super) fn compact(&mut self, slot: EndpointSlot, blocks: &BlockTable) {
        if self.queue.len() > 64 + 2 * self.held {
            self.queue
                .retain(|route| blocks.holds(route.tail, slot, route.touch));
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.queue.capacity() * size_of::<RoutedChain>()
    }
}
