//! An approximate index of caches: what a router expects each server to hold, from what it sent
//! there.
//!
//! One LRU set of blocks for each server. It gets no evictions, so it may expect too much (a set
//! larger than the server's memory) or too little (another router's requests).

use std::collections::{BTreeMap, HashMap};

/// What each server is expected to hold.
#[derive(Debug)]
pub(super) struct Prefixes {
    servers: Vec<LruBlocks>,
}

/// Blocks in order of use, at most `capacity`.
#[derive(Debug)]
struct LruBlocks {
    capacity: usize,
    used: HashMap<u64, u64>,
    order: BTreeMap<u64, u64>,
    clock: u64,
}

impl Prefixes {
    /// Empty sets of at most `capacity` blocks.
    pub(super) fn new(servers: usize, capacity: usize) -> Self {
        let empty = || LruBlocks {
            capacity,
            used: HashMap::new(),
            order: BTreeMap::new(),
            clock: 0,
        };
        Self {
            servers: (0..servers).map(|_| empty()).collect(),
        }
    }

    /// How many of these blocks, from the first, a server is expected to hold.
    pub(super) fn matched(&self, server: usize, blocks: &[u64]) -> usize {
        let held = &self.servers[server].used;
        blocks
            .iter()
            .take_while(|block| held.contains_key(block))
            .count()
    }

    /// A prompt of these blocks went to a server.
    pub(super) fn learn(&mut self, server: usize, blocks: &[u64]) {
        self.servers[server].touch(blocks);
    }
}

impl LruBlocks {
    fn touch(&mut self, blocks: &[u64]) {
        // The last block first, so that a tail is forgotten before its head.
        for block in blocks.iter().rev() {
            self.clock += 1;
            if let Some(before) = self.used.insert(*block, self.clock) {
                self.order.remove(&before);
            }
            self.order.insert(self.clock, *block);
        }
        while self.used.len() > self.capacity {
            let Some((_, block)) = self.order.pop_first() else {
                return;
            };
            self.used.remove(&block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_last_is_remembered_head_first() {
        let mut prefixes = Prefixes::new(2, 3);
        prefixes.learn(0, &[1, 2, 3]);
        prefixes.learn(0, &[1, 9]);
        assert_eq!(
            (
                prefixes.matched(0, &[1, 2, 3]),
                prefixes.matched(0, &[1, 9])
            ),
            (2, 2)
        );
        assert_eq!(prefixes.matched(1, &[1]), 0);
    }
}
