//! Endpoints that do both: halves of pairs where that costs less than a whole request.

use super::*;

/// Two endpoints that do both, which generate answers at 10 ms a token, and 2 ms more for each
/// answer at once; and perhaps others, which are down.
struct TwoOfBoth {
    scheduler: Scheduler,
    now: u64,
    requests: u64,
    /// The prompt that the second one computes.
    computed: Option<u64>,
}

impl TwoOfBoth {
    fn new() -> Self {
        Self::of(PairDialect::VllmNixl, &[])
    }

    fn of(dialect: PairDialect, others: &[Role]) -> Self {
        let roles = [&[Role::Both, Role::Both], others].concat();
        let pool = pool_of(dialect, &roles);
        let mut both = Self {
            scheduler: Scheduler::new(&pool, SeededRng::new(1)),
            now: 0,
            requests: 0,
            computed: None,
        };
        for position in 2..roles.len() {
            both.scheduler.set_health(position, Health::Down);
        }
        for batch in 1..=6 {
            let begun: Vec<u64> = (0..batch).map(|_| both.begin_at(0, 10)).collect();
            both.now += 100_000;
            for number in begun {
                both.end(number, 10 + 2 * batch);
            }
        }
        both
    }

    /// A whole request of N tokens is answered by one of them.
    fn begin_at(&mut self, position: usize, tokens: u32) -> u64 {
        let other = 1 - position;
        self.scheduler.set_health(other, Health::Down);
        let placed = self.place(&Query {
            split: false,
            ..long(self.requests + 1, tokens)
        });
        self.scheduler.set_health(other, Health::Up);
        assert_eq!((placed.position, placed.decode), (position, None));
        self.now += 5;
        let number = key(self.requests);
        self.scheduler.first_byte(number, Some(ms(5)), ms(self.now));
        self.requests
    }

    fn place(&mut self, query: &Query) -> RankedEndpoint {
        self.requests += 1;
        let request = ScheduleRequest {
            key: key(self.requests),
            query,
            model: None,
            hits: &[],
            waited: Duration::ZERO,
            may_wait: false,
        };
        first(self.scheduler.schedule(request, ms(self.now)))
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

    /// The first one generates many answers, and the second one has a prompt to compute for the next
    /// seconds.
    fn lean(&mut self) {
        for _ in 0..12 {
            self.begin_at(0, 10);
        }
        self.compute();
    }

    /// The second one gets a prompt, after the one that it had.
    fn compute(&mut self) {
        if let Some(computed) = self.computed.take() {
            self.now += 5_000;
            self.scheduler
                .first_byte(key(computed), Some(ms(5_000)), ms(self.now));
            self.end(computed, 12);
        }
        self.scheduler.set_health(0, Health::Down);
        let prompt = self.place(&prompt(self.requests, 40_000));
        self.scheduler.set_health(0, Health::Up);
        assert_eq!(prompt.position, 1);
        self.computed = Some(self.requests);
    }

    /// Where the next prompt of 2,000 tokens goes, which is cancelled.
    fn next(&mut self) -> RankedEndpoint {
        let placed = self.place(&long(900 + self.requests, 2_000));
        self.scheduler.cancel(key(self.requests), ms(self.now));
        placed
    }

    /// A pair is tried whose transfer takes this many milliseconds.
    fn try_pair(&mut self, transfer: u64) {
        let placed = self.place(&long(900 + self.requests, 2_000));
        assert!(placed.decode.is_some());
        self.now += 250;
        let leg = key(self.requests).leg(LegId::PREFILL);
        self.scheduler.first_byte(leg, Some(ms(250)), ms(self.now));
        self.scheduler.leg_finished(leg, ms(self.now));
        self.now += transfer;
        self.scheduler
            .first_byte(key(self.requests), None, ms(self.now));
        self.end(self.requests, 12);
        self.compute();
    }
}

#[test]
fn idle_endpoints_that_do_both_serve_whole_requests() {
    let mut both = TwoOfBoth::new();
    let placed = both.next();
    assert_eq!(placed.decode, None);
}

#[test]
fn a_prompt_is_computed_where_answers_are_many_and_answered_where_prompts_are() {
    let mut both = TwoOfBoth::new();
    both.lean();
    let placed = both.next();
    let decode = placed.decode.map(|decode| decode.position);
    assert_eq!((placed.position, decode), (0, Some(1)));
}

#[test]
fn where_a_pool_has_no_prefill_endpoints_pairs_are_tried_until_they_show_a_slow_transfer() {
    let mut both = TwoOfBoth::new();
    both.lean();
    for _ in 0..4 {
        assert!(both.next().decode.is_some(), "by what is assumed");
        both.try_pair(3_000);
    }
    assert_eq!(both.next().decode, None);
}

#[test]
fn a_prompt_is_computed_where_its_beginning_is_cached_and_answered_where_fewer_are() {
    let mut both = TwoOfBoth::new();
    both.scheduler.set_health(1, Health::Down);
    for _ in 0..6 {
        let turn = both.place(&prompt(7, 4_096));
        both.now += 600;
        both.scheduler
            .first_byte(key(both.requests), Some(ms(600)), ms(both.now));
        assert_eq!(turn.position, 0);
    }
    both.scheduler.set_health(1, Health::Up);
    let placed = both.place(&long(7, 4_096 + 512));
    let decode = placed.decode.map(|decode| decode.position);
    assert_eq!((placed.position, decode), (0, Some(1)));
}

#[test]
fn a_few_pairs_are_on_their_way_while_nothing_is_known_of_transfers() {
    let mut both = TwoOfBoth::new();
    both.lean();
    let mut pairs = 0;
    for _ in 0..40 {
        let placed = both.place(&long(900 + both.requests, 2_000));
        pairs += usize::from(placed.decode.is_some());
    }
    assert!((1..=8).contains(&pairs), "{pairs}");
}

#[test]
fn a_dialect_without_such_engines_gets_whole_requests() {
    for dialect in PairDialect::ALL {
        let mut both = TwoOfBoth::of(dialect, &[]);
        both.lean();
        let is_split = both.next().decode.is_some();
        assert_eq!(is_split, dialect.has_engines_for_both(), "{dialect:?}");
    }
}

#[test]
fn beside_a_prefill_endpoint_they_are_prefill_halves_once_its_pairs_have_shown_the_transfer() {
    let mut both = TwoOfBoth::of(PairDialect::VllmNixl, &[Role::Prefill]);
    both.lean();
    assert_eq!(both.next().decode, None, "nothing is assumed here");
    both.scheduler.set_health(0, Health::Down);
    for _ in 0..4 {
        both.scheduler.set_health(2, Health::Up);
        both.scheduler.set_health(0, Health::Down);
        both.try_pair(50);
    }
    both.scheduler.set_health(2, Health::Down);
    let placed = both.next();
    assert_eq!((placed.position, placed.decode.is_some()), (0, true));
}
