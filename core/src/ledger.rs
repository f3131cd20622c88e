//! The open requests of all proxies by endpoint: the in-flight figures of one pool.
//!
//! An entry has legs: a request is sent to one endpoint, or its parts to several. Each leg goes its
//! own way, and the end of the request ends those that are left.
//!
//! ```text
//!              book               started              first_byte            finish_leg, finish
//!   (nothing) ──────▶ Booked ──────────────▶ Sent ──────────────▶ Answering ────────▶ (nothing)
//!                       │ cancel, 5 s         │ pending tokens      │ 2 h
//!                       ▼                     │ end here            ▼
//!                   (nothing)                 └─ finish ─────▶ (nothing)
//! ```
//!
//! A choice books its endpoint at once, so that the next choice sees it; reports of the proxy
//! confirm it, move it after a retry, and end it. Reports may be late, doubled or lost: every
//! operation may come in any state and order, and a proxy can report at any time all that it has
//! open ([`Ledger::replace_proxy`]).
//!
//! Invariants:
//! * the figures of an endpoint are exactly the sums over the open legs that name it, and never
//!   negative;
//! * a leg is given out for release once: the second end of a leg, or of its request, finds
//!   nothing;
//! * legs are bounded, and each has a deadline; both queues of deadlines are bounded by the legs
//!   they serve.
//!
//! Costs: constant time per operation, amortized; `forget_proxy` and `replace_proxy` in what the
//! proxy has open, `retain_endpoints` in everything.

mod deadlines;
mod entry;
mod keys;
mod table;

use std::{collections::HashMap, time::Duration};

use self::{
    deadlines::ExpiryQueue,
    table::{LegTable, RequestLegs, StoredLeg},
};
pub use self::{
    entry::{InFlightTotals, LedgerEntry, LegPhase, ListedLeg, OpenLeg},
    keys::{LegId, LegKey, ProxyId, RequestId, RequestKey},
};
use crate::{hash::MixBuildHasher, snapshot::EndpointId};

/// How much a ledger holds, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LedgerLimits {
    /// Open legs at most.
    pub max_entries: usize,
    /// How long a booking waits for its confirmation.
    pub booking_ttl: Duration,
    /// How long a request may last without a report before its legs are dropped.
    pub request_ttl: Duration,
}

/// The open requests of one pool.
#[derive(Debug)]
pub struct Ledger {
    bounds: LedgerLimits,
    open: LegTable,
    /// Never holds an endpoint without legs.
    endpoints: HashMap<EndpointId, InFlightTotals, MixBuildHasher>,
    /// Open legs that are booked only.
    booked: usize,
    /// Grows with every deadline, so that an old one differs from a new one of the same leg.
    generation: u64,
    unconfirmed: ExpiryQueue,
    confirmed: ExpiryQueue,
}

// === LedgerLimits ===

impl Default for LedgerLimits {
    fn default() -> Self {
        Self {
            max_entries: 1_000_000,
            booking_ttl: Duration::from_secs(5),
            request_ttl: Duration::from_secs(2 * 60 * 60),
        }
    }
}

// === Ledger ===

impl Ledger {
    /// An empty ledger.
    #[must_use]
    pub fn new(bounds: LedgerLimits) -> Self {
        let (unconfirmed, confirmed) = (
            ExpiryQueue::new(bounds.booking_ttl),
            ExpiryQueue::new(bounds.request_ttl),
        );
        Self {
            bounds,
            open: LegTable::default(),
            endpoints: HashMap::default(),
            booked: 0,
            generation: 0,
            unconfirmed,
            confirmed,
        }
    }

    /// Books a choice before its proxy confirms it; a second booking of a leg replaces the first.
    ///
    /// False when the leg was sent already: a late question does not undo what is known of it.
    /// False also when the ledger is full: the request is served all the same, it is only not
    /// counted.
    pub fn book(
        &mut self,
        leg: impl Into<LegKey>,
        endpoint: EndpointId,
        tokens: u32,
        now: Duration,
    ) -> bool {
        let leg = leg.into();
        if self.is_sent(leg) {
            return false;
        }
        let open = OpenLeg {
            endpoint,
            tokens,
            phase: LegPhase::Booked,
            since: now,
        };
        self.put(leg, open, now)
    }

    /// A proxy sent the leg: confirms its booking, perhaps on another endpoint, or counts it if
    /// there is none.
    ///
    /// A repeated report about a leg that answers already changes nothing. False when the ledger is
    /// full.
    pub fn started(
        &mut self,
        leg: impl Into<LegKey>,
        endpoint: EndpointId,
        tokens: u32,
        now: Duration,
    ) -> bool {
        let leg = leg.into();
        let answers =
            |open: OpenLeg| open.phase == LegPhase::Answering && open.endpoint == endpoint;
        if self.get(leg).is_some_and(answers) {
            return true;
        }
        let open = OpenLeg {
            endpoint,
            tokens,
            phase: LegPhase::Sent,
            since: now,
        };
        self.put(leg, open, now)
    }

    /// The first byte came: the leg's prompt is done. The leg as it was before, the first time
    /// only.
    pub fn first_byte(&mut self, leg: impl Into<LegKey>) -> Option<OpenLeg> {
        let leg = leg.into();
        let before = self.get(leg)?;
        match before.phase {
            LegPhase::Answering => return None,
            LegPhase::Sent => {}
            // The report that it was sent is lost or late: it needs the longer deadline all the
            // same.
            LegPhase::Booked => {
                let sent = OpenLeg {
                    phase: LegPhase::Sent,
                    ..before
                };
                _ = self.put(leg, sent, before.since);
            }
        }
        let stored = self.open.get_mut(leg)?;
        stored.open.phase = LegPhase::Answering;
        let totals = self.endpoints.get_mut(&before.endpoint)?;
        totals.tokens -= before.pending();
        totals.unanswered -= 1;
        totals.prompts -= u32::from(before.pending() > 0);
        Some(before)
    }

    /// One leg ended, however it did, and its request goes on. The leg, the first time only.
    pub fn finish_leg(&mut self, leg: impl Into<LegKey>) -> Option<OpenLeg> {
        let open = self.open.remove(leg.into())?;
        self.release(open);
        Some(open)
    }

    /// The request ended, however it did, and all its legs with it. Those that were open, the first
    /// time only.
    pub fn finish(&mut self, request: RequestKey) -> Option<LedgerEntry> {
        let legs = self.open.take_if(request, |_| true);
        self.release_all(legs)
    }

    /// Releases the legs of a request that are booked and not confirmed; confirmed ones stay.
    pub fn cancel(&mut self, request: RequestKey) -> Option<LedgerEntry> {
        let is_booked = |stored: &StoredLeg| stored.open.phase == LegPhase::Booked;
        let legs = self.open.take_if(request, is_booked);
        self.release_all(legs)
    }

    /// A proxy is gone, and all it had open with it. How many legs that were.
    pub fn forget_proxy(&mut self, proxy: ProxyId) -> usize {
        let gone = self.open.take_proxy(proxy);
        gone.iter().for_each(|open| self.release(*open));
        gone.len()
    }

    /// A proxy reports all that it has open, because reports were lost.
    ///
    /// Bookings that it does not mention stay: it may not have acted on them yet. Legs that it had
    /// before keep the time since when they are open. What exceeds the bound is left out.
    pub fn replace_proxy(
        &mut self,
        proxy: ProxyId,
        open: impl IntoIterator<Item = ListedLeg>,
        now: Duration,
    ) {
        let before = self.open.of_proxy(proxy).cloned().unwrap_or_default();
        for (&request, legs) in &before {
            for stored in legs {
                if stored.open.phase != LegPhase::Booked {
                    self.finish_leg(RequestKey { proxy, request }.leg(stored.leg));
                }
            }
        }
        for listed in open {
            let ListedLeg {
                request,
                leg,
                endpoint,
                tokens,
                phase,
            } = listed;
            let known = before
                .get(&request)
                .and_then(|legs| legs.iter().find(|stored| stored.leg == leg));
            let open = OpenLeg {
                endpoint,
                tokens,
                phase,
                since: known.map_or(now, |stored| stored.open.since),
            };
            self.put(RequestKey { proxy, request }.leg(leg), open, now);
        }
    }

    /// Removes what is open at endpoints that do not exist any more. Their requests may still
    /// report, and find nothing.
    pub fn retain_endpoints(&mut self, exists: impl Fn(EndpointId) -> bool) {
        if self.endpoints.keys().all(|&endpoint| exists(endpoint)) {
            return;
        }
        let gone = self.open.take_all_if(|open| !exists(open.endpoint));
        gone.into_iter().for_each(|open| self.release(open));
    }

    /// Drops what outlived its deadline; how many legs that were.
    pub fn expire(&mut self, now: Duration) -> usize {
        let before = self.len();
        while let Some((leg, generation)) = self
            .unconfirmed
            .due(now)
            .or_else(|| self.confirmed.due(now))
        {
            let is_current = |stored: &StoredLeg| stored.generation == generation;
            if self.open.get(leg).is_some_and(is_current) {
                self.finish_leg(leg);
            }
        }
        before - self.len()
    }

    /// What is open at one endpoint.
    #[must_use]
    pub fn in_flight(&self, endpoint: EndpointId) -> InFlightTotals {
        self.endpoints.get(&endpoint).copied().unwrap_or_default()
    }

    /// What one proxy has open, by endpoint: its own part of [`Ledger::in_flight`]. Linear in its
    /// open legs.
    #[must_use]
    pub fn open_by_endpoint(&self, proxy: ProxyId) -> HashMap<EndpointId, InFlightTotals> {
        let mut own: HashMap<EndpointId, InFlightTotals> = HashMap::new();
        let requests = self.open.of_proxy(proxy).into_iter();
        for stored in requests.flat_map(HashMap::values).flatten() {
            let totals = own.entry(stored.open.endpoint).or_default();
            totals.add(stored.open);
        }
        own
    }

    /// One leg.
    #[must_use]
    pub fn get(&self, leg: impl Into<LegKey>) -> Option<OpenLeg> {
        self.open.get(leg.into()).map(|stored| stored.open)
    }

    /// Whether the leg is open, and its proxy reported that it was sent.
    #[must_use]
    pub fn is_sent(&self, leg: impl Into<LegKey>) -> bool {
        let open = self.get(leg);
        open.is_some_and(|open| open.phase != LegPhase::Booked)
    }

    /// Whether any leg of the request is open.
    #[must_use]
    pub fn has_request(&self, request: RequestKey) -> bool {
        !self.open.request(request).is_empty()
    }

    /// Open legs: requests in flight, summed over the endpoints of the pool.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether nothing is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes a leg and its deadline, in place of what there was of it. False when there is no
    /// room.
    fn put(&mut self, leg: LegKey, open: OpenLeg, now: Duration) -> bool {
        if self.len() >= self.bounds.max_entries && self.open.get(leg).is_none() {
            return false;
        }
        // Between the two phases of a confirmed leg nothing about its deadline changes, but a new
        // one is harmless.
        self.generation += 1;
        let stored = StoredLeg {
            leg: leg.leg,
            open,
            generation: self.generation,
        };
        if let Some(old) = self.open.insert(leg.request, stored) {
            self.release(old);
        }
        self.charge(open);
        self.await_end(leg, stored, now);
        true
    }

    fn await_end(&mut self, leg: LegKey, stored: StoredLeg, now: Duration) {
        let (queue, live) = match stored.open.phase {
            LegPhase::Booked => (&mut self.unconfirmed, self.booked),
            LegPhase::Sent | LegPhase::Answering => {
                (&mut self.confirmed, self.open.len() - self.booked)
            }
        };
        let open = &self.open;
        queue.push(leg, stored.generation, now, live, |leg, generation| {
            let stored = open.get(leg);
            stored.is_some_and(|stored| stored.generation == generation)
        });
    }

    fn charge(&mut self, open: OpenLeg) {
        self.endpoints.entry(open.endpoint).or_default().add(open);
        self.booked += usize::from(open.phase == LegPhase::Booked);
    }

    fn release_all(&mut self, legs: RequestLegs) -> Option<LedgerEntry> {
        if legs.is_empty() {
            return None;
        }
        let released = legs.into_iter().map(|StoredLeg { leg, open, .. }| {
            self.release(open);
            (leg, open)
        });
        Some(LedgerEntry {
            legs: released.collect(),
        })
    }

    fn release(&mut self, open: OpenLeg) {
        self.booked -= usize::from(open.phase == LegPhase::Booked);
        let Some(totals) = self.endpoints.get_mut(&open.endpoint) else {
            debug_assert!(false, "an open leg is counted at its endpoint");
            return;
        };
        totals.remove(open);
        if totals.requests == 0 {
            self.endpoints.remove(&open.endpoint);
        }
    }
}

impl Default for Ledger {
    fn default() -> Self {
        Self::new(LedgerLimits::default())
    }
}

#[cfg(test)]
mod tests;
