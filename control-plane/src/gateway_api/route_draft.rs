//! One route: what it does, and which Gateways it is attached to.

use std::{collections::BTreeMap, sync::Arc};

use hermes_core::route::{HostPattern, Route, RouteRule};

use super::{
    attachment::{AttachingRoute, AttachmentRefusal},
    condition::{ConditionList, StatusCondition},
    gateway::GATEWAY_GROUP,
    gateway_draft::{AssignedGateway, GatewayDraft},
    http_route::{HttpRouteSpec, ParentRef},
    name::NamespacedName,
    references::{BackendResolver, UsedBackends},
    rule::CompiledRule,
    scene::{GatewayObjects, Versioned},
};

/// What a route does.
#[derive(Debug)]
pub(super) struct RouteDraft<'a> {
    name: &'a NamespacedName,
    object: Versioned<'a, HttpRouteSpec>,
    hostnames: Vec<HostPattern>,
    rules: Vec<RouteRule>,
    /// The backends that it may use.
    pub(super) used: UsedBackends,
    /// Why it is attached to nothing: the reason and a message.
    fault: Option<(&'static str, String)>,
    /// What of it is not in use.
    partial: Option<String>,
    note: Option<&'static str>,
    resolved: StatusCondition,
    /// The listeners of proxies that it is attached to.
    listeners: Vec<Arc<str>>,
    /// For each of its references to a Gateway of this controller, in its order.
    pub(super) parents: Vec<AttachedParent<'a>>,
}

/// A reference of a route to a Gateway of this controller.
#[derive(Debug)]
pub(super) struct NamedParent<'a> {
    reference: &'a ParentRef,
    gateway: NamespacedName,
    /// The positions of the listeners that take the route, or why none does.
    listeners: Result<Vec<usize>, AttachmentRefusal>,
}

/// The same, once the route is attached or not.
#[derive(Debug)]
pub(super) struct AttachedParent<'a> {
    pub(super) reference: &'a ParentRef,
    pub(super) gateway: NamespacedName,
    pub(super) accepted: StatusCondition,
}

/// The Gateways of this controller, by name.
pub(super) type GatewayDrafts<'a> = BTreeMap<NamespacedName, GatewayDraft<'a>>;

// === RouteDraft ===

impl<'a> RouteDraft<'a> {
    pub(super) fn new(
        name: &'a NamespacedName,
        object: Versioned<'a, HttpRouteSpec>,
        objects: &GatewayObjects<'_>,
    ) -> Self {
        let mut backends = BackendResolver::new(objects, &name.namespace);
        let compiled = object.spec.rules.iter();
        let compiled: Vec<CompiledRule> = compiled
            .map(|rule| CompiledRule::new(rule, &mut backends))
            .collect();
        let (used, resolved) = backends.finish();
        let note = compiled.iter().find_map(|rule| rule.note);
        let (mut fault, partial) = faults(&compiled);
        let hosts = object.spec.hostnames.iter();
        let hosts: Result<Vec<HostPattern>, _> = hosts.map(|text| text.parse()).collect();
        let hostnames = hosts.unwrap_or_else(|error| {
            fault = Some(("UnsupportedValue", format!("hostnames: {error}")));
            Vec::new()
        });
        Self {
            name,
            object,
            hostnames,
            rules: compiled.into_iter().filter_map(|rule| rule.rule).collect(),
            used,
            fault,
            partial,
            note,
            resolved,
            listeners: Vec::new(),
            parents: Vec::new(),
        }
    }

    /// Its references to Gateways of this controller, in its order.
    pub(super) fn named_parents(
        &self,
        gateways: &GatewayDrafts<'_>,
        objects: &GatewayObjects<'_>,
    ) -> Vec<NamedParent<'a>> {
        let of_gateways = self
            .object
            .spec
            .parent_refs
            .iter()
            .filter(|parent| (&*parent.group, &*parent.kind) == (GATEWAY_GROUP, "Gateway"));
        let named = of_gateways.filter_map(|parent| {
            let namespace = parent.namespace.as_ref().unwrap_or(&self.name.namespace);
            let name = NamespacedName::new(namespace, &parent.name);
            let gateway = gateways.get(&name)?;
            let attaching = AttachingRoute {
                namespace: &self.name.namespace,
                parent,
                hostnames: &self.hostnames,
            };
            let listeners = attaching.attach(&name.namespace, &gateway.listeners, objects);
            Some(NamedParent {
                reference: parent,
                gateway: name,
                listeners,
            })
        });
        named.collect()
    }

    /// Whether a listener takes it. Others need no room in proxies.
    pub(super) fn needs_room(&self, parents: &[NamedParent<'_>]) -> bool {
        self.fault.is_none() && parents.iter().any(|parent| parent.listeners.is_ok())
    }

    /// Attaches it to Gateways, in which it is counted.
    pub(super) fn attach(
        &mut self,
        parents: Vec<NamedParent<'a>>,
        gateways: &mut GatewayDrafts<'_>,
        assigned: &BTreeMap<NamespacedName, AssignedGateway>,
    ) {
        for parent in parents {
            let NamedParent {
                reference,
                gateway,
                listeners,
            } = parent;
            let Some(draft) = gateways.get_mut(&gateway) else {
                continue;
            };
            let accepted = self.attach_to(draft, listeners, assigned.get(&gateway));
            self.parents.push(AttachedParent {
                reference,
                gateway,
                accepted,
            });
        }
        self.listeners.sort();
        self.listeners.dedup();
    }

    /// Attaches it to these listeners of one Gateway. Returns the condition `Accepted`.
    fn attach_to(
        &mut self,
        gateway: &mut GatewayDraft<'_>,
        listeners: Result<Vec<usize>, AttachmentRefusal>,
        assigned: Option<&AssignedGateway>,
    ) -> StatusCondition {
        const ACCEPTED: &str = "Accepted";
        let positions = match (listeners, &self.fault) {
            (Err(refusal), _) => {
                return StatusCondition::fails(ACCEPTED, refusal.reason, refusal.message);
            }
            (Ok(_), Some((reason, message))) => {
                return StatusCondition::fails(ACCEPTED, reason, message);
            }
            (Ok(positions), None) => positions,
        };
        for position in positions {
            gateway.attached[position] += 1;
            let port = gateway.proxy_port(position, assigned);
            let listener = port.map(|_| gateway.listener_name(position));
            self.listeners.extend(listener);
        }
        StatusCondition::holds(ACCEPTED, ACCEPTED, self.note.unwrap_or("it is attached"))
    }

    /// Takes it out of service.
    pub(super) fn refuse(&mut self, reason: &'static str, message: String) {
        self.fault.get_or_insert((reason, message));
    }

    /// The route of proxies; `None` if it is attached to no listener that they have.
    pub(super) fn route(&self) -> Option<Route> {
        (!self.listeners.is_empty()).then(|| Route {
            name: self.name.to_string().into(),
            listeners: self.listeners.clone(),
            hostnames: self.hostnames.clone(),
            created: self.object.created_seconds(),
            rules: self.rules.clone(),
        })
    }

    /// Expressions in its rules.
    pub(super) fn patterns(&self) -> usize {
        self.rules.iter().map(RouteRule::patterns).sum()
    }

    /// Its conditions at one of its parents.
    pub(super) fn conditions(&self, parent: &AttachedParent<'_>) -> ConditionList {
        let mut conditions = vec![parent.accepted.clone(), self.resolved.clone()];
        if let Some(message) = self.partial.as_ref().filter(|_| parent.accepted.is_true) {
            let partial = StatusCondition::holds("PartiallyInvalid", "UnsupportedValue", message);
            conditions.push(partial);
        }
        ConditionList::new(self.object.generation, conditions)
    }
}

/// What is the matter with all rules, or with some of them.
fn faults(rules: &[CompiledRule]) -> (Option<(&'static str, String)>, Option<String>) {
    let faulty = rules.iter().enumerate().filter_map(|(index, rule)| {
        let fault = rule.fault.as_ref()?;
        Some((index, fault))
    });
    let faulty: Vec<_> = faulty.collect();
    let Some((_, first)) = faulty.first() else {
        return (None, None);
    };
    let list = faulty.iter();
    let list: Vec<String> = list
        .map(|(index, fault)| format!("rules[{index}]: {}", fault.message))
        .collect();
    let list = list.join("; ");
    if faulty.len() == rules.len() {
        return (Some((first.reason, list)), None);
    }
    // The prefix is the specification's.
    let message = format!("Dropped Rule: requests of these are answered with 500: {list}");
    (None, Some(message))
}
