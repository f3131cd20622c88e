//! In turn: the member whose turn it is, and the next ones after it.

use super::{Candidates, MAX_RANKED, PickRanking};
use crate::{load::Load, rng::SeededRng};

pub(super) fn rank<L: Fn(usize) -> Load>(
    field: &Candidates<'_, L>,
    rng: &mut SeededRng,
    ranking: &mut PickRanking,
) {
    let start = (field.ask.round_robin_counter % field.members.len() as u64) as usize;
    let admitted = field
        .members
        .from(start)
        .filter(|&position| field.admitted(position, || rng.unit()).is_some());
    ranking.ranked.extend(admitted.take(MAX_RANKED));
}
