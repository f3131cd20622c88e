//! What has come of a request so far: it outlives the placements that were chosen for it.

use std::time::Duration;

use hermes_core::{inference_pool::PickerFailure, policy::PairFallback};
use tokio::time::Instant;

use super::{
    guard::RequestGuard,
    leg::{LegDeadline, LegError},
    retry::Attempts,
    sent_leg::UpstreamResponse,
};
use crate::{
    request::{inference_request::InferenceRequest, leg_body::LegBody, local_reply::LocalReply},
    telemetry::metrics::RequestOutcome,
    view::RoutingPool,
};

/// A request, from its first attempt to its last.
pub(super) struct Tries<'a> {
    pub(super) request: &'a InferenceRequest,
    /// What an endpoint alone is sent.
    pub(super) body: LegBody,
    attempts: Attempts,
    /// One was at a pair.
    has_met_pair: bool,
    /// When the first attempt was made: the time of a whole answer counts from then.
    first_sent: Option<Instant>,
    /// An answer that is relayed if no better one comes.
    held: Option<UpstreamResponse>,
}

/// Why an attempt was not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoAttempt {
    /// The pool's retry budget does not pay for it.
    Unpaid,
    /// This limit of time is used up.
    Late(Duration),
}

impl<'a> Tries<'a> {
    /// None yet; at most as many as the pool allows now.
    ///
    /// # Errors
    ///
    /// When the body cannot be made.
    pub(super) fn begin(
        request: &'a InferenceRequest,
        pool: &RoutingPool,
        guard: &mut RequestGuard,
    ) -> Result<Self, LocalReply> {
        let body = request
            .leg_body(&[])
            .inspect_err(|_| guard.failed(RequestOutcome::ClientError))?;
        pool.budget.deposit();
        Ok(Self {
            request,
            body,
            attempts: Attempts::up_to(pool.pool.spec.policy.retry.max_attempts),
            has_met_pair: false,
            first_sent: None,
            held: None,
        })
    }

    /// Whether another attempt may be made, if it can be paid.
    pub(super) const fn may_continue(&self) -> bool {
        self.attempts.may_continue()
    }

    /// Whether placements may be chosen again, and if so, whether pairs may be among them. The one
    /// endpoint that holds a stored response is not replaced, and after a failed pair the pool's
    /// policy of such failures holds. What another picker was to choose is replaced only if its
    /// failures open.
    pub(super) fn may_be_chosen_again(&self, pool: &RoutingPool) -> Option<bool> {
        if self.request.response.is_some() {
            return None;
        }
        if let Some(picker) = &pool.pool.spec.asked_picker {
            return (picker.on_failure == PickerFailure::Open).then_some(false);
        }
        let rules = pool.pool.spec.policy.disaggregation.as_ref();
        match rules
            .filter(|_| self.has_met_pair)
            .map(|rules| rules.fallback)
        {
            None | Some(PairFallback::OtherPrefill) => Some(true),
            Some(PairFallback::Aggregate) => Some(false),
            Some(PairFallback::Fail) => None,
        }
    }

    /// Pays for the next attempt, and begins it: at a pair, or at one endpoint. `is_followed`:
    /// another placement is left.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub(super) fn begin_attempt(
        &mut self,
        pool: &RoutingPool,
        (is_pair, is_followed): (bool, bool),
        guard: &mut RequestGuard,
    ) -> Result<LegDeadline, NoAttempt> {
        if !self.attempts.pay(|| pool.budget.withdraw()) {
            return Err(NoAttempt::Unpaid);
        }
        let now = Instant::now();
        let since = *self.first_sent.get_or_insert(now);
        let timeouts = pool.pool.spec.policy.timeouts;
        let deadline = LegDeadline::of(self.request, timeouts, since, now);
        if deadline.at <= now {
            return Err(NoAttempt::Late(deadline.limit));
        }
        self.attempts.begin();
        self.has_met_pair |= is_pair;
        guard.count_attempt(self.request);
        Ok(deadline.followed(self.attempts.leave_another() && is_followed))
    }

    /// An attempt failed, and the next one may succeed.
    pub(super) fn failed(
        &mut self,
        answer: Result<UpstreamResponse, LegError>,
        is_suspicious: bool,
    ) {
        self.attempts.failed(is_suspicious);
        if let Ok(mut answer) = answer {
            answer.attempt.hold();
            self.held = Some(answer.or_held(self.held.take()));
        }
    }

    /// What is relayed when no attempt may follow this one.
    pub(super) fn end_with(
        &mut self,
        answer: Result<UpstreamResponse, LegError>,
        guard: &mut RequestGuard,
    ) -> Result<UpstreamResponse, LocalReply> {
        guard.settle_refusals();
        let held = self.held.take();
        match answer {
            Ok(answer) => Ok(answer.or_held(held)),
            Err(error) => {
                held.into_iter().for_each(UpstreamResponse::recycle);
                Err(self.final_reply(&error, guard))
            }
        }
    }

    /// What is relayed when the next attempt was not begun.
    pub(super) fn end_without(
        &mut self,
        attempt: NoAttempt,
        guard: &mut RequestGuard,
    ) -> Result<UpstreamResponse, LocalReply> {
        match attempt {
            NoAttempt::Unpaid => self.exhausted(guard),
            NoAttempt::Late(limit) => {
                guard.failed(RequestOutcome::TimedOut);
                Err(LocalReply::TimedOut(limit))
            }
        }
    }

    /// What is relayed when no other endpoint may be tried.
    pub(super) fn exhausted(
        &mut self,
        guard: &mut RequestGuard,
    ) -> Result<UpstreamResponse, LocalReply> {
        guard.settle_refusals();
        self.held.take().ok_or_else(|| self.no_answer(guard))
    }

    /// The reply when no attempt may follow this error.
    fn final_reply(&self, error: &LegError, guard: &mut RequestGuard) -> LocalReply {
        match error {
            LegError::TimedOut(deadline) => {
                guard.failed(RequestOutcome::TimedOut);
                LocalReply::TimedOut(deadline.limit)
            }
            LegError::Unreachable(_) | LegError::Broken(_) | LegError::PartnerGone => {
                self.no_answer(guard)
            }
        }
    }

    /// The reply when no endpoint is left, and none has answered.
    fn no_answer(&self, guard: &mut RequestGuard) -> LocalReply {
        guard.failed(RequestOutcome::Failed);
        match self.attempts.tried() {
            0 => LocalReply::NoEndpoint,
            tried => LocalReply::Exhausted(tried),
        }
    }
}
