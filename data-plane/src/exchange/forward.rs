//! Sending a request to the selected endpoints, one after another, until one answers.
//!
//! An attempt may be repeated elsewhere only before the first byte of an answer reached the client,
//! only if the request may be sent again, and only if the pool's retry budget pays for it. What
//! follows from a failed attempt is decided in [`super::retry`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use hermes_core::placement::Placement;
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{
    admitted_endpoint::AdmittedEndpoint,
    answer::retry_after as retry_after_of,
    attempt::LegStage,
    guard::RequestGuard,
    leg::{LegDeadline, LegError},
    pair::PairExchange,
    placements,
    retry::{AttemptEnd, Attempts, RefusalContext, RetryVerdict},
    sent_leg::{LegOrder, LegOutcome, UpstreamResponse},
    turn::{PlacementTurn, TurnRules},
};
use crate::{
    choose::{EndpointSelection, SelectedEndpoint},
    endpoint::Upstream,
    request::{inference_request::InferenceRequest, leg_body::LegBody, local_reply::LocalReply},
    telemetry::metrics::{AttemptOutcome, ProxyMetrics, RequestOutcome},
    view::RoutingPool,
};

/// Sends requests to endpoints.
pub(crate) struct Forwarder {
    metrics: Arc<ProxyMetrics>,
    /// Random id of this run.
    run: u64,
    /// Pairs that were tried.
    pairs: AtomicU64,
}

impl Forwarder {
    /// `run` is the random id of this run.
    pub(crate) const fn new(metrics: Arc<ProxyMetrics>, run: u64) -> Self {
        Self {
            metrics,
            run,
            pairs: AtomicU64::new(0),
        }
    }

    /// Tries the selected placements in turn.
    ///
    /// # Errors
    ///
    /// When none of them gave an answer that can be relayed.
    pub(crate) async fn forward(
        &self,
        request: &InferenceRequest,
        pool: &RoutingPool,
        selection: &EndpointSelection,
        guard: &mut RequestGuard,
    ) -> Result<UpstreamResponse, LocalReply> {
        let mut held: Option<UpstreamResponse> = None;
        let mut attempts = Attempts::up_to(pool.pool.spec.policy.retry.max_attempts);
        let body = request
            .leg_body(&[])
            .inspect_err(|_| guard.failed(RequestOutcome::ClientError))?;
        pool.budget.deposit();
        let mut first_sent = None;
        let order = placements::order(&selection.ranked, pool, request.model.as_deref());
        let mut placements = order.iter();
        while let Some(placement) = placements.next()
            && attempts.may_continue()
        {
            let failed = guard.failed_endpoints();
            let rules = TurnRules { pool, failed };
            let Some(turn) = PlacementTurn::take(placement, placements.clone(), rules) else {
                continue;
            };
            if !attempts.pay(|| pool.budget.withdraw()) {
                turn.give_up();
                break;
            }
            let timeouts = pool.pool.spec.policy.timeouts;
            let now = Instant::now();
            let since = *first_sent.get_or_insert(now);
            let deadline = LegDeadline::of(request, timeouts, since, now);
            if deadline.at <= now {
                guard.failed(RequestOutcome::TimedOut);
                turn.give_up();
                return Err(LocalReply::TimedOut(deadline.limit));
            }
            attempts.begin();
            let is_followed = attempts.leave_another() && placements.len() > 0;
            let deadline = deadline.followed(is_followed);
            guard.count_attempt(request);
            let (answer, repeated) = self
                .attempt((request, &body), (pool, deadline), turn.placement(), guard)
                .await;
            if repeated {
                pool.metrics.endpoints.attempts[AttemptOutcome::Failed].inc();
            }
            let verdict = self.ended(&answer, placement, (request, pool), guard);
            let RetryVerdict::TryElsewhere { suspicious } = verdict else {
                guard.settle_refusals();
                return final_answer(answer, held, attempts.tried(), guard);
            };
            // A first sending that was unanswered is suspicious, whatever came of the repetition. That
            // both were is one suspicion: an engine that dies closes what it has just accepted.
            attempts.failed(suspicious || repeated);
            if let Ok(mut answer) = answer {
                answer.attempt.hold();
                held = Some(answer.or_held(held.take()));
            }
        }
        guard.settle_refusals();
        held.ok_or_else(|| exhausted(attempts.tried(), guard))
    }

    /// Records how an attempt at this placement ended. Returns what follows.
    fn ended(
        &self,
        answer: &Result<UpstreamResponse, LegError>,
        placement: &Placement<SelectedEndpoint>,
        (request, pool): (&InferenceRequest, &RoutingPool),
        guard: &mut RequestGuard,
    ) -> RetryVerdict {
        let (end, upstream, retry_after) = match answer {
            Ok(answer) => (
                answer.end(),
                answer.attempt.upstream(),
                retry_after_of(&answer.head.headers, SystemTime::now),
            ),
            Err(error) => (error.end(), &placement.decode().upstream, None),
        };
        let verdict = self.verdict(end, request, pool, upstream);
        guard.attempt_ended(end, retry_after);
        if placement.one().is_none() {
            let is_served = answer.as_ref().is_ok_and(UpstreamResponse::is_served);
            guard.pair_ended(is_served);
        }
        verdict
    }

    fn verdict(
        &self,
        end: AttemptEnd,
        request: &InferenceRequest,
        pool: &RoutingPool,
        upstream: &Upstream,
    ) -> RetryVerdict {
        if !request.is_repeatable() {
            return end.verdict_once();
        }
        let refusal = if end.effect().is_refusal() {
            RefusalContext::of(upstream, pool)
        } else {
            RefusalContext::default()
        };
        end.verdict(refusal)
    }

    /// An attempt at a placement.
    async fn attempt(
        &self,
        (request, body): (&InferenceRequest, &LegBody),
        (pool, deadline): (&RoutingPool, LegDeadline),
        placement: Placement<AdmittedEndpoint<'_>>,
        guard: &mut RequestGuard,
    ) -> LegOutcome {
        let endpoint = match placement {
            Placement::One(endpoint) => endpoint,
            Placement::Pair { prefill, decode } => {
                match self.pair((request, pool), (prefill, decode), deadline) {
                    // Boxed: most requests are sent to one endpoint.
                    Some(pair) => return Box::pin(pair.run(guard)).await,
                    None => {
                        prefill.give_up();
                        decode
                    }
                }
            }
        };
        let attempt = guard.begin_leg(LegStage::Both, endpoint, request);
        let order = LegOrder {
            request,
            body: body.clone(),
            headers: &[],
            may_repeat: request.is_repeatable(),
            deadline,
            connect_timeout: pool.pool.spec.policy.timeouts.connect,
            incoming: &guard.trace.incoming,
        };
        order
            .send(attempt, &self.metrics.endpoints.connections)
            .await
    }

    /// An attempt at a pair; `None` in a pool whose requests are not split.
    fn pair<'a>(
        &'a self,
        (request, pool): (&'a InferenceRequest, &'a RoutingPool),
        (prefill, decode): (AdmittedEndpoint<'a>, AdmittedEndpoint<'a>),
        deadline: LegDeadline,
    ) -> Option<PairExchange<'a>> {
        Some(PairExchange {
            request,
            pool,
            rules: pool.pool.spec.policy.disaggregation.as_ref()?,
            prefill,
            decode,
            deadline,
            prefill_deadline: deadline.of_prefill(Instant::now()),
            room: self.room(),
            connections: &self.metrics.endpoints.connections,
        })
    }

    /// A number that no other attempt has.
    fn room(&self) -> u64 {
        let pair = self.pairs.fetch_add(1, Ordering::Relaxed);
        xxh3_64_with_seed(&pair.to_le_bytes(), self.run)
    }
}

/// What is relayed when no attempt may follow this one.
fn final_answer(
    answer: Result<UpstreamResponse, LegError>,
    held: Option<UpstreamResponse>,
    tried: u32,
    guard: &mut RequestGuard,
) -> Result<UpstreamResponse, LocalReply> {
    match answer {
        Ok(answer) => Ok(answer.or_held(held)),
        Err(error) => {
            held.into_iter().for_each(UpstreamResponse::recycle);
            Err(final_reply(&error, tried, guard))
        }
    }
}

/// The reply when no endpoint is left, and none has answered.
fn exhausted(tried: u32, guard: &mut RequestGuard) -> LocalReply {
    guard.failed(RequestOutcome::Failed);
    match tried {
        0 => LocalReply::NoEndpoint,
        tried => LocalReply::Exhausted(tried),
    }
}

/// The reply when no attempt may follow this error.
fn final_reply(error: &LegError, tried: u32, guard: &mut RequestGuard) -> LocalReply {
    match error {
        LegError::TimedOut(deadline) => {
            guard.failed(RequestOutcome::TimedOut);
            LocalReply::TimedOut(deadline.limit)
        }
        LegError::Unreachable(_) | LegError::Broken(_) | LegError::PartnerGone => {
            exhausted(tried, guard)
        }
    }
}
