//! How long an endpoint that has too much to do (429, 503) gets no further request.
//!
//! The endpoint says how long by `Retry-After`. Without it, the first two such answers in a row
//! say nothing, because a full queue may have room again at once; every further one doubles the
//! time.

use std::time::Duration;

/// Overloaded answers in a row that set nothing aside.
const TOLERATED: u32 = 2;
/// The first cool-down that the endpoint did not ask for.
const FIRST: Duration = Duration::from_secs(1);

/// The cool-down of one endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cooldown {
    until: Duration,
    /// Overloaded answers in a row.
    in_row: u32,
}

impl Cooldown {
    /// An overloaded answer came. Returns how long the endpoint is to be left alone if it does not
    /// say it.
    pub(super) fn overloaded(&mut self) -> Option<Duration> {
        self.in_row = self.in_row.saturating_add(1);
        let doublings = self.in_row.checked_sub(TOLERATED + 1)?;
        Some(FIRST.saturating_mul(1 << doublings.min(16)))
    }

    /// It gets no request for this long.
    pub(super) fn begin(&mut self, now: Duration, wait: Duration) {
        self.until = self.until.max(now.saturating_add(wait));
    }

    /// It served a request.
    pub(super) const fn served(&mut self) {
        self.in_row = 0;
    }

    pub(super) fn is_over(&self, now: Duration) -> bool {
        now >= self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_shorter_wait_does_not_end_a_longer_one() {
        let mut cooldown = Cooldown::default();
        assert!(cooldown.is_over(secs(0)));
        cooldown.begin(secs(10), secs(30));
        cooldown.begin(secs(11), secs(1));
        assert!(!cooldown.is_over(secs(39)) && cooldown.is_over(secs(40)));
    }

    #[test]
    fn the_third_in_a_row_asks_for_a_pause_and_further_ones_double_it() {
        let mut cooldown = Cooldown::default();
        let waits = [None, None, Some(secs(1)), Some(secs(2)), Some(secs(4))];
        for wait in waits {
            assert_eq!(cooldown.overloaded(), wait);
        }
        cooldown.served();
        assert_eq!(
            cooldown.overloaded(),
            None,
            "one that served may be full now"
        );
    }
}
