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
//! First bytes that come within [`TOGETHER`] of the first of them were computed together and make
//! one sample, of their tokens and of the time until the last of them. An endpoint of several lanes
//! does this in each of them; all lanes are equally fast.
//!
//! An engine that is never idle computes in steps: the last one of a prompt has tokens of the next
//! in it, which make the one look slower and the other faster than it is. So samples that follow
//! each other without a gap are [averaged](fit::MeanPrompt) before they are compared: what one
//! lost, the next gained.
//!
//! The tokens are those that were expected to be uncached, until the engine reports how many there
//! were. A [line](PrefillFit) is fitted to the last [`WINDOW`] samples. Up to a fifth of them may
//! be nonsense of any kind and move the rate by less than a quarter, and a change of speed shows
//! once half of the window has turned over.
//!
//! Costs: some microseconds for a fit, which is repeated whenever an eighth of the window is new.

mod decode;
mod fit;
mod pool_transfers;
mod transfer;
mod usual;

use std::time::Duration;

pub(super) use decode::{DecodeSample, DecodeSpeed, MeanOccupancy, PoolDecodeSpeed};
pub(super) use fit::PrefillFit;
use fit::PrefillMeasure;
pub(super) use pool_transfers::PoolTransfers;
use transfer::TransferSpeed;
pub(super) use usual::UsualSpeed;

use crate::ledger::RequestKey;

/// Samples that are remembered, or runs of them that followed each other without a gap.
const WINDOW: usize = 24;
/// Minimum number of samples before a fit is reported.
const FEWEST: usize = 4;
/// First bytes that come this soon after the first of a group belong to it.
const TOGETHER: Duration = Duration::from_millis(2);

/// How one endpoint computes prompts.
#[derive(Clone, Debug, Default)]
pub(super) struct PrefillSpeed {
    /// Oldest first.
    samples: Vec<PrefillSample>,
    /// The first bytes that make the latest sample.
    group: Option<FirstByteGroup>,
    /// When the latest first byte came.
    latest: Option<Duration>,
    measure: Option<PrefillMeasure>,
    /// Samples since it was measured.
    news: usize,
}

/// First bytes that came together.
#[derive(Clone, Copy, Debug)]
struct FirstByteGroup {
    /// When its prompts began to be computed.
    began: Duration,
    /// When the first of them came.
    first: Duration,
}

/// One prompt, or several that were computed together.
#[derive(Clone, Copy, Debug)]
struct PrefillSample {
    /// The prompt, the first one of several.
    request: RequestKey,
    /// The uncached tokens of that prompt, as expected or, later, as reported.
    own: f64,
    /// Uncached tokens, of all that were computed together.
    tokens: f64,
    seconds: f64,
    /// The engine was computing the sample before it until this one began.
    continues: bool,
}

// === PrefillSpeed ===

impl PrefillSpeed {
    /// The first byte of an answer came at `now`, `ttft` after the request was sent, and `tokens`
    /// of its prompt were expected to be uncached.
    ///
    /// `now` must not go backwards.
    pub(super) fn answered(
        &mut self,
        request: RequestKey,
        now: Duration,
        ttft: Duration,
        tokens: u32,
    ) {
        let sent = now.saturating_sub(ttft);
        let began = self.latest.map_or(sent, |latest| latest.max(sent));
        let continues = self.group.is_some() && self.latest.is_some_and(|latest| latest > sent);
        self.latest = Some(now);
        let group = self
            .group
            .filter(|group| now.saturating_sub(group.first) < TOGETHER);
        if let (Some(group), Some(last)) = (group, self.samples.last_mut()) {
            last.tokens += f64::from(tokens);
            last.seconds = now.saturating_sub(group.began).as_secs_f64();
            return;
        }
        self.add(request, tokens, now.saturating_sub(began), continues);
        self.group = Some(FirstByteGroup { began, first: now });
    }

    /// An endpoint that computes several prompts at once computed one of `tokens` uncached tokens
    /// from `began` to `now`. First bytes that come together belong to different prompts.
    pub(super) fn computed(
        &mut self,
        request: RequestKey,
        began: Duration,
        now: Duration,
        tokens: u32,
    ) {
        (self.latest, self.group) = (Some(now), None);
        self.add(request, tokens, now.saturating_sub(began), false);
    }

    /// The first byte of a prompt came that shows nothing of the speed.
    pub(super) fn passed(&mut self, now: Duration) {
        (self.latest, self.group) = (Some(now), None);
    }

    /// Whether enough prompts have passed.
    pub(super) const fn is_measured(&self) -> bool {
        self.measure.is_some()
    }

    /// The engine reported that `tokens` of this prompt were uncached.
    pub(super) fn corrected(&mut self, request: RequestKey, tokens: u32) {
        let mut samples = self.samples.iter_mut();
        if let Some(sample) = samples.find(|sample| sample.request == request) {
            sample.tokens += f64::from(tokens) - sample.own;
            sample.own = tokens.into();
        }
    }

    /// What is known; `None` until a few prompts have passed. Where they were about as long, the
    /// endpoint is as much slower or faster than `others` as it was with them.
    #[must_use]
    pub(super) fn fit(&self, others: PrefillFit) -> Option<PrefillFit> {
        self.measure.map(|measure| measure.among(others))
    }

    /// What counts of it in a pool whose speed is `usual`.
    #[must_use]
    pub(super) fn among(&self, usual: UsualSpeed) -> PrefillFit {
        match self.measure {
            None => usual.prior(),
            Some(measure) => usual.shrunk(measure.among(usual.fit()), measure.tokens()),
        }
    }

    /// What is known without the help of others: prompts of different lengths have passed.
    #[must_use]
    pub(super) const fn line(&self) -> Option<PrefillFit> {
        match self.measure {
            Some(PrefillMeasure::Line { fit, .. }) => Some(fit),
            _ => None,
        }
    }

    /// Forgets so much that the next answer makes a new fit.
    pub(super) fn outdate(&mut self) {
        let old = self.samples.len().saturating_sub(FEWEST - 1);
        self.samples.drain(..old);
        self.measure = None;
    }

    /// Forgets everything: another process answers now.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn add(&mut self, request: RequestKey, tokens: u32, time: Duration, continues: bool) {
        self.samples.push(PrefillSample {
            request,
            own: tokens.into(),
            tokens: tokens.into(),
            seconds: time.as_secs_f64(),
            continues,
        });
        self.news += 1;
        let runs = fit::runs(&self.samples).count();
        if runs > WINDOW {
            let oldest = fit::runs(&self.samples).next().map_or(0, <[_]>::len);
            self.samples.drain(..oldest);
        }
        if self.samples.len() >= FEWEST && self.news * 8 >= runs.min(WINDOW) {
            self.news = 0;
            self.measure = Some(PrefillMeasure::of(&self.samples, self.measure));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        ledger::{ProxyId, RequestId},
        rng::SeededRng,
    };

    const REQUEST: RequestKey = RequestKey {
        proxy: ProxyId(0),
        request: RequestId(0),
    };
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
            prefill.answered(REQUEST, *now, ttft, tokens);
        }
    }

    fn prompts(seed: u64, count: usize) -> impl Iterator<Item = u32> {
        let mut rng = SeededRng::new(seed);
        std::iter::repeat_with(move || 50 + rng.below(12_000) as u32).take(count)
    }

    fn rate(prefill: &PrefillSpeed) -> f64 {
        prefill
            .fit(PrefillFit::prior(8_000.0))
            .expect("enough samples")
            .rate
    }

    #[test]
    fn ten_requests_are_enough() {
        let (mut prefill, mut now) = (PrefillSpeed::default(), Duration::ZERO);
        serve(&mut prefill, &mut now, 8_000.0, prompts(1, 10));
        let PrefillFit { base, rate } = prefill
            .fit(PrefillFit::prior(8_000.0))
            .expect("ten samples");
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
            prefill.answered(REQUEST, now, now, tokens);
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
    fn an_engine_that_is_never_idle_and_computes_in_steps_is_not_infinitely_fast() {
        let (mut prefill, mut now, mut rng) =
            (PrefillSpeed::default(), Duration::ZERO, SeededRng::new(7));
        // Steps of 8,192 tokens, in which prompts follow one another without a gap.
        let (mut left, step) = (0.0, Duration::from_secs_f64(8_192.0 / 8_000.0));
        for _ in 0..60 {
            let tokens = 12_200.0 + rng.below(400) as f64;
            while left < tokens {
                left += 8_192.0;
                now += step;
            }
            left -= tokens;
            prefill.answered(REQUEST, now, 3 * step, tokens as u32);
        }
        assert!(
            (6_000.0..25_000.0).contains(&rate(&prefill)),
            "{}",
            rate(&prefill)
        );
    }

    #[test]
    fn one_long_prompt_that_was_cached_or_stalled_moves_the_rate_little() {
        for ttft in [30 * MS, 24_000 * MS] {
            let (mut prefill, mut now) = (PrefillSpeed::default(), Duration::ZERO);
            let ordinary = |seed| prompts(seed, 30).map(|tokens| 200 + tokens % 2_000);
            serve(&mut prefill, &mut now, 8_000.0, ordinary(8));
            now += ttft;
            prefill.answered(REQUEST, now, ttft, 32_000);
            serve(&mut prefill, &mut now, 8_000.0, ordinary(9).take(6));
            assert!(
                (rate(&prefill) / 8_000.0 - 1.0).abs() < 0.05,
                "{}",
                rate(&prefill)
            );
        }
    }

    #[test]
    fn a_thousand_first_bytes_a_second_are_as_fast_as_they_are() {
        let (mut prefill, mut now) = (PrefillSpeed::default(), Duration::ZERO);
        for tokens in prompts(10, 3_000) {
            let tokens = 4 + tokens % 8;
            now += Duration::from_secs_f64(f64::from(tokens) / 8_000.0);
            prefill.answered(REQUEST, now, 5 * MS, tokens);
        }
        assert!(
            (rate(&prefill) / 8_000.0 - 1.0).abs() < 0.25,
            "{}",
            rate(&prefill)
        );
    }

    #[test]
    fn what_the_engine_reports_corrects_what_was_expected() {
        let (mut prefill, mut now) = (PrefillSpeed::default(), Duration::ZERO);
        for (request, tokens) in (0..).zip(prompts(11, 24)) {
            let request = RequestKey {
                request: RequestId(request),
                ..REQUEST
            };
            let ttft = 20 * MS + Duration::from_secs_f64(f64::from(tokens) / 8_000.0);
            now += ttft + 5 * MS;
            // Half of each prompt was cached, unexpectedly.
            prefill.answered(request, now, ttft, 2 * tokens);
            prefill.corrected(request, tokens);
        }
        prefill.outdate();
        serve(&mut prefill, &mut now, 8_000.0, prompts(12, 1));
        assert!(
            (rate(&prefill) / 8_000.0 - 1.0).abs() < 0.05,
            "{}",
            rate(&prefill)
        );
    }

    #[test]
    fn short_prompts_show_a_base_and_no_slow_rate() {
        let (mut prefill, mut now) = (PrefillSpeed::default(), Duration::ZERO);
        serve(&mut prefill, &mut now, 8_000.0, [40; 24]);
        let fit = prefill
            .fit(PrefillFit::prior(8_000.0))
            .expect("enough samples");
        assert!((fit.seconds(3_000.0) / 0.395 - 1.0).abs() < 0.05, "{fit:?}");
        assert_eq!(prefill.line(), None, "one length shows no slope");
    }

    /// Nonsense of one kind or another about a prompt of `tokens` tokens.
    fn nonsense(kind: u32, tokens: u32, rng: &mut SeededRng) -> (u32, Duration) {
        match kind {
            0 => (tokens, 20 * MS),
            1 => (32_000, 20 * MS),
            2 => (tokens, Duration::from_millis(rng.below(30_000) as u64)),
            3 => (32_000, 60_000 * MS),
            4 => (1, 30_000 * MS),
            _ => (
                rng.below(100_000) as u32,
                Duration::from_millis(rng.below(60_000) as u64),
            ),
        }
    }

    proptest! {
        /// Lengths have a heavy tail, times some noise, and every fifth answer is nonsense.
        #[test]
        fn a_fifth_of_nonsense_of_any_kind_moves_the_rate_by_less_than_a_quarter(
            seed in any::<u64>(), kind in 0u32..6, sigma in 0.6f64..1.6,
        ) {
            let (mut prefill, mut now) = (PrefillSpeed::default(), Duration::ZERO);
            let mut rng = SeededRng::new(seed);
            let mut unit = move || f64::from(rng.unit());
            let mut noise = SeededRng::new(seed ^ 1);
            for turn in 0..60 {
                // About normal: the sum of twelve.
                let normal = (0..12).map(|_| unit()).sum::<f64>() - 6.0;
                let tokens = (1_500.0 * (sigma * normal).exp()).clamp(16.0, 64_000.0);
                let exact = 0.02 + tokens / 8_000.0;
                let seconds = exact * (0.97 + 0.06 * unit());
                let (tokens, ttft) = if turn % 5 == 4 {
                    nonsense(kind, tokens as u32, &mut noise)
                } else {
                    (tokens as u32, Duration::from_secs_f64(seconds))
                };
                now += ttft + 5 * MS;
                prefill.answered(REQUEST, now, ttft, tokens);
            }
            prop_assert!((6_000.0..10_000.0).contains(&rate(&prefill)), "{}", rate(&prefill));
        }

        #[test]
        fn whatever_comes_a_fit_is_a_finite_positive_speed(
            answers in proptest::collection::vec((0u64..1_000_000, 0u64..10_000_000, any::<u32>()), 4..80),
        ) {
            let (mut prefill, mut now) = (PrefillSpeed::default(), Duration::ZERO);
            for (gap, ttft, tokens) in answers {
                now += Duration::from_micros(gap);
                prefill.answered(REQUEST, now, Duration::from_micros(ttft), tokens);
            }
            if let Some(PrefillFit { base, rate }) = prefill.fit(PrefillFit::prior(8_000.0)) {
                prop_assert!(base.is_finite() && base >= 0.0);
                prop_assert!((1.0 / fit::SLOWEST..=1.01 / fit::FASTEST).contains(&rate));
            }
        }
    }
}
