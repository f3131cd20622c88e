//! The placements that a request is tried at, in order: those of its selection, and what may follow
//! a pair that fails.

use std::borrow::Cow;

use hermes_core::{placement::Placement, policy::PairFallback};

use crate::{
    choose::{RankedPlacements, SelectedEndpoint},
    view::RoutingPool,
};

/// All placements in the order in which they are tried. Pairs of a pool that has none any more are
/// left out.
pub(super) fn order<'a>(
    ranked: &'a RankedPlacements,
    pool: &RoutingPool,
) -> Cow<'a, [Placement<SelectedEndpoint>]> {
    if ranked.iter().all(|placement| placement.one().is_some()) {
        return Cow::Borrowed(ranked);
    }
    let ones = ranked.iter().filter(|placement| placement.one().is_some());
    let Some(rules) = &pool.pool.spec.policy.disaggregation else {
        return Cow::Owned(ones.cloned().collect());
    };
    let first = ranked.iter().take(1);
    let order: Vec<_> = match rules.fallback {
        PairFallback::OtherPrefill => ranked.iter().cloned().chain(alone(ranked, pool)).collect(),
        PairFallback::Aggregate if ranked[0].one().is_some() => {
            ones.cloned().chain(alone(ranked, pool)).collect()
        }
        PairFallback::Aggregate => {
            let others = ones.cloned().chain(alone(ranked, pool));
            first.cloned().chain(others).collect()
        }
        PairFallback::Fail if ranked[0].one().is_some() => ones.cloned().collect(),
        PairFallback::Fail => first.cloned().collect(),
    };
    Cow::Owned(order)
}

/// The decode endpoints of the pairs that can serve the request alone, each once.
fn alone(
    ranked: &RankedPlacements,
    pool: &RoutingPool,
) -> impl Iterator<Item = Placement<SelectedEndpoint>> {
    let mut alone: Vec<&SelectedEndpoint> = Vec::new();
    for placement in ranked {
        let Placement::Pair { decode, .. } = placement else {
            continue;
        };
        let id = decode.upstream.endpoint.id;
        let position = pool.pool.position(id);
        let serves = position.is_some_and(|position| pool.picker.serves_alone(position));
        if serves && !alone.iter().any(|known| known.upstream.endpoint.id == id) {
            alone.push(decode);
        }
    }
    alone
        .into_iter()
        .cloned()
        .map(Placement::One)
        .collect::<Vec<_>>()
        .into_iter()
}
