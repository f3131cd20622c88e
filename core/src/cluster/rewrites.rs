//! Rewrites of models: which model a pool's endpoints are asked for, in place of the one that a
//! client names.
//!
//! The same as `InferenceModelRewrite` of `llm-d.ai`: weighted targets, such as two releases of a
//! model or two LoRA adapters.

use std::sync::Arc;

use serde::Serialize;

/// What requests for a model ask the endpoints for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModelRewrite {
    /// The model that clients name, exactly; `None`: any, and also none.
    pub model: Option<Arc<str>>,
    /// One of these is drawn for each request; at least one.
    pub targets: Arc<[RewriteTarget]>,
}

/// A model that endpoints are asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RewriteTarget {
    /// Its name at the endpoints.
    pub model: Arc<str>,
    /// Its share of the requests, in proportion to the other targets'; 0 is none.
    pub weight: u32,
}

// === ModelRewrite ===

impl ModelRewrite {
    /// The target that `sample`, uniform over all its values, draws; `None` if no target has a
    /// weight.
    #[must_use]
    pub fn draw(&self, sample: u64) -> Option<&Arc<str>> {
        self.draw_among(sample, |_| true)
    }

    /// The same, of the targets that `admits` names.
    fn draw_among(&self, sample: u64, admits: impl Fn(&str) -> bool) -> Option<&Arc<str>> {
        let admitted = || self.targets.iter().filter(|target| admits(&target.model));
        let total: u64 = admitted().map(|target| u64::from(target.weight)).sum();
        // In `0..total`, by multiply-shift (Lemire 2016).
        let mut drawn = ((u128::from(sample) * u128::from(total)) >> 64) as u64;
        let target = admitted().find(|target| {
            let weight = u64::from(target.weight);
            let is_drawn = drawn < weight;
            drawn = drawn.saturating_sub(weight);
            is_drawn
        })?;
        Some(&target.model)
    }

    /// Whether it applies to a request that names `model`.
    #[must_use]
    pub fn applies_to(&self, model: Option<&str>) -> bool {
        self.model.is_none() || self.model.as_deref() == model
    }
}

/// What a request for `model` asks the endpoints for, by the first of the `rewrites` that applies;
/// `None`: for what it says itself. `sample` is uniform over all its values.
#[must_use]
pub fn target<'a>(
    rewrites: &'a [ModelRewrite],
    model: Option<&str>,
    sample: u64,
) -> Option<&'a Arc<str>> {
    target_among(rewrites, model, sample, |_| true)
}

/// The same as [`target`], of the targets that `admits` names; `None` also if those have no
/// weight.
#[must_use]
pub fn target_among<'a>(
    rewrites: &'a [ModelRewrite],
    model: Option<&str>,
    sample: u64,
    admits: impl Fn(&str) -> bool,
) -> Option<&'a Arc<str>> {
    let first = rewrites.iter().find(|rewrite| rewrite.applies_to(model));
    first?.draw_among(sample, admits)
}

/// The rewrites in order of precedence: exact ones before those of any model, else as they were.
///
/// Of several for the same model only the first would ever apply. The others are returned apart.
#[must_use]
pub fn ordered(rewrites: Vec<ModelRewrite>) -> (Arc<[ModelRewrite]>, Vec<ModelRewrite>) {
    let (mut first, mut shadowed): (Vec<ModelRewrite>, Vec<ModelRewrite>) = Default::default();
    for rewrite in rewrites {
        if first.iter().any(|earlier| earlier.model == rewrite.model) {
            shadowed.push(rewrite);
        } else {
            first.push(rewrite);
        }
    }
    first.sort_by_key(|rewrite| rewrite.model.is_none());
    (first.into(), shadowed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rewrite(model: Option<&str>, targets: &[(&str, u32)]) -> ModelRewrite {
        let target = |&(model, weight): &(&str, u32)| RewriteTarget {
            model: model.into(),
            weight,
        };
        ModelRewrite {
            model: model.map(Into::into),
            targets: targets.iter().map(target).collect(),
        }
    }

    #[test]
    fn an_exact_rewrite_goes_before_one_of_any_model_and_an_earlier_before_a_later() {
        let (rewrites, shadowed) = ordered(vec![
            rewrite(None, &[("any", 1)]),
            rewrite(Some("chat"), &[("first", 1)]),
            rewrite(Some("chat"), &[("second", 1)]),
        ]);
        let drawn = |model| target(&rewrites, model, 0).map(|target| &**target);
        assert_eq!(drawn(Some("chat")), Some("first"));
        assert_eq!(drawn(Some("other")), Some("any"));
        assert_eq!(drawn(None), Some("any"));
        assert_eq!(shadowed, [rewrite(Some("chat"), &[("second", 1)])]);
    }

    #[test]
    fn a_model_that_no_rewrite_names_is_left_alone() {
        let rewrites = [rewrite(Some("chat"), &[("llama", 1)])];
        assert_eq!(target(&rewrites, Some("chatty"), 0), None);
        assert_eq!(target(&rewrites, None, 0), None);
        assert_eq!(target(&[], Some("chat"), 0), None);
    }

    #[test]
    fn a_draw_may_be_among_some_targets() {
        let rewrites = [rewrite(None, &[("a", 98), ("b", 1), ("c", 1)])];
        let drawn = |sample, admitted: &[&str]| {
            let admits = |target: &str| admitted.contains(&target);
            target_among(&rewrites, None, sample, admits).map(|target| &**target)
        };
        assert_eq!(drawn(0, &["b", "c"]), Some("b"));
        assert_eq!(drawn(u64::MAX, &["b", "c"]), Some("c"));
        assert_eq!(drawn(0, &[]), None);
    }

    #[test]
    fn without_any_weight_nothing_is_drawn() {
        assert_eq!(rewrite(None, &[("a", 0), ("b", 0)]).draw(u64::MAX), None);
        assert_eq!(rewrite(None, &[]).draw(7), None);
    }

    proptest! {
        /// Of samples that divide all values evenly, each target gets its share, to within one.
        #[test]
        fn shares_are_in_proportion_to_weights(
            weights in proptest::collection::vec(0..1_000u32, 1..6),
            samples in 1..400u64,
        ) {
            let total: u32 = weights.iter().sum();
            prop_assume!(total > 0);
            let names = ["a", "b", "c", "d", "e"];
            let targets: Vec<(&str, u32)> = names.into_iter().zip(weights).collect();
            let rewrite = rewrite(Some("chat"), &targets);
            let step = u64::MAX / samples;
            let drawn: Vec<&str> = (0..samples)
                .map(|at| &**rewrite.draw(at * step + step / 2).expect("a target"))
                .collect();
            for (name, weight) in targets {
                let count = drawn.iter().filter(|drawn| **drawn == name).count() as f64;
                let share = samples as f64 * f64::from(weight) / f64::from(total);
                prop_assert!((count - share).abs() <= 1.0 + 1e-6, "{name}: {count} of {share}");
            }
        }

        #[test]
        fn the_largest_weights_do_not_overflow(sample in any::<u64>()) {
            let rewrite = rewrite(None, &[("a", u32::MAX), ("b", u32::MAX)]);
            let expected = if sample >> 63 == 0 { "a" } else { "b" };
            prop_assert_eq!(rewrite.draw(sample).map(|target| &**target), Some(expected));
        }
    }
}
