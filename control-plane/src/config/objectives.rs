//! The objectives that requests of a pool may name.

use hermes_core::inference_pool::Objective;

use super::{key::ValueType, node::Node, section::Section};

/// Most objectives of one pool.
const MAX_OBJECTIVES: usize = 1_000;

/// What they may be.
const EXPECTED: &str = "names and priorities, such as {interactive: 5, batch: -1}";

/// The key `objectives`; sorted by name.
pub(super) fn read(pool: &mut Section<'_>) -> Vec<Objective> {
    let objectives = pool.value(
        "objectives",
        ValueType::Map("a mapping of names to priorities"),
        "Priorities by name: the header `x-llm-d-inference-objective` of a request (also \
         `x-gateway-inference-objective`) names one. Without it, or with another name, the priority is 0. \
         `queue.maxPriority` bounds these as well.",
        parse,
        |_: &Vec<Objective>| String::new(),
    );
    objectives.or_unset("none").unwrap_or_default()
}

fn parse(node: &Node<'_>) -> Option<Vec<Objective>> {
    let entries = node.entries(EXPECTED)?;
    if entries.len() > MAX_OBJECTIVES {
        return node.wrong(format!("expected at most {MAX_OBJECTIVES} objectives"));
    }
    let mut objectives: Vec<Objective> = entries.into_iter().filter_map(objective).collect();
    objectives.sort_by(|one, other| one.name.cmp(&other.name));
    Some(objectives)
}

fn objective((name, value): (&str, Node<'_>)) -> Option<Objective> {
    // What a header's value cannot be, no request can name.
    let is_value =
        !name.is_empty() && name.len() <= 253 && name.bytes().all(|b| b.is_ascii_graphic());
    if !is_value {
        let fix = "expected 1 to 253 visible ASCII characters, which the value of a header can be";
        value
            .diagnostics()
            .error(value.path(), "not the name of an objective", fix);
        return None;
    }
    Some(Objective {
        name: name.into(),
        priority: value.priority()?,
    })
}
