//! A connection to one control-plane replica: plain, or by TLS with certificates of both sides.
//!
//! A replica is dialed at an address that its name resolved to, and its certificate is checked for
//! the name: a headless Service has one name for all replicas, and certificates cannot list their
//! addresses.

use std::{error::Error, io, net::SocketAddr, time::Duration};

use hermes_core::address::ServerAddress;
use hermes_runtime::tls::Tls;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};
use tower::service_fn;

/// Timeout of a connection attempt, including the TLS handshake.
const CONNECT: Duration = Duration::from_secs(2);

/// Interval and timeout of keep-alive pings: a vanished replica is detected within their sum.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(8), Duration::from_secs(5));

/// Dials replicas.
#[derive(Clone, Debug)]
pub(crate) struct Dialer {
    /// Certificates, if TLS is configured.
    pub(crate) tls: Option<Tls>,
}

/// Name of the control plane as `host:port`; it may resolve to several replicas.
#[derive(Clone, Debug)]
pub(crate) struct ControlPlaneTarget {
    /// `host:port` to resolve.
    pub(super) authority: String,
    /// The name that certificates are verified for.
    pub(super) name: ServerName<'static>,
}

/// The address of one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReplicaAddress {
    pub(super) socket: SocketAddr,
    /// The name that was resolved to find it.
    pub(super) name: ServerName<'static>,
}

// === ControlPlaneTarget ===

impl TryFrom<String> for ControlPlaneTarget {
    /// The text that is not an address.
    type Error = String;

    fn try_from(authority: String) -> Result<Self, String> {
        let host = authority
            .rsplit_once(':')
            .map(|(host, _port)| host.trim_matches(['[', ']']).to_owned());
        let name = host.and_then(|host| ServerName::try_from(host).ok());
        let Some(name) = name else {
            return Err(authority);
        };
        Ok(Self { authority, name })
    }
}

// === Dialer ===

impl Dialer {
    /// A connection for streams.
    pub(super) async fn connect(&self, address: &ReplicaAddress) -> Result<Channel, Status> {
        let invalid = |error: &dyn Error| Status::invalid_argument(error.to_string());
        let url = ServerAddress::try_from(address.socket).map_err(|error| invalid(&error))?;
        let endpoint = Endpoint::from_shared(url.to_string())
            .map_err(|error| invalid(&error))?
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE.0)
            .keep_alive_timeout(KEEP_ALIVE.1)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(16 << 20);
        let connected = match &self.tls {
            None => endpoint.connect().await,
            Some(tls) => {
                let (tls, address) = (tls.clone(), address.clone());
                let dial = service_fn(move |_uri| {
                    let (tls, address) = (tls.clone(), address.clone());
                    async move { secured(&tls, address).await.map(TokioIo::new) }
                });
                endpoint.connect_with_connector(dial).await
            }
        };
        connected
            .map_err(|error| Status::unavailable(format!("cannot connect: {}", causes(&error))))
    }
}

/// Connects and completes the TLS handshake with the newest certificates.
async fn secured(tls: &Tls, address: ReplicaAddress) -> io::Result<TlsStream<TcpStream>> {
    let connection = TcpStream::connect(address.socket).await?;
    connection.set_nodelay(true)?;
    TlsConnector::from(tls.client())
        .connect(address.name, connection)
        .await
}

/// An error with its chain of causes: the outermost is only `transport error`, the last one names
/// the certificate's fault.
pub(super) fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_verified_for_the_configured_host() {
        let host = |authority: &str| {
            ControlPlaneTarget::try_from(authority.to_owned())
                .map(|target| target.name.to_str().into_owned())
        };
        assert_eq!(
            host("hermes-control-plane.ai.svc:7070").expect("a name"),
            "hermes-control-plane.ai.svc"
        );
        assert_eq!(host("10.0.0.7:7070").expect("an address"), "10.0.0.7");
        assert_eq!(host("[fd00::7]:7070").expect("an address"), "fd00::7");
        for wrong in ["not a name:7070", "hermes", ":7070"] {
            assert_eq!(host(wrong), Err(wrong.to_owned()));
        }
    }
}
