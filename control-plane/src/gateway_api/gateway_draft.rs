//! One Gateway while its parts are collected.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use hermes_core::listener::{Listener, ListenerTls};

use super::{
    condition::{ConditionList, StatusCondition},
    gateway::{GatewayInfrastructure, GatewaySpec},
    listeners::{self, CertificateFacts, ListenerVerdict},
    name::NamespacedName,
    scene::{GatewayObjects, Versioned},
    status::{AssignedAddress, GatewayStatus, ListenerStatus},
};

/// A Gateway of this controller.
#[derive(Debug)]
pub(super) struct GatewayDraft<'a> {
    pub(super) name: &'a NamespacedName,
    pub(super) object: Versioned<'a, GatewaySpec>,
    pub(super) listeners: Vec<ListenerVerdict<'a>>,
    /// Routes that are attached to each listener.
    pub(super) attached: Vec<usize>,
    /// Why it is not served at all: the reason and a message.
    fault: Option<(&'static str, &'static str)>,
}

/// The proxies' ports of a Gateway, and where clients reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AssignedGateway {
    /// The proxies' port for each of the Gateway's.
    pub(crate) ports: BTreeMap<u16, u16>,
    /// Addresses, at least one; or why there are none.
    pub(crate) addresses: Result<Vec<AssignedAddress>, String>,
}

// === GatewayDraft ===

impl<'a> GatewayDraft<'a> {
    pub(super) fn new(
        name: &'a NamespacedName,
        object: Versioned<'a, GatewaySpec>,
        objects: &GatewayObjects<'_>,
    ) -> Self {
        let spec = object.spec;
        let listeners = listeners::verdicts(name, spec, objects);
        let attached = vec![0; listeners.len()];
        let mut draft = Self {
            name,
            object,
            listeners,
            attached,
            fault: None,
        };
        if let Some((reason, message)) = fault(spec) {
            draft.refuse(reason, message);
        }
        draft
    }

    /// Takes all of its listeners out of service.
    pub(super) fn refuse(&mut self, reason: &'static str, message: &'static str) {
        self.fault.get_or_insert((reason, message));
        for listener in &mut self.listeners {
            listener.refuse("UnsupportedValue", message.to_owned());
        }
    }

    /// Leaves out certificates for which there is no room beside those that are `taken`, and adds
    /// the others to these.
    pub(super) fn take_certificates(&mut self, taken: &mut BTreeSet<NamespacedName>) {
        for listener in self.listeners.iter_mut().filter(|one| one.is_served()) {
            listener.take_certificates(taken);
        }
    }

    /// Takes listeners out of service for which there is no `room`, and lowers that by the others.
    pub(super) fn take_room(&mut self, room: &mut usize) {
        for listener in self.listeners.iter_mut().filter(|one| one.is_served()) {
            match room.checked_sub(1) {
                Some(rest) => *room = rest,
                None => {
                    let message = "proxies have as many listeners as they may have".to_owned();
                    listener.refuse("PortUnavailable", message);
                }
            }
        }
    }

    /// The ports that it needs.
    pub(super) fn ports(&self) -> BTreeSet<u16> {
        let served = self.listeners.iter().filter(|one| one.is_served());
        served.map(|listener| listener.spec.port).collect()
    }

    /// What its Service gets.
    pub(super) fn infrastructure(&self) -> &'a GatewayInfrastructure {
        &self.object.spec.infrastructure
    }

    /// The Secrets that its listeners may use.
    pub(super) fn certificates(&self) -> impl Iterator<Item = &NamespacedName> {
        let served = self.listeners.iter().filter(|one| one.is_served());
        served.flat_map(|listener| &listener.certificates)
    }

    /// What a listener is called in the configuration.
    pub(super) fn listener_name(&self, position: usize) -> Arc<str> {
        let listener = &self.listeners[position].spec.name;
        format!("{}/{listener}", self.name).into()
    }

    /// The port of the proxies for a listener that is served.
    pub(super) fn proxy_port(
        &self,
        position: usize,
        assigned: Option<&AssignedGateway>,
    ) -> Option<u16> {
        let listener = &self.listeners[position];
        let port = assigned?.ports.get(&listener.spec.port).copied();
        port.filter(|_| listener.is_served())
    }

    /// The listeners of proxies.
    pub(super) fn compiled_listeners(&self, assigned: Option<&AssignedGateway>) -> Vec<Listener> {
        let compiled = |(position, verdict): (usize, &ListenerVerdict<'_>)| {
            let port = self.proxy_port(position, assigned)?;
            let certificates = verdict.certificates.iter();
            let certificates = certificates.map(|secret| secret.to_string().into());
            let tls = ListenerTls {
                certificates: certificates.collect(),
            };
            Some(Listener {
                name: self.listener_name(position),
                address: SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
                hostname: verdict.hostname.clone(),
                tls: verdict.is_secured().then_some(tls),
                routes_only: true,
            })
        };
        let listeners = self.listeners.iter().enumerate();
        listeners.filter_map(compiled).collect()
    }

    // === Status ===

    /// What its status should be.
    pub(super) fn status(
        &self,
        assigned: Option<&AssignedGateway>,
        states: &CertificateFacts,
    ) -> GatewayStatus {
        let generation = self.object.generation;
        let listeners = self.listeners.iter().enumerate();
        let listeners = listeners.map(|(position, verdict)| ListenerStatus {
            name: Arc::clone(&verdict.spec.name),
            takes_routes: verdict.takes_routes,
            attached: self.attached[position],
            conditions: ConditionList::new(
                generation,
                verdict.conditions(self.proxy_port(position, assigned), states),
            ),
        });
        let addresses = assigned.and_then(|assigned| assigned.addresses.as_ref().ok());
        let conditions = vec![self.accepted(), self.programmed(assigned, states)];
        GatewayStatus {
            conditions: ConditionList::new(generation, conditions),
            listeners: listeners.collect(),
            addresses: addresses.cloned().unwrap_or_default(),
        }
    }

    fn accepted(&self) -> StatusCondition {
        const ACCEPTED: &str = "Accepted";
        if let Some((reason, message)) = self.fault {
            return StatusCondition::fails(ACCEPTED, reason, message);
        }
        let bad = self.listeners.iter().filter(|one| !one.is_served());
        let bad: Vec<&str> = bad.map(|one| &*one.spec.name).collect();
        if bad.is_empty() {
            return StatusCondition::holds(ACCEPTED, ACCEPTED, "all listeners are served");
        }
        let message = format!("listeners that are not served: {}", bad.join(", "));
        if bad.len() == self.listeners.len() {
            StatusCondition::fails(ACCEPTED, "ListenersNotValid", &message)
        } else {
            StatusCondition::holds(ACCEPTED, "ListenersNotValid", &message)
        }
    }

    fn programmed(
        &self,
        assigned: Option<&AssignedGateway>,
        states: &CertificateFacts,
    ) -> StatusCondition {
        const PROGRAMMED: &str = "Programmed";
        if !self.listeners.iter().any(ListenerVerdict::is_served) {
            return StatusCondition::fails(PROGRAMMED, "Invalid", "no listener is served");
        }
        let Some(assigned) = assigned else {
            let message = "it has no Service yet";
            return StatusCondition::fails(PROGRAMMED, "Pending", message);
        };
        if let Err(problem) = &assigned.addresses {
            return StatusCondition::fails(PROGRAMMED, "AddressNotAssigned", problem);
        }
        let positions = self.listeners.iter().enumerate();
        let mut ready = positions.map(|(position, listener)| {
            listener.is_programmed(self.proxy_port(position, Some(assigned)), states)
        });
        if ready.any(|is_ready| is_ready) {
            return StatusCondition::holds(PROGRAMMED, PROGRAMMED, "proxies serve it");
        }
        let message =
            "no listener has both a port of the proxies and a certificate, if it needs one";
        StatusCondition::fails(PROGRAMMED, "Pending", message)
    }
}

/// Why a Gateway is not served at all.
fn fault(spec: &GatewaySpec) -> Option<(&'static str, &'static str)> {
    if !spec.addresses.is_empty() {
        let message = "addresses cannot be asked for: remove `spec.addresses`";
        return Some(("UnsupportedAddress", message));
    }
    if spec.infrastructure.parameters_ref.is_some() {
        let message = "parameters are not supported: remove `spec.infrastructure.parametersRef`";
        return Some(("InvalidParameters", message));
    }
    None
}
