//! Stories of [`Dispatcher`]; those of every story at once are in [`properties`].

use super::*;
use crate::{
    ledger::{ProxyId, RequestId},
    load::{Health, Sample},
    policy::Policy,
    query::{Cached, Ranked},
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
    let policy = Policy {
        strategy: Strategy::KvAware(rules),
        ..Policy::default()
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

fn dispatcher(endpoints: u64) -> Dispatcher {
    Dispatcher::new(&pool(KvAware::default(), endpoints), Dice::new(1))
}

fn key(request: u64) -> Key {
    Key {
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
        *last = crate::mix::mix(*last, block);
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

fn arrive(dispatcher: &mut Dispatcher, request: u64, query: &Query, now: Duration) -> Outcome {
    let arrival = Arrival {
        key: key(request),
        query,
        model: None,
        hits: &[],
        waited: Duration::ZERO,
        may_wait: true,
    };
    dispatcher.arrive(arrival, now)
}

/// Where a request is bound at once.
#[track_caller]
fn bound(outcome: Outcome) -> (u64, u32) {
    match outcome {
        Outcome::Bound(Binding { choice, .. }) => {
            (choice.ranked[0].endpoint.0, choice.ranked[0].cached_tokens)
        }
        other => panic!("not bound: {other:?}"),
    }
}

#[track_caller]
fn waits(outcome: &Outcome) {
    assert!(matches!(outcome, Outcome::Waits { .. }), "{outcome:?}");
}

/// Who is released at `now`, and where to.
fn released(dispatcher: &mut Dispatcher, now: Duration) -> Vec<(u64, Option<u64>)> {
    let mut released = Vec::new();
    dispatcher.release(now, &mut released);
    let told = released.into_iter().map(|Release { key, end }| match end {
        End::Bound(binding) => (key.request.0, Some(binding.choice.ranked[0].endpoint.0)),
        End::TimedOut { .. } | End::Nobody(_) => (key.request.0, None),
    });
    told.collect()
}

/// The request is answered: its first byte came at `now`, `ttft` after it was sent.
fn answer(dispatcher: &mut Dispatcher, request: u64, ttft: Duration, now: Duration) {
    dispatcher
        .first_byte(key(request), Some(ttft), now)
        .expect("it is open");
}

#[test]
fn an_idle_fleet_binds_at_once_and_spreads() {
    let mut dispatcher = dispatcher(3);
    let places: Vec<u64> = (0..3)
        .map(|request| {
            bound(arrive(
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
    let (home, cached) = bound(arrive(&mut dispatcher, 1, &prompt(7, 6_400), ms(0)));
    assert_eq!(cached, 0);
    answer(&mut dispatcher, 1, ms(800), ms(800));
    let (again, cached) = bound(arrive(&mut dispatcher, 2, &prompt(7, 7_000), ms(9_000)));
    assert_eq!(again, home);
    assert!((6_336..=6_400).contains(&cached), "{cached}");
}

#[test]
fn a_new_endpoint_is_tried_at_once_though_others_are_known_to_be_about_as_fast() {
    let mut dispatcher = dispatcher(3);
    let serve = |dispatcher: &mut Dispatcher, request: u64| {
        // Two requests a second, each of a few hundred tokens, never two at once.
        let now = ms(500 * request);
        let place = bound(arrive(
            dispatcher,
            request,
            &prompt(request, 400 + 20 * (request % 7) as u32),
            now,
        ))
        .0;
        let ttft = ms(50 + 8 * place + request % 3);
        answer(dispatcher, request, ttft, now + ttft);
        dispatcher.finished(key(request), Ended::default(), now + ttft);
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
    let first = bound(arrive(&mut dispatcher, 1, &prompt(1, 8_000), ms(0))).0;
    let second = bound(arrive(&mut dispatcher, 2, &prompt(2, 16_000), ms(0))).0;
    waits(&arrive(&mut dispatcher, 3, &prompt(3, 8_000), ms(10)));
    assert_eq!(released(&mut dispatcher, ms(500)), [], "nobody has room");
    answer(&mut dispatcher, 1, ms(1_000), ms(1_000));
    assert_eq!(released(&mut dispatcher, ms(1_000)), [(3, Some(first))]);
    assert_ne!(first, second);
    assert_eq!(dispatcher.waiting(), 0);
}

#[test]
fn a_request_waits_for_its_cache_only_while_that_pays() {
    let mut dispatcher = dispatcher(2);
    let home = bound(arrive(&mut dispatcher, 1, &prompt(7, 8_000), ms(0))).0;
    answer(&mut dispatcher, 1, ms(1_000), ms(1_000));
    dispatcher.finished(key(1), Ended::default(), ms(2_000));
    // Another prompt keeps the home busy for half a second; computing the cached one elsewhere takes a whole one.
    let busy = |tokens, request, dispatcher: &mut Dispatcher| {
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
    waits(&arrive(&mut dispatcher, 3, &prompt(7, 8_000), ms(60_000)));
    assert_eq!(
        released(&mut dispatcher, ms(60_010)),
        [],
        "the other endpoint is idle and stays so"
    );
    // With two more seconds of work at the home it is done sooner elsewhere.
    busy(16_000, 4, &mut dispatcher);
    assert_eq!(released(&mut dispatcher, ms(60_020)), [(3, Some(1 - home))]);
}

#[test]
fn a_client_that_leaves_frees_its_place_at_once() {
    let mut dispatcher = dispatcher(1);
    bound(arrive(&mut dispatcher, 1, &prompt(1, 80_000), ms(0)));
    waits(&arrive(&mut dispatcher, 2, &prompt(2, 800), ms(1)));
    assert_eq!(dispatcher.waiting_bytes(), 3_200);
    assert_eq!(dispatcher.cancel(key(2), ms(2)), (None, true));
    assert_eq!((dispatcher.waiting(), dispatcher.waiting_bytes()), (0, 0));
    answer(&mut dispatcher, 1, ms(10_000), ms(10_000));
    bound(arrive(&mut dispatcher, 3, &prompt(3, 800), ms(10_000)));
    let (booking, waited) = dispatcher.cancel(key(3), ms(10_001));
    assert!(
        booking.is_some() && !waited,
        "a booking that nobody acted on is taken back"
    );
}

#[test]
fn a_full_queue_says_when_to_come_back_and_a_long_wait_ends() {
    let queue = crate::policy::Queue {
        requests: 1,
        wait: ms(5_000),
        ..crate::policy::Queue::default()
    };
    let mut dispatcher = Dispatcher::new(
        &pool(
            KvAware {
                queue,
                ..KvAware::default()
            },
            1,
        ),
        Dice::new(1),
    );
    bound(arrive(&mut dispatcher, 1, &prompt(1, 800_000), ms(0)));
    waits(&arrive(&mut dispatcher, 2, &prompt(2, 40_000), ms(0)));
    let Outcome::Full { retry_after } = arrive(&mut dispatcher, 3, &prompt(3, 800), ms(0)) else {
        panic!("there is room for one only")
    };
    assert_eq!(retry_after, ms(5_000), "the five seconds of work that wait");
    assert_eq!(released(&mut dispatcher, ms(4_999)), []);
    assert_eq!(released(&mut dispatcher, ms(5_000)), [(2, None)]);
}

#[test]
fn an_answer_that_comes_as_a_whole_does_not_keep_its_endpoint_for_itself() {
    let mut dispatcher = dispatcher(1);
    bound(arrive(
        &mut dispatcher,
        1,
        &Query {
            unary: true,
            ..prompt(1, 8_000)
        },
        ms(0),
    ));
    waits(&arrive(&mut dispatcher, 2, &prompt(2, 8_000), ms(500)));
    assert_eq!(released(&mut dispatcher, ms(900)), []);
    assert_eq!(
        released(&mut dispatcher, ms(1_000)),
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
    bound(arrive(&mut dispatcher, 1, &prompt(1, 80_000), ms(0)));
    let query = prompt(2, 800);
    let arrival = Arrival {
        key: key(2),
        query: &query,
        model: None,
        hits: &[],
        waited: Duration::ZERO,
        may_wait: false,
    };
    assert_eq!(bound(dispatcher.arrive(arrival, ms(0))).0, 0);
}

#[test]
fn a_prompt_that_memory_cannot_take_waits_until_it_can() {
    let mut dispatcher = dispatcher(1);
    dispatcher.set_capacity(0, Some(100_000));
    let full = |usage| {
        Some(Sample {
            kv_usage: Some(usage),
            ..Sample::default()
        })
    };
    dispatcher.set_sample(0, full(0.9));
    waits(&arrive(&mut dispatcher, 1, &prompt(1, 8_000), ms(0)));
    assert_eq!(released(&mut dispatcher, ms(100)), []);
    dispatcher.set_sample(0, full(0.6));
    assert_eq!(released(&mut dispatcher, ms(200)), [(1, Some(0))]);
    // Figures that are missing switch the check off.
    dispatcher.set_sample(0, None);
    answer(&mut dispatcher, 1, ms(1_000), ms(1_200));
    bound(arrive(&mut dispatcher, 2, &prompt(2, 99_000), ms(1_300)));
}

#[test]
fn memory_is_not_waited_for_without_end() {
    let mut dispatcher = dispatcher(1);
    dispatcher.set_capacity(0, Some(100_000));
    dispatcher.set_sample(
        0,
        Some(Sample {
            kv_usage: Some(1.0),
            ..Sample::default()
        }),
    );
    waits(&arrive(&mut dispatcher, 1, &prompt(1, 8_000), ms(0)));
    waits(&arrive(&mut dispatcher, 2, &prompt(2, 8_000), ms(0)));
    assert_eq!(released(&mut dispatcher, ms(1_999)), []);
    assert_eq!(
        released(&mut dispatcher, ms(2_000)).len(),
        1,
        "the other one waits for the first one's first byte"
    );
}

#[test]
fn what_others_send_to_an_endpoint_makes_it_cost_more_and_is_not_waited_for() {
    let mut dispatcher = dispatcher(2);
    let queue = |waiting| {
        Some(Sample {
            waiting: Some(waiting),
            ..Sample::default()
        })
    };
    dispatcher.set_sample(0, queue(40));
    dispatcher.set_sample(1, queue(20));
    assert_eq!(
        bound(arrive(&mut dispatcher, 1, &prompt(1, 8_000), ms(0))).0,
        1
    );
    waits(&arrive(&mut dispatcher, 2, &prompt(2, 8_000), ms(0)));
}

#[test]
fn who_asks_again_before_the_first_question_is_taken_back_is_bound_once() {
    let mut dispatcher = dispatcher(1);
    bound(arrive(&mut dispatcher, 1, &prompt(1, 8_000), ms(0)));
    waits(&arrive(&mut dispatcher, 2, &prompt(2, 8_000), ms(0)));
    waits(&arrive(&mut dispatcher, 2, &prompt(2, 8_000), ms(1)));
    assert_eq!(dispatcher.waiting(), 1);
    answer(&mut dispatcher, 1, ms(1_000), ms(1_000));
    bound(arrive(&mut dispatcher, 2, &prompt(2, 8_000), ms(1_000)));
    assert_eq!((dispatcher.waiting(), dispatcher.open()), (0, 2));
    assert_eq!(released(&mut dispatcher, ms(9_000)), []);
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
        dispatcher.finished(key(request), Ended::default(), now);
        dispatcher.tick(now);
    }
    let busy = bound(arrive(&mut dispatcher, 50, &prompt(50, 4_000), now)).0;
    assert_eq!(busy, 0, "the fast one");
    waits(&arrive(&mut dispatcher, 51, &prompt(51, 4_000), now));
}

#[test]
fn an_endpoint_that_restarts_has_lost_its_cache() {
    let mut dispatcher = dispatcher(2);
    let home = bound(arrive(&mut dispatcher, 1, &prompt(7, 6_400), ms(0))).0;
    answer(&mut dispatcher, 1, ms(800), ms(800));
    dispatcher.restarted(home as usize);
    assert_eq!(
        bound(arrive(&mut dispatcher, 2, &prompt(7, 6_400), ms(9_000))).1,
        0
    );
    assert_eq!(dispatcher.learned().0, 100, "what was just sent");
}

/// One source says this of endpoint 1.
fn said(source: Source, tokens: u32, at_least: bool) -> Hit {
    Hit {
        endpoint: EndpointId(1),
        cached: Cached::on_gpu(tokens),
        source,
        at_least,
    }
}

/// Where a request is bound of which this is known.
#[track_caller]
fn told(
    dispatcher: &mut Dispatcher,
    request: u64,
    query: &Query,
    hit: Hit,
    now: Duration,
) -> Ranked {
    let hits = [hit];
    let arrival = Arrival {
        key: key(request),
        query,
        model: None,
        hits: &hits,
        waited: Duration::ZERO,
        may_wait: true,
    };
    let Outcome::Bound(binding) = dispatcher.arrive(arrival, now) else {
        panic!("an idle fleet binds")
    };
    binding.choice.ranked[0]
}

#[test]
fn events_overrule_what_was_learned_only_where_they_know_all() {
    for (in_part, expected) in [(true, 6_399), (false, 1_000)] {
        let mut dispatcher = dispatcher(2);
        dispatcher.taught(EndpointId(1), &prompt(7, 6_400).blocks);
        let hit = said(Source::Events, 1_000, in_part);
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
    let hit = said(Source::Events, 0, false);
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
    bound(arrive(&mut dispatcher, 1, &prompt(1, 8_000), ms(0)));
    let hits = [Hit {
        endpoint: EndpointId(0),
        ..said(Source::Events, 0, false)
    }];
    let asked = |request, query| {
        let key = key(request);
        Arrival {
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
        waits(&dispatcher.arrive(asked(request, query), ms(request)));
    }
    answer(&mut dispatcher, 1, ms(1_000), ms(1_000));
    assert_eq!(released(&mut dispatcher, ms(1_000)), [(2, Some(0))]);
    answer(&mut dispatcher, 2, ms(500), ms(1_500));
    let mut after = Vec::new();
    dispatcher.release(ms(1_500), &mut after);
    let [
        Release {
            end: End::Bound(binding),
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
            said(Source::Manager, 6_000, false),
            now,
        );
        answer(&mut dispatcher, request, ms(800), now + ms(800));
        let ended = Ended {
            cached_tokens: Some(0),
            ..Ended::default()
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
    dispatcher.taught(EndpointId(2), &prompt(7, 6_400).blocks);
    assert_eq!(
        bound(arrive(&mut dispatcher, 1, &prompt(7, 6_400), ms(0))),
        (2, 6_399)
    );
}

#[test]
fn who_waits_goes_on_waiting_when_the_pool_changes() {
    let mut dispatcher = dispatcher(1);
    bound(arrive(&mut dispatcher, 1, &prompt(1, 80_000), ms(0)));
    waits(&arrive(&mut dispatcher, 2, &prompt(2, 8_000), ms(0)));
    assert_eq!(dispatcher.apply(&pool(KvAware::default(), 2), ms(1)), 0);
    assert_eq!(released(&mut dispatcher, ms(1)), [(2, Some(1))]);
    assert_eq!(
        dispatcher.apply(&pool(KvAware::default(), 1), ms(2)),
        1,
        "its endpoint is gone, and the booking too"
    );
}

#[test]
fn who_waits_in_a_pool_that_loses_its_last_endpoint_is_told_at_once() {
    let mut dispatcher = dispatcher(1);
    bound(arrive(&mut dispatcher, 1, &prompt(1, 80_000), ms(0)));
    waits(&arrive(&mut dispatcher, 2, &prompt(2, 8_000), ms(0)));
    dispatcher.apply(&pool(KvAware::default(), 0), ms(1));
    assert_eq!(released(&mut dispatcher, ms(1)), [(2, None)]);
    assert_eq!(dispatcher.waiting(), 0);
}

#[test]
fn a_choice_can_be_explained_and_the_explanation_changes_nothing() {
    let mut dispatcher = dispatcher(2);
    bound(arrive(&mut dispatcher, 1, &prompt(1, 8_000), ms(0)));
    bound(arrive(&mut dispatcher, 2, &prompt(2, 16_000), ms(0)));
    let query = prompt(1, 8_000);
    let arrival = Arrival {
        key: key(3),
        query: &query,
        model: None,
        hits: &[],
        waited: Duration::ZERO,
        may_wait: true,
    };
    let explanation = dispatcher.explain(arrival, ms(0));
    let weighing = explanation.weighing.as_ref().expect("costs were weighed");
    assert!(
        !weighing.binds && weighing.sites[0].cached_tokens == 7_999,
        "{weighing:?}"
    );
    assert_eq!(explanation, dispatcher.explain(arrival, ms(0)));
    assert_eq!(dispatcher.waiting(), 0);
    assert!(
        explanation.reason.contains("no room yet"),
        "{}",
        explanation.reason
    );
}

#[test]
fn who_waits_is_sent_to_anyone_when_nobody_is_up_any_more() {
    let mut dispatcher = dispatcher(1);
    bound(arrive(&mut dispatcher, 1, &prompt(1, 80_000), ms(0)));
    waits(&arrive(&mut dispatcher, 2, &prompt(2, 800), ms(0)));
    dispatcher.set_health(0, Health::Down);
    assert_eq!(released(&mut dispatcher, ms(10)), [(2, Some(0))]);
}

#[test]
fn down_endpoints_are_tried_only_when_nobody_is_up() {
    let mut dispatcher = dispatcher(2);
    dispatcher.set_health(0, Health::Down);
    assert_eq!(
        bound(arrive(&mut dispatcher, 1, &prompt(1, 800), ms(0))).0,
        1
    );
    dispatcher.set_health(1, Health::Down);
    let Outcome::Bound(binding) = arrive(&mut dispatcher, 2, &prompt(2, 800), ms(0)) else {
        panic!("somebody is tried")
    };
    assert!(binding.choice.desperate);
}
