//! How much the prompts before it delay a prompt at one endpoint: φ, from 0 (independent) to 1 (one
//! after the other).
//!
//! ```text
//!   time to first token = base + own / rate + φ · ahead          ahead: seconds of the prompts before it, one after the other
//! ```
//!
//! An engine with one scheduler has φ = 1. Behind a gateway, or with ranks or stages that no label
//! shows, a prompt delays the next by a part of its time. Where running prompts share time it does
//! not delay it more than itself. φ is found in the last prompts that were sent behind others, from
//! `(time to first token − base − own / rate) / ahead`, and is 1 until a few of them passed. Of
//! these it is the upper quartile: prompts ahead that were cached unexpectedly make φ look small,
//! and a φ that is too small sends everything that waits into the queue of one engine. For the same
//! reason no more prompts are sent at once than [twice](PrefillInterference::reach) as many as were
//! seen to be computed beside each other.
//!
//! As long as φ is 1, only prompts that are sent within the window are behind others, and they show
//! little. So φ is explored: a request that would have to wait otherwise is sent behind one prompt,
//! as often as is needed to know φ, and rarely afterwards. Where φ is 1 it begins no later for
//! that. A φ that is too small corrects itself, as then every prompt is behind others.

use std::{collections::VecDeque, time::Duration};

use crate::{
    ledger::{LegKey, RequestKey},
    scheduler::speed::PrefillFit,
};

/// Unanswered prompts that are remembered at most; of more, the newest show nothing, as
/// they are answered last.
const MAX_SENT: usize = 64;
/// Prompts that φ is the upper quartile of.
const WINDOW: usize = 9;
/// The least number of prompts that show φ.
const FEWEST: usize = 4;
/// Work ahead shows φ if it is at least this much, in seconds and in parts of the prompt's own
/// time.
const LEAST_AHEAD: f64 = 0.02;
const LEAST_PART: f64 = 0.5;
/// Explorations without a pause, while φ is unknown.
const EAGER: u32 = 8;
/// First bytes between two explorations otherwise.
const PAUSE: u32 = 256;
/// From here on φ counts as 1. Two schedulers, or stages, have at most ½: more than that is one
/// scheduler, seen through noise.
const SERIAL: f64 = 0.67;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct PrefillInterference {
    /// Oldest first.
    sent: VecDeque<PromptAhead>,
    /// Oldest first.
    samples: VecDeque<InterferenceSample>,
    /// φ, 0..=1; `None` while it is unknown.
    share: Option<f64>,
    /// Explorations so far.
    explored: u32,
    /// First bytes since the last exploration.
    quiet: u32,
}

/// A prompt whose first byte did not come yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct PromptAhead {
    leg: LegKey,
    /// Tokens of the prompts before it that were not computed when it was sent.
    pub(super) ahead: f64,
    /// How many prompts these are of.
    unanswered: u32,
    /// It was sent to explore φ, and not because there was room.
    pub(super) explores: bool,
}

/// A prompt that was sent behind others.
#[derive(Clone, Copy, Debug)]
struct InterferenceSample {
    request: RequestKey,
    /// Uncached tokens of its own, as expected or, later, as reported.
    own: f64,
    /// Tokens of those before it.
    ahead: f64,
    /// How many those were.
    unanswered: u32,
    /// Seconds to its first token.
    ttft: f64,
}

impl PrefillInterference {
    /// φ, 0..=1; 1 while it is unknown.
    pub(super) fn share(&self) -> f64 {
        self.share.unwrap_or(1.0)
    }

    /// Whether enough prompts have shown φ.
    pub(super) const fn is_known(&self) -> bool {
        self.share.is_some()
    }

    /// Up to how many unanswered prompts φ holds: twice as many as the last prompts were sent
    /// behind.
    pub(super) fn reach(&self) -> u32 {
        let behind = self.samples.iter().map(|sample| sample.unanswered);
        behind.max().map_or(0, |most| most.saturating_mul(2))
    }

    /// Whether it is time to send a prompt behind another one.
    pub(super) const fn is_due(&self) -> bool {
        self.quiet >= PAUSE || (self.share.is_none() && self.explored < EAGER)
    }

    /// A prompt is sent behind `ahead` tokens of `unanswered` prompts.
    pub(super) fn sent(&mut self, leg: LegKey, ahead: f64, unanswered: u32, explores: bool) {
        if explores {
            self.explored = self.explored.saturating_add(1);
            self.quiet = 0;
        }
        // A leg that is sent again is one prompt.
        self.left(leg);
        if self.sent.len() == MAX_SENT {
            return;
        }
        self.sent.push_back(PromptAhead {
            leg,
            ahead,
            unanswered,
            explores,
        });
    }

    /// The first byte of a prompt with `own` uncached tokens came, `ttft` after it was sent. `fit`
    /// is what the endpoint needs for a prompt alone, if that is known. Returns how it was sent.
    pub(super) fn answered(
        &mut self,
        leg: LegKey,
        own: u32,
        ttft: Duration,
        fit: Option<PrefillFit>,
    ) -> Option<PromptAhead> {
        self.quiet = self.quiet.saturating_add(1);
        let sent = self.left(leg)?;
        let Some(fit) = fit else { return Some(sent) };
        let least = LEAST_AHEAD.max(LEAST_PART * fit.seconds(own.into()));
        if sent.ahead / fit.rate >= least {
            if self.samples.len() == WINDOW {
                self.samples.pop_front();
            }
            self.samples.push_back(InterferenceSample {
                request: leg.request,
                own: own.into(),
                ahead: sent.ahead,
                unanswered: sent.unanswered,
                ttft: ttft.as_secs_f64(),
            });
            self.share = self.upper_quartile(fit);
        }
        Some(sent)
    }

    /// A prompt left, or is assumed to be computed, without a first byte that shows anything.
    pub(super) fn left(&mut self, leg: LegKey) -> Option<PromptAhead> {
        let at = self.sent.iter().position(|sent| sent.leg == leg)?;
        self.sent.remove(at)
    }

    /// Prompts left: those that `stays` does not name.
    pub(super) fn retain(&mut self, stays: impl Fn(LegKey) -> bool) {
        self.sent.retain(|sent| stays(sent.leg));
    }

    /// The engine reported that `tokens` of this prompt were uncached.
    pub(super) fn corrected(&mut self, request: RequestKey, tokens: u32) {
        let mut samples = self.samples.iter_mut();
        if let Some(sample) = samples.find(|sample| sample.request == request) {
            sample.own = tokens.into();
        }
    }

    fn upper_quartile(&self, fit: PrefillFit) -> Option<f64> {
        let share = |sample: &InterferenceSample| {
            let waited = sample.ttft - fit.seconds(sample.own);
            (waited * fit.rate / sample.ahead).clamp(0.0, 1.0)
        };
        let mut shares: Vec<f64> = self.samples.iter().map(share).collect();
        shares.sort_unstable_by(f64::total_cmp);
        let is_enough = shares.len() >= FEWEST;
        is_enough.then(|| {
            let quartile = shares[shares.len() * 3 / 4];
            if quartile < SERIAL { quartile } else { 1.0 }
        })
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

    const FIT: PrefillFit = PrefillFit {
        base: 0.02,
        rate: 8_000.0,
    };

    fn key(request: u64) -> LegKey {
        let key = RequestKey {
            proxy: ProxyId(0),
            request: RequestId(request),
        };
        key.into()
    }

    /// A prompt of `own` tokens behind `ahead`, where each of these delays it by `share` of its
    /// time.
    fn pass(
        interference: &mut PrefillInterference,
        request: u64,
        (own, ahead): (u32, f64),
        share: f64,
    ) {
        interference.sent(key(request), ahead, 1, interference.is_due());
        let ttft = FIT.seconds(own.into()) + share * ahead / FIT.rate;
        let ttft = Duration::from_secs_f64(ttft);
        interference.answered(key(request), own, ttft, Some(FIT));
    }

    #[test]
    fn it_is_explored_until_it_is_known_and_rarely_afterwards() {
        let mut interference = PrefillInterference::default();
        for request in 0..FEWEST as u64 {
            assert!(interference.is_due() && !interference.is_known());
            pass(&mut interference, request, (4_000, 4_000.0), 1.0);
        }
        assert!(interference.is_known() && interference.share() > 0.99);
        let due = (10..10 + 10 * u64::from(PAUSE)).filter(|&request| {
            let is_due = interference.is_due();
            pass(&mut interference, request, (4_000, 0.0), 1.0);
            is_due
        });
        assert_eq!(due.count(), 10);
    }

    #[test]
    fn explorations_that_show_nothing_are_not_repeated_without_end() {
        let mut interference = PrefillInterference::default();
        let eager = (0..60).filter(|&request| {
            let is_due = interference.is_due();
            pass(&mut interference, request, (40_000, 500.0), 1.0);
            is_due
        });
        assert_eq!(eager.count(), EAGER as usize);
    }

    #[test]
    fn prompts_without_a_first_byte_are_bounded() {
        let mut interference = PrefillInterference::default();
        (0..1_000).for_each(|request| interference.sent(key(request), 1.0, 1, false));
        assert_eq!(interference.sent.len(), MAX_SENT);
        let answered = |interference: &mut PrefillInterference, request| {
            let sent = interference.answered(key(request), 1, Duration::ZERO, Some(FIT));
            sent.is_some()
        };
        assert!(answered(&mut interference, 1) && !answered(&mut interference, 999));
        interference.retain(|leg| leg == key(2));
        interference.sent(key(1_000), 1.0, 0, false);
        interference.sent(key(1_000), 1.0, 0, false);
        assert_eq!(interference.sent.len(), 2, "nothing else is unanswered");
    }

    proptest! {
        #[test]
        fn the_share_is_found_though_one_prompt_in_five_is_nonsense(seed in any::<u64>(), share in 0.0f64..=1.0) {
            let (mut interference, mut rng) = (PrefillInterference::default(), SeededRng::new(seed));
            for request in 0..40 {
                let own = 500 + rng.below(4_000) as u32;
                let ahead = f64::from(own) * (0.7 + f64::from(rng.unit()));
                let wrong = if request % 5 == 0 { f64::from(rng.unit()) * 9.0 - 1.0 } else { share };
                let noise = 0.04 * (f64::from(rng.unit()) - 0.5);
                pass(&mut interference, request, (own, ahead), (wrong + noise).max(-0.2));
            }
            let found = interference.share();
            let expected = if share < SERIAL { share } else { 1.0 };
            let is_between = (SERIAL - 0.1..SERIAL + 0.1).contains(&share);
            prop_assert!(is_between || (found - expected).abs() < 0.1, "{found} for {share}");
        }
    }
}
