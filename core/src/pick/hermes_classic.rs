//! Least weighted sum of what a request would cost at an endpoint; the classic score of
//! hermes-router.
//!
//! ```text
//!   score = miss      · (1 − cached tokens / prompt tokens)
//!         + usage     · KV-cache usage
//!         + waiting   · scaled(requests waiting in the engine)
//!         + in_flight · scaled(prefill tokens booked there and not yet answered)
//! ```
//!
//! Lower is better, ties are random. Counts are scaled as [`CountScale`] says; with `Max` by the
//! largest among those weighed.
//!
//! An endpoint without a figure gets the mean of the others' term for it: silence is neither a
//! virtue nor a fault. If no candidate has the figure, the term is 0 for all. A figure that is no
//! number counts as missing.

use super::{Candidates, PickRanking, weighed::ScoredCandidate};
use crate::{
    explanation::ScoreTerms,
    load::{EngineSample, Load},
    policy::{ClassicWeights, CountScale},
    rng::SeededRng,
};

/// Tokens in one unit of a raw term.
const RAW_TOKENS: f32 = 1_000.0;

pub(super) fn rank<L: Fn(usize) -> Load>(
    field: &Candidates<'_, L>,
    weights: &ClassicWeights,
    rng: &mut SeededRng,
    ranking: &mut PickRanking,
) {
    field.survey(rng, ranking);
    weigh(weights, field.ask.query.prompt_tokens, &mut ranking.weighed);
    ranking.rank_lowest(rng);
}

/// Gives every candidate its terms and its score.
fn weigh(weights: &ClassicWeights, prompt_tokens: u32, candidates: &mut [ScoredCandidate]) {
    let largest =
        |count: fn(&ScoredCandidate) -> f32| candidates.iter().map(count).fold(0.0, f32::max);
    let (waiting_unit, token_unit) = match weights.scale {
        CountScale::Max => (
            largest(|one| waiting(one).unwrap_or(0.0)),
            largest(|one| one.load.pending_tokens as f32),
        ),
        CountScale::Raw => (1.0, RAW_TOKENS),
    };
    let (mean_usage, mean_waiting) = (mean(candidates, usage), mean(candidates, waiting));
    for candidate in candidates {
        let terms = ScoreTerms {
            miss: weights.miss
                * (1.0 - ratio(candidate.cached as f32, prompt_tokens as f32).min(1.0)),
            usage: weights.usage * usage(candidate).unwrap_or(mean_usage),
            waiting: weights.waiting
                * ratio(waiting(candidate).unwrap_or(mean_waiting), waiting_unit),
            in_flight: weights.in_flight * ratio(candidate.load.pending_tokens as f32, token_unit),
        };
        candidate.terms = terms;
        let score = terms.miss + terms.usage + terms.waiting + terms.in_flight;
        // Weights are checked, but a score that is no number must not win.
        candidate.score = if score.is_nan() { f32::MAX } else { score };
    }
}

fn usage(candidate: &ScoredCandidate) -> Option<f32> {
    let EngineSample { kv_usage, .. } = candidate.load.sample?;
    kv_usage
        .filter(|usage| !usage.is_nan())
        .map(|usage| usage.clamp(0.0, 1.0))
}

fn waiting(candidate: &ScoredCandidate) -> Option<f32> {
    let EngineSample { waiting, .. } = candidate.load.sample?;
    waiting.map(|waiting| waiting as f32)
}

/// Of the candidates that have the figure; 0 if none has.
fn mean(candidates: &[ScoredCandidate], figure: fn(&ScoredCandidate) -> Option<f32>) -> f32 {
    let (sum, count) = candidates
        .iter()
        .filter_map(figure)
        .fold((0.0, 0.0), |(sum, count), one| (sum + one, count + 1.0));
    ratio(sum, count)
}

fn ratio(part: f32, whole: f32) -> f32 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

#[cfg(test)]
mod tests;
