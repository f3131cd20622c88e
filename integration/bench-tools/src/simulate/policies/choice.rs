//! Picking the best of several servers, by lot where several are best.

use hermes_core::rng::SeededRng;

/// The candidate with the least cost; among equals each is as likely.
pub(super) fn least(
    candidates: impl IntoIterator<Item = (usize, f64)>,
    rng: &mut SeededRng,
) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    let mut equals = 0;
    for (server, cost) in candidates {
        if best.is_none_or(|(_, least)| cost < least) {
            (best, equals) = (Some((server, cost)), 1);
        } else if best.is_some_and(|(_, least)| cost == least) {
            equals += 1;
            if rng.below(equals) == 0 {
                best = Some((server, cost));
            }
        }
    }
    best.map(|(server, _)| server)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_wins_and_equals_share() {
        let mut rng = SeededRng::new(1);
        assert_eq!(least([(0, 2.0), (1, 1.0), (2, 3.0)], &mut rng), Some(1));
        assert_eq!(least([], &mut rng), None);
        let mut wins = [0; 3];
        for _ in 0..3_000 {
            wins[least([(0, 1.0), (1, 1.0), (2, 1.0)], &mut rng).unwrap()] += 1;
        }
        assert!(
            wins.iter().all(|wins| (850..1_150).contains(wins)),
            "{wins:?}"
        );
    }
}
