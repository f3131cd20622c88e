//! What the scheduler of a pool costs: finding caches, choosing and booking among them, and
//! deciding for many who wait.

use std::{cmp::Reverse, collections::BinaryHeap, hint::black_box, sync::Arc, time::Duration};

use divan::Bencher;
use hermes_core::{
    address::ServerAddress,
    learned_index::LearnedIndex,
    ledger::{ProxyId, RequestId, RequestKey},
    policy::{KvAware, PoolPolicy, QueueLimits, Strategy},
    query::Query,
    rng::SeededRng,
    scheduler::{
        Assignment, Dequeued, EngineUsage, QueueExit, ScheduleOutcome, ScheduleRequest, Scheduler,
    },
    snapshot::{Endpoint, EndpointId, Pool, PoolSpec, Role},
};

/// Pairs of a block and an endpoint in the index.
const BLOCKS: usize = 1_000_000;
/// Blocks of a prompt of 8,192 tokens, 64 each.
const PROMPT: usize = 128;
/// Of them, those that many prompts share.
const SYSTEM: usize = 16;

fn main() {
    divan::main();
}

fn pool(endpoints: usize) -> Arc<Pool> {
    let endpoint = |number: usize| {
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
    let queue = QueueLimits {
        max_requests: 1_000_000,
        max_bytes: u64::MAX,
        max_wait: Duration::from_secs(3_600),
        ..QueueLimits::default()
    };
    let strategy = Strategy::KvAware(KvAware {
        queue,
        ..KvAware::default()
    });
    let policy = PoolPolicy {
        strategy,
        ..PoolPolicy::default()
    };
    Arc::new(Pool {
        spec: Arc::new(PoolSpec::new("chat", policy)),
        models: hermes_core::collection::Collection::default(),
        endpoints: endpoints.into(),
    })
}

/// The prompt of one conversation: one of eight system prompts, then its own words.
fn query(conversation: u64) -> Query {
    let mut last = 0u64;
    let chain = (0..PROMPT).map(|block| {
        let content = if block < SYSTEM {
            conversation % 8
        } else {
            conversation + 1_000
        };
        last = SeededRng::new(last ^ content.rotate_left(17)).next_u64();
        last
    });
    let blocks = chain.collect();
    let (prompt_bytes, prompt_tokens) = (PROMPT as u64 * 256, PROMPT as u32 * 64);
    Query {
        prompt_bytes,
        prompt_tokens,
        blocks,
        block_bytes: 256,
        ..Query::default()
    }
}

fn key(request: u64) -> RequestKey {
    RequestKey {
        proxy: ProxyId(1),
        request: RequestId(request),
    }
}

/// A scheduler whose endpoints hold a million blocks, and the prompts that they hold.
fn full(endpoints: usize) -> (Scheduler, Vec<Query>) {
    let pool = pool(endpoints);
    let mut scheduler = Scheduler::new(&pool, SeededRng::new(1));
    for position in 0..endpoints {
        scheduler.set_capacity(position, Some((BLOCKS / endpoints) as u64 * 64));
    }
    let queries: Vec<Query> = (0..(BLOCKS / PROMPT) as u64).map(query).collect();
    for (number, query) in queries.iter().enumerate() {
        scheduler.replay_history(pool.endpoints[number % endpoints].id, &query.blocks);
    }
    (scheduler, queries)
}

fn schedule(
    scheduler: &mut Scheduler,
    request: u64,
    query: &Query,
    now: Duration,
) -> ScheduleOutcome {
    let arrival = ScheduleRequest {
        key: key(request),
        query,
        model: None,
        hits: &[],
        waited: Duration::ZERO,
        may_wait: true,
    };
    scheduler.schedule(arrival, now)
}

/// Choosing and booking with an index of a million blocks, and taking the booking back.
#[divan::bench(args = [10, 100, 1_000])]
fn arrival(bencher: Bencher<'_, '_>, endpoints: usize) {
    let (mut scheduler, queries) = full(endpoints);
    let (mut request, mut now) = (0u64, Duration::ZERO);
    bencher.bench_local(|| {
        request += 1;
        now += Duration::from_micros(20);
        let query = &queries[(request as usize * 7_919) % queries.len()];
        black_box(schedule(&mut scheduler, request, query, now));
        scheduler.cancel(key(request), now);
    });
}

/// Engines that compute a prompt after the other: 8,000 tokens a second, and 8 ms for each prompt.
struct SerialEngines {
    /// When each is done with what it has.
    free: Vec<Duration>,
    /// First bytes to come: when, of which request, and when that was sent.
    first_bytes: BinaryHeap<Reverse<(Duration, u64, Duration)>>,
}

impl SerialEngines {
    fn idle(count: usize) -> Self {
        Self {
            free: vec![Duration::ZERO; count],
            first_bytes: BinaryHeap::new(),
        }
    }

    fn send(&mut self, request: u64, assigned: &Assignment, now: Duration) {
        let first = assigned.choice.ranked[0];
        let uncached = f64::from(assigned.prompt_tokens - first.cached_tokens);
        let free = &mut self.free[first.position];
        *free = now.max(*free) + Duration::from_secs_f64(0.008 + uncached / 8_000.0);
        self.first_bytes.push(Reverse((*free, request, now)));
    }
}

/// One decision while many wait: a first byte comes, and an endpoint is bound there.
#[divan::bench(args = [(8, 10_000), (100, 1_000), (100, 10_000), (1_000, 10_000)])]
fn binding(bencher: Bencher<'_, '_>, (endpoints, waiting): (usize, usize)) {
    let (mut scheduler, _) = full(endpoints);
    let mut engines = SerialEngines::idle(endpoints);
    // Three times as many as the caches hold: only the system prompt is found of them.
    let queries: Vec<Query> = (0..3 * (BLOCKS / PROMPT) as u64)
        .map(|number| query(BLOCKS as u64 + number))
        .collect();
    let (mut now, mut request) = (Duration::from_secs(1), 0u64);
    let mut dequeued = Vec::new();
    let mut fill = |scheduler: &mut Scheduler, engines: &mut SerialEngines, now| {
        while scheduler.queued_requests() < waiting {
            request += 1;
            let query = &queries[request as usize % queries.len()];
            if let ScheduleOutcome::Bound(assigned) = schedule(scheduler, request, query, now) {
                engines.send(request, &assigned, now);
            }
        }
    };
    fill(&mut scheduler, &mut engines, now);
    bencher.bench_local(|| {
        if let Some(Reverse((at, done, sent))) = engines.first_bytes.pop() {
            now = at;
            scheduler.first_byte(key(done), Some(at - sent), now);
            scheduler.finished(key(done), EngineUsage::default(), now);
        }
        scheduler.dequeue(now, &mut dequeued);
        for Dequeued { key, exit } in dequeued.drain(..) {
            if let QueueExit::Bound(assigned) = exit {
                engines.send(key.request.0, &assigned, now);
            }
        }
        // As many wait as before.
        fill(&mut scheduler, &mut engines, now);
    });
}

/// The index alone.
#[divan::bench(args = [100, 1_000])]
fn lookup(bencher: Bencher<'_, '_>, endpoints: u64) {
    let mut index = LearnedIndex::default();
    (0..endpoints)
        .for_each(|id| _ = index.set_capacity(EndpointId(id), BLOCKS / endpoints as usize));
    let queries: Vec<Query> = (0..(BLOCKS / PROMPT) as u64).map(query).collect();
    for (number, query) in queries.iter().enumerate() {
        index.insert(EndpointId(number as u64 % endpoints), &query.blocks);
    }
    let mut next = 0;
    bencher.bench_local(|| {
        next += 7_919;
        index.lookup(black_box(&queries[next % queries.len()].blocks))
    });
}
