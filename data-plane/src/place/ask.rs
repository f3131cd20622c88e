//! Asking the picker of a pool whose endpoints another one chooses.
//!
//! A destination is an address that another process states: it is used only if it is that of an
//! endpoint of the pool. What a picker sets in the head of a request passes, as it is trusted to steer what
//! stands behind this proxy; what a client sets of that was removed before.

use std::{borrow::Cow, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use hermes_core::{inference_pool::PickerFailure, load::Health, placement::Placement};
use hermes_runtime::propagation;
use http::HeaderMap;
use tokio::time::Instant;
use tracing::Span;

use super::Placer;
use crate::{
    asked_picker::{
        AskLimits, PickedDestination, PickerAnswer, PickerClient, PickerExchange, PickerFault,
        PickerQuestion,
    },
    choose::{EndpointSelection, RankedPlacements, SelectedEndpoint, SelectionDetails},
    clock::uptime,
    endpoint::Upstream,
    exchange::{guard::RequestGuard, trace},
    request::{
        inference_request::{EditedRequest, InferenceRequest},
        intake,
        local_reply::LocalReply,
    },
    telemetry::metrics::{AskResult, FallbackLevel},
    view::RoutingPool,
};

/// Endpoints that are named to a picker as the only ones it may choose. A larger pool is left to
/// what the picker knows of it: the list would be longer than most requests.
const MAX_NAMED: usize = 128;

/// What a picker may add to a body beyond the limit for clients, in bytes.
const ADDED_BODY: u64 = 64 << 10;

/// What another picker has chosen, and its stream, which is to be shown the answer.
type PickedSelection = (EndpointSelection, Box<PickerExchange>);

/// An answer that can be used.
enum UsedAnswer {
    Picked(Box<PickedPlacements>),
    Replied(LocalReply),
}

/// A destination with the endpoints of the pool that it names: at least one.
struct PickedPlacements {
    destination: PickedDestination,
    ranked: RankedPlacements,
    exchange: PickerExchange,
}

impl Placer {
    /// Asks the picker of the pool, and edits the request as it says. `None`: it failed, and the
    /// pool's own choice is to take its place.
    ///
    /// # Errors
    ///
    /// When the picker answers the client, or fails where its failures close.
    pub(super) async fn ask(
        &self,
        client: &Arc<PickerClient>,
        pool: &Arc<RoutingPool>,
        request: &mut InferenceRequest,
        guard: &mut RequestGuard,
    ) -> Result<Option<PickedSelection>, LocalReply> {
        let spec = &pool.pool.spec;
        let span = guard.trace.route(
            &spec.name,
            FallbackLevel::Picker.name(),
            pool.upstreams.len(),
        );
        let query = request.query(spec, self.access_log.has_listeners());
        guard.set_query(&query, request);
        let began = Instant::now();
        let answer = self
            .answer_of(client, (pool, request), (&span, guard))
            .await?;
        let metrics = &pool.metrics.asked;
        metrics.duration.observe(began.elapsed().as_secs_f64());
        client.note(answer.as_ref().err());
        let picked = match answer {
            Ok(UsedAnswer::Picked(picked)) => picked,
            Ok(UsedAnswer::Replied(reply)) => {
                metrics.questions[AskResult::Replied].inc();
                trace::failed(&span, reply.code());
                return Err(reply);
            }
            Err(fault) => {
                metrics.questions[fault.result()].inc();
                trace::failed(&span, fault.result().name());
                return match client.picker.on_failure {
                    PickerFailure::Open => Ok(None),
                    PickerFailure::Close => Err(LocalReply::PickerFailed(fault.for_clients())),
                };
            }
        };
        metrics.questions[AskResult::Picked].inc();
        let PickedPlacements {
            destination,
            ranked,
            exchange,
        } = *picked;
        edit(request, destination, guard)?;
        let selection = EndpointSelection {
            ranked,
            level: FallbackLevel::Picker,
            why: SelectionDetails::default(),
        };
        pool.metrics.selections.levels[selection.level].inc();
        trace::selected(&span, &selection);
        Ok(Some((selection, Box::new(exchange))))
    }

    /// What the picker answers, with the endpoints that it names.
    async fn answer_of(
        &self,
        client: &Arc<PickerClient>,
        (pool, request): (&RoutingPool, &InferenceRequest),
        (span, guard): (&Span, &RequestGuard),
    ) -> Result<Result<UsedAnswer, PickerFault>, LocalReply> {
        let body = request.leg_body(&[])?.into_pieces();
        let terms = request.terms.as_ref();
        let question = PickerQuestion {
            method: &request.method,
            target: &request.target,
            host: terms.and_then(|terms| terms.host.stated()),
            headers: &traced(request, span, guard),
            body: &body,
            among: named(pool),
        };
        let timeouts = pool.pool.spec.policy.timeouts;
        let limits = AskLimits {
            connect: timeouts.connect,
            answer: timeouts.first_byte,
            body: self.longest_body(),
        };
        Ok(match PickerExchange::ask(client, &question, limits).await {
            Err(fault) => Err(fault),
            Ok((PickerAnswer::Replied(reply), _)) => Ok(UsedAnswer::Replied(
                LocalReply::FromPicker(reply.status, reply),
            )),
            Ok((PickerAnswer::Picked(destination), exchange)) => {
                let ranked = self.placements(pool, &destination.sockets);
                match exchange.filter(|_| !ranked.is_empty()) {
                    Some(exchange) => Ok(UsedAnswer::Picked(Box::new(PickedPlacements {
                        destination,
                        ranked,
                        exchange,
                    }))),
                    None => Err(PickerFault::NoEndpoint),
                }
            }
        })
    }

    /// In bytes.
    fn longest_body(&self) -> usize {
        let view = self.routing.view.load();
        let limit = view
            .as_ref()
            .map_or(0, |view| view.settings().max_body_bytes);
        usize::try_from(limit + ADDED_BODY).unwrap_or(usize::MAX)
    }

    /// The endpoints at these addresses, in their order: those of the pool, or else of the newest
    /// view of it, which may have one that the picker has seen a moment before.
    fn placements(&self, pool: &RoutingPool, sockets: &[SocketAddr]) -> RankedPlacements {
        let known = at(&pool.upstreams, sockets);
        if known.len() == sockets.len() {
            return known;
        }
        let view = self.routing.view.load();
        let newest = view.as_ref().and_then(|view| view.pool(pool.name()));
        let newer = newest.map(|newest| at(&newest.upstreams, sockets));
        newer
            .filter(|newer| newer.len() > known.len())
            .unwrap_or(known)
    }
}

/// The endpoints at these addresses, in their order; what is at none is left out.
fn at(upstreams: &[Arc<Upstream>], sockets: &[SocketAddr]) -> RankedPlacements {
    let find = |socket: &SocketAddr| {
        let mut upstreams = upstreams.iter();
        upstreams.find(|upstream| upstream.known_socket() == Some(*socket))
    };
    let found = sockets.iter().filter_map(find);
    let placement = |upstream: &Arc<Upstream>| {
        Placement::One(SelectedEndpoint {
            upstream: Arc::clone(upstream),
            cached_tokens: 0,
            source: None,
        })
    };
    found.map(placement).collect()
}

/// The endpoints that the picker may choose: those that are not down, or all if all are. `None` if
/// they are too many, or are not all known by an address.
fn named(pool: &RoutingPool) -> Option<Vec<SocketAddr>> {
    if pool.upstreams.len() > MAX_NAMED {
        return None;
    }
    let now = uptime();
    let sockets = pool.upstreams.iter().map(|upstream| {
        let is_down = upstream.load(now).health == Health::Down;
        Some((upstream.known_socket()?, is_down))
    });
    let sockets = sockets.collect::<Option<Vec<_>>>()?;
    let are_all_down = sockets.iter().all(|(_, is_down)| *is_down);
    let chosen = sockets
        .into_iter()
        .filter(|(_, is_down)| are_all_down || !is_down);
    Some(chosen.map(|(socket, _)| socket).collect())
}

/// The headers of the request, with the trace context of its question.
fn traced<'r>(
    request: &'r InferenceRequest,
    span: &Span,
    guard: &RequestGuard,
) -> Cow<'r, HeaderMap> {
    if span.is_disabled() {
        return Cow::Borrowed(&request.headers);
    }
    let mut headers = request.headers.clone();
    propagation::inject(
        &propagation::egress(span, &guard.trace.incoming),
        &mut headers,
    );
    Cow::Owned(headers)
}

/// Edits the request as the picker says.
fn edit(
    request: &mut InferenceRequest,
    picked: PickedDestination,
    guard: &mut RequestGuard,
) -> Result<(), LocalReply> {
    let (mut headers, mut target) = (request.headers.clone(), request.target.clone());
    picked.edit(&mut headers, &mut target);
    intake::check_head(&headers)?;
    if let Some(body) = &picked.body {
        let length = body.iter().map(Bytes::len).sum::<usize>() as u64;
        if !guard.reserve_bytes(length) {
            return Err(LocalReply::Overloaded);
        }
    }
    request.edit(EditedRequest {
        headers,
        target,
        body: picked.body,
    });
    Ok(())
}
