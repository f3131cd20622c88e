//! The HTTP door: the whole path of a client's request, top to bottom: place, forward, relay.
//!
//! ```text
//!   client ─▶ place: admit ─▶ read ─▶ resolve ─▶ choose ─▶ forward ─▶ relay ─▶ client
//!                      │        │        │          │          │        │
//!                  admission  intake    view      choose    endpoint  meter   (each verb is another file)
//! ```
//!
//! Invariants: one view for the whole request; nothing is sent twice after the first byte of an
//! answer; the request's [`RequestGuard`](crate::exchange::guard::RequestGuard) is dropped exactly
//! once, by its last owner.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use hermes_runtime::shutdown::Drain;
use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;

use crate::{
    exchange::{
        forward::Forwarder,
        guard::RequestStart,
        relay::{ResponseBody, relay},
        trace,
    },
    link::report::Reporter,
    place::{ArrivedRequest, DoorRequest, Placed, PlacedRequest, Placer, Rejection},
    request::{headers, local_reply::LocalReply},
    sync::RoutingState,
    telemetry::{access_log::AccessLog, metrics::ProxyMetrics},
};

/// What every request of this proxy shares.
pub(crate) struct Proxy {
    placer: Placer,
    forwarder: Forwarder,
    pub(crate) metrics: Arc<ProxyMetrics>,
    pub(crate) drain: Drain,
}

impl Proxy {
    /// `run` is the random id of this run.
    pub(crate) fn new(
        routing: RoutingState,
        run: u64,
        sinks: (Arc<Reporter>, Arc<AccessLog>),
        metrics: Arc<ProxyMetrics>,
        drain: Drain,
    ) -> Self {
        Self {
            placer: Placer::new(routing, run, sinks, Arc::clone(&metrics), drain.clone()),
            forwarder: Forwarder {
                metrics: Arc::clone(&metrics),
            },
            metrics,
            drain,
        }
    }

    /// Answers a request. Cannot fail: every error has its response.
    pub(crate) async fn serve(
        &self,
        mut request: Request<Incoming>,
        client: SocketAddr,
    ) -> Response<ResponseBody> {
        let ArrivedRequest { request_id, start } = self.placer.arrive(&mut request, client);
        let server = start.trace.server.clone();
        let mut response = match self.answer(request, start).await {
            Ok(response) => {
                trace::status(&server, response.status());
                response
            }
            Err(Rejection { reply, api }) => {
                let request_id = request_id.to_str().unwrap_or_default();
                tracing::debug!(request = request_id, %reply, "local reply");
                self.metrics.requests.replied_locally(reply.code());
                trace::local_reply(&server, &reply);
                reply.into_response(api, request_id).map(ResponseBody::from)
            }
        };
        response
            .headers_mut()
            .insert(headers::REQUEST_ID, request_id);
        response
    }

    /// Places the request, and exchanges the placement.
    async fn answer(
        &self,
        request: Request<Incoming>,
        start: RequestStart,
    ) -> Result<Response<ResponseBody>, Rejection> {
        let door = DoorRequest {
            request,
            start,
            // This door sends a request to one endpoint.
            accepts_pairs: false,
        };
        match self.placer.place(door).await? {
            Placed::Answered(body) => Ok(json(body)),
            Placed::Request(placed) => {
                let api = Some(placed.request.api);
                let exchanged = self.exchange(placed).await;
                exchanged.map_err(|reply| Rejection { reply, api })
            }
        }
    }

    /// Forwards the request to the endpoints of its selection, until one answers, and relays the
    /// answer.
    async fn exchange(&self, placed: PlacedRequest) -> Result<Response<ResponseBody>, LocalReply> {
        let PlacedRequest {
            request,
            pool,
            selection,
            mut guard,
            responses,
            exposes_endpoint,
        } = placed;

        // Forward.
        let answer = self
            .forwarder
            .forward(&request, &pool, &selection, &mut guard)
            .await?;

        // Relay.
        let endpoint =
            exposes_endpoint.then(|| Arc::clone(&answer.attempt.upstream().endpoint.name));
        let timeouts = pool.pool.spec.policy.timeouts;
        let mut response = relay(answer, guard, &request, timeouts, responses);
        if let Some(name) = endpoint.and_then(|name| HeaderValue::from_str(&name).ok()) {
            response.headers_mut().insert(headers::ENDPOINT, name);
        }
        Ok(response)
    }
}

fn json(body: Bytes) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::from(body));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}
