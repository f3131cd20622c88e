//! Choosing where a request goes: the ladder.
//!
//! ```text
//!   strategy that needs no control plane ───────────────────────────────────────────▶ its choice
//!   else: score, within its deadline ──late, broken, refused──▶ local ──load is stale──▶ power of two
//!         │  └─ or it waits at the control plane, for as long as that says
//!         └─ whichever step it is: when no endpoint seems healthy, any endpoint that is there
//! ```
//!
//! Each step down costs quality, never an answer: a request is refused only when its pool has no endpoint at all, or
//! when the control plane says that too many wait already. Going down the ladder then would move the overload into the
//! engines, where it costs everybody.

mod score_step;
mod selection;

use std::{sync::Arc, time::Duration};

use hermes_core::{
    dice::Dice,
    load::Load,
    pick::Ask,
    policy::Strategy,
    query::{Choice, Hit, Query, Source},
};
use opentelemetry::Context;

use self::score_step::{ScoreStep, ScoreStepError};
pub(crate) use self::selection::{SelectedEndpoint, Selection, SelectionDetails, SelectionRequest};
use crate::{
    clock::uptime,
    endpoint::Upstream,
    request::{inference_request::InferenceRequest, local_reply::LocalReply},
    sync::RoutingState,
    telemetry::metrics::Rung,
    view::RoutingPool,
};

/// Chooses for one proxy.
pub(crate) struct EndpointSelector {
    knowledge: RoutingState,
    score: ScoreStep,
}

impl EndpointSelector {
    pub(crate) fn new(knowledge: RoutingState, proxy: u64) -> Self {
        Self {
            knowledge: knowledge.clone(),
            score: ScoreStep { knowledge, proxy },
        }
    }

    /// Chooses an endpoint.
    ///
    /// # Errors
    ///
    /// [`LocalReply::NoEndpoint`] when there is none, or none has the model; [`LocalReply::QueueFull`] and
    /// [`LocalReply::QueueTimeout`] when none has room and the request may not, or no longer, wait.
    pub(crate) async fn choose(
        &self,
        wanted: &SelectionRequest<'_>,
        dice: &mut Dice,
    ) -> Result<Selection, LocalReply> {
        let SelectionRequest { pool, call, .. } = *wanted;
        // Who made a stored response, only the control plane knows when this proxy does not.
        let scored = pool.pool.spec.policy.strategy.needs_score() || call.response.is_some();
        if !scored {
            return local(wanted, &[], Rung::Strategy, dice, |upstream| {
                upstream.load(uptime())
            });
        }
        let mut waited = Duration::ZERO;
        match self.score.score(wanted, &mut waited).await {
            Ok((ranked, why)) => Ok(Selection {
                ranked,
                rung: Rung::Score,
                why,
            }),
            Err(ScoreStepError::Refused(refusal)) => Err(refusal),
            Err(ScoreStepError::Failed(why)) => {
                pool.metrics.score_failed(why);
                let plan = self.without_score(wanted, dice)?;
                Ok(Selection {
                    why: SelectionDetails { waited, ..plan.why },
                    ..plan
                })
            }
        }
    }

    /// The endpoint in `pool` that holds the stored response which the request is about.
    pub(crate) async fn locate(
        &self,
        pool: &RoutingPool,
        call: &InferenceRequest,
        id: u64,
    ) -> Option<Selection> {
        let query = Query {
            prompt_tokens: 1,
            ..Query::default()
        };
        let wanted = SelectionRequest {
            pool,
            call,
            id,
            query: &query,
            context: Context::new(),
        };
        let (ranked, why) = self
            .score
            .score(&wanted, &mut Duration::default())
            .await
            .ok()?;
        Some(Selection {
            ranked,
            rung: Rung::Score,
            why,
        })
    }

    /// The steps below a score.
    fn without_score(
        &self,
        wanted: &SelectionRequest<'_>,
        dice: &mut Dice,
    ) -> Result<Selection, LocalReply> {
        let now = uptime();
        if self.knowledge.freshness.is_fresh(now) {
            let hits = wanted
                .pool
                .history
                .as_ref()
                .map(|recall| recall.hits(wanted.query))
                .unwrap_or_default();
            return local(wanted, &hits, Rung::Local, dice, |upstream| {
                upstream.load(now)
            });
        }
        // What the control plane said of the others is too old; what this proxy has in flight is not.
        local(wanted, &[], Rung::PowerOfTwo, dice, |upstream| {
            upstream.own_load(now)
        })
    }
}

/// Chooses by this proxy's own view of the pool.
fn local(
    wanted: &SelectionRequest<'_>,
    hits: &[Hit],
    rung: Rung,
    dice: &mut Dice,
    load: impl Fn(&Upstream) -> Load,
) -> Result<Selection, LocalReply> {
    let SelectionRequest {
        pool, call, query, ..
    } = *wanted;
    let ask = Ask {
        query,
        model: call.model.as_deref(),
        hits,
        turn: pool.next_round_robin(),
        total_in_flight: None,
    };
    let at = |position: usize| load(&pool.upstreams[position]);
    let picked = match rung {
        Rung::PowerOfTwo => pool.picker.pick_by(&Strategy::PowerOfTwo, &ask, at, dice),
        Rung::Strategy | Rung::Score | Rung::Local | Rung::Any => pool.picker.pick(&ask, at, dice),
    };
    let Choice { ranked, desperate } = picked.map_err(|nobody| {
        tracing::debug!(pool = %pool.name(), %nobody, "no endpoint for a request");
        LocalReply::NoEndpoint
    })?;
    let target = |upstream: &Arc<Upstream>, cached_tokens| {
        let source = (cached_tokens > 0).then_some(Source::Learned);
        SelectedEndpoint {
            upstream: Arc::clone(upstream),
            cached_tokens,
            source,
        }
    };
    Ok(Selection {
        ranked: ranked
            .iter()
            .map(|ranked| target(&pool.upstreams[ranked.position], ranked.cached_tokens))
            .collect(),
        rung: if desperate { Rung::Any } else { rung },
        why: SelectionDetails::default(),
    })
}
