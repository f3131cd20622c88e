//! Endpoints that compute several prompts at once.

use super::*;

fn ask(scheduler: &mut Scheduler, request: u64, tokens: u32, now: Duration) -> ScheduleOutcome {
    schedule(scheduler, request, &prompt(1_000 + request, tokens), now)
}

fn explanation(scheduler: &Scheduler, now: Duration) -> crate::explanation::QueueExplanation {
    let query = prompt(9_999, 8_000);
    let request = ScheduleRequest {
        key: key(9_999),
        query: &query,
        model: None,
        hits: &[],
        waited: Duration::ZERO,
        may_wait: true,
    };
    let explanation = scheduler.explain(request, now).explain();
    explanation.queue.expect("costs were weighed")
}

#[test]
fn an_endpoint_of_eight_lanes_gets_eight_prompts_before_any_is_queued() {
    let mut scheduler = scheduler(1);
    scheduler.set_lanes(0, 8, ms(0));
    for request in 0..8 {
        bound(ask(&mut scheduler, request, 8_000, ms(request)));
    }
    for request in 8..12 {
        waits(&ask(&mut scheduler, request, 8_000, ms(10)));
    }
    assert_eq!(dequeued(&mut scheduler, ms(900)), []);
    for request in 0..4 {
        let now = ms(1_000 + 100 * request);
        answer(&mut scheduler, request, now - ms(request), now);
        // Its lane takes one prompt.
        assert_eq!(dequeued(&mut scheduler, now).len(), 1, "{request}");
    }
    assert_eq!(scheduler.queued_requests(), 0);
}

#[test]
fn prompts_go_to_an_idle_lane_and_not_behind_another_prompt() {
    let mut scheduler = scheduler(2);
    scheduler.set_lanes(1, 2, ms(0));
    let mut places: Vec<u64> = (0..3)
        .map(|request| bound(ask(&mut scheduler, request, 8_000, ms(0))).0)
        .collect();
    places.sort_unstable();
    assert_eq!(places, [0, 1, 1]);
    waits(&ask(&mut scheduler, 4, 8_000, ms(0)));
}

#[test]
fn the_learned_speed_is_that_of_one_lane() {
    let mut scheduler = scheduler(1);
    scheduler.set_lanes(0, 4, ms(0));
    // One lane computes a prompt of 10 s, the others many short ones, at 8 tokens a millisecond.
    bound(ask(&mut scheduler, 0, 80_000, ms(0)));
    for round in 0..9u64 {
        let now = ms(1_000 * round);
        let lanes = 1..4;
        for lane in lanes.clone() {
            let tokens = 800 * (lane + round % 3) as u32;
            bound(ask(&mut scheduler, 10 * round + lane, tokens, now));
        }
        for lane in lanes {
            let ttft = ms(100 * (lane + round % 3));
            answer(&mut scheduler, 10 * round + lane, ttft, now + ttft);
        }
    }
    answer(&mut scheduler, 0, ms(10_000), ms(10_000));
    let rate = explanation(&scheduler, ms(10_000)).candidates[0].rate;
    assert!((rate / 8_000.0 - 1.0).abs() < 0.05, "{rate}");
}

#[test]
fn utilization_and_gamma_are_per_lane() {
    let mut scheduler = scheduler(1);
    scheduler.set_lanes(0, 4, ms(0));
    bound(ask(&mut scheduler, 0, 8_000, ms(0)));
    let explained = explanation(&scheduler, ms(3_600_000));
    assert_eq!(explained.utilization, 0.25);
    assert_eq!(explained.candidates[0].lanes, 4);
    (1..4).for_each(|request| _ = bound(ask(&mut scheduler, request, 8_000, ms(3_600_000))));
    (4..6).for_each(|request| waits(&ask(&mut scheduler, request, 8_000, ms(3_600_000))));
    let explained = explanation(&scheduler, ms(3_600_000));
    let busy = 0.25 / 0.75;
    assert!((explained.gamma - busy - 0.5).abs() < 1e-3, "{explained:?}");
}

#[test]
fn a_pool_keeps_its_lanes_when_it_changes_and_loses_them_when_they_are_fewer() {
    let mut scheduler = scheduler(1);
    scheduler.set_lanes(0, 3, ms(0));
    scheduler.apply(&pool(KvAware::default(), 2), ms(0));
    assert_eq!(scheduler.endpoints.lanes(), 4);
    (0..4).for_each(|request| _ = bound(ask(&mut scheduler, request, 8_000, ms(0))));
    waits(&ask(&mut scheduler, 4, 8_000, ms(0)));
    scheduler.set_lanes(0, 0, ms(10));
    assert_eq!(scheduler.endpoints.lanes(), 2, "each has one at least");
    assert_eq!(dequeued(&mut scheduler, ms(10)), []);
}
