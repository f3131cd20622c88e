//! How long a client may take to send its body.

use std::time::Duration;

use tokio::time::Instant;

/// What a client must send at least once its pause is used up, in bytes per second.
const LEAST_RATE: u64 = 8 << 10;

/// The pace of one upload: no pause longer than the limit, and [`LEAST_RATE`] over the whole body
/// apart from one such pause. So a client that sends a byte from time to time does not hold a
/// request's place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UploadPace {
    began: Instant,
    patience: Duration,
}

impl UploadPace {
    /// Of an upload that begins now; `patience` is how long the client may pause.
    pub(crate) fn begin(patience: Duration) -> Self {
        let began = Instant::now();
        Self { began, patience }
    }

    /// When the next piece must have arrived, after `received` bytes.
    pub(crate) fn due(self, received: u64) -> Instant {
        let earned = Duration::from_millis(received.saturating_mul(1_000) / LEAST_RATE);
        let pause = Instant::now() + self.patience;
        pause.min(self.began + self.patience + earned)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_quick_client_may_pause_for_as_long_as_the_limit_says() {
        let pace = UploadPace::begin(PATIENCE);
        advance(Duration::from_secs(1)).await;
        assert_eq!(pace.due(64 << 20), Instant::now() + PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_from_time_to_time_is_not_enough() {
        let (pace, start) = (UploadPace::begin(PATIENCE), Instant::now());
        let mut received = 0;
        while pace.due(received) > Instant::now() {
            advance(Duration::from_secs(5)).await;
            received += 1;
        }
        assert_eq!(start.elapsed(), PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn the_least_rate_is_enough_for_any_body() {
        let pace = UploadPace::begin(PATIENCE);
        for second in 0..1_000 {
            assert!(pace.due(second * LEAST_RATE) > Instant::now());
            advance(Duration::from_secs(1)).await;
        }
    }
}
