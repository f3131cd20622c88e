//! Opens sockets to one endpoint.

use std::{net::SocketAddr, sync::Arc};

use hermes_core::address::{ServerAddress, ServerHost};
use tokio::net::TcpStream;

use super::{
    connect_error::EndpointConnectError,
    race,
    resolve::{NameResolver, ResolvedName},
    secure::{CertificateName, PoolTls},
    stream::EndpointStream,
};

/// Where to connect to, for all connections of one endpoint.
pub(super) struct EndpointDialer {
    target: DialTarget,
    certificate: CertificateName,
}

enum DialTarget {
    Socket(SocketAddr),
    Name(ResolvedName),
}

impl EndpointDialer {
    /// `resolver` is used if the host is a name.
    pub(super) fn new(address: &ServerAddress, resolver: Arc<dyn NameResolver>) -> Self {
        let port = address.port().get();
        let target = match address.host() {
            ServerHost::Ip(ip) => DialTarget::Socket(SocketAddr::new(*ip, port)),
            ServerHost::Name(name) => {
                DialTarget::Name(ResolvedName::new(name.clone(), port, resolver))
            }
        };
        Self {
            target,
            certificate: CertificateName::of(address),
        }
    }

    /// A socket that is connected, and secured by `tls` if the address says so. The caller sets the
    /// deadline.
    pub(super) async fn dial(&self, tls: &PoolTls) -> Result<EndpointStream, EndpointConnectError> {
        let stream = self.connect().await?;
        let Some(name) = self.certificate.get() else {
            return Ok(EndpointStream::Plain(stream));
        };
        // Boxed, so that a plain connection does not carry the state of a handshake.
        let secured = Box::pin(tls.secure(name.clone(), stream)).await?;
        Ok(EndpointStream::Secured(Box::new(secured)))
    }

    async fn connect(&self) -> Result<TcpStream, EndpointConnectError> {
        let stream = match &self.target {
            DialTarget::Socket(address) => TcpStream::connect(address).await?,
            DialTarget::Name(name) => {
                let addresses = name
                    .addresses()
                    .await
                    .map_err(EndpointConnectError::Resolve)?;
                race::connect(&addresses)
                    .await
                    .inspect_err(|_| name.look_up_again())?
            }
        };
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}
