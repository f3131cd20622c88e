//! Scenarios of [`Scheduler`]; invariants over random sequences of events are in [`properties`].

use super::*;
use crate::{
    estimate::CacheCounters,
    ledger::{LegId, ProxyId, RequestId},
    load::{EngineSample, Health},
    policy::{PoolPolicy, Strategy},
    query::{CachedTokens, RankedEndpoint},
    snapshot::{Endpoint, EndpointId, Model, ModelHolders, PoolSpec, Role},
};

mod caches;
mod counters;
mod eligible_sets;
mod interference;
mod lanes;
mod pair_properties;
mod pairs;
mod properties;
mod queueing;
mod shedding;

/// Blocks of 64 tokens, as 256 bytes of English are.
const BLOCK: u32 = 64;

fn pool(rules: KvAware, endpoints: u64) -> Arc<Pool> {
    let endpoint = |id: u64| {
        let name: Arc<str> = format!("server-{id}").into();
        Arc::new(Endpoint {
            id: EndpointId(id),
            address: format!("http://{name}").parse().expect("an address"),
            name,
            role: Role::Aggregate,
            group: None,
            pairing: crate::snapshot::PairingFacts::default(),
        })
    };
    let policy = PoolPolicy {
        strategy: Strategy::KvAware(rules),
        ..PoolPolicy::default()
    };
    let spec = PoolSpec::new("chat", policy);
    Arc::new(Pool {
        spec: Arc::new(spec),
        models: crate::collection::Collection::default(),
        endpoints: (0..endpoints).map(endpoint).collect(),
    })
}

/// The same pool with two models: `base` everywhere, and `adapter` at these endpoints.
fn with_adapter(plain: &Pool, holders: &[u64]) -> Arc<Pool> {
    let model = |name: &str, holders| Model {
        name: name.into(),
        parent: None,
        max_model_len: None,
        holders,
    };
    let holders = holders.iter().map(|&id| EndpointId(id)).collect();
    let models = [
        model("adapter", ModelHolders::Some(holders)),
        model("base", ModelHolders::All),
    ];
    Arc::new(Pool {
        models: models.into_iter().map(Arc::new).collect(),
        ..plain.clone()
    })
}

fn scheduler(endpoints: u64) -> Scheduler {
    Scheduler::new(&pool(KvAware::default(), endpoints), SeededRng::new(1))
}

fn key(request: u64) -> RequestKey {
    RequestKey {
        proxy: ProxyId(request % 3),
        request: RequestId(request),
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A prompt of the conversation `name` of `tokens` tokens.
fn prompt(name: u64, tokens: u32) -> Query {
    let chain = (1..=u64::from(tokens / BLOCK)).scan(name, |last, block| {
        *last = crate::hash::hash_mix(*last, block);
        Some(*last)
    });
    Query {
        prompt_bytes: u64::from(tokens) * 4,
        prompt_tokens: tokens,
        blocks: chain.collect(),
        block_bytes: 4 * BLOCK,
        ..Query::default()
    }
}

fn schedule(
    scheduler: &mut Scheduler,
    request: u64,
    query: &Query,
    now: Duration,
) -> ScheduleOutcome {
    schedule_model(scheduler, request, None, query, now)
}

fn schedule_model(
    scheduler: &mut Scheduler,
    request: u64,
    model: Option<&str>,
    query: &Query,
    now: Duration,
) -> ScheduleOutcome {
    let request = ScheduleRequest {
        key: key(request),
        query,
        model,
        hits: &[],
        waited: Duration::ZERO,
        may_wait: true,
    };
    scheduler.schedule(request, now)
}

/// Where a request is bound at once.
#[track_caller]
fn bound(outcome: ScheduleOutcome) -> (u64, u32) {
    match outcome {
        ScheduleOutcome::Bound(Assignment { choice, .. }) => {
            (choice.ranked[0].endpoint.0, choice.ranked[0].cached_tokens)
        }
        other => panic!("not bound: {other:?}"),
    }
}

#[track_caller]
fn waits(outcome: &ScheduleOutcome) {
    assert!(
        matches!(outcome, ScheduleOutcome::Queued { .. }),
        "{outcome:?}"
    );
}

/// Who is released at `now`, and where to.
fn dequeued(scheduler: &mut Scheduler, now: Duration) -> Vec<(u64, Option<u64>)> {
    let mut dequeued = Vec::new();
    scheduler.dequeue(now, &mut dequeued);
    let exits = dequeued
        .into_iter()
        .map(|Dequeued { key, exit: end }| match end {
            QueueExit::Bound(binding) => (key.request.0, Some(binding.choice.ranked[0].endpoint.0)),
            QueueExit::TimedOut { .. } | QueueExit::NoEndpoint(_) => (key.request.0, None),
        });
    exits.collect()
}

/// The request is answered: its first byte came at `now`, `ttft` after it was sent.
fn answer(scheduler: &mut Scheduler, request: u64, ttft: Duration, now: Duration) {
    scheduler
        .first_byte(key(request), Some(ttft), now)
        .expect("it is open");
}

#[test]
fn an_idle_fleet_binds_at_once_and_spreads() {
    let mut scheduler = scheduler(3);
    let places: Vec<u64> = (0..3)
        .map(|request| {
            bound(schedule(
                &mut scheduler,
                request,
                &prompt(request, 8_000),
                ms(0),
            ))
            .0
        })
        .collect();
    assert_eq!(
        {
            let mut sorted = places;
            sorted.sort_unstable();
            sorted
        },
        [0, 1, 2]
    );
}

#[test]
fn a_conversation_returns_to_the_endpoint_that_knows_it() {
    let mut scheduler = scheduler(4);
    let (home, cached) = bound(schedule(&mut scheduler, 1, &prompt(7, 6_400), ms(0)));
    assert_eq!(cached, 0);
    answer(&mut scheduler, 1, ms(800), ms(800));
    let (again, cached) = bound(schedule(&mut scheduler, 2, &prompt(7, 7_000), ms(9_000)));
    assert_eq!(again, home);
    assert!((6_336..=6_400).contains(&cached), "{cached}");
}

#[test]
fn a_new_endpoint_is_tried_at_once_though_others_are_known_to_be_about_as_fast() {
    let mut scheduler = scheduler(3);
    let serve = |scheduler: &mut Scheduler, request: u64| {
        // Two requests a second, each of a few hundred tokens, never two at once.
        let now = ms(500 * request);
        let place = bound(schedule(
            scheduler,
            request,
            &prompt(request, 400 + 20 * (request % 7) as u32),
            now,
        ))
        .0;
        let ttft = ms(50 + 8 * place + request % 3);
        answer(scheduler, request, ttft, now + ttft);
        scheduler.finished(key(request), EngineUsage::default(), now + ttft);
        scheduler.tick(now + ttft);
        place
    };
    (0..40).for_each(|request| _ = serve(&mut scheduler, request));
    scheduler.apply(&pool(KvAware::default(), 4), ms(20_000));
    let places: Vec<u64> = (40..50)
        .map(|request| serve(&mut scheduler, request))
        .collect();
    assert!(places[..3].contains(&3), "{places:?}");
}

#[test]
fn a_slow_endpoint_is_left_alone_once_it_is_known() {
    let mut scheduler = scheduler(2);
    let mut now = ms(0);
    for request in 0..20 {
        now += ms(20_000);
        let tokens = 1_000 + 500 * (request as u32 % 7);
        // In turn, as they would come from elsewhere. The second endpoint is ten times as slow.
        let place = request % 2;
        scheduler.started(key(request), EndpointId(place), tokens, false, now);
        let ttft = ms(u64::from(tokens) / if place == 1 { 1 } else { 10 });
        now += ttft;
        answer(&mut scheduler, request, ttft, now);
        scheduler.finished(key(request), EngineUsage::default(), now);
        scheduler.tick(now);
    }
    let busy = bound(schedule(&mut scheduler, 50, &prompt(50, 4_000), now)).0;
    assert_eq!(busy, 0, "the fast one");
    waits(&schedule(&mut scheduler, 51, &prompt(51, 4_000), now));
}

#[test]
fn queued_requests_stay_queued_when_the_pool_changes() {
    let mut scheduler = scheduler(1);
    bound(schedule(&mut scheduler, 1, &prompt(1, 80_000), ms(0)));
    waits(&schedule(&mut scheduler, 2, &prompt(2, 8_000), ms(0)));
    assert_eq!(scheduler.apply(&pool(KvAware::default(), 2), ms(1)), 0);
    assert_eq!(dequeued(&mut scheduler, ms(1)), [(2, Some(1))]);
    assert_eq!(
        scheduler.apply(&pool(KvAware::default(), 1), ms(2)),
        1,
        "its endpoint is gone, and the booking too"
    );
}

#[test]
fn queued_requests_end_at_once_when_the_pool_loses_its_last_endpoint() {
    let mut scheduler = scheduler(1);
    bound(schedule(&mut scheduler, 1, &prompt(1, 80_000), ms(0)));
    waits(&schedule(&mut scheduler, 2, &prompt(2, 8_000), ms(0)));
    scheduler.apply(&pool(KvAware::default(), 0), ms(1));
    assert_eq!(dequeued(&mut scheduler, ms(1)), [(2, None)]);
    assert_eq!(scheduler.queued_requests(), 0);
}

#[test]
fn a_choice_can_be_explained_and_the_explanation_changes_nothing() {
    let mut scheduler = scheduler(2);
    bound(schedule(&mut scheduler, 1, &prompt(1, 8_000), ms(0)));
    bound(schedule(&mut scheduler, 2, &prompt(2, 16_000), ms(0)));
    let query = prompt(1, 8_000);
    let request = ScheduleRequest {
        key: key(3),
        query: &query,
        model: None,
        hits: &[],
        waited: Duration::ZERO,
        may_wait: true,
    };
    let explanation = scheduler.explain(request, ms(0)).explain();
    let weighing = explanation.queue.as_ref().expect("costs were weighed");
    assert!(
        !weighing.binds_now && weighing.candidates[0].cached_tokens == 7_999,
        "{weighing:?}"
    );
    assert_eq!(explanation, scheduler.explain(request, ms(0)).explain());
    assert_eq!(scheduler.queued_requests(), 0);
    assert!(
        explanation.reason.contains("no room yet"),
        "{}",
        explanation.reason
    );
}

#[test]
fn queued_requests_go_to_any_endpoint_when_none_is_up() {
    let mut scheduler = scheduler(1);
    bound(schedule(&mut scheduler, 1, &prompt(1, 80_000), ms(0)));
    waits(&schedule(&mut scheduler, 2, &prompt(2, 800), ms(0)));
    scheduler.set_health(0, Health::Down);
    assert_eq!(dequeued(&mut scheduler, ms(10)), [(2, Some(0))]);
}

#[test]
fn down_endpoints_are_tried_only_when_none_is_up() {
    let mut scheduler = scheduler(2);
    scheduler.set_health(0, Health::Down);
    assert_eq!(
        bound(schedule(&mut scheduler, 1, &prompt(1, 800), ms(0))).0,
        1
    );
    scheduler.set_health(1, Health::Down);
    let ScheduleOutcome::Bound(binding) = schedule(&mut scheduler, 2, &prompt(2, 800), ms(0))
    else {
        panic!("an endpoint is tried")
    };
    assert!(binding.choice.panic_mode);
}

#[test]
fn an_endpoint_that_only_looks_slow_is_tried_again() {
    let mut scheduler = scheduler(2);
    let mut now = ms(0);
    let serve = |scheduler: &mut Scheduler, request: u64, place: u64, ttft, now: &mut Duration| {
        let tokens = 1_000 + 500 * (request as u32 % 7);
        scheduler.started(key(request), EndpointId(place), tokens, false, *now);
        *now += ttft;
        answer(scheduler, request, ttft, *now);
        scheduler.finished(key(request), EngineUsage::default(), *now);
        scheduler.tick(*now);
    };
    let usual = |request: u64| ms(125 + 62 * (request % 7));
    for request in 0..20 {
        // The second one stalls for a while.
        let slowdown = if request % 2 == 1 { 20 } else { 1 };
        let ttft = slowdown * usual(request);
        serve(&mut scheduler, request, request % 2, ttft, &mut now);
    }
    let mut places = Vec::new();
    for request in 20..700 {
        now += ms(2_000);
        let tokens = 1_000 + 500 * (request as u32 % 7);
        let query = prompt(1_000 + request, tokens);
        let place = bound(schedule(&mut scheduler, request, &query, now)).0;
        serve(&mut scheduler, request, place, usual(request), &mut now);
        places.push(place);
    }
    assert!(places[..100].iter().all(|place| *place == 0));
    let later = places[550..].iter().filter(|place| **place == 1).count();
    assert!(later > 30, "it gets its share again: {later} of 130");
}

#[test]
fn the_speed_of_an_endpoint_that_returns_is_kept_though_others_answered_meanwhile() {
    let mut scheduler = scheduler(2);
    let mut now = ms(0);
    let serve = |scheduler: &mut Scheduler, request: u64, place: u64, now: &mut Duration| {
        let tokens = 1_000 + 500 * (request as u32 % 7);
        scheduler.started(key(request), EndpointId(place), tokens, false, *now);
        let ttft = ms(u64::from(tokens) / if place == 1 { 20 } else { 100 });
        *now += ttft;
        answer(scheduler, request, ttft, *now);
        scheduler.finished(key(request), EngineUsage::default(), *now);
    };
    (0..40).for_each(|request| serve(&mut scheduler, request, request % 2, &mut now));
    let is_measured = |scheduler: &Scheduler| scheduler.endpoints.engine(1).prefill.is_measured();
    assert!(is_measured(&scheduler));
    scheduler.apply(&pool(KvAware::default(), 1), now);
    // Enough for an endpoint that was there to be tried again.
    (40..440).for_each(|request| serve(&mut scheduler, request, 0, &mut now));
    scheduler.apply(&pool(KvAware::default(), 2), now);
    scheduler.tick(now);
    assert!(is_measured(&scheduler));
}
