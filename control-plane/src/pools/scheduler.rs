//! The scheduler of one pool: [`Scheduler`] behind a lock, with the state of endpoints that only
//! this plane has.
//!
//! ```text
//!   Score ──choose──▶ ┌─────────────── one lock ────────────────┐ ──▶ bound and booked; or a place in the queue
//!   reports ────────▶ │ scheduler ◀─ endpoints (samples, health)│ ──▶ load rows for each subscriber
//!   scrapes, time ──▶ │     └──── replies of queued requests    │ ──▶ their responses, as they are bound
//!   snapshots ──────▶ └─────────────────────────────────────────┘
//! ```
//!
//! A choice and its booking are one step under one lock, so that two proxies cannot herd onto the
//! same idle endpoint between two samples. Every event that may free an endpoint also serves the
//! queue, under the same lock, or leaves that to the queue ticker, as one plan serves all events of
//! a millisecond.
//!
//! Invariants:
//! * no method waits, and the lock is never held across an await;
//! * `endpoints` has the order of the pool's endpoints;
//! * every queued request has a reply; when its receiver is gone, the booking is released;
//! * a removed pool has no queued request;
//! * a sample that is older than the pool's limit is absent from the loads, never zero.

mod decision;
mod endpoint_state;
mod load_rows;
mod reports;
mod serving_process;
mod settings;
mod shared_load_rows;

use std::{collections::HashMap, sync::Arc, time::Duration};

use hermes_core::{
    departures::Departures,
    explanation::Explanation,
    ledger::RequestKey,
    load::{Health, Load},
    query::{EndpointChoice, Query, RankedEndpoint},
    rng::SeededRng,
    scheduler::{
        Assignment, Dequeued, EvictedRequest, PoolPressure, QueueExit,
        ScheduleOutcome as Scheduled, ScheduleRequest, Scheduler,
    },
    snapshot::{EndpointId, Pool},
};
use hermes_runtime::metrics::Handles;
use parking_lot::Mutex;
use smallvec::smallvec;
use tokio::sync::oneshot;

pub(crate) use self::{
    decision::{QueueTicket, ScoreDecision, ScoreRejection},
    load_rows::{EndpointLoadView, PoolLoadCursor},
    reports::{AttemptReport, FinishReport},
    settings::SchedulerSettings,
};
use self::{endpoint_state::EndpointState, shared_load_rows::SharedLoadRows};
use super::queue_waker::QueueWaker;
use crate::metrics::{ReleaseCause, SchedulerMetrics, ScoreOutcome};

/// See the module.
#[derive(Debug)]
pub(crate) struct PoolScheduler {
    metrics: Arc<Handles<SchedulerMetrics>>,
    ticker: Arc<QueueWaker>,
    state: Mutex<SchedulerState>,
    /// Locked before `state` where both are.
    shared_rows: Mutex<SharedLoadRows>,
}

#[derive(Debug)]
struct SchedulerState {
    scheduler: Scheduler,
    endpoints: Vec<EndpointState>,
    departed: Departures<EndpointState>,
    /// Of queued requests. Bounded by the queue.
    replies: HashMap<RequestKey, oneshot::Sender<Result<Assignment, ScoreRejection>>>,
    settings: SchedulerSettings,
    /// The pool is gone.
    closed: bool,
}

/// The state of a pool, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct PoolCensus {
    /// Endpoints that are up.
    pub(crate) up: usize,
    /// Endpoints that are coming back.
    pub(crate) warming: usize,
    /// Endpoints that are down.
    pub(crate) down: usize,
    /// Endpoints without fresh metrics.
    pub(crate) blind: usize,
    /// Requests that are booked or open.
    pub(crate) bookings: usize,
    /// Queued requests.
    pub(crate) waiting: usize,
    /// Bytes of their prompts.
    pub(crate) waiting_bytes: u64,
    /// Pairs of a prompt block and an endpoint in the learned index.
    pub(crate) learned_blocks: usize,
    /// Memory of the learned index.
    pub(crate) learned_bytes: usize,
    /// Which way it leans, if it has pairs.
    pub(crate) pressure: Option<PoolPressure>,
}

// === PoolScheduler ===

impl PoolScheduler {
    /// A scheduler for `pool` without any state yet.
    #[must_use]
    pub(crate) fn new(
        pool: &Arc<Pool>,
        settings: SchedulerSettings,
        (metrics, ticker): (Arc<Handles<SchedulerMetrics>>, Arc<QueueWaker>),
        seed: u64,
    ) -> Self {
        let mut state = SchedulerState {
            endpoints: pool
                .endpoints
                .iter()
                .map(|_| EndpointState::new(pool.spec.policy.ejection))
                .collect(),
            departed: Departures::default(),
            scheduler: Scheduler::new(pool, SeededRng::new(seed)),
            replies: HashMap::new(),
            settings,
            closed: false,
        };
        state.set_lanes(Duration::ZERO);
        Self {
            metrics,
            ticker,
            state: Mutex::new(state),
            shared_rows: Mutex::default(),
        }
    }

    /// The pool as it is now.
    #[must_use]
    pub(crate) fn pool(&self) -> Arc<Pool> {
        Arc::clone(self.state.lock().scheduler.pool())
    }

    /// Its counters.
    #[must_use]
    pub(crate) fn metrics(&self) -> &SchedulerMetrics {
        &self.metrics
    }

    /// Chooses an endpoint and books it in one step, or queues the request.
    pub(crate) fn choose(&self, arrival: ScheduleRequest<'_>, now: Duration) -> ScoreDecision {
        let mut state = self.state.lock();
        let may_wait = arrival.may_wait && !state.closed;
        let outcome = state.scheduler.schedule(
            ScheduleRequest {
                may_wait,
                ..arrival
            },
            now,
        );
        match outcome {
            Scheduled::Bound(binding) => {
                state.sent_to(&binding.choice.ranked[0], now);
                drop(state);
                self.metrics.scores[if binding.choice.panic_mode {
                    ScoreOutcome::Panic
                } else {
                    ScoreOutcome::Selected
                }]
                .inc();
                ScoreDecision::Bound(binding)
            }
            Scheduled::Queued {
                expected,
                limit,
                position,
                evicted,
            } => {
                if let Some(EvictedRequest { key, retry_after }) = evicted {
                    self.evict(&mut state, key, retry_after);
                }
                let (reply, end) = oneshot::channel();
                state.replies.insert(arrival.key, reply);
                self.metrics.enqueued.inc();
                if state.scheduler.queued_requests() == 1 {
                    self.ticker.wake();
                }
                ScoreDecision::Waits(QueueTicket {
                    expected,
                    limit,
                    position,
                    end,
                })
            }
            Scheduled::QueueFull { retry_after } => {
                self.refuse(ScoreRejection::Full { retry_after })
            }
            Scheduled::NoEndpoint(no_endpoint) => {
                self.refuse(ScoreRejection::NoEndpoint(no_endpoint))
            }
            Scheduled::AlreadySent => self.refuse(ScoreRejection::AlreadySent),
        }
    }

    /// Books this endpoint, the only one that can serve the request; `None` when the pool does not
    /// have it.
    pub(crate) fn choose_only(
        &self,
        key: RequestKey,
        endpoint: EndpointId,
        query: &Query,
        now: Duration,
    ) -> Option<Assignment> {
        let mut state = self.state.lock();
        let position = state.scheduler.pool().position(endpoint)?;
        state.scheduler.book_fixed(key, position, query, now);
        self.metrics.scores[ScoreOutcome::Selected].inc();
        let choice = EndpointChoice {
            ranked: smallvec![RankedEndpoint::alone(position, endpoint, 0)],
            panic_mode: false,
        };
        Some(Assignment {
            choice,
            prompt_tokens: query.prompt_tokens,
            source: None,
            waited: Duration::ZERO,
            costs: None,
        })
    }

    /// What [`PoolScheduler::choose`] would say, with every number, and nothing booked.
    #[must_use]
    pub(crate) fn explain(&self, arrival: ScheduleRequest<'_>, now: Duration) -> Explanation {
        let figures = self.state.lock().scheduler.explain(arrival, now);
        figures.explain()
    }

    /// Follows a changed pool. Endpoints that stay, and those that return soon, keep what is known
    /// about them. A pool that did not change is skipped: one pool in a rollout must not stall the
    /// others.
    pub(crate) fn apply(&self, pool: &Arc<Pool>, settings: SchedulerSettings, now: Duration) {
        let mut state = self.state.lock();
        if Arc::ptr_eq(state.scheduler.pool(), pool) && state.settings == settings {
            return;
        }
        let released = state.apply(pool, settings, now);
        self.serve(&mut state, now);
        self.metrics.releases[ReleaseCause::EndpointGone].inc_by(released as u64);
    }

    /// The pool was removed: queued requests end, and later ones are not queued, as none would be
    /// bound.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.replies.clear();
    }

    /// Expires bookings and samples, ends slow starts, and serves the queue.
    pub(crate) fn tick(&self, now: Duration) {
        let mut state = self.state.lock();
        let expired = state.tick(now);
        self.release(&mut state, now);
        self.metrics.releases[ReleaseCause::Ttl].inc_by(expired as u64);
    }

    /// Serves the queue if that is due: binds the requests that can be bound, and ends those that
    /// waited too long. Returns when it is due next; `None` while no request is queued.
    pub(crate) fn serve_queue(&self, now: Duration) -> Option<Duration> {
        let mut state = self.state.lock();
        if state.scheduler.plan_due()? <= now {
            self.serve(&mut state, now);
        }
        state.scheduler.plan_due()
    }

    /// Tokens in a block of the endpoints' KV caches, if all that report it agree.
    #[must_use]
    pub(crate) fn block_size(&self) -> Option<u32> {
        let state = self.state.lock();
        let mut sizes = state.endpoints.iter().filter_map(|slot| slot.block_size);
        let first = sizes.next()?;
        sizes.all(|size| size == first).then_some(first)
    }

    /// The state of the pool.
    #[must_use]
    pub(crate) fn census(&self) -> PoolCensus {
        let state = self.state.lock();
        let scheduler = &state.scheduler;
        let (learned_blocks, learned_bytes) = scheduler.learned_index_size();
        let mut census = PoolCensus {
            bookings: scheduler.open_requests(),
            waiting: scheduler.queued_requests(),
            waiting_bytes: scheduler.queued_bytes(),
            learned_blocks,
            learned_bytes,
            pressure: scheduler.pressure(),
            ..PoolCensus::default()
        };
        scheduler.loads().iter().for_each(|load| census.count(load));
        census
    }

    /// Rejects a queued request whose place another tenant's took.
    fn evict(&self, state: &mut SchedulerState, key: RequestKey, retry_after: Duration) {
        let refusal = ScoreRejection::Full { retry_after };
        self.metrics.scores[ScoreOutcome::from(&refusal)].inc();
        if let Some(reply) = state.replies.remove(&key) {
            // Its stream may have broken meanwhile.
            let _gone = reply.send(Err(refusal));
        }
    }

    fn refuse(&self, refusal: ScoreRejection) -> ScoreDecision {
        self.metrics.scores[ScoreOutcome::from(&refusal)].inc();
        ScoreDecision::Refused(refusal)
    }

    /// Serves the queue after an event, now or by the ticker.
    fn release(&self, state: &mut SchedulerState, now: Duration) {
        let Some(due) = state.scheduler.plan_due() else {
            return;
        };
        let mut released = Vec::new();
        state.scheduler.dequeue_after_event(now, &mut released);
        self.reply(state, released, now);
        if state.scheduler.plan_due().is_some_and(|next| next < due) {
            self.ticker.wake();
        }
    }

    /// Binds the queued requests that can be bound, and ends those that timed out.
    fn serve(&self, state: &mut SchedulerState, now: Duration) {
        let mut released = Vec::new();
        state.scheduler.dequeue(now, &mut released);
        self.reply(state, released, now);
    }

    /// Replies to requests that left the queue.
    fn reply(&self, state: &mut SchedulerState, released: Vec<Dequeued>, now: Duration) {
        for Dequeued { key, exit: end } in released {
            let result = match end {
                QueueExit::Bound(binding) => {
                    self.metrics.queue.observe(binding.waited.as_secs_f64());
                    Ok(binding)
                }
                QueueExit::TimedOut { retry_after } => {
                    Err(ScoreRejection::TimedOut { retry_after })
                }
                QueueExit::NoEndpoint(no_endpoint) => Err(ScoreRejection::NoEndpoint(no_endpoint)),
            };
            self.metrics.scores[result
                .as_ref()
                .map_or_else(ScoreOutcome::from, |_| ScoreOutcome::Selected)]
            .inc();
            let bound = result.as_ref().ok().map(|binding| binding.choice.ranked[0]);
            let delivered = state
                .replies
                .remove(&key)
                .is_some_and(|reply| reply.send(result).is_ok());
            match bound {
                Some(ranked) if delivered => state.sent_to(&ranked, now),
                // Its stream broke meanwhile: the booking would not be used.
                Some(_) => _ = state.scheduler.cancel(key, now),
                None => {}
            }
        }
    }
}

// === SchedulerState ===

impl SchedulerState {
    /// An endpoint on trial takes one request at a time.
    fn sent_to(&mut self, ranked: &RankedEndpoint, now: Duration) {
        let decode = ranked.decode.map(|decode| decode.position);
        for position in std::iter::once(ranked.position).chain(decode) {
            self.endpoints[position].breaker.try_trial(now);
            self.scheduler
                .set_health(position, self.endpoints[position].health(now));
        }
    }

    fn apply(&mut self, pool: &Arc<Pool>, settings: SchedulerSettings, now: Duration) -> usize {
        let policy = pool.spec.policy.ejection;
        let before = Arc::clone(self.scheduler.pool());
        let mut slots: Vec<EndpointState> = Vec::with_capacity(pool.endpoints.len());
        for endpoint in &pool.endpoints {
            let kept = before.position(endpoint.id);
            let kept = kept.map(|position| {
                std::mem::replace(&mut self.endpoints[position], EndpointState::new(policy))
            });
            let returned = || self.departed.take_back(endpoint.id);
            let slot = kept.or_else(returned);
            let mut slot = slot.unwrap_or_else(|| EndpointState::new(policy));
            slot.breaker.set_policy(policy);
            slots.push(slot);
        }
        let left = std::mem::replace(&mut self.endpoints, slots);
        for (endpoint, slot) in before.endpoints.iter().zip(left) {
            if pool.position(endpoint.id).is_none() {
                self.departed.leave(endpoint.id, slot, now);
            }
        }
        self.settings = settings;
        let gone = self.scheduler.apply(pool, now);
        self.set_lanes(now);
        self.reassess_all(now);
        gone
    }

    fn tick(&mut self, now: Duration) -> usize {
        let expired = self.scheduler.tick(now);
        self.departed.expire(now);
        self.reassess_all(now);
        expired
    }

    /// Sets the lanes of every endpoint.
    fn set_lanes(&mut self, now: Duration) {
        for (position, endpoint) in self.endpoints.iter().enumerate() {
            let lanes = self.settings.lanes(endpoint.schedulers);
            self.scheduler.set_lanes(position, lanes, now);
        }
    }

    fn reassess_all(&mut self, now: Duration) {
        (0..self.endpoints.len()).for_each(|position| self.reassess(position, now));
    }

    /// Updates the endpoint's health, and drops its sample when that is stale.
    fn reassess(&mut self, position: usize, now: Duration) {
        let slot = &self.endpoints[position];
        self.scheduler.set_health(position, slot.health(now));
        if self.scheduler.loads()[position].sample.is_some()
            && slot.sample(now, self.settings.stale_after).is_none()
        {
            self.scheduler.set_sample(position, None);
        }
    }
}

// === PoolCensus ===

impl PoolCensus {
    fn count(&mut self, load: &Load) {
        match load.health {
            Health::Up => self.up += 1,
            Health::Warming(_) => self.warming += 1,
            Health::Down => self.down += 1,
        }
        self.blind += usize::from(load.sample.is_none());
    }
}

#[cfg(test)]
mod tests;
