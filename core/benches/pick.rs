//! What a request costs in pure decisions: hashing its prompt, choosing, booking; and what a change
//! costs.

use std::{hint::black_box, sync::Arc, time::Duration};

use divan::{Bencher, counter::BytesCount};
use hermes_core::{
    address::ServerAddress,
    collection::Collection,
    delta::SnapshotDelta,
    ledger::{Ledger, ProxyId, RequestId, RequestKey},
    load::{EngineSample, Health, Load},
    pick::{PickRequest, Picker},
    policy::{ClassicWeights, PoolPolicy, SessionAffinity, Strategy},
    prefix::HashChain,
    query::{CacheHit, CacheSource, CachedTokens, Query},
    rng::SeededRng,
    snapshot::{Endpoint, EndpointId, Epoch, Pool, PoolSpec, Role, Snapshot, Version},
};

const FLEETS: [usize; 3] = [10, 100, 1_000];
const STRATEGIES: [&str; 6] = [
    "round-robin",
    "random",
    "least-request",
    "power-of-two",
    "session-affinity",
    "kv-aware",
];

fn main() {
    divan::main();
}

fn strategy(name: &str) -> Strategy {
    match name {
        "round-robin" => Strategy::RoundRobin,
        "random" => Strategy::Random,
        "least-request" => Strategy::LeastRequest,
        "power-of-two" => Strategy::PowerOfTwo,
        "session-affinity" => Strategy::SessionAffinity(SessionAffinity::default()),
        _ => Strategy::HermesClassic(ClassicWeights::default()),
    }
}

fn pool(strategy: Strategy, endpoints: usize) -> Arc<Pool> {
    let endpoint = |number| {
        let url = format!("http://10.0.{}.{}:8000", number / 250, number % 250);
        let address = ServerAddress::parse(&url).expect("an address");
        let id = EndpointId::of("chat", &address, "");
        Arc::new(Endpoint {
            id,
            name: url.into(),
            address,
            role: Role::Aggregate,
            group: None,
            pairing: hermes_core::snapshot::PairingFacts::default(),
        })
    };
    let mut endpoints: Vec<_> = (0..endpoints).map(endpoint).collect();
    endpoints.sort_by_key(|endpoint| endpoint.id);
    let spec = PoolSpec::new(
        "chat",
        PoolPolicy {
            strategy,
            ..PoolPolicy::default()
        },
    );
    Arc::new(Pool {
        spec: Arc::new(spec),
        models: Collection::default(),
        endpoints: endpoints.into(),
    })
}

fn loads(endpoints: usize) -> Vec<Load> {
    let mut rng = SeededRng::new(1);
    let load = |_| Load {
        in_flight: rng.below(40) as u32,
        pending_tokens: rng.below(20_000) as u64,
        sample: Some(EngineSample {
            waiting: Some(rng.below(4) as u32),
            running: Some(rng.below(40) as u32),
            kv_usage: Some(rng.unit()),
        }),
        health: Health::Up,
    };
    (0..endpoints).map(load).collect()
}

/// A choice among this many endpoints, eight of which hold a part of the prompt.
#[divan::bench(args = STRATEGIES, consts = FLEETS)]
fn pick<const N: usize>(bencher: Bencher<'_, '_>, name: &str) {
    let picker = Picker::build(pool(strategy(name), N));
    let loads = loads(N);
    let total = loads.iter().map(|load| u64::from(load.in_flight)).sum();
    let holders = picker.pool().endpoints.iter().step_by(N / 8).take(8);
    let hits: Vec<CacheHit> = holders
        .map(|endpoint| CacheHit {
            endpoint: endpoint.id,
            cached: CachedTokens::on_gpu(900),
            source: CacheSource::Learned,
            at_least: false,
        })
        .collect();
    let mut query = Query {
        prompt_tokens: 1_000,
        session: Some(0),
        ..Query::default()
    };
    let mut rng = SeededRng::new(7);
    bencher.bench_local(|| {
        query.session = Some(rng.next_u64());
        let ask = PickRequest {
            hits: &hits,
            round_robin_counter: rng.next_u64(),
            total_in_flight: Some(total),
            ..PickRequest::new(&query)
        };
        picker.pick(&ask, |position| loads[position], &mut rng)
    });
}

/// The hashes of a prompt in blocks of 256 bytes.
#[divan::bench(args = [1_000, 16_000, 220_000])]
fn hash(bencher: Bencher<'_, '_>, bytes: usize) {
    let mut rng = SeededRng::new(3);
    let prompt: Vec<u8> = (0..bytes).map(|_| rng.next_u64() as u8).collect();
    bencher.counter(BytesCount::new(bytes)).bench(|| {
        let mut chain = HashChain::new(&[b"1", b"model", b"", b""], 256);
        chain.section(b"");
        chain.section(b"You are a helpful assistant.");
        chain.section(black_box(&prompt));
        chain.finish()
    });
}

/// A request's whole life in a ledger with 10,000 others.
#[divan::bench]
fn book_start_first_byte_finish(bencher: Bencher<'_, '_>) {
    let mut ledger = Ledger::default();
    let key = |request| RequestKey {
        proxy: ProxyId(request % 4),
        request: RequestId(request),
    };
    let endpoint = |request| EndpointId(request % 100);
    let now = Duration::from_secs(1);
    for request in 0..10_000 {
        ledger.started(key(request), endpoint(request), 500, now);
    }
    let mut request = 10_000;
    bencher.bench_local(|| {
        request += 1;
        ledger.book(key(request), endpoint(request), 500, now);
        ledger.started(key(request), endpoint(request), 500, now);
        ledger.first_byte(key(request));
        ledger.finish(key(request))
    });
}

/// One endpoint of a thousand changed.
mod delta {
    use super::{
        Arc, Bencher, Epoch, Picker, Pool, Snapshot, SnapshotDelta, Strategy, Version, pool,
    };

    fn snapshots() -> (Snapshot, Snapshot) {
        let whole = pool(Strategy::Random, 1_000);
        let less = Pool {
            endpoints: whole.endpoints[1..].to_vec().into(),
            ..Pool::clone(&whole)
        };
        let snapshot = |version, pool| Snapshot {
            epoch: Epoch(1),
            version: Version(version),
            pools: vec![pool].into(),
            ..Snapshot::default()
        };
        (snapshot(1, Arc::new(less)), snapshot(2, whole))
    }

    #[divan::bench]
    fn between(bencher: Bencher<'_, '_>) {
        let (old, new) = snapshots();
        bencher.bench(|| SnapshotDelta::between(&old, &new));
    }

    #[divan::bench]
    fn apply(bencher: Bencher<'_, '_>) {
        let (old, new) = snapshots();
        let delta = SnapshotDelta::between(&old, &new);
        bencher.bench(|| delta.apply(&old));
    }

    #[divan::bench]
    fn build_picker(bencher: Bencher<'_, '_>) {
        let (_, new) = snapshots();
        bencher.bench(|| Picker::build(Arc::clone(&new.pools[0])));
    }

    #[divan::bench]
    fn build_picker_with_ring(bencher: Bencher<'_, '_>) {
        let pool = pool(super::strategy("session-affinity"), 1_000);
        bencher.bench(|| Picker::build(Arc::clone(&pool)));
    }
}
