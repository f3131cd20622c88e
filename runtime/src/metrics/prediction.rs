//! How well cached tokens are predicted: what a source expected when the endpoint was selected,
//! against what the engine reported. Each plane has one such family, for the requests that it sees.

use std::sync::Arc;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};

use super::{PerValue, SeriesScope};

/// Prompt tokens by pool, source of the prediction, and kind.
pub type PredictionFamily = Family<PredictionLabels, Counter>;

/// Labels of a [`PredictionFamily`].
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct PredictionLabels {
    pool: Arc<str>,
    source: &'static str,
    kind: PredictionKind,
}

crate::label_set! {
    /// What a counter of predicted tokens counts.
    pub enum PredictionKind {
        /// Expected to be cached.
        Expected = "expected",
        /// Reported as cached by the engine.
        Reported = "reported",
        /// Expected, and not cached.
        Over = "over",
        /// Cached, and not expected.
        Under = "under",
    }
}

/// The counters of one source in one pool.
#[derive(Clone, Debug)]
pub struct PredictionTokens(PerValue<PredictionKind, Counter>);

// === PredictionTokens ===

impl PredictionTokens {
    /// Resolves the counters.
    pub fn new(
        family: &PredictionFamily,
        pool: &Arc<str>,
        source: &'static str,
        series: &mut SeriesScope,
    ) -> Self {
        Self(PerValue::new(|kind| {
            let pool = Arc::clone(pool);
            series.handle(family, PredictionLabels { pool, source, kind })
        }))
    }

    /// Counts one request: the tokens that were expected to be cached, and those that its engine
    /// reported.
    pub fn observe(&self, expected: u32, reported: u32) {
        let (over, under) = (
            expected.saturating_sub(reported),
            reported.saturating_sub(expected),
        );
        self.0[PredictionKind::Expected].inc_by(expected.into());
        self.0[PredictionKind::Reported].inc_by(reported.into());
        self.0[PredictionKind::Over].inc_by(over.into());
        self.0[PredictionKind::Under].inc_by(under.into());
    }

    /// The tokens counted so far.
    #[must_use]
    pub fn count(&self, kind: PredictionKind) -> u64 {
        self.0[kind].get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::LabelSet;

    #[test]
    fn errors_in_both_directions_are_counted_apart_and_by_source() {
        let (family, mut series) = (Family::default(), SeriesScope::default());
        let mut tokens =
            |source| PredictionTokens::new(&family, &"chat".into(), source, &mut series);
        let (learned, none) = (tokens("learned"), tokens("none"));
        learned.observe(100, 70);
        learned.observe(10, 30);
        let counted: Vec<u64> = PredictionKind::ALL
            .iter()
            .map(|kind| learned.count(*kind))
            .collect();
        assert_eq!(counted, [110, 100, 30, 20]);
        assert_eq!(none.count(PredictionKind::Expected), 0);
    }
}
