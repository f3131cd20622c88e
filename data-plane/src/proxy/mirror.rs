//! Copies of requests for the mirrors of a route, whose answers are discarded.
//!
//! A copy is a request of its own in the mirror's pool: it is admitted, placed, counted, retried and
//! timed out as others are, and nothing of it reaches the client of the original. If too many are
//! open, further ones are dropped, and counted as such.

use std::sync::Arc;

use hermes_core::{rng::SeededRng, route::RouteMirror};
use http_body_util::BodyExt;
use opentelemetry::Context;
use parking_lot::Mutex;
use tokio::task::JoinSet;

use super::Proxy;
use crate::{
    place::PlacedRequest,
    request::{inference_request::InferenceRequest, local_reply::LocalReply},
    telemetry::metrics::MirrorResult,
    view::RoutingPool,
};

/// Copies that are open at once in one proxy.
const MAX_OPEN: usize = 256;

/// Keeps the draw of a copy apart from what is random besides, of the same seed.
const DRAW: u64 = 0x6d69_7272_6f72_6564;

/// The copies that are open. They end with the proxy.
#[derive(Default)]
pub(super) struct MirrorTasks(Mutex<JoinSet<()>>);

impl Proxy {
    /// Sends the copies that the route of this request wants.
    pub(super) fn mirror(self: &Arc<Self>, placed: &PlacedRequest) {
        let Some(rule) = &placed.rule else {
            return;
        };
        let mirrors = &rule.rule().filters.mirrors;
        if mirrors.is_empty() {
            return;
        }
        let mut rng = SeededRng::new(placed.guard.id ^ DRAW);
        // A small seed needs one step to be spread.
        rng.next_u64();
        for mirror in mirrors {
            if rng.unit() < mirror.share {
                let result = self.send_copy(mirror, placed);
                rule.metrics.mirrored[result].inc();
            }
        }
    }

    fn send_copy(self: &Arc<Self>, mirror: &RouteMirror, placed: &PlacedRequest) -> MirrorResult {
        let view = self.routing.view.load_full();
        let pool = view
            .as_ref()
            .and_then(|view| view.pool(mirror.target.pool()?));
        let Some(pool) = pool.map(Arc::clone) else {
            return MirrorResult::Dropped;
        };
        let mut open = self.mirror_tasks.0.lock();
        while open.try_join_next().is_some() {}
        if open.len() >= MAX_OPEN {
            return MirrorResult::Dropped;
        }
        let (proxy, request) = (Arc::clone(self), placed.request.copy());
        let incoming = placed.guard.trace.incoming.clone();
        open.spawn(async move {
            let sent = proxy.exchange_copy(pool, request, incoming).await;
            if let Err(reply) = sent {
                tracing::debug!(%reply, "a copy of a request was not answered");
            }
        });
        MirrorResult::Sent
    }

    /// Places a copy, exchanges it, and reads its answer to the end.
    async fn exchange_copy(
        &self,
        pool: Arc<RoutingPool>,
        request: InferenceRequest,
        incoming: Context,
    ) -> Result<(), LocalReply> {
        let placed = Box::pin(self.placer.place_copy(pool, request, incoming)).await?;
        let response = self.exchange(placed).await?;
        let mut body = response.into_body();
        // An answer that breaks off ends as well.
        while let Some(Ok(_)) = body.frame().await {}
        Ok(())
    }
}
