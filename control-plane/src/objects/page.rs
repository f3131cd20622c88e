//! What became of each object, for people.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    catalog::{ObjectKey, reference},
    metrics::ObjectState,
    verdict::ObjectVerdict,
};
use crate::config::ObjectReference;

/// Every object, by kind, namespace and name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct ObjectsPage {
    objects: Vec<ObjectRow>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct ObjectRow {
    #[serde(flatten)]
    object: ObjectReference,
    state: &'static str,
    /// What is the matter with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

// === ObjectsPage ===

impl ObjectsPage {
    /// The page of these objects.
    pub(super) fn of(verdicts: &BTreeMap<ObjectKey, ObjectVerdict>) -> Self {
        let row = |(key, verdict): (&ObjectKey, &ObjectVerdict)| ObjectRow {
            object: reference(key),
            state: ObjectState::of(verdict).name(),
            message: match verdict {
                ObjectVerdict::Accepted(note) => note.clone(),
                ObjectVerdict::Refused { message, .. } => Some(message.clone()),
                ObjectVerdict::Foreign => None,
            },
        };
        Self {
            objects: verdicts.iter().map(row).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::objects::{kind::ObjectKind, verdict::RefusalReason};

    #[test]
    fn the_page_has_each_object_with_what_is_the_matter() {
        let refused = ObjectVerdict::Refused {
            reason: RefusalReason::Invalid,
            message: "spec.selector: missing".to_owned(),
        };
        let key = |kind| (kind, "ai".into(), "a".into());
        let verdicts = BTreeMap::from([
            (key(ObjectKind::Pool), refused),
            (key(ObjectKind::Model), ObjectVerdict::Foreign),
        ]);
        let page = serde_json::to_value(ObjectsPage::of(&verdicts)).expect("JSON");
        let expected = json!({"objects": [
            {
                "kind": "InferencePool", "group": "inference.networking.k8s.io",
                "namespace": "ai", "name": "a",
                "state": "refused", "message": "spec.selector: missing",
            },
            {
                "kind": "InferenceModel", "group": "inference.networking.x-k8s.io",
                "namespace": "ai", "name": "a", "state": "foreign",
            },
        ]});
        assert_eq!(page, expected);
    }
}
