//! Which model the endpoints of a pool are asked for, by its rewrites.

use std::sync::Arc;

use hermes_core::{rewrites, rng::SeededRng};

use super::Placer;
use crate::{
    choose::EndpointSelection, request::inference_request::InferenceRequest, view::RoutingPool,
};

/// Keeps a draw apart from the randomness of the selection of endpoints, which has the same seed.
const DRAW: u64 = 0x7265_7772_6974_6573;

impl Placer {
    /// Rewrites the request as its pool says. One target is drawn for all its attempts; `id` is the
    /// request's. An endpoint that is `pinned` is asked only for a target that it has, if there is
    /// one.
    pub(super) fn rewrite(
        &self,
        pool: &RoutingPool,
        pinned: Option<&EndpointSelection>,
        id: u64,
        request: &mut InferenceRequest,
    ) {
        let rewrites = &pool.pool.spec.rewrites;
        if rewrites.is_empty() {
            return;
        }
        let sample = SeededRng::new(self.seed(id) ^ DRAW).next_u64();
        let model = request.model.as_deref();
        let only = pinned.and_then(|selection| selection.ranked.first());
        let is_there = |target: &str| {
            only.is_none_or(|only| {
                let endpoint = only.decode().upstream.endpoint.id;
                pool.holds(Some(target), endpoint)
            })
        };
        let among = rewrites::target_among(rewrites, model, sample, is_there);
        let target = among.or_else(|| rewrites::target(rewrites, model, sample));
        if let Some(target) = target.map(Arc::clone) {
            request.rewrite(&target);
        }
    }
}
