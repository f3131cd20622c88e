//! Following the control plane's replicas: from their streams to the one view that requests use.
//!
//! ```text
//!   DNS ──▶ addresses ──▶ one task per replica ──events──▶ SnapshotStore (one owner) ──▶ ArcSwap<RoutingView>, ready replicas
//!                              ▲                          │
//!                              └── reports, in batches ◀──┘
//! ```
//!
//! Every replica publishes the whole configuration. The proxy uses the snapshot of one replica and
//! switches to another when that one is lost. When all are lost the last view stays in use. The
//! certificates of listeners come by a stream of their own (`certificate_follower`), and stay as well.

mod certificate_follower;
mod dial;
mod history_replay;
mod load_interest;
mod replica;
mod reports;
mod routing_state;
mod score_streams;
mod sent_certificates;
mod snapshot_store;

use std::{collections::HashMap, io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::lookup_host,
    sync::{mpsc, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use self::{
    certificate_follower::CertificateFollower, dial::ReplicaAddress, replica::ReplicaEvent,
    reports::ReportOutbox,
};
pub(crate) use self::{
    dial::{ControlPlaneTarget, Dialer},
    routing_state::{ListenerPort, RoutingState},
    sent_certificates::SentCertificates,
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
    let (found, addresses) = watch::channel(Vec::new());
    let certificates = CertificateFollower {
        addresses,
        dialer: dialer.clone(),
        identity: identity.clone(),
        exchange: snapshots.certificates(),
    };
    owners.spawn(certificates.run());
    owners.spawn(snapshots.run(inbox));

    let mut followed = ReplicaTasks {
        events,
        outbox,
        dialer,
        identity,
        reporter,
        workers,
        by_address: HashMap::new(),
    };
    let mut names = TargetNames::of(targets);
    let mut tick = interval(RESOLVE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {
                let addresses = names.resolve(lookup_host).await;
                found.send_replace(addresses.clone());
                followed.follow(addresses).await;
            }
            // They end by a panic only. Without them no snapshot and no report gets through, so
            // this task ends, too, and its process is unhealthy.
            Some(_) = owners.join_next() => return,
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
    by_address: HashMap<SocketAddr, AbortOnDropHandle<()>>,
}

impl ReplicaTasks {
    /// Follows the replicas at these addresses, and no others.
    async fn follow(&mut self, addresses: Vec<ReplicaAddress>) {
        let is_left = |(address, task): &(&SocketAddr, &mut AbortOnDropHandle<()>)| {
            let is_named = addresses.iter().any(|target| target.socket == **address);
            // A task ends by itself only if it panicked.
            !is_named || task.is_finished()
        };
        let left = self.by_address.iter_mut().filter(is_left);
        let left: Vec<SocketAddr> = left.map(|(address, _)| *address).collect();
        for address in left {
            self.leave(address).await;
        }
        for target in addresses {
            let Self {
                events,
                outbox,
                dialer,
                identity,
                reporter,
                workers,
                by_address,
            } = self;
            by_address.entry(target.socket).or_insert_with(|| {
                let replica = replica::ReplicaFollower {
                    address: target,
                    dialer: dialer.clone(),
                    identity: identity.clone(),
                    events: events.clone(),
                    outbox: outbox.clone(),
                    reporter: Arc::clone(reporter),
                    workers: Arc::clone(workers),
                };
                AbortOnDropHandle::new(tokio::spawn(replica.follow()))
            });
        }
    }

    /// Ends the task of a replica, and then reports the replica as lost: the store must not route
    /// by the snapshot of one that nothing follows.
    async fn leave(&mut self, address: SocketAddr) {
        let Some(task) = self.by_address.remove(&address) else {
            return;
        };
        tracing::info!(%address, "control-plane replica no longer in DNS; disconnecting");
        task.abort();
        if task.await.is_err_and(|error| error.is_panic()) {
            tracing::error!(%address, "the task of a control-plane replica panicked");
        }
        // Without a receiver the proxy is ending.
        let _ = self.events.send(ReplicaEvent::Lost { from: address }).await;
    }
}

/// The control planes' names, each with the addresses that it had last.
struct TargetNames(Vec<(ControlPlaneTarget, Vec<SocketAddr>)>);

impl TargetNames {
    fn of(targets: Vec<ControlPlaneTarget>) -> Self {
        let unresolved = targets.into_iter().map(|target| (target, Vec::new()));
        Self(unresolved.collect())
    }

    /// Every address of the names. A name that cannot be resolved keeps those that it had: its
    /// replicas are there, whatever DNS says.
    async fn resolve<L, F, A>(&mut self, lookup: L) -> Vec<ReplicaAddress>
    where
        L: Fn(String) -> F,
        F: Future<Output = io::Result<A>>,
        A: Iterator<Item = SocketAddr>,
    {
        for (ControlPlaneTarget { authority, .. }, known) in &mut self.0 {
            match timeout(LOOKUP, lookup(authority.clone())).await {
                Ok(Ok(found)) => {
                    let found: Vec<SocketAddr> = found.collect();
                    if !found.is_empty() {
                        *known = found;
                    }
                }
                Ok(Err(error)) => {
                    tracing::warn!(target = authority, %error, "cannot resolve the control plane's name");
                }
                Err(_) => {
                    tracing::warn!(
                        target = authority,
                        "resolving the control plane's name timed out"
                    );
                }
            }
        }
        let addresses = self.0.iter().flat_map(|(target, known)| {
            known.iter().map(|&socket| ReplicaAddress {
                socket,
                name: target.name.clone(),
            })
        });
        let mut addresses: Vec<ReplicaAddress> = addresses.collect();
        // One address is one replica, even when several names resolve to it.
        addresses.sort_by_key(|target| target.socket);
        addresses.dedup_by_key(|target| target.socket);
        addresses.truncate(MAX_REPLICAS);
        addresses
    }
}

#[cfg(test)]
mod tests;
