//! Readiness: a configuration is loaded, and every pool has listed its endpoints once or timed out.

use std::time::Duration;

use hermes_runtime::readiness::{Gate, Readiness};
use tokio::time::{self, Instant};

use crate::cluster::Cluster;

/// How long readiness waits for discovery: an unreachable API server must not block static pools or
/// pools that have listed.
const PATIENCE: Duration = Duration::from_secs(10);

/// The gates that the pipeline holds.
#[derive(Debug)]
pub(crate) struct ReadinessGates {
    configuration: Gate,
    discovery: Gate,
    /// When the wait for discovery ends; `None` before a configuration is there, and after the gate
    /// was opened.
    patience: Option<Instant>,
    /// Whether a configuration was seen.
    configured: bool,
}

// === ReadinessGates ===

impl ReadinessGates {
    /// Two gates of `readiness`, shut.
    #[must_use]
    pub(crate) fn new(readiness: &Readiness) -> Self {
        let (configuration, discovery) =
            (readiness.gate("configuration"), readiness.gate("discovery"));
        configuration.close("no usable configuration yet");
        discovery.close("waits for a configuration");
        Self {
            configuration,
            discovery,
            patience: None,
            configured: false,
        }
    }

    /// Opens the gates whose condition `cluster` meets. An open gate stays open: a new pool does
    /// not make the replica less ready.
    pub(super) fn look(&mut self, cluster: &Cluster) {
        if !self.configured && cluster.is_configured() {
            self.configured = true;
            self.configuration.open();
            self.patience = Some(Instant::now() + PATIENCE);
        }
        if self.patience.is_none() {
            return;
        }
        let Some(pool) = cluster.unlisted().next() else {
            self.patience = None;
            self.discovery.open();
            return;
        };
        self.discovery
            .close(format!("the endpoints of pool `{pool}` are not known yet"));
    }

    /// Resolves when discovery was waited for long enough; never when nothing waits.
    pub(super) fn patience(&self) -> impl Future<Output = ()> + use<> {
        let patience = self.patience;
        async move {
            match patience {
                Some(patience) => time::sleep_until(patience).await,
                None => std::future::pending().await,
            }
        }
    }

    pub(super) fn open_anyway(&mut self, cluster: &Cluster) {
        self.patience = None;
        self.discovery.open();
        let pools: Vec<&str> = cluster.unlisted().map(|pool| &**pool).collect();
        tracing::warn!(
            ?pools,
            "discovery has not answered for {PATIENCE:?}, serving without these pools' endpoints"
        );
    }
}
