//! Refusals of one request, held until it is known whose fault they are: another endpoint serves
//! the request, or refuses it alike.

use std::{sync::Arc, time::Duration};

use hermes_core::{ledger::LegId, refusals::SecondOpinion};
use smallvec::SmallVec;

use super::retry::RefusalContext;
use crate::{
    clock::uptime, endpoint::Upstream, request::inference_request::InferenceRequest,
    telemetry::metrics::AnswerClass, view::RoutingPool,
};

/// Refusals that no endpoint is blamed for yet.
#[derive(Default)]
pub(super) struct PendingRefusals {
    refused: SmallVec<[Refusal; 1]>,
    /// An endpoint served the request.
    is_served: bool,
    /// Only the endpoint that it was sent to may get the request.
    is_bound: bool,
}

/// One endpoint's refusal.
#[derive(Clone)]
pub(super) struct Refusal {
    pub(super) leg: LegId,
    pub(super) upstream: Arc<Upstream>,
    pub(super) class: AnswerClass,
}

impl PendingRefusals {
    pub(super) fn add(&mut self, refusal: Refusal) {
        self.refused.push(refusal);
    }

    /// The request is sent to an endpoint.
    pub(super) fn sent(&mut self, request: &InferenceRequest, pool: &RoutingPool) {
        self.is_bound = request.response.is_some()
            || !request.is_repeatable()
            || pool.has_one_holder(request.model.as_deref());
    }

    pub(super) const fn served(&mut self) {
        self.is_served = true;
    }

    /// The refusals, each once, and what the other endpoints said.
    pub(super) fn take(&mut self) -> (SmallVec<[Refusal; 1]>, SecondOpinion) {
        let refused = std::mem::take(&mut self.refused);
        let first = refused.first().map(|refusal| refusal.upstream.endpoint.id);
        let mut others = refused.iter().map(|refusal| refusal.upstream.endpoint.id);
        let opinion = if self.is_served {
            SecondOpinion::Contradicted
        } else if others.any(|other| Some(other) != first) {
            SecondOpinion::Confirmed
        } else if self.is_bound {
            SecondOpinion::Unavailable
        } else {
            SecondOpinion::None
        };
        (refused, opinion)
    }
}

impl Refusal {
    /// Counts it at its endpoint. Returns whether the endpoint is ejected by it.
    pub(super) fn count(&self, pool: &RoutingPool, opinion: SecondOpinion, now: Duration) -> bool {
        let peers = pool.peers_of(&self.upstream, now);
        self.upstream.refused(now, opinion, &peers)
    }
}

impl RefusalContext {
    /// What a refusal of this endpoint means now.
    pub(super) fn of(upstream: &Upstream, pool: &RoutingPool) -> Self {
        let peers = pool.peers_of(upstream, uptime());
        Self {
            is_doubted: upstream.needs_second_opinion(&peers),
            peers_refuse: peers.refuse_alike(),
        }
    }
}
