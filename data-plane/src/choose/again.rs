//! A second choice, for a request of which all that was chosen has left the pool since.
//!
//! It is the proxy's own, from the newest view: the control plane has answered this request, and
//! learns from the reports where its booking has gone.

use std::sync::Arc;

use hermes_core::{query::Query, rng::SeededRng};
use opentelemetry::Context;

use super::{EndpointSelection, EndpointSelector, SelectionRequest, by_strategy, may_be_split};
use crate::{request::inference_request::InferenceRequest, view::RoutingPool};

impl EndpointSelector {
    /// Selects in the pool that the newest view has in the place of `chosen_from`. `None` if there
    /// is no newer one, or if nothing in it serves the request.
    pub(crate) fn choose_again(
        &self,
        chosen_from: &RoutingPool,
        (request, query, accepts_pairs): (&InferenceRequest, &Query, bool),
        rng: &mut SeededRng,
    ) -> Option<(Arc<RoutingPool>, EndpointSelection)> {
        let view = self.routing.view.load();
        let pool = view.as_ref()?.pool(chosen_from.name())?;
        let (spec, before) = (&pool.pool.spec, &chosen_from.pool.spec);
        // The request's hashes are over blocks of the size that was configured then.
        let is_readable = spec.policy.block_bytes == before.policy.block_bytes;
        if std::ptr::eq(&raw const **pool, chosen_from) || !is_readable {
            return None;
        }
        let wanted = SelectionRequest {
            pool,
            request,
            // Nothing is asked by it.
            id: 0,
            query,
            accepts_pairs: accepts_pairs && may_be_split(request, spec),
            context: Context::new(),
        };
        let selection = if spec.policy.strategy.needs_score() {
            self.without_score(&wanted, rng)
        } else {
            by_strategy(&wanted, rng)
        };
        Some((Arc::clone(pool), selection.ok()?))
    }
}
