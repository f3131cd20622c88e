//! Metrics of lookups at KV managers.

use std::time::Duration;

use hermes_runtime::{
    label_set,
    metrics::{Bounds, PerValue, family},
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};

use crate::cache_sources::lookup_client::LookupFault;

/// In seconds: from a manager on the same node to far over any sensible timeout.
const DURATION: Bounds = Bounds(&[
    0.000_25, 0.000_5, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512,
]);

/// How one lookup ended. All but the first two mean that nothing is known about caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupOutcome {
    /// A candidate has a part of the prompt cached.
    Hit,
    /// No candidate has any part of the prompt cached, or the list is empty.
    Miss,
    /// No response in time.
    Timeout,
    /// No connection.
    Refused,
    /// The connection broke.
    Broken,
    /// A response with another status than 200.
    Status(u16),
    /// A response in no known format, or over the size limit.
    Garbage,
    /// A response that names none of the candidates.
    Unknown,
    /// A response with impossible numbers.
    Implausible,
    /// Too many lookups are in flight.
    Saturated,
    /// The circuit breaker is open, because the manager failed too often.
    Open,
    /// The request is over the size limit.
    TooLarge,
    /// The prompt is not one JSON value.
    Malformed,
    /// The manager needs token ids, and there are none.
    NoTokens,
    /// The manager needs the block size, which is unknown.
    NoBlockSize,
}

label_set! {
    /// Where the answer to a request for cache knowledge came from.
    pub enum AnswerOrigin {
        /// From a lookup at the manager.
        Manager = "manager",
        /// From a lookup of the same prompt that was in flight already.
        Shared = "shared",
        /// From the answer to a recent lookup of the same prompt.
        Cache = "cache",
    }
}

/// Metric families of all KV managers; cheap to clone.
#[derive(Clone, Debug)]
pub struct KvManagerMetrics {
    lookups: Family<LookupLabels, Counter>,
    answers: PerValue<AnswerOrigin, Counter>,
    duration: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LookupLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AnswerLabels {
    origin: AnswerOrigin,
}

// === LookupOutcome ===

impl LookupOutcome {
    /// One of each label value.
    const EACH: [Self; 15] = [
        Self::Hit,
        Self::Miss,
        Self::Timeout,
        Self::Refused,
        Self::Broken,
        Self::Status(0),
        Self::Garbage,
        Self::Unknown,
        Self::Implausible,
        Self::Saturated,
        Self::Open,
        Self::TooLarge,
        Self::Malformed,
        Self::NoTokens,
        Self::NoBlockSize,
    ];

    /// The label value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Timeout => "timeout",
            Self::Refused => "connect_failed",
            Self::Broken => "connection_broken",
            Self::Status(_) => "status",
            Self::Garbage => "invalid_response",
            Self::Unknown => "unknown_endpoints",
            Self::Implausible => "implausible",
            Self::Saturated => "saturated",
            Self::Open => "circuit_open",
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
            Self::NoTokens => "no_tokens",
            Self::NoBlockSize => "no_block_size",
        }
    }

    const fn labels(self) -> LookupLabels {
        LookupLabels {
            outcome: self.name(),
        }
    }

    /// Whether a request was sent to the manager.
    const fn was_asked(self) -> bool {
        use LookupOutcome::{Malformed, NoBlockSize, NoTokens, Open, Saturated, TooLarge};
        !matches!(
            self,
            Saturated | Open | TooLarge | Malformed | NoTokens | NoBlockSize
        )
    }
}

impl From<LookupFault> for LookupOutcome {
    fn from(fault: LookupFault) -> Self {
        match fault {
            LookupFault::Timeout => Self::Timeout,
            LookupFault::Refused => Self::Refused,
            LookupFault::Broken => Self::Broken,
            LookupFault::Status(status) => Self::Status(status),
            LookupFault::Garbage => Self::Garbage,
            LookupFault::Saturated => Self::Saturated,
            LookupFault::Open => Self::Open,
        }
    }
}

// === KvManagerMetrics ===

impl KvManagerMetrics {
    /// Declares the families in `registry`.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("hermes_kv_manager");
        let answers: Family<AnswerLabels, Counter> = family(
            registry,
            "answers",
            "Answers about caches that requests received from KV managers, by origin",
        );
        let lookups: Family<LookupLabels, Counter> =
            family(registry, "lookups", "Lookups at KV managers, by outcome");
        // Every series begins at zero: `rate` misses the first increment of one that appears with
        // it, and a ratio of outcomes needs both.
        for outcome in LookupOutcome::EACH {
            drop(lookups.get_or_create(&outcome.labels()));
        }
        Self {
            lookups,
            answers: PerValue::new(|origin| answers.get_or_create_owned(&AnswerLabels { origin })),
            duration: DURATION.histogram(
                registry,
                "lookup_duration_seconds",
                "Duration of lookups at KV managers",
            ),
        }
    }

    /// Lookups that ended with `outcome`.
    #[must_use]
    pub fn count(&self, outcome: LookupOutcome) -> u64 {
        self.lookups.get_or_create(&outcome.labels()).get()
    }

    /// Answers of `origin`.
    #[must_use]
    pub fn count_from(&self, origin: AnswerOrigin) -> u64 {
        self.answers[origin].get()
    }

    pub(super) fn answered(&self, origin: AnswerOrigin) {
        self.answers[origin].inc();
    }

    pub(super) fn observe(&self, outcome: LookupOutcome, took: Duration) {
        self.lookups.get_or_create(&outcome.labels()).inc();
        if outcome.was_asked() {
            self.duration.observe(took.as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_of_lookups_is_exposed_from_the_start() {
        let mut registry = Registry::default();
        let _metrics = KvManagerMetrics::register(&mut registry);
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &registry).expect("text");
        for outcome in LookupOutcome::EACH {
            let series = format!(
                "hermes_kv_manager_lookups_total{{outcome=\"{}\"}} 0",
                outcome.name()
            );
            assert!(page.contains(&series), "{series}");
        }
    }
}
