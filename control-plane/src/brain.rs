//! The brain of one pool: what is booked, how busy and how healthy every endpoint is, and the choice that follows.
//!
//! ```text
//!   Score ──choose──▶ ┌───────────── one lock ─────────────┐ ──▶ Choice, already booked
//!   reports ────────▶ │ ledger ─▶ loads ◀─ slots (samples, │ ──▶ rows for each subscriber
//!   scrapes ────────▶ │            │          breakers)     │
//!   snapshots ──────▶ │          picker                     │
//!                     └────────────────────────────────────┘
//! ```
//!
//! A choice and its booking are one step under one lock, so that two proxies cannot herd onto the same idle endpoint
//! between two samples. Loads are kept ready, one row per endpoint, and mended where something happened: a choice
//! reads them and computes none.
//!
//! Invariants:
//! * nothing here waits, and the lock is never held across an await;
//! * `slots`, `loads` and the pool's endpoints are parallel: equal in length and order;
//! * a sample that is older than the pool's limit is absent from the loads, never zero.

mod brains;
mod events;
mod row;
mod slot;

use std::{sync::Arc, time::Duration};

use hermes_core::{
    dice::Dice,
    ledger::{Key, Ledger},
    load::{Health, Load},
    pick::{Ask, Explanation, Nobody, Picker},
    query::{Choice, Hit, Query, Ranked},
    snapshot::{EndpointId, Pool},
};
use parking_lot::Mutex;
use smallvec::smallvec;

use self::slot::Slot;
pub use self::{
    brains::{Brains, Guide, Home},
    row::{Row, Rows},
};
use crate::metrics::{Cause, Outcome, PoolMetrics};

/// See the module.
#[derive(Debug)]
pub struct Brain {
    metrics: PoolMetrics,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    pool: Arc<Pool>,
    picker: Picker,
    slots: Vec<Slot>,
    loads: Vec<Load>,
    ledger: Ledger,
    /// Choices so far.
    turn: u64,
    dice: Dice,
    /// Samples older than this are not used.
    stale_after: Duration,
}

/// How a brain stands, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Endpoints that are up.
    pub up: usize,
    /// Endpoints that are coming back.
    pub warming: usize,
    /// Endpoints that are down.
    pub down: usize,
    /// Endpoints without fresh figures.
    pub blind: usize,
    /// Requests that are booked or open.
    pub bookings: usize,
}

// === Brain ===

impl Brain {
    /// A brain for `pool` that knows nothing yet.
    #[must_use]
    pub fn new(pool: Arc<Pool>, stale_after: Duration, metrics: PoolMetrics, seed: u64) -> Self {
        let state = State {
            picker: Picker::build(Arc::clone(&pool)),
            slots: pool.endpoints.iter().map(|_| Slot::new(pool.spec.policy.breaker)).collect(),
            loads: vec![Load::default(); pool.endpoints.len()],
            pool,
            ledger: Ledger::default(),
            turn: 0,
            dice: Dice::new(seed),
            stale_after,
        };
        Self { metrics, state: Mutex::new(state) }
    }

    /// The pool as it is now.
    #[must_use]
    pub fn pool(&self) -> Arc<Pool> {
        Arc::clone(&self.state.lock().pool)
    }

    /// Its counters.
    #[must_use]
    pub fn metrics(&self) -> &PoolMetrics {
        &self.metrics
    }

    /// Chooses for `query`, and books the first choice under `key`, in one step.
    ///
    /// # Errors
    /// Why nobody can be chosen; nothing is booked then.
    pub fn choose(
        &self,
        key: Key,
        query: &Query,
        model: Option<&str>,
        hits: &[Hit],
        now: Duration,
    ) -> Result<Choice, Nobody> {
        let result = self.state.lock().choose(key, query, model, hits, now);
        self.metrics.scored(match &result {
            Ok(choice) if choice.desperate => Outcome::Desperate,
            Ok(_) => Outcome::Chosen,
            Err(nobody) => Outcome::from(*nobody),
        });
        result
    }

    /// Books this endpoint, because nothing but it will do; nothing when the pool does not have it.
    pub fn choose_only(&self, key: Key, endpoint: EndpointId, query: &Query, now: Duration) -> Option<Choice> {
        let choice = self.state.lock().choose_only(key, endpoint, query, now);
        if choice.is_some() {
            self.metrics.scored(Outcome::Chosen);
        }
        choice
    }

    /// What [`Brain::choose`] would say, with every number, and nothing booked.
    #[must_use]
    pub fn explain(&self, query: &Query, model: Option<&str>, hits: &[Hit]) -> Explanation {
        self.state.lock().explain(query, model, hits)
    }

    /// Follows a changed pool. Endpoints that stay keep what is known about them.
    pub fn apply(&self, pool: &Arc<Pool>, stale_after: Duration, now: Duration) {
        let released = self.state.lock().apply(pool, stale_after, now);
        self.metrics.released(Cause::EndpointGone, released);
    }

    /// Lets time pass: bookings expire, samples grow stale, endpoints warm up.
    pub fn tick(&self, now: Duration) {
        let expired = self.state.lock().tick(now);
        self.metrics.released(Cause::Ttl, expired);
    }

    /// Tokens in a block of the endpoints' KV caches, if those that told agree.
    #[must_use]
    pub fn block_size(&self) -> Option<u32> {
        let state = self.state.lock();
        let mut told = state.slots.iter().filter_map(|slot| slot.block_size);
        let first = told.next()?;
        told.all(|size| size == first).then_some(first)
    }

    /// How it stands.
    #[must_use]
    pub fn census(&self) -> Census {
        let state = self.state.lock();
        let mut census = Census { bookings: state.ledger.len(), ..Census::default() };
        state.loads.iter().for_each(|load| census.count(load));
        census
    }
}

// === State ===

impl State {
    fn choose(
        &mut self,
        key: Key,
        query: &Query,
        model: Option<&str>,
        hits: &[Hit],
        now: Duration,
    ) -> Result<Choice, Nobody> {
        let Self { picker, loads, ledger, turn, dice, .. } = self;
        let ask = Ask { query, model, hits, turn: *turn, total_in_flight: Some(ledger.len() as u64) };
        let mut choice = picker.pick(&ask, |position| loads[position], dice)?;
        *turn = turn.wrapping_add(1);
        self.prefer_admitted(&mut choice, now);
        let first = choice.ranked[0];
        let uncached = query.prompt_tokens.saturating_sub(first.cached_tokens);
        let before = self.ledger.get(key).map(|open| open.endpoint);
        self.ledger.book(key, first.endpoint, uncached, now);
        self.recount(first.position);
        if let Some(before) = before {
            self.recount_endpoint(before);
        }
        Ok(choice)
    }

    fn choose_only(&mut self, key: Key, endpoint: EndpointId, query: &Query, now: Duration) -> Option<Choice> {
        let position = self.pool.position(endpoint)?;
        self.ledger.book(key, endpoint, query.prompt_tokens, now);
        self.recount(position);
        let ranked = smallvec![Ranked { position, endpoint, cached_tokens: 0 }];
        Some(Choice { ranked, desperate: false })
    }

    /// An endpoint on trial takes one request at a time: when it has one, the next best goes first. When all are down
    /// the order stays, because someone has to be tried.
    fn prefer_admitted(&mut self, choice: &mut Choice, now: Duration) {
        let slots = &mut self.slots;
        let admitted = choice.ranked.iter().position(|ranked| slots[ranked.position].breaker.try_trial(now));
        let Some(admitted) = admitted else { return };
        choice.ranked[..=admitted].rotate_right(1);
        let first = choice.ranked[0].position;
        self.loads[first].health = self.slots[first].health(now);
    }

    fn explain(&self, query: &Query, model: Option<&str>, hits: &[Hit]) -> Explanation {
        let Self { picker, loads, ledger, turn, dice, .. } = self;
        let ask = Ask { query, model, hits, turn: *turn, total_in_flight: Some(ledger.len() as u64) };
        // A copy of the dice: people who ask must not change what comes next.
        picker.explain(&ask, |position| loads[position], &mut dice.clone())
    }

    fn apply(&mut self, pool: &Arc<Pool>, stale_after: Duration, now: Duration) -> usize {
        let policy = pool.spec.policy.breaker;
        let mut slots: Vec<Slot> = Vec::with_capacity(pool.endpoints.len());
        for endpoint in &pool.endpoints {
            let kept = self
                .pool
                .position(endpoint.id)
                .map(|position| std::mem::replace(&mut self.slots[position], Slot::new(policy)));
            let mut slot = kept.unwrap_or_else(|| Slot::new(policy));
            slot.breaker.set_policy(policy);
            slots.push(slot);
        }
        if !Arc::ptr_eq(&self.pool, pool) {
            self.picker = Picker::build(Arc::clone(pool));
        }
        self.loads = vec![Load::default(); slots.len()];
        self.slots = slots;
        self.pool = Arc::clone(pool);
        self.stale_after = stale_after;
        let before = self.ledger.len();
        self.ledger.retain_endpoints(|id| pool.position(id).is_some());
        self.recompute(now);
        before - self.ledger.len()
    }

    fn tick(&mut self, now: Duration) -> usize {
        let expired = self.ledger.expire(now);
        self.recompute(now);
        expired
    }

    /// All rows anew.
    fn recompute(&mut self, now: Duration) {
        for position in 0..self.loads.len() {
            self.recount(position);
            self.reassess(position, now);
        }
    }

    /// What the ledger says, into one row.
    fn recount(&mut self, position: usize) {
        let in_flight = self.ledger.in_flight(self.pool.endpoints[position].id);
        let load = &mut self.loads[position];
        (load.in_flight, load.pending_tokens) = (in_flight.requests, in_flight.tokens);
    }

    fn recount_endpoint(&mut self, endpoint: EndpointId) {
        if let Some(position) = self.pool.position(endpoint) {
            self.recount(position);
        }
    }

    /// What the endpoint itself and its breaker say, into one row.
    fn reassess(&mut self, position: usize, now: Duration) {
        let slot = &self.slots[position];
        let load = &mut self.loads[position];
        (load.sample, load.health) = (slot.sample(now, self.stale_after), slot.health(now));
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

// === Outcome ===

impl From<Nobody> for Outcome {
    fn from(nobody: Nobody) -> Self {
        match nobody {
            Nobody::Empty | Nobody::OnlyDisaggregated => Self::Empty,
            Nobody::AllTried => Self::AllTried,
            Nobody::ModelNotLoaded => Self::ModelNotLoaded,
        }
    }
}

#[cfg(test)]
mod tests;
