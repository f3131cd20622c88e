//! How long an endpoint that has too much to do (429, 503) gets no further request.
//!
//! The endpoint says how long by `Retry-After`. Without it, the first two such answers in a row
//! say nothing, because a full queue may have room again at once; every further one doubles the
//! time. Answers to requests that were sent before a cool-down began say nothing more, and one
//! that the endpoint did not ask for ends when it serves. A gateway says 429 also to a client over
//! its quota, at whatever endpoint: when two endpoints say it to one request, it is the client's,
//! and none of them cools down.

use std::time::Duration;

/// Overloaded answers in a row that set nothing aside.
const TOLERATED: u32 = 2;
/// The first cool-down that the endpoint did not ask for.
const FIRST: Duration = Duration::from_secs(1);

/// The cool-down of one endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cooldown {
    until: Duration,
    /// The endpoint asked for it.
    is_asked: bool,
    /// Overloaded answers in a row, outside of cool-downs.
    in_row: u32,
}

impl Cooldown {
    /// An overloaded answer came. Returns how long the endpoint is to be left alone if it does not
    /// say it.
    pub(super) fn overloaded(&mut self, now: Duration) -> Option<Duration> {
        if !self.is_over(now) {
            return None;
        }
        self.in_row = self.in_row.saturating_add(1);
        let doublings = self.in_row.checked_sub(TOLERATED + 1)?;
        Some(FIRST.saturating_mul(1 << doublings.min(16)))
    }

    /// It gets no request for this long; `is_asked`: by its own `Retry-After`.
    pub(super) fn begin(&mut self, now: Duration, wait: Duration, is_asked: bool) {
        let until = now.saturating_add(wait);
        if until > self.until {
            (self.until, self.is_asked) = (until, is_asked);
        }
    }

    /// It served a request.
    pub(super) const fn served(&mut self) {
        self.in_row = 0;
        if !self.is_asked {
            self.until = Duration::ZERO;
        }
    }

    /// What began it says nothing of the endpoint.
    pub(super) fn revoke(&mut self) {
        *self = Self::default();
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
        cooldown.begin(secs(10), secs(30), true);
        cooldown.begin(secs(11), secs(1), false);
        assert!(!cooldown.is_over(secs(39)) && cooldown.is_over(secs(40)));
    }

    #[test]
    fn the_third_in_a_row_asks_for_a_pause_and_one_after_each_pause_doubles_it() {
        let mut cooldown = Cooldown::default();
        assert_eq!((0..2).find_map(|_| cooldown.overloaded(secs(0))), None);
        let mut now = secs(0);
        for wait in [1, 2, 4].map(secs) {
            assert_eq!(cooldown.overloaded(now), Some(wait));
            cooldown.begin(now, wait, false);
            assert_eq!(cooldown.overloaded(now), None, "sent before it began");
            now += wait;
        }
        cooldown.served();
        assert_eq!(
            cooldown.overloaded(now),
            None,
            "one that served may be full now"
        );
    }

    #[test]
    fn an_endpoint_that_serves_is_back_unless_it_asked_for_a_pause() {
        let mut cooldown = Cooldown::default();
        cooldown.begin(secs(0), secs(8), false);
        cooldown.served();
        assert!(cooldown.is_over(secs(1)));
        cooldown.begin(secs(1), secs(8), true);
        cooldown.served();
        assert!(!cooldown.is_over(secs(2)));
    }
}
