//! The turn of one placement in the list of those that a request is tried at.

use hermes_core::placement::Placement;

use super::{admitted_endpoint::AdmittedEndpoint, leaders};
use crate::{choose::SelectedEndpoint, view::RoutingPool};

/// A request's turn at a placement. An endpoint that recovers admits one trial at a time; each
/// endpoint of a pair has its own.
pub(super) struct PlacementTurn<'a> {
    placement: Placement<AdmittedEndpoint<'a>>,
}

impl<'a> PlacementTurn<'a> {
    /// `None` when an endpoint of it admits no request and a placement that follows is in better
    /// health: of those that are equally bad, the best in rank is tried first.
    pub(super) fn take(
        placement: &'a Placement<SelectedEndpoint>,
        mut later: impl Iterator<Item = &'a Placement<SelectedEndpoint>>,
        pool: &RoutingPool,
    ) -> Option<Self> {
        let admitted = admit(placement, pool);
        let mut is_passed_over = || {
            let own = tier(placement, pool);
            later.any(|later| tier(later, pool) > own)
        };
        if admitted.is_none() && is_passed_over() {
            return None;
        }
        Some(Self {
            placement: admitted.unwrap_or_else(|| unasked(placement)),
        })
    }

    /// What the request is sent to.
    pub(super) const fn placement(&self) -> Placement<AdmittedEndpoint<'a>> {
        self.placement
    }

    /// Nothing is sent: what the request was admitted to is left to the next one.
    pub(super) fn give_up(self) {
        match self.placement {
            Placement::One(endpoint) => endpoint.give_up(),
            Placement::Pair { prefill, decode } => {
                prefill.give_up();
                decode.give_up();
            }
        }
    }
}

/// `None` unless all endpoints of it admit a request, and some leader of a pair that needs one is
/// up; if not, none does.
fn admit<'a>(
    placement: &'a Placement<SelectedEndpoint>,
    pool: &RoutingPool,
) -> Option<Placement<AdmittedEndpoint<'a>>> {
    match placement {
        Placement::One(endpoint) => AdmittedEndpoint::admit(endpoint).map(Placement::One),
        Placement::Pair { prefill, decode } => {
            if leaders::best_tier(pool, prefill.upstream.endpoint.id) == Some(0) {
                return None;
            }
            let prefill = AdmittedEndpoint::admit(prefill)?;
            let Some(decode) = AdmittedEndpoint::admit(decode) else {
                prefill.give_up();
                return None;
            };
            Some(Placement::Pair { prefill, decode })
        }
    }
}

/// Its endpoints as they are sent a request that they do not admit.
fn unasked(placement: &Placement<SelectedEndpoint>) -> Placement<AdmittedEndpoint<'_>> {
    match placement {
        Placement::One(endpoint) => Placement::One(AdmittedEndpoint::unasked(endpoint)),
        Placement::Pair { prefill, decode } => Placement::Pair {
            prefill: AdmittedEndpoint::unasked(prefill),
            decode: AdmittedEndpoint::unasked(decode),
        },
    }
}

/// Greater for better health; of a pair, that of the worse endpoint, and of its group's best
/// leader.
fn tier(placement: &Placement<SelectedEndpoint>, pool: &RoutingPool) -> u8 {
    let of = |endpoint: &SelectedEndpoint| leaders::tier(&endpoint.upstream);
    match placement {
        Placement::One(endpoint) => of(endpoint),
        Placement::Pair { prefill, decode } => {
            let leader = leaders::best_tier(pool, prefill.upstream.endpoint.id);
            let pair = of(prefill).min(of(decode));
            leader.map_or(pair, |leader| leader.min(pair))
        }
    }
}
