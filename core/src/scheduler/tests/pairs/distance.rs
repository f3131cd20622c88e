//! Pairs and distance: a prompt is taken over near where it was computed, as long as that is worth
//! more than a smaller batch.

use super::*;
use crate::snapshot::{EndpointLocation, PairingFacts};

/// A prefill endpoint, and a decode endpoint in its zone and one in another.
const ZONES: [(Role, &str); 3] = [
    (Role::Prefill, "a"),
    (Role::Decode, "a"),
    (Role::Decode, "b"),
];
const NEAR: usize = 1;
const FAR: usize = 2;

/// Requests of that pool, one after the other.
struct TwoZones {
    scheduler: Scheduler,
    now: u64,
    requests: u64,
}

impl TwoZones {
    /// Whose decode endpoints serve no whole requests.
    fn new() -> Self {
        Self::of(&ZONES)
    }

    fn of(zones: &[(Role, &str)]) -> Self {
        let roles: Vec<Role> = zones.iter().map(|(role, _)| *role).collect();
        let plain = pool_of(PairDialect::Sglang, &roles);
        let endpoints = plain
            .endpoints
            .iter()
            .zip(zones)
            .map(|(endpoint, (_, zone))| {
                let location = EndpointLocation {
                    node: None,
                    zone: (!zone.is_empty()).then(|| (*zone).into()),
                };
                Arc::new(Endpoint {
                    pairing: PairingFacts {
                        location,
                        ..PairingFacts::default()
                    },
                    ..(**endpoint).clone()
                })
            });
        let pool = Arc::new(Pool {
            endpoints: endpoints.collect(),
            ..(*plain).clone()
        });
        Self {
            scheduler: Scheduler::new(&pool, SeededRng::new(1)),
            now: 0,
            requests: 0,
        }
    }

    /// A prompt of 2,000 tokens is computed and taken over in `transfer` milliseconds. Returns its
    /// number, and where its answer has begun.
    fn begin(&mut self, transfer: u64) -> (u64, usize) {
        self.requests += 1;
        let served = Served {
            number: self.requests,
            prompt: long(self.requests, 2_000),
            sent: self.now,
            took: [250, transfer],
        };
        let ranked = served.begins(&mut self.scheduler);
        self.now += 250 + transfer;
        (self.requests, ranked.decode.expect("a pair").position)
    }

    /// An answer of 101 tokens ends, each of which took this many milliseconds.
    fn end(&mut self, number: u64, per_token: u64) {
        let usage = EngineUsage {
            completion_tokens: Some(101),
            decoding: Some(ms(100 * per_token)),
            ..EngineUsage::default()
        };
        self.scheduler.finished(key(number), usage, ms(self.now));
    }

    /// Batches of one to six answers at one of the decode endpoints, whose tokens take 10 ms, and
    /// 2 ms for each answer.
    fn learn(&mut self, decode: usize, transfer: u64) {
        self.scheduler.set_health(NEAR + FAR - decode, Health::Down);
        for batch in 1..=6 {
            let begun: Vec<(u64, usize)> = (0..batch).map(|_| self.begin(transfer)).collect();
            self.now += 100_000;
            for (number, position) in begun {
                assert_eq!(position, decode);
                self.end(number, 10 + 2 * batch);
            }
        }
        self.scheduler.set_health(NEAR + FAR - decode, Health::Up);
    }
}

#[test]
fn before_anything_is_learned_the_nearer_of_equals_takes_a_prompt_over() {
    for _ in 0..8 {
        let mut zones = TwoZones::new();
        assert_eq!(zones.begin(20).1, NEAR);
        assert_eq!(zones.begin(20).1, FAR, "the near one has a larger batch");
    }
}

#[test]
fn pairs_stay_in_their_zone_until_its_batch_costs_more_than_the_way_to_another() {
    let mut zones = TwoZones::new();
    zones.learn(NEAR, 10);
    zones.learn(FAR, 200);
    let places: Vec<usize> = (0..40).map(|_| zones.begin(10).1).collect();
    let at_first = places.iter().take_while(|&&place| place == NEAR).count();
    assert!((4..30).contains(&at_first), "{places:?}");
    assert!(places.contains(&FAR), "{places:?}");
}

#[test]
fn a_zone_that_is_not_slower_gets_its_share() {
    let mut zones = TwoZones::new();
    zones.learn(NEAR, 50);
    zones.learn(FAR, 50);
    let places: Vec<usize> = (0..10).map(|_| zones.begin(50).1).collect();
    let near = places.iter().filter(|&&place| place == NEAR).count();
    assert!((4..=6).contains(&near), "{places:?}");
}

#[test]
fn where_no_zone_is_known_nothing_is_near() {
    let mut unzoned = TwoZones::of(&ZONES.map(|(role, _)| (role, "")));
    unzoned.learn(NEAR, 10);
    unzoned.learn(FAR, 200);
    let places: Vec<usize> = (0..10).map(|_| unzoned.begin(10).1).collect();
    let first = places.iter().filter(|&&place| place == NEAR).count();
    assert!((4..=6).contains(&first), "{places:?}");
}

#[test]
fn an_explanation_names_the_endpoint_that_distance_chooses() {
    let mut zones = TwoZones::new();
    zones.learn(NEAR, 10);
    zones.learn(FAR, 200);
    let query = long(900, 2_000);
    let request = ScheduleRequest {
        key: key(900),
        query: &query,
        model: None,
        hits: &[],
        waited: Duration::ZERO,
        may_wait: true,
    };
    let explained = zones.scheduler.explain(request, ms(zones.now)).explain();
    let split = explained.split.expect("the pool has pairs");
    assert_eq!(split.decode.as_deref(), Some("server-1"));
    let candidates = explained.queue.expect("costs").candidates;
    assert!(candidates[0].transfer_s < 0.05, "{:?}", candidates[0]);
}
