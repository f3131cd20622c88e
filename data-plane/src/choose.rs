//! Choosing endpoints for a request: the fallback chain.
//!
//! ```text
//!   strategy that needs no control plane ───────────────────────────────────────────▶ its choice
//!   else: score, within its deadline ──timeout, failure──────▶ local ──load is stale──▶ power of two
//!         │  └─ or the request waits in the control plane's queue, within the limit that the answer states
//!         └─ panic mode at every level: when no endpoint is healthy, all endpoints are candidates
//! ```
//!
//! A selection ranks placements: single endpoints, and pairs for requests that may be split. A pair
//! that cannot be exchanged is left out, and an answer of nothing else leads to the next level.
//!
//! A lower level costs cache hits, never availability: a request is rejected only when its pool has
//! no endpoint, or when the control plane rejects it because its queue is full. Falling back in
//! that case would move the queue into the engines, where it slows every request.

mod again;
mod score_step;
mod selection;

use std::{sync::Arc, time::Duration};

use hermes_core::{
    load::Load,
    pick::PickRequest,
    placement::Placement,
    policy::Strategy,
    query::{CacheHit, CacheSource, EndpointChoice, Query, RankedEndpoint},
    rng::SeededRng,
    snapshot::PoolSpec,
};
use opentelemetry::Context;

use self::score_step::{ScoreStep, ScoreStepError};
pub(crate) use self::selection::{
    EndpointSelection, RankedPlacements, SelectedEndpoint, SelectionDetails, SelectionRequest,
};
use crate::{
    clock::uptime,
    endpoint::Upstream,
    pair,
    request::{inference_request::InferenceRequest, local_reply::LocalReply},
    sync::RoutingState,
    telemetry::metrics::{FallbackLevel, ScoreFailure},
    view::RoutingPool,
};

/// Selects endpoints for one proxy.
pub(crate) struct EndpointSelector {
    routing: RoutingState,
    score: ScoreStep,
}

impl EndpointSelector {
    pub(crate) fn new(routing: RoutingState, proxy: u64) -> Self {
        Self {
            routing: routing.clone(),
            score: ScoreStep { routing, proxy },
        }
    }

    /// Selects endpoints, best first.
    ///
    /// # Errors
    ///
    /// [`LocalReply::NoEndpoint`] when the pool has no endpoint, or none with the model;
    /// [`LocalReply::QueueFull`] and [`LocalReply::QueueTimeout`] when no endpoint has room and the
    /// queue is full or the wait was too long.
    pub(crate) async fn choose(
        &self,
        wanted: &SelectionRequest<'_>,
        rng: &mut SeededRng,
    ) -> Result<EndpointSelection, LocalReply> {
        let SelectionRequest { pool, request, .. } = *wanted;
        // This proxy did not see the stored response being created, so only the control plane can
        // locate it.
        if !pool.pool.spec.policy.strategy.needs_score() && request.response.is_none() {
            return by_strategy(wanted, rng);
        }
        let mut waited = Duration::ZERO;
        // Boxed: a strategy that needs no answer does not carry the room for it.
        match Box::pin(self.score.score(wanted, &mut waited)).await {
            Ok((ranked, why)) => Ok(EndpointSelection {
                ranked,
                level: FallbackLevel::Score,
                why,
            }),
            Err(ScoreStepError::Refused(refusal)) => Err(refusal),
            Err(ScoreStepError::Failed(why)) => {
                pool.metrics.selections.score_failures[why].inc();
                let plan = self.without_score(wanted, rng)?;
                Ok(EndpointSelection {
                    why: SelectionDetails { waited, ..plan.why },
                    ..plan
                })
            }
        }
    }

    /// The endpoint in `pool` that holds the stored response which the request is about; `None` if
    /// the control plane knows of none.
    ///
    /// # Errors
    ///
    /// [`LocalReply::UnlocatedResponse`] when the control plane does not answer.
    pub(crate) async fn locate(
        &self,
        pool: &RoutingPool,
        request: &InferenceRequest,
        id: u64,
    ) -> Result<Option<EndpointSelection>, LocalReply> {
        let query = Query {
            prompt_tokens: 1,
            ..Query::default()
        };
        let wanted = SelectionRequest {
            pool,
            request,
            id,
            query: &query,
            // One endpoint stores the response.
            accepts_pairs: false,
            context: Context::new(),
        };
        let mut waited = Duration::ZERO;
        match Box::pin(self.score.score(&wanted, &mut waited)).await {
            Ok((ranked, why)) => Ok(Some(EndpointSelection {
                ranked,
                level: FallbackLevel::Score,
                why,
            })),
            Err(ScoreStepError::Failed(ScoreFailure::Rejected)) => Ok(None),
            Err(ScoreStepError::Failed(why)) => {
                pool.metrics.selections.score_failures[why].inc();
                Err(LocalReply::UnlocatedResponse)
            }
            Err(ScoreStepError::Refused(refusal)) => Err(refusal),
        }
    }

    /// The levels below a score.
    fn without_score(
        &self,
        wanted: &SelectionRequest<'_>,
        rng: &mut SeededRng,
    ) -> Result<EndpointSelection, LocalReply> {
        let now = uptime();
        if self.routing.freshness.is_fresh(now) {
            let hits = wanted
                .pool
                .history
                .as_ref()
                .filter(|_| !wanted.query.recomputes_prompt)
                .map(|recall| recall.hits(wanted.query))
                .unwrap_or_default();
            return local(wanted, &hits, FallbackLevel::Local, rng, |upstream| {
                upstream.load(now)
            });
        }
        // The reported load of other proxies' requests is stale; this proxy's own requests in
        // flight are exact.
        local(wanted, &[], FallbackLevel::PowerOfTwo, rng, |upstream| {
            upstream.own_load(now)
        })
    }
}

/// Selects by the pool's strategy, which needs no control plane.
fn by_strategy(
    wanted: &SelectionRequest<'_>,
    rng: &mut SeededRng,
) -> Result<EndpointSelection, LocalReply> {
    local(wanted, &[], FallbackLevel::Strategy, rng, |upstream| {
        upstream.load(uptime())
    })
}

/// Whether endpoints of this pool may compute the prompt of a request for each other.
pub(crate) fn may_be_split(request: &InferenceRequest, spec: &PoolSpec) -> bool {
    let rules = spec.policy.disaggregation.as_ref();
    let is_carried = rules.is_some_and(|rules| pair::carries(rules.dialect, request.api));
    is_carried && request.may_be_split()
}

/// Selects by this proxy's own view of the pool.
fn local(
    wanted: &SelectionRequest<'_>,
    hits: &[CacheHit],
    level: FallbackLevel,
    rng: &mut SeededRng,
    load: impl Fn(&Upstream) -> Load,
) -> Result<EndpointSelection, LocalReply> {
    let SelectionRequest {
        pool,
        request,
        query,
        accepts_pairs,
        ..
    } = *wanted;
    let model = request.model.as_deref();
    let at = |position: usize| load(&pool.upstreams[position]);
    let split = accepts_pairs.then(|| split_query(pool, query, model, hits, at));
    let ask = PickRequest {
        query: split.as_ref().unwrap_or(query),
        model,
        hits,
        round_robin_counter: pool.next_round_robin(),
        total_in_flight: None,
    };
    let picked = match level {
        FallbackLevel::PowerOfTwo => pool.picker.pick_by(&Strategy::PowerOfTwo, &ask, at, rng),
        FallbackLevel::Strategy
        | FallbackLevel::Score
        | FallbackLevel::Local
        | FallbackLevel::Panic
        | FallbackLevel::Picker => pool.picker.pick(&ask, at, rng),
    };
    let EndpointChoice { ranked, panic_mode } = picked.map_err(|no_endpoint| {
        tracing::debug!(pool = %pool.name(), %no_endpoint, "no endpoint for a request");
        LocalReply::NoEndpoint
    })?;
    let endpoint = |position: usize, cached_tokens| SelectedEndpoint {
        upstream: Arc::clone(&pool.upstreams[position]),
        cached_tokens,
        source: (cached_tokens > 0).then_some(CacheSource::Learned),
    };
    let placement = |ranked: &RankedEndpoint| {
        let first = endpoint(ranked.position, ranked.cached_tokens);
        match ranked.decode {
            None => Placement::One(first),
            Some(decode) => Placement::Pair {
                prefill: first,
                decode: endpoint(decode.position, 0),
            },
        }
    };
    Ok(EndpointSelection {
        ranked: ranked.iter().map(placement).collect(),
        level: if panic_mode {
            FallbackLevel::Panic
        } else {
            level
        },
        why: SelectionDetails::default(),
    })
}

/// The query of a request that may be split, with whether it is.
fn split_query(
    pool: &RoutingPool,
    query: &Query,
    model: Option<&str>,
    hits: &[CacheHit],
    load: impl Fn(usize) -> Load,
) -> Query {
    let cached = hits.iter().filter_map(|hit| {
        let position = pool.pool.position(hit.endpoint)?;
        Some((position, hit.cached.saved_tokens()))
    });
    let mut query = Query {
        split: true,
        ..query.clone()
    };
    let is_up = |position| load(position).health.takes_turns();
    query.split = pool.picker.splits(&query, model, cached, is_up);
    query
}
