//! What proxies and the collector say, into one brain.
//!
//! Two things follow from an event: the ledger moves, and the endpoint's breaker learns. A breaker learns from what an
//! endpoint did (answered, failed), never from what a client did or from backpressure.

use std::time::Duration;

use hermes_core::{
    breaker::Failure,
    ledger::{Key, Open, Phase, ProxyId, RequestId},
    snapshot::EndpointId,
};
use hermes_proto::v1::Outcome;

use super::{Brain, State};
use crate::{collector::Observation, metrics::Cause};

impl Brain {
    /// The request was sent to `endpoint`.
    pub fn started(&self, key: Key, endpoint: EndpointId, uncached_tokens: u32, now: Duration) {
        let mut state = self.state.lock();
        let before = state.ledger.get(key);
        state.ledger.started(key, endpoint, uncached_tokens, now);
        state.recount_endpoint(endpoint);
        state.recount_moved(before, endpoint);
    }

    /// The first byte of its answer came.
    pub fn first_byte(&self, key: Key, now: Duration) {
        let mut state = self.state.lock();
        let Some(before) = state.ledger.first_byte(key) else { return };
        state.recount_endpoint(before.endpoint);
        state.judge(before.endpoint, now, |breaker| breaker.on_success(now));
    }

    /// An attempt failed before its first byte, and the request goes on elsewhere.
    pub fn attempt_failed(&self, endpoint: EndpointId, outcome: Outcome, now: Duration) {
        self.state.lock().blame(endpoint, outcome, now);
    }

    /// The request is over.
    pub fn finished(&self, key: Key, endpoint: Option<EndpointId>, outcome: Outcome, now: Duration) {
        let mut state = self.state.lock();
        let open = state.ledger.finish(key);
        if let Some(open) = open {
            state.recount_endpoint(open.endpoint);
            self.metrics.released(Cause::Report, 1);
        }
        let Some(endpoint) = endpoint else { return };
        let answered = open.is_some_and(|open| open.phase == Phase::Answering);
        match outcome {
            // Its first byte said so already, and what ends now may have begun before the endpoint failed.
            Outcome::Ok | Outcome::Cancelled if answered => {}
            Outcome::Ok => state.judge(endpoint, now, |breaker| breaker.on_success(now)),
            outcome => state.blame(endpoint, outcome, now),
        }
    }

    /// The proxy does not want its answer any more. A request that was sent stays.
    pub fn cancel(&self, key: Key, now: Duration) {
        let mut state = self.state.lock();
        let Some(open) = state.ledger.cancel(key) else { return };
        state.recount_endpoint(open.endpoint);
        state.judge(open.endpoint, now, |breaker| breaker.on_abandoned(now));
        self.metrics.released(Cause::Cancel, 1);
    }

    /// A proxy says what it really has open in this pool.
    pub fn replace_proxy(&self, proxy: ProxyId, open: Vec<(RequestId, EndpointId, u32, Phase)>, now: Duration) {
        let mut state = self.state.lock();
        let open = open.into_iter().filter(|(_, endpoint, ..)| state.pool.position(*endpoint).is_some());
        let open: Vec<_> = open.collect();
        state.ledger.replace_proxy(proxy, open, now);
        state.recompute(now);
    }

    /// A proxy is gone for good.
    pub fn forget_proxy(&self, proxy: ProxyId, now: Duration) {
        let mut state = self.state.lock();
        let released = state.ledger.forget_proxy(proxy);
        if released > 0 {
            state.recompute(now);
            self.metrics.released(Cause::ProxyGone, released);
        }
    }

    /// The collector asked an endpoint.
    pub fn observe(&self, observation: &Observation, now: Duration) {
        let mut state = self.state.lock();
        let Some(position) = state.pool.position(observation.endpoint) else { return };
        state.slots[position].observe(&observation.outcome, now);
        state.reassess(position, now);
    }
}

impl State {
    /// After a retry the endpoint before has one request less.
    fn recount_moved(&mut self, before: Option<Open>, endpoint: EndpointId) {
        if let Some(before) = before.filter(|before| before.endpoint != endpoint) {
            self.recount_endpoint(before.endpoint);
        }
    }

    fn blame(&mut self, endpoint: EndpointId, outcome: Outcome, now: Duration) {
        let failure = match outcome {
            Outcome::Unreachable => Failure::Connect,
            Outcome::Failed => Failure::Reset,
            Outcome::TimedOut => Failure::Timeout,
            Outcome::Backpressure => Failure::Status(503),
            Outcome::Ok | Outcome::Cancelled | Outcome::Unspecified => {
                return self.judge(endpoint, now, |breaker| breaker.on_abandoned(now));
            }
        };
        self.judge(endpoint, now, |breaker| breaker.on_failure(now, failure));
    }

    fn judge(&mut self, endpoint: EndpointId, now: Duration, verdict: impl FnOnce(&mut hermes_core::breaker::Breaker)) {
        let Some(position) = self.pool.position(endpoint) else { return };
        verdict(&mut self.slots[position].breaker);
        self.loads[position].health = self.slots[position].health(now);
    }
}
