//! What a gateway is given: the endpoints, and how the request differs from the client's.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hermes_core::{placement::Placement, query::MAX_RANKED, stored_responses::ResponseLocations};
use hermes_runtime::propagation;
use http::{HeaderMap, HeaderName, HeaderValue, uri::PathAndQuery};
use opentelemetry::Context;
use parking_lot::Mutex;
use smallvec::{SmallVec, smallvec};
use tokio::time::Instant;

use super::{ExchangePhase, GatewayExchange};
use crate::{
    choose::{EndpointSelection, SelectedEndpoint},
    clock::uptime,
    endpoint::{EndpointAdmission, Upstream},
    exchange::{
        admitted_endpoint::AdmittedEndpoint,
        attempt::{Attempt, LegStage},
        guard::RequestGuard,
        leg::LegDeadline,
        placements,
        turn::{PlacementTurn, TurnRules},
    },
    pair::{self, LegEdits, PairEndpoints, PairPlan},
    request::{inference_request::InferenceRequest, leg_body::LegBody, local_reply::LocalReply},
    telemetry::metrics::RequestOutcome,
    view::RoutingPool,
};

/// What a gateway is to send, and where.
pub(crate) struct GatewayOrder {
    /// Best first, at least one.
    pub(crate) sockets: SmallVec<[SocketAddr; MAX_RANKED]>,
    /// Path and query there.
    pub(crate) target: PathAndQuery,
    /// The client's headers as an endpoint gets them.
    pub(crate) headers: HeaderMap,
    /// Headers besides them, for the endpoint's sidecar.
    pub(crate) extra_headers: Vec<(HeaderName, HeaderValue)>,
    /// The trace context that the endpoint gets, if it is not the client's.
    pub(crate) context: Option<Context>,
    pub(crate) body: LegBody,
    /// The body differs from the client's.
    pub(crate) is_edited: bool,
}

/// An endpoint that a gateway may send a request to.
pub(super) struct NamedEndpoint {
    pub(super) endpoint: SelectedEndpoint,
    pub(super) socket: SocketAddr,
}

/// The prefill endpoint of a pair, to which the decode endpoint's sidecar sends a leg. Dropped, the
/// leg has no result.
pub(super) struct SidecarPrefill {
    upstream: Arc<Upstream>,
    /// What the leg is there, until it has a result.
    admission: EndpointAdmission,
}

/// A placement whose turn it is, with the address of the endpoint that the gateway sends to.
struct AddressedTurn<'a> {
    placement: Placement<AdmittedEndpoint<'a>>,
    socket: SocketAddr,
}

impl GatewayExchange {
    /// Names at most `most` endpoints of the selection to a gateway, and counts the request at the
    /// first.
    ///
    /// # Errors
    /// When no endpoint can be named, or the body cannot be edited.
    pub(crate) async fn begin(
        request: InferenceRequest,
        pool: &RoutingPool,
        selection: &EndpointSelection,
        (mut guard, responses): (RequestGuard, Option<Arc<Mutex<ResponseLocations>>>),
        most: usize,
    ) -> Result<(Self, GatewayOrder), LocalReply> {
        let timeouts = pool.pool.spec.policy.timeouts;
        let order = placements::order(&selection.ranked, pool, request.model.as_deref());
        let turn = take_turn(&order, pool, timeouts.connect, &guard).await;
        let Some(turn) = turn else {
            guard.failed(RequestOutcome::Failed);
            return Err(LocalReply::NoEndpoint);
        };
        let begun = Instant::now();
        let deadline = LegDeadline::of(&request, timeouts, begun, begun);
        pool.budget.deposit();
        guard.count_attempt(&request);
        let (attempt, edits, prefill) = turn.begin((&request, pool), &mut guard);
        let mut named = smallvec![NamedEndpoint {
            endpoint: turn.endpoint().clone(),
            socket: turn.socket,
        }];
        if prefill.is_none() {
            let first = turn.socket;
            add_others(&mut named, &order, (first, most), timeouts.connect).await;
        }
        let body = request
            .leg_body(&edits.body)
            .inspect_err(|_| guard.failed(RequestOutcome::ClientError))?;
        let span = &attempt.facts().span;
        let context =
            (!span.is_disabled()).then(|| propagation::egress(span, &guard.trace.incoming));
        let order = GatewayOrder {
            sockets: named.iter().map(|named| named.socket).collect(),
            target: turn.endpoint().upstream.target(&request.target),
            headers: request.headers.clone(),
            extra_headers: edits.headers,
            context,
            body,
            is_edited: request.has_control_fields
                || request.is_rewritten()
                || !edits.body.is_empty(),
        };
        let exchange = Self {
            request,
            timeouts,
            named,
            prefill,
            deadline,
            responses,
            restorer: None,
            last_piece: begun,
            shows_body: true,
            phase: ExchangePhase::Named(Box::new((guard, attempt))),
        };
        Ok((exchange, order))
    }
}

impl AddressedTurn<'_> {
    /// The endpoint that the gateway sends to.
    fn endpoint(&self) -> &SelectedEndpoint {
        self.placement.decode().endpoint
    }

    /// Counts the request where it goes.
    fn begin(
        &self,
        (request, pool): (&InferenceRequest, &RoutingPool),
        guard: &mut RequestGuard,
    ) -> (Attempt, LegEdits, Option<Box<SidecarPrefill>>) {
        let (prefill, decode) = match self.placement {
            Placement::One(endpoint) => {
                let attempt = guard.begin_leg(LegStage::Both, endpoint, request);
                return (attempt, LegEdits::default(), None);
            }
            Placement::Pair { prefill, decode } => (prefill, decode),
        };
        let edits = sidecar_edits((request, pool), (&prefill, &decode));
        let Some(edits) = edits else {
            prefill.give_up();
            let attempt = guard.begin_leg(LegStage::Both, decode, request);
            return (attempt, LegEdits::default(), None);
        };
        let pair = (prefill.endpoint, decode.endpoint);
        let attempt = guard.begin_through(decode, pair, request);
        let prefill = SidecarPrefill {
            upstream: Arc::clone(prefill.upstream()),
            admission: prefill.admission,
        };
        (attempt, edits, Some(Box::new(prefill)))
    }
}

// === SidecarPrefill ===

impl SidecarPrefill {
    /// The decode endpoint's sidecar has answered.
    pub(super) fn ended(mut self, is_served: bool) {
        if is_served {
            self.admission = EndpointAdmission::default();
            self.upstream.succeeded(uptime());
        }
    }
}

impl Drop for SidecarPrefill {
    fn drop(&mut self) {
        self.upstream.abandoned(uptime(), self.admission);
    }
}

/// The first placement that admits the request, or else the best of the others, and has an address.
async fn take_turn<'a>(
    order: &'a [Placement<SelectedEndpoint>],
    pool: &RoutingPool,
    limit: Duration,
    guard: &RequestGuard,
) -> Option<AddressedTurn<'a>> {
    let mut placements = order.iter();
    while let Some(placement) = placements.next() {
        let failed = guard.failed_endpoints();
        let rules = TurnRules { pool, failed };
        let Some(turn) = PlacementTurn::take(placement, placements.clone(), rules) else {
            continue;
        };
        let decode = &placement.decode().upstream;
        match decode.socket(limit).await {
            Ok(socket) => {
                return Some(AddressedTurn {
                    placement: turn.placement(),
                    socket,
                });
            }
            Err(error) => {
                tracing::debug!(endpoint = %decode.endpoint.name, %error, "an endpoint has no address");
                turn.give_up();
            }
        }
    }
    None
}

/// Adds endpoints that serve the request alone, as long as there are fewer than `most`.
async fn add_others(
    named: &mut SmallVec<[NamedEndpoint; MAX_RANKED]>,
    order: &[Placement<SelectedEndpoint>],
    (first, most): (SocketAddr, usize),
    limit: Duration,
) {
    for endpoint in order.iter().filter_map(Placement::one) {
        if named.len() >= most {
            return;
        }
        if endpoint.upstream.is_removed() {
            continue;
        }
        if let Ok(socket) = endpoint.upstream.socket(limit).await
            && socket != first
        {
            let endpoint = endpoint.clone();
            named.push(NamedEndpoint { endpoint, socket });
        }
    }
}

/// How the request differs for the sidecar of a pair's decode endpoint; `None` in a pool whose
/// requests are not split so.
fn sidecar_edits(
    (request, pool): (&InferenceRequest, &RoutingPool),
    (prefill, decode): (&AdmittedEndpoint<'_>, &AdmittedEndpoint<'_>),
) -> Option<LegEdits> {
    let rules = pool.pool.spec.policy.disaggregation.as_ref()?;
    let endpoints = PairEndpoints {
        prefill: &prefill.upstream().endpoint,
        decode: &decode.upstream().endpoint,
    };
    match pair::plan(rules, request.api, endpoints, 0) {
        Ok(PairPlan::Through(pair::PairEntry::Decode, edits)) => Some(edits),
        _ => None,
    }
}
