//! The whole path of a request, top to bottom: admit, read, choose, forward, relay.
//!
//! ```text
//!   client ─▶ admit ─▶ read ─▶ choose ─▶ forward ─▶ relay ─▶ client
//!               │        │        │         │          │
//!             gate     read     choose   upstream   account     (each verb is another file)
//! ```
//!
//! Invariants: one view for the whole request; nothing is sent twice after the first byte of an answer; whatever
//! happens, the request's [`RequestGuard`] is closed exactly once, by whoever holds it last.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use hermes_core::{dice::Dice, query::Query, responses::Responses};
use hermes_runtime::{propagation, shutdown::Drain};
use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use parking_lot::Mutex;
use smallvec::smallvec;
use tokio::time::Instant;

use crate::{
    choose::{EndpointSelector, SelectedEndpoint, Selection, SelectionRequest},
    exchange::{
        forward::Forwarder,
        guard::{RequestGuard, RequestStart},
        relay::{ResponseBody, relay},
        trace::{self, RequestTrace},
    },
    link::report::Reporter,
    request::{
        admission::AdmissionLimit,
        api::{self, Api, Unrouted},
        headers,
        inference_request::InferenceRequest,
        intake,
        local_reply::{LocalReply, echo},
    },
    sync::RoutingState,
    telemetry::{access_log::AccessLog, metrics::Metrics},
    view::{RoutingPool, RoutingView, models},
};

/// What every request of this proxy shares.
pub(crate) struct Proxy {
    pub(crate) knowledge: RoutingState,
    pub(crate) gate: AdmissionLimit,
    pub(crate) chooser: EndpointSelector,
    pub(crate) forwarder: Forwarder,
    /// Where stored responses live, as far as this proxy saw them made.
    pub(crate) responses: Arc<Mutex<Responses>>,
    pub(crate) reporter: Arc<Reporter>,
    pub(crate) records: Arc<AccessLog>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) drain: Drain,
    /// Requests count from here, so that their ids are unique in this run.
    pub(crate) requests: AtomicU64,
    /// This run's name: part of fresh request ids, and of every choice's randomness.
    pub(crate) run: u64,
}

impl Proxy {
    /// Answers a request. Cannot fail: every error has its response.
    pub(crate) async fn serve(
        &self,
        mut request: Request<Incoming>,
        client: SocketAddr,
    ) -> Response<ResponseBody> {
        let arrived = Instant::now();
        let id = self.requests.fetch_add(1, Ordering::Relaxed);
        let request_id = headers::request_id(request.headers(), || {
            format!("req-{:012x}{id:06x}", self.run >> 16)
        });
        // The engine, the logs and the client know the request by the same id.
        request
            .headers_mut()
            .insert(headers::REQUEST_ID, request_id.clone());
        let trace = RequestTrace::begin(&request);
        let server = trace.server.clone();
        trace::identify(&server, &request_id, client);

        let mut api = None;
        let mut response = match self
            .route(
                request,
                RequestStart {
                    id,
                    at: arrived,
                    trace,
                },
                &mut api,
            )
            .await
        {
            Ok(response) => {
                trace::status(&server, response.status());
                response
            }
            Err(refusal) => {
                tracing::debug!(request = request_id.to_str().unwrap_or(""), %refusal, "refused");
                self.metrics.refused(refusal.code());
                trace::refused(&server, &refusal);
                refusal
                    .into_response(api, request_id.to_str().unwrap_or_default())
                    .map(ResponseBody::from)
            }
        };
        response
            .headers_mut()
            .insert(headers::REQUEST_ID, request_id);
        response
    }

    /// The path itself. `api` tells the caller which error shape the client reads, as soon as that is known.
    async fn route(
        &self,
        request: Request<Incoming>,
        arrival: RequestStart,
        api: &mut Option<Api>,
    ) -> Result<Response<ResponseBody>, LocalReply> {
        // One load per request: every later step sees the same cluster.
        let view = self
            .knowledge
            .view
            .load_full()
            .ok_or(LocalReply::NotReady)?;
        let settings = view.settings();

        // Admit.
        let mut permit = self
            .gate
            .try_acquire(settings.max_concurrent)
            .ok_or(LocalReply::Overloaded)?;
        intake::check_head(request.headers())?;

        // Read.
        let (head, body) = request.into_parts();
        let path = head.uri.path().to_owned();
        let route = api::route(&head.method, &path, &settings.extra_paths).map_err(unrouted)?;
        *api = Some(route.api);
        trace::routed(&arrival.trace.server, route, &head.method);
        match route.api {
            Api::Models => return Ok(json(models::list(&view))),
            Api::Model => return models::one(&view, route.path).map(json),
            _ => {}
        }
        let bytes = intake::read_body(
            body,
            settings.max_body_bytes,
            settings.client_timeout,
            &mut permit,
        )
        .await?;
        let call = InferenceRequest::parse(route, head, &bytes)?;
        if call.stripped {
            self.metrics.stripped.inc();
        }

        // Choose.
        let pinned = self.pinned(&view, &call, arrival.id).await?;
        let pool = match &pinned {
            Some((pool, _)) => pool,
            None => view.route(call.model.as_deref())?,
        };
        let held = (permit, self.drain.track());
        let told = (Arc::clone(&self.reporter), Arc::clone(&self.records));
        let mut account =
            RequestGuard::open(arrival, Arc::clone(pool), call.model.as_deref(), told, held);
        account.describe(&call, view.snapshot.version);
        let plan = match &pinned {
            Some((_, plan)) => {
                // Most of its prompt is not in its body, but in what the engine stored.
                account.asks(
                    &Query {
                        prompt_tokens: 1,
                        ..Query::default()
                    },
                    &call,
                );
                plan
            }
            None => &self
                .choose(pool, &call, &mut account)
                .await
                .inspect_err(|refusal| account.refused(refusal))?,
        };
        account.planned(plan);

        // Forward.
        let begun = self
            .forwarder
            .forward(&call, pool, plan, &mut account)
            .await?;

        // Relay.
        let endpoint = settings
            .expose_endpoint
            .then(|| Arc::clone(&begun.upstream.endpoint.name));
        let responses = (call.api == Api::Responses).then(|| Arc::clone(&self.responses));
        let mut response = relay(
            begun,
            account,
            &call,
            pool.pool.spec.policy.timeouts,
            responses,
        );
        if let Some(name) = endpoint.and_then(|name| HeaderValue::from_str(&name).ok()) {
            response.headers_mut().insert(headers::ENDPOINT, name);
        }
        Ok(response)
    }

    async fn choose(
        &self,
        pool: &Arc<RoutingPool>,
        call: &InferenceRequest,
        account: &mut RequestGuard,
    ) -> Result<Selection, LocalReply> {
        let spec = &pool.pool.spec;
        let span = account.trace.route(
            &spec.name,
            spec.policy.strategy.name(),
            pool.upstreams.len(),
        );
        let context = propagation::egress(&span, &account.trace.incoming);
        let mut dice = Dice::new(self.run ^ account.id.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let hashed = self.records.has_listeners();
        let query = call
            .prompt
            .query(&spec.policy, call.model.as_deref(), &call.headers, hashed);
        account.asks(&query, call);
        let wanted = SelectionRequest {
            pool,
            call,
            id: account.id,
            query: &query,
            context,
        };
        let plan = self.chooser.choose(&wanted, &mut dice).await;
        match &plan {
            Ok(plan) => {
                pool.metrics.chose(plan.rung);
                trace::chosen(&span, plan);
            }
            Err(refusal) => trace::failed(&span, refusal.code()),
        }
        plan
    }

    /// The endpoint that a stored response binds a request to, by what this proxy or the control plane saw.
    async fn pinned(
        &self,
        view: &RoutingView,
        call: &InferenceRequest,
        id: u64,
    ) -> Result<Option<(Arc<RoutingPool>, Selection)>, LocalReply> {
        let Some(response) = &call.response else {
            return Ok(None);
        };
        let known = self
            .responses
            .lock()
            .endpoint(response.key)
            .and_then(|endpoint| view.upstream(endpoint));
        if let Some((pool, upstream)) = known {
            let target = SelectedEndpoint {
                upstream: Arc::clone(upstream),
                cached_tokens: 0,
                source: None,
            };
            return Ok(Some((
                Arc::clone(pool),
                Selection {
                    ranked: smallvec![target],
                    ..Selection::default()
                },
            )));
        }
        if call.api != Api::StoredResponse {
            // A conversation names its model: its pool's owner is asked when the endpoint is chosen.
            return Ok(None);
        }
        for pool in &view.pools {
            if let Some(plan) = self.chooser.locate(pool, call, id).await {
                return Ok(Some((Arc::clone(pool), plan)));
            }
        }
        Err(LocalReply::UnknownResponse(echo(&response.id)))
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
