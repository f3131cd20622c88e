//! How much load a fleet takes under a policy before too many requests miss the objectives.
//!
//! Found by bisection, as if goodput fell with the load. It does so but for noise, which is why the
//! answer is within a percent and no closer.

use crate::report::{HighestLoad, Outcome};

/// Two loads that differ by less than this factor are one.
const PRECISION: f64 = 1.01;

/// How often the load is doubled, or halved, to find where to search.
const DOUBLINGS: u32 = 7;

/// The highest load, as a multiple of the trace's, at which at least `share` of the requests that
/// `run` serves met the objectives, and its outcome; the search begins at `start`.
///
/// # Errors
/// Those of `run`.
pub(super) fn highest_load<E>(
    start: f64,
    share: f64,
    mut run: impl FnMut(f64) -> Result<Outcome, E>,
) -> Result<(HighestLoad, Outcome), E> {
    let is_enough = |outcome: &Outcome| outcome.goodput.share >= share;
    let (mut low, mut outcome) = (start, run(start)?);
    let mut high = None;
    for _ in 0..DOUBLINGS {
        if is_enough(&outcome) {
            break;
        }
        high = Some(low);
        low /= 2.0;
        outcome = run(low)?;
    }
    if !is_enough(&outcome) {
        return Ok((HighestLoad(None), outcome));
    }
    for _ in 0..DOUBLINGS {
        if high.is_some() {
            break;
        }
        let tried = run(low * 2.0)?;
        if is_enough(&tried) {
            (low, outcome) = (low * 2.0, tried);
        } else {
            high = Some(low * 2.0);
        }
    }
    let mut high = high.unwrap_or(low);
    while high > low * PRECISION {
        let middle = (low * high).sqrt();
        let tried = run(middle)?;
        if is_enough(&tried) {
            (low, outcome) = (middle, tried);
        } else {
            high = middle;
        }
    }
    Ok((HighestLoad(Some(low)), outcome))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::report::{Goodput, Objectives};

    /// The share falls from 1 to 0 as the load grows to `limit`, and by half of it at `limit / 2`.
    fn search(limit: f64, start: f64, share: f64) -> (Option<f64>, u32) {
        let mut runs = 0;
        let run = |load: f64| {
            runs += 1;
            let goodput = Goodput {
                per_second: load,
                share: (1.0 - load / limit).max(0.0),
            };
            let idle = Outcome::new(Vec::new(), 1, Objectives::default());
            Ok::<_, Infallible>(Outcome { goodput, ..idle })
        };
        let (HighestLoad(load), outcome) = highest_load(start, share, run).unwrap();
        assert_eq!(load.is_some(), outcome.goodput.share >= share);
        (load, runs)
    }

    #[test]
    fn the_load_is_found_from_above_and_from_below_within_a_percent() {
        for (limit, start) in [(2.0, 1.0), (2.0, 0.1), (2.0, 30.0), (300.0, 4.0)] {
            let (load, runs) = search(limit, start, 0.5);
            let load = load.unwrap();
            assert!(load <= limit / 2.0 && load > limit / 2.0 / 1.01, "{load}");
            assert!(runs < 20, "{runs}");
        }
    }

    #[test]
    fn a_share_that_no_load_reaches_is_none() {
        assert_eq!(search(0.001, 1.0, 0.5).0, None);
    }

    #[test]
    fn a_fleet_that_takes_every_load_ends_the_search() {
        assert_eq!(search(1e9, 1.0, 0.5).0, Some(128.0));
    }
}
