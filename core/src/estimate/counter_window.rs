//! Compares claims with an engine's counters: for engines that report no cached tokens per request.
//!
//! ```text
//!   scrape A                                                  scrape B
//!   ───┬─────────────────────────────────────────────────────────┬───▶ time
//!      │   sent ── scheduled ── first byte                       │         claimed in this window
//!   sent ── scheduled? ── first byte                             │         left out: before A, perhaps
//!      │                                sent ── scheduled? ── first byte   left out: after B, perhaps
//! ```
//!
//! An engine counts the hits of a prompt when it schedules it: after the prompt was sent, and
//! before the first byte of its answer. So what the counters grew by between two scrapes is at
//! least what true claims add up to of the prompts that were both sent and answered in between.
//! Prompts whose first byte never came claim nothing.
//!
//! What was left out makes false claims look better. So a window ends when it claims far more than
//! was left out at its begin, however long answers take: with N prompts in flight after about
//! max(20, 4 N) more.
//!
//! Hits of other clients of the engine look like hits of these claims: the counters do not
//! distinguish them, and confidence stays higher than it should.

use std::time::Duration;

use super::claims::CacheClaims;
use crate::query::CacheSource;

/// Prompts with claims that a window has at least.
const LEAST_PROMPTS: u32 = 20;

/// A window claims at least this many times what was left out at its begin.
const OUTWEIGHS: u64 = 4;

/// A window ends after this time, whatever was left out: traffic may have become less.
const LONGEST: Duration = Duration::from_secs(600);

/// Counters of an engine, since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheCounters {
    /// Prompt tokens that it looked up in its prefix cache.
    pub looked_up: u64,
    /// Prompt tokens that it found there.
    pub found: u64,
}

/// What was claimed of the cache for one prompt when it was sent, until its first byte comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SentClaim {
    /// The window in which it was sent.
    window: u32,
    /// The source whose claim was used, and the tokens it claimed; `None` when none did.
    claimed: Option<(CacheSource, u32)>,
    prompt_tokens: u32,
}

/// See the module. One per endpoint.
#[derive(Clone, Debug, Default)]
pub(super) struct CounterWindow {
    /// Grows with every window of this endpoint.
    number: u32,
    /// The counters at its begin, and when they were read; `None` before the first scrape.
    opened: Option<(CacheCounters, Duration)>,
    /// Of prompts whose first byte came before the last scrape began, so that the next one counts
    /// them.
    settled: ClaimTotals,
    /// Of later ones: a page may be older than the moment at which it is read.
    recent: ClaimTotals,
    /// A request ended without usage.
    is_needed: bool,
}

/// How much of a source's claims the counters confirm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct CounterVerdict {
    pub(super) source: CacheSource,
    /// Prompts for which its claim was used.
    pub(super) prompts: u32,
    /// The confirmed share, 0..=1.
    pub(super) kept: f32,
}

/// Sums over the prompts of one window.
#[derive(Clone, Copy, Debug, Default)]
struct ClaimTotals {
    /// Prompts and claimed tokens, in the order of [`CacheSource::ALL`].
    by_source: [(u32, u64); 3],
    prompt_tokens: u64,
    /// Claimed tokens of prompts that were sent before the window began.
    left_out: u64,
}

// === SentClaim ===

impl SentClaim {
    /// How many tokens the source that is used claims, at most.
    fn tokens(&self) -> u64 {
        self.claimed.map_or(0, |(_, tokens)| u64::from(tokens))
    }
}

// === CounterWindow ===

impl CounterWindow {
    /// The claims for a prompt that is sent now, of which that of `used` counts.
    pub(super) fn sent(
        &self,
        claims: CacheClaims,
        used: Option<CacheSource>,
        prompt_tokens: u32,
    ) -> SentClaim {
        // The last token is always computed: the engine samples from its output.
        let most = prompt_tokens.saturating_sub(1);
        let claim = |source| Some((source, claims.of(source)?.min(most)));
        SentClaim {
            window: self.number,
            claimed: used.and_then(claim),
            prompt_tokens,
        }
    }

    /// The first byte of a prompt's answer came. Claims up to `tolerance` tokens are rounding.
    pub(super) fn answered(&mut self, sent: SentClaim, tolerance: u32) {
        if sent.window != self.number {
            self.recent.left_out += sent.tokens();
            return;
        }
        self.recent.prompt_tokens += u64::from(sent.prompt_tokens);
        if let Some((source, tokens)) = sent.claimed.filter(|(_, tokens)| *tokens > tolerance) {
            let (prompts, claimed) = &mut self.recent.by_source[source as usize];
            *prompts += 1;
            *claimed += u64::from(tokens);
        }
    }

    /// A request ended without usage: the counters are all that the engine reports of it.
    pub(super) const fn unreported(&mut self) {
        self.is_needed = true;
    }

    /// The engine was scraped. Returns what follows for each source, at the end of a window.
    /// `tolerance` is the rounding of one claim in tokens.
    pub(super) fn scraped(
        &mut self,
        counters: CacheCounters,
        tolerance: u32,
        now: Duration,
    ) -> impl Iterator<Item = CounterVerdict> {
        let verdicts = self.close(counters, tolerance, now);
        if verdicts.is_some() || self.opened.is_none() {
            self.reopen(counters, now);
        } else {
            self.settled.add(std::mem::take(&mut self.recent));
        }
        verdicts.into_iter().flatten().flatten()
    }

    /// The engine lost its cache, and its counters began again at zero.
    pub(super) fn restart(&mut self) {
        self.number = self.number.wrapping_add(1);
        self.opened = None;
    }

    /// The verdicts, if the window ends now; all `None` when it says nothing.
    fn close(
        &self,
        counters: CacheCounters,
        tolerance: u32,
        now: Duration,
    ) -> Option<[Option<CounterVerdict>; 3]> {
        let (begin, since) = self.opened?;
        let grown = |now: u64, then: u64| now.checked_sub(then);
        let (Some(looked_up), Some(found)) = (
            grown(counters.looked_up, begin.looked_up),
            grown(counters.found, begin.found),
        ) else {
            return Some([None; 3]);
        };
        let is_late = now.saturating_sub(since) >= LONGEST;
        if !self.settled.is_enough(is_late) {
            return None;
        }
        if !self.is_needed {
            return Some([None; 3]);
        }
        Some(self.settled.judge(looked_up, found, tolerance))
    }

    fn reopen(&mut self, counters: CacheCounters, now: Duration) {
        *self = Self {
            number: self.number.wrapping_add(1),
            opened: Some((counters, now)),
            ..Self::default()
        };
    }
}

// === ClaimTotals ===

impl ClaimTotals {
    fn add(&mut self, other: Self) {
        for (sum, one) in self.by_source.iter_mut().zip(other.by_source) {
            sum.0 += one.0;
            sum.1 += one.1;
        }
        self.prompt_tokens += other.prompt_tokens;
        self.left_out += other.left_out;
    }

    fn is_enough(&self, is_late: bool) -> bool {
        let prompts: u32 = self.by_source.iter().map(|(prompts, _)| prompts).sum();
        prompts >= LEAST_PROMPTS && (is_late || self.claimed() >= OUTWEIGHS * self.left_out)
    }

    fn claimed(&self) -> u64 {
        self.by_source.iter().map(|(_, tokens)| tokens).sum()
    }

    /// The counters grew by `looked_up` and `found`. They do not show
    /// which of several sources was wrong: the confirmed share is that of all claims.
    fn judge(&self, looked_up: u64, found: u64, tolerance: u32) -> [Option<CounterVerdict>; 3] {
        let prompts: u32 = self.by_source.iter().map(|(prompts, _)| prompts).sum();
        // Lengths are estimates when no usage is reported. Where all prompts together were fewer
        // tokens for the engine, so were the claimed ones.
        let shorter = (looked_up as f64 / self.prompt_tokens.max(1) as f64).min(1.0);
        let claimed = self.claimed() as f64 * shorter;
        let rounding = u64::from(prompts) * u64::from(tolerance);
        let kept = ((found + rounding) as f64 / claimed.max(1.0)).min(1.0) as f32;
        CacheSource::ALL.map(|source| {
            let (prompts, _) = self.by_source[source as usize];
            (prompts > 0).then_some(CounterVerdict {
                source,
                prompts,
                kept,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLERANCE: u32 = 64;

    fn claims(kv_manager: u32) -> CacheClaims {
        CacheClaims {
            learned: 1_000,
            kv_manager: Some(kv_manager),
            ..CacheClaims::default()
        }
    }

    fn counters(looked_up: u64, found: u64) -> CacheCounters {
        CacheCounters { looked_up, found }
    }

    /// The verdicts of a window of 20 prompts, whose source is `used`, at the end of which the
    /// counters grew by this.
    fn verdicts(used: CacheSource, grown: CacheCounters) -> Vec<CounterVerdict> {
        let mut window = CounterWindow::default();
        let at = Duration::from_secs;
        assert_eq!(window.scraped(counters(0, 0), TOLERANCE, at(0)).count(), 0);
        for _ in 0..20 {
            let sent = window.sent(claims(4_000), Some(used), 5_000);
            window.answered(sent, TOLERANCE);
        }
        window.unreported();
        let early = window.scraped(counters(0, 0), TOLERANCE, at(1)).count();
        assert_eq!(early, 0, "the page may be older than the answers");
        window.scraped(grown, TOLERANCE, at(2)).collect()
    }

    #[test]
    fn the_source_whose_claim_was_used_is_judged() {
        let found = counters(100_000, 20 * 2_000);
        let [verdict] = verdicts(CacheSource::KvManager, found)[..] else {
            panic!("one source")
        };
        assert_eq!(
            (verdict.source, verdict.prompts),
            (CacheSource::KvManager, 20)
        );
        assert!((0.5..0.52).contains(&verdict.kept), "{verdict:?}");
        let [learned] = verdicts(CacheSource::Learned, found)[..] else {
            panic!("one source")
        };
        assert_eq!((learned.source, learned.kept), (CacheSource::Learned, 1.0));
    }

    #[test]
    fn claims_are_as_much_too_long_as_prompts_are() {
        let half = counters(50_000, 20 * 2_000);
        let kept = verdicts(CacheSource::KvManager, half)[0].kept;
        assert_eq!(kept, 1.0, "a prompt of 5,000 tokens was one of 2,500");
    }

    #[test]
    fn claims_of_prompts_that_were_not_answered_or_sent_earlier_do_not_count() {
        let mut window = CounterWindow::default();
        let at = Duration::from_secs;
        let early = window.sent(claims(4_000), Some(CacheSource::KvManager), 5_000);
        assert_eq!(window.scraped(counters(0, 0), TOLERANCE, at(0)).count(), 0);
        for _ in 0..30 {
            window.answered(early, TOLERANCE);
            _ = window.sent(claims(4_000), Some(CacheSource::KvManager), 5_000);
        }
        window.unreported();
        for second in 1..1_000 {
            let verdicts = window.scraped(counters(0, 0), TOLERANCE, at(second));
            assert_eq!(verdicts.count(), 0);
        }
    }

    #[test]
    fn counters_judge_only_where_usage_is_missing() {
        let mut window = CounterWindow::default();
        let at = Duration::from_secs;
        assert_eq!(window.scraped(counters(0, 0), TOLERANCE, at(0)).count(), 0);
        for second in 1..100 {
            for _ in 0..20 {
                let sent = window.sent(claims(4_000), Some(CacheSource::KvManager), 5_000);
                window.answered(sent, TOLERANCE);
            }
            let verdicts = window.scraped(counters(0, 0), TOLERANCE, at(second));
            assert_eq!(verdicts.count(), 0);
        }
    }
}
