//! Pods by label: each port of a pod with an address is one endpoint, ready or not.
//!
//! Most pods have one port that serves inference. Further ones are of data-parallel ranks that have
//! schedulers and KV caches of their own; an annotation limits them to those that run.

use std::{collections::BTreeMap, net::IpAddr, num::NonZeroU16};

use hermes_core::{
    address::{ServerAddress, ServerScheme},
    snapshot::PairingFacts,
};
use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus};

use super::{EndpointCandidate, Endpoints, FoundEndpoints, ObjectIndex, keep};
use crate::discovery::kubernetes::{
    DiscoveredEndpoint, EventPortNames, EventPorts, Port,
    active_ports::ActivePorts,
    event_ports::annotation,
    labels::{RoleLabels, RoleNames, role_labels},
    location, port,
};

/// Pods that run, by name.
#[derive(Debug)]
pub(crate) struct PodIndex {
    port: Port,
    further_ports: Vec<NonZeroU16>,
    scheme: ServerScheme,
    /// Whether ports for KV events are looked for, and by which names.
    event_ports: Option<EventPortNames>,
    role_names: RoleNames,
    pods: BTreeMap<String, Vec<EndpointCandidate>>,
}

// === PodIndex ===

impl PodIndex {
    /// An empty index whose endpoints speak `scheme` on `port` of their pod.
    #[must_use]
    pub(crate) fn new(port: Port, scheme: ServerScheme) -> Self {
        Self {
            port,
            further_ports: Vec::new(),
            scheme,
            event_ports: None,
            role_names: RoleNames::default(),
            pods: BTreeMap::new(),
        }
    }

    /// These ports of each pod are endpoints, too.
    #[must_use]
    pub(crate) fn with_further_ports(self, further_ports: Vec<NonZeroU16>) -> Self {
        Self {
            further_ports,
            ..self
        }
    }

    /// Finds roles by these names, too.
    #[must_use]
    pub(crate) fn with_role_names(self, role_names: RoleNames) -> Self {
        Self { role_names, ..self }
    }

    /// Looks for ports for KV events, too.
    #[must_use]
    pub(crate) fn with_event_ports(self, names: Option<EventPortNames>) -> Self {
        Self {
            event_ports: names,
            ..self
        }
    }

    /// One for each active port; one that cannot be used if no port matches.
    fn candidates(&self, pod: &Pod) -> Option<Vec<EndpointCandidate>> {
        let (address, ready) = address(pod)?;
        let Some(first) = self.first_port(pod) else {
            let endpoint = None;
            return Some(vec![EndpointCandidate { ready, endpoint }]);
        };
        let active = ActivePorts::of(pod.metadata.annotations.as_ref());
        let ports = std::iter::once(first).chain(self.further_ports.iter().copied());
        let active = (0_u16..).zip(ports).filter(|(_, port)| active.has(*port));
        let candidate = |(rank, port)| EndpointCandidate {
            ready,
            endpoint: self.endpoint(pod, address, rank, port),
        };
        Some(active.map(candidate).collect())
    }

    fn first_port(&self, pod: &Pod) -> Option<NonZeroU16> {
        match &self.port {
            Port::Number(number) => Some(*number),
            Port::Name(name) => container_port(pod.spec.as_ref()?, name),
        }
    }

    /// The endpoint at the port with this position among the ports. `None`: the role label is not
    /// understood.
    fn endpoint(
        &self,
        pod: &Pod,
        address: IpAddr,
        rank: u16,
        port: NonZeroU16,
    ) -> Option<DiscoveredEndpoint> {
        let metadata = &pod.metadata;
        let RoleLabels {
            role,
            group,
            pairing,
        } = role_labels(metadata, &self.role_names).ok()?;
        let named = |name: &str| container_port(pod.spec.as_ref()?, name);
        let annotated = annotation(metadata.annotations.as_ref());
        let kv_events = EventPorts::find(self.event_ports.as_ref(), annotated, named);
        // Without ports of its own, a rank would be taken for another one.
        let kv_events = kv_events.and_then(|ports| ports.of_rank(rank));
        let (namespace, name) = (metadata.namespace.as_deref()?, metadata.name.as_deref()?);
        Some(DiscoveredEndpoint {
            address: ServerAddress::at(self.scheme, address, port),
            uid: metadata.uid.clone().unwrap_or_default(),
            name: if self.further_ports.is_empty() {
                format!("{namespace}/{name}")
            } else {
                format!("{namespace}/{name}:{port}")
            },
            role,
            group,
            pairing: PairingFacts {
                location: location::of_pod(pod),
                ..pairing
            },
            kv_events,
        })
    }
}

impl ObjectIndex<Pod> for PodIndex {
    fn apply(&mut self, pod: Pod) -> bool {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let candidates = self.candidates(&pod);
        keep(&mut self.pods, name, candidates)
    }

    fn delete(&mut self, name: &str) -> bool {
        self.pods.remove(name).is_some()
    }
}

impl Endpoints for PodIndex {
    fn endpoints(&self) -> FoundEndpoints {
        FoundEndpoints::new(self.pods.values().flatten().cloned())
    }
}

/// The address of a pod that has not ended and is not being deleted, and whether it is ready.
fn address(pod: &Pod) -> Option<(IpAddr, bool)> {
    let status = pod.status.as_ref()?;
    let ended = matches!(status.phase.as_deref(), Some("Failed" | "Succeeded"));
    if ended || pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    // An evicted pod can keep its conditions while its address is taken away or empty.
    let address = status.pod_ip.as_deref()?.parse().ok()?;
    Some((address, is_ready(status)))
}

fn is_ready(status: &PodStatus) -> bool {
    let conditions = status.conditions.as_deref().unwrap_or_default();
    conditions
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The number of the container port called `name`; sidecars (restartable init containers) count
/// like containers.
fn container_port(spec: &PodSpec, name: &str) -> Option<NonZeroU16> {
    let containers = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
    let named = ports.find(|port| port.name.as_deref() == Some(name))?;
    port::number(named.container_port)
}

#[cfg(test)]
mod tests;
