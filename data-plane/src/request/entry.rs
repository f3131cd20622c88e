//! Where a request entered the proxy.

use std::net::SocketAddr;

use hermes_core::address::ServerScheme;

/// A port on which clients are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClientEntry {
    /// The listener's address as the snapshot has it; `None`: the proxies' usual port.
    pub(crate) port: Option<SocketAddr>,
    /// How clients reach it.
    pub(crate) scheme: ServerScheme,
}

impl ClientEntry {
    /// The proxies' usual port.
    pub(crate) const USUAL: Self = Self {
        port: None,
        scheme: ServerScheme::Http,
    };
}
