//! At random.

use super::{Candidates, PickRanking};
use crate::{load::Load, rng::SeededRng};

pub(super) fn rank<L: Fn(usize) -> Load>(
    field: &Candidates<'_, L>,
    rng: &mut SeededRng,
    ranking: &mut PickRanking,
) {
    ranking
        .ranked
        .extend(field.draw(rng).map(|(position, _)| position));
    field.fill(rng, ranking);
}
