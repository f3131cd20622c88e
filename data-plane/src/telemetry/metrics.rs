//! What the proxy counts. The help text of each family is its documentation; `docs/metrics.md` is checked against it.
//!
//! Labels are bounded: pools, models and endpoints come from the snapshot, everything else from closed sets. Handles
//! are resolved when a snapshot arrives, so that a request touches atomics only.

mod closed;
mod forecast;
mod labels;

use std::{collections::HashMap, sync::Arc};

use hermes_core::snapshot::PoolSpec;
use hermes_runtime::{
    metrics::{Bounds, HistogramFamily},
    semconv::buckets,
};
use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

pub(crate) use self::closed::{Arrival, Attempt, Ended, Rung, ScoreFailure};
use self::{
    closed::ENDPOINT_STATES,
    forecast::{ForecastLabels, Forecasts},
    labels::{
        AttemptLabels, ChoiceLabels, EndpointLabels, ModelLabels, PoolLabels, RefusalLabels,
        RequestLabels, ScoreLabels, SnapshotLabels, TokenLabels,
    },
};
use crate::request::local_reply::LocalReply;

/// Buckets of the GenAI conventions for whole requests, seconds.
const DURATION: Bounds = Bounds(buckets::REQUEST_DURATION);
/// Buckets of the GenAI conventions for the time to first token, seconds.
const TTFT: Bounds = Bounds(&[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    25.0, 60.0,
]);
/// Buckets of the GenAI conventions for the time per output token, seconds, with one below for fast engines.
const TPOT: Bounds = Bounds(&[
    0.001, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
]);
/// QueueTimer in the router: from far below a millisecond to seconds.
const QUEUE: Bounds = Bounds(&[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0,
]);

/// QueueTimer for an endpoint with room, at the control plane: up to a minute.
const WAIT: Bounds = Bounds(&[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0,
]);

/// The model label of names that no snapshot knows.
const OTHER: &str = "other";

/// Every family of the data plane.
pub(crate) struct Metrics {
    requests: Family<RequestLabels, Counter>,
    duration: HistogramFamily<ModelLabels>,
    ttft: HistogramFamily<ModelLabels>,
    tpot: HistogramFamily<ModelLabels>,
    queue: HistogramFamily<ModelLabels>,
    tokens: Family<TokenLabels, Counter>,
    usage_missing: Family<ModelLabels, Counter>,
    choices: Family<ChoiceLabels, Counter>,
    score: HistogramFamily<PoolLabels>,
    score_failures: Family<ScoreLabels, Counter>,
    waiting: Family<PoolLabels, Gauge>,
    wait: HistogramFamily<PoolLabels>,
    forecasts: Family<ForecastLabels, Counter>,
    taught: Family<PoolLabels, Counter>,
    attempts: Family<AttemptLabels, Counter>,
    retries: Family<PoolLabels, Counter>,
    in_flight: Family<PoolLabels, Gauge>,
    refusals: Family<RefusalLabels, Counter>,
    pub(crate) stripped: Counter,
    pub(crate) clients: Gauge,
    pub(crate) idle_connections: Gauge,
    pub(crate) connections_opened: Counter,
    pub(crate) control_planes: Gauge,
    pub(crate) snapshot_version: Gauge,
    snapshots: Family<SnapshotLabels, Counter>,
    pub(crate) load_age: Gauge<f64, std::sync::atomic::AtomicU64>,
    pub(crate) reports_lost: Gauge,
    endpoints: Family<EndpointLabels, Gauge>,
}

/// One pool's handles.
pub(crate) struct PoolMetrics {
    models: HashMap<Arc<str>, Arc<ModelMetrics>>,
    other: Arc<ModelMetrics>,
    choices: [Counter; 5],
    pub(crate) score: Histogram,
    score_failures: [Counter; 4],
    /// Requests that wait at the control plane.
    pub(crate) waiting: Gauge,
    pub(crate) wait: Histogram,
    pub(crate) forecasts: Forecasts,
    /// Decisions that were told to a new owner.
    pub(crate) taught: Counter,
    attempts: [Counter; 5],
    pub(crate) retries: Counter,
    pub(crate) in_flight: Gauge,
    /// By state.
    pub(crate) endpoints: [(&'static str, Gauge); 3],
}

/// One model's handles in one pool.
pub(crate) struct ModelMetrics {
    requests: [Counter; 7],
    pub(crate) duration: Histogram,
    pub(crate) ttft: Histogram,
    pub(crate) tpot: Histogram,
    pub(crate) queue: Histogram,
    pub(crate) prompt_tokens: Counter,
    pub(crate) completion_tokens: Counter,
    pub(crate) cached_tokens: Counter,
    pub(crate) usage_missing: Counter,
}

// === Metrics ===

impl Metrics {
    /// Declares every family.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            duration: DURATION.family(),
            ttft: TTFT.family(),
            tpot: TPOT.family(),
            queue: QUEUE.family(),
            tokens: Family::default(),
            usage_missing: Family::default(),
            choices: Family::default(),
            score: QUEUE.family(),
            score_failures: Family::default(),
            waiting: Family::default(),
            wait: WAIT.family(),
            forecasts: Family::default(),
            taught: Family::default(),
            attempts: Family::default(),
            retries: Family::default(),
            in_flight: Family::default(),
            refusals: Family::default(),
            stripped: Counter::default(),
            clients: Gauge::default(),
            idle_connections: Gauge::default(),
            connections_opened: Counter::default(),
            control_planes: Gauge::default(),
            snapshot_version: Gauge::default(),
            snapshots: Family::default(),
            load_age: Gauge::default(),
            reports_lost: Gauge::default(),
            endpoints: Family::default(),
        };
        metrics.register_requests(registry);
        metrics.register_choices(registry);
        metrics.register_world(registry);
        metrics.begin();
        metrics
    }

    /// Counters of closed sets begin at zero and not at their first event, which Prometheus' `rate` would not see.
    fn begin(&self) {
        for code in LocalReply::CODES {
            handle(&self.refusals, &RefusalLabels { code });
        }
        for (_, outcome) in Arrival::ALL {
            handle(&self.snapshots, &SnapshotLabels { outcome });
        }
    }

    fn register_requests(&self, registry: &mut Registry) {
        registry.register(
            "hermes_requests",
            "Routed requests by how they ended",
            self.requests.clone(),
        );
        registry.register(
            "hermes_request_duration_seconds",
            "From the request's head to the last byte of its answer",
            self.duration.clone(),
        );
        registry.register(
            "hermes_time_to_first_token_seconds",
            "From the request's head to the first byte of the answer's body",
            self.ttft.clone(),
        );
        registry.register(
            "hermes_time_per_output_token_seconds",
            "Mean time between the tokens of a streamed answer after its first",
            self.tpot.clone(),
        );
        registry.register(
            "hermes_queue_time_seconds",
            "From the request's head until it is sent to an endpoint: reading and choosing",
            self.queue.clone(),
        );
        registry.register(
            "hermes_tokens",
            "Tokens by kind (prompt, completion, cached), as engines report them",
            self.tokens.clone(),
        );
        registry.register(
            "hermes_usage_missing",
            "Answers that ended well and did not tell their usage",
            self.usage_missing.clone(),
        );
        registry.register(
            "hermes_requests_in_flight",
            "Requests that were routed and are not over",
            self.in_flight.clone(),
        );
        registry.register(
            "hermes_refusals",
            "Requests that the proxy answered with an error of its own, by its code",
            self.refusals.clone(),
        );
        registry.register(
            "hermes_control_fields_stripped",
            "Requests from which fields that steer an engine's internals were cut",
            self.stripped.clone(),
        );
    }

    fn register_choices(&self, registry: &mut Registry) {
        registry.register(
            "hermes_choices",
            "Choices of an endpoint, by the step of the ladder",
            self.choices.clone(),
        );
        registry.register(
            "hermes_score_seconds",
            "From asking the control plane to its answer",
            self.score.clone(),
        );
        registry.register(
            "hermes_score_failures",
            "Choices made without the control plane's answer, by the reason",
            self.score_failures.clone(),
        );
        registry.register(
            "hermes_waiting_requests",
            "Requests that wait at the control plane because no endpoint has room",
            self.waiting.clone(),
        );
        registry.register(
            "hermes_wait_seconds",
            "Time that requests waited at the control plane for an endpoint with room, however that ended; those that were bound at once are not counted",
            self.wait.clone(),
        );
        registry.register(
            "hermes_cache_forecast_tokens",
            "Prompt tokens of answers whose engine reports cached tokens: expected to be cached, reported as cached, and by how many the forecast was over or under",
            self.forecasts.clone(),
        );
        registry.register(
            "hermes_taught_decisions",
            "Decisions of this proxy that it told to a control-plane replica which became the owner of a pool",
            self.taught.clone(),
        );
        registry.register(
            "hermes_attempts",
            "Requests sent to endpoints, by how that ended",
            self.attempts.clone(),
        );
        registry.register(
            "hermes_retries",
            "Attempts after the first",
            self.retries.clone(),
        );
        registry.register(
            "hermes_endpoints",
            "Endpoints as this proxy sees them: up, warming (slow start) or down",
            self.endpoints.clone(),
        );
    }

    fn register_world(&self, registry: &mut Registry) {
        registry.register(
            "hermes_client_connections",
            "Open connections from clients",
            self.clients.clone(),
        );
        registry.register(
            "hermes_idle_connections",
            "Idle connections to endpoints",
            self.idle_connections.clone(),
        );
        registry.register(
            "hermes_connections_opened",
            "Connections opened to endpoints",
            self.connections_opened.clone(),
        );
        registry.register(
            "hermes_control_planes",
            "Control-plane replicas that this proxy is connected to; 0 means that it routes by what it last knew",
            self.control_planes.clone(),
        );
        registry.register(
            "hermes_snapshot_version",
            "Version of the snapshot in use, in its epoch",
            self.snapshot_version.clone(),
        );
        registry.register(
            "hermes_snapshots",
            "Snapshots and deltas that arrived, by what became of them",
            self.snapshots.clone(),
        );
        registry.register(
            "hermes_load_age_seconds",
            "Age of the newest load figures from the control plane",
            self.load_age.clone(),
        );
        registry.register(
            "hermes_reports_lost",
            "Reports dropped because the control plane took them too slowly; each loss leads to a resync",
            self.reports_lost.clone(),
        );
    }

    /// The handles of one pool.
    pub(crate) fn pool(&self, spec: &PoolSpec) -> Arc<PoolMetrics> {
        let pool = &spec.name;
        let only = PoolLabels {
            pool: Arc::clone(pool),
        };
        let models = spec
            .models
            .iter()
            .map(|model| (Arc::clone(&model.name), self.model(pool, &model.name)))
            .collect();
        Arc::new(PoolMetrics {
            models,
            other: self.model(pool, &Arc::from(OTHER)),
            choices: Rung::ALL.map(|(_, rung)| {
                handle(
                    &self.choices,
                    &ChoiceLabels {
                        pool: Arc::clone(pool),
                        rung,
                    },
                )
            }),
            score: handle(&self.score, &only),
            score_failures: ScoreFailure::ALL.map(|(_, reason)| {
                handle(
                    &self.score_failures,
                    &ScoreLabels {
                        pool: Arc::clone(pool),
                        reason,
                    },
                )
            }),
            waiting: handle(&self.waiting, &only),
            wait: handle(&self.wait, &only),
            forecasts: Forecasts::of(&self.forecasts, pool),
            taught: handle(&self.taught, &only),
            attempts: Attempt::ALL.map(|(_, outcome)| {
                handle(
                    &self.attempts,
                    &AttemptLabels {
                        pool: Arc::clone(pool),
                        outcome,
                    },
                )
            }),
            retries: handle(&self.retries, &only),
            in_flight: handle(&self.in_flight, &only),
            endpoints: ENDPOINT_STATES.map(|state| {
                (
                    state,
                    handle(
                        &self.endpoints,
                        &EndpointLabels {
                            pool: Arc::clone(pool),
                            state,
                        },
                    ),
                )
            }),
        })
    }

    fn model(&self, pool: &Arc<str>, model: &Arc<str>) -> Arc<ModelMetrics> {
        let labels = ModelLabels {
            pool: Arc::clone(pool),
            model: Arc::clone(model),
        };
        let requests = Ended::ALL.map(|(_, outcome)| {
            handle(
                &self.requests,
                &RequestLabels {
                    pool: Arc::clone(pool),
                    model: Arc::clone(model),
                    outcome,
                },
            )
        });
        let tokens = |kind| {
            handle(
                &self.tokens,
                &TokenLabels {
                    pool: Arc::clone(pool),
                    model: Arc::clone(model),
                    kind,
                },
            )
        };
        Arc::new(ModelMetrics {
            requests,
            duration: handle(&self.duration, &labels),
            ttft: handle(&self.ttft, &labels),
            tpot: handle(&self.tpot, &labels),
            queue: handle(&self.queue, &labels),
            prompt_tokens: tokens("prompt"),
            completion_tokens: tokens("completion"),
            cached_tokens: tokens("cached"),
            usage_missing: handle(&self.usage_missing, &labels),
        })
    }

    pub(crate) fn refused(&self, code: &'static str) {
        self.refusals.get_or_create(&RefusalLabels { code }).inc();
    }

    /// A snapshot or delta arrived.
    pub(crate) fn snapshot(&self, arrival: Arrival) {
        self.snapshots
            .get_or_create(&SnapshotLabels {
                outcome: arrival.name(),
            })
            .inc();
    }
}

fn handle<L, M, C>(family: &Family<L, M, C>, labels: &L) -> M
where
    L: Clone + std::hash::Hash + Eq,
    M: Clone,
    C: prometheus_client::metrics::family::MetricConstructor<M>,
{
    family.get_or_create(labels).clone()
}

// === PoolMetrics ===

impl PoolMetrics {
    /// The handles of a model; names that the snapshot does not know share one.
    pub(crate) fn model(&self, name: Option<&str>) -> &Arc<ModelMetrics> {
        name.and_then(|name| self.models.get(name))
            .unwrap_or(&self.other)
    }

    pub(crate) fn chose(&self, rung: Rung) {
        self.choices[rung as usize].inc();
    }

    pub(crate) fn score_failed(&self, why: ScoreFailure) {
        self.score_failures[why as usize].inc();
    }

    pub(crate) fn attempted(&self, how: Attempt) {
        self.attempts[how as usize].inc();
    }
}

// === ModelMetrics ===

impl ModelMetrics {
    pub(crate) fn ended(&self, how: Ended) {
        self.requests[how as usize].inc();
    }
}
