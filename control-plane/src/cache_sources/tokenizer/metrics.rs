//! Metrics of turning prompts into token ids.

use std::time::Duration;

use hermes_runtime::metrics::{Bounds, family};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};

use super::Failure;

/// In seconds: from a short prompt to one of a megabyte.
const DURATION: Bounds = Bounds(&[
    0.000_1, 0.000_2, 0.000_4, 0.000_8, 0.001_6, 0.003_2, 0.006_4, 0.012_8, 0.025_6, 0.051_2,
    0.102_4, 0.204_8, 0.409_6, 0.819_2,
]);

/// Where the token ids of one prompt came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenizeOutcome {
    /// Tokenized for this request.
    Tokenized,
    /// Tokenized before, and cached.
    Cached,
    /// From the work for an identical request that was in flight already.
    Shared,
    /// There are none.
    Failed(Failure),
}

/// Metric families of all tokenizers; cheap to clone.
#[derive(Clone, Debug)]
pub struct TokenizerMetrics {
    prompts: Family<TokenizeLabels, Counter>,
    tokens: Family<TokenizeLabels, Counter>,
    duration: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TokenizeLabels {
    outcome: &'static str,
}

// === TokenizeOutcome ===

impl TokenizeOutcome {
    /// The label value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tokenized => "tokenized",
            Self::Cached => "cached",
            Self::Shared => "shared",
            Self::Failed(failure) => failure.name(),
        }
    }

    const fn labels(self) -> TokenizeLabels {
        TokenizeLabels {
            outcome: self.name(),
        }
    }
}

// === TokenizerMetrics ===

impl TokenizerMetrics {
    /// Declares the families in `registry`.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("hermes_tokenizer");
        Self {
            prompts: family(
                registry,
                "prompts",
                "Prompts whose token ids were requested, by outcome",
            ),
            tokens: family(
                registry,
                "tokens",
                "Token ids that were returned, tokenized or cached",
            ),
            duration: DURATION.histogram(
                registry,
                "duration_seconds",
                "Time from the request for a prompt's token ids to its result",
            ),
        }
    }

    /// Prompts with `outcome`.
    #[must_use]
    pub fn count(&self, outcome: TokenizeOutcome) -> u64 {
        self.prompts.get_or_create(&outcome.labels()).get()
    }

    pub(super) fn observe(&self, outcome: TokenizeOutcome, took: Duration) {
        self.prompts.get_or_create(&outcome.labels()).inc();
        self.duration.observe(took.as_secs_f64());
    }

    /// Counts returned ids, of which `cached` had been tokenized before.
    pub(super) fn observe_tokens(&self, all: usize, cached: usize) {
        let add = |outcome: TokenizeOutcome, count: usize| {
            if count > 0 {
                let tokens = self.tokens.get_or_create(&outcome.labels());
                tokens.inc_by(count as u64);
            }
        };
        add(TokenizeOutcome::Tokenized, all.saturating_sub(cached));
        add(TokenizeOutcome::Cached, cached);
    }
}
