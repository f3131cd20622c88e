//! Everything that a Gateway's meaning depends on, as it is at one time.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    backend::{BackendPool, BackendService},
    gateway::{GatewayClassSpec, GatewaySpec, LabelMap, ObjectRef},
    http_route::HttpRouteSpec,
    name::NamespacedName,
    reference_grant::ReferenceGrantSpec,
};

/// The objects, by name.
#[derive(Debug, Default)]
pub(crate) struct GatewayObjects<'a> {
    pub(crate) classes: BTreeMap<&'a str, Versioned<'a, GatewayClassSpec>>,
    pub(crate) gateways: BTreeMap<NamespacedName, Versioned<'a, GatewaySpec>>,
    pub(crate) routes: BTreeMap<NamespacedName, Versioned<'a, HttpRouteSpec>>,
    /// With their namespaces.
    pub(crate) grants: Vec<(&'a str, &'a ReferenceGrantSpec)>,
    /// Labels of namespaces.
    pub(crate) namespaces: BTreeMap<&'a str, &'a LabelMap>,
    pub(crate) services: BTreeMap<NamespacedName, &'a BackendService>,
    /// `InferencePool`s; `None` if they are not watched.
    pub(crate) pools: Option<BTreeMap<NamespacedName, BackendPool>>,
}

/// A version of an object.
#[derive(Debug)]
pub(crate) struct Versioned<'a, T> {
    pub(crate) spec: &'a T,
    /// That of the specification.
    pub(crate) generation: i64,
    pub(crate) created: Option<Timestamp>,
}

// === GatewayObjects ===

impl GatewayObjects<'_> {
    /// Whether an object of this kind of the Gateway API in the namespace `from` may refer to one of
    /// another namespace. `target` has its group, kind and namespace.
    pub(crate) fn permits(&self, kind: &str, from: &str, target: &ObjectRef) -> bool {
        let within = target.namespace.as_deref().unwrap_or(from);
        let mut grants = self
            .grants
            .iter()
            .filter(|(namespace, _)| *namespace == within);
        within == from || grants.any(|(_, grant)| grant.permits((kind, from), target))
    }
}

// === Versioned ===

impl<T> Versioned<'_, T> {
    /// When it was made, in seconds of Unix time; 0 if that is not known.
    pub(crate) fn created_seconds(&self) -> u64 {
        let seconds = self.created.map(Timestamp::as_second).unwrap_or_default();
        u64::try_from(seconds).unwrap_or_default()
    }
}

impl<T> Clone for Versioned<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Versioned<'_, T> {}
