//! The pool that an object refers to.

use std::sync::Arc;

use super::kind::ObjectKind;
use crate::config::Node;

/// The name of the pool, which is in the namespace of the object; `None` if there is none. The
/// groups of pools are not distinguished: an object that refers to the earlier one is for the pool
/// that replaced it.
pub(super) fn read(spec: &Node<'_>) -> Option<Arc<str>> {
    let Some(reference) = spec.field("poolRef") else {
        return spec.lacks("poolRef", "set the name of an InferencePool");
    };
    let text = |key: &str| {
        reference
            .field(key)
            .map(|node| node.value().as_str().unwrap_or_default())
    };
    let is_pool = text("kind").is_none_or(|kind| kind == "InferencePool");
    if !is_pool || !text("group").is_none_or(ObjectKind::is_pool_group) {
        return reference.wrong("expected an InferencePool");
    }
    let Some(name) = reference.field("name") else {
        return reference.lacks("name", "set that of an InferencePool");
    };
    name.text("an InferencePool's name").map(Arc::from)
}
