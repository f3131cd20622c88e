//! How much load a fleet takes under a policy before too many requests miss the objectives.
//!
//! Found by bisection, as if goodput fell with the load. It does so but for noise, which is why the
//! answer is within a percent and no closer.

/// Two loads that differ by less than this factor are one.
const PRECISION: f64 = 1.01;

/// How often the load is doubled to find one that is too high.
const DOUBLINGS: u32 = 7;

/// How often it is halved to find one that is not too high. Goodput may be less at low loads than at
/// half of the first one, so that the lowest is tried last.
const HALVINGS: u32 = 4;

/// The highest load, as a multiple of the trace's, at which `run` has an outcome, which it has while
/// enough requests meet the objectives; and that outcome. Without any, the lowest load that was
/// tried. The search begins at `start`.
///
/// # Errors
/// Those of `run`.
pub(super) fn highest_load<Made, E>(
    start: f64,
    mut run: impl FnMut(f64) -> Result<Option<Made>, E>,
) -> Result<(f64, Option<Made>), E> {
    let (mut low, mut best) = (start, run(start)?);
    let mut high = None;
    for _ in 0..HALVINGS {
        if best.is_some() {
            break;
        }
        high = Some(low);
        low /= 2.0;
        best = run(low)?;
    }
    if best.is_none() {
        return Ok((low, None));
    }
    for _ in 0..DOUBLINGS {
        if high.is_some() {
            break;
        }
        match run(low * 2.0)? {
            Some(made) => (low, best) = (low * 2.0, Some(made)),
            None => high = Some(low * 2.0),
        }
    }
    let mut high = high.unwrap_or(low);
    while high > low * PRECISION {
        let middle = (low * high).sqrt();
        match run(middle)? {
            Some(made) => (low, best) = (middle, Some(made)),
            None => high = middle,
        }
    }
    Ok((low, best))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// The load that is found where loads up to `limit` are served well, and in how many runs.
    fn search(limit: f64, start: f64) -> (f64, Option<f64>, u32) {
        let mut runs = 0;
        let run = |load: f64| {
            runs += 1;
            Ok::<_, Infallible>((load <= limit).then_some(load))
        };
        let (load, best) = highest_load(start, run).unwrap();
        (load, best, runs)
    }

    #[test]
    fn the_load_is_found_from_above_and_from_below_within_a_percent() {
        for (limit, start) in [(1.0, 0.99), (1.0, 0.1), (1.0, 15.0), (150.0, 4.0)] {
            let (load, best, runs) = search(limit, start);
            assert_eq!(best, Some(load), "the outcome is that of the load");
            assert!(load <= limit && load > limit / 1.01, "{load}");
            assert!(runs < 20, "{runs}");
        }
    }

    #[test]
    fn without_a_load_that_is_served_well_the_lowest_one_is_named() {
        let (load, best, _) = search(0.001, 1.0);
        assert_eq!((load, best), (1.0 / 16.0, None));
    }

    #[test]
    fn a_fleet_that_takes_every_load_ends_the_search() {
        assert_eq!(search(1e9, 1.0).0, 128.0);
    }
}
