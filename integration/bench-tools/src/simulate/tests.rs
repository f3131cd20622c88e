//! Whole simulations of small made-up traffic: what must hold whatever the policy.

mod pairs;

use std::time::Duration;

use hermes_core::rng::SeededRng;
use proptest::prelude::*;

use super::policies::{POLICIES, Policy, Setup};
use super::*;
use crate::load::trace::Record;
use crate::report::{Outcome, Served};
use hermes_engine_sim::EngineConfig;

/// Conversations of a few turns, in bursts: each turn brings back the prompt before it and adds to
/// it.
fn traffic(requests: usize, seed: u64) -> Traffic {
    let mut rng = SeededRng::new(seed);
    let mut talks: Vec<Vec<u64>> = (0..12).map(|talk| vec![0, 1_000 + talk]).collect();
    let mut record = |index: usize| {
        let talk = rng.below(talks.len());
        let more = (0..=rng.below(4))
            .map(|_| rng.next_u64())
            .collect::<Vec<_>>();
        talks[talk].extend(more);
        if talks[talk].len() > 30 {
            talks[talk].truncate(2);
        }
        let hash_ids = talks[talk].clone();
        let input_length = hash_ids.len() * 512 - rng.below(500);
        Record {
            timestamp: (index / 3 * 400) as u64,
            input_length,
            output_length: 1 + rng.below(60),
            hash_ids,
            ..Record::default()
        }
    };
    Traffic::new((0..requests).map(&mut record).collect()).unwrap()
}

fn settings() -> Settings {
    let engine = EngineConfig {
        blocks: 60,
        ..EngineConfig::default()
    };
    Settings {
        roles: FleetRoles::aggregated(3),
        engine,
        ..Settings::default()
    }
}

fn served(settings: &Settings, traffic: &Traffic, policy: Policy, proxies: usize) -> Outcome {
    let setup = Setup::of(settings, traffic.block_tokens());
    run(
        settings,
        traffic,
        &mut *policy.dispatcher(setup, proxies),
        &mut |_| (),
    )
    .unwrap()
}

/// The policies that need no pairs.
fn alone() -> impl Iterator<Item = Policy> {
    let roles = settings().roles;
    let policies = POLICIES.iter().copied();
    policies.filter(move |policy| policy.serves(roles))
}

fn named(name: &str) -> Policy {
    Policy::named(name).unwrap()
}

#[test]
fn every_policy_serves_every_request_once_and_in_order_of_cause() {
    let traffic = traffic(300, 1);
    for policy in alone() {
        let outcome = served(&settings(), &traffic, policy, 2);
        assert_eq!(outcome.served.len(), 300, "{}", policy.name);
        for (request, trace) in outcome.served.iter().zip(traffic.requests()) {
            assert_eq!(request.arrived, trace.arrival(1.0));
            assert!(request.server.is_some_and(|server| server < 3));
            assert!(request.arrived <= request.placed && request.placed < request.first_token);
            assert!(request.first_token <= request.finished);
            assert_eq!(
                (request.output_tokens, request.prompt_tokens),
                (trace.output_tokens, trace.prompt_tokens)
            );
            assert!(request.cached_tokens < request.prompt_tokens);
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_figures_and_another_seed_others() {
    let traffic = traffic(200, 2);
    for policy in alone() {
        let once = served(&settings(), &traffic, policy, 3);
        assert_eq!(
            once,
            served(&settings(), &traffic, policy, 3),
            "{}",
            policy.name
        );
    }
    let other = Settings {
        seed: 8,
        ..settings()
    };
    let lots = named("power-of-two");
    assert_ne!(
        served(&settings(), &traffic, lots, 1),
        served(&other, &traffic, lots, 1)
    );
}

#[test]
fn a_race_gives_each_policy_what_it_gets_alone() {
    let traffic = traffic(150, 3);
    let settings_of_all = settings();
    let race = Race {
        settings: &settings_of_all,
        traffic: &traffic,
        proxies: 1,
        progress: &|_| (),
    };
    let entrant = |policy: Policy| Entrant {
        policy,
        roles: settings_of_all.roles,
    };
    let entrants: Vec<Entrant> = alone().map(entrant).collect();
    let rows = race.at_load(&entrants).unwrap();
    for (row, policy) in rows.iter().zip(alone()) {
        assert_eq!(
            (row.policy.as_str(), &row.outcome),
            (policy.name, &served(&settings(), &traffic, policy, 1))
        );
    }
}

#[test]
fn knowing_caches_beats_turns_and_a_lone_request_takes_its_prefill_and_a_step() {
    let traffic = traffic(400, 4);
    let of = |name| served(&settings(), &traffic, named(name), 1);
    let (turns, known) = (of("round-robin"), of("omniscient"));
    assert!(known.hit_rate > turns.hit_rate && known.ttft.mean < turns.ttft.mean);
    let lone = Record {
        input_length: 4_000,
        output_length: 3,
        ..Record::default()
    };
    let lone = served(
        &settings(),
        &Traffic::new(vec![lone]).unwrap(),
        named("omniscient"),
        1,
    );
    assert_eq!(lone.served[0].first_token, Duration::from_millis(8 + 500));
    assert_eq!(
        lone.served[0].finished,
        Duration::from_millis(8 + 500) + 2 * Duration::from_micros(8_200)
    );
}

#[test]
fn where_requests_share_the_time_no_prompt_waits_for_another() {
    let record = |_| Record {
        input_length: 4_000,
        output_length: 1,
        ..Record::default()
    };
    let traffic = Traffic::new((0..6).map(record).collect()).unwrap();
    let slowest = |shared_time| {
        let engine = EngineConfig {
            shared_time,
            max_running: 6,
            ..settings().engine
        };
        let settings = Settings {
            roles: FleetRoles::aggregated(1),
            engine,
            ..Settings::default()
        };
        let served = served(&settings, &traffic, named("round-robin"), 1).served;
        served.iter().map(|request| request.first_token).max()
    };
    let us = |us| Some(Duration::from_micros(us));
    // The first prompt begins a step before the others, and ends one before them.
    assert_eq!(slowest(None), us(3_032_000), "one after the other");
    assert_eq!(slowest(Some(1.0)), us(8_000 + 63 * 8_000), "as long as one");
    let last = 14_400;
    assert_eq!(slowest(Some(2.0)), us(8_000 + 62 * 16_000 + last), "twice");
}

#[test]
fn separate_knowledge_costs_hits_and_shared_knowledge_does_not() {
    let traffic = traffic(400, 5);
    let hits = |name, proxies| served(&settings(), &traffic, named(name), proxies).hit_rate;
    assert!(hits("llm-d", 4) < hits("llm-d", 1));
    assert_eq!(hits("omniscient", 4), hits("omniscient", 1));
}

#[test]
fn a_prompt_beyond_the_memory_is_served_cut() {
    let record = Record {
        input_length: 1_000_000,
        output_length: 10,
        ..Record::default()
    };
    let outcome = served(
        &settings(),
        &Traffic::new(vec![record]).unwrap(),
        named("round-robin"),
        1,
    );
    assert_eq!(
        (
            outcome.served[0].prompt_tokens,
            outcome.served[0].output_tokens
        ),
        (60 * 512 - 10, 10)
    );
}

/// Keeps every request, or places it where none can go.
struct Broken(Option<usize>);

impl Dispatcher for Broken {
    fn arrived(&mut self, _at: Moment<'_>, arrival: &Arrival<'_>, placements: &mut Vec<Placement>) {
        placements.extend(
            self.0
                .map(|server| Placement::whole(arrival.request, server)),
        );
    }

    fn sample_interval(&self) -> Option<Duration> {
        Some(Duration::from_secs(1))
    }
}

#[test]
fn a_dispatcher_that_breaks_its_contract_is_an_error_and_no_hang() {
    let traffic = traffic(10, 6);
    let run = |mut dispatcher: Broken| {
        run(&settings(), &traffic, &mut dispatcher, &mut |_| ()).unwrap_err()
    };
    assert_eq!(run(Broken(None)), RunError::Stuck { waiting: 10 });
    assert_eq!(
        run(Broken(Some(3))),
        RunError::Misplaced {
            request: 0,
            server: 3
        }
    );
}

/// Holds requests and lets one go at each waking.
struct Metronome {
    held: Vec<RequestIndex>,
    due: Duration,
}

impl Dispatcher for Metronome {
    fn arrived(
        &mut self,
        _at: Moment<'_>,
        arrival: &Arrival<'_>,
        _placements: &mut Vec<Placement>,
    ) {
        self.held.push(arrival.request);
    }

    fn wake_at(&self) -> Option<Duration> {
        (!self.held.is_empty()).then_some(self.due)
    }

    fn wake(&mut self, at: Moment<'_>, placements: &mut Vec<Placement>) {
        placements.push(Placement::whole(self.held.remove(0), 0));
        self.due = at.now + Duration::from_secs(2);
    }
}

#[test]
fn waiting_inside_a_dispatcher_counts_as_time_to_first_token() {
    let traffic = traffic(3, 7);
    let mut metronome = Metronome {
        held: Vec::new(),
        due: Duration::from_secs(1),
    };
    let outcome = run(&settings(), &traffic, &mut metronome, &mut |_| ()).unwrap();
    let placed: Vec<u64> = outcome
        .served
        .iter()
        .map(|request| request.placed.as_secs())
        .collect();
    assert_eq!(placed, [1, 3, 5]);
    assert!(
        outcome
            .served
            .iter()
            .all(|request| request.ttft() > request.placed.as_secs_f64())
    );
}

#[test]
fn a_lone_request_takes_what_the_bound_says() {
    let record = Record {
        input_length: 20_000,
        output_length: 1,
        hash_ids: (0..39).collect(),
        ..Record::default()
    };
    let traffic = Traffic::new(vec![record]).unwrap();
    let bound = lower_bound(&settings(), &traffic);
    let alone = served(&settings(), &traffic, named("round-robin"), 1);
    assert!(
        (alone.ttft.mean - bound).abs() < 1e-6,
        "{bound} of {}",
        alone.ttft.mean
    );
}

#[test]
fn no_policy_is_faster_than_the_bound() {
    let slow = Slow {
        share: 0.4,
        factor: 0.5,
    };
    let fleets = [
        settings(),
        Settings {
            slow: Some(slow),
            ..settings()
        },
    ];
    for settings in fleets {
        let traffic = traffic(300, 3);
        let bound = lower_bound(&settings, &traffic);
        assert!(bound > 0.0);
        for policy in alone() {
            let mean = served(&settings, &traffic, policy, 1).ttft.mean;
            assert!(mean >= bound, "{}: {mean} < {bound}", policy.name);
        }
    }
}

#[test]
fn chats_are_traffic_that_every_policy_serves() {
    let chats = crate::chats::Chats {
        users: 6,
        rounds: 3,
        system_tokens: 100,
        history_tokens: 400,
        question_tokens: 30,
        answer_tokens: 20,
        pace: crate::chats::Pace::Timed {
            per_second: 5.0,
            pauses: crate::chats::Pauses::Exponential,
            singles: crate::chats::Singles {
                share: 0.2,
                tokens: 2_000,
            },
        },
        seed: 4,
    };
    let traffic = Traffic::of_chats(&chats, 200).unwrap();
    assert_eq!(
        (traffic.requests().len(), traffic.block_tokens()),
        (200, CHAT_BLOCK)
    );
    for name in ["round-robin", "kv-aware"] {
        let outcome = served(&settings(), &traffic, named(name), 1);
        assert_eq!(outcome.served.len(), 200);
        assert!(outcome.hit_rate > 0.2, "{name}: {}", outcome.hit_rate);
    }
    assert!(Traffic::of_chats(&chats, 0).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn memory_and_seats_are_never_exceeded(
        seed in any::<u64>(), blocks in 30usize..80, max_running in 1usize..8, policy in 0..alone().count(),
        pairs in 0usize..2,
    ) {
        let engine = EngineConfig { blocks, max_running, ..EngineConfig::default() };
        let settings = Settings { engine, roles: FleetRoles { aggregated: 2, does_both: false, prefill: pairs, decode: pairs }, ..Settings::default() };
        let traffic = traffic(60, seed);
        let setup = Setup { seed, ..Setup::of(&settings, 512) };
        let mut watched = Watched { inner: alone().nth(policy).unwrap().dispatcher(setup, 1), max_running };
        prop_assert_eq!(run(&settings, &traffic, &mut watched, &mut |_| ()).unwrap().served.len(), 60);
    }
}

/// Looks at the truth whenever something happens.
struct Watched {
    inner: Box<dyn Dispatcher>,
    max_running: usize,
}

impl Watched {
    fn look(&self, at: Moment<'_>) {
        for server in 0..at.fleet.servers() {
            let sample = at.fleet.sample(server);
            assert!(
                sample.running <= self.max_running && sample.kv_usage <= 1.0,
                "{sample:?}"
            );
        }
    }
}

impl Dispatcher for Watched {
    fn arrived(&mut self, at: Moment<'_>, arrival: &Arrival<'_>, placements: &mut Vec<Placement>) {
        self.look(at);
        self.inner.arrived(at, arrival, placements);
    }

    fn prefilled(&mut self, at: Moment<'_>, seen: Prefilled, placements: &mut Vec<Placement>) {
        self.look(at);
        self.inner.prefilled(at, seen, placements);
    }

    fn first_token(&mut self, at: Moment<'_>, seen: FirstToken, placements: &mut Vec<Placement>) {
        self.look(at);
        self.inner.first_token(at, seen, placements);
    }

    fn finished(&mut self, at: Moment<'_>, seen: Finished, placements: &mut Vec<Placement>) {
        self.look(at);
        self.inner.finished(at, seen, placements);
    }
}
