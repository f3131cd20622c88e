//! Copies of requests, for the mirrors of routes.

use std::sync::Arc;

use opentelemetry::Context;
use tokio::time::Instant;
use tracing::Span;

use super::{DoorPairs, DoorRules, PlacedRequest, Placer};
use crate::{
    exchange::{
        guard::{RequestGuard, RequestStart},
        trace::RequestTrace,
    },
    request::{inference_request::InferenceRequest, local_reply::LocalReply},
    view::RoutingPool,
};

impl Placer {
    /// Places a copy of a request in another pool. `incoming`: its trace context.
    ///
    /// # Errors
    ///
    /// When the proxy or the pool has no room for it.
    pub(crate) async fn place_copy(
        &self,
        pool: Arc<RoutingPool>,
        mut request: InferenceRequest,
        incoming: Context,
    ) -> Result<Box<PlacedRequest>, LocalReply> {
        let view = self.routing.view.load_full().ok_or(LocalReply::NotReady)?;
        let permit = self.admission.try_acquire(view.settings().max_concurrent);
        let mut permit = permit.ok_or(LocalReply::Overloaded)?;
        if !permit.reserve_bytes(request.body_bytes()) {
            return Err(LocalReply::Overloaded);
        }
        let start = RequestStart {
            id: self.new_id(),
            at: Instant::now(),
            trace: RequestTrace {
                server: Span::none(),
                incoming,
            },
        };
        pool.serving(request.model.as_deref())?;
        self.rewrite(&pool, None, start.id, &mut request);
        let held = (permit, self.drain.track());
        let sinks = (Arc::clone(&self.reporter), Arc::clone(&self.access_log));
        let model = request.model.as_deref();
        let mut guard = RequestGuard::open(start, Arc::clone(&pool), model, sinks, held);
        let rules = DoorRules {
            pairs: DoorPairs::All,
            subset: None,
            picker: None,
            asks_pickers: true,
        };
        let selected = self.select(&pool, &mut request, &rules, &mut guard).await;
        let (selection, picked) = selected.inspect_err(|reply| guard.selection_failed(reply))?;
        guard.set_selection(&selection);
        Ok(Box::new(PlacedRequest {
            rule: None,
            responses: None,
            exposes_endpoint: false,
            request,
            pool,
            selection,
            guard,
            picked,
        }))
    }
}
