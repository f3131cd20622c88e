//! Scenarios of [`LearnedIndex`], and a model of it.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::*;

const A: EndpointId = EndpointId(1);
const B: EndpointId = EndpointId(2);

fn index(capacity: usize) -> LearnedIndex {
    let mut index = LearnedIndex::default();
    for endpoint in [A, B] {
        index
            .set_capacity(endpoint, capacity)
            .expect("room for two");
    }
    index
}

/// A chain of `n` blocks of the conversation `name`; the first `shared` blocks are the same in all
/// conversations.
fn chain(name: u64, shared: u64, n: u64) -> Vec<u64> {
    let content = (0..n).map(|block| if block < shared { 0 } else { name });
    content
        .scan(1, |last, content| {
            *last = crate::hash::hash_mix(*last, content);
            Some(*last)
        })
        .collect()
}

fn depths(index: &LearnedIndex, chain: &[u64]) -> (u32, u32) {
    let depth = |endpoint| index.depth(index.slot(endpoint).expect("known"), chain);
    (depth(A), depth(B))
}

#[test]
fn a_hash_that_another_chain_has_further_down_is_no_longer_match() {
    let mut index = index(100);
    index.insert(A, &[11, 12, 13]);
    index.insert(B, &[11]);
    let (a, b) = (index.slot(A).expect("known"), index.slot(B).expect("known"));
    // Its first block is equal to the third of the others.
    assert_eq!(index.lookup(&[13]).as_slice(), [(a, 1)]);
    assert_eq!((index.depth(a, &[13]), index.depth(b, &[13])), (1, 0));
}

#[test]
fn a_routed_prompt_is_found_as_far_as_it_is_shared() {
    let mut index = index(100);
    index.insert(A, &chain(7, 3, 10));
    index.insert(B, &chain(8, 3, 10));
    assert_eq!(depths(&index, &chain(7, 3, 20)), (10, 3));
    assert_eq!(depths(&index, &chain(9, 3, 20)), (3, 3));
    let (a, b) = (index.slot(A).expect("known"), index.slot(B).expect("known"));
    assert_eq!(index.lookup(&chain(7, 3, 20)).as_slice(), [(a, 10), (b, 3)]);
    assert!(index.lookup(&chain(9, 0, 20)).is_empty());
}

#[test]
fn the_latest_routes_are_distinguished_from_earlier_ones() {
    let mut index = index(100);
    index.insert(A, &chain(1, 2, 10));
    index.insert(A, &chain(2, 2, 6));
    let slot = index.slot(A).expect("known");
    let latest = |name, routes| index.depth_of_latest(slot, &chain(name, 2, 20), routes);
    assert_eq!((latest(2, 0), latest(2, 1), latest(2, 2)), (0, 6, 6));
    assert_eq!((latest(1, 0), latest(1, 1), latest(1, 2)), (0, 2, 10));
}

#[test]
fn the_least_recently_used_prompt_goes_first_and_its_tail_before_its_head() {
    let mut index = index(10);
    index.insert(A, &chain(1, 0, 5));
    index.insert(A, &chain(2, 0, 5));
    index.insert(A, &chain(1, 0, 2));
    index.insert(A, &chain(3, 0, 4));
    assert_eq!(
        depths(&index, &chain(1, 0, 5)).0,
        2,
        "the head was used again, the tail was not"
    );
    assert_eq!(depths(&index, &chain(2, 0, 5)).0, 4);
    assert_eq!(depths(&index, &chain(3, 0, 4)).0, 4);
}

#[test]
fn an_endpoint_that_restarts_holds_nothing_and_the_others_keep_theirs() {
    let mut index = index(100);
    index.insert(A, &chain(1, 0, 10));
    index.insert(B, &chain(1, 0, 10));
    index.clear(A);
    assert_eq!(depths(&index, &chain(1, 0, 10)), (0, 10));
    index.retain(|endpoint| endpoint == A);
    assert!(index.is_empty());
    index.insert(B, &chain(1, 0, 10));
    assert!(index.is_empty(), "who is gone learns nothing");
}

#[test]
fn the_same_prompt_again_and_again_costs_no_memory() {
    let mut index = index(1_000);
    index.insert(A, &chain(1, 0, 100));
    let before = index.bytes();
    (0..10_000).for_each(|_| index.insert(A, &chain(1, 0, 100)));
    assert!(
        index.bytes() < before + 8_192,
        "{} after {before}",
        index.bytes()
    );
}

/// The bound that the documents give, and that memory comes back.
#[test]
fn a_million_blocks_take_at_most_48_bytes_each_and_give_them_back() {
    let mut index = LearnedIndex::default();
    let endpoints: Vec<EndpointId> = (0..100).map(EndpointId).collect();
    endpoints
        .iter()
        .for_each(|&endpoint| _ = index.set_capacity(endpoint, 10_000));
    for conversation in 0..10_000 {
        index.insert(
            endpoints[conversation as usize % 100],
            &chain(conversation, 0, 100),
        );
    }
    assert_eq!(index.len(), 1_000_000);
    assert!(
        index.bytes() <= 48 * index.len(),
        "{} bytes a block",
        index.bytes() / index.len()
    );
    endpoints
        .iter()
        .skip(1)
        .for_each(|&endpoint| index.clear(endpoint));
    assert_eq!(index.len(), 10_000);
    while index.sweep(1_000) {}
    assert!(
        index.bytes() < 4 << 20,
        "{} bytes for what is left",
        index.bytes()
    );
}

#[test]
fn a_restart_takes_no_time_and_its_blocks_are_swept_in_steps() {
    let mut index = index(1_000);
    index.insert(A, &chain(1, 0, 900));
    let (before, slot) = (index.bytes(), index.slot(A));
    index.clear(A);
    assert_eq!((index.held(A), index.bytes()), (0, before));
    assert_ne!(index.slot(A), slot);
    assert!(index.lookup(&chain(1, 0, 900)).is_empty());
    assert!(index.sweep(899), "one is left");
    assert!(!index.sweep(1));
    for round in 0..10 {
        index.insert(A, &chain(round, 0, 10));
        index.clear(A);
        while index.sweep(100) {}
    }
    assert_eq!(index.routes.len(), 3, "slots are used again");
}

#[test]
fn an_insertion_sweeps_as_much_as_it_adds() {
    let mut index = index(1_000);
    index.insert(A, &chain(1, 0, 1_000));
    let full = index.bytes();
    for round in 2..50 {
        index.clear(A);
        index.insert(A, &chain(round, 0, 1_000));
        assert!(index.bytes() <= full + full / 10, "{}", index.bytes());
    }
}

#[test]
fn what_exceeds_a_capacity_that_shrank_leaves_in_steps_the_oldest_first() {
    let mut index = index(1_000);
    index.insert(A, &chain(1, 0, 500));
    index.insert(A, &chain(2, 0, 500));
    index.set_capacity(A, 400);
    assert_eq!(index.held(A), 1_000);
    index.insert(A, &chain(2, 0, 100));
    assert_eq!(index.held(A), 800, "its own and a sweep");
    while index.sweep(10) {}
    assert_eq!(index.held(A), 400);
    assert_eq!(depths(&index, &chain(1, 0, 500)).0, 0);
    assert_eq!(depths(&index, &chain(2, 0, 500)).0, 400);
}

/// A naive index: for each endpoint, blocks by their last use, evicted one by one.
#[derive(Default)]
struct Model {
    held: HashMap<EndpointId, BTreeMap<u64, (u32, i64)>>,
    clock: u32,
}

impl Model {
    fn insert(&mut self, endpoint: EndpointId, chain: &[u64], capacity: usize) {
        self.clock += 1;
        let held = self.held.entry(endpoint).or_default();
        for (depth, &hash) in chain.iter().take(capacity).enumerate() {
            held.insert(hash, (self.clock, -(depth as i64)));
        }
        while held.len() > capacity {
            let oldest = held
                .iter()
                .min_by_key(|(_, age)| **age)
                .map(|(&hash, _)| hash)
                .expect("not empty");
            held.remove(&oldest);
        }
    }

    fn depth(&self, endpoint: EndpointId, chain: &[u64]) -> u32 {
        let held = self.held.get(&endpoint);
        chain
            .iter()
            .take_while(|hash| held.is_some_and(|held| held.contains_key(hash)))
            .count() as u32
    }
}

proptest! {
    #[test]
    fn it_agrees_with_a_naive_index(
        capacity in 1usize..30,
        steps in proptest::collection::vec((any::<bool>(), 0u64..6, 0u64..4, 1u64..16, 0u8..20), 1..80),
    ) {
        let (mut index, mut model) = (index(capacity), Model::default());
        for (second, name, shared, n, rng) in steps {
            let endpoint = if second { B } else { A };
            match rng {
                0 => {
                    index.clear(endpoint);
                    model.held.remove(&endpoint);
                }
                1 => _ = index.sweep(3),
                _ => {}
            }
            let chain = chain(name, shared, n);
            index.insert(endpoint, &chain);
            model.insert(endpoint, &chain, capacity);
            for name in 0..6 {
                let chain = self::chain(name, shared, 16);
                let expected = (model.depth(A, &chain), model.depth(B, &chain));
                prop_assert_eq!(depths(&index, &chain), expected);
                let mut found = [0, 0];
                for (slot, depth) in index.lookup(&chain) {
                    found[usize::from(Some(slot) == index.slot(B))] = depth;
                }
                prop_assert_eq!((found[0], found[1]), expected);
            }
            prop_assert!(index.held(A) <= capacity && index.held(B) <= capacity);
            prop_assert_eq!(index.len(), model.held.values().map(BTreeMap::len).sum::<usize>());
        }
    }
}
