//! Scenarios of [`Picker`]: which endpoints are candidates, in what order, and what each strategy
//! does with them.

use std::collections::HashMap;

use proptest::{prelude::*, strategy::Strategy as _};

use super::*;
use crate::{
    collection::Collection,
    load::{EngineSample, Health},
    policy::{ClassicWeights, KvAware, PoolPolicy, PrefixCacheRules, SessionAffinity, Strategy},
    query::{CacheSource, CachedTokens},
    snapshot::{Endpoint, EndpointId, Model, PoolSpec, Role},
};

mod explanations;
mod strategies;

/// A pool of `n` endpoints whose ids are their positions.
fn pool(strategy: Strategy, n: usize) -> Pool {
    let endpoint = |position: usize| {
        let name: Arc<str> = format!("server-{position}").into();
        let id = EndpointId(position as u64);
        Arc::new(Endpoint {
            id,
            address: format!("http://{name}").parse().expect("an address"),
            name,
            role: Role::Aggregate,
            group: None,
            pairing: crate::snapshot::PairingFacts::default(),
        })
    };
    let policy = PoolPolicy {
        strategy,
        ..PoolPolicy::default()
    };
    let spec = PoolSpec::new("chat", policy);
    Pool {
        spec: Arc::new(spec),
        models: Collection::default(),
        endpoints: (0..n).map(endpoint).collect(),
    }
}

fn hit(endpoint: u64, tokens: u32) -> CacheHit {
    CacheHit {
        endpoint: EndpointId(endpoint),
        cached: CachedTokens::on_gpu(tokens),
        source: CacheSource::Learned,
        at_least: false,
    }
}

fn picker(strategy: Strategy, n: usize) -> Picker {
    Picker::build(Arc::new(pool(strategy, n)))
}

fn every_strategy() -> [Strategy; 8] {
    [
        Strategy::RoundRobin,
        Strategy::Random,
        Strategy::LeastRequest,
        Strategy::PowerOfTwo,
        Strategy::SessionAffinity(SessionAffinity::default()),
        Strategy::HermesClassic(ClassicWeights::default()),
        Strategy::KvAware(KvAware::default()),
        Strategy::PrefixCache(PrefixCacheRules::default()),
    ]
}

fn busy(in_flight: u32) -> Load {
    Load {
        in_flight,
        ..Load::default()
    }
}

fn sick(health: Health) -> Load {
    Load {
        health,
        ..Load::default()
    }
}

fn with_role(mut pool: Pool, position: usize, role: Role) -> Pool {
    let mut endpoints = pool.endpoints.to_vec();
    let endpoint = Endpoint {
        role,
        ..(*endpoints[position]).clone()
    };
    endpoints[position] = Arc::new(endpoint);
    pool.endpoints = endpoints.into();
    pool
}

fn with_models(mut pool: Pool, models: &[(&str, ModelHolders)]) -> Pool {
    let model = |(name, holders): &(&str, ModelHolders)| {
        Arc::new(Model {
            name: (*name).into(),
            parent: None,
            max_model_len: None,
            holders: holders.clone(),
        })
    };
    pool.models = models.iter().map(model).collect();
    pool
}

/// Positions of the choice.
fn picked(
    picker: &Picker,
    ask: &PickRequest<'_>,
    load: impl Fn(usize) -> Load,
    rng: &mut SeededRng,
) -> Vec<usize> {
    let choice = picker.pick(ask, load, rng).expect("an endpoint is left");
    choice.ranked.iter().map(|ranked| ranked.position).collect()
}

#[test]
fn an_empty_pool_has_no_endpoint() {
    let query = Query::default();
    let result = picker(Strategy::Random, 0).pick(
        &PickRequest::new(&query),
        |_| Load::default(),
        &mut SeededRng::new(1),
    );
    assert_eq!(result, Err(NoEndpoint::Empty));
}

#[test]
fn prefill_and_decode_endpoints_are_never_chosen_alone() {
    let query = Query {
        session: Some(3),
        ..Query::default()
    };
    for strategy in every_strategy() {
        let pool = with_role(
            with_role(pool(strategy, 3), 0, Role::Prefill),
            1,
            Role::Decode,
        );
        let picker = Picker::build(Arc::new(pool.clone()));
        assert_eq!(
            picked(
                &picker,
                &PickRequest::new(&query),
                |_| Load::default(),
                &mut SeededRng::new(1)
            ),
            [2]
        );
        let picker = Picker::build(Arc::new(with_role(pool, 2, Role::Decode)));
        let result = picker.pick(
            &PickRequest::new(&query),
            |_| Load::default(),
            &mut SeededRng::new(1),
        );
        assert_eq!(result, Err(NoEndpoint::OnlyDisaggregated));
    }
}

#[test]
fn a_model_goes_everywhere_except_where_it_is_missing() {
    let missing = ModelHolders::Except([0, 2].map(EndpointId).into());
    let pool = with_role(pool(Strategy::Random, 5), 3, Role::Decode);
    let picker = Picker::build(Arc::new(with_models(pool, &[("sql", missing)])));
    let members = picker.members(Some("sql"), false).expect("two hold it");
    let positions: Vec<usize> = (0..members.len()).map(|index| members.at(index)).collect();
    assert_eq!(positions, [1, 4]);
}

#[test]
fn an_adapter_goes_only_where_it_is_loaded() {
    let loaded = ModelHolders::Some([1, 4].map(EndpointId).into());
    let models = [
        ("base", ModelHolders::All),
        ("sql", loaded),
        ("unloaded", ModelHolders::Some(Arc::default())),
    ];
    let query = Query {
        session: Some(3),
        ..Query::default()
    };
    for strategy in every_strategy() {
        let picker = Picker::build(Arc::new(with_models(pool(strategy, 6), &models)));
        let mut rng = SeededRng::new(1);
        let mut ask = PickRequest {
            model: Some("sql"),
            ..PickRequest::new(&query)
        };
        let mut ranked = picked(&picker, &ask, |_| Load::default(), &mut rng);
        ranked.sort_unstable();
        assert_eq!(ranked, [1, 4]);
        for model in ["unloaded", "unknown"] {
            ask.model = Some(model);
            let result = picker.pick(&ask, |_| Load::default(), &mut rng);
            assert_eq!(result, Err(NoEndpoint::ModelNotLoaded), "{model}");
        }
    }
}

#[test]
fn a_pool_that_does_not_know_its_models_takes_any() {
    let query = Query::default();
    let ask = PickRequest {
        model: Some("whatever"),
        ..PickRequest::new(&query)
    };
    assert_eq!(
        picked(
            &picker(Strategy::Random, 1),
            &ask,
            |_| Load::default(),
            &mut SeededRng::new(1)
        ),
        [0]
    );
}

#[test]
fn what_was_tried_is_not_tried_again() {
    for strategy in every_strategy() {
        let picker = picker(strategy, 4);
        let mut rng = SeededRng::new(5);
        let mut query = Query {
            session: Some(1),
            ..Query::default()
        };
        for tried in 0..4 {
            let first = picked(
                &picker,
                &PickRequest::new(&query),
                |_| Load::default(),
                &mut rng,
            );
            assert_eq!(first.len(), 4 - tried);
            query.exclude.push(EndpointId(first[0] as u64));
        }
        let result = picker.pick(&PickRequest::new(&query), |_| Load::default(), &mut rng);
        assert_eq!(result, Err(NoEndpoint::AllTried));
    }
}

#[test]
fn a_sick_endpoint_is_chosen_only_when_nothing_better_is_left() {
    let query = Query {
        session: Some(1),
        ..Query::default()
    };
    for strategy in every_strategy() {
        let picker = picker(strategy, 100);
        let mut rng = SeededRng::new(5);
        for turn in 0..50 {
            let ask = PickRequest {
                round_robin_counter: turn,
                ..PickRequest::new(&query)
            };
            let one_up = |position| {
                if position == 71 {
                    Load::default()
                } else {
                    sick(Health::Down)
                }
            };
            assert_eq!(picked(&picker, &ask, one_up, &mut rng), [71]);

            let one_warm = |position| {
                sick(if position == 71 {
                    Health::Warming(0.0)
                } else {
                    Health::Down
                })
            };
            let choice = picker.pick(&ask, one_warm, &mut rng).expect("one is warm");
            assert_eq!((choice.ranked[0].position, choice.panic_mode), (71, false));

            let choice = picker
                .pick(&ask, |_| sick(Health::Down), &mut rng)
                .expect("any will do");
            assert!(choice.panic_mode);
        }
    }
}

#[test]
fn an_endpoint_that_warms_up_takes_its_share_of_turns() {
    for strategy in every_strategy() {
        let picker = picker(strategy, 4);
        let mut rng = SeededRng::new(11);
        let load = |position| {
            sick(if position == 2 {
                Health::Warming(0.2)
            } else {
                Health::Up
            })
        };
        let mut turns = 0;
        for turn in 0..8_000 {
            let query = Query {
                session: Some(rng.next_u64()),
                ..Query::default()
            };
            turns += usize::from(
                picked(
                    &picker,
                    &PickRequest {
                        round_robin_counter: turn,
                        ..PickRequest::new(&query)
                    },
                    load,
                    &mut rng,
                )[0] == 2,
            );
        }
        // A fifth of a quarter, give or take what the others' strategies make of it.
        assert!(
            (200..700).contains(&turns),
            "{turns} of 8000 with {}",
            picker.pool().spec.policy.strategy.name()
        );
    }
}

#[test]
fn a_choice_names_what_is_cached_where() {
    let hits = [hit(1, 700)];
    let query = Query {
        prompt_tokens: 1_000,
        ..Query::default()
    };
    let ask = PickRequest {
        hits: &hits,
        ..PickRequest::new(&query)
    };
    let picker = picker(Strategy::HermesClassic(ClassicWeights::default()), 3);
    let choice = picker
        .pick(&ask, |_| Load::default(), &mut SeededRng::new(1))
        .expect("all are up");
    let cached: Vec<_> = choice
        .ranked
        .iter()
        .map(|ranked| (ranked.endpoint.0, ranked.cached_tokens))
        .collect();
    assert_eq!(cached[0], (1, 700));
    assert!(cached[1..].iter().all(|&(_, tokens)| tokens == 0));
}

fn any_load() -> impl proptest::strategy::Strategy<Value = Load> {
    let health = prop_oneof![
        3 => Just(Health::Up),
        1 => (0.0..1.0f32).prop_map(Health::Warming),
        1 => Just(Health::Down),
    ];
    let usage = proptest::option::of(
        prop_oneof![5 => 0.0..1.0f32, 1 => Just(f32::NAN), 1 => Just(f32::INFINITY)],
    );
    let sample =
        (proptest::option::of(0..50u32), usage).prop_map(|(waiting, kv_usage)| EngineSample {
            waiting,
            running: waiting,
            kv_usage,
        });
    (
        any::<u32>(),
        any::<u64>(),
        proptest::option::of(sample),
        health,
    )
        .prop_map(|(in_flight, pending_tokens, sample, health)| Load {
            in_flight,
            pending_tokens,
            sample,
            health,
        })
}

proptest! {
    #[test]
    fn every_choice_is_lawful(
        strategy in 0..6usize,
        loads in proptest::collection::vec(any_load(), 1..150),
        hits in proptest::collection::vec((0..160u64, any::<u32>()), 0..150),
        exclude in proptest::collection::vec(0..150u64, 0..6),
        (seed, session, prompt_tokens) in any::<(u64, Option<u64>, u32)>(),
    ) {
        let picker = picker(every_strategy()[strategy].clone(), loads.len());
        let hits: Vec<CacheHit> = hits.iter().map(|&(id, tokens)| hit(id, tokens)).collect();
        let exclude = exclude.into_iter().map(EndpointId).collect();
        let query = Query { prompt_tokens, session, exclude, ..Query::default() };
        let ask = PickRequest { hits: &hits, round_robin_counter: seed, ..PickRequest::new(&query) };
        let left: Vec<usize> =
            (0..loads.len()).filter(|&position| !query.exclude.contains(&EndpointId(position as u64))).collect();

        let Ok(choice) = picker.pick(&ask, |position| loads[position], &mut SeededRng::new(seed)) else {
            prop_assert!(left.is_empty());
            return Ok(());
        };
        let ranked: Vec<usize> = choice.ranked.iter().map(|ranked| ranked.position).collect();
        prop_assert!(!ranked.is_empty() && ranked.len() <= MAX_RANKED);
        prop_assert!(ranked.iter().all(|position| left.contains(position)));
        let distinct: std::collections::BTreeSet<_> = ranked.iter().collect();
        prop_assert_eq!(distinct.len(), ranked.len());
        let down = |position: &usize| loads[*position].health == Health::Down;
        prop_assert_eq!(choice.panic_mode, left.iter().all(down));
        prop_assert!(choice.panic_mode || !ranked.iter().any(down));
    }
}
