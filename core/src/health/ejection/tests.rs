//! Every transition of an [`EndpointHealth`], as scenarios.

use proptest::prelude::*;

use super::*;

const POLICY: EjectionPolicy = EjectionPolicy {
    consecutive_failures: 3,
    base_time: Duration::from_secs(1),
    max_time: Duration::from_secs(4),
    slow_start: Duration::from_secs(10),
};
const BROKEN: EndpointFailure = EndpointFailure::Status(500);

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A breaker that opened at this moment for the first time.
fn opened(now: Duration) -> EndpointHealth {
    let mut breaker = EndpointHealth::new(POLICY);
    (0..3).for_each(|_| _ = breaker.on_failure(now, BROKEN));
    assert_eq!(
        breaker.state(),
        EjectionState::Ejected {
            until: now + secs(1)
        }
    );
    breaker
}

#[test]
fn failures_in_a_row_open_it_and_a_success_starts_the_count_again() {
    let mut breaker = EndpointHealth::new(POLICY);
    breaker.on_failure(secs(0), BROKEN);
    breaker.on_failure(secs(0), EndpointFailure::Timeout);
    breaker.on_success(secs(0));
    breaker.on_failure(secs(0), EndpointFailure::Connect);
    breaker.on_failure(secs(0), EndpointFailure::Reset);
    assert_eq!(breaker.health(secs(0)), Health::Up);
    breaker.on_failure(secs(0), EndpointFailure::Status(502));
    assert_eq!(breaker.health(secs(0)), Health::Down);
}

#[test]
fn it_comes_back_by_one_trial_and_a_slow_start() {
    let mut breaker = opened(secs(0));

    // For a second no request goes there.
    assert_eq!(breaker.health(Duration::from_millis(999)), Health::Down);
    assert!(!breaker.try_trial(Duration::from_millis(999)));

    // Then a trial is due: some choices fall on it, and one request is let through.
    assert_eq!(breaker.health(secs(1)), Health::Warming(0.1));
    assert!(breaker.try_trial(secs(1)));
    assert!(!breaker.try_trial(secs(1)));
    assert_eq!(breaker.health(secs(1)), Health::Down);

    // It succeeds, and the endpoint's share grows for ten seconds.
    breaker.on_success(secs(2));
    assert_eq!(breaker.health(secs(2)), Health::Warming(0.1));
    assert_eq!(breaker.health(secs(7)), Health::Warming(0.5));
    assert!(breaker.try_trial(secs(7)));
    assert_eq!(breaker.health(secs(12)), Health::Up);

    // From then on it counts from zero: one failure does not eject it.
    breaker.on_failure(secs(12), BROKEN);
    assert_eq!(breaker.state(), EjectionState::InService { failures: 1 });
}

#[test]
fn every_failed_trial_doubles_the_time_out_up_to_the_longest() {
    let mut breaker = opened(secs(0));
    let mut now = secs(1);
    for ejection_time in [2, 4, 4, 4] {
        assert!(breaker.try_trial(now));
        breaker.on_failure(now, EndpointFailure::Timeout);
        assert_eq!(
            breaker.state(),
            EjectionState::Ejected {
                until: now + secs(ejection_time)
            }
        );
        now += secs(ejection_time);
    }
}

#[test]
fn a_failure_while_warming_opens_it_again_for_longer() {
    let mut breaker = opened(secs(0));
    assert!(breaker.try_trial(secs(1)));
    breaker.on_success(secs(1));
    breaker.on_failure(secs(3), BROKEN);
    assert_eq!(
        breaker.state(),
        EjectionState::Ejected {
            until: secs(3) + secs(2)
        }
    );
}

#[test]
fn mistakes_of_clients_and_backpressure_never_open_it() {
    let mut breaker = EndpointHealth::new(POLICY);
    for status in [400, 404, 408, 413, 422, 429, 501, 503].repeat(10) {
        breaker.on_failure(secs(0), EndpointFailure::Status(status));
        assert_eq!(
            breaker.state(),
            EjectionState::InService { failures: 0 },
            "{status}"
        );
    }
}

#[test]
fn backpressure_does_not_forgive_failures() {
    let mut breaker = EndpointHealth::new(POLICY);
    for failure in [
        BROKEN,
        EndpointFailure::Status(503),
        BROKEN,
        EndpointFailure::Status(429),
        BROKEN,
    ] {
        breaker.on_failure(secs(0), failure);
    }
    assert_eq!(breaker.health(secs(0)), Health::Down);
}

#[test]
fn a_trial_that_met_a_full_endpoint_waits_as_long_again() {
    let mut breaker = opened(secs(0));
    assert!(breaker.try_trial(secs(1)));
    breaker.on_failure(secs(1), EndpointFailure::Status(429));
    assert_eq!(breaker.state(), EjectionState::Ejected { until: secs(2) });
}

#[test]
fn a_trial_that_met_a_wrong_request_succeeded() {
    let mut breaker = opened(secs(0));
    assert!(breaker.try_trial(secs(1)));
    breaker.on_failure(secs(1), EndpointFailure::Status(400));
    assert_eq!(breaker.state(), EjectionState::SlowStart { since: secs(1) });
}

#[test]
fn a_trial_whose_client_left_leaves_room_for_the_next() {
    let mut breaker = opened(secs(0));
    assert!(breaker.try_trial(secs(1)));
    breaker.on_abandoned(secs(2));
    assert!(breaker.try_trial(secs(2)));
}

#[test]
fn a_trial_is_released_by_its_own_request_alone() {
    let mut breaker = opened(secs(0));
    assert!(breaker.try_trial(secs(1)));
    let first = breaker.trial().expect("it was let through");
    breaker.on_failure(secs(1), BROKEN);
    assert!(breaker.try_trial(secs(3)));
    let second = breaker.trial().expect("it was let through");
    breaker.on_trial_abandoned(secs(3), first);
    assert!(!breaker.try_trial(secs(3)), "the second goes on");
    breaker.on_trial_abandoned(secs(3), second);
    assert!(breaker.try_trial(secs(3)));
}

#[test]
fn a_429_that_another_endpoint_repeats_ends_the_cool_down_and_begins_none() {
    let mut first = EndpointHealth::new(POLICY);
    let second = EndpointHealth::new(POLICY);
    assert!(!second.suspects_quota(secs(0), &serving()));
    first.on_overload(secs(0), Some(secs(3)), &serving());
    assert_eq!(first.health(secs(0)), Health::Warming(0.0));
    first.on_limited(secs(0));
    assert_eq!(first.health(secs(0)), Health::Up);
    let mut peers = serving();
    peers.add(first.answers(secs(0)), Health::Up);
    assert!(second.suspects_quota(secs(0), &peers), "of the next one");
    assert!(!first.suspects_quota(secs(120), &serving()), "for a while");
}

#[test]
fn a_trial_without_a_report_does_not_last_forever() {
    let mut breaker = opened(secs(0));
    assert!(breaker.try_trial(secs(1)));
    assert!(!breaker.try_trial(secs(4)));
    assert_eq!(breaker.health(secs(5)), Health::Warming(0.1));
    assert!(breaker.try_trial(secs(5)));
}

#[test]
fn answers_to_older_requests_do_not_close_it() {
    let mut breaker = opened(secs(0));
    breaker.on_success(Duration::from_millis(10));
    breaker.on_failure(Duration::from_millis(20), BROKEN);
    assert_eq!(breaker.state(), EjectionState::Ejected { until: secs(1) });
}

#[test]
fn two_refused_probes_take_it_out_and_an_answered_one_brings_it_back() {
    let mut breaker = EndpointHealth::new(POLICY);
    breaker.probe_failed();
    assert_eq!(
        breaker.health(secs(0)),
        Health::Up,
        "one may be an accident"
    );
    breaker.probe_ok(secs(0));
    breaker.probe_failed();
    assert_eq!(
        breaker.health(secs(0)),
        Health::Up,
        "two in a row are needed"
    );
    breaker.probe_failed();
    assert_eq!(breaker.health(secs(100)), Health::Down);
    assert!(
        !breaker.try_trial(secs(100)),
        "requests are not spent on a closed port"
    );
    breaker.probe_ok(secs(100));
    assert_eq!(breaker.health(secs(105)), Health::Warming(0.5));
}

#[test]
fn successful_probes_do_not_end_an_ejection_by_requests() {
    let mut breaker = opened(secs(0));
    breaker.probe_ok(secs(0));
    assert_eq!(breaker.health(secs(0)), Health::Down);
}

#[test]
fn without_a_slow_start_it_is_back_at_once() {
    let mut breaker = EndpointHealth::new(EjectionPolicy {
        slow_start: Duration::ZERO,
        ..POLICY
    });
    breaker.probe_failed();
    breaker.probe_failed();
    breaker.probe_ok(secs(1));
    assert_eq!(breaker.health(secs(1)), Health::Up);
}

fn serving() -> PeerAnswers {
    let mut peers = PeerAnswers::default();
    let counts = AnswerCounts {
        served: 20,
        ..AnswerCounts::default()
    };
    peers.add(counts, Health::Up);
    peers
}

/// An endpoint that was ejected at this moment because it refuses what its peers serve.
fn ejected_for_refusals(now: Duration) -> EndpointHealth {
    let mut health = EndpointHealth::new(POLICY);
    for _ in 0..2 {
        health.on_refusal(now, SecondOpinion::Contradicted, &serving());
    }
    assert_eq!(health.health(now), Health::Down);
    health
}

#[test]
fn an_endpoint_that_refuses_what_its_peers_serve_is_ejected_and_tried_again() {
    let mut health = ejected_for_refusals(secs(0));
    assert!(!health.try_trial(Duration::from_millis(999)));
    assert!(health.try_trial(secs(1)));
    assert!(health.on_refusal(secs(1), SecondOpinion::Contradicted, &serving()));
    assert!(!health.try_trial(secs(2)), "out for twice as long");
    assert!(health.try_trial(secs(3)));
    health.on_success(secs(3));
    assert_eq!(health.health(secs(13)), Health::Up);
}

#[test]
fn a_trial_that_met_a_clients_mistake_leaves_room_for_the_next() {
    let mut health = ejected_for_refusals(secs(0));
    assert!(health.try_trial(secs(1)));
    assert!(health.needs_second_opinion(&serving()));
    assert!(!health.on_refusal(secs(1), SecondOpinion::Confirmed, &serving()));
    assert!(health.try_trial(secs(1)));
}

#[test]
fn refusals_that_a_peer_confirms_are_held_against_no_endpoint() {
    let mut health = EndpointHealth::new(POLICY);
    for _ in 0..1_000 {
        health.on_refusal(secs(0), SecondOpinion::Confirmed, &serving());
    }
    assert_eq!(health.health(secs(0)), Health::Up);
}

#[test]
fn an_overloaded_endpoint_is_chosen_last_until_its_time_is_over() {
    let mut health = EndpointHealth::new(POLICY);
    health.on_overload(secs(0), Some(secs(2)), &serving());
    assert_eq!(health.health(secs(1)), Health::Warming(0.0));
    assert!(!health.try_trial(secs(1)));
    assert_eq!(health.health(secs(2)), Health::Up);
    assert!(health.try_trial(secs(2)));
    assert_eq!(health.state(), EjectionState::InService { failures: 0 });
}

#[test]
fn one_that_does_not_say_for_how_long_is_set_aside_while_its_peers_serve() {
    let overloaded = |peers| {
        let mut health = EndpointHealth::new(POLICY);
        (0..3).for_each(|_| health.on_overload(secs(0), None, &peers));
        health.health(secs(0))
    };
    assert_eq!(overloaded(serving()), Health::Warming(0.0));
    assert_eq!(
        overloaded(PeerAnswers::default()),
        Health::Up,
        "the only one"
    );
}

#[test]
fn one_that_says_for_how_long_is_set_aside_only_while_half_of_the_pool_is_left() {
    let overloaded = |peers| {
        let mut health = EndpointHealth::new(POLICY);
        health.on_overload(secs(0), Some(secs(2)), &peers);
        health.health(secs(0))
    };
    let mut peers = PeerAnswers::default();
    assert_eq!(overloaded(peers), Health::Up, "the only one");
    peers.add(AnswerCounts::default(), Health::Warming(0.0));
    assert_eq!(overloaded(peers), Health::Up, "the other one cools down");
    peers.add(AnswerCounts::default(), Health::Up);
    peers.add(AnswerCounts::default(), Health::Up);
    assert_eq!(overloaded(peers), Health::Warming(0.0), "two of four");
}

#[test]
fn no_endpoint_is_set_aside_for_longer_than_the_longest_time() {
    let mut health = EndpointHealth::new(POLICY);
    health.on_overload(secs(0), Some(Duration::MAX), &serving());
    assert_eq!(health.health(secs(4)), Health::Up);
}

proptest! {
    #[test]
    fn whatever_happened_a_healthy_endpoint_is_back_in_the_end(
        events in proptest::collection::vec((0..12u8, 0..3_000u64), 0..200),
    ) {
        let mut breaker = EndpointHealth::new(POLICY);
        let mut now = Duration::ZERO;
        for (event, pause) in events {
            now += Duration::from_millis(pause);
            match event {
                0 => breaker.on_success(now),
                1..=3 => _ = breaker.on_failure(now, BROKEN),
                4 => _ = breaker.on_failure(now, EndpointFailure::Status(429)),
                5 => breaker.on_abandoned(now),
                6 => breaker.probe_ok(now),
                7 => breaker.probe_failed(),
                8 => breaker.on_overload(now, Some(secs(1_000)), &serving()),
                9 => _ = breaker.on_refusal(now, SecondOpinion::None, &serving()),
                10 => _ = breaker.on_refusal(now, SecondOpinion::Contradicted, &serving()),
                _ => _ = breaker.try_trial(now),
            }
        }
        // Its probes are answered, its longest time out passes, and the next request that may go
        // there succeeds.
        breaker.probe_ok(now);
        now += POLICY.max_time;
        prop_assert!(breaker.try_trial(now));
        breaker.on_success(now);
        now += POLICY.slow_start;
        prop_assert_eq!(breaker.health(now), Health::Up);
    }
}
