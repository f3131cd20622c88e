//! Requests from the client's view: outcomes, durations, tokens, and the error responses of the
//! proxy itself.

use std::sync::Arc;

use hermes_runtime::{
    label_set,
    metrics::{Bounds, HistogramFamily, PerValue, PoolLabels, SeriesScope, family},
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::request::local_reply::LocalReply;

/// The OpenTelemetry conventions' advice for whole requests, in seconds.
const DURATION: Bounds = Bounds(&[
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
]);
/// The GenAI conventions' advice for the time to first token, in seconds, and two more for long
/// queues.
const TIME_TO_FIRST_TOKEN: Bounds = Bounds(&[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    25.0, 60.0,
]);
/// The GenAI conventions' advice for the time per output token, in seconds, and one more for fast
/// engines.
const TIME_PER_OUTPUT_TOKEN: Bounds = Bounds(&[
    0.001, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
]);
/// Time inside the proxy, in seconds: from a tenth of a millisecond to a long queue.
pub(super) const ROUTING: Bounds = Bounds(&[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0,
]);

label_set! {
    /// How a routed request ended.
    pub(crate) enum RequestOutcome {
        /// Answered to the last byte, below 400.
        Ok = "ok",
        /// Answered to the last byte with 4xx, 429 excepted.
        ClientError = "client_error",
        /// Answered with 429 or 503.
        Overloaded = "overloaded",
        /// Answered with another 5xx, or not at all.
        Failed = "failed",
        /// The client disconnected.
        Cancelled = "cancelled",
        /// A deadline passed.
        TimedOut = "timed_out",
        /// The response broke off after its first byte.
        Truncated = "truncated",
    }
}

label_set! {
    /// What a token is part of.
    enum TokenKind {
        /// The prompt, cached tokens included.
        Prompt = "prompt",
        /// The completion.
        Completion = "completion",
        /// The part of the prompt that the engine had cached.
        Cached = "cached",
    }
}

/// The families of requests.
pub(crate) struct RequestFamilies {
    requests: Family<RequestLabels, Counter>,
    duration: HistogramFamily<ModelLabels>,
    time_to_first_token: HistogramFamily<ModelLabels>,
    time_per_output_token: HistogramFamily<ModelLabels>,
    routing: HistogramFamily<ModelLabels>,
    tokens: Family<TokenLabels, Counter>,
    usage_missing: Family<ModelLabels, Counter>,
    in_flight: Family<PoolLabels, Gauge>,
    local_replies: Family<LocalReplyLabels, Counter>,
    pub(crate) control_fields_stripped: Counter,
    pub(crate) client_connections: Gauge,
}

/// One model's handles in one pool.
pub(crate) struct ModelMetrics {
    pub(crate) requests: PerValue<RequestOutcome, Counter>,
    pub(crate) duration: Histogram,
    pub(crate) time_to_first_token: Histogram,
    pub(crate) time_per_output_token: Histogram,
    pub(crate) routing: Histogram,
    pub(crate) prompt_tokens: Counter,
    pub(crate) completion_tokens: Counter,
    pub(crate) cached_tokens: Counter,
    pub(crate) usage_missing: Counter,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ModelLabels {
    pool: Arc<str>,
    model: Arc<str>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    pool: Arc<str>,
    model: Arc<str>,
    outcome: RequestOutcome,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct TokenLabels {
    pool: Arc<str>,
    model: Arc<str>,
    kind: TokenKind,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LocalReplyLabels {
    code: &'static str,
}

// === RequestFamilies ===

impl RequestFamilies {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let families = Self {
            requests: family(registry, "hermes_requests", "Routed requests by outcome"),
            duration: DURATION.family(registry, "hermes_request_duration_seconds", "Time from the request's head to the last byte of its response"),
            time_to_first_token: TIME_TO_FIRST_TOKEN.family(registry, "hermes_time_to_first_token_seconds", "Time from the request's head to the first token of the response"),
            time_per_output_token: TIME_PER_OUTPUT_TOKEN.family(registry, "hermes_time_per_output_token_seconds", "Mean time between the tokens of a streamed response after its first"),
            routing: ROUTING.family(registry, "hermes_routing_duration_seconds", "Time from the request's head until it is sent to an endpoint: reading it and selecting the endpoint, waits included"),
            tokens: family(registry, "hermes_tokens", "Tokens by kind (prompt, completion, cached), as engines report them"),
            usage_missing: family(registry, "hermes_usage_missing", "Successful responses without a usage object"),
            in_flight: family(registry, "hermes_requests_in_flight", "Routed requests that have not ended"),
            local_replies: family(registry, "hermes_local_replies", "Error responses that the proxy made itself, by code"),
            control_fields_stripped: family(registry, "hermes_control_fields_stripped", "Requests from which fields that control an engine's internals were removed"),
            client_connections: family(registry, "hermes_client_connections", "Open connections from clients"),
        };
        // A counter starts at zero, because Prometheus' `rate` ignores the first sample of a
        // series.
        for code in LocalReply::CODES {
            drop(
                families
                    .local_replies
                    .get_or_create(&LocalReplyLabels { code }),
            );
        }
        families
    }

    pub(super) fn in_flight(&self, pool: &Arc<str>, series: &mut SeriesScope) -> Gauge {
        series.handle(&self.in_flight, PoolLabels::new(pool))
    }

    pub(super) fn of_model(
        &self,
        pool: &Arc<str>,
        model: &Arc<str>,
        series: &mut SeriesScope,
    ) -> ModelMetrics {
        let names = || (Arc::clone(pool), Arc::clone(model));
        let labels = || {
            let (pool, model) = names();
            ModelLabels { pool, model }
        };
        let requests = PerValue::new(|outcome| {
            let (pool, model) = names();
            series.handle(
                &self.requests,
                RequestLabels {
                    pool,
                    model,
                    outcome,
                },
            )
        });
        let mut tokens = |kind| {
            let (pool, model) = names();
            series.handle(&self.tokens, TokenLabels { pool, model, kind })
        };
        ModelMetrics {
            requests,
            prompt_tokens: tokens(TokenKind::Prompt),
            completion_tokens: tokens(TokenKind::Completion),
            cached_tokens: tokens(TokenKind::Cached),
            duration: series.handle(&self.duration, labels()),
            time_to_first_token: series.handle(&self.time_to_first_token, labels()),
            time_per_output_token: series.handle(&self.time_per_output_token, labels()),
            routing: series.handle(&self.routing, labels()),
            usage_missing: series.handle(&self.usage_missing, labels()),
        }
    }

    /// The proxy answered with an error of its own.
    pub(crate) fn replied_locally(&self, code: &'static str) {
        self.local_replies
            .get_or_create(&LocalReplyLabels { code })
            .inc();
    }
}
