//! An update's whole path: sources → fold → snapshot → subscribers.
//!
//! ```text
//!   config file ─┐                                     ┌─▶ pools      (before any proxy sees the version)
//!   discovery ───┼─Update─▶ run ─fold─▶ Cluster ─publish┼─▶ subscribers (watch: latest wins)
//!   probes ───┘            ▲                         ├─▶ probes   (which endpoints)
//!       ▲                     └─ figures ─▶ pools      ├─▶ discovery   (where to look)
//!       │                                               └─▶ KV events   (which endpoints)
//!       └───────────────────────────────────────────────────┘
//! ```
//!
//! One task owns the [`Cluster`]; sources only send. The first change goes out at once, and what
//! follows within [`SETTLE`] goes out together: a thousand pods that start are a handful of
//! snapshots. A change that no proxy could see publishes nothing. Both channels are bounded: a
//! source that is faster than this task waits, and a probe whose result finds no room drops it.
//!
//! It does not know gRPC: subscribers watch, and each computes for itself what it still lacks
//! ([`crate::serve`]).

mod discovery_supervisor;
mod readiness_gates;

use std::{sync::Arc, time::Duration};

use hermes_core::snapshot::{Epoch, Snapshot};
use tokio::{
    sync::{mpsc, watch},
    time::{self, Instant},
};

pub(crate) use self::{
    discovery_supervisor::{DiscoveryHealth, DiscoverySupervisor},
    readiness_gates::ReadinessGates,
};
use crate::{
    cluster::{ChangeSet, Cluster, Update},
    engines::{EngineProbes, ProbeResult},
    metrics::ControlPlaneMetrics,
    pools::{PoolDirectory, PoolResourceRegistry},
};

/// How long changes gather after a snapshot was published.
pub(crate) const SETTLE: Duration = Duration::from_millis(50);

/// Updates that may wait for the owner.
pub(crate) const QUEUE: usize = 1_024;

/// Updates that are folded in one go.
const BATCH: usize = 256;

/// The owner of the cluster.
pub(crate) struct Pipeline {
    cluster: Cluster,
    pools: Arc<PoolDirectory>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    probes: EngineProbes,
    discovery: DiscoverySupervisor,
    resources: PoolResourceRegistry,
    gates: ReadinessGates,
    metrics: ControlPlaneMetrics,
}

/// What a pipeline drives besides the pools.
pub(crate) struct PipelineHandles {
    /// Asks endpoints how they are.
    pub(crate) probes: EngineProbes,
    /// Watches for endpoints.
    pub(crate) discovery: DiscoverySupervisor,
    /// What pools need besides snapshots.
    pub(crate) resources: PoolResourceRegistry,
    /// Readiness.
    pub(crate) gates: ReadinessGates,
}

// === Pipeline ===

impl Pipeline {
    /// A pipeline whose snapshots belong to `epoch`, and the view of the newest one. Before the
    /// first it is empty and its version zero, which no proxy is ever sent.
    #[must_use]
    pub(crate) fn new(
        epoch: Epoch,
        pools: Arc<PoolDirectory>,
        handles: PipelineHandles,
        metrics: ControlPlaneMetrics,
    ) -> (Self, watch::Receiver<Arc<Snapshot>>) {
        let PipelineHandles {
            probes,
            discovery,
            resources,
            gates,
        } = handles;
        let (snapshots, newest) = watch::channel(Arc::new(Snapshot {
            epoch,
            ..Snapshot::default()
        }));
        (
            Self {
                cluster: Cluster::new(epoch),
                pools,
                snapshots,
                probes,
                discovery,
                resources,
                gates,
                metrics,
            },
            newest,
        )
    }

    /// Runs until every sender of updates is gone.
    pub(crate) async fn run(
        mut self,
        mut queued_updates: mpsc::Receiver<Update>,
        mut queued_results: mpsc::Receiver<ProbeResult>,
    ) {
        let (mut pending, mut results) = (Vec::with_capacity(BATCH), Vec::with_capacity(BATCH));
        let mut changed = ChangeSet::default();
        let mut due = Instant::now();
        loop {
            // Deliberately unbiased: neither a flood of updates nor a slow fold starves the others.
            tokio::select! {
                received = queued_updates.recv_many(&mut pending, BATCH) => {
                    if received == 0 {
                        return;
                    }
                    let now = self.pools.now();
                    for update in pending.drain(..) {
                        changed = changed.or(self.cluster.fold(update, now));
                    }
                    if changed == ChangeSet::default() {
                        // A source that found nothing has listed all the same.
                        self.gates.look(&self.cluster);
                    }
                }
                _received = queued_results.recv_many(&mut results, BATCH) => {
                    for observation in results.drain(..) {
                        changed = changed.or(self.observe(observation));
                    }
                }
                () = time::sleep_until(due), if changed != ChangeSet::default() => {
                    self.settle(std::mem::take(&mut changed));
                    due = Instant::now() + SETTLE;
                }
                () = self.gates.patience() => self.gates.open_anyway(&self.cluster),
            }
        }
    }

    /// Figures and health go to the pools and what they use, models into the cluster.
    fn observe(&mut self, observation: ProbeResult) -> ChangeSet {
        self.pools.observe(&observation);
        self.resources.observe(&observation);
        let ProbeResult {
            endpoint,
            models,
            pairing,
            ..
        } = observation;
        let stated = pairing.map(|stated| Update::Stated { endpoint, stated });
        let models = match models {
            Some(models) => Update::Models { endpoint, models },
            None => Update::Probed { endpoint },
        };
        let mut changed = ChangeSet::default();
        for update in stated.into_iter().chain([models]) {
            changed = changed.or(self.cluster.fold(update, self.pools.now()));
        }
        changed
    }

    /// Applies the changes: resources, schedulers, snapshot, probes, discovery, readiness.
    fn settle(&mut self, changed: ChangeSet) {
        if changed.configuration {
            self.resources.configure(self.cluster.configs());
        }
        if changed.targets || changed.configuration {
            self.resources.follow(self.cluster.publishers());
        }
        let next = self.cluster.publish();
        if changed.configuration || next.is_some() {
            // The pools first: a proxy may ask by the new version as soon as it has it.
            self.pools
                .apply(self.cluster.newest(), |pool| self.resources.of(pool));
        }
        if let Some(snapshot) = next {
            self.publish(snapshot);
        }
        // Only now, so that the results of probes find their scheduler.
        if changed.targets {
            self.probes.set(self.cluster.targets());
        }
        if changed.configuration {
            self.discovery.set(self.cluster.sources());
        }
        // Last: a ready replica answers by the snapshot that was just published.
        self.gates.look(&self.cluster);
    }

    fn publish(&self, snapshot: Arc<Snapshot>) {
        self.metrics
            .streams
            .snapshot_version
            .set(i64::try_from(snapshot.version.0).unwrap_or(i64::MAX));
        let endpoints: usize = snapshot.pools.iter().map(|pool| pool.endpoints.len()).sum();
        tracing::info!(
            version = snapshot.version.0,
            pools = snapshot.pools.len(),
            endpoints,
            "snapshot published"
        );
        self.snapshots.send_replace(snapshot);
    }
}

#[cfg(test)]
mod tests;
