//! Opens sockets to one endpoint.

use std::{net::SocketAddr, sync::Arc};

use hermes_core::address::{ServerAddress, ServerHost};
use tokio::net::TcpStream;

use super::{
    connection::SendError,
    race,
    resolve::{NameResolver, ResolvedName},
};

/// Where to connect to, for all connections of one endpoint.
pub(super) struct EndpointDialer {
    target: DialTarget,
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
        Self { target }
    }

    /// A socket that is connected. The caller sets the deadline.
    pub(super) async fn dial(&self) -> Result<TcpStream, SendError> {
        let stream = match &self.target {
            DialTarget::Socket(address) => TcpStream::connect(address).await?,
            DialTarget::Name(name) => {
                let addresses = name.addresses().await.map_err(SendError::Resolve)?;
                race::connect(&addresses)
                    .await
                    .inspect_err(|_| name.look_up_again())?
            }
        };
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}
