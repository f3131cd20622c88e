//! Which models the endpoints of a pool are asked for in place of those that clients name.

use std::ops::RangeInclusive;

use hermes_core::rewrites::{ModelRewrite, RewriteTarget};

use super::section::Section;

/// Most rewrites of one pool.
const MAX_REWRITES: usize = 1_000;

/// Most targets of one rewrite.
const MAX_TARGETS: usize = 100;

/// What a weight may be, as in `InferenceModelRewrite`.
const WEIGHTS: RangeInclusive<u32> = 1..=1_000_000;

/// The key `rewrites`, in the order of the file.
pub(super) fn read(pool: &mut Section<'_>) -> Vec<ModelRewrite> {
    pool.list(
        "rewrites",
        0..=MAX_REWRITES,
        "Which models the endpoints are asked for in place of those that clients name: see [rewrites](rewrites.md).",
        read_rewrite,
    )
}

fn read_rewrite(section: &mut Section<'_>) -> Option<ModelRewrite> {
    let model = section
        .text(
            "model",
            "a model's name",
            "The model that a client names, exactly. The pool serves it, whether or not it is in `models`. A rewrite \
             without it applies to requests that no other one names.",
        )
        .or_unset("any model");
    let targets = section.list(
        "targets",
        1..=MAX_TARGETS,
        "Models of the endpoints; one is drawn for each request.",
        read_target,
    );
    if !section.has("targets") {
        section.error("targets", "missing", "set the models that endpoints serve");
    }
    (!targets.is_empty()).then(|| ModelRewrite {
        model,
        targets: targets.into(),
    })
}

fn read_target(section: &mut Section<'_>) -> Option<RewriteTarget> {
    let model = section
        .text("model", "a model's name", "A model or a LoRA adapter.")
        .required("set the model's name at the endpoints");
    let weight = section
        .count(
            "weight",
            WEIGHTS,
            "Its share of the requests, in proportion to the other targets'.",
        )
        .or(1);
    model.map(|model| RewriteTarget { model, weight })
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, PoolConfig};

    fn parsed(keys: &str) -> Result<Config, String> {
        let text = format!("pools: [{{name: a, endpoints: ['http://h:1'], {keys}}}]");
        Config::parse(&text).map_err(|errors| errors.to_string())
    }

    fn pool(keys: &str) -> PoolConfig {
        parsed(keys).expect("a good file").pools.remove(0)
    }

    #[test]
    fn exact_rewrites_go_before_one_of_any_model_whatever_the_order_of_the_file() {
        let pool = pool("rewrites: [{targets: [{model: x}]}, {model: b, targets: [{model: y}]}]");
        let models: Vec<Option<&str>> = pool
            .rewrites
            .iter()
            .map(|rewrite| rewrite.model.as_deref())
            .collect();
        assert_eq!(models, [Some("b"), None]);
        assert_eq!(pool.rewrites[0].targets[0].weight, 1);
    }

    #[test]
    fn a_rewrite_that_never_applies_causes_a_warning() {
        let one = "{model: b, targets: [{model: x}]}";
        let config = parsed(&format!("rewrites: [{one}, {one}]")).expect("allowed");
        assert_eq!(
            config.warnings,
            ["pools[0].rewrites: the second one for the model b has no effect"]
        );
    }

    #[test]
    fn wrong_rewrites_are_errors_that_name_the_key() {
        for (keys, path) in [
            ("rewrites: [{model: b}]", "pools[0].rewrites[0].targets: "),
            (
                "rewrites: [{targets: []}]",
                "pools[0].rewrites[0].targets: ",
            ),
            (
                "rewrites: [{targets: [{weight: 1}]}]",
                "pools[0].rewrites[0].targets[0].model: ",
            ),
            (
                "rewrites: [{targets: [{model: x, weight: 0}]}]",
                "pools[0].rewrites[0].targets[0].weight: ",
            ),
            ("objectives: {batch: low}", "pools[0].objectives.batch: "),
            ("objectives: {\"a b\": 1}", "pools[0].objectives.\"a b\": "),
            (
                "objectives: {batch: 2147483648}",
                "pools[0].objectives.batch: ",
            ),
            ("pickers: [picker]", "pools[0].pickers[0]: "),
        ] {
            let errors = parsed(keys).expect_err(keys);
            assert!(errors.contains(path), "{keys}: {errors}");
        }
    }

    #[test]
    fn objectives_are_sorted_and_may_be_negative() {
        let pool = pool("objectives: {interactive: 3, batch: -1}");
        let objectives: Vec<(&str, i32)> = pool
            .objectives
            .iter()
            .map(|objective| (&*objective.name, objective.priority))
            .collect();
        assert_eq!(objectives, [("batch", -1), ("interactive", 3)]);
    }
}
