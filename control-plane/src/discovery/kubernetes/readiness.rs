//! How far Kubernetes is believed when it calls endpoints not ready.
//!
//! Readiness is what Kubernetes last heard, and it can stop hearing. When its API server was away for longer than nodes
//! may be silent (50 s), or nodes are cut off from it, it calls all pods on them not ready at once, while they serve as
//! before. Taking them all out of the pool would turn a fault of bookkeeping into one of traffic.
//!
//! So when fewer than half of an endpoint's peers are left, those that were ready before, and that nobody has told to
//! go, stay in use. What really is broken is found by asking it: by scrapes and by requests that fail. It is the panic
//! threshold of Envoy's load balancer, with its usual value.

use std::collections::{BTreeMap, BTreeSet};

use hermes_core::snapshot::Role;

use super::{Discovered, index::Found};

/// Who has been ready, among those that still exist: as many as the API server holds, at most.
#[derive(Debug, Default)]
pub(crate) struct Readiness {
    once: BTreeSet<(String, String)>,
}

/// Endpoints to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Believed {
    /// Sorted by URL, each URL once.
    pub(crate) endpoints: Vec<Discovered>,
    /// How many of them Kubernetes calls not ready.
    pub(crate) doubted: usize,
    /// As [`Found::left_out`].
    pub(crate) left_out: usize,
}

/// Endpoints that can stand in for each other: of one role and group.
#[derive(Default)]
struct Peers {
    ready: Vec<Discovered>,
    unready: Vec<Discovered>,
}

// === impl Readiness ===

impl Readiness {
    /// Decides about the current set, and remembers who is ready in it.
    pub(crate) fn believe(&mut self, found: Found) -> Believed {
        let Found {
            endpoints,
            unready,
            left_out,
        } = found;
        let unready: Vec<_> = unready
            .into_iter()
            .filter(|endpoint| self.once.contains(&identity(endpoint)))
            .collect();
        self.once = endpoints.iter().chain(&unready).map(identity).collect();
        let mut peers: BTreeMap<(Role, Option<String>), Peers> = BTreeMap::new();
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
        let mut believed = Believed {
            endpoints: Vec::new(),
            doubted: 0,
            left_out,
        };
        for Peers { ready, unready } in peers.into_values() {
            // Fewer than half of ready + unready.
            if ready.len() < unready.len() {
                believed.doubted += unready.len();
                believed.endpoints.extend(unready);
            }
            believed.endpoints.extend(ready);
        }
        believed.endpoints.sort_unstable();
        believed
    }
}

/// A pod that was replaced at its address has yet to become ready.
fn identity(endpoint: &Discovered) -> (String, String) {
    (endpoint.url.clone(), endpoint.uid.clone())
}

fn place(endpoint: &Discovered) -> (Role, Option<String>) {
    (endpoint.role, endpoint.group.clone())
}

#[cfg(test)]
mod tests;
