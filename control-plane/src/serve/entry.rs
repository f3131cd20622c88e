//! Where proxies come in: a listener, and before anything else a TLS handshake in which both sides
//! show certificates.
//!
//! ```text
//!   listener ──▶ handshakes, some at once, each with a deadline ──good──▶ gRPC
//!                                   └──bad──▶ closed, counted
//! ```
//!
//! A failed handshake occupies one slot until its deadline.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, StreamExt};
use hermes_runtime::metrics::PerValue;
use hermes_runtime::tls::Tls;
use prometheus_client::metrics::counter::Counter;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::transport::server::{Connected, TcpIncoming};

use super::PING_INTERVAL;
use crate::metrics::HandshakeOutcome;

/// Handshakes at once. More connections wait in the kernel.
const AT_ONCE: usize = 256;

/// How long one handshake may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// Where proxies connect.
#[derive(Debug)]
pub(crate) struct GrpcListener {
    /// The port, taken.
    pub(crate) listener: TcpListener,
    /// How connections are secured, if they are.
    pub(crate) tls: Option<Tls>,
}

/// A connection after its handshake.
pub(super) struct Secured(TlsStream<TcpStream>);

/// Counts handshakes by how they ended.
pub(super) type Handshakes = PerValue<HandshakeOutcome, Counter>;

/// Connections as they come.
pub(super) fn plain(listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener)
        .with_nodelay(Some(true))
        .with_keepalive(Some(PING_INTERVAL))
}

/// Those whose handshake succeeds, in the order in which it does.
pub(super) fn secured(
    connections: TcpIncoming,
    tls: Tls,
    handshakes: Handshakes,
) -> impl Stream<Item = io::Result<Secured>> {
    let shaken =
        connections.map(move |connection| shake(connection, tls.clone(), handshakes.clone()));
    shaken
        .buffer_unordered(AT_ONCE)
        .filter_map(std::future::ready)
}

/// One handshake, by the newest certificates; `None` when it fails, which is the peer's loss.
async fn shake(
    connection: io::Result<TcpStream>,
    tls: Tls,
    handshakes: Handshakes,
) -> Option<io::Result<Secured>> {
    let connection = match connection {
        Ok(connection) => connection,
        Err(error) => return Some(Err(error)),
    };
    let peer = connection.peer_addr().ok();
    let shaken = timeout(DEADLINE, TlsAcceptor::from(tls.server()).accept(connection)).await;
    let (outcome, stream) = match shaken {
        Ok(Ok(stream)) => (HandshakeOutcome::Accepted, Some(Ok(Secured(stream)))),
        Ok(Err(error)) => {
            let outcome = outcome_of(&error);
            tracing::debug!(?peer, outcome = outcome.name(), %error, "a TLS handshake failed");
            (outcome, None)
        }
        Err(_) => (HandshakeOutcome::Timeout, None),
    };
    handshakes[outcome].inc();
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

// === Secured ===

impl Connected for Secured {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Secured {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}
