//! At random.

use super::{Field, Ranking};
use crate::{dice::Dice, load::Load};

pub(super) fn rank<L: Fn(usize) -> Load>(
    field: &Field<'_, L>,
    dice: &mut Dice,
    ranking: &mut Ranking,
) {
    ranking
        .ranked
        .extend(field.draw(dice).map(|(position, _)| position));
    field.fill(dice, ranking);
}
