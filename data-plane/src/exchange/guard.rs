//! The guard of one routed request: observed exactly once, when it is dropped.
//!
//! ```text
//!   Routed ──begin_attempt──▶ Sent ──Meter::begin──▶ Streaming ──drop──▶ Done
//!   └──────── RequestGuard ───────┘                   └─ Meter ─┘
//! ```
//!
//! The guard is created when the pool is known and travels with the request into the body of its
//! answer, where a [`Meter`](super::meter::Meter) owns it. Dropping it ends the request with the
//! outcome that was set; without one the outcome is `cancelled`, because a client that disconnects
//! drops the request wherever it is.

mod legs;

use std::{sync::Arc, time::Duration};

use hermes_core::{
    ejection::EndpointFailure,
    ledger::LegId,
    query::Query,
    refusals::SecondOpinion,
    snapshot::{EndpointId, Version},
    stored_responses::ResponseKey,
};
use hermes_runtime::shutdown::Tracked;
use tokio::time::Instant;

use super::{
    attempt::{Attempt, AttemptFacts},
    observers::{self, Sinks},
    pair_times::PairAttempt,
    rate_limits::RateLimits,
    refusals::{PendingRefusals, Refusal},
    retry::{AttemptEffect, AttemptEnd, AttemptFailure},
    summary::RequestSummary,
    timeline::Timeline,
    trace::{self, RequestTrace},
};
use crate::{
    choose::EndpointSelection,
    clock::uptime,
    endpoint::Upstream,
    link::report::{FailedAttempt, ReportedAnswer, ReportedLeg, ReportedOutcome, Reporter},
    request::{
        admission::AdmissionPermit, inference_request::InferenceRequest, local_reply::LocalReply,
    },
    telemetry::{
        access_log::AccessLog,
        metrics::{AnswerClass, AttemptOutcome, EjectionReason, FallbackLevel, RequestOutcome},
        usage::TokenUsage,
    },
    view::RoutingPool,
};

/// See the module.
pub(crate) struct RequestGuard {
    pub(crate) id: u64,
    pub(crate) trace: RequestTrace,
    sinks: Sinks,
    pool: Arc<RoutingPool>,
    /// What the selection read of the request, and how it was made.
    query: Query,
    level: FallbackLevel,
    queued: Duration,
    /// The model's name, if a listener of the access log was connected when the endpoint was
    /// selected.
    recorded_model: Option<Box<str>>,
    timeline: Timeline,
    /// The attempt in progress, the last one that failed, or the one whose answer is relayed.
    attempt: Option<AttemptFacts>,
    attempts: u32,
    /// Where a prefill leg was reported that has not ended, and when. Boxed, as most requests have
    /// none.
    prefilling: Option<Box<(EndpointId, Instant)>>,
    /// Of the last attempt, if that is one at a pair whose legs are sent here.
    pair: Option<Box<PairAttempt>>,
    /// What the answer of the attempt is, as far as it has one.
    answer: Option<AnswerClass>,
    refusals: PendingRefusals,
    rate_limits: RateLimits,
    usage: Option<TokenUsage>,
    /// Cached tokens that the usage of the attempt's answer is to state, as a prefill endpoint has
    /// stated them.
    prefill_cached_tokens: Option<u32>,
    stored_response: Option<ResponseKey>,
    outcome: RequestOutcome,
    /// Admission, and the drain that waits for this request.
    held: (AdmissionPermit, Tracked),
}

/// A request as it arrives.
pub(crate) struct RequestStart {
    /// Unique in this run of the proxy.
    pub(crate) id: u64,
    pub(crate) at: Instant,
    pub(crate) trace: RequestTrace,
}

impl RequestGuard {
    pub(crate) fn open(
        start: RequestStart,
        pool: Arc<RoutingPool>,
        model: Option<&str>,
        (reporter, access_log): (Arc<Reporter>, Arc<AccessLog>),
        held: (AdmissionPermit, Tracked),
    ) -> Self {
        let RequestStart { id, at, trace } = start;
        pool.metrics.in_flight.inc();
        Self {
            id,
            trace,
            sinks: Sinks {
                reporter,
                access_log,
                model: Arc::clone(pool.models.get(model)),
            },
            pool,
            query: Query::default(),
            level: FallbackLevel::default(),
            queued: Duration::ZERO,
            recorded_model: None,
            timeline: Timeline::starting(at),
            attempt: None,
            attempts: 0,
            prefilling: None,
            pair: None,
            answer: None,
            refusals: PendingRefusals::default(),
            rate_limits: RateLimits::default(),
            usage: None,
            prefill_cached_tokens: None,
            stored_response: None,
            outcome: RequestOutcome::Cancelled,
            held,
        }
    }

    /// Describes the request in the server span.
    pub(crate) fn describe(&self, request: &InferenceRequest, version: Version) {
        let strategy = self.pool.pool.spec.policy.strategy.name();
        trace::describe(&self.trace.server, request, strategy, version);
    }

    /// Sets what the selection reads of the request.
    pub(crate) fn set_query(&mut self, query: &Query, request: &InferenceRequest) {
        self.query = Query {
            non_streaming: request.is_non_streaming(),
            ..query.clone()
        };
        let model = || request.model.as_deref().unwrap_or_default().into();
        self.recorded_model = self.sinks.access_log.has_listeners().then(model);
    }

    /// Endpoints were selected.
    pub(crate) const fn set_selection(&mut self, selection: &EndpointSelection) {
        if let Some(prompt_tokens) = selection.why.prompt_tokens {
            self.query.prompt_tokens = prompt_tokens;
        }
        self.level = selection.level;
        self.queued = selection.why.waited;
    }

    /// What selections read of the request.
    pub(super) const fn query(&self) -> &Query {
        &self.query
    }

    /// Endpoints were selected again, from a newer view of the pool.
    pub(super) fn chosen_again(&mut self, pool: &Arc<RoutingPool>, selection: &EndpointSelection) {
        pool.metrics.selections.levels[selection.level].inc();
        self.level = selection.level;
        self.pool = Arc::clone(pool);
    }

    /// Counts more bytes for the body, which is kept in another form as well; returns whether all
    /// bodies together are within the limit.
    pub(crate) fn reserve_bytes(&mut self, bytes: u64) -> bool {
        self.held.0.reserve_bytes(bytes)
    }

    /// No endpoint was selected.
    pub(crate) fn selection_failed(&mut self, reply: &LocalReply) {
        self.outcome = match reply {
            LocalReply::TimedOut(_) => RequestOutcome::TimedOut,
            LocalReply::FromPicker(status, _) => match status.as_u16() {
                429 | 503 => RequestOutcome::Overloaded,
                400..500 => RequestOutcome::ClientError,
                _ => RequestOutcome::Failed,
            },
            reply if reply.is_overload() => RequestOutcome::Overloaded,
            _ => RequestOutcome::Failed,
        };
    }

    /// The last attempt ended, or its answer's class became known: the one place where endpoints
    /// get praise and blame. `retry_after`: how long an overloaded endpoint asked to be left alone.
    pub(super) fn attempt_ended(&mut self, end: AttemptEnd, retry_after: Option<Duration>) {
        let endpoints = &self.pool.metrics.endpoints;
        if let AttemptEnd::Answered(_, class) = end {
            self.answer = class;
            let Some(class) = class else { return };
            endpoints.answers[class].inc();
        }
        match (end.effect(), &self.attempt) {
            (AttemptEffect::Failed(failure), _) => self.attempt_failed(failure, retry_after),
            (AttemptEffect::Served, Some(attempt)) => {
                endpoints.attempts[AttemptOutcome::Answered].inc();
                attempt.upstream.succeeded(uptime());
                self.refusals.served();
            }
            (AttemptEffect::Refused(class), Some(attempt)) => {
                let outcome = match class {
                    AnswerClass::ClientError | AnswerClass::EngineError => AttemptOutcome::Answered,
                    _ => AttemptOutcome::Failed,
                };
                endpoints.attempts[outcome].inc();
                self.refusals.add(Refusal {
                    leg: attempt.leg,
                    upstream: Arc::clone(&attempt.upstream),
                    class,
                });
            }
            (AttemptEffect::Nothing, Some(attempt)) => {
                endpoints.attempts[AttemptOutcome::TimedOut].inc();
                attempt.give_up();
                self.report_failed(attempt, FailedAttempt::of(ReportedOutcome::Cancelled));
            }
            (_, None) => {}
        }
    }

    /// The endpoints that ended the last attempt, if there was one: while placements are tried,
    /// they failed.
    pub(super) fn failed_endpoints(&self) -> [Option<EndpointId>; 2] {
        let attempt = self.attempt.as_ref();
        let blamed = attempt.map(|attempt| attempt.upstream.endpoint.id);
        let doubted = self.pair.as_ref().and_then(|pair| pair.doubted);
        [blamed, doubted]
    }

    /// Counts the refusals of this request: no other endpoint is asked any more.
    pub(super) fn settle_refusals(&mut self) {
        let (refused, opinion) = self.refusals.take();
        for refusal in refused {
            let now = uptime();
            if refusal.count(&self.pool, opinion, now) {
                self.ejected(&refusal.upstream, EjectionReason::Refusals);
            }
            let outcome = match opinion {
                SecondOpinion::Confirmed | SecondOpinion::Unavailable => ReportedOutcome::Cancelled,
                SecondOpinion::None | SecondOpinion::Contradicted => ReportedOutcome::Ok,
            };
            self.sinks.reporter.attempt_failed(
                self.reported(refusal.leg),
                refusal.upstream.endpoint.id,
                FailedAttempt {
                    answer: Some(refusal.class.into()),
                    opinion,
                    ..FailedAttempt::of(outcome)
                },
            );
        }
    }

    fn attempt_failed(&mut self, failure: AttemptFailure, retry_after: Option<Duration>) {
        self.pool.metrics.endpoints.attempts[failure.metric].inc();
        let Some(attempt) = &self.attempt else { return };
        let (upstream, now) = (&attempt.upstream, uptime());
        let mut retry_after = retry_after;
        if failure.is_rate_limit() {
            let limited = self.rate_limits.add(upstream);
            if !limited.is_empty() {
                return self.over_quota(&limited);
            }
            let peers = self.pool.peers_of(upstream, now);
            retry_after = retry_after.filter(|_| !upstream.suspects_quota(now, &peers));
        }
        if failure.report == ReportedOutcome::Overloaded {
            let peers = self.pool.peers_of(upstream, now);
            upstream.overloaded(now, retry_after, &peers);
        } else if upstream.failed(now, failure.health) {
            self.ejected(upstream, EjectionReason::Failures);
        }
        let failed = FailedAttempt {
            answer: self.answer.map(Into::into),
            retry_after,
            ..FailedAttempt::of(failure.report)
        };
        self.report_failed(attempt, failed);
    }

    /// The client is over its quota: these endpoints, of several that said so, do not cool down.
    fn over_quota(&self, limited: &[Arc<Upstream>]) {
        // Of a pair's legs one may have ended: the report goes by that which lasts until the end.
        let leg = self.reported(LegId::MAIN);
        for upstream in limited {
            upstream.limited(uptime());
            let failed = FailedAttempt {
                answer: Some(ReportedAnswer::Overloaded),
                opinion: SecondOpinion::Confirmed,
                ..FailedAttempt::of(ReportedOutcome::Overloaded)
            };
            let endpoint = upstream.endpoint.id;
            self.sinks.reporter.attempt_failed(leg, endpoint, failed);
        }
    }

    fn report_failed(&self, attempt: &AttemptFacts, failed: FailedAttempt) {
        let (leg, endpoint) = (self.reported(attempt.leg), attempt.upstream.endpoint.id);
        self.sinks.reporter.attempt_failed(leg, endpoint, failed);
    }

    fn ejected(&self, upstream: &Upstream, reason: EjectionReason) {
        self.pool.metrics.endpoints.ejections[reason].inc();
        let (pool, endpoint) = (self.pool.name(), &upstream.endpoint.name);
        tracing::warn!(%pool, %endpoint, reason = reason.name(), "endpoint is ejected");
    }

    /// An answer has begun, after which nothing is sent again: the client's body is not needed any
    /// more, and its bytes do not count against the limit.
    pub(crate) fn release_body(&mut self) {
        self.held.0.release_bytes();
    }

    /// No answer is relayed.
    pub(crate) const fn failed(&mut self, outcome: RequestOutcome) {
        self.outcome = outcome;
    }

    // --- What the meter of the answer records. ---

    /// The answer of this attempt is relayed from now on. `answer`: its class, if it is known.
    pub(super) fn relay(&mut self, attempt: &Attempt, answer: Option<AnswerClass>) {
        self.attempt = Some(attempt.facts().clone());
        self.answer = answer;
    }

    /// A piece with tokens was relayed; returns whether it is the first.
    pub(super) fn piece(&mut self, now: Instant) -> bool {
        let is_first = self.timeline.piece(now);
        if let (true, Some(attempt)) = (is_first, &self.attempt) {
            self.sinks
                .reporter
                .first_byte(self.reported(attempt.leg), attempt.since_sent(now));
            let ttft = now - self.timeline.arrived();
            self.sinks
                .model
                .time_to_first_token
                .observe(ttft.as_secs_f64());
            self.decode_leg_answered(now);
        }
        if is_first {
            // Of a leg that is sent through another endpoint nothing else shows its end.
            self.end_prefill(ReportedOutcome::Ok);
        }
        is_first
    }

    /// The answer was relayed to its last byte.
    pub(super) const fn completed(
        &mut self,
        outcome: RequestOutcome,
        usage: Option<TokenUsage>,
        stored_response: Option<ResponseKey>,
    ) {
        self.outcome = outcome;
        self.usage = usage;
        self.stored_response = stored_response;
    }

    /// The answer broke off. `failure`: what that says of the endpoint, if anything.
    pub(super) fn truncated(&mut self, outcome: RequestOutcome, failure: Option<EndpointFailure>) {
        self.outcome = outcome;
        let (Some(attempt), Some(failure)) = (&self.attempt, failure) else {
            return;
        };
        if attempt.upstream.failed(uptime(), failure) {
            self.ejected(&attempt.upstream, EjectionReason::Failures);
        }
        self.report_failed(attempt, FailedAttempt::of(ReportedOutcome::Failed));
    }

    const fn reported(&self, leg: LegId) -> ReportedLeg {
        ReportedLeg {
            request: self.id,
            leg,
        }
    }

    fn summary(&self) -> RequestSummary<'_> {
        let reported = self.attempt.as_ref().zip(self.usage);
        RequestSummary {
            id: self.id,
            pool: &self.pool,
            query: &self.query,
            recorded_model: self.recorded_model.as_deref(),
            level: self.level,
            queued: self.queued,
            timeline: self.timeline,
            pair: self.pair.as_ref().map(|pair| &pair.times),
            ended_at: Instant::now(),
            outcome: self.outcome,
            attempt: self.attempt.as_ref(),
            retries: self.attempts.saturating_sub(1),
            answer: self.answer,
            usage: self.usage,
            cached_tokens: reported
                .and_then(|(attempt, usage)| attempt.upstream.cached_tokens(usage.cached_tokens)),
            stored_response: self.stored_response,
            trace: &self.trace,
        }
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.settle_refusals();
        observers::observe(&self.summary(), &self.sinks);
    }
}
