//! The TLS handshakes that are under way.
//!
//! A bounded number runs at once, each with a deadline. When there are as many and another
//! connection comes, the address with most of them loses its oldest: connections that send nothing,
//! however many one peer opens, keep no other peer out.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::{IpAddr, Ipv4Addr},
    pin::Pin,
    time::Duration,
};

use futures::{
    FutureExt, Stream, StreamExt,
    future::{AbortHandle, Abortable, BoxFuture},
    stream::{self, FuturesUnordered},
};
use hermes_runtime::tls::Tls;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsAcceptor;

use super::{HandshakeCounters, Secured};
use crate::metrics::HandshakeOutcome;

/// Handshakes at once.
const AT_ONCE: usize = 256;

/// How long one handshake may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// Handshakes, and where the connections for them come from.
struct OpenHandshakes<S> {
    connections: Pin<Box<S>>,
    tls: Tls,
    counters: HandshakeCounters,
    running: FuturesUnordered<Abortable<Handshake>>,
    /// Of those that run, the oldest first.
    open: VecDeque<OpenHandshake>,
    /// The number of the next one.
    next: u64,
}

/// One that runs: its number, and the connection if it succeeded.
type Handshake = BoxFuture<'static, (u64, Option<Secured>)>;

struct OpenHandshake {
    number: u64,
    peer: IpAddr,
    handle: AbortHandle,
}

/// The connections whose handshake succeeds, in the order in which it does.
pub(in crate::serve) fn secured(
    connections: impl Stream<Item = io::Result<TcpStream>> + Send + 'static,
    tls: Tls,
    counters: HandshakeCounters,
) -> impl Stream<Item = io::Result<Secured>> {
    let handshakes = OpenHandshakes {
        connections: Box::pin(connections),
        tls,
        counters,
        running: FuturesUnordered::new(),
        open: VecDeque::new(),
        next: 0,
    };
    stream::unfold(handshakes, |mut handshakes| async move {
        let next = handshakes.next().await?;
        Some((next, handshakes))
    })
}

// === OpenHandshakes ===

impl<S: Stream<Item = io::Result<TcpStream>>> OpenHandshakes<S> {
    async fn next(&mut self) -> Option<io::Result<Secured>> {
        loop {
            tokio::select! {
                connection = self.connections.next() => match connection? {
                    Ok(connection) => self.begin(connection),
                    Err(error) => return Some(Err(error)),
                },
                Some(ended) = self.running.next() => {
                    // One that was aborted is no more among the open ones.
                    let Ok((number, secured)) = ended else { continue };
                    self.open.retain(|open| open.number != number);
                    if let Some(secured) = secured {
                        return Some(Ok(secured));
                    }
                }
            }
        }
    }

    fn begin(&mut self, connection: TcpStream) {
        let peer = connection
            .peer_addr()
            .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
        if self.open.len() >= AT_ONCE {
            self.displace(peer);
        }
        let (handle, registration) = AbortHandle::new_pair();
        let number = self.next;
        self.next += 1;
        self.open.push_back(OpenHandshake {
            number,
            peer,
            handle,
        });
        let shaken = shake(connection, self.tls.clone(), self.counters.clone());
        let shaken = shaken.map(move |secured| (number, secured)).boxed();
        self.running.push(Abortable::new(shaken, registration));
    }

    /// Ends the oldest handshake of the peer that has most, with the one that `newcomer` wants.
    fn displace(&mut self, newcomer: IpAddr) {
        let mut counts = HashMap::from([(newcomer, 1)]);
        for open in &self.open {
            *counts.entry(open.peer).or_insert(0) += 1;
        }
        let most = counts.values().copied().max();
        let oldest = self
            .open
            .iter()
            .position(|open| counts.get(&open.peer).copied() == most);
        if let Some(OpenHandshake { peer, handle, .. }) =
            oldest.and_then(|oldest| self.open.remove(oldest))
        {
            tracing::debug!(%peer, "a TLS handshake makes room for another peer's");
            handle.abort();
            self.counters[HandshakeOutcome::Displaced].inc();
        }
    }
}

/// One handshake, by the newest certificates; `None` when it fails, which is the peer's loss.
async fn shake(connection: TcpStream, tls: Tls, counters: HandshakeCounters) -> Option<Secured> {
    let peer = connection.peer_addr().ok();
    let shaken = timeout(DEADLINE, TlsAcceptor::from(tls.server()).accept(connection)).await;
    let (outcome, stream) = match shaken {
        Ok(Ok(stream)) => (HandshakeOutcome::Accepted, Some(Secured(stream))),
        Ok(Err(error)) => {
            let outcome = outcome_of(&error);
            tracing::debug!(?peer, outcome = outcome.name(), %error, "a TLS handshake failed");
            (outcome, None)
        }
        Err(_) => (HandshakeOutcome::Timeout, None),
    };
    counters[outcome].inc();
    stream
}

/// What kind of failure it was.
fn outcome_of(error: &io::Error) -> HandshakeOutcome {
    let cause = error
        .get_ref()
        .and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::NoCertificatesPresented) => HandshakeOutcome::NoCertificate,
        Some(rustls::Error::InvalidCertificate(_)) => HandshakeOutcome::BadCertificate,
        _ => HandshakeOutcome::Failed,
    }
}
