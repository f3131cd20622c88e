//! What an engine does at once, summed over time, so that the mean over any answer is known when it
//! ends.

use std::time::Duration;

use crate::scheduler::speed::MeanOccupancy;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::scheduler) struct Occupancy {
    present: MeanOccupancy,
    /// Since when.
    since: Duration,
    /// Of what was before, times its seconds.
    sums: MeanOccupancy,
}

/// A moment in the life of an [`Occupancy`].
#[derive(Clone, Copy, Debug)]
pub(in crate::scheduler) struct OccupancyMark {
    at: Duration,
    sums: MeanOccupancy,
}

impl Occupancy {
    /// From now on it does this.
    pub(super) fn set(&mut self, present: MeanOccupancy, now: Duration) {
        (self.sums, self.since, self.present) = (self.sums_at(now), now, present);
    }

    /// This moment.
    pub(in crate::scheduler) fn mark(&self, now: Duration) -> OccupancyMark {
        OccupancyMark {
            at: now,
            sums: self.sums_at(now),
        }
    }

    /// What it did since a moment, on average; what it does now, if that is none at all.
    pub(in crate::scheduler) fn mean_since(
        &self,
        mark: OccupancyMark,
        now: Duration,
    ) -> MeanOccupancy {
        let seconds = now.saturating_sub(mark.at).as_secs_f64();
        if seconds <= 0.0 {
            return self.present;
        }
        let sums = self.sums_at(now);
        MeanOccupancy {
            batch: (sums.batch - mark.sums.batch) / seconds,
            context: (sums.context - mark.sums.context) / seconds,
            prefill: ((sums.prefill - mark.sums.prefill) / seconds).clamp(0.0, 1.0),
        }
    }

    fn sums_at(&self, now: Duration) -> MeanOccupancy {
        let seconds = now.saturating_sub(self.since).as_secs_f64();
        let Self { present, sums, .. } = self;
        MeanOccupancy {
            batch: sums.batch + present.batch * seconds,
            context: sums.context + present.context * seconds,
            prefill: sums.prefill + present.prefill * seconds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_since_a_mark_weighs_each_state_by_its_time() {
        let secs = Duration::from_secs;
        let state = |batch, prefill| MeanOccupancy {
            batch,
            context: 100.0 * batch,
            prefill,
        };
        let mut occupancy = Occupancy::default();
        occupancy.set(state(9.0, 1.0), secs(10));
        let mark = occupancy.mark(secs(14));
        occupancy.set(state(1.0, 0.0), secs(15));
        assert_eq!(occupancy.mean_since(mark, secs(18)), state(3.0, 0.25));
        let now = occupancy.mark(secs(18));
        assert_eq!(occupancy.mean_since(now, secs(18)), state(1.0, 0.0));
    }
}
