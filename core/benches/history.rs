//! What remembering a choice costs a request of a proxy, and what finding one costs when it chooses
//! by itself.
//!
//! The memory is full, as it is in service: each prompt that is remembered makes an older one be
//! forgotten. Prompts share a beginning, as those of one application do, and go to 100 endpoints.

use std::{hint::black_box, sync::Arc, time::Duration};

use divan::Bencher;
use hermes_core::{
    history::{HistoryLimits, RoutingHistory},
    query::Query,
    rng::SeededRng,
    snapshot::EndpointId,
};

/// Blocks of a short chat, of 8,000 tokens, and of a 220 KB prompt.
const LENGTHS: [usize; 3] = [4, 128, 860];

const ENDPOINTS: usize = 100;

fn main() {
    divan::main();
}

fn prompt(length: usize, rng: &mut SeededRng) -> Arc<[u64]> {
    let shared = (length / 4) as u64;
    let mut own = || ((rng.below(1 << 31) as u64) << 32) | rng.below(1 << 31) as u64;
    (0..length as u64)
        .map(|block| if block < shared { block } else { own() })
        .collect()
}

/// A memory that is full of prompts of this length, and more of them.
fn full(length: usize) -> (RoutingHistory, Vec<Arc<[u64]>>) {
    let mut rng = SeededRng::new(1);
    let limits = HistoryLimits::default();
    let mut memory = RoutingHistory::new(256, limits);
    for _ in 0..(limits.hashes / length).min(limits.prompts) {
        let endpoint = EndpointId(rng.below(ENDPOINTS) as u64);
        memory.record(endpoint, &prompt(length, &mut rng), 1, Duration::ZERO);
    }
    (
        memory,
        (0..4_096).map(|_| prompt(length, &mut rng)).collect(),
    )
}

#[divan::bench(args = LENGTHS)]
fn record(bencher: Bencher<'_, '_>, length: usize) {
    let (mut memory, prompts) = full(length);
    let mut number = 0;
    bencher.bench_local(|| {
        number += 1;
        let endpoint = EndpointId((number % ENDPOINTS) as u64);
        memory.record(
            endpoint,
            &prompts[number % prompts.len()],
            1,
            Duration::ZERO,
        );
    });
}

#[divan::bench(args = LENGTHS)]
fn hits(bencher: Bencher<'_, '_>, length: usize) {
    let (memory, prompts) = full(length);
    let query = |blocks: &Arc<[u64]>| Query {
        prompt_bytes: length as u64 * 256,
        prompt_tokens: length as u32 * 64,
        blocks: Arc::clone(blocks),
        ..Query::default()
    };
    let queries: Vec<Query> = prompts.iter().map(query).collect();
    let mut number = 0;
    bencher.bench_local(|| {
        number += 1;
        black_box(memory.hits(&queries[number % queries.len()]))
    });
}

/// The replay for a new owner, read from a full history.
#[divan::bench(args = LENGTHS)]
fn newest_first(bencher: Bencher<'_, '_>, length: usize) {
    let (memory, _) = full(length);
    bencher.bench_local(|| black_box(memory.newest_first(Duration::ZERO).collect::<Vec<_>>()));
}
