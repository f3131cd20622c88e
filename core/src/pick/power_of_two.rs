//! Two at random, and of those the one with fewer requests in flight (Mitzenmacher 2001).

use super::{Candidates, PickRanking, weighed::ScoredCandidate};
use crate::{load::Load, rng::SeededRng};

/// Draws of a second candidate before the first is taken alone.
const DRAWS: usize = 4;

pub(super) fn rank<L: Fn(usize) -> Load>(
    field: &Candidates<'_, L>,
    rng: &mut SeededRng,
    ranking: &mut PickRanking,
) {
    let pair = two(field, rng).into_iter().flatten();
    ranking
        .weighed
        .extend(pair.map(|(position, load)| ScoredCandidate::new(position, load, 0).by_requests()));
    ranking.rank_lowest(rng);
    field.fill(rng, ranking);
}

/// Two different ones; one only if there is just one, or hardly another is up.
fn two<L: Fn(usize) -> Load>(
    field: &Candidates<'_, L>,
    rng: &mut SeededRng,
) -> [Option<(usize, Load)>; 2] {
    let first = field.draw(rng);
    let Some((taken, _)) = first else {
        return [None, None];
    };
    let second =
        (0..DRAWS).find_map(|_| field.draw(rng).filter(|&(position, _)| position != taken));
    [first, second]
}
