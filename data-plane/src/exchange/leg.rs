//! One leg: a request as it is sent to one endpoint, until its answer has begun.
//!
//! For a stream, the head is held back until the body begins: until then a failure can be retried
//! elsewhere.

use std::time::Duration;

use bytes::Bytes;
use hermes_core::policy::Timeouts;
use hermes_runtime::propagation;
use http::{HeaderMap, Request, Response, header, response, uri::Uri};
use http_body_util::BodyExt;
use opentelemetry::Context;
use tokio::time::{Instant, timeout_at};
use tracing::Span;

use super::{retry::AttemptEnd, trace};
use crate::{
    endpoint::{SendError, Upstream, UpstreamBody},
    request::{headers, inference_request::InferenceRequest, leg_body::LegBody},
    telemetry::metrics::ConnectionMetrics,
};

/// A request for one endpoint.
pub(super) struct Leg<'a> {
    pub(super) request: &'a InferenceRequest,
    pub(super) upstream: &'a Upstream,
    pub(super) body: LegBody,
    pub(super) span: &'a Span,
    /// The trace context that came with the request.
    pub(super) incoming: &'a Context,
    pub(super) deadline: LegDeadline,
    pub(super) connect_timeout: Duration,
}

/// The time by which an answer must have begun.
#[derive(Clone, Copy, Debug)]
pub(super) struct LegDeadline {
    pub(super) at: Instant,
    /// The configured limit, for the error.
    pub(super) limit: Duration,
}

/// How a leg ended, up to the beginning of its answer.
pub(super) struct LegResult {
    pub(super) answer: Result<LegAnswer, LegError>,
    /// The request was sent twice: the first time the endpoint may have seen it, and did not
    /// answer.
    pub(super) repeated: bool,
}

/// An answer that has begun.
pub(super) struct LegAnswer {
    pub(super) head: response::Parts,
    /// The first piece of a stream's body, taken already.
    pub(super) first: Option<Bytes>,
    pub(super) body: UpstreamBody,
}

/// Why no answer began.
#[derive(Debug, thiserror::Error)]
pub(super) enum LegError {
    /// The request was not written.
    #[error("{0}")]
    Unreachable(SendError),
    /// The endpoint may have seen the request.
    #[error("{0}")]
    Broken(String),
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
}

// === LegDeadline ===

impl LegDeadline {
    /// A stream must begin within the time to first byte from now, another answer within the whole
    /// limit from arrival.
    pub(super) fn of(request: &InferenceRequest, timeouts: Timeouts, arrived: Instant) -> Self {
        let (since, limit) = if request.stream {
            (Instant::now(), timeouts.first_byte)
        } else {
            (arrived, timeouts.request)
        };
        Self {
            at: since + limit,
            limit,
        }
    }

    async fn bound<T>(
        self,
        work: impl Future<Output = Result<T, LegError>>,
    ) -> Result<T, LegError> {
        timeout_at(self.at, work)
            .await
            .unwrap_or(Err(LegError::TimedOut(self.limit)))
    }
}

// === Leg ===

impl Leg<'_> {
    /// Sends the request and waits for the head, and for a stream's first piece.
    pub(super) async fn exchange(&self, connections: &ConnectionMetrics) -> LegResult {
        let mut repeated = false;
        let sending = self.send(connections, &mut repeated);
        let sent = self.deadline.bound(sending).await;
        let answer = match sent {
            Ok(response) => self.begin_answer(response).await,
            Err(error) => Err(error),
        };
        LegResult {
            answer: answer.inspect_err(|error| trace::failed(self.span, error.name())),
            repeated,
        }
    }

    async fn begin_answer(&self, response: Response<UpstreamBody>) -> Result<LegAnswer, LegError> {
        let (head, mut body) = response.into_parts();
        trace::answered(self.span, head.status);
        let mut first = None;
        if self.request.stream && head.status.is_success() {
            first = self.deadline.bound(first_piece(&mut body)).await?;
        }
        Ok(LegAnswer { head, first, body })
    }

    /// Sends on an idle connection, or on a new one.
    ///
    /// The endpoint may be closing an idle connection. A request that was not written is sent on
    /// the next one. One that the endpoint may have seen is repeated once, on a new connection:
    /// whether the endpoint closed an idle connection or died of this request, hyper reports the
    /// same error.
    async fn send(
        &self,
        connections: &ConnectionMetrics,
        repeated: &mut bool,
    ) -> Result<Response<UpstreamBody>, LegError> {
        let mut request = self.http_request();
        while let Some(connection) = self.upstream.checkout() {
            match connection.send(request).await {
                Err(SendError::NotWritten {
                    request: unsent, ..
                }) => request = *unsent,
                Err(SendError::MaybeSeen { reused: true, .. }) => {
                    *repeated = true;
                    request = self.http_request();
                    break;
                }
                result => return result.map_err(LegError::from),
            }
        }
        let opened = self.upstream.connect(self.connect_timeout).await;
        let connection = opened
            .inspect_err(|error| {
                connections.failed[error.reason()].inc();
            })
            .map_err(SendError::from)?;
        connections.opened.inc();
        Ok(connection.send(request).await?)
    }

    fn http_request(&self) -> Request<LegBody> {
        let mut request = Request::new(self.body.clone());
        *request.method_mut() = self.request.method.clone();
        *request.uri_mut() = Uri::from(self.upstream.target(&self.request.target));
        *request.headers_mut() = self.headers();
        request
    }

    /// The client's headers, with this endpoint's host and this attempt's trace context.
    fn headers(&self) -> HeaderMap {
        let mut headers = self.request.headers.clone();
        headers.insert(header::HOST, self.upstream.host.clone());
        if self.body.len() == 0 {
            headers::state_no_body(&mut headers, &self.request.method);
        }
        if !self.span.is_disabled() {
            let context = propagation::egress(self.span, self.incoming);
            propagation::inject(&context, &mut headers);
        }
        headers
    }
}

/// The first piece of a body that holds bytes; `None` when the body has none.
async fn first_piece(body: &mut UpstreamBody) -> Result<Option<Bytes>, LegError> {
    loop {
        match body.frame().await {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(bytes) if !bytes.is_empty() => return Ok(Some(bytes)),
                Ok(_) | Err(_) => {}
            },
            Some(Err(error)) => return Err(LegError::Broken(error.to_string())),
            None => return Ok(None),
        }
    }
}

// === LegError ===

impl From<SendError> for LegError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::MaybeSeen { error, .. } => Self::Broken(error.to_string()),
            SendError::Connect(_) | SendError::NotWritten { .. } => Self::Unreachable(error),
        }
    }
}

impl LegError {
    /// `error.type` in spans.
    const fn name(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Broken(_) => "connection_broken",
            Self::TimedOut(_) => "timeout",
        }
    }

    /// What the retry decision needs to know.
    pub(super) const fn end(&self) -> AttemptEnd {
        match self {
            Self::Unreachable(_) => AttemptEnd::Unreachable,
            Self::Broken(_) => AttemptEnd::Broken,
            Self::TimedOut(_) => AttemptEnd::TimedOut,
        }
    }
}
