//! Replaying this proxy's routing history to the replica that owns a pool.
//!
//! A replica that restarts loses what it learned of caches. Every proxy has a bounded history of
//! what it sent where, and sends it to a replica that becomes the owner of a pool, or returns as
//! its owner, before the first Score request. Replaying an entry that the replica has already is
//! harmless.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use hermes_core::{rendezvous::owner, snapshot::Epoch};
use hermes_proto::{
    convert::history_to_wire,
    v1::{FromDataPlane, from_data_plane::Message},
};
use tokio::sync::mpsc;

use crate::view::{RoutingPool, RoutingView};

/// A replica that may own pools.
pub(super) struct ReplayTarget<'a> {
    pub(super) from: SocketAddr,
    pub(super) name: &'a Arc<str>,
    pub(super) epoch: Epoch,
    pub(super) upwards: &'a mpsc::Sender<FromDataPlane>,
    /// Pools of which the view has more than it has discovered: it does not own them yet.
    pub(super) lacking: &'a [Arc<str>],
}

/// The owner of each pool that got the pool's history.
#[derive(Debug, Default)]
pub(super) struct HistoryReplay {
    owners: HashMap<Arc<str>, (SocketAddr, Epoch)>,
}

impl HistoryReplay {
    /// Replays histories to owners that did not get them yet. Cheap when nothing changed.
    pub(super) fn replay(&mut self, view: &RoutingView, targets: &[ReplayTarget<'_>]) {
        self.owners.retain(|pool, _| view.pool(pool).is_some());
        for pool in &view.pools {
            let eligible = targets
                .iter()
                .filter(|target| !target.lacking.contains(pool.name()));
            let name = owner(pool.name(), eligible.map(|target| &**target.name));
            let Some(target) =
                name.and_then(|name| targets.iter().find(|target| &**target.name == name))
            else {
                continue;
            };
            let identity = (target.from, target.epoch);
            if self.owners.insert(Arc::clone(pool.name()), identity) != Some(identity) {
                send_history(target, pool);
            }
        }
    }

    /// Forgets a lost replica: when it returns, its history is incomplete or empty.
    pub(super) fn lose(&mut self, from: SocketAddr) {
        self.owners.retain(|_, (owner, _)| *owner != from);
    }
}

fn send_history(target: &ReplayTarget<'_>, pool: &RoutingPool) {
    let Some(history) = &pool.history else { return };
    // Entries of removed endpoints are of no use.
    let decisions = history.decisions();
    let known = decisions
        .into_iter()
        .filter(|decision| pool.pool.position(decision.endpoint).is_some());
    let (mut sent, mut dropped) = (0, 0);
    for replayed in history_to_wire(pool.name(), history.block_bytes(), known) {
        let count = replayed.requests.len();
        // Sent without waiting, like reports: entries that do not fit are learned again from
        // traffic.
        match target.upwards.try_send(FromDataPlane {
            message: Some(Message::History(replayed)),
        }) {
            Ok(()) => sent += count,
            Err(_) => dropped += count,
        }
    }
    pool.metrics.selections.history_replayed.inc_by(sent as u64);
    if sent + dropped > 0 {
        tracing::info!(pool = %pool.name(), replica = %target.name, sent, dropped, "replayed the routing history to the pool's owner");
    }
}

#[cfg(test)]
mod tests {
    use hermes_core::{
        collection::Collection,
        policy::{PoolPolicy, Strategy},
        query::Query,
        snapshot::{Endpoint, EndpointId, Pool, PoolSpec, Snapshot},
    };
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::telemetry::metrics::ProxyMetrics;

    /// A pool of one endpoint that got one prompt.
    fn view(strategy: Strategy) -> RoutingView {
        let policy = PoolPolicy {
            strategy,
            ..PoolPolicy::default()
        };
        let spec = Arc::new(PoolSpec::new("chat", policy));
        let id = EndpointId(7);
        let endpoint = Endpoint {
            id,
            name: "e".into(),
            role: Default::default(),
            group: None,
            pairing: hermes_core::snapshot::PairingFacts::default(),
            address: "http://h:1".parse().expect("an address"),
        };
        let pool = Arc::new(Pool {
            spec,
            models: Collection::default(),
            endpoints: vec![Arc::new(endpoint)].into(),
        });
        let snapshot = Arc::new(Snapshot {
            pools: vec![pool].into(),
            ..Snapshot::default()
        });
        let view = RoutingView::build(
            snapshot,
            None,
            &ProxyMetrics::register(&mut Registry::default()),
            std::num::NonZeroUsize::MIN,
        );
        let query = Query {
            prompt_tokens: 100,
            blocks: [1, 2].into(),
            ..Query::default()
        };
        for endpoint in [id, EndpointId(8)] {
            if let Some(history) = &view.pools[0].history {
                history.remember(endpoint, &query);
            }
        }
        view
    }

    struct Replica {
        name: Arc<str>,
        port: u16,
        upwards: mpsc::Sender<FromDataPlane>,
        inbox: mpsc::Receiver<FromDataPlane>,
    }

    impl Replica {
        fn new(name: &str, port: u16) -> Self {
            let (upwards, inbox) = mpsc::channel(8);
            Self {
                name: name.into(),
                port,
                upwards,
                inbox,
            }
        }

        fn from(&self) -> SocketAddr {
            SocketAddr::from(([127, 0, 0, 1], self.port))
        }

        fn target(&self, epoch: u64) -> ReplayTarget<'_> {
            ReplayTarget {
                from: self.from(),
                name: &self.name,
                epoch: Epoch(epoch),
                upwards: &self.upwards,
                lacking: &[],
            }
        }

        /// Endpoints of the replayed entries that it received.
        fn received(&mut self) -> Vec<u64> {
            std::iter::from_fn(|| self.inbox.try_recv().ok())
                .flat_map(|up| match up.message {
                    Some(Message::History(history)) => history.requests,
                    other => panic!("only histories are sent: {other:?}"),
                })
                .map(|decision| decision.endpoint)
                .collect()
        }
    }

    fn kv_aware() -> Strategy {
        PoolPolicy::default().strategy
    }

    #[test]
    fn a_history_is_replayed_once_and_without_removed_endpoints() {
        let (view, mut replica, mut replay) = (
            view(kv_aware()),
            Replica::new("a", 1),
            HistoryReplay::default(),
        );
        replay.replay(&view, &[replica.target(1)]);
        replay.replay(&view, &[replica.target(1)]);
        assert_eq!(replica.received(), [7]);
        assert_eq!(view.pools[0].metrics.selections.history_replayed.get(), 1);
    }

    #[test]
    fn an_owner_that_restarted_or_returned_gets_the_history_again() {
        let (view, mut replica, mut replay) = (
            view(kv_aware()),
            Replica::new("a", 1),
            HistoryReplay::default(),
        );
        replay.replay(&view, &[replica.target(1)]);
        replay.replay(&view, &[replica.target(2)]);
        assert_eq!(replica.received(), [7, 7], "it restarted");
        replay.lose(replica.from());
        replay.replay(&view, &[]);
        replay.replay(&view, &[replica.target(2)]);
        assert_eq!(replica.received(), [7], "it returned");
    }

    #[test]
    fn only_the_owner_gets_the_history_and_the_next_owner_when_it_is_lost() {
        let (view, mut replay) = (view(kv_aware()), HistoryReplay::default());
        let mut replicas = [Replica::new("a", 1), Replica::new("b", 2)];
        replay.replay(&view, &[replicas[0].target(1), replicas[1].target(1)]);
        let first = replicas
            .iter_mut()
            .position(|replica| replica.received() == [7])
            .expect("one replica owns the pool");
        assert!(replicas[1 - first].received().is_empty());
        replay.lose(replicas[first].from());
        replay.replay(&view, &[replicas[1 - first].target(1)]);
        assert_eq!(replicas[1 - first].received(), [7]);
    }

    #[test]
    fn a_strategy_without_prefix_hashes_replays_nothing() {
        let (view, mut replica, mut replay) = (
            view(Strategy::Random),
            Replica::new("a", 1),
            HistoryReplay::default(),
        );
        replay.replay(&view, &[replica.target(1)]);
        assert!(replica.received().is_empty());
    }
}
