//! Relaying an answer: the engine's frames as they arrive, each passed to the [`Meter`].
//!
//! The relay holds no buffer. Over HTTP/1.1 no task stands between the two connections either (over
//! HTTP/2 hyper spawns one per stream): a client that reads slowly slows the engine's connection
//! down, and a client that disconnects drops this body, and with it the connection to the engine,
//! which cancels the request.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hermes_core::{policy::Timeouts, stored_responses::ResponseLocations};
use http::{HeaderValue, Response, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{forward::UpstreamResponse, guard::RequestGuard, meter::Meter, retry};
use crate::{
    endpoint::UpstreamBody,
    request::{headers, inference_request::InferenceRequest},
    telemetry::metrics::RequestOutcome,
};

/// The body of a response: the proxy's own, or an engine's.
pub(crate) enum ResponseBody {
    Local(Full<Bytes>),
    Relayed(Box<Relay>),
}

/// Why an answer was truncated. hyper then aborts the client's connection (or stream), so that the
/// client detects it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TruncatedResponse {
    #[error("the endpoint broke off its answer")]
    Broken(#[from] hyper::Error),
    #[error("the endpoint was silent for {0:?}")]
    Silent(Duration),
}

/// An engine's answer.
pub(crate) struct Relay {
    first: Option<Bytes>,
    body: Option<UpstreamBody>,
    meter: Meter,
    /// How long the engine may send nothing.
    idle_timeout: Duration,
    /// Fires at the earliest time at which the engine may have been silent for too long. Armed when
    /// the answer is waited for: most of those that are not streamed come in one piece.
    idle_timer: Option<Pin<Box<Sleep>>>,
    last_frame: Instant,
    /// The answer is an event stream: a truncated one ends with an error event.
    events: bool,
    /// Whether the last bytes completed an event.
    between_events: bool,
    /// The answer is being truncated.
    ending: Option<TruncationStep>,
}

/// The steps of truncating an answer. hyper discards its write buffer when a body fails, so the
/// body returns `Pending` once before it fails: hyper flushes the buffer whenever a body is
/// pending.
enum TruncationStep {
    Flush(TruncatedResponse),
    Fail(TruncatedResponse),
}

/// The error event of a truncated event stream; SDKs raise it.
const TRUNCATED_STREAM: &str = "data: {\"error\":{\"message\":\"the model server broke off its answer\",\
\"type\":\"server_error\",\"param\":null,\"code\":\"upstream_died\"}}\n\n";

/// The response for the client.
pub(crate) fn relay(
    answer: UpstreamResponse,
    guard: RequestGuard,
    request: &InferenceRequest,
    timeouts: Timeouts,
    responses: Option<Arc<Mutex<ResponseLocations>>>,
) -> Response<ResponseBody> {
    let UpstreamResponse {
        mut head,
        first,
        body,
        attempt,
    } = answer;
    headers::clean_response(&mut head.headers);
    if matches!(head.status.as_u16(), 429 | 503) && !head.headers.contains_key(header::RETRY_AFTER)
    {
        head.headers
            .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    let events = head
        .headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
    let now = Instant::now();
    let idle_timeout = if request.stream {
        timeouts.idle
    } else {
        (guard.arrived() + timeouts.request).saturating_duration_since(now)
    };
    let outcome = retry::outcome_of(head.status);
    let relay = Relay {
        first,
        body: Some(body),
        meter: Meter::begin(guard, attempt, outcome, responses),
        idle_timeout,
        idle_timer: None,
        last_frame: now,
        events,
        between_events: true,
        ending: None,
    };
    let mut response = Response::new(ResponseBody::Relayed(Box::new(relay)));
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    response
}

impl Relay {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, TruncatedResponse>>> {
        if let Some(first) = self.first.take() {
            self.relay_piece(&first);
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        if let Some(ending) = self.ending.take() {
            return self.poll_ending(ending, cx);
        }
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        match Pin::new(body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(bytes) = frame.data_ref() {
                    let bytes = bytes.clone();
                    self.relay_piece(&bytes);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => self.truncate(
                TruncatedResponse::Broken(error),
                RequestOutcome::Truncated,
                cx,
            ),
            Poll::Ready(None) => {
                self.complete();
                Poll::Ready(None)
            }
            Poll::Pending => self.poll_idle(cx),
        }
    }

    /// The idle timer is re-armed only when it fires, so frames do not touch it.
    fn poll_idle(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, TruncatedResponse>>> {
        let (last_frame, idle_timeout) = (self.last_frame, self.idle_timeout);
        let due = last_frame + idle_timeout;
        let timer = self
            .idle_timer
            .get_or_insert_with(|| Box::pin(sleep_until(due)));
        while timer.as_mut().poll(cx).is_ready() {
            if due <= Instant::now() {
                return self.truncate(
                    TruncatedResponse::Silent(self.idle_timeout),
                    RequestOutcome::TimedOut,
                    cx,
                );
            }
            timer.as_mut().reset(due);
        }
        Poll::Pending
    }

    fn relay_piece(&mut self, bytes: &Bytes) {
        let now = Instant::now();
        self.last_frame = now;
        self.meter.piece(bytes, now);
        self.between_events = bytes.ends_with(b"\n\n");
        // hyper stops polling at the head's content length, so the end of the body may never be
        // polled.
        if self.body.as_ref().is_some_and(Body::is_end_stream) {
            self.complete();
        }
    }

    /// The answer was relayed to its end.
    fn complete(&mut self) {
        if let Some(connection) = self.body.take().and_then(UpstreamBody::into_connection) {
            self.meter.upstream().checkin(connection);
        }
        self.meter.complete();
    }

    /// Truncates the answer: an error event where the client reads events, then an abort instead of
    /// a proper end.
    fn truncate(
        &mut self,
        why: TruncatedResponse,
        ended: RequestOutcome,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, TruncatedResponse>>> {
        tracing::info!(endpoint = %self.meter.upstream().endpoint.name, %why, "an answer was truncated");
        self.meter.truncate(ended);
        self.body = None;
        let ending = TruncationStep::Flush(why);
        if self.events && self.between_events {
            self.ending = Some(ending);
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(
                TRUNCATED_STREAM.as_bytes(),
            )))));
        }
        self.poll_ending(ending, cx)
    }

    fn poll_ending(
        &mut self,
        ending: TruncationStep,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, TruncatedResponse>>> {
        match ending {
            TruncationStep::Flush(why) => {
                self.ending = Some(TruncationStep::Fail(why));
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            TruncationStep::Fail(why) => Poll::Ready(Some(Err(why))),
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = TruncatedResponse;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, TruncatedResponse>>> {
        match &mut *self {
            Self::Local(body) => Pin::new(body)
                .poll_frame(cx)
                .map_err(|never| match never {}),
            Self::Relayed(relay) => relay.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Local(body) => body.is_end_stream(),
            Self::Relayed(relay) => {
                relay.body.is_none() && relay.first.is_none() && relay.ending.is_none()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Local(body) => body.size_hint(),
            Self::Relayed(relay) => match (&relay.first, &relay.body) {
                (None, Some(body)) => body.size_hint(),
                _ => SizeHint::default(),
            },
        }
    }
}

impl Default for ResponseBody {
    fn default() -> Self {
        Self::from(Bytes::new())
    }
}

impl From<Bytes> for ResponseBody {
    fn from(bytes: Bytes) -> Self {
        Self::Local(Full::new(bytes))
    }
}
