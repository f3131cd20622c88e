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
    dice::Dice,
    ledger::{InFlight, Key, ProxyId},
    load::Load,
    mix::ByMix,
    pick::Nobody,
    policy::{self, KvAware, Strategy},
    query::{Choice, Hit, Query, Source},
    snapshot::{EndpointId, Pool},
};

mod bind;
mod caches;
mod cost;
mod engine;
mod explain;
mod fleet;
mod plan;
mod queue;
mod reports;
mod shares;
mod trust;
mod utilization;

use bind::Wish;
use caches::{Caches, Claims};
use cost::Prompt;
pub use explain::{Costs, Weighed, Weighing};
use fleet::{Fleet, Need};
use queue::{Known, Queue, Waiting};
pub use reports::{Calibration, Ended};
use shares::Shares;

/// See the module.
#[derive(Debug)]
pub struct Dispatcher {
    fleet: Fleet,
    caches: Caches,
    queue: Queue,
    /// Seconds of waiting work that is meant for each position, as of the last plan.
    queued: Vec<f64>,
    shares: Shares,
    notes: HashMap<Key, Note, ByMix>,
    /// Choices so far.
    turn: u64,
    dice: Dice,
}

/// What has to be known of an open request when it moves or ends.
#[derive(Clone, Debug)]
struct Note {
    query: Query,
    /// Of the endpoint that was booked.
    claims: Claims,
    /// What was believed of them.
    believed: Option<(Source, u32)>,
}

/// A request, on its way in.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// Which.
    pub key: Key,
    /// What a choice may read of it.
    pub query: &'a Query,
    /// The model it names.
    pub model: Option<&'a str>,
    /// What sources other than the index know of its prompt.
    pub hits: &'a [Hit],
    /// How long it has waited elsewhere.
    pub waited: Duration,
    /// Whether it can wait. If not, it is bound at once, to whoever costs least.
    pub may_wait: bool,
}

/// What becomes of an arrival at once.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It is booked.
    Bound(Binding),
    /// It waits; [`Dispatcher::release`] will tell.
    Waits {
        /// When it may be bound, as things stand.
        expected: Duration,
        /// When it gives up.
        limit: Duration,
        /// How many waited before it came.
        position: usize,
        /// Who had to give it a place, and waits no more.
        displaced: Option<Displaced>,
    },
    /// Too much waits already.
    Full {
        /// When there may be room.
        retry_after: Duration,
    },
    /// There is nobody to choose from.
    Nobody(Nobody),
}

/// A request that waited, of a tenant that had more of those than another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Displaced {
    /// Which.
    pub key: Key,
    /// When there may be room.
    pub retry_after: Duration,
}

/// A choice that is booked, and what was expected of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Binding {
    /// Endpoints to try, best first.
    pub choice: Choice,
    /// The prompt's length as it was reckoned with.
    pub prompt_tokens: u32,
    /// Who says what is cached at the first; `None` when nobody says anything.
    pub source: Option<Source>,
    /// How long the request waited for this.
    pub waited: Duration,
    /// What it cost, where costs were compared.
    pub costs: Option<Costs>,
}

/// A request that waited and waits no more.
#[derive(Clone, Debug, PartialEq)]
pub struct Release {
    /// Which.
    pub key: Key,
    /// What became of it.
    pub end: End,
}

/// How a wait ends.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// Well.
    Bound(Binding),
    /// Its time was over.
    TimedOut {
        /// When there may be room.
        retry_after: Duration,
    },
    /// There is nobody to choose from any more.
    Nobody(Nobody),
}

// === Dispatcher ===

impl Dispatcher {
    /// A dispatcher for `pool` that knows nothing yet.
    #[must_use]
    pub fn new(pool: &Arc<Pool>, dice: Dice) -> Self {
        let mut caches = Caches::new();
        caches.apply(pool, usual(pool).usual_cache);
        Self {
            caches,
            queue: Queue::default(),
            queued: vec![0.0; pool.endpoints.len()],
            shares: Shares::default(),
            notes: HashMap::default(),
            turn: 0,
            dice,
            fleet: Fleet::new(Arc::clone(pool), usual(pool).usual_rate),
        }
    }

    /// Follows a changed pool. Endpoints that stay keep what is known of them. How many open requests were at endpoints
    /// that are gone.
    pub fn apply(&mut self, pool: &Arc<Pool>, now: Duration) -> usize {
        let gone = self.fleet.apply(pool, now);
        self.caches.apply(pool, usual(pool).usual_cache);
        self.queued = vec![0.0; pool.endpoints.len()];
        // Positions mean something else now.
        self.queue
            .iter_mut()
            .for_each(|waiting| waiting.known = Known::default());
        gone
    }

    /// The pool as it was applied last.
    #[must_use]
    pub fn pool(&self) -> &Arc<Pool> {
        self.fleet.pool()
    }

    /// A request arrived.
    pub fn arrive(&mut self, arrival: Arrival<'_>, now: Duration) -> Outcome {
        self.fleet.assume_done(now);
        // Asked anew before its first question was taken back, it must not be bound twice.
        self.take_out(arrival.key);
        let query = &self.caches.in_true_tokens(arrival.query);
        let known = self.known(query, arrival.hits, now);
        let arrival = Arrival { query, ..arrival };
        match self.rules() {
            Some(rules) => self.weigh(arrival, known, &rules, now),
            None => self.choose(arrival, &known, now),
        }
    }

    /// How loaded and how healthy each endpoint is, by position.
    #[must_use]
    pub fn loads(&self) -> &[Load] {
        &self.fleet.loads
    }

    /// Requests that are booked or open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.fleet.ledger.len()
    }

    /// What one proxy has open, by endpoint.
    #[must_use]
    pub fn own(&self, proxy: ProxyId) -> HashMap<EndpointId, InFlight> {
        self.fleet.ledger.own(proxy)
    }

    /// Requests that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Bytes of the prompts of requests that wait.
    #[must_use]
    pub fn waiting_bytes(&self) -> u64 {
        self.queue.bytes()
    }

    /// Pairs of a block and an endpoint that the index holds, and its bytes of memory.
    #[must_use]
    pub fn learned(&self) -> (usize, usize) {
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
        arrival: Arrival<'_>,
        known: Known,
        rules: &KvAware,
        now: Duration,
    ) -> Outcome {
        let Arrival {
            key,
            query,
            model,
            hits,
            waited,
            may_wait,
        } = arrival;
        let draw = self.dice.unit();
        let sites = match self.fleet.sites(model, query, &self.queued, draw, now) {
            Ok(sites) => sites,
            Err(nobody) => return Outcome::Nobody(nobody),
        };
        let gamma = rules.gamma(
            self.fleet.utilization.at(now),
            self.queue.len(),
            sites.len(),
        );
        let ranking = sites.ranking(
            Prompt {
                tokens: query.prompt_tokens,
                hits: &known.hits,
            },
            gamma,
        );
        let Some(cost) = ranking.first().copied() else {
            // Nobody is up: the picker knows whom to try all the same.
            return self.choose(arrival, &known, now);
        };
        let position = sites.sites[cost.site].position as usize;
        let is_wanted = self.queued[position] > 0.0;
        let has_room = self.fleet.has_room(
            position,
            Need {
                prompt: query.prompt_tokens,
                waited,
            },
            rules,
            now,
        );
        if !may_wait || !rules.late || (has_room && !is_wanted) {
            let wish = Wish {
                key,
                query,
                known: &known,
                waited,
                gamma,
            };
            return Outcome::Bound(self.bind(wish, &sites, &ranking, now));
        }
        let mut displaced = None;
        if !self.queue.has_room(&rules.queue, query.prompt_bytes) {
            displaced = self.make_room(query, &rules.queue);
            if displaced.is_none() {
                return Outcome::Full {
                    retry_after: self.retry_after(),
                };
            }
        }
        let ahead = sites.sites[cost.site].ahead;
        let service = cost.finish - ahead;
        let limit = rules.queue.wait.saturating_sub(waited);
        let waits = Outcome::Waits {
            expected: seconds(ahead),
            limit,
            position: self.queue.len(),
            displaced,
        };
        let mut waiting = Waiting {
            key,
            query: query.clone(),
            model: model.map(Box::from),
            // They may not stand for what is sent and stored while it waits.
            others: hits
                .iter()
                .map(|hit| Hit {
                    at_least: true,
                    ..*hit
                })
                .collect(),
            since: now.saturating_sub(waited),
            until: now + limit,
            known,
            service,
            weight: 0.0,
        };
        waiting.weigh(service, &self.shares);
        self.queued[position] += service;
        self.queue.push(waiting);
        waits
    }

    /// Displaces one request for one of this query's tenant, if that is fair and makes room.
    fn make_room(&mut self, query: &Query, limits: &policy::Queue) -> Option<Displaced> {
        let key = self.queue.gives_way(query.tenant)?;
        let gone = self.queue.remove(key)?;
        if self.queue.has_room(limits, query.prompt_bytes) {
            return Some(Displaced {
                key,
                retry_after: self.retry_after(),
            });
        }
        self.queue.push(*gone);
        None
    }

    /// An arrival under a strategy that never waits.
    fn choose(&mut self, arrival: Arrival<'_>, known: &Known, now: Duration) -> Outcome {
        let Arrival {
            key,
            query,
            model,
            waited,
            ..
        } = arrival;
        let wish = Wish {
            key,
            query,
            known,
            waited,
            gamma: 0.0,
        };
        self.pick(wish, model, now)
            .map_or_else(Outcome::Nobody, Outcome::Bound)
    }

    /// Whoever waits under this key waits no more.
    fn take_out(&mut self, key: Key) -> Option<Box<Waiting>> {
        let waiting = self.queue.remove(key)?;
        if self.queue.is_empty() {
            // Nobody wants any endpoint now; else the next plan says who does.
            self.queued.fill(0.0);
        }
        Some(waiting)
    }

    fn known(&self, query: &Query, others: &[Hit], now: Duration) -> Known {
        let Self { caches, fleet, .. } = self;
        let computing = |position| fleet.flight(position).unanswered;
        let beliefs = caches.beliefs(
            query,
            others,
            |endpoint| fleet.position(endpoint),
            computing,
        );
        let hits = caches::worth(&beliefs);
        Known {
            beliefs,
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
fn usual(pool: &Pool) -> KvAware {
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
