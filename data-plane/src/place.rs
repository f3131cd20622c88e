//! Placing a request: all that happens between its arrival at a door and its exchange.
//!
//! ```text
//!   door ─▶ arrive ─▶ place: admit ─▶ follow ─▶ read ─▶ resolve ─▶ rewrite ─▶ choose ─▶ door: exchanges the placement
//!                       │        │         │        │           │         │
//!                   admission  route     intake    view      rewrite    choose    (each verb is another file)
//! ```
//!
//! A door is where requests come from: the HTTP server, and the gateways that ask where their
//! requests should go. It passes a plain [`http::Request`] with any body, and gets the placement
//! with all that an exchange needs, or a reply. Nothing here knows a server or a connection.
//!
//! Invariants: one view until the request is placed; from [`RequestGuard::open`] on, everything that
//! is counted is released when the guard is dropped, which the [`PlacedRequest`] owns.

mod ask;
mod copy;
mod resolve;
mod rewrite;
mod route;
mod subset;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use hermes_core::{
    address::ServerScheme, policy::PairDialect, query::Query, rng::SeededRng, snapshot::PoolSpec,
    stored_responses::ResponseLocations,
};
use hermes_runtime::{propagation, shutdown::Drain};
use http::{HeaderValue, Request, request};
use http_body::Body;
use parking_lot::Mutex;
use tokio::time::Instant;

use self::{
    resolve::{ResolvedPool, forget_unknown_model, stored_prompt},
    route::{RouteDecision, RoutedRequest, api_route, served_pools},
    subset::is_within,
};
pub(crate) use self::{route::Redirection, subset::EndpointSubset};
use crate::{
    asked_picker::PickerExchange,
    choose::{EndpointSelection, EndpointSelector, SelectionRequest, may_be_split},
    exchange::{
        guard::{RequestGuard, RequestStart},
        trace::{self, RequestTrace},
    },
    link::report::Reporter,
    request::{
        admission::{AdmissionLimit, AdmissionPermit},
        api::{Api, ApiRoute},
        content_encoding,
        entry::ClientEntry,
        fields::FieldScanner,
        headers::{self, RequestLoop, ViaEntry},
        inference_request::InferenceRequest,
        intake,
        local_reply::LocalReply,
        time_limits::{NoLimit, StepLimit},
    },
    sync::RoutingState,
    telemetry::{access_log::AccessLog, metrics::ProxyMetrics},
    view::{RoutingPool, RoutingView, models, pickers::PickerAuthority, routes::PreparedRule},
};

/// Places the requests of every door.
pub(crate) struct Placer {
    routing: RoutingState,
    admission: AdmissionLimit,
    selector: EndpointSelector,
    /// The endpoints of stored responses that passed this proxy.
    responses: Arc<Mutex<ResponseLocations>>,
    reporter: Arc<Reporter>,
    access_log: Arc<AccessLog>,
    metrics: Arc<ProxyMetrics>,
    drain: Drain,
    /// The next request's id, unique in this run.
    next_id: AtomicU64,
    /// Random id of this run: part of generated request ids, and of the seed of every selection.
    run: u64,
    via: ViaEntry,
}

/// A request that has come to a door.
pub(crate) struct ArrivedRequest {
    /// The id under which the client, the logs and the engine know it.
    pub(crate) request_id: HeaderValue,
    pub(crate) start: RequestStart,
}

/// What a door wants to have placed.
pub(crate) struct DoorRequest<'d, B> {
    pub(crate) request: Request<B>,
    pub(crate) start: RequestStart,
    /// The port whose routes the request follows; `None`: it follows none.
    pub(crate) entry: Option<&'d ClientEntry>,
    pub(crate) rules: DoorRules,
}

/// What a door asks of a placement.
pub(crate) struct DoorRules {
    pub(crate) pairs: DoorPairs,
    /// The endpoints that the request may be sent to, if not every one of the pool.
    pub(crate) subset: Option<EndpointSubset>,
    /// The picker that was asked, by which pools differ that serve the same model.
    pub(crate) picker: Option<PickerAuthority>,
    /// Another picker is asked, where one chooses the pool's endpoints. A gateway that has asked
    /// this one gets its own choice: two pickers that ask each other would never answer.
    pub(crate) asks_pickers: bool,
}

/// The prefill/decode pairs that a door can exchange. Besides them, it gets single endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DoorPairs {
    /// Those of every dialect.
    All,
    /// Those whose decode endpoint, or the sidecar before it, sends the prefill leg: one endpoint
    /// gets the request.
    ThroughDecode,
}

/// What becomes of a request.
pub(crate) enum Placed {
    /// The proxy answers it, with this JSON.
    Answered(Bytes),
    /// The client is sent elsewhere.
    Redirected(Redirection),
    /// Endpoints are to serve it. Boxed: it is a thousand bytes, and passes through several
    /// futures.
    Request(Box<PlacedRequest>),
}

/// A request with its placements, and what an exchange needs besides.
pub(crate) struct PlacedRequest {
    pub(crate) request: InferenceRequest,
    pub(crate) pool: Arc<RoutingPool>,
    /// At least one placement, best first.
    pub(crate) selection: EndpointSelection,
    pub(crate) guard: RequestGuard,
    /// The stream of the picker that chose, if that was another one. It is to be shown the answer.
    pub(crate) picked: Option<Box<PickerExchange>>,
    /// The rule of the route that it follows.
    pub(crate) rule: Option<Arc<PreparedRule>>,
    /// Where to note the endpoint of a stored response, if the answer may be one.
    pub(crate) responses: Option<Arc<Mutex<ResponseLocations>>>,
    /// The client may know which endpoint answered.
    pub(crate) exposes_endpoint: bool,
}

/// A request that is answered locally, and the API whose error format its client reads, if it is
/// known.
pub(crate) struct Rejection {
    pub(crate) reply: LocalReply,
    pub(crate) api: Option<Api>,
}

impl Placer {
    /// `run` is the random id of this run.
    pub(crate) fn new(
        routing: RoutingState,
        run: u64,
        (reporter, access_log): (Arc<Reporter>, Arc<AccessLog>),
        metrics: Arc<ProxyMetrics>,
        (drain, admission): (Drain, AdmissionLimit),
    ) -> Self {
        Self {
            selector: EndpointSelector::new(routing.clone(), run),
            routing,
            admission,
            responses: Arc::default(),
            reporter,
            access_log,
            metrics,
            drain,
            next_id: AtomicU64::new(1),
            run,
            via: ViaEntry::new(run),
        }
    }

    /// Numbers the request, gives it the id that its client, the logs and the engine use, and
    /// begins its span.
    pub(crate) fn arrive<B>(
        &self,
        request: &mut Request<B>,
        (client, scheme): (SocketAddr, ServerScheme),
    ) -> ArrivedRequest {
        let at = Instant::now();
        let id = self.new_id();
        let request_id = headers::request_id(request.headers(), || {
            format!("req-{:012x}{id:06x}", self.run >> 16)
        });
        let headers = request.headers_mut();
        headers.insert(headers::REQUEST_ID, request_id.clone());
        headers::forward_for(headers, client.ip(), scheme);
        let trace = RequestTrace::begin(request);
        trace::identify(&trace.server, &request_id, client);
        ArrivedRequest {
            request_id,
            start: RequestStart { id, at, trace },
        }
    }

    /// An id that no other request of this run has.
    fn new_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// The seed of everything that is random about a request.
    const fn seed(&self, id: u64) -> u64 {
        self.run ^ id.wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }

    /// Admits the request, reads it, resolves its pool and chooses its placements.
    ///
    /// # Errors
    ///
    /// With the local reply, when it is not to be exchanged.
    pub(crate) async fn place<B>(&self, door: DoorRequest<'_, B>) -> Result<Placed, Rejection>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let DoorRequest {
            request,
            start,
            entry,
            rules,
        } = door;
        // One load per request: every later step uses the same snapshot.
        let view = self.routing.view.load_full();
        let view = view.ok_or(LocalReply::NotReady)?;
        let permit = self.admit(&view, &request)?;
        let (mut head, body) = request.into_parts();
        let entered = self.via.enter(&mut head.headers);
        entered.map_err(|RequestLoop| LocalReply::Loop)?;
        let routed = match self.follow(&view, &mut head, entry, &start)? {
            RouteDecision::ByModel => None,
            RouteDecision::Redirected(elsewhere) => return Ok(Placed::Redirected(elsewhere)),
            RouteDecision::Routed(routed) => Some(routed),
        };
        let path = head.uri.path().to_owned();
        let route = api_route(&view, &head.method, &path, routed.as_deref())?;
        trace::routed(&start.trace.server, route, &head.method);
        let pools = || served_pools(&view, routed.as_deref());
        let placed = match route.api {
            Api::Models => Ok(Placed::Answered(models::list(pools()))),
            Api::Model => models::one(pools(), route.path).map(Placed::Answered),
            _ => {
                let arrived = (route, head, body);
                let taken = (start, permit);
                let placing = match &routed {
                    None => {
                        self.at_endpoints(&view, arrived, (None, NoLimit), taken, &rules)
                            .await
                    }
                    // Boxed, so that requests that follow no route need not have room for it.
                    Some(routed) => {
                        let limit = (Some(&**routed), routed.terms.limits.whole);
                        let placing = self.at_endpoints(&view, arrived, limit, taken, &rules);
                        Box::pin(placing).await
                    }
                };
                placing.map(Placed::Request)
            }
        };
        placed.map_err(|reply| Rejection {
            reply,
            api: Some(route.api),
        })
    }

    /// Counts the request in, if there is room, and bounds its head.
    fn admit<B>(
        &self,
        view: &RoutingView,
        request: &Request<B>,
    ) -> Result<AdmissionPermit, LocalReply> {
        let permit = self.admission.try_acquire(view.settings().max_concurrent);
        let permit = permit.ok_or(LocalReply::Overloaded)?;
        intake::check_head(request.headers())?;
        Ok(permit)
    }

    /// Places a request that endpoints are to serve.
    async fn at_endpoints<B, L>(
        &self,
        view: &RoutingView,
        arrived: (ApiRoute<'_>, request::Parts, B),
        (routed, limit): (Option<&RoutedRequest>, L),
        (mut start, mut permit): (RequestStart, AdmissionPermit),
        rules: &DoorRules,
    ) -> Result<Box<PlacedRequest>, LocalReply>
    where
        B: Body<Data = Bytes> + Unpin,
        L: StepLimit,
    {
        let reading = self.read(view, arrived, &mut permit);
        let mut request = limit.bound(reading).await?;
        request.terms = routed.map(|routed| Box::new(routed.terms.clone()));
        forget_unknown_model(view, routed, &mut request);
        let asked = (&request, rules.picker.as_ref());
        let resolving = self.resolve(view, routed, asked, &mut start.id);
        let ResolvedPool { pool, pinned } = resolving.await?;
        self.rewrite(&pool, pinned.as_ref(), start.id, &mut request);
        let held = (permit, self.drain.track());
        let sinks = (Arc::clone(&self.reporter), Arc::clone(&self.access_log));
        let model = request.model.as_deref();
        let mut guard = RequestGuard::open(start, Arc::clone(&pool), model, sinks, held);
        guard.describe(&request, view.snapshot.version);
        let selected = match pinned {
            Some(selection) => {
                guard.set_query(&stored_prompt(), &request);
                is_within(rules.subset.as_ref(), &selection)
                    .then_some((selection, None))
                    .ok_or(LocalReply::NoEndpoint)
            }
            None => {
                let selecting = self.select(&pool, &mut request, rules, &mut guard);
                limit.bound(selecting).await
            }
        };
        let (selection, picked) = selected.inspect_err(|reply| guard.selection_failed(reply))?;
        guard.set_selection(&selection);
        Ok(Box::new(PlacedRequest {
            rule: routed.map(|routed| Arc::clone(&routed.rule)),
            responses: (request.api == Api::Responses).then(|| Arc::clone(&self.responses)),
            exposes_endpoint: view.settings().expose_endpoint,
            request,
            pool,
            selection,
            guard,
            picked,
        }))
    }

    /// Selects placements in the pool: by the picker that is asked for them, or else here.
    async fn select(
        &self,
        pool: &Arc<RoutingPool>,
        request: &mut InferenceRequest,
        rules: &DoorRules,
        guard: &mut RequestGuard,
    ) -> Result<(EndpointSelection, Option<Box<PickerExchange>>), LocalReply> {
        if let Some(client) = pool.asked.as_ref().filter(|_| rules.asks_pickers) {
            // Boxed: few pools have another picker.
            let asking = Box::pin(self.ask(client, pool, request, guard));
            if let Some((selection, exchange)) = asking.await? {
                return Ok((selection, Some(exchange)));
            }
        }
        let selection = self.choose(pool, request, rules, guard).await?;
        Ok((selection, None))
    }

    /// Reads the body, and what routing needs of the request; who sends it is part of that.
    async fn read<B>(
        &self,
        view: &RoutingView,
        (route, head, body): (ApiRoute<'_>, request::Parts, B),
        permit: &mut AdmissionPermit,
    ) -> Result<InferenceRequest, LocalReply>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        content_encoding::check(route.api, &head.headers)?;
        let settings = view.settings();
        let (limit, timeout) = (settings.max_body_bytes, settings.client_timeout);
        let mut scanner = route.api.reads_json().then(FieldScanner::default);
        let body = intake::read_body(body, limit, timeout, permit, scanner.as_mut()).await?;
        let request = InferenceRequest::parse(route, head, body, scanner)?;
        if request.has_control_fields {
            self.metrics.requests.control_fields_stripped.inc();
        }
        Ok(request)
    }

    /// Selects placements in the pool, in a span of its own.
    async fn choose(
        &self,
        pool: &Arc<RoutingPool>,
        request: &InferenceRequest,
        rules: &DoorRules,
        guard: &mut RequestGuard,
    ) -> Result<EndpointSelection, LocalReply> {
        let spec = &pool.pool.spec;
        let strategy = spec.policy.strategy.name();
        let span = guard
            .trace
            .route(&spec.name, strategy, pool.upstreams.len());
        let context = propagation::egress(&span, &guard.trace.incoming);
        let mut rng = SeededRng::new(self.seed(guard.id));
        let hashed = self.access_log.has_listeners();
        let mut query = request.query(spec, hashed);
        if let Some(subset) = &rules.subset {
            query.exclude = subset.others(&pool.upstreams);
            if query.exclude.len() == pool.upstreams.len() {
                return Err(LocalReply::NoEndpoint);
            }
        }
        guard.set_query(&query, request);
        let wanted = SelectionRequest {
            pool,
            request,
            id: guard.id,
            query: &query,
            // A choice among some endpoints is one of single endpoints: the other half of a pair
            // may not be among them.
            accepts_pairs: query.exclude.is_empty() && rules.pairs.may_split(request, spec),
            context,
        };
        let selected = self.selector.choose(&wanted, &mut rng).await;
        let selection = selected.and_then(|selection| unless_uncached(selection, &query));
        match &selection {
            Ok(selection) => {
                pool.metrics.selections.levels[selection.level].inc();
                trace::selected(&span, selection);
            }
            Err(reply) => trace::failed(&span, reply.code()),
        }
        selection
    }
}

impl DoorPairs {
    /// Whether endpoints of this pool may compute the prompt of a request for each other, and the
    /// door can exchange that.
    fn may_split(self, request: &InferenceRequest, spec: &PoolSpec) -> bool {
        let Some(rules) = &spec.policy.disaggregation else {
            return false;
        };
        let is_exchanged = match self {
            Self::All => true,
            Self::ThroughDecode => rules.dialect == PairDialect::LlmDSidecar,
        };
        is_exchanged && may_be_split(request, spec)
    }
}

/// The selection, unless the request is to be served only where its prompt is cached, and that is
/// not at its first placement.
fn unless_uncached(
    selection: EndpointSelection,
    query: &Query,
) -> Result<EndpointSelection, LocalReply> {
    if !query.only_cached {
        return Ok(selection);
    }
    let tokens = selection.why.prompt_tokens.unwrap_or(query.prompt_tokens);
    let first = selection.ranked.first();
    let cached = first.map_or(0, |placement| placement.prefill().cached_tokens);
    if query.is_covered_of(tokens, cached) {
        Ok(selection)
    } else {
        Err(LocalReply::PromptNotCached)
    }
}

impl From<LocalReply> for Rejection {
    fn from(reply: LocalReply) -> Self {
        Self { reply, api: None }
    }
}

#[cfg(test)]
mod tests;
