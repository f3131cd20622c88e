//! Where proxies come in: a listener, and before anything else a TLS handshake in which both sides
//! show certificates.
//!
//! ```text
//!   listener ──▶ handshakes, some at once, each with a deadline ──good──▶ gRPC
//!                                   └──bad──▶ closed, counted
//! ```

mod handshakes;

use std::{
    future::ready,
    io,
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, StreamExt};
use hermes_runtime::{metrics::PerValue, tls::Tls};
use prometheus_client::metrics::counter::Counter;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::{Connected, TcpIncoming};

pub(super) use self::handshakes::secured;
use super::PING_INTERVAL;
use crate::metrics::HandshakeOutcome;

/// The pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
type HandshakeCounters = PerValue<HandshakeOutcome, Counter>;

/// Connections, without TLS.
pub(super) fn plain(listener: TcpListener) -> impl Stream<Item = io::Result<TcpStream>> {
    let incoming = TcpIncoming::from(listener)
        .with_nodelay(Some(true))
        .with_keepalive(Some(PING_INTERVAL));
    accepted(incoming)
}

/// Connections as they come. One that cannot be accepted, as for want of file descriptors, costs a
/// pause and not the server, which would end at an error.
fn accepted<C>(
    connections: impl Stream<Item = io::Result<C>>,
) -> impl Stream<Item = io::Result<C>> {
    let is_failing = AtomicBool::new(false);
    let accepted = connections.then(move |connection| {
        let was_failing = is_failing.swap(connection.is_err(), Ordering::Relaxed);
        async move {
            let Err(error) = &connection else {
                return connection.ok();
            };
            if !was_failing {
                tracing::warn!(%error, "proxies cannot be accepted; raise the limit of open files if this stays");
            }
            sleep(ACCEPT_PAUSE).await;
            None
        }
    });
    accepted.filter_map(|connection| ready(connection.map(Ok)))
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

#[cfg(test)]
mod tests {
    use rustix::io::Errno;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_process_without_file_descriptors_accepts_again_later() {
        let start = Instant::now();
        let full = || Err(io::Error::from(Errno::MFILE));
        let incoming = futures::stream::iter([full(), full(), Ok("first"), full(), Ok("second")]);
        let connections: Vec<_> = accepted(incoming).map(Result::ok).collect().await;
        assert_eq!(connections, [Some("first"), Some("second")]);
        assert_eq!(start.elapsed(), 3 * ACCEPT_PAUSE);
    }
}
