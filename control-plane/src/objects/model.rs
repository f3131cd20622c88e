//! Reads an `InferenceModel`: a name that clients use, what it is rewritten to, and how critical
//! its requests are.

use std::sync::Arc;

use hermes_core::rewrites::RewriteTarget;

use super::{pool_reference, targets};
use crate::config::Node;

/// What a model's object says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InferenceModel {
    /// The pool that serves it.
    pub(crate) pool: Arc<str>,
    /// The name that clients use.
    pub(crate) model: Arc<str>,
    /// How critical its requests are: 0 is what others have.
    pub(crate) priority: i32,
    /// What endpoints are asked for; at least one.
    pub(crate) targets: Arc<[RewriteTarget]>,
}

/// What the object `root` says; `None` if it names no pool, no model, or no target.
pub(super) fn read(root: &Node<'_>) -> Option<InferenceModel> {
    let Some(spec) = root.field("spec") else {
        return root.lacks("spec", "every object of this kind has one");
    };
    let pool = pool_reference::read(&spec);
    let model = match spec.field("modelName") {
        Some(name) => name.text("a model's name").map(Arc::<str>::from),
        None => spec.lacks("modelName", "set the model's name as clients use it"),
    };
    let (pool, model) = (pool?, model?);
    let targets = match spec.field("targetModels") {
        Some(list) => targets::read(&list, "name")?,
        // The endpoints serve it by its own name.
        None => Arc::from([RewriteTarget {
            model: Arc::clone(&model),
            weight: 1,
        }]),
    };
    let priority = spec.field("criticality");
    let priority = priority.map_or(0, |node| read_criticality(&node));
    Some(InferenceModel {
        pool,
        model,
        priority,
        targets,
    })
}

/// `Schedulable` is how a public guide names what the definition calls `Sheddable`. Another value
/// is a fault, and counts as none.
fn read_criticality(node: &Node<'_>) -> i32 {
    match node.value().as_str() {
        Some("Critical") => 1,
        Some("Standard") => 0,
        Some("Sheddable" | "Schedulable") => -1,
        _ => {
            node.wrong::<()>("expected Critical, Standard or Sheddable");
            0
        }
    }
}
