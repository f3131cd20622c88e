//! How fast one endpoint generates tokens.

use std::time::Duration;

use smallvec::SmallVec;

use super::WINDOW;

/// How one endpoint generates: the median of its latest times per output token.
#[derive(Clone, Debug, Default)]
pub(in crate::scheduler) struct DecodeSpeed {
    samples: Vec<f32>,
}

impl DecodeSpeed {
    /// An answer of `tokens` tokens came in `duration` after its first.
    pub(in crate::scheduler) fn answered(&mut self, duration: Duration, tokens: u32) {
        if tokens < 2 {
            return;
        }
        if self.samples.len() == WINDOW {
            self.samples.remove(0);
        }
        self.samples
            .push(duration.as_secs_f32() / (tokens - 1) as f32);
    }

    /// Seconds per output token.
    #[must_use]
    pub(in crate::scheduler) fn seconds_per_token(&self) -> Option<f32> {
        let mut sorted: SmallVec<[f32; WINDOW]> = SmallVec::from_slice(&self.samples);
        sorted.sort_unstable_by(f32::total_cmp);
        sorted.get(sorted.len() / 2).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_time_per_token_is_the_median_of_the_latest() {
        let mut decode = DecodeSpeed::default();
        assert_eq!(decode.seconds_per_token(), None);
        (0..40).for_each(|turn| {
            decode.answered(
                if turn % 5 == 0 {
                    900 * MS
                } else {
                    99 * 10 * MS
                },
                100,
            );
        });
        decode.answered(500 * MS, 1);
        assert!((decode.seconds_per_token().expect("samples") - 0.01).abs() < 1e-4);
    }
}
