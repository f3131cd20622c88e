//! Token ids that were made lately, bounded by the bytes that they take.
//!
//! Two generations: what is made or read goes into the newer one, and when that has taken half of
//! the bytes, the older is dropped and the newer becomes the older. What was not read for a whole
//! generation is gone. A read or write costs one lock and one look into a map.

use std::{collections::HashMap, mem, sync::Arc};

use parking_lot::Mutex;

/// What an entry takes besides its ids: key, pointer, counts, and its share of the map's spare
/// room.
const OVERHEAD: usize = 96;

/// Names what was made into tokens: a hash that no client can aim at, because it is seeded at
/// random.
pub(super) type TokenKey = u128;

/// See the module.
#[derive(Debug)]
pub(super) struct TokenCache {
    /// Bytes of one generation.
    half: usize,
    generations: Mutex<Generations>,
}

#[derive(Debug, Default)]
struct Generations {
    newer: HashMap<TokenKey, Arc<[u32]>>,
    older: HashMap<TokenKey, Arc<[u32]>>,
    /// Bytes of the newer.
    bytes: usize,
}

// === TokenCache ===

impl TokenCache {
    /// An empty one that will take at most `bytes`.
    pub(super) fn new(bytes: usize) -> Self {
        Self {
            half: bytes / 2,
            generations: Mutex::default(),
        }
    }

    /// The ids under `key`.
    pub(super) fn get(&self, key: TokenKey) -> Option<Arc<[u32]>> {
        let mut generations = self.generations.lock();
        if let Some(ids) = generations.newer.get(&key) {
            return Some(Arc::clone(ids));
        }
        let ids = generations.older.remove(&key)?;
        generations.put(key, &ids, self.half);
        Some(ids)
    }

    /// Keeps `ids` under `key`, unless they are more than fits.
    pub(super) fn put(&self, key: TokenKey, ids: &Arc<[u32]>) {
        self.generations.lock().put(key, ids, self.half);
    }

    #[cfg(test)]
    fn bytes(&self) -> usize {
        let generations = self.generations.lock();
        let older: usize = generations.older.values().map(|ids| weight(ids)).sum();
        generations.bytes + older
    }
}

// === Generations ===

impl Generations {
    fn put(&mut self, key: TokenKey, ids: &Arc<[u32]>, half: usize) {
        let weight = weight(ids);
        if weight > half {
            return;
        }
        if self.bytes + weight > half {
            self.older = mem::take(&mut self.newer);
            self.bytes = 0;
        }
        if let Some(before) = self.newer.insert(key, Arc::clone(ids)) {
            self.bytes -= self::weight(&before);
        }
        self.bytes += weight;
    }
}

fn weight(ids: &[u32]) -> usize {
    mem::size_of_val(ids) + OVERHEAD
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_read_stays_and_what_is_not_goes() {
        let memo = TokenCache::new(10 * (OVERHEAD + 40));
        let ids: Arc<[u32]> = vec![7; 10].into();
        memo.put(0, &ids);
        for key in 1..100 {
            memo.put(key, &ids);
            assert!(memo.get(0).is_some(), "read before every write");
        }
        assert!(memo.get(1).is_none());
        assert!(memo.get(99).is_some());
    }

    proptest! {
        #[test]
        fn its_bytes_are_bounded_whatever_is_put_and_read(
            limit in 0..2_000_usize,
            steps in proptest::collection::vec((any::<bool>(), 0..20_u128, 0..200_usize), 0..200),
        ) {
            let memo = TokenCache::new(limit);
            for (reads, key, length) in steps {
                if reads {
                    memo.get(key);
                } else {
                    memo.put(key, &vec![0; length].into());
                }
                prop_assert!(memo.bytes() <= limit);
            }
        }
    }
}
