//! Requests that are split: both legs are booked under one key, wait for room where the prompt is
//! computed, and are released once.

use super::*;
use crate::{
    policy::{DisaggregationPolicy, PairDialect},
    query::DecodePartner,
};

mod both;
mod distance;

/// Endpoints with these roles; their ids are their positions.
pub(super) fn pool_of(dialect: PairDialect, roles: &[Role]) -> Arc<Pool> {
    let plain = pool(KvAware::default(), roles.len() as u64);
    let endpoints = plain.endpoints.iter().zip(roles).map(|(endpoint, role)| {
        Arc::new(Endpoint {
            role: *role,
            ..(**endpoint).clone()
        })
    });
    let policy = PoolPolicy {
        disaggregation: Some(DisaggregationPolicy::of(dialect)),
        ..plain.spec.policy.clone()
    };
    Arc::new(Pool {
        spec: Arc::new(PoolSpec {
            policy,
            ..(*plain.spec).clone()
        }),
        endpoints: endpoints.collect(),
        ..(*plain).clone()
    })
}

fn scheduler_of(roles: &[Role]) -> Scheduler {
    Scheduler::new(&pool_of(PairDialect::VllmNixl, roles), SeededRng::new(1))
}

const PAIR: [Role; 2] = [Role::Prefill, Role::Decode];

/// A prompt whose request may be split.
fn long(name: u64, tokens: u32) -> Query {
    Query {
        split: true,
        ..prompt(name, tokens)
    }
}

fn first(outcome: ScheduleOutcome) -> RankedEndpoint {
    match outcome {
        ScheduleOutcome::Bound(assignment) => assignment.choice.ranked[0],
        other => panic!("not bound: {other:?}"),
    }
}

fn in_flight(scheduler: &Scheduler) -> Vec<(u32, u64)> {
    let loads = scheduler.loads().iter();
    loads
        .map(|load| (load.in_flight, load.pending_tokens))
        .collect()
}

#[test]
fn both_legs_are_booked_under_one_key_and_released_with_it() {
    let mut scheduler = scheduler_of(&PAIR);
    let query = long(1, 1_000);
    let ranked = first(schedule(&mut scheduler, 1, &query, ms(0)));
    let decode = DecodePartner {
        position: 1,
        endpoint: EndpointId(1),
    };
    assert_eq!((ranked.position, ranked.decode), (0, Some(decode)));
    assert_eq!(in_flight(&scheduler), [(1, 1_000), (1, 0)]);
    scheduler.started(key(1), EndpointId(1), 0, false, ms(1));
    let prefill = key(1).leg(LegId::PREFILL);
    scheduler.started(prefill, EndpointId(0), 1_000, false, ms(1));
    scheduler.first_byte(prefill, Some(ms(100)), ms(101));
    scheduler.leg_finished(prefill, ms(101));
    assert_eq!(in_flight(&scheduler), [(0, 0), (1, 0)]);
    scheduler.finished(key(1), EngineUsage::default(), ms(200));
    assert_eq!(in_flight(&scheduler), [(0, 0), (0, 0)]);
}

#[test]
fn a_cancelled_pair_leaves_nothing_booked() {
    let mut scheduler = scheduler_of(&PAIR);
    first(schedule(&mut scheduler, 1, &long(1, 1_000), ms(0)));
    scheduler.cancel(key(1), ms(1));
    assert_eq!(in_flight(&scheduler), [(0, 0), (0, 0)]);
}

#[test]
fn a_split_request_waits_until_a_prefill_endpoint_has_room() {
    let mut scheduler = scheduler_of(&PAIR);
    first(schedule(&mut scheduler, 1, &long(1, 8_000), ms(0)));
    waits(&schedule(&mut scheduler, 2, &long(2, 8_000), ms(1)));
    scheduler.started(
        key(1).leg(LegId::PREFILL),
        EndpointId(0),
        8_000,
        false,
        ms(1),
    );
    scheduler.first_byte(key(1).leg(LegId::PREFILL), Some(ms(900)), ms(901));
    let mut dequeued = Vec::new();
    scheduler.dequeue(ms(902), &mut dequeued);
    let [
        Dequeued {
            exit: QueueExit::Bound(assignment),
            ..
        },
    ] = &dequeued[..]
    else {
        panic!("bound: {dequeued:?}");
    };
    assert!(assignment.choice.ranked[0].decode.is_some());
}

#[test]
fn the_next_turn_goes_to_the_endpoint_that_decoded_the_first() {
    let mut scheduler = scheduler_of(&PAIR);
    first(schedule(&mut scheduler, 1, &long(1, 2_048), ms(0)));
    scheduler.finished(key(1), EngineUsage::default(), ms(200));
    let next = first(schedule(&mut scheduler, 2, &long(1, 2_112), ms(300)));
    assert_eq!((next.position, next.decode), (1, None));
}

#[test]
fn a_request_that_its_decode_endpoint_computes_after_all_counts_its_tokens_there() {
    let mut scheduler = scheduler_of(&PAIR);
    first(schedule(&mut scheduler, 1, &long(1, 1_000), ms(0)));
    scheduler.started(key(1), EndpointId(1), 1_000, false, ms(5));
    assert_eq!(in_flight(&scheduler)[1], (1, 1_000));
}

/// One request from its booking to the first token of its answer.
struct Served {
    number: u64,
    prompt: Query,
    sent: u64,
    /// Milliseconds that its prompt and its transfer take.
    took: [u64; 2],
}

impl Served {
    /// Its answer goes on.
    fn begins(&self, scheduler: &mut Scheduler) -> RankedEndpoint {
        let Self {
            number,
            prompt,
            sent,
            took: [prefill, transfer],
        } = self;
        let ranked = first(schedule(scheduler, *number, prompt, ms(*sent)));
        let answers = ms(sent + prefill + transfer);
        if ranked.decode.is_some() {
            let leg = key(*number).leg(LegId::PREFILL);
            scheduler.first_byte(leg, Some(ms(*prefill)), ms(sent + prefill));
            scheduler.leg_finished(leg, ms(sent + prefill));
        }
        scheduler.first_byte(key(*number), None, answers);
        ranked
    }

    /// Its answer of 101 tokens takes this long.
    fn ends(&self, scheduler: &mut Scheduler, decoding: u64) -> RankedEndpoint {
        let ranked = self.begins(scheduler);
        let usage = EngineUsage {
            completion_tokens: Some(101),
            decoding: Some(ms(decoding)),
            ..EngineUsage::default()
        };
        let ended = self.sent + self.took.iter().sum::<u64>() + decoding;
        scheduler.finished(key(self.number), usage, ms(ended));
        ranked
    }
}

/// Serves pairs one after the other, of prompts between 1,000 and 4,000 tokens, whose transfer takes
/// `transfer` milliseconds for each 1,000. Returns when the last one is done.
fn learn_transfers(scheduler: &mut Scheduler, transfer: u64) -> u64 {
    for number in 0..4 {
        let tokens = 1_000 * (1 + number);
        let served = Served {
            number: 1_000 + number,
            prompt: long(1_000 + number, tokens as u32),
            sent: 20_000 * (1 + number),
            took: [tokens / 8, transfer * tokens / 1_000],
        };
        assert!(served.ends(scheduler, 1_000).decode.is_some(), "{number}");
    }
    100_000
}

/// Lets this many answers be generated at the only decode endpoint from now on.
fn keep_busy(scheduler: &mut Scheduler, answers: u64, now: u64) -> u64 {
    for number in 0..answers {
        let query = Query {
            split: false,
            ..long(5_000 + number, 10)
        };
        let answer = Served {
            number: 5_000 + number,
            prompt: query,
            sent: now + 10 * number,
            took: [5, 0],
        };
        assert_eq!(answer.begins(scheduler).position, 1);
    }
    now + 10 * answers
}

#[test]
fn a_prompt_is_split_where_its_prefill_would_delay_more_than_a_transfer_costs() {
    let mut scheduler = scheduler_of(&PAIR);
    let now = learn_transfers(&mut scheduler, 100);
    let query = long(1, 2_000);
    let alone = first(schedule(&mut scheduler, 1, &query, ms(now)));
    assert_eq!(
        (alone.position, alone.decode),
        (1, None),
        "no answer is delayed there"
    );
    scheduler.cancel(key(1), ms(now));
    let now = keep_busy(&mut scheduler, 12, now);
    let pair = first(schedule(&mut scheduler, 2, &long(2, 2_000), ms(now)));
    assert!(
        pair.decode.is_some(),
        "a quarter of a second for twelve answers"
    );
    scheduler.cancel(key(2), ms(now));
    let short = first(schedule(&mut scheduler, 3, &long(3, 255), ms(now)));
    assert_eq!(short.position, 1, "and a short one is not worth a transfer");
}

#[test]
fn an_idle_decode_endpoint_computes_no_prompt_whose_cache_is_kept_longer_elsewhere() {
    let mut scheduler = scheduler_of(&PAIR);
    // A transfer takes less than a tenth of the prefill.
    let now = learn_transfers(&mut scheduler, 10);
    let idle = first(schedule(&mut scheduler, 1, &long(1, 2_000), ms(now)));
    assert!(idle.decode.is_some());
}

#[test]
fn a_slow_transfer_leaves_prompts_where_they_are_answered() {
    let mut scheduler = scheduler_of(&PAIR);
    let now = learn_transfers(&mut scheduler, 2_500);
    let now = keep_busy(&mut scheduler, 12, now);
    let alone = first(schedule(&mut scheduler, 1, &long(1, 2_000), ms(now)));
    assert_eq!(alone.position, 1);
}

#[test]
fn a_decode_endpoint_computes_prompts_while_the_queue_for_prefill_is_long() {
    let mut scheduler = scheduler_of(&PAIR);
    let now = learn_transfers(&mut scheduler, 10);
    let now = keep_busy(&mut scheduler, 4, now);
    let pair = first(schedule(&mut scheduler, 1, &long(1, 24_000), ms(now)));
    assert!(pair.decode.is_some());
    // Three seconds of prefill are ahead now, and this one delays four answers by a quarter.
    let alone = first(schedule(&mut scheduler, 2, &long(2, 2_000), ms(now + 1)));
    assert_eq!((alone.position, alone.decode), (1, None));
}

#[test]
fn a_request_waits_while_no_decode_endpoint_has_memory_for_it() {
    let mut scheduler = scheduler_of(&PAIR);
    scheduler.set_capacity(1, Some(10_000));
    let sample = |kv_usage| EngineSample {
        kv_usage: Some(kv_usage),
        ..EngineSample::default()
    };
    scheduler.set_sample(1, Some(sample(0.0)));
    first(schedule(&mut scheduler, 1, &long(1, 6_000), ms(0)));
    let leg = key(1).leg(LegId::PREFILL);
    scheduler.first_byte(leg, Some(ms(700)), ms(700));
    scheduler.leg_finished(leg, ms(700));
    // What is on its way to it counts, although no sample shows it yet.
    scheduler.set_sample(1, Some(sample(0.0)));
    waits(&schedule(&mut scheduler, 2, &long(2, 5_000), ms(701)));
    let mut dequeued = Vec::new();
    scheduler.dequeue(ms(10_000), &mut dequeued);
    assert_eq!(dequeued, [], "a wait is better than a preemption");
    scheduler.finished(key(1), EngineUsage::default(), ms(10_001));
    scheduler.dequeue(ms(10_002), &mut dequeued);
    let [
        Dequeued {
            exit: QueueExit::Bound(assignment),
            ..
        },
    ] = &dequeued[..]
    else {
        panic!("bound: {dequeued:?}");
    };
    assert!(assignment.choice.ranked[0].decode.is_some());
}

/// Four answers of a second hold 8,000 of the 40,000 tokens at position 1 each, and end soon. Returns
/// when the last one has begun.
fn four_answers_fill_the_decode_endpoint(scheduler: &mut Scheduler, mut now: u64) -> u64 {
    scheduler.set_capacity(1, Some(40_000));
    for number in 10..14 {
        let answering = Served {
            number,
            prompt: long(number, 8_000),
            sent: now,
            took: [1_000, 0],
        };
        answering.begins(scheduler);
        now += 1_000;
    }
    let sample = EngineSample {
        kv_usage: Some(0.8),
        ..EngineSample::default()
    };
    scheduler.set_sample(1, Some(sample));
    now
}

#[test]
fn a_prompt_is_computed_for_memory_that_is_free_when_it_is_done() {
    let roles = [Role::Prefill, Role::Decode];
    let pool = pool_of(PairDialect::Sglang, &roles);
    let mut scheduler = Scheduler::new(&pool, SeededRng::new(1));
    let now = learn_transfers(&mut scheduler, 100);
    let now = four_answers_fill_the_decode_endpoint(&mut scheduler, now);
    let in_a_second = schedule(&mut scheduler, 1, &long(1, 8_000), ms(now));
    assert!(
        matches!(in_a_second, ScheduleOutcome::Bound(_)),
        "one of them has ended by then"
    );
    waits(&schedule(&mut scheduler, 2, &long(2, 8_000), ms(now)));
}

#[test]
fn prompts_are_computed_while_answers_hold_their_memory_and_no_more_than_it_takes() {
    use Role::{Decode, Prefill};
    let roles = [Prefill, Decode, Prefill, Prefill, Prefill, Prefill];
    let pool = pool_of(PairDialect::Sglang, &roles);
    let mut scheduler = Scheduler::new(&pool, SeededRng::new(1));
    let now = learn_transfers(&mut scheduler, 100);
    let now = four_answers_fill_the_decode_endpoint(&mut scheduler, now);
    for number in 1..=4 {
        let ranked = first(schedule(
            &mut scheduler,
            number,
            &long(number, 8_000),
            ms(now),
        ));
        assert!(ranked.decode.is_some(), "{number}");
    }
    // A fifth prefill endpoint is idle, and what the four get is all there is.
    waits(&schedule(&mut scheduler, 5, &long(5, 8_000), ms(now)));
}

#[test]
fn a_wrong_figure_of_memory_delays_a_request_by_half_of_the_limit_at_most() {
    let mut scheduler = scheduler_of(&PAIR);
    scheduler.set_capacity(1, Some(10_000));
    let full = EngineSample {
        kv_usage: Some(1.0),
        ..EngineSample::default()
    };
    scheduler.set_sample(1, Some(full));
    waits(&schedule(&mut scheduler, 1, &long(1, 5_000), ms(0)));
    let mut dequeued = Vec::new();
    scheduler.dequeue(ms(15_000), &mut dequeued);
    assert!(matches!(
        dequeued[..],
        [Dequeued {
            exit: QueueExit::Bound(_),
            ..
        }]
    ));
}

#[test]
fn a_full_decode_endpoint_is_not_filled_with_whole_requests_either() {
    let mut scheduler = scheduler_of(&PAIR);
    scheduler.set_capacity(1, Some(10_000));
    let full = EngineSample {
        kv_usage: Some(0.9),
        ..EngineSample::default()
    };
    scheduler.set_sample(1, Some(full));
    let whole = prompt(1, 5_000);
    waits(&schedule(&mut scheduler, 1, &whole, ms(0)));
    let mut dequeued = Vec::new();
    scheduler.dequeue(ms(5_000), &mut dequeued);
    assert_eq!(dequeued, []);
}

#[test]
fn the_decode_endpoint_that_has_a_prefix_takes_over_what_follows_it() {
    let roles = [Role::Prefill, Role::Decode, Role::Decode, Role::Decode];
    let pool = pool_of(PairDialect::Sglang, &roles);
    let mut scheduler = Scheduler::new(&pool, SeededRng::new(1));
    let conversation = Served {
        number: 1,
        prompt: long(1, 8_192),
        sent: 0,
        took: [1_000, 400],
    };
    let decode = conversation.ends(&mut scheduler, 1_000).decode;
    let mut now = learn_transfers(&mut scheduler, 100);
    for number in 2..8 {
        let next = long(1, 8_192 + 4_096);
        let ranked = first(schedule(&mut scheduler, number, &next, ms(now)));
        assert_eq!(ranked.decode, decode);
        now += 10_000;
        scheduler.cancel(key(number), ms(now));
    }
}

#[test]
fn an_explanation_has_the_costs_of_both_ways_and_the_endpoint_that_would_decode() {
    let mut scheduler = scheduler_of(&PAIR);
    let explained = |scheduler: &Scheduler, query: &Query, now| {
        let request = ScheduleRequest {
            key: key(900),
            query,
            model: None,
            hits: &[],
            waited: Duration::ZERO,
            may_wait: true,
        };
        let figures = scheduler.explain(request, ms(now));
        figures.explain().split.expect("the pool has pairs")
    };
    let unlearned = explained(&scheduler, &long(1, 2_000), 0);
    assert!(unlearned.is_split && !unlearned.are_transfers_known);
    let now = learn_transfers(&mut scheduler, 100);
    let now = keep_busy(&mut scheduler, 16, now);
    let split = explained(&scheduler, &long(1, 2_000), now);
    assert_eq!(
        (split.is_split, split.decode.as_deref()),
        (true, Some("server-1"))
    );
    assert!(
        split.pair_s < split.alone_s && split.pair_s.is_some(),
        "{split:?}"
    );
    let whole = explained(&scheduler, &long(1, 255), now);
    assert_eq!(
        (whole.is_split, whole.pair_s),
        (false, None),
        "{}",
        whole.reason
    );
    let never = explained(&scheduler, &prompt(1, 2_000), now);
    assert!(!never.is_split && never.reason.contains("never"));
}

#[test]
fn a_pool_leans_to_where_its_pairs_are_short() {
    assert_eq!(super::scheduler(2).pressure(), None, "it has no pairs");
    let mut scheduler = scheduler_of(&[Role::Prefill, Role::Prefill, Role::Decode]);
    scheduler.set_capacity(2, Some(100_000));
    let sample = EngineSample {
        kv_usage: Some(0.38),
        ..EngineSample::default()
    };
    scheduler.set_sample(2, Some(sample));
    let idle = scheduler.pressure().expect("pairs");
    assert_eq!(idle.prefill_seconds, 0.0);
    assert!((idle.decode_share - 0.4).abs() < 0.01, "{idle:?}");
    for number in 0..3 {
        schedule(&mut scheduler, number, &long(number, 8_000), ms(0));
    }
    let busy = scheduler.pressure().expect("pairs");
    // Two are sent, and one is queued, of a second each.
    assert!((busy.prefill_seconds - 1.5).abs() < 0.1, "{busy:?}");
    assert!(
        (busy.decode_share - 0.57).abs() < 0.02,
        "two prompts have their memory there: {busy:?}"
    );
}
