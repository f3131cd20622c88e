//! Engines that compute several prompts at once, though nothing says so.

use std::collections::{BTreeMap, BinaryHeap};

use super::*;

/// How an engine behaves that computes a prompt alone at 8,000 tokens a second.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Engine {
    /// This number of schedulers, each a prompt after the other.
    Ranks(usize),
    /// All prompts begin at once, and none delays another.
    Independent,
}

/// Callers that each send the next prompt when the one before is answered.
struct ClosedLoop {
    scheduler: Scheduler,
    engine: Engine,
    /// When each rank is free.
    ranks: Vec<Duration>,
    /// First bytes to come: when, of which request, and when it was sent.
    coming: BinaryHeap<std::cmp::Reverse<(Duration, u64, Duration)>>,
    lengths: BTreeMap<u64, u32>,
    rng: SeededRng,
    requests: u64,
    answered: Vec<Duration>,
}

impl ClosedLoop {
    fn new(engine: Engine) -> Self {
        let ranks = match engine {
            Engine::Ranks(ranks) => ranks,
            Engine::Independent => 1,
        };
        Self {
            scheduler: scheduler(1),
            engine,
            ranks: vec![Duration::ZERO; ranks],
            coming: BinaryHeap::new(),
            lengths: BTreeMap::new(),
            rng: SeededRng::new(3),
            requests: 0,
            answered: Vec::new(),
        }
    }

    /// A prompt of about a second reaches the engine.
    fn send(&mut self, request: u64, now: Duration) {
        let time = Duration::from_secs_f64(f64::from(self.lengths[&request]) / 8_000.0);
        let done = match self.engine {
            Engine::Ranks(_) => {
                let rank = self.ranks.iter_mut().min().expect("a rank");
                *rank = now.max(*rank) + time;
                *rank
            }
            Engine::Independent => now + time,
        };
        self.coming.push(std::cmp::Reverse((done, request, now)));
    }

    fn ask(&mut self, now: Duration) {
        self.requests += 1;
        let tokens = 6_400 + 64 * self.rng.below(50) as u32;
        self.lengths.insert(self.requests, tokens);
        let query = prompt(1_000_000 + self.requests, tokens);
        if let ScheduleOutcome::Bound(_) = schedule(&mut self.scheduler, self.requests, &query, now)
        {
            self.send(self.requests, now);
        }
    }

    fn dequeue(&mut self, now: Duration) {
        for (request, place) in dequeued(&mut self.scheduler, now) {
            assert_eq!(place, Some(0), "no request may wait too long");
            self.send(request, now);
        }
    }

    /// Runs until this time; the most requests that were unanswered at the engine after `since`.
    fn run(&mut self, callers: usize, since: Duration, until: Duration) -> usize {
        (0..callers).for_each(|_| self.ask(Duration::ZERO));
        let (mut tick, mut most) = (ms(10), 0);
        while tick < until {
            while let Some(&std::cmp::Reverse((now, request, sent))) = self.coming.peek() {
                if now > tick {
                    break;
                }
                self.coming.pop();
                answer(&mut self.scheduler, request, now - sent, now);
                self.scheduler
                    .finished(key(request), EngineUsage::default(), now);
                self.answered.push(now);
                self.dequeue(now);
                self.ask(now);
            }
            self.dequeue(tick);
            self.scheduler.tick(tick);
            if tick >= since {
                most = most.max(self.coming.len());
            }
            tick += ms(10);
        }
        most
    }

    fn answered_since(&self, since: Duration) -> usize {
        self.answered.iter().filter(|at| **at >= since).count()
    }
}

const SINCE: Duration = Duration::from_secs(20);
const UNTIL: Duration = Duration::from_secs(320);

#[test]
fn ranks_that_no_label_shows_are_kept_as_busy_as_by_sending_at_once() {
    let mut fleet = ClosedLoop::new(Engine::Ranks(8));
    fleet.run(16, SINCE, UNTIL);
    // Sent at once, eight ranks answer 8 / 0.995 prompts a second.
    let expected = 8.0 / 0.995 * (UNTIL - SINCE).as_secs_f64();
    let share = fleet.answered_since(SINCE) as f64 / expected;
    assert!(share > 0.97, "{share}");
    let all = fleet.answered.len() as f64 / (8.0 / 0.995 * UNTIL.as_secs_f64());
    assert!(all > 0.95, "learning included: {all}");
}

#[test]
fn prompts_that_do_not_delay_each_other_are_sent_at_once() {
    let mut fleet = ClosedLoop::new(Engine::Independent);
    let most = fleet.run(16, SINCE, UNTIL);
    assert_eq!(most, 16);
}

#[test]
fn a_serial_engine_gets_one_prompt_after_the_other_and_rarely_one_behind_it() {
    let mut fleet = ClosedLoop::new(Engine::Ranks(1));
    let most = fleet.run(16, SINCE, UNTIL);
    assert!(most <= 2, "{most}");
    let share = fleet.answered_since(SINCE) as f64 * 0.995 / (UNTIL - SINCE).as_secs_f64();
    assert!(share > 0.95, "{share}");
    assert!(fleet.scheduler.endpoints.engine(0).interference() > 0.9);
}

#[test]
fn two_ranks_are_both_used() {
    let mut fleet = ClosedLoop::new(Engine::Ranks(2));
    fleet.run(8, SINCE, UNTIL);
    let expected = 2.0 / 0.995 * (UNTIL - SINCE).as_secs_f64();
    let share = fleet.answered_since(SINCE) as f64 / expected;
    assert!(share > 0.97, "{share}");
}

/// An endpoint with a prompt that is never answered, and others beside it.
struct BusyEndpoint {
    scheduler: Scheduler,
    requests: u64,
    now: Duration,
}

impl BusyEndpoint {
    fn new() -> Self {
        let mut scheduler = scheduler(2);
        scheduler.started(key(0), EndpointId(0), 64, false, ms(0));
        Self {
            scheduler,
            requests: 0,
            now: ms(0),
        }
    }

    fn send(&mut self, tokens: u32, non_streaming: bool) -> RequestKey {
        self.requests += 1;
        let key = key(self.requests);
        self.scheduler
            .started(key, EndpointId(0), tokens, non_streaming, self.now);
        key
    }

    fn book(&mut self) -> RequestKey {
        self.requests += 1;
        let (key, query) = (key(self.requests), prompt(self.requests, 640));
        self.scheduler.book_fixed(key, 0, &query, self.now);
        key
    }

    fn end(&mut self, key: RequestKey) {
        self.scheduler
            .finished(key, EngineUsage::default(), self.now);
    }

    fn answer(&mut self, key: RequestKey, ttft: Duration) {
        self.scheduler.first_byte(key, Some(ttft), self.now);
        self.end(key);
    }

    /// Prompts of different lengths alone, and then one behind another one, which delays it by this
    /// share of its second.
    fn round(&mut self, share: f64) {
        for tokens in [4_000, 8_000, 12_000, 6_000] {
            let alone = self.send(tokens, false);
            let ttft = ms(u64::from(tokens) / 8);
            self.now += ttft;
            self.answer(alone, ttft);
        }
        let (first, second) = (self.send(8_000, false), self.send(4_000, false));
        self.now += ms(1_000);
        self.answer(first, ms(1_000));
        let ttft = ms(500) + Duration::from_secs_f64(share);
        self.now += ttft.saturating_sub(ms(1_000));
        self.answer(second, ttft);
        self.scheduler.tick(self.now);
    }
}

/// The delay is still learned after many prompts left in this way without a first byte.
#[track_caller]
fn the_delay_is_learned_after(leave: impl Fn(&mut BusyEndpoint)) {
    let mut endpoint = BusyEndpoint::new();
    (0..12).for_each(|_| endpoint.round(0.0));
    let share = |endpoint: &BusyEndpoint| endpoint.scheduler.endpoints.engine(0).interference();
    assert!(share(&endpoint) < 0.1, "{}", share(&endpoint));
    (0..100).for_each(|_| leave(&mut endpoint));
    (0..12).for_each(|_| endpoint.round(1.0));
    assert!(share(&endpoint) > 0.9, "{}", share(&endpoint));
}

#[test]
fn requests_that_fail_leave_the_delay_to_be_learned() {
    the_delay_is_learned_after(|endpoint| {
        let failed = endpoint.send(640, false);
        endpoint.end(failed);
    });
}

#[test]
fn legs_that_end_leave_the_delay_to_be_learned() {
    the_delay_is_learned_after(|endpoint| {
        let leg = endpoint.send(640, false).leg(LegId::MAIN);
        endpoint.scheduler.leg_finished(leg, endpoint.now);
    });
}

#[test]
fn bookings_that_are_cancelled_or_expire_leave_the_delay_to_be_learned() {
    the_delay_is_learned_after(|endpoint| {
        let booked = endpoint.book();
        endpoint.scheduler.cancel(booked, endpoint.now);
    });
    the_delay_is_learned_after(|endpoint| {
        endpoint.book();
        endpoint.now += ms(6_000);
        endpoint.scheduler.tick(endpoint.now);
    });
}

#[test]
fn retries_elsewhere_leave_the_delay_to_be_learned() {
    the_delay_is_learned_after(|endpoint| {
        let moved = endpoint.send(640, false);
        let (scheduler, now) = (&mut endpoint.scheduler, endpoint.now);
        scheduler.started(moved, EndpointId(1), 640, false, now);
    });
}

#[test]
fn answers_that_come_as_a_whole_leave_the_delay_to_be_learned() {
    the_delay_is_learned_after(|endpoint| {
        endpoint.send(640, true);
        endpoint.now += ms(60_000);
        endpoint.scheduler.endpoints.assume_done(endpoint.now);
    });
}
