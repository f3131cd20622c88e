//! The endpoints of a pool as machines, and what is in flight at each: everything that a choice
//! reads except caches.
//!
//! Owns the ledger. Invariant: `loads`, `flights`, `engines` and the pool's endpoints are parallel,
//! and `flights` is what the ledger sums up.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{
    cost::{CandidateEndpoint, CandidateSet},
    engine::EngineModel,
    utilization::Utilization,
};
use crate::{
    ledger::{InFlightTotals, Ledger, LedgerEntry, ProxyId, RequestKey},
    load::{Health, Load},
    pick::{NoEndpoint, Picker},
    policy::KvAware,
    query::Query,
    scheduler::speed::PrefillFit,
    snapshot::{EndpointId, Pool},
};

/// How long a request waits for memory alone. Engines' memory figures may be wrong, and engines
/// queue what does not fit themselves: this wait avoids preemptions, and a wrong figure costs no
/// more than this.
const PATIENCE: Duration = Duration::from_secs(2);

/// Seconds after which any prompt without a report is assumed to be computed.
const LONGEST_SILENCE: f64 = 60.0;

/// Factor of the default prefill time for an endpoint whose speed is not known yet. With 1 a new
/// endpoint would get nothing while others are free that are known to be a little faster than the
/// median.
const OPTIMISM: f64 = 0.75;

/// The work of a request at an endpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct PrefillWork {
    /// Tokens of its prompt.
    pub(super) prompt: u32,
    /// Uncached ones among them.
    pub(super) uncached: u32,
    /// Its first byte comes with its last token, so that the end of its prefill has to be assumed.
    pub(super) non_streaming: bool,
}

/// The requirements of a request for room.
#[derive(Clone, Copy, Debug)]
pub(super) struct RoomRequirement {
    /// Tokens of its prompt.
    pub(super) prompt: u32,
    /// How long it has been queued.
    pub(super) waited: Duration,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Fleet {
    pub(super) picker: Picker,
    pub(super) ledger: Ledger,
    pub(super) loads: Vec<Load>,
    pub(super) engines: Vec<EngineModel>,
    flights: Vec<InFlightTotals>,
    /// Engines that compute prompts.
    busy: usize,
    pub(super) utilization: Utilization,
    /// For an engine whose own speed is not known.
    prior: PrefillFit,
    /// The time of the last tick.
    ticked: Duration,
    /// Times at which the prefill of non-streaming requests is assumed to be complete. Those of
    /// requests that ended stay until they are due.
    silent: BTreeSet<(Duration, RequestKey)>,
}

// === Fleet ===

impl Fleet {
    pub(super) fn new(pool: Arc<Pool>, default_prefill_rate: f32) -> Self {
        let endpoints = pool.endpoints.len();
        Self {
            picker: Picker::build(pool),
            ledger: Ledger::default(),
            loads: vec![Load::default(); endpoints],
            engines: vec![EngineModel::default(); endpoints],
            flights: vec![InFlightTotals::default(); endpoints],
            busy: 0,
            utilization: Utilization::default(),
            prior: PrefillFit::prior(default_prefill_rate.into()),
            ticked: Duration::ZERO,
            silent: BTreeSet::new(),
        }
    }

    /// Applies a changed pool; endpoints that stay keep their state. Returns the number of open
    /// requests that were removed.
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
            next.push(engine.unwrap_or_default());
            loads.push(position.map_or_else(Load::default, |position| self.loads[position]));
        }
        (self.engines, self.loads) = (next, loads);
        self.flights = vec![InFlightTotals::default(); pool.endpoints.len()];
        self.busy = 0;
        self.picker = Picker::build(Arc::clone(pool));
        let open = self.ledger.len();
        self.ledger
            .retain_endpoints(|id| pool.position(id).is_some());
        self.recount_all(now);
        open - self.ledger.len()
    }

    pub(super) fn pool(&self) -> &Arc<Pool> {
        self.picker.pool()
    }

    pub(super) fn position(&self, endpoint: EndpointId) -> Option<usize> {
        self.pool().position(endpoint)
    }

    pub(super) fn flight(&self, position: usize) -> InFlightTotals {
        self.flights[position]
    }

    /// The endpoints that may be chosen for a request and are up, or warm up and take their turn by
    /// `draw`.
    ///
    /// `queued` has the seconds of queued work per position.
    pub(super) fn candidates(
        &self,
        model: Option<&str>,
        query: &Query,
        queued: &[f64],
        draw: f32,
        now: Duration,
    ) -> Result<CandidateSet, NoEndpoint> {
        let members = self.picker.members(model)?;
        let endpoints = &self.pool().endpoints;
        let tried = |position: usize| query.exclude.contains(&endpoints[position].id);
        let chosen = members
            .from(0)
            .filter(|&position| self.loads[position].health.admits(draw));
        let chosen = chosen.filter(|&position| query.exclude.is_empty() || !tried(position));
        Ok(CandidateSet::new(
            chosen
                .map(|position| self.candidate(position, queued[position], now))
                .collect(),
        ))
    }

    pub(super) fn candidate(
        &self,
        position: usize,
        queued: f64,
        now: Duration,
    ) -> CandidateEndpoint {
        let (engine, flight) = (&self.engines[position], self.flights[position]);
        let fit = engine.fit(self.prior);
        CandidateEndpoint {
            position: position as u32,
            in_flight: flight.requests,
            recent_prefill: engine.recent_prefill(),
            queue_delay: engine.queue_delay(flight, fit, now) + queued,
            base: fit.base,
            per_token: 1.0 / fit.rate,
        }
    }

    /// Whether a prompt may be sent there: our own prompts begin within the window, and its memory
    /// takes the prompt.
    ///
    /// Work of other clients raises the cost of an endpoint and is not waited for: it might never
    /// end. Nor is memory waited for forever, see [`PATIENCE`].
    pub(super) fn has_room(
        &self,
        position: usize,
        need: RoomRequirement,
        rules: &KvAware,
        now: Duration,
    ) -> bool {
        let patience = PATIENCE.min(rules.queue.max_wait / 2);
        self.is_free(position, rules, now)
            && (need.waited >= patience || self.engines[position].fits(need.prompt))
    }

    /// Whether our own prompts begin there within the window.
    pub(super) fn is_free(&self, position: usize, rules: &KvAware, now: Duration) -> bool {
        let engine = &self.engines[position];
        engine.pending(self.flights[position], engine.fit(self.prior), now)
            < rules.window.as_secs_f64()
    }

    /// Whether any endpoint may take a request now, or none is up so that queueing does not help.
    pub(super) fn may_take(&self, rules: &KvAware, now: Duration) -> bool {
        let up = |position: &usize| self.loads[*position].health != Health::Down;
        let mut up = (0..self.loads.len()).filter(up).peekable();
        up.peek().is_none() || up.any(|position| self.is_free(position, rules, now))
    }

    /// Books a request at an endpoint.
    pub(super) fn book(
        &mut self,
        key: RequestKey,
        position: usize,
        work: PrefillWork,
        now: Duration,
    ) {
        let endpoint = self.pool().endpoints[position].id;
        let moved = self.ledger.get(key);
        self.send(key, position, work, now);
        self.ledger.book(key, endpoint, work.uncached, now);
        self.recount_moved(moved, endpoint, now);
    }

    /// A proxy sent a request there. Returns false if it was booked there already.
    pub(super) fn started(
        &mut self,
        key: RequestKey,
        endpoint: EndpointId,
        work: PrefillWork,
        now: Duration,
    ) -> bool {
        let moved = self.ledger.get(key);
        let booked = moved.filter(|open| open.endpoint == endpoint);
        // A booking was computed with more information than the proxy has.
        let tokens = booked.map_or(work.uncached, |open| open.tokens);
        if let (None, Some(position)) = (booked, self.position(endpoint)) {
            self.send(key, position, work, now);
        }
        self.ledger.started(key, endpoint, tokens, now);
        self.recount_moved(moved, endpoint, now);
        booked.is_none()
    }

    fn send(&mut self, key: RequestKey, position: usize, work: PrefillWork, now: Duration) {
        let PrefillWork {
            prompt,
            uncached,
            non_streaming,
        } = work;
        let before = self.flights[position];
        let fit = self.engines[position].fit(self.prior);
        if non_streaming {
            let seconds =
                self.engines[position].queue_delay(before, fit, now) + fit.seconds(uncached.into());
            let due =
                now.saturating_add(Duration::from_secs_f64(seconds.clamp(0.0, LONGEST_SILENCE)));
            self.silent.insert((due, key));
        }
        self.engines[position].sent(prompt, f64::from(uncached) / fit.rate, before, now);
    }

    /// Assumes the due prompts to be computed whose first byte is not reported.
    pub(super) fn assume_done(&mut self, now: Duration) {
        while let Some((_, key)) = self.silent.first().copied().filter(|(due, _)| *due <= now) {
            self.silent.pop_first();
            if let Some(before) = self.ledger.first_byte(key)
                && let Some(position) = self.position(before.endpoint)
            {
                self.engines[position].done(now);
                self.recount(position, now);
            }
        }
    }

    /// The first byte came, `ttft` after the request was sent, if that was measured.
    pub(super) fn first_byte(
        &mut self,
        key: RequestKey,
        ttft: Option<Duration>,
        now: Duration,
    ) -> Option<LedgerEntry> {
        let before = self.ledger.first_byte(key)?;
        if let Some(position) = self.position(before.endpoint) {
            let ttft = ttft.unwrap_or_else(|| now.saturating_sub(before.since));
            self.engines[position].answered(now, ttft, before.tokens);
            self.recount(position, now);
        }
        Some(before)
    }

    /// Removes a request from the ledger by `take`.
    pub(super) fn release(
        &mut self,
        take: impl FnOnce(&mut Ledger) -> Option<LedgerEntry>,
        now: Duration,
    ) -> Option<LedgerEntry> {
        let open = take(&mut self.ledger)?;
        if let Some(position) = self.position(open.endpoint) {
            self.recount(position, now);
        }
        Some(open)
    }

    /// Changes many entries of the ledger at once; returns by how many there are fewer.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Ledger), now: Duration) -> usize {
        let before = self.ledger.len();
        change(&mut self.ledger);
        self.recount_all(now);
        before.saturating_sub(self.ledger.len())
    }

    /// A proxy is gone for good.
    pub(super) fn forget_proxy(&mut self, proxy: ProxyId, now: Duration) -> usize {
        self.change(|ledger| _ = ledger.forget_proxy(proxy), now)
    }

    /// Advances time: bookings expire, and the pool's median speed becomes the prior.
    pub(super) fn tick(&mut self, default_prefill_rate: f32, now: Duration) -> usize {
        let elapsed = now.saturating_sub(self.ticked);
        self.ticked = self.ticked.max(now);
        self.engines
            .iter_mut()
            .for_each(|engine| engine.fade(elapsed));
        let mut fits: Vec<PrefillFit> = self
            .engines
            .iter()
            .filter_map(|engine| engine.prefill.fit())
            .collect();
        fits.sort_unstable_by(|one, other| one.rate.total_cmp(&other.rate));
        let median = fits
            .get(fits.len() / 2)
            .map(|median| median.scaled(OPTIMISM));
        self.prior = median.unwrap_or(PrefillFit::prior(default_prefill_rate.into()));
        self.change(|ledger| _ = ledger.expire(now), now)
    }

    fn recount_moved(&mut self, before: Option<LedgerEntry>, endpoint: EndpointId, now: Duration) {
        let left = before
            .map(|open| open.endpoint)
            .filter(|before| *before != endpoint);
        for endpoint in std::iter::once(endpoint).chain(left) {
            if let Some(position) = self.position(endpoint) {
                self.recount(position, now);
            }
        }
    }

    fn recount_all(&mut self, now: Duration) {
        (0..self.flights.len()).for_each(|position| self.recount(position, now));
    }

    /// Copies the ledger's sums of one endpoint.
    fn recount(&mut self, position: usize, now: Duration) {
        let flight = self.ledger.in_flight(self.pool().endpoints[position].id);
        let before = std::mem::replace(&mut self.flights[position], flight);
        self.busy =
            self.busy + usize::from(flight.unanswered > 0) - usize::from(before.unanswered > 0);
        self.utilization
            .set(self.busy as f64 / self.flights.len() as f64, now);
        let load = &mut self.loads[position];
        (load.in_flight, load.pending_tokens) = (flight.requests, flight.tokens);
    }
}
