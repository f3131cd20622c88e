//! When this replica may be asked: it has a configuration, and every pool was heard of once or was waited for.

use std::time::Duration;

use hermes_runtime::readiness::{Gate, Readiness};
use tokio::time::{self, Instant};

use crate::cluster::Cluster;

/// How long a replica waits for discovery before it serves what it knows: an API server that is away must not keep
/// static pools, or a restarted replica's other pools, from being served.
const PATIENCE: Duration = Duration::from_secs(10);

/// The gates that the pipeline holds.
#[derive(Debug)]
pub(crate) struct Gates {
    configuration: Gate,
    discovery: Gate,
    /// When the wait for discovery ends; `None` before a configuration is there, and after the gate was opened.
    patience: Option<Instant>,
    /// Whether a configuration was seen.
    configured: bool,
}

// === Gates ===

impl Gates {
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

    /// Opens what `cluster` fulfils. A gate that was opened stays open: what is known does not get worse by a pool that
    /// is new.
    pub(super) fn look(&mut self, cluster: &Cluster) {
        if !self.configured && cluster.is_configured() {
            self.configured = true;
            self.configuration.open();
            self.patience = Some(Instant::now() + PATIENCE);
        }
        if self.patience.is_none() {
            return;
        }
        let Some(pool) = cluster.unheard().next() else {
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
        let pools: Vec<&str> = cluster.unheard().map(|pool| &**pool).collect();
        tracing::warn!(
            ?pools,
            "discovery has not answered for {PATIENCE:?}, serving without these pools' endpoints"
        );
    }
}
