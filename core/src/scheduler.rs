//! The brain of one pool, as a state machine: who gets which endpoint, now or later.
//!
//! ```text
//!            arrive ──▶ beliefs (caches) ─▶ costs ──room?──▶ bound: booked, learned
//!                                             │ no
//!                                             ▼
//!   first bytes, ends, ─▶ release ◀── queue (highest response ratio first)
//!   samples, time             └──▶ bound, one by one, as endpoints get room
//! ```
//!
//! `kv-aware` binds late: a request waits here, not in an engine's queue, until the endpoint where it costs least has
//! room. What arrives meanwhile may be more urgent, and what is learned meanwhile may change where it goes. An endpoint
//! has room while what was sent there and is not answered is less than [`KvAware::window`] of work at its learned speed,
//! and its memory takes the prompt. An idle fleet has room everywhere, and nothing waits. All other strategies, and
//! `kv-aware` bound early, are answered at once.
//!
//! Production, `hermes simulate` and the tests run this very code. Pure: time is an argument and must not go backwards.
//!
//! Invariants:
//! * a request waits or is booked, never both, and is booked at most once;
//! * the queue, the notes on open requests and the tenants' accounts are bounded;
//! * positions are those of the pool that was applied last.

use std::{collections::HashMap, sync::Arc, time::Duration};

use crate::{
    explanation::ExpectedCosts,
    hash::MixBuildHasher,
    ledger::{InFlightTotals, ProxyId, RequestKey},
    load::Load,
    pick::NoEndpoint,
    policy::{self, KvAware, Strategy},
    query::{CacheHit, CacheSource, EndpointChoice, Query},
    rng::SeededRng,
    snapshot::{EndpointId, Pool},
};

mod bind;

mod cost;
mod engine;
mod explain;
mod fleet;
mod plan;
mod queue;
mod reports;
mod shares;
mod speed;

mod utilization;

use crate::estimate::{self, CacheClaims, CacheEstimator};
use bind::PendingBinding;
use cost::PromptHits;
use fleet::{Fleet, RoomRequirement};
use queue::{CacheLookup, QueuedRequest, RequestQueue};
pub use reports::{CachePrediction, EngineUsage};
use shares::FairShares;

/// See the module.
#[derive(Debug)]
pub struct Scheduler {
    fleet: Fleet,
    caches: CacheEstimator,
    queue: RequestQueue,
    /// Seconds of waiting work that is meant for each position, as of the last plan.
    queued: Vec<f64>,
    shares: FairShares,
    metadata: HashMap<RequestKey, RequestMetadata, MixBuildHasher>,
    /// Choices so far.
    round_robin_counter: u64,
    rng: SeededRng,
}

/// What has to be known of an open request when it moves or ends.
#[derive(Clone, Debug)]
struct RequestMetadata {
    query: Query,
    /// Of the endpoint that was booked.
    claims: CacheClaims,
    /// What was believed of them.
    expected_cached: Option<(CacheSource, u32)>,
}

/// A request, on its way in.
#[derive(Clone, Copy, Debug)]
pub struct ScheduleRequest<'a> {
    /// Which.
    pub key: RequestKey,
    /// What a choice may read of it.
    pub query: &'a Query,
    /// The model it names.
    pub model: Option<&'a str>,
    /// What sources other than the index know of its prompt.
    pub hits: &'a [CacheHit],
    /// How long it has waited elsewhere.
    pub waited: Duration,
    /// Whether it can wait. If not, it is bound at once, to whoever costs least.
    pub may_wait: bool,
}

/// What becomes of an arrival at once.
#[derive(Clone, Debug, PartialEq)]
pub enum ScheduleOutcome {
    /// It is booked.
    Bound(Assignment),
    /// It waits; [`Scheduler::release`] will tell.
    Queued {
        /// When it may be bound, as things stand.
        expected: Duration,
        /// When it gives up.
        limit: Duration,
        /// How many waited before it came.
        position: usize,
        /// Who had to give it a place, and waits no more.
        evicted: Option<EvictedRequest>,
    },
    /// Too much waits already.
    QueueFull {
        /// When there may be room.
        retry_after: Duration,
    },
    /// There is nobody to choose from.
    NoEndpoint(NoEndpoint),
}

/// A request that waited, of a tenant that had more of those than another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvictedRequest {
    /// Which.
    pub key: RequestKey,
    /// When there may be room.
    pub retry_after: Duration,
}

/// A choice that is booked, and what was expected of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    /// Endpoints to try, best first.
    pub choice: EndpointChoice,
    /// The prompt's length as it was reckoned with.
    pub prompt_tokens: u32,
    /// Who says what is cached at the first; `None` when nobody says anything.
    pub source: Option<CacheSource>,
    /// How long the request waited for this.
    pub waited: Duration,
    /// What it cost, where costs were compared.
    pub costs: Option<ExpectedCosts>,
}

/// A request that waited and waits no more.
#[derive(Clone, Debug, PartialEq)]
pub struct Dequeued {
    /// Which.
    pub key: RequestKey,
    /// What became of it.
    pub exit: QueueExit,
}

/// How a wait ends.
#[derive(Clone, Debug, PartialEq)]
pub enum QueueExit {
    /// Well.
    Bound(Assignment),
    /// Its time was over.
    TimedOut {
        /// When there may be room.
        retry_after: Duration,
    },
    /// There is nobody to choose from any more.
    NoEndpoint(NoEndpoint),
}

// === Dispatcher ===

impl Scheduler {
    /// A dispatcher for `pool` that knows nothing yet.
    #[must_use]
    pub fn new(pool: &Arc<Pool>, rng: SeededRng) -> Self {
        let mut caches = CacheEstimator::new();
        caches.apply(pool, kv_aware_or_default(pool).default_cache_tokens);
        Self {
            caches,
            queue: RequestQueue::default(),
            queued: vec![0.0; pool.endpoints.len()],
            shares: FairShares::default(),
            metadata: HashMap::default(),
            round_robin_counter: 0,
            rng,
            fleet: Fleet::new(
                Arc::clone(pool),
                kv_aware_or_default(pool).default_prefill_rate,
            ),
        }
    }

    /// Follows a changed pool. Endpoints that stay keep what is known of them. How many open requests were at endpoints
    /// that are gone.
    pub fn apply(&mut self, pool: &Arc<Pool>, now: Duration) -> usize {
        let gone = self.fleet.apply(pool, now);
        self.caches
            .apply(pool, kv_aware_or_default(pool).default_cache_tokens);
        self.queued = vec![0.0; pool.endpoints.len()];
        // Positions mean something else now.
        self.queue
            .iter_mut()
            .for_each(|waiting| waiting.lookup = CacheLookup::default());
        gone
    }

    /// The pool as it was applied last.
    #[must_use]
    pub fn pool(&self) -> &Arc<Pool> {
        self.fleet.pool()
    }

    /// A request arrived.
    pub fn schedule(&mut self, request: ScheduleRequest<'_>, now: Duration) -> ScheduleOutcome {
        self.fleet.assume_done(now);
        // Asked anew before its first question was taken back, it must not be bound twice.
        self.remove_queued(request.key);
        let query = &self.caches.corrected(request.query);
        let lookup = self.lookup(query, request.hits, now);
        let request = ScheduleRequest { query, ..request };
        match self.rules() {
            Some(rules) => self.weigh(request, lookup, &rules, now),
            None => self.choose(request, &lookup, now),
        }
    }

    /// How loaded and how healthy each endpoint is, by position.
    #[must_use]
    pub fn loads(&self) -> &[Load] {
        &self.fleet.loads
    }

    /// Requests that are booked or open.
    #[must_use]
    pub fn open_requests(&self) -> usize {
        self.fleet.ledger.len()
    }

    /// What one proxy has open, by endpoint.
    #[must_use]
    pub fn open_by_endpoint(&self, proxy: ProxyId) -> HashMap<EndpointId, InFlightTotals> {
        self.fleet.ledger.open_by_endpoint(proxy)
    }

    /// Requests that wait.
    #[must_use]
    pub fn queued_requests(&self) -> usize {
        self.queue.len()
    }

    /// Bytes of the prompts of requests that wait.
    #[must_use]
    pub fn queued_bytes(&self) -> u64 {
        self.queue.bytes()
    }

    /// Pairs of a block and an endpoint that the index holds, and its bytes of memory.
    #[must_use]
    pub fn learned_index_size(&self) -> (usize, usize) {
        let index = self.caches.index();
        (index.len(), index.bytes())
    }

    /// The rules of `kv-aware`, if that is the strategy.
    fn rules(&self) -> Option<KvAware> {
        match self.pool().spec.policy.strategy {
            Strategy::KvAware(rules) => Some(rules),
            _ => None,
        }
    }

    /// An arrival under `kv-aware`: bound, or waiting.
    fn weigh(
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
            hits,
            waited,
            may_wait,
        } = request;
        let draw = self.rng.unit();
        let candidates = match self.fleet.candidates(model, query, &self.queued, draw, now) {
            Ok(candidates) => candidates,
            Err(no_endpoint) => return ScheduleOutcome::NoEndpoint(no_endpoint),
        };
        let gamma = rules.gamma(
            self.fleet.utilization.at(now),
            self.queue.len(),
            candidates.len(),
        );
        let ranking = candidates.ranking(
            PromptHits {
                tokens: query.prompt_tokens,
                hits: &lookup.hits,
            },
            gamma,
        );
        let Some(cost) = ranking.first().copied() else {
            // Nobody is up: the picker knows whom to try all the same.
            return self.choose(request, &lookup, now);
        };
        let position = candidates.candidates[cost.candidate].position as usize;
        let is_wanted = self.queued[position] > 0.0;
        let has_room = self.fleet.has_room(
            position,
            RoomRequirement {
                prompt: query.prompt_tokens,
                waited,
            },
            rules,
            now,
        );
        if !may_wait || !rules.late || (has_room && !is_wanted) {
            let pending = PendingBinding {
                key,
                query,
                lookup: &lookup,
                waited,
                gamma,
            };
            return ScheduleOutcome::Bound(self.bind(pending, &candidates, &ranking, now));
        }
        let mut evicted = None;
        if !self.queue.has_room(&rules.queue, query.prompt_bytes) {
            evicted = self.make_room(query, &rules.queue);
            if evicted.is_none() {
                return ScheduleOutcome::QueueFull {
                    retry_after: self.retry_after(),
                };
            }
        }
        let queue_delay = candidates.candidates[cost.candidate].queue_delay;
        let service = cost.finish - queue_delay;
        let limit = rules.queue.max_wait.saturating_sub(waited);
        let waits = ScheduleOutcome::Queued {
            expected: seconds(queue_delay),
            limit,
            position: self.queue.len(),
            evicted,
        };
        let mut waiting = QueuedRequest {
            key,
            query: query.clone(),
            model: model.map(Box::from),
            // They may not stand for what is sent and stored while it waits.
            others: hits
                .iter()
                .map(|hit| CacheHit {
                    at_least: true,
                    ..*hit
                })
                .collect(),
            since: now.saturating_sub(waited),
            until: now + limit,
            lookup,
            service,
            weight: 0.0,
        };
        waiting.weigh(service, &self.shares);
        self.queued[position] += service;
        self.queue.push(waiting);
        waits
    }

    /// Displaces one request for one of this query's tenant, if that is fair and makes room.
    fn make_room(&mut self, query: &Query, limits: &policy::QueueLimits) -> Option<EvictedRequest> {
        let key = self.queue.eviction_candidate(query.tenant)?;
        let gone = self.queue.remove(key)?;
        if self.queue.has_room(limits, query.prompt_bytes) {
            return Some(EvictedRequest {
                key,
                retry_after: self.retry_after(),
            });
        }
        self.queue.push(*gone);
        None
    }

    /// An arrival under a strategy that never waits.
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
            lookup,
            waited,
            gamma: 0.0,
        };
        self.pick(pending, model, now)
            .map_or_else(ScheduleOutcome::NoEndpoint, ScheduleOutcome::Bound)
    }

    /// Whoever waits under this key waits no more.
    fn remove_queued(&mut self, key: RequestKey) -> Option<Box<QueuedRequest>> {
        let waiting = self.queue.remove(key)?;
        if self.queue.is_empty() {
            // Nobody wants any endpoint now; else the next plan says who does.
            self.queued.fill(0.0);
        }
        Some(waiting)
    }

    fn lookup(&self, query: &Query, others: &[CacheHit], now: Duration) -> CacheLookup {
        let Self { caches, fleet, .. } = self;
        let computing = |position| fleet.flight(position).unanswered;
        let estimates = caches.estimate(
            query,
            others,
            |endpoint| fleet.position(endpoint),
            computing,
        );
        let hits = estimate::position_hits(&estimates);
        CacheLookup {
            estimates,
            hits,
            at: Some(now),
        }
    }

    /// When what waits now may be gone: honest as far as anyone can say, within bounds that a client can use.
    fn retry_after(&self) -> Duration {
        let endpoints = self.pool().endpoints.len().max(1) as f64;
        seconds((self.queue.service() / endpoints).clamp(1.0, 60.0))
    }
}

/// What is usual in a pool while nothing is learned; strategies that do not say are given the defaults.
fn kv_aware_or_default(pool: &Pool) -> KvAware {
    match pool.spec.policy.strategy {
        Strategy::KvAware(rules) => rules,
        _ => KvAware::default(),
    }
}

/// A duration of a figure that may be a little below zero.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests;
