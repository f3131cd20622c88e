//! From the Gateways that are wanted and the Services that exist to what is published, and what is to
//! be written. Pure.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    AssignedPorts, GatewayName, GatewayProblem, GatewayService, WantedGateway, WantedGateways,
    assign,
    manifest::{ServiceManifest, service_name},
    observed::{ObservedService, ObservedServices},
};

/// What follows from what is wanted and what exists.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ServicePlan {
    /// What became of each Gateway.
    pub(super) gateways: BTreeMap<GatewayName, GatewayService>,
    /// What is to be written, by the names of Services.
    pub(super) due: BTreeMap<Arc<str>, ServiceChange>,
}

/// What is to be done with a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ServiceChange {
    /// It is to have this; `uid` is that of the one that exists.
    Apply {
        manifest: ServiceManifest,
        uid: Option<Arc<str>>,
    },
    /// The one with this UID is to be deleted.
    Delete { uid: Arc<str> },
}

/// Why the last change of a Service failed, by its name.
pub(super) type FailedChanges = BTreeMap<Arc<str>, Arc<str>>;

/// What is published of `wanted` and `services`, and what is to be written.
pub(super) fn plan(
    wanted: &WantedGateways,
    services: &ObservedServices,
    failed: &FailedChanges,
) -> ServicePlan {
    let WantedGateways {
        controller,
        service: config,
        gateways,
    } = wanted;
    let assigned = assign(gateways, &existing(controller, services), &config.ports);
    let mut plan = ServicePlan::default();
    for (gateway, wanted) in gateways {
        let name: Arc<str> = service_name(gateway).into();
        let ports = ports_of(gateway, wanted, &assigned);
        let service = services.find(&name);
        let is_ours = |service: &ObservedService| {
            let owner = service.owner.as_ref();
            owner.is_some_and(|own| own.controller == *controller && own.gateway == *gateway)
        };
        if service.is_some_and(|service| !is_ours(service)) {
            let problem = Some(GatewayProblem::ForeignService(name));
            let without = GatewayService {
                problem,
                ..GatewayService::default()
            };
            plan.gateways.insert(gateway.clone(), without);
            continue;
        }
        let manifest = ServiceManifest::of((gateway, wanted), controller, config, ports.clone());
        let is_right = service.is_some_and(|service| manifest.is_in(&service.manifest));
        let failure = failed.get(&name).filter(|_| !is_right);
        let published = published(service, wanted, &ports, failure);
        plan.gateways.insert(gateway.clone(), published);
        // A Service has a port at least. Without any it stays as it is, with its address.
        if !is_right && !manifest.ports.is_empty() {
            let uid = service.map(|service| Arc::clone(&service.uid));
            plan.due
                .insert(name, ServiceChange::Apply { manifest, uid });
        }
    }
    for (name, gateway, service) in services.of(controller) {
        let is_used = gateways.contains_key(gateway) && service_name(gateway) == **name;
        if !is_used && !service.is_terminating {
            let uid = Arc::clone(&service.uid);
            plan.due
                .insert(Arc::clone(name), ServiceChange::Delete { uid });
        }
    }
    plan
}

/// The ports that the controller's Services have.
fn existing(controller: &str, services: &ObservedServices) -> AssignedPorts {
    let ports = services.of(controller).flat_map(|(_, gateway, service)| {
        let ports = service.manifest.ports.iter();
        ports.map(|(port, target)| ((gateway.clone(), *port), *target))
    });
    ports.collect()
}

fn ports_of(
    gateway: &GatewayName,
    wanted: &WantedGateway,
    assigned: &AssignedPorts,
) -> BTreeMap<u16, u16> {
    let target = |port: &u16| Some((*port, *assigned.get(&(gateway.clone(), *port))?));
    wanted.ports.iter().filter_map(target).collect()
}

/// What is published of a Gateway: of its ports those that its Service has, since another replica
/// may have assigned others before it has seen all Gateways.
fn published(
    service: Option<&ObservedService>,
    wanted: &WantedGateway,
    assigned: &BTreeMap<u16, u16>,
    failure: Option<&Arc<str>>,
) -> GatewayService {
    let service = service.filter(|service| !service.is_terminating);
    let has = |port: &u16, target: &u16| {
        service.is_some_and(|service| service.manifest.ports.get(port) == Some(target))
    };
    let ports = assigned.iter().filter(|(port, target)| has(port, target));
    let ports: BTreeMap<u16, u16> = ports.map(|(port, target)| (*port, *target)).collect();
    let addresses = service.map_or_else(Vec::new, |service| service.addresses.clone());
    let problem = if assigned.len() < wanted.ports.len() {
        Some(GatewayProblem::NoPort)
    } else if addresses.is_empty() || ports.len() < assigned.len() {
        let not_written = |reason: &Arc<str>| GatewayProblem::NotWritten(Arc::clone(reason));
        Some(failure.map_or(GatewayProblem::Pending, not_written))
    } else {
        None
    };
    GatewayService {
        ports,
        addresses,
        problem,
    }
}

#[cfg(test)]
mod tests;
