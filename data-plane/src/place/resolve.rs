//! The pool of a request: by the stored response that it refers to, or by its model.

use std::sync::Arc;

use hermes_core::{placement::Placement, query::Query};
use smallvec::smallvec;

use super::Placer;
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
    /// proxy or only an endpoint can know it; else by its model, and by the `picker` that was asked.
    /// `id` is the request's, which changes with every question.
    pub(super) async fn resolve(
        &self,
        view: &RoutingView,
        (request, picker): (&InferenceRequest, Option<&PickerAuthority>),
        id: &mut u64,
    ) -> Result<ResolvedPool, LocalReply> {
        if let Some(pinned) = self.pinned(view, request, id).await? {
            return Ok(pinned);
        }
        Ok(ResolvedPool {
            pool: Arc::clone(view.route_of(picker, request.model.as_deref())?),
            pinned: None,
        })
    }

    /// The endpoint that created the stored response which the request refers to.
    async fn pinned(
        &self,
        view: &RoutingView,
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
            .and_then(|endpoint| view.upstream(endpoint));
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
        for pool in &view.pools {
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

/// What an added path calls a model need not be one: with a single pool, a name that the pool does
/// not have is no reason to refuse the request.
pub(super) fn forget_unknown_model(view: &RoutingView, request: &mut InferenceRequest) {
    let is_alone = request.api == Api::Extra && view.pools.len() == 1;
    if is_alone && view.route(request.model.as_deref()).is_err() {
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
