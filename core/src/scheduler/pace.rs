//! When plans are made.
//!
//! Every event that may free an endpoint calls for a plan, and events come faster than plans are
//! worth their cost: three reports of each request of the pool, and the plan looks at the whole
//! queue. The first event after a quiet time is planned for at once. Those that follow within
//! [`INTERVAL`] share one plan at its end, so that no queued request is bound later than that, and
//! the cost of plans has a bound that no rate of events moves. Time alone calls for a plan after
//! [`ROUND`]: requests grow too old, and prompts are assumed to be computed.

use std::time::Duration;

/// Shortest time between plans that events call for: a tenth of what a round trip to an engine and
/// back takes, and far below the time of any prompt.
const INTERVAL: Duration = Duration::from_millis(1);

/// Longest time between two plans while requests are queued: a tenth of what a person notices.
const ROUND: Duration = Duration::from_millis(10);

/// See the module. One per pool.
#[derive(Debug, Default)]
pub(super) struct PlanPace {
    /// When the last plan was made.
    last: Option<Duration>,
    /// An event came since then that was not planned for.
    is_postponed: bool,
}

impl PlanPace {
    /// An event came. Whether its plan is made now; if not, it is postponed.
    pub(super) fn admits(&mut self, now: Duration) -> bool {
        let is_due = self.last.is_none_or(|last| now >= last + INTERVAL);
        self.is_postponed |= !is_due;
        is_due
    }

    /// A plan is made.
    pub(super) fn planned(&mut self, now: Duration) {
        (self.last, self.is_postponed) = (Some(now), false);
    }

    /// When the next plan is due if requests are queued.
    pub(super) fn due(&self) -> Duration {
        let pause = if self.is_postponed { INTERVAL } else { ROUND };
        self.last.map_or(Duration::ZERO, |last| last + pause)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a clock that runs a plan whenever one is due.
        #[test]
        fn every_event_is_planned_for_within_the_interval_and_plans_have_a_highest_rate(
            gaps in proptest::collection::vec(0u64..3_000, 1..200),
        ) {
            let (mut pace, mut now) = (PlanPace::default(), Duration::ZERO);
            let mut plans: Vec<Duration> = Vec::new();
            let mut unplanned: Option<Duration> = None;
            for gap in gaps {
                let event = now + Duration::from_micros(gap);
                while !plans.is_empty() && pace.due() <= event {
                    now = pace.due();
                    pace.planned(now);
                    plans.push(now);
                    prop_assert!(unplanned.is_none_or(|since| now - since <= INTERVAL));
                    unplanned = None;
                }
                now = event;
                if pace.admits(now) {
                    pace.planned(now);
                    plans.push(now);
                    unplanned = None;
                } else {
                    unplanned.get_or_insert(now);
                    prop_assert!(pace.due() <= now + INTERVAL);
                }
            }
            prop_assert!(plans.windows(2).all(|pair| pair[1] - pair[0] >= INTERVAL));
            prop_assert!(plans.windows(2).all(|pair| pair[1] - pair[0] <= ROUND));
        }
    }
}
