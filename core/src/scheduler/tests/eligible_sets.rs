//! Pools in which some endpoints serve an adapter: the queue, γ and the search are per eligible
//! set.

use super::*;

const ENDPOINTS: u64 = 300;

/// A pool in which these endpoints hold the adapter.
fn adapter_pool(endpoints: u64, holders: &[u64]) -> Arc<Pool> {
    with_adapter(&pool(KvAware::default(), endpoints), holders)
}

fn ask(scheduler: &mut Scheduler, request: u64, model: &str, now: Duration) -> ScheduleOutcome {
    let query = prompt(10_000 + request, 8_000);
    schedule_model(scheduler, request, Some(model), &query, now)
}

/// A scheduler whose endpoints each compute a prompt of a second, all since 0 s, by position.
fn full(holders: &[u64]) -> (Scheduler, Vec<u64>) {
    let mut scheduler = Scheduler::new(&adapter_pool(ENDPOINTS, holders), SeededRng::new(1));
    let mut computing = vec![0; ENDPOINTS as usize];
    for request in 0..ENDPOINTS {
        let (endpoint, _) = bound(ask(&mut scheduler, request, "base", ms(0)));
        computing[endpoint as usize] = request;
    }
    (scheduler, computing)
}

fn gamma(scheduler: &Scheduler, model: &str, now: Duration) -> f32 {
    let query = prompt(9_999, 8_000);
    let request = ScheduleRequest {
        key: key(9_999),
        query: &query,
        model: Some(model),
        hits: &[],
        waited: Duration::ZERO,
        may_wait: true,
    };
    let explanation = scheduler.explain(request, now).explain();
    explanation.queue.expect("costs were weighed").gamma
}

#[test]
fn an_overloaded_adapter_does_not_keep_base_requests_from_idle_endpoints() {
    let (mut scheduler, computing) = full(&[7]);
    for request in 1_000..1_040 {
        waits(&ask(&mut scheduler, request, "adapter", ms(1)));
    }
    for request in 2_000..2_020 {
        waits(&ask(&mut scheduler, request, "base", ms(500)));
    }
    // All endpoints but the adapter's complete their prompts.
    let mut left = Vec::new();
    for (_, &done) in computing.iter().enumerate().filter(|(at, _)| *at != 7) {
        answer(&mut scheduler, done, ms(1_000), ms(1_000));
        left.extend(dequeued(&mut scheduler, ms(1_000)));
    }
    let base = left.iter().filter(|(request, _)| *request >= 2_000);
    assert_eq!(base.count(), 20, "{left:?}");
    assert_eq!(scheduler.queued_requests(), 40, "the adapter's");
}

#[test]
fn gamma_of_an_adapter_counts_what_may_go_to_its_endpoints() {
    let (mut scheduler, _) = full(&[7, 8]);
    for request in 1_000..2_500 {
        waits(&ask(&mut scheduler, request, "base", ms(0)));
    }
    let near = |gamma: f32, expected: f32| (gamma - expected).abs() < 0.01;
    assert!(near(gamma(&scheduler, "base", ms(0)), 5.0), "1,500 for 300");
    let found = gamma(&scheduler, "adapter", ms(0));
    assert!(near(found, 5.0), "five base requests for each: {found}");
    for request in 3_000..3_006 {
        waits(&ask(&mut scheduler, request, "adapter", ms(0)));
    }
    let found = gamma(&scheduler, "adapter", ms(0));
    assert!(near(found, 8.0), "and three of its own: {found}");
    let found = gamma(&scheduler, "base", ms(0));
    assert!(near(found, 5.02), "1,506 for 300: {found}");
}

#[test]
fn utilization_is_that_of_the_endpoints_that_may_serve_the_request() {
    let pool = adapter_pool(4, &[0]);
    let mut scheduler = Scheduler::new(&pool, SeededRng::new(1));
    bound(ask(&mut scheduler, 1, "adapter", ms(0)));
    let of = |model, scheduler: &Scheduler| {
        let query = prompt(9, 800);
        let request = ScheduleRequest {
            key: key(9),
            query: &query,
            model: Some(model),
            hits: &[],
            waited: Duration::ZERO,
            may_wait: true,
        };
        let explanation = scheduler.explain(request, ms(3_600_000)).explain();
        explanation.queue.expect("costs were weighed").utilization
    };
    assert_eq!(
        (of("adapter", &scheduler), of("base", &scheduler)),
        (1.0, 0.25)
    );
}

#[test]
fn the_more_urgent_request_of_two_sets_gets_the_endpoint_that_both_want() {
    let pool = adapter_pool(1, &[0]);
    // One endpoint: both models have the same set. With a second, down one they differ.
    let wide = adapter_pool(2, &[0]);
    for (pool, down) in [(pool, None), (wide, Some(1))] {
        for (first, second) in [("adapter", "base"), ("base", "adapter")] {
            let mut scheduler = Scheduler::new(&pool, SeededRng::new(1));
            down.into_iter()
                .for_each(|position| scheduler.set_health(position, Health::Down));
            bound(ask(&mut scheduler, 1, "base", ms(0)));
            waits(&ask(&mut scheduler, 2, first, ms(10)));
            waits(&ask(&mut scheduler, 3, second, ms(20)));
            answer(&mut scheduler, 1, ms(1_000), ms(1_000));
            assert_eq!(dequeued(&mut scheduler, ms(1_000)), [(2, Some(0))]);
        }
    }
}

#[test]
fn queued_requests_follow_their_model_to_other_endpoints() {
    let mut scheduler = Scheduler::new(&adapter_pool(3, &[0]), SeededRng::new(1));
    (0..3).for_each(|request| _ = bound(ask(&mut scheduler, request, "base", ms(0))));
    waits(&ask(&mut scheduler, 4, "adapter", ms(0)));
    waits(&ask(&mut scheduler, 5, "adapter", ms(0)));
    scheduler.apply(&adapter_pool(5, &[3, 4]), ms(10));
    let places: Vec<Option<u64>> = dequeued(&mut scheduler, ms(10))
        .into_iter()
        .map(|(_, place)| place)
        .collect();
    assert!(
        places == [Some(3), Some(4)] || places == [Some(4), Some(3)],
        "{places:?}"
    );
}

#[test]
fn queued_requests_of_a_model_that_no_endpoint_holds_any_more_end() {
    let mut scheduler = Scheduler::new(&adapter_pool(2, &[0]), SeededRng::new(1));
    (0..2).for_each(|request| _ = bound(ask(&mut scheduler, request, "base", ms(0))));
    waits(&ask(&mut scheduler, 4, "adapter", ms(0)));
    waits(&ask(&mut scheduler, 5, "base", ms(0)));
    scheduler.apply(&adapter_pool(2, &[]), ms(10));
    assert_eq!(dequeued(&mut scheduler, ms(10)), [(4, None)]);
    assert_eq!(scheduler.queued_requests(), 1);
}

/// A pool of these endpoints in which `adapter-N` is held by the first and the N-th.
fn overlapping_pool(adapters: u64) -> Arc<Pool> {
    let plain = pool(KvAware::default(), adapters + 1);
    let model = |adapter: u64| Model {
        name: format!("adapter-{adapter}").into(),
        parent: None,
        max_model_len: None,
        holders: ModelHolders::Some([EndpointId(0), EndpointId(adapter)].into()),
    };
    let models = (1..=adapters).map(|adapter| Arc::new(model(adapter)));
    Arc::new(Pool {
        models: models.collect(),
        ..Pool::clone(&plain)
    })
}

#[test]
fn sets_that_are_examined_in_turns_do_not_block_the_endpoint_that_all_of_them_want() {
    const ADAPTERS: u64 = 16;
    let mut scheduler = Scheduler::new(&overlapping_pool(ADAPTERS), SeededRng::new(1));
    // The endpoint that all share computes for a second, the others for a minute.
    for endpoint in 0..=ADAPTERS {
        let tokens = if endpoint == 0 { 8_000 } else { 480_000 };
        scheduler.started(key(endpoint), EndpointId(endpoint), tokens, false, ms(0));
    }
    for adapter in 1..=ADAPTERS {
        let model = format!("adapter-{adapter}");
        waits(&ask(&mut scheduler, 100 + adapter, &model, ms(1)));
    }
    // A prompt may be sent behind another one, to learn how much that delays it.
    let mut computing = std::collections::VecDeque::from([(0, ms(0))]);
    for second in 1..=ADAPTERS {
        let now = ms(1_000 * second);
        let (done, sent) = computing.pop_front().expect("it is busy");
        answer(&mut scheduler, done, now - sent, now);
        for (next, place) in dequeued(&mut scheduler, now) {
            assert_eq!(place, Some(0), "after {second} s");
            computing.push_back((next, now));
        }
        assert!(
            !computing.is_empty(),
            "the endpoint is free after {second} s and gets none"
        );
    }
    assert_eq!(scheduler.queued_requests(), 0);
}

#[test]
fn a_set_waits_for_endpoints_of_its_own_as_long_as_one_of_them_is_up() {
    let mut scheduler = Scheduler::new(&adapter_pool(3, &[0, 1]), SeededRng::new(1));
    (0..3).for_each(|request| _ = bound(ask(&mut scheduler, request, "base", ms(0))));
    waits(&ask(&mut scheduler, 10, "adapter", ms(1)));
    assert_eq!(dequeued(&mut scheduler, ms(2)), [], "all are busy");
    // The third endpoint does not hold the adapter.
    for request in 0..3 {
        let leg = scheduler.endpoints.ledger().get(key(request));
        if leg.is_some_and(|leg| leg.endpoint == EndpointId(2)) {
            answer(&mut scheduler, request, ms(1_000), ms(1_000));
        }
    }
    assert_eq!(dequeued(&mut scheduler, ms(1_000)), []);
    // No endpoint that holds it is up: queueing would not help.
    (0..2).for_each(|position| scheduler.set_health(position, Health::Down));
    let left = dequeued(&mut scheduler, ms(1_001));
    assert!(
        matches!(left[..], [(10, Some(0 | 1))]),
        "one that is down is tried: {left:?}"
    );
}
