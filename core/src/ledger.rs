//! The open requests of all proxies by endpoint: the in-flight figures of one pool.
//!
//! ```text
//!              book               started              first_byte            finish
//!   (nothing) ──────▶ Booked ──────────────▶ Sent ──────────────▶ Answering ────────▶ (nothing)
//!                       │ cancel, 5 s         │ pending tokens      │ 2 h
//!                       ▼                     │ end here            ▼
//!                   (nothing)                 └─ finish ─────▶ (nothing)
//! ```
//!
//! A choice books its endpoint at once, so that the next choice sees it; reports of the proxy
//! confirm it, move it after a retry, and end it. Reports may be late, doubled or lost: every
//! operation may come in any state and order, and a proxy can say at any time what it really has
//! open ([`Ledger::replace_proxy`]).
//!
//! Invariants:
//! * the figures of an endpoint are exactly the sums over the open entries that name it, and never
//!   negative;
//! * an entry is given out for release once: the second `finish` of a request finds nothing;
//! * entries are bounded, and each has a deadline; both queues of deadlines are bounded by the
//!   entries they serve.
//!
//! Costs: constant time per operation, amortized; `forget_proxy` and `replace_proxy` in what the
//! proxy has open, `retain_endpoints` in everything.

use std::{collections::HashMap, time::Duration};

use serde::Serialize;

use crate::{hash::MixBuildHasher, snapshot::EndpointId};

mod deadlines;

use deadlines::EntryDeadlines;

/// One run of one proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ProxyId(pub u64);

/// A request, numbered by its proxy; the same through all its attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct RequestId(pub u64);

/// A request, fleet-wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct RequestKey {
    /// Who serves it.
    pub proxy: ProxyId,
    /// Which of its requests.
    pub request: RequestId,
}

/// How far a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RequestPhase {
    /// Chosen; the proxy has not said that it sent it.
    Booked,
    /// Sent; nothing came back yet.
    Sent,
    /// Its first byte came: its prompt is no longer work to do.
    Answering,
}

/// One open request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LedgerEntry {
    /// Where it was sent, or will be.
    pub endpoint: EndpointId,
    /// Uncached prompt tokens: what the endpoint has, or had, to prefill for it.
    pub tokens: u32,
    /// How far it is.
    pub phase: RequestPhase,
    /// When it was booked, or sent if that was reported.
    pub since: Duration,
}

/// What is open at one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InFlightTotals {
    /// Requests booked or sent, and not ended.
    pub requests: u32,
    /// Uncached prompt tokens of those whose first byte has not come.
    pub tokens: u64,
    /// How many those are.
    pub unanswered: u32,
}

/// How much, and for how long, a ledger remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LedgerLimits {
    /// Open entries at most.
    pub max_entries: usize,
    /// How long a booking waits for its confirmation.
    pub booking_ttl: Duration,
    /// How long a request may last before its proxy is taken to have forgotten it.
    pub request_ttl: Duration,
}

/// The open requests of one pool.
#[derive(Debug)]
pub struct Ledger {
    bounds: LedgerLimits,
    /// Never holds an empty inner map.
    proxies: HashMap<ProxyId, ProxyRequests, MixBuildHasher>,
    /// Never holds an endpoint without requests.
    endpoints: HashMap<EndpointId, InFlightTotals, MixBuildHasher>,
    /// Entries in `proxies`.
    len: usize,
    /// Those of them that are booked only.
    booked: usize,
    /// Grows with every deadline, so that an old one differs from a new one of the same request.
    generation: u64,
    unconfirmed: EntryDeadlines,
    confirmed: EntryDeadlines,
}

type ProxyRequests = HashMap<RequestId, StoredEntry, MixBuildHasher>;

#[derive(Clone, Copy, Debug)]
struct StoredEntry {
    open: LedgerEntry,
    generation: u64,
}

// === Bounds ===

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
            EntryDeadlines::new(bounds.booking_ttl),
            EntryDeadlines::new(bounds.request_ttl),
        );
        Self {
            bounds,
            proxies: HashMap::default(),
            endpoints: HashMap::default(),
            len: 0,
            booked: 0,
            generation: 0,
            unconfirmed,
            confirmed,
        }
    }

    /// Notes a choice before anyone acted on it; a second booking of a request replaces the first.
    ///
    /// False when the ledger is full: the request is served all the same, it is only not counted.
    pub fn book(
        &mut self,
        key: RequestKey,
        endpoint: EndpointId,
        tokens: u32,
        now: Duration,
    ) -> bool {
        self.put(
            key,
            LedgerEntry {
                endpoint,
                tokens,
                phase: RequestPhase::Booked,
                since: now,
            },
            now,
        )
    }

    /// A proxy sent the request: confirms its booking, perhaps on another endpoint, or notes it if
    /// there is none.
    ///
    /// A repeated report about a request that answers already changes nothing. False when the
    /// ledger is full.
    pub fn started(
        &mut self,
        key: RequestKey,
        endpoint: EndpointId,
        tokens: u32,
        now: Duration,
    ) -> bool {
        let answering = |entry: &StoredEntry| {
            entry.open.phase == RequestPhase::Answering && entry.open.endpoint == endpoint
        };
        if self.entry(key).is_some_and(answering) {
            return true;
        }
        self.put(
            key,
            LedgerEntry {
                endpoint,
                tokens,
                phase: RequestPhase::Sent,
                since: now,
            },
            now,
        )
    }

    /// The first byte came: the request's prompt is done. Its entry as it was before, the first
    /// time only.
    pub fn first_byte(&mut self, key: RequestKey) -> Option<LedgerEntry> {
        let before = self.get(key)?;
        match before.phase {
            RequestPhase::Answering => return None,
            RequestPhase::Sent => {}
            // The report that it was sent is lost or late: it needs the longer deadline all the
            // same.
            RequestPhase::Booked => {
                _ = self.put(
                    key,
                    LedgerEntry {
                        phase: RequestPhase::Sent,
                        ..before
                    },
                    before.since,
                );
            }
        }
        let entry = self.proxies.get_mut(&key.proxy)?.get_mut(&key.request)?;
        entry.open.phase = RequestPhase::Answering;
        let sums = self.endpoints.get_mut(&before.endpoint)?;
        sums.tokens -= before.pending();
        sums.unanswered -= 1;
        Some(before)
    }

    /// The request ended, however it did. Its entry, the first time only.
    pub fn finish(&mut self, key: RequestKey) -> Option<LedgerEntry> {
        let requests = self.proxies.get_mut(&key.proxy)?;
        let StoredEntry { open, .. } = requests.remove(&key.request)?;
        if requests.is_empty() {
            self.proxies.remove(&key.proxy);
        }
        self.release(open);
        self.len -= 1;
        Some(open)
    }

    /// Releases a booking that was not confirmed; a confirmed request stays.
    pub fn cancel(&mut self, key: RequestKey) -> Option<LedgerEntry> {
        let booked = self.entry(key)?.open.phase == RequestPhase::Booked;
        if booked { self.finish(key) } else { None }
    }

    /// A proxy is gone, and all it had open with it. How many entries that were.
    pub fn forget_proxy(&mut self, proxy: ProxyId) -> usize {
        let requests = self.proxies.remove(&proxy).unwrap_or_default();
        requests.values().for_each(|entry| self.release(entry.open));
        self.len -= requests.len();
        requests.len()
    }

    /// A proxy says what it really has open, because reports were lost.
    ///
    /// Bookings that it does not mention stay: it may not have acted on them yet. Requests that it
    /// had before keep the time since when they are open. What exceeds the bound is left out.
    pub fn replace_proxy(
        &mut self,
        proxy: ProxyId,
        open: impl IntoIterator<Item = (RequestId, EndpointId, u32, RequestPhase)>,
        now: Duration,
    ) {
        let before = self.proxies.get(&proxy).cloned().unwrap_or_default();
        for (&request, entry) in &before {
            if entry.open.phase != RequestPhase::Booked {
                self.finish(RequestKey { proxy, request });
            }
        }
        for (request, endpoint, tokens, phase) in open {
            let since = before.get(&request).map_or(now, |entry| entry.open.since);
            self.put(
                RequestKey { proxy, request },
                LedgerEntry {
                    endpoint,
                    tokens,
                    phase,
                    since,
                },
                now,
            );
        }
    }

    /// Forgets what is open at endpoints that do not exist any more. Their requests may still
    /// report, and find nothing.
    pub fn retain_endpoints(&mut self, exists: impl Fn(EndpointId) -> bool) {
        if self.endpoints.keys().all(|&endpoint| exists(endpoint)) {
            return;
        }
        let mut gone = Vec::new();
        for requests in self.proxies.values_mut() {
            gone.extend(
                requests
                    .extract_if(|_, entry| !exists(entry.open.endpoint))
                    .map(|(_, entry)| entry.open),
            );
        }
        self.proxies.retain(|_, requests| !requests.is_empty());
        self.len -= gone.len();
        gone.into_iter().for_each(|open| self.release(open));
    }

    /// Drops what outlived its deadline; how many entries that were.
    pub fn expire(&mut self, now: Duration) -> usize {
        let before = self.len;
        while let Some((key, generation)) = self
            .unconfirmed
            .due(now)
            .or_else(|| self.confirmed.due(now))
        {
            if self
                .entry(key)
                .is_some_and(|entry| entry.generation == generation)
            {
                self.finish(key);
            }
        }
        before - self.len
    }

    /// What is open at one endpoint.
    #[must_use]
    pub fn in_flight(&self, endpoint: EndpointId) -> InFlightTotals {
        self.endpoints.get(&endpoint).copied().unwrap_or_default()
    }

    /// What one proxy has open, by endpoint: its own part of [`Ledger::in_flight`]. Linear in its
    /// open requests.
    #[must_use]
    pub fn open_by_endpoint(&self, proxy: ProxyId) -> HashMap<EndpointId, InFlightTotals> {
        let mut own: HashMap<EndpointId, InFlightTotals> = HashMap::new();
        for StoredEntry { open, .. } in self
            .proxies
            .get(&proxy)
            .into_iter()
            .flat_map(HashMap::values)
        {
            let sums = own.entry(open.endpoint).or_default();
            sums.add(*open);
        }
        own
    }

    /// The entry of one request.
    #[must_use]
    pub fn get(&self, key: RequestKey) -> Option<LedgerEntry> {
        self.entry(key).map(|entry| entry.open)
    }

    /// Open entries: requests in flight over the whole pool.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn entry(&self, key: RequestKey) -> Option<&StoredEntry> {
        self.proxies.get(&key.proxy)?.get(&key.request)
    }

    /// Writes an entry and its deadline, in place of the request's old one. False when there is no
    /// room.
    fn put(&mut self, key: RequestKey, open: LedgerEntry, now: Duration) -> bool {
        let old = self.entry(key).map(|entry| entry.open);
        if old.is_none() && self.len >= self.bounds.max_entries {
            return false;
        }
        // Between the two phases of a confirmed request nothing about its deadline changes, but a
        // new one is harmless.
        self.generation += 1;
        let entry = StoredEntry {
            open,
            generation: self.generation,
        };
        self.proxies
            .entry(key.proxy)
            .or_default()
            .insert(key.request, entry);
        match old {
            Some(old) => self.release(old),
            None => self.len += 1,
        }
        self.charge(open);
        self.await_end(key, entry, now);
        true
    }

    fn await_end(&mut self, key: RequestKey, entry: StoredEntry, now: Duration) {
        let (queue, live) = match entry.open.phase {
            RequestPhase::Booked => (&mut self.unconfirmed, self.booked),
            RequestPhase::Sent | RequestPhase::Answering => {
                (&mut self.confirmed, self.len - self.booked)
            }
        };
        let proxies = &self.proxies;
        queue.push(key, entry.generation, now, live, |key, generation| {
            let entry = proxies
                .get(&key.proxy)
                .and_then(|requests| requests.get(&key.request));
            entry.is_some_and(|entry| entry.generation == generation)
        });
    }

    fn charge(&mut self, open: LedgerEntry) {
        let sums = self.endpoints.entry(open.endpoint).or_default();
        sums.add(open);
        self.booked += usize::from(open.phase == RequestPhase::Booked);
    }

    fn release(&mut self, open: LedgerEntry) {
        self.booked -= usize::from(open.phase == RequestPhase::Booked);
        let Some(sums) = self.endpoints.get_mut(&open.endpoint) else {
            debug_assert!(false, "an open request is counted at its endpoint");
            return;
        };
        sums.requests -= 1;
        sums.tokens -= open.pending();
        sums.unanswered -= u32::from(open.phase != RequestPhase::Answering);
        if sums.requests == 0 {
            self.endpoints.remove(&open.endpoint);
        }
    }
}

impl Default for Ledger {
    fn default() -> Self {
        Self::new(LedgerLimits::default())
    }
}

// === InFlight ===

impl InFlightTotals {
    fn add(&mut self, open: LedgerEntry) {
        self.requests += 1;
        self.tokens += open.pending();
        self.unanswered += u32::from(open.phase != RequestPhase::Answering);
    }
}

// === Open ===

impl LedgerEntry {
    /// Tokens still to prefill.
    fn pending(&self) -> u64 {
        match self.phase {
            RequestPhase::Booked | RequestPhase::Sent => self.tokens.into(),
            RequestPhase::Answering => 0,
        }
    }
}

#[cfg(test)]
mod tests;
