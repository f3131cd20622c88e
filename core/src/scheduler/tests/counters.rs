//! Confidence in claims about engines that report no cached tokens per request, only counters.

use std::collections::{BTreeMap, HashSet};

use proptest::{
    prelude::{ProptestConfig, any, prop_assert},
    prop_oneof, proptest,
    strategy::Strategy as _,
};

use super::*;

/// Uncached prompt tokens that the engine computes in a second.
const RATE: f64 = 8_000.0;

/// One engine that computes one prompt after the other and counts hits when a prompt begins.
struct CountingEngine {
    scheduler: Scheduler,
    /// The time when it is idle again.
    idle_at: f64,
    cached: HashSet<u64>,
    /// Share of what is cached that it still has when it is asked.
    kept: f64,
    looked_up: u64,
    found: u64,
    /// What comes next, by microseconds.
    agenda: BTreeMap<(u64, usize), EngineEvent>,
    events: usize,
}

#[derive(Clone, Debug)]
enum EngineEvent {
    Arrives(u64),
    Begins(Query),
    Answers(u64, f64),
    Ends(u64),
    Scraped,
}

/// Requests and what becomes of them.
#[derive(Clone, Copy, Debug)]
struct CountedTraffic {
    per_second: f64,
    answer_seconds: f64,
    /// Each answer comes as a whole.
    non_streaming: bool,
    kept: f64,
    requests: u64,
}

impl CountingEngine {
    fn run(traffic: CountedTraffic) -> Self {
        let mut scheduler = scheduler(1);
        scheduler.set_capacity(0, Some(10_000_000));
        let mut engine = Self {
            scheduler,
            idle_at: 0.0,
            cached: HashSet::new(),
            kept: traffic.kept,
            looked_up: 0,
            found: 0,
            agenda: BTreeMap::new(),
            events: 0,
        };
        for request in 0..traffic.requests {
            // Unequal distances: answers of neighbors overlap in any way.
            let jitter = (request * 7 % 10) as f64 / 10.0;
            engine.at(
                (request as f64 + jitter) / traffic.per_second,
                EngineEvent::Arrives(request),
            );
        }
        let end = traffic.requests as f64 / traffic.per_second + traffic.answer_seconds + 30.0;
        for scrape in 0..end as u64 {
            engine.at(scrape as f64 + 0.37, EngineEvent::Scraped);
        }
        while let Some(((micros, _), event)) = engine.agenda.pop_first() {
            engine.step(event, Duration::from_micros(micros), traffic);
        }
        engine
    }

    fn at(&mut self, seconds: f64, event: EngineEvent) {
        self.events += 1;
        self.agenda
            .insert(((seconds * 1e6) as u64, self.events), event);
    }

    fn step(&mut self, event: EngineEvent, now: Duration, traffic: CountedTraffic) {
        match event {
            EngineEvent::Arrives(request) => self.arrives(request, now, traffic),
            EngineEvent::Begins(query) => {
                self.looked_up += u64::from(query.prompt_tokens);
                self.found += (self.hits(&query) * self.kept) as u64;
                self.cached.extend(query.blocks.iter().copied());
            }
            EngineEvent::Answers(request, ttft) => {
                let ttft = Duration::from_secs_f64(ttft);
                _ = self.scheduler.first_byte(key(request), Some(ttft), now);
            }
            EngineEvent::Ends(request) => {
                _ = self
                    .scheduler
                    .finished(key(request), EngineUsage::default(), now);
            }
            EngineEvent::Scraped => {
                let counters = CacheCounters {
                    looked_up: self.looked_up,
                    found: self.found,
                };
                self.scheduler.cache_counted(0, counters, now);
                self.scheduler.tick(now);
            }
        }
    }

    /// Twenty conversations at a time, each of which grows for ten rounds.
    fn arrives(&mut self, request: u64, now: Duration, traffic: CountedTraffic) {
        let (conversation, round) = (request % 20 + 20 * (request / 200), request / 20 % 10);
        let query = Query {
            non_streaming: traffic.non_streaming,
            ..prompt(1 + conversation, 640 + 192 * round as u32)
        };
        let arrival = ScheduleRequest {
            key: key(request),
            query: &query,
            model: None,
            hits: &[],
            waited: Duration::ZERO,
            may_wait: false,
        };
        assert!(matches!(
            self.scheduler.schedule(arrival, now),
            ScheduleOutcome::Bound(_)
        ));
        let uncached = f64::from(query.prompt_tokens) - self.hits(&query);
        let (sent, begins) = (now.as_secs_f64(), self.idle_at.max(now.as_secs_f64()));
        self.idle_at = begins + uncached.max(1.0) / RATE;
        let (computed, ends) = (self.idle_at, self.idle_at + traffic.answer_seconds);
        self.scheduler.started(
            key(request),
            EndpointId(0),
            query.prompt_tokens,
            traffic.non_streaming,
            now,
        );
        self.at(begins, EngineEvent::Begins(query));
        let first = if traffic.non_streaming {
            ends
        } else {
            computed
        };
        self.at(first, EngineEvent::Answers(request, first - sent));
        self.at(ends, EngineEvent::Ends(request));
    }

    fn hits(&self, query: &Query) -> f64 {
        let known = query.blocks.iter();
        let known = known.take_while(|block| self.cached.contains(block));
        // The last token is always computed.
        (known.count() as f64 * f64::from(BLOCK)).min(f64::from(query.prompt_tokens) - 1.0)
    }

    /// The confidence in the learned index, and the share of the cache that it uses.
    fn learned(&self) -> (f32, f32) {
        (
            self.scheduler.endpoints.confidence(0)[CacheSource::Learned as usize],
            self.scheduler.endpoints.index_share(0),
        )
    }
}

fn traffic() -> impl proptest::strategy::Strategy<Value = CountedTraffic> {
    let rate = prop_oneof![0.05..1.0, 1.0..20.0];
    (rate, 0.05..40.0, any::<bool>()).prop_map(|(per_second, answer_seconds, non_streaming)| {
        CountedTraffic {
            per_second,
            answer_seconds,
            non_streaming,
            kept: 1.0,
            requests: 1_000,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn true_claims_keep_confidence_and_the_whole_index_at_any_rate_and_answer_length(traffic in traffic()) {
        let (confidence, share) = CountingEngine::run(traffic).learned();
        prop_assert!(confidence >= 0.95, "confidence {confidence}");
        prop_assert!(share >= 1.0, "share {share}");
    }

    #[test]
    fn false_claims_lose_confidence_within_100_prompts_and_ten_times_what_is_in_flight(
        traffic in traffic(),
        kept in 0.0..0.3,
    ) {
        let in_flight = traffic.per_second * (traffic.answer_seconds + 1.0);
        let requests = 100 + (10.0 * in_flight) as u64;
        let traffic = CountedTraffic { kept, requests, ..traffic };
        let (confidence, share) = CountingEngine::run(traffic).learned();
        prop_assert!(confidence <= 0.45 + 1.3 * kept as f32, "confidence {confidence}");
        prop_assert!(share < 0.95, "share {share}");
    }
}
