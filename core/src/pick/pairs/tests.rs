//! Scenarios of pairs: which endpoints are paired, when a request is split, who decodes.

use super::*;
use crate::{
    collection::Collection,
    load::{EngineSample, Health},
    pick::PickRequest,
    policy::{DisaggregationPolicy, KvAware, PairDialect, PoolPolicy, Strategy},
    snapshot::{
        Endpoint, EndpointId, EndpointLocation, EngineRank, Model, ModelHolders, PairingFacts,
        PoolSpec,
    },
};

/// A pool of endpoints with these roles and groups; their ids are their positions.
fn pool(dialect: PairDialect, endpoints: &[(Role, &str)]) -> Pool {
    let endpoint = |(position, (role, group)): (usize, &(Role, &str))| {
        Arc::new(Endpoint {
            id: EndpointId(position as u64),
            address: format!("http://10.0.0.{position}")
                .parse()
                .expect("an address"),
            name: format!("server-{position}").into(),
            role: *role,
            group: (!group.is_empty()).then(|| (*group).into()),
            pairing: PairingFacts::default(),
        })
    };
    let policy = PoolPolicy {
        strategy: Strategy::KvAware(KvAware::default()),
        disaggregation: Some(DisaggregationPolicy::of(dialect)),
        ..PoolPolicy::default()
    };
    Pool {
        spec: Arc::new(PoolSpec::new("chat", policy)),
        models: Collection::default(),
        endpoints: endpoints.iter().enumerate().map(endpoint).collect(),
    }
}

/// A pool of aggregated endpoints with these facts, in their order.
pub(super) fn placed(facts: impl Iterator<Item = PairingFacts>) -> Pool {
    let facts: Vec<PairingFacts> = facts.collect();
    let plain = pool(
        PairDialect::VllmNixl,
        &vec![(Role::Aggregate, ""); facts.len()],
    );
    located(&plain, facts)
}

/// A pool whose endpoints have these facts.
fn located(plain: &Pool, facts: Vec<PairingFacts>) -> Pool {
    let endpoints = plain.endpoints.iter().zip(facts);
    let endpoints = endpoints.map(|(endpoint, pairing)| {
        Arc::new(Endpoint {
            pairing,
            ..(**endpoint).clone()
        })
    });
    Pool {
        endpoints: endpoints.collect(),
        ..plain.clone()
    }
}

fn picker(dialect: PairDialect, endpoints: &[(Role, &str)]) -> Picker {
    Picker::build(Arc::new(pool(dialect, endpoints)))
}

const TWO_BY_TWO: [(Role, &str); 4] = [
    (Role::Prefill, ""),
    (Role::Prefill, ""),
    (Role::Decode, ""),
    (Role::Decode, ""),
];

/// A prompt of 1,000 tokens whose request may be split.
fn query() -> Query {
    Query {
        prompt_tokens: 1_000,
        split: true,
        ..Query::default()
    }
}

fn splits(picker: &Picker, cached: &[(usize, u32)]) -> bool {
    picker.splits(&query(), None, cached.iter().copied(), |_| true)
}

/// The ids of the placements of a split request: prefill and decode, or one endpoint twice.
fn placements(picker: &Picker, load: impl Fn(usize) -> Load) -> Vec<(u64, u64)> {
    let query = query();
    let mut rng = SeededRng::new(7);
    let choice = picker.pick(&PickRequest::new(&query), load, &mut rng);
    let placements = choice.expect("endpoints").ranked;
    let ids = placements.iter().map(RankedEndpoint::placement);
    ids.map(|placement| (placement.prefill().0, placement.decode().0))
        .collect()
}

fn load(in_flight: u32, kv_usage: f32) -> Load {
    Load {
        in_flight,
        sample: Some(EngineSample {
            kv_usage: Some(kv_usage),
            ..EngineSample::default()
        }),
        ..Load::default()
    }
}

#[test]
fn every_placement_of_a_split_request_is_a_pair_and_the_second_avoids_both_endpoints_of_the_first()
{
    let picker = picker(PairDialect::VllmNixl, &TWO_BY_TWO);
    let placements = placements(&picker, |_| Load::default());
    let [first, second, ..] = placements[..] else {
        panic!("two pairs at least: {placements:?}");
    };
    for (prefill, decode) in [first, second] {
        assert!(prefill < 2 && decode >= 2, "{placements:?}");
    }
    assert!(first.0 != second.0 && first.1 != second.1, "{placements:?}");
}

#[test]
fn a_decode_endpoint_that_is_down_is_paired_after_those_that_are_up() {
    let picker = picker(PairDialect::VllmNixl, &TWO_BY_TWO);
    let placements = placements(&picker, |position| Load {
        health: match position {
            2 => Health::Down,
            _ => Health::Up,
        },
        ..Load::default()
    });
    let decodes: Vec<u64> = placements.iter().map(|&(_, decode)| decode).collect();
    assert_eq!(decodes, [3, 3, 2], "{placements:?}");
    assert_ne!(placements[0].0, placements[1].0);
}

#[test]
fn decode_endpoints_that_are_all_down_are_each_paired() {
    let picker = picker(PairDialect::VllmNixl, &TWO_BY_TWO);
    let placements = placements(&picker, |position| Load {
        health: match position {
            2 | 3 => Health::Down,
            _ => Health::Up,
        },
        ..Load::default()
    });
    let [first, second, ..] = placements[..] else {
        panic!("two pairs at least: {placements:?}");
    };
    assert!(first.0 != second.0 && first.1 != second.1, "{placements:?}");
}

#[test]
fn one_prefill_endpoint_is_tried_with_each_decode_endpoint() {
    let endpoints = [(Role::Prefill, ""), (Role::Decode, ""), (Role::Decode, "")];
    let picker = picker(PairDialect::VllmNixl, &endpoints);
    let mut found = placements(&picker, |_| Load::default());
    found.sort_unstable();
    assert_eq!(found, [(0, 1), (0, 2)]);
}

#[test]
fn pairs_are_made_inside_a_group_and_of_one_version() {
    let groups = [
        (Role::Prefill, "a"),
        (Role::Prefill, "b"),
        (Role::Decode, "b"),
        (Role::Decode, "c"),
    ];
    let found = placements(&picker(PairDialect::VllmNixl, &groups), |_| Load::default());
    assert_eq!(found, [(1, 2)]);
    let mut pool = pool(PairDialect::VllmNixl, &TWO_BY_TWO);
    let rolled_out = pool.endpoints.iter().map(|endpoint| {
        let version = if endpoint.id.0 % 2 == 0 {
            "0.31"
        } else {
            "0.32"
        };
        Arc::new(Endpoint {
            pairing: PairingFacts {
                version: Some(version.into()),
                ..PairingFacts::default()
            },
            ..(**endpoint).clone()
        })
    });
    pool.endpoints = rolled_out.collect();
    let mut found = placements(&Picker::build(Arc::new(pool)), |_| Load::default());
    found.sort_unstable();
    assert_eq!(found, [(0, 2), (1, 3)]);
}

#[test]
fn a_prefill_endpoint_whose_ranks_have_no_names_yet_is_no_partner() {
    let mut pool = pool(PairDialect::VllmMooncake, &TWO_BY_TWO);
    assert!(!splits(&Picker::build(Arc::new(pool.clone())), &[]));
    let rank = EngineRank {
        rank: 0,
        engine_id: "e".into(),
    };
    let known = pool.endpoints.iter().map(|endpoint| {
        let ranks = (endpoint.id.0 == 1).then(|| [rank.clone()].into());
        Arc::new(Endpoint {
            pairing: PairingFacts {
                ranks,
                ..PairingFacts::default()
            },
            ..(**endpoint).clone()
        })
    });
    pool.endpoints = known.collect();
    let picker = Picker::build(Arc::new(pool));
    let mut found = placements(&picker, |_| Load::default());
    found.sort_unstable();
    assert_eq!(found, [(1, 2), (1, 3)]);
}

#[test]
fn the_decode_endpoint_with_the_most_room_and_the_smallest_batch_takes_over() {
    let endpoints = [
        (Role::Prefill, ""),
        (Role::Decode, ""),
        (Role::Decode, ""),
        (Role::Decode, ""),
    ];
    let picker = picker(PairDialect::VllmNixl, &endpoints);
    let first = |loads: [Load; 3]| {
        let at = |position: usize| loads[position.saturating_sub(1)];
        placements(&picker, at)[0].1
    };
    assert_eq!(first([load(9, 0.5), load(2, 0.5), load(3, 0.5)]), 2);
    // Half as many requests, and a quarter of the free memory.
    assert_eq!(first([load(4, 0.2), load(2, 0.8), load(5, 0.2)]), 1);
    // A full one, and one that is down, come last.
    let down = Load {
        health: Health::Down,
        ..Load::default()
    };
    assert_eq!(first([load(0, 0.99), down, load(50, 0.5)]), 3);
}

#[test]
fn a_request_with_few_uncached_tokens_is_not_split() {
    let with_aggregate = [
        (Role::Prefill, ""),
        (Role::Decode, ""),
        (Role::Aggregate, ""),
    ];
    let picker = picker(PairDialect::VllmNixl, &with_aggregate);
    assert!(splits(&picker, &[]));
    assert!(splits(&picker, &[(1, 744)]));
    assert!(
        !splits(&picker, &[(1, 745)]),
        "255 tokens at the decode endpoint"
    );
    assert!(!splits(&picker, &[(2, 800)]));
    assert!(
        splits(&picker, &[(0, 999)]),
        "a prefill endpoint serves no request alone"
    );
}

#[test]
fn a_request_that_no_endpoint_can_serve_alone_is_always_split() {
    let picker = picker(PairDialect::Sglang, &TWO_BY_TWO);
    assert!(splits(&picker, &[(2, 1_000)]));
    let alone = Query {
        split: false,
        ..query()
    };
    let picked = picker.pick(
        &PickRequest::new(&alone),
        |_| Load::default(),
        &mut SeededRng::new(1),
    );
    assert_eq!(picked, Err(NoEndpoint::OnlyDisaggregated));
}

#[test]
fn a_decode_endpoint_of_vllm_serves_what_is_not_split() {
    let picker = picker(PairDialect::VllmNixl, &TWO_BY_TWO);
    let alone = Query {
        split: false,
        ..query()
    };
    let ask = PickRequest::new(&alone);
    let choice = picker.pick(&ask, |_| Load::default(), &mut SeededRng::new(1));
    let ranked = choice.expect("endpoints").ranked;
    let mut found: Vec<usize> = ranked.iter().map(|ranked| ranked.position).collect();
    found.sort_unstable();
    assert_eq!(found, [2, 3]);
    assert!(ranked.iter().all(|ranked| ranked.decode.is_none()));
}

#[test]
fn nothing_is_split_while_no_pair_is_up() {
    let picker = picker(PairDialect::VllmNixl, &TWO_BY_TWO);
    let up = |down: &'static [usize]| {
        picker.splits(&query(), None, std::iter::empty(), |position| {
            !down.contains(&position)
        })
    };
    assert!(up(&[0, 2]));
    assert!(!up(&[0, 1]) && !up(&[2, 3]));
}

#[test]
fn a_group_without_a_leader_has_no_pairs_where_leaders_are_needed() {
    let led = [
        (Role::Prefill, "a"),
        (Role::Decode, "a"),
        (Role::Leader, "a"),
        (Role::Prefill, "b"),
        (Role::Decode, "b"),
    ];
    let picker = picker(PairDialect::LeaderHeaders, &led);
    assert_eq!(placements(&picker, |_| Load::default()), [(0, 1)]);
    assert_eq!(picker.leaders(0).collect::<Vec<_>>(), [2]);
    assert_eq!(picker.leaders(3).next(), None);
}

#[test]
fn an_adapter_is_served_by_pairs_that_hold_it() {
    let mut pool = pool(PairDialect::VllmNixl, &TWO_BY_TWO);
    let model = |name: &str, ids: &[u64]| {
        let ids = ids.iter().map(|&id| EndpointId(id));
        Arc::new(Model {
            name: name.into(),
            parent: None,
            max_model_len: None,
            holders: ModelHolders::Some(ids.collect()),
        })
    };
    pool.models = [model("halves", &[0, 1]), model("sql", &[1, 2])]
        .into_iter()
        .collect();
    let picker = Picker::build(Arc::new(pool));
    let query = query();
    let ask = |model| PickRequest {
        model: Some(model),
        ..PickRequest::new(&query)
    };
    let mut rng = SeededRng::new(1);
    let choice = picker.pick(&ask("sql"), |_| Load::default(), &mut rng);
    let ranked = choice.expect("a pair").ranked;
    let pairs: Vec<_> = ranked.iter().map(RankedEndpoint::placement).collect();
    assert_eq!(pairs.len(), 1);
    assert_eq!((pairs[0].prefill().0, pairs[0].decode().0), (1, 2));
    let none = std::iter::empty();
    assert!(
        !picker.splits(&query, Some("halves"), none, |_| true),
        "no decode endpoint"
    );
}

#[test]
fn the_only_prefill_endpoint_is_one_server_if_no_other_endpoint_serves_alone() {
    let pair = [(Role::Prefill, ""), (Role::Decode, "")];
    assert_eq!(picker(PairDialect::Sglang, &pair).servers(None), 1);
    assert_eq!(picker(PairDialect::VllmNixl, &pair).servers(None), 2);
    assert_eq!(picker(PairDialect::Sglang, &TWO_BY_TWO).servers(None), 2);
    let without_pairs = [(Role::Aggregate, ""), (Role::Decode, "")];
    assert_eq!(picker(PairDialect::Sglang, &without_pairs).servers(None), 1);
}

#[test]
fn endpoints_that_do_both_are_two_halves_only_where_there_are_two() {
    let both = |endpoints: &[(Role, &str)]| splits(&picker(PairDialect::VllmNixl, endpoints), &[]);
    assert!(!both(&[(Role::Both, "")]));
    assert!(both(&[(Role::Both, ""), (Role::Both, "")]));
    assert!(
        !both(&[(Role::Both, "a"), (Role::Both, "b")]),
        "other groups"
    );
    assert!(both(&[(Role::Prefill, ""), (Role::Both, "")]));
    assert!(both(&[(Role::Both, ""), (Role::Decode, "")]));
    assert!(!both(&[(Role::Both, ""), (Role::Aggregate, "")]));
    let two = picker(PairDialect::VllmNixl, &[(Role::Both, ""), (Role::Both, "")]);
    let none = std::iter::empty;
    assert!(!two.splits(&query(), None, none(), |position| position == 0));
    let sglang = picker(PairDialect::Sglang, &[(Role::Both, ""), (Role::Both, "")]);
    assert!(!splits(&sglang, &[]), "it has no such engines");
}

#[test]
fn a_picker_by_itself_sends_whole_requests_to_those_that_do_both() {
    let both = [(Role::Both, ""), (Role::Both, "")];
    let alone = placements(&picker(PairDialect::VllmNixl, &both), |_| Load::default());
    assert!(alone.iter().all(|(prefill, decode)| prefill == decode));
    let one_prefill = [(Role::Prefill, ""), (Role::Both, "")];
    let picker = picker(PairDialect::VllmNixl, &one_prefill);
    let busy = |position| load(if position == 1 { 9 } else { 0 }, 0.0);
    assert!(
        placements(&picker, busy).contains(&(0, 1)),
        "or pairs with them"
    );
}

#[test]
fn a_prompt_that_is_computed_is_not_answered_by_the_same_endpoint() {
    let three = picker(PairDialect::VllmNixl, &[(Role::Both, ""); 3]);
    let loads = [Load::default(), load(1, 0.96), load(9, 0.2)];
    let other = |pair| three.other_decode(pair, None, |at| loads[at], &mut SeededRng::new(1));
    assert_eq!(other((0, 1)), Some(2), "the idle one computed it");
    let two = picker(PairDialect::VllmNixl, &[(Role::Both, ""); 2]);
    let other = two.other_decode((0, 1), None, |at| loads[at], &mut SeededRng::new(1));
    assert_eq!(other, None);
}

#[test]
fn a_decode_endpoint_that_is_near_may_have_up_to_one_request_more() {
    let location = |zone: &str| PairingFacts {
        location: EndpointLocation {
            node: None,
            zone: Some(zone.into()),
        },
        ..PairingFacts::default()
    };
    let plain = pool(PairDialect::VllmNixl, &TWO_BY_TWO);
    let zones = ["a", "b", "a", "b"].map(location);
    let picker = Picker::build(Arc::new(located(&plain, zones.to_vec())));
    let first = |near: u32, far: u32| {
        let loads = [load(0, 0.0), load(9, 0.0), load(near, 0.2), load(far, 0.2)];
        placements(&picker, |position| loads[position])[0]
    };
    assert_eq!(first(3, 3), (0, 2));
    assert_eq!(
        first(3, 2),
        (0, 3),
        "half a request is what a zone is worth"
    );
    let other = |near: u32, far: u32| {
        let loads = [Load::default(), load(near, 0.96), load(far, 0.2)];
        let all_near = [
            ("a", Role::Prefill),
            ("a", Role::Decode),
            ("b", Role::Decode),
        ];
        let roles = all_near.map(|(_, role)| (role, ""));
        let zones = all_near.map(|(zone, _)| location(zone)).to_vec();
        let plain = pool(PairDialect::VllmNixl, &roles);
        let picker = Picker::build(Arc::new(located(&plain, zones)));
        picker.other_decode((0, 1), None, |at| loads[at], &mut SeededRng::new(1))
    };
    assert_eq!(other(1, 9), Some(2), "the near one is full");
}

#[test]
fn a_prompt_that_is_computed_goes_elsewhere_if_its_decode_endpoint_went_down_or_became_full() {
    let endpoints = [
        (Role::Prefill, ""),
        (Role::Decode, ""),
        (Role::Decode, ""),
        (Role::Decode, ""),
        (Role::Decode, "other"),
    ];
    let picker = picker(PairDialect::VllmNixl, &endpoints);
    let down = Load {
        health: Health::Down,
        ..Load::default()
    };
    let other = |first: Load, second: Load| {
        let loads = [
            Load::default(),
            first,
            second,
            load(3, 0.5),
            Load::default(),
        ];
        picker.other_decode((0, 1), None, |at| loads[at], &mut SeededRng::new(1))
    };
    assert_eq!(other(load(90, 0.9), Load::default()), None, "it has room");
    assert_eq!(other(down, Load::default()), Some(2));
    assert_eq!(other(load(9, 0.96), load(9, 0.5)), Some(3));
    assert_eq!(other(down, down), Some(3));
    let all_down = picker.other_decode((0, 1), None, |_| down, &mut SeededRng::new(1));
    assert_eq!(all_down, None, "no other one is better");
}
