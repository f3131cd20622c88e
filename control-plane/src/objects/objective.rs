//! Reads an `InferenceObjective`: a priority that requests may name.

use std::sync::Arc;

use super::pool_reference;
use crate::config::Node;

/// What an objective's object says; its name is that of the object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InferenceObjective {
    /// The pool whose requests may name it.
    pub(crate) pool: Arc<str>,
    /// Higher is more important; 0 if nothing is said.
    pub(crate) priority: i32,
}

/// What the object `root` says; `None` if it names no pool, or something that is no priority.
pub(super) fn read(root: &Node<'_>) -> Option<InferenceObjective> {
    let Some(spec) = root.field("spec") else {
        return root.lacks("spec", "every object of this kind has one");
    };
    let pool = pool_reference::read(&spec);
    let priority = match spec.field("priority") {
        None => Some(0),
        Some(node) => {
            let given = node.value().as_i64();
            let priority = given.and_then(|given| i32::try_from(given).ok());
            priority.or_else(|| node.wrong("expected a whole number of 32 bits"))
        }
    };
    Some(InferenceObjective {
        pool: pool?,
        priority: priority?,
    })
}
