//! The spans of one request: server, route, and one client span per attempt.
//!
//! They exist only when traces are exported (see [`hermes_runtime::telemetry`]); otherwise every
//! function here returns a disabled span and costs a branch. Of a client's request only the model's
//! name is an attribute; prompts, credentials and header values are not.

use std::{net::SocketAddr, time::Duration};

use hermes_core::{query::CacheSource, snapshot::Version};
use hermes_runtime::{propagation, telemetry::TRACE_TARGET};
use http::{HeaderValue, Method, Request, StatusCode};
use opentelemetry::Context;
use tracing::{Span, field::Empty, info_span};

use super::pair_times::TtftParts;
use crate::{
    choose::{EndpointSelection, SelectedEndpoint, SelectionDetails},
    endpoint::Upstream,
    request::{api::ApiRoute, inference_request::InferenceRequest, local_reply::LocalReply},
};

/// The most bytes of a client-made name that a span repeats.
const LONGEST_NAME: usize = 256;

/// A request's spans, and the client's trace context.
pub(crate) struct RequestTrace {
    pub(crate) server: Span,
    /// The client's trace context: forwarded to the endpoint even when nothing is exported here.
    pub(crate) incoming: Context,
}

impl RequestTrace {
    /// The server span; it lives until the last byte of the answer.
    pub(crate) fn begin<B>(request: &Request<B>) -> Self {
        let incoming = propagation::extract(request.headers());
        let server = info_span!(
            target: TRACE_TARGET,
            "request",
            // Until the route is known: the path of a client would be an unbounded name.
            otel.name = method_name(request.method(), "HTTP"),
            otel.kind = "server",
            otel.status_code = Empty,
            http.request.method = method_name(request.method(), "_OTHER"),
            http.route = Empty,
            hermes.route = Empty,
            url.path = request.uri().path(),
            url.scheme = "http",
            http.response.status_code = Empty,
            client.address = Empty,
            error.type = Empty,
            hermes.request.id = Empty,
            hermes.outcome = Empty,
            hermes.pool = Empty,
            hermes.endpoint = Empty,
            hermes.strategy = Empty,
            hermes.snapshot.version = Empty,
            http.request.resend_count = Empty,
            gen_ai.operation.name = Empty,
            gen_ai.request.model = Empty,
            gen_ai.request.stream = Empty,
            gen_ai.response.model = Empty,
            gen_ai.response.time_to_first_chunk = Empty,
            gen_ai.usage.input_tokens = Empty,
            gen_ai.usage.output_tokens = Empty,
            gen_ai.usage.cache_read.input_tokens = Empty,
            hermes.ttft.queue = Empty,
            hermes.ttft.prefill = Empty,
            hermes.ttft.handover = Empty,
            hermes.ttft.transfer = Empty,
            hermes.ttft.first_step = Empty,
        );
        propagation::adopt(&server, &incoming);
        Self { server, incoming }
    }

    /// The selection of endpoints.
    pub(crate) fn route(&self, pool: &str, strategy: &str, candidates: usize) -> Span {
        info_span!(
            target: TRACE_TARGET,
            parent: &self.server,
            "route",
            otel.kind = "internal",
            hermes.pool = pool,
            hermes.strategy = strategy,
            hermes.candidates = candidates as i64,
            hermes.decided_by = Empty,
            hermes.endpoint = Empty,
            hermes.expected.cached_tokens = Empty,
            hermes.expected.source = Empty,
            hermes.expected.wait = Empty,
            hermes.expected.time_to_first_token = Empty,
            hermes.waited = Empty,
            hermes.gamma = Empty,
            hermes.runner_up = Empty,
        )
    }

    /// One leg of an attempt; siblings under the server span. `stage`: what the leg is for.
    pub(crate) fn attempt(
        &self,
        upstream: &Upstream,
        request: &InferenceRequest,
        stage: &'static str,
        resend: u32,
    ) -> Span {
        let operation = request.api.operation();
        let model = request.model.as_deref();
        let span = info_span!(
            target: TRACE_TARGET,
            parent: &self.server,
            "attempt",
            otel.name = Empty,
            otel.kind = "client",
            otel.status_code = Empty,
            http.request.method = "POST",
            http.request.resend_count = Empty,
            http.response.status_code = Empty,
            error.type = Empty,
            server.address = Empty,
            server.port = Empty,
            hermes.stage = stage,
            gen_ai.operation.name = operation,
            gen_ai.request.model = model.map(bounded),
        );
        if span.is_disabled() {
            return span;
        }
        let address = &upstream.endpoint.address;
        span.record(
            "otel.name",
            format!("{operation} {}", model.map(bounded).unwrap_or_default()).trim_end(),
        );
        span.record("server.address", address.host().to_string());
        span.record("server.port", i64::from(address.port().get()));
        if resend > 0 {
            span.record("http.request.resend_count", i64::from(resend));
        }
        span
    }
}

/// Records the client and the request's id in the server span.
pub(crate) fn identify(span: &Span, request_id: &HeaderValue, client: SocketAddr) {
    if span.is_disabled() {
        return;
    }
    span.record("hermes.request.id", request_id.to_str().unwrap_or_default());
    span.record("client.address", client.ip().to_string());
}

/// Records the route in the server span.
pub(crate) fn routed(span: &Span, route: ApiRoute<'_>, method: &Method) {
    if span.is_disabled() {
        return;
    }
    span.record("otel.name", format!("{method} {}", route.template));
    span.record("http.route", route.template);
}

/// Records the name of the route that the request follows in the server span.
pub(crate) fn followed(span: &Span, route: &str) {
    span.record("hermes.route", route);
}

/// Describes the request in the server span.
pub(super) fn describe(span: &Span, request: &InferenceRequest, strategy: &str, version: Version) {
    if span.is_disabled() {
        return;
    }
    span.record("gen_ai.operation.name", request.api.operation());
    span.record("gen_ai.request.model", request.asked_model().map(bounded));
    if request.is_rewritten() {
        span.record(
            "gen_ai.response.model",
            request.model.as_deref().map(bounded),
        );
    }
    span.record("gen_ai.request.stream", request.stream);
    span.record("hermes.strategy", strategy);
    span.record(
        "hermes.snapshot.version",
        i64::try_from(version.0).unwrap_or(i64::MAX),
    );
}

/// Records the status of the response: by the conventions, only 5xx is an error of a server span.
pub(crate) fn status(span: &Span, status: StatusCode) {
    if span.is_disabled() {
        return;
    }
    span.record("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        failed(span, status.as_str());
    }
}

/// Records a local reply, whose code is more specific than its status.
pub(crate) fn local_reply(span: &Span, reply: &LocalReply) {
    if span.is_disabled() {
        return;
    }
    status(span, reply.status());
    span.record("error.type", reply.code());
}

/// Records the selection in the route span. Times are in seconds.
pub(crate) fn selected(span: &Span, selection: &EndpointSelection) {
    if span.is_disabled() {
        return;
    }
    let EndpointSelection {
        ranked, level, why, ..
    } = selection;
    let SelectionDetails {
        waited,
        expected_wait,
        expected_ttft,
        gamma,
        runner_up,
        prompt_tokens: _,
    } = why;
    span.record("hermes.decided_by", level.name());
    if let Some(placement) = ranked.first() {
        let SelectedEndpoint {
            cached_tokens,
            source,
            ..
        } = placement.prefill();
        let upstream = &placement.decode().upstream;
        span.record("hermes.endpoint", &*upstream.endpoint.name);
        span.record("hermes.expected.cached_tokens", i64::from(*cached_tokens));
        span.record(
            "hermes.expected.source",
            source.map_or("none", CacheSource::name),
        );
    }
    span.record("hermes.waited", waited.as_secs_f64());
    span.record(
        "hermes.expected.wait",
        expected_wait.map(|wait| wait.as_secs_f64()),
    );
    span.record(
        "hermes.expected.time_to_first_token",
        expected_ttft.map(|ttft| ttft.as_secs_f64()),
    );
    span.record("hermes.gamma", gamma.map(f64::from));
    span.record(
        "hermes.runner_up",
        runner_up.as_ref().map(|upstream| &*upstream.endpoint.name),
    );
}

/// Records where the time to first token of a pair went, in the server span. Times are in seconds.
pub(super) fn ttft_parts(span: &Span, queued: Duration, parts: TtftParts) {
    let TtftParts {
        prefill,
        handover,
        transfer,
        first_step,
    } = parts;
    let seconds = |part: Option<Duration>| part.map(|part| part.as_secs_f64());
    span.record("hermes.ttft.queue", queued.as_secs_f64());
    span.record("hermes.ttft.prefill", seconds(prefill));
    span.record("hermes.ttft.handover", seconds(handover));
    span.record("hermes.ttft.transfer", seconds(transfer));
    span.record("hermes.ttft.first_step", seconds(first_step));
}

/// Records the status of an answer in the span of its attempt.
pub(crate) fn answered(span: &Span, status: StatusCode) {
    if span.is_disabled() {
        return;
    }
    span.record("http.response.status_code", i64::from(status.as_u16()));
    if status.is_client_error() || status.is_server_error() {
        span.record("otel.status_code", "ERROR");
        span.record("error.type", status.as_str());
    }
}

/// Records a failure.
pub(crate) fn failed(span: &Span, error_type: &str) {
    if span.is_disabled() {
        return;
    }
    span.record("otel.status_code", "ERROR");
    span.record("error.type", error_type);
}

/// A model's name, cut to a bounded length: pools without a list of models accept any name from a
/// client.
fn bounded(model: &str) -> &str {
    &model[..model.floor_char_boundary(LONGEST_NAME)]
}

/// A method of HTTP; `other` for any other method that a client sent.
fn method_name<'m>(method: &'m Method, other: &'m str) -> &'m str {
    match *method {
        Method::GET
        | Method::HEAD
        | Method::POST
        | Method::PUT
        | Method::DELETE
        | Method::CONNECT
        | Method::OPTIONS
        | Method::TRACE
        | Method::PATCH => method.as_str(),
        _ => other,
    }
}
