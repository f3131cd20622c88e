//! The meter of one relayed answer: times of its pieces, its token usage, and how it ends.
//!
//! The relay moves bytes and passes each piece to its meter; it records nothing by itself.

use std::sync::Arc;

use bytes::Bytes;
use hermes_core::{
    ejection::EndpointFailure,
    stored_responses::{ResponseKey, ResponseLocations},
};
use http::StatusCode;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    attempt::Attempt,
    guard::RequestGuard,
    leg::ClassVerdict,
    retry::{AttemptEnd, outcome_of},
};
use crate::{
    endpoint::Upstream,
    telemetry::{
        metrics::{AnswerClass, RequestOutcome},
        usage::UsageTap,
    },
};

/// See the module. Dropping it ends the request.
pub(crate) struct Meter {
    guard: RequestGuard,
    attempt: Attempt,
    tap: UsageTap,
    status: StatusCode,
    class: ClassVerdict,
    /// Locations of stored responses, if the answer may be one.
    responses: Option<Arc<Mutex<ResponseLocations>>>,
}

impl Meter {
    /// The answer of `attempt` is relayed from now on.
    pub(super) fn begin(
        mut guard: RequestGuard,
        mut attempt: Attempt,
        (status, class): (StatusCode, ClassVerdict),
        responses: Option<Arc<Mutex<ResponseLocations>>>,
    ) -> Self {
        guard.relay(&attempt, class.known());
        if class
            .known()
            .is_some_and(|class| class != AnswerClass::Tokens)
        {
            attempt.prefill_done();
        }
        Self {
            guard,
            attempt,
            tap: UsageTap::default(),
            status,
            class,
            responses,
        }
    }

    /// The endpoint that answers.
    pub(crate) const fn upstream(&self) -> &Arc<Upstream> {
        self.attempt.upstream()
    }

    /// Whether the answer's first token, or an error instead, is still to come.
    pub(super) fn awaits_token(&self) -> bool {
        self.class.known().is_none()
    }

    /// A piece of the answer is relayed.
    pub(crate) fn piece(&mut self, bytes: &Bytes, now: Instant) {
        if let ClassVerdict::Open(judge) = &mut self.class
            && let Some(class) = judge.piece(bytes)
        {
            self.know(class);
        }
        if self.class.known() == Some(AnswerClass::Tokens) && self.guard.piece(now) {
            self.attempt.prefill_done();
        }
        self.tap.piece(bytes);
    }

    /// The answer was relayed to its last byte.
    pub(crate) fn complete(&mut self) {
        let class = match &mut self.class {
            ClassVerdict::Known(class) => *class,
            ClassVerdict::Open(judge) => {
                let class = judge.end();
                self.know(class);
                // Only its end shows that a short answer is one: its tokens came with it.
                if class == AnswerClass::Tokens && self.guard.piece(Instant::now()) {
                    self.attempt.prefill_done();
                }
                class
            }
        };
        let stored = self.stored_response();
        self.guard
            .completed(outcome_of(class), self.tap.usage(), stored);
    }

    /// The answer broke off. `failure`: what that says of the endpoint, if anything.
    pub(crate) fn truncate(&mut self, outcome: RequestOutcome, failure: Option<EndpointFailure>) {
        self.guard.truncated(outcome, failure);
    }

    /// The class is known only after pieces of the answer were relayed.
    fn know(&mut self, class: AnswerClass) {
        self.class = ClassVerdict::Known(class);
        self.guard
            .attempt_ended(AttemptEnd::Answered(self.status, Some(class)), None);
        self.guard.settle_refusals();
        if class != AnswerClass::Tokens {
            self.attempt.prefill_done();
        }
    }

    /// The stored response that the answer is, whose endpoint is remembered.
    fn stored_response(&self) -> Option<ResponseKey> {
        let responses = self.responses.as_ref()?;
        let key = ResponseKey::of(&self.tap.response_id()?);
        let endpoint = self.attempt.upstream().endpoint.id;
        responses.lock().insert(key, endpoint);
        Some(key)
    }
}
