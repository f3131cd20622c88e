//! Score requests, bookings, the queue, and predicted cache hits, by pool.

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
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};

/// In seconds: from a selection without any lookup (some microseconds) to a lookup that used up its
/// deadline.
const SCORE: Bounds = Bounds(&[
    0.000_002, 0.000_005, 0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001,
    0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1,
]);

/// In seconds: from a wait that no client notices to one that times out.
const QUEUE: Bounds = Bounds(&[
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0,
]);

/// The pool label of requests that name no pool of this replica, because the names that a proxy
/// sends are unbounded.
const NO_POOL: &str = "";

label_set! {
    /// How a score request was answered.
    pub enum ScoreOutcome {
        /// Endpoints were named.
        Selected = "selected",
        /// Endpoints were named although all are down.
        Panic = "panic",
        /// The pool has no endpoint.
        Empty = "empty",
        /// Every endpoint was tried already.
        AllTried = "all_tried",
        /// The chosen endpoint does not have the prompt cached, and no other is to serve it.
        NotCached = "not_cached",
        /// No endpoint has the model loaded.
        ModelNotLoaded = "model_not_loaded",
        /// The proxy cancelled it before it was answered.
        Cancelled = "cancelled",
        /// The queue is full.
        QueueFull = "queue_full",
        /// It stayed in the queue until its limit.
        QueueTimeout = "queue_timeout",
        /// Its proxy had sent it already: the question was read too late.
        AlreadySent = "already_sent",
    }
}

label_set! {
    /// Why a booking was released.
    pub enum ReleaseCause {
        /// The proxy reported that its request ended.
        Report = "report",
        /// The proxy cancelled it.
        Cancel = "cancel",
        /// No report arrived in time.
        Ttl = "ttl",
        /// Its proxy is gone.
        ProxyGone = "proxy_gone",
        /// Its endpoint is gone.
        EndpointGone = "endpoint_gone",
    }
}

/// The families of schedulers.
#[derive(Clone, Debug)]
pub(super) struct SchedulerFamilies {
    scores: Family<ScoreLabels, Counter>,
    score: HistogramFamily<PoolLabels>,
    releases: Family<ReleaseLabels, Counter>,
    enqueued: Family<PoolLabels, Counter>,
    queue: HistogramFamily<PoolLabels>,
    predictions: PredictionFamily,
}

/// One pool's handles.
#[derive(Debug)]
pub struct SchedulerMetrics {
    /// Score requests.
    pub scores: PerValue<ScoreOutcome, Counter>,
    /// Time from reading a score request to its response.
    pub score: Histogram,
    /// Bookings that ended.
    pub releases: PerValue<ReleaseCause, Counter>,
    /// Requests that entered the queue.
    pub enqueued: Counter,
    /// Time in the queue of requests that were bound.
    pub queue: Histogram,
    predictions: [PredictionTokens; CacheSource::ALL.len()],
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ScoreLabels {
    pool: Arc<str>,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReleaseLabels {
    pool: Arc<str>,
    cause: ReleaseCause,
}

// === SchedulerFamilies ===

impl SchedulerFamilies {
    pub(super) fn register(registry: &mut Registry) -> Self {
        Self {
            scores: family(registry, "scores", "Score requests, by pool and outcome"),
            score: SCORE.family(
                registry,
                "score_duration_seconds",
                "Time from reading a score request to its first response, lookups included and the queue not",
            ),
            releases: family(
                registry,
                "bookings_released",
                "Bookings that ended, by pool and cause: report, cancel, ttl, proxy_gone, endpoint_gone",
            ),
            enqueued: family(
                registry,
                "enqueued_requests",
                "Requests that were queued because no endpoint had room, by pool",
            ),
            queue: QUEUE.family(
                registry,
                "queue_duration_seconds",
                "Time in the queue of requests that were bound to an endpoint; requests that were never queued are not counted",
            ),
            predictions: family(
                registry,
                "cache_prediction_tokens",
                "Prompt tokens of requests with reported cached tokens, by pool and source: expected to be cached, reported as cached, and by how many the prediction was over or under",
            ),
        }
    }

    pub(super) fn of_pool(&self, pool: &Arc<str>, series: &mut SeriesScope) -> SchedulerMetrics {
        let name = || Arc::clone(pool);
        let labels = || PoolLabels::new(pool);
        SchedulerMetrics {
            scores: PerValue::new(|outcome: ScoreOutcome| {
                let (pool, outcome) = (name(), outcome.name());
                series.handle(&self.scores, ScoreLabels { pool, outcome })
            }),
            releases: PerValue::new(|cause| {
                let pool = name();
                series.handle(&self.releases, ReleaseLabels { pool, cause })
            }),
            score: series.handle(&self.score, labels()),
            enqueued: series.handle(&self.enqueued, labels()),
            queue: series.handle(&self.queue, labels()),
            predictions: CacheSource::ALL.map(|source| {
                PredictionTokens::new(&self.predictions, pool, source.name(), series)
            }),
        }
    }

    /// Counts a score request that belongs to no pool.
    pub(super) fn rejected(&self, outcome: &'static str) {
        let pool = NO_POOL.into();
        let labels = ScoreLabels { pool, outcome };
        self.scores.get_or_create(&labels).inc();
    }
}

// === SchedulerMetrics ===

impl SchedulerMetrics {
    /// The counters of what `source` predicted.
    #[must_use]
    pub const fn predictions(&self, source: CacheSource) -> &PredictionTokens {
        &self.predictions[source as usize]
    }
}
