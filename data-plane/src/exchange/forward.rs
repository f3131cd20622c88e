//! Sending a request to the planned endpoints, one after another, until one answers.
//!
//! An attempt may be repeated elsewhere only before the first byte of an answer reached the client, and only if the
//! pool's retry budget pays for it. A head is therefore held back until its body begins, when the client asked for a
//! stream: an engine that dies while the prompt waits or is computed costs the client nothing.
//!
//! | what happened | what follows |
//! |---|---|
//! | cannot connect, or a reused connection was just being closed | next endpoint (the same one, for the latter) |
//! | the connection broke after the request was sent, or 500 | next endpoint, at most once: the request may be the cause |
//! | 502, 504 | next endpoint |
//! | 429, 503 | next endpoint; if all are busy the last such answer is passed on |
//! | any other status | passed on |
//! | a deadline passed | 504: the time is used up |

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use hermes_core::{breaker::Failure, policy::Timeouts};
use hermes_runtime::propagation;
use http::{HeaderMap, Request, Response, StatusCode, header, uri::Uri};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};
use tracing::Span;

use crate::{
    choose::Selection,
    clock::uptime,
    endpoint::{Answer, Connection, SendError, Upstream},
    exchange::{guard::RequestGuard, trace},
    link::report::Outcome,
    request::{inference_request::InferenceRequest, local_reply::LocalReply, outgoing::Outgoing},
    telemetry::metrics::{self, Ended, Metrics},
    view::RoutingPool,
};

/// Attempts that a request may survive when it may itself be the cause of the failure.
const SUSPICIOUS_FAILURES: u32 = 2;

/// An answer whose body has begun, if the client waits for a stream.
pub(crate) struct UpstreamResponse {
    pub(crate) head: http::response::Parts,
    /// The first piece of the body, taken already.
    pub(crate) first: Option<Bytes>,
    pub(crate) body: Answer,
    pub(crate) upstream: Arc<Upstream>,
}

/// SelectionDetails an attempt came to nothing.
enum AttemptError {
    Unreachable(SendError),
    /// Something was sent and no answer came.
    Broken(String),
    /// A deadline passed.
    TimedOut(Duration),
}

/// What an attempt's answer means for the request.
enum RetryVerdict {
    PassOn,
    /// Another endpoint may do better; if none does, this is the answer.
    TryElsewhere {
        suspicious: bool,
    },
}

/// Sends requests to endpoints.
pub(crate) struct Forwarder {
    pub(crate) metrics: Arc<Metrics>,
}

impl Forwarder {
    /// Tries the plan's endpoints in turn.
    ///
    /// # Errors
    ///
    /// When none of them gave an answer that can be passed on.
    pub(crate) async fn forward(
        &self,
        call: &InferenceRequest,
        pool: &RoutingPool,
        plan: &Selection,
        account: &mut RequestGuard,
    ) -> Result<UpstreamResponse, LocalReply> {
        let policy = &pool.pool.spec.policy;
        let mut held: Option<UpstreamResponse> = None;
        let (mut tried, mut suspicions) = (0, 0);
        pool.budget.deposit();
        let attempts = plan.ranked.len().min(policy.retry.attempts as usize);
        for (index, target) in plan.ranked.iter().enumerate() {
            let upstream = &target.upstream;
            let last = index + 1 == plan.ranked.len();
            if tried as usize == attempts || (tried > 0 && !pool.budget.withdraw()) {
                break;
            }
            if !last && !upstream.admit(uptime()) {
                continue;
            }
            tried += 1;
            account.sending(target);
            match self.attempt(call, upstream, policy.timeouts, account).await {
                Ok(begun) => match judge(&begun.head, pool, upstream, account) {
                    RetryVerdict::PassOn => return Ok(begun),
                    RetryVerdict::TryElsewhere { suspicious } => {
                        held = Some(begun);
                        suspicions += u32::from(suspicious);
                    }
                },
                Err(AttemptError::TimedOut(limit)) => {
                    failed(
                        pool,
                        upstream,
                        account,
                        metrics::Attempt::TimedOut,
                        Failure::Timeout,
                        Outcome::TimedOut,
                    );
                    account.failed(Ended::TimedOut);
                    return Err(LocalReply::TimedOut(limit));
                }
                Err(AttemptError::Unreachable(error)) => {
                    tracing::debug!(endpoint = %upstream.endpoint.name, %error, "an endpoint cannot be reached");
                    failed(
                        pool,
                        upstream,
                        account,
                        metrics::Attempt::Unreachable,
                        Failure::Connect,
                        Outcome::Unreachable,
                    );
                }
                Err(AttemptError::Broken(error)) => {
                    tracing::debug!(endpoint = %upstream.endpoint.name, error, "an endpoint broke the connection");
                    failed(
                        pool,
                        upstream,
                        account,
                        metrics::Attempt::Failed,
                        Failure::Reset,
                        Outcome::Failed,
                    );
                    suspicions += 1;
                }
            }
            if suspicions >= SUSPICIOUS_FAILURES {
                break;
            }
        }
        held.ok_or_else(|| {
            account.failed(Ended::Failed);
            LocalReply::Exhausted(tried)
        })
    }

    /// One attempt: connect, send, wait for the head, and for a stream's first piece.
    async fn attempt(
        &self,
        call: &InferenceRequest,
        upstream: &Arc<Upstream>,
        timeouts: Timeouts,
        account: &mut RequestGuard,
    ) -> Result<UpstreamResponse, AttemptError> {
        let span = account.trace.attempt(
            upstream,
            call.api.operation(),
            call.model.as_deref(),
            account.resent(),
        );
        let (limit, deadline) = if call.stream {
            (timeouts.first_byte, Instant::now() + timeouts.first_byte)
        } else {
            (timeouts.request, account.arrived() + timeouts.request)
        };
        let sending = self.send(call, upstream, timeouts.connect, account, &span);
        let sent = timeout_at(deadline, sending)
            .await
            .map_err(|_| AttemptError::TimedOut(limit))
            .flatten();
        let (head, mut body) = match sent {
            Ok(response) => response.into_parts(),
            Err(error) => {
                trace::failed(&span, error.name());
                return Err(error);
            }
        };
        trace::answered(&span, head.status);
        let mut first = None;
        if call.stream && head.status.is_success() {
            let piece = timeout_at(deadline, first_piece(&mut body))
                .await
                .map_err(|_| AttemptError::TimedOut(limit));
            first = piece
                .flatten()
                .inspect_err(|error| trace::failed(&span, error.name()))?;
        }
        Ok(UpstreamResponse {
            head,
            first,
            body,
            upstream: Arc::clone(upstream),
        })
    }

    /// Sends on an idle connection, or on a new one; an idle one that was just being closed is worth a second try.
    async fn send(
        &self,
        call: &InferenceRequest,
        upstream: &Upstream,
        connect: Duration,
        account: &RequestGuard,
        span: &Span,
    ) -> Result<Response<Answer>, AttemptError> {
        let headers = headers_for(call, upstream, account, span);
        while let Some(connection) = upstream.checkout() {
            match connection.send(request(call, headers.clone())).await {
                Ok(response) => return Ok(response),
                Err(SendError::Broken {
                    reused: true,
                    error,
                }) if error.is_incomplete_message() || error.is_canceled() || error.is_closed() => {
                    tracing::trace!(endpoint = %upstream.endpoint.name, "an idle connection was closed under a request");
                }
                Err(error) => return Err(AttemptError::Broken(error.to_string())),
            }
        }
        let connection = Connection::open(upstream.authority(), connect)
            .await
            .map_err(AttemptError::Unreachable)?;
        self.metrics.connections_opened.inc();
        connection
            .send(request(call, headers))
            .await
            .map_err(|error| AttemptError::Broken(error.to_string()))
    }
}

impl AttemptError {
    /// For spans.
    const fn name(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Broken(_) => "connection_broken",
            Self::TimedOut(_) => "timeout",
        }
    }
}

fn request(call: &InferenceRequest, headers: HeaderMap) -> Request<Outgoing> {
    let mut request = Request::new(call.body.clone());
    *request.method_mut() = call.method.clone();
    *request.uri_mut() = Uri::from(call.target.clone());
    *request.headers_mut() = headers;
    request
}

/// The client's headers, with this endpoint's host and this attempt's trace context.
fn headers_for(
    call: &InferenceRequest,
    upstream: &Upstream,
    account: &RequestGuard,
    span: &Span,
) -> HeaderMap {
    let mut headers = call.headers.clone();
    headers.insert(header::HOST, upstream.authority.clone());
    if !span.is_disabled() {
        propagation::inject(
            &propagation::egress(span, &account.trace.incoming),
            &mut headers,
        );
    }
    headers
}

/// The first piece of a body that holds bytes; `None` when the body has none.
async fn first_piece(body: &mut Answer) -> Result<Option<Bytes>, AttemptError> {
    loop {
        match body.frame().await {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(bytes) if !bytes.is_empty() => return Ok(Some(bytes)),
                Ok(_) | Err(_) => {}
            },
            Some(Err(error)) => return Err(AttemptError::Broken(error.to_string())),
            None => return Ok(None),
        }
    }
}

/// Tells the breaker, the metrics and the control plane about an answer, and says whether it may be passed on.
fn judge(
    head: &http::response::Parts,
    pool: &RoutingPool,
    upstream: &Upstream,
    account: &mut RequestGuard,
) -> RetryVerdict {
    let status = head.status;
    match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            account.answered(Ended::Busy);
            let failure = Failure::Status(status.as_u16());
            failed(
                pool,
                upstream,
                account,
                metrics::Attempt::Busy,
                failure,
                Outcome::Backpressure,
            );
            RetryVerdict::TryElsewhere { suspicious: false }
        }
        StatusCode::INTERNAL_SERVER_ERROR
        | StatusCode::BAD_GATEWAY
        | StatusCode::GATEWAY_TIMEOUT => {
            account.answered(Ended::Failed);
            let failure = Failure::Status(status.as_u16());
            failed(
                pool,
                upstream,
                account,
                metrics::Attempt::Failed,
                failure,
                Outcome::Failed,
            );
            RetryVerdict::TryElsewhere {
                suspicious: status == StatusCode::INTERNAL_SERVER_ERROR,
            }
        }
        _ => {
            account.answered(match status {
                status if status.is_client_error() => Ended::ClientError,
                status if status.is_server_error() => Ended::Failed,
                _ => Ended::Ok,
            });
            pool.metrics.attempted(metrics::Attempt::Answered);
            RetryVerdict::PassOn
        }
    }
}

fn failed(
    pool: &RoutingPool,
    upstream: &Upstream,
    account: &RequestGuard,
    how: metrics::Attempt,
    failure: Failure,
    outcome: Outcome,
) {
    pool.metrics.attempted(how);
    upstream.failed(uptime(), failure);
    account.attempt_failed(outcome);
}
