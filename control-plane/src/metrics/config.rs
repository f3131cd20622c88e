//! The configuration file as metrics.

use hermes_runtime::metrics::family;
use prometheus_client::{metrics::gauge::Gauge, registry::Registry};

/// The families of the configuration.
#[derive(Clone, Debug)]
pub struct ConfigMetrics {
    /// Configurations that were accepted since the start.
    pub revision: Gauge,
    /// 1 while the newest configuration is in force.
    pub last_reload_successful: Gauge,
}

// === ConfigMetrics ===

impl ConfigMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        Self {
            revision: family(
                registry,
                "config_revision",
                "Configurations that were accepted since the start of this replica",
            ),
            last_reload_successful: family(
                registry,
                "config_last_reload_successful",
                "1 while the configuration file is in force, 0 while it is invalid or unreadable",
            ),
        }
    }
}
