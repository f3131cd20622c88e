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
    Some(InferenceModel {
        pool,
        model,
        targets,
    })
}
