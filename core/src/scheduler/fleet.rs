//! The endpoints of a pool: as machines, with their caches, and with what is in flight at each.
//! Everything that a choice reads of endpoints is here, and nothing of queued requests.
//!
//! Owns the ledger. Invariants: `loads`, `flights`, `engines`, `terms` and the pool's endpoints are
//! parallel; `flights` is what the ledger sums up; and `terms` follow from engines and flights, so
//! that who changes one of them [recounts](Fleet::recount) the position.

mod answers;
mod caches;
mod pressure;
mod room;
mod takeover;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

pub use self::pressure::PoolPressure;
pub(super) use self::room::RoomRequirement;
use super::{
    engine::{EndpointTerms, EngineModel, FirstByte, SentPrompt},
    speed::{PoolDecodeSpeed, PoolTransfers, PrefillFit, PrefillSpeed, UsualSpeed},
    utilization::Utilization,
};
use crate::{
    departures::Departures,
    estimate::CacheEstimator,
    ledger::{InFlightTotals, Ledger, LedgerEntry, LegKey, OpenLeg, ProxyId, RequestKey},
    load::{EngineSample, Health, Load},
    pick::Picker,
    snapshot::{EndpointId, Pool},
};

/// Seconds after which any prompt without a report is assumed to be computed.
const LONGEST_SILENCE: f64 = 60.0;

/// Non-streaming legs that ended and are remembered, besides twice as many as are open.
const MAX_ENDED: usize = 1_024;

/// The work of a request at an endpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct PrefillWork {
    /// Tokens of its prompt that need memory of their own: no running prompt has them.
    pub(super) memory: u32,
    /// Uncached tokens of its prompt.
    pub(super) uncached: u32,
    /// Its first byte comes with its last token, so that the end of its prefill has to be assumed.
    pub(super) non_streaming: bool,
}

/// The memory that a request was counted with at its endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MemoryCharge {
    /// Tokens of its prompt that no prompt shared which ran there before.
    pub(super) tokens: u32,
    /// Number of its route there: what was routed later may share its memory.
    pub(super) route: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Fleet {
    picker: Arc<Picker>,
    ledger: Ledger,
    loads: Vec<Load>,
    engines: Vec<EngineModel>,
    /// What choices read of the engines, and of what is in flight there.
    terms: Vec<EndpointTerms>,
    departed: Departures<EngineModel>,
    /// Prompts that all of them compute at once.
    lanes: u32,
    caches: CacheEstimator,
    flights: Vec<InFlightTotals>,
    utilization: Utilization,
    usual: UsualSpeed,
    /// How fast KV caches move from prefill to decode endpoints.
    transfers: PoolTransfers,
    decoding: PoolDecodeSpeed,
    /// First bytes so far.
    answers: u64,
    /// The time of the last tick.
    ticked: Duration,
    /// Times at which the prefill of non-streaming legs is assumed to be complete, and where it was
    /// sent. Those of legs that ended, or went elsewhere, stay until they are due or outnumber the
    /// open ones.
    silent: BTreeSet<(Duration, LegKey, EndpointId)>,
}

// === Fleet ===

impl Fleet {
    pub(super) fn new(pool: Arc<Pool>) -> Self {
        let endpoints = pool.endpoints.len();
        let rules = pool.spec.policy.kv_aware_or_default();
        let mut caches = CacheEstimator::new();
        caches.apply(&pool, rules.default_cache_tokens, Duration::ZERO);
        let engines = vec![EngineModel::default(); endpoints];
        let default = PrefillFit::prior(rules.default_prefill_rate.into());
        let usual = UsualSpeed::Configured(default);
        Self {
            terms: Self::idle_terms(&engines, usual),
            picker: Arc::new(Picker::build(pool)),
            caches,
            ledger: Ledger::default(),
            loads: vec![Load::default(); endpoints],
            engines,
            departed: Departures::default(),
            lanes: endpoints as u32,
            flights: vec![InFlightTotals::default(); endpoints],
            utilization: Utilization::idle(endpoints),
            usual,
            transfers: PoolTransfers::default(),
            decoding: PoolDecodeSpeed::default(),
            answers: 0,
            ticked: Duration::ZERO,
            silent: BTreeSet::new(),
        }
    }

    /// Applies a changed pool. Endpoints that stay keep their state, and those that return what was
    /// learned of them. Returns the number of open requests that were removed.
    pub(super) fn apply(&mut self, pool: &Arc<Pool>, now: Duration) -> usize {
        let before = Arc::clone(self.pool());
        let mut engines = std::mem::take(&mut self.engines);
        let mut kept = |id| {
            before
                .position(id)
                .map(|position| (std::mem::take(&mut engines[position]), position))
        };
        let (mut next, mut loads) = (Vec::new(), Vec::new());
        for endpoint in &pool.endpoints {
            let (engine, position) = kept(endpoint.id).unzip();
            let returned = || {
                let known = self.departed.take_back(endpoint.id);
                known.map(|engine| engine.returned(self.answers))
            };
            next.push(engine.or_else(returned).unwrap_or_default());
            loads.push(position.map_or_else(Load::default, |position| self.loads[position]));
        }
        for (endpoint, engine) in before.endpoints.iter().zip(engines) {
            if pool.position(endpoint.id).is_none() {
                self.departed.leave(endpoint.id, engine.idle(), now);
            }
        }
        (self.engines, self.loads) = (next, loads);
        self.lanes = self.engines.iter().map(EngineModel::lanes).sum();
        self.flights = vec![InFlightTotals::default(); pool.endpoints.len()];
        self.terms = Self::idle_terms(&self.engines, self.usual);
        let ids = pool.endpoints.iter().map(|endpoint| endpoint.id);
        self.utilization.apply(ids.map(|id| before.position(id)));
        self.picker = Arc::new(Picker::build(Arc::clone(pool)));
        let open = self.ledger.len();
        self.ledger
            .retain_endpoints(|id| pool.position(id).is_some());
        self.recount_all(now);
        let rules = pool.spec.policy.kv_aware_or_default();
        self.caches.apply(pool, rules.default_cache_tokens, now);
        open - self.ledger.len()
    }

    pub(super) fn pool(&self) -> &Arc<Pool> {
        self.picker.pool()
    }

    pub(super) fn picker(&self) -> &Arc<Picker> {
        &self.picker
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The load and health of each endpoint, by position.
    pub(super) fn loads(&self) -> &[Load] {
        &self.loads
    }

    pub(super) fn engine(&self, position: usize) -> &EngineModel {
        &self.engines[position]
    }

    pub(super) fn position(&self, endpoint: EndpointId) -> Option<usize> {
        self.pool().position(endpoint)
    }

    pub(super) fn flight(&self, position: usize) -> InFlightTotals {
        self.flights[position]
    }

    /// Books a leg at an endpoint.
    pub(super) fn book(&mut self, key: LegKey, position: usize, work: PrefillWork, now: Duration) {
        let endpoint = self.pool().endpoints[position].id;
        let moved = self.ledger.get(key);
        self.send(key, position, work, now);
        self.ledger.book(key, endpoint, work.uncached, now);
        self.recount_moved(key, moved, endpoint, now);
    }

    /// A proxy sent a leg there. Returns false if it was booked there already.
    pub(super) fn started(
        &mut self,
        key: LegKey,
        endpoint: EndpointId,
        work: PrefillWork,
        now: Duration,
    ) -> bool {
        let moved = self.ledger.get(key);
        let booked = moved.filter(|open| open.endpoint == endpoint);
        // A booking was computed with more information than the proxy has, unless it was to decode
        // only and computes the prompt after all.
        let known = booked.map(|open| open.tokens).filter(|&tokens| tokens > 0);
        let tokens = known.unwrap_or(work.uncached);
        if let (None, Some(position)) = (booked, self.position(endpoint)) {
            self.send(key, position, work, now);
        }
        self.ledger.started(key, endpoint, tokens, now);
        self.recount_moved(key, moved, endpoint, now);
        booked.is_none()
    }

    fn send(&mut self, key: LegKey, position: usize, work: PrefillWork, now: Duration) {
        let PrefillWork {
            memory,
            uncached,
            non_streaming,
        } = work;
        let before = self.flights[position];
        let engine = &self.engines[position];
        let window = self.pool().spec.policy.kv_aware_or_default().window;
        let explores = engine.may_explore(before) && !self.is_free(position, window, now);
        if non_streaming {
            self.expect_silence(key, position, uncached, now);
        }
        let prompt = SentPrompt {
            leg: key,
            memory,
            uncached,
            explores,
        };
        self.engines[position].sent(prompt, self.usual, before, now);
    }

    /// Notes when the prefill of a leg that reports no first byte is assumed to be complete.
    fn expect_silence(&mut self, key: LegKey, position: usize, uncached: u32, now: Duration) {
        let terms = &self.terms[position];
        let delay = terms.queue_delay(0.0, now.as_secs_f64());
        let seconds = delay + terms.fit.seconds(uncached.into());
        let due = now.saturating_add(Duration::from_secs_f64(seconds.clamp(0.0, LONGEST_SILENCE)));
        if self.silent.len() > 2 * self.ledger.len() + MAX_ENDED {
            let ledger = &self.ledger;
            self.silent.retain(|(_, key, endpoint)| {
                ledger
                    .get(*key)
                    .is_some_and(|open| open.endpoint == *endpoint)
            });
        }
        self.silent
            .insert((due, key, self.pool().endpoints[position].id));
    }

    /// Assumes the due prompts to be computed whose first byte is not reported.
    pub(super) fn assume_done(&mut self, now: Duration) {
        while let Some(&(due, key, endpoint)) = self.silent.first()
            && due <= now
        {
            self.silent.pop_first();
            let open = self.ledger.get(key);
            if open.is_none_or(|open| open.endpoint != endpoint) {
                continue;
            }
            if let Some(before) = self.ledger.first_byte(key)
                && let Some(position) = self.position(before.endpoint)
            {
                if before.tokens > 0 {
                    let flight = self.flights[position];
                    self.engines[position].done(key, flight, before.since, now);
                } else {
                    self.engines[position].left(key);
                }
                self.recount(position, now);
            }
        }
    }

    /// Legs that decode endpoints keep memory for.
    #[cfg(test)]
    pub(super) fn reserved_legs(&self) -> usize {
        let reserved = self.engines.iter().map(EngineModel::reserved_legs);
        reserved.sum()
    }

    /// Non-streaming legs that are remembered.
    #[cfg(test)]
    pub(super) fn silent_legs(&self) -> usize {
        self.silent.len()
    }

    /// The first byte came, `ttft` after the leg was sent, if that was measured.
    pub(super) fn first_byte(
        &mut self,
        key: LegKey,
        ttft: Option<Duration>,
        now: Duration,
    ) -> Option<OpenLeg> {
        let before = self.ledger.first_byte(key)?;
        let position = self.position(before.endpoint);
        if let Some(position) = position.filter(|_| before.tokens == 0) {
            // It computed no prompt, so that its time shows no speed.
            self.engines[position].left(key);
            self.recount(position, now);
        } else if let Some(position) = position {
            let ttft = ttft.unwrap_or_else(|| now.saturating_sub(before.since));
            let flight = self.flights[position];
            let first = FirstByte {
                leg: key,
                ttft,
                uncached: before.tokens,
            };
            self.answers += 1;
            self.engines[position].answered(first, flight, self.usual, self.answers, now);
            self.recount(position, now);
        }
        Some(before)
    }

    /// An engine reported that `tokens` of this prompt were uncached.
    pub(super) fn prefilled(&mut self, position: usize, request: RequestKey, tokens: u32) {
        self.engines[position].corrected(request, tokens);
    }

    /// An engine's own figures; `None` when they are missing or stale.
    pub(super) fn set_sample(&mut self, position: usize, sample: Option<EngineSample>) {
        self.loads[position].sample = sample;
        self.engines[position].sampled(sample, self.flights[position]);
        self.read_terms(position);
    }

    /// How many prompts an endpoint computes at once; 0 counts as 1.
    pub(super) fn set_lanes(&mut self, position: usize, lanes: u32, now: Duration) {
        let engine = &mut self.engines[position];
        let before = engine.lanes();
        engine.set_lanes(lanes);
        self.lanes = self.lanes - before + engine.lanes();
        self.recount(position, now);
    }

    pub(super) fn set_health(&mut self, position: usize, health: Health) {
        self.loads[position].health = health;
    }

    /// Removes a leg from the ledger.
    pub(super) fn release_leg(&mut self, key: LegKey, now: Duration) -> Option<OpenLeg> {
        let open = self.ledger.finish_leg(key)?;
        if let Some(position) = self.position(open.endpoint) {
            self.engines[position].left(key);
            self.recount(position, now);
        }
        Some(open)
    }

    /// Removes legs of a request from the ledger by `take`.
    pub(super) fn release(
        &mut self,
        key: RequestKey,
        take: impl FnOnce(&mut Ledger) -> Option<LedgerEntry>,
        now: Duration,
    ) -> Option<LedgerEntry> {
        let released = take(&mut self.ledger)?;
        for (leg, open) in released.legs() {
            if let Some(position) = self.position(open.endpoint) {
                self.engines[position].left(key.leg(leg));
                self.recount(position, now);
            }
        }
        Some(released)
    }

    /// Changes many legs of the ledger at once; returns by how many there are fewer.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Ledger), now: Duration) -> usize {
        let before = self.ledger.len();
        change(&mut self.ledger);
        let endpoints = &self.picker.pool().endpoints;
        for (engine, endpoint) in self.engines.iter_mut().zip(endpoints.iter()) {
            engine.retain(|leg| {
                let open = self.ledger.get(leg);
                open.is_some_and(|open| open.endpoint == endpoint.id && open.is_unanswered())
            });
        }
        self.recount_all(now);
        before.saturating_sub(self.ledger.len())
    }

    /// A proxy is gone for good.
    pub(super) fn forget_proxy(&mut self, proxy: ProxyId, now: Duration) -> usize {
        self.change(|ledger| _ = ledger.forget_proxy(proxy), now)
    }

    /// Advances time: bookings expire, and the pool's median speed becomes the usual one.
    pub(super) fn tick(&mut self, now: Duration) -> usize {
        self.caches.settle(self.picker.pool(), now);
        self.departed.expire(now);
        let elapsed = now.saturating_sub(self.ticked);
        self.ticked = self.ticked.max(now);
        let endpoints = self.engines.len();
        for engine in &mut self.engines {
            engine.fade(elapsed);
            engine.review(self.answers, endpoints);
        }
        self.usual = self.usual_speed();
        self.transfers.review(self.answers);
        self.change(|ledger| _ = ledger.expire(now), now)
    }

    /// The median speed of endpoints that computed prompts of different lengths, or else of all
    /// that computed any, or else the configured rate.
    fn usual_speed(&self) -> UsualSpeed {
        let rules = self.pool().spec.policy.kv_aware_or_default();
        let default = PrefillFit::prior(rules.default_prefill_rate.into());
        let speeds = || self.engines.iter().map(|engine| &engine.prefill);
        let mut fits: Vec<PrefillFit> = speeds().filter_map(PrefillSpeed::line).collect();
        if fits.is_empty() {
            fits.extend(speeds().filter_map(|speed| speed.fit(default)));
        }
        fits.sort_unstable_by(|one, other| one.rate.total_cmp(&other.rate));
        let median = fits.get(fits.len() / 2);
        median.map_or(UsualSpeed::Configured(default), |&median| {
            UsualSpeed::Learned(median)
        })
    }

    fn recount_moved(
        &mut self,
        leg: LegKey,
        before: Option<OpenLeg>,
        endpoint: EndpointId,
        now: Duration,
    ) {
        let left = before
            .map(|open| open.endpoint)
            .filter(|before| *before != endpoint);
        if let Some(position) = left.and_then(|left| self.position(left)) {
            self.engines[position].left(leg);
        }
        for endpoint in std::iter::once(endpoint).chain(left) {
            if let Some(position) = self.position(endpoint) {
                self.recount(position, now);
            }
        }
    }

    fn recount_all(&mut self, now: Duration) {
        (0..self.flights.len()).for_each(|position| self.recount(position, now));
    }

    /// The terms of engines with nothing in flight.
    fn idle_terms(engines: &[EngineModel], usual: UsualSpeed) -> Vec<EndpointTerms> {
        let idle = InFlightTotals::default();
        engines
            .iter()
            .map(|engine| engine.terms(idle, usual))
            .collect()
    }

    fn read_terms(&mut self, position: usize) {
        self.terms[position] = self.engines[position].terms(self.flights[position], self.usual);
    }

    /// Whether choices read of this endpoint what it is now.
    #[cfg(test)]
    pub(super) fn has_current_terms(&self, position: usize) -> bool {
        let current = self.engines[position].terms(self.flights[position], self.usual);
        format!("{current:?}") == format!("{:?}", self.terms[position])
    }

    /// Copies the ledger's sums of one endpoint, and what choices read of it.
    fn recount(&mut self, position: usize, now: Duration) {
        let flight = self.ledger.in_flight(self.pool().endpoints[position].id);
        self.flights[position] = flight;
        self.read_terms(position);
        self.engines[position].occupied(flight, now);
        let busy = self.engines[position].busy_share(flight);
        self.utilization.set(position, busy, now);
        let load = &mut self.loads[position];
        (load.in_flight, load.pending_tokens) = (flight.requests, flight.tokens);
    }
}
