//! When requests are meant to start: offsets from the beginning of a run.
//!
//! Pure and deterministic: an iterator of offsets that never decrease. It knows nothing of how late
//! a client really is; the drivers count latency from these offsets, so that a stalled server
//! cannot hide behind requests not yet sent.

use std::time::Duration;

use hermes_core::rng::SeededRng;

/// An arrival process of an open loop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrivals {
    /// One request every `1 / per_second`.
    Fixed {
        /// Requests a second; must be positive.
        per_second: f64,
    },
    /// Exponential gaps with mean `1 / per_second`, the same ones for the same seed.
    Poisson {
        /// Requests a second on average; must be positive.
        per_second: f64,
        /// Decides every gap.
        seed: u64,
    },
}

impl Arrivals {
    /// The offsets at which requests start, without end.
    #[must_use]
    pub fn offsets(self) -> Offsets {
        let (per_second, seed) = match self {
            Self::Fixed { per_second } => (per_second, None),
            Self::Poisson { per_second, seed } => (per_second, Some(seed)),
        };
        Offsets {
            mean: 1.0 / per_second.max(MIN_RATE),
            rng: seed.map(SeededRng::new),
            at: 0.0,
            index: 0,
        }
    }
}

/// One request a day: keeps a rate of zero from turning into an offset that no clock can express.
const MIN_RATE: f64 = 1.0 / 86_400.0;

/// The iterator behind [`Arrivals::offsets`].
#[derive(Debug)]
pub struct Offsets {
    mean: f64,
    rng: Option<SeededRng>,
    at: f64,
    index: u32,
}

impl Iterator for Offsets {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let at = match &mut self.rng {
            // A product instead of a running sum: a million additions of 1 ms would drift.
            None => self.mean * f64::from(self.index),
            Some(rng) => {
                let uniform = (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
                self.at += -self.mean * (1.0 - uniform).ln();
                self.at
            }
        };
        self.index = self.index.saturating_add(1);
        Duration::try_from_secs_f64(at).ok()
    }
}

/// A trace's timestamp in milliseconds, replayed `speed` times as fast.
#[must_use]
pub fn scaled(timestamp_ms: u64, speed: f64) -> Duration {
    let seconds = timestamp_ms as f64 / 1_000.0 / speed.max(f64::MIN_POSITIVE);
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fixed_rate_is_evenly_spaced_and_does_not_drift() {
        let offsets: Vec<_> = Arrivals::Fixed { per_second: 250.0 }
            .offsets()
            .take(10_001)
            .collect();
        assert_eq!(offsets[1], Duration::from_millis(4));
        assert_eq!(offsets[10_000], Duration::from_secs(40));
    }

    #[test]
    fn poisson_gaps_have_the_mean_and_the_spread_of_an_exponential() {
        let offsets: Vec<_> = Arrivals::Poisson {
            per_second: 100.0,
            seed: 3,
        }
        .offsets()
        .take(20_000)
        .collect();
        let gaps: Vec<f64> = offsets
            .windows(2)
            .map(|pair| (pair[1] - pair[0]).as_secs_f64())
            .collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let deviation =
            (gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
        assert!((mean - 0.01).abs() < 0.000_3, "{mean}");
        assert!(
            (deviation / mean - 1.0).abs() < 0.05,
            "{deviation} / {mean}"
        );
    }

    #[test]
    fn the_seed_decides_every_arrival() {
        let draw = |seed| {
            Arrivals::Poisson {
                per_second: 9.0,
                seed,
            }
            .offsets()
            .take(50)
            .collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn a_trace_at_twice_the_speed_takes_half_the_time() {
        assert_eq!(scaled(3_000, 1.0), Duration::from_secs(3));
        assert_eq!(scaled(3_000, 2.0), Duration::from_millis(1_500));
        assert_eq!(scaled(u64::MAX, 0.0), Duration::MAX);
    }
}
