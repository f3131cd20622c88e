//! In turn: the member whose turn it is, and the next ones after it.

use super::{Field, MAX_RANKED, Ranking};
use crate::{dice::Dice, load::Load};

pub(super) fn rank<L: Fn(usize) -> Load>(
    field: &Field<'_, L>,
    dice: &mut Dice,
    ranking: &mut Ranking,
) {
    let start = (field.ask.turn % field.members.len() as u64) as usize;
    let admitted = field
        .members
        .from(start)
        .filter(|&position| field.admitted(position, || dice.unit()).is_some());
    ranking.ranked.extend(admitted.take(MAX_RANKED));
}
