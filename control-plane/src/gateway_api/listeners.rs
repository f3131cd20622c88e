//! The listeners of one Gateway: which of them can be served, and what is the matter with the others.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use hermes_core::{certificate::MAX_CERTIFICATES, route::HostPattern};

use super::{
    condition::StatusCondition,
    gateway::{GATEWAY_GROUP, GatewaySpec, ListenerSpec, ListenerTlsSpec, ObjectRef, RouteKind},
    name::NamespacedName,
    scene::GatewayObjects,
};

/// The kind of routes that listeners take.
const ROUTE_KIND: &str = "HTTPRoute";

/// A listener, and what is the matter with it.
#[derive(Debug)]
pub(super) struct ListenerVerdict<'a> {
    pub(super) spec: &'a ListenerSpec,
    /// Whose requests it takes; `None`: all.
    pub(super) hostname: Option<HostPattern>,
    /// Whether an `HTTPRoute` may be attached to it at all.
    pub(super) takes_routes: bool,
    /// The Secrets with its certificates, as far as it may refer to them.
    pub(super) certificates: Vec<NamespacedName>,
    /// Why it is not accepted.
    refusal: Option<ListenerFault>,
    /// What it conflicts with.
    conflict: Option<ListenerFault>,
    /// Which of its references cannot be followed.
    reference: Option<ListenerFault>,
    /// Another listener that is secured takes some of its hosts.
    overlaps: bool,
}

/// Why one condition of a listener is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ListenerFault {
    reason: &'static str,
    message: String,
}

/// What is known of a certificate: it is usable, or why it is not. One that is absent from the map is
/// not known yet.
pub(crate) type CertificateFacts = BTreeMap<NamespacedName, Result<(), String>>;

/// The listeners of a Gateway, in its order.
pub(super) fn verdicts<'a>(
    gateway: &NamespacedName,
    spec: &'a GatewaySpec,
    objects: &GatewayObjects<'_>,
) -> Vec<ListenerVerdict<'a>> {
    let verdict = |listener| ListenerVerdict::new(gateway, listener, spec, objects);
    let mut verdicts: Vec<_> = spec.listeners.iter().map(verdict).collect();
    for index in 0..verdicts.len() {
        let others = verdicts.iter().enumerate().filter(|(at, _)| *at != index);
        let others: Vec<_> = others.map(|(_, other)| other).collect();
        let conflict = verdicts[index].conflict_with(&others);
        let overlaps = others.iter().any(|other| verdicts[index].overlaps(other));
        (verdicts[index].conflict, verdicts[index].overlaps) = (conflict, overlaps);
    }
    verdicts
}

// === ListenerVerdict ===

impl<'a> ListenerVerdict<'a> {
    fn new(
        gateway: &NamespacedName,
        spec: &'a ListenerSpec,
        of: &GatewaySpec,
        objects: &GatewayObjects<'_>,
    ) -> Self {
        let is_known = matches!(&*spec.protocol, "HTTP" | "HTTPS");
        let kinds = &spec.allowed_routes.kinds;
        let mut verdict = Self {
            spec,
            hostname: None,
            takes_routes: is_known && (kinds.is_empty() || kinds.iter().any(is_route_kind)),
            certificates: Vec::new(),
            refusal: None,
            conflict: None,
            reference: None,
            overlaps: false,
        };
        if let Some(other) = kinds.iter().find(|kind| !is_route_kind(kind)) {
            let message = format!("routes of the kind {} are not supported", other.kind);
            verdict.reference = Some(ListenerFault::new("InvalidRouteKinds", message));
        }
        if !is_known {
            let message = format!("the protocol {} is not supported", spec.protocol);
            verdict.refusal = Some(ListenerFault::new("UnsupportedProtocol", message));
            return verdict;
        }
        match spec.hostname.as_deref().filter(|host| !host.is_empty()) {
            None => {}
            Some(text) => match text.parse() {
                Ok(hostname) => verdict.hostname = Some(hostname),
                Err(error) => {
                    let message = format!("hostname: {error}");
                    verdict.refusal = Some(ListenerFault::unsupported(message));
                }
            },
        }
        if verdict.is_secured() {
            verdict.read_tls(gateway, of, objects);
        }
        verdict
    }

    fn read_tls(
        &mut self,
        gateway: &NamespacedName,
        of: &GatewaySpec,
        objects: &GatewayObjects<'_>,
    ) {
        if of.tls.frontend.is_some() {
            let message = "certificates of clients are not verified: `tls.frontend`".to_owned();
            self.refusal = Some(ListenerFault::unsupported(message));
        }
        let ListenerTlsSpec {
            mode,
            certificate_refs,
        } = self.spec.tls.clone().unwrap_or_default();
        if mode.is_some_and(|mode| &*mode != "Terminate") {
            let message = "connections are terminated: expected the mode Terminate".to_owned();
            self.refusal = Some(ListenerFault::unsupported(message));
        }
        for reference in &certificate_refs {
            match certificate(gateway, reference, objects) {
                Ok(secret) => self.certificates.push(secret),
                Err(fault) => self.reference = Some(fault),
            }
        }
        if certificate_refs.is_empty() {
            let message = "`tls.certificateRefs` names no certificate".to_owned();
            self.reference = Some(ListenerFault::new("InvalidCertificateRef", message));
        }
    }

    pub(super) fn is_secured(&self) -> bool {
        &*self.spec.protocol == "HTTPS"
    }

    /// Whether ports are opened for it.
    pub(super) fn is_served(&self) -> bool {
        let has_certificate = !self.is_secured() || !self.certificates.is_empty();
        self.refusal.is_none() && self.conflict.is_none() && has_certificate
    }

    /// Takes it out of service.
    pub(super) fn refuse(&mut self, reason: &'static str, message: String) {
        self.refusal
            .get_or_insert(ListenerFault { reason, message });
    }

    /// Leaves out certificates for which there is no room beside those that are `taken`.
    pub(super) fn take_certificates(&mut self, taken: &mut BTreeSet<NamespacedName>) {
        let named = self.certificates.len();
        self.certificates.retain(|secret| {
            let is_taken = taken.contains(secret);
            if !is_taken && taken.len() < MAX_CERTIFICATES {
                return taken.insert(secret.clone());
            }
            is_taken
        });
        if self.certificates.len() < named {
            let message = format!("proxies have {MAX_CERTIFICATES} certificates, the most");
            self.reference = Some(ListenerFault::new("InvalidCertificateRef", message));
        }
    }

    /// Listeners of one port have one protocol, and a hostname each.
    fn conflict_with(&self, others: &[&Self]) -> Option<ListenerFault> {
        let on_port = |other: &&&Self| other.spec.port == self.spec.port;
        let mut others = others.iter().filter(on_port);
        others.find_map(|other| {
            let of = &other.spec.name;
            if self.spec.protocol != other.spec.protocol {
                let message = format!("the listener {of} of this port has another protocol");
                return Some(ListenerFault::new("ProtocolConflict", message));
            }
            let is_same = self.hostname == other.hostname;
            let message = || format!("the listener {of} of this port has the same hostname");
            is_same.then(|| ListenerFault::new("HostnameConflict", message()))
        })
    }

    /// Whether both are secured, and there are hosts that both would take.
    fn overlaps(&self, other: &Self) -> bool {
        let is_one_port = self.spec.port == other.spec.port;
        is_one_port
            && self.is_secured()
            && other.is_secured()
            && intersect(self.hostname.as_ref(), other.hostname.as_ref())
    }

    /// Its conditions. `port` is the proxies' port for it.
    pub(super) fn conditions(
        &self,
        port: Option<u16>,
        states: &CertificateFacts,
    ) -> Vec<StatusCondition> {
        let certificate = self.certificate_fault(states);
        let reference = self.reference.as_ref().or(certificate.as_ref());
        let conflicted = match &self.conflict {
            Some(ListenerFault { reason, message }) => {
                StatusCondition::holds("Conflicted", reason, message)
            }
            None => StatusCondition::fails("Conflicted", "NoConflicts", "nothing conflicts"),
        };
        let refusal = self.refusal.as_ref().or(self.conflict.as_ref());
        let mut conditions = vec![
            condition("Accepted", "Accepted", refusal),
            conflicted,
            condition("ResolvedRefs", "ResolvedRefs", reference),
            self.programmed(port, states),
        ];
        if self.overlaps {
            let message = "another listener of this port takes some of its hosts: connections that clients reuse have its certificate";
            let overlapping =
                StatusCondition::holds("OverlappingTLSConfig", "OverlappingHostnames", message);
            conditions.push(overlapping);
        }
        conditions
    }

    /// The first certificate that cannot be used.
    fn certificate_fault(&self, states: &CertificateFacts) -> Option<ListenerFault> {
        self.certificates.iter().find_map(|secret| {
            let reason = states.get(secret)?.as_ref().err()?;
            let message = format!("the Secret {secret}: {reason}");
            Some(ListenerFault::new("InvalidCertificateRef", message))
        })
    }

    /// Whether proxies can serve it.
    pub(super) fn is_programmed(&self, port: Option<u16>, states: &CertificateFacts) -> bool {
        let is_usable = |secret| states.get(secret).is_some_and(Result::is_ok);
        let has_certificate = !self.is_secured() || self.certificates.iter().any(is_usable);
        self.is_served() && port.is_some() && has_certificate
    }

    fn programmed(&self, port: Option<u16>, states: &CertificateFacts) -> StatusCondition {
        const PROGRAMMED: &str = "Programmed";
        if self.is_programmed(port, states) {
            let message = "proxies serve it";
            return StatusCondition::holds(PROGRAMMED, PROGRAMMED, message);
        }
        if !self.is_served() {
            let message = "see the other conditions";
            return StatusCondition::fails(PROGRAMMED, "Invalid", message);
        }
        let is_pending = self
            .certificates
            .iter()
            .all(|secret| !states.contains_key(secret));
        let (reason, message) = match port {
            None => ("Pending", "it has no port of the proxies yet"),
            Some(_) if is_pending => ("Pending", "its certificates were not read yet"),
            Some(_) => ("Invalid", "it has no certificate that can be used"),
        };
        StatusCondition::fails(PROGRAMMED, reason, message)
    }
}

/// Whether some host is meant by both; `None` means every host.
pub(super) fn intersect(one: Option<&HostPattern>, other: Option<&HostPattern>) -> bool {
    let (Some(one), Some(other)) = (one, other) else {
        return true;
    };
    let is_meant = |pattern: &HostPattern, name: &str| pattern.specificity(name).is_some();
    one == other
        || match (one, other) {
            (HostPattern::Exact(name), pattern) | (pattern, HostPattern::Exact(name)) => {
                is_meant(pattern, name.as_str())
            }
            (HostPattern::Below(_), HostPattern::Below(_)) => {
                is_meant(one, other.name()) || is_meant(other, one.name())
            }
        }
}

/// The Secret that a Gateway refers to.
fn certificate(
    gateway: &NamespacedName,
    reference: &ObjectRef,
    objects: &GatewayObjects<'_>,
) -> Result<NamespacedName, ListenerFault> {
    let group = reference.group.as_deref().unwrap_or_default();
    let kind = reference.kind.as_deref().unwrap_or("Secret");
    if (group, kind) != ("", "Secret") {
        let message = format!("expected a Secret, not a {kind}.{group}");
        return Err(ListenerFault::new("InvalidCertificateRef", message));
    }
    let namespace = reference.namespace.as_ref().unwrap_or(&gateway.namespace);
    let secret = NamespacedName {
        namespace: Arc::clone(namespace),
        name: Arc::clone(&reference.name),
    };
    let target = ObjectRef {
        group: Some(group.into()),
        kind: Some(kind.into()),
        namespace: Some(Arc::clone(namespace)),
        name: Arc::clone(&reference.name),
    };
    if objects.permits("Gateway", &gateway.namespace, &target) {
        return Ok(secret);
    }
    let message = format!("no ReferenceGrant permits the reference to the Secret {secret}");
    Err(ListenerFault::new("RefNotPermitted", message))
}

fn is_route_kind(RouteKind { group, kind }: &RouteKind) -> bool {
    let group = group.as_deref().unwrap_or(GATEWAY_GROUP);
    (group, &**kind) == (GATEWAY_GROUP, ROUTE_KIND)
}

fn condition(
    form: &'static str,
    good: &'static str,
    fault: Option<&ListenerFault>,
) -> StatusCondition {
    match fault {
        None => StatusCondition::holds(form, good, "all is well"),
        Some(ListenerFault { reason, message }) => StatusCondition::fails(form, reason, message),
    }
}

// === ListenerFault ===

impl ListenerFault {
    const fn new(reason: &'static str, message: String) -> Self {
        Self { reason, message }
    }

    const fn unsupported(message: String) -> Self {
        Self::new("UnsupportedValue", message)
    }
}
