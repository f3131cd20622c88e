//! A leg that is sent: how, and what came of it.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, response};
use http_body::Body;
use opentelemetry::Context;

use super::{
    attempt::Attempt,
    leg::{ClassVerdict, HeldPieces, Leg, LegAnswer, LegDeadline, LegError, LegResult},
    recomputed::RecomputedScan,
    retry::AttemptEnd,
    unread_answer,
};
use crate::{
    asked_picker::{PickerExchange, ShownAnswer},
    endpoint::UpstreamBody,
    request::{headers, inference_request::InferenceRequest, leg_body::LegBody},
    telemetry::metrics::{AnswerClass, ConnectionMetrics},
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

/// One leg as it is to be sent.
pub(super) struct LegOrder<'a> {
    pub(super) request: &'a InferenceRequest,
    pub(super) body: LegBody,
    /// Headers besides the client's.
    pub(super) headers: &'a [(HeaderName, HeaderValue)],
    /// It may be sent twice to the endpoint.
    pub(super) may_repeat: bool,
    pub(super) deadline: LegDeadline,
    pub(super) connect_timeout: Duration,
    /// The client's trace context.
    pub(super) incoming: &'a Context,
}

/// What came of a leg, and whether it was sent twice.
pub(super) type LegOutcome = (Result<UpstreamResponse, LegError>, bool);

impl LegOrder<'_> {
    /// With a shorter limit for connecting, if there is one.
    pub(super) fn connecting_within(self, limit: Option<Duration>) -> Self {
        let connect_timeout = self.connect_timeout;
        Self {
            connect_timeout: limit.map_or(connect_timeout, |limit| limit.min(connect_timeout)),
            ..self
        }
    }

    /// By another deadline.
    pub(super) fn until(self, deadline: LegDeadline) -> Self {
        Self { deadline, ..self }
    }

    /// Connects, sends, and waits for the head and for what determines the answer's class.
    pub(super) async fn send(
        self,
        attempt: Attempt,
        connections: &ConnectionMetrics,
    ) -> LegOutcome {
        let upstream = Arc::clone(attempt.upstream());
        let Self {
            request,
            body,
            headers,
            may_repeat,
            deadline,
            connect_timeout,
            incoming,
        } = self;
        let leg = Leg {
            request,
            upstream: &upstream,
            body,
            extra_headers: headers,
            may_repeat,
            span: &attempt.facts().span,
            incoming,
            deadline,
            connect_timeout,
        };
        let LegResult { answer, repeated } = leg.exchange(connections).await;
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

impl UpstreamResponse {
    /// Shows its head to the picker that chose the endpoint, which may edit it. Returns what shows
    /// the rest.
    pub(crate) async fn show(&mut self, picked: PickerExchange) -> Option<Box<ShownAnswer>> {
        headers::clean_response(&mut self.head.headers);
        let served = self.attempt.upstream().known_socket();
        let is_all = self.held.is_empty() && self.body.is_end_stream();
        picked.answered(&mut self.head, served, is_all).await
    }

    /// Whether it is what was asked for, as far as it is known.
    pub(super) fn is_served(&self) -> bool {
        let class = self.class.known().unwrap_or(AnswerClass::Tokens);
        self.head.status.is_success() && class == AnswerClass::Tokens
    }

    /// An answer that its engine gave up before anything of it was relayed holds none, so that
    /// another endpoint is asked. Returns that, of a decode leg.
    pub(super) fn unless_recomputed(self) -> Self {
        let mut scan = RecomputedScan::default();
        if !self.is_served() || !self.held.iter().any(|piece| scan.finds(piece)) {
            return self;
        }
        Self {
            class: ClassVerdict::Known(AnswerClass::Empty),
            ..self
        }
    }

    /// How its attempt ended.
    pub(super) fn end(&self) -> AttemptEnd {
        AttemptEnd::Answered(self.head.status, self.class.known())
    }

    /// This answer, or the one that is held: an error of an endpoint does not replace what another
    /// one said of the request.
    pub(super) fn or_held(self, held: Option<Self>) -> Self {
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
    pub(super) fn recycle(self) {
        unread_answer::recycle(self.body, self.attempt.upstream());
    }
}
