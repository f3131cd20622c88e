//! The turn of one placement in the list of those that a request is tried at.

use hermes_core::{placement::Placement, snapshot::EndpointId};

use super::{admitted_endpoint::AdmittedEndpoint, leaders};
use crate::{choose::SelectedEndpoint, view::RoutingPool};

/// A request's turn at a placement. An endpoint that recovers admits one trial at a time; each
/// endpoint of a pair has its own.
pub(super) struct PlacementTurn<'a> {
    placement: Placement<AdmittedEndpoint<'a>>,
}

/// What turns are taken by, besides the health of endpoints.
#[derive(Clone, Copy)]
pub(super) struct TurnRules<'a> {
    pub(super) pool: &'a RoutingPool,
    /// The endpoints that failed this request last. They may be in several placements.
    pub(super) failed: [Option<EndpointId>; 2],
}

impl<'a> PlacementTurn<'a> {
    /// `None` when an endpoint of it admits no request and a placement that follows is in better
    /// health: of those that are equally bad, the best in rank is tried first.
    pub(super) fn take(
        placement: &'a Placement<SelectedEndpoint>,
        mut later: impl Iterator<Item = &'a Placement<SelectedEndpoint>>,
        rules: TurnRules<'_>,
    ) -> Option<Self> {
        let admitted = rules.admit(placement);
        let mut is_passed_over = || {
            let own = rules.tier(placement);
            later.any(|later| rules.tier(later) > own)
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

impl TurnRules<'_> {
    /// `None` unless all endpoints of it admit a request, none has just failed, and some leader of
    /// a pair that needs one is up; if not, none does.
    fn admit<'a>(
        &self,
        placement: &'a Placement<SelectedEndpoint>,
    ) -> Option<Placement<AdmittedEndpoint<'a>>> {
        if self.has_failed(placement) {
            return None;
        }
        match placement {
            Placement::One(endpoint) => AdmittedEndpoint::admit(endpoint).map(Placement::One),
            Placement::Pair { prefill, decode } => {
                let id = prefill.upstream.endpoint.id;
                if leaders::best_tier(self.pool, id) == Some(0) {
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

    /// Greater for better health; of a pair, that of the worse endpoint, and of its group's best
    /// leader.
    fn tier(&self, placement: &Placement<SelectedEndpoint>) -> u8 {
        if self.has_failed(placement) {
            return 0;
        }
        let of = |endpoint: &SelectedEndpoint| leaders::tier(&endpoint.upstream);
        match placement {
            Placement::One(endpoint) => of(endpoint),
            Placement::Pair { prefill, decode } => {
                let leader = leaders::best_tier(self.pool, prefill.upstream.endpoint.id);
                let pair = of(prefill).min(of(decode));
                leader.map_or(pair, |leader| leader.min(pair))
            }
        }
    }

    fn has_failed(&self, placement: &Placement<SelectedEndpoint>) -> bool {
        let is = |endpoint: &SelectedEndpoint| {
            let id = Some(endpoint.upstream.endpoint.id);
            self.failed.contains(&id)
        };
        match placement {
            Placement::One(endpoint) => is(endpoint),
            Placement::Pair { prefill, decode } => is(prefill) || is(decode),
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
