//! Requests that are queued: when they are bound, evicted, or given up.

use super::*;

/// The endpoint of a request that may not wait.
fn sent_at_once(scheduler: &mut Scheduler, request: u64, query: &Query) -> u64 {
    let request = ScheduleRequest {
        key: key(request),
        query,
        model: None,
        hits: &[],
        waited: Duration::ZERO,
        may_wait: false,
    };
    bound(scheduler.schedule(request, ms(0))).0
}

#[test]
fn a_full_fleet_lets_requests_wait_and_binds_them_as_endpoints_get_room() {
    let mut scheduler = scheduler(2);
    let first = bound(schedule(&mut scheduler, 1, &prompt(1, 8_000), ms(0))).0;
    let second = bound(schedule(&mut scheduler, 2, &prompt(2, 16_000), ms(0))).0;
    waits(&schedule(&mut scheduler, 3, &prompt(3, 8_000), ms(10)));
    assert_eq!(
        dequeued(&mut scheduler, ms(500)),
        [],
        "no_endpoint has room"
    );
    answer(&mut scheduler, 1, ms(1_000), ms(1_000));
    assert_eq!(dequeued(&mut scheduler, ms(1_000)), [(3, Some(first))]);
    assert_ne!(first, second);
    assert_eq!(scheduler.queued_requests(), 0);
}

#[test]
fn a_request_waits_for_its_cache_only_while_that_pays() {
    let mut scheduler = scheduler(2);
    let home = bound(schedule(&mut scheduler, 1, &prompt(7, 8_000), ms(0))).0;
    answer(&mut scheduler, 1, ms(1_000), ms(1_000));
    scheduler.finished(key(1), EngineUsage::default(), ms(2_000));
    // Another prompt keeps the home busy for half a second; computing the cached one elsewhere
    // takes a whole one.
    let busy = |tokens, request, scheduler: &mut Scheduler| {
        let query = prompt(1_000 + request, tokens);
        scheduler.started(
            key(request),
            EndpointId(home),
            query.prompt_tokens,
            false,
            ms(60_000),
        );
    };
    busy(4_000, 2, &mut scheduler);
    waits(&schedule(&mut scheduler, 3, &prompt(7, 8_000), ms(60_000)));
    assert_eq!(
        dequeued(&mut scheduler, ms(60_010)),
        [],
        "the other endpoint is idle and stays so"
    );
    // With two more seconds of work at the home it is done sooner elsewhere.
    busy(16_000, 4, &mut scheduler);
    assert_eq!(dequeued(&mut scheduler, ms(60_020)), [(3, Some(1 - home))]);
}

#[test]
fn a_repeated_request_is_not_taken_for_computed_when_its_first_attempt_would_be() {
    let mut scheduler = scheduler(2);
    scheduler.started(key(1), EndpointId(0), 8_000, true, ms(0));
    scheduler.started(key(1), EndpointId(1), 8_000, true, ms(900));
    scheduler.endpoints.assume_done(ms(1_500));
    assert_eq!(scheduler.endpoints.flight(1).tokens, 8_000);
    scheduler.endpoints.assume_done(ms(1_900));
    assert_eq!(scheduler.endpoints.flight(1).tokens, 0);
}

#[test]
fn requests_that_ended_early_are_not_remembered_until_they_would_be_computed() {
    let mut scheduler = scheduler(1);
    for request in 0..10_000 {
        scheduler.started(key(request), EndpointId(0), 8_000_000, true, ms(request));
        scheduler.finished(key(request), EngineUsage::default(), ms(request));
    }
    assert!(scheduler.endpoints.silent_legs() < 2_000);
}

#[test]
fn a_client_that_leaves_frees_its_place_at_once() {
    let mut scheduler = scheduler(1);
    bound(schedule(&mut scheduler, 1, &prompt(1, 80_000), ms(0)));
    waits(&schedule(&mut scheduler, 2, &prompt(2, 800), ms(1)));
    assert_eq!(scheduler.queued_bytes(), 3_200);
    assert_eq!(scheduler.cancel(key(2), ms(2)), (None, true));
    assert_eq!(
        (scheduler.queued_requests(), scheduler.queued_bytes()),
        (0, 0)
    );
    answer(&mut scheduler, 1, ms(10_000), ms(10_000));
    bound(schedule(&mut scheduler, 3, &prompt(3, 800), ms(10_000)));
    let (booking, waited) = scheduler.cancel(key(3), ms(10_001));
    assert!(
        booking.is_some() && !waited,
        "a booking that no_endpoint acted on is taken back"
    );
}

#[test]
fn a_full_queue_says_when_to_come_back_and_a_long_wait_ends() {
    let queue = crate::policy::QueueLimits {
        max_requests: 1,
        max_wait: ms(5_000),
        ..crate::policy::QueueLimits::default()
    };
    let mut scheduler = Scheduler::new(
        &pool(
            KvAware {
                queue,
                ..KvAware::default()
            },
            1,
        ),
        SeededRng::new(1),
    );
    bound(schedule(&mut scheduler, 1, &prompt(1, 800_000), ms(0)));
    waits(&schedule(&mut scheduler, 2, &prompt(2, 40_000), ms(0)));
    let ScheduleOutcome::QueueFull { retry_after } =
        schedule(&mut scheduler, 3, &prompt(3, 800), ms(0))
    else {
        panic!("there is room for one only")
    };
    assert_eq!(retry_after, ms(5_000), "the five seconds of work that wait");
    assert_eq!(dequeued(&mut scheduler, ms(4_999)), []);
    assert_eq!(dequeued(&mut scheduler, ms(5_000)), [(2, None)]);
}

#[test]
fn an_answer_that_comes_as_a_whole_does_not_keep_its_endpoint_for_itself() {
    let mut scheduler = scheduler(1);
    bound(schedule(
        &mut scheduler,
        1,
        &Query {
            non_streaming: true,
            ..prompt(1, 8_000)
        },
        ms(0),
    ));
    waits(&schedule(&mut scheduler, 2, &prompt(2, 8_000), ms(500)));
    assert_eq!(dequeued(&mut scheduler, ms(900)), []);
    assert_eq!(
        dequeued(&mut scheduler, ms(1_000)),
        [(2, Some(0))],
        "its prompt is done, though nothing came yet"
    );
    assert_eq!(
        scheduler.first_byte(key(1), Some(ms(9_000)), ms(9_000)),
        None,
        "and says nothing of the speed"
    );
}

#[test]
fn requests_that_cannot_wait_are_bound_at_once() {
    let mut scheduler = scheduler(1);
    bound(schedule(&mut scheduler, 1, &prompt(1, 80_000), ms(0)));
    assert_eq!(sent_at_once(&mut scheduler, 2, &prompt(2, 800)), 0);
}

#[test]
fn a_prompt_that_memory_cannot_take_waits_until_it_can() {
    let mut scheduler = scheduler(1);
    scheduler.set_capacity(0, Some(100_000));
    let full = |usage| {
        Some(EngineSample {
            kv_usage: Some(usage),
            ..EngineSample::default()
        })
    };
    scheduler.set_sample(0, full(0.9));
    waits(&schedule(&mut scheduler, 1, &prompt(1, 8_000), ms(0)));
    assert_eq!(dequeued(&mut scheduler, ms(100)), []);
    scheduler.set_sample(0, full(0.6));
    assert_eq!(dequeued(&mut scheduler, ms(200)), [(1, Some(0))]);
    // Figures that are missing switch the check off.
    scheduler.set_sample(0, None);
    answer(&mut scheduler, 1, ms(1_000), ms(1_200));
    bound(schedule(&mut scheduler, 2, &prompt(2, 99_000), ms(1_300)));
}

#[test]
fn memory_is_not_waited_for_without_end() {
    let mut scheduler = scheduler(1);
    scheduler.set_capacity(0, Some(100_000));
    scheduler.set_sample(
        0,
        Some(EngineSample {
            kv_usage: Some(1.0),
            ..EngineSample::default()
        }),
    );
    waits(&schedule(&mut scheduler, 1, &prompt(1, 8_000), ms(0)));
    waits(&schedule(&mut scheduler, 2, &prompt(2, 8_000), ms(0)));
    assert_eq!(dequeued(&mut scheduler, ms(1_999)), []);
    assert_eq!(
        dequeued(&mut scheduler, ms(2_000)).len(),
        1,
        "the other one waits for the first one's first byte"
    );
}

#[test]
fn what_others_send_to_an_endpoint_makes_it_cost_more_and_is_not_waited_for() {
    let mut scheduler = scheduler(2);
    let queue = |waiting| {
        Some(EngineSample {
            waiting: Some(waiting),
            ..EngineSample::default()
        })
    };
    scheduler.set_sample(0, queue(40));
    scheduler.set_sample(1, queue(20));
    assert_eq!(
        bound(schedule(&mut scheduler, 1, &prompt(1, 8_000), ms(0))).0,
        1
    );
    waits(&schedule(&mut scheduler, 2, &prompt(2, 8_000), ms(0)));
}

#[test]
fn a_repeated_question_binds_its_request_once() {
    let mut scheduler = scheduler(1);
    bound(schedule(&mut scheduler, 1, &prompt(1, 8_000), ms(0)));
    waits(&schedule(&mut scheduler, 2, &prompt(2, 8_000), ms(0)));
    waits(&schedule(&mut scheduler, 2, &prompt(2, 8_000), ms(1)));
    assert_eq!(scheduler.queued_requests(), 1);
    answer(&mut scheduler, 1, ms(1_000), ms(1_000));
    bound(schedule(&mut scheduler, 2, &prompt(2, 8_000), ms(1_000)));
    assert_eq!(
        (scheduler.queued_requests(), scheduler.open_requests()),
        (0, 2)
    );
    assert_eq!(dequeued(&mut scheduler, ms(9_000)), []);
}

#[test]
fn a_pool_that_did_not_change_leaves_what_is_known_of_queued_requests() {
    let plain = pool(KvAware::default(), 1);
    let mut scheduler = Scheduler::new(&plain, SeededRng::new(1));
    bound(schedule(&mut scheduler, 1, &prompt(1, 80_000), ms(0)));
    waits(&schedule(&mut scheduler, 2, &prompt(2, 8_000), ms(0)));
    assert_eq!(scheduler.apply(&plain, ms(1)), 0);
    assert!(scheduler.requests.queue.is_wanted(0));
    assert_eq!(scheduler.apply(&pool(KvAware::default(), 1), ms(1)), 0);
    assert!(
        !scheduler.requests.queue.is_wanted(0),
        "until the next plan"
    );
}

#[test]
fn a_prompt_needs_no_memory_for_what_a_running_one_holds_and_frees_its_own_when_it_ends() {
    let mut scheduler = scheduler(1);
    scheduler.set_capacity(0, Some(10_000));
    scheduler.set_sample(
        0,
        Some(EngineSample {
            kv_usage: Some(0.0),
            ..EngineSample::default()
        }),
    );
    for request in 0..6 {
        let at = ms(1_000 * request);
        bound(schedule(&mut scheduler, request, &prompt(7, 4_000), at));
        answer(&mut scheduler, request, ms(500), at + ms(500));
    }
    waits(&schedule(&mut scheduler, 9, &prompt(9, 6_400), ms(7_000)));
    for request in 0..6 {
        scheduler.finished(key(request), EngineUsage::default(), ms(7_100));
    }
    assert_eq!(dequeued(&mut scheduler, ms(7_100)), [(9, Some(0))]);
}

#[test]
fn requests_that_wait_for_one_endpoint_do_not_keep_others_from_an_idle_one() {
    let mut scheduler = scheduler(2);
    // A long prefix that all share is cached at one endpoint, and forty of them come at once.
    let (home, _) = bound(schedule(&mut scheduler, 1, &prompt(7, 4_000), ms(0)));
    answer(&mut scheduler, 1, ms(500), ms(500));
    let shared = |request: u64| {
        let mut query = prompt(7, 4_000);
        let own = (0..8).map(|block| crate::hash::hash_mix(1_000 + request, block));
        query.blocks = query.blocks.iter().copied().chain(own).collect();
        query.prompt_tokens += 8 * BLOCK;
        query.prompt_bytes += u64::from(4 * 8 * BLOCK);
        query
    };
    let elsewhere = |outcome: ScheduleOutcome| match outcome {
        ScheduleOutcome::Bound(binding) => binding.choice.ranked[0].endpoint.0 != home,
        _ => false,
    };
    let moved = (2..42)
        .filter(|&request| elsewhere(schedule(&mut scheduler, request, &shared(request), ms(500))));
    assert!(moved.count() > 0);
}

#[test]
fn requests_wait_for_the_cool_down_of_the_only_endpoint_and_are_served_after_it() {
    let mut scheduler = scheduler(1);
    bound(schedule(&mut scheduler, 1, &prompt(1, 8_000), ms(0)));
    waits(&schedule(&mut scheduler, 2, &prompt(2, 8_000), ms(0)));
    // It refuses what it gets, and asks to be left alone.
    scheduler.set_health(0, Health::Warming(0.0));
    scheduler.finished(key(1), EngineUsage::default(), ms(10));
    assert_eq!(
        dequeued(&mut scheduler, ms(10)),
        [],
        "it is idle, and cools"
    );
    waits(&schedule(&mut scheduler, 3, &prompt(3, 8_000), ms(20)));
    scheduler.tick(ms(5_000));
    assert_eq!(dequeued(&mut scheduler, ms(5_000)), []);
    scheduler.set_health(0, Health::Up);
    assert_eq!(dequeued(&mut scheduler, ms(5_010)), [(2, Some(0))]);
    answer(&mut scheduler, 2, ms(1_000), ms(6_010));
    assert_eq!(dequeued(&mut scheduler, ms(6_010)), [(3, Some(0))]);
}

#[test]
fn a_cooling_endpoint_gets_nothing_while_another_is_busy_and_causes_no_plan() {
    let mut scheduler = scheduler(2);
    scheduler.set_health(0, Health::Warming(0.0));
    assert_eq!(
        bound(schedule(&mut scheduler, 1, &prompt(1, 8_000), ms(0))).0,
        1
    );
    waits(&schedule(&mut scheduler, 2, &prompt(2, 8_000), ms(0)));
    let free = scheduler
        .endpoints
        .free(KvAware::default().window, |_| true, ms(0));
    let everyone = scheduler
        .endpoints
        .eligible(None, false)
        .expect("endpoints");
    assert!(!free.any_in(everyone));
    // One that may not wait is sent there rather than nowhere.
    let query = Query {
        exclude: [EndpointId(1)].into_iter().collect(),
        ..prompt(3, 8_000)
    };
    assert_eq!(sent_at_once(&mut scheduler, 3, &query), 0);
}

#[test]
fn requests_queue_for_an_endpoint_that_warms_up_alone() {
    let mut scheduler = scheduler(1);
    scheduler.set_health(0, Health::Warming(0.1));
    bound(schedule(&mut scheduler, 1, &prompt(1, 8_000), ms(0)));
    (2..40).for_each(|request| {
        waits(&schedule(
            &mut scheduler,
            request,
            &prompt(request, 8_000),
            ms(0),
        ));
    });
    assert_eq!(dequeued(&mut scheduler, ms(10)), []);
    answer(&mut scheduler, 1, ms(1_000), ms(1_000));
    assert_eq!(dequeued(&mut scheduler, ms(1_000)).len(), 1);
}

#[test]
fn an_exploration_that_memory_refuses_is_not_planned_again_until_memory_changes() {
    let mut scheduler = scheduler(1);
    let mut now = ms(0);
    for request in 100..120 {
        let tokens = 1_000 + 500 * (request as u32 % 7);
        scheduler.started(key(request), EndpointId(0), tokens, false, now);
        let ttft = ms(u64::from(tokens) / 8);
        now += ttft;
        answer(&mut scheduler, request, ttft, now);
        scheduler.finished(key(request), EngineUsage::default(), now);
    }
    let sample = |scheduler: &mut Scheduler, usage| {
        let sample = EngineSample {
            kv_usage: Some(usage),
            ..EngineSample::default()
        };
        scheduler.set_sample(0, Some(sample));
    };
    let is_free = |scheduler: &Scheduler, now| {
        let wanted = |position| scheduler.requests.queue.is_wanted(position);
        let free = scheduler
            .endpoints
            .free(KvAware::default().window, wanted, now);
        free.any_in(
            scheduler
                .endpoints
                .eligible(None, false)
                .expect("endpoints"),
        )
    };
    scheduler.set_capacity(0, Some(100_000));
    sample(&mut scheduler, 0.5);
    bound(schedule(&mut scheduler, 1, &prompt(1, 16_000), now));
    sample(&mut scheduler, 0.9);
    waits(&schedule(&mut scheduler, 2, &prompt(2, 16_000), now));
    now += ms(10);
    assert!(is_free(&scheduler, now), "it is to be explored");
    assert_eq!(dequeued(&mut scheduler, now), []);
    assert!(!is_free(&scheduler, now + ms(10)));
    // With memory it is explored.
    sample(&mut scheduler, 0.2);
    assert!(is_free(&scheduler, now + ms(20)));
    assert_eq!(dequeued(&mut scheduler, now + ms(20)), [(2, Some(0))]);
}

/// A prompt of 8,000 tokens that all begin with, and 2,000 of its own.
fn with_common_prefix(request: u64) -> Query {
    let mut query = prompt(7, 8_000);
    let own = (0..31).map(|block| crate::hash::hash_mix(1_000 + request, block));
    query.blocks = query.blocks.iter().copied().chain(own).collect();
    query.prompt_tokens += 31 * BLOCK;
    query.prompt_bytes += u64::from(4 * 31 * BLOCK);
    query
}

/// An idle endpoint, and perhaps a second one, with memory for 20,000 tokens, 19,000 of which are
/// used before a prompt has to wait.
fn with_memory(endpoints: u64) -> Scheduler {
    let mut scheduler = scheduler(endpoints);
    for position in 0..endpoints as usize {
        scheduler.set_capacity(position, Some(20_000));
        let sample = EngineSample {
            kv_usage: Some(0.0),
            ..EngineSample::default()
        };
        scheduler.set_sample(position, Some(sample));
    }
    scheduler
}

fn fits(scheduler: &Scheduler, position: usize, tokens: u32) -> bool {
    scheduler.endpoints.engine(position).fits(tokens)
}

#[test]
fn what_running_prompts_share_stays_in_use_until_the_last_of_them_ends() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1]] {
        let mut scheduler = with_memory(1);
        for request in 0..3 {
            let at = ms(2_000 * request);
            scheduler.book_fixed(key(request), 0, &with_common_prefix(request), at);
            answer(&mut scheduler, request, ms(1_000), at + ms(1_000));
        }
        // Once 8,000 tokens, and three times 1,984.
        assert!(fits(&scheduler, 0, 5_000) && !fits(&scheduler, 0, 5_100));
        scheduler.finished(key(order[0]), EngineUsage::default(), ms(9_000));
        assert!(fits(&scheduler, 0, 7_000) && !fits(&scheduler, 0, 7_100));
        scheduler.finished(key(order[1]), EngineUsage::default(), ms(9_100));
        assert!(fits(&scheduler, 0, 9_000) && !fits(&scheduler, 0, 9_100));
        scheduler.finished(key(order[2]), EngineUsage::default(), ms(9_200));
        assert!(fits(&scheduler, 0, 1_000_000), "it is empty");
    }
}

#[test]
fn a_retry_elsewhere_needs_memory_there_and_frees_what_it_had() {
    let mut scheduler = with_memory(2);
    scheduler.book_fixed(key(1), 0, &with_common_prefix(1), ms(0));
    answer(&mut scheduler, 1, ms(1_000), ms(1_000));
    scheduler.book_fixed(key(9), 1, &prompt(9, 64), ms(1_000));
    // It shares 8,000 tokens at the first endpoint, and none at the second.
    scheduler.book_fixed(key(2), 0, &with_common_prefix(2), ms(1_000));
    assert!(!fits(&scheduler, 0, 7_100));
    scheduler.started(key(2), EndpointId(1), 9_984, false, ms(1_100));
    assert!(fits(&scheduler, 0, 8_900) && !fits(&scheduler, 0, 9_100));
    assert!(fits(&scheduler, 1, 8_900) && !fits(&scheduler, 1, 9_100));
    scheduler.leg_finished(key(2).leg(LegId::MAIN), ms(1_200));
    assert!(fits(&scheduler, 1, 18_900));
    scheduler.finished(key(2), EngineUsage::default(), ms(1_300));
    assert!(!fits(&scheduler, 1, 19_000), "once");
}
