//! A port that serves clients: what its connections share.

use std::{io, sync::Arc};

use hermes_runtime::shutdown::Drain;
use rustls::ServerConfig;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsAcceptor;

use super::client_stream::ClientStream;
use crate::{proxy::Proxy, request::entry::ClientEntry, telemetry::metrics::ClientHandshake};

/// See the module.
pub(crate) struct ServedPort {
    pub(super) proxy: Arc<Proxy>,
    pub(super) entry: ClientEntry,
    /// Ends the port, with the process or before.
    pub(super) drain: Drain,
    /// How connections are secured.
    pub(super) tls: Option<Arc<ServerConfig>>,
}

impl ServedPort {
    /// The proxies' usual port.
    pub(crate) fn usual(proxy: Arc<Proxy>, drain: Drain) -> Arc<Self> {
        Arc::new(Self {
            proxy,
            entry: ClientEntry::USUAL,
            drain,
            tls: None,
        })
    }

    /// Completes the handshake, if connections are secured; `None` if it fails. A client has as long
    /// for it as for the head of a request.
    pub(super) async fn secured(&self, socket: TcpStream) -> Option<ClientStream> {
        let Some(config) = &self.tls else {
            return Some(ClientStream::Plain(socket));
        };
        let handshakes = &self.proxy.metrics.ports.handshakes;
        let accepting = TlsAcceptor::from(Arc::clone(config)).accept(socket);
        // Boxed: most ports have none.
        let accepted = Box::pin(timeout(self.proxy.client_limits().head, accepting)).await;
        let (outcome, stream) = match accepted {
            Ok(Ok(stream)) => (ClientHandshake::Accepted, Some(stream)),
            Ok(Err(error)) => {
                log_failure(&error);
                (ClientHandshake::Failed, None)
            }
            Err(_) => (ClientHandshake::Timeout, None),
        };
        handshakes[outcome].inc();
        Some(ClientStream::Secured(Box::new(stream?)))
    }
}

fn log_failure(error: &io::Error) {
    tracing::debug!(%error, "a client's TLS handshake failed");
}
