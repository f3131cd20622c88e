//! The panic threshold of discovery: endpoints that are not ready stay in use while most of their
//! peers are not either.
//!
//! Readiness is the last status that nodes reported to Kubernetes. When its API server was
//! unreachable for longer than nodes may be silent (50 s), or nodes are cut off from it, it marks
//! all pods on them not ready at once, while they serve as before. Removing them all from the pool
//! would turn a fault of the control plane into an outage.
//!
//! So when fewer than half of an endpoint's peers are ready, those that were ready before, and are
//! not terminating, stay in use. Scrapes and failing requests find the endpoints that are really
//! down. It is the panic threshold of Envoy's load balancer, with its default value.
//!
//! A discovery that has just begun has seen none of them ready. If it finds fewer than half ready,
//! its set is marked as doubtful, so that proxies keep the endpoints that they have, for a time in
//! which Kubernetes would have recovered.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use hermes_core::{address::ServerAddress, snapshot::Role};

use super::{DiscoveredEndpoint, DiscoveredSet, index::FoundEndpoints};

/// How long after its begin a discovery that finds fewer than half of the endpoints ready is
/// doubted. Kubernetes has the status of all nodes again within two minutes after an outage.
pub(crate) const DOUBT: Duration = Duration::from_mins(3);

/// The endpoints that have been ready and still exist: at most as many as the API server holds.
#[derive(Debug, Default)]
pub(crate) struct PeerReadiness {
    once: BTreeSet<(ServerAddress, String)>,
}

/// Endpoints to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UsableEndpoints {
    /// What the sink gets.
    pub(crate) set: DiscoveredSet,
    /// How many of them are not ready.
    pub(crate) doubted: usize,
    /// As [`FoundEndpoints::left_out`].
    pub(crate) left_out: usize,
}

/// What makes endpoints interchangeable: role, as far as it is named, and group.
type EndpointPlace = (Option<Role>, Option<String>);

/// Interchangeable endpoints.
#[derive(Default)]
struct Peers {
    ready: Vec<DiscoveredEndpoint>,
    unready: Vec<DiscoveredEndpoint>,
}

// === PeerReadiness ===

impl PeerReadiness {
    /// These endpoints were ready before. One that does not exist any more is dropped by the first
    /// [`apply`](Self::apply).
    pub(crate) fn with_ready(endpoints: &[DiscoveredEndpoint]) -> Self {
        Self {
            once: endpoints.iter().map(identity).collect(),
        }
    }

    /// Applies the threshold to the current set, and records which of it are ready. `age`: the time
    /// since discovery began.
    pub(crate) fn apply(&mut self, found: FoundEndpoints, age: Duration) -> UsableEndpoints {
        let FoundEndpoints {
            endpoints,
            unready,
            left_out,
        } = found;
        let is_doubtful = age < DOUBT && endpoints.len() < unready.len();
        let unready: Vec<_> = unready
            .into_iter()
            .filter(|endpoint| self.once.contains(&identity(endpoint)))
            .collect();
        self.once = endpoints.iter().chain(&unready).map(identity).collect();
        let mut peers: BTreeMap<EndpointPlace, Peers> = BTreeMap::new();
        for endpoint in endpoints {
            peers
                .entry(place(&endpoint))
                .or_default()
                .ready
                .push(endpoint);
        }
        for endpoint in unready {
            peers
                .entry(place(&endpoint))
                .or_default()
                .unready
                .push(endpoint);
        }
        let (mut usable, mut doubted) = (Vec::new(), 0);
        for Peers { ready, unready } in peers.into_values() {
            // Fewer than half of ready + unready.
            if ready.len() < unready.len() {
                doubted += unready.len();
                usable.extend(unready);
            }
            usable.extend(ready);
        }
        usable.sort_unstable();
        UsableEndpoints {
            set: DiscoveredSet {
                endpoints: usable,
                is_doubtful,
            },
            doubted,
            left_out,
        }
    }
}

/// A pod that was replaced at its address has yet to become ready.
fn identity(endpoint: &DiscoveredEndpoint) -> (ServerAddress, String) {
    (endpoint.address.clone(), endpoint.uid.clone())
}

fn place(endpoint: &DiscoveredEndpoint) -> EndpointPlace {
    (endpoint.role, endpoint.group.clone())
}

#[cfg(test)]
mod tests;
