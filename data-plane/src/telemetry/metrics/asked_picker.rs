//! Questions to other pickers, by what came of them.

use std::sync::Arc;

use hermes_runtime::{
    label_set,
    metrics::{HistogramFamily, PerValue, PoolLabels, SeriesScope, family},
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};

use super::requests::ROUTING;

label_set! {
    /// What came of a question to another picker.
    pub(crate) enum AskResult {
        /// It named endpoints of the pool.
        Picked = "picked",
        /// It answered the client.
        Replied = "replied",
        /// It cannot be connected to.
        Unreachable = "unreachable",
        /// It did not answer in time.
        Late = "late",
        /// It ended the stream, or did not keep to the protocol.
        Broken = "broken",
        /// It named no endpoint of the pool.
        NoEndpoint = "no_endpoint",
    }
}

/// The families of questions to other pickers.
pub(super) struct AskFamilies {
    questions: Family<AskLabels, Counter>,
    duration: HistogramFamily<PoolLabels>,
}

/// One pool's handles.
pub(crate) struct AskMetrics {
    pub(crate) questions: PerValue<AskResult, Counter>,
    pub(crate) duration: Histogram,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct AskLabels {
    pool: Arc<str>,
    result: AskResult,
}

impl AskFamilies {
    pub(super) fn register(registry: &mut Registry) -> Self {
        Self {
            questions: family(
                registry,
                "hermes_asked_picker_questions",
                "Questions to the picker that chooses a pool's endpoints, by result",
            ),
            duration: ROUTING.family(
                registry,
                "hermes_asked_picker_duration_seconds",
                "Time from a question to that picker to its whole answer, or to its failure",
            ),
        }
    }

    pub(super) fn of_pool(&self, pool: &Arc<str>, series: &mut SeriesScope) -> AskMetrics {
        AskMetrics {
            questions: PerValue::new(|result| {
                let labels = AskLabels {
                    pool: Arc::clone(pool),
                    result,
                };
                series.handle(&self.questions, labels)
            }),
            duration: series.handle(&self.duration, PoolLabels::new(pool)),
        }
    }
}
