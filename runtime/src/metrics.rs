//! What every metric of the process needs: families with bucket bounds, build info, process numbers, text formats.
//!
//! A plane declares its metrics as one struct of families, registers each of them once, and resolves handles outside
//! the hot path. There are no global metrics. Which metrics there are is the planes' business.

mod exposition;
mod process;

pub use exposition::{Description, Exposition, describe};
pub use process::ProcessCollector;

use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// Upper bounds of a histogram's buckets, rising, without the infinite one.
#[derive(Clone, Copy, Debug)]
pub struct Bounds(pub &'static [f64]);

/// A histogram per label set `L`, all with the same bounds. `HistogramFamily::new_with_constructor(Bounds(…))`.
pub type HistogramFamily<L> = Family<L, Histogram, Bounds>;

impl Bounds {
    /// One histogram without labels.
    #[must_use]
    pub fn histogram(self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }

    /// One histogram per label set.
    #[must_use]
    pub fn family<L: Clone + std::hash::Hash + Eq>(self) -> HistogramFamily<L> {
        Family::new_with_constructor(self)
    }
}

impl MetricConstructor<Histogram> for Bounds {
    fn new_metric(&self) -> Histogram {
        self.histogram()
    }
}

/// Registers what every process exposes: `hermes_build_info{component,version} 1` and the `process_*` numbers.
///
/// `registry` must have no prefix, as these names are the ones that dashboards of any process look for.
pub fn register_process(registry: &mut Registry, component: &'static str, version: &'static str) {
    let build = Info::new([("component", component), ("version", version)]);
    registry.register(
        "hermes_build",
        "Which component this process is, and its version",
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
    fn every_process_tells_its_version_and_memory() {
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
        let family: HistogramFamily<[(&'static str, &'static str); 1]> =
            Bounds(&[0.5, 1.0]).family();
        let mut registry = Registry::default();
        registry.register("wait", "Time in queue", family.clone());
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
