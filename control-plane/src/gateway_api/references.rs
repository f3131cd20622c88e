//! Where references of routes to backends lead.

use std::{collections::BTreeSet, sync::Arc};

use hermes_core::{
    inference_pool::{PickerFailure, PickerReference},
    route::BackendTarget,
};

use super::{
    backend::{BackendPool, BackendPort, BackendService, OtherPicker},
    condition::StatusCondition,
    gateway::ObjectRef,
    http_route::BackendRef,
    name::NamespacedName,
    scene::GatewayObjects,
};

/// Groups that `InferencePool` is or was in. Which of them a reference has is not compared.
const POOL_GROUPS: [&str; 2] = [
    "inference.networking.k8s.io",
    "inference.networking.x-k8s.io",
];

/// Backends that routes may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct UsedBackends {
    /// Services with the numbers of their ports.
    pub(crate) services: BTreeSet<(NamespacedName, u16)>,
    /// `InferencePool`s, those whose picker is absent included.
    pub(crate) pools: BTreeSet<NamespacedName>,
}

/// Resolves the references of one route.
#[derive(Debug)]
pub(super) struct BackendResolver<'a> {
    objects: &'a GatewayObjects<'a>,
    /// The namespace of the route.
    namespace: &'a str,
    used: UsedBackends,
    /// The first reference that leads nowhere.
    fault: Option<ReferenceFault>,
}

/// Why a reference leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ReferenceFault {
    reason: &'static str,
    message: String,
}

// === BackendResolver ===

impl<'a> BackendResolver<'a> {
    pub(super) fn new(objects: &'a GatewayObjects<'a>, namespace: &'a str) -> Self {
        Self {
            objects,
            namespace,
            used: UsedBackends::default(),
            fault: None,
        }
    }

    /// The target that a reference leads to; an invalid one is noted.
    pub(super) fn resolve(&mut self, backend: &BackendRef) -> BackendTarget {
        match self.find(backend) {
            Ok(pool) => BackendTarget::Pool(pool),
            Err(fault) => {
                self.fault.get_or_insert(fault);
                BackendTarget::Invalid
            }
        }
    }

    /// The backends that were found, and the condition `ResolvedRefs`.
    pub(super) fn finish(self) -> (UsedBackends, StatusCondition) {
        let condition = match self.fault {
            None => StatusCondition::holds("ResolvedRefs", "ResolvedRefs", "all backends exist"),
            Some(ReferenceFault { reason, message }) => {
                StatusCondition::fails("ResolvedRefs", reason, &message)
            }
        };
        (self.used, condition)
    }

    /// The name of the pool.
    fn find(&mut self, backend: &BackendRef) -> Result<Arc<str>, ReferenceFault> {
        let group = backend.group.as_deref().unwrap_or_default();
        let kind = backend.kind.as_deref().unwrap_or("Service");
        let is_service = (group, kind) == ("", "Service");
        let is_pool = POOL_GROUPS.contains(&group) && kind == "InferencePool";
        if !is_service && !is_pool {
            let message = format!("expected a Service or an InferencePool, not a {kind}.{group}");
            return Err(ReferenceFault::new("InvalidKind", message));
        }
        let namespace = backend.namespace.as_deref().unwrap_or(self.namespace);
        let name = NamespacedName::new(namespace, &backend.name);
        let target = ObjectRef {
            group: Some(group.into()),
            kind: Some(kind.into()),
            namespace: Some(namespace.into()),
            name: Arc::clone(&backend.name),
        };
        if !self.objects.permits("HTTPRoute", self.namespace, &target) {
            let message = format!("no ReferenceGrant permits the reference to the {kind} {name}");
            return Err(ReferenceFault::new("RefNotPermitted", message));
        }
        if is_service {
            self.find_service(name, backend.port)
        } else {
            self.find_pool(&name)
        }
    }

    fn find_service(
        &mut self,
        name: NamespacedName,
        port: Option<u16>,
    ) -> Result<Arc<str>, ReferenceFault> {
        let absent = |message| ReferenceFault::new("BackendNotFound", message);
        let Some(number) = port else {
            return Err(absent(format!(
                "the reference to the Service {name} has no port"
            )));
        };
        let Some(service) = self.objects.services.get(&name) else {
            return Err(absent(format!("there is no Service {name}")));
        };
        if service.is_external {
            let message = format!("the Service {name} is an ExternalName, which is not supported");
            return Err(ReferenceFault::new("InvalidKind", message));
        }
        let Some(port) = service.port(number) else {
            let message = format!("the Service {name} has no port {number} of TCP");
            return Err(absent(message));
        };
        if let Some(protocol) = unsupported(port) {
            let message =
                format!("port {number} of the Service {name} has the protocol {protocol}");
            return Err(ReferenceFault::new("UnsupportedProtocol", message));
        }
        let pool = service_pool_name(&name, number);
        self.used.services.insert((name, number));
        Ok(pool)
    }

    fn find_pool(&mut self, name: &NamespacedName) -> Result<Arc<str>, ReferenceFault> {
        let Some(pools) = &self.objects.pools else {
            let message = "InferencePools are not read: set `inferencePools` in the configuration";
            return Err(ReferenceFault::new("InvalidKind", message.to_owned()));
        };
        let Some(pool) = pools.get(name) else {
            let message = format!("there is no InferencePool {name} that can be used");
            return Err(ReferenceFault::new("BackendNotFound", message));
        };
        self.used.pools.insert(name.clone());
        if let Some(message) = unreachable_picker(self.objects, pool) {
            let message = format!("the InferencePool {name}: {message}");
            return Err(ReferenceFault::new("BackendNotFound", message));
        }
        Ok(name.to_string().into())
    }
}

// === ReferenceFault ===

impl ReferenceFault {
    const fn new(reason: &'static str, message: String) -> Self {
        Self { reason, message }
    }
}

/// The name of the pool that a port of a Service is. No `InferencePool` has a colon in its name.
pub(crate) fn service_pool_name(service: &NamespacedName, port: u16) -> Arc<str> {
    format!("{service}:{port}").into()
}

/// What is the matter with the picker of a pool that serves nothing without it, or whose picker is
/// anywhere.
fn unreachable_picker(objects: &GatewayObjects<'_>, pool: &BackendPool) -> Option<String> {
    let picker = pool.other_picker.as_ref()?;
    let is_needed = picker.on_failure == PickerFailure::Close;
    let is_external = picker_service(objects, picker).is_some_and(|service| service.is_external);
    missing_picker(objects, pool).filter(|_| is_needed || is_external)
}

/// The Service of another router's picker.
pub(crate) fn picker_service<'o>(
    objects: &'o GatewayObjects<'_>,
    picker: &OtherPicker,
) -> Option<&'o BackendService> {
    let PickerReference {
        namespace, service, ..
    } = &picker.service;
    let name = NamespacedName::new(namespace, service);
    objects.services.get(&name).copied()
}

/// What is the matter with the reference to the picker of another router.
pub(super) fn missing_picker(objects: &GatewayObjects<'_>, pool: &BackendPool) -> Option<String> {
    let picker = pool.other_picker.as_ref()?;
    let PickerReference {
        namespace,
        service: name,
        port,
    } = &picker.service;
    match picker_service(objects, picker) {
        None => Some(format!(
            "there is no Service {namespace}/{name}, which is its picker"
        )),
        Some(service) if service.is_external => {
            Some(format!("its picker {namespace}/{name} is an ExternalName"))
        }
        Some(service) if service.port(*port).is_none() => {
            Some(format!("its picker {namespace}/{name} has no port {port}"))
        }
        Some(_) => None,
    }
}

/// The protocol of a port that is not spoken.
fn unsupported(port: &BackendPort) -> Option<&str> {
    let protocol = port.protocol.as_deref()?;
    matches!(protocol, "kubernetes.io/ws" | "kubernetes.io/wss").then_some(protocol)
}
