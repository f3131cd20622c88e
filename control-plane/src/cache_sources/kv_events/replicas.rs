//! Follows what the other replicas pass on of publishers that dialed them.
//!
//! ```text
//!   names ──resolved──▶ one connection to each replica ──▶ its streams ──▶ their endpoints
//! ```
//!
//! A stream of another replica is given to its endpoint as that of a publisher that dialed this
//! one. When the connection ends, so do its streams: what they said does not count until their
//! publishers have dialed some replica again.
//!
//! Invariants: names are resolved again and again; each connection has one task, owned by this; an
//! endpoint that is slow loses batches, and holds up no other.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use hermes_core::{backoff::Backoff, rng::SeededRng};
use hermes_runtime::tasks::RestartedTask;
use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    net::lookup_host,
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};

use super::{
    FollowedPools,
    arrival::{Arrival, ArrivedStream},
    live_peer::{LivePeer, StreamLoss},
    metrics::{KvEventsMetrics, StreamFailure},
    relay::{RelayKey, RelayedBatch, ReplicaRelay},
    zmtp::{Message, Peer, Socket, ZmtpError},
};

/// How often names are resolved.
const RESOLVE: Duration = Duration::from_secs(5);

/// Longest time for one name, and for a connection and its handshake.
const PATIENCE: Duration = Duration::from_secs(3);

/// Most replicas.
const MAX_REPLICAS: usize = 64;

/// Most streams of one replica.
const MAX_STREAMS: usize = 4_096;

/// Batches that may wait for their endpoint; more are lost.
const QUEUE: usize = 64;

/// The first pause after a connection to a replica broke, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// See the module.
pub(super) struct RelayFollower {
    /// `host:port`s, each of one replica or of several.
    names: Vec<String>,
    shared: Arc<ReplicaSources>,
}

/// What the connections to all replicas share.
struct ReplicaSources {
    relay: Arc<ReplicaRelay>,
    pools: Arc<FollowedPools>,
    metrics: KvEventsMetrics,
}

/// A replica in the gauge of those that are followed.
struct CountedReplica(Gauge);

/// What one replica passes on, by stream.
#[derive(Default)]
struct RelayedStreams(HashMap<RelayKey, OpenStream>);

/// The way to the endpoint of one stream.
struct OpenStream {
    batches: mpsc::Sender<Message>,
    /// While this is there, the stream is not out of date.
    _taken: oneshot::Receiver<()>,
}

// === RelayFollower ===

impl RelayFollower {
    pub(super) fn new(
        names: Vec<String>,
        relay: Arc<ReplicaRelay>,
        pools: Arc<FollowedPools>,
        metrics: KvEventsMetrics,
    ) -> Self {
        let shared = Arc::new(ReplicaSources {
            relay,
            pools,
            metrics,
        });
        Self { names, shared }
    }

    /// Follows all replicas for ever.
    pub(super) async fn run(self) {
        if self.names.is_empty() {
            return;
        }
        let mut connections: HashMap<SocketAddr, RestartedTask> = HashMap::new();
        let mut resolved: Vec<BTreeSet<SocketAddr>> = vec![BTreeSet::new(); self.names.len()];
        loop {
            for (name, addresses) in self.names.iter().zip(&mut resolved) {
                // Replicas are kept while their name cannot be resolved.
                if let Some(found) = resolve(name).await {
                    *addresses = found;
                }
            }
            let found: BTreeSet<SocketAddr> = resolved.iter().flatten().copied().collect();
            let addresses = found.iter().map(SocketAddr::ip);
            self.shared.relay.set_replicas(addresses);
            connections.retain(|address, _| found.contains(address));
            for address in found.iter().take(MAX_REPLICAS) {
                connections.entry(*address).or_insert_with(|| {
                    let (shared, address) = (Arc::clone(&self.shared), *address);
                    RestartedTask::spawn("KV events of a replica", move || {
                        Arc::clone(&shared).follow(address)
                    })
                });
            }
            sleep(RESOLVE).await;
        }
    }
}

/// The addresses of a name, if it can be resolved now.
async fn resolve(name: &str) -> Option<BTreeSet<SocketAddr>> {
    let failed = match timeout(PATIENCE, lookup_host(name)).await {
        Ok(Ok(addresses)) => return Some(addresses.collect()),
        Ok(Err(error)) => error.to_string(),
        Err(_late) => "no answer in time".to_owned(),
    };
    tracing::debug!(
        name,
        failed,
        "replicas to share KV events with cannot be resolved"
    );
    None
}

// === ReplicaSources ===

impl ReplicaSources {
    /// Follows one replica for ever.
    async fn follow(self: Arc<Self>, address: SocketAddr) {
        let seed = SeededRng::new(u64::from(address.port())).next_u64();
        let mut backoff = Backoff::new(BACKOFF, seed);
        loop {
            let StreamLoss(_, reason) = match self.connect(address).await {
                // The name has this replica's own address, too.
                Ok(None) => return,
                Ok(Some(live)) => {
                    tracing::info!(replica = %address, "KV events that another replica receives are followed");
                    backoff.reset();
                    let _counted = CountedReplica::of(&self.metrics.replicas);
                    self.receive(live, address).await
                }
                Err(lost) => lost,
            };
            tracing::debug!(replica = %address, reason, "no KV events of a replica, trying again");
            sleep(backoff.next_pause()).await;
        }
    }

    /// A connection to another replica; nothing if it is this one.
    async fn connect(&self, address: SocketAddr) -> Result<Option<LivePeer>, StreamLoss> {
        let connected = timeout(PATIENCE, async {
            let mut peer = Peer::connect(&address.to_string(), Socket::Sub).await?;
            peer.subscribe(b"").await?;
            Ok::<_, ZmtpError>(peer)
        });
        let late = || StreamLoss(StreamFailure::Timeout, "no handshake in time".to_owned());
        let peer = connected.await.map_err(|_late| late())??;
        let is_own = peer.identity() == self.relay.identity();
        Ok((!is_own).then(|| LivePeer::new(peer)))
    }

    /// Takes in what a replica passes on, until the connection breaks.
    async fn receive(&self, mut live: LivePeer, address: SocketAddr) -> StreamLoss {
        let mut streams = RelayedStreams::default();
        let publisher: Arc<str> = address.to_string().into();
        loop {
            let message = match live.next().await {
                Ok(message) => message,
                Err(lost) => return lost,
            };
            if let Some(batch) = RelayedBatch::read(&message) {
                streams.take(batch, &publisher, &self.pools);
            }
        }
    }
}

// === CountedReplica ===

impl CountedReplica {
    fn of(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for CountedReplica {
    fn drop(&mut self) {
        self.0.dec();
    }
}

// === RelayedStreams ===

impl RelayedStreams {
    fn take(&mut self, relayed: RelayedBatch, publisher: &Arc<str>, pools: &FollowedPools) {
        let RelayedBatch { key, batch } = relayed;
        let Some((number, payload)) = batch else {
            self.0.remove(&key);
            return;
        };
        let mut message: Message = [number, payload].into_iter().collect();
        if let Some(known) = self.0.get(&key) {
            match known.batches.try_send(message) {
                // One that is lost leaves a gap in the numbers.
                Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => return,
                Err(mpsc::error::TrySendError::Closed(unsent)) => message = unsent,
            }
            self.0.remove(&key);
        }
        if self.0.len() < MAX_STREAMS
            && let Some(open) = offer(&key, message, publisher, pools)
        {
            self.0.insert(key, open);
        }
    }
}

/// Gives a new stream to its endpoint; nothing if this replica does not have the endpoint yet.
fn offer(
    key: &RelayKey,
    first: Message,
    publisher: &Arc<str>,
    pools: &FollowedPools,
) -> Option<OpenStream> {
    let (_, events) = pools().into_iter().find(|(pool, _)| *pool == key.pool)?;
    let (batches, rest) = mpsc::channel(QUEUE);
    let (taken, is_taken) = oneshot::channel();
    let stream = ArrivedStream {
        rank: key.rank,
        publisher: Arc::clone(publisher),
        first,
        rest,
    };
    events
        .receive(key.endpoint, Arrival { stream, taken })
        .then_some(OpenStream {
            batches,
            _taken: is_taken,
        })
}
