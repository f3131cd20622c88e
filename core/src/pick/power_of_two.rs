//! Two at random, and of those the one with fewer requests in flight (Mitzenmacher 2001).

use super::{Field, Ranking, weighed::Weighed};
use crate::{dice::Dice, load::Load};

/// Draws of a second candidate before the first is taken alone.
const DRAWS: usize = 4;

pub(super) fn rank<L: Fn(usize) -> Load>(
    field: &Field<'_, L>,
    dice: &mut Dice,
    ranking: &mut Ranking,
) {
    let pair = two(field, dice).into_iter().flatten();
    ranking
        .weighed
        .extend(pair.map(|(position, load)| Weighed::new(position, load, 0).by_requests()));
    ranking.rank_lowest(dice);
    field.fill(dice, ranking);
}

/// Two different ones; one only if there is just one, or hardly another is up.
fn two<L: Fn(usize) -> Load>(field: &Field<'_, L>, dice: &mut Dice) -> [Option<(usize, Load)>; 2] {
    let first = field.draw(dice);
    let Some((taken, _)) = first else {
        return [None, None];
    };
    let second =
        (0..DRAWS).find_map(|_| field.draw(dice).filter(|&(position, _)| position != taken));
    [first, second]
}
