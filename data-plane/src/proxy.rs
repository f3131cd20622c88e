//! The whole path of a request, top to bottom: admit, read, choose, forward, relay.
//!
//! ```text
//!   client ─▶ admit ─▶ read ─▶ choose ─▶ forward ─▶ relay ─▶ client
//!               │        │        │         │          │
//!           admission  intake   choose   endpoint    meter     (each verb is another file)
//! ```
//!
//! Invariants: one view for the whole request; nothing is sent twice after the first byte of an
//! answer; the request's [`RequestGuard`] is dropped exactly once, by its last owner.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use hermes_core::{
    placement::Placement, query::Query, rng::SeededRng, stored_responses::ResponseLocations,
};
use hermes_runtime::{propagation, shutdown::Drain};
use http::{HeaderValue, Request, Response, header, request};
use hyper::body::Incoming;
use parking_lot::Mutex;
use smallvec::smallvec;
use tokio::time::Instant;

use crate::{
    choose::{EndpointSelection, EndpointSelector, SelectedEndpoint, SelectionRequest},
    exchange::{
        forward::Forwarder,
        guard::{RequestGuard, RequestStart},
        relay::{ResponseBody, relay},
        trace::{self, RequestTrace},
    },
    link::report::Reporter,
    request::{
        admission::{AdmissionLimit, AdmissionPermit},
        api::{self, Api, ApiRoute, Unrouted},
        headers,
        inference_request::InferenceRequest,
        intake,
        local_reply::{LocalReply, echo},
    },
    sync::RoutingState,
    telemetry::{access_log::AccessLog, metrics::ProxyMetrics},
    view::{RoutingPool, RoutingView, models},
};

/// What every request of this proxy shares.
pub(crate) struct Proxy {
    routing: RoutingState,
    admission: AdmissionLimit,
    selector: EndpointSelector,
    forwarder: Forwarder,
    /// The endpoints of stored responses that passed this proxy.
    responses: Arc<Mutex<ResponseLocations>>,
    reporter: Arc<Reporter>,
    access_log: Arc<AccessLog>,
    pub(crate) metrics: Arc<ProxyMetrics>,
    pub(crate) drain: Drain,
    /// The next request's id, unique in this run.
    next_id: AtomicU64,
    /// Random id of this run: part of generated request ids, and of the seed of every selection.
    run: u64,
}

impl Proxy {
    /// `run` is the random id of this run.
    pub(crate) fn new(
        routing: RoutingState,
        run: u64,
        (reporter, access_log): (Arc<Reporter>, Arc<AccessLog>),
        metrics: Arc<ProxyMetrics>,
        drain: Drain,
    ) -> Self {
        Self {
            selector: EndpointSelector::new(routing.clone(), run),
            routing,
            admission: AdmissionLimit::default(),
            forwarder: Forwarder {
                metrics: Arc::clone(&metrics),
            },
            responses: Arc::default(),
            reporter,
            access_log,
            metrics,
            drain,
            next_id: AtomicU64::new(1),
            run,
        }
    }

    /// Answers a request. Cannot fail: every error has its response.
    pub(crate) async fn serve(
        &self,
        mut request: Request<Incoming>,
        client: SocketAddr,
    ) -> Response<ResponseBody> {
        let arrived = Instant::now();
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let request_id = headers::request_id(request.headers(), || {
            format!("req-{:012x}{id:06x}", self.run >> 16)
        });
        // The engine, the logs and the client use the same id.
        request
            .headers_mut()
            .insert(headers::REQUEST_ID, request_id.clone());
        let trace = RequestTrace::begin(&request);
        let server = trace.server.clone();
        trace::identify(&server, &request_id, client);

        let start = RequestStart {
            id,
            at: arrived,
            trace,
        };
        let mut response = match self.admit(request, start).await {
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

    /// Admits the request and finds the API that it addresses.
    async fn admit(
        &self,
        request: Request<Incoming>,
        start: RequestStart,
    ) -> Result<Response<ResponseBody>, Rejection> {
        // One load per request: every later step uses the same snapshot.
        let view = self.routing.view.load_full();
        let view = view.ok_or(LocalReply::NotReady)?;
        let settings = view.settings();
        let permit = self.admission.try_acquire(settings.max_concurrent);
        let permit = permit.ok_or(LocalReply::Overloaded)?;
        intake::check_head(request.headers())?;

        let (head, body) = request.into_parts();
        let path = head.uri.path().to_owned();
        let route = api::route(&head.method, &path, &settings.extra_paths).map_err(unrouted)?;
        trace::routed(&start.trace.server, route, &head.method);
        let response = match route.api {
            Api::Models => Ok(json(models::list(&view))),
            Api::Model => models::one(&view, route.path).map(json),
            _ => {
                self.forward(&view, route, (head, body), (start, permit))
                    .await
            }
        };
        response.map_err(|reply| Rejection {
            reply,
            api: Some(route.api),
        })
    }

    /// Reads the request, chooses endpoints for it, forwards it and relays the answer.
    async fn forward(
        &self,
        view: &RoutingView,
        route: ApiRoute<'_>,
        (head, body): (request::Parts, Incoming),
        (start, mut permit): (RequestStart, AdmissionPermit),
    ) -> Result<Response<ResponseBody>, LocalReply> {
        // Read.
        let settings = view.settings();
        let (limit, timeout) = (settings.max_body_bytes, settings.client_timeout);
        let bytes = intake::read_body(body, limit, timeout, &mut permit).await?;
        let request = InferenceRequest::parse(route, head, &bytes)?;
        if request.has_control_fields {
            self.metrics.requests.control_fields_stripped.inc();
        }

        // Choose.
        let pinned = self.pinned(view, &request, start.id).await?;
        let pool = match &pinned {
            Some((pool, _)) => pool,
            None => view.route(request.model.as_deref())?,
        };
        let held = (permit, self.drain.track());
        let sinks = (Arc::clone(&self.reporter), Arc::clone(&self.access_log));
        let model = request.model.as_deref();
        let mut guard = RequestGuard::open(start, Arc::clone(pool), model, sinks, held);
        guard.describe(&request, view.snapshot.version);
        let selection = match &pinned {
            Some((_, selection)) => {
                guard.set_query(&stored_prompt(), &request);
                selection
            }
            None => &self
                .choose(pool, &request, &mut guard)
                .await
                .inspect_err(|reply| guard.selection_failed(reply))?,
        };
        guard.set_selection(selection);

        // Forward.
        let answer = self
            .forwarder
            .forward(&request, pool, selection, &mut guard)
            .await?;

        // Relay.
        let endpoint = settings
            .expose_endpoint
            .then(|| Arc::clone(&answer.attempt.upstream().endpoint.name));
        let responses = (request.api == Api::Responses).then(|| Arc::clone(&self.responses));
        let timeouts = pool.pool.spec.policy.timeouts;
        let mut response = relay(answer, guard, &request, timeouts, responses);
        if let Some(name) = endpoint.and_then(|name| HeaderValue::from_str(&name).ok()) {
            response.headers_mut().insert(headers::ENDPOINT, name);
        }
        Ok(response)
    }

    /// Selects endpoints of the pool, in a span of its own.
    async fn choose(
        &self,
        pool: &Arc<RoutingPool>,
        request: &InferenceRequest,
        guard: &mut RequestGuard,
    ) -> Result<EndpointSelection, LocalReply> {
        let spec = &pool.pool.spec;
        let strategy = spec.policy.strategy.name();
        let span = guard
            .trace
            .route(&spec.name, strategy, pool.upstreams.len());
        let context = propagation::egress(&span, &guard.trace.incoming);
        let mut rng = SeededRng::new(self.run ^ guard.id.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let hashed = self.access_log.has_listeners();
        let query = request.query(&spec.policy, hashed);
        guard.set_query(&query, request);
        let wanted = SelectionRequest {
            pool,
            request,
            id: guard.id,
            query: &query,
            accepts_pairs: false,
            context,
        };
        let selection = self.selector.choose(&wanted, &mut rng).await;
        match &selection {
            Ok(selection) => {
                pool.metrics.selections.levels[selection.level].inc();
                trace::selected(&span, selection);
            }
            Err(reply) => trace::failed(&span, reply.code()),
        }
        selection
    }

    /// The endpoint that created the stored response which the request refers to.
    async fn pinned(
        &self,
        view: &RoutingView,
        request: &InferenceRequest,
        id: u64,
    ) -> Result<Option<(Arc<RoutingPool>, EndpointSelection)>, LocalReply> {
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
            return Ok(Some((
                Arc::clone(pool),
                EndpointSelection {
                    ranked: smallvec![Placement::One(endpoint)],
                    ..EndpointSelection::default()
                },
            )));
        }
        if request.api != Api::StoredResponse {
            // The request names a model: the owner of its pool locates the response when endpoints
            // are chosen.
            return Ok(None);
        }
        for pool in &view.pools {
            if let Some(selection) = self.selector.locate(pool, request, id).await {
                return Ok(Some((Arc::clone(pool), selection)));
            }
        }
        Err(LocalReply::UnknownResponse(echo(&response.id)))
    }
}

/// A request that is answered locally, and the API whose error format its client reads, if it is
/// known.
struct Rejection {
    reply: LocalReply,
    api: Option<Api>,
}

impl From<LocalReply> for Rejection {
    fn from(reply: LocalReply) -> Self {
        Self { reply, api: None }
    }
}

/// The query of a request to a stored response: most of its prompt is stored at the engine, not in
/// its body.
fn stored_prompt() -> Query {
    Query {
        prompt_tokens: 1,
        ..Query::default()
    }
}

fn unrouted(why: Unrouted) -> LocalReply {
    match why {
        Unrouted::Path => LocalReply::UnknownPath,
        Unrouted::Method(only) => LocalReply::Method(only),
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
