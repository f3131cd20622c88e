//! Prefix hit ratio with a load gate: among the endpoints that have most of the prompt cached the
//! least busy one.
//!
//! An endpoint's cache counts when it has more than `threshold` of the prompt, and while the
//! endpoint is not overloaded: at most `load_factor` times the mean requests in flight, plus
//! [`PrefixCacheRules::SLACK`]. Without such an endpoint the request goes where the fewest are in
//! flight. This is what the annotation `PREFIX_CACHE` of prefix-aware gateways means.

use super::{Candidates, PickRanking};
use crate::{load::Load, policy::PrefixCacheRules, rng::SeededRng};

/// Pushes endpoints whose cache does not count behind all those whose cache does.
const BEHIND: f32 = 1e6;

pub(super) fn rank<L: Fn(usize) -> Load>(
    field: &Candidates<'_, L>,
    rules: &PrefixCacheRules,
    rng: &mut SeededRng,
    ranking: &mut PickRanking,
) {
    field.survey(rng, ranking);
    let prompt = field.ask.query.prompt_tokens.max(1) as f32;
    let candidates = ranking.weighed.len().max(1) as f32;
    let mean = ranking
        .weighed
        .iter()
        .map(|one| one.load.in_flight as f32)
        .sum::<f32>()
        / candidates;
    for candidate in &mut ranking.weighed {
        let busy = candidate.load.in_flight as f32;
        let counts = candidate.cached as f32 / prompt > rules.threshold;
        let overloaded = busy > mean * rules.load_factor + PrefixCacheRules::SLACK;
        candidate.score = if counts && !overloaded {
            busy
        } else {
            BEHIND + busy
        };
    }
    ranking.rank_lowest(rng);
}
