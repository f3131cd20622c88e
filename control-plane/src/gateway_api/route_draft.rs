//! One route: what it does, and which Gateways it is attached to.

use std::{collections::BTreeMap, sync::Arc};

use hermes_core::route::{HostPattern, Route, RouteRule};

use super::{
    attachment::AttachingRoute,
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

/// One reference of a route to a Gateway of this controller.
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

    /// Attaches it to Gateways, in which it is counted.
    pub(super) fn attach(
        &mut self,
        gateways: &mut GatewayDrafts<'_>,
        assigned: &BTreeMap<NamespacedName, AssignedGateway>,
        objects: &GatewayObjects<'_>,
    ) {
        for parent in &self.object.spec.parent_refs {
            let namespace = parent.namespace.as_ref().unwrap_or(&self.name.namespace);
            let gateway = NamespacedName {
                namespace: Arc::clone(namespace),
                name: Arc::clone(&parent.name),
            };
            let is_gateway = (&*parent.group, &*parent.kind) == (GATEWAY_GROUP, "Gateway");
            let Some(draft) = gateways.get_mut(&gateway).filter(|_| is_gateway) else {
                continue;
            };
            let accepted = self.attach_to(draft, parent, assigned.get(&gateway), objects);
            self.parents.push(AttachedParent {
                reference: parent,
                gateway,
                accepted,
            });
        }
        self.listeners.sort();
        self.listeners.dedup();
    }

    /// Attaches it to one Gateway. Returns the condition `Accepted`.
    fn attach_to(
        &mut self,
        gateway: &mut GatewayDraft<'_>,
        parent: &ParentRef,
        assigned: Option<&AssignedGateway>,
        objects: &GatewayObjects<'_>,
    ) -> StatusCondition {
        const ACCEPTED: &str = "Accepted";
        let attaching = AttachingRoute {
            namespace: &self.name.namespace,
            parent,
            hostnames: &self.hostnames,
        };
        let attached = attaching.attach(&gateway.name.namespace, &gateway.listeners, objects);
        let positions = match (attached, &self.fault) {
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

    /// Whether a listener of this controller's Gateways takes it. Others need no room in proxies.
    pub(super) fn can_attach(
        &self,
        gateways: &GatewayDrafts<'_>,
        objects: &GatewayObjects<'_>,
    ) -> bool {
        let is_taken = |parent: &ParentRef| {
            let namespace = parent.namespace.as_ref().unwrap_or(&self.name.namespace);
            let gateway = gateways.get(&NamespacedName::new(namespace, &parent.name));
            let is_gateway = (&*parent.group, &*parent.kind) == (GATEWAY_GROUP, "Gateway");
            let attaching = AttachingRoute {
                namespace: &self.name.namespace,
                parent,
                hostnames: &self.hostnames,
            };
            let attaches = |gateway: &GatewayDraft<'_>| {
                let (namespace, listeners) = (&gateway.name.namespace, &gateway.listeners);
                attaching.attach(namespace, listeners, objects).is_ok()
            };
            is_gateway && gateway.is_some_and(attaches)
        };
        self.fault.is_none() && self.object.spec.parent_refs.iter().any(is_taken)
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
