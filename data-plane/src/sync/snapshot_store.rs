//! The one owner of what requests route by: folds the news of all replicas into one view.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hermes_core::{load::Load, snapshot::Snapshot};
use hermes_proto::v1;
use hermes_runtime::readiness::Gate;
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{
    history_replay::{HistoryReplay, ReplayTarget},
    replica::{ReplicaEvent, endpoint_of},
    routing_state::{ReadyReplica, RoutingState},
};
use crate::{
    link::score::ScoreClient,
    telemetry::metrics::{Arrival, Metrics},
    view::RoutingView,
};

/// Idle connections are swept, and gauges set, this often.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// What is known of each replica, and which one is followed.
pub(super) struct SnapshotStore {
    knowledge: RoutingState,
    metrics: Arc<Metrics>,
    ready: Gate,
    replicas: Vec<ReplicaState>,
    followed: Option<SocketAddr>,
    teaching: HistoryReplay,
}

struct ReplicaState {
    from: SocketAddr,
    name: Arc<str>,
    snapshot: Arc<Snapshot>,
    asker: ScoreClient,
    /// Where to say something to it.
    upwards: mpsc::Sender<v1::FromDataPlane>,
}

// === ReplicaState ===

impl ReplicaState {
    fn pupil(&self) -> ReplayTarget<'_> {
        let Self {
            from,
            name,
            snapshot,
            asker: _,
            upwards,
        } = self;
        ReplayTarget {
            from: *from,
            name,
            epoch: snapshot.epoch,
            upwards,
        }
    }
}

// === SnapshotStore ===

impl SnapshotStore {
    pub(super) fn new(knowledge: RoutingState, metrics: Arc<Metrics>, ready: Gate) -> Self {
        Self {
            knowledge,
            metrics,
            ready,
            replicas: Vec::new(),
            followed: None,
            teaching: HistoryReplay::default(),
        }
    }

    /// Folds news until every sender is gone.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<ReplicaEvent>) {
        let mut tick = interval(HOUSEKEEPING);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                news = inbox.recv() => match news {
                    Some(news) => self.fold(news),
                    None => return,
                },
                _ = tick.tick() => self.keep_house(),
            }
        }
    }

    fn fold(&mut self, news: ReplicaEvent) {
        match news {
            ReplicaEvent::Snapshot {
                from,
                name,
                snapshot,
                asker,
                upwards,
            } => {
                self.metrics.snapshot(Arrival::Accepted);
                self.learn(ReplicaState {
                    from,
                    name,
                    snapshot,
                    asker,
                    upwards,
                });
            }
            ReplicaEvent::Loads { from, rows } => self.load(from, &rows),
            ReplicaEvent::Rejected => self.metrics.snapshot(Arrival::Rejected),
            ReplicaEvent::Lost { from } => self.lose(from),
        }
    }

    fn learn(&mut self, known: ReplicaState) {
        let from = known.from;
        match self
            .replicas
            .iter_mut()
            .find(|replica| replica.from == from)
        {
            Some(replica) => *replica = known,
            None => self.replicas.push(known),
        }
        // An owner knows what its predecessor did before it is asked.
        self.teach();
        self.publish_replicas();
        if *self.followed.get_or_insert(from) == from {
            self.route_by(from);
            self.teach();
        }
    }

    fn lose(&mut self, from: SocketAddr) {
        let before = self.replicas.len();
        self.replicas.retain(|replica| replica.from != from);
        if self.replicas.len() == before {
            return;
        }
        self.teaching.lose(from);
        self.teach();
        self.publish_replicas();
        if self.followed != Some(from) {
            return;
        }
        self.followed = self.replicas.first().map(|replica| replica.from);
        match self.followed {
            Some(other) => self.route_by(other),
            None => tracing::warn!(
                "no control plane is left: routing goes on by the last snapshot; check the control plane's pods"
            ),
        }
    }

    /// Makes the snapshot of this replica the one that requests see.
    fn route_by(&mut self, from: SocketAddr) {
        let Some(replica) = self.replicas.iter().find(|replica| replica.from == from) else {
            return;
        };
        let previous = self.knowledge.view.load_full();
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
        );
        let version = view.snapshot.version.0;
        tracing::info!(replica = %replica.name, version, pools = view.pools.len(), "routing by a new snapshot");
        self.metrics
            .snapshot_version
            .set(i64::try_from(version).unwrap_or(i64::MAX));
        self.knowledge.view.store(Some(Arc::new(view)));
        self.knowledge.changed.notify_waiters();
        self.ready.open();
    }

    /// Tells owners of pools that became so what this proxy remembers.
    fn teach(&mut self) {
        let Some(view) = self.knowledge.view.load_full() else {
            return;
        };
        let pupils: Vec<ReplayTarget<'_>> = self.replicas.iter().map(ReplicaState::pupil).collect();
        self.teaching.teach(&view, &pupils);
    }

    fn publish_replicas(&self) {
        let ready = |known: &ReplicaState| ReadyReplica {
            name: Arc::clone(&known.name),
            asker: known.asker.clone(),
        };
        self.knowledge
            .replicas
            .store(Arc::new(self.replicas.iter().map(ready).collect()));
        self.metrics.control_planes.set(self.replicas.len() as i64);
    }

    /// Load of the replica whose snapshot is in use; the others say the same a moment earlier or later.
    fn load(&self, from: SocketAddr, rows: &[v1::EndpointLoad]) {
        let view = self.knowledge.view.load_full();
        let (Some(view), true) = (view, self.followed == Some(from)) else {
            return;
        };
        self.knowledge.freshness.renew(crate::clock::uptime());
        for row in rows {
            let Some((_, upstream)) = view.upstream(endpoint_of(row)) else {
                continue;
            };
            match Load::try_from(row) {
                Ok(others) => upstream.set_others(&others),
                Err(invalid) => tracing::debug!(%invalid, "a load row cannot be used"),
            }
        }
    }

    fn keep_house(&self) {
        let now = crate::clock::uptime();
        if self.followed.is_some() {
            // A quiet fleet sends no load; its stream is alive, or it would be lost.
            self.knowledge.freshness.renew(now);
        }
        self.metrics.load_age.set(
            self.knowledge
                .freshness
                .age(now)
                .map_or(-1.0, |age| age.as_secs_f64()),
        );
        let Some(view) = self.knowledge.view.load_full() else {
            return;
        };
        let mut idle = 0;
        for pool in &view.pools {
            let healths: Vec<&str> = pool
                .upstreams
                .iter()
                .map(|upstream| upstream.load(now).health.name())
                .collect();
            for (state, gauge) in &pool.metrics.endpoints {
                gauge.set(healths.iter().filter(|health| *health == state).count() as i64);
            }
            idle += pool
                .upstreams
                .iter()
                .map(|upstream| upstream.sweep(Instant::now()))
                .sum::<usize>();
        }
        self.metrics
            .idle_connections
            .set(i64::try_from(idle).unwrap_or(i64::MAX));
    }
}
