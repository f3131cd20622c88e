//! Leaders: endpoints that send both legs of the pairs of their group (`leader-headers`).
//!
//! A leader is admitted, counted and blamed as any endpoint that is sent a request. A group whose
//! leaders are all down is as its worst endpoint is: placements elsewhere are tried before it.

use std::sync::Arc;

use hermes_core::{load::Health, snapshot::EndpointId};

use crate::{
    clock::uptime,
    endpoint::{EndpointAdmission, Upstream},
    view::RoutingPool,
};

/// See [`tier`].
pub(super) const BEST_TIER: u8 = 2;

/// The leader that a request for a pair with this prefill endpoint is sent to: in the best health,
/// and of those with the fewest requests, of the leaders that admit one. If none does, the best of
/// them is sent it without being asked. `None` for a group without leaders.
pub(super) fn admit(
    pool: &RoutingPool,
    prefill: EndpointId,
) -> Option<(Arc<Upstream>, EndpointAdmission)> {
    let mut leaders: Vec<_> = leaders_of(pool, prefill).collect();
    leaders.sort_by_cached_key(|leader| {
        let load = leader.own_load(uptime());
        (std::cmp::Reverse(tier(leader)), load.in_flight)
    });
    let admitted = leaders
        .iter()
        .find_map(|leader| Some((Arc::clone(leader), leader.admit(uptime())?)));
    let unasked = || (Arc::clone(leaders[0]), EndpointAdmission::default());
    admitted.or_else(|| (!leaders.is_empty()).then(unasked))
}

/// The health of the best leader of a pair with this prefill endpoint, as [`tier`]; `None` in a
/// pool whose pairs have no leader.
pub(super) fn best_tier(pool: &RoutingPool, prefill: EndpointId) -> Option<u8> {
    let rules = pool.pool.spec.policy.disaggregation.as_ref()?;
    rules.dialect.needs_leader().then(|| {
        let tiers = leaders_of(pool, prefill).map(|leader| tier(leader));
        tiers.max().unwrap_or(0)
    })
}

/// The health of an endpoint as a number: greater is better, and 0 is down, or has left the pool
/// since it was chosen.
pub(super) fn tier(upstream: &Upstream) -> u8 {
    match upstream.own_load(uptime()).health {
        _ if upstream.is_removed() => 0,
        Health::Down => 0,
        health if health.is_cooling() => 1,
        Health::Warming(_) | Health::Up => BEST_TIER,
    }
}

fn leaders_of(pool: &RoutingPool, prefill: EndpointId) -> impl Iterator<Item = &Arc<Upstream>> {
    let position = pool.pool.position(prefill);
    let leaders = position
        .into_iter()
        .flat_map(|prefill| pool.picker.leaders(prefill));
    leaders.map(|leader| &pool.upstreams[leader])
}
