//! One leg: a request as it is sent to one endpoint, until its answer has begun.
//!
//! A successful head is held back until the class of the answer is known: for a stream by its first
//! token, for another body by its beginning. Until then a failure can be retried elsewhere.

use std::time::Duration;

use bytes::Bytes;
use hermes_core::policy::Timeouts;
use hermes_runtime::propagation;
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, Version, header, response,
    uri::{Authority, Parts, Scheme, Uri},
};
use http_body::Body;
use http_body_util::BodyExt;
use opentelemetry::Context;
use smallvec::SmallVec;
use tokio::time::{Instant, timeout_at};
use tracing::Span;

use super::{answer::AnswerJudge, retry::AttemptEnd, trace};
use crate::{
    endpoint::{SendError, SharedConnections, Upstream, UpstreamBody},
    request::{
        headers, inference_request::InferenceRequest, leg_body::LegBody, time_limits::TimeLimit,
    },
    telemetry::metrics::{AnswerClass, ConnectionMetrics},
};

/// How long what precedes the first token of a stream is held back. After that the client gets it:
/// an engine that sends comments while it computes a long prompt keeps connections alive by them.
const PREAMBLE_PATIENCE: Duration = Duration::from_secs(10);

/// Bytes that are held back at most.
const MAX_HELD: usize = 256 << 10;

/// How often a request over HTTP/2 is sent again, of which the endpoint states each time that it has
/// not begun with it.
const MAX_REFUSED: u32 = 2;

/// Pieces of a body that are held back.
pub(super) type HeldPieces = SmallVec<[Bytes; 1]>;

/// A request for one endpoint.
pub(super) struct Leg<'a> {
    pub(super) request: &'a InferenceRequest,
    pub(super) upstream: &'a Upstream,
    pub(super) body: LegBody,
    /// Besides the client's.
    pub(super) extra_headers: &'a [(HeaderName, HeaderValue)],
    /// It may be sent again to the endpoint, if that may have seen it.
    pub(super) may_repeat: bool,
    pub(super) span: &'a Span,
    /// The trace context that came with the request.
    pub(super) incoming: &'a Context,
    pub(super) deadline: LegDeadline,
    pub(super) connect_timeout: Duration,
}

/// The time by which a stream must have its first token, and another answer its last byte.
#[derive(Clone, Copy, Debug)]
pub(super) struct LegDeadline {
    pub(super) at: Instant,
    /// The configured limit, for the error.
    pub(super) limit: Duration,
    /// The endpoint has all of it.
    pub(super) is_full: bool,
    /// Another placement may be tried, should this one fail before.
    is_followed: bool,
    /// Time is left for that when it passes.
    pub(super) is_share: bool,
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
    /// The first pieces of the body, taken already.
    pub(super) held: HeldPieces,
    pub(super) body: UpstreamBody,
    pub(super) class: ClassVerdict,
}

/// What is known of an answer's class.
#[derive(Debug)]
pub(super) enum ClassVerdict {
    Known(AnswerClass),
    /// No token and no error came yet; the judge reads on.
    Open(AnswerJudge),
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
    #[error("no answer within {:?}", .0.limit)]
    TimedOut(LegDeadline),
    /// Another endpoint of the pair was gone when its part was to follow.
    #[error("an endpoint of the pair is gone")]
    PartnerGone,
}

// === ClassVerdict ===

impl ClassVerdict {
    /// The class, if it is known.
    pub(super) const fn known(&self) -> Option<AnswerClass> {
        match self {
            Self::Known(class) => Some(*class),
            Self::Open(_) => None,
        }
    }
}

// === LegDeadline ===

impl LegDeadline {
    /// A stream must have its first token within its limit from `now`; another answer must be
    /// complete within the whole limit from `first_sent`, when the request was first sent to an
    /// endpoint: the time of the client and of the queue is not the endpoints'.
    pub(super) fn of(
        request: &InferenceRequest,
        timeouts: Timeouts,
        first_sent: Instant,
        now: Instant,
    ) -> Self {
        let (since, limit) = if request.stream {
            (now, timeouts.first_byte)
        } else {
            (first_sent, timeouts.request)
        };
        let deadline = Self {
            at: since + limit,
            limit,
            is_full: since == now,
            is_followed: false,
            is_share: false,
        };
        let terms = request.terms.as_ref();
        let end = terms.and_then(|terms| terms.limits.of_attempt(now));
        match end.filter(|end| end.at < deadline.at) {
            Some(TimeLimit { at, limit }) => Self {
                at,
                limit,
                // An endpoint is blamed only if it had all of the time.
                is_full: at == now + limit,
                ..deadline
            },
            None => deadline,
        }
    }

    /// That of an attempt which another placement may follow.
    pub(super) const fn followed(self, is_followed: bool) -> Self {
        Self {
            is_followed,
            ..self
        }
    }

    /// That of the prefill leg of a pair: half of what is left, if another placement may be tried,
    /// so that an endpoint which stalls does not use up the time of all.
    pub(super) fn of_prefill(self, now: Instant) -> Self {
        if !self.is_followed {
            return self;
        }
        let limit = self.at.saturating_duration_since(now) / 2;
        Self {
            at: now + limit,
            limit,
            is_share: true,
            ..self
        }
    }

    async fn bound<T>(
        self,
        work: impl Future<Output = Result<T, LegError>>,
    ) -> Result<T, LegError> {
        timeout_at(self.at, work)
            .await
            .unwrap_or(Err(LegError::TimedOut(self)))
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
        let mut held = HeldPieces::new();
        let class = match AnswerJudge::begin(self.request, &head) {
            Err(class) => ClassVerdict::Known(class),
            Ok(judge) if judge.is_opaque() && !self.request.stream => {
                ClassVerdict::Known(AnswerClass::Tokens)
            }
            Ok(judge) => self.hold(judge, &mut body, &mut held).await?,
        };
        Ok(LegAnswer {
            head,
            held,
            body,
            class,
        })
    }

    /// Holds pieces of the body back until they determine the answer's class.
    async fn hold(
        &self,
        mut judge: AnswerJudge,
        body: &mut UpstreamBody,
        held: &mut HeldPieces,
    ) -> Result<ClassVerdict, LegError> {
        let (mut held_bytes, mut until) = (0, self.deadline.at);
        while held_bytes <= MAX_HELD {
            let frame = match timeout_at(until, body.frame()).await {
                Ok(None) => return Ok(ClassVerdict::Known(judge.end())),
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => return Err(LegError::Broken(error.to_string())),
                Err(_) if until < self.deadline.at => break,
                Err(_) => return Err(LegError::TimedOut(self.deadline)),
            };
            let Ok(bytes) = frame.into_data() else {
                continue;
            };
            if bytes.is_empty() {
                continue;
            }
            let class = if body.is_end_stream() {
                Some(judge.last_piece(&bytes))
            } else {
                judge.piece(&bytes)
            };
            held_bytes += bytes.len();
            held.push(bytes);
            if let Some(class) = class {
                return Ok(ClassVerdict::Known(class));
            }
            if self.request.stream && until == self.deadline.at {
                until = until.min(Instant::now() + PREAMBLE_PATIENCE);
            }
        }
        Ok(ClassVerdict::Open(judge))
    }

    /// Sends on an idle connection, or on a new one.
    ///
    /// The endpoint may be closing an idle connection. A request that was not written is sent on
    /// the next one. One that the endpoint may have seen is repeated once, on a new connection:
    /// whether the endpoint closed an idle connection or died of this request, hyper reports the
    /// same error. One that may not be repeated is not.
    async fn send(
        &self,
        connections: &ConnectionMetrics,
        repeated: &mut bool,
    ) -> Result<Response<UpstreamBody>, LegError> {
        if let Some(shared) = self.upstream.shared() {
            // Boxed: most endpoints are spoken to over HTTP/1.1.
            return Box::pin(self.send_shared(shared, connections, repeated)).await;
        }
        let mut request = self.http_request();
        while let Some(connection) = self.upstream.checkout() {
            match connection.send(request).await {
                Err(SendError::NotWritten {
                    request: unsent, ..
                }) => request = *unsent,
                Err(SendError::MaybeSeen { reused: true, .. }) if self.may_repeat => {
                    *repeated = true;
                    request = self.http_request();
                    break;
                }
                result => return result.map_err(LegError::from),
            }
        }
        // Boxed: most requests use a connection that is open.
        let opened = Box::pin(self.upstream.connect(self.connect_timeout)).await;
        let connection = opened
            .inspect_err(|error| {
                connections.failed[error.reason()].inc();
            })
            .map_err(SendError::from)?;
        connections.opened.inc();
        Ok(connection.send(request).await?)
    }

    /// The same over HTTP/2. A stream that the endpoint states not to have begun with is sent again.
    async fn send_shared(
        &self,
        shared: SharedConnections<'_>,
        connections: &ConnectionMetrics,
        repeated: &mut bool,
    ) -> Result<Response<UpstreamBody>, LegError> {
        let mut refused = 0;
        loop {
            let slot = shared.slot(self.connect_timeout).await;
            let slot = slot
                .inspect_err(|error| {
                    connections.failed[error.reason()].inc();
                })
                .map_err(SendError::from)?;
            if slot.is_opened {
                connections.opened.inc();
            }
            match slot.send(self.http2_request()).await {
                Err(SendError::Unprocessed { .. }) if refused < MAX_REFUSED => refused += 1,
                Err(SendError::MaybeSeen { reused: true, .. }) if self.may_repeat && !*repeated => {
                    *repeated = true;
                }
                result => return result.map_err(LegError::from),
            }
        }
    }

    /// The request with the endpoint in its target, as HTTP/2 has it.
    fn http2_request(&self) -> Request<LegBody> {
        let mut request = self.http_request();
        let host = request.headers_mut().remove(header::HOST);
        let authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
        let mut target = Parts::default();
        target.scheme = Some(Scheme::HTTP);
        target.authority =
            authority.or_else(|| Authority::try_from(self.upstream.host.as_bytes()).ok());
        target.path_and_query = request.uri().path_and_query().cloned();
        if let Ok(target) = Uri::from_parts(target) {
            *request.uri_mut() = target;
        }
        *request.version_mut() = Version::HTTP_2;
        if is_grpc(request.headers()) {
            // Servers of gRPC demand it of those who can read trailers.
            let trailers = HeaderValue::from_static("trailers");
            request.headers_mut().insert(header::TE, trailers);
        }
        request
    }

    fn http_request(&self) -> Request<LegBody> {
        let mut request = Request::new(self.body.clone());
        *request.method_mut() = self.request.method.clone();
        *request.uri_mut() = Uri::from(self.upstream.target(self.request.sent_target()));
        *request.headers_mut() = self.headers();
        request
    }

    /// The client's headers, with this endpoint's host and this attempt's trace context.
    fn headers(&self) -> HeaderMap {
        let mut headers = self.request.sent_headers().clone();
        let own = &self.upstream.host;
        let host = match &self.request.terms {
            Some(terms) => terms.host.at(&self.upstream.endpoint.address, own),
            None => own,
        };
        headers.insert(header::HOST, host.clone());
        for (name, value) in self.extra_headers {
            headers.insert(name, value.clone());
        }
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

/// Whether a request is one of gRPC.
fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

// === LegError ===

impl From<SendError> for LegError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::MaybeSeen { error, .. } => Self::Broken(error.to_string()),
            SendError::Connect(_)
            | SendError::NotWritten { .. }
            | SendError::Unprocessed { .. } => Self::Unreachable(error),
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
            Self::PartnerGone => "partner_gone",
        }
    }

    /// What the retry decision needs to know.
    pub(super) const fn end(&self) -> AttemptEnd {
        match self {
            Self::Unreachable(_) | Self::PartnerGone => AttemptEnd::Unreachable,
            Self::Broken(_) => AttemptEnd::Broken,
            Self::TimedOut(deadline) if deadline.is_share => AttemptEnd::Stalled {
                was_full: deadline.is_full,
            },
            Self::TimedOut(deadline) => AttemptEnd::TimedOut {
                was_full: deadline.is_full,
            },
        }
    }
}
