//! The share of time in which a pool's engines compute prompts: how scarce prefill is.

use std::time::Duration;

/// How far back it looks: older time counts for less, by a factor e.
const MEMORY: Duration = Duration::from_secs(30);

/// A mean over time that fades.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Utilization {
    share: f64,
    /// The share since `since`.
    current: f64,
    since: Duration,
}

impl Utilization {
    /// From now on this share of the engines computes prompts.
    pub(super) fn set(&mut self, share: f64, now: Duration) {
        self.share = self.at(now);
        (self.current, self.since) = (share, self.since.max(now));
    }

    /// The mean as of now, 0..=1.
    pub(super) fn at(&self, now: Duration) -> f64 {
        let keep = (-now.saturating_sub(self.since).as_secs_f64() / MEMORY.as_secs_f64()).exp();
        self.share * keep + self.current * (1.0 - keep)
    }
}
