//! Which model servers exist, learned from Kubernetes.
//!
//! ```text
//!   API server ──watch services───────┐
//!              ──watch endpointslices─┼─▶ index (join, pure) ─▶ settle ─▶ readiness ─▶ sink(whole set)
//!              ──or: watch pods───────┘
//! ```
//!
//! One [`KubernetesDiscovery`] serves one pool and shares nothing with others. It needs `list` and
//! `watch` on `services` and `pods` (core) and `endpointslices` (`discovery.k8s.io`) in the
//! namespaces it is pointed at, and nothing else: no `get`, no cluster-wide right, no write.
//!
//! Invariants:
//! * level-triggered: every list replaces what was known, so a missed event is repaired by the next
//!   list;
//! * a failed watch never empties the set: the last known one stays until the API server says
//!   otherwise;
//! * fewer than half of an endpoint's peers ready never means that the others leave: see
//!   `kubernetes/readiness.rs`;
//! * nothing is published before every kind was listed once, so that half a picture never looks
//!   like a scale-down;
//! * an object that cannot be parsed is skipped with a warning, and its last good version stays.
//!
//! It does not check whether an endpoint answers: [`crate::engines`] probes them.

mod kubernetes;
mod static_source;

use hermes_core::{
    address::ServerAddress,
    snapshot::{PairingFacts, Role},
};

pub use self::kubernetes::{
    DiscoveryStatus, EventPortNames, EventPorts, KubernetesDiscovery, KubernetesSource, Port,
    RoleNames, Selection, client,
};
pub(crate) use self::{
    kubernetes::{
        FailureLog, ObjectIndex, Pace, RelistDiff, RelistOutcome, WATCH_SECONDS, WatchError,
        WatchSink, follow, spread,
    },
    static_source::static_endpoints,
};

/// What one source found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiscoveredSet {
    /// Sorted by address, each address once.
    pub endpoints: Vec<DiscoveredEndpoint>,
    /// Discovery has just begun, and finds fewer than half of the endpoints ready: others may
    /// serve.
    pub is_doubtful: bool,
}

/// One endpoint as discovered, before it is checked or probed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DiscoveredEndpoint {
    /// Where it is.
    pub address: ServerAddress,
    /// Distinguishes two incarnations at one address: the pod's UID, or empty where there is no
    /// pod.
    pub uid: String,
    /// For people: `namespace/name` of the pod, or the URL's authority where there is no pod.
    pub name: String,
    /// What the endpoint does for a request; `None` if nothing names it, and its engine may.
    pub role: Option<Role>,
    /// Prefill and decode endpoints are paired inside one group only.
    pub group: Option<String>,
    /// What its partners in pairs need to know.
    pub pairing: PairingFacts,
    /// Where it publishes KV events, if that is configured and Kubernetes has its ports.
    pub kv_events: Option<EventPorts>,
}

impl From<Vec<DiscoveredEndpoint>> for DiscoveredSet {
    fn from(endpoints: Vec<DiscoveredEndpoint>) -> Self {
        Self {
            endpoints,
            is_doubtful: false,
        }
    }
}
