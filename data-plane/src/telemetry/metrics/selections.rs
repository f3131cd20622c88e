//! Endpoint selections: the level of the fallback chain, the control plane's responses, and time in
//! its queue.

use std::sync::Arc;

use hermes_core::query::CacheSource;
use hermes_runtime::{
    label_set,
    metrics::{
        Bounds, HistogramFamily, PerValue, PoolLabels, PredictionFamily, PredictionTokens,
        SeriesScope, family,
    },
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::requests::ROUTING;

/// Time in the control plane's queue, in seconds: up to a minute.
const QUEUE: Bounds = Bounds(&[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0,
]);

label_set! {
    /// The level of the fallback chain at which an endpoint was selected.
    #[derive(Default)]
    pub(crate) enum FallbackLevel {
        /// By a strategy that needs no control plane.
        #[default]
        Strategy = "strategy",
        /// By the control plane, in time.
        Score = "score",
        /// By the snapshot and this proxy's own state, because no response came.
        Local = "local",
        /// By power of two choices over this proxy's own requests, because the snapshot's load is
        /// stale.
        PowerOfTwo = "power-of-two",
        /// Any endpoint, because none is healthy.
        Panic = "panic",
        /// By another picker, which chooses the endpoints of the pool.
        Picker = "picker",
    }
}

label_set! {
    /// Why the control plane's response was not used.
    pub(crate) enum ScoreFailure {
        /// No replica is connected that has discovered the pool, by an open stream of the request's
        /// worker.
        Disconnected = "disconnected",
        /// No response within the deadline.
        Timeout = "timeout",
        /// The stream broke, or its buffer was full.
        StreamBroken = "stream_broken",
        /// The replica rejected the request, or named endpoints that this proxy's snapshot does not
        /// have.
        Rejected = "rejected",
        /// The replica named pairs of endpoints only, and this proxy sends a request to one.
        UnsupportedPair = "unsupported_pair",
    }
}

/// The families of selections.
pub(super) struct SelectionFamilies {
    selections: Family<SelectionLabels, Counter>,
    score: HistogramFamily<PoolLabels>,
    score_failures: Family<ScoreFailureLabels, Counter>,
    queued: Family<PoolLabels, Gauge>,
    queue: HistogramFamily<PoolLabels>,
    predictions: PredictionFamily,
    history_replayed: Family<PoolLabels, Counter>,
}

/// One pool's handles.
pub(crate) struct SelectionMetrics {
    pub(crate) levels: PerValue<FallbackLevel, Counter>,
    pub(crate) score: Histogram,
    pub(crate) score_failures: PerValue<ScoreFailure, Counter>,
    /// Requests in the control plane's queue.
    pub(crate) queued: Gauge,
    pub(crate) queue: Histogram,
    /// Routed requests of this proxy that were replayed to a new owner of the pool.
    pub(crate) history_replayed: Counter,
    predictions: [PredictionTokens; CacheSource::ALL.len()],
    unpredicted: PredictionTokens,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SelectionLabels {
    pool: Arc<str>,
    level: FallbackLevel,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ScoreFailureLabels {
    pool: Arc<str>,
    reason: ScoreFailure,
}

// === SelectionFamilies ===

impl SelectionFamilies {
    pub(super) fn register(registry: &mut Registry) -> Self {
        Self {
            selections: family(registry, "hermes_endpoint_selections", "Endpoint selections by level of the fallback chain"),
            score: ROUTING.family(registry, "hermes_score_duration_seconds", "Time from a Score request to the control plane's first response"),
            score_failures: family(registry, "hermes_score_failures", "Selections without the control plane's response, by reason"),
            queued: family(registry, "hermes_queued_requests", "Requests in the control plane's queue because no endpoint has room"),
            queue: QUEUE.family(registry, "hermes_queue_duration_seconds", "Time that requests spent in the control plane's queue, whatever ended it; requests that were never queued are not counted"),
            predictions: family(registry, "hermes_cache_prediction_tokens", "Prompt tokens of responses with reported cached tokens: expected to be cached, reported as cached, and by how many the prediction was over or under"),
            history_replayed: family(registry, "hermes_history_replayed_requests", "Routed requests of this proxy that it replayed to a control-plane replica which became the owner of a pool"),
        }
    }

    pub(super) fn of_pool(&self, pool: &Arc<str>, series: &mut SeriesScope) -> SelectionMetrics {
        let name = || Arc::clone(pool);
        let labels = || PoolLabels::new(pool);
        SelectionMetrics {
            levels: PerValue::new(|level| {
                let labels = SelectionLabels {
                    pool: name(),
                    level,
                };
                series.handle(&self.selections, labels)
            }),
            score_failures: PerValue::new(|reason| {
                let labels = ScoreFailureLabels {
                    pool: name(),
                    reason,
                };
                series.handle(&self.score_failures, labels)
            }),
            score: series.handle(&self.score, labels()),
            queued: series.handle(&self.queued, labels()),
            queue: series.handle(&self.queue, labels()),
            history_replayed: series.handle(&self.history_replayed, labels()),
            predictions: CacheSource::ALL.map(|source| {
                PredictionTokens::new(&self.predictions, pool, source.name(), series)
            }),
            unpredicted: PredictionTokens::new(&self.predictions, pool, "none", series),
        }
    }
}

// === SelectionMetrics ===

impl SelectionMetrics {
    /// The counters of what `source` predicted.
    pub(crate) const fn predictions(&self, source: Option<CacheSource>) -> &PredictionTokens {
        match source {
            Some(source) => &self.predictions[source as usize],
            None => &self.unpredicted,
        }
    }
}
