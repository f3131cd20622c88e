//! What objects of Kubernetes beside an `InferencePool` say of a pool: by which Services gateways
//! reach its picker, which other picker chooses its endpoints, and which objectives its requests may
//! name; and the headers of its requests.

use std::sync::Arc;

use serde::Serialize;

use super::address::{ServerAddress, ServerScheme, UrlParts};

/// The headers that name the objective of a request: llm-d's, and the one that it had before.
pub const OBJECTIVE_HEADERS: [&str; 2] = [
    "x-llm-d-inference-objective",
    "x-gateway-inference-objective",
];

/// The headers that name the flow to which a request belongs, between which queueing is fair:
/// llm-d's, and the one that it had before.
pub const FAIRNESS_HEADERS: [&str; 2] = [
    "x-llm-d-inference-fairness-id",
    "x-gateway-inference-fairness-id",
];

/// A Service by which gateways reach the picker of a pool: `endpointPickerRef` of an
/// `InferencePool`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct PickerReference {
    /// The namespace of the Service.
    pub namespace: Arc<str>,
    /// Its name.
    pub service: Arc<str>,
    /// Its port, 1..=65535.
    pub port: u16,
}

/// Another endpoint picker, which chooses the endpoints of a pool: it is asked by Envoy's
/// `ext_proc`, as the endpoint picker protocol of the Gateway API Inference Extension has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AskedPicker {
    /// `host:port`: a DNS name, such as that of a Service, or an IP address.
    pub authority: Arc<str>,
    /// By TLS. Its certificate is not verified: pickers sign their own at each start.
    pub tls: bool,
    /// When it names no endpoint.
    pub on_failure: PickerFailure,
}

/// What follows when a picker that is asked names no endpoint of the pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PickerFailure {
    /// The endpoint is chosen as if no other picker were asked.
    Open,
    /// The request is not served.
    #[default]
    Close,
}

/// How important requests are that name this objective: an `InferenceObjective` of `llm-d.ai`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Objective {
    /// By which requests name it; unique in a pool.
    pub name: Arc<str>,
    /// Higher goes first; below 0, a request is shed before others. 0 is what requests have that
    /// name none.
    pub priority: i32,
}

/// How important requests for a model are that state no priority: `criticality` of an
/// `InferenceModel`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModelPriority {
    /// The model that clients name; unique in a pool.
    pub model: Arc<str>,
    /// As [`Objective::priority`].
    pub priority: i32,
}

// === AskedPicker ===

impl AskedPicker {
    /// Where it is; `None` if the authority is not a host and a port.
    #[must_use]
    pub fn address(&self) -> Option<ServerAddress> {
        let scheme = if self.tls {
            ServerScheme::Https
        } else {
            ServerScheme::Http
        };
        let url = format!("{}://{}", scheme.as_str(), self.authority);
        match UrlParts::parse(&url) {
            Ok(UrlParts {
                host,
                port: Some(port),
                path: "",
                ..
            }) => Some(ServerAddress::new(scheme, host, port)),
            _ => None,
        }
    }
}

/// The priority of the requests that name this objective; `None` if it is none of the `objectives`,
/// which are sorted by name.
#[must_use]
pub fn priority(objectives: &[Objective], name: &str) -> Option<i32> {
    let found = objectives.binary_search_by(|objective| (*objective.name).cmp(name));
    found.ok().map(|at| objectives[at].priority)
}

/// The priority of the requests for this model; 0 if none of the `priorities`, which are sorted by
/// model, is for it.
#[must_use]
pub fn model_priority(priorities: &[ModelPriority], model: &str) -> i32 {
    let found = priorities.binary_search_by(|one| (*one.model).cmp(model));
    found.map_or(0, |at| priorities[at].priority)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picker_is_at_a_host_and_a_port() {
        let address = |authority: &str| {
            let picker = AskedPicker {
                authority: authority.into(),
                tls: true,
                on_failure: PickerFailure::default(),
            };
            picker.address().map(|address| address.to_string())
        };
        for right in ["epp.ai.svc:9002", "10.0.0.1:9002", "[fd00::1]:9002"] {
            assert_eq!(address(right), Some(format!("https://{right}")));
        }
        for wrong in [
            "epp",
            "epp:0",
            "epp:9002/a",
            "a@epp:9002",
            "",
            ":9002",
            "10.1:9002",
        ] {
            assert_eq!(address(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_objective_is_found_by_its_whole_name() {
        let objective = |name: &str, priority| Objective {
            name: name.into(),
            priority,
        };
        let objectives = [objective("batch", -5), objective("interactive", 10)];
        assert_eq!(priority(&objectives, "batch"), Some(-5));
        assert_eq!(priority(&objectives, "interactive"), Some(10));
        assert_eq!(priority(&objectives, "inter"), None);
        assert_eq!(priority(&[], "batch"), None);
    }

    #[test]
    fn a_model_without_a_priority_has_0() {
        let one = |model: &str, priority| ModelPriority {
            model: model.into(),
            priority,
        };
        let priorities = [one("chat", 1), one("draft", -1)];
        let of = |model| model_priority(&priorities, model);
        assert_eq!((of("chat"), of("draft"), of("chats")), (1, -1, 0));
    }
}
