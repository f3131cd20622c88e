//! Requests that are split: both legs are booked under one key, wait for room where the prompt is
//! computed, and are released once.

use super::*;
use crate::{
    policy::{DisaggregationPolicy, PairDialect},
    query::DecodePartner,
};

/// Endpoints with these roles; their ids are their positions.
fn pool_of(roles: &[Role]) -> Arc<Pool> {
    let plain = pool(KvAware::default(), roles.len() as u64);
    let endpoints = plain.endpoints.iter().zip(roles).map(|(endpoint, role)| {
        Arc::new(Endpoint {
            role: *role,
            ..(**endpoint).clone()
        })
    });
    let policy = PoolPolicy {
        disaggregation: Some(DisaggregationPolicy::of(PairDialect::VllmNixl)),
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
    Scheduler::new(&pool_of(roles), SeededRng::new(1))
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
