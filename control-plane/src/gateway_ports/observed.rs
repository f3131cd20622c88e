//! What is known of the Services in the namespace of the proxies.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::core::v1::{LoadBalancerIngress, Service, ServicePort, ServiceSpec, ServiceStatus},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{
    FIELD_MANAGER, GatewayAddress, GatewayName,
    manifest::{CONTROLLER, GATEWAY, MADE_BY, ServiceManifest},
};
use crate::discovery::ObjectIndex;

/// Services by name.
#[derive(Debug, Default)]
pub(super) struct ObservedServices(BTreeMap<Arc<str>, ObservedService>);

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ObservedService {
    /// Distinguishes two of one name.
    pub(super) uid: Arc<str>,
    /// Whose it is; `None` if a controller like this one has not made it.
    pub(super) owner: Option<ServiceOwner>,
    pub(super) manifest: ServiceManifest,
    pub(super) addresses: Vec<GatewayAddress>,
    /// It was deleted, and something holds it until it has cleaned up.
    pub(super) is_terminating: bool,
}

/// Whose a Service is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServiceOwner {
    pub(super) controller: Arc<str>,
    pub(super) gateway: GatewayName,
}

// === ObservedServices ===

impl ObservedServices {
    /// The Service of this name.
    pub(super) fn find(&self, name: &str) -> Option<&ObservedService> {
        self.0.get(name)
    }

    /// Those that `controller` has made, with their names.
    pub(super) fn of<'a>(
        &'a self,
        controller: &'a str,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a GatewayName, &'a ObservedService)> {
        self.0.iter().filter_map(move |(name, service)| {
            let owner = service.owner.as_ref()?;
            (*owner.controller == *controller).then_some((name, &owner.gateway, service))
        })
    }
}

impl ObjectIndex<Service> for ObservedServices {
    fn apply(&mut self, service: Service) -> bool {
        let name = service.metadata.name.clone().unwrap_or_default();
        let observed = ObservedService::of(service);
        self.0.insert(name.into(), observed.clone()) != Some(observed)
    }

    fn delete(&mut self, key: &str) -> bool {
        self.0.remove(key).is_some()
    }
}

// === ObservedService ===

impl ObservedService {
    pub(super) fn of(service: Service) -> Self {
        let Service {
            metadata,
            spec,
            status,
        } = service;
        let ServiceSpec {
            cluster_ip,
            cluster_ips,
            ports,
            selector,
            type_,
            ..
        } = spec.unwrap_or_default();
        let labels = metadata.labels.unwrap_or_default();
        let annotations = metadata.annotations.unwrap_or_default();
        let is_applied = (metadata.managed_fields.iter().flatten())
            .any(|fields| fields.manager.as_deref() == Some(FIELD_MANAGER));
        let is_made_by_us = labels.get(MADE_BY.0).is_some_and(|by| by == MADE_BY.1);
        let owner = ServiceOwner::of(&annotations).filter(|_| is_applied && is_made_by_us);
        let manifest = ServiceManifest {
            labels,
            annotations,
            selector: selector.unwrap_or_default(),
            reach: type_.unwrap_or_else(|| "ClusterIP".to_owned()),
            ports: ports.iter().flatten().filter_map(numbers).collect(),
        };
        let addresses = if manifest.awaits_load_balancer() {
            of_load_balancer(status)
        } else {
            let all = cluster_ips.unwrap_or_else(|| cluster_ip.into_iter().collect());
            let given = all.into_iter().filter(|ip| !ip.is_empty() && ip != "None");
            given.map(|ip| GatewayAddress::Ip(ip.into())).collect()
        };
        Self {
            uid: metadata.uid.unwrap_or_default().into(),
            owner,
            manifest,
            addresses,
            is_terminating: metadata.deletion_timestamp.is_some(),
        }
    }
}

// === ServiceOwner ===

impl ServiceOwner {
    fn of(annotations: &BTreeMap<String, String>) -> Option<Self> {
        let (namespace, name) = annotations.get(GATEWAY)?.split_once('/')?;
        Some(Self {
            controller: annotations.get(CONTROLLER)?.as_str().into(),
            gateway: GatewayName {
                namespace: namespace.into(),
                name: name.into(),
            },
        })
    }
}

/// The port and the target port, both as numbers, if it is one of TCP.
fn numbers(port: &ServicePort) -> Option<(u16, u16)> {
    let is_tcp = port.protocol.as_deref().is_none_or(|name| name == "TCP");
    let Some(IntOrString::Int(target)) = port.target_port else {
        return None;
    };
    let number = u16::try_from(port.port).ok()?;
    is_tcp.then_some((number, u16::try_from(target).ok()?))
}

fn of_load_balancer(status: Option<ServiceStatus>) -> Vec<GatewayAddress> {
    let balancer = status.and_then(|status| status.load_balancer);
    let points = balancer.and_then(|balancer| balancer.ingress);
    let address = |point: LoadBalancerIngress| match (point.ip, point.hostname) {
        (Some(ip), _) if !ip.is_empty() => Some(GatewayAddress::Ip(ip.into())),
        (_, Some(name)) if !name.is_empty() => Some(GatewayAddress::Hostname(name.into())),
        _ => None,
    };
    let mut addresses: Vec<GatewayAddress> =
        points.into_iter().flatten().filter_map(address).collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn observed(service: Value) -> ObservedService {
        ObservedService::of(serde_json::from_value(service).expect("a Service"))
    }

    #[test]
    fn addresses_are_those_of_the_load_balancer_or_of_the_cluster() {
        let spec = json!({"type": "LoadBalancer", "clusterIP": "10.0.0.1"});
        assert_eq!(observed(json!({"spec": spec})).addresses, []);
        let ingress = json!([{"hostname": "b.example.com"}, {"ip": "192.0.2.1"}, {}]);
        let balanced = json!({"spec": spec, "status": {"loadBalancer": {"ingress": ingress}}});
        let expected = [
            GatewayAddress::Ip("192.0.2.1".into()),
            GatewayAddress::Hostname("b.example.com".into()),
        ];
        assert_eq!(observed(balanced).addresses, expected);
        for (spec, expected) in [
            (json!({"clusterIP": "10.0.0.1"}), &["10.0.0.1"][..]),
            (
                json!({"type": "NodePort", "clusterIPs": ["10.0.0.1", "fd00::1"]}),
                &["10.0.0.1", "fd00::1"],
            ),
            (json!({"clusterIP": "None"}), &[]),
            (json!({"clusterIP": ""}), &[]),
        ] {
            let expected: Vec<_> = (expected.iter())
                .map(|ip| GatewayAddress::Ip((*ip).into()))
                .collect();
            assert_eq!(observed(json!({"spec": spec})).addresses, expected);
        }
    }

    #[test]
    fn only_what_this_field_manager_has_applied_is_ours() {
        let service = |manager: &str, made_by: &str| {
            observed(json!({"metadata": {
                "labels": {MADE_BY.0: made_by},
                "annotations": {GATEWAY: "ai/web", CONTROLLER: "c"},
                "managedFields": [{"manager": "kubectl"}, {"manager": manager}],
            }}))
        };
        let owner = service(FIELD_MANAGER, "hermes").owner.expect("ours");
        assert_eq!(owner.gateway.to_string(), "ai/web");
        assert_eq!(service("helm", "hermes").owner, None, "a copy");
        assert_eq!(service(FIELD_MANAGER, "helm").owner, None);
        assert_eq!(observed(json!({})).owner, None);
    }
}
