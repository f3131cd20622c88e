//! The turn of one placement in the list of those that a request is tried at.

use hermes_core::{load::Health, placement::Placement};

use crate::{choose::SelectedEndpoint, clock::uptime, endpoint::Upstream};

/// A request's turn at a placement. An endpoint that recovers admits one trial at a time.
pub(super) struct PlacementTurn<'a> {
    placement: &'a Placement<SelectedEndpoint>,
    is_admitted: bool,
}

impl<'a> PlacementTurn<'a> {
    /// `None` when an endpoint of it admits no request and a placement that follows is in better
    /// health: of those that are equally bad, the best in rank is tried first.
    pub(super) fn take(
        placement: &'a Placement<SelectedEndpoint>,
        mut later: impl Iterator<Item = &'a Placement<SelectedEndpoint>>,
    ) -> Option<Self> {
        let is_admitted = admit(placement);
        let mut is_passed_over = || {
            let own = tier(placement);
            later.any(|later| tier(later) > own)
        };
        (is_admitted || !is_passed_over()).then_some(Self {
            placement,
            is_admitted,
        })
    }

    /// Nothing is sent: what the request was admitted to is left to the next one.
    pub(super) fn give_up(self) {
        if self.is_admitted {
            upstreams(self.placement).for_each(|upstream| upstream.abandoned(uptime()));
        }
    }
}

/// The endpoints of a placement, each once.
fn upstreams(placement: &Placement<SelectedEndpoint>) -> impl Iterator<Item = &Upstream> {
    let (first, second) = match placement {
        Placement::One(endpoint) => (endpoint, None),
        Placement::Pair { prefill, decode } => (prefill, Some(decode)),
    };
    let endpoints = std::iter::once(first).chain(second);
    endpoints.map(|endpoint| &*endpoint.upstream)
}

/// Whether all endpoints of it admit a request; if not, none does.
fn admit(placement: &Placement<SelectedEndpoint>) -> bool {
    let admitted = upstreams(placement).take_while(|upstream| upstream.admit(uptime()));
    let count = admitted.count();
    let is_whole = count == upstreams(placement).count();
    if !is_whole {
        let trials = upstreams(placement).take(count);
        trials.for_each(|upstream| upstream.abandoned(uptime()));
    }
    is_whole
}

/// Greater for better health; of a pair, that of the worse endpoint.
fn tier(placement: &Placement<SelectedEndpoint>) -> u8 {
    let tiers = upstreams(placement).map(|upstream| match upstream.own_load(uptime()).health {
        Health::Down => 0,
        health if health.is_cooling() => 1,
        Health::Warming(_) | Health::Up => 2,
    });
    tiers.min().unwrap_or(0)
}
