//! The placements that a request is tried at, in order: those of its selection, and what may follow
//! a pair that fails.

use std::{borrow::Cow, sync::Arc};

use hermes_core::{placement::Placement, policy::PairFallback};

use super::leaders;
use crate::{
    choose::{RankedPlacements, SelectedEndpoint},
    view::RoutingPool,
};

/// All placements in the order in which they are tried. Pairs of a pool that has none any more are
/// left out.
pub(super) fn order<'a>(
    ranked: &'a RankedPlacements,
    pool: &RoutingPool,
    model: Option<&str>,
) -> Cow<'a, [Placement<SelectedEndpoint>]> {
    if ranked.iter().all(|placement| placement.one().is_some()) {
        return Cow::Borrowed(ranked);
    }
    let ones = ranked.iter().filter(|placement| placement.one().is_some());
    let Some(rules) = &pool.pool.spec.policy.disaggregation else {
        return Cow::Owned(ones.cloned().collect());
    };
    let is_one_first = ranked[0].one().is_some();
    let order: Vec<_> = match rules.fallback {
        PairFallback::OtherPrefill => {
            // The last attempt is left to what needs no prefill endpoint: those of all pairs may be
            // gone at once, as when they are scaled down.
            let attempts = pool.pool.spec.policy.retry.max_attempts as usize;
            let pairs = ranked.len().min(attempts.saturating_sub(1).max(1));
            let (first, rest) = ranked.split_at(pairs);
            let alone = alone(ranked, first, (pool, model));
            let order = first.iter().cloned().chain(alone);
            order.chain(rest.iter().cloned()).collect()
        }
        PairFallback::Aggregate if is_one_first => {
            let alone = alone(ranked, &[], (pool, model));
            ones.cloned().chain(alone).collect()
        }
        PairFallback::Aggregate => {
            let first = &ranked[..1];
            let alone = alone(ranked, first, (pool, model));
            first.iter().chain(ones).cloned().chain(alone).collect()
        }
        PairFallback::Fail if is_one_first => ones.cloned().collect(),
        PairFallback::Fail => ranked.iter().take(1).cloned().collect(),
    };
    Cow::Owned(order)
}

/// Whether what follows from the position `next` on has left the pool since it was chosen, or is
/// nothing while something before has.
pub(super) fn have_left(order: &[Placement<SelectedEndpoint>], next: usize) -> bool {
    let has_left = |placement: &Placement<SelectedEndpoint>| {
        let mut endpoints = placement.endpoints();
        endpoints.any(|endpoint| endpoint.upstream.is_removed())
    };
    order[next..].iter().all(has_left) && order.iter().any(has_left)
}

/// The decode endpoints of the pairs that can serve the request alone, each once; and another one
/// of the pool, if they are one. Those of the pairs that are `tried` before come last.
fn alone(
    ranked: &RankedPlacements,
    tried: &[Placement<SelectedEndpoint>],
    (pool, model): (&RoutingPool, Option<&str>),
) -> Vec<Placement<SelectedEndpoint>> {
    let mut alone: Vec<&SelectedEndpoint> = Vec::new();
    for placement in ranked {
        let Placement::Pair { decode, .. } = placement else {
            continue;
        };
        let is_known = alone.iter().any(|known| is_same(known, decode));
        let position = pool.pool.position(decode.upstream.endpoint.id);
        let serves = position.is_some_and(|position| pool.picker.serves_alone(position));
        if serves && !is_known {
            alone.push(decode);
        }
    }
    let other = match alone[..] {
        [only] => other_than(only, pool, model),
        _ => None,
    };
    alone.extend(&other);
    let is_tried = |endpoint: &SelectedEndpoint| {
        let mut tried = tried.iter();
        tried.any(|placement| is_same(placement.decode(), endpoint))
    };
    alone.sort_by_key(|endpoint| is_tried(endpoint));
    alone.into_iter().cloned().map(Placement::One).collect()
}

/// The next endpoint of the pool that is up and can serve a request for the model alone.
fn other_than(
    only: &SelectedEndpoint,
    pool: &RoutingPool,
    model: Option<&str>,
) -> Option<SelectedEndpoint> {
    let position = pool.pool.position(only.upstream.endpoint.id)?;
    let count = pool.upstreams.len();
    let mut others = (1..count).map(|step| (position + step) % count);
    let other = others.find(|&other| {
        let upstream = &pool.upstreams[other];
        pool.picker.serves_alone(other)
            && pool.holds(model, upstream.endpoint.id)
            && leaders::tier(upstream) == leaders::BEST_TIER
    })?;
    Some(SelectedEndpoint {
        upstream: Arc::clone(&pool.upstreams[other]),
        cached_tokens: 0,
        source: None,
    })
}

fn is_same(one: &SelectedEndpoint, other: &SelectedEndpoint) -> bool {
    one.upstream.endpoint.id == other.upstream.endpoint.id
}
