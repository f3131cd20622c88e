//! The meter of one relayed answer: times of its pieces, its token usage, and how it ends.
//!
//! The relay moves bytes and passes each piece to its meter; it records nothing by itself.

use std::sync::Arc;

use bytes::Bytes;
use hermes_core::stored_responses::{ResponseKey, ResponseLocations};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{attempt::Attempt, guard::RequestGuard};
use crate::{
    endpoint::Upstream,
    telemetry::{metrics::RequestOutcome, usage::UsageTap},
};

/// See the module. Dropping it ends the request.
pub(crate) struct Meter {
    guard: RequestGuard,
    attempt: Attempt,
    tap: UsageTap,
    /// Outcome to record if the answer completes.
    if_complete: RequestOutcome,
    /// Locations of stored responses, if the answer may be one.
    responses: Option<Arc<Mutex<ResponseLocations>>>,
}

impl Meter {
    /// The answer of `attempt` is relayed from now on.
    pub(crate) fn begin(
        mut guard: RequestGuard,
        attempt: Attempt,
        if_complete: RequestOutcome,
        responses: Option<Arc<Mutex<ResponseLocations>>>,
    ) -> Self {
        guard.relay(&attempt);
        Self {
            guard,
            attempt,
            tap: UsageTap::default(),
            if_complete,
            responses,
        }
    }

    /// The endpoint that answers.
    pub(crate) const fn upstream(&self) -> &Arc<Upstream> {
        self.attempt.upstream()
    }

    /// A piece of the answer is relayed.
    pub(crate) fn piece(&mut self, bytes: &Bytes, now: Instant) {
        if self.guard.piece(now) {
            self.attempt.prefill_done();
        }
        self.tap.piece(bytes);
    }

    /// The answer was relayed to its last byte.
    pub(crate) fn complete(&mut self) {
        let stored = self.stored_response();
        self.guard
            .completed(self.if_complete, self.tap.usage(), stored);
    }

    /// The answer broke off.
    pub(crate) fn truncate(&mut self, outcome: RequestOutcome) {
        self.guard.truncated(outcome);
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
