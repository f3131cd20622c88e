//! The single writer of the routing state: folds the events of all replicas into one view.

use std::{net::SocketAddr, num::NonZeroUsize, sync::Arc, time::Duration};

use hermes_core::{load::Load, snapshot::Snapshot};
use hermes_proto::v1;
use hermes_runtime::readiness::Gate;
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{
    certificate_follower::CertificateExchange,
    history_replay::{HistoryReplay, ReplayTarget},
    load_interest::LoadInterestState,
    replica::{ReplicaEvent, endpoint_of},
    routing_state::{ReadyReplica, RoutingState},
};
use crate::{
    link::score::ScoreClient,
    telemetry::metrics::{ProxyMetrics, SnapshotResult},
    view::{RoutingView, retention::lacks},
};

/// Interval of closing idle connections and setting gauges.
const MAINTENANCE: Duration = Duration::from_secs(1);

/// The state of each replica, and the one whose snapshot is in use.
pub(crate) struct SnapshotStore {
    routing: RoutingState,
    metrics: Arc<ProxyMetrics>,
    ready: Gate,
    workers: NonZeroUsize,
    replicas: Vec<ReplicaState>,
    active: Option<SocketAddr>,
    history_replay: HistoryReplay,
}

struct ReplicaState {
    from: SocketAddr,
    name: Arc<str>,
    snapshot: Arc<Snapshot>,
    /// One for each worker.
    clients: Arc<[ScoreClient]>,
    /// Messages to it.
    upwards: mpsc::Sender<v1::FromDataPlane>,
    /// Pools of which the view has more than it has discovered.
    lacking: Vec<Arc<str>>,
    load_interest: LoadInterestState,
}

// === ReplicaState ===

impl ReplicaState {
    fn replay_target(&self) -> ReplayTarget<'_> {
        let Self {
            from,
            name,
            snapshot,
            clients: _,
            upwards,
            lacking,
            load_interest: _,
        } = self;
        ReplayTarget {
            from: *from,
            name,
            epoch: snapshot.epoch,
            upwards,
            lacking,
        }
    }

    /// Whether it has discovered all of its pools.
    fn is_complete(&self) -> bool {
        let mut pools = self.snapshot.pools.iter();
        pools.all(|pool| !pool.spec.pending.any())
    }
}

// === SnapshotStore ===

impl SnapshotStore {
    /// `ready` opens with the first view; `workers` is the number of threads that will send
    /// requests.
    pub(crate) fn new(
        routing: RoutingState,
        metrics: Arc<ProxyMetrics>,
        ready: Gate,
        workers: NonZeroUsize,
    ) -> Self {
        Self {
            routing,
            metrics,
            ready,
            workers,
            replicas: Vec::new(),
            active: None,
            history_replay: HistoryReplay::default(),
        }
    }

    /// Where the certificates of listeners go.
    pub(super) fn certificates(&self) -> CertificateExchange {
        self.routing.certificates.clone()
    }

    /// Folds events until every sender is dropped.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<ReplicaEvent>) {
        let mut tick = interval(MAINTENANCE);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = inbox.recv() => match event {
                    Some(event) => self.fold(event),
                    None => return,
                },
                _ = tick.tick() => self.maintain(),
            }
        }
    }

    fn fold(&mut self, event: ReplicaEvent) {
        match event {
            ReplicaEvent::Snapshot {
                from,
                name,
                snapshot,
                clients,
                upwards,
            } => {
                self.metrics.sync.snapshots[SnapshotResult::Accepted].inc();
                self.update(ReplicaState {
                    from,
                    name,
                    snapshot,
                    clients,
                    upwards,
                    lacking: Vec::new(),
                    load_interest: LoadInterestState::default(),
                });
            }
            ReplicaEvent::Clients { from, clients } => self.replace_clients(from, clients),
            ReplicaEvent::Loads { from, rows } => self.load(from, &rows),
            ReplicaEvent::Rejected => {
                self.metrics.sync.snapshots[SnapshotResult::Rejected].inc();
            }
            ReplicaEvent::Lost { from } => self.lose(from),
        }
    }

    fn update(&mut self, mut state: ReplicaState) {
        let from = state.from;
        match self
            .replicas
            .iter_mut()
            .find(|replica| replica.from == from)
        {
            Some(replica) => {
                // Of its stream, which may be another one by now.
                if replica.upwards.same_channel(&state.upwards) {
                    state.load_interest = std::mem::take(&mut replica.load_interest);
                }
                *replica = state;
            }
            None => self.replicas.push(state),
        }
        // Before the first view opens the readiness gate, requests can reach the replica.
        self.publish_replicas();
        let active = self.preferred(from);
        self.active = Some(active);
        if active == from {
            self.activate(from);
        }
        self.publish_replicas();
        self.send_load_interest();
    }

    fn replace_clients(&mut self, from: SocketAddr, clients: Arc<[ScoreClient]>) {
        let mut replicas = self.replicas.iter_mut();
        // Before its first snapshot a replica gets no requests.
        if let Some(replica) = replicas.find(|replica| replica.from == from) {
            replica.clients = clients;
            self.publish_replicas();
        }
    }

    /// The replica to use after `from` sent a snapshot: the active one, unless only `from` has
    /// discovered all its pools.
    fn preferred(&self, from: SocketAddr) -> SocketAddr {
        let is_complete = |address: SocketAddr| {
            let mut replicas = self.replicas.iter();
            replicas.any(|replica| replica.from == address && replica.is_complete())
        };
        match self.active {
            Some(active) if is_complete(active) || !is_complete(from) => active,
            Some(_) | None => from,
        }
    }

    fn lose(&mut self, from: SocketAddr) {
        let before = self.replicas.len();
        self.replicas.retain(|replica| replica.from != from);
        if self.replicas.len() == before {
            return;
        }
        self.history_replay.lose(from);
        if self.active == Some(from) {
            let complete = self.replicas.iter().find(|replica| replica.is_complete());
            let next = complete.or(self.replicas.first());
            self.active = next.map(|replica| replica.from);
            match self.active {
                Some(other) => self.activate(other),
                None => tracing::warn!(
                    "lost every control-plane replica: routing continues with the last snapshot; check the control plane's pods"
                ),
            }
        }
        self.publish_replicas();
        self.send_load_interest();
    }

    /// Publishes the snapshot of this replica to requests.
    fn activate(&mut self, from: SocketAddr) {
        let Some(replica) = self.replicas.iter().find(|replica| replica.from == from) else {
            return;
        };
        let previous = self.routing.view.load_full();
        if previous
            .as_ref()
            .is_some_and(|view| Arc::ptr_eq(&view.snapshot, &replica.snapshot))
        {
            return;
        }
        let view = RoutingView::build(
            Arc::clone(&replica.snapshot),
            previous.as_deref(),
            &self.metrics,
            self.workers,
        );
        let version = view.snapshot.version.0;
        tracing::info!(replica = %replica.name, version, pools = view.pools.len(), "using a new snapshot");
        self.metrics
            .sync
            .snapshot_version
            .set(i64::try_from(version).unwrap_or(i64::MAX));
        self.routing.view.store(Some(Arc::new(view)));
        self.routing.changed.notify_waiters();
        self.ready.open();
    }

    /// Replays this proxy's history to replicas that became owners of pools.
    fn replay(&mut self) {
        let Some(view) = self.routing.view.load_full() else {
            return;
        };
        let targets: Vec<ReplayTarget<'_>> = self
            .replicas
            .iter()
            .map(ReplicaState::replay_target)
            .collect();
        self.history_replay.replay(&view, &targets);
    }

    /// Publishes the replicas to requests. A new owner gets the history before its first Score
    /// request.
    fn publish_replicas(&mut self) {
        self.compare_with_view();
        self.replay();
        let ready = |known: &ReplicaState| ReadyReplica {
            name: Arc::clone(&known.name),
            clients: Arc::clone(&known.clients),
            lacking: known.lacking.clone(),
        };
        self.routing
            .replicas
            .store(Arc::new(self.replicas.iter().map(ready).collect()));
        let connected = self.replicas.len() as i64;
        self.metrics.sync.connected_control_planes.set(connected);
    }

    /// Load rows of the active replica are wanted, and of no other.
    fn send_load_interest(&mut self) {
        let active = self.active;
        for replica in &mut self.replicas {
            let wanted = active == Some(replica.from);
            replica.load_interest.send(wanted, &replica.upwards);
        }
    }

    /// Applies load rows of the active replica; other replicas report the same load slightly
    /// earlier or later.
    fn load(&self, from: SocketAddr, rows: &[v1::EndpointLoad]) {
        let view = self.routing.view.load_full();
        let (Some(view), true) = (view, self.active == Some(from)) else {
            return;
        };
        self.routing.freshness.renew(crate::clock::uptime());
        for row in rows {
            let Some((_, upstream)) = view.upstream(endpoint_of(row)) else {
                continue;
            };
            match Load::try_from(row) {
                Ok(others) => upstream.set_others(&others),
                Err(invalid) => tracing::debug!(%invalid, "ignored an invalid load row"),
            }
        }
    }

    /// Finds the pools of which the view has more than a replica has discovered.
    fn compare_with_view(&mut self) {
        let Some(view) = self.routing.view.load_full() else {
            return;
        };
        for replica in &mut self.replicas {
            let lacking = replica.snapshot.pools.iter().filter(|published| {
                let viewed = view.pool(&published.spec.name);
                viewed.is_some_and(|viewed| lacks(published, &viewed.pool))
            });
            replica.lacking = lacking.map(|pool| Arc::clone(&pool.spec.name)).collect();
        }
    }

    fn maintain(&mut self) {
        let now = crate::clock::uptime();
        // What did not fit before.
        self.send_load_interest();
        if self.active.is_some() {
            // A replica sends load rows only when load changes, so silence on an open stream does
            // not age them.
            self.routing.freshness.renew(now);
        }
        self.metrics.sync.load_age.set(
            self.routing
                .freshness
                .age(now)
                .map_or(-1.0, |age| age.as_secs_f64()),
        );
        let Some(view) = self.routing.view.load_full() else {
            return;
        };
        let mut idle = 0;
        for pool in &view.pools {
            if let Some(picker) = &pool.asked {
                picker.sweep(Instant::now());
            }
            let loads = pool.upstreams.iter().map(|upstream| upstream.load(now));
            pool.metrics
                .endpoints
                .set_health(loads.map(|load| load.health));
            idle += pool
                .upstreams
                .iter()
                .map(|upstream| upstream.sweep(Instant::now()))
                .sum::<usize>();
        }
        self.metrics
            .endpoints
            .connections_idle
            .set(i64::try_from(idle).unwrap_or(i64::MAX));
    }
}
