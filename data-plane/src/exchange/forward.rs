//! Sending a request to the selected endpoints, one after another, until one answers.
//!
//! An attempt may be repeated elsewhere only before the first byte of an answer reached the client,
//! and only if the pool's retry budget pays for it. What follows from a failed attempt is decided
//! in [`super::retry`].

use std::sync::Arc;

use bytes::Bytes;
use hermes_core::{ledger::LegId, placement::Placement};
use http::response;

use super::{
    attempt::Attempt,
    guard::RequestGuard,
    leg::{Leg, LegAnswer, LegDeadline, LegError, LegResult},
    retry::{AttemptEnd, Attempts, RetryVerdict},
    unread_answer,
};
use crate::{
    choose::{EndpointSelection, SelectedEndpoint},
    clock::uptime,
    endpoint::{Upstream, UpstreamBody},
    request::{inference_request::InferenceRequest, leg_body::LegBody, local_reply::LocalReply},
    telemetry::metrics::{AttemptOutcome, ProxyMetrics, RequestOutcome},
    view::RoutingPool,
};

/// An endpoint's answer, whose body has begun if the client asked for a stream.
pub(crate) struct UpstreamResponse {
    pub(crate) head: response::Parts,
    /// The first piece of the body, taken already.
    pub(crate) first: Option<Bytes>,
    pub(crate) body: UpstreamBody,
    /// The attempt that it answers.
    pub(crate) attempt: Attempt,
}

impl UpstreamResponse {
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
        let mut endpoints = selection
            .ranked
            .iter()
            .filter_map(Placement::one)
            .peekable();
        while let Some(endpoint) = endpoints.next() {
            let is_last = endpoints.peek().is_none();
            if !attempts.may_continue(|| pool.budget.withdraw()) {
                break;
            }
            if !is_last && !endpoint.upstream.admit(uptime()) {
                continue;
            }
            attempts.begin();
            let (answer, repeated) = self.attempt((request, &body), pool, endpoint, guard).await;
            if repeated {
                // The first sending was unanswered: the request may be the cause, whatever came of
                // the repetition.
                pool.metrics.endpoints.attempts[AttemptOutcome::Failed].inc();
                attempts.failed(true);
            }
            let end = match &answer {
                Ok(answer) => AttemptEnd::Answered(answer.head.status),
                Err(error) => error.end(),
            };
            record(end, pool, &endpoint.upstream, guard);
            let RetryVerdict::TryElsewhere { suspicious } = end.verdict() else {
                if let Some(refused) = held {
                    refused.recycle();
                }
                return answer.map_err(|error| final_reply(&error, attempts.tried(), guard));
            };
            attempts.failed(suspicious);
            if let Ok(mut answer) = answer {
                answer.attempt.hold();
                if let Some(refused) = held.replace(answer) {
                    refused.recycle();
                }
            }
        }
        held.ok_or_else(|| {
            guard.failed(RequestOutcome::Failed);
            match attempts.tried() {
                0 => LocalReply::NoEndpoint,
                tried => LocalReply::Exhausted(tried),
            }
        })
    }

    /// One attempt: connect, send, wait for the head, and for a stream's first piece. Returns also
    /// whether the request was sent twice.
    async fn attempt(
        &self,
        (request, body): (&InferenceRequest, &LegBody),
        pool: &RoutingPool,
        endpoint: &SelectedEndpoint,
        guard: &mut RequestGuard,
    ) -> (Result<UpstreamResponse, LegError>, bool) {
        let upstream = &endpoint.upstream;
        let timeouts = pool.pool.spec.policy.timeouts;
        let attempt = guard.begin_attempt(LegId::MAIN, endpoint, request);
        let leg = Leg {
            request,
            upstream,
            body: body.clone(),
            span: &attempt.facts().span,
            incoming: &guard.trace.incoming,
            deadline: LegDeadline::of(request, timeouts, guard.arrived()),
            connect_timeout: timeouts.connect,
        };
        let LegResult { answer, repeated } =
            leg.exchange(&self.metrics.endpoints.connections).await;
        let answer = match answer {
            Ok(LegAnswer { head, first, body }) => Ok(UpstreamResponse {
                head,
                first,
                body,
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

/// Records the end of an attempt in the metrics, in the endpoint's health, and at the control
/// plane.
fn record(end: AttemptEnd, pool: &RoutingPool, upstream: &Upstream, guard: &RequestGuard) {
    let Some(failure) = end.failure() else {
        pool.metrics.endpoints.attempts[AttemptOutcome::Answered].inc();
        return;
    };
    pool.metrics.endpoints.attempts[failure.metric].inc();
    upstream.failed(uptime(), failure.health);
    guard.attempt_failed(failure.report);
}

/// The reply when no attempt may follow this error.
fn final_reply(error: &LegError, tried: u32, guard: &mut RequestGuard) -> LocalReply {
    match error {
        LegError::TimedOut(limit) => {
            guard.failed(RequestOutcome::TimedOut);
            LocalReply::TimedOut(*limit)
        }
        LegError::Unreachable(_) | LegError::Broken(_) => {
            guard.failed(RequestOutcome::Failed);
            LocalReply::Exhausted(tried)
        }
    }
}
