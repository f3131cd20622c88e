//! The proxy's state of one endpoint: idle connections, requests in flight, load and health.
//!
//! An [`Upstream`] lives as long as any view or request refers to it. A new snapshot takes it over
//! while the endpoint is unchanged, so that connections and counts survive. No lock is held across
//! an await.

mod cached_tokens;
mod connect_error;
mod connection;
mod dial;
mod early_answer;
mod load;
mod multiplexed;
mod race;
mod resolve;
mod secure;
mod shared_exchange;
mod stream;
mod transfers;

use std::{
    net::SocketAddr,
    num::NonZeroUsize,
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use hermes_core::{
    address::ServerHost,
    ejection::{EndpointFailure, EndpointHealth, TrialTicket},
    load::Load,
    policy::EjectionPolicy,
    refusals::{PeerAnswers, SecondOpinion},
    snapshot::Endpoint,
};
use http::{HeaderValue, uri::PathAndQuery};
use parking_lot::Mutex;
use tokio::time::Instant;

use self::{cached_tokens::CachedTokensReporting, load::LoadCell, transfers::TransferRecord};
pub(crate) use self::{
    connect_error::EndpointConnectError,
    connection::{Connection, SendError, UpstreamBody},
    dial::EndpointDialer,
    multiplexed::{MultiplexedConnections, StreamSlot},
    resolve::SystemResolver,
    secure::PoolTls,
    shared_exchange::StreamFault,
};
use crate::{request::leg_body::LegBody, worker};

/// Idle connections are closed after this long: vLLM's server closes its own after 5 s, and a
/// request must not be written to a connection that is just being closed.
pub(crate) const IDLE: Duration = Duration::from_secs(4);

/// Idle connections that one worker keeps for one endpoint; more than this many in flight at once
/// is a burst.
const MAX_IDLE: usize = 1_024;

/// What a request is admitted to an endpoint as. By default it is sent without being admitted, as
/// nothing better was left.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct EndpointAdmission {
    /// The trial that it is, if it is one.
    trial: Option<TrialTicket>,
}

/// One endpoint, as the snapshot of a view names and labels it.
pub(crate) struct Upstream {
    pub(crate) endpoint: Arc<Endpoint>,
    /// Whatever it is called.
    state: Arc<UpstreamState>,
}

/// The state of one endpoint, which its names and labels do not change.
pub(crate) struct UpstreamState {
    /// The value of `Host`.
    pub(crate) host: HeaderValue,
    dialer: EndpointDialer,
    /// Whether the last handshake failed.
    is_refused_by_tls: AtomicBool,
    /// This proxy's requests there.
    in_flight: AtomicU32,
    /// Uncached prompt tokens of those not answered yet.
    pending_tokens: AtomicU64,
    /// Load caused by other proxies, as the control plane reports it.
    others: LoadCell,
    health: Mutex<EndpointHealth>,
    cached_tokens: CachedTokensReporting,
    pub(crate) transfers: TransferRecord,
    /// No view has the endpoint any more: connections are not kept.
    is_removed: AtomicBool,
    /// By worker: a connection is used where its socket is polled.
    idle: Box<[Mutex<Vec<Connection>>]>,
    /// Present if it is spoken to over HTTP/2.
    shared: Option<MultiplexedConnections<LegBody>>,
}

/// The connections to one endpoint over HTTP/2.
#[derive(Clone, Copy)]
pub(crate) struct SharedConnections<'u> {
    connections: &'u MultiplexedConnections<LegBody>,
    dialer: &'u EndpointDialer,
}

/// One request in flight at one endpoint, counted exactly once and released when it is dropped.
pub(crate) struct InFlightGuard {
    upstream: Arc<Upstream>,
    pending_tokens: u64,
}

// === Upstream ===

impl Upstream {
    /// Connections are secured by `tls` if the address says so; otherwise they are over HTTP/2, if
    /// that is what is spoken to endpoints. `workers` is the number of threads that will send
    /// requests.
    pub(crate) fn new(
        endpoint: Arc<Endpoint>,
        (tls, http2): (&PoolTls, bool),
        ejection: EjectionPolicy,
        workers: NonZeroUsize,
    ) -> Self {
        // It consists of letters, digits and `-._:[]` only.
        let host = HeaderValue::from_str(&endpoint.address.host_header())
            .expect("a host and a port are a header's value");
        let state = UpstreamState {
            dialer: EndpointDialer::new(&endpoint.address, Arc::new(SystemResolver), tls),
            is_refused_by_tls: AtomicBool::new(false),
            host,
            in_flight: AtomicU32::new(0),
            pending_tokens: AtomicU64::new(0),
            others: LoadCell::default(),
            health: Mutex::new(EndpointHealth::new(ejection)),
            cached_tokens: CachedTokensReporting::default(),
            transfers: TransferRecord::default(),
            is_removed: AtomicBool::new(false),
            idle: (0..workers.get()).map(|_| Mutex::default()).collect(),
            shared: (http2 && !endpoint.address.is_secured())
                .then(|| MultiplexedConnections::new(workers)),
        };
        Self {
            endpoint,
            state: Arc::new(state),
        }
    }

    /// The same endpoint with other names or labels.
    pub(crate) fn renamed(&self, endpoint: Arc<Endpoint>) -> Self {
        Self {
            endpoint,
            state: Arc::clone(&self.state),
        }
    }

    /// Whether both are one endpoint with one state.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.state, &other.state)
    }

    /// No view has the endpoint any more: its idle connections are closed, and those in use are not
    /// kept.
    pub(crate) fn remove(&self) {
        self.is_removed.store(true, Ordering::Relaxed);
        for shard in &self.idle {
            let closed = std::mem::take(&mut *shard.lock());
            drop(closed);
        }
        if let Some(shared) = &self.shared {
            shared.close();
        }
    }

    /// Its connections over HTTP/2; `None` if it is spoken to over HTTP/1.1.
    pub(crate) fn shared(&self) -> Option<SharedConnections<'_>> {
        let connections = self.shared.as_ref()?;
        let dialer = &self.dialer;
        Some(SharedConnections {
            connections,
            dialer,
        })
    }

    /// Whether no view has the endpoint any more: what chose it did so before.
    pub(crate) fn is_removed(&self) -> bool {
        self.is_removed.load(Ordering::Relaxed)
    }

    /// Secures connections by `tls` from now on, if the address says so: connections that were
    /// secured otherwise get no further request.
    pub(crate) fn secure_by(&self, tls: &PoolTls) {
        self.dialer.secure_by(tls);
    }

    /// The cached tokens of an answer whose usage says this; `None` when they are unknown.
    pub(crate) fn cached_tokens(&self, reported: Option<u32>) -> Option<u32> {
        self.cached_tokens.of(reported)
    }

    /// Follows a changed policy of ejection from now on.
    pub(crate) fn eject_by(&self, policy: EjectionPolicy) {
        self.health.lock().set_policy(policy);
    }

    /// The target of a request for `path`, below the endpoint's base path.
    pub(crate) fn target(&self, path: &PathAndQuery) -> PathAndQuery {
        match &**self.endpoint.address.base_path() {
            "" => path.clone(),
            // Both are made of characters that a target may have.
            base => PathAndQuery::try_from(format!("{base}{path}"))
                .expect("a base path before a target is a target"),
        }
    }

    /// The endpoint's load: what the control plane reports of other proxies, plus this proxy's own
    /// requests.
    pub(crate) fn load(&self, now: Duration) -> Load {
        let mut load = self.others.get();
        load.in_flight = load
            .in_flight
            .saturating_add(self.in_flight.load(Ordering::Relaxed));
        load.pending_tokens = load
            .pending_tokens
            .saturating_add(self.pending_tokens.load(Ordering::Relaxed));
        load.health = load.health.worse(self.health.lock().health(now));
        load
    }

    /// The load of this proxy's own requests, for when the reported load is stale.
    pub(crate) fn own_load(&self, now: Duration) -> Load {
        Load {
            in_flight: self.in_flight.load(Ordering::Relaxed),
            pending_tokens: self.pending_tokens.load(Ordering::Relaxed),
            sample: None,
            health: self.health.lock().health(now),
        }
    }

    /// Sets the load of other proxies.
    pub(crate) fn set_others(&self, load: &Load) {
        self.others.set(load);
    }

    /// Counts a request with this much prefill work until the guard is dropped.
    pub(crate) fn enter(self: &Arc<Self>, uncached_tokens: u64) -> InFlightGuard {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.pending_tokens
            .fetch_add(uncached_tokens, Ordering::Relaxed);
        InFlightGuard {
            upstream: Arc::clone(self),
            pending_tokens: uncached_tokens,
        }
    }

    /// Requests of this proxy there.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether a request may be sent now: after an ejection, one trial at a time.
    pub(crate) fn admit(&self, now: Duration) -> Option<EndpointAdmission> {
        let mut health = self.health.lock();
        health.try_trial(now).then(|| EndpointAdmission {
            trial: health.trial(),
        })
    }

    /// The endpoint served a request.
    pub(crate) fn succeeded(&self, now: Duration) {
        self.health.lock().on_success(now);
    }

    /// An attempt failed. Returns whether the endpoint is ejected by it.
    pub(crate) fn failed(&self, now: Duration, failure: EndpointFailure) -> bool {
        self.health.lock().on_failure(now, failure)
    }

    /// The endpoint has too much to do, and perhaps says for how long.
    pub(crate) fn overloaded(
        &self,
        now: Duration,
        retry_after: Option<Duration>,
        peers: &PeerAnswers,
    ) {
        self.health.lock().on_overload(now, retry_after, peers);
    }

    /// It and another endpoint said 429 to one request.
    pub(crate) fn limited(&self, now: Duration) {
        self.health.lock().on_limited(now);
    }

    /// Whether a 429 that just came is taken for its client's quota.
    pub(crate) fn suspects_quota(&self, now: Duration, peers: &PeerAnswers) -> bool {
        self.health.lock().suspects_quota(now, peers)
    }

    /// The endpoint refused a request. Returns whether it is ejected by it.
    pub(crate) fn refused(
        &self,
        now: Duration,
        opinion: SecondOpinion,
        peers: &PeerAnswers,
    ) -> bool {
        self.health.lock().on_refusal(now, opinion, peers)
    }

    /// Whether a refusal that just came is to be repeated at a peer.
    pub(crate) fn needs_second_opinion(&self, peers: &PeerAnswers) -> bool {
        self.health.lock().needs_second_opinion(peers)
    }

    /// Adds its answers to those of the peers of another endpoint.
    pub(crate) fn join(&self, peers: &mut PeerAnswers, now: Duration) {
        let health = self.health.lock();
        peers.add(health.answers(now), health.health(now));
    }

    /// An attempt ended without a result, because its client disconnected, or nothing was sent. If
    /// it was the endpoint's trial, the next request may be.
    pub(crate) fn abandoned(&self, now: Duration, admission: EndpointAdmission) {
        if let Some(trial) = admission.trial {
            self.health.lock().on_trial_abandoned(now, trial);
        }
    }

    /// The newest idle connection that is still open, and secured as a new one would be.
    pub(crate) fn checkout(&self) -> Option<Connection> {
        loop {
            let mut connection = self.shard().lock().pop()?;
            if self.dialer.is_current(connection.tls()) && connection.is_usable(IDLE) {
                return Some(connection);
            }
        }
    }

    /// Opens a connection within `limit`. The first failure of several in a row that concern TLS is
    /// logged.
    pub(crate) async fn connect(
        &self,
        limit: Duration,
    ) -> Result<Connection, EndpointConnectError> {
        let opened = Connection::open(&self.dialer, limit).await;
        match &opened {
            Ok(_) => self.is_refused_by_tls.store(false, Ordering::Relaxed),
            Err(EndpointConnectError::Secure(error)) => {
                if !self.is_refused_by_tls.swap(true, Ordering::Relaxed) {
                    let Endpoint { name, address, .. } = &*self.endpoint;
                    tracing::warn!(endpoint = &**name, ?address, %error, "no TLS connection to the endpoint");
                }
            }
            Err(_) => {}
        }
        opened
    }

    /// Where a gateway is to connect to, found within `limit`.
    ///
    /// # Errors
    /// When the endpoint is behind a name that has no address.
    pub(crate) async fn socket(&self, limit: Duration) -> Result<SocketAddr, EndpointConnectError> {
        self.dialer.first_address(limit).await
    }

    /// Its address, if it is not behind a name.
    pub(crate) fn known_socket(&self) -> Option<SocketAddr> {
        let address = &self.endpoint.address;
        match address.host() {
            ServerHost::Ip(ip) => Some(SocketAddr::new(*ip, address.port().get())),
            ServerHost::Name(_) => None,
        }
    }

    /// Keeps a connection for the next request.
    pub(crate) fn checkin(&self, mut connection: Connection) {
        connection.rest();
        let mut idle = self.shard().lock();
        // Under the lock, as it is set before the list is emptied.
        let is_kept = !self.is_removed();
        if is_kept && idle.len() < MAX_IDLE {
            idle.push(connection);
        }
    }

    /// Drops what has been idle for too long, oldest first; returns how many are left.
    pub(crate) fn sweep(&self, now: Instant) -> usize {
        let idle: usize = self.idle.iter().map(|shard| sweep(shard, now)).sum();
        let shared = self.shared.as_ref();
        idle + shared.map_or(0, |shared| shared.sweep(now))
    }

    fn shard(&self) -> &Mutex<Vec<Connection>> {
        &self.idle[worker::index() % self.idle.len()]
    }
}

impl Deref for Upstream {
    type Target = UpstreamState;

    fn deref(&self) -> &UpstreamState {
        &self.state
    }
}

/// Drops a worker's connections that have been idle for too long; returns how many are left.
fn sweep(shard: &Mutex<Vec<Connection>>, now: Instant) -> usize {
    let mut idle = shard.lock();
    let stale = idle
        .iter()
        .take_while(|connection| connection.idle_for(now) >= IDLE)
        .count();
    let dropped: Vec<Connection> = idle.drain(..stale).collect();
    let left = idle.len();
    // Closing sockets is a system call each: not while others wait for the lock.
    drop(idle);
    drop(dropped);
    left
}

// === SharedConnections ===

impl SharedConnections<'_> {
    /// A place for a request, on a connection that is opened within `limit` if there is none.
    ///
    /// # Errors
    /// Why none was opened.
    pub(crate) async fn slot(
        self,
        limit: Duration,
    ) -> Result<StreamSlot<LegBody>, EndpointConnectError> {
        self.connections.slot(self.dialer, limit).await
    }
}

// === InFlightGuard ===

impl InFlightGuard {
    /// The answer has begun: the prefill is done.
    pub(crate) fn answered(&mut self) {
        let tokens = std::mem::take(&mut self.pending_tokens);
        self.upstream
            .pending_tokens
            .fetch_sub(tokens, Ordering::Relaxed);
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.answered();
        self.upstream.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
