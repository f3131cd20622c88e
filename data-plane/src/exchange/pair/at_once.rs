//! Both legs at once: the endpoints meet, and the failure of one leg ends the other.

use std::{pin::pin, time::Duration};

use hermes_core::ejection::EndpointFailure;
use tokio::time::{Instant, timeout_at};

use super::PairExchange;
use crate::{
    exchange::{
        admitted_endpoint::PendingLeg,
        attempt::{Attempt, AttemptFacts, LegStage},
        guard::RequestGuard,
        leg::LegError,
        sent_leg::{LegOrder, LegOutcome, UpstreamResponse},
        transfer::Transfer,
    },
    pair::{self, ConcurrentLegs, Handoff, LegEdits, PrefillResult},
};

/// How long the prefill leg may last beyond the first token of the decode leg that took it over.
pub(in crate::exchange) const PREFILL_PATIENCE: Duration = Duration::from_millis(20);

/// How an attempt ended with one of its legs.
type EndedLeg = Result<UpstreamResponse, LegError>;

impl PairExchange<'_> {
    pub(super) async fn at_once(
        &self,
        legs: &ConcurrentLegs,
        guard: &mut RequestGuard,
    ) -> LegOutcome {
        let decode_leg = PendingLeg::of(self.decode);
        let incoming = guard.trace.incoming.clone();
        let order = |edits| self.order(edits, &incoming);
        let (prefill_order, decode_order) = match (order(&legs.prefill), order(&legs.decode)) {
            (Ok(prefill), Ok(decode)) => (prefill.until(self.prefill_deadline), decode),
            (Err(error), _) | (_, Err(error)) => return (Err(error), false),
        };
        let attempt = guard.begin_leg(LegStage::Prefill, self.prefill, self.request);
        let mut transfer = Transfer::begin(self.prefill, attempt.facts().clone());
        let prefill = self.prefilled(prefill_order, attempt, legs);
        let attempt = guard.begin_leg(LegStage::Decode, decode_leg.hand_over(), self.request);
        let decode_facts = attempt.facts().clone();
        let decoded = {
            let (mut prefill, mut decode) =
                (pin!(prefill), pin!(self.decoded(decode_order, attempt)));
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
                        suspect_both(&failed, &decode_facts, guard);
                        return (failed, repeated);
                    }
                },
                (answer, repeated) = &mut decode => {
                    let until = self.awaits_prefill(&answer, legs);
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

    /// Sends the prefill leg: what its answer states, if it is read, or how it failed; and whether
    /// it was sent twice.
    async fn prefilled(
        &self,
        order: LegOrder<'_>,
        attempt: Attempt,
        legs: &ConcurrentLegs,
    ) -> (Result<Handoff, EndedLeg>, bool) {
        let (answer, repeated) = order.send(attempt, self.connections).await;
        let handoff = match answer {
            Ok(answer) if answer.is_served() => self.stated(answer, legs).await,
            failed => Err(failed),
        };
        (handoff, repeated)
    }

    /// What the answer of the prefill leg states, if it is read.
    async fn stated(
        &self,
        mut answer: UpstreamResponse,
        legs: &ConcurrentLegs,
    ) -> Result<Handoff, EndedLeg> {
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

    /// Sends the decode leg.
    async fn decoded(&self, order: LegOrder<'_>, attempt: Attempt) -> LegOutcome {
        let (answer, repeated) = order.send(attempt, self.connections).await;
        (answer.map(UpstreamResponse::unless_recomputed), repeated)
    }

    /// How long the prefill leg is waited for, when the decode leg ended with this.
    fn awaits_prefill(&self, decoded: &EndedLeg, legs: &ConcurrentLegs) -> Instant {
        match decoded.as_ref().is_ok_and(UpstreamResponse::is_served) {
            false => Instant::now(),
            true if legs.must_end => self.deadline.at,
            // There are tokens, so that the prefill is over; its answer is about to come.
            true => Instant::now() + PREFILL_PATIENCE,
        }
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
}

/// A prefill leg that had all its time and no answer may have waited for its decode leg, as that one
/// waits for it.
fn suspect_both(prefill: &EndedLeg, decode: &AttemptFacts, guard: &RequestGuard) {
    if matches!(prefill, Err(LegError::TimedOut(deadline)) if deadline.is_full) {
        guard.suspect(decode, EndpointFailure::Timeout);
    }
}
