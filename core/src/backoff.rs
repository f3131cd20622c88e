//! Pauses between attempts at something that keeps failing.

use std::time::Duration;

use crate::rng::SeededRng;

/// Pauses that double up to a longest one. Each is shortened by up to a half at random, so that
/// many clients do not come back to a restarted server at the same moment.
#[derive(Clone, Debug)]
pub struct Backoff {
    shortest: Duration,
    longest: Duration,
    next: Duration,
    rng: SeededRng,
}

impl Backoff {
    /// Pauses from `shortest` to `longest`; those of two seeds differ.
    #[must_use]
    pub const fn new((shortest, longest): (Duration, Duration), seed: u64) -> Self {
        Self {
            shortest,
            longest,
            next: shortest,
            rng: SeededRng::new(seed),
        }
    }

    /// The pause before the next attempt.
    pub fn next_pause(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.longest);
        whole.mul_f32(1.0 - self.rng.unit() / 2.0)
    }

    /// Begins with the shortest pause again, after a success.
    pub const fn reset(&mut self) {
        self.next = self.shortest;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pauses_double_to_the_longest_and_lose_at_most_a_half(seed: u64) {
            let seconds = |seconds| Duration::from_secs(seconds);
            let mut backoff = Backoff::new((seconds(1), seconds(5)), seed);
            for whole in [1, 2, 4, 5, 5].map(seconds) {
                let pause = backoff.next_pause();
                prop_assert!(whole / 2 <= pause && pause <= whole, "{:?} of {:?}", pause, whole);
            }
            backoff.reset();
            prop_assert!(backoff.next_pause() <= seconds(1));
        }
    }
}
