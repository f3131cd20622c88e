//! Choosing where a request goes: the ladder.
//!
//! ```text
//!   strategy that needs no control plane ───────────────────────────────────────────▶ its choice
//!   else: score, within its deadline ──late, broken, refused──▶ local ──load is stale──▶ power of two
//!         └─ whichever step it is: when no endpoint seems healthy, any endpoint that is there
//! ```
//!
//! Each step down costs quality, never an answer: a request is refused only when its pool has no endpoint at all.

use std::sync::Arc;

use hermes_core::{
    dice::Dice,
    load::Load,
    pick::Ask,
    policy::Strategy,
    query::{Choice, MAX_RANKED, Query},
    rendezvous::owner,
    snapshot::EndpointId,
};
use hermes_proto::{convert::Answer, v1};
use hermes_runtime::propagation;
use opentelemetry::Context;
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::{
    api::Api,
    app::uptime,
    metrics::{Rung, ScoreFailure},
    read::Call,
    refusal::Refusal,
    score::{Asker, NoAnswer},
    sync::Knowledge,
    upstream::Upstream,
    view::PoolView,
};

/// Where to send a request, best first.
pub(crate) struct Plan {
    /// With the prompt tokens that each is expected to have cached.
    pub(crate) ranked: SmallVec<[(Arc<Upstream>, u32); MAX_RANKED]>,
    pub(crate) rung: Rung,
    /// Prompt tokens, estimated.
    pub(crate) prompt_tokens: u32,
}

/// Chooses for one proxy.
pub(crate) struct Chooser {
    knowledge: Knowledge,
    /// Names this run of the proxy in `Score`.
    proxy: u64,
}

impl Chooser {
    pub(crate) const fn new(knowledge: Knowledge, proxy: u64) -> Self {
        Self { knowledge, proxy }
    }

    /// Chooses an endpoint of `pool` for the request `id`.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoEndpoint`] when there is none, or none has the model.
    pub(crate) async fn choose(
        &self,
        pool: &PoolView,
        call: &Call,
        id: u64,
        context: &Context,
        dice: &mut Dice,
    ) -> Result<Plan, Refusal> {
        let policy = &pool.pool.spec.policy;
        let query = call.prompt.query(policy, call.model.as_deref(), &call.headers);
        // Who made a stored response, only the control plane knows when this proxy does not.
        let scored = policy.strategy.needs_score() || call.response.is_some();
        if !scored {
            return local(pool, call, &query, Rung::Strategy, dice, |upstream| upstream.load(uptime()));
        }
        match self.score(pool, call, id, &query, context).await {
            Ok(plan) => Ok(plan),
            Err(why) => {
                pool.metrics.score_failed(why);
                self.without_score(pool, call, &query, dice)
            }
        }
    }

    /// The endpoint in `pool` that holds the stored response which the request is about.
    pub(crate) async fn locate(&self, pool: &PoolView, call: &Call, id: u64) -> Option<Plan> {
        let query = Query { prompt_tokens: 1, ..Query::default() };
        self.score(pool, call, id, &query, &Context::new()).await.ok()
    }

    /// The steps below a score.
    fn without_score(&self, pool: &PoolView, call: &Call, query: &Query, dice: &mut Dice) -> Result<Plan, Refusal> {
        let now = uptime();
        if self.knowledge.freshness.is_fresh(now) {
            return local(pool, call, query, Rung::Local, dice, |upstream| upstream.load(now));
        }
        // What the control plane said of the others is too old; what this proxy has in flight is not.
        local(pool, call, query, Rung::PowerOfTwo, dice, |upstream| upstream.own_load(now))
    }

    /// Asks the replica that owns the pool.
    async fn score(
        &self,
        pool: &PoolView,
        call: &Call,
        id: u64,
        query: &Query,
        context: &Context,
    ) -> Result<Plan, ScoreFailure> {
        let policy = &pool.pool.spec.policy;
        let asker = self.owner(pool.name()).ok_or(ScoreFailure::Away)?;
        let asked_at = Instant::now();
        let asked = asker.ask(self.question(pool, call, id, query, context)).map_err(|_| ScoreFailure::Broken)?;
        let answer = asked.answer(policy.score_deadline).await.map_err(|no_answer| match no_answer {
            NoAnswer::Late => ScoreFailure::Late,
            NoAnswer::Broken | NoAnswer::Full => ScoreFailure::Broken,
        })?;
        pool.metrics.score.observe(asked_at.elapsed().as_secs_f64());
        let Answer::Chosen(chosen) = answer else {
            return Err(ScoreFailure::Refused);
        };
        // The replica may have seen a change that this snapshot has not, or the other way round.
        let known =
            |(id, cached): (EndpointId, u32)| Some((Arc::clone(&pool.upstreams[pool.pool.position(id)?]), cached));
        let ranked: SmallVec<_> = chosen.into_iter().filter_map(known).collect();
        if ranked.is_empty() {
            return Err(ScoreFailure::Refused);
        }
        Ok(Plan { ranked, rung: Rung::Score, prompt_tokens: query.prompt_tokens })
    }

    fn owner(&self, pool: &str) -> Option<Asker> {
        let replicas = self.knowledge.replicas.load();
        if let [only] = replicas.as_slice() {
            return Some(only.asker.clone());
        }
        let name = owner(pool, replicas.iter().map(|replica| &*replica.name))?;
        replicas.iter().find(|replica| *replica.name == *name).map(|replica| replica.asker.clone())
    }

    fn question(&self, pool: &PoolView, call: &Call, id: u64, query: &Query, context: &Context) -> v1::ScoreRequest {
        let policy = &pool.pool.spec.policy;
        let (traceparent, tracestate) = propagation::inject_pair(context);
        v1::ScoreRequest {
            id,
            proxy: self.proxy,
            pool: pool.name().to_string(),
            model: call.model.clone().unwrap_or_default(),
            prompt_bytes: query.prompt_bytes,
            prompt_tokens: query.prompt_tokens,
            blocks: query.blocks.to_vec(),
            block_bytes: policy.block_bytes,
            priority: query.priority,
            session: query.session,
            tenant: None,
            deadline_ms: u32::try_from(policy.score_deadline.as_millis()).unwrap_or(u32::MAX),
            exclude: Vec::new(),
            response: call.response.as_ref().map(|response| response.key.0),
            response_only: call.api == Api::StoredResponse,
            lookup: policy.lookup_text.then(|| call.prompt.lookup_text(call.api)).flatten(),
            traceparent,
            tracestate,
        }
    }
}

/// Chooses by this proxy's own view of the pool.
fn local(
    pool: &PoolView,
    call: &Call,
    query: &Query,
    rung: Rung,
    dice: &mut Dice,
    load: impl Fn(&Upstream) -> Load,
) -> Result<Plan, Refusal> {
    let ask = Ask { query, model: call.model.as_deref(), hits: &[], turn: pool.next_turn(), total_in_flight: None };
    let at = |position: usize| load(&pool.upstreams[position]);
    let picked = match rung {
        Rung::PowerOfTwo => pool.picker.pick_by(&Strategy::PowerOfTwo, &ask, at, dice),
        Rung::Strategy | Rung::Score | Rung::Local | Rung::Any => pool.picker.pick(&ask, at, dice),
    };
    let Choice { ranked, desperate } = picked.map_err(|nobody| {
        tracing::debug!(pool = %pool.name(), %nobody, "no endpoint for a request");
        Refusal::NoEndpoint
    })?;
    Ok(Plan {
        ranked: ranked.iter().map(|r| (Arc::clone(&pool.upstreams[r.position]), r.cached_tokens)).collect(),
        rung: if desperate { Rung::Any } else { rung },
        prompt_tokens: query.prompt_tokens,
    })
}
