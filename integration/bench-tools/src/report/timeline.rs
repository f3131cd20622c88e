//! How load and hit rate went over time: the requests of a run in equal intervals.

use std::time::Duration;

use super::served::Served;

/// Equal intervals from the first arrival to the end that was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeline {
    /// The length of each.
    pub step: Duration,
    /// The first one begins at zero.
    pub intervals: Vec<Interval>,
}

/// What happened in one interval.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Interval {
    /// Requests without a first token, on average over the interval.
    pub waiting: f64,
    /// Cached over all prompt tokens of the requests that arrived in it; `None` without any.
    pub hit_rate: Option<f64>,
}

impl Timeline {
    /// The timeline of `served` up to `end`, in at most `count` intervals.
    #[must_use]
    pub fn of(served: &[Served], end: Duration, count: usize) -> Self {
        let step =
            (end / u32::try_from(count.max(1)).unwrap_or(u32::MAX)).max(Duration::from_millis(1));
        let mut waiting = vec![0.0; count];
        let mut tokens = vec![(0usize, 0usize); count];
        for request in served {
            spread(request.arrived, request.first_token, step, &mut waiting);
            if let Some((cached, prompt)) = tokens.get_mut(position(request.arrived, step)) {
                *cached += request.cached_tokens;
                *prompt += request.prompt_tokens;
            }
        }
        let interval = |(waiting, (cached, prompt)): (f64, (usize, usize))| Interval {
            waiting,
            hit_rate: (prompt > 0).then(|| cached as f64 / prompt as f64),
        };
        Self {
            step,
            intervals: waiting.into_iter().zip(tokens).map(interval).collect(),
        }
    }
}

/// Adds to each interval the part of it that lies between `from` and `to`.
fn spread(from: Duration, to: Duration, step: Duration, intervals: &mut [f64]) {
    for (index, interval) in intervals.iter_mut().enumerate().skip(position(from, step)) {
        let start = step * u32::try_from(index).unwrap_or(u32::MAX);
        if start >= to {
            return;
        }
        let inside = to.min(start + step).saturating_sub(from.max(start));
        *interval += inside.as_secs_f64() / step.as_secs_f64();
    }
}

fn position(at: Duration, step: Duration) -> usize {
    usize::try_from(at.as_nanos() / step.as_nanos()).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_waits_in_each_interval_until_its_first_token() {
        let seconds = Duration::from_secs;
        let served = Served {
            arrived: seconds(5),
            first_token: seconds(25),
            prompt_tokens: 10,
            cached_tokens: 4,
            ..Served::default()
        };
        let timeline = Timeline::of(&[served], seconds(40), 4);
        let waiting: Vec<f64> = timeline
            .intervals
            .iter()
            .map(|interval| interval.waiting)
            .collect();
        assert_eq!(
            (timeline.step, waiting),
            (seconds(10), vec![0.5, 1.0, 0.5, 0.0])
        );
        assert_eq!(
            (
                timeline.intervals[0].hit_rate,
                timeline.intervals[1].hit_rate
            ),
            (Some(0.4), None)
        );
    }

    #[test]
    fn what_happens_after_the_end_is_left_out() {
        let late = Served {
            arrived: Duration::from_secs(9),
            first_token: Duration::from_secs(99),
            ..Served::default()
        };
        assert_eq!(
            Timeline::of(&[late], Duration::from_secs(4), 2).intervals,
            [Interval::default(); 2]
        );
        assert!(Timeline::of(&[], Duration::ZERO, 0).intervals.is_empty());
    }
}
