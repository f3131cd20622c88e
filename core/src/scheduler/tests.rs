//! Stories of [`Scheduler`]; those of every story at once are in [`properties`].

use super::*;
use crate::{
    ledger::{ProxyId, RequestId},
    load::{EngineSample, Health},
    policy::PoolPolicy,
    query::{CachedTokens, RankedEndpoint},
    snapshot::{Endpoint, EndpointId, PoolSpec, Role},
};

mod properties;

/// Blocks of 64 tokens, as 256 bytes of English are.
const BLOCK: u32 = 64;

fn pool(rules: KvAware, endpoints: u64) -> Arc<Pool> {
    let endpoint = |id: u64| {
        let name: Arc<str> = format!("server-{id}").into();
        Arc::new(Endpoint {
            id: EndpointId(id),
            url: Arc::clone(&name),
            name,
            role: Role::Aggregate,
            group: None,
        })
    };
    let policy = PoolPolicy {
        strategy: Strategy::KvAware(rules),
        ..PoolPolicy::default()
    };
    let spec = PoolSpec {
        name: "chat".into(),
        models: Vec::new(),
        policy,
    };
    Arc::new(Pool {
        spec: Arc::new(spec),
        endpoints: (0..endpoints).map(endpoint).collect(),
    })
}

fn dispatcher(endpoints: u64) -> Scheduler {
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

/// A prompt of the conversation `name` with so many tokens.
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
    dispatcher: &mut Scheduler,
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
    dispatcher.schedule(arrival, now)
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
fn dequeued(dispatcher: &mut Scheduler, now: Duration) -> Vec<(u64, Option<u64>)> {
    let mut dequeued = Vec::new();
    dispatcher.dequeue(now, &mut dequeued);
    let told = dequeued
        .into_iter()
        .map(|Dequeued { key, exit: end }| match end {
            QueueExit::Bound(binding) => (key.request.0, Some(binding.choice.ranked[0].endpoint.0)),
            QueueExit::TimedOut { .. } | QueueExit::NoEndpoint(_) => (key.request.0, None),
        });
    told.collect()
}

/// The request is answered: its first byte came at `now`, `ttft` after it was sent.
fn answer(dispatcher: &mut Scheduler, request: u64, ttft: Duration, now: Duration) {
    dispatcher
        .first_byte(key(request), Some(ttft), now)
        .expect("it is open");
}

#[test]
fn an_idle_fleet_binds_at_once_and_spreads() {
    let mut dispatcher = dispatcher(3);
    let places: Vec<u64> = (0..3)
        .map(|request| {
            bound(schedule(
                &mut dispatcher,
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
    let mut dispatcher = dispatcher(4);
    let (home, cached) = bound(schedule(&mut dispatcher, 1, &prompt(7, 6_400), ms(0)));
    assert_eq!(cached, 0);
    answer(&mut dispatcher, 1, ms(800), ms(800));
    let (again, cached) = bound(schedule(&mut dispatcher, 2, &prompt(7, 7_000), ms(9_000)));
    assert_eq!(again, home);
    assert!((6_336..=6_400).contains(&cached), "{cached}");
}

#[test]
fn a_new_endpoint_is_tried_at_once_though_others_are_known_to_be_about_as_fast() {
    let mut dispatcher = dispatcher(3);
    let serve = |dispatcher: &mut Scheduler, request: u64| {
        // Two requests a second, each of a few hundred tokens, never two at once.
        let now = ms(500 * request);
        let place = bound(schedule(
            dispatcher,
            request,
            &prompt(request, 400 + 20 * (request % 7) as u32),
            now,
        ))
        .0;
        let ttft = ms(50 + 8 * place + request % 3);
        answer(dispatcher, request, ttft, now + ttft);
        dispatcher.finished(key(request), ReportedUsage::default(), now + ttft);
        dispatcher.tick(now + ttft);
        place
    };
    (0..40).for_each(|request| _ = serve(&mut dispatcher, request));
    dispatcher.apply(&pool(KvAware::default(), 4), ms(20_000));
    let places: Vec<u64> = (40..50)
        .map(|request| serve(&mut dispatcher, request))
        .collect();
    assert!(places[..3].contains(&3), "{places:?}");
}

#[test]
fn a_full_fleet_lets_requests_wait_and_binds_them_as_endpoints_get_room() {
    let mut dispatcher = dispatcher(2);
    let first = bound(schedule(&mut dispatcher, 1, &prompt(1, 8_000), ms(0))).0;
    let second = bound(schedule(&mut dispatcher, 2, &prompt(2, 16_000), ms(0))).0;
    waits(&schedule(&mut dispatcher, 3, &prompt(3, 8_000), ms(10)));
    assert_eq!(dequeued(&mut dispatcher, ms(500)), [], "nobody has room");
    answer(&mut dispatcher, 1, ms(1_000), ms(1_000));
    assert_eq!(dequeued(&mut dispatcher, ms(1_000)), [(3, Some(first))]);
    assert_ne!(first, second);
    assert_eq!(dispatcher.queued_requests(), 0);
}

#[test]
fn a_request_waits_for_its_cache_only_while_that_pays() {
    let mut dispatcher = dispatcher(2);
    let home = bound(schedule(&mut dispatcher, 1, &prompt(7, 8_000), ms(0))).0;
    answer(&mut dispatcher, 1, ms(1_000), ms(1_000));
    dispatcher.finished(key(1), ReportedUsage::default(), ms(2_000));
    // Another prompt keeps the home busy for half a second; computing the cached one elsewhere takes a whole one.
    let busy = |tokens, request, dispatcher: &mut Scheduler| {
        let query = prompt(1_000 + request, tokens);
        dispatcher.started(
            key(request),
            EndpointId(home),
            query.prompt_tokens,
            false,
            ms(60_000),
        );
    };
    busy(4_000, 2, &mut dispatcher);
    waits(&schedule(&mut dispatcher, 3, &prompt(7, 8_000), ms(60_000)));
    assert_eq!(
        dequeued(&mut dispatcher, ms(60_010)),
        [],
        "the other endpoint is idle and stays so"
    );
    // With two more seconds of work at the home it is done sooner elsewhere.
    busy(16_000, 4, &mut dispatcher);
    assert_eq!(dequeued(&mut dispatcher, ms(60_020)), [(3, Some(1 - home))]);
}

#[test]
fn a_client_that_leaves_frees_its_place_at_once() {
    let mut dispatcher = dispatcher(1);
    bound(schedule(&mut dispatcher, 1, &prompt(1, 80_000), ms(0)));
    waits(&schedule(&mut dispatcher, 2, &prompt(2, 800), ms(1)));
    assert_eq!(dispatcher.queued_bytes(), 3_200);
    assert_eq!(dispatcher.cancel(key(2), ms(2)), (None, true));
    assert_eq!(
        (dispatcher.queued_requests(), dispatcher.queued_bytes()),
        (0, 0)
    );
    answer(&mut dispatcher, 1, ms(10_000), ms(10_000));
    bound(schedule(&mut dispatcher, 3, &prompt(3, 800), ms(10_000)));
    let (booking, waited) = dispatcher.cancel(key(3), ms(10_001));
    assert!(
        booking.is_some() && !waited,
        "a booking that nobody acted on is taken back"
    );
}

#[test]
fn a_full_queue_says_when_to_come_back_and_a_long_wait_ends() {
    let queue = crate::policy::QueueLimits {
        max_requests: 1,
        max_wait: ms(5_000),
        ..crate::policy::QueueLimits::default()
    };
    let mut dispatcher = Scheduler::new(
        &pool(
            KvAware {
                queue,
                ..KvAware::default()
            },
            1,
        ),
        SeededRng::new(1),
    );
    bound(schedule(&mut dispatcher, 1, &prompt(1, 800_000), ms(0)));
    waits(&schedule(&mut dispatcher, 2, &prompt(2, 40_000), ms(0)));
    let ScheduleOutcome::QueueFull { retry_after } =
        schedule(&mut dispatcher, 3, &prompt(3, 800), ms(0))
    else {
        panic!("there is room for one only")
    };
    assert_eq!(retry_after, ms(5_000), "the five seconds of work that wait");
    assert_eq!(dequeued(&mut dispatcher, ms(4_999)), []);
    assert_eq!(dequeued(&mut dispatcher, ms(5_000)), [(2, None)]);
}

#[test]
fn an_answer_that_comes_as_a_whole_does_not_keep_its_endpoint_for_itself() {
    let mut dispatcher = dispatcher(1);
    bound(schedule(
        &mut dispatcher,
        1,
        &Query {
            non_streaming: true,
            ..prompt(1, 8_000)
        },
        ms(0),
    ));
    waits(&schedule(&mut dispatcher, 2, &prompt(2, 8_000), ms(500)));
    assert_eq!(dequeued(&mut dispatcher, ms(900)), []);
    assert_eq!(
        dequeued(&mut dispatcher, ms(1_000)),
        [(2, Some(0))],
        "its prompt is done, though nothing came yet"
    );
    assert_eq!(
        dispatcher.first_byte(key(1), Some(ms(9_000)), ms(9_000)),
        None,
        "and says nothing of the speed"
    );
}

#[test]
fn who_cannot_wait_is_bound_at_once() {
    let mut dispatcher = dispatcher(1);
    bound(schedule(&mut dispatcher, 1, &prompt(1, 80_000), ms(0)));
    let query = prompt(2, 800);
    let arrival = ScheduleRequest {
        key: key(2),
        query: &query,
        model: None,
        hits: &[],
        waited: Duration::ZERO,
        may_wait: false,
    };
    assert_eq!(bound(dispatcher.schedule(arrival, ms(0))).0, 0);
}

#[test]
fn a_prompt_that_memory_cannot_take_waits_until_it_can() {
    let mut dispatcher = dispatcher(1);
    dispatcher.set_capacity(0, Some(100_000));
    let full = |usage| {
        Some(EngineSample {
            kv_usage: Some(usage),
            ..EngineSample::default()
        })
    };
    dispatcher.set_sample(0, full(0.9));
    waits(&schedule(&mut dispatcher, 1, &prompt(1, 8_000), ms(0)));
    assert_eq!(dequeued(&mut dispatcher, ms(100)), []);
    dispatcher.set_sample(0, full(0.6));
    assert_eq!(dequeued(&mut dispatcher, ms(200)), [(1, Some(0))]);
    // Figures that are missing switch the check off.
    dispatcher.set_sample(0, None);
    answer(&mut dispatcher, 1, ms(1_000), ms(1_200));
    bound(schedule(&mut dispatcher, 2, &prompt(2, 99_000), ms(1_300)));
}

#[test]
fn memory_is_not_waited_for_without_end() {
    let mut dispatcher = dispatcher(1);
    dispatcher.set_capacity(0, Some(100_000));
    dispatcher.set_sample(
        0,
        Some(EngineSample {
            kv_usage: Some(1.0),
            ..EngineSample::default()
        }),
    );
    waits(&schedule(&mut dispatcher, 1, &prompt(1, 8_000), ms(0)));
    waits(&schedule(&mut dispatcher, 2, &prompt(2, 8_000), ms(0)));
    assert_eq!(dequeued(&mut dispatcher, ms(1_999)), []);
    assert_eq!(
        dequeued(&mut dispatcher, ms(2_000)).len(),
        1,
        "the other one waits for the first one's first byte"
    );
}

#[test]
fn what_others_send_to_an_endpoint_makes_it_cost_more_and_is_not_waited_for() {
    let mut dispatcher = dispatcher(2);
    let queue = |waiting| {
        Some(EngineSample {
            waiting: Some(waiting),
            ..EngineSample::default()
        })
    };
    dispatcher.set_sample(0, queue(40));
    dispatcher.set_sample(1, queue(20));
    assert_eq!(
        bound(schedule(&mut dispatcher, 1, &prompt(1, 8_000), ms(0))).0,
        1
    );
    waits(&schedule(&mut dispatcher, 2, &prompt(2, 8_000), ms(0)));
}

#[test]
fn who_asks_again_before_the_first_question_is_taken_back_is_bound_once() {
    let mut dispatcher = dispatcher(1);
    bound(schedule(&mut dispatcher, 1, &prompt(1, 8_000), ms(0)));
    waits(&schedule(&mut dispatcher, 2, &prompt(2, 8_000), ms(0)));
    waits(&schedule(&mut dispatcher, 2, &prompt(2, 8_000), ms(1)));
    assert_eq!(dispatcher.queued_requests(), 1);
    answer(&mut dispatcher, 1, ms(1_000), ms(1_000));
    bound(schedule(&mut dispatcher, 2, &prompt(2, 8_000), ms(1_000)));
    assert_eq!(
        (dispatcher.queued_requests(), dispatcher.open_requests()),
        (0, 2)
    );
    assert_eq!(dequeued(&mut dispatcher, ms(9_000)), []);
}

#[test]
fn a_slow_endpoint_is_left_alone_once_it_is_known() {
    let mut dispatcher = dispatcher(2);
    let mut now = ms(0);
    for request in 0..20 {
        now += ms(20_000);
        let tokens = 1_000 + 500 * (request as u32 % 7);
        // In turn, as they would come from elsewhere. The second endpoint is ten times as slow.
        let place = request % 2;
        dispatcher.started(key(request), EndpointId(place), tokens, false, now);
        let ttft = ms(u64::from(tokens) / if place == 1 { 1 } else { 10 });
        now += ttft;
        answer(&mut dispatcher, request, ttft, now);
        dispatcher.finished(key(request), ReportedUsage::default(), now);
        dispatcher.tick(now);
    }
    let busy = bound(schedule(&mut dispatcher, 50, &prompt(50, 4_000), now)).0;
    assert_eq!(busy, 0, "the fast one");
    waits(&schedule(&mut dispatcher, 51, &prompt(51, 4_000), now));
}

#[test]
fn an_endpoint_that_restarts_has_lost_its_cache() {
    let mut dispatcher = dispatcher(2);
    let home = bound(schedule(&mut dispatcher, 1, &prompt(7, 6_400), ms(0))).0;
    answer(&mut dispatcher, 1, ms(800), ms(800));
    dispatcher.restarted(home as usize);
    assert_eq!(
        bound(schedule(&mut dispatcher, 2, &prompt(7, 6_400), ms(9_000))).1,
        0
    );
    assert_eq!(dispatcher.learned_index_size().0, 100, "what was just sent");
}

/// One source says this of endpoint 1.
fn said(source: CacheSource, tokens: u32, at_least: bool) -> CacheHit {
    CacheHit {
        endpoint: EndpointId(1),
        cached: CachedTokens::on_gpu(tokens),
        source,
        at_least,
    }
}

/// Where a request is bound of which this is known.
#[track_caller]
fn told(
    dispatcher: &mut Scheduler,
    request: u64,
    query: &Query,
    hit: CacheHit,
    now: Duration,
) -> RankedEndpoint {
    let hits = [hit];
    let arrival = ScheduleRequest {
        key: key(request),
        query,
        model: None,
        hits: &hits,
        waited: Duration::ZERO,
        may_wait: true,
    };
    let ScheduleOutcome::Bound(binding) = dispatcher.schedule(arrival, now) else {
        panic!("an idle fleet binds")
    };
    binding.choice.ranked[0]
}

#[test]
fn events_overrule_what_was_learned_only_where_they_know_all() {
    for (in_part, expected) in [(true, 6_399), (false, 1_000)] {
        let mut dispatcher = dispatcher(2);
        dispatcher.replay_history(EndpointId(1), &prompt(7, 6_400).blocks);
        let hit = said(CacheSource::KvEvents, 1_000, in_part);
        let place = told(&mut dispatcher, 1, &prompt(7, 6_400), hit, ms(0));
        assert_eq!(
            (place.position, place.cached_tokens),
            (1, expected),
            "in part: {in_part}"
        );
    }
}

#[test]
fn a_prompt_that_is_being_computed_counts_although_events_do_not_tell_of_it_yet() {
    let mut dispatcher = dispatcher(2);
    dispatcher.set_health(0, Health::Down);
    let hit = said(CacheSource::KvEvents, 0, false);
    assert_eq!(
        told(&mut dispatcher, 1, &prompt(7, 6_400), hit, ms(0)).cached_tokens,
        0
    );
    let known = dispatcher.known(&prompt(7, 6_400), &[hit], ms(10));
    assert_eq!(known.hits.as_slice(), [(1, 6_399)], "it is on its way");
    answer(&mut dispatcher, 1, ms(800), ms(800));
    let known = dispatcher.known(&prompt(7, 6_400), &[hit], ms(900));
    assert!(known.hits.is_empty(), "it is not there, say those who know");
}

#[test]
fn who_waits_learns_of_a_prompt_that_was_sent_after_events_were_asked() {
    let mut dispatcher = dispatcher(1);
    bound(schedule(&mut dispatcher, 1, &prompt(1, 8_000), ms(0)));
    let hits = [CacheHit {
        endpoint: EndpointId(0),
        ..said(CacheSource::KvEvents, 0, false)
    }];
    let asked = |request, query| {
        let key = key(request);
        ScheduleRequest {
            key,
            query,
            model: None,
            hits: &hits,
            waited: Duration::ZERO,
            may_wait: true,
        }
    };
    let (first, second) = (prompt(7, 4_000), prompt(7, 6_400));
    for (request, query) in [(2, &first), (3, &second)] {
        waits(&dispatcher.schedule(asked(request, query), ms(request)));
    }
    answer(&mut dispatcher, 1, ms(1_000), ms(1_000));
    assert_eq!(dequeued(&mut dispatcher, ms(1_000)), [(2, Some(0))]);
    answer(&mut dispatcher, 2, ms(500), ms(1_500));
    let mut after = Vec::new();
    dispatcher.dequeue(ms(1_500), &mut after);
    let [
        Dequeued {
            exit: QueueExit::Bound(binding),
            ..
        },
    ] = &after[..]
    else {
        panic!("{after:?}")
    };
    assert!(
        binding.choice.ranked[0].cached_tokens >= 3_900,
        "{binding:?}"
    );
}

#[test]
fn a_source_that_lies_is_believed_less_and_less() {
    let mut dispatcher = dispatcher(2);
    let mut expected = Vec::new();
    for request in 0..40 {
        let now = ms(10_000 * (request + 1));
        let query = prompt(1_000 + request, 6_400);
        let place = told(
            &mut dispatcher,
            request,
            &query,
            said(CacheSource::KvManager, 6_000, false),
            now,
        );
        answer(&mut dispatcher, request, ms(800), now + ms(800));
        let ended = ReportedUsage {
            cached_tokens: Some(0),
            ..ReportedUsage::default()
        };
        dispatcher.finished(key(request), ended, now + ms(900));
        expected.extend((place.position == 1).then_some(place.cached_tokens));
    }
    assert_eq!(expected[0], 6_000);
    assert!(
        expected.is_sorted_by(|one, next| next < one),
        "{expected:?}"
    );
    assert!(
        expected.last().is_some_and(|last| *last < 300),
        "{expected:?}"
    );
}

#[test]
fn what_proxies_remember_can_be_taught() {
    let mut dispatcher = dispatcher(3);
    dispatcher.replay_history(EndpointId(2), &prompt(7, 6_400).blocks);
    assert_eq!(
        bound(schedule(&mut dispatcher, 1, &prompt(7, 6_400), ms(0))),
        (2, 6_399)
    );
}

#[test]
fn who_waits_goes_on_waiting_when_the_pool_changes() {
    let mut dispatcher = dispatcher(1);
    bound(schedule(&mut dispatcher, 1, &prompt(1, 80_000), ms(0)));
    waits(&schedule(&mut dispatcher, 2, &prompt(2, 8_000), ms(0)));
    assert_eq!(dispatcher.apply(&pool(KvAware::default(), 2), ms(1)), 0);
    assert_eq!(dequeued(&mut dispatcher, ms(1)), [(2, Some(1))]);
    assert_eq!(
        dispatcher.apply(&pool(KvAware::default(), 1), ms(2)),
        1,
        "its endpoint is gone, and the booking too"
    );
}

#[test]
fn who_waits_in_a_pool_that_loses_its_last_endpoint_is_told_at_once() {
    let mut dispatcher = dispatcher(1);
    bound(schedule(&mut dispatcher, 1, &prompt(1, 80_000), ms(0)));
    waits(&schedule(&mut dispatcher, 2, &prompt(2, 8_000), ms(0)));
    dispatcher.apply(&pool(KvAware::default(), 0), ms(1));
    assert_eq!(dequeued(&mut dispatcher, ms(1)), [(2, None)]);
    assert_eq!(dispatcher.queued_requests(), 0);
}

#[test]
fn a_choice_can_be_explained_and_the_explanation_changes_nothing() {
    let mut dispatcher = dispatcher(2);
    bound(schedule(&mut dispatcher, 1, &prompt(1, 8_000), ms(0)));
    bound(schedule(&mut dispatcher, 2, &prompt(2, 16_000), ms(0)));
    let query = prompt(1, 8_000);
    let arrival = ScheduleRequest {
        key: key(3),
        query: &query,
        model: None,
        hits: &[],
        waited: Duration::ZERO,
        may_wait: true,
    };
    let explanation = dispatcher.explain(arrival, ms(0));
    let weighing = explanation.queue.as_ref().expect("costs were weighed");
    assert!(
        !weighing.binds_now && weighing.candidates[0].cached_tokens == 7_999,
        "{weighing:?}"
    );
    assert_eq!(explanation, dispatcher.explain(arrival, ms(0)));
    assert_eq!(dispatcher.queued_requests(), 0);
    assert!(
        explanation.reason.contains("no room yet"),
        "{}",
        explanation.reason
    );
}

#[test]
fn who_waits_is_sent_to_anyone_when_nobody_is_up_any_more() {
    let mut dispatcher = dispatcher(1);
    bound(schedule(&mut dispatcher, 1, &prompt(1, 80_000), ms(0)));
    waits(&schedule(&mut dispatcher, 2, &prompt(2, 800), ms(0)));
    dispatcher.set_health(0, Health::Down);
    assert_eq!(dequeued(&mut dispatcher, ms(10)), [(2, Some(0))]);
}

#[test]
fn down_endpoints_are_tried_only_when_nobody_is_up() {
    let mut dispatcher = dispatcher(2);
    dispatcher.set_health(0, Health::Down);
    assert_eq!(
        bound(schedule(&mut dispatcher, 1, &prompt(1, 800), ms(0))).0,
        1
    );
    dispatcher.set_health(1, Health::Down);
    let ScheduleOutcome::Bound(binding) = schedule(&mut dispatcher, 2, &prompt(2, 800), ms(0))
    else {
        panic!("somebody is tried")
    };
    assert!(binding.choice.panic_mode);
}
