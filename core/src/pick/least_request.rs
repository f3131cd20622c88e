//! Fewest requests in flight, fleet-wide.

use super::{Candidates, PickRanking, weighed::ScoredCandidate};
use crate::{load::Load, rng::SeededRng};

pub(super) fn rank<L: Fn(usize) -> Load>(
    field: &Candidates<'_, L>,
    rng: &mut SeededRng,
    ranking: &mut PickRanking,
) {
    field.survey(rng, ranking);
    ranking
        .weighed
        .iter_mut()
        .for_each(|candidate| *candidate = ScoredCandidate::by_requests(*candidate));
    ranking.rank_lowest(rng);
}
