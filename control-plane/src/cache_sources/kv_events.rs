//! What the caches of a pool hold, learned from its engines' KV events.
//!
//! ```text
//!   endpoints ──set──▶ one task each ──▶ one stream per data-parallel rank     zmtp: bytes   sequence: what is missing
//!                           ▲               │ decode ─▶ ingest, in slices      replay: asks for it
//!   publishers ─▶ listener ─┘               │
//!   Score ──hits(token ids)──▶ Residency ◀──┘
//! ```
//!
//! Most publishers listen, and are dialed. Others dial: those reach a [`KvEventsListener`], which
//! all pools share, and are given to the endpoint that they speak for.
//!
//! It reports an endpoint only while its stream is in sync: one whose stream is broken, absent or
//! inconsistent is not among the hits, and other sources are used for it.
//!
//! Invariants:
//! * a prompt's tokens are compared and not kept; neither they nor an engine's reach a log, an
//!   error or a metric;
//! * a lookup waits for a writer at most some tens of microseconds at a time;
//! * every endpoint has one task and no queue but a short one of a publisher that dials: an engine that publishes faster than this reads is
//!   slowed down by TCP, and batches that its publisher drops are requested again;
//! * dropping the [`KvEvents`] ends everything.
//!
//! The cluster decides which endpoints are followed, and passes on the ports that Kubernetes has.

mod arrival;
mod claim;
pub mod decode;
mod follow;
mod ingest;
mod listener;
mod live_peer;
mod metrics;
mod msgpack;
mod relay;
mod replay;
mod replicas;
mod sequence;
mod settings;
mod source;
mod stream;
mod view;
mod zmtp;

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;
use hermes_core::{
    address::ServerAddress, block_index::CacheIdentity, departures::Departures,
    policy::EndpointTrust, query::CacheHit, snapshot::EndpointId,
};
use hermes_runtime::{metrics::Handles, tasks::RestartedTask};
use parking_lot::Mutex;
use tokio::{
    sync::{Mutex as AsyncMutex, mpsc, watch},
    time::Instant,
};

pub(crate) use self::view::{STANDINGS, standing_name};
use self::{
    arrival::Arrival,
    follow::{EndpointFollower, RankStatuses},
    ingest::SharedIndex,
    metrics::KvEventsPoolMetrics,
    source::{PublisherPorts, SharedEngineClient},
};
pub use self::{
    listener::KvEventsListener,
    metrics::KvEventsMetrics,
    settings::{DialSource, KvEventsSettings},
    view::{PoolStreams, StreamView},
};
use crate::{
    discovery::EventPorts,
    engines::{EngineClient, EngineClients, NoEngineClient, fetch},
};

/// Connections of its publishers that an endpoint may have to take at once.
const MAX_ARRIVALS: usize = 8;

/// The KV events of one pool; see the module.
#[derive(Debug)]
pub struct KvEvents {
    config: KvEventsSettings,
    shared: Arc<SharedIndex>,
    counters: Arc<Handles<KvEventsPoolMetrics>>,
    clients: EngineClients,
    following: Mutex<FollowedEndpoints>,
    /// Departures are counted from here.
    start: Instant,
    _sweeper: RestartedTask,
}

/// Every pool that follows KV events, by name.
pub type FollowedPools = Box<dyn Fn() -> Vec<(Arc<str>, Arc<KvEvents>)> + Send + Sync>;

/// An endpoint that may publish KV events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publisher {
    /// The endpoint whose cache they describe.
    pub endpoint: EndpointId,
    /// Its name: `namespace/name` of the pod, or the address where there is no pod.
    pub name: Arc<str>,
    /// The endpoint's address, whose host the publisher shares.
    pub address: ServerAddress,
    /// Who may sign the endpoint's certificate.
    pub trust: EndpointTrust,
    /// Its ports, as far as Kubernetes has them.
    pub ports: Option<EventPorts>,
}

/// The endpoints that are followed.
#[derive(Debug, Default)]
struct FollowedEndpoints {
    members: BTreeMap<EndpointId, FollowedEndpoint>,
    /// Followed on for a while: what their engines store meanwhile is known when they return.
    departed: Departures<FollowedEndpoint>,
}

/// One endpoint that is followed.
#[derive(Debug)]
struct FollowedEndpoint {
    publisher: Publisher,
    engine: SharedEngineClient,
    ranks: RankStatuses,
    /// The number of ranks that the engine's metrics name; 0 while that is unknown.
    reported: watch::Sender<u32>,
    arrivals: mpsc::Sender<Arrival>,
    _task: RestartedTask,
}

// === KvEvents ===

impl KvEvents {
    /// The KV events of a pool, of which no endpoint is known yet. Belongs into a Tokio runtime.
    ///
    /// # Errors
    /// When the TLS configuration of the process is unusable.
    pub fn new(
        pool: &Arc<str>,
        config: KvEventsSettings,
        metrics: &KvEventsMetrics,
    ) -> Result<Self, reqwest::Error> {
        let shared = Arc::new(SharedIndex::default());
        let sweeping = Arc::clone(&shared);
        let sweeper =
            RestartedTask::spawn("KV event sweeper", move || Arc::clone(&sweeping).sweep());
        Ok(Self {
            config,
            shared,
            counters: metrics.pool(pool),
            clients: fetch::clients()?,
            following: Mutex::default(),
            start: Instant::now(),
            _sweeper: sweeper,
        })
    }

    /// Follows exactly these endpoints from now on, and for a while those that leave. Those that
    /// stay or return are not disturbed: where other authorities verify an endpoint, its streams
    /// and blocks stay, and its engine is asked by another client.
    pub fn set(&self, publishers: impl IntoIterator<Item = Publisher>) {
        let now = self.start.elapsed();
        let mut following = self.following.lock();
        let FollowedEndpoints { members, departed } = &mut *following;
        let mut before = std::mem::take(members);
        for publisher in publishers {
            let known = before
                .remove(&publisher.endpoint)
                .or_else(|| departed.take_back(publisher.endpoint))
                .filter(|known| known.publisher.has_streams_of(&publisher));
            let (endpoint, address) = (publisher.endpoint, publisher.address.clone());
            let followed = match known {
                Some(known) => self.keep_following(known, publisher),
                None => self.follow(publisher),
            };
            match followed {
                Ok(followed) => _ = members.insert(endpoint, followed),
                Err(error) => {
                    tracing::warn!(%endpoint, url = %address, %error, "KV events are not followed");
                }
            }
        }
        for (endpoint, left) in before {
            departed.leave(endpoint, left, now);
        }
    }

    /// The metrics of an endpoint's engine name this number of data-parallel ranks. Each has a
    /// cache of its own, and publishes at ports of its own.
    pub fn set_reported_ranks(&self, endpoint: EndpointId, ranks: u32) {
        if let Some(followed) = self.following.lock().members.get(&endpoint) {
            let changed = |known: &mut u32| std::mem::replace(known, ranks) != ranks;
            followed.reported.send_if_modified(changed);
        }
    }

    /// Ends the streams of endpoints that left too long ago.
    pub(crate) fn expire(&self) {
        self.following.lock().departed.expire(self.start.elapsed());
    }

    /// How much of this prompt is cached at every endpoint whose stream is in sync, zero included;
    /// see [`BlockIndex::hits`](hermes_core::block_index::BlockIndex::hits).
    #[must_use]
    pub fn hits(&self, tokens: &[u32], identity: &CacheIdentity) -> Vec<CacheHit> {
        let began = Instant::now();
        let hits = self.shared.residency.read().hits(tokens, identity);
        self.counters.lookup.observe(began.elapsed().as_secs_f64());
        hits
    }

    /// How its streams are doing.
    #[must_use]
    pub fn view(&self) -> PoolStreams {
        let mut streams = Vec::new();
        for FollowedEndpoint {
            publisher, ranks, ..
        } in self.following.lock().members.values()
        {
            let views = ranks
                .lock()
                .iter()
                .map(|rank| StreamView::of(publisher.endpoint, &publisher.address, rank))
                .collect::<Vec<_>>();
            streams.extend(views);
        }
        let residency = self.shared.residency.read();
        let (blocks, index) = (residency.blocks(), residency.bytes() as u64);
        drop(residency);
        PoolStreams {
            blocks,
            bytes: index + streams.iter().map(|stream| stream.bytes).sum::<u64>(),
            streams,
        }
    }

    fn follow(&self, publisher: Publisher) -> Result<FollowedEndpoint, NoEngineClient> {
        let Publisher {
            endpoint,
            address,
            ports,
            ..
        } = &publisher;
        let engine = Arc::new(ArcSwap::from_pointee(self.client(&publisher)?));
        let (reported, reports) = watch::channel(0);
        let client = Arc::clone(&engine);
        let ports = PublisherPorts::new(address, *ports, &self.config, client, reports)?;
        let ranks = RankStatuses::default();
        let (arrivals, arriving) = mpsc::channel(MAX_ARRIVALS);
        let follower = Arc::new(EndpointFollower {
            endpoint: *endpoint,
            ports,
            shared: Arc::clone(&self.shared),
            counters: self.counters.clone(),
            topic: self.config.topic.as_bytes().into(),
            ranks: Arc::clone(&ranks),
            arrivals: AsyncMutex::new(arriving),
        });
        let task = RestartedTask::spawn("KV events", move || Arc::clone(&follower).run());
        Ok(FollowedEndpoint {
            publisher,
            engine,
            ranks,
            reported,
            arrivals,
            _task: task,
        })
    }

    /// The streams of an endpoint stay; its client is replaced if the endpoint is verified by other
    /// authorities than before.
    fn keep_following(
        &self,
        mut known: FollowedEndpoint,
        publisher: Publisher,
    ) -> Result<FollowedEndpoint, NoEngineClient> {
        if known.publisher.trust != publisher.trust || known.engine.load().is_outdated() {
            known.engine.store(Arc::new(self.client(&publisher)?));
            known.publisher = publisher;
        }
        Ok(known)
    }

    fn client(&self, publisher: &Publisher) -> Result<EngineClient, NoEngineClient> {
        self.clients.to(&publisher.address, &publisher.trust)
    }
}

// === Publisher ===

impl Publisher {
    /// Whether this is the name of its pod.
    fn is_named(&self, name: &str) -> bool {
        self.name.rsplit('/').next() == Some(name)
    }

    /// Whether the other has the same streams. Its authorities are not compared: streams of KV
    /// events use no TLS.
    fn has_streams_of(&self, other: &Self) -> bool {
        let Self {
            endpoint,
            address,
            name: _,
            trust: _,
            ports,
        } = self;
        *endpoint == other.endpoint && *address == other.address && *ports == other.ports
    }
}

#[cfg(test)]
mod tests {
    use hermes_core::departures;
    use hermes_runtime::crypto::install_default_crypto;
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::config::Config;

    fn kv_events() -> KvEvents {
        install_default_crypto();
        let text = "pools: [{name: a, endpoints: ['http://h'], kvEvents: {port: 9}}]";
        let mut config = Config::parse(text).expect("a good configuration");
        let pool = config.pools.swap_remove(0);
        let metrics = KvEventsMetrics::register(&mut Registry::default());
        let settings = pool.kv_events.expect("switched on");
        KvEvents::new(&pool.name, settings, &metrics).expect("TLS is set up")
    }

    fn publisher(authorities: &str, url: &str) -> Publisher {
        Publisher {
            endpoint: EndpointId(1),
            name: url.into(),
            address: url.parse().expect("an address"),
            trust: EndpointTrust::Authorities(authorities.into()),
            ports: None,
        }
    }

    /// What the streams of the endpoint report to, and the client of its engine.
    fn followed(events: &KvEvents) -> (RankStatuses, Arc<EngineClient>) {
        let following = events.following.lock();
        let known = following
            .members
            .get(&EndpointId(1))
            .expect("it is followed");
        (Arc::clone(&known.ranks), known.engine.load_full())
    }

    #[tokio::test(start_paused = true)]
    async fn other_authorities_replace_the_client_and_leave_the_streams_alone() {
        let events = kv_events();
        events.set([publisher("old", "https://127.0.0.1:9")]);
        let (ranks, client) = followed(&events);
        events.set([publisher("old", "https://127.0.0.1:9")]);
        let (same_ranks, same_client) = followed(&events);
        assert!(Arc::ptr_eq(&ranks, &same_ranks) && Arc::ptr_eq(&client, &same_client));

        events.set([publisher("new", "https://127.0.0.1:9")]);
        let (same_ranks, other_client) = followed(&events);
        assert!(Arc::ptr_eq(&ranks, &same_ranks), "streams go on");
        assert!(!Arc::ptr_eq(&client, &other_client));

        events.set([publisher("new", "https://127.0.0.1:10")]);
        let (other_ranks, _) = followed(&events);
        assert!(!Arc::ptr_eq(&ranks, &other_ranks), "another publisher");
    }

    #[tokio::test(start_paused = true)]
    async fn the_streams_of_an_endpoint_that_returns_within_a_minute_go_on() {
        let events = kv_events();
        events.set([publisher("old", "https://127.0.0.1:9")]);
        let (ranks, _) = followed(&events);
        events.set([]);
        assert!(events.view().streams.is_empty());
        tokio::time::advance(departures::KEPT / 2).await;
        events.expire();
        events.set([publisher("old", "https://127.0.0.1:9")]);
        assert!(Arc::ptr_eq(&ranks, &followed(&events).0));

        events.set([]);
        tokio::time::advance(departures::KEPT).await;
        events.expire();
        events.set([publisher("old", "https://127.0.0.1:9")]);
        assert!(!Arc::ptr_eq(&ranks, &followed(&events).0), "a new stream");
    }
}
