//! A static source: the endpoints whose addresses are in the configuration.

use hermes_core::{
    address::ServerAddress,
    snapshot::{PairingFacts, Role},
};

use super::DiscoveredEndpoint;

/// The endpoints at these addresses, all of which have this role, if the configuration names one.
pub(crate) fn static_endpoints(
    role: Option<Role>,
    addresses: &[ServerAddress],
) -> Vec<DiscoveredEndpoint> {
    let endpoints = addresses.iter().map(|address| endpoint(role, address));
    endpoints.collect()
}

fn endpoint(role: Option<Role>, address: &ServerAddress) -> DiscoveredEndpoint {
    // A static endpoint has no UID: two processes at one address are one endpoint.
    DiscoveredEndpoint {
        address: address.clone(),
        uid: String::new(),
        name: format!("{}{}", address.authority(), address.base_path()),
        role,
        group: None,
        pairing: PairingFacts::default(),
        kv_events: None,
    }
}
