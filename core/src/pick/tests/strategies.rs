//! What each strategy does.

use super::*;

fn counts(picker: &Picker, rounds: u64, load: impl Fn(usize) -> Load) -> HashMap<usize, u64> {
    let (query, mut rng) = (Query::default(), SeededRng::new(9));
    let mut counts = HashMap::new();
    for turn in 0..rounds {
        *counts
            .entry(
                picked(
                    picker,
                    &PickRequest {
                        round_robin_counter: turn,
                        ..PickRequest::new(&query)
                    },
                    &load,
                    &mut rng,
                )[0],
            )
            .or_default() += 1;
    }
    counts
}

#[test]
fn round_robin_goes_round_and_names_the_next_ones_to_try() {
    let picker = picker(Strategy::RoundRobin, 5);
    let query = Query::default();
    let mut rng = SeededRng::new(1);
    let mut at = |turn| {
        picked(
            &picker,
            &PickRequest {
                round_robin_counter: turn,
                ..PickRequest::new(&query)
            },
            |_| Load::default(),
            &mut rng,
        )
    };
    assert_eq!(at(0), [0, 1, 2, 3]);
    assert_eq!(at(4), [4, 0, 1, 2]);
    assert_eq!(at(u64::MAX), [0, 1, 2, 3]);
}

#[test]
fn random_spreads_evenly() {
    let counts = counts(&picker(Strategy::Random, 8), 8_000, |_| Load::default());
    assert!(
        counts.len() == 8 && counts.values().all(|count| (850..1_150).contains(count)),
        "{counts:?}"
    );
}

#[test]
fn least_request_finds_the_idlest_and_ranks_the_next() {
    let picker = picker(Strategy::LeastRequest, 6);
    let load = |position| busy([5, 3, 9, 1, 7, 2][position]);
    let query = Query::default();
    assert_eq!(
        picked(
            &picker,
            &PickRequest::new(&query),
            load,
            &mut SeededRng::new(1)
        ),
        [3, 5, 1, 0]
    );
}

#[test]
fn equals_are_chosen_at_random() {
    for strategy in [
        Strategy::LeastRequest,
        Strategy::PowerOfTwo,
        Strategy::HermesClassic(ClassicWeights::default()),
    ] {
        let counts = counts(&picker(strategy, 8), 8_000, |_| busy(3));
        assert!(
            counts.len() == 8 && counts.values().all(|count| (850..1_150).contains(count)),
            "{counts:?}"
        );
    }
}

#[test]
fn power_of_two_never_takes_the_busiest_and_prefers_the_idle() {
    let counts = counts(&picker(Strategy::PowerOfTwo, 10), 10_000, |position| {
        busy(position as u32)
    });
    assert_eq!(counts.get(&9), None);
    // The idlest wins whenever it is drawn: in one of five pairs.
    assert!((1_800..2_200).contains(&counts[&0]), "{counts:?}");
}

#[test]
fn in_a_large_pool_least_request_is_among_the_best_few() {
    let counts = counts(&picker(Strategy::LeastRequest, 1_000), 2_000, |position| {
        busy((position * 7919 % 1_000) as u32)
    });
    let worst = counts.keys().map(|position| position * 7919 % 1_000).max();
    assert!(worst < Some(250), "{worst:?}");
}

#[test]
fn in_a_large_pool_hermes_classic_still_finds_the_only_hit() {
    let picker = picker(Strategy::HermesClassic(ClassicWeights::default()), 1_000);
    let hits = [hit(613, 900)];
    let query = Query {
        prompt_tokens: 1_000,
        ..Query::default()
    };
    let mut rng = SeededRng::new(2);
    for _ in 0..100 {
        let ask = PickRequest {
            hits: &hits,
            ..PickRequest::new(&query)
        };
        assert_eq!(picked(&picker, &ask, |_| Load::default(), &mut rng)[0], 613);
    }
}

#[test]
fn of_very_many_hits_hermes_classic_weighs_the_longest() {
    let picker = picker(Strategy::HermesClassic(ClassicWeights::default()), 1_000);
    let hits: Vec<CacheHit> = (0..1_000)
        .map(|id| hit(id, if id == 613 { 900 } else { 100 }))
        .collect();
    let query = Query {
        prompt_tokens: 1_000,
        ..Query::default()
    };
    let ask = PickRequest {
        hits: &hits,
        ..PickRequest::new(&query)
    };
    assert_eq!(
        picked(&picker, &ask, |_| Load::default(), &mut SeededRng::new(2))[0],
        613
    );
}

#[test]
fn hermes_classic_leaves_a_hit_that_is_too_busy() {
    let picker = picker(Strategy::HermesClassic(ClassicWeights::default()), 2);
    let hits = [hit(0, 300)];
    let query = Query {
        prompt_tokens: 1_000,
        ..Query::default()
    };
    let ask = PickRequest {
        hits: &hits,
        ..PickRequest::new(&query)
    };
    let load = |position| Load {
        pending_tokens: [30_000, 1_000][position],
        ..Load::default()
    };
    assert_eq!(picked(&picker, &ask, load, &mut SeededRng::new(2)), [1, 0]);
}

#[test]
fn another_strategy_can_stand_in_for_the_pools_own() {
    let picker = picker(Strategy::Random, 6);
    let query = Query::default();
    let load = |position| busy([5, 3, 9, 1, 7, 2][position]);
    let choice = picker.pick_by(
        &Strategy::LeastRequest,
        &PickRequest::new(&query),
        load,
        &mut SeededRng::new(1),
    );
    assert_eq!(choice.expect("all are up").ranked[0].position, 3);
}

fn affinity(n: usize) -> Picker {
    picker(Strategy::SessionAffinity(SessionAffinity::default()), n)
}

fn home(picker: &Picker, session: u64, load: impl Fn(usize) -> Load) -> usize {
    let query = Query {
        session: Some(session),
        ..Query::default()
    };
    picked(
        picker,
        &PickRequest::new(&query),
        load,
        &mut SeededRng::new(session),
    )[0]
}

#[test]
fn a_session_stays_where_it_is() {
    let picker = affinity(20);
    for session in 0..100 {
        let homes = [1, 2, 3].map(|load| home(&picker, session, |_| busy(load)));
        assert!(homes.iter().all(|&other| other == homes[0]), "{homes:?}");
    }
}

#[test]
fn a_session_leaves_an_overloaded_endpoint_and_only_that() {
    let picker = affinity(10);
    let overloaded = home(&picker, 0, |_| busy(4));
    let load = |position| busy(if position == overloaded { 9 } else { 4 });
    for session in 0..200 {
        let (before, after) = (
            home(&picker, session, |_| busy(4)),
            home(&picker, session, load),
        );
        assert_eq!(before != after, before == overloaded, "{session}");
    }
}

#[test]
fn no_endpoint_exceeds_its_bound_while_sessions_pile_up() {
    let picker = affinity(10);
    let mut in_flight = [0u32; 10];
    let mut rng = SeededRng::new(4);
    for total in 0..2_000u32 {
        // A few sessions make nearly all requests.
        let session = rng.below(rng.clone().below(30) + 1) as u64;
        let query = Query {
            session: Some(session),
            ..Query::default()
        };
        let ask = PickRequest {
            total_in_flight: Some(total.into()),
            ..PickRequest::new(&query)
        };
        in_flight[picked(
            &picker,
            &ask,
            |position| busy(in_flight[position]),
            &mut rng,
        )[0]] += 1;
        let bound = (1.25 * f64::from(total + 1) / 10.0).ceil();
        assert!(
            in_flight.iter().all(|&load| f64::from(load) <= bound),
            "{in_flight:?} {bound}"
        );
    }
}

#[test]
fn a_request_without_a_session_goes_by_power_of_two() {
    let counts = counts(&affinity(10), 10_000, |position| busy(position as u32));
    assert_eq!(counts.get(&9), None);
}

#[test]
fn sessions_come_back_to_an_endpoint_that_warms_up_and_stay() {
    let picker = affinity(8);
    let ours: Vec<u64> = (0..400)
        .filter(|&session| home(&picker, session, |_| Load::default()) == 3)
        .collect();
    let mut back = 0;
    for share in [0.0, 0.3, 0.6, 1.0] {
        let load = |position| {
            sick(if position == 3 {
                Health::Warming(share)
            } else {
                Health::Up
            })
        };
        let now: Vec<u64> = ours
            .iter()
            .copied()
            .filter(|&session| home(&picker, session, load) == 3)
            .collect();
        assert!(now.len() >= back, "{share}");
        back = now.len();
    }
    assert_eq!(back, ours.len());
}

fn prefix_cache(hits: &[CacheHit], load: impl Fn(usize) -> Load) -> usize {
    let picker = picker(Strategy::PrefixCache(PrefixCacheRules::default()), 4);
    let query = Query {
        prompt_tokens: 1_000,
        ..Query::default()
    };
    picked(
        &picker,
        &PickRequest {
            hits,
            ..PickRequest::new(&query)
        },
        load,
        &mut SeededRng::new(3),
    )[0]
}

#[test]
fn prefix_cache_follows_a_cache_that_holds_most_of_the_prompt() {
    let busy = |position| Load {
        in_flight: if position == 2 { 5 } else { 1 },
        ..Load::default()
    };
    assert_eq!(
        prefix_cache(&[hit(2, 540)], busy),
        2,
        "0.54 of it is above the threshold of 0.5"
    );
    assert_ne!(prefix_cache(&[hit(2, 460)], busy), 2, "0.46 is not");
}

#[test]
fn prefix_cache_leaves_an_endpoint_that_is_overloaded() {
    let flooded = |position| Load {
        in_flight: if position == 2 { 40 } else { 1 },
        ..Load::default()
    };
    assert_ne!(prefix_cache(&[hit(2, 1_000)], flooded), 2);
}

#[test]
fn kv_aware_without_a_queue_weighs_what_is_pending_against_what_is_cached() {
    let picker = picker(Strategy::KvAware(KvAware::default()), 2);
    let query = Query {
        prompt_tokens: 8_000,
        ..Query::default()
    };
    let (hits, mut rng) = ([hit(0, 7_000)], SeededRng::new(1));
    let mut first = |pending: u64| {
        let load = |position| Load {
            pending_tokens: if position == 0 { pending } else { 0 },
            ..Load::default()
        };
        picked(
            &picker,
            &PickRequest {
                hits: &hits,
                ..PickRequest::new(&query)
            },
            load,
            &mut rng,
        )[0]
    };
    assert_eq!((first(10_000), first(16_000)), (0, 1));
}
