//! What the watched objects say, joined into endpoints: pure, synchronous, without a client.
//!
//! An index keeps of every object only what bears on endpoints. So an update that changes nothing
//! visible (a heartbeat, an annotation, another condition) is recognized at once, and full objects
//! are never held.
//!
//! Its size is bounded by what the API server holds of the watched kinds in one namespace.

mod pods;
mod services;

use std::collections::{BTreeMap, BTreeSet};

use hermes_core::address::ServerAddress;
use kube::core::ObjectMeta;

pub(crate) use self::services::SERVICE_NAME;
pub(crate) use self::{pods::PodIndex, services::ServiceIndex};
use crate::discovery::DiscoveredEndpoint;

/// Takes in objects of one kind. Every method says whether anything that bears on endpoints
/// changed.
///
/// Objects are distinguished by their key.
pub(crate) trait ObjectIndex<K> {
    /// What distinguishes an object: its name, where no more than one namespace is watched.
    fn key(&self, metadata: &ObjectMeta) -> String {
        metadata.name.clone().unwrap_or_default()
    }

    /// An object exists and looks like this now.
    fn apply(&mut self, object: K) -> bool;

    /// The object of this key is gone.
    fn delete(&mut self, key: &str) -> bool;

    /// A whole list came: `listed` exist, and `gone` were known and are not listed anymore.
    fn reset(&mut self, listed: Vec<K>, gone: &BTreeSet<String>) -> bool {
        let mut changed = false;
        for key in gone {
            changed |= self.delete(key);
        }
        for object in listed {
            changed |= self.apply(object);
        }
        changed
    }
}

/// Answers which endpoints there are.
pub(crate) trait Endpoints {
    /// The whole current set.
    fn endpoints(&self) -> FoundEndpoints;
}

/// The endpoints of one source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FoundEndpoints {
    /// Those that are ready, sorted by address, each address once.
    pub(crate) endpoints: Vec<DiscoveredEndpoint>,
    /// Those that exist, are not terminating, and are not ready; sorted likewise.
    pub(crate) unready: Vec<DiscoveredEndpoint>,
    /// Ready addresses that could not be used: no port matches, or the role label is not
    /// understood.
    pub(crate) left_out: usize,
}

/// Something with an address, whether it can be used or not.
#[derive(Clone, Debug, PartialEq, Eq)]
struct EndpointCandidate {
    ready: bool,
    /// `None`: no port matches, or the role label is not understood.
    endpoint: Option<DiscoveredEndpoint>,
}

/// Stores what is left of an object after reading; `None` means that it does not count. Says
/// whether that is news.
fn keep<T: PartialEq>(map: &mut BTreeMap<String, T>, name: String, entry: Option<T>) -> bool {
    let Some(entry) = entry else {
        return map.remove(&name).is_some();
    };
    if map.get(&name) == Some(&entry) {
        return false;
    }
    map.insert(name, entry);
    true
}

// === FoundEndpoints ===

impl FoundEndpoints {
    /// Sorts, and keeps one endpoint per address: the same pod behind two Services is one server.
    fn new(candidates: impl IntoIterator<Item = EndpointCandidate>) -> Self {
        let mut found = Self::default();
        for EndpointCandidate { ready, endpoint } in candidates {
            match endpoint {
                Some(endpoint) if ready => found.endpoints.push(endpoint),
                Some(endpoint) => found.unready.push(endpoint),
                None => found.left_out += usize::from(ready),
            }
        }
        unique(&mut found.endpoints);
        unique(&mut found.unready);
        let ready: BTreeSet<&ServerAddress> = found
            .endpoints
            .iter()
            .map(|endpoint| &endpoint.address)
            .collect();
        found
            .unready
            .retain(|endpoint| !ready.contains(&endpoint.address));
        found
    }
}

fn unique(endpoints: &mut Vec<DiscoveredEndpoint>) {
    endpoints.sort_unstable();
    endpoints.dedup_by(|later, earlier| later.address == earlier.address);
}
