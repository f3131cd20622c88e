//! A map from 64-bit hashes to small values that is dense at every size, and never stops for long.
//!
//! Open addressing with linear probing in many shards. A shard grows by a quarter when it is four
//! fifths full, and shrinks when it is little more than half full, so that an entry costs between
//! 1.25 and 1.8 times its own size, and a removal gives memory back. One operation moves at most
//! one shard: a map of a million entries pauses for what a few thousand cost.
//!
//! Keys are hashes already and are mixed once more, so that those of a careless engine (1, 2, 3, …)
//! spread too. A key may be any number; what marks a free place is the value.

use crate::hash::hash_mix;

/// A shard grows when more than 4 of 5 places are taken.
const FULL: (usize, usize) = (4, 5);

/// A shard shrinks when fewer than 11 of 20 places are taken.
const SPARSE: (usize, usize) = (11, 20);

/// Places of the smallest shard that has any.
const LEAST: usize = 8;

/// What a table can hold.
pub(super) trait TableValue: Copy + PartialEq {
    /// Marks a free place; never stored.
    const FREE: Self;
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct ShardedTable<V> {
    /// A power of two.
    shards: Box<[TableShard<V>]>,
    len: usize,
}

#[derive(Clone, Debug)]
struct TableShard<V> {
    keys: Vec<u64>,
    values: Vec<V>,
    len: usize,
}

/// What is left of a table that is given up.
#[derive(Clone, Debug)]
pub(super) struct TableEntries<V> {
    shards: Vec<TableShard<V>>,
}

// === ShardedTable ===

impl<V: TableValue> ShardedTable<V> {
    /// An empty table of `shards` shards, a power of two. It allocates nothing else yet.
    pub(super) fn new(shards: usize) -> Self {
        debug_assert!(
            shards.is_power_of_two(),
            "shards are picked by the low bits of a hash"
        );
        let shard = TableShard {
            keys: Vec::new(),
            values: Vec::new(),
            len: 0,
        };
        Self {
            shards: vec![shard; shards].into(),
            len: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes of its places, taken or free.
    pub(super) fn bytes(&self) -> usize {
        let place = size_of::<u64>() + size_of::<V>();
        let shard =
            |shard: &TableShard<V>| size_of::<TableShard<V>>() + shard.keys.capacity() * place;
        self.shards.iter().map(shard).sum()
    }

    pub(super) fn get(&self, key: u64) -> Option<V> {
        let hash = hash_mix(key, 0);
        let shard = &self.shards[self.shard(hash)];
        shard.find(hash, key).ok().map(|place| shard.values[place])
    }

    /// Sets the value of `key`, which must not be the free mark, and returns the one before.
    pub(super) fn insert(&mut self, key: u64, value: V) -> Option<V> {
        debug_assert!(value != V::FREE, "the mark of free places is no value");
        let hash = hash_mix(key, 0);
        let index = self.shard(hash);
        let before = self.shards[index].insert(hash, key, value);
        self.len += usize::from(before.is_none());
        before
    }

    pub(super) fn remove(&mut self, key: u64) -> Option<V> {
        let hash = hash_mix(key, 0);
        let index = self.shard(hash);
        let before = self.shards[index].remove(hash, key);
        self.len -= usize::from(before.is_some());
        before
    }

    /// Its entries in no order, each taken out and its memory given back on the way.
    pub(super) fn into_entries(self) -> TableEntries<V> {
        TableEntries {
            shards: self.shards.into(),
        }
    }

    fn shard(&self, hash: u64) -> usize {
        hash as usize & (self.shards.len() - 1)
    }
}

// === TableEntries ===

impl<V: TableValue> Iterator for TableEntries<V> {
    type Item = (u64, V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let shard = self.shards.last_mut()?;
            while let (Some(key), Some(value)) = (shard.keys.pop(), shard.values.pop()) {
                if value != V::FREE {
                    return Some((key, value));
                }
            }
            self.shards.pop();
        }
    }
}

// === TableShard ===

impl<V: TableValue> TableShard<V> {
    /// Where `key` is, or the free place that it would take.
    fn find(&self, hash: u64, key: u64) -> Result<usize, usize> {
        if self.keys.is_empty() {
            return Err(0);
        }
        let mut place = self.home(hash);
        loop {
            if self.values[place] == V::FREE {
                return Err(place);
            }
            if self.keys[place] == key {
                return Ok(place);
            }
            place = self.after(place);
        }
    }

    fn insert(&mut self, hash: u64, key: u64, value: V) -> Option<V> {
        match self.find(hash, key) {
            Ok(place) => Some(std::mem::replace(&mut self.values[place], value)),
            Err(place) => {
                let (taken, of) = FULL;
                let is_full = (self.len + 1) * of > self.keys.len() * taken;
                let place = if is_full {
                    self.resize((self.keys.len() * 5 / 4).max(LEAST));
                    self.find(hash, key).unwrap_or_else(|free| free)
                } else {
                    place
                };
                (self.keys[place], self.values[place]) = (key, value);
                self.len += 1;
                None
            }
        }
    }

    fn remove(&mut self, hash: u64, key: u64) -> Option<V> {
        let mut hole = self.find(hash, key).ok()?;
        let removed = self.values[hole];
        // Whatever probed past the hole moves up, so that no search ends there too early.
        let mut place = self.after(hole);
        while self.values[place] != V::FREE {
            let home = self.home(hash_mix(self.keys[place], 0));
            let stays = if hole < place {
                hole < home && home <= place
            } else {
                hole < home || home <= place
            };
            if !stays {
                (self.keys[hole], self.values[hole]) = (self.keys[place], self.values[place]);
                hole = place;
            }
            place = self.after(place);
        }
        self.values[hole] = V::FREE;
        self.len -= 1;
        let (taken, of) = SPARSE;
        if self.keys.len() > LEAST && self.len * of < self.keys.len() * taken {
            self.resize((self.len * 3 / 2).max(LEAST));
        }
        if self.len == 0 {
            (self.keys, self.values) = (Vec::new(), Vec::new());
        }
        Some(removed)
    }

    fn resize(&mut self, places: usize) {
        let keys = std::mem::replace(&mut self.keys, exactly(places, 0));
        let values = std::mem::replace(&mut self.values, exactly(places, V::FREE));
        for (key, value) in keys.into_iter().zip(values) {
            if value == V::FREE {
                continue;
            }
            if let Err(place) = self.find(hash_mix(key, 0), key) {
                (self.keys[place], self.values[place]) = (key, value);
            }
        }
    }

    /// Where a search begins, by multiply-shift (Lemire 2016): any number of places will do.
    fn home(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.keys.len() as u128) >> 64) as usize
    }

    fn after(&self, place: usize) -> usize {
        if place + 1 == self.keys.len() {
            0
        } else {
            place + 1
        }
    }
}

/// A vector without spare capacity.
fn exactly<T: Clone>(places: usize, value: T) -> Vec<T> {
    let mut vector = Vec::with_capacity(places);
    vector.resize(places, value);
    vector
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    impl TableValue for u32 {
        const FREE: Self = u32::MAX;
    }

    #[test]
    fn an_entry_costs_less_than_twice_its_size_at_any_fill() {
        let mut table: ShardedTable<u32> = ShardedTable::new(4);
        let shards = table.bytes();
        for key in 0..20_000 {
            table.insert(key, 0);
            let each = (table.bytes() - shards) as f64 / table.len() as f64;
            assert!(
                table.len() < 100 || each < 12.0 * 1.7,
                "{each} bytes at {key}"
            );
        }
        for key in 0..20_000 {
            table.remove(key);
            let each = (table.bytes() - shards) as f64 / table.len().max(1) as f64;
            assert!(
                table.len() < 100 || each < 12.0 * 1.9,
                "{each} bytes at {key}"
            );
        }
        assert_eq!(table.bytes(), shards, "all is given back");
    }

    #[test]
    fn a_dropped_table_yields_every_entry_once() {
        let mut table: ShardedTable<u32> = ShardedTable::new(8);
        (0..1_000).for_each(|key| assert_eq!(table.insert(key, key as u32), None));
        let mut seen: Vec<u64> = table.into_entries().map(|(key, _)| key).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..1_000).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn it_is_a_map(
            steps in proptest::collection::vec((any::<bool>(), 0..60u64, 0..5u32), 0..600), shards in 0..3u32,
        ) {
            let mut table: ShardedTable<u32> = ShardedTable::new(1 << shards);
            let mut model = BTreeMap::new();
            for (insert, key, value) in steps {
                if insert {
                    prop_assert_eq!(table.insert(key, value), model.insert(key, value));
                } else {
                    prop_assert_eq!(table.remove(key), model.remove(&key));
                }
                prop_assert_eq!(table.len(), model.len());
            }
            for key in 0..60 {
                prop_assert_eq!(table.get(key), model.get(&key).copied());
            }
        }
    }
}
