//! One leg after the other: what the prefill leg answers is handed over to the decode leg.

use std::sync::Arc;

use hermes_core::rng::SeededRng;
use tokio::time::Instant;

use super::PairExchange;
use crate::{
    choose::SelectedEndpoint,
    clock::uptime,
    exchange::{
        admitted_endpoint::{AdmittedEndpoint, PendingLeg},
        attempt::{AttemptFacts, LegStage},
        guard::RequestGuard,
        leg::LegError,
        sent_leg::{LegOutcome, UpstreamResponse},
        transfer::Transfer,
    },
    pair::{self, Handoff, LegEdits, PrefillResult},
    view::RoutingPool,
};

/// A prefill leg that has handed something over.
struct PrefilledLeg {
    facts: AttemptFacts,
    handoff: Handoff,
    /// When its lease had begun, at the latest.
    leased: Instant,
    answered: Instant,
}

/// A prefill leg, or how the attempt ended with it.
type PrefillOutcome = Result<PrefilledLeg, Result<UpstreamResponse, LegError>>;

impl PairExchange<'_> {
    pub(super) async fn serial(&self, edits: &LegEdits, guard: &mut RequestGuard) -> LegOutcome {
        let decode = PendingLeg::of(self.decode);
        guard.reserve(self.decode.endpoint);
        let (prefilled, repeated) = self.prefill_leg(edits, guard).await;
        match prefilled {
            Ok(prefilled) => {
                let (answer, again) = self.decode_leg(prefilled, decode, guard).await;
                (answer, repeated || again)
            }
            Err(ended) => (ended, repeated),
        }
    }

    /// Sends the prefill leg. Returns also whether it was sent twice.
    async fn prefill_leg(
        &self,
        edits: &LegEdits,
        guard: &mut RequestGuard,
    ) -> (PrefillOutcome, bool) {
        let incoming = guard.trace.incoming.clone();
        let attempt = guard.begin_leg(LegStage::Prefill, self.prefill, self.request);
        let facts = attempt.facts().clone();
        let order = self.order(edits, &incoming);
        let order = order.map(|order| order.until(self.prefill_deadline));
        let (answer, repeated) = self.send(order, attempt).await;
        let prefilled = match answer {
            Ok(answer) if answer.is_served() => self.hand_over(answer, facts, guard).await,
            failed => Err(failed),
        };
        (prefilled, repeated)
    }

    /// Reads the answer of the prefill leg to its end.
    async fn hand_over(
        &self,
        mut answer: UpstreamResponse,
        facts: AttemptFacts,
        guard: &mut RequestGuard,
    ) -> PrefillOutcome {
        // The lease began a little earlier: the engine answers when the prompt is computed.
        let leased = Instant::now();
        let whole = answer.whole().await.map_err(Err)?;
        let answered = Instant::now();
        match pair::after_prefill(self.rules.dialect, self.request.api, &whole) {
            PrefillResult::HandOver(handoff) => {
                answer.recycle();
                Ok(PrefilledLeg {
                    facts,
                    handoff,
                    leased,
                    answered,
                })
            }
            PrefillResult::Final(last) => {
                guard.prompt_computed(&facts, answered);
                Err(Ok(answer.into_final(&last, self.request)))
            }
            PrefillResult::Unusable(why) => Err(Err(LegError::Broken(why.to_owned()))),
        }
    }

    /// Sends the decode leg, with what was handed over.
    async fn decode_leg(
        &self,
        prefilled: PrefilledLeg,
        decode: PendingLeg<'_>,
        guard: &mut RequestGuard,
    ) -> LegOutcome {
        let handoff = prefilled.handoff;
        let limit = pair::handover_limit(self.rules).filter(|_| handoff.edits.is_for_once);
        let time_left = limit.map(|limit| limit.saturating_sub(prefilled.leased.elapsed()));
        if time_left.is_some_and(|left| left.is_zero()) {
            return (Err(LegError::Broken(TOO_LATE.to_owned())), false);
        }
        let mut transfer = Transfer::begin(self.prefill, prefilled.facts);
        transfer.answered(prefilled.answered, guard);
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
        let incoming = guard.trace.incoming.clone();
        let order = self.order(&handoff.edits, &incoming);
        let order = order.map(|order| order.connecting_within(time_left));
        let attempt = guard.begin_leg(stage, decode, self.request);
        guard.prefill_cached(handoff.cached_tokens);
        let (answer, repeated) = self.send(order, attempt).await;
        let answer = answer.map(UpstreamResponse::unless_recomputed);
        if !handoff.edits.is_for_once {
            transfer.served();
            return (answer, repeated);
        }
        let answer = transfer.ended(answer, guard, self.connections).await;
        (answer, repeated)
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
}

/// The decode endpoint would read what the prefill endpoint may have freed by then.
const TOO_LATE: &str = "the prefill's answer took longer than its lease";
