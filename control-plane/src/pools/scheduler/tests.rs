//! Scenarios of [`PoolScheduler`]: time is an argument.

use hermes_core::{
    ledger::{LegId, LegKey, LegPhase, ListedLeg, ProxyId, RequestId},
    load::EngineSample,
    policy::{PoolPolicy, Strategy},
    refusals::SecondOpinion,
    scheduler::EngineUsage,
    snapshot::{Endpoint, PoolSpec, Role},
};
use hermes_proto::v1::{AnswerClass, RequestOutcome as Report};
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use super::*;
use crate::{
    engines::{ProbeFailure, ProbeResult, Scraped},
    metrics::ControlPlaneMetrics,
};

mod attempts;
mod departures;
mod load_rows;
mod postponed_plans;
mod probes;

const STALE: Duration = Duration::from_secs(5);
const SETTINGS: SchedulerSettings = SchedulerSettings {
    stale_after: STALE,
    lanes: None,
    kv_event_ranks: None,
};
const TTFT: Duration = Duration::from_millis(5);
const ONE: ProxyId = ProxyId(1);
const TWO: ProxyId = ProxyId(2);

fn pool(endpoints: usize) -> Arc<Pool> {
    pool_that_picks_by(Strategy::LeastRequest, endpoints)
}

fn pool_that_picks_by(strategy: Strategy, endpoints: usize) -> Arc<Pool> {
    let endpoint = |index: usize| {
        let url = format!("http://10.0.0.{index}:8000");
        let address = url.parse().expect("an address");
        Arc::new(Endpoint {
            id: EndpointId::of("chat", &address, ""),
            name: url.into(),
            address,
            role: Role::Aggregate,
            group: None,
            pairing: hermes_core::snapshot::PairingFacts::default(),
        })
    };
    let mut endpoints: Vec<_> = (0..endpoints).map(endpoint).collect();
    endpoints.sort_by_key(|endpoint| endpoint.id);
    let policy = PoolPolicy {
        strategy,
        ..PoolPolicy::default()
    };
    Arc::new(Pool {
        spec: Arc::new(PoolSpec::new("chat", policy)),
        models: hermes_core::collection::Collection::default(),
        endpoints: endpoints.into(),
    })
}

fn scheduler(endpoints: usize) -> PoolScheduler {
    scheduler_of(&pool(endpoints))
}

fn scheduler_of(pool: &Arc<Pool>) -> PoolScheduler {
    let metrics = ControlPlaneMetrics::register(&mut Registry::default());
    PoolScheduler::new(pool, SETTINGS, shared(&metrics), 7)
}

fn shared(metrics: &ControlPlaneMetrics) -> (Arc<Handles<SchedulerMetrics>>, Arc<QueueWaker>) {
    (metrics.pool(&"chat".into()), Arc::default())
}

fn key(proxy: ProxyId, request: u64) -> RequestKey {
    RequestKey {
        proxy,
        request: RequestId(request),
    }
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn arrival(key: RequestKey, query: &Query) -> ScheduleRequest<'_> {
    ScheduleRequest {
        key,
        query,
        model: None,
        hits: &[],
        waited: Duration::ZERO,
        may_wait: true,
    }
}

impl PoolScheduler {
    fn first(&self, key: RequestKey, now: Duration) -> EndpointId {
        let query = Query {
            prompt_tokens: 100,
            ..Query::default()
        };
        match self.choose(arrival(key, &query), now) {
            ScoreDecision::Bound(binding) => binding.choice.ranked[0].endpoint,
            other => panic!("no endpoint: {other:?}"),
        }
    }

    fn load(&self, endpoint: EndpointId) -> Load {
        let state = self.state.lock();
        state.scheduler.loads()[state
            .scheduler
            .pool()
            .position(endpoint)
            .expect("the endpoint is there")]
    }

    fn scrape(&self, endpoint: EndpointId, outcome: Result<Scraped, ProbeFailure>, now: Duration) {
        self.observe(
            &ProbeResult {
                endpoint,
                pool: "chat".into(),
                at: Instant::now(),
                outcome,
                is_loading: false,
                models: None,
                pairing: None,
            },
            now,
        );
    }

    fn ends(&self, leg: impl Into<LegKey>, endpoint: EndpointId, outcome: Report, now: Duration) {
        self.finished(
            leg,
            FinishReport {
                endpoint: Some(endpoint),
                outcome,
                answer: AnswerClass::Unspecified,
                is_blamed: false,
                ended: EngineUsage::default(),
                ttft: None,
            },
            now,
        );
    }

    /// Health and figures are what the breakers and the samples say.
    fn assert_loads_are_true(&self, now: Duration) {
        let mut state = self.state.lock();
        let kept = state.scheduler.loads().to_vec();
        state.reassess_all(now);
        assert_eq!(kept, state.scheduler.loads());
    }
}

/// As an older proxy reports it.
fn failed_attempt(endpoint: EndpointId, outcome: Report) -> AttemptReport {
    AttemptReport {
        endpoint,
        outcome,
        answer: AnswerClass::Unspecified,
        retry_after: None,
        opinion: SecondOpinion::None,
    }
}

#[test]
fn a_choice_is_booked_before_the_next_one_so_two_proxies_do_not_herd() {
    let scheduler = scheduler(2);
    let first = scheduler.first(key(ONE, 1), at(0));
    let second = scheduler.first(key(TWO, 1), at(0));
    assert_ne!(first, second);
    assert_eq!(
        (
            scheduler.load(first).in_flight,
            scheduler.load(first).pending_tokens
        ),
        (1, 100)
    );
    scheduler.assert_loads_are_true(at(0));
}

#[test]
fn a_request_is_followed_from_booking_to_its_end() {
    let scheduler = scheduler(1);
    let (request, now) = (key(ONE, 1), at(0));
    let endpoint = scheduler.first(request, now);
    scheduler.started(request, endpoint, 60, false, now);
    assert_eq!(
        (
            scheduler.load(endpoint).in_flight,
            scheduler.load(endpoint).pending_tokens
        ),
        (1, 100),
        "what was booked"
    );
    scheduler.first_byte(request, TTFT, now);
    assert_eq!(
        (
            scheduler.load(endpoint).in_flight,
            scheduler.load(endpoint).pending_tokens
        ),
        (1, 0)
    );
    scheduler.ends(request, endpoint, Report::Ok, now);
    scheduler.ends(request, endpoint, Report::Ok, now);
    assert_eq!(scheduler.load(endpoint), Load::default());
}

#[test]
fn a_retry_elsewhere_moves_the_booking() {
    let scheduler = scheduler(2);
    let (request, now) = (key(ONE, 1), at(0));
    let failed = scheduler.first(request, now);
    let other = scheduler
        .pool()
        .endpoints
        .iter()
        .map(|endpoint| endpoint.id)
        .find(|&id| id != failed)
        .expect("two endpoints");
    scheduler.attempt_failed(failed_attempt(failed, Report::Unreachable), now);
    scheduler.started(request, other, 100, false, now);
    assert_eq!(
        (
            scheduler.load(failed).in_flight,
            scheduler.load(other).in_flight
        ),
        (0, 1)
    );
    scheduler.assert_loads_are_true(now);
}

#[test]
fn a_second_choice_for_a_request_replaces_the_first() {
    let scheduler = scheduler(2);
    scheduler.first(key(ONE, 1), at(0));
    scheduler.first(key(ONE, 1), at(0));
    assert_eq!(scheduler.census().bookings, 1);
    scheduler.assert_loads_are_true(at(0));
}

#[test]
fn a_cancel_takes_back_what_was_not_sent_and_nothing_else() {
    let scheduler = scheduler(1);
    let endpoint = scheduler.first(key(ONE, 1), at(0));
    scheduler.cancel(key(ONE, 1), at(0));
    assert_eq!(scheduler.load(endpoint).in_flight, 0);
    scheduler.first(key(ONE, 2), at(0));
    scheduler.started(key(ONE, 2), endpoint, 100, false, at(0));
    scheduler.cancel(key(ONE, 2), at(0));
    assert_eq!(scheduler.load(endpoint).in_flight, 1);
}

#[test]
fn a_dead_proxy_takes_its_requests_with_it_and_silence_its_bookings() {
    let scheduler = scheduler(1);
    let endpoint = scheduler.first(key(ONE, 1), at(0));
    scheduler.started(key(ONE, 1), endpoint, 100, false, at(0));
    scheduler.first(key(TWO, 1), at(0));
    scheduler.forget_proxy(ONE, at(1));
    assert_eq!(scheduler.load(endpoint).in_flight, 1);
    scheduler.tick(at(60));
    assert_eq!(
        scheduler.load(endpoint).in_flight,
        0,
        "no report that the booked request was sent"
    );
}

#[test]
fn open_requests_of_a_proxy_replace_its_bookings() {
    let scheduler = scheduler(1);
    let endpoint = scheduler.first(key(ONE, 1), at(0));
    scheduler.started(key(ONE, 1), endpoint, 100, false, at(0));
    let listed = |request, endpoint, phase| ListedLeg {
        request: RequestId(request),
        leg: LegId::MAIN,
        endpoint,
        tokens: 30,
        phase,
    };
    scheduler.replace_proxy(
        ONE,
        vec![
            listed(9, endpoint, LegPhase::Answering),
            listed(8, EndpointId(0), LegPhase::Sent),
        ],
        at(1),
    );
    assert_eq!(
        (
            scheduler.load(endpoint).in_flight,
            scheduler.load(endpoint).pending_tokens
        ),
        (1, 0)
    );
    assert_eq!(
        scheduler.census().bookings,
        1,
        "what it has open at an endpoint that is gone counts nowhere"
    );
}

#[test]
fn failures_take_an_endpoint_out_and_the_choice_goes_elsewhere() {
    let scheduler = scheduler(2);
    let bad = scheduler.pool().endpoints[0].id;
    for _ in 0..3 {
        scheduler.attempt_failed(failed_attempt(bad, Report::Failed), at(0));
    }
    assert_eq!(scheduler.load(bad).health, Health::Down);
    for request in 0..10 {
        assert_ne!(scheduler.first(key(ONE, request), at(0)), bad);
    }
}

#[test]
fn a_leg_that_fails_counts_against_its_own_endpoint() {
    let scheduler = scheduler(2);
    let (good, bad) = (
        scheduler.pool().endpoints[0].id,
        scheduler.pool().endpoints[1].id,
    );
    let other = LegId::new(1).expect("a leg of a request");
    for request in (0..3).map(|request| key(ONE, request)) {
        scheduler.started(request, good, 100, false, at(0));
        scheduler.started(request.leg(other), bad, 100, false, at(0));
        scheduler.ends(request.leg(other), bad, Report::Failed, at(0));
        scheduler.ends(request, good, Report::Ok, at(0));
    }
    let health = (scheduler.load(good).health, scheduler.load(bad).health);
    assert_eq!(health, (Health::Up, Health::Down));
    assert_eq!(scheduler.census().bookings, 0);
}

#[test]
fn backpressure_and_clients_who_leave_are_no_failures() {
    let scheduler = scheduler(1);
    let endpoint = scheduler.pool().endpoints[0].id;
    for request in 0..20 {
        scheduler.first(key(ONE, request), at(0));
        scheduler.attempt_failed(failed_attempt(endpoint, Report::Overloaded), at(0));
        scheduler.ends(key(ONE, request), endpoint, Report::Cancelled, at(0));
    }
    assert_eq!(scheduler.load(endpoint).health, Health::Up);
}

#[test]
fn figures_that_grow_old_are_absent_and_not_zero() {
    let scheduler = scheduler(1);
    let endpoint = scheduler.pool().endpoints[0].id;
    let sample = EngineSample {
        waiting: Some(3),
        ..EngineSample::default()
    };
    scheduler.scrape(
        endpoint,
        Ok(Scraped {
            sample,
            ..Scraped::default()
        }),
        at(1),
    );
    assert_eq!(scheduler.load(endpoint).sample, Some(sample));
    scheduler.tick(at(1) + STALE);
    assert_eq!(scheduler.load(endpoint).sample, Some(sample));
    scheduler.tick(at(2) + STALE);
    assert_eq!(scheduler.load(endpoint).sample, None);
}

/// How many requests of 8,000 tokens an endpoint takes at once, when its metrics name this many
/// schedulers.
fn taken_at_once(settings: SchedulerSettings, schedulers: Option<u32>) -> usize {
    let plain = pool(1);
    let policy = PoolPolicy::default();
    let pool = Arc::new(Pool {
        spec: Arc::new(PoolSpec {
            policy,
            ..(*plain.spec).clone()
        }),
        ..(*plain).clone()
    });
    let metrics = ControlPlaneMetrics::register(&mut Registry::default());
    let scheduler = PoolScheduler::new(&pool, settings, shared(&metrics), 7);
    let scraped = Scraped {
        schedulers,
        ..Scraped::default()
    };
    scheduler.scrape(pool.endpoints[0].id, Ok(scraped), at(0));
    // A later page without the labels changes nothing, nor does another version of the pool.
    scheduler.scrape(pool.endpoints[0].id, Ok(Scraped::default()), at(1));
    scheduler.apply(&Arc::new((*pool).clone()), settings, at(1));
    let query = Query {
        prompt_tokens: 8_000,
        ..Query::default()
    };
    let bound = (0..20).take_while(|&request| {
        let decision = scheduler.choose(arrival(key(ONE, request), &query), at(1));
        matches!(decision, ScoreDecision::Bound(_))
    });
    bound.count()
}

#[test]
fn an_endpoint_takes_as_many_prompts_at_once_as_its_engine_has_schedulers() {
    assert_eq!(taken_at_once(SETTINGS, None), 1);
    assert_eq!(taken_at_once(SETTINGS, Some(8)), 8);
    let configured = SchedulerSettings {
        lanes: Some(3),
        ..SETTINGS
    };
    assert_eq!(taken_at_once(configured, Some(8)), 3);
}

#[test]
fn an_engine_that_sleeps_is_left_alone() {
    let scheduler = scheduler(2);
    let endpoint = scheduler.pool().endpoints[0].id;
    scheduler.scrape(
        endpoint,
        Ok(Scraped {
            asleep: Some(true),
            ..Scraped::default()
        }),
        at(0),
    );
    assert_ne!(scheduler.first(key(ONE, 1), at(0)), endpoint);
}

#[test]
fn endpoints_that_stay_keep_their_state_and_those_that_go_their_bookings_no_more() {
    let scheduler = scheduler(2);
    let (a, b) = (
        scheduler.first(key(ONE, 1), at(0)),
        scheduler.first(key(ONE, 2), at(0)),
    );
    let mut smaller = (*scheduler.pool()).clone();
    let stays = smaller.endpoints.find(&b).cloned();
    smaller.endpoints = stays.into_iter().collect();
    scheduler.apply(&Arc::new(smaller), SETTINGS, at(1));
    assert_eq!(
        (scheduler.load(b).in_flight, scheduler.census().bookings),
        (1, 1)
    );
    scheduler.ends(key(ONE, 1), a, Report::Ok, at(1));
    scheduler.assert_loads_are_true(at(1));
}

#[test]
fn an_endpoint_on_trial_gets_one_request_at_a_time() {
    let scheduler = scheduler(2);
    let bad = scheduler.pool().endpoints[0].id;
    for _ in 0..3 {
        scheduler.attempt_failed(failed_attempt(bad, Report::Failed), at(0));
    }
    let due = at(2);
    scheduler.tick(due);
    let turns = (0..200)
        .map(|request| scheduler.first(key(ONE, request), due))
        .filter(|&endpoint| endpoint == bad)
        .count();
    assert_eq!(turns, 1, "until it is known what became of it");
}

#[test]
fn explaining_books_nothing_and_advances_no_random_numbers() {
    let scheduler = scheduler(3);
    let query = Query::default();
    let first = scheduler.explain(arrival(key(ONE, 1), &query), at(0));
    assert_eq!(
        scheduler.explain(arrival(key(ONE, 1), &query), at(0)),
        first
    );
    assert_eq!(scheduler.census().bookings, 0);
}
