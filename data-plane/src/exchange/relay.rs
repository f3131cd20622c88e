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
use hermes_core::{
    ejection::EndpointFailure, policy::Timeouts, stored_responses::ResponseLocations,
};
use http::{HeaderMap, HeaderValue, Response, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    answer::{event_lines::EventBorder, is_event_stream},
    attempt::LegStage,
    cached_tokens,
    guard::RequestGuard,
    leg::{HeldPieces, LegDeadline},
    meter::Meter,
    model_restorer::ModelRestorer,
    recomputed::RecomputedScan,
    sent_leg::UpstreamResponse,
};
use crate::{
    asked_picker::ShownAnswer,
    endpoint::UpstreamBody,
    request::{api::Api, headers, inference_request::InferenceRequest, time_limits::TimeLimit},
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
    #[error("the answer took longer than {0:?}")]
    Late(Duration),
    #[error("the endpoint gave its answer up")]
    Recomputed,
}

/// An engine's answer.
pub(crate) struct Relay {
    /// Pieces that were read before the relay began, and the number of them that were relayed.
    held: HeldPieces,
    relayed: usize,
    body: Option<UpstreamBody>,
    meter: Meter,
    limits: RelayLimits,
    /// Fires at the earliest time at which the engine may have taken too long. Armed when the
    /// answer is waited for: most of those that are not streamed come in one piece.
    timer: Option<Pin<Box<Sleep>>>,
    last_frame: Instant,
    /// The event by which a client learns that its stream is truncated, if it reads events.
    truncated_event: Option<&'static str>,
    /// Whether the bytes so far end with a whole event.
    border: EventBorder,
    /// Cached tokens that the usage is to state.
    cached_tokens: Option<u32>,
    /// Puts the client's name of the model back, if its request was rewritten.
    restorer: Option<Box<ModelRestorer>>,
    /// Of the answer of a decode leg: whether its engine gives it up.
    recomputed: Option<Box<RecomputedScan>>,
    /// Shows the answer to the picker that chose the endpoint, if that was another one.
    shown: Option<Box<ShownAnswer>>,
    /// The answer is being truncated.
    ending: Option<TruncationStep>,
}

/// How long an engine may take for what it has begun to answer.
struct RelayLimits {
    /// How long a stream may be silent.
    idle: Duration,
    /// When a stream must have its first token, or else the answer its last byte.
    deadline: LegDeadline,
    /// When the route of the request wants the response complete, a stream included.
    end: Option<TimeLimit>,
    is_stream: bool,
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

/// The same in Anthropic's shape: its SDKs read the name of the event.
const TRUNCATED_MESSAGE: &str = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\",\
\"message\":\"the model server broke off its answer\"}}\n\n";

/// The response for the client.
pub(crate) fn relay(
    answer: UpstreamResponse,
    guard: RequestGuard,
    request: &InferenceRequest,
    timeouts: Timeouts,
    (responses, shown): (
        Option<Arc<Mutex<ResponseLocations>>>,
        Option<Box<ShownAnswer>>,
    ),
) -> Response<ResponseBody> {
    let UpstreamResponse {
        mut head,
        mut held,
        body,
        class,
        deadline,
        attempt,
    } = answer;
    headers::clean_response(&mut head.headers);
    if matches!(head.status.as_u16(), 429 | 503) && !head.headers.contains_key(header::RETRY_AFTER)
    {
        head.headers
            .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    let restorer = restorer(request, &mut head.headers, &mut held);
    let cached_tokens = guard.cached_tokens();
    let now = Instant::now();
    let sent = now - attempt.facts().since_sent(now);
    let terms = request.terms.as_ref();
    let end = terms.and_then(|terms| terms.limits.of_attempt(sent));
    let is_decode = attempt.facts().stage == LegStage::Decode;
    let mut relay = Relay {
        held,
        relayed: 0,
        body: Some(body),
        meter: Meter::begin(guard, attempt, (head.status, class), responses),
        limits: RelayLimits {
            idle: timeouts.idle,
            deadline,
            end,
            is_stream: request.stream,
        },
        timer: None,
        last_frame: Instant::now(),
        truncated_event: truncated_event(&head.headers, request.api),
        border: EventBorder::default(),
        cached_tokens,
        restorer,
        recomputed: is_decode.then(Box::default),
        shown,
        ending: None,
    };
    // hyper does not poll a body that is empty by its head.
    relay.complete_at_end();
    let mut response = Response::new(ResponseBody::Relayed(Box::new(relay)));
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    response
}

/// What edits the pieces that follow those that are `held`, if the answer is to name another model;
/// these are edited here. An answer whose pieces are all held gets its length from them.
fn restorer(
    request: &InferenceRequest,
    headers: &mut HeaderMap,
    held: &mut HeldPieces,
) -> Option<Box<ModelRestorer>> {
    let mut restorer = ModelRestorer::of(request.api, request.restored_model()?, headers)?;
    headers.remove(header::CONTENT_LENGTH);
    for piece in held {
        *piece = restorer.restore(std::mem::take(piece));
    }
    Some(Box::new(restorer))
}

/// The event by which a client learns that an answer with these headers is truncated. Nothing can
/// be added to a compressed body.
fn truncated_event(headers: &HeaderMap, api: Api) -> Option<&'static str> {
    if !is_event_stream(headers) || headers.contains_key(header::CONTENT_ENCODING) {
        return None;
    }
    Some(match api {
        Api::Messages => TRUNCATED_MESSAGE,
        _ => TRUNCATED_STREAM,
    })
}

impl Relay {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, TruncatedResponse>>> {
        if let Some(piece) = self.held.get_mut(self.relayed) {
            let piece = std::mem::take(piece);
            self.relayed += 1;
            if self.is_given_up(&piece) {
                return self.give_up(cx);
            }
            let piece = self.relay_piece(piece);
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if let Some(ending) = self.ending.take() {
            return self.poll_ending(ending, cx);
        }
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        match Pin::new(body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let piece = match frame.into_data() {
                    Ok(piece) => piece,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                };
                if self.is_given_up(&piece) {
                    return self.give_up(cx);
                }
                let piece = match &mut self.restorer {
                    Some(restorer) => restorer.restore(piece),
                    None => piece,
                };
                Poll::Ready(Some(Ok(Frame::data(self.relay_piece(piece)))))
            }
            Poll::Ready(Some(Err(error))) => self.truncate(
                TruncatedResponse::Broken(error),
                RequestOutcome::Truncated,
                Some(EndpointFailure::Reset),
                cx,
            ),
            Poll::Ready(None) => {
                self.complete();
                Poll::Ready(None)
            }
            Poll::Pending => self.poll_idle(cx),
        }
    }

    fn is_given_up(&mut self, piece: &Bytes) -> bool {
        let scan = self.recomputed.as_mut();
        scan.is_some_and(|scan| scan.finds(piece))
    }

    /// The engine gave the answer up: what came so far is no whole answer.
    fn give_up(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, TruncatedResponse>>> {
        self.relayed = self.held.len();
        self.truncate(
            TruncatedResponse::Recomputed,
            RequestOutcome::Truncated,
            None,
            cx,
        )
    }

    /// The timer is re-armed only when it fires, so frames do not touch it.
    fn poll_idle(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, TruncatedResponse>>> {
        let (due, why) = self.due();
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        while timer.as_mut().poll(cx).is_ready() {
            if due <= Instant::now() {
                let failure = match why {
                    TruncatedResponse::Late(_) if !self.limits.deadline.is_full => None,
                    _ => Some(EndpointFailure::Timeout),
                };
                return self.truncate(why, RequestOutcome::TimedOut, failure, cx);
            }
            timer.as_mut().reset(due);
        }
        Poll::Pending
    }

    /// When the engine has taken too long, and for what.
    fn due(&self) -> (Instant, TruncatedResponse) {
        let RelayLimits {
            idle,
            deadline,
            end,
            is_stream,
        } = &self.limits;
        let silent = self.last_frame + *idle;
        let (due, why) = if !is_stream || (self.meter.awaits_token() && deadline.at < silent) {
            (deadline.at, TruncatedResponse::Late(deadline.limit))
        } else {
            (silent, TruncatedResponse::Silent(*idle))
        };
        match end.filter(|end| end.at < due) {
            Some(end) => (end.at, TruncatedResponse::Late(end.limit)),
            None => (due, why),
        }
    }

    /// The piece as the client gets it.
    fn relay_piece(&mut self, piece: Bytes) -> Bytes {
        let restated = |tokens| cached_tokens::restated(&piece, tokens);
        let piece = self.cached_tokens.and_then(restated).unwrap_or(piece);
        let now = Instant::now();
        self.last_frame = now;
        self.meter.piece(&piece, now);
        if let Some(shown) = &mut self.shown
            && !shown.piece(&piece)
        {
            self.shown = None;
        }
        if self.truncated_event.is_some() {
            self.border.pass(&piece);
        }
        // hyper stops polling at the head's content length, so the end of the body may never be
        // polled.
        self.complete_at_end();
        piece
    }

    fn complete_at_end(&mut self) {
        let is_at_end = self.body.as_ref().is_some_and(Body::is_end_stream);
        if is_at_end && self.relayed == self.held.len() {
            self.complete();
        }
    }

    /// The answer was relayed to its end.
    fn complete(&mut self) {
        if let Some(connection) = self.body.take().and_then(UpstreamBody::into_connection) {
            self.meter.upstream().checkin(connection);
        }
        if let Some(shown) = self.shown.take() {
            shown.end();
        }
        self.meter.complete();
    }

    /// Truncates the answer: an error event where the client reads events, then an abort instead of
    /// a proper end.
    fn truncate(
        &mut self,
        why: TruncatedResponse,
        ended: RequestOutcome,
        failure: Option<EndpointFailure>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, TruncatedResponse>>> {
        tracing::info!(endpoint = %self.meter.upstream().endpoint.name, %why, "an answer was truncated");
        self.meter.truncate(ended, failure);
        (self.body, self.shown) = (None, None);
        let ending = TruncationStep::Flush(why);
        if let Some(event) = self.truncated_event.filter(|_| self.border.is_between()) {
            self.ending = Some(ending);
            let event = Bytes::from_static(event.as_bytes());
            return Poll::Ready(Some(Ok(Frame::data(event))));
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

impl Relay {
    fn size_hint(&self) -> SizeHint {
        let Some(body) = &self.body else {
            return SizeHint::default();
        };
        if self.restorer.is_some() && !body.is_end_stream() {
            return SizeHint::default();
        }
        let held = self.held[self.relayed..].iter().map(Bytes::len);
        let (held, rest) = (held.sum::<usize>() as u64, body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(held + rest.lower());
        if let Some(upper) = rest.upper() {
            hint.set_upper(held + upper);
        }
        hint
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
                relay.body.is_none() && relay.relayed == relay.held.len() && relay.ending.is_none()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Local(body) => body.size_hint(),
            Self::Relayed(relay) => relay.size_hint(),
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
