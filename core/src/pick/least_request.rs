//! Fewest requests in flight, fleet-wide.

use super::{Field, Ranking, weighed::Weighed};
use crate::{dice::Dice, load::Load};

pub(super) fn rank<L: Fn(usize) -> Load>(
    field: &Field<'_, L>,
    dice: &mut Dice,
    ranking: &mut Ranking,
) {
    field.survey(dice, ranking);
    ranking
        .weighed
        .iter_mut()
        .for_each(|candidate| *candidate = Weighed::by_requests(*candidate));
    ranking.rank_lowest(dice);
}
