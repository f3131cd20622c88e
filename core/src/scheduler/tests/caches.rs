//! What cache sources report, and how it changes where requests go.

use super::*;

#[test]
fn an_endpoint_that_restarts_has_lost_its_cache() {
    let mut scheduler = scheduler(2);
    let home = bound(schedule(&mut scheduler, 1, &prompt(7, 6_400), ms(0))).0;
    answer(&mut scheduler, 1, ms(800), ms(800));
    scheduler.restarted(home as usize);
    assert_eq!(
        bound(schedule(&mut scheduler, 2, &prompt(7, 6_400), ms(9_000))).1,
        0
    );
    assert_eq!(scheduler.learned_index_size().0, 100, "what was just sent");
}

#[test]
fn nothing_is_learned_of_an_address_that_several_engines_share() {
    let mut scheduler = scheduler(2);
    let home = bound(schedule(&mut scheduler, 1, &prompt(7, 6_400), ms(0))).0;
    answer(&mut scheduler, 1, ms(800), ms(800));
    scheduler.set_shared(home as usize, true);
    scheduler.replay_history(EndpointId(home), &prompt(7, 6_400).blocks);
    assert_eq!(
        bound(schedule(&mut scheduler, 2, &prompt(7, 6_400), ms(9_000))).1,
        0
    );
    scheduler.set_shared(home as usize, false);
    scheduler.replay_history(EndpointId(home), &prompt(8, 6_400).blocks);
    assert_eq!(
        bound(schedule(&mut scheduler, 3, &prompt(8, 6_400), ms(19_000))),
        (home, 6_399)
    );
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
fn assigned(
    scheduler: &mut Scheduler,
    request: u64,
    query: &Query,
    hit: CacheHit,
    now: Duration,
) -> RankedEndpoint {
    let hits = [hit];
    let request = ScheduleRequest {
        key: key(request),
        query,
        model: None,
        hits: &hits,
        waited: Duration::ZERO,
        may_wait: true,
    };
    let ScheduleOutcome::Bound(binding) = scheduler.schedule(request, now) else {
        panic!("an idle fleet binds")
    };
    binding.choice.ranked[0]
}

#[test]
fn kv_events_overrule_the_learned_index_only_where_they_are_complete() {
    for (in_part, expected) in [(true, 6_399), (false, 1_000)] {
        let mut scheduler = scheduler(2);
        scheduler.replay_history(EndpointId(1), &prompt(7, 6_400).blocks);
        let hit = said(CacheSource::KvEvents, 1_000, in_part);
        let place = assigned(&mut scheduler, 1, &prompt(7, 6_400), hit, ms(0));
        assert_eq!(
            (place.position, place.cached_tokens),
            (1, expected),
            "in part: {in_part}"
        );
    }
}

#[test]
fn a_prompt_that_is_being_computed_counts_before_kv_events_report_it() {
    let mut scheduler = scheduler(2);
    scheduler.set_health(0, Health::Down);
    let hit = said(CacheSource::KvEvents, 0, false);
    assert_eq!(
        assigned(&mut scheduler, 1, &prompt(7, 6_400), hit, ms(0)).cached_tokens,
        0
    );
    let lookup = scheduler
        .endpoints
        .lookup(&prompt(7, 6_400), &[hit], ms(10));
    assert_eq!(lookup.hits.as_slice(), [(1, 6_399)], "it is on its way");
    answer(&mut scheduler, 1, ms(800), ms(800));
    let lookup = scheduler
        .endpoints
        .lookup(&prompt(7, 6_400), &[hit], ms(900));
    assert!(
        lookup.hits.is_empty(),
        "it is not there, say those who know"
    );
}

#[test]
fn queued_requests_see_prompts_that_were_sent_after_their_kv_events_lookup() {
    let mut scheduler = scheduler(1);
    bound(schedule(&mut scheduler, 1, &prompt(1, 8_000), ms(0)));
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
        waits(&scheduler.schedule(asked(request, query), ms(request)));
    }
    answer(&mut scheduler, 1, ms(1_000), ms(1_000));
    assert_eq!(dequeued(&mut scheduler, ms(1_000)), [(2, Some(0))]);
    answer(&mut scheduler, 2, ms(500), ms(1_500));
    let mut after = Vec::new();
    scheduler.dequeue(ms(1_500), &mut after);
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
fn confidence_in_a_wrong_source_falls() {
    let mut scheduler = scheduler(2);
    let mut expected = Vec::new();
    for request in 0..40 {
        let now = ms(10_000 * (request + 1));
        let query = prompt(1_000 + request, 6_400);
        let place = assigned(
            &mut scheduler,
            request,
            &query,
            said(CacheSource::KvManager, 6_000, false),
            now,
        );
        answer(&mut scheduler, request, ms(800), now + ms(800));
        let ended = EngineUsage {
            cached_tokens: Some(0),
            ..EngineUsage::default()
        };
        scheduler.finished(key(request), ended, now + ms(900));
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
fn routing_history_of_proxies_can_be_replayed() {
    let mut scheduler = scheduler(3);
    scheduler.replay_history(EndpointId(2), &prompt(7, 6_400).blocks);
    assert_eq!(
        bound(schedule(&mut scheduler, 1, &prompt(7, 6_400), ms(0))),
        (2, 6_399)
    );
}

#[test]
fn another_leg_leaves_the_expectation_of_the_main_leg() {
    let mut scheduler = scheduler(2);
    let home = bound(schedule(&mut scheduler, 1, &prompt(7, 6_400), ms(0))).0;
    answer(&mut scheduler, 1, ms(800), ms(800));
    scheduler.finished(key(1), EngineUsage::default(), ms(900));
    let main = bound(schedule(&mut scheduler, 2, &prompt(7, 6_400), ms(1_000)));
    assert_eq!(main.0, home);

    let other = key(2).leg(LegId::new(1).expect("a leg of a request"));
    scheduler.started(key(2), EndpointId(home), 64, false, ms(1_000));
    scheduler.started(other, EndpointId(1 - home), 6_400, false, ms(1_000));
    assert!(scheduler.leg_finished(other, ms(1_100)).is_some());
    let ended = EngineUsage {
        cached_tokens: Some(6_000),
        ..EngineUsage::default()
    };
    let (released, prediction) = scheduler.finished(key(2), ended, ms(1_200));
    assert_eq!(released.map(|released| released.count()), Some(1));
    assert_eq!(
        prediction.map(|prediction| prediction.expected),
        Some(main.1)
    );
    assert!(scheduler.loads().iter().all(|load| load.in_flight == 0));
}

#[test]
fn what_a_request_expects_is_kept_until_its_last_leg_went_on_in_another_pool() {
    let mut scheduler = scheduler(2);
    let home = bound(schedule(&mut scheduler, 1, &prompt(7, 6_400), ms(0))).0;
    let (main, other) = (
        key(1).leg(LegId::MAIN),
        key(1).leg(LegId::new(1).expect("a leg of a request")),
    );
    scheduler.started(main, EndpointId(home), 6_400, false, ms(0));
    scheduler.started(other, EndpointId(1 - home), 6_400, false, ms(0));
    assert!(scheduler.leg_left(main, ms(1)).is_some());
    assert_eq!(scheduler.open_requests(), 1, "the other leg");
    assert_eq!(scheduler.requests.metadata_len(), 1);
    assert!(scheduler.leg_left(other, ms(2)).is_some());
    assert_eq!(scheduler.open_requests(), 0);
    assert_eq!(scheduler.requests.metadata_len(), 0);
    assert!(
        scheduler.leg_left(other, ms(3)).is_none(),
        "the first time only"
    );
}

#[test]
fn an_endpoint_that_returns_within_a_minute_is_as_fast_and_holds_what_it_held() {
    let both = pool(KvAware::default(), 2);
    let one = pool(KvAware::default(), 1);
    let mut scheduler = Scheduler::new(&both, SeededRng::new(1));
    scheduler.set_health(0, Health::Down);
    for request in 0..12 {
        let now = ms(10_000 * request);
        let query = prompt(100 + request, 2_000 + 700 * request as u32);
        assert_eq!(bound(schedule(&mut scheduler, request, &query, now)).0, 1);
        // 4,000 tokens a second.
        let ttft = ms(u64::from(query.prompt_tokens) / 4);
        answer(&mut scheduler, request, ttft, now + ttft);
        scheduler.finished(key(request), EngineUsage::default(), now + ttft);
    }
    let known = |scheduler: &Scheduler| {
        let speed = &scheduler.endpoints.engine(1).prefill;
        let rate = speed.line().map(|fit| fit.rate);
        let query = prompt(105, 5_500);
        let hits = scheduler.endpoints.lookup(&query, &[], ms(0)).hits;
        (rate, scheduler.endpoints.confidence(1), hits)
    };
    let before = known(&scheduler);
    assert!(before.0.is_some() && !before.2.is_empty(), "{before:?}");

    scheduler.apply(&one, ms(200_000));
    scheduler.tick(ms(259_000));
    let query = prompt(105, 5_500);
    let elsewhere = scheduler.endpoints.lookup(&query, &[], ms(0)).hits;
    assert!(elsewhere.is_empty(), "it left");
    scheduler.apply(&both, ms(259_500));
    assert_eq!(known(&scheduler), before);

    scheduler.apply(&one, ms(300_000));
    scheduler.tick(ms(360_000));
    assert_eq!(scheduler.learned_index_size().0, 0, "a minute later");
    scheduler.apply(&both, ms(361_000));
    assert!(!scheduler.endpoints.engine(1).prefill.is_measured());
}

#[test]
fn a_prompt_that_is_computed_whole_expects_nothing_and_leaves_confidence_as_it_is() {
    let mut scheduler = scheduler(1);
    bound(schedule(&mut scheduler, 0, &prompt(7, 6_400), ms(0)));
    answer(&mut scheduler, 0, ms(800), ms(800));
    let evaluation = Query {
        recomputes_prompt: true,
        ..prompt(7, 6_400)
    };
    for request in 1..40 {
        let now = ms(10_000 * request);
        assert_eq!(
            bound(schedule(&mut scheduler, request, &evaluation, now)),
            (0, 0)
        );
        answer(&mut scheduler, request, ms(800), now + ms(800));
        let ended = EngineUsage {
            cached_tokens: Some(0),
            ..EngineUsage::default()
        };
        scheduler.finished(key(request), ended, now + ms(900));
    }
    assert_eq!(scheduler.endpoints.confidence(0), [1.0; 3]);
    assert_eq!(scheduler.endpoints.index_share(0), 1.0);
    let next = schedule(&mut scheduler, 50, &prompt(7, 6_400), ms(900_000));
    assert_eq!(bound(next), (0, 6_399), "it is cached all the same");
}

/// Entries that a queued request holds for endpoints.
fn held(scheduler: &mut Scheduler, request: u64) -> (usize, usize) {
    let queue = &mut scheduler.requests.queue;
    let queued = queue.get_mut(key(request)).expect("it is queued");
    (queued.others.len(), queued.lookup.estimates.len())
}

#[test]
fn a_queued_request_holds_nothing_for_endpoints_that_have_nothing_of_its_prompt() {
    let mut scheduler = scheduler(300);
    for request in 1..=300 {
        bound(schedule(
            &mut scheduler,
            request,
            &prompt(request, 80_000),
            ms(0),
        ));
    }
    let reported = |cached: &dyn Fn(u64) -> u32| -> Vec<CacheHit> {
        let hit = |endpoint| CacheHit {
            endpoint: EndpointId(endpoint),
            cached: CachedTokens::on_gpu(cached(endpoint)),
            source: CacheSource::KvEvents,
            at_least: false,
        };
        (0..300).map(hit).collect()
    };
    let mut queue = |request, hits: &[CacheHit]| {
        let asked = ScheduleRequest {
            key: key(request),
            query: &prompt(request, 8_000),
            model: None,
            hits,
            waited: Duration::ZERO,
            may_wait: true,
        };
        waits(&scheduler.schedule(asked, ms(1)));
        held(&mut scheduler, request)
    };
    let some = reported(&|endpoint| if endpoint % 100 == 7 { 4_000 } else { 0 });
    assert_eq!(queue(1_001, &some), (3, 3));
    let all = reported(&|_| 4_000);
    assert_eq!(queue(1_002, &all), (300, 0), "found again when examined");
}
