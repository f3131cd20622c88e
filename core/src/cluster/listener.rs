//! Listeners: ports on which proxies serve clients, beside their usual one.

use std::{net::SocketAddr, sync::Arc};

use serde::Serialize;

use crate::{collection::Keyed, route::HostPattern};

/// One listener. Several may share an address, if all of them secure connections or none does; they
/// differ in their hostnames then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listener {
    /// Unique in a snapshot: a name, or `namespace/gateway/name`.
    pub name: Arc<str>,
    /// Where proxies listen. Port 0 is any free one, another in each proxy.
    pub address: SocketAddr,
    /// The hosts whose requests it takes; `None`: all that no other listener of the address takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<HostPattern>,
    /// How connections are secured; `None`: not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
    /// Without a route, answer with 404. Otherwise, a listener to which no route is attached serves
    /// what the proxies' usual port serves.
    pub routes_only: bool,
}

/// How a listener's connections are secured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListenerTls {
    /// Names of the certificates, at least one. Each proxy has them, with their keys, in a folder of
    /// its own, or is sent those that are Secrets: no snapshot has a key.
    pub certificates: Vec<Arc<str>>,
}

impl Keyed for Listener {
    type Key = Arc<str>;
    const KIND: &'static str = "listener";

    fn key(&self) -> &Arc<str> {
        &self.name
    }
}
