//! How long an answer may wait for its client.
//!
//! hyper asks a body for its next frame only when it has room for it: over HTTP/2, when the client
//! has opened the stream's window; over HTTP/1.1, when the socket has taken most of what is
//! buffered. So the time between a frame and the next question is time in which the client takes
//! nothing, or too little. A client that has taken all there is has the limit again; one that lags
//! must take [`LEAST_RATE`].

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    task::{Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// What a client that lags behind its answer must take at least, in bytes per second.
const LEAST_RATE: u64 = 8 << 10;

/// What may be in buffers between the proxy and a client that lags, in bytes: a client that takes
/// [`LEAST_RATE`] takes it in the time that this allows.
const BUFFERED: u64 = 1 << 20;

/// Until when a client must take the answer of one request, or of one connection of HTTP/1, whose
/// requests follow one another.
#[derive(Debug)]
pub(super) struct AnswerProgress {
    base: Instant,
    /// Milliseconds since `base`; 0 while no answer waits for the client.
    due: AtomicU64,
}

/// The time that is left to a client that lags, computed frame by frame.
#[derive(Debug)]
pub(super) struct ClientAllowance {
    limit: Duration,
    due: Option<Instant>,
}

// === AnswerProgress ===

impl AnswerProgress {
    pub(super) fn new() -> Self {
        Self {
            base: Instant::now(),
            due: AtomicU64::new(0),
        }
    }

    /// The client must take more of its answer by then; `None` if the answer is not waiting for it.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.due.load(Relaxed) {
            0 => None,
            due => Some(self.base + Duration::from_millis(due)),
        }
    }

    pub(super) fn set_due(&self, due: Option<Instant>) {
        let millis = due.map_or(0, |due| {
            let since = due.saturating_duration_since(self.base).as_millis();
            u64::try_from(since).unwrap_or(u64::MAX).max(1)
        });
        self.due.store(millis, Relaxed);
    }
}

// === ClientAllowance ===

impl ClientAllowance {
    /// `limit` is how long an answer may wait for a client that takes nothing.
    pub(super) const fn new(limit: Duration) -> Self {
        Self { limit, due: None }
    }

    /// A frame was passed on; returns the time by which it must be taken.
    pub(super) fn passed_on(&mut self, bytes: u64, now: Instant) -> Instant {
        let most = now + self.limit + taking(BUFFERED);
        let due = self.due.unwrap_or(now + self.limit) + taking(bytes);
        *self.due.insert(due.min(most))
    }

    /// The client has taken what there was.
    pub(super) const fn caught_up(&mut self) {
        self.due = None;
    }
}

/// How long a client that lags may take for this many bytes.
fn taking(bytes: u64) -> Duration {
    Duration::from_millis(bytes.saturating_mul(1_000) / LEAST_RATE)
}

/// Does the work, and gives it up when its answer has waited for the client for too long.
pub(super) async fn watched(work: impl Future<Output = ()>, progress: &AnswerProgress) {
    let mut work = pin!(work);
    let mut timer: Option<Pin<Box<Sleep>>> = None;
    // Whether the answer waits is decided by the work, so polling the work comes first.
    poll_fn(|cx| {
        if work.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        while let Some(due) = progress.due() {
            let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
            ready!(timer.as_mut().poll(cx));
            if due <= Instant::now() {
                tracing::debug!("a client did not take its answer; its stream is reset");
                return Poll::Ready(());
            }
            timer.as_mut().reset(due);
        }
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::{advance, timeout};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_client_has_the_limit_again_whenever_it_has_caught_up() {
        let mut allowance = ClientAllowance::new(LIMIT);
        let start = Instant::now();
        assert_eq!(allowance.passed_on(0, start), start + LIMIT);
        advance(LIMIT / 2).await;
        assert_eq!(allowance.passed_on(0, Instant::now()), start + LIMIT);
        allowance.caught_up();
        let now = Instant::now();
        assert_eq!(allowance.passed_on(0, now), now + LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_lags_must_take_the_least_rate() {
        let (mut slow, mut enough) = (ClientAllowance::new(LIMIT), ClientAllowance::new(LIMIT));
        let mut late = None;
        for second in 0..1_000 {
            let now = Instant::now();
            assert!(enough.passed_on(LEAST_RATE, now) > now, "at {second} s");
            if slow.passed_on(LEAST_RATE / 2, now) <= now {
                late.get_or_insert(second);
            }
            advance(Duration::from_secs(1)).await;
        }
        assert_eq!(late, Some(121), "half of each second was paid back");
    }

    #[tokio::test(start_paused = true)]
    async fn quick_reading_buys_no_long_pause_later() {
        let mut allowance = ClientAllowance::new(LIMIT);
        let now = Instant::now();
        for _ in 0..100 {
            allowance.passed_on(BUFFERED, now);
        }
        let due = allowance.passed_on(BUFFERED, now);
        assert_eq!(due, now + LIMIT + taking(BUFFERED));
    }

    #[tokio::test(start_paused = true)]
    async fn watched_work_ends_when_its_client_is_late_and_not_before() {
        let progress = AnswerProgress::new();
        let mut work = pin!(watched(pending(), &progress));
        assert!(timeout(LIMIT, &mut work).await.is_err(), "nothing waits");
        progress.set_due(Some(Instant::now() + LIMIT));
        assert!(timeout(LIMIT / 2, &mut work).await.is_err());
        progress.set_due(Some(Instant::now() + LIMIT));
        assert!(timeout(LIMIT * 3 / 4, &mut work).await.is_err());
        timeout(LIMIT, &mut work).await.expect("it was late");
        watched(ready(()), &progress).await;
    }
}
