//! Schedules the requests of one pool: which endpoint each request gets, now or later, as a state
//! machine.
//!
//! ```text
//!          schedule ──▶ estimates (caches) ─▶ costs ──room?──▶ bound: booked, learned
//!                                             │ no
//!                                             ▼
//!   first bytes, ends, ─▶ dequeue ◀── queue (highest response ratio first)
//!   samples, time             └──▶ bound, one by one, as endpoints get room; one plan a millisecond
//! ```
//!
//! `kv-aware` binds late: a request waits here, not in an engine's queue, until the endpoint where
//! it costs least has room. More urgent requests may arrive meanwhile, and new information may
//! change its endpoint. An endpoint has room while a prompt that is sent there begins within
//! [`KvAware::window`] at its learned speed, in one of its lanes, and its memory takes the prompt.
//! An idle fleet has room everywhere, and nothing is queued. All other strategies, and `kv-aware`
//! bound early, are answered at once.
//!
//! Owns two values that do not read each other: the endpoints ([`Fleet`]: engines, caches, ledger)
//! and the requests ([`PoolRequests`]: queue, shares, metadata). What relates them are eligible
//! sets ([`EligibleSet`]): the endpoints that may serve a request. Queue, γ and search are per set.
//!
//! Production, `hermes simulate` and the tests run this code. Pure: time is an argument and must
//! not go backwards.
//!
//! Invariants:
//! * a request is queued or booked, never both, and is booked at most once;
//! * the queue, the metadata of open requests and the tenants' accounts are bounded;
//! * positions are those of the pool that was applied last.

use std::{collections::HashMap, sync::Arc, time::Duration};

use smallvec::SmallVec;

use crate::{
    explanation::ExpectedCosts,
    ledger::{InFlightTotals, ProxyId, RequestKey},
    load::Load,
    pick::{EligibleSet, NoEndpoint},
    policy::KvAware,
    query::{CacheHit, CacheSource, EndpointChoice, Query},
    rng::SeededRng,
    snapshot::{EndpointId, Pool},
};

mod bind;
mod cost;
mod engine;
mod explain;
mod fleet;
mod lookup;
mod pace;
mod pair;
mod plan;
mod queue;
mod rents;
mod reports;
mod requests;
mod shares;
mod speed;
mod utilization;

pub use crate::estimate::CacheCounters;
use bind::PendingBinding;
use cost::{CandidateEndpoint, CostedPrompt, EndpointCost, WastePrice};
pub use explain::ExplanationFigures;
pub use fleet::PoolPressure;
use fleet::{Fleet, RoomRequirement};
use lookup::CacheLookup;
use pace::PlanPace;
use queue::QueuedRequest;
use rents::PrefixRents;
pub use reports::{CachePrediction, EngineUsage};
use requests::PoolRequests;

/// See the module.
#[derive(Debug)]
pub struct Scheduler {
    endpoints: Fleet,
    requests: PoolRequests,
    /// What requests paid for want of copies of common prefixes.
    rents: PrefixRents,
    pace: PlanPace,
    /// Choices so far.
    round_robin_counter: u64,
    rng: SeededRng,
}

/// A request to be scheduled.
#[derive(Clone, Copy, Debug)]
pub struct ScheduleRequest<'a> {
    /// Its key.
    pub key: RequestKey,
    /// Its size, hashes and class.
    pub query: &'a Query,
    /// The model it names.
    pub model: Option<&'a str>,
    /// Cache hits from sources other than the learned index.
    pub hits: &'a [CacheHit],
    /// How long it has been queued elsewhere.
    pub waited: Duration,
    /// Whether it may be queued. If not, it is bound at once to the endpoint where it costs least.
    pub may_wait: bool,
}

/// The immediate result of scheduling a request.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "most are the large one, and a box would cost an allocation for each"
)]
pub enum ScheduleOutcome {
    /// It is booked.
    Bound(Assignment),
    /// It is queued; [`Scheduler::dequeue`] will return it.
    Queued {
        /// The expected time until it is bound.
        expected: Duration,
        /// The time after which it leaves the queue unbound.
        limit: Duration,
        /// The number of requests queued before it.
        position: usize,
        /// The queued request that was evicted for it.
        evicted: Option<EvictedRequest>,
    },
    /// The queue is full.
    QueueFull {
        /// When to retry.
        retry_after: Duration,
    },
    /// No endpoint can serve it.
    NoEndpoint(NoEndpoint),
    /// Its proxy sent it without waiting for this; nothing changed.
    AlreadySent,
}

/// A queued request that was evicted, of a tenant that had more of them than another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvictedRequest {
    /// Its key.
    pub key: RequestKey,
    /// When to retry.
    pub retry_after: Duration,
}

/// A booked choice, and what was expected of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    /// Endpoints to try, best first.
    pub choice: EndpointChoice,
    /// The prompt's length that costs were computed with.
    pub prompt_tokens: u32,
    /// The source of the cache estimate at the first endpoint; `None` when no source reports it.
    pub source: Option<CacheSource>,
    /// How long the request was queued.
    pub waited: Duration,
    /// Its expected costs, where costs were compared.
    pub costs: Option<ExpectedCosts>,
}

/// A request that left the queue.
#[derive(Clone, Debug, PartialEq)]
pub struct Dequeued {
    /// Its key.
    pub key: RequestKey,
    /// How it left.
    pub exit: QueueExit,
}

/// How a request leaves the queue.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "most are the large one, and a box would cost an allocation for each"
)]
pub enum QueueExit {
    /// It is booked.
    Bound(Assignment),
    /// It was queued for too long.
    TimedOut {
        /// When to retry.
        retry_after: Duration,
    },
    /// No endpoint can serve it any more.
    NoEndpoint(NoEndpoint),
}

// === Scheduler ===

impl Scheduler {
    /// A scheduler for `pool` without any history.
    #[must_use]
    pub fn new(pool: &Arc<Pool>, rng: SeededRng) -> Self {
        Self {
            endpoints: Fleet::new(Arc::clone(pool)),
            requests: PoolRequests::new(pool.endpoints.len()),
            rents: PrefixRents::default(),
            pace: PlanPace::default(),
            round_robin_counter: 0,
            rng,
        }
    }

    /// Applies a changed pool. Endpoints that stay keep their state. Returns the number of open
    /// requests at endpoints that were removed.
    pub fn apply(&mut self, pool: &Arc<Pool>, now: Duration) -> usize {
        if Arc::ptr_eq(pool, self.pool()) {
            // Another pool of the snapshot changed.
            return 0;
        }
        let gone = self.endpoints.apply(pool, now);
        let Self {
            endpoints,
            requests,
            ..
        } = self;
        requests.queue.apply(pool.endpoints.len(), |model, split| {
            endpoints.eligible(model, split).ok().cloned()
        });
        gone
    }

    /// The pool as it was applied last.
    #[must_use]
    pub fn pool(&self) -> &Arc<Pool> {
        self.endpoints.pool()
    }

    /// Schedules a request that arrives.
    pub fn schedule(&mut self, request: ScheduleRequest<'_>, now: Duration) -> ScheduleOutcome {
        if self.endpoints.ledger().is_sent(request.key) {
            return ScheduleOutcome::AlreadySent;
        }
        self.endpoints.assume_done(now);
        // A repeated question replaces the queued one: a request must not be bound twice.
        self.requests.queue.remove(request.key);
        let mut query = self.endpoints.corrected(request.query);
        let lookup = self.endpoints.lookup(&query, request.hits, now);
        query.split = self.endpoints.splits(&query, request.model, &lookup);
        let request = ScheduleRequest {
            query: &query,
            ..request
        };
        match self.rules() {
            Some(rules) => self.bind_or_queue(request, lookup, &rules, now),
            None => self.choose(request, &lookup, now),
        }
    }

    /// The load and health of each endpoint, by position.
    #[must_use]
    pub fn loads(&self) -> &[Load] {
        self.endpoints.loads()
    }

    /// Requests that are booked or open.
    #[must_use]
    pub fn open_requests(&self) -> usize {
        self.endpoints.ledger().len()
    }

    /// The open requests of one proxy, by endpoint.
    #[must_use]
    pub fn open_by_endpoint(&self, proxy: ProxyId) -> HashMap<EndpointId, InFlightTotals> {
        self.endpoints.ledger().open_by_endpoint(proxy)
    }

    /// Requests in the queue.
    #[must_use]
    pub fn queued_requests(&self) -> usize {
        self.requests.queue.len()
    }

    /// Bytes of the prompts of queued requests.
    #[must_use]
    pub fn queued_bytes(&self) -> u64 {
        self.requests.queue.bytes()
    }

    /// Which way the pool leans, if it has pairs.
    #[must_use]
    pub fn pressure(&self) -> Option<PoolPressure> {
        self.endpoints.pressure(self.requests.queue.service())
    }

    /// Pairs of a block and an endpoint that the index holds, and its bytes of memory.
    #[must_use]
    pub fn learned_index_size(&self) -> (usize, usize) {
        self.endpoints.learned_index_size()
    }

    /// The rules of `kv-aware`, if that is the strategy.
    fn rules(&self) -> Option<KvAware> {
        self.pool().spec.policy.kv_aware()
    }

    /// Schedules under `kv-aware`: binds or queues.
    fn bind_or_queue(
        &mut self,
        request: ScheduleRequest<'_>,
        lookup: CacheLookup,
        rules: &KvAware,
        now: Duration,
    ) -> ScheduleOutcome {
        let ScheduleRequest {
            key,
            query,
            model,
            waited,
            may_wait,
            ..
        } = request;
        let draw = self.rng.unit();
        let eligible = match self.endpoints.eligible(model, query.split) {
            Ok(eligible) => eligible,
            Err(no_endpoint) => return ScheduleOutcome::NoEndpoint(no_endpoint),
        };
        let queue = &self.requests.queue;
        let candidates =
            self.endpoints
                .candidates(eligible, &query.exclude, queue.work(), draw, now);
        let price = WastePrice::of(rules, self.endpoints.utilization(eligible, now));
        let handovers = self.endpoints.handovers(query, model, &lookup, now);
        let prompt = CostedPrompt {
            tokens: query.prompt_tokens,
            hits: &lookup.hits,
            credit: self.rents.credit(query, now),
            handovers: handovers.as_ref(),
        };
        let ranking = candidates.ranking(prompt, price);
        let Some(cost) = ranking.first().copied() else {
            // No endpoint is up: the picker chooses among those that are not.
            return self.choose(request, &lookup, now);
        };
        if bind::is_uncached(query, cost.cached) {
            return ScheduleOutcome::NoEndpoint(NoEndpoint::NotCached);
        }
        let candidate = candidates.candidates[cost.candidate];
        let position = candidate.position as usize;
        let requirement = RoomRequirement {
            query,
            model,
            waited,
            handed_over_in: cost.handed_over_in(candidate.queue_delay),
        };
        let is_wanted = queue.is_wanted(position);
        let has_room = self.endpoints.has_room(position, requirement, rules, now);
        if may_wait && rules.late && (is_wanted || !has_room) {
            let eligible = Arc::clone(eligible);
            return self.enqueue(request, eligible, lookup, (candidate, cost), rules, now);
        }
        let pending = PendingBinding {
            key,
            query,
            model,
            lookup: &lookup,
            waited,
        };
        ScheduleOutcome::Bound(self.bind(pending, &candidates, &ranking, price, now))
    }

    /// Queues a request whose cheapest endpoint has no room, in place of another one if the queue
    /// is full.
    fn enqueue(
        &mut self,
        request: ScheduleRequest<'_>,
        eligible: Arc<EligibleSet>,
        lookup: CacheLookup,
        (cheapest, cost): (CandidateEndpoint, EndpointCost),
        rules: &KvAware,
        now: Duration,
    ) -> ScheduleOutcome {
        let ScheduleRequest {
            key,
            query,
            model,
            hits,
            waited,
            ..
        } = request;
        let lanes = self.endpoints.lanes();
        let Ok(evicted) = self.requests.make_room(query, &rules.queue, lanes) else {
            return ScheduleOutcome::QueueFull {
                retry_after: self.requests.retry_after(lanes),
            };
        };
        let service = cost.service(cheapest.queue_delay);
        let limit = rules.queue.max_wait.saturating_sub(waited);
        let outcome = ScheduleOutcome::Queued {
            expected: seconds(cheapest.queue_delay),
            limit,
            position: self.requests.queue.len(),
            evicted,
        };
        // Blocks may be stored while it is queued, so these hits are lower bounds. A lower bound of
        // nothing says nothing: what is kept is for endpoints that have a part of the prompt.
        let found = hits.iter().filter(|hit| hit.cached.saved_tokens() > 0);
        let others = found.map(|hit| CacheHit {
            at_least: true,
            ..*hit
        });
        let mut others: SmallVec<[CacheHit; 1]> = others.collect();
        others.shrink_to_fit();
        let queued = QueuedRequest {
            key,
            query: query.clone(),
            model: model.map(Box::from),
            eligible: Some(eligible),
            others,
            since: now.saturating_sub(waited),
            until: now + limit,
            lookup: lookup.for_queue(),
            service,
            weight: 0.0,
        };
        self.requests.enqueue(queued, service, cheapest.position);
        outcome
    }

    /// Schedules under a strategy that never queues.
    fn choose(
        &mut self,
        request: ScheduleRequest<'_>,
        lookup: &CacheLookup,
        now: Duration,
    ) -> ScheduleOutcome {
        let ScheduleRequest {
            key,
            query,
            model,
            waited,
            ..
        } = request;
        let pending = PendingBinding {
            key,
            query,
            model,
            lookup,
            waited,
        };
        self.pick(pending, now)
            .map_or_else(ScheduleOutcome::NoEndpoint, ScheduleOutcome::Bound)
    }

    /// An estimate of when the queue will have drained, 1 to 60 seconds.
    fn retry_after(&self) -> Duration {
        self.requests.retry_after(self.endpoints.lanes())
    }
}

/// A duration of a figure that may be a little below zero.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests;
