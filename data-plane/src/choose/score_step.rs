//! Asking the control plane, and waiting there if it says so.
//!
//! ```text
//!   ask the pool's owner ─┬─▶ chosen, within the deadline
//!                         ├─▶ queued ── within what the owner says ──▶ chosen, or refused: 429, 503
//!                         │      └─ the stream breaks: once more, to the new owner, with the time waited
//!                         └─▶ nothing that can be used ──▶ the next step of the ladder
//! ```

use std::{sync::Arc, time::Duration};

use hermes_core::{query::MAX_RANKED, rendezvous::owner};
use hermes_proto::{
    convert::{Answer, Candidate, Chosen, Queued},
    v1::{self, refused::Reason},
};
use hermes_runtime::propagation;
use prometheus_client::metrics::{gauge::Gauge, histogram::Histogram};
use smallvec::SmallVec;
use tokio::time::{Instant, timeout};

use super::selection::{SelectedEndpoint, SelectionDetails, SelectionRequest};
use crate::{
    link::score::{PendingScore, ScoreClient, ScoreClientError},
    request::{api::Api, local_reply::LocalReply},
    sync::RoutingState,
    telemetry::metrics::ScoreFailure,
    view::RoutingPool,
};

/// No request waits longer in one queue, whatever a control plane says.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// A request that waited where the stream broke is asked anew so often. If that breaks too, the proxy chooses.
const ASKED_ANEW: u32 = 1;

/// Asks the replicas that [`RoutingState`] names.
pub(super) struct ScoreStep {
    pub(super) knowledge: RoutingState,
    /// Names this run of the proxy in `Score`.
    pub(super) proxy: u64,
}

/// SelectionDetails the control plane's answer names no endpoint.
pub(super) enum ScoreStepError {
    /// The ladder goes on.
    Failed(ScoreFailure),
    /// The client is told.
    Refused(LocalReply),
}

/// Endpoints, best first, and why.
type ScoredEndpoints = (SmallVec<[SelectedEndpoint; MAX_RANKED]>, SelectionDetails);

impl ScoreStep {
    /// Asks the replica that owns the pool. `waited` tells how long the request waited there, however that ended.
    pub(super) async fn score(
        &self,
        wanted: &SelectionRequest<'_>,
        waited: &mut Duration,
    ) -> Result<ScoredEndpoints, ScoreStepError> {
        let pool = wanted.pool;
        let mut asker = self.owner(pool.name()).ok_or(ScoreFailure::Away)?;
        let mut asked_anew = 0;
        loop {
            let before = *waited;
            let answer = self.ask(&asker, wanted, waited).await;
            // Whoever waited keeps its turn at the new owner, if there is one; a crowd that chose by itself would herd.
            if answer == Err(ScoreClientError::Broken)
                && *waited > before
                && asked_anew < ASKED_ANEW
                && let Some(other) = self.owner(pool.name())
            {
                asked_anew += 1;
                asker = other;
                continue;
            }
            let newer = self.newer(pool, answer.as_ref().ok(), *waited).await;
            return read(newer.as_deref().unwrap_or(pool), answer, *waited);
        }
    }

    /// The pool as it is by now, if a request that waited is bound to an endpoint that came meanwhile. The replica knows
    /// of that endpoint a moment sooner than the proxy, which is worth a moment's wait.
    async fn newer(
        &self,
        pool: &RoutingPool,
        answer: Option<&Answer>,
        waited: Duration,
    ) -> Option<Arc<RoutingPool>> {
        let Some(Answer::Chosen(Chosen { ranked, .. })) = answer else {
            return None;
        };
        let first = ranked.first()?.endpoint;
        if waited.is_zero() || pool.pool.position(first).is_some() {
            return None;
        }
        let known = || {
            let view = self.knowledge.view.load();
            let newer = view.as_ref()?.pool(pool.name())?;
            newer
                .pool
                .position(first)
                .is_some()
                .then(|| Arc::clone(newer))
        };
        let comes = async {
            loop {
                let mut changed = std::pin::pin!(self.knowledge.changed.notified());
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
        asker: &ScoreClient,
        wanted: &SelectionRequest<'_>,
        waited: &mut Duration,
    ) -> Result<Answer, ScoreClientError> {
        let deadline = wanted.pool.pool.spec.policy.score_deadline;
        let asked_at = Instant::now();
        let mut asked = asker.ask(self.question(wanted, *waited))?;
        let answer = asked.answer(deadline).await?;
        wanted
            .pool
            .metrics
            .score
            .observe(asked_at.elapsed().as_secs_f64());
        match answer {
            Answer::Queued(place) => wait(asked, place, deadline, wanted.pool, waited).await,
            Answer::Chosen(_) | Answer::Refused { .. } => Ok(answer),
        }
    }

    /// The replica that owns the pool, among those whose stream is whole.
    fn owner(&self, pool: &str) -> Option<ScoreClient> {
        let replicas = self.knowledge.replicas.load();
        if let [only] = replicas.as_slice() {
            return Some(only.asker.clone());
        }
        let whole = || replicas.iter().filter(|replica| !replica.asker.is_broken());
        let name = owner(pool, whole().map(|replica| &*replica.name))?;
        whole()
            .find(|replica| *replica.name == *name)
            .map(|replica| replica.asker.clone())
    }

    fn question(&self, wanted: &SelectionRequest<'_>, waited: Duration) -> v1::ScoreRequest {
        let SelectionRequest {
            pool,
            call,
            id,
            query,
            context,
        } = wanted;
        let policy = &pool.pool.spec.policy;
        let (traceparent, tracestate) = propagation::inject_pair(context);
        let response_only = call.api == Api::StoredResponse;
        v1::ScoreRequest {
            id: *id,
            proxy: self.proxy,
            pool: pool.name().to_string(),
            model: call.model.clone().unwrap_or_default(),
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
            unary: call.is_unary(),
            may_wait: policy.strategy.needs_score() && !response_only,
            exclude: Vec::new(),
            response: call.response.as_ref().map(|response| response.key.0),
            response_only,
            lookup: policy
                .lookup_text
                .then(|| call.prompt.lookup_text(call.api))
                .flatten(),
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

/// Waits in the replica's queue. A client that leaves drops this, which gives the place up.
async fn wait(
    mut asked: PendingScore,
    place: Queued,
    deadline: Duration,
    pool: &RoutingPool,
    waited: &mut Duration,
) -> Result<Answer, ScoreClientError> {
    tracing::debug!(pool = %pool.name(), ?place, "a request waits for an endpoint with room");
    let waiting = QueueTimer::begin(&pool.metrics.waiting, &pool.metrics.wait);
    let answer = asked.answer(place.limit.min(LONGEST_WAIT) + deadline).await;
    *waited += waiting.since.elapsed();
    match answer {
        // Said once at most: whoever says it again makes nobody wait for ever.
        Ok(Answer::Queued(_)) => Err(ScoreClientError::Late),
        answer => answer,
    }
}

/// Makes endpoints of an answer.
fn read(
    pool: &RoutingPool,
    answer: Result<Answer, ScoreClientError>,
    waited: Duration,
) -> Result<ScoredEndpoints, ScoreStepError> {
    let answer = answer.map_err(|no_answer| match no_answer {
        ScoreClientError::Late => ScoreFailure::Late,
        ScoreClientError::Broken | ScoreClientError::Full => ScoreFailure::Broken,
    })?;
    match answer {
        Answer::Chosen(chosen) => known(pool, chosen, waited).ok_or(ScoreFailure::Refused.into()),
        Answer::Refused {
            reason: Reason::QueueFull,
            retry_after,
        } => Err(ScoreStepError::Refused(LocalReply::QueueFull(retry_after))),
        Answer::Refused {
            reason: Reason::QueueTimeout,
            retry_after,
        } => Err(ScoreStepError::Refused(LocalReply::QueueTimeout {
            waited,
            retry_after,
        })),
        Answer::Refused { .. } | Answer::Queued(_) => Err(ScoreFailure::Refused.into()),
    }
}

/// The chosen endpoints that this snapshot has: the replica may have seen a change before, or after, this proxy.
fn known(pool: &RoutingPool, chosen: Chosen, waited: Duration) -> Option<ScoredEndpoints> {
    let Chosen {
        ranked,
        waited: said,
        expected_wait,
        gamma,
        runner_up,
        source,
        prompt_tokens,
    } = chosen;
    let upstream = |id| Some(&pool.upstreams[pool.pool.position(id)?]);
    let expected_ttft = ranked.first().and_then(|first| first.expected_ttft);
    let target = |candidate: Candidate| {
        let Candidate {
            endpoint,
            cached_tokens,
            expected_ttft: _,
        } = candidate;
        let source = source.filter(|_| cached_tokens > 0);
        Some(SelectedEndpoint {
            upstream: Arc::clone(upstream(endpoint)?),
            cached_tokens,
            source,
        })
    };
    let ranked: SmallVec<_> = ranked.into_iter().filter_map(target).collect();
    if ranked.is_empty() {
        return None;
    }
    let runner_up = runner_up.and_then(upstream).cloned();
    Some((
        ranked,
        SelectionDetails {
            waited: said.max(waited),
            expected_wait,
            expected_ttft,
            gamma,
            runner_up,
            prompt_tokens,
        },
    ))
}

/// Counts a request that waits, for as long as it does.
struct QueueTimer<'a> {
    since: Instant,
    now: &'a Gauge,
    times: &'a Histogram,
}

impl<'a> QueueTimer<'a> {
    fn begin(now: &'a Gauge, times: &'a Histogram) -> Self {
        now.inc();
        Self {
            since: Instant::now(),
            now,
            times,
        }
    }
}

impl Drop for QueueTimer<'_> {
    fn drop(&mut self) {
        self.now.dec();
        self.times.observe(self.since.elapsed().as_secs_f64());
    }
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
