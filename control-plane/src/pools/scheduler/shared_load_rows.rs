//! The load rows of one pool as every proxy gets them: compared and encoded once, and shared by all
//! subscribers.
//!
//! ```text
//!   scheduler ─copy of loads─▶ rows, each with the tick at which it changed last
//!                                └──since tick n──▶ encoded once for all that have tick n
//! ```
//!
//! A tick is made by the first subscriber that asks after the pause of the pool's strategy
//! ([`pause`]). The scheduler's lock is held for a copy of its figures, once a tick and for none of
//! the subscribers; what differs is found, and encoded, outside of it.
//!
//! Invariant: `rows` is parallel to the endpoints of `pool`.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use hermes_core::{
    load::Load,
    policy::Strategy,
    snapshot::{Endpoint, Pool},
};
use hermes_proto::{Message, v1};

/// Pause between two ticks of a pool that proxies choose in by themselves. A proxy is sent rows at
/// most every 100 ms, and so rows of at most one and a half of that age.
const FAST: Duration = Duration::from_millis(50);

/// The same of a pool for which they ask this plane. They use rows while it does not answer, and
/// then for three seconds.
const SLOW: Duration = Duration::from_secs(1);

/// Ticks since which encodings are kept. Subscribers that keep up share one or two.
const MAX_ENCODINGS: usize = 8;

/// The number of a tick, from 1; 0 is before all rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LoadTick(u64);

/// See the module. Guarded by a lock of its own.
#[derive(Debug, Default)]
pub(super) struct SharedLoadRows {
    /// Whose endpoints the rows are of; `None` before the first tick.
    pool: Option<Arc<Pool>>,
    tick: LoadTick,
    /// When the next tick may be.
    due: Duration,
    rows: Vec<SharedLoadRow>,
    /// The rows that changed after a tick, as a `v1.LoadUpdate`.
    encodings: VecDeque<(LoadTick, Bytes)>,
    /// Where loads are copied to.
    copied: Vec<Load>,
}

#[derive(Clone, Copy, Debug)]
struct SharedLoadRow {
    load: Load,
    changed: LoadTick,
}

// === SharedLoadRows ===

impl SharedLoadRows {
    /// Makes a tick if one is due, or if the rows are not of the pool that a subscriber has. `copy`
    /// appends the present loads, and returns the pool whose endpoints they are of.
    pub(super) fn refresh(
        &mut self,
        known: &Arc<Pool>,
        now: Duration,
        copy: impl FnOnce(&mut Vec<Load>) -> Arc<Pool>,
    ) {
        if self.is_of(known) && now < self.due {
            return;
        }
        self.copied.clear();
        let pool = copy(&mut self.copied);
        self.tick.0 += 1;
        self.encodings.clear();
        self.due = now + pause(&pool.spec.policy.strategy);
        if !self.is_of(&pool) {
            self.follow(pool);
        }
        for (row, load) in self.rows.iter_mut().zip(&self.copied) {
            if row.load != *load || row.changed == LoadTick::default() {
                (row.load, row.changed) = (*load, self.tick);
            }
        }
    }

    /// Whether the rows are of the endpoints of this pool.
    pub(super) fn is_of(&self, pool: &Arc<Pool>) -> bool {
        let own = self.pool.as_ref();
        own.is_some_and(|own| Arc::ptr_eq(own, pool))
    }

    pub(super) const fn tick(&self) -> LoadTick {
        self.tick
    }

    /// The load at a position of the pool, as of the tick.
    pub(super) fn load(&self, position: usize) -> Load {
        self.rows[position].load
    }

    /// The rows that changed after a tick, encoded as a `v1.LoadUpdate`; empty when none did.
    pub(super) fn since(&mut self, tick: LoadTick) -> Bytes {
        if let Some((_, known)) = self.encodings.iter().find(|(since, _)| *since == tick) {
            return known.clone();
        }
        let encoded = self.encode(tick);
        if self.encodings.len() == MAX_ENCODINGS {
            self.encodings.pop_front();
        }
        self.encodings.push_back((tick, encoded.clone()));
        encoded
    }

    /// The pool changed: endpoints that stay keep their rows.
    fn follow(&mut self, pool: Arc<Pool>) {
        let before = self.pool.take();
        let kept = |endpoint: &Arc<Endpoint>| {
            let position = before.as_ref()?.position(endpoint.id)?;
            self.rows.get(position).copied()
        };
        let unseen = SharedLoadRow {
            load: Load::default(),
            changed: LoadTick::default(),
        };
        let rows = pool.endpoints.iter();
        let rows = rows.map(|endpoint| kept(endpoint).unwrap_or(unseen));
        self.rows = rows.collect();
        self.pool = Some(pool);
    }

    fn encode(&self, since: LoadTick) -> Bytes {
        let endpoints = self.pool.iter().flat_map(|pool| &pool.endpoints);
        let changed = endpoints
            .zip(&self.rows)
            .filter(|(_, row)| row.changed > since);
        let rows =
            changed.map(|(endpoint, row)| v1::EndpointLoad::row(endpoint.id, &row.load, 0, 0));
        let loads = rows.collect();
        v1::LoadUpdate { loads }.encode_to_vec().into()
    }
}

/// Pause between two ticks of a pool with this strategy.
fn pause(strategy: &Strategy) -> Duration {
    if strategy.needs_score() { SLOW } else { FAST }
}

#[cfg(test)]
mod tests;
