//! How lookups end.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

/// How one lookup ended. All but the first two mean "no hint".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Some candidate holds a part of the prompt.
    Hit,
    /// The manager knows candidates, or answered an empty list, and nobody holds anything.
    Miss,
    /// No answer within the budget.
    Timeout,
    /// No connection.
    Refused,
    /// The connection broke.
    Broken,
    /// An answer with another status than 200.
    Status(u16),
    /// An answer in no shape that is known, or over the size limit.
    Garbage,
    /// An answer that names none of the candidates.
    Unknown,
    /// Too many questions are open already.
    Saturated,
    /// The manager failed too often and is left alone for a while.
    Open,
    /// The question is over the size limit.
    TooLarge,
    /// The prompt is no JSON value.
    Malformed,
}

/// Metric families of all KV managers; cheap to clone.
#[derive(Clone, Debug)]
pub struct KvMetrics {
    lookups: Family<Labels, Counter>,
    duration: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    outcome: &'static str,
}

// === Outcome ===

impl Outcome {
    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::Broken => "broken",
            Self::Status(_) => "status",
            Self::Garbage => "garbage",
            Self::Unknown => "unknown",
            Self::Saturated => "saturated",
            Self::Open => "open",
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
        }
    }

    /// Whether the manager was asked at all.
    const fn was_asked(self) -> bool {
        !matches!(self, Self::Saturated | Self::Open | Self::TooLarge | Self::Malformed)
    }

    pub(super) fn of(error: &reqwest::Error) -> Self {
        if error.is_timeout() {
            return Self::Timeout;
        }
        if error.is_connect() { Self::Refused } else { Self::Broken }
    }
}

// === KvMetrics ===

impl KvMetrics {
    /// Declares the families in `registry`.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        // 0.25 ms (a manager on the same node) to 0.5 s (far over any sensible budget).
        let metrics =
            Self { lookups: Family::default(), duration: Histogram::new(exponential_buckets(0.000_25, 2.0, 12)) };
        let Self { lookups, duration } = metrics.clone();
        registry.register("hermes_kvmanager_lookups", "Lookups at KV managers by how they ended", lookups);
        registry.register(
            "hermes_kvmanager_lookup_duration_seconds",
            "Time that lookups at KV managers took",
            duration,
        );
        metrics
    }

    /// How many lookups ended so.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> u64 {
        self.lookups.get_or_create(&Labels { outcome: outcome.name() }).get()
    }

    pub(super) fn observe(&self, outcome: Outcome, took: Duration) {
        self.lookups.get_or_create(&Labels { outcome: outcome.name() }).inc();
        if outcome.was_asked() {
            self.duration.observe(took.as_secs_f64());
        }
    }
}
