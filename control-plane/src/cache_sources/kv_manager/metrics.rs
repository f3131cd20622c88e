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

use crate::cache_sources::lookup_client::LookupFault;

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
    /// An answer with numbers that cannot be true.
    Implausible,
    /// Too many questions are open already.
    Saturated,
    /// The manager failed too often and is left alone for a while.
    Open,
    /// The question is over the size limit.
    TooLarge,
    /// The prompt is no JSON value.
    Malformed,
    /// The manager goes by token ids, and they are not known.
    NoTokens,
    /// The manager goes by blocks, and their size is not known.
    NoBlockSize,
}

/// Where the answer to one lookup came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The manager was asked for it.
    Asked,
    /// The manager was being asked the same already.
    Joined,
    /// The manager was asked the same a moment ago.
    Recalled,
}

/// Metric families of all KV managers; cheap to clone.
#[derive(Clone, Debug)]
pub struct KvMetrics {
    lookups: Family<Labels, Counter>,
    answers: Family<OriginLabels, Counter>,
    duration: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OriginLabels {
    from: &'static str,
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
            Self::Implausible => "implausible",
            Self::Saturated => "saturated",
            Self::Open => "open",
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
            Self::NoTokens => "no_tokens",
            Self::NoBlockSize => "no_block_size",
        }
    }

    /// Whether the manager was asked at all.
    const fn was_asked(self) -> bool {
        use Outcome::{Malformed, NoBlockSize, NoTokens, Open, Saturated, TooLarge};
        !matches!(
            self,
            Saturated | Open | TooLarge | Malformed | NoTokens | NoBlockSize
        )
    }
}

impl From<LookupFault> for Outcome {
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

// === Origin ===

impl Origin {
    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Joined => "joined",
            Self::Recalled => "recalled",
        }
    }
}

// === KvMetrics ===

impl KvMetrics {
    /// Declares the families in `registry`.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        // 0.25 ms (a manager on the same node) to 0.5 s (far over any sensible budget).
        let metrics = Self {
            lookups: Family::default(),
            answers: Family::default(),
            duration: Histogram::new(exponential_buckets(0.000_25, 2.0, 12)),
        };
        let Self {
            lookups,
            answers,
            duration,
        } = metrics.clone();
        registry.register(
            "hermes_kvmanager_lookups",
            "Lookups at KV managers by how they ended",
            lookups,
        );
        registry.register(
            "hermes_kvmanager_answers",
            "Requests that wanted to know what a KV manager knows, by where the answer came from",
            answers,
        );
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
        self.lookups
            .get_or_create(&Labels {
                outcome: outcome.name(),
            })
            .get()
    }

    /// How many lookups were answered from there.
    #[must_use]
    pub fn count_from(&self, from: Origin) -> u64 {
        self.answers
            .get_or_create(&OriginLabels { from: from.name() })
            .get()
    }

    pub(super) fn answered(&self, from: Origin) {
        self.answers
            .get_or_create(&OriginLabels { from: from.name() })
            .inc();
    }

    pub(super) fn observe(&self, outcome: Outcome, took: Duration) {
        self.lookups
            .get_or_create(&Labels {
                outcome: outcome.name(),
            })
            .inc();
        if outcome.was_asked() {
            self.duration.observe(took.as_secs_f64());
        }
    }
}
