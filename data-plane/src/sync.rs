//! From the control plane's streams to the one view that requests route by.
//!
//! ```text
//!   DNS ──▶ addresses ──▶ one task a replica ──news──▶ SnapshotStore (one owner) ──▶ ArcSwap<RoutingView>, ready replicas
//!                              ▲                          │
//!                              └── reports, in batches ◀──┘
//! ```
//!
//! Replicas are equal and each knows everything; the proxy routes by the snapshot of one, and goes over to another
//! when that one is lost. When all are lost the last view stays: a proxy without control plane goes on serving.

mod dial;
mod history_replay;
mod replica;
mod reports;
mod routing_state;
mod snapshot_store;

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use hermes_runtime::readiness::Gate;
use tokio::{
    net::lookup_host,
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::{MissedTickBehavior, interval, timeout},
};

use self::{
    dial::ReplicaAddress, replica::ReplicaEvent, reports::ReportOutbox,
    snapshot_store::SnapshotStore,
};
pub(crate) use self::{
    dial::{ControlPlaneTarget, Dialer},
    routing_state::RoutingState,
};
use crate::{
    link::{identity::ProxyIdentity, report::Reporter},
    telemetry::metrics::Metrics,
};

/// How often the control plane's name is resolved: replicas come and go behind a headless Service.
const RESOLVE: Duration = Duration::from_secs(5);

/// One look-up takes this long at most.
const LOOKUP: Duration = Duration::from_secs(2);

/// Replicas that one proxy follows at most.
const MAX_REPLICAS: usize = 16;

/// ReplicaEvent of replicas that wait to be folded; a replica's stream waits when they are more.
const NEWS: usize = 64;

/// Where control planes are, and how they are reached.
pub(crate) struct ControlPlaneTargets {
    pub(crate) targets: Vec<ControlPlaneTarget>,
    pub(crate) dialer: Dialer,
}

/// Follows every replica of the control planes until it is dropped.
pub(crate) async fn run(
    control_planes: ControlPlaneTargets,
    identity: ProxyIdentity,
    knowledge: RoutingState,
    reporter: Arc<Reporter>,
    reports: mpsc::Receiver<hermes_proto::v1::Report>,
    metrics: Arc<Metrics>,
    ready: Gate,
) {
    let ControlPlaneTargets { targets, dialer } = control_planes;
    let (news, inbox) = mpsc::channel(NEWS);
    let outbox = ReportOutbox::default();
    let mut owners = JoinSet::new();
    owners.spawn(reports::run(
        reports,
        Arc::clone(&reporter),
        outbox.clone(),
        Arc::clone(&metrics),
    ));
    owners.spawn(SnapshotStore::new(knowledge, metrics, ready).run(inbox));

    let (tasks, by_address) = (JoinSet::new(), HashMap::new());
    let mut followed = ReplicaTasks {
        news,
        outbox,
        dialer,
        identity,
        reporter,
        tasks,
        by_address,
    };
    let mut tick = interval(RESOLVE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if let Some(places) = resolve(&targets).await {
            followed.follow(places);
        }
    }
}

/// The tasks that follow replicas, one an address.
struct ReplicaTasks {
    news: mpsc::Sender<ReplicaEvent>,
    outbox: ReportOutbox,
    dialer: Dialer,
    identity: ProxyIdentity,
    reporter: Arc<Reporter>,
    tasks: JoinSet<()>,
    by_address: HashMap<SocketAddr, AbortHandle>,
}

impl ReplicaTasks {
    /// Follows the replicas at these places and no other.
    fn follow(&mut self, places: Vec<ReplicaAddress>) {
        self.by_address.retain(|address, task| {
            let stays = places.iter().any(|place| place.address == *address);
            if !stays {
                tracing::info!(%address, "the control plane's name no longer names this replica");
                task.abort();
            }
            stays
        });
        for place in places {
            let Self {
                news,
                outbox,
                dialer,
                identity,
                reporter,
                tasks,
                ..
            } = self;
            self.by_address.entry(place.address).or_insert_with(|| {
                let replica = replica::ReplicaFollower {
                    place,
                    dialer: dialer.clone(),
                    identity: identity.clone(),
                    news: news.clone(),
                    outbox: outbox.clone(),
                    reporter: Arc::clone(reporter),
                };
                tasks.spawn(replica.follow())
            });
        }
        while self.tasks.try_join_next().is_some() {}
    }
}

/// Every address behind the targets, or `None` when no look-up worked: then the known ones stay.
async fn resolve(targets: &[ControlPlaneTarget]) -> Option<Vec<ReplicaAddress>> {
    let mut places: Vec<ReplicaAddress> = Vec::new();
    let mut any = false;
    for ControlPlaneTarget {
        authority: target,
        name,
    } in targets
    {
        match timeout(LOOKUP, lookup_host(target)).await {
            Ok(Ok(found)) => {
                any = true;
                places.extend(found.map(|address| ReplicaAddress {
                    address,
                    name: name.clone(),
                }));
            }
            Ok(Err(error)) => {
                tracing::warn!(target, %error, "the control plane's name does not resolve")
            }
            Err(_) => tracing::warn!(target, "resolving the control plane's name takes too long"),
        }
    }
    // One address is one replica, by the first of the names that stand for it.
    places.sort_by_key(|place| place.address);
    places.dedup_by_key(|place| place.address);
    places.truncate(MAX_REPLICAS);
    any.then_some(places)
}
