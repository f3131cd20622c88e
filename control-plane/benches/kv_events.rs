//! KV events in: what a block costs from its bytes to the index, and what lookups feel of it.

#![expect(clippy::print_stdout, reason = "what is not a time is printed")]

use std::{
    hint::black_box,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use divan::{Bencher, counter::ItemsCount};
use hermes_control_plane::cache_sources::kv_events::decode;
use hermes_core::{
    block_index::{BlockChange, BlockEvent, BlockIndex, CacheIdentity, RankBlocks, SyncState},
    rng::SeededRng,
    snapshot::EndpointId,
};
use parking_lot::RwLock;
use rmp::encode;

/// Tokens of a block, vLLM's default.
const BLOCK: usize = 16;

/// Changes that are made under one lock, as in the plane.
const SLICE: usize = 256;

fn main() {
    beside_lookups();
    divan::main();
}

fn prompt(rng: &mut SeededRng, tokens: usize) -> Vec<u32> {
    (0..tokens).map(|_| rng.below(150_000) as u32).collect()
}

/// One message of vLLM 0.32: the blocks of a prompt are stored. Names are random, as digests are.
fn stored(rng: &mut SeededRng, prompt: &[u32]) -> (Vec<u8>, Vec<u64>) {
    let names: Vec<u64> = prompt.chunks_exact(BLOCK).map(|_| rng.next_u64()).collect();
    let mut out = batch(1);
    map(&mut out, "BlockStored", 10);
    field(&mut out, "block_hashes", |out| numbers(out, &names));
    field(&mut out, "parent_block_hash", |out| {
        encode::write_nil(out).expect("memory");
    });
    let tokens: Vec<u64> = prompt.iter().map(|token| (*token).into()).collect();
    field(&mut out, "token_ids", |out| numbers(out, &tokens));
    field(&mut out, "block_size", |out| {
        drop(encode::write_uint(out, BLOCK as u64));
    });
    field(&mut out, "lora_id", |out| {
        encode::write_nil(out).expect("memory");
    });
    field(&mut out, "medium", |out| {
        encode::write_str(out, "GPU").expect("memory");
    });
    field(&mut out, "lora_name", |out| {
        encode::write_nil(out).expect("memory");
    });
    field(&mut out, "extra_keys", |out| {
        encode::write_array_len(out, names.len() as u32).expect("memory");
        names
            .iter()
            .for_each(|_| encode::write_nil(out).expect("memory"));
    });
    field(&mut out, "group_idx", |out| {
        drop(encode::write_uint(out, 0));
    });
    field(&mut out, "kv_cache_spec_kind", |out| {
        encode::write_str(out, "full_attention").expect("memory");
    });
    (out, names)
}

/// One message: each of these blocks is removed by an event of its own, as vLLM does it.
fn removed(names: &[u64]) -> Vec<u8> {
    let mut out = batch(names.len());
    for name in names {
        map(&mut out, "BlockRemoved", 3);
        field(&mut out, "block_hashes", |out| numbers(out, &[*name]));
        field(&mut out, "medium", |out| {
            encode::write_str(out, "GPU").expect("memory");
        });
        field(&mut out, "group_idx", |out| {
            drop(encode::write_uint(out, 0));
        });
    }
    out
}

fn batch(events: usize) -> Vec<u8> {
    let mut out = Vec::new();
    encode::write_array_len(&mut out, 2).expect("memory");
    encode::write_f64(&mut out, 1.0).expect("memory");
    encode::write_array_len(&mut out, events as u32).expect("memory");
    out
}

fn map(out: &mut Vec<u8>, kind: &str, fields: u32) {
    encode::write_map_len(out, fields + 1).expect("memory");
    field(out, "type", |out| {
        encode::write_str(out, kind).expect("memory");
    });
}

fn field(out: &mut Vec<u8>, name: &str, value: impl FnOnce(&mut Vec<u8>)) {
    encode::write_str(out, name).expect("memory");
    value(out);
}

fn numbers(out: &mut Vec<u8>, numbers: &[u64]) {
    encode::write_array_len(out, numbers.len() as u32).expect("memory");
    numbers
        .iter()
        .for_each(|number| drop(encode::write_uint(out, *number)));
}

/// From the payload to the index, as the plane does it.
fn take(
    index: &RwLock<BlockIndex>,
    rank: &mut RankBlocks,
    payload: &[u8],
    changes: &mut Vec<BlockChange>,
) {
    for event in decode::batch(payload).expect("a batch").events {
        match event {
            BlockEvent::Stored(stored) => drop(rank.store(&stored, changes).expect("few blocks")),
            BlockEvent::Removed(removed) => drop(rank.remove(&removed, changes)),
            BlockEvent::Cleared => {}
        }
        if changes.len() >= SLICE {
            flush(index, rank, changes);
        }
    }
    flush(index, rank, changes);
}

fn flush(index: &RwLock<BlockIndex>, rank: &RankBlocks, changes: &mut Vec<BlockChange>) {
    changes
        .chunks(SLICE)
        .for_each(|slice| index.write().apply(rank, slice));
    changes.clear();
}

/// An index with a hundred whole endpoints and a million blocks, and a prompt of 8,192 tokens that
/// the first one holds, and of which the others hold a quarter.
fn full() -> (RwLock<BlockIndex>, Vec<RankBlocks>, Vec<u32>) {
    let (index, mut rng, mut changes) = (
        RwLock::new(BlockIndex::default()),
        SeededRng::new(1),
        Vec::new(),
    );
    let common = prompt(&mut rng, 8_192);
    let mut ranks = Vec::new();
    for number in 0..100 {
        let mut rank = index.write().open(EndpointId(number));
        index.write().set_sync_state(&rank, SyncState::Synced);
        let share = if number == 0 {
            common.len()
        } else {
            common.len() / 4
        };
        take(
            &index,
            &mut rank,
            &stored(&mut rng, &common[..share]).0,
            &mut changes,
        );
        while rank.blocks() < 10_000 {
            let tokens = prompt(&mut rng, 8_192);
            take(
                &index,
                &mut rank,
                &stored(&mut rng, &tokens).0,
                &mut changes,
            );
        }
        ranks.push(rank);
    }
    (index, ranks, [&common[..], &[1]].concat())
}

/// Messages of a number of stored blocks each, and one removal event per block.
#[divan::bench(args = [1, 16, 512])]
fn in_and_out(bencher: Bencher<'_, '_>, blocks: usize) {
    let (index, _ranks, _) = full();
    let mut rank = index.write().open(EndpointId(7));
    let mut rng = SeededRng::new(2);
    let tokens = prompt(&mut rng, blocks * BLOCK);
    let (stored, names) = stored(&mut rng, &tokens);
    let removed = removed(&names);
    let mut changes = Vec::new();
    bencher
        .counter(ItemsCount::new(2 * blocks))
        .bench_local(|| {
            take(&index, &mut rank, black_box(&stored), &mut changes);
            take(&index, &mut rank, black_box(&removed), &mut changes);
        });
}

/// How long lookups take while another thread takes events in as fast as it can.
fn beside_lookups() {
    let (index, _ranks, asked) = full();
    let stop = AtomicBool::new(false);
    let identity = CacheIdentity::default();
    let mut alone = lookups(&index, &asked, &identity);
    let mut blocks = 0;
    let mut beside = Vec::new();
    let mut took = Duration::ZERO;
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let (mut rng, mut changes, mut blocks) = (SeededRng::new(3), Vec::new(), 0);
            let mut rank = index.write().open(EndpointId(200));
            let prompts: Vec<_> = (0..64).map(|_| prompt(&mut rng, 8_192)).collect();
            let messages: Vec<_> = prompts
                .iter()
                .map(|prompt| stored(&mut rng, prompt))
                .collect();
            while !stop.load(Ordering::Relaxed) {
                for (stored, names) in &messages {
                    take(&index, &mut rank, stored, &mut changes);
                    take(&index, &mut rank, &removed(names), &mut changes);
                    blocks += 2 * names.len();
                }
            }
            blocks
        });
        took = timed(|| beside = lookups(&index, &asked, &identity));
        stop.store(true, Ordering::Relaxed);
        blocks = writer.join().expect("the writer works");
    });
    println!(
        "a lookup of 8,192 tokens among 100 endpoints: alone {}; beside {:.0} blocks/s {}",
        quantiles(&mut alone),
        blocks as f64 / took.as_secs_f64(),
        quantiles(&mut beside)
    );
}

fn lookups(index: &RwLock<BlockIndex>, prompt: &[u32], identity: &CacheIdentity) -> Vec<Duration> {
    (0..20_000)
        .map(|_| timed(|| drop(black_box(index.read().hits(black_box(prompt), identity)))))
        .collect()
}

fn quantiles(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    format!("p50 {:?} p90 {:?} p99 {:?}", at(0.5), at(0.9), at(0.99))
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
