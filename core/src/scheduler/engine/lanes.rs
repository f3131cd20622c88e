//! The lanes of one endpoint: independent schedulers behind one URL, such as data-parallel ranks.
//!
//! ```text
//!   lane 1  ──prompt a──▶│◀───── prompt d ─────
//!   lane 2  ─────── prompt b ───────▶│◀── prompt e      d waits for the first lane that is free
//!   lane 3  ── prompt c ──────────────────▶│
//! ```
//!
//! Each computes one prompt after the other, and what is sent goes to the lane that is free first
//! (list scheduling, Graham 1969). Only sums are known of what an endpoint was sent, so prompts
//! count as equally long here; which of them a first byte belongs to is known by when it was sent.

use std::time::Duration;

use smallvec::{SmallVec, smallvec};

/// Maximum share of a prompt that is assumed to be computed before its first byte is reported. The
/// rest keeps a stalled engine from looking idle.
const MOST_DONE: f64 = 0.9;

/// A prompt is booked this long before its proxy sends it, at most, where the two are compared.
const BOOKED_EARLIER: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct PrefillLanes {
    /// When the present prompt of each lane began, ascending; those of idle lanes come first, and
    /// mean nothing. One per lane, never empty.
    starts: SmallVec<[Duration; 1]>,
    /// 1 over their number: a choice multiplies by it for every endpoint.
    share: f64,
}

/// The prompts before one more: by them the time until it begins is known at any moment, as long as
/// none of them ends and none is added.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PendingPrefill {
    /// Until the lane that is free first has computed them, from when it began.
    seconds: f64,
    /// When it began with the present one, in seconds.
    began: f64,
    /// Seconds of that one which may be assumed to be done.
    most_done: f64,
}

impl PendingPrefill {
    /// Seconds until a lane is free, at `now`, in seconds.
    pub(super) fn at(self, now: f64) -> f64 {
        self.seconds - (now - self.began).max(0.0).min(self.most_done)
    }
}

impl Default for PrefillLanes {
    fn default() -> Self {
        Self {
            starts: smallvec![Duration::ZERO],
            share: 1.0,
        }
    }
}

impl PrefillLanes {
    /// How many there are, at least 1.
    pub(super) fn count(&self) -> u32 {
        self.starts.len() as u32
    }

    /// The share of the endpoint that one is, above 0 and at most 1.
    pub(super) const fn share(&self) -> f64 {
        self.share
    }

    /// Sets how many there are; 0 counts as 1. Lanes that are added are idle.
    pub(super) fn set_count(&mut self, count: u32) {
        let (before, count) = (self.starts.len(), count.max(1) as usize);
        self.share = 1.0 / count as f64;
        if count < before {
            self.starts.drain(..before - count);
        } else {
            self.starts
                .insert_many(0, std::iter::repeat_n(Duration::ZERO, count - before));
        }
    }

    /// A prompt is sent there behind `unanswered` others: it begins if a lane is idle.
    pub(super) fn sent(&mut self, unanswered: u32, now: Duration) {
        if unanswered < self.count() {
            self.starts.remove(0);
            self.begin(now);
        }
    }

    /// A prompt that was sent at `sent` is computed, one of `unanswered`. Returns when it began, as
    /// far as that can be known.
    pub(super) fn computed(&mut self, unanswered: u32, sent: Duration, now: Duration) -> Duration {
        let count = self.starts.len();
        let idle = count.saturating_sub(unanswered.max(1) as usize);
        // Prompts begin in the order in which they are sent: those that began before this one was
        // sent are others.
        let own = self.starts[idle..]
            .iter()
            .position(|start| *start + BOOKED_EARLIER >= sent);
        let own = own.map_or(count - 1, |own| idle + own);
        let began = self.starts.remove(own);
        if unanswered as usize > count {
            self.begin(now);
        } else {
            self.starts.insert(0, now.max(began));
        }
        began.max(sent)
    }

    /// What is before one more prompt, when those that are `unanswered` take `whole` seconds of one
    /// lane together.
    pub(super) fn pending(&self, unanswered: u32, whole: f64) -> PendingPrefill {
        let Some(behind) = unanswered.checked_sub(self.count()) else {
            return PendingPrefill::default();
        };
        // All lanes are busy. Those that began first are free first, and take what waits in turn.
        let (rounds, lane) = (behind / self.count(), behind % self.count());
        PendingPrefill {
            seconds: whole * (f64::from(rounds + 1) / f64::from(unanswered)),
            began: self.starts[lane as usize].as_secs_f64(),
            most_done: whole / f64::from(unanswered) * MOST_DONE,
        }
    }

    fn begin(&mut self, now: Duration) {
        let latest = self.starts.last().copied().unwrap_or_default();
        self.starts.push(now.max(latest));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn lanes(count: u32) -> PrefillLanes {
        let mut lanes = PrefillLanes::default();
        lanes.set_count(count);
        lanes
    }

    #[test]
    fn a_prompt_waits_for_the_lane_that_is_free_first() {
        let mut lanes = lanes(2);
        lanes.sent(0, ms(0));
        assert_eq!(lanes.pending(1, 1.0).at(0.0), 0.0, "the other lane is idle");
        lanes.sent(1, ms(400));
        let pending = |unanswered: u32, now: u64| {
            lanes
                .pending(unanswered, f64::from(unanswered))
                .at(now as f64 / 1e3)
        };
        assert!((pending(2, 500) - 0.5).abs() < 1e-9);
        assert!(
            (pending(3, 500) - 0.9).abs() < 1e-9,
            "the lane of the second"
        );
        assert!((pending(4, 500) - 1.5).abs() < 1e-9);
        assert!((pending(2, 5_000) - 0.1).abs() < 1e-9, "stalled, not idle");
    }

    #[test]
    fn a_first_byte_belongs_to_the_lane_whose_prompt_was_sent_then() {
        let mut lanes = lanes(3);
        lanes.sent(0, ms(0));
        lanes.sent(1, ms(1_000));
        lanes.sent(2, ms(2_000));
        // A fourth waits.
        lanes.sent(3, ms(2_500));
        assert_eq!(lanes.computed(4, ms(1_000), ms(3_000)), ms(1_000));
        // It begins where the second one was.
        assert_eq!(lanes.computed(3, ms(2_500), ms(4_000)), ms(3_000));
        assert_eq!(lanes.computed(2, ms(0), ms(9_000)), ms(0), "a long one");
        assert_eq!(lanes.computed(1, ms(2_000), ms(9_500)), ms(2_000));
    }

    proptest! {
        /// Against list scheduling of equal prompts that are sent at once.
        #[test]
        fn pending_is_when_the_next_prompt_would_begin(
            count in 1u32..=64, unanswered in 0u32..300, seconds in 0.1f64..9.0, share in 0.0f64..0.9,
        ) {
            let mut lanes = lanes(count);
            (0..unanswered).for_each(|before| lanes.sent(before, Duration::ZERO));
            let now = Duration::from_secs_f64(seconds * share);
            let mut free = vec![0.0f64; count as usize];
            for _ in 0..unanswered {
                free.sort_by(f64::total_cmp);
                free[0] += seconds;
            }
            free.sort_by(f64::total_cmp);
            let expected = (free[0] - now.as_secs_f64()).max(0.0);
            let pending = lanes.pending(unanswered, seconds * f64::from(unanswered)).at(now.as_secs_f64());
            prop_assert!((pending - expected).abs() < 1e-6, "{pending} {expected}");
        }

        #[test]
        fn whatever_is_reported_there_are_as_many_lanes_as_before(
            count in 1u32..=64,
            reports in proptest::collection::vec((any::<bool>(), 0u32..200, 0u64..10_000, 0u64..1_000), 0..100),
        ) {
            let (mut lanes, mut now) = (lanes(count), Duration::ZERO);
            for (sent, unanswered, ago, gap) in reports {
                now += ms(gap);
                if sent {
                    lanes.sent(unanswered, now);
                } else {
                    let sent = now.saturating_sub(ms(ago));
                    let began = lanes.computed(unanswered, sent, now);
                    prop_assert!(began >= sent && began <= now);
                }
                prop_assert_eq!(lanes.count(), count);
                prop_assert!(lanes.starts.iter().all(|start| *start <= now));
            }
        }
    }
}
