//! Where an endpoint runs: its node, and the node's zone.
//!
//! Nodes themselves are not read: that would need a cluster-wide right. Kubernetes copies the zone
//! of a node to the slices of Services, and from release 1.35 on to the labels of pods.

use std::sync::Arc;

use hermes_core::snapshot::EndpointLocation;
use k8s_openapi::api::core::v1::Pod;

/// The label that names the zone of a node, and of what runs there.
const ZONE: &str = "topology.kubernetes.io/zone";

/// Where a pod runs.
pub(crate) fn of_pod(pod: &Pod) -> EndpointLocation {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    let labels = pod.metadata.labels.as_ref();
    let zone = labels.and_then(|labels| labels.get(ZONE));
    of(node, zone.map(String::as_str))
}

/// Where what has these names runs; an empty name counts as none.
pub(crate) fn of(node: Option<&str>, zone: Option<&str>) -> EndpointLocation {
    let named = |name: Option<&str>| -> Option<Arc<str>> {
        Some(name.filter(|name| !name.is_empty())?.into())
    };
    EndpointLocation {
        node: named(node),
        zone: named(zone),
    }
}
