//! An exchange that a gateway makes: it is given the endpoints, sends the request itself, and shows
//! its answer as it passes.
//!
//! ```text
//!   begin ─▶ GatewayOrder ─▶ gateway ─▶ endpoint       where the request goes, and what is sent
//!   answered ─▶ piece … ─▶ complete                    what is seen of the answer, by the Meter
//! ```
//!
//! What is counted, reported and measured is that of an exchange that this proxy makes. Nothing is
//! sent from here, so nothing is sent again: whether another endpoint is tried is the gateway's
//! decision, and which one answered is what it states.
//!
//! Invariant: a [`GatewayExchange`] that is dropped before it is complete has no result, as when
//! its client disconnects.

mod order;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use hermes_core::{
    ejection::EndpointFailure, policy::Timeouts, query::MAX_RANKED,
    stored_responses::ResponseLocations,
};
use http::response;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::time::Instant;

pub(crate) use self::order::GatewayOrder;
use self::order::{NamedEndpoint, SidecarPrefill};
use super::{
    admitted_endpoint::AdmittedEndpoint,
    answer::{AnswerJudge, retry_after},
    attempt::{Attempt, LegStage},
    guard::RequestGuard,
    leg::{ClassVerdict, LegDeadline},
    meter::Meter,
    model_restorer::ModelRestorer,
    retry::AttemptEnd,
    trace,
};
use crate::{
    request::inference_request::InferenceRequest,
    telemetry::metrics::{AnswerClass, RequestOutcome},
};

/// How long an answer may take of which the gateway shows the head alone.
const HIDDEN_ANSWER: Duration = Duration::from_secs(60 * 60);

/// See the module.
pub(crate) struct GatewayExchange {
    request: InferenceRequest,
    timeouts: Timeouts,
    /// Those that the gateway may send the request to, best first.
    named: SmallVec<[NamedEndpoint; MAX_RANKED]>,
    /// Of a pair, if one was named.
    prefill: Option<Box<SidecarPrefill>>,
    deadline: LegDeadline,
    /// Where to note the endpoint of a stored response, if the answer may be one.
    responses: Option<Arc<Mutex<ResponseLocations>>>,
    /// Puts the client's name of the model back, if its request was rewritten.
    restorer: Option<Box<ModelRestorer>>,
    last_piece: Instant,
    /// Pieces of the answer are shown.
    shows_body: bool,
    phase: ExchangePhase,
}

enum ExchangePhase {
    /// The gateway has the endpoints, and nothing of an answer was seen.
    Named(Box<(RequestGuard, Attempt)>),
    /// An answer passes.
    Answering(Box<Meter>),
    Ended,
}

/// The head of an answer that a gateway received.
pub(crate) struct GatewayAnswer {
    pub(crate) head: response::Parts,
    /// The endpoint that answers, if the gateway states it.
    pub(crate) served: Option<SocketAddr>,
    /// The body will be shown. Otherwise nothing is known of it.
    pub(crate) shows_body: bool,
}

impl GatewayExchange {
    /// The head of the answer has arrived, and a stated length in it is no more true if
    /// [`Self::edits_answer`].
    pub(crate) fn answered(&mut self, answer: &GatewayAnswer) {
        let ExchangePhase::Named(sent) = std::mem::replace(&mut self.phase, ExchangePhase::Ended)
        else {
            return;
        };
        let (mut guard, attempt) = *sent;
        guard.release_body();
        self.shows_body = answer.shows_body;
        let attempt = self.answering(attempt, answer.served, &mut guard);
        let status = answer.head.status;
        trace::status(&guard.trace.server, status);
        trace::answered(&attempt.facts().span, status);
        let class = match AnswerJudge::begin(&self.request, &answer.head) {
            Err(class) => ClassVerdict::Known(class),
            Ok(judge) if !answer.shows_body || (judge.is_opaque() && !self.request.stream) => {
                ClassVerdict::Known(AnswerClass::Tokens)
            }
            Ok(judge) => ClassVerdict::Open(judge),
        };
        let end = AttemptEnd::Answered(status, class.known());
        guard.attempt_ended(end, retry_after(&answer.head.headers, SystemTime::now));
        if let Some(prefill) = self.prefill.take() {
            let is_served = status.is_success();
            prefill.ended(is_served);
            guard.pair_ended(is_served);
        }
        if class.known().is_some() {
            guard.settle_refusals();
        }
        let headers = &answer.head.headers;
        let restored = self.request.restored_model();
        let restored = restored.filter(|_| answer.shows_body);
        let restorer =
            restored.and_then(|model| ModelRestorer::of(self.request.api, model, headers));
        self.restorer = restorer.map(Box::new);
        let responses = self.responses.take();
        self.last_piece = Instant::now();
        let meter = Meter::begin(guard, attempt, (status, class), responses);
        self.phase = ExchangePhase::Answering(Box::new(meter));
        if !answer.shows_body {
            // Nothing will show its end, which is that of the stream.
            self.piece(Bytes::new());
            if let ExchangePhase::Answering(meter) = &mut self.phase {
                meter.complete();
            }
        }
    }

    /// Whether an answer has begun of which the gateway shows the head alone.
    pub(crate) const fn is_hidden(&self) -> bool {
        !self.shows_body
    }

    /// Whether pieces of the answer may change as they pass.
    pub(crate) const fn edits_answer(&self) -> bool {
        self.restorer.is_some()
    }

    /// A piece of the answer passes; returns it as the client gets it.
    pub(crate) fn piece(&mut self, bytes: Bytes) -> Bytes {
        let piece = match &mut self.restorer {
            Some(restorer) => restorer.restore(bytes),
            None => bytes,
        };
        if let ExchangePhase::Answering(meter) = &mut self.phase {
            self.last_piece = Instant::now();
            meter.piece(&piece, self.last_piece);
        }
        piece
    }

    /// The answer has passed to its last byte.
    pub(crate) fn complete(mut self) {
        if let ExchangePhase::Answering(meter) = &mut self.phase {
            meter.complete();
        }
    }

    /// When the endpoint has taken too long for its answer, or for the next piece of it.
    pub(crate) fn due(&self) -> Instant {
        let silent = self.last_piece + self.timeouts.idle;
        match &self.phase {
            ExchangePhase::Answering(_) if !self.shows_body => self.last_piece + HIDDEN_ANSWER,
            ExchangePhase::Answering(meter) if self.request.stream => {
                if meter.awaits_token() {
                    silent.min(self.deadline.at)
                } else {
                    silent
                }
            }
            _ => self.deadline.at,
        }
    }

    /// The endpoint has taken too long.
    pub(crate) fn expire(mut self) {
        match &mut self.phase {
            ExchangePhase::Named(sent) => {
                let was_full = self.deadline.is_full;
                sent.0
                    .attempt_ended(AttemptEnd::TimedOut { was_full }, None);
                sent.0.failed(RequestOutcome::TimedOut);
            }
            ExchangePhase::Answering(meter) => {
                meter.truncate(RequestOutcome::TimedOut, Some(EndpointFailure::Timeout));
            }
            ExchangePhase::Ended => {}
        }
    }

    /// The name of the endpoint that answers, or else of the first that was named.
    pub(crate) fn endpoint(&self) -> Option<&Arc<str>> {
        match &self.phase {
            ExchangePhase::Answering(meter) => Some(&meter.upstream().endpoint.name),
            _ => Some(&self.named.first()?.endpoint.upstream.endpoint.name),
        }
    }

    /// The attempt that is answered: another one, if the gateway went on to an endpoint after the
    /// first.
    fn answering(
        &self,
        first: Attempt,
        served: Option<SocketAddr>,
        guard: &mut RequestGuard,
    ) -> Attempt {
        let others = self.named.iter().skip(1);
        let Some(other) = others
            .into_iter()
            .find(|other| Some(other.socket) == served)
        else {
            return first;
        };
        // A gateway goes on when it cannot connect, or by the failures of its own retry policy,
        // which are not known here.
        guard.attempt_ended(AttemptEnd::Unreachable, None);
        let sent = first.facts().sent();
        drop(first);
        guard.count_attempt(&self.request);
        let endpoint = AdmittedEndpoint::unasked(&other.endpoint);
        let attempt = guard.begin_leg(LegStage::Both, endpoint, &self.request);
        guard.sent_before(attempt, sent)
    }
}
