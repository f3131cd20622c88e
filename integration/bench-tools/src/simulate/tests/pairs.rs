//! Fleets with prefill and decode servers.

use hermes_core::snapshot::Role;

use super::*;
use crate::report::{HighestLoad, Objectives};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn fleet(aggregated: usize, prefill: usize, decode: usize) -> Settings {
    let roles = FleetRoles {
        aggregated,
        does_both: false,
        prefill,
        decode,
    };
    Settings {
        roles,
        ..settings()
    }
}

fn policies(settings: &Settings) -> impl Iterator<Item = Policy> {
    let roles = settings.roles;
    let policies = POLICIES.iter().copied();
    policies.filter(move |policy| policy.serves(roles))
}

/// One request after the other, a minute apart.
fn lone(lengths: &[(usize, usize)]) -> Traffic {
    let record = |(index, &(input_length, output_length)): (usize, &(usize, usize))| Record {
        timestamp: index as u64 * 60_000,
        input_length,
        output_length,
        hash_ids: (0..input_length as u64 / 512).collect(),
        ..Record::default()
    };
    Traffic::new(lengths.iter().enumerate().map(record).collect()).unwrap()
}

#[test]
fn every_policy_for_pairs_serves_every_request_once_where_it_can_be_served() {
    let traffic = traffic(300, 1);
    for settings in [fleet(0, 2, 1), fleet(1, 1, 2)] {
        let roles = settings.roles;
        for policy in policies(&settings) {
            let outcome = served(&settings, &traffic, policy, 2);
            assert_eq!(outcome.served.len(), 300, "{}", policy.name);
            for (request, trace) in outcome.served.iter().zip(traffic.requests()) {
                assert_eq!(request.output_tokens, trace.output_tokens);
                assert!(request.placed < request.first_token);
                assert!(request.first_token <= request.finished);
                let first = request.server.map(|server| roles.role(server)).unwrap();
                let Some(decode) = request.decode else {
                    assert_ne!(first, Role::Prefill, "{}", policy.name);
                    continue;
                };
                assert_ne!(first, Role::Decode, "{}", policy.name);
                assert_ne!(roles.role(decode), Role::Prefill, "{}", policy.name);
                let prefilled = request.prefilled.unwrap();
                assert!(request.placed < prefilled && prefilled < request.first_token);
            }
        }
    }
}

#[test]
fn fleets_with_pairs_give_the_same_figures_for_the_same_seed() {
    let (settings, traffic) = (fleet(0, 2, 2), traffic(200, 2));
    for policy in policies(&settings) {
        let once = served(&settings, &traffic, policy, 3);
        assert_eq!(
            once,
            served(&settings, &traffic, policy, 3),
            "{}",
            policy.name
        );
    }
}

#[test]
fn policies_that_know_nothing_of_pairs_use_the_aggregated_servers() {
    let (mixed, traffic) = (fleet(2, 1, 1), traffic(100, 3));
    let outcome = served(&mixed, &traffic, named("dynamo"), 1);
    let aggregated = |request: &Served| request.server < Some(2) && request.decode.is_none();
    assert!(outcome.served.iter().all(aggregated));
    assert!(!named("dynamo").serves(fleet(0, 1, 1).roles));
    assert!(!named("llm-d-threshold").serves(settings().roles));
}

#[test]
fn a_lone_split_request_takes_its_prefill_its_transfer_and_a_step() {
    let settings = Settings {
        transfer: TransferSpeed {
            base: ms(5),
            rate: 1e5,
        },
        ..fleet(0, 1, 1)
    };
    let outcome = served(&settings, &lone(&[(4_000, 3)]), named("round-robin"), 1);
    let [request] = outcome.served[..] else {
        panic!("one request")
    };
    assert_eq!(request.prefilled, Some(ms(8 + 500)));
    // The last token of the prompt is computed where its output is needed.
    let last = Duration::from_micros(125);
    assert_eq!(request.first_token, ms(508 + 40 + 5 + 8) + last);
    let steps = 2 * Duration::from_micros(8_200);
    assert_eq!(request.finished, request.first_token + steps);
    assert_eq!((outcome.split, request.cached_tokens), (1.0, 0));
}

#[test]
fn what_the_decode_server_has_is_not_moved_again() {
    let outcome = served(
        &fleet(0, 1, 1),
        &lone(&[(4_096, 2), (4_096, 2)]),
        named("round-robin"),
        1,
    );
    let moved = |request: &Served| request.first_token - request.prefilled.unwrap();
    let [first, second] = [&outcome.served[0], &outcome.served[1]];
    assert!(
        moved(first) > moved(second) + ms(10),
        "4,096 tokens and 512"
    );
    assert_eq!(second.cached_tokens, 4_096 - 512);
}

#[test]
fn prompts_do_not_delay_the_answers_of_a_decode_server() {
    let long = |timestamp| Record {
        timestamp,
        input_length: 8_000,
        output_length: 200,
        ..Record::default()
    };
    let traffic = Traffic::new((0..4).map(|turn| long(turn * 1_000)).collect()).unwrap();
    let slowest = |settings: &Settings| {
        let served = served(settings, &traffic, named("round-robin"), 1).served;
        served.iter().filter_map(Served::tpot).fold(0.0, f64::max)
    };
    let aggregated = Settings {
        roles: FleetRoles::aggregated(1),
        ..settings()
    };
    assert!(slowest(&fleet(0, 1, 1)) < 0.010);
    assert!(slowest(&aggregated) > 0.015);
}

#[test]
fn a_placement_that_its_servers_cannot_serve_is_an_error() {
    struct Wrong(Placement);
    impl Dispatcher for Wrong {
        fn arrived(&mut self, _: Moment<'_>, _: &Arrival<'_>, placements: &mut Vec<Placement>) {
            placements.push(self.0);
        }
    }
    let traffic = traffic(1, 4);
    let run = |placement| {
        let settings = fleet(0, 1, 1);
        run(&settings, &traffic, &mut Wrong(placement), &mut |_| ()).map(|_| ())
    };
    let error = Err(RunError::Misplaced {
        request: 0,
        server: 0,
    });
    assert_eq!(run(Placement::whole(0, 0)), error);
    assert_eq!(run(Placement::pair(0, 0, 0)), error);
    assert_eq!(run(Placement::pair(0, 0, 1)), Ok(()));
    assert_eq!(run(Placement::whole(0, 1)), Ok(()));
}

#[test]
fn the_highest_load_of_each_policy_is_searched_for() {
    // Requests come three at a time, whatever the load.
    let objectives = Objectives {
        ttft: ms(5_000),
        ..Objectives::default()
    };
    let (settings, traffic) = (fleet(0, 2, 1), traffic(200, 5));
    let settings = Settings {
        objectives,
        ..settings
    };
    let race = Race {
        settings: &settings,
        traffic: &traffic,
        proxies: 1,
        progress: &|_| (),
    };
    let entrant = |name| Entrant {
        policy: named(name),
        roles: settings.roles,
    };
    let entrants = ["round-robin", "kv-aware"].map(entrant);
    let rows = race.at_highest_load(&entrants, 0.9).unwrap();
    let loads = rows.iter().map(|row| row.load.unwrap().0.unwrap());
    let loads: Vec<f64> = loads.collect();
    for (row, (load, entrant)) in rows.iter().zip(loads.iter().zip(entrants)) {
        assert!(row.outcome.goodput.share >= 0.9, "{}", row.policy);
        let more = Settings {
            // Goodput falls with the load but for noise.
            scale: load * 1.2,
            ..settings.clone()
        };
        let more = served(&more, &traffic, entrant.policy, 1);
        assert!(more.goodput.share < 0.9, "{}", row.policy);
    }
    assert!(loads[1] > loads[0], "{loads:?}");
}

#[test]
fn a_policy_that_reaches_the_share_at_no_load_is_shown_at_the_lowest() {
    let (settings, traffic) = (fleet(0, 1, 1), lone(&[(4_000, 2), (40_000, 2)]));
    let race = Race {
        settings: &settings,
        traffic: &traffic,
        proxies: 1,
        progress: &|_| (),
    };
    let entrants = [Entrant {
        policy: named("round-robin"),
        roles: settings.roles,
    }];
    let row = race.at_highest_load(&entrants, 0.9).unwrap().remove(0);
    assert_eq!(row.load, Some(HighestLoad(None)));
    assert_eq!(
        (row.outcome.served.len(), row.outcome.goodput.share),
        (2, 0.5)
    );
}
