//! Where publishers that dial connect: a SUB socket that listens.
//!
//! ```text
//!   listener ─▶ handshake ─▶ subscribed to everything ─first message─▶ its endpoint ─▶ passed on
//!                                  ▲                                      │
//!                                  └── subscribed again ◀── unsubscribed ◀┘ refused
//! ```
//!
//! A publisher is known by its first message. One that speaks for no endpoint, or for one that is
//! not its own, is unsubscribed, and subscribed to again after a while: its endpoint may have been
//! found meanwhile. It costs nothing in between, while a closed connection would be made again at once.
//!
//! Other replicas connect here too, as SUB sockets: what is accepted is passed on to them.
//!
//! Invariants: a bounded number of connections, in all and of one address; a publisher that is not
//! known yet makes this replica hold a small message at most; each connection has one task, owned
//! by its listener, and ends when its peer shows no sign of life.

use std::{
    collections::HashMap,
    convert::Infallible,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures::future::join_all;
use hermes_core::snapshot::EndpointId;
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    FollowedPools, KvEvents,
    arrival::{Arrival, ArrivedStream, QUEUE},
    claim::{self, PublisherClaim, UnfoundEndpoint},
    decode,
    live_peer::{LivePeer, StreamLoss},
    metrics::{ArrivalOutcome, KvEventsMetrics},
    relay::{RelayKey, RelayedStream, ReplicaRelay},
    replicas::RelayFollower,
    zmtp::{Message, Peer, Socket, ZmtpError},
};

/// Longest time for a handshake.
const HANDSHAKE: Duration = Duration::from_secs(3);

/// Most connections at once, and of one address.
const MAX_CONNECTIONS: (usize, usize) = (4_096, 256);

/// Largest message of a publisher that is not known yet: a batch with 200,000 tokens.
const MAX_FIRST_MESSAGE: usize = 1 << 20;

/// How long a refused publisher is unsubscribed.
const PAUSE: Duration = Duration::from_secs(2);

/// How long an endpoint may take to follow a stream that it is given. Meanwhile it may find out that
/// an earlier connection is dead.
const TAKE: Duration = Duration::from_secs(10);

/// The pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// See the module.
pub struct KvEventsListener {
    listeners: Vec<TcpListener>,
    /// `host:port`s of all replicas.
    replicas: Vec<String>,
    entry: Arc<PublisherEntry>,
}

/// What all connections share.
struct PublisherEntry {
    pools: Arc<FollowedPools>,
    relay: Arc<ReplicaRelay>,
    metrics: KvEventsMetrics,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection's place among those of its address.
struct ConnectionSlot {
    entry: Arc<PublisherEntry>,
    address: IpAddr,
}

/// One connection after its handshake.
struct DialedConnection {
    live: LivePeer,
    address: SocketAddr,
    entry: Arc<PublisherEntry>,
    /// Why it was refused last.
    refused: Option<ArrivalOutcome>,
}

/// Where the messages of an accepted publisher go.
struct AcceptedStream {
    /// To its endpoint.
    sender: mpsc::Sender<Message>,
    /// To the other replicas.
    relayed: RelayedStream,
}

// === KvEventsListener ===

impl KvEventsListener {
    /// Of these ports; ranks of an engine dial neighboring ones. `seed` distinguishes this replica
    /// from others.
    #[must_use]
    pub fn new(
        listeners: Vec<TcpListener>,
        pools: FollowedPools,
        metrics: KvEventsMetrics,
        seed: u64,
    ) -> Self {
        let entry = PublisherEntry {
            pools: Arc::new(pools),
            relay: Arc::new(ReplicaRelay::new(seed)),
            metrics,
            open: Mutex::default(),
        };
        Self {
            listeners,
            replicas: Vec::new(),
            entry: Arc::new(entry),
        }
    }

    /// Shares what publishers say with the replicas at these names, `host:port` each. A name may
    /// have several addresses, and its own among them.
    #[must_use]
    pub fn shared_with(mut self, replicas: Vec<String>) -> Self {
        self.replicas = replicas;
        self
    }

    /// Accepts publishers for ever; dropping the future ends all connections.
    pub async fn run(self) {
        let Self {
            listeners,
            replicas,
            entry,
        } = self;
        let (relay, pools) = (Arc::clone(&entry.relay), Arc::clone(&entry.pools));
        let following = RelayFollower::new(replicas, relay, pools, entry.metrics.clone());
        let accepting = listeners
            .into_iter()
            .map(|listener| Arc::clone(&entry).accept(listener));
        tokio::join!(join_all(accepting), following.run());
    }
}

impl fmt::Debug for KvEventsListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KvEventsListener")
            .field(&self.listeners)
            .finish()
    }
}

// === PublisherEntry ===

impl PublisherEntry {
    async fn accept(self: Arc<Self>, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, address)) => match Arc::clone(&self).admit(address.ip()) {
                        Some(slot) => _ = connections.spawn(serve(stream, address, slot)),
                        None => self.count(ArrivalOutcome::TooMany),
                    },
                    Err(error) => {
                        tracing::warn!(%error, "publishers of KV events cannot be accepted; raise the limit of open files if this stays");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_ended) = connections.join_next() => {}
            }
        }
    }

    fn admit(self: Arc<Self>, address: IpAddr) -> Option<ConnectionSlot> {
        let mut open = self.open.lock();
        let all: usize = open.values().sum();
        let own = open.get(&address).copied().unwrap_or(0);
        if all >= MAX_CONNECTIONS.0 || own >= MAX_CONNECTIONS.1 {
            return None;
        }
        *open.entry(address).or_insert(0) += 1;
        drop(open);
        self.metrics.connections.inc();
        Some(ConnectionSlot {
            entry: self,
            address,
        })
    }

    fn count(&self, outcome: ArrivalOutcome) {
        self.metrics.arrivals[outcome].inc();
    }

    /// The endpoint that a publisher with this topic and address speaks for.
    async fn find(
        &self,
        topic: &[u8],
        peer: IpAddr,
    ) -> Result<(Arc<str>, Arc<KvEvents>, EndpointId), ArrivalOutcome> {
        let claim = PublisherClaim::new(topic, peer);
        let pools = (self.pools)();
        let fitting = pools.iter().enumerate().flat_map(|(at, (_, events))| {
            let fitting = events.fitting(&claim, topic).into_iter();
            fitting.map(move |(endpoint, fit)| (at, endpoint, fit))
        });
        let (at, endpoint) = claim::best(fitting)?;
        let (pool, events) = &pools[at];
        if events.is_from(endpoint, peer).await {
            Ok((Arc::clone(pool), Arc::clone(events), endpoint))
        } else {
            Err(ArrivalOutcome::OtherAddress)
        }
    }
}

// === ConnectionSlot ===

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.entry.metrics.connections.dec();
        let mut open = self.entry.open.lock();
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

// === DialedConnection ===

/// One connection, from its handshake to its end.
async fn serve(stream: TcpStream, address: SocketAddr, slot: ConnectionSlot) {
    let relay = &slot.entry.relay;
    let is_replica = relay.serves(address.ip());
    let sockets = [Socket::Sub, Socket::Pub];
    let sockets = &sockets[..if is_replica { 2 } else { 1 }];
    let shaken = timeout(HANDSHAKE, async {
        let (mut peer, socket) = Peer::accept(stream, sockets, relay.identity()).await?;
        peer.limit_messages(MAX_FIRST_MESSAGE);
        if socket == Socket::Pub {
            return Ok((peer, socket));
        }
        peer.subscribe(b"").await?;
        peer.ping().await?;
        Ok::<_, ZmtpError>((peer, socket))
    });
    let live = match shaken.await {
        Ok(Ok((peer, Socket::Pub))) => {
            let Err(error) = relay.publish(peer).await else {
                return;
            };
            return tracing::debug!(replica = %address, %error, "a replica left");
        }
        Ok(Ok((peer, _))) => LivePeer::new(peer),
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "a publisher of KV events does not shake hands");
            return slot.entry.count(ArrivalOutcome::NoHandshake);
        }
        Err(_late) => return slot.entry.count(ArrivalOutcome::NoHandshake),
    };
    let connection = DialedConnection {
        live,
        address,
        entry: Arc::clone(&slot.entry),
        refused: None,
    };
    match connection.read().await {
        Ok(never) => match never {},
        Err(StreamLoss(_, reason)) => {
            tracing::debug!(%address, reason, "a publisher of KV events left");
        }
    }
}

impl DialedConnection {
    async fn read(mut self) -> Result<Infallible, StreamLoss> {
        let mut message = self.live.next().await?;
        loop {
            match self.offer(message).await {
                Ok(stream) => {
                    self.refused = None;
                    self.live.peer().limit_messages(usize::MAX);
                    message = self.pass_on(stream).await?;
                }
                Err(outcome) => {
                    self.note(outcome);
                    self.pause().await?;
                    message = self.live.next().await?;
                }
            }
        }
    }

    /// Offers the stream to the endpoint that it is about.
    async fn offer(&self, first: Message) -> Result<AcceptedStream, ArrivalOutcome> {
        let [topic, .., payload] = &first[..] else {
            return Err(ArrivalOutcome::Undecodable);
        };
        let rank = decode::rank(payload).map_err(|_| ArrivalOutcome::Undecodable)?;
        let (pool, events, endpoint) = self.entry.find(topic, self.address.ip()).await?;
        let (sender, rest) = mpsc::channel(QUEUE);
        let (taken, is_taken) = oneshot::channel();
        let publisher: Arc<str> = self.address.to_string().into();
        let stream = ArrivedStream {
            rank,
            publisher: Arc::clone(&publisher),
            first: first.clone(),
            rest,
        };
        if !events.receive(endpoint, Arrival { stream, taken }) {
            return Err(ArrivalOutcome::Duplicate);
        }
        match timeout(TAKE, is_taken).await {
            Ok(Ok(())) => {
                self.entry.count(ArrivalOutcome::Accepted);
                tracing::info!(%publisher, %endpoint, rank, "a publisher of KV events dialed");
                let relayed = self.entry.relay.begin(RelayKey {
                    pool,
                    endpoint,
                    rank,
                });
                relayed.pass(&first);
                Ok(AcceptedStream { sender, relayed })
            }
            _ => Err(ArrivalOutcome::Duplicate),
        }
    }

    /// Passes messages on, until the endpoint does not take one: that one is returned.
    async fn pass_on(&mut self, stream: AcceptedStream) -> Result<Message, StreamLoss> {
        let AcceptedStream { sender, relayed } = stream;
        loop {
            let message = self.live.next().await?;
            relayed.pass(&message);
            if let Err(mpsc::error::SendError(message)) = sender.send(message).await {
                return Ok(message);
            }
        }
    }

    fn note(&mut self, outcome: ArrivalOutcome) {
        self.entry.count(outcome);
        if self.refused.replace(outcome) != Some(outcome) {
            let (address, reason) = (self.address, outcome.name());
            tracing::warn!(publisher = %address, reason, "KV events of a publisher that dialed are not used");
        }
    }

    /// Receives nothing of the publisher for a while.
    async fn pause(&mut self) -> Result<(), StreamLoss> {
        self.live.peer().limit_messages(MAX_FIRST_MESSAGE);
        let end = Instant::now() + PAUSE;
        let unsubscribed = async {
            self.live.peer().unsubscribe(b"").await?;
            loop {
                self.live.next().await?;
            }
        };
        match timeout_at(end, unsubscribed).await {
            Ok(lost) => return lost,
            Err(_over) => {}
        }
        timeout(PAUSE, self.live.peer().subscribe(b""))
            .await
            .map_err(|_| StreamLoss::unread())??;
        Ok(())
    }
}

// === ArrivalOutcome ===

impl From<UnfoundEndpoint> for ArrivalOutcome {
    fn from(unfound: UnfoundEndpoint) -> Self {
        match unfound {
            UnfoundEndpoint::Unknown => Self::UnknownEndpoint,
            UnfoundEndpoint::Ambiguous => Self::AmbiguousEndpoint,
        }
    }
}
