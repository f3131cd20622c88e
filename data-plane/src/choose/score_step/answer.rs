//! From a replica's answer to placements of this proxy's snapshot.

use std::{sync::Arc, time::Duration};

use hermes_core::{placement::Placement, query::CacheSource, snapshot::EndpointId};
use hermes_proto::{
    convert::{Answer, Candidate, Chosen},
    v1::rejected::Reason,
};

use super::{ScoreStepError, ScoredPlacements};
use crate::{
    choose::selection::{RankedPlacements, SelectedEndpoint, SelectionDetails},
    endpoint::Upstream,
    link::score::ScoreClientError,
    request::local_reply::LocalReply,
    telemetry::metrics::ScoreFailure,
    view::RoutingPool,
};

/// Whether this snapshot has all endpoints of the placement.
pub(super) fn has_placement(pool: &RoutingPool, placement: &Placement<EndpointId>) -> bool {
    let mut endpoints = [placement.prefill(), placement.decode()].into_iter();
    endpoints.all(|endpoint| pool.pool.position(*endpoint).is_some())
}

/// Resolves an answer to endpoints of this view.
pub(super) fn resolve_answer(
    pool: &RoutingPool,
    answer: Result<Answer, ScoreClientError>,
    waited: Duration,
    accepts_pairs: bool,
) -> Result<ScoredPlacements, ScoreStepError> {
    let answer = answer.map_err(|no_answer| match no_answer {
        ScoreClientError::Late => ScoreFailure::Timeout,
        ScoreClientError::Broken | ScoreClientError::Full => ScoreFailure::StreamBroken,
    })?;
    match answer {
        Answer::Chosen(chosen) => Ok(usable_placements(pool, chosen, waited, accepts_pairs)?),
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
        Answer::Refused {
            reason: Reason::NotCached,
            ..
        } => Err(ScoreStepError::Refused(LocalReply::PromptNotCached)),
        Answer::Refused { .. } | Answer::Queued(_) => Err(ScoreFailure::Rejected.into()),
    }
}

/// The chosen placements that can be exchanged and whose endpoints this snapshot has: the replica
/// may be ahead of this proxy, or behind it.
fn usable_placements(
    pool: &RoutingPool,
    chosen: Chosen,
    waited: Duration,
    accepts_pairs: bool,
) -> Result<ScoredPlacements, ScoreFailure> {
    let Chosen {
        ranked,
        waited: said,
        expected_wait,
        gamma,
        runner_up,
        source,
        prompt_tokens,
    } = chosen;
    let is_accepted = |candidate: &&Candidate| accepts_pairs || candidate.placement.one().is_some();
    let first = ranked.iter().find(is_accepted);
    let first = first.ok_or(ScoreFailure::UnsupportedPair)?;
    let expected_ttft = first.expected_ttft;
    let ranked: RankedPlacements = ranked
        .iter()
        .filter(is_accepted)
        .filter_map(|candidate| placement(pool, candidate, source))
        .collect();
    if ranked.is_empty() {
        return Err(ScoreFailure::Rejected);
    }
    let runner_up = runner_up.and_then(|id| upstream(pool, id)).cloned();
    Ok((
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

/// A candidate with the endpoints of this snapshot, if it has them.
fn placement(
    pool: &RoutingPool,
    candidate: &Candidate,
    source: Option<CacheSource>,
) -> Option<Placement<SelectedEndpoint>> {
    let selected = |endpoint, cached_tokens| {
        Some(SelectedEndpoint {
            upstream: Arc::clone(upstream(pool, endpoint)?),
            cached_tokens,
            source: source.filter(|_| cached_tokens > 0),
        })
    };
    let cached_tokens = candidate.cached_tokens;
    Some(match candidate.placement {
        Placement::One(endpoint) => Placement::One(selected(endpoint, cached_tokens)?),
        // Cached tokens are those where the prompt is computed.
        Placement::Pair { prefill, decode } => Placement::Pair {
            prefill: selected(prefill, cached_tokens)?,
            decode: selected(decode, 0)?,
        },
    })
}

fn upstream(pool: &RoutingPool, endpoint: EndpointId) -> Option<&Arc<Upstream>> {
    Some(&pool.upstreams[pool.pool.position(endpoint)?])
}

#[cfg(test)]
mod tests {
    use hermes_core::snapshot::{Endpoint, Pool, PoolSpec, Snapshot};
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::{telemetry::metrics::ProxyMetrics, view::RoutingView};

    const PAIR: Placement<EndpointId> = Placement::Pair {
        prefill: EndpointId(0),
        decode: EndpointId(1),
    };
    const UNKNOWN: Placement<EndpointId> = Placement::Pair {
        prefill: EndpointId(9),
        decode: EndpointId(1),
    };
    const ONE: Placement<EndpointId> = Placement::One(EndpointId(1));

    /// A pool with endpoints 0 and 1.
    fn pool() -> Arc<RoutingPool> {
        let endpoint = |id| {
            Arc::new(Endpoint {
                id: EndpointId(id),
                name: "engine".into(),
                role: hermes_core::snapshot::Role::default(),
                group: None,
                pairing: hermes_core::snapshot::PairingFacts::default(),
                address: "http://127.0.0.1:1".parse().expect("an address"),
            })
        };
        let pool = Pool {
            spec: Arc::new(PoolSpec::new(
                "chat",
                hermes_core::policy::PoolPolicy::default(),
            )),
            models: hermes_core::collection::Collection::default(),
            endpoints: (0..2).map(endpoint).collect(),
        };
        let snapshot = Arc::new(Snapshot {
            pools: vec![Arc::new(pool)].into(),
            ..Snapshot::default()
        });
        let metrics = ProxyMetrics::register(&mut Registry::default());
        let view = RoutingView::build(snapshot, None, &metrics, std::num::NonZeroUsize::MIN);
        Arc::clone(&view.pools[0])
    }

    /// The usable ones of these placements, each with 80 cached tokens, by endpoint and tokens.
    fn usable(
        placements: &[Placement<EndpointId>],
        accepts_pairs: bool,
    ) -> Result<Vec<[(u64, u32); 2]>, ScoreFailure> {
        let candidate = |placement: &Placement<EndpointId>| Candidate {
            placement: *placement,
            cached_tokens: 80,
            expected_ttft: None,
        };
        let chosen = Chosen {
            ranked: placements.iter().map(candidate).collect(),
            ..Chosen::default()
        };
        let (ranked, _) = usable_placements(&pool(), chosen, Duration::ZERO, accepts_pairs)?;
        let of =
            |endpoint: &SelectedEndpoint| (endpoint.upstream.endpoint.id.0, endpoint.cached_tokens);
        let pairs = ranked
            .iter()
            .map(|placement| [of(placement.prefill()), of(placement.decode())]);
        Ok(pairs.collect())
    }

    #[test]
    fn pairs_are_kept_for_a_door_that_accepts_them_if_both_endpoints_are_known() {
        assert_eq!(
            usable(&[UNKNOWN, PAIR, ONE], true),
            Ok(vec![[(0, 80), (1, 0)], [(1, 80), (1, 80)]])
        );
        assert_eq!(usable(&[UNKNOWN], true), Err(ScoreFailure::Rejected));
    }

    #[test]
    fn pairs_are_left_out_for_a_door_that_accepts_none() {
        assert_eq!(usable(&[PAIR, ONE], false), Ok(vec![[(1, 80), (1, 80)]]));
        assert_eq!(
            usable(&[PAIR, PAIR], false),
            Err(ScoreFailure::UnsupportedPair)
        );
    }
}
