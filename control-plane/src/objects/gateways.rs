//! From the catalog to listeners and routes: what the objects of the Gateway API mean, what became of
//! each, and what its status should be. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use hermes_core::{inference_pool::AskedPicker, route::RouteRule};

use super::{
    catalog::{CatalogEntry, ObjectCatalog, ObjectKey, ObjectSpec},
    compile::{AdoptedPools, is_foreign},
    kind::ObjectKind,
    status::{StatusBoard, StatusEntry},
    verdict::{ObjectVerdict, RefusalReason},
};
use crate::{
    config::{
        Config, GatewayApiConfig, InferencePoolsConfig, MAX_LISTENERS, MAX_PATTERNS, MAX_POOLS,
        MAX_ROUTES, ServicePool,
    },
    gateway_api::{
        AssignedGateway, BackendPool, BackendService, CertificateFacts, CompiledGateways,
        ConditionList, GatewayApiStatus, GatewayContext, GatewayObjects, GatewayRoom,
        NamespacedName, OtherPicker, ParentEntries, ParentForm, ParentList, Versioned, compile,
        picker_service, service_pool_name,
    },
};

/// The `appProtocol` of ports that speak HTTP/2 without TLS.
const H2C: &str = "kubernetes.io/h2c";

/// What is known of Gateways beside their objects.
#[derive(Debug, Default)]
pub(crate) struct GatewayFacts {
    /// Their ports and addresses.
    pub(crate) assigned: BTreeMap<NamespacedName, AssignedGateway>,
    /// The certificates of their listeners.
    pub(crate) certificates: CertificateFacts,
}

/// What Gateways and their routes mean.
#[derive(Debug)]
pub(super) struct GatewayOutcome {
    pub(super) compiled: CompiledGateways,
    /// Pools of other pickers that routes use.
    pub(super) adopted: AdoptedPools,
    /// Ports of Services that routes use.
    pub(super) services: Vec<ServicePool>,
}

impl GatewayOutcome {
    /// What the objects mean in this configuration of the file.
    pub(super) fn new(
        catalog: &ObjectCatalog,
        file: &Config,
        gateways: &GatewayApiConfig,
        facts: &GatewayFacts,
    ) -> Self {
        let objects = objects(catalog, file.inference_pools.as_deref());
        let inference_pools = objects.pools.as_ref().map_or(0, BTreeMap::len);
        let rules = file.routes.iter().flat_map(|route| &route.rules);
        let patterns: usize = rules.map(RouteRule::patterns).sum();
        let context = GatewayContext {
            controller: &gateways.controller,
            assigned: &facts.assigned,
            certificates: &facts.certificates,
            room: GatewayRoom {
                listeners: MAX_LISTENERS.saturating_sub(file.listeners.len()),
                routes: MAX_ROUTES.saturating_sub(file.routes.len()),
                patterns: MAX_PATTERNS.saturating_sub(patterns),
                services: MAX_POOLS.saturating_sub(file.pools.len() + inference_pools),
            },
        };
        let compiled = compile(&objects, &context);
        let service = |(name, port): &(NamespacedName, u16)| service_pool(&objects, name, *port);
        Self {
            services: compiled.used.services.iter().map(service).collect(),
            adopted: adopted(&objects, &compiled.used.pools),
            compiled,
        }
    }

    /// Adds what became of each object.
    pub(super) fn judge(
        &self,
        catalog: &ObjectCatalog,
        verdicts: &mut BTreeMap<ObjectKey, ObjectVerdict>,
    ) {
        let kinds = [
            ObjectKind::GatewayClass,
            ObjectKind::Gateway,
            ObjectKind::Route,
            ObjectKind::Grant,
            ObjectKind::EarlierGrant,
        ];
        for (key, entry) in kinds.into_iter().flat_map(|kind| catalog.of_kind(kind)) {
            let verdict = match entry.spec() {
                None => entry.unusable(),
                Some(_) => self.verdict(key, entry),
            };
            verdicts.insert(key.clone(), verdict);
        }
    }

    fn verdict(&self, key: &ObjectKey, entry: &CatalogEntry) -> ObjectVerdict {
        let CompiledGateways {
            class_statuses,
            gateway_statuses,
            route_parents,
            ..
        } = &self.compiled;
        let name = name_of(key);
        let lists: Vec<&ConditionList> = match key.0 {
            ObjectKind::GatewayClass => {
                let status = class_statuses.get(&name.name);
                status
                    .map(|status| &status.conditions)
                    .into_iter()
                    .collect()
            }
            ObjectKind::Gateway => {
                let status = gateway_statuses.get(&name);
                status
                    .map(|status| &status.conditions)
                    .into_iter()
                    .collect()
            }
            ObjectKind::Route => {
                let parents = route_parents.get(&name).into_iter().flatten();
                parents.map(|(_, conditions)| conditions).collect()
            }
            _ => return entry.verdict(),
        };
        of_conditions(&lists).unwrap_or_else(|| entry.verdict())
    }

    /// Adds what the status of each object should be.
    pub(super) fn add_statuses(
        &self,
        catalog: &ObjectCatalog,
        controller: &Arc<str>,
        board: &mut StatusBoard,
    ) {
        let gateways: Arc<BTreeSet<_>> =
            Arc::new(self.compiled.gateway_statuses.keys().cloned().collect());
        let parents = |entries: Option<&ParentEntries>, form: ParentForm| {
            GatewayApiStatus::Child(ParentList {
                controller: Arc::clone(controller),
                form,
                parents: entries.cloned().unwrap_or_default(),
            })
        };
        let compiled = &self.compiled;
        for (key, entry) in catalog.iter() {
            let name = name_of(key);
            let wanted = match key.0 {
                ObjectKind::GatewayClass => {
                    let status = compiled.class_statuses.get(&name.name).cloned();
                    status.map(GatewayApiStatus::Class)
                }
                ObjectKind::Gateway => {
                    let status = compiled.gateway_statuses.get(&name).cloned();
                    status.map(GatewayApiStatus::Gateway)
                }
                ObjectKind::Route => {
                    let entries = compiled.route_parents.get(&name);
                    Some(parents(entries, ParentForm::Named))
                }
                ObjectKind::Pool => {
                    let entries = compiled.pool_parents.get(&name);
                    Some(parents(entries, ParentForm::Named))
                }
                ObjectKind::EarlierPool => {
                    let stable = (ObjectKind::Pool, Arc::clone(&key.1), Arc::clone(&key.2));
                    let is_used = catalog.get(&stable).is_none();
                    let entries = compiled.pool_parents.get(&name).filter(|_| is_used);
                    Some(parents(entries, ParentForm::Unnamed(Arc::clone(&gateways))))
                }
                _ => None,
            };
            let (Some(wanted), Some(observed)) = (wanted, &entry.status) else {
                continue;
            };
            if wanted.matters(&observed.status) {
                let observed = Arc::clone(observed);
                board.insert(key.clone(), StatusEntry::GatewayApi { wanted, observed });
            }
        }
    }
}

/// The objects of the catalog.
fn objects<'a>(
    catalog: &'a ObjectCatalog,
    pools: Option<&InferencePoolsConfig>,
) -> GatewayObjects<'a> {
    let mut objects = GatewayObjects {
        pools: pools.map(|config| backend_pools(catalog, config)),
        ..GatewayObjects::default()
    };
    let kinds = ObjectKind::ALL.into_iter();
    for kind in kinds.filter(|kind| kind.is_of_gateways()) {
        for (key, entry) in catalog.of_kind(kind) {
            let name = name_of(key);
            let Some((generation, spec)) = &entry.usable else {
                continue;
            };
            let (generation, created) = (*generation, entry.created);
            match spec {
                ObjectSpec::GatewayClass(spec) => {
                    _ = (objects.classes).insert(&key.2, versioned(spec, generation, created));
                }
                ObjectSpec::Gateway(spec) => {
                    _ = (objects.gateways).insert(name, versioned(spec, generation, created));
                }
                ObjectSpec::Route(spec) => {
                    _ = (objects.routes).insert(name, versioned(spec, generation, created));
                }
                ObjectSpec::Grant(spec) => objects.grants.push((&key.1, spec)),
                ObjectSpec::Namespace(labels) => _ = objects.namespaces.insert(&key.2, labels),
                ObjectSpec::Service(service) => _ = objects.services.insert(name, service),
                ObjectSpec::Pool(_)
                | ObjectSpec::Model(_)
                | ObjectSpec::Objective(_)
                | ObjectSpec::Rewrite(_) => {}
            }
        }
    }
    objects
}

fn versioned<T>(spec: &T, generation: i64, created: Option<jiff::Timestamp>) -> Versioned<'_, T> {
    Versioned {
        spec,
        generation,
        created,
    }
}

/// The pools that routes may name. Of two of one name that of the stable group counts.
fn backend_pools(
    catalog: &ObjectCatalog,
    config: &InferencePoolsConfig,
) -> BTreeMap<NamespacedName, BackendPool> {
    let mut pools = BTreeMap::new();
    // The stable group last: it replaces the other.
    for kind in [ObjectKind::EarlierPool, ObjectKind::Pool] {
        for (key, entry) in catalog.of_kind(kind) {
            let Some(ObjectSpec::Pool(pool)) = entry.spec() else {
                continue;
            };
            let is_foreign = is_foreign(pool, config);
            let other = pool.picker.clone().filter(|_| is_foreign);
            let backend = BackendPool {
                generation: entry.generation,
                other_picker: other.map(|service| OtherPicker {
                    service,
                    on_failure: pool.on_failure,
                }),
            };
            pools.insert(name_of(key), backend);
        }
    }
    pools
}

/// How the pickers of these pools are asked, of those that have another router's.
fn adopted(objects: &GatewayObjects<'_>, used: &BTreeSet<NamespacedName>) -> AdoptedPools {
    let pools = objects.pools.iter().flatten();
    let used = pools.filter(|(name, _)| used.contains(*name));
    let asked = used.filter_map(|(name, pool)| {
        let picker = pool.other_picker.as_ref()?;
        let reference = &picker.service;
        let service = picker_service(objects, picker);
        if service.is_some_and(|service| service.is_external) {
            return None;
        }
        let port = service.and_then(|service| service.port(reference.port));
        let protocol = port.and_then(|port| port.protocol.as_deref());
        let (service, namespace) = (&reference.service, &reference.namespace);
        let asked = AskedPicker {
            authority: format!("{service}.{namespace}.svc:{}", reference.port).into(),
            // Pickers secure their port by a certificate of their own unless that is switched off.
            tls: protocol != Some(H2C),
            on_failure: picker.on_failure,
        };
        Some((name.clone(), asked))
    });
    asked.collect()
}

fn service_pool(objects: &GatewayObjects<'_>, name: &NamespacedName, port: u16) -> ServicePool {
    let service: Option<&&BackendService> = objects.services.get(name);
    let protocol = service.and_then(|service| service.port(port)?.protocol.as_deref());
    ServicePool {
        name: service_pool_name(name, port),
        namespace: Arc::clone(&name.namespace),
        service: Arc::clone(&name.name),
        port,
        http2: protocol == Some(H2C),
    }
}

fn name_of((_, namespace, name): &ObjectKey) -> NamespacedName {
    NamespacedName {
        namespace: Arc::clone(namespace),
        name: Arc::clone(name),
    }
}

/// What conditions say of an object; `None` if all is well. One without any is of another controller.
fn of_conditions(lists: &[&ConditionList]) -> Option<ObjectVerdict> {
    let accepted = lists.iter().filter_map(|list| list.get("Accepted"));
    let Some(accepted) = accepted.max_by_key(|accepted| accepted.is_true) else {
        return Some(ObjectVerdict::Foreign);
    };
    if !accepted.is_true {
        return Some(ObjectVerdict::Refused {
            reason: RefusalReason::NotAccepted,
            message: format!("{}: {}", accepted.reason, accepted.message),
        });
    }
    let mut all = lists.iter().flat_map(|list| &list.conditions);
    let bad = all.find(|condition| !condition.is_true || condition.form == "PartiallyInvalid")?;
    let message = format!("{}, {}: {}", bad.form, bad.reason, bad.message);
    Some(ObjectVerdict::Accepted(Some(message)))
}
