//! How fast one endpoint computes prompts and generates tokens, learned from the answers that pass.
//!
//! ```text
//!   sent a ──────────▶ first byte of a
//!        sent b ───────────────┼──────────▶ first byte of b
//!              │◀─ service a ─▶│◀─ service b ─▶│              an engine computes prompts one after the other
//! ```
//!
//! The time that a prompt was being computed runs from its sending, or from the first byte of the
//! prompt before it, whichever is later: so a queue in the engine does not look like slowness.
//! First bytes that come together were computed together and make one sample of their tokens. An
//! endpoint of several lanes does this in each of them; all lanes are equally fast.
//!
//! `service = base + tokens / rate` is fitted over the last [`WINDOW`] samples: the slope is the
//! weighted median of the slopes of all pairs (Theil 1950, Sen 1968, weighted by distance), the
//! base the median of what is left. Up to about a quarter of the samples may be nonsense without
//! effect, and a change of speed shows once the window has turned over.
//!
//! Costs: a few microseconds for a fit, which is repeated whenever an eighth of the window is new.

use std::time::Duration;

use smallvec::SmallVec;

/// Samples that are remembered.
const WINDOW: usize = 24;
/// Minimum number of samples before a fit is reported.
const FEWEST: usize = 4;
/// First bytes closer than this were computed together.
const TOGETHER: Duration = Duration::from_millis(2);
/// Pairs of samples that differ by fewer tokens say nothing about the slope.
const APART: f64 = 32.0;
/// Bounds of seconds per prompt token of any engine.
const SLOWEST: f64 = 0.1;
const FASTEST: f64 = 1e-7;

/// How one endpoint computes prompts.
#[derive(Clone, Debug, Default)]
pub(super) struct PrefillSpeed {
    /// Oldest first.
    samples: Vec<PrefillSample>,
    /// When the latest first byte came.
    latest: Option<Duration>,
    fit: Option<PrefillFit>,
    /// Samples since the fit was made.
    news: usize,
}

/// `seconds = base + tokens / rate`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct PrefillFit {
    /// Seconds that even an empty prompt takes.
    pub base: f64,
    /// Prompt tokens a second.
    pub rate: f64,
}

/// How one endpoint generates: the median of its latest times per output token.
#[derive(Clone, Debug, Default)]
pub(super) struct DecodeSpeed {
    samples: Vec<f32>,
}

/// One prompt, or several that were computed together.
#[derive(Clone, Copy, Debug)]
struct PrefillSample {
    tokens: f64,
    seconds: f64,
}

// === Prefill ===

impl PrefillSpeed {
    /// The first byte of an answer came at `now`, `ttft` after the request was sent with `tokens`
    /// uncached tokens.
    ///
    /// `now` must not go backwards.
    pub(super) fn answered(&mut self, now: Duration, ttft: Duration, tokens: u32) {
        let sent = now.saturating_sub(ttft);
        let begun = self.latest.map_or(sent, |latest| latest.max(sent));
        let together = self
            .latest
            .is_some_and(|latest| now.saturating_sub(latest) < TOGETHER);
        self.latest = Some(now);
        match self.samples.last_mut().filter(|_| together) {
            Some(last) => last.tokens += f64::from(tokens),
            None => {
                let seconds = now.saturating_sub(begun).as_secs_f64();
                self.add(PrefillSample {
                    tokens: tokens.into(),
                    seconds,
                });
            }
        }
    }

    /// A lane of an endpoint that has several computed a prompt of `tokens` uncached tokens from
    /// `began` to `now`. First bytes that come together belong to different lanes.
    pub(super) fn computed(&mut self, began: Duration, now: Duration, tokens: u32) {
        self.latest = Some(now);
        self.add(PrefillSample {
            tokens: tokens.into(),
            seconds: now.saturating_sub(began).as_secs_f64(),
        });
    }

    /// What is known; `None` until a few prompts of different lengths have passed.
    #[must_use]
    pub(super) const fn fit(&self) -> Option<PrefillFit> {
        self.fit
    }

    /// Forgets everything: another process answers now.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn add(&mut self, sample: PrefillSample) {
        if self.samples.len() == WINDOW {
            self.samples.remove(0);
        }
        self.samples.push(sample);
        self.news += 1;
        if self.samples.len() >= FEWEST && self.news * 8 >= self.samples.len() {
            self.news = 0;
            self.fit = Some(PrefillFit::of(&self.samples));
        }
    }
}

// === Fit ===

impl PrefillFit {
    /// An endpoint of which nothing is known but a usual rate, in tokens a second.
    #[must_use]
    pub(super) const fn prior(rate: f64) -> Self {
        Self { base: 0.0, rate }
    }

    /// That of an endpoint which takes `share` of the time.
    #[must_use]
    pub(super) fn scaled(self, share: f64) -> Self {
        Self {
            base: self.base * share,
            rate: self.rate / share,
        }
    }

    /// Prefill seconds of a prompt with `tokens` uncached tokens.
    #[must_use]
    pub(super) fn seconds(&self, tokens: f64) -> f64 {
        self.base + tokens / self.rate
    }

    fn of(samples: &[PrefillSample]) -> Self {
        let mut slopes = Vec::with_capacity(samples.len() * samples.len() / 2);
        for (at, one) in samples.iter().enumerate() {
            for other in &samples[at + 1..] {
                let distance = one.tokens - other.tokens;
                if distance.abs() >= APART {
                    slopes.push(((one.seconds - other.seconds) / distance, distance.abs()));
                }
            }
        }
        // Prompts that are all alike: the whole time counts as theirs.
        let slope = weighted_median(&mut slopes).unwrap_or_else(|| {
            let mut all: SmallVec<[(f64, f64); WINDOW]> = samples
                .iter()
                .map(|one| (one.seconds / one.tokens.max(1.0), 1.0))
                .collect();
            weighted_median(&mut all).unwrap_or(SLOWEST)
        });
        let slope = slope.clamp(FASTEST, SLOWEST);
        let mut rest: SmallVec<[(f64, f64); WINDOW]> = samples
            .iter()
            .map(|one| (one.seconds - one.tokens * slope, 1.0))
            .collect();
        let base = weighted_median(&mut rest).unwrap_or(0.0).max(0.0);
        Self {
            base,
            rate: 1.0 / slope,
        }
    }
}

// === Decode ===

impl DecodeSpeed {
    /// An answer of `tokens` tokens came in `duration` after its first.
    pub(super) fn answered(&mut self, duration: Duration, tokens: u32) {
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
    pub(super) fn seconds_per_token(&self) -> Option<f32> {
        let mut sorted: SmallVec<[f32; WINDOW]> = SmallVec::from_slice(&self.samples);
        sorted.sort_unstable_by(f32::total_cmp);
        sorted.get(sorted.len() / 2).copied()
    }
}

/// The value at which half of the weight is reached; `None` of nothing.
fn weighted_median(values: &mut [(f64, f64)]) -> Option<f64> {
    values.sort_unstable_by(|(a, _), (b, _)| a.total_cmp(b));
    let half = values.iter().map(|(_, weight)| weight).sum::<f64>() / 2.0;
    let mut reached = 0.0;
    let middle = values.iter().find(|(_, weight)| {
        reached += weight;
        reached >= half
    });
    middle.map(|(value, _)| *value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rng::SeededRng;

    const MS: Duration = Duration::from_millis(1);

    /// Sends prompts one at a time to an endpoint of `rate` tokens a second, with 20 ms of base.
    fn serve(
        prefill: &mut PrefillSpeed,
        now: &mut Duration,
        rate: f64,
        prompts: impl IntoIterator<Item = u32>,
    ) {
        for tokens in prompts {
            let ttft = 20 * MS + Duration::from_secs_f64(f64::from(tokens) / rate);
            *now += ttft + 5 * MS;
            prefill.answered(*now, ttft, tokens);
        }
    }

    fn prompts(seed: u64, count: usize) -> impl Iterator<Item = u32> {
        let mut rng = SeededRng::new(seed);
        std::iter::repeat_with(move || 50 + rng.below(12_000) as u32).take(count)
    }

    fn rate(prefill: &PrefillSpeed) -> f64 {
        prefill.fit().expect("enough samples").rate
    }

    #[test]
    fn ten_requests_are_enough() {
        let (mut prefill, mut now) = (PrefillSpeed::default(), Duration::ZERO);
        serve(&mut prefill, &mut now, 8_000.0, prompts(1, 10));
        let PrefillFit { base, rate } = prefill.fit().expect("ten samples");
        assert!(
            (rate / 8_000.0 - 1.0).abs() < 0.02 && (base - 0.02).abs() < 0.002,
            "{rate} {base}"
        );
    }

    #[test]
    fn a_queue_in_the_engine_is_no_slowness() {
        let mut prefill = PrefillSpeed::default();
        let mut now = Duration::ZERO;
        // All at once: the last one waits for all others.
        for tokens in prompts(2, 12) {
            now += Duration::from_secs_f64(f64::from(tokens) / 8_000.0);
            prefill.answered(now, now, tokens);
        }
        assert!(
            (rate(&prefill) / 8_000.0 - 1.0).abs() < 0.05,
            "{}",
            rate(&prefill)
        );
    }

    #[test]
    fn a_throttled_gpu_is_noticed_within_thirty_requests() {
        let (mut prefill, mut now) = (PrefillSpeed::default(), Duration::ZERO);
        serve(&mut prefill, &mut now, 8_000.0, prompts(3, 100));
        serve(&mut prefill, &mut now, 3_200.0, prompts(4, 30));
        assert!(
            (rate(&prefill) / 3_200.0 - 1.0).abs() < 0.05,
            "{}",
            rate(&prefill)
        );
    }

    #[test]
    fn one_answer_in_six_may_be_nonsense() {
        let (mut prefill, mut now, mut rng) =
            (PrefillSpeed::default(), Duration::ZERO, SeededRng::new(5));
        for (turn, tokens) in prompts(6, 60).enumerate() {
            let late = Duration::from_millis(rng.below(30_000) as u64);
            let speed = if turn % 6 == 0 { 200.0 } else { 8_000.0 };
            if turn % 6 == 0 {
                now += late;
            }
            serve(&mut prefill, &mut now, speed, [tokens]);
        }
        assert!(
            (rate(&prefill) / 8_000.0 - 1.0).abs() < 0.1,
            "{}",
            rate(&prefill)
        );
    }

    #[test]
    fn prompts_of_equal_length_still_give_a_rate() {
        let (mut prefill, mut now) = (PrefillSpeed::default(), Duration::ZERO);
        serve(&mut prefill, &mut now, 8_000.0, [1_000; 10]);
        assert!(
            (rate(&prefill) / 6_900.0 - 1.0).abs() < 0.05,
            "base and all: {}",
            rate(&prefill)
        );
    }

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

    proptest! {
        #[test]
        fn whatever_comes_a_fit_is_a_finite_positive_speed(
            answers in proptest::collection::vec((0u64..1_000_000, 0u64..10_000_000, any::<u32>()), 4..80),
        ) {
            let (mut prefill, mut now) = (PrefillSpeed::default(), Duration::ZERO);
            for (gap, ttft, tokens) in answers {
                now += Duration::from_micros(gap);
                prefill.answered(now, Duration::from_micros(ttft), tokens);
            }
            if let Some(PrefillFit { base, rate }) = prefill.fit() {
                prop_assert!(base.is_finite() && base >= 0.0);
                prop_assert!((1.0 / SLOWEST..=1.01 / FASTEST).contains(&rate));
            }
        }
    }
}
