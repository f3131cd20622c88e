//! How well cached tokens are foreseen: what was expected when the endpoint was chosen, against what the engine reported.

use std::sync::Arc;

use hermes_core::query::CacheSource;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};

/// What was counted.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct ForecastLabels {
    pool: Arc<str>,
    source: &'static str,
    kind: &'static str,
}

/// One pool's handles, by who made the forecast.
pub(crate) struct Forecasts {
    nobody: Kinds,
    /// In the order of [`CacheSource::ALL`].
    sources: [Kinds; 3],
}

/// Prompt tokens of one source.
struct Kinds {
    expected: Counter,
    reported: Counter,
    /// Expected, and not found in the cache.
    over: Counter,
    /// Found in the cache, and not expected.
    under: Counter,
}

// === Forecasts ===

impl Forecasts {
    pub(super) fn of(family: &Family<ForecastLabels, Counter>, pool: &Arc<str>) -> Self {
        let kinds = |source| {
            let handle = |kind| {
                super::handle(
                    family,
                    &ForecastLabels {
                        pool: Arc::clone(pool),
                        source,
                        kind,
                    },
                )
            };
            Kinds {
                expected: handle("expected"),
                reported: handle("reported"),
                over: handle("over"),
                under: handle("under"),
            }
        };
        Self {
            nobody: kinds("none"),
            sources: CacheSource::ALL.map(|source| kinds(source.name())),
        }
    }

    /// An engine reported so many cached tokens where so many were expected.
    pub(crate) fn observe(&self, source: Option<CacheSource>, expected: u32, reported: u32) {
        let kinds = match source {
            Some(source) => &self.sources[source as usize],
            None => &self.nobody,
        };
        kinds.expected.inc_by(u64::from(expected));
        kinds.reported.inc_by(u64::from(reported));
        kinds
            .over
            .inc_by(u64::from(expected.saturating_sub(reported)));
        kinds
            .under
            .inc_by(u64::from(reported.saturating_sub(expected)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_in_both_directions_are_told_apart_and_by_source() {
        let forecasts = Forecasts::of(&Family::default(), &"chat".into());
        for source in CacheSource::ALL {
            forecasts.observe(Some(source), 100, 70);
            forecasts.observe(Some(source), 10, 30);
        }
        for Kinds {
            expected,
            reported,
            over,
            under,
        } in &forecasts.sources
        {
            let counted = [expected, reported, over, under].map(Counter::get);
            assert_eq!(counted, [110, 100, 30, 20]);
        }
        assert_eq!(forecasts.nobody.expected.get(), 0);
    }
}
