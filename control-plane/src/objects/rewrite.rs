//! Reads an `InferenceModelRewrite`: rules by which requests for a model ask the endpoints for
//! another one.

use std::sync::Arc;

use hermes_core::rewrites::ModelRewrite;

use super::{pool_reference, targets};
use crate::config::Node;

/// Most rules of one object, and most models of one rule.
const MAX_RULES: usize = 100;

/// What a rewrite's object says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InferenceModelRewrite {
    /// The pool whose requests are rewritten.
    pub(crate) pool: Arc<str>,
    /// One for each model of each rule, in the order of the object.
    pub(crate) rewrites: Vec<ModelRewrite>,
}

/// What the object `root` says; `None` if it names no pool, or has no rule that can be used.
pub(super) fn read(root: &Node<'_>) -> Option<InferenceModelRewrite> {
    let Some(spec) = root.field("spec") else {
        return root.lacks("spec", "every object of this kind has one");
    };
    let pool = pool_reference::read(&spec);
    let Some(rules) = spec.field("rules") else {
        return spec.lacks("rules", "set at least one rule");
    };
    let mut rewrites = Vec::new();
    for rule in rules.items(&(1..=MAX_RULES), "rules")? {
        rewrites.extend(read_rule(&rule).unwrap_or_default());
    }
    Some(InferenceModelRewrite {
        pool: pool?,
        rewrites: Some(rewrites).filter(|rewrites| !rewrites.is_empty())?,
    })
}

fn read_rule(rule: &Node<'_>) -> Option<Vec<ModelRewrite>> {
    let models = match rule.field("matches") {
        Some(list) if list.value().as_array().is_none_or(|list| !list.is_empty()) => {
            read_matches(&list)?
        }
        // Without a match, the rule applies to every model.
        _ => vec![None],
    };
    let Some(list) = rule.field("targets") else {
        return rule.lacks("targets", "set the models that endpoints serve");
    };
    let targets = targets::read(&list, "modelRewrite")?;
    let rewrite = |model| ModelRewrite {
        model,
        targets: Arc::clone(&targets),
    };
    Some(models.into_iter().map(rewrite).collect())
}

/// The models that a rule is for. A match that is not understood matches nothing.
fn read_matches(list: &Node<'_>) -> Option<Vec<Option<Arc<str>>>> {
    let read = |item: &Node<'_>| {
        let Some(model) = item.field("model") else {
            return item.lacks("model", "set the model that the rule is for");
        };
        let kind = model.field("type");
        if kind.is_some_and(|kind| kind.value().as_str() != Some("Exact")) {
            return model.wrong("expected the `type` Exact");
        }
        let Some(value) = model.field("value") else {
            return model.lacks("value", "set the model's name as clients use it");
        };
        value
            .text("a model's name")
            .map(|name| Some(Arc::from(name)))
    };
    let items = list.items(&(1..=MAX_RULES), "matches")?;
    Some(items.iter().filter_map(read).collect())
}
