//! Least expected cost, without a queue and without learned speeds: what a proxy does by itself,
//! and what the control plane does when it must not wait. The whole of `kv-aware` is in
//! [`crate::scheduler`].
//!
//! ```text
//!   score = (pending + uncached) / rate + gamma · (uncached − least uncached anywhere) / rate        seconds
//! ```

use super::{Candidates, PickRanking};
use crate::{load::Load, policy::KvAware, rng::SeededRng};

/// Seconds that one more request in flight is worth: only decides between equals.
const PER_REQUEST: f32 = 1e-3;

pub(super) fn rank<L: Fn(usize) -> Load>(
    field: &Candidates<'_, L>,
    rules: &KvAware,
    rng: &mut SeededRng,
    ranking: &mut PickRanking,
) {
    field.survey(rng, ranking);
    let prompt = field.ask.query.prompt_tokens;
    let most = ranking
        .weighed
        .iter()
        .map(|one| one.cached)
        .max()
        .unwrap_or(0);
    for candidate in &mut ranking.weighed {
        let uncached = prompt.saturating_sub(candidate.cached) as f32;
        let wasted = (most - candidate.cached) as f32;
        let tokens = candidate.load.pending_tokens as f32 + uncached + rules.gamma * wasted;
        candidate.score = tokens / rules.default_prefill_rate.max(1.0)
            + PER_REQUEST * candidate.load.in_flight as f32;
    }
    ranking.rank_lowest(rng);
}
