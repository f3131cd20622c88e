//! Metrics of scraping endpoints.

use std::{
    sync::atomic::AtomicU64,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hermes_core::address::ServerAddress;
use hermes_runtime::metrics::{Bounds, family};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::fetch::ProbeFailure;

/// In seconds: from an idle engine on the same network to longer than any sensible timeout.
const DURATION: Bounds = Bounds(&[
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096,
]);

/// Metric families of all scrapes; cheap to clone.
#[derive(Clone, Debug)]
pub struct ScrapeMetrics {
    duration: Histogram,
    failures: Family<ScrapeFailureLabels, Counter>,
    last_success: Family<ScrapeLabels, Gauge<f64, AtomicU64>>,
    rejected: Counter,
    skipped: Counter,
    dropped: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ScrapeFailureLabels {
    /// The requested page: `metrics`, `health`, `models` or `pairing`.
    target: &'static str,
    /// [`ProbeFailure::name`].
    reason: &'static str,
}

/// One series per endpoint that is scraped, removed with it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ScrapeLabels {
    endpoint: String,
}

// === ScrapeMetrics ===

impl ScrapeMetrics {
    /// Declares the families in `registry`.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("hermes_scrape");
        Self {
            duration: DURATION.histogram(
                registry,
                "duration_seconds",
                "Duration of successful scrapes",
            ),
            failures: family(
                registry,
                "failures",
                "Failed requests to endpoints for their state, by target and reason",
            ),
            last_success: family(
                registry,
                "last_success_timestamp_seconds",
                "Unix time of the last successful scrape of an endpoint",
            ),
            rejected: family(
                registry,
                "rejected_values",
                "Values in metrics pages that were ignored because they are impossible",
            ),
            skipped: family(
                registry,
                "skipped_lines",
                "Lines of metrics pages that could not be parsed",
            ),
            dropped: family(
                registry,
                "dropped_samples",
                "Scrape results that were dropped because their reader was behind",
            ),
        }
    }

    pub(super) fn succeeded(&self, endpoint: &ServerAddress, took: Duration) {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        self.duration.observe(took.as_secs_f64());
        self.last_success
            .get_or_create(&ScrapeLabels {
                endpoint: endpoint.to_string(),
            })
            .set(now.as_secs_f64());
    }

    pub(super) fn failed(&self, target: &'static str, failure: ProbeFailure) {
        self.failures
            .get_or_create(&ScrapeFailureLabels {
                target,
                reason: failure.name(),
            })
            .inc();
    }

    pub(super) fn read(&self, rejected_values: u32, skipped_lines: u64) {
        self.rejected.inc_by(u64::from(rejected_values));
        self.skipped.inc_by(skipped_lines);
    }

    pub(super) fn dropped(&self) {
        self.dropped.inc();
    }

    pub(super) fn forget(&self, endpoint: &ServerAddress) {
        self.last_success.remove(&ScrapeLabels {
            endpoint: endpoint.to_string(),
        });
    }
}
