//! What is known of the backends that routes may name.

use hermes_core::inference_pool::{PickerFailure, PickerReference};
use k8s_openapi::api::core::v1::{ServicePort, ServiceSpec};

/// A Service, as far as it matters to routes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BackendService {
    /// Its ports of TCP.
    pub(crate) ports: Vec<BackendPort>,
    /// It is another name for a host outside, which no route may lead to.
    pub(crate) is_external: bool,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BackendPort {
    pub(crate) number: u16,
    /// Its `appProtocol`.
    pub(crate) protocol: Option<String>,
}

/// An `InferencePool`, as far as it matters to routes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BackendPool {
    /// The generation of its specification.
    pub(crate) generation: i64,
    /// The picker of another router that chooses its endpoints; `None`: this router does.
    pub(crate) other_picker: Option<OtherPicker>,
}

/// The picker of another router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OtherPicker {
    /// Its Service.
    pub(crate) service: PickerReference,
    /// What follows when it names no endpoint.
    pub(crate) on_failure: PickerFailure,
}

// === BackendService ===

impl BackendService {
    /// What a Service's specification says.
    pub(crate) fn new(spec: &ServiceSpec) -> Self {
        let is_tcp = |port: &&ServicePort| matches!(port.protocol.as_deref(), None | Some("TCP"));
        let read = |port: &ServicePort| {
            Some(BackendPort {
                number: u16::try_from(port.port).ok()?,
                protocol: port.app_protocol.clone(),
            })
        };
        let ports = spec.ports.as_deref().unwrap_or_default().iter();
        Self {
            ports: ports.filter(is_tcp).filter_map(read).collect(),
            is_external: spec.type_.as_deref() == Some("ExternalName"),
        }
    }

    /// The port of this number.
    pub(crate) fn port(&self, number: u16) -> Option<&BackendPort> {
        self.ports.iter().find(|port| port.number == number)
    }
}
