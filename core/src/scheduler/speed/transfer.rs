//! How long a prompt's KV cache is on its way from the endpoint that computed it to the one that
//! answers: from the end of the prefill leg to the first token, the decode endpoint's own queue and
//! its first step included.
//!
//! ```text
//!   seconds = base + tokens · per token          tokens: of the prompt, without what is cached where it decodes
//! ```
//!
//! The line is fitted to the last [`WINDOW`] pairs, as those of prefill are, so that a fifth of
//! them may be nonsense. It is of many pairs of a pool: P × D lines would hardly have a sample each.

use std::{collections::VecDeque, time::Duration};

use super::{
    FEWEST, WINDOW,
    fit::{self, MeanPrompt},
};

/// First bytes of a pool without a sample after which nothing counts as known: where no pair seems
/// to be worth it, one is tried now and then.
const OUTDATED: u64 = 512;

/// See the module.
#[derive(Clone, Debug)]
pub(in crate::scheduler) struct TransferSpeed {
    /// First bytes of the pool without a sample after which nothing counts as known.
    outdated: u64,
    /// Oldest first.
    samples: VecDeque<MeanPrompt>,
    line: Option<TransferLine>,
    /// First bytes of the pool when the latest sample came.
    sampled: u64,
}

#[derive(Clone, Copy, Debug)]
struct TransferLine {
    base: f64,
    per_token: f64,
}

impl Default for TransferSpeed {
    fn default() -> Self {
        Self::known_for(OUTDATED)
    }
}

impl TransferSpeed {
    /// One that is known for this many first bytes of the pool after its latest sample.
    pub(super) const fn known_for(outdated: u64) -> Self {
        Self {
            outdated,
            samples: VecDeque::new(),
            line: None,
            sampled: 0,
        }
    }

    /// `tokens` were taken over in this time; the pool has given `answers` first bytes.
    pub(in crate::scheduler) fn transferred(&mut self, tokens: u32, took: Duration, answers: u64) {
        self.review(answers);
        if self.samples.len() == WINDOW {
            self.samples.pop_front();
        }
        let (tokens, seconds) = (tokens.into(), took.as_secs_f64());
        self.samples.push_back(MeanPrompt { tokens, seconds });
        self.sampled = answers;
        let samples = self.samples.make_contiguous();
        self.line = (samples.len() >= FEWEST).then(|| TransferLine::of(samples));
    }

    /// The pool has given `answers` first bytes: what was learned long ago is not known any more.
    pub(in crate::scheduler) fn review(&mut self, answers: u64) {
        if answers.saturating_sub(self.sampled) > self.outdated {
            *self = Self::known_for(self.outdated);
        }
    }

    /// Seconds of a transfer of `tokens`; `None` while that is unknown.
    #[must_use]
    pub(in crate::scheduler) fn seconds(&self, tokens: f64) -> Option<f64> {
        let TransferLine { base, per_token } = self.line?;
        Some(base + tokens * per_token)
    }
}

impl TransferLine {
    /// Of samples, at least one.
    fn of(samples: &[MeanPrompt]) -> Self {
        let median = |of: &dyn Fn(&MeanPrompt) -> f64| {
            let mut values: Vec<f64> = samples.iter().map(of).collect();
            values.sort_unstable_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let most = median(&|one| one.seconds / one.tokens.max(1.0));
        let slope = fit::repeated_median(samples).unwrap_or(0.0);
        let per_token = slope.clamp(0.0, most);
        let base = median(&|one| one.seconds - one.tokens * per_token);
        Self {
            base: base.max(0.0),
            per_token,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn transfers(samples: impl Iterator<Item = (u32, f64)>) -> TransferSpeed {
        let mut speed = TransferSpeed::default();
        for (tokens, seconds) in samples {
            speed.transferred(tokens, Duration::from_secs_f64(seconds), 0);
        }
        speed
    }

    #[test]
    fn too_few_transfers_show_nothing_and_so_do_those_of_long_ago() {
        let line = |tokens: u32| (tokens, 0.02 + f64::from(tokens) / 1e5);
        assert_eq!(
            transfers((1..4).map(|k| line(k * 1_000))).seconds(1.0),
            None
        );
        let mut speed = transfers((1..9).map(|k| line(k * 1_000)));
        assert!((speed.seconds(20_000.0).expect("a line") - 0.22).abs() < 0.01);
        speed.review(OUTDATED);
        assert!(speed.seconds(1.0).is_some());
        speed.review(OUTDATED + 1);
        assert_eq!(speed.seconds(1.0), None);
    }

    #[test]
    fn prompts_of_one_length_show_one_time() {
        let speed = transfers((0..9).map(|_| (4_000, 0.05)));
        assert!((speed.seconds(8_000.0).expect("a time") - 0.05).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn a_fifth_of_nonsense_moves_the_line_by_less_than_half(
            base in 0.0f64..0.2,
            rate in 2e4f64..1e6,
            lengths in proptest::collection::vec(500u32..60_000, 24),
            nonsense in proptest::collection::vec((0usize..24, 0.0f64..60.0), 0..=4),
        ) {
            let took = |tokens: u32| base + f64::from(tokens) / rate;
            let mut samples: Vec<(u32, f64)> =
                lengths.iter().map(|&tokens| (tokens, took(tokens))).collect();
            for (at, seconds) in nonsense {
                samples[at].1 = seconds;
            }
            let speed = transfers(samples.into_iter());
            let expected = took(20_000);
            let found = speed.seconds(20_000.0).expect("a line");
            prop_assert!((found / expected - 1.0).abs() < 0.5, "{found} for {expected}");
        }
    }
}
