//! Following the control plane's replicas: from their streams to the one view that requests use.
//!
//! ```text
//!   DNS ──▶ addresses ──▶ one task per replica ──events──▶ SnapshotStore (one owner) ──▶ ArcSwap<RoutingView>, ready replicas
//!                              ▲                          │
//!                              └── reports, in batches ◀──┘
//! ```
//!
//! Every replica publishes the whole configuration. The proxy uses the snapshot of one replica and
//! switches to another when that one is lost. When all are lost the last view stays in use.

mod dial;
mod history_replay;
mod replica;
mod reports;
mod routing_state;
mod score_streams;
mod snapshot_store;

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::lookup_host,
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::{MissedTickBehavior, interval, timeout},
};

use self::{dial::ReplicaAddress, replica::ReplicaEvent, reports::ReportOutbox};
pub(crate) use self::{
    dial::{ControlPlaneTarget, Dialer},
    routing_state::RoutingState,
    snapshot_store::SnapshotStore,
};
use crate::{
    link::{identity::ProxyIdentity, report::Reporter},
    telemetry::metrics::ProxyMetrics,
    worker::WorkerRuntime,
};

/// How often the control plane's name is resolved: replicas come and go behind a headless Service.
const RESOLVE: Duration = Duration::from_secs(5);

/// Timeout of one DNS lookup.
const LOOKUP: Duration = Duration::from_secs(2);

/// Maximum number of replicas that one proxy follows.
const MAX_REPLICAS: usize = 16;

/// Capacity of the queue of replica events; when it is full, a replica's stream is not read.
const EVENTS: usize = 64;

/// Names of control planes, and how their replicas are dialed.
pub(crate) struct ControlPlaneTargets {
    pub(crate) targets: Vec<ControlPlaneTarget>,
    pub(crate) dialer: Dialer,
}

/// Follows every replica of the control planes until it is dropped.
pub(crate) async fn run(
    control_planes: ControlPlaneTargets,
    identity: ProxyIdentity,
    snapshots: SnapshotStore,
    reporter: Arc<Reporter>,
    reports: mpsc::Receiver<hermes_proto::v1::Report>,
    metrics: Arc<ProxyMetrics>,
    workers: Arc<[WorkerRuntime]>,
) {
    let ControlPlaneTargets { targets, dialer } = control_planes;
    let (events, inbox) = mpsc::channel(EVENTS);
    let outbox = ReportOutbox::default();
    let mut owners = JoinSet::new();
    owners.spawn(reports::run(
        reports,
        Arc::clone(&reporter),
        outbox.clone(),
        metrics,
    ));
    owners.spawn(snapshots.run(inbox));

    let (tasks, by_address) = (JoinSet::new(), HashMap::new());
    let mut followed = ReplicaTasks {
        events,
        outbox,
        dialer,
        identity,
        reporter,
        workers,
        tasks,
        by_address,
    };
    let mut tick = interval(RESOLVE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if let Some(addresses) = resolve(&targets).await {
            followed.follow(addresses);
        }
    }
}

/// The tasks that follow replicas, one per address.
struct ReplicaTasks {
    events: mpsc::Sender<ReplicaEvent>,
    outbox: ReportOutbox,
    dialer: Dialer,
    identity: ProxyIdentity,
    reporter: Arc<Reporter>,
    workers: Arc<[WorkerRuntime]>,
    tasks: JoinSet<()>,
    by_address: HashMap<SocketAddr, AbortHandle>,
}

impl ReplicaTasks {
    /// Follows the replicas at these addresses; tasks of other addresses are aborted.
    fn follow(&mut self, addresses: Vec<ReplicaAddress>) {
        self.by_address.retain(|address, task| {
            let stays = addresses.iter().any(|target| target.socket == *address);
            if !stays {
                tracing::info!(%address, "control-plane replica no longer in DNS; disconnecting");
                task.abort();
            }
            stays
        });
        for target in addresses {
            let Self {
                events,
                outbox,
                dialer,
                identity,
                reporter,
                workers,
                tasks,
                ..
            } = self;
            self.by_address.entry(target.socket).or_insert_with(|| {
                let replica = replica::ReplicaFollower {
                    address: target,
                    dialer: dialer.clone(),
                    identity: identity.clone(),
                    events: events.clone(),
                    outbox: outbox.clone(),
                    reporter: Arc::clone(reporter),
                    workers: Arc::clone(workers),
                };
                tasks.spawn(replica.follow())
            });
        }
        while self.tasks.try_join_next().is_some() {}
    }
}

/// Every address of the targets, or `None` when no lookup succeeded: then the current replicas
/// stay.
async fn resolve(targets: &[ControlPlaneTarget]) -> Option<Vec<ReplicaAddress>> {
    let mut addresses: Vec<ReplicaAddress> = Vec::new();
    let mut any = false;
    for ControlPlaneTarget {
        authority: target,
        name,
    } in targets
    {
        match timeout(LOOKUP, lookup_host(target)).await {
            Ok(Ok(found)) => {
                any = true;
                addresses.extend(found.map(|socket| ReplicaAddress {
                    socket,
                    name: name.clone(),
                }));
            }
            Ok(Err(error)) => {
                tracing::warn!(target, %error, "cannot resolve the control plane's name");
            }
            Err(_) => tracing::warn!(target, "resolving the control plane's name timed out"),
        }
    }
    // One address is one replica, even when several names resolve to it.
    addresses.sort_by_key(|target| target.socket);
    addresses.dedup_by_key(|target| target.socket);
    addresses.truncate(MAX_REPLICAS);
    any.then_some(addresses)
}
