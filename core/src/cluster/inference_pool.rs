//! What objects of Kubernetes beside an `InferencePool` say of a pool: by which Services gateways
//! reach its picker, and which objectives its requests may name; and the headers of its requests.

use std::sync::Arc;

use serde::Serialize;

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
