//! Which listeners of a Gateway a route is attached to.

use hermes_core::route::HostPattern;

use super::{
    gateway::RouteNamespaces, http_route::ParentRef, listeners, listeners::ListenerVerdict,
    scene::GatewayObjects,
};

/// A route that wants to be attached.
#[derive(Clone, Copy, Debug)]
pub(super) struct AttachingRoute<'a> {
    pub(super) namespace: &'a str,
    pub(super) parent: &'a ParentRef,
    /// If there are none, all hosts.
    pub(super) hostnames: &'a [HostPattern],
}

/// Why a route is attached to no listener of a Gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AttachmentRefusal {
    /// As the condition `Accepted` has it.
    pub(super) reason: &'static str,
    pub(super) message: &'static str,
}

// === AttachingRoute ===

impl AttachingRoute<'_> {
    /// The positions of the listeners that take the route, at least one. Whether a listener is
    /// accepted itself does not matter.
    pub(super) fn attach(
        &self,
        gateway_namespace: &str,
        listeners: &[ListenerVerdict<'_>],
        objects: &GatewayObjects<'_>,
    ) -> Result<Vec<usize>, AttachmentRefusal> {
        let all = listeners.iter().enumerate();
        let named: Vec<_> = all.filter(|(_, one)| self.names(one)).collect();
        if named.is_empty() {
            return Err(AttachmentRefusal {
                reason: "NoMatchingParent",
                message: "the Gateway has no listener of this name and port",
            });
        }
        let allows = |one: &ListenerVerdict<'_>| {
            let namespaces = &one.spec.allowed_routes.namespaces;
            one.takes_routes && self.is_allowed(namespaces, gateway_namespace, objects)
        };
        let allowed: Vec<_> = named.into_iter().filter(|(_, one)| allows(one)).collect();
        if allowed.is_empty() {
            return Err(AttachmentRefusal {
                reason: "NotAllowedByListeners",
                message: "no listener allows routes of this kind and namespace",
            });
        }
        let shares = |one: &ListenerVerdict<'_>| self.shares_hosts(one.hostname.as_ref());
        let matching = allowed.into_iter().filter(|(_, one)| shares(one));
        let attached: Vec<_> = matching.map(|(position, _)| position).collect();
        if attached.is_empty() {
            return Err(AttachmentRefusal {
                reason: "NoMatchingListenerHostname",
                message: "no hostname of the route is one of a listener's",
            });
        }
        Ok(attached)
    }

    /// Whether the route's reference is to this listener.
    fn names(&self, listener: &ListenerVerdict<'_>) -> bool {
        let ParentRef {
            section_name, port, ..
        } = self.parent;
        let spec = listener.spec;
        section_name.as_ref().is_none_or(|name| *name == spec.name)
            && port.is_none_or(|port| port == spec.port)
    }

    fn is_allowed(
        &self,
        RouteNamespaces { from, selector }: &RouteNamespaces,
        gateway_namespace: &str,
        objects: &GatewayObjects<'_>,
    ) -> bool {
        match from.as_deref().unwrap_or("Same") {
            "All" => true,
            "Same" => self.namespace == gateway_namespace,
            "Selector" => {
                let labels = objects.namespaces.get(self.namespace);
                let selects = |labels| selector.as_ref().is_some_and(|one| one.selects(labels));
                labels.copied().is_some_and(selects)
            }
            _ => false,
        }
    }

    fn shares_hosts(&self, hostname: Option<&HostPattern>) -> bool {
        let mut hosts = self.hostnames.iter();
        self.hostnames.is_empty() || hosts.any(|own| listeners::intersect(Some(own), hostname))
    }
}
