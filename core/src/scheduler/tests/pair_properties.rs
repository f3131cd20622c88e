//! For any sequence of events in a pool of prefill, decode and aggregated endpoints, and some that do
//! both: each request is at endpoints that can serve it, and nothing is left when all have ended.

use std::collections::BTreeMap;

use proptest::prelude::{
    Just, Strategy as Generator, prop_assert, prop_assert_eq, prop_oneof, proptest,
};

use super::{pairs::pool_of, *};
use crate::policy::PairDialect;

#[derive(Clone, Copy, Debug)]
enum Event {
    Arrive {
        name: u64,
        tokens: u32,
    },
    /// The nth open request's next report.
    Advance {
        nth: usize,
    },
    Cancel {
        nth: usize,
    },
    Sample {
        position: usize,
        usage: f32,
    },
    Health {
        position: usize,
        health: Health,
    },
    Wait {
        ms: u64,
    },
}

fn event() -> impl Generator<Value = Event> {
    let health = prop_oneof![
        Just(Health::Up),
        Just(Health::Warming(0.5)),
        Just(Health::Down)
    ];
    prop_oneof![
        5 => (0u64..9, 1u32..20_000).prop_map(|(name, tokens)| Event::Arrive { name, tokens }),
        9 => (0usize..8).prop_map(|nth| Event::Advance { nth }),
        1 => (0usize..8).prop_map(|nth| Event::Cancel { nth }),
        1 => (0usize..6, 0.0f32..1.0).prop_map(|(position, usage)| Event::Sample { position, usage }),
        1 => (0usize..6, health).prop_map(|(position, health)| Event::Health { position, health }),
        4 => (1u64..3_000).prop_map(|ms| Event::Wait { ms }),
    ]
}

/// How far a bound request is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Prefill,
    Decode,
    Answer,
}

/// Requests that are bound, by number.
#[derive(Default)]
struct World {
    open: BTreeMap<u64, (RankedEndpoint, Stage)>,
    arrived: u64,
    now: Duration,
}

impl World {
    fn bind(&mut self, number: u64, assignment: &Assignment) {
        let ranked = assignment.choice.ranked[0];
        let stage = if ranked.decode.is_some() {
            Stage::Prefill
        } else {
            Stage::Decode
        };
        self.open.insert(number, (ranked, stage));
    }

    fn advance(&mut self, scheduler: &mut Scheduler, number: u64) {
        let Some((_, stage)) = self.open.get_mut(&number) else {
            return;
        };
        let now = self.now;
        match stage {
            Stage::Prefill => {
                let leg = key(number).leg(LegId::PREFILL);
                scheduler.first_byte(leg, None, now);
                scheduler.leg_finished(leg, now);
                *stage = Stage::Decode;
            }
            Stage::Decode => {
                scheduler.first_byte(key(number), None, now);
                *stage = Stage::Answer;
            }
            Stage::Answer => {
                let usage = EngineUsage {
                    completion_tokens: Some(50),
                    decoding: Some(ms(500)),
                    ..EngineUsage::default()
                };
                scheduler.finished(key(number), usage, now);
                self.open.remove(&number);
            }
        }
    }

    fn dequeue(&mut self, scheduler: &mut Scheduler) {
        let mut dequeued = Vec::new();
        scheduler.dequeue(self.now, &mut dequeued);
        for Dequeued { key, exit } in dequeued {
            if let QueueExit::Bound(assignment) = exit {
                self.bind(key.request.0, &assignment);
            }
        }
    }

    fn act(&mut self, scheduler: &mut Scheduler, event: Event) {
        let nth = |open: &BTreeMap<u64, _>, nth: usize| open.keys().nth(nth).copied();
        match event {
            Event::Arrive { name, tokens } => {
                self.arrived += 1;
                let query = Query {
                    split: true,
                    ..prompt(name, tokens)
                };
                let outcome = schedule(scheduler, self.arrived, &query, self.now);
                if let ScheduleOutcome::Bound(assignment) = outcome {
                    self.bind(self.arrived, &assignment);
                }
            }
            Event::Advance { nth: at } => {
                if let Some(number) = nth(&self.open, at) {
                    self.advance(scheduler, number);
                }
            }
            Event::Cancel { nth: at } => {
                if let Some(number) = nth(&self.open, at) {
                    scheduler.finished(key(number), EngineUsage::default(), self.now);
                    self.open.remove(&number);
                }
            }
            Event::Sample { position, usage } => {
                let sample = EngineSample {
                    kv_usage: Some(usage),
                    ..EngineSample::default()
                };
                scheduler.set_sample(position, Some(sample));
            }
            Event::Health { position, health } => scheduler.set_health(position, health),
            Event::Wait { ms: waited } => self.now += ms(waited),
        }
        self.dequeue(scheduler);
    }
}

const ROLES: [Role; 6] = [
    Role::Prefill,
    Role::Prefill,
    Role::Decode,
    Role::Decode,
    Role::Aggregate,
    Role::Aggregate,
];

const WITH_BOTH: [Role; 6] = [
    Role::Prefill,
    Role::Both,
    Role::Decode,
    Role::Both,
    Role::Aggregate,
    Role::Both,
];

const BOTH: [Role; 6] = [Role::Both; 6];

/// Whether endpoints of these roles can serve a request that is placed there.
fn is_served(roles: &[Role], ranked: RankedEndpoint, dialect: PairDialect) -> bool {
    let is_either = |role| role == Role::Both && dialect.has_engines_for_both();
    let role = roles[ranked.position];
    match ranked.decode {
        Some(decode) => {
            let other = roles[decode.position];
            (role == Role::Prefill || is_either(role))
                && (other == Role::Decode || is_either(other))
                && ranked.position != decode.position
        }
        None if role == Role::Decode => dialect.decode_serves_alone(),
        None => matches!(role, Role::Aggregate | Role::Both),
    }
}

proptest! {
    #[test]
    fn legs_are_where_they_can_be_served_and_nothing_is_left_at_the_end(
        alone in proptest::prelude::any::<bool>(),
        roles in prop_oneof![Just(ROLES), Just(WITH_BOTH), Just(BOTH)],
        events in proptest::collection::vec(event(), 1..120),
    ) {
        let dialect = if alone { PairDialect::VllmNixl } else { PairDialect::Sglang };
        let mut scheduler = Scheduler::new(&pool_of(dialect, &roles), SeededRng::new(7));
        (0..roles.len()).for_each(|position| scheduler.set_capacity(position, Some(50_000)));
        let mut world = World::default();
        for event in events {
            world.act(&mut scheduler, event);
            for (ranked, _) in world.open.values() {
                prop_assert!(is_served(&roles, *ranked, dialect), "{ranked:?}");
            }
            for position in 0..roles.len() {
                prop_assert!(scheduler.endpoints.has_current_terms(position));
            }
        }
        world.now += ms(60_000);
        world.dequeue(&mut scheduler);
        while let Some(&number) = world.open.keys().next() {
            world.advance(&mut scheduler, number);
            world.dequeue(&mut scheduler);
        }
        prop_assert_eq!(scheduler.queued_requests(), 0);
        for load in scheduler.loads() {
            prop_assert_eq!((load.in_flight, load.pending_tokens), (0, 0));
        }
        prop_assert_eq!(scheduler.endpoints.reserved_legs(), 0);
    }
}
