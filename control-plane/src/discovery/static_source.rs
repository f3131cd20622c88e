//! A static source: the endpoints whose addresses are in the configuration.

use hermes_core::{address::ServerAddress, snapshot::Role};

use super::DiscoveredEndpoint;

/// The endpoints at these addresses.
pub(crate) fn static_endpoints(addresses: &[ServerAddress]) -> Vec<DiscoveredEndpoint> {
    addresses.iter().map(endpoint).collect()
}

fn endpoint(address: &ServerAddress) -> DiscoveredEndpoint {
    // A static endpoint has no UID: two processes at one address are one endpoint.
    DiscoveredEndpoint {
        address: address.clone(),
        uid: String::new(),
        name: format!("{}{}", address.authority(), address.base_path()),
        role: Role::Aggregate,
        group: None,
        kv_events: None,
    }
}
