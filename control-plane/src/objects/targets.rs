//! The weighted models that a request is rewritten to: `targetModels` and `targets`.

use std::sync::Arc;

use hermes_core::rewrites::RewriteTarget;

use crate::config::{Node, whole};

/// Most targets of one rewrite.
const MAX_TARGETS: usize = 100;

/// The largest weight, as the definitions have it.
const MAX_WEIGHT: u64 = 1_000_000;

/// The targets of this list, with their names at `key`; `None` if there is none that can be drawn.
///
/// Weights are given for all or for none; one that is missing beside others counts as 1.
pub(super) fn read(list: &Node<'_>, key: &str) -> Option<Arc<[RewriteTarget]>> {
    let items = list.items(&(1..=MAX_TARGETS), "targets")?;
    let weighted = items.iter().any(|item| item.field("weight").is_some());
    let read = |item: &Node<'_>| {
        let Some(name) = item.field(key) else {
            return item.lacks(key, "set the model's name at the endpoints");
        };
        let model = name.text("a model's name")?.into();
        let weight = match item.field("weight") {
            Some(weight) => read_weight(&weight)?,
            None if weighted => {
                item.wrong::<()>("set `weight`, as other targets have one; 1 is used");
                1
            }
            None => 1,
        };
        Some(RewriteTarget { model, weight })
    };
    let targets: Arc<[RewriteTarget]> = items.iter().filter_map(read).collect();
    if targets.iter().all(|target| target.weight == 0) {
        return list.wrong("expected a target with a weight");
    }
    Some(targets)
}

fn read_weight(node: &Node<'_>) -> Option<u32> {
    let weight = whole(node.value()).filter(|weight| *weight <= MAX_WEIGHT);
    weight
        .and_then(|weight| u32::try_from(weight).ok())
        .or_else(|| node.wrong(format!("expected a whole number from 1 to {MAX_WEIGHT}")))
}
