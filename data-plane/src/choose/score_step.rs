//! The score level of the fallback chain: asking the pool's owner, and waiting in its queue.
//!
//! ```text
//!   ask the pool's owner ─┬─▶ chosen, within the deadline
//!                         ├─▶ queued ── within the owner's limit ──▶ chosen, or rejected: 429, 503
//!                         │      └─ the stream breaks: once more, to the new owner, with the time waited
//!                         └─▶ no usable answer ──▶ the next level of the fallback chain
//! ```

mod answer;

use std::{sync::Arc, time::Duration};

use hermes_core::rendezvous::owner;
use hermes_proto::{
    convert::{Answer, Chosen, Queued},
    v1,
};
use hermes_runtime::propagation;
use smallvec::SmallVec;
use tokio::time::{Instant, timeout};

use self::answer::{has_placement, resolve_answer};
use super::selection::{RankedPlacements, SelectionDetails, SelectionRequest};
use crate::{
    link::score::{PendingScore, ScoreClient, ScoreClientError},
    request::{api::Api, local_reply::LocalReply},
    sync::RoutingState,
    telemetry::metrics::{ScoreFailure, SelectionMetrics},
    view::RoutingPool,
};

/// Upper bound of the wait in a control plane's queue, whatever limit its answer states.
const MAX_QUEUE_WAIT: Duration = Duration::from_secs(600);

/// How often a queued request is submitted again after its stream broke; after that the proxy falls
/// back.
const MAX_RESUBMISSIONS: u32 = 1;

/// Asks the replicas of a [`RoutingState`].
pub(super) struct ScoreStep {
    pub(super) routing: RoutingState,
    /// Names this run of the proxy in `Score`.
    pub(super) proxy: u64,
}

/// Why the control plane's answer names no endpoint.
pub(super) enum ScoreStepError {
    /// The fallback chain continues.
    Failed(ScoreFailure),
    /// The client gets this reply.
    Refused(LocalReply),
}

/// Placements, best first, and what explains their order.
type ScoredPlacements = (RankedPlacements, SelectionDetails);

impl ScoreStep {
    /// Asks the replica that owns the pool. `waited` accumulates the time in the replica's queue,
    /// whatever the result.
    pub(super) async fn score(
        &self,
        wanted: &SelectionRequest<'_>,
        waited: &mut Duration,
    ) -> Result<ScoredPlacements, ScoreStepError> {
        let pool = wanted.pool;
        let mut client = self.owner(pool.name()).ok_or(ScoreFailure::Disconnected)?;
        let mut resubmissions = 0;
        loop {
            let before = *waited;
            let answer = self.ask(&client, wanted, waited).await;
            // A queued request keeps its waiting time at the new owner. Without this, all queued
            // requests would fall back in the same moment and pick the same endpoint.
            if answer == Err(ScoreClientError::Broken)
                && *waited > before
                && resubmissions < MAX_RESUBMISSIONS
                && let Some(other) = self.owner(pool.name())
            {
                resubmissions += 1;
                client = other;
                continue;
            }
            let newer = self.newer(pool, answer.as_ref().ok(), *waited).await;
            let pool = newer.as_deref().unwrap_or(pool);
            return resolve_answer(pool, answer, *waited, wanted.accepts_pairs);
        }
    }

    /// The pool of a newer view, if an assigned endpoint was added while the request was queued.
    /// The replica sees a new endpoint slightly before the proxy does, so this waits for the view
    /// that has it.
    async fn newer(
        &self,
        pool: &RoutingPool,
        answer: Option<&Answer>,
        waited: Duration,
    ) -> Option<Arc<RoutingPool>> {
        let Some(Answer::Chosen(Chosen { ranked, .. })) = answer else {
            return None;
        };
        let first = ranked.first()?.placement;
        if waited.is_zero() || has_placement(pool, &first) {
            return None;
        }
        let known = || {
            let view = self.routing.view.load();
            let newer = view.as_ref()?.pool(pool.name())?;
            has_placement(newer, &first).then(|| Arc::clone(newer))
        };
        let comes = async {
            loop {
                let mut changed = std::pin::pin!(self.routing.changed.notified());
                changed.as_mut().enable();
                if let Some(newer) = known() {
                    return newer;
                }
                changed.await;
            }
        };
        timeout(pool.pool.spec.policy.score_deadline, comes)
            .await
            .ok()
    }

    /// The final answer of one replica.
    async fn ask(
        &self,
        client: &ScoreClient,
        wanted: &SelectionRequest<'_>,
        waited: &mut Duration,
    ) -> Result<Answer, ScoreClientError> {
        let deadline = wanted.pool.pool.spec.policy.score_deadline;
        let sent_at = Instant::now();
        let mut pending = client.ask(self.question(wanted, *waited))?;
        let answer = pending.answer(deadline).await?;
        wanted
            .pool
            .metrics
            .selections
            .score
            .observe(sent_at.elapsed().as_secs_f64());
        match answer {
            Answer::Queued(place) => wait(pending, place, deadline, wanted.pool, waited).await,
            Answer::Chosen(_) | Answer::Refused { .. } => Ok(answer),
        }
    }

    /// The replica that owns the pool, among those that have discovered it and whose Score stream
    /// is open.
    fn owner(&self, pool: &str) -> Option<ScoreClient> {
        let replicas = self.routing.replicas.load();
        let usable: SmallVec<[(&str, &ScoreClient); 4]> = replicas
            .iter()
            .filter(|replica| replica.has_discovered(pool))
            .filter_map(|replica| Some((&*replica.name, replica.client()?)))
            .collect();
        let name = owner(pool, usable.iter().map(|(name, _)| *name))?;
        let (_, client) = usable.iter().find(|(replica, _)| *replica == name)?;
        Some((*client).clone())
    }

    fn question(&self, wanted: &SelectionRequest<'_>, waited: Duration) -> v1::ScoreRequest {
        let SelectionRequest {
            pool,
            request,
            id,
            query,
            accepts_pairs,
            context,
        } = wanted;
        let policy = &pool.pool.spec.policy;
        let (traceparent, tracestate) = propagation::inject_pair(context);
        let response_only = request.api == Api::StoredResponse;
        v1::ScoreRequest {
            id: *id,
            proxy: self.proxy,
            pool: pool.name().to_string(),
            model: request.model.clone().unwrap_or_default(),
            prompt_bytes: query.prompt_bytes,
            prompt_tokens: query.prompt_tokens,
            blocks: if policy.strategy.needs_prefix() {
                query.blocks.to_vec()
            } else {
                Vec::new()
            },
            block_bytes: policy.block_bytes,
            priority: query.priority,
            session: query.session,
            tenant: query.tenant,
            deadline_ms: millis(policy.score_deadline),
            waited_ms: millis(waited),
            non_streaming: request.is_non_streaming(),
            recomputes_prompt: query.recomputes_prompt,
            only_cached: query.only_cached,
            accepts_pairs: *accepts_pairs,
            may_wait: policy.strategy.needs_score() && !response_only,
            exclude: query.exclude.iter().map(|endpoint| endpoint.0).collect(),
            response: request.response.as_ref().map(|response| response.key.0),
            response_only,
            lookup: policy.lookup_text.then(|| request.lookup_text()).flatten(),
            traceparent,
            tracestate,
        }
    }
}

impl From<ScoreFailure> for ScoreStepError {
    fn from(why: ScoreFailure) -> Self {
        Self::Failed(why)
    }
}

/// Waits in the replica's queue. When the client disconnects this future is dropped, which cancels
/// the question.
async fn wait(
    mut pending: PendingScore,
    place: Queued,
    deadline: Duration,
    pool: &RoutingPool,
    waited: &mut Duration,
) -> Result<Answer, ScoreClientError> {
    tracing::debug!(pool = %pool.name(), ?place, "a request is queued until an endpoint has room");
    let waiting = QueueTimer::begin(&pool.metrics.selections);
    let answer = pending
        .answer(place.limit.min(MAX_QUEUE_WAIT) + deadline)
        .await;
    *waited += waiting.since.elapsed();
    match answer {
        // An owner queues a request once; a second `Queued` would extend the wait without a bound.
        Ok(Answer::Queued(_)) => Err(ScoreClientError::Late),
        answer => answer,
    }
}

/// Counts a queued request, and observes how long it was queued when dropped.
struct QueueTimer<'a> {
    since: Instant,
    metrics: &'a SelectionMetrics,
}

impl<'a> QueueTimer<'a> {
    fn begin(metrics: &'a SelectionMetrics) -> Self {
        metrics.queued.inc();
        Self {
            since: Instant::now(),
            metrics,
        }
    }
}

impl Drop for QueueTimer<'_> {
    fn drop(&mut self) {
        self.metrics.queued.dec();
        self.metrics
            .queue
            .observe(self.since.elapsed().as_secs_f64());
    }
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
