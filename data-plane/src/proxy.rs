//! The HTTP door: the whole path of a client's request, top to bottom: place, forward, relay.
//!
//! ```text
//!   client ─▶ place: admit ─▶ read ─▶ resolve ─▶ choose ─▶ forward ─▶ relay ─▶ client
//!                      │        │        │          │          │        │
//!                  admission  intake    view      choose    endpoint  meter   (each verb is another file)
//! ```
//!
//! Invariants: one view for the whole request, unless all that was chosen from it has left the pool;
//! nothing is sent twice after the first byte of an answer; the request's
//! [`RequestGuard`](crate::exchange::guard::RequestGuard) is dropped exactly once, by its last
//! owner.

mod mirror;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use hermes_core::policy::ProxySettings;
use hermes_runtime::shutdown::Drain;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body::Body;

use self::mirror::MirrorTasks;
use crate::{
    exchange::{
        forward::Forwarder,
        relay::{ResponseBody, relay},
        trace,
    },
    place::{
        ArrivedRequest, DoorPairs, DoorRequest, DoorRules, Placed, PlacedRequest, Placer,
        Redirection, Rejection,
    },
    request::{cors::AdmittedOrigin, entry::ClientEntry, headers, local_reply::LocalReply},
    sync::RoutingState,
    telemetry::metrics::ProxyMetrics,
};

/// What every request of this proxy shares.
pub(crate) struct Proxy {
    routing: RoutingState,
    placer: Arc<Placer>,
    forwarder: Forwarder,
    mirror_tasks: MirrorTasks,
    pub(crate) metrics: Arc<ProxyMetrics>,
    pub(crate) drain: Drain,
}

/// What a client may take its time for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientLimits {
    /// Sending a head, from the connection or from its first byte.
    pub(crate) head: Duration,
    /// Keeping a connection without a request.
    pub(crate) idle: Duration,
    /// Taking what there is of an answer.
    pub(crate) send: Duration,
}

impl Proxy {
    /// `run` is the random id of this run.
    pub(crate) fn new(
        routing: RoutingState,
        run: u64,
        placer: Arc<Placer>,
        metrics: Arc<ProxyMetrics>,
        drain: Drain,
    ) -> Self {
        Self {
            routing: routing.clone(),
            placer,
            forwarder: Forwarder::new(routing, Arc::clone(&metrics), run),
            mirror_tasks: MirrorTasks::default(),
            metrics,
            drain,
        }
    }

    /// What clients may take their time for, as configured now.
    pub(crate) fn client_limits(&self) -> ClientLimits {
        let view = self.routing.view.load();
        let (view, defaults) = (view.as_ref(), ProxySettings::default());
        let ProxySettings {
            client_timeout: head,
            keep_alive_timeout: idle,
            send_timeout: send,
            ..
        } = *view.map_or(&defaults, |view| view.settings());
        ClientLimits { head, idle, send }
    }

    /// The origin of the page that sends the request, if the operator admits it.
    fn admitted_origin(&self, request: &HeaderMap) -> Option<AdmittedOrigin> {
        let view = self.routing.view.load();
        let origins = &view.as_ref()?.settings().cors_origins;
        AdmittedOrigin::of(origins, request)
    }

    /// Answers a request. Cannot fail: every error has its response.
    pub(crate) async fn serve<B>(
        self: &Arc<Self>,
        mut request: Request<B>,
        (client, entry): (SocketAddr, &ClientEntry),
    ) -> Response<ResponseBody>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let origin = self.admitted_origin(request.headers());
        if let Some(answer) = origin
            .as_ref()
            .and_then(|origin| origin.preflight(&request))
        {
            return answer;
        }
        let ArrivedRequest { request_id, start } =
            self.placer.arrive(&mut request, (client, entry.scheme));
        let server = start.trace.server.clone();
        let door = DoorRequest {
            request,
            start,
            entry: Some(entry),
            rules: DoorRules {
                pairs: DoorPairs::All,
                subset: None,
                picker: None,
                asks_pickers: true,
            },
        };
        // Placed here: a future in between would hold the request once more.
        let placed = self.placer.place(door).await;
        let mut response = match self.answer(placed).await {
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
        let answered = response.headers_mut();
        answered.insert(headers::REQUEST_ID, request_id);
        if let Some(origin) = origin {
            origin.mark(answered);
        }
        response
    }

    /// What becomes of the request, exchanged if it is to be.
    async fn answer(
        self: &Arc<Self>,
        placed: Result<Placed, Rejection>,
    ) -> Result<Response<ResponseBody>, Rejection> {
        match placed? {
            Placed::Answered(body) => Ok(json(body)),
            Placed::Redirected(elsewhere) => Ok(redirect(elsewhere)),
            Placed::Request(placed) => {
                self.mirror(&placed);
                let api = Some(placed.request.api);
                let exchanged = self.exchange(placed).await;
                exchanged.map_err(|reply| Rejection { reply, api })
            }
        }
    }

    /// Forwards the request to the endpoints of its selection, until one answers, and relays the
    /// answer. The request stays where it is: what is moved out of the box becomes a part of the
    /// future.
    async fn exchange(
        &self,
        mut placed: Box<PlacedRequest>,
    ) -> Result<Response<ResponseBody>, LocalReply> {
        // Forward.
        let PlacedRequest {
            request,
            pool,
            selection,
            guard,
            ..
        } = &mut *placed;
        let forwarded = self.forwarder.forward(request, pool, selection, guard);
        let mut answer = forwarded.await?;
        let shown = match placed.picked.take() {
            // Boxed: few pools have another picker.
            Some(picked) => Box::pin(answer.show(*picked)).await,
            None => None,
        };

        // Relay. The body ends with this function.
        placed.guard.release_body();
        let exposed = placed.exposes_endpoint;
        let endpoint = exposed.then(|| Arc::clone(&answer.attempt.upstream().endpoint.name));
        let timeouts = placed.pool.pool.spec.policy.timeouts;
        let PlacedRequest {
            request,
            guard,
            rule,
            responses,
            ..
        } = *placed;
        let mut response = relay(answer, guard, &request, timeouts, (responses, shown));
        if let Some(rule) = rule {
            rule.response_headers.apply(response.headers_mut());
        }
        if let Some(name) = endpoint.and_then(|name| HeaderValue::from_str(&name).ok()) {
            response.headers_mut().insert(headers::ENDPOINT, name);
        }
        Ok(response)
    }
}

fn redirect(Redirection { status, location }: Redirection) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::default());
    *response.status_mut() = status;
    response.headers_mut().insert(header::LOCATION, location);
    response
}

fn json(body: Bytes) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::from(body));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of the future that a function returns, in bytes.
    const fn size<A, B, C, F>(_: fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn the_future_of_a_request_is_small_enough_to_be_moved() {
        // hyper moves it into place for each request.
        let bytes = size::<
            &'static Arc<Proxy>,
            Request<hyper::body::Incoming>,
            (SocketAddr, &'static ClientEntry),
            _,
        >(Proxy::serve);
        assert!(bytes < 5_500, "{bytes} bytes");
    }
}
