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

use std::{pin::pin, sync::Arc, time::Duration};

use hermes_core::{ejection::EndpointFailure, policy::DisaggregationPolicy, rng::SeededRng};
use tokio::time::{Instant, timeout_at};

use super::{
    admitted_endpoint::{AdmittedEndpoint, PendingLeg},
    attempt::{Attempt, LegStage},
    guard::RequestGuard,
    leaders,
    led_pair::LedPair,
    leg::{LegDeadline, LegError},
    sent_leg::{LegOrder, LegOutcome, UpstreamResponse},
    transfer::Transfer,
};
use crate::{
    choose::SelectedEndpoint,
    clock::uptime,
    pair::{
        self, ConcurrentLegs, Handoff, LegEdits, PairEndpoints, PairEntry, PairPlan, PrefillResult,
    },
    request::inference_request::InferenceRequest,
    telemetry::metrics::ConnectionMetrics,
    view::RoutingPool,
};

/// How long the prefill leg may last beyond the first token of the decode leg that took it over.
pub(super) const PREFILL_PATIENCE: Duration = Duration::from_millis(20);

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

    async fn serial(&self, edits: &LegEdits, guard: &mut RequestGuard) -> LegOutcome {
        let decode = PendingLeg::of(self.decode);
        guard.reserve(self.decode.endpoint);
        let incoming = guard.trace.incoming.clone();
        let attempt = guard.begin_leg(LegStage::Prefill, self.prefill, self.request);
        let prefill = attempt.facts().clone();
        let order = self.order(edits, &incoming);
        let order = order.map(|order| order.until(self.prefill_deadline));
        let (answer, repeated) = self.send(order, attempt).await;
        let mut answer = match answer {
            Ok(answer) if answer.is_served() => answer,
            failed => return (failed, repeated),
        };
        // The lease began a little earlier: the engine answers when the prompt is computed.
        let leased = Instant::now();
        let whole = match answer.whole().await {
            Ok(whole) => whole,
            Err(error) => return (Err(error), repeated),
        };
        let answered = Instant::now();
        let handoff = match pair::after_prefill(self.rules.dialect, self.request.api, &whole) {
            PrefillResult::HandOver(handoff) => handoff,
            PrefillResult::Final(last) => {
                guard.prompt_computed(&prefill, answered);
                return (Ok(answer.into_final(&last, self.request)), repeated);
            }
            PrefillResult::Unusable(why) => {
                return (Err(LegError::Broken(why.to_owned())), repeated);
            }
        };
        answer.recycle();
        let limit = pair::handover_limit(self.rules).filter(|_| handoff.edits.is_for_once);
        let time_left = limit.map(|limit| limit.saturating_sub(leased.elapsed()));
        if time_left.is_some_and(|left| left.is_zero()) {
            return (Err(LegError::Broken(TOO_LATE.to_owned())), repeated);
        }
        let mut transfer = Transfer::begin(self.prefill, prefill);
        transfer.answered(answered, guard);
        let stage = if handoff.is_taken {
            LegStage::Decode
        } else {
            LegStage::Both
        };
        let other = self.other_decode();
        let decode = match other.as_ref().and_then(AdmittedEndpoint::admit) {
            Some(other) => {
                drop(decode);
                other
            }
            None => decode.hand_over(),
        };
        let order = self.order(&handoff.edits, &incoming);
        let order = order.map(|order| order.connecting_within(time_left));
        let attempt = guard.begin_leg(stage, decode, self.request);
        guard.prefill_cached(handoff.cached_tokens);
        let (answer, again) = self.send(order, attempt).await;
        let answer = answer.map(UpstreamResponse::unless_recomputed);
        if !handoff.edits.is_for_once {
            transfer.served();
            return (answer, repeated || again);
        }
        let answer = transfer.ended(answer, guard, self.connections).await;
        (answer, repeated || again)
    }

    async fn at_once(&self, legs: &ConcurrentLegs, guard: &mut RequestGuard) -> LegOutcome {
        let decode_leg = PendingLeg::of(self.decode);
        let incoming = guard.trace.incoming.clone();
        let order = |edits| self.order(edits, &incoming);
        let (prefill_order, decode_order) = match (order(&legs.prefill), order(&legs.decode)) {
            (Ok(prefill), Ok(decode)) => (prefill.until(self.prefill_deadline), decode),
            (Err(error), _) | (_, Err(error)) => return (Err(error), false),
        };
        let attempt = guard.begin_leg(LegStage::Prefill, self.prefill, self.request);
        let mut transfer = Transfer::begin(self.prefill, attempt.facts().clone());
        let prefill = prefill_order.send(attempt, self.connections);
        let prefill = async {
            let (answer, repeated) = prefill.await;
            (self.prefilled(answer, legs).await, repeated)
        };
        let attempt = guard.begin_leg(LegStage::Decode, decode_leg.hand_over(), self.request);
        let decode_facts = attempt.facts().clone();
        let decode = async {
            let (answer, repeated) = decode_order.send(attempt, self.connections).await;
            (answer.map(UpstreamResponse::unless_recomputed), repeated)
        };
        let decoded = {
            let (mut prefill, mut decode) = (pin!(prefill), pin!(decode));
            tokio::select! {
                biased;
                (prefilled, repeated) = &mut prefill => match prefilled {
                    Ok(handoff) => {
                        transfer.answered(Instant::now(), guard);
                        guard.prefill_cached(handoff.cached_tokens);
                        if handoff.is_taken { Some(decode.await) } else { None }
                    }
                    Err(failed) => {
                        transfer.failed(guard);
                        if matches!(&failed, Err(LegError::TimedOut(deadline)) if deadline.is_full) {
                            // Either endpoint waits for the other one.
                            guard.suspect(&decode_facts, EndpointFailure::Timeout);
                        }
                        return (failed, repeated);
                    }
                },
                (answer, repeated) = &mut decode => {
                    let is_served = answer.as_ref().is_ok_and(UpstreamResponse::is_served);
                    let until = match is_served {
                        false => Instant::now(),
                        true if legs.must_end => self.deadline.at,
                        // There are tokens, so that the prefill is over; its answer is about to
                        // come.
                        true => Instant::now() + PREFILL_PATIENCE,
                    };
                    if let Ok((Ok(handoff), _)) = timeout_at(until, prefill).await {
                        transfer.answered(Instant::now(), guard);
                        guard.prefill_cached(handoff.cached_tokens);
                    }
                    Some((answer, repeated))
                }
            }
        };
        let Some((answer, repeated)) = decoded else {
            // The decode leg, which would wait in vain, is cut off.
            transfer.served();
            return self.alone(&incoming, guard).await;
        };
        let answer = transfer.ended(answer, guard, self.connections).await;
        (answer, repeated)
    }

    /// The request as it is, to the decode endpoint: there is no KV cache to take over.
    async fn alone(
        &self,
        incoming: &opentelemetry::Context,
        guard: &mut RequestGuard,
    ) -> LegOutcome {
        let attempt = guard.begin_leg(LegStage::Both, self.decode, self.request);
        let edits = LegEdits::default();
        self.send(self.order(&edits, incoming), attempt).await
    }

    /// What came of a prefill leg that is sent at once with the decode leg: what its answer states,
    /// if it is read.
    async fn prefilled(
        &self,
        answer: Result<UpstreamResponse, LegError>,
        legs: &ConcurrentLegs,
    ) -> Result<Handoff, Result<UpstreamResponse, LegError>> {
        let mut answer = match answer {
            Ok(answer) if answer.is_served() => answer,
            failed => return Err(failed),
        };
        let mut handoff = Handoff {
            is_taken: true,
            ..Handoff::default()
        };
        if legs.must_end {
            let whole = answer.whole().await.map_err(Err)?;
            match pair::after_prefill(self.rules.dialect, self.request.api, &whole) {
                PrefillResult::HandOver(stated) => handoff = stated,
                PrefillResult::Final(_) => {}
                PrefillResult::Unusable(why) => {
                    return Err(Err(LegError::Broken(why.to_owned())));
                }
            }
        }
        answer.recycle();
        Ok(handoff)
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

    /// Another decode endpoint, if the one that kept room went down or became full while the prompt
    /// was computed. Nothing of the request is there yet.
    fn other_decode(&self) -> Option<SelectedEndpoint> {
        let RoutingPool {
            pool,
            picker,
            upstreams,
            ..
        } = self.pool;
        let position = |of: &AdmittedEndpoint<'_>| pool.position(of.upstream().endpoint.id);
        let pair = (position(&self.prefill)?, position(&self.decode)?);
        let (model, now) = (self.request.model.as_deref(), uptime());
        let mut rng = SeededRng::new(self.room);
        let other = picker.other_decode(pair, model, |at| upstreams[at].load(now), &mut rng)?;
        Some(SelectedEndpoint {
            upstream: Arc::clone(&upstreams[other]),
            cached_tokens: 0,
            source: None,
        })
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

/// The decode endpoint would read what the prefill endpoint may have freed by then.
const TOO_LATE: &str = "the prefill's answer took longer than its lease";
