//! Where publishers dial: the listener of a control plane, with one pool behind it.

use std::{net::SocketAddr, sync::Arc};

use hermes_control_plane::cache_sources::kv_events::{KvEvents, KvEventsListener, KvEventsMetrics};
use hermes_engine_sim::{Engine, EngineConfig, KvEventsConfig};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::watched::{FollowedEngine, follower_with, publishing};
use crate::client::eventually;

/// One listener. Dropping it ends its connections.
pub(super) struct PublisherDoor {
    pub(super) address: SocketAddr,
    pub(super) events: Arc<KvEvents>,
    registry: Registry,
    _serving: AbortOnDropHandle<()>,
}

impl PublisherDoor {
    /// Listens at any port, for a pool with these settings of `kvEvents`.
    pub(super) async fn open(yaml: &str) -> Self {
        Self::open_at(([127, 0, 0, 1], 0).into(), yaml).await
    }

    pub(super) async fn open_at(address: SocketAddr, yaml: &str) -> Self {
        let listener = TcpListener::bind(address).await.expect("the port is free");
        Self::serve(listener, yaml, Vec::new())
    }

    /// Those of two replicas, which share what they receive.
    pub(super) async fn open_two(yaml: &str) -> [Self; 2] {
        let bind = || async { TcpListener::bind("127.0.0.1:0").await.expect("a free port") };
        let listeners = [bind().await, bind().await];
        let address = |listener: &TcpListener| listener.local_addr().expect("an address");
        let replicas: Vec<String> = listeners
            .iter()
            .map(|one| address(one).to_string())
            .collect();
        listeners.map(|listener| Self::serve(listener, yaml, replicas.clone()))
    }

    /// The door of a replica that restarts at this address, beside another one.
    pub(super) async fn rejoin(address: SocketAddr, other: &Self) -> Self {
        let listener = TcpListener::bind(address).await.expect("the port is free");
        let replicas = [address, other.address].map(|address| address.to_string());
        Self::serve(listener, "{}", replicas.into())
    }

    fn serve(listener: TcpListener, yaml: &str, replicas: Vec<String>) -> Self {
        let address = listener.local_addr().expect("an address");
        let mut registry = Registry::default();
        let metrics = KvEventsMetrics::register(&mut registry);
        let events = follower_with(yaml, &metrics);
        let followed = Arc::clone(&events);
        let pools = Box::new(move || vec![(Arc::from("a"), Arc::clone(&followed))]);
        let seed = u64::from(address.port());
        let listener =
            KvEventsListener::new(vec![listener], pools, metrics, seed).shared_with(replicas);
        Self {
            address,
            events,
            registry,
            _serving: AbortOnDropHandle::new(tokio::spawn(listener.run())),
        }
    }

    /// How an engine publishes that dials here.
    pub(super) fn dialed(&self, topic: &str) -> KvEventsConfig {
        KvEventsConfig {
            connect: Some(self.address.to_string()),
            topic: topic.to_owned(),
            ..KvEventsConfig::default()
        }
    }

    /// An engine that dials here, and is followed.
    pub(super) async fn engine(&self, events: KvEventsConfig) -> FollowedEngine {
        let dialing = self.stranger(events).await;
        dialing.follow();
        dialing
    }

    /// An engine that dials here, and is no endpoint of the pool.
    pub(super) async fn stranger(&self, events: KvEventsConfig) -> FollowedEngine {
        let config = EngineConfig {
            kv_events: Some(events),
            ..publishing(1_000)
        };
        self.start(config).await
    }

    /// Starts an engine that dials here, and waits until its publisher has a subscriber: what is
    /// published before is lost.
    pub(super) async fn start(&self, config: EngineConfig) -> FollowedEngine {
        let dialing = FollowedEngine {
            engine: Engine::start(config).await.expect("starts"),
            events: Arc::clone(&self.events),
        };
        subscribed(&dialing).await;
        dialing
    }

    /// The value of the series with this text; 0 if there is none.
    pub(super) fn metric(&self, series: &str) -> u64 {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("memory takes all");
        let line = text.lines().find_map(|line| line.strip_prefix(series));
        line.map_or(0, |value| value.trim().parse().expect("a number"))
    }

    /// How many publishers that dialed ended so.
    pub(super) fn arrivals(&self, outcome: &str) -> u64 {
        self.metric(&format!(
            "hermes_kv_events_arrivals_total{{outcome=\"{outcome}\"}}"
        ))
    }

    pub(super) async fn await_arrival(&self, outcome: &'static str) {
        eventually(outcome, || async { self.arrivals(outcome) > 0 }).await;
    }
}

/// Waits until an engine's publisher has a subscriber.
pub(super) async fn subscribed(engine: &FollowedEngine) {
    eventually("its publisher has a subscriber", || async {
        engine.engine.kv_events_subscribers() == 1
    })
    .await;
}
