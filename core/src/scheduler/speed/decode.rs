//! How fast endpoints generate tokens, by what they generate at once.
//!
//! ```text
//!   seconds per token = base + batch · per request + context · per token of context
//! ```
//!
//! A step of a larger batch takes longer, and so does one over more KV memory. The line is that of
//! a pool, fitted to the last answers of all its endpoints, as one endpoint rarely has batches of
//! different sizes in a minute; and each endpoint has its share of it: 2 takes twice the time.

use std::{collections::VecDeque, time::Duration};

use smallvec::SmallVec;

use super::{FEWEST, WINDOW, usual::counted};

/// Answers that the line of a pool is fitted to.
const POOL_WINDOW: usize = 96;
/// Answers between two fits.
const NEWS: usize = 12;
/// Samples farther from the line than this many median distances are nonsense, and so are those
/// that differ from the median by this factor.
const FAR: f64 = 4.0;
/// How often a line is fitted again without what is far from it.
const TRIMS: usize = 3;
/// A prediction is at most this many times the longest time that was seen, or the shortest divided
/// by it.
const BEYOND: f64 = 2.0;
/// Shorter answers show little but how their tokens were packed.
const FEWEST_TOKENS: u32 = 8;

/// The mean of what an endpoint did at once, over some time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(in crate::scheduler) struct MeanOccupancy {
    /// Answers that it generated.
    pub(in crate::scheduler) batch: f64,
    /// Tokens in its KV cache; 0 where it reports none.
    pub(in crate::scheduler) context: f64,
    /// The share of time in which it computed prompts, 0..=1.
    pub(in crate::scheduler) prefill: f64,
}

/// One answer.
#[derive(Clone, Copy, Debug)]
pub(in crate::scheduler) struct DecodeSample {
    /// A token, prompts that were computed meanwhile not counted.
    seconds: f64,
    during: MeanOccupancy,
}

/// How one endpoint generates.
#[derive(Clone, Debug, Default)]
pub(in crate::scheduler) struct DecodeSpeed {
    /// Latest times per output token, as clients saw them.
    seen: VecDeque<f32>,
    /// Latest times as shares of what the pool's line says.
    shares: VecDeque<f64>,
    /// What counts of their median.
    share: Option<f64>,
}

/// How the endpoints of a pool generate.
#[derive(Clone, Debug, Default)]
pub(in crate::scheduler) struct PoolDecodeSpeed {
    samples: VecDeque<DecodeSample>,
    news: usize,
    line: Option<DecodeLine>,
    /// Mean tokens of an answer.
    tokens: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct DecodeLine {
    base: f64,
    per_request: f64,
    per_context: f64,
    /// The shortest and the longest time that was seen.
    seen: (f64, f64),
}

// === DecodeSample ===

impl DecodeSample {
    /// Of an answer of `tokens` tokens that came in `duration` after its first; `None` if it shows
    /// nothing.
    pub(in crate::scheduler) fn of(
        duration: Duration,
        tokens: u32,
        during: MeanOccupancy,
    ) -> Option<Self> {
        let seconds = duration.as_secs_f64() * (1.0 - during.prefill);
        let seconds = seconds / f64::from(tokens.max(2) - 1);
        (tokens >= FEWEST_TOKENS && seconds > 0.0).then_some(Self { seconds, during })
    }
}

// === DecodeSpeed ===

impl DecodeSpeed {
    /// An answer of `tokens` tokens came in `duration` after its first.
    pub(in crate::scheduler) fn answered(&mut self, duration: Duration, tokens: u32) {
        if tokens < 2 {
            return;
        }
        if self.seen.len() == WINDOW {
            self.seen.pop_front();
        }
        self.seen
            .push_back(duration.as_secs_f32() / (tokens - 1) as f32);
    }

    /// One of those answers, where the pool's line says `expected` seconds per token.
    pub(in crate::scheduler) fn compared(&mut self, sample: DecodeSample, expected: f64) {
        if self.shares.len() == WINDOW {
            self.shares.pop_front();
        }
        self.shares.push_back(sample.seconds / expected);
        let mut sorted: SmallVec<[f64; WINDOW]> = self.shares.iter().copied().collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let median = sorted[sorted.len() / 2];
        self.share = (sorted.len() >= FEWEST).then(|| counted(median));
    }

    /// Its time over that of the pool's line.
    pub(in crate::scheduler) fn share(&self) -> f64 {
        self.share.unwrap_or(1.0)
    }

    /// Seconds per output token, as clients saw them: the median.
    #[must_use]
    pub(in crate::scheduler) fn seconds_per_token(&self) -> Option<f32> {
        let mut sorted: SmallVec<[f32; WINDOW]> = self.seen.iter().copied().collect();
        sorted.sort_unstable_by(f32::total_cmp);
        sorted.get(sorted.len() / 2).copied()
    }
}

// === PoolDecodeSpeed ===

impl PoolDecodeSpeed {
    /// An answer of `tokens` tokens ended.
    pub(in crate::scheduler) fn ended(&mut self, tokens: u32) {
        let tokens = f64::from(tokens);
        let mean = self.tokens.get_or_insert(tokens);
        *mean += (tokens - *mean) / POOL_WINDOW as f64;
    }

    /// An answer shows how fast its endpoint generates.
    pub(in crate::scheduler) fn answered(&mut self, sample: DecodeSample) {
        if self.samples.len() == POOL_WINDOW {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
        self.news += 1;
        if self.news >= NEWS || (self.line.is_none() && self.samples.len() >= FEWEST) {
            self.news = 0;
            self.line = Some(DecodeLine::of(self.samples.make_contiguous()));
        }
    }

    /// Expected seconds per token where this is done at once; `None` while nothing is learned.
    #[must_use]
    pub(in crate::scheduler) fn seconds(&self, batch: f64, context: f64) -> Option<f64> {
        Some(self.line?.seconds(batch, context))
    }

    /// Whether answers have shown that a larger batch is slower.
    pub(in crate::scheduler) fn slows_with_batch(&self) -> bool {
        self.line.is_some_and(|line| line.per_request > 0.0)
    }

    /// What the line says of a sample.
    pub(in crate::scheduler) fn expected(&self, sample: DecodeSample) -> Option<f64> {
        let DecodeSample { during, .. } = sample;
        self.seconds(during.batch, during.context)
    }

    /// Expected tokens of an answer; `None` while no engine reports that.
    #[must_use]
    pub(in crate::scheduler) const fn answer_tokens(&self) -> Option<f64> {
        self.tokens
    }
}

// === DecodeLine ===

impl DecodeLine {
    /// Of samples, at least one: least squares, without those that are far from the median, and
    /// then without those that are far from the line.
    fn of(samples: &[DecodeSample]) -> Self {
        let median = median(samples.iter().map(|sample| sample.seconds));
        let is_usual =
            |sample: &&DecodeSample| (median / FAR..=median * FAR).contains(&sample.seconds);
        let usual: Vec<DecodeSample> = samples.iter().filter(is_usual).copied().collect();
        let mut line = Self::least_squares(usual.iter());
        for _ in 0..TRIMS {
            let distance = |sample: &DecodeSample| {
                let MeanOccupancy { batch, context, .. } = sample.during;
                (sample.seconds - line.seconds(batch, context)).abs()
            };
            let most = FAR * self::median(usual.iter().map(distance)) + f64::EPSILON;
            line = Self::least_squares(usual.iter().filter(|sample| distance(sample) <= most));
        }
        line
    }

    fn seconds(&self, batch: f64, context: f64) -> f64 {
        let seconds = self.base + batch * self.per_request + context * self.per_context;
        seconds.clamp(self.seen.0 / BEYOND, self.seen.1 * BEYOND)
    }

    /// Slopes below 0 are noise, and count as 0.
    fn least_squares<'a>(samples: impl Iterator<Item = &'a DecodeSample> + Clone) -> Self {
        let count = samples.clone().count().max(1) as f64;
        let mean = |of: fn(&DecodeSample) -> f64| samples.clone().map(of).sum::<f64>() / count;
        let batch = mean(|sample| sample.during.batch);
        let context = mean(|sample| sample.during.context);
        let seconds = mean(|sample| sample.seconds);
        let [mut bb, mut cc, mut bc, mut bs, mut cs] = [0.0f64; 5];
        for sample in samples.clone() {
            let (b, c) = (sample.during.batch - batch, sample.during.context - context);
            let s = sample.seconds - seconds;
            bb += b * b;
            cc += c * c;
            bc += b * c;
            bs += b * s;
            cs += c * s;
        }
        let alone = |product: f64, square: f64| {
            if square > f64::EPSILON * count {
                (product / square).max(0.0)
            } else {
                0.0
            }
        };
        // Where batch and context move together, only one of them is needed.
        let determinant = bb * cc - bc * bc;
        let both = (determinant > 0.05 * bb * cc).then(|| {
            let per_request = (bs * cc - cs * bc) / determinant;
            (per_request, (cs * bb - bs * bc) / determinant)
        });
        let (per_request, per_context) = match both {
            Some((request, context)) if request >= 0.0 && context >= 0.0 => (request, context),
            Some((request, _)) if request < 0.0 => (0.0, alone(cs, cc)),
            _ => (alone(bs, bb), if bb > 0.0 { 0.0 } else { alone(cs, cc) }),
        };
        let times = samples.map(|sample| sample.seconds);
        let range = |(least, most): (f64, f64), one: f64| (least.min(one), most.max(one));
        Self {
            base: seconds - batch * per_request - context * per_context,
            per_request,
            per_context,
            seen: times.fold((f64::INFINITY, 0.0), range),
        }
    }
}

/// The median of values, at least one.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    fn occupancy(batch: f64, context: f64) -> MeanOccupancy {
        MeanOccupancy {
            batch,
            context,
            prefill: 0.0,
        }
    }

    fn sample(batch: f64, context: f64, seconds: f64) -> DecodeSample {
        DecodeSample {
            seconds,
            during: occupancy(batch, context),
        }
    }

    #[test]
    fn prompts_that_were_computed_meanwhile_do_not_count_as_time_of_an_answer() {
        let during = MeanOccupancy {
            prefill: 0.75,
            ..occupancy(3.0, 0.0)
        };
        let sample = DecodeSample::of(4_000 * MS, 101, during).expect("a long answer");
        assert!((sample.seconds - 0.01).abs() < 1e-9);
        assert!(DecodeSample::of(4_000 * MS, 7, during).is_none());
    }

    #[test]
    fn an_endpoint_that_is_twice_as_slow_has_two_shares_and_noise_is_none() {
        let mut speed = DecodeSpeed::default();
        (0..9).for_each(|_| speed.compared(sample(1.0, 0.0, 0.011), 0.01));
        assert_eq!(speed.share(), 1.0);
        (0..24).for_each(|_| speed.compared(sample(1.0, 0.0, 0.02), 0.01));
        assert!((speed.share() - 2.0).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn a_line_of_batch_and_context_is_found_under_nonsense(
            base in 0.004f64..0.02,
            per_request in 0.0f64..5e-4,
            per_context in 0.0f64..5e-8,
            during in proptest::collection::vec((1u32..60, 1_000u32..400_000), 96),
            nonsense in proptest::collection::vec((0usize..96, 0.0f64..3.0), 0..=6),
        ) {
            let of = |batch: f64, context: f64| base + batch * per_request + context * per_context;
            let mut samples: Vec<DecodeSample> = during
                .iter()
                .map(|&(batch, context)| (f64::from(batch), f64::from(context)))
                .map(|(batch, context)| sample(batch, context, of(batch, context)))
                .collect();
            for (at, seconds) in nonsense {
                samples[at].seconds = seconds;
            }
            let mut speed = PoolDecodeSpeed::default();
            samples.into_iter().for_each(|sample| speed.answered(sample));
            let (found, expected) = (speed.seconds(20.0, 1e5).expect("a line"), of(20.0, 1e5));
            prop_assert!((found / expected - 1.0).abs() < 0.25, "{found} for {expected}");
        }

        #[test]
        fn any_samples_give_a_time_within_bounds_and_a_larger_batch_is_never_faster(
            samples in proptest::collection::vec((0.0f64..300.0, 0.0f64..1e6, 1e-4f64..2.0), 4..150),
            batch in 0.0f64..500.0,
        ) {
            let mut speed = PoolDecodeSpeed::default();
            samples.iter().for_each(|&(batch, context, seconds)| speed.answered(sample(batch, context, seconds)));
            let at = |batch: f64| speed.seconds(batch, 1e5).expect("a line");
            prop_assert!(at(batch) > 0.0 && at(batch) <= 2.0 * BEYOND);
            prop_assert!(at(batch + 1.0) >= at(batch));
        }
    }
}
