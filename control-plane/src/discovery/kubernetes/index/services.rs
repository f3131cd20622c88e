//! Services by label, resolved through their EndpointSlices.
//!
//! ```text
//!   [ Service ] ◀─ label kubernetes.io/service-name ─ [ EndpointSlice ] ─▶ addresses
//! ```

use std::{collections::BTreeMap, net::IpAddr, num::NonZeroU16};

use hermes_core::{
    address::{ServerAddress, ServerScheme},
    snapshot::{EndpointLocation, PairingFacts},
};
use k8s_openapi::api::{
    core::v1::{Service, ServicePort},
    discovery::v1::{Endpoint, EndpointPort, EndpointSlice},
};

use super::{EndpointCandidate, Endpoints, FoundEndpoints, ObjectIndex, keep};
use crate::discovery::kubernetes::{
    DiscoveredEndpoint, EventPortNames, EventPorts, Port,
    event_ports::annotation,
    labels::{RoleLabels, RoleNames, role_labels},
    location, port,
};

/// The label by which a slice names its Service.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Selected Services and the slices of their namespace, each by name.
#[derive(Debug)]
pub(crate) struct ServiceIndex {
    port: Port,
    /// `None`: what the Service's port says.
    scheme: Option<ServerScheme>,
    /// Whether ports for KV events are looked for, and by which names.
    event_ports: Option<EventPortNames>,
    role_names: RoleNames,
    services: BTreeMap<String, SelectedService>,
    slices: BTreeMap<String, SliceEndpoints>,
}

/// What bears on endpoints in a Service.
#[derive(Debug, PartialEq, Eq)]
struct SelectedService {
    /// `None`: the role label is not understood.
    role_labels: Option<RoleLabels>,
    /// What its annotation says of KV events.
    events: Option<String>,
    /// Name of the Service port that was asked for; unnamed ports have the name `""`.
    port: Option<String>,
    /// What `appProtocol` says of that port.
    scheme: ServerScheme,
    /// For a dual-stack Service, the family that its cluster address has. Each pod is in a slice of
    /// either family.
    family: Option<String>,
}

/// What bears on endpoints in a slice.
#[derive(Debug, PartialEq, Eq)]
struct SliceEndpoints {
    service: String,
    family: String,
    ports: BTreeMap<String, NonZeroU16>,
    addresses: Vec<SliceAddress>,
}

/// One endpoint of a slice that is not leaving.
#[derive(Debug, PartialEq, Eq)]
struct SliceAddress {
    ip: IpAddr,
    ready: bool,
    /// UID and `namespace/name` of the pod behind it; slices that people write may have none.
    pod: Option<(String, String)>,
    location: EndpointLocation,
}

// === ServiceIndex ===

impl ServiceIndex {
    /// An empty index whose endpoints listen on what `port` means to their Service.
    ///
    /// A number or a name of a Service port means that port's target. A number of no Service port
    /// means itself, on the pod's address. Without a scheme, the `appProtocol` of the Service port
    /// decides.
    #[must_use]
    pub(crate) fn new(port: Port, scheme: Option<ServerScheme>) -> Self {
        Self {
            port,
            scheme,
            event_ports: None,
            role_names: RoleNames::default(),
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
        }
    }

    /// Finds roles by these names, too.
    #[must_use]
    pub(crate) fn with_role_names(self, role_names: RoleNames) -> Self {
        Self { role_names, ..self }
    }

    /// Looks for ports for KV events, too.
    #[must_use]
    pub(crate) fn with_event_ports(self, names: Option<EventPortNames>) -> Self {
        Self {
            event_ports: names,
            ..self
        }
    }

    fn target(&self, service: &SelectedService, slice: &SliceEndpoints) -> Option<NonZeroU16> {
        let named = service.port.as_ref().and_then(|name| slice.ports.get(name));
        match &self.port {
            _ if named.is_some() => named.copied(),
            Port::Number(number) => Some(*number),
            Port::Name(_) => None,
        }
    }
}

impl ObjectIndex<Service> for ServiceIndex {
    fn apply(&mut self, service: Service) -> bool {
        let name = service.metadata.name.clone().unwrap_or_default();
        let leaving = service.metadata.deletion_timestamp.is_some();
        let entry =
            (!leaving).then(|| SelectedService::new(&service, &self.port, &self.role_names));
        keep(&mut self.services, name, entry)
    }

    fn delete(&mut self, name: &str) -> bool {
        self.services.remove(name).is_some()
    }
}

impl ObjectIndex<EndpointSlice> for ServiceIndex {
    fn apply(&mut self, slice: EndpointSlice) -> bool {
        let name = slice.metadata.name.clone().unwrap_or_default();
        keep(&mut self.slices, name, SliceEndpoints::new(slice))
    }

    fn delete(&mut self, name: &str) -> bool {
        self.slices.remove(name).is_some()
    }
}

impl Endpoints for ServiceIndex {
    fn endpoints(&self) -> FoundEndpoints {
        let mut candidates = Vec::new();
        for slice in self.slices.values() {
            let Some(service) = self.services.get(&slice.service) else {
                continue;
            };
            if service
                .family
                .as_ref()
                .is_some_and(|family| *family != slice.family)
            {
                continue;
            }
            let target = self
                .target(service, slice)
                .zip(service.role_labels.as_ref());
            let named = |name: &str| slice.ports.get(name).copied();
            let scheme = self.scheme.unwrap_or(service.scheme);
            let events =
                EventPorts::find(self.event_ports.as_ref(), service.events.as_deref(), named);
            candidates.extend(slice.addresses.iter().map(|address| EndpointCandidate {
                ready: address.ready,
                endpoint: target.map(|(port, role_labels)| {
                    address.endpoint((scheme, port), role_labels, events)
                }),
            }));
        }
        FoundEndpoints::new(candidates)
    }
}

// === SelectedService ===

impl SelectedService {
    fn new(service: &Service, port: &Port, names: &RoleNames) -> Self {
        let spec = service.spec.as_ref();
        let ports = spec
            .and_then(|spec| spec.ports.as_deref())
            .unwrap_or_default();
        let asked = ports
            .iter()
            .filter(|of| is_tcp(of.protocol.as_deref()))
            .find(|of| is_asked(of, port));
        let families = spec
            .and_then(|spec| spec.ip_families.as_deref())
            .unwrap_or_default();
        Self {
            role_labels: role_labels(&service.metadata, names).ok(),
            events: annotation(service.metadata.annotations.as_ref()).map(str::to_owned),
            port: asked.map(|of| of.name.clone().unwrap_or_default()),
            scheme: asked.map_or(ServerScheme::Http, scheme),
            family: if families.len() > 1 {
                families.first().cloned()
            } else {
                None
            },
        }
    }
}

fn is_asked(of: &ServicePort, port: &Port) -> bool {
    match port {
        Port::Number(number) => of.port == i32::from(number.get()),
        Port::Name(name) => of.name.as_deref() == Some(name),
    }
}

/// `https` is a name that Kubernetes documents; other names are of protocols over plain TCP, or of
/// ones that are not spoken here.
fn scheme(of: &ServicePort) -> ServerScheme {
    match of.app_protocol.as_deref() {
        Some(protocol) if protocol.eq_ignore_ascii_case("https") => ServerScheme::Https,
        _ => ServerScheme::Http,
    }
}

fn is_tcp(protocol: Option<&str>) -> bool {
    matches!(protocol, None | Some("" | "TCP"))
}

// === SliceEndpoints ===

impl SliceEndpoints {
    /// `None` for a slice that is being deleted or belongs to no Service.
    fn new(slice: EndpointSlice) -> Option<Self> {
        let EndpointSlice {
            address_type,
            endpoints,
            metadata,
            ports,
        } = slice;
        if metadata.deletion_timestamp.is_some() {
            return None;
        }
        let service = metadata.labels?.remove(SERVICE_NAME)?;
        let namespace = metadata.namespace.unwrap_or_default();
        Some(Self {
            service,
            family: address_type,
            ports: ports.into_iter().flatten().filter_map(slice_port).collect(),
            addresses: endpoints
                .into_iter()
                .filter_map(|endpoint| SliceAddress::new(endpoint, &namespace))
                .collect(),
        })
    }
}

fn slice_port(of: EndpointPort) -> Option<(String, NonZeroU16)> {
    let tcp = is_tcp(of.protocol.as_deref());
    tcp.then_some((of.name.unwrap_or_default(), port::number(of.port?)?))
}

// === SliceAddress ===

impl SliceAddress {
    /// `None` for an endpoint that is leaving, or whose address is no IP address.
    fn new(endpoint: Endpoint, namespace: &str) -> Option<Self> {
        let Endpoint {
            addresses,
            conditions,
            target_ref,
            node_name,
            zone,
            ..
        } = endpoint;
        let conditions = conditions.unwrap_or_default();
        if conditions.terminating.unwrap_or(false) {
            return None;
        }
        // An absent `ready` means true. `serving` is the pod's own readiness: with
        // `publishNotReadyAddresses` a Service calls every pod ready, and only `serving` is still
        // correct.
        let ready = conditions.ready.unwrap_or(true) && conditions.serving.unwrap_or(true);
        // More addresses than the first have no defined meaning.
        let ip = addresses.first()?.parse().ok()?;
        let pod = target_ref
            .filter(|target| target.kind.as_deref() == Some("Pod"))
            .map(|target| {
                let namespace = target.namespace.as_deref().unwrap_or(namespace);
                let name = target.name.unwrap_or_default();
                (
                    target.uid.unwrap_or_default(),
                    format!("{namespace}/{name}"),
                )
            });
        Some(Self {
            ip,
            ready,
            pod,
            location: location::of(node_name.as_deref(), zone.as_deref()),
        })
    }

    fn endpoint(
        &self,
        (scheme, port): (ServerScheme, NonZeroU16),
        role_labels: &RoleLabels,
        kv_events: Option<EventPorts>,
    ) -> DiscoveredEndpoint {
        let address = ServerAddress::at(scheme, self.ip, port);
        let unnamed = || (String::new(), address.authority().to_string());
        let (uid, name) = self.pod.clone().unwrap_or_else(unnamed);
        let RoleLabels {
            role,
            group,
            pairing,
        } = role_labels.clone();
        DiscoveredEndpoint {
            address,
            uid,
            name,
            role,
            group,
            pairing: PairingFacts {
                location: self.location.clone(),
                ..pairing
            },
            kv_events,
        }
    }
}

#[cfg(test)]
mod tests;
