//! The index of KV blocks: a lookup, what an event costs, what a block weighs.

#![expect(clippy::print_stdout, reason = "what is not a time is printed")]

use std::{hint::black_box, time::Duration};

use divan::{Bencher, counter::ItemsCount};
use hermes_core::{
    block_index::{
        Adapter, BlockChange, BlockIndex, CacheIdentity, RankBlocks, RemovedBlocks, StoredBlocks,
        SyncState, content,
    },
    rng::SeededRng,
    snapshot::EndpointId,
};

/// Tokens of a block, vLLM's default.
const BLOCK: usize = 16;

/// Tokens of a prompt.
const PROMPT: usize = 8_192;

/// Blocks in the whole index.
const BLOCKS: usize = 1_000_000;

const ENDPOINTS: [usize; 3] = [10, 100, 1_000];

fn main() {
    weigh();
    pause();
    divan::main();
}

/// How a prompt is spread over a fleet.
#[derive(Clone, Copy, Debug)]
enum Spread {
    /// No endpoint holds it.
    Nowhere,
    /// One endpoint has all of it, and all endpoints have its first quarter.
    Conversation,
    /// Everybody has all of it.
    Everywhere,
}

struct Fleet {
    index: BlockIndex,
    _ranks: Vec<RankBlocks>,
    prompt: Vec<u32>,
}

fn prompt(rng: &mut SeededRng, tokens: usize) -> Vec<u32> {
    (0..tokens).map(|_| rng.below(150_000) as u32).collect()
}

fn stored(rng: &mut SeededRng, tokens: &[u32]) -> StoredBlocks {
    let contents: Vec<u64> = tokens.chunks_exact(BLOCK).map(content).collect();
    let names = contents.iter().map(|_| rng.next_u64()).collect();
    StoredBlocks {
        names,
        contents,
        ..StoredBlocks::default()
    }
    .rooted(BLOCK as u32, Adapter::None)
}

fn take(
    index: &mut BlockIndex,
    rank: &mut RankBlocks,
    stored: &StoredBlocks,
    changes: &mut Vec<BlockChange>,
) {
    changes.clear();
    rank.store(stored, changes).expect("few blocks");
    index.apply(rank, changes);
}

fn fleet(endpoints: usize, spread: Spread) -> Fleet {
    let (mut index, mut rng, mut changes) = (BlockIndex::default(), SeededRng::new(1), Vec::new());
    let common = prompt(&mut rng, PROMPT);
    let mut ranks = Vec::new();
    for number in 0..endpoints {
        let mut rank = index.open(EndpointId(number as u64));
        index.set_sync_state(&rank, SyncState::Synced);
        let share = match spread {
            Spread::Nowhere => 0,
            Spread::Conversation if number == 0 => PROMPT,
            Spread::Conversation => PROMPT / 4,
            Spread::Everywhere => PROMPT,
        };
        let stored_here = stored(&mut rng, &common[..share]);
        take(&mut index, &mut rank, &stored_here, &mut changes);
        while rank.blocks() < BLOCKS / endpoints {
            let tokens = prompt(&mut rng, PROMPT);
            take(
                &mut index,
                &mut rank,
                &stored(&mut rng, &tokens),
                &mut changes,
            );
        }
        ranks.push(rank);
    }
    let prompt = [&common[..], &[1]].concat();
    Fleet {
        index,
        _ranks: ranks,
        prompt,
    }
}

/// 8,192 tokens, looked up in an index of a million blocks.
#[divan::bench(args = [Spread::Nowhere, Spread::Conversation, Spread::Everywhere], consts = ENDPOINTS)]
fn hits<const N: usize>(bencher: Bencher<'_, '_>, spread: &Spread) {
    let fleet = fleet(N, *spread);
    let identity = CacheIdentity::default();
    bencher.bench_local(|| black_box(fleet.index.hits(black_box(&fleet.prompt), &identity)));
}

/// Blocks stored and removed again by one rank in a full index.
#[divan::bench]
fn store_and_remove(bencher: Bencher<'_, '_>) {
    let mut fleet = fleet(100, Spread::Conversation);
    let mut rank = fleet.index.open(EndpointId(0));
    let mut rng = SeededRng::new(2);
    let tokens = prompt(&mut rng, PROMPT);
    let stored = stored(&mut rng, &tokens);
    let removed = RemovedBlocks {
        names: stored.names.clone(),
        ..RemovedBlocks::default()
    };
    let mut changes = Vec::new();
    bencher
        .counter(ItemsCount::new(2 * stored.names.len()))
        .bench_local(|| {
            take(&mut fleet.index, &mut rank, &stored, &mut changes);
            changes.clear();
            rank.remove(&removed, &mut changes);
            fleet.index.apply(&rank, &changes);
        });
}

/// How long slices of 256 changes take while an index fills up to a million blocks and is swept
/// again.
fn pause() {
    let (mut index, mut rng, mut changes) = (BlockIndex::default(), SeededRng::new(1), Vec::new());
    let mut rank = index.open(EndpointId(0));
    let (mut filling, mut sweeping) = (Vec::new(), Vec::new());
    while rank.blocks() < BLOCKS {
        changes.clear();
        let tokens = prompt(&mut rng, PROMPT);
        rank.store(&stored(&mut rng, &tokens), &mut changes)
            .expect("few blocks");
        for slice in changes.chunks(256) {
            filling.push(timed(|| index.apply(&rank, slice)));
        }
    }
    index.close(&mut rank);
    while index.blocks() > 0 {
        sweeping.push(timed(|| assert!(index.sweep(256) || index.blocks() == 0)));
    }
    for (what, mut times) in [("filling", filling), ("sweeping", sweeping)] {
        times.sort_unstable();
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        println!(
            "a slice of 256 changes, {what}: p50 {:?} p90 {:?} p99 {:?}",
            at(0.5),
            at(0.9),
            at(0.99)
        );
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a bench measures time that passes"
)]
fn timed(work: impl FnOnce()) -> Duration {
    let begun = std::time::Instant::now();
    work();
    begun.elapsed()
}

/// Bytes for each block and endpoint that holds it, as the index grows and as it shrinks.
fn weigh() {
    println!("bytes per (block, endpoint), index and rank together:");
    for shared in [1, 4] {
        let (mut index, mut rng, mut changes) =
            (BlockIndex::default(), SeededRng::new(1), Vec::new());
        let mut ranks: Vec<RankBlocks> = (0..shared)
            .map(|number| index.open(EndpointId(number)))
            .collect();
        let mut names: Vec<Vec<u64>> = vec![Vec::new(); ranks.len()];
        let (mut line, mut next, empty) = (String::new(), 10_000.0, index.bytes());
        let each = |index: &BlockIndex, ranks: &[RankBlocks]| {
            let pairs: usize = ranks.iter().map(RankBlocks::blocks).sum();
            let bytes = index.bytes() - empty + ranks.iter().map(RankBlocks::bytes).sum::<usize>();
            bytes as f64 / pairs as f64
        };
        while ranks[0].blocks() < 500_000 {
            let tokens = prompt(&mut rng, PROMPT);
            for (rank, names) in ranks.iter_mut().zip(&mut names) {
                let stored = stored(&mut rng, &tokens);
                take(&mut index, rank, &stored, &mut changes);
                names.extend(stored.names);
            }
            if ranks[0].blocks() as f64 > next {
                line += &format!(" {:.1}", each(&index, &ranks));
                next *= 1.3;
            }
        }
        println!("  {shared} endpoints hold each block, 10,000 to 500,000 blocks:{line}");
        line.clear();
        for part in 1..=9 {
            for (rank, names) in ranks.iter_mut().zip(&names) {
                let removed = names.iter().skip(part).step_by(10).copied().collect();
                changes.clear();
                rank.remove(
                    &RemovedBlocks {
                        names: removed,
                        ..RemovedBlocks::default()
                    },
                    &mut changes,
                );
                index.apply(rank, &changes);
            }
            line += &format!(" {:.1}", each(&index, &ranks));
        }
        println!("  with 90 % to 10 % of them left:{line}");
    }
}
