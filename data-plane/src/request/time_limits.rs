//! How long a request may take, beside the timeouts of its pool.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::local_reply::LocalReply;

/// Limits of one request; the default has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TimeLimits {
    /// When its response has to be complete.
    pub(crate) whole: Option<TimeLimit>,
    /// How long an attempt may take, to the last byte of its response.
    pub(crate) attempt: Option<Duration>,
}

/// A time, and the configured limit that leads to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeLimit {
    pub(crate) at: Instant,
    pub(crate) limit: Duration,
}

impl TimeLimits {
    /// When the response of an attempt that begins `now` has to be complete.
    pub(crate) fn of_attempt(&self, now: Instant) -> Option<TimeLimit> {
        let attempt = self.attempt.map(|limit| TimeLimit {
            at: now + limit,
            limit,
        });
        let limits = [self.whole, attempt].into_iter().flatten();
        limits.min_by_key(|limit| limit.at)
    }
}

/// What bounds the steps of a request. A type, so that requests without a limit carry no timer.
pub(crate) trait StepLimit: Copy {
    /// The step, for as long as it may take.
    fn bound<T>(
        self,
        step: impl Future<Output = Result<T, LocalReply>>,
    ) -> impl Future<Output = Result<T, LocalReply>>;
}

/// Steps have the limits of their pool alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoLimit;

impl StepLimit for NoLimit {
    fn bound<T>(
        self,
        step: impl Future<Output = Result<T, LocalReply>>,
    ) -> impl Future<Output = Result<T, LocalReply>> {
        step
    }
}

/// Steps end at that time, if there is one.
impl StepLimit for Option<TimeLimit> {
    async fn bound<T>(
        self,
        step: impl Future<Output = Result<T, LocalReply>>,
    ) -> Result<T, LocalReply> {
        let Some(TimeLimit { at, limit }) = self else {
            return step.await;
        };
        let ended = timeout_at(at, step).await;
        ended.unwrap_or(Err(LocalReply::TimedOut(limit)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earlier_of_both_limits_counts() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let whole = |seconds: u32| {
            let limit = second * seconds;
            Some(TimeLimit {
                at: now + limit,
                limit,
            })
        };
        let limits = |whole, attempt| TimeLimits { whole, attempt };
        let of = |limits: TimeLimits| limits.of_attempt(now);
        assert_eq!(of(TimeLimits::default()), None);
        assert_eq!(of(limits(whole(2), None)), whole(2));
        assert_eq!(of(limits(whole(2), Some(second))), whole(1));
        assert_eq!(of(limits(whole(1), Some(second * 2))), whole(1));
    }
}
