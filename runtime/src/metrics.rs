//! Declaring metrics, and what every process exposes: build info, process numbers, both text
//! formats.
//!
//! A plane declares its families in structs, one line a family with [`family`] or [`Bounds`], and
//! resolves handles outside the hot path. There are no global metrics.

mod exposition;
mod label_set;
mod prediction;
mod process;
mod series;

use std::{fmt::Debug, hash::Hash, sync::Arc};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        family::{Family, MetricConstructor},
        histogram::Histogram,
        info::Info,
    },
    registry::{Metric, Registry},
};

pub use self::{
    exposition::{Description, Exposition, describe},
    label_set::{LabelSet, PerValue},
    prediction::{PredictionFamily, PredictionKind, PredictionLabels, PredictionTokens},
    process::ProcessCollector,
    series::{HandleCache, Handles, SeriesScope},
};

/// Upper bounds of a histogram's buckets, rising, without the infinite one.
#[derive(Clone, Copy, Debug)]
pub struct Bounds(pub &'static [f64]);

/// The label of a family that is counted per pool only.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct PoolLabels {
    /// The pool's name.
    pub pool: Arc<str>,
}

/// A histogram per label set `L`, all with the same bounds.
pub type HistogramFamily<L> = Family<L, Histogram, Bounds>;

// === PoolLabels ===

impl PoolLabels {
    /// The label of `pool`.
    #[must_use]
    pub fn new(pool: &Arc<str>) -> Self {
        let pool = Arc::clone(pool);
        Self { pool }
    }
}

// === Declaring families ===

/// Declares a counter, a gauge or a family of them. Counters get the suffix `_total` when they are
/// exposed.
#[must_use]
pub fn family<M: Metric + Default + Clone>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

impl Bounds {
    /// Declares one histogram.
    #[must_use]
    pub fn histogram(self, registry: &mut Registry, name: &str, help: &str) -> Histogram {
        let histogram = self.new_metric();
        registry.register(name, help, histogram.clone());
        histogram
    }

    /// Declares one histogram per label set.
    #[must_use]
    pub fn family<L>(self, registry: &mut Registry, name: &str, help: &str) -> HistogramFamily<L>
    where
        L: Clone + Hash + Eq + EncodeLabelSet + Debug + Send + Sync + 'static,
    {
        let family = Family::new_with_constructor(self);
        registry.register(name, help, family.clone());
        family
    }
}

impl MetricConstructor<Histogram> for Bounds {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

/// Registers what every process exposes: `hermes_build_info{component,version} 1`,
/// `hermes_panics_total` and the `process_*` numbers.
///
/// `registry` must have no prefix, as these names are the ones that dashboards of any process look
/// for.
pub fn register_process(registry: &mut Registry, component: &'static str, version: &'static str) {
    let build = Info::new([("component", component), ("version", version)]);
    registry.register(
        "hermes_build",
        "Component of this process, and its version",
        build,
    );
    registry.register_collector(Box::new(ProcessCollector));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(registry: &Registry) -> String {
        Exposition::Prometheus
            .encode(registry)
            .expect("a string takes all text")
    }

    #[test]
    fn every_process_exposes_its_version_and_memory() {
        let mut registry = Registry::default();
        register_process(&mut registry, "data-plane", "1.2.3");
        let text = text(&registry);
        assert!(
            text.contains("hermes_build_info{component=\"data-plane\",version=\"1.2.3\"} 1\n"),
            "{text}"
        );
        assert!(
            text.contains("# TYPE process_resident_memory_bytes gauge\n"),
            "{text}"
        );
    }

    #[test]
    fn histograms_of_a_family_share_their_bounds() {
        let mut registry = Registry::default();
        let family: HistogramFamily<[(&'static str, &'static str); 1]> =
            Bounds(&[0.5, 1.0]).family(&mut registry, "wait", "Time in queue");
        family.get_or_create(&[("pool", "chat")]).observe(0.7);
        let text = text(&registry);
        assert!(
            text.contains("wait_bucket{le=\"0.5\",pool=\"chat\"} 0\n"),
            "{text}"
        );
        assert!(
            text.contains("wait_bucket{le=\"1.0\",pool=\"chat\"} 1\n"),
            "{text}"
        );
    }
}
