//! Telling the owner of a pool what this proxy remembers of its choices there.
//!
//! Whatever a replica learned of caches goes when it does. Every proxy knows what it sent where, so whoever becomes the
//! owner of a pool, or comes back as its owner, is told: before requests are asked of it, and bounded. A replica that
//! hears what it knows already learns nothing wrong.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use hermes_core::{rendezvous::owner, snapshot::Epoch};
use hermes_proto::{
    convert::taught_to_wire,
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
}

/// Who owns which pool and was told what is remembered of it.
#[derive(Debug, Default)]
pub(super) struct HistoryReplay {
    taught: HashMap<Arc<str>, (SocketAddr, Epoch)>,
}

impl HistoryReplay {
    /// Teaches every owner that has not been taught yet. Cheap when nothing changed.
    pub(super) fn teach(&mut self, view: &RoutingView, pupils: &[ReplayTarget<'_>]) {
        self.taught.retain(|pool, _| view.pool(pool).is_some());
        for pool in &view.pools {
            let name = owner(pool.name(), pupils.iter().map(|pupil| &**pupil.name));
            let Some(pupil) =
                name.and_then(|name| pupils.iter().find(|pupil| &**pupil.name == name))
            else {
                continue;
            };
            let identity = (pupil.from, pupil.epoch);
            if self.taught.insert(Arc::clone(pool.name()), identity) != Some(identity) {
                tell(pupil, pool);
            }
        }
    }

    /// This replica was lost: should it come back it has missed something, or forgotten all.
    pub(super) fn lose(&mut self, from: SocketAddr) {
        self.taught.retain(|_, (taught, _)| *taught != from);
    }
}

fn tell(pupil: &ReplayTarget<'_>, pool: &RoutingPool) {
    let Some(recall) = &pool.history else { return };
    // What is cached on an endpoint that is gone helps nobody.
    let decisions = recall.decisions();
    let known = decisions
        .into_iter()
        .filter(|decision| pool.pool.position(decision.endpoint).is_some());
    let (mut told, mut lost) = (0, 0);
    for taught in taught_to_wire(pool.name(), recall.block_bytes(), known) {
        let count = taught.decisions.len();
        // Like reports, it is worth no waiting: what does not fit is learned anew.
        match pupil.upwards.try_send(FromDataPlane {
            message: Some(Message::Taught(taught)),
        }) {
            Ok(()) => told += count,
            Err(_) => lost += count,
        }
    }
    pool.metrics.taught.inc_by(told as u64);
    if told + lost > 0 {
        tracing::info!(pool = %pool.name(), replica = %pupil.name, told, lost, "taught the pool's owner");
    }
}

#[cfg(test)]
mod tests {
    use hermes_core::{
        policy::{Policy, Strategy},
        query::Query,
        snapshot::{Endpoint, EndpointId, Pool, PoolSpec, Snapshot},
    };
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::telemetry::metrics::Metrics;

    /// A pool of one endpoint that got one prompt.
    fn view(strategy: Strategy) -> RoutingView {
        let policy = Policy {
            strategy,
            ..Policy::default()
        };
        let spec = Arc::new(PoolSpec {
            name: "chat".into(),
            models: Vec::new(),
            policy,
        });
        let url: Arc<str> = "http://h:1".into();
        let id = EndpointId(7);
        let endpoint = Endpoint {
            id,
            name: "e".into(),
            role: Default::default(),
            group: None,
            url,
        };
        let pool = Arc::new(Pool {
            spec,
            endpoints: vec![Arc::new(endpoint)],
        });
        let snapshot = Arc::new(Snapshot {
            pools: vec![pool],
            ..Snapshot::default()
        });
        let view = RoutingView::build(snapshot, None, &Metrics::register(&mut Registry::default()));
        let query = Query {
            prompt_tokens: 100,
            blocks: [1, 2].into(),
            ..Query::default()
        };
        for endpoint in [id, EndpointId(8)] {
            if let Some(recall) = &view.pools[0].history {
                recall.remember(endpoint, &query);
            }
        }
        view
    }

    struct Replica {
        name: Arc<str>,
        port: u16,
        upwards: mpsc::Sender<FromDataPlane>,
        heard: mpsc::Receiver<FromDataPlane>,
    }

    impl Replica {
        fn new(name: &str, port: u16) -> Self {
            let (upwards, heard) = mpsc::channel(8);
            Self {
                name: name.into(),
                port,
                upwards,
                heard,
            }
        }

        fn from(&self) -> SocketAddr {
            SocketAddr::from(([127, 0, 0, 1], self.port))
        }

        fn pupil(&self, epoch: u64) -> ReplayTarget<'_> {
            ReplayTarget {
                from: self.from(),
                name: &self.name,
                epoch: Epoch(epoch),
                upwards: &self.upwards,
            }
        }

        /// Endpoints of the decisions that it heard of.
        fn heard(&mut self) -> Vec<u64> {
            std::iter::from_fn(|| self.heard.try_recv().ok())
                .flat_map(|up| match up.message {
                    Some(Message::Taught(taught)) => taught.decisions,
                    other => panic!("only teaching is sent: {other:?}"),
                })
                .map(|decision| decision.endpoint)
                .collect()
        }
    }

    fn kv_aware() -> Strategy {
        Policy::default().strategy
    }

    #[test]
    fn an_owner_is_taught_once_of_endpoints_that_exist() {
        let (view, mut replica, mut teaching) = (
            view(kv_aware()),
            Replica::new("a", 1),
            HistoryReplay::default(),
        );
        teaching.teach(&view, &[replica.pupil(1)]);
        teaching.teach(&view, &[replica.pupil(1)]);
        assert_eq!(replica.heard(), [7]);
        assert_eq!(view.pools[0].metrics.taught.get(), 1);
    }

    #[test]
    fn an_owner_that_restarted_or_came_back_is_taught_again() {
        let (view, mut replica, mut teaching) = (
            view(kv_aware()),
            Replica::new("a", 1),
            HistoryReplay::default(),
        );
        teaching.teach(&view, &[replica.pupil(1)]);
        teaching.teach(&view, &[replica.pupil(2)]);
        assert_eq!(replica.heard(), [7, 7], "it restarted");
        teaching.lose(replica.from());
        teaching.teach(&view, &[]);
        teaching.teach(&view, &[replica.pupil(2)]);
        assert_eq!(replica.heard(), [7], "it came back");
    }

    #[test]
    fn only_the_owner_is_taught_and_the_next_one_when_it_is_lost() {
        let (view, mut teaching) = (view(kv_aware()), HistoryReplay::default());
        let mut replicas = [Replica::new("a", 1), Replica::new("b", 2)];
        teaching.teach(&view, &[replicas[0].pupil(1), replicas[1].pupil(1)]);
        let first = replicas
            .iter_mut()
            .position(|replica| replica.heard() == [7])
            .expect("one owns the pool");
        assert!(replicas[1 - first].heard().is_empty());
        teaching.lose(replicas[first].from());
        teaching.teach(&view, &[replicas[1 - first].pupil(1)]);
        assert_eq!(replicas[1 - first].heard(), [7]);
    }

    #[test]
    fn a_strategy_that_reads_no_hashes_teaches_nothing() {
        let (view, mut replica, mut teaching) = (
            view(Strategy::Random),
            Replica::new("a", 1),
            HistoryReplay::default(),
        );
        teaching.teach(&view, &[replica.pupil(1)]);
        assert!(replica.heard().is_empty());
    }
}
