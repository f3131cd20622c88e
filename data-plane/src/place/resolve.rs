//! The pool of a request: by the stored response that it refers to, or by its model.

use std::sync::Arc;

use hermes_core::{placement::Placement, query::Query};
use smallvec::smallvec;

use super::{Placer, route::RoutedRequest};
use crate::{
    choose::{EndpointSelection, SelectedEndpoint},
    request::{
        api::Api,
        inference_request::InferenceRequest,
        local_reply::{LocalReply, echo},
    },
    view::{RoutingPool, RoutingView, pickers::PickerAuthority},
};

/// The pool of a request; and its placement, where only one endpoint can serve it.
pub(super) struct ResolvedPool {
    pub(super) pool: Arc<RoutingPool>,
    pub(super) pinned: Option<EndpointSelection>,
}

impl Placer {
    /// Finds the pool that serves the request: by the stored response that it refers to, if this
    /// proxy or only an endpoint can know it; else by its route; else by its model, and by the
    /// `picker` that was asked. `id` is the request's, which changes with every question.
    pub(super) async fn resolve(
        &self,
        view: &RoutingView,
        routed: Option<&RoutedRequest>,
        (request, picker): (&InferenceRequest, Option<&PickerAuthority>),
        id: &mut u64,
    ) -> Result<ResolvedPool, LocalReply> {
        if let Some(pinned) = self.pinned(view, routed, request, id).await? {
            return Ok(pinned);
        }
        let model = request.model.as_deref();
        let pool = match routed {
            Some(routed) => routed.pool.serving(model)?,
            None => view.route_of(picker, model)?,
        };
        Ok(ResolvedPool {
            pool: Arc::clone(pool),
            pinned: None,
        })
    }

    /// The endpoint that created the stored response which the request refers to.
    async fn pinned(
        &self,
        view: &RoutingView,
        routed: Option<&RoutedRequest>,
        request: &InferenceRequest,
        id: &mut u64,
    ) -> Result<Option<ResolvedPool>, LocalReply> {
        let Some(response) = &request.response else {
            return Ok(None);
        };
        let created_here = self
            .responses
            .lock()
            .endpoint(response.key)
            .and_then(|endpoint| view.upstream(endpoint))
            .filter(|(pool, _)| leads_to(routed, pool));
        if let Some((pool, upstream)) = created_here {
            let endpoint = SelectedEndpoint {
                upstream: Arc::clone(upstream),
                cached_tokens: 0,
                source: None,
            };
            return Ok(Some(ResolvedPool {
                pool: Arc::clone(pool),
                pinned: Some(EndpointSelection {
                    ranked: smallvec![Placement::One(endpoint)],
                    ..EndpointSelection::default()
                }),
            }));
        }
        if request.api != Api::StoredResponse {
            // The request names a model: the owner of its pool locates the response when endpoints
            // are chosen.
            return Ok(None);
        }
        // Only if every pool's owner answers, the response is known to be unknown.
        let mut not_found = LocalReply::UnknownResponse(echo(&response.id));
        for pool in view.pools.iter().filter(|pool| leads_to(routed, pool)) {
            // Boxed: few requests refer to stored responses.
            match Box::pin(self.selector.locate(pool, request, *id)).await {
                Ok(Some(selection)) => {
                    return Ok(Some(ResolvedPool {
                        pool: Arc::clone(pool),
                        pinned: Some(selection),
                    }));
                }
                Ok(None) => {}
                Err(unanswered) => not_found = unanswered,
            }
            // A late answer about this pool must not be read as one about the next.
            *id = self.new_id();
        }
        Err(not_found)
    }
}

/// Whether a request may go to this pool: its route, if it follows one, names it.
fn leads_to(routed: Option<&RoutedRequest>, pool: &RoutingPool) -> bool {
    routed.is_none_or(|routed| routed.rule.rule().pools().any(|name| name == pool.name()))
}

/// What an added path calls a model need not be one: with a single pool, or one that a route names,
/// a name that the pool does not have is no reason to refuse the request.
pub(super) fn forget_unknown_model(
    view: &RoutingView,
    routed: Option<&RoutedRequest>,
    request: &mut InferenceRequest,
) {
    if request.api != Api::Extra {
        return;
    }
    let model = request.model.as_deref();
    let is_unknown = match routed {
        Some(routed) => routed.pool.serving(model).is_err(),
        None => view.pools.len() == 1 && view.route(model).is_err(),
    };
    if is_unknown {
        request.model = None;
    }
}

/// The query of a request to a stored response: most of its prompt is stored at the engine, not in
/// its body.
pub(super) fn stored_prompt() -> Query {
    Query {
        prompt_tokens: 1,
        ..Query::default()
    }
}
