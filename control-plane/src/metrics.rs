//! The control plane's own metrics. The help text of each family is its documentation;
//! `docs/metrics.md` is checked against it.
//!
//! ```text
//!   counted as things happen                       read at each scrape
//!   ControlPlaneMetrics ─┬─ ConfigMetrics          admin::StateCollector: endpoints,
//!                        ├─ StreamMetrics            bookings, queues, indexes, discovery
//!                        └─ SchedulerFamilies ──▶ SchedulerMetrics, one per pool
//! ```
//!
//! Labels are pools (at most 256 at a time, chosen by the operator) and members of small closed
//! sets. Handles are resolved when a pool appears, not per request, and a pool's series are removed
//! when its handles are dropped.

mod config;
mod scheduler;
mod streams;

use std::sync::Arc;

use hermes_runtime::metrics::{HandleCache, Handles};
use prometheus_client::registry::Registry;

use self::scheduler::SchedulerFamilies;
pub use self::{
    config::ConfigMetrics,
    scheduler::{ReleaseCause, SchedulerMetrics, ScoreOutcome},
    streams::{HandshakeOutcome, MessageKind, ReportEvent, StreamMetrics},
};

/// The families that are counted as things happen. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ControlPlaneMetrics {
    /// The configuration file.
    pub config: ConfigMetrics,
    /// Streams and messages of proxies.
    pub streams: StreamMetrics,
    scheduler: SchedulerFamilies,
    pools: HandleCache<Arc<str>, SchedulerMetrics>,
}

// === ControlPlaneMetrics ===

impl ControlPlaneMetrics {
    /// Declares the families in `registry`.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("hermes_control_plane");
        Self {
            config: ConfigMetrics::register(registry),
            streams: StreamMetrics::register(registry),
            scheduler: SchedulerFamilies::register(registry),
            pools: HandleCache::default(),
        }
    }

    /// The handles of `pool`.
    #[must_use]
    pub fn pool(&self, pool: &Arc<str>) -> Arc<Handles<SchedulerMetrics>> {
        self.pools
            .get(pool, |series| self.scheduler.of_pool(pool, series))
    }

    /// A score request named a pool that this replica does not have.
    pub fn unknown_pool(&self) {
        self.scheduler.rejected("unknown_pool");
    }

    /// A score request could not be decoded.
    pub fn invalid_request(&self) {
        self.scheduler.rejected("invalid");
    }
}

#[cfg(test)]
mod tests {
    use hermes_runtime::metrics::{Exposition, LabelSet};

    use super::*;

    #[test]
    fn series_carry_the_names_of_their_values_and_end_with_the_pool() {
        let mut registry = Registry::default();
        let metrics = ControlPlaneMetrics::register(&mut registry);
        let text = || {
            Exposition::Prometheus
                .encode(&registry)
                .expect("a string takes all text")
        };
        let pool = metrics.pool(&"chat".into());
        for &outcome in ScoreOutcome::ALL {
            pool.scores[outcome].inc();
        }
        pool.releases[ReleaseCause::EndpointGone].inc_by(3);
        for outcome in ScoreOutcome::ALL {
            let line = format!(
                "hermes_control_plane_scores_total{{pool=\"chat\",outcome=\"{}\"}} 1\n",
                outcome.name()
            );
            assert!(text().contains(&line), "{line} in {}", text());
        }
        let line = "hermes_control_plane_bookings_released_total{pool=\"chat\",cause=\"endpoint_gone\"} 3\n";
        assert!(text().contains(line), "{}", text());
        drop(pool);
        assert!(!text().contains("chat"), "{}", text());
    }
}
