//! An answer on its way to the client: the engine's frames as they come, and the account that ends with the last one.
//!
//! No buffer and no task stands between the two connections: a client that reads slowly slows the engine's connection
//! down, and a client that leaves drops this body, and with it the connection to the engine, which cancels the request.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hermes_core::{
    breaker::Failure,
    policy::Timeouts,
    responses::{ResponseKey, Responses},
};
use http::{HeaderValue, Response, header};
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::{
    clock::uptime,
    endpoint::{Answer, Upstream},
    exchange::{forward::UpstreamResponse, guard::RequestGuard},
    link::report::Outcome,
    request::{headers, inference_request::InferenceRequest},
    telemetry::{metrics::Ended, usage::UsageTap},
};

/// What the proxy answers: a response of its own, or an engine's.
pub(crate) enum ResponseBody {
    Own(Option<Bytes>),
    Relayed(Box<Relay>),
}

/// SelectionDetails an answer ends without its end. hyper cuts the client's connection (or stream) off, so that nobody takes what
/// came for the whole.
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
    body: Option<Answer>,
    upstream: Arc<Upstream>,
    account: RequestGuard,
    passing: UsageTap,
    /// How long the engine may be silent, and when that is checked next.
    patience: Duration,
    alarm: Pin<Box<Sleep>>,
    last: Instant,
    /// The answer is a stream of events that ends with an error event when the engine breaks it off.
    events: bool,
    /// Whether the last bytes ended an event.
    between_events: bool,
    /// The answer is being cut off.
    ending: Option<TruncationStep>,
    /// Learns where a stored response lives.
    responses: Option<Arc<Mutex<Responses>>>,
}

/// The steps of cutting an answer off. hyper drops what it has not written when a body fails, so it gets a turn to
/// write what the client was still to get.
enum TruncationStep {
    Written(TruncatedResponse),
    Final(TruncatedResponse),
}

/// The error event for clients that read events: SDKs raise it.
const BROKEN_STREAM: &str = "data: {\"error\":{\"message\":\"the model server broke off its answer\",\
\"type\":\"server_error\",\"param\":null,\"code\":\"upstream_died\"}}\n\n";

/// The response for the client.
pub(crate) fn relay(
    begun: UpstreamResponse,
    account: RequestGuard,
    call: &InferenceRequest,
    timeouts: Timeouts,
    responses: Option<Arc<Mutex<Responses>>>,
) -> Response<ResponseBody> {
    let UpstreamResponse {
        mut head,
        first,
        body,
        upstream,
    } = begun;
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
    let last = Instant::now();
    let patience = if call.stream {
        timeouts.idle
    } else {
        (account.arrived() + timeouts.request).saturating_duration_since(last)
    };
    let relay = Relay {
        first,
        body: Some(body),
        upstream,
        account,
        passing: UsageTap::default(),
        patience,
        alarm: Box::pin(sleep_until(last + patience)),
        last,
        events,
        between_events: true,
        ending: None,
        responses,
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
            self.pass(&first);
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
                    self.pass(&bytes);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.broken(TruncatedResponse::Broken(error), Ended::Broken, cx)
            }
            Poll::Ready(None) => {
                self.complete();
                Poll::Ready(None)
            }
            Poll::Pending => self.poll_silence(cx),
        }
    }

    /// The alarm is set once and looks back when it rings, so that a frame costs no timer.
    fn poll_silence(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, TruncatedResponse>>> {
        while self.alarm.as_mut().poll(cx).is_ready() {
            let due = self.last + self.patience;
            if due <= Instant::now() {
                return self.broken(
                    TruncatedResponse::Silent(self.patience),
                    Ended::TimedOut,
                    cx,
                );
            }
            self.alarm.as_mut().reset(due);
        }
        Poll::Pending
    }

    fn pass(&mut self, bytes: &Bytes) {
        let now = Instant::now();
        self.account.frame(now);
        self.last = now;
        self.passing.piece(bytes);
        self.between_events = bytes.ends_with(b"\n\n");
        // hyper asks no further than the length that the head told, so that the end may never be polled.
        if self.body.as_ref().is_some_and(Body::is_end_stream) {
            self.complete();
        }
    }

    /// The whole answer has passed.
    fn complete(&mut self) {
        if let Some(connection) = self.body.take().and_then(Answer::into_connection) {
            self.upstream.checkin(connection);
        }
        if let Some(usage) = self.passing.usage() {
            self.account.used(usage);
        }
        self.account.whole();
        if let (Some(responses), Some(id)) = (&self.responses, self.passing.response_id()) {
            let response = ResponseKey::of(&id);
            responses
                .lock()
                .remember(response, self.upstream.endpoint.id);
            self.account.stored(response);
        }
    }

    /// The answer ends too early: an event that says so where clients read events, and then no proper end.
    fn broken(
        &mut self,
        why: TruncatedResponse,
        ended: Ended,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, TruncatedResponse>>> {
        tracing::info!(endpoint = %self.upstream.endpoint.name, %why, "an answer was cut off");
        self.account.failed(ended);
        self.account.attempt_failed(Outcome::Failed);
        self.upstream.failed(uptime(), Failure::Reset);
        self.body = None;
        let ending = TruncationStep::Written(why);
        if self.events && self.between_events {
            self.ending = Some(ending);
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(
                BROKEN_STREAM.as_bytes(),
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
            TruncationStep::Written(why) => {
                self.ending = Some(TruncationStep::Final(why));
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            TruncationStep::Final(why) => Poll::Ready(Some(Err(why))),
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
            Self::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Relayed(relay) => relay.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.is_none(),
            Self::Relayed(relay) => {
                relay.body.is_none() && relay.first.is_none() && relay.ending.is_none()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Relayed(relay) => match (&relay.first, &relay.body) {
                (None, Some(body)) => body.size_hint(),
                _ => SizeHint::default(),
            },
        }
    }
}

impl From<Bytes> for ResponseBody {
    fn from(bytes: Bytes) -> Self {
        Self::Own(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }
}
