//! How prompts become token ids, counted.

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

use super::Failure;

/// How the token ids of one prompt were had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Made for this request.
    Made,
    /// Made before, and remembered.
    Remembered,
    /// Being made for an identical request already.
    Joined,
    /// Not at all.
    Failed(Failure),
}

/// Metric families of all tokenizers; cheap to clone.
#[derive(Clone, Debug)]
pub struct TokenMetrics {
    prompts: Family<Labels, Counter>,
    tokens: Family<Labels, Counter>,
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
            Self::Made => "made",
            Self::Remembered => "remembered",
            Self::Joined => "joined",
            Self::Failed(failure) => failure.name(),
        }
    }
}

// === TokenMetrics ===

impl TokenMetrics {
    /// Declares the families in `registry`.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        // 0.1 ms (a short prompt) to 0.8 s (a prompt of a megabyte).
        let metrics = Self {
            prompts: Family::default(),
            tokens: Family::default(),
            duration: Histogram::new(exponential_buckets(0.000_1, 2.0, 14)),
        };
        let Self {
            prompts,
            tokens,
            duration,
        } = metrics.clone();
        registry.register(
            "hermes_tokenizer_prompts",
            "Prompts whose token ids were wanted, by how they were had",
            prompts,
        );
        registry.register(
            "hermes_tokenizer_tokens",
            "Token ids that were handed out, made or remembered",
            tokens,
        );
        registry.register(
            "hermes_tokenizer_duration_seconds",
            "Time from wanting the token ids of a prompt to having them, or to giving up",
            duration,
        );
        metrics
    }

    /// How many prompts ended so.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> u64 {
        self.prompts
            .get_or_create(&Labels {
                outcome: outcome.name(),
            })
            .get()
    }

    pub(super) fn observe(&self, outcome: Outcome, took: Duration) {
        self.prompts
            .get_or_create(&Labels {
                outcome: outcome.name(),
            })
            .inc();
        self.duration.observe(took.as_secs_f64());
    }

    /// So many ids, of which some had been made before.
    pub(super) fn observe_tokens(&self, all: usize, remembered: usize) {
        let add = |outcome: Outcome, count: usize| {
            if count > 0 {
                self.tokens
                    .get_or_create(&Labels {
                        outcome: outcome.name(),
                    })
                    .inc_by(count as u64);
            }
        };
        add(Outcome::Made, all.saturating_sub(remembered));
        add(Outcome::Remembered, remembered);
    }
}
