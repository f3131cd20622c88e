//! What the collector says about its own work.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use std::sync::atomic::AtomicU64;

use super::fetch::ProbeFailure;

/// Metric families of the collector; cheap to clone.
#[derive(Clone, Debug)]
pub struct CollectorMetrics {
    duration: Histogram,
    failures: Family<FailureLabels, Counter>,
    last_success: Family<EndpointLabels, Gauge<f64, AtomicU64>>,
    refused: Counter,
    skipped: Counter,
    dropped: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    /// What was asked for: `metrics`, `health` or `models`.
    what: &'static str,
    /// [`ProbeFailure::name`].
    kind: &'static str,
}

/// One series per endpoint that is scraped, removed with it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndpointLabels {
    endpoint: String,
}

// === CollectorMetrics ===

impl CollectorMetrics {
    /// Declares the families in `registry`.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            // 1 ms (an idle engine on the same network) to 4 s (longer than any sensible timeout).
            duration: Histogram::new(exponential_buckets(0.001, 2.0, 13)),
            failures: Family::default(),
            last_success: Family::default(),
            refused: Counter::default(),
            skipped: Counter::default(),
            dropped: Counter::default(),
        };
        let Self {
            duration,
            failures,
            last_success,
            refused,
            skipped,
            dropped,
        } = metrics.clone();
        registry.register(
            "hermes_collector_scrape_duration_seconds",
            "Time from asking an endpoint for its state to the end of its answer",
            duration,
        );
        registry.register(
            "hermes_collector_failures",
            "Requests to endpoints for their state that failed, by what was asked for and how it failed",
            failures,
        );
        registry.register(
            "hermes_collector_last_success_timestamp_seconds",
            "Unix time at which an endpoint last told its state",
            last_success,
        );
        registry.register(
            "hermes_collector_refused_signals",
            "Signals of endpoints that were ignored because a value could not be true",
            refused,
        );
        registry.register(
            "hermes_collector_skipped_lines",
            "Lines of metrics pages that were not understood",
            skipped,
        );
        registry.register(
            "hermes_collector_dropped_observations",
            "Observations that were lost because their reader was behind",
            dropped,
        );
        metrics
    }

    pub(super) fn succeeded(&self, endpoint: &str, took: Duration) {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        self.duration.observe(took.as_secs_f64());
        self.last_success
            .get_or_create(&EndpointLabels {
                endpoint: endpoint.to_owned(),
            })
            .set(now.as_secs_f64());
    }

    pub(super) fn failed(&self, what: &'static str, failure: ProbeFailure) {
        self.failures
            .get_or_create(&FailureLabels {
                what,
                kind: failure.name(),
            })
            .inc();
    }

    pub(super) fn read(&self, refused_signals: u32, skipped_lines: u64) {
        self.refused.inc_by(u64::from(refused_signals));
        self.skipped.inc_by(skipped_lines);
    }

    pub(super) fn dropped(&self) {
        self.dropped.inc();
    }

    pub(super) fn forget(&self, endpoint: &str) {
        self.last_success.remove(&EndpointLabels {
            endpoint: endpoint.to_owned(),
        });
    }
}
