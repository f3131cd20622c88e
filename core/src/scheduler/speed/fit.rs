//! `seconds = base + tokens / rate` through a few measured prompts, some of which may be nonsense.
//!
//! The slope is a repeated median (Siegel 1982): for each sample the weighted median of its slopes
//! to all others, and of these the median. A pair weighs as much as its distance, as far slopes
//! have less noise, but no more than the lower quartile of all distances: one prompt much longer
//! than the others weighs as much as any of them. The base is the median of what is left.
//!
//! A slope is trusted within bounds that need no pair. The tokens of the longer prompts take no
//! more than their whole time, and all of it but for a plausible [base](MOST_BASE): an engine that
//! is never idle computes in steps of one length, and by pairs alone its tokens take no time at
//! all.
//!
//! Prompts that an engine computed without a pause in between enter as their [mean](MeanPrompt): a
//! first byte comes at the end of a step that the next prompt has a part of, so that only sums of
//! them are exact. Otherwise slopes of a full engine are noise; a rate that is too high sends more
//! than one prompt at once; and those share more steps.
//!
//! Lengths that are all [alike](PrefillMeasure::Alike) show one time and no slope.

use smallvec::SmallVec;

use super::{FEWEST, PrefillSample, WINDOW};

/// Pairs of samples that differ by fewer tokens show nothing of the slope.
const APART: f64 = 32.0;
/// Lengths within this range are alike, in tokens, and in shares of their median: the steps of an
/// engine, and what it generates meanwhile, make more of a difference than so few tokens.
const ALIKE: f64 = 256.0;
const ALIKE_SHARE: f64 = 0.25;
/// What prompts take beside their tokens: a tenth of a second at most, or shares of their time. No
/// engine is known that needs longer for an empty prompt.
const MOST_BASE: f64 = 0.1;
const MOST_BASE_SHARE: (f64, f64) = (0.2, 0.5);
/// Bounds of seconds per prompt token of any engine.
pub(super) const SLOWEST: f64 = 0.1;
pub(super) const FASTEST: f64 = 1e-7;
/// Prompts of one mean at most. At least [`FEWEST`] means stay, if there are as many samples.
const MOST_OF_MEAN: usize = 4;
/// A fit changes the slope by this factor at most.
const STEP: f64 = 2.0;

/// `seconds = base + tokens / rate`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::scheduler) struct PrefillFit {
    /// Seconds that even an empty prompt takes.
    pub(in crate::scheduler) base: f64,
    /// Prompt tokens a second.
    pub(in crate::scheduler) rate: f64,
}

/// What the samples of one endpoint show.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum PrefillMeasure {
    /// Prompts of different lengths: a line.
    Line {
        /// It.
        fit: PrefillFit,
        /// The median of uncached tokens, at least 1.
        tokens: f64,
    },
    /// Prompts that are about as long: what their median takes.
    Alike {
        /// Uncached tokens, at least 1.
        tokens: f64,
        /// Seconds, above 0.
        seconds: f64,
    },
}

/// A prompt, or the mean of several that were computed without a pause.
#[derive(Clone, Copy, Debug)]
pub(super) struct MeanPrompt {
    /// Uncached tokens.
    pub(super) tokens: f64,
    pub(super) seconds: f64,
}

/// What is compared of samples.
type MeanPrompts = SmallVec<[MeanPrompt; WINDOW]>;

/// Values with their weights.
type Weighted = SmallVec<[(f64, f64); WINDOW]>;

/// Samples that are averaged, oldest first: those that were computed without a pause, or one alone.
pub(super) fn runs(samples: &[PrefillSample]) -> impl Iterator<Item = &[PrefillSample]> {
    let most = (samples.len() / FEWEST).clamp(1, MOST_OF_MEAN);
    let mut rest = samples;
    std::iter::from_fn(move || {
        let others = rest.get(1..)?.iter().take_while(|sample| sample.continues);
        let (run, after) = rest.split_at(others.take(most - 1).count() + 1);
        rest = after;
        Some(run)
    })
}

// === PrefillMeasure ===

impl PrefillMeasure {
    /// Of samples, at least one; `before` is what was measured last.
    pub(super) fn of(samples: &[PrefillSample], before: Option<Self>) -> Self {
        let samples = &MeanPrompt::all(samples)[..];
        let mut lengths: SmallVec<[f64; WINDOW]> = samples.iter().map(|one| one.tokens).collect();
        lengths.sort_unstable_by(f64::total_cmp);
        let (middle, edge) = (samples.len() / 2, samples.len() / 8);
        let tokens = lengths[middle].max(1.0);
        let spread = lengths[samples.len() - 1 - edge] - lengths[edge];
        if spread < ALIKE.max(ALIKE_SHARE * tokens) {
            let mut times: SmallVec<[f64; WINDOW]> =
                samples.iter().map(|one| one.seconds).collect();
            times.sort_unstable_by(f64::total_cmp);
            let seconds = times[middle].clamp(tokens * FASTEST, tokens * SLOWEST);
            return Self::Alike { tokens, seconds };
        }
        let before = match before {
            Some(Self::Line { fit, .. }) => Some(fit),
            _ => None,
        };
        let fit = PrefillFit::of(samples, before);
        Self::Line { fit, tokens }
    }

    /// The length of prompts that it was measured with, at least 1.
    pub(super) const fn tokens(self) -> f64 {
        match self {
            Self::Line { tokens, .. } | Self::Alike { tokens, .. } => tokens,
        }
    }

    /// As a line. Lengths that are alike show how much slower or faster the endpoint is than
    /// `others` would be with them. Where nothing is known of others but a usual rate, short
    /// prompts show a base: their tokens need next to nothing.
    pub(super) fn among(self, others: PrefillFit) -> PrefillFit {
        let (tokens, seconds) = match self {
            Self::Line { fit, .. } => return fit,
            Self::Alike { tokens, seconds } => (tokens, seconds),
        };
        let rest = seconds - tokens / others.rate;
        if others.base == 0.0 && tokens < ALIKE && rest > 0.0 {
            return PrefillFit {
                base: rest,
                ..others
            };
        }
        others.scaled(seconds / others.seconds(tokens))
    }
}

// === MeanPrompt ===

impl MeanPrompt {
    /// The means of samples, oldest first.
    fn all(samples: &[PrefillSample]) -> MeanPrompts {
        let mean = |run: &[PrefillSample]| {
            let sum = |of: fn(&PrefillSample) -> f64| run.iter().map(of).sum::<f64>();
            Self {
                tokens: sum(|sample| sample.tokens) / run.len() as f64,
                seconds: sum(|sample| sample.seconds) / run.len() as f64,
            }
        };
        runs(samples).map(mean).collect()
    }
}

// === PrefillFit ===

impl PrefillFit {
    /// An endpoint of which nothing is known but a usual rate, in tokens a second.
    #[must_use]
    pub(in crate::scheduler) const fn prior(rate: f64) -> Self {
        Self { base: 0.0, rate }
    }

    /// That of an endpoint which takes `share` of the time.
    #[must_use]
    pub(in crate::scheduler) fn scaled(self, share: f64) -> Self {
        Self {
            base: self.base * share,
            rate: self.rate / share,
        }
    }

    /// Prefill seconds of a prompt with `tokens` uncached tokens.
    #[must_use]
    pub(in crate::scheduler) fn seconds(&self, tokens: f64) -> f64 {
        self.base + tokens / self.rate
    }

    fn of(samples: &[MeanPrompt], before: Option<Self>) -> Self {
        let whole = per_token(samples);
        let slope = repeated_median(samples).unwrap_or(whole);
        let mut slope = slope.clamp((1.0 - most_base_share(samples)) * whole, whole);
        if let Some(before) = before {
            slope = slope.clamp(1.0 / (before.rate * STEP), STEP / before.rate);
        }
        let slope = slope.clamp(FASTEST, SLOWEST);
        let rest = samples.iter().map(|one| one.seconds - one.tokens * slope);
        let mut rest: Weighted = rest.map(|rest| (rest, 1.0)).collect();
        let base = weighted_median(&mut rest).unwrap_or(0.0).max(0.0);
        Self {
            base,
            rate: 1.0 / slope,
        }
    }
}

/// The share of the time of prompts that is not due to their tokens, at most.
fn most_base_share(samples: &[MeanPrompt]) -> f64 {
    let (least, most) = MOST_BASE_SHARE;
    let by_tokens = samples.iter().map(|one| (one.seconds, one.tokens));
    let mut by_tokens: Weighted = by_tokens.collect();
    let seconds = weighted_median(&mut by_tokens).unwrap_or(0.0);
    (MOST_BASE / seconds).clamp(least, most)
}

/// Whole seconds per token of the longer half of the prompts: the median.
fn per_token(samples: &[MeanPrompt]) -> f64 {
    let mut all: Weighted = samples
        .iter()
        .map(|one| (one.tokens, one.seconds))
        .collect();
    all.sort_unstable_by(|(a, _), (b, _)| a.total_cmp(b));
    let longer = all[samples.len() / 2..].iter();
    let mut ratios: Weighted = longer
        .map(|(tokens, seconds)| (seconds / tokens.max(1.0), 1.0))
        .collect();
    weighted_median(&mut ratios).unwrap_or(SLOWEST)
}

/// The slope of samples, see the module; `None` when no two of them are apart.
pub(super) fn repeated_median(samples: &[MeanPrompt]) -> Option<f64> {
    let apart = |one: &MeanPrompt, other: &MeanPrompt| {
        let distance = (one.tokens - other.tokens).abs();
        (distance >= APART).then_some(distance)
    };
    let mut distances = Vec::with_capacity(samples.len() * samples.len() / 2);
    for (at, one) in samples.iter().enumerate() {
        distances.extend(
            samples[at + 1..]
                .iter()
                .filter_map(|other| apart(one, other)),
        );
    }
    let quartile = distances.len() / 4;
    if distances.is_empty() {
        return None;
    }
    let (_, most, _) = distances.select_nth_unstable_by(quartile, f64::total_cmp);
    let most = *most;
    let of_one = |one: &MeanPrompt| {
        let slope = |other: &MeanPrompt| {
            let distance = apart(one, other)?;
            let slope = (one.seconds - other.seconds) / (one.tokens - other.tokens);
            Some((slope, distance.min(most)))
        };
        let mut slopes: Weighted = samples.iter().filter_map(slope).collect();
        weighted_median(&mut slopes)
    };
    let medians = samples.iter().filter_map(of_one);
    let mut medians: Weighted = medians.map(|median| (median, 1.0)).collect();
    weighted_median(&mut medians)
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
    use std::{collections::VecDeque, time::Duration};

    use super::*;
    use crate::{
        ledger::{ProxyId, RequestId, RequestKey},
        rng::SeededRng,
        scheduler::speed::PrefillSpeed,
    };

    /// Tokens of a step, and tokens a second.
    const STEP_TOKENS: f64 = 8_192.0;
    const RATE: f64 = 8_000.0;

    /// The fit after each first byte of an engine that always has three prompts, and computes them
    /// in order, in full steps.
    fn fits_of_full_engine(prompts: impl Iterator<Item = f64>) -> Vec<PrefillFit> {
        let (mut speed, mut now, mut fits) = (PrefillSpeed::default(), 0.0f64, Vec::new());
        let mut prompts = prompts.zip(0..);
        // What is left of each, its length, its number, and when it was sent.
        let mut queue = VecDeque::new();
        loop {
            while queue.len() < 3 {
                let Some((tokens, number)) = prompts.next() else {
                    return fits;
                };
                queue.push_back((tokens, tokens, number, now));
            }
            let (mut budget, mut computed) = (STEP_TOKENS, Vec::new());
            while let Some((left, tokens, number, sent)) = queue.pop_front() {
                if left > budget {
                    queue.push_front((left - budget, tokens, number, sent));
                    budget = 0.0;
                    break;
                }
                budget -= left;
                computed.push((tokens, number, sent));
            }
            now += 0.008 + (STEP_TOKENS - budget) / RATE;
            for (tokens, number, sent) in computed {
                let request = RequestKey {
                    proxy: ProxyId(0),
                    request: RequestId(number),
                };
                let ttft = Duration::from_secs_f64(now - sent);
                speed.answered(request, Duration::from_secs_f64(now), ttft, tokens as u32);
                fits.extend(speed.line());
            }
        }
    }

    #[test]
    fn long_prompts_that_all_take_one_time_show_no_base_of_half_of_it() {
        let (mut speed, ttft) = (PrefillSpeed::default(), Duration::from_millis(1_500));
        for number in 0..24 {
            let request = RequestKey {
                proxy: ProxyId(0),
                request: RequestId(number),
            };
            let now = Duration::from_secs(2 * number + 2);
            speed.answered(request, now, ttft, 8_000 + 300 * number as u32);
        }
        let fit = speed.line().expect("different lengths");
        assert!(fit.rate < 11_000.0, "{fit:?}");
    }

    #[test]
    fn prompts_that_share_the_steps_of_a_full_engine_show_its_rate() {
        for seed in 0..20 {
            let mut rng = SeededRng::new(seed);
            let prompts = std::iter::repeat_with(|| {
                let is_short = rng.unit() < 0.5;
                if is_short {
                    90.0
                } else {
                    9_000.0 + rng.below(8_000) as f64
                }
            });
            let fits = fits_of_full_engine(prompts.take(300));
            let mean = fits.iter().map(|fit| fit.rate).sum::<f64>() / fits.len().max(1) as f64;
            assert!((0.8 * RATE..1.4 * RATE).contains(&mean), "{mean}");
        }
    }
}
