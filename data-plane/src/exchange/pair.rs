//! An attempt at a prefill/decode pair: its legs, one after the other or at once.
//!
//! ```text
//!   serial   prefill leg ─▶ its whole answer ─▶ handoff ─▶ decode leg ─▶ relayed
//!   at once  prefill leg ───▶ first token ─▶ its connection is kept
//!            decode leg ────▶ first token ─▶ relayed      the failure of one leg ends the other
//!   through  one leg, to the leader or the sidecar ──────▶ relayed
//! ```
//!
//! What each leg is sent is decided in [`crate::pair`], and what follows from an attempt that fails
//! in [`super::retry`], as for one endpoint. An attempt fails with the answer or error of one of
//! its legs: the guard's attempt is that leg when [`PairExchange::run`] returns.
//!
//! Invariants: one deadline for both legs, of which the prefill leg has a share if another placement
//! may follow; what is handed over is sent once, within its lease; when
//! this future is dropped, as it is when the client disconnects, both connections are.

mod at_once;
mod serial;

use hermes_core::policy::DisaggregationPolicy;

#[cfg(test)]
pub(super) use self::at_once::PREFILL_PATIENCE;
use super::{
    admitted_endpoint::AdmittedEndpoint,
    attempt::{Attempt, LegStage},
    guard::RequestGuard,
    leaders,
    led_pair::LedPair,
    leg::{LegDeadline, LegError},
    sent_leg::{LegOrder, LegOutcome},
    transfer::Transfer,
};
use crate::{
    choose::SelectedEndpoint,
    pair::{self, LegEdits, PairEndpoints, PairEntry, PairPlan},
    request::inference_request::InferenceRequest,
    telemetry::metrics::ConnectionMetrics,
    view::RoutingPool,
};

/// See the module.
pub(super) struct PairExchange<'a> {
    pub(super) request: &'a InferenceRequest,
    pub(super) pool: &'a RoutingPool,
    pub(super) rules: &'a DisaggregationPolicy,
    pub(super) prefill: AdmittedEndpoint<'a>,
    pub(super) decode: AdmittedEndpoint<'a>,
    pub(super) deadline: LegDeadline,
    /// That of the prefill leg, which leaves time for another pair.
    pub(super) prefill_deadline: LegDeadline,
    /// A number that no other attempt has.
    pub(super) room: u64,
    pub(super) connections: &'a ConnectionMetrics,
}

impl PairExchange<'_> {
    /// Sends both legs, and waits for the first token of the answer.
    pub(super) async fn run(&self, guard: &mut RequestGuard) -> LegOutcome {
        let endpoints = PairEndpoints {
            prefill: &self.prefill.upstream().endpoint,
            decode: &self.decode.upstream().endpoint,
        };
        match pair::plan(self.rules, self.request.api, endpoints, self.room) {
            Ok(PairPlan::Serial(edits)) => self.serial(&edits, guard).await,
            Ok(PairPlan::AtOnce(legs)) => self.at_once(&legs, guard).await,
            Ok(PairPlan::Through(entry, edits)) => self.through(entry, &edits, guard).await,
            Err(unknown) => {
                self.prefill.give_up();
                self.decode.give_up();
                (Err(LegError::Broken(unknown.to_owned())), false)
            }
        }
    }

    async fn through(
        &self,
        entry: PairEntry,
        edits: &LegEdits,
        guard: &mut RequestGuard,
    ) -> LegOutcome {
        let pair = (self.prefill.endpoint, self.decode.endpoint);
        let incoming = guard.trace.incoming.clone();
        let order = self.order(edits, &incoming);
        if entry == PairEntry::Decode {
            let attempt = guard.begin_through(self.decode, pair, self.request);
            let prefill = attempt.facts().forwarded(LegStage::Prefill, self.prefill);
            let transfer = Transfer::begin_unseen(self.prefill, prefill);
            let (answer, repeated) = self.send(order, attempt).await;
            let answer = transfer.ended(answer, guard, self.connections).await;
            return (answer, repeated);
        }
        let Some((upstream, admission)) = leaders::admit(self.pool, pair.0.upstream.endpoint.id)
        else {
            self.prefill.give_up();
            self.decode.give_up();
            let error = "the group of the pair has no leader";
            return (Err(LegError::Broken(error.to_owned())), false);
        };
        let leader = SelectedEndpoint {
            upstream,
            ..pair.0.clone()
        };
        let leader = AdmittedEndpoint {
            endpoint: &leader,
            admission,
        };
        let attempt = guard.begin_through(leader, pair, self.request);
        let led = LedPair::begin([self.prefill, self.decode], attempt.facts());
        let (answer, repeated) = self.send(order, attempt).await;
        let answer = led.ended(answer, guard, self.connections).await;
        (answer, repeated)
    }

    async fn send(&self, order: Result<LegOrder<'_>, LegError>, attempt: Attempt) -> LegOutcome {
        match order {
            Ok(order) => order.send(attempt, self.connections).await,
            Err(error) => (Err(error), false),
        }
    }

    /// A leg with these edits.
    fn order<'o>(
        &'o self,
        edits: &'o LegEdits,
        incoming: &'o opentelemetry::Context,
    ) -> Result<LegOrder<'o>, LegError> {
        let body = self.request.leg_body(&edits.body);
        Ok(LegOrder {
            request: self.request,
            body: body.map_err(|_| LegError::Broken(NO_OBJECT.to_owned()))?,
            headers: &edits.headers,
            may_repeat: !edits.is_for_once,
            deadline: self.deadline,
            connect_timeout: self.pool.pool.spec.policy.timeouts.connect,
            incoming,
        })
    }
}

/// A body whose fields were read is one.
const NO_OBJECT: &str = "the body is no JSON object";
