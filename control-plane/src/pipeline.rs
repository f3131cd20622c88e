//! An update's whole path: sources → fold → snapshot → subscribers.
//!
//! ```text
//!   config file ─┐                                     ┌─▶ brains      (before any proxy sees the version)
//!   discovery ───┼─Update─▶ run ─fold─▶ Cluster ─publish┼─▶ subscribers (watch: latest wins)
//!   collector ───┘            ▲                         ├─▶ collector   (whom to ask)
//!       ▲                     └─ figures ─▶ brains      ├─▶ discovery   (where to look)
//!       │                                               └─▶ KV events   (whom to follow)
//!       └───────────────────────────────────────────────────┘
//! ```
//!
//! One task owns the [`Cluster`]; sources only send. The first change goes out at once, and what follows within
//! [`SETTLE`] goes out together: a thousand pods that start are a handful of snapshots. A change that no proxy could
//! see publishes nothing. Both channels are bounded, so that a source that is faster than this task waits.
//!
//! It does not know gRPC: subscribers watch, and each computes for itself what it still lacks ([`crate::serve`]).

mod discovery_supervisor;
mod readiness_gates;

use std::{sync::Arc, time::Duration};

use hermes_core::snapshot::{Epoch, Snapshot};
use tokio::{
    sync::{mpsc, watch},
    time::{self, Instant},
};

pub(crate) use self::{
    discovery_supervisor::{Board, Lookouts},
    readiness_gates::Gates,
};
use crate::{
    cluster::{Changed, Cluster, Update},
    engines::{Collector, Observation},
    metrics::Metrics,
    pools::{Brains, Guides},
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
    brains: Arc<Brains>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    collector: Collector,
    lookouts: Lookouts,
    guides: Guides,
    gates: Gates,
    metrics: Metrics,
}

/// What a pipeline steers besides the brains.
pub(crate) struct Reins {
    /// Asks endpoints how they are.
    pub(crate) collector: Collector,
    /// Watches for endpoints.
    pub(crate) lookouts: Lookouts,
    /// What brains need besides snapshots.
    pub(crate) guides: Guides,
    /// Readiness.
    pub(crate) gates: Gates,
}

// === Pipeline ===

impl Pipeline {
    /// A pipeline whose snapshots belong to `epoch`, and the view of the newest one. Before the first it is empty and
    /// its version zero, which no proxy is ever sent.
    #[must_use]
    pub(crate) fn new(
        epoch: Epoch,
        brains: Arc<Brains>,
        reins: Reins,
        metrics: Metrics,
    ) -> (Self, watch::Receiver<Arc<Snapshot>>) {
        let Reins {
            collector,
            lookouts,
            guides,
            gates,
        } = reins;
        let (snapshots, newest) = watch::channel(Arc::new(Snapshot {
            epoch,
            ..Snapshot::default()
        }));
        (
            Self {
                cluster: Cluster::new(epoch),
                brains,
                snapshots,
                collector,
                lookouts,
                guides,
                gates,
                metrics,
            },
            newest,
        )
    }

    /// Runs until every sender of updates is gone.
    pub(crate) async fn run(
        mut self,
        mut updates: mpsc::Receiver<Update>,
        mut observations: mpsc::Receiver<Observation>,
    ) {
        let (mut told, mut seen) = (Vec::with_capacity(BATCH), Vec::with_capacity(BATCH));
        let mut changed = Changed::default();
        let mut due = Instant::now();
        loop {
            // Deliberately unbiased: neither a flood of updates nor a slow fold starves the others.
            tokio::select! {
                received = updates.recv_many(&mut told, BATCH) => {
                    if received == 0 {
                        return;
                    }
                    for update in told.drain(..) {
                        changed = changed.or(self.cluster.fold(update));
                    }
                    if changed == Changed::default() {
                        // A source that found nothing was heard of all the same.
                        self.gates.look(&self.cluster);
                    }
                }
                _received = observations.recv_many(&mut seen, BATCH) => {
                    for observation in seen.drain(..) {
                        changed = changed.or(self.observe(observation));
                    }
                }
                () = time::sleep_until(due), if changed != Changed::default() => {
                    self.settle(std::mem::take(&mut changed));
                    due = Instant::now() + SETTLE;
                }
                () = self.gates.patience() => self.gates.open_anyway(&self.cluster),
            }
        }
    }

    /// Figures and health go to the brains, models into the cluster.
    fn observe(&mut self, observation: Observation) -> Changed {
        self.brains.observe(&observation);
        let Observation {
            endpoint, models, ..
        } = observation;
        models.map_or_else(Changed::default, |models| {
            self.cluster.fold(Update::Models { endpoint, models })
        })
    }

    /// Lets everyone know what changed.
    fn settle(&mut self, changed: Changed) {
        if changed.configuration {
            self.guides.set(self.cluster.configs());
        }
        if changed.targets || changed.configuration {
            self.guides.follow(self.cluster.publishers());
        }
        let next = self.cluster.publish();
        if changed.configuration || next.is_some() {
            // The brains first: a proxy may ask by the new version as soon as it has it.
            self.brains
                .apply(self.cluster.newest(), |pool| self.guides.of(pool));
        }
        if let Some(snapshot) = next {
            self.publish(snapshot);
        }
        // Only now, so that what the collector learns finds its brain.
        if changed.targets {
            self.collector.set(self.cluster.targets());
        }
        if changed.configuration {
            self.lookouts.set(self.cluster.sources());
        }
        // Last: whoever is ready can answer by what was just published.
        self.gates.look(&self.cluster);
    }

    fn publish(&self, snapshot: Arc<Snapshot>) {
        self.metrics
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
