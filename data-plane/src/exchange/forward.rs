//! Sending a request to the selected endpoints, one after another, until one answers.
//!
//! An attempt may be repeated elsewhere only before the first byte of an answer reached the client,
//! only if the request may be sent again, and only if the pool's retry budget pays for it. What
//! follows from a failed attempt is decided in [`super::retry`].
//!
//! If what is left of the placements has left the pool, placements are chosen again, from the
//! newest view. The attempts, the time and the answer that was held go on: see [`Tries`].

use std::{
    borrow::Cow,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use hermes_core::{placement::Placement, rng::SeededRng};
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{
    admitted_endpoint::AdmittedEndpoint,
    answer::retry_after as retry_after_of,
    attempt::LegStage,
    guard::RequestGuard,
    leg::LegDeadline,
    pair::PairExchange,
    placements,
    retry::{AttemptEnd, RefusalContext, RetryVerdict},
    sent_leg::{LegOrder, LegOutcome, UpstreamResponse},
    tries::Tries,
    turn::{PlacementTurn, TurnRules},
};
use crate::{
    choose::{EndpointSelection, EndpointSelector, SelectedEndpoint},
    endpoint::Upstream,
    request::{inference_request::InferenceRequest, local_reply::LocalReply},
    sync::RoutingState,
    telemetry::metrics::{AttemptOutcome, ProxyMetrics},
    view::RoutingPool,
};

/// Sends requests to endpoints.
pub(crate) struct Forwarder {
    metrics: Arc<ProxyMetrics>,
    /// For requests whose placements have left the pool.
    selector: EndpointSelector,
    /// Random id of this run.
    run: u64,
    /// Pairs that were tried.
    pairs: AtomicU64,
}

/// Placements, and the pool that they were chosen from.
type ChosenPlacements = (Arc<RoutingPool>, Vec<Placement<SelectedEndpoint>>);

impl Forwarder {
    /// `run` is the random id of this run.
    pub(crate) fn new(routing: RoutingState, metrics: Arc<ProxyMetrics>, run: u64) -> Self {
        Self {
            metrics,
            selector: EndpointSelector::new(routing, run),
            run,
            pairs: AtomicU64::new(0),
        }
    }

    /// Tries the selected placements in turn, and what is chosen again if they have left the pool.
    ///
    /// # Errors
    ///
    /// When none of them gave an answer that can be relayed.
    pub(crate) async fn forward(
        &self,
        request: &InferenceRequest,
        pool: &Arc<RoutingPool>,
        selection: &EndpointSelection,
        guard: &mut RequestGuard,
    ) -> Result<UpstreamResponse, LocalReply> {
        let mut tries = Tries::begin(request, pool, guard)?;
        let mut pool = Cow::Borrowed(pool);
        let mut placements = placements::order(&selection.ranked, &pool, request.model.as_deref());
        let mut next = 0;
        while tries.may_continue() {
            if placements::have_left(&placements, next)
                && let Some((newer, chosen)) = self.choose_again(&tries, &pool, guard)
            {
                (pool, placements, next) = (Cow::Owned(newer), Cow::Owned(chosen), 0);
            }
            let Some(placement) = placements.get(next) else {
                break;
            };
            next += 1;
            let later = &placements[next..];
            let failed = guard.failed_endpoints();
            let rules = TurnRules {
                pool: &pool,
                failed,
            };
            let Some(turn) = PlacementTurn::take(placement, later.iter(), rules) else {
                continue;
            };
            let placement = turn.placement();
            let kind = (placement.one().is_none(), !later.is_empty());
            let deadline = match tries.begin_attempt(&pool, kind, guard) {
                Ok(deadline) => deadline,
                Err(attempt) => {
                    turn.give_up();
                    return tries.end_without(attempt, guard);
                }
            };
            let outcome = self.attempt(&tries, (&pool, deadline), placement, guard);
            let outcome = outcome.await;
            if let ControlFlow::Break(result) =
                self.ended(outcome, placement, (&mut tries, &pool), guard)
            {
                return result;
            }
        }
        tries.exhausted(guard)
    }

    /// Chooses placements for a request whose placements have left the pool; `None` if there is no
    /// newer view, or nothing in it.
    fn choose_again(
        &self,
        tries: &Tries<'_>,
        pool: &RoutingPool,
        guard: &mut RequestGuard,
    ) -> Option<ChosenPlacements> {
        let request = tries.request;
        let accepts_pairs = tries.may_be_chosen_again(pool)?;
        let mut rng = SeededRng::new(self.room());
        let again = (request, guard.query(), accepts_pairs);
        let (pool, selection) = self.selector.choose_again(pool, again, &mut rng)?;
        tracing::debug!(pool = %pool.name(), "chosen again: what was chosen has left the pool");
        guard.chosen_again(&pool, &selection);
        let model = request.model.as_deref();
        let placements = placements::order(&selection.ranked, &pool, model).into_owned();
        Some((pool, placements))
    }

    /// Records how an attempt at this placement ended. Breaks with what the client gets, unless the
    /// request may be tried elsewhere.
    fn ended(
        &self,
        (answer, repeated): LegOutcome,
        placement: Placement<AdmittedEndpoint<'_>>,
        (tries, pool): (&mut Tries<'_>, &RoutingPool),
        guard: &mut RequestGuard,
    ) -> ControlFlow<Result<UpstreamResponse, LocalReply>> {
        if repeated {
            pool.metrics.endpoints.attempts[AttemptOutcome::Failed].inc();
        }
        let (end, upstream, retry_after) = match &answer {
            Ok(answer) => (
                answer.end(),
                answer.attempt.upstream(),
                retry_after_of(&answer.head.headers, SystemTime::now),
            ),
            Err(error) => (error.end(), placement.decode().upstream(), None),
        };
        let verdict = self.verdict(end, tries.request, pool, upstream);
        guard.attempt_ended(end, retry_after);
        if placement.one().is_none() {
            let is_served = answer.as_ref().is_ok_and(UpstreamResponse::is_served);
            guard.pair_ended(is_served);
        }
        let RetryVerdict::TryElsewhere { suspicious } = verdict else {
            return ControlFlow::Break(tries.end_with(answer, guard));
        };
        // A first sending that was unanswered is suspicious, whatever came of the repetition. That
        // both were is one suspicion: an engine that dies closes what it has just accepted.
        tries.failed(answer, suspicious || repeated);
        ControlFlow::Continue(())
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
        Tries { request, body, .. }: &Tries<'_>,
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
