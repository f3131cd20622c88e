//! Who has what open where, over the whole fleet of proxies: the in-flight figures of one pool.
//!
//! ```text
//!              book               started              first_byte            finish
//!   (nothing) ──────▶ Booked ──────────────▶ Sent ──────────────▶ Answering ────────▶ (nothing)
//!                       │ cancel, 5 s         │ pending tokens      │ 2 h
//!                       ▼                     │ end here            ▼
//!                   (nothing)                 └─ finish ─────▶ (nothing)
//! ```
//!
//! A choice books its endpoint at once, so that the next choice sees it; reports of the proxy confirm it, move it after
//! a retry, and end it. Reports may be late, doubled or lost: every operation may come in any state and order, and a
//! proxy can say at any time what it really has open ([`Ledger::replace_proxy`]).
//!
//! Invariants:
//! * the figures of an endpoint are exactly the sums over the open entries that name it, and never negative;
//! * an entry is given out for release once: the second `finish` of a request finds nothing;
//! * entries are bounded, and each has a deadline; both queues of deadlines are bounded by the entries they serve.
//!
//! Costs: constant time per operation, amortized; `forget_proxy` and `replace_proxy` in what the proxy has open,
//! `retain_endpoints` in everything.

use std::{collections::HashMap, time::Duration};

use serde::Serialize;

use crate::{mix::ByMix, snapshot::EndpointId};

mod deadlines;

use deadlines::Deadlines;

/// One run of one proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ProxyId(pub u64);

/// A request, numbered by its proxy; the same through all its attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct RequestId(pub u64);

/// A request, fleet-wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Key {
    /// Who serves it.
    pub proxy: ProxyId,
    /// Which of its requests.
    pub request: RequestId,
}

/// How far a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Chosen; the proxy has not said that it sent it.
    Booked,
    /// Sent; nothing came back yet.
    Sent,
    /// Its first byte came: its prompt is no longer work to do.
    Answering,
}

/// One open request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Open {
    /// Where it was sent, or will be.
    pub endpoint: EndpointId,
    /// Uncached prompt tokens: what the endpoint has, or had, to prefill for it.
    pub tokens: u32,
    /// How far it is.
    pub phase: Phase,
    /// When it was booked, or sent if that was reported.
    pub since: Duration,
}

/// What is open at one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InFlight {
    /// Requests booked or sent, and not ended.
    pub requests: u32,
    /// Uncached prompt tokens of those whose first byte has not come.
    pub tokens: u64,
    /// How many those are.
    pub unanswered: u32,
}

/// How much, and for how long, a ledger remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Open entries at most.
    pub entries: usize,
    /// How long a booking waits for its confirmation.
    pub unconfirmed: Duration,
    /// How long a request may last before its proxy is taken to have forgotten it.
    pub confirmed: Duration,
}

/// The open requests of one pool.
#[derive(Debug)]
pub struct Ledger {
    bounds: Bounds,
    /// Never holds an empty inner map.
    proxies: HashMap<ProxyId, Requests, ByMix>,
    /// Never holds an endpoint without requests.
    endpoints: HashMap<EndpointId, InFlight, ByMix>,
    /// Entries in `proxies`.
    len: usize,
    /// Those of them that are booked only.
    booked: usize,
    /// Grows with every deadline, so that an old one is told from a new one of the same request.
    generation: u64,
    unconfirmed: Deadlines,
    confirmed: Deadlines,
}

type Requests = HashMap<RequestId, Entry, ByMix>;

#[derive(Clone, Copy, Debug)]
struct Entry {
    open: Open,
    generation: u64,
}

// === Bounds ===

impl Default for Bounds {
    fn default() -> Self {
        Self {
            entries: 1_000_000,
            unconfirmed: Duration::from_secs(5),
            confirmed: Duration::from_secs(2 * 60 * 60),
        }
    }
}

// === Ledger ===

impl Ledger {
    /// An empty ledger.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        let (unconfirmed, confirmed) = (
            Deadlines::new(bounds.unconfirmed),
            Deadlines::new(bounds.confirmed),
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
    pub fn book(&mut self, key: Key, endpoint: EndpointId, tokens: u32, now: Duration) -> bool {
        self.put(
            key,
            Open {
                endpoint,
                tokens,
                phase: Phase::Booked,
                since: now,
            },
            now,
        )
    }

    /// A proxy sent the request: confirms its booking, perhaps on another endpoint, or notes it if there is none.
    ///
    /// A repeated report about a request that answers already changes nothing. False when the ledger is full.
    pub fn started(&mut self, key: Key, endpoint: EndpointId, tokens: u32, now: Duration) -> bool {
        let answering =
            |entry: &Entry| entry.open.phase == Phase::Answering && entry.open.endpoint == endpoint;
        if self.entry(key).is_some_and(answering) {
            return true;
        }
        self.put(
            key,
            Open {
                endpoint,
                tokens,
                phase: Phase::Sent,
                since: now,
            },
            now,
        )
    }

    /// The first byte came: the request's prompt is done. Its entry as it was before, the first time only.
    pub fn first_byte(&mut self, key: Key) -> Option<Open> {
        let before = self.get(key)?;
        match before.phase {
            Phase::Answering => return None,
            Phase::Sent => {}
            // The report that it was sent is lost or late: it needs the longer deadline all the same.
            Phase::Booked => {
                _ = self.put(
                    key,
                    Open {
                        phase: Phase::Sent,
                        ..before
                    },
                    before.since,
                )
            }
        }
        let entry = self.proxies.get_mut(&key.proxy)?.get_mut(&key.request)?;
        entry.open.phase = Phase::Answering;
        let sums = self.endpoints.get_mut(&before.endpoint)?;
        sums.tokens -= before.pending();
        sums.unanswered -= 1;
        Some(before)
    }

    /// The request ended, however it did. Its entry, the first time only.
    pub fn finish(&mut self, key: Key) -> Option<Open> {
        let requests = self.proxies.get_mut(&key.proxy)?;
        let Entry { open, .. } = requests.remove(&key.request)?;
        if requests.is_empty() {
            self.proxies.remove(&key.proxy);
        }
        self.release(open);
        self.len -= 1;
        Some(open)
    }

    /// Takes back a booking that nobody acted on; a confirmed request stays.
    pub fn cancel(&mut self, key: Key) -> Option<Open> {
        let booked = self.entry(key)?.open.phase == Phase::Booked;
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
    /// Bookings that it does not mention stay: it may not have acted on them yet. Requests that it had before keep
    /// the time since when they are open. What exceeds the bound is left out.
    pub fn replace_proxy(
        &mut self,
        proxy: ProxyId,
        open: impl IntoIterator<Item = (RequestId, EndpointId, u32, Phase)>,
        now: Duration,
    ) {
        let before = self.proxies.get(&proxy).cloned().unwrap_or_default();
        for (&request, entry) in &before {
            if entry.open.phase != Phase::Booked {
                self.finish(Key { proxy, request });
            }
        }
        for (request, endpoint, tokens, phase) in open {
            let since = before.get(&request).map_or(now, |entry| entry.open.since);
            self.put(
                Key { proxy, request },
                Open {
                    endpoint,
                    tokens,
                    phase,
                    since,
                },
                now,
            );
        }
    }

    /// Forgets what is open at endpoints that do not exist any more. Their requests may still report, and find nothing.
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
    pub fn in_flight(&self, endpoint: EndpointId) -> InFlight {
        self.endpoints.get(&endpoint).copied().unwrap_or_default()
    }

    /// What one proxy has open, by endpoint: its own part of [`Ledger::in_flight`]. Linear in its open requests.
    #[must_use]
    pub fn own(&self, proxy: ProxyId) -> HashMap<EndpointId, InFlight> {
        let mut own: HashMap<EndpointId, InFlight> = HashMap::new();
        for Entry { open, .. } in self
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
    pub fn get(&self, key: Key) -> Option<Open> {
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

    fn entry(&self, key: Key) -> Option<&Entry> {
        self.proxies.get(&key.proxy)?.get(&key.request)
    }

    /// Writes an entry and its deadline, in place of the request's old one. False when there is no room.
    fn put(&mut self, key: Key, open: Open, now: Duration) -> bool {
        let old = self.entry(key).map(|entry| entry.open);
        if old.is_none() && self.len >= self.bounds.entries {
            return false;
        }
        // Between the two phases of a confirmed request nothing about its deadline changes, but a new one is harmless.
        self.generation += 1;
        let entry = Entry {
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

    fn await_end(&mut self, key: Key, entry: Entry, now: Duration) {
        let (queue, live) = match entry.open.phase {
            Phase::Booked => (&mut self.unconfirmed, self.booked),
            Phase::Sent | Phase::Answering => (&mut self.confirmed, self.len - self.booked),
        };
        let proxies = &self.proxies;
        queue.push(key, entry.generation, now, live, |key, generation| {
            let entry = proxies
                .get(&key.proxy)
                .and_then(|requests| requests.get(&key.request));
            entry.is_some_and(|entry| entry.generation == generation)
        });
    }

    fn charge(&mut self, open: Open) {
        let sums = self.endpoints.entry(open.endpoint).or_default();
        sums.add(open);
        self.booked += usize::from(open.phase == Phase::Booked);
    }

    fn release(&mut self, open: Open) {
        self.booked -= usize::from(open.phase == Phase::Booked);
        let Some(sums) = self.endpoints.get_mut(&open.endpoint) else {
            debug_assert!(false, "an open request is counted at its endpoint");
            return;
        };
        sums.requests -= 1;
        sums.tokens -= open.pending();
        sums.unanswered -= u32::from(open.phase != Phase::Answering);
        if sums.requests == 0 {
            self.endpoints.remove(&open.endpoint);
        }
    }
}

impl Default for Ledger {
    fn default() -> Self {
        Self::new(Bounds::default())
    }
}

// === InFlight ===

impl InFlight {
    fn add(&mut self, open: Open) {
        self.requests += 1;
        self.tokens += open.pending();
        self.unanswered += u32::from(open.phase != Phase::Answering);
    }
}

// === Open ===

impl Open {
    /// Tokens still to prefill.
    fn pending(&self) -> u64 {
        match self.phase {
            Phase::Booked | Phase::Sent => self.tokens.into(),
            Phase::Answering => 0,
        }
    }
}

#[cfg(test)]
mod tests;
