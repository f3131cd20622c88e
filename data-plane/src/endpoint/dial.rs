//! Opens sockets to one endpoint.

use std::{net::SocketAddr, sync::Arc};

use hermes_core::address::{ServerAddress, ServerHost};
use tokio::net::TcpStream;

use super::{
    connect_error::EndpointConnectError,
    race,
    resolve::{NameResolver, ResolvedName},
    secure::{EndpointTls, PoolTls, TlsSession},
    stream::EndpointStream,
};

/// Where to connect to and how to secure it, for all connections of one endpoint.
pub(super) struct EndpointDialer {
    target: DialTarget,
    /// Present if the address is secured.
    tls: Option<EndpointTls>,
}

enum DialTarget {
    Socket(SocketAddr),
    Name(ResolvedName),
}

/// A stream that is connected, and how it was secured if it was.
type DialedStream = (EndpointStream, Option<TlsSession>);

impl EndpointDialer {
    /// `resolver` is used if the host is a name, `tls` if the address is secured.
    pub(super) fn new(
        address: &ServerAddress,
        resolver: Arc<dyn NameResolver>,
        tls: &PoolTls,
    ) -> Self {
        let port = address.port().get();
        let target = match address.host() {
            ServerHost::Ip(ip) => DialTarget::Socket(SocketAddr::new(*ip, port)),
            ServerHost::Name(name) => {
                DialTarget::Name(ResolvedName::new(name.clone(), port, resolver))
            }
        };
        Self {
            target,
            tls: EndpointTls::of(address, tls),
        }
    }

    /// Secures connections by `tls` from now on, if the address is secured.
    pub(super) fn secure_by(&self, tls: &PoolTls) {
        if let Some(own) = &self.tls {
            own.set(tls);
        }
    }

    /// Whether a connection with this session may get another request; a plain one always may.
    pub(super) fn is_current(&self, session: Option<&TlsSession>) -> bool {
        session.is_none_or(|session| self.tls.as_ref().is_some_and(|tls| tls.is_current(session)))
    }

    /// A socket that is connected, and secured if the address says so. The caller sets the deadline.
    pub(super) async fn dial(&self) -> Result<DialedStream, EndpointConnectError> {
        let stream = self.connect().await?;
        let Some(tls) = &self.tls else {
            return Ok((EndpointStream::Plain(stream), None));
        };
        // Boxed, so that a plain connection does not carry the state of a handshake.
        let (secured, session) = Box::pin(tls.secure(stream)).await?;
        Ok((EndpointStream::Secured(Box::new(secured)), Some(session)))
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
