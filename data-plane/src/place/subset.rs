//! A part of a pool's endpoints: a door names the only ones that a request may be sent to.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use hermes_core::{
    address::{ServerAddress, ServerHost},
    query::MAX_RANKED,
    snapshot::EndpointId,
};
use smallvec::SmallVec;

use crate::{choose::EndpointSelection, endpoint::Upstream};

/// The endpoints with one of these addresses. None, if no address could be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EndpointSubset {
    sockets: HashSet<SocketAddr>,
    /// Every port there.
    hosts: HashSet<IpAddr>,
}

impl EndpointSubset {
    /// Of addresses as `ip:port`, or as `ip` for every port there. An entry that is neither names
    /// no endpoint.
    pub(crate) fn of<'a>(addresses: impl IntoIterator<Item = &'a str>) -> Self {
        let mut subset = Self::default();
        for address in addresses {
            let address = address.trim();
            if let Ok(socket) = address.parse() {
                subset.sockets.insert(socket);
            } else if let Ok(host) = address.trim_matches(['[', ']']).parse() {
                subset.hosts.insert(host);
            }
        }
        subset
    }

    /// The endpoints that it does not have.
    pub(crate) fn others(&self, endpoints: &[Arc<Upstream>]) -> SmallVec<[EndpointId; MAX_RANKED]> {
        let others = endpoints.iter().map(|upstream| &upstream.endpoint);
        let others = others.filter(|endpoint| !self.has(&endpoint.address));
        others.map(|endpoint| endpoint.id).collect()
    }

    fn has(&self, address: &ServerAddress) -> bool {
        match address.host() {
            ServerHost::Ip(ip) => {
                let socket = SocketAddr::new(*ip, address.port().get());
                self.hosts.contains(ip) || self.sockets.contains(&socket)
            }
            ServerHost::Name(_) => false,
        }
    }
}

/// Whether the selection is of endpoints of the subset only, if there is one.
pub(super) fn is_within(subset: Option<&EndpointSubset>, selection: &EndpointSelection) -> bool {
    let Some(subset) = subset else { return true };
    let mut endpoints = selection
        .ranked
        .iter()
        .map(|placement| &placement.decode().upstream.endpoint.address);
    endpoints.all(|address| subset.has(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(subset: &[&str], url: &str) -> bool {
        let subset = EndpointSubset::of(subset.iter().copied());
        subset.has(&url.parse().expect("an address"))
    }

    #[test]
    fn an_address_with_a_port_is_one_endpoint_and_one_without_is_all_ports() {
        assert!(has(&["10.0.0.1:8000"], "http://10.0.0.1:8000"));
        assert!(!has(&["10.0.0.1:8000"], "http://10.0.0.1:8001"));
        assert!(has(&["10.0.0.2", " 10.0.0.1 "], "http://10.0.0.1:8001"));
        assert!(has(&["[fd00::1]:8000"], "http://[fd00::1]:8000"));
        assert!(
            has(&["[fd00::1]"], "http://[fd00::1]:8000") && has(&["fd00::1"], "http://[fd00::1]:1")
        );
    }

    #[test]
    fn a_subset_that_cannot_be_read_has_no_endpoint() {
        assert!(!has(
            &["engine-0:8000", "10.0.0.1:none", ""],
            "http://10.0.0.1:8000"
        ));
        assert!(!has(&[], "http://10.0.0.1:8000"));
    }
}
