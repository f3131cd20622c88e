//! From objects to listeners, routes and status. Pure.
//!
//! Older objects go before younger ones where there is not enough room, and those that come first by
//! name where both are equally old.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use hermes_core::{listener::Listener, route::Route};

use super::{
    condition::{ConditionList, StatusCondition},
    gateway::{GatewayClassSpec, GatewayInfrastructure},
    gateway_draft::{AssignedGateway, GatewayDraft},
    listeners::CertificateFacts,
    name::NamespacedName,
    parent_list::ParentReference,
    references::{UsedBackends, missing_picker},
    room::{GatewayRoom, RouteRoom},
    route_draft::{AttachedParent, GatewayDrafts, RouteDraft},
    scene::{GatewayObjects, Versioned},
    status::{ClassStatus, GatewayStatus},
};

/// What is supported, by the names that the Gateway API has for it; sorted.
const FEATURES: [&str; 27] = [
    "Gateway",
    "GatewayHTTPListenerIsolation",
    "GatewayInfrastructurePropagation",
    "GatewayPort8080",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteBackendProtocolH2C",
    "HTTPRouteBackendTimeout",
    "HTTPRouteDestinationPortMatching",
    "HTTPRouteHostRewrite",
    "HTTPRouteMethodMatching",
    "HTTPRouteNamedRouteRule",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteRequestMirror",
    "HTTPRouteRequestMultipleMirrors",
    "HTTPRouteRequestPercentageMirror",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteSchemeRedirect",
    "InferencePool",
    "ReferenceGrant",
];

/// What objects are compiled with.
#[derive(Debug)]
pub(crate) struct GatewayContext<'a> {
    /// The name of this controller.
    pub(crate) controller: &'a str,
    /// The ports and addresses of Gateways.
    pub(crate) assigned: &'a BTreeMap<NamespacedName, AssignedGateway>,
    /// What is known of the certificates of listeners.
    pub(crate) certificates: &'a CertificateFacts,
    pub(crate) room: GatewayRoom,
}

/// What the objects mean together.
#[derive(Debug, Default)]
pub(crate) struct CompiledGateways {
    pub(crate) listeners: Vec<Arc<Listener>>,
    pub(crate) routes: Vec<Arc<Route>>,
    /// The backends of routes that are attached.
    pub(crate) used: UsedBackends,
    /// The Gateways that need ports.
    pub(crate) gateways: BTreeMap<NamespacedName, PortDemand>,
    /// The Secrets that listeners may use.
    pub(crate) certificates: BTreeSet<NamespacedName>,
    pub(crate) class_statuses: BTreeMap<Arc<str>, ClassStatus>,
    pub(crate) gateway_statuses: BTreeMap<NamespacedName, GatewayStatus>,
    /// Of every route; empty for those that name no Gateway of this controller.
    pub(crate) route_parents: BTreeMap<NamespacedName, ParentEntries>,
    /// Of the pools that routes name.
    pub(crate) pool_parents: BTreeMap<NamespacedName, ParentEntries>,
}

/// Entries of this controller in the status of an object.
pub(crate) type ParentEntries = Vec<(ParentReference, ConditionList)>;

/// A Gateway that needs ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PortDemand {
    /// In seconds of Unix time.
    pub(crate) created: u64,
    pub(crate) ports: BTreeSet<u16>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
}

/// What the Gateways mean with what refers to them.
pub(crate) fn compile(
    objects: &GatewayObjects<'_>,
    context: &GatewayContext<'_>,
) -> CompiledGateways {
    let mut compiled = CompiledGateways::default();
    let own = |class: &&Versioned<'_, GatewayClassSpec>| {
        *class.spec.controller_name == *context.controller
    };
    for (name, class) in &objects.classes {
        if own(&class) {
            let status = class_status(*class);
            compiled.class_statuses.insert((*name).into(), status);
        }
    }
    let mut gateways = gateways(objects, &compiled.class_statuses, context.room.listeners);
    let routes = routes(objects, &mut gateways, context);
    compiled.add_gateways(&gateways, context);
    compiled.add_routes(&routes);
    compiled.add_pools(&routes, objects);
    compiled
}

/// Objects by age.
fn by_age<'o, 'a, T>(
    objects: &'o BTreeMap<NamespacedName, Versioned<'a, T>>,
) -> Vec<(&'o NamespacedName, Versioned<'a, T>)> {
    let mut list: Vec<_> = objects
        .iter()
        .map(|(name, object)| (name, *object))
        .collect();
    list.sort_by_key(|(name, object)| (object.created.is_none(), object.created, *name));
    list
}

/// The Gateways of this controller's classes. Of listeners and certificates for which there is no
/// room, the oldest Gateways have theirs.
fn gateways<'a>(
    objects: &'a GatewayObjects<'a>,
    classes: &BTreeMap<Arc<str>, ClassStatus>,
    mut room: usize,
) -> GatewayDrafts<'a> {
    let is_accepted = |class: &ClassStatus| {
        let accepted = class.conditions.get("Accepted");
        accepted.is_some_and(|accepted| accepted.is_true)
    };
    let mut drafts = GatewayDrafts::new();
    let mut certificates = BTreeSet::new();
    for (name, object) in by_age(&objects.gateways) {
        let Some(class) = classes.get(&object.spec.gateway_class_name) else {
            continue;
        };
        let mut draft = GatewayDraft::new(name, object, objects);
        if !is_accepted(class) {
            draft.refuse("InvalidParameters", "its GatewayClass is not accepted");
        }
        draft.take_certificates(&mut certificates);
        draft.take_room(&mut room);
        drafts.insert(name.clone(), draft);
    }
    drafts
}

/// All routes, attached to their Gateways.
fn routes<'a>(
    objects: &'a GatewayObjects<'a>,
    gateways: &mut GatewayDrafts<'a>,
    context: &GatewayContext<'_>,
) -> Vec<(&'a NamespacedName, RouteDraft<'a>)> {
    let mut room = RouteRoom::new(context.room);
    let attached = by_age(&objects.routes).into_iter().map(|(name, object)| {
        let mut draft = RouteDraft::new(name, object, objects);
        let parents = draft.named_parents(gateways, objects);
        if draft.needs_room(&parents) && !room.take(&draft) {
            let message =
                "proxies have as many routes, regular expressions or Services as they may have";
            draft.refuse("TooManyRoutes", message.to_owned());
        }
        draft.attach(parents, gateways, context.assigned);
        (name, draft)
    });
    attached.collect()
}

fn class_status(class: Versioned<'_, GatewayClassSpec>) -> ClassStatus {
    const ACCEPTED: &str = "Accepted";
    let accepted = if class.spec.parameters_ref.is_some() {
        let message = "parameters are not supported: remove `spec.parametersRef`";
        StatusCondition::fails(ACCEPTED, "InvalidParameters", message)
    } else {
        StatusCondition::holds(ACCEPTED, ACCEPTED, "its Gateways are served")
    };
    ClassStatus {
        conditions: ConditionList::new(class.generation, vec![accepted]),
        features: &FEATURES,
    }
}

// === CompiledGateways ===

impl CompiledGateways {
    fn add_gateways(&mut self, gateways: &GatewayDrafts<'_>, context: &GatewayContext<'_>) {
        for (name, gateway) in gateways {
            let assigned = context.assigned.get(name);
            let listeners = gateway.compiled_listeners(assigned);
            self.listeners.extend(listeners.into_iter().map(Arc::new));
            self.certificates.extend(gateway.certificates().cloned());
            let status = gateway.status(assigned, context.certificates);
            self.gateway_statuses.insert(name.clone(), status);
            // Also one without ports is named: its Service stays, and with it its address.
            let ports = gateway.ports();
            let GatewayInfrastructure {
                labels,
                annotations,
                ..
            } = gateway.infrastructure().clone();
            let demand = PortDemand {
                created: gateway.object.created_seconds(),
                ports,
                labels,
                annotations,
            };
            self.gateways.insert(name.clone(), demand);
        }
    }

    fn add_routes(&mut self, routes: &[(&NamespacedName, RouteDraft<'_>)]) {
        for (name, route) in routes {
            let entry = |parent: &AttachedParent<'_>| {
                let reference = ParentReference::OfRoute(parent.reference.clone());
                (reference, route.conditions(parent))
            };
            let entries = route.parents.iter().map(entry).collect();
            self.route_parents.insert((*name).clone(), entries);
            if let Some(compiled) = route.route() {
                self.routes.push(Arc::new(compiled));
                let UsedBackends { services, pools } = &route.used;
                self.used.services.extend(services.iter().cloned());
                self.used.pools.extend(pools.iter().cloned());
            }
        }
    }

    /// A pool has an entry for each Gateway of a route that names it.
    fn add_pools(
        &mut self,
        routes: &[(&NamespacedName, RouteDraft<'_>)],
        objects: &GatewayObjects<'_>,
    ) {
        let mut accepted: BTreeMap<(&NamespacedName, &NamespacedName), bool> = BTreeMap::new();
        for (_, route) in routes {
            for (pool, parent) in route
                .used
                .pools
                .iter()
                .flat_map(|pool| route.parents.iter().map(move |parent| (pool, parent)))
            {
                *accepted.entry((pool, &parent.gateway)).or_default() |= parent.accepted.is_true;
            }
        }
        for ((name, gateway), is_accepted) in accepted {
            let pool = objects.pools.as_ref().and_then(|pools| pools.get(name));
            let Some(pool) = pool else { continue };
            let accepted = if is_accepted {
                StatusCondition::holds("Accepted", "Accepted", "a route of the Gateway names it")
            } else {
                let message = "no route that names it is accepted by the Gateway";
                StatusCondition::fails("Accepted", "HTTPRouteNotAccepted", message)
            };
            let resolved = match missing_picker(objects, pool) {
                None => StatusCondition::holds("ResolvedRefs", "ResolvedRefs", "all is well"),
                Some(message) => {
                    StatusCondition::fails("ResolvedRefs", "InvalidExtensionRef", &message)
                }
            };
            let conditions = ConditionList::new(pool.generation, vec![accepted, resolved]);
            let entry = (ParentReference::Gateway(gateway.clone()), conditions);
            let entries = self.pool_parents.entry(name.clone()).or_default();
            entries.push(entry);
        }
    }
}

#[cfg(test)]
mod tests;
