//! The brain of one pool: [`Scheduler`] behind a lock, with what only this plane knows of endpoints.
//!
//! ```text
//!   Score ──choose──▶ ┌────────────── one lock ───────────────┐ ──▶ bound, already booked; or a place in the queue
//!   reports ────────▶ │ dispatcher ◀─ slots (samples, breakers)│ ──▶ rows for each subscriber
//!   scrapes, time ──▶ │     └──── replies of those who wait    │ ──▶ their answers, as they are bound
//!   snapshots ──────▶ └───────────────────────────────────────┘
//! ```
//!
//! A choice and its booking are one step under one lock, so that two proxies cannot herd onto the same idle endpoint
//! between two samples. Whatever may give an endpoint room releases those who wait for it, under the same lock.
//!
//! Invariants:
//! * nothing here waits, and the lock is never held across an await;
//! * `slots` and the pool's endpoints are parallel;
//! * whoever waits has a reply, and a reply whose receiver is gone takes its booking back;
//! * nobody waits in a pool that is gone;
//! * a sample that is older than the pool's limit is absent from the loads, never zero.

mod decision;
mod endpoint_state;
mod load_rows;
mod reports;

use std::{collections::HashMap, sync::Arc, time::Duration};

use hermes_core::{
    ledger::RequestKey,
    load::{Health, Load},
    pick::Explanation,
    query::{EndpointChoice, Query, RankedEndpoint},
    rng::SeededRng,
    scheduler::{
        Assignment, Dequeued, EvictedRequest, QueueExit, ScheduleOutcome as Dispatched,
        ScheduleRequest, Scheduler,
    },
    snapshot::{EndpointId, Pool},
};
use parking_lot::Mutex;
use smallvec::smallvec;
use tokio::sync::oneshot;

use self::endpoint_state::Slot;
pub(crate) use self::{
    decision::{Refusal, Verdict, Wait},
    load_rows::{Row, Rows, View},
    reports::Finish,
};
use crate::metrics::{Cause, Outcome, PoolMetrics};

/// See the module.
#[derive(Debug)]
pub(crate) struct Brain {
    metrics: PoolMetrics,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    dispatcher: Scheduler,
    slots: Vec<Slot>,
    /// Of those who wait. Bounded by the queue.
    replies: HashMap<RequestKey, oneshot::Sender<Result<Assignment, Refusal>>>,
    /// Samples older than this are not used.
    stale_after: Duration,
    /// The pool is gone.
    closed: bool,
}

/// How a brain stands, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Census {
    /// Endpoints that are up.
    pub(crate) up: usize,
    /// Endpoints that are coming back.
    pub(crate) warming: usize,
    /// Endpoints that are down.
    pub(crate) down: usize,
    /// Endpoints without fresh figures.
    pub(crate) blind: usize,
    /// Requests that are booked or open.
    pub(crate) bookings: usize,
    /// Requests that wait for an endpoint.
    pub(crate) waiting: usize,
    /// Bytes of their prompts.
    pub(crate) waiting_bytes: u64,
    /// Pairs of a prompt block and an endpoint that is believed to hold it, as learned.
    pub(crate) learned_blocks: usize,
    /// Memory of what was learned.
    pub(crate) learned_bytes: usize,
}

// === Brain ===

impl Brain {
    /// A brain for `pool` that knows nothing yet.
    #[must_use]
    pub(crate) fn new(
        pool: &Arc<Pool>,
        stale_after: Duration,
        metrics: PoolMetrics,
        seed: u64,
    ) -> Self {
        let state = State {
            slots: pool
                .endpoints
                .iter()
                .map(|_| Slot::new(pool.spec.policy.ejection))
                .collect(),
            dispatcher: Scheduler::new(pool, SeededRng::new(seed)),
            replies: HashMap::new(),
            stale_after,
            closed: false,
        };
        Self {
            metrics,
            state: Mutex::new(state),
        }
    }

    /// The pool as it is now.
    #[must_use]
    pub(crate) fn pool(&self) -> Arc<Pool> {
        Arc::clone(self.state.lock().dispatcher.pool())
    }

    /// Its counters.
    #[must_use]
    pub(crate) fn metrics(&self) -> &PoolMetrics {
        &self.metrics
    }

    /// Chooses for a request and books the first choice in one step, or gives it a place among those who wait.
    pub(crate) fn choose(&self, arrival: ScheduleRequest<'_>, now: Duration) -> Verdict {
        let mut state = self.state.lock();
        let may_wait = arrival.may_wait && !state.closed;
        let outcome = state.dispatcher.schedule(
            ScheduleRequest {
                may_wait,
                ..arrival
            },
            now,
        );
        match outcome {
            Dispatched::Bound(binding) => {
                state.sent_to(binding.choice.ranked[0].position, now);
                drop(state);
                self.metrics.scored(if binding.choice.panic_mode {
                    Outcome::Desperate
                } else {
                    Outcome::Chosen
                });
                Verdict::Bound(binding)
            }
            Dispatched::Queued {
                expected,
                limit,
                position,
                evicted: displaced,
            } => {
                if let Some(EvictedRequest { key, retry_after }) = displaced {
                    self.displace(&mut state, key, retry_after);
                }
                let (reply, end) = oneshot::channel();
                state.replies.insert(arrival.key, reply);
                self.metrics.queued.inc();
                Verdict::Waits(Wait {
                    expected,
                    limit,
                    position,
                    end,
                })
            }
            Dispatched::QueueFull { retry_after } => self.refuse(Refusal::Full { retry_after }),
            Dispatched::NoEndpoint(nobody) => self.refuse(Refusal::NoEndpoint(nobody)),
        }
    }

    /// Books this endpoint, because nothing but it will do; nothing when the pool does not have it.
    pub(crate) fn choose_only(
        &self,
        key: RequestKey,
        endpoint: EndpointId,
        query: &Query,
        now: Duration,
    ) -> Option<Assignment> {
        let mut state = self.state.lock();
        let position = state.dispatcher.pool().position(endpoint)?;
        state.dispatcher.book_fixed(key, position, query, now);
        self.metrics.scored(Outcome::Chosen);
        let choice = EndpointChoice {
            ranked: smallvec![RankedEndpoint {
                position,
                endpoint,
                cached_tokens: 0
            }],
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

    /// What [`Brain::choose`] would say, with every number, and nothing booked.
    #[must_use]
    pub(crate) fn explain(&self, arrival: ScheduleRequest<'_>, now: Duration) -> Explanation {
        self.state.lock().dispatcher.explain(arrival, now)
    }

    /// Follows a changed pool. Endpoints that stay keep what is known about them.
    pub(crate) fn apply(&self, pool: &Arc<Pool>, stale_after: Duration, now: Duration) {
        let mut state = self.state.lock();
        let released = state.apply(pool, stale_after, now);
        self.release(&mut state, now);
        self.metrics.released(Cause::EndpointGone, released);
    }

    /// The pool is gone: whoever waits is let go, and whoever comes late does not wait, for nobody would bind them.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.replies.clear();
    }

    /// Lets time pass: bookings expire, samples grow stale, endpoints warm up, and those who wait get their turn.
    pub(crate) fn tick(&self, now: Duration) {
        let mut state = self.state.lock();
        let expired = state.tick(now);
        self.release(&mut state, now);
        self.metrics.released(Cause::Ttl, expired);
    }

    /// Gives those who wait their turn; whether anybody still waits.
    pub(crate) fn turn(&self, now: Duration) -> bool {
        let mut state = self.state.lock();
        self.release(&mut state, now);
        state.dispatcher.queued_requests() > 0
    }

    /// Tokens in a block of the endpoints' KV caches, if those that told agree.
    #[must_use]
    pub(crate) fn block_size(&self) -> Option<u32> {
        let state = self.state.lock();
        let mut told = state.slots.iter().filter_map(|slot| slot.block_size);
        let first = told.next()?;
        told.all(|size| size == first).then_some(first)
    }

    /// How it stands.
    #[must_use]
    pub(crate) fn census(&self) -> Census {
        let state = self.state.lock();
        let dispatcher = &state.dispatcher;
        let (learned_blocks, learned_bytes) = dispatcher.learned_index_size();
        let mut census = Census {
            bookings: dispatcher.open_requests(),
            waiting: dispatcher.queued_requests(),
            waiting_bytes: dispatcher.queued_bytes(),
            learned_blocks,
            learned_bytes,
            ..Census::default()
        };
        dispatcher
            .loads()
            .iter()
            .for_each(|load| census.count(load));
        census
    }

    /// Tells a request that another tenant's has its place now.
    fn displace(&self, state: &mut State, key: RequestKey, retry_after: Duration) {
        let refusal = Refusal::Full { retry_after };
        self.metrics.scored(Outcome::from(&refusal));
        if let Some(reply) = state.replies.remove(&key) {
            // Its stream may have broken meanwhile.
            let _gone = reply.send(Err(refusal));
        }
    }

    fn refuse(&self, refusal: Refusal) -> Verdict {
        self.metrics.scored(Outcome::from(&refusal));
        Verdict::Refused(refusal)
    }

    /// Answers those who are bound now, or give up.
    fn release(&self, state: &mut State, now: Duration) {
        if state.dispatcher.queued_requests() == 0 {
            return;
        }
        let mut released = Vec::new();
        state.dispatcher.dequeue(now, &mut released);
        for Dequeued { key, exit: end } in released {
            let result = match end {
                QueueExit::Bound(binding) => {
                    self.metrics
                        .waited_seconds
                        .observe(binding.waited.as_secs_f64());
                    Ok(binding)
                }
                QueueExit::TimedOut { retry_after } => Err(Refusal::TimedOut { retry_after }),
                QueueExit::NoEndpoint(nobody) => Err(Refusal::NoEndpoint(nobody)),
            };
            self.metrics.scored(
                result
                    .as_ref()
                    .map_or_else(Outcome::from, |_| Outcome::Chosen),
            );
            let bound = result
                .as_ref()
                .ok()
                .map(|binding| binding.choice.ranked[0].position);
            let told = state
                .replies
                .remove(&key)
                .is_some_and(|reply| reply.send(result).is_ok());
            match bound {
                Some(position) if told => state.sent_to(position, now),
                // Its stream broke meanwhile: nobody will act on the booking.
                Some(_) => _ = state.dispatcher.cancel(key, now),
                None => {}
            }
        }
    }
}

// === State ===

impl State {
    /// An endpoint on trial takes one request at a time.
    fn sent_to(&mut self, position: usize, now: Duration) {
        self.slots[position].breaker.try_trial(now);
        self.dispatcher
            .set_health(position, self.slots[position].health(now));
    }

    fn apply(&mut self, pool: &Arc<Pool>, stale_after: Duration, now: Duration) -> usize {
        let policy = pool.spec.policy.ejection;
        let before = Arc::clone(self.dispatcher.pool());
        let mut slots: Vec<Slot> = Vec::with_capacity(pool.endpoints.len());
        for endpoint in &pool.endpoints {
            let kept = before.position(endpoint.id);
            let kept = kept
                .map(|position| std::mem::replace(&mut self.slots[position], Slot::new(policy)));
            let mut slot = kept.unwrap_or_else(|| Slot::new(policy));
            slot.breaker.set_policy(policy);
            slots.push(slot);
        }
        self.slots = slots;
        self.stale_after = stale_after;
        let gone = self.dispatcher.apply(pool, now);
        self.reassess_all(now);
        gone
    }

    fn tick(&mut self, now: Duration) -> usize {
        let expired = self.dispatcher.tick(now);
        self.reassess_all(now);
        expired
    }

    fn reassess_all(&mut self, now: Duration) {
        (0..self.slots.len()).for_each(|position| self.reassess(position, now));
    }

    /// What the endpoint's breaker says, and whether its figures are still fresh.
    fn reassess(&mut self, position: usize, now: Duration) {
        let slot = &self.slots[position];
        self.dispatcher.set_health(position, slot.health(now));
        if self.dispatcher.loads()[position].sample.is_some()
            && slot.sample(now, self.stale_after).is_none()
        {
            self.dispatcher.set_sample(position, None);
        }
    }
}

// === Census ===

impl Census {
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
