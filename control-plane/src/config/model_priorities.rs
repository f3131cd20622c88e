//! The priorities of a pool's models.

use hermes_core::inference_pool::ModelPriority;

use super::{key::ValueType, node::Node, section::Section};

/// Most priorities of one pool.
const MAX_PRIORITIES: usize = 1_000;

/// What they may be.
const EXPECTED: &str = "models and priorities, such as {chat: 1, draft: -1}";

/// The key `modelPriorities`; sorted by model.
pub(super) fn read(pool: &mut Section<'_>) -> Vec<ModelPriority> {
    let priorities = pool.value(
        "modelPriorities",
        ValueType::Map("a mapping of models to priorities"),
        "The priority of requests by the model that they name, if they state none: neither in a header, nor by an \
         objective of the pool, nor in their body. Higher goes first, and below 0 a request is shed before others. \
         `queue.maxPriority` does not bound these, as no client chooses them.",
        parse,
        |_: &Vec<ModelPriority>| String::new(),
    );
    priorities.or_unset("none").unwrap_or_default()
}

fn parse(node: &Node<'_>) -> Option<Vec<ModelPriority>> {
    let entries = node.entries(EXPECTED)?;
    if entries.len() > MAX_PRIORITIES {
        return node.wrong(format!("expected at most {MAX_PRIORITIES} models"));
    }
    let read = |(model, value): (&str, Node<'_>)| {
        Some(ModelPriority {
            model: model.into(),
            priority: value.priority()?,
        })
    };
    let mut priorities: Vec<ModelPriority> = entries.into_iter().filter_map(read).collect();
    priorities.sort_by(|one, other| one.model.cmp(&other.model));
    Some(priorities)
}
