//! Sending a request to the selected endpoints, one after another, until one answers.
//!
//! An attempt may be repeated elsewhere only before the first byte of an answer reached the client,
//! only if the request may be sent again, and only if the pool's retry budget pays for it. What
//! follows from a failed attempt is decided in [`super::retry`].

use std::sync::Arc;

use hermes_core::{ledger::LegId, placement::Placement};
use http::response;
use tokio::time::Instant;

use super::{
    answer::retry_after as retry_after_of,
    attempt::Attempt,
    guard::RequestGuard,
    leg::{ClassVerdict, HeldPieces, Leg, LegAnswer, LegDeadline, LegError, LegResult},
    retry::{AttemptEnd, Attempts, RefusalContext, RetryVerdict},
    turn::EndpointTurn,
    unread_answer,
};
use crate::{
    choose::{EndpointSelection, SelectedEndpoint},
    endpoint::{Upstream, UpstreamBody},
    request::{inference_request::InferenceRequest, leg_body::LegBody, local_reply::LocalReply},
    telemetry::metrics::{AnswerClass, AttemptOutcome, ProxyMetrics, RequestOutcome},
    view::RoutingPool,
};

/// An endpoint's answer, whose first bytes were read.
pub(crate) struct UpstreamResponse {
    pub(crate) head: response::Parts,
    /// The first pieces of the body, taken already.
    pub(super) held: HeldPieces,
    pub(crate) body: UpstreamBody,
    pub(super) class: ClassVerdict,
    /// When it must have its first token, if it streams, or else its last byte.
    pub(super) deadline: LegDeadline,
    /// The attempt that it answers.
    pub(crate) attempt: Attempt,
}

impl UpstreamResponse {
    /// How its attempt ended.
    fn end(&self) -> AttemptEnd {
        AttemptEnd::Answered(self.head.status, self.class.known())
    }

    /// This answer, or the one that is held: an error of an endpoint does not replace what another
    /// one said of the request.
    fn or_held(self, held: Option<Self>) -> Self {
        let Some(held) = held else { return self };
        let is_error = matches!(
            self.class.known(),
            Some(AnswerClass::Overloaded | AnswerClass::EngineError | AnswerClass::ErrorEvent)
        );
        let is_held = is_error && held.class.known() == Some(AnswerClass::ClientError);
        let (kept, other) = if is_held { (held, self) } else { (self, held) };
        other.recycle();
        kept
    }

    /// Keeps the connection of an answer that is not relayed.
    fn recycle(self) {
        unread_answer::recycle(self.body, self.attempt.upstream());
    }
}

/// Sends requests to endpoints.
pub(crate) struct Forwarder {
    pub(crate) metrics: Arc<ProxyMetrics>,
}

impl Forwarder {
    /// Tries the selected endpoints in turn. Pairs, which need two legs, are passed over; a selection
    /// for a door that accepts none has none.
    ///
    /// # Errors
    ///
    /// When none of them gave an answer that can be relayed.
    pub(crate) async fn forward(
        &self,
        request: &InferenceRequest,
        pool: &RoutingPool,
        selection: &EndpointSelection,
        guard: &mut RequestGuard,
    ) -> Result<UpstreamResponse, LocalReply> {
        let mut held: Option<UpstreamResponse> = None;
        let mut attempts = Attempts::up_to(pool.pool.spec.policy.retry.max_attempts);
        let body = request
            .leg_body(&[])
            .inspect_err(|_| guard.failed(RequestOutcome::ClientError))?;
        pool.budget.deposit();
        let mut first_sent = None;
        let mut endpoints = selection.ranked.iter().filter_map(Placement::one);
        while let Some(endpoint) = endpoints.next()
            && attempts.may_continue()
        {
            let Some(turn) = EndpointTurn::take(endpoint, endpoints.clone()) else {
                continue;
            };
            if !attempts.pay(|| pool.budget.withdraw()) {
                turn.give_up();
                break;
            }
            let timeouts = pool.pool.spec.policy.timeouts;
            let now = Instant::now();
            let since = *first_sent.get_or_insert(now);
            let deadline = LegDeadline::of(request, timeouts, since, now);
            if deadline.at <= now {
                guard.failed(RequestOutcome::TimedOut);
                turn.give_up();
                return Err(LocalReply::TimedOut(deadline.limit));
            }
            attempts.begin();
            let (answer, repeated) = self
                .attempt((request, &body), (pool, deadline), endpoint, guard)
                .await;
            if repeated {
                // The first sending was unanswered: the request may be the cause, whatever came of
                // the repetition.
                pool.metrics.endpoints.attempts[AttemptOutcome::Failed].inc();
                attempts.failed(true);
            }
            let (end, retry_after) = match &answer {
                Ok(answer) => (answer.end(), retry_after_of(&answer.head.headers)),
                Err(error) => (error.end(), None),
            };
            let verdict = self.verdict(end, request, pool, &endpoint.upstream);
            guard.attempt_ended(end, retry_after);
            let RetryVerdict::TryElsewhere { suspicious } = verdict else {
                guard.settle_refusals();
                return final_answer(answer, held, attempts.tried(), guard);
            };
            attempts.failed(suspicious);
            if let Ok(mut answer) = answer {
                answer.attempt.hold();
                held = Some(answer.or_held(held.take()));
            }
        }
        guard.settle_refusals();
        held.ok_or_else(|| exhausted(attempts.tried(), guard))
    }

    fn verdict(
        &self,
        end: AttemptEnd,
        request: &InferenceRequest,
        pool: &RoutingPool,
        upstream: &Upstream,
    ) -> RetryVerdict {
        if !request.is_repeatable() {
            return end.verdict_once();
        }
        let refusal = if end.effect().is_refusal() {
            RefusalContext::of(upstream, pool)
        } else {
            RefusalContext::default()
        };
        end.verdict(refusal)
    }

    /// One attempt: connect, send, wait for the head, and for what determines the answer's class.
    /// Returns also whether the request was sent twice.
    async fn attempt(
        &self,
        (request, body): (&InferenceRequest, &LegBody),
        (pool, deadline): (&RoutingPool, LegDeadline),
        endpoint: &SelectedEndpoint,
        guard: &mut RequestGuard,
    ) -> (Result<UpstreamResponse, LegError>, bool) {
        let upstream = &endpoint.upstream;
        let attempt = guard.begin_attempt(LegId::MAIN, endpoint, request);
        let leg = Leg {
            request,
            upstream,
            body: body.clone(),
            span: &attempt.facts().span,
            incoming: &guard.trace.incoming,
            deadline,
            connect_timeout: pool.pool.spec.policy.timeouts.connect,
        };
        let LegResult { answer, repeated } =
            leg.exchange(&self.metrics.endpoints.connections).await;
        let answer = match answer {
            Ok(LegAnswer {
                head,
                held,
                body,
                class,
            }) => Ok(UpstreamResponse {
                head,
                held,
                body,
                class,
                deadline,
                attempt,
            }),
            Err(error) => {
                tracing::debug!(endpoint = %upstream.endpoint.name, %error, "an attempt failed");
                Err(error)
            }
        };
        (answer, repeated)
    }
}

/// What is relayed when no attempt may follow this one.
fn final_answer(
    answer: Result<UpstreamResponse, LegError>,
    held: Option<UpstreamResponse>,
    tried: u32,
    guard: &mut RequestGuard,
) -> Result<UpstreamResponse, LocalReply> {
    match answer {
        Ok(answer) => Ok(answer.or_held(held)),
        Err(error) => {
            held.into_iter().for_each(UpstreamResponse::recycle);
            Err(final_reply(&error, tried, guard))
        }
    }
}

/// The reply when no endpoint is left, and none has answered.
fn exhausted(tried: u32, guard: &mut RequestGuard) -> LocalReply {
    guard.failed(RequestOutcome::Failed);
    match tried {
        0 => LocalReply::NoEndpoint,
        tried => LocalReply::Exhausted(tried),
    }
}

/// The reply when no attempt may follow this error.
fn final_reply(error: &LegError, tried: u32, guard: &mut RequestGuard) -> LocalReply {
    match error {
        LegError::TimedOut(deadline) => {
            guard.failed(RequestOutcome::TimedOut);
            LocalReply::TimedOut(deadline.limit)
        }
        LegError::Unreachable(_) | LegError::Broken(_) => exhausted(tried, guard),
    }
}
