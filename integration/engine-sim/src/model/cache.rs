//! The block cache: a fixed number of KV blocks, shared by prefix, evicted least recently used
//! first.
//!
//! A block is *private* (allocated to one sequence, not yet full), *shared* (full, named by its
//! hash, referenced by running sequences) or *idle* (full, unreferenced, kept until its room is
//! needed). Invariant: `private + shared + idle ≤ capacity`. The cache holds no content and knows
//! no clock: its order of use is the order of its calls.

use std::collections::{BTreeMap, HashMap};

/// KV blocks that sequences share by prefix, with eviction in LRU order.
#[derive(Debug)]
pub struct BlockCache {
    capacity: usize,
    private: usize,
    named: HashMap<u64, Named>,
    /// Unreferenced blocks by the moment at which they were released.
    idle: BTreeMap<u64, u64>,
    releases: u64,
    /// Blocks that were evicted since they were last asked for.
    evicted: Vec<u64>,
}

#[derive(Debug)]
struct Named {
    references: u32,
    /// The key in `idle`; meaningful only without references.
    released: u64,
}

impl BlockCache {
    /// An empty cache of this many blocks.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            private: 0,
            named: HashMap::new(),
            idle: BTreeMap::new(),
            releases: 0,
            evicted: Vec::new(),
        }
    }

    /// How many of these blocks, from the first, are held. Changes nothing.
    pub fn prefix_len(&self, hashes: &[u64]) -> usize {
        hashes.iter().take_while(|hash| self.holds(**hash)).count()
    }

    /// Whether this block is held. Changes nothing.
    pub fn holds(&self, hash: u64) -> bool {
        self.named.contains_key(&hash)
    }

    /// References the held blocks of `prefix` and allocates `fresh` private ones, or does nothing
    /// and answers `false`.
    pub fn admit(&mut self, prefix: &[u64], fresh: usize) -> bool {
        let revived = prefix
            .iter()
            .filter(|hash| {
                self.named
                    .get(hash)
                    .is_some_and(|block| block.references == 0)
            })
            .count();
        if fresh + revived > self.available() {
            return false;
        }
        for hash in prefix {
            self.reference(*hash);
        }
        self.allocate(fresh)
    }

    /// Allocates private blocks, evicting idle ones as needed; does nothing and answers `false`
    /// when there are too few.
    pub fn allocate(&mut self, blocks: usize) -> bool {
        if blocks > self.available() {
            return false;
        }
        while self.private + self.named.len() + blocks > self.capacity {
            let Some((_, hash)) = self.idle.pop_first() else {
                return false;
            };
            self.named.remove(&hash);
            self.evicted.push(hash);
        }
        self.private += blocks;
        true
    }

    /// A private block became full: from now on it is shared under its hash. If that hash is held
    /// already, the copy is freed, and the answer is `false`.
    pub fn publish(&mut self, hash: u64) -> bool {
        self.private -= 1;
        let is_new = !self.reference(hash);
        if is_new {
            self.named.insert(
                hash,
                Named {
                    references: 1,
                    released: 0,
                },
            );
        }
        is_new
    }

    /// Blocks that were evicted since the last call.
    pub fn take_evicted(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.evicted)
    }

    /// Drops all blocks if no sequence uses any; else does nothing and returns `false`.
    pub fn reset(&mut self) -> bool {
        if self.used() > 0 {
            return false;
        }
        self.named.clear();
        self.idle.clear();
        true
    }

    /// A sequence leaves: its shared blocks lose a reference, last block first, so that a tail is
    /// evicted before its head.
    pub fn release(&mut self, shared: &[u64], private: usize) {
        self.private -= private;
        for hash in shared.iter().rev() {
            let Some(block) = self.named.get_mut(hash) else {
                continue;
            };
            block.references -= 1;
            if block.references == 0 {
                self.releases += 1;
                block.released = self.releases;
                self.idle.insert(self.releases, *hash);
            }
        }
    }

    /// Blocks that running sequences hold; idle ones count as free, as in vLLM's
    /// `kv_cache_usage_perc`.
    pub fn used(&self) -> usize {
        self.private + self.named.len() - self.idle.len()
    }

    /// How many blocks there are.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Blocks with content that a later prompt can hit.
    pub fn named(&self) -> usize {
        self.named.len()
    }

    fn available(&self) -> usize {
        self.capacity - self.used()
    }

    fn reference(&mut self, hash: u64) -> bool {
        let Some(block) = self.named.get_mut(&hash) else {
            return false;
        };
        if block.references == 0 {
            self.idle.remove(&block.released);
        }
        block.references += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filled(cache: &mut BlockCache, hashes: &[u64]) {
        assert!(cache.allocate(hashes.len()));
        for hash in hashes {
            cache.publish(*hash);
        }
        cache.release(hashes, 0);
    }

    #[test]
    fn the_least_recently_used_block_goes_first_and_a_tail_before_its_head() {
        let mut cache = BlockCache::new(4);
        filled(&mut cache, &[1, 2]);
        filled(&mut cache, &[3, 4]);
        assert!(cache.admit(&[1], 0), "a hit makes block 1 recent");
        cache.release(&[1], 0);
        assert!(cache.allocate(2));
        assert_eq!(
            (
                cache.prefix_len(&[1]),
                cache.prefix_len(&[2]),
                cache.prefix_len(&[3, 4])
            ),
            (1, 0, 1)
        );
    }

    #[test]
    fn referenced_blocks_are_never_evicted() {
        let mut cache = BlockCache::new(2);
        filled(&mut cache, &[1, 2]);
        assert!(cache.admit(&[1, 2], 0));
        assert!(!cache.allocate(1));
        assert_eq!(cache.prefix_len(&[1, 2]), 2);
    }

    #[test]
    fn an_admission_that_does_not_fit_changes_nothing() {
        let mut cache = BlockCache::new(3);
        filled(&mut cache, &[1, 2]);
        assert!(
            !cache.admit(&[1, 2], 2),
            "the two hits are needed, so only one block is left"
        );
        assert_eq!((cache.used(), cache.prefix_len(&[1, 2])), (0, 2));
    }

    proptest! {
        #[test]
        fn never_more_blocks_than_capacity(
            capacity in 1usize..20, sequences in proptest::collection::vec((0u64..6, 1usize..8, any::<bool>()), 1..60),
        ) {
            let mut cache = BlockCache::new(capacity);
            let mut running: Vec<Vec<u64>> = Vec::new();
            for (family, length, leave) in sequences {
                let hashes: Vec<u64> = (0..length as u64).map(|block| family * 100 + block).collect();
                let hit = cache.prefix_len(&hashes);
                if cache.admit(&hashes[..hit], length - hit) {
                    for hash in &hashes[hit..] {
                        cache.publish(*hash);
                    }
                    running.push(hashes);
                }
                if leave && !running.is_empty() {
                    let gone = running.remove(0);
                    cache.release(&gone, 0);
                }
                prop_assert!(cache.private + cache.named.len() <= capacity);
                prop_assert!(running.iter().all(|hashes| cache.prefix_len(hashes) == hashes.len()));
            }
            for gone in running.drain(..) {
                cache.release(&gone, 0);
            }
            prop_assert_eq!(cache.used(), 0);
        }
    }
}
