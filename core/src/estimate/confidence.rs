//! Confidence in each cache source of one endpoint: the share of its claims that engines confirmed.

use super::{claims::CacheClaims, counter_window::CounterVerdict};
use crate::query::CacheSource;

/// Weight of one report.
const STEP: f32 = 0.1;
/// Confidence never falls lower, so that a source that becomes right again is noticed.
const LEAST: f32 = 0.02;
/// The learned index of an endpoint shrinks to this share of the engine's stated capacity at least.
const SMALLEST: f32 = 0.2;
/// Factors of the index's size for a claim that failed, at least, and for one that was confirmed.
const SHRINK: f32 = 0.97;
const GROW: f32 = 1.005;
/// The confirmed share of a claim from which on it counts as confirmed: lengths are estimates.
const CONFIRMED: f32 = 0.95;

/// More prompts than this move nothing further.
const MANY: u32 = 1_000;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct SourceConfidence {
    shares: [f32; 3],
    /// Share of the engine's stated capacity that the learned index uses.
    index_share: f32,
}

impl Default for SourceConfidence {
    fn default() -> Self {
        Self {
            shares: [1.0; 3],
            index_share: 1.0,
        }
    }
}

impl SourceConfidence {
    /// The factor of a source's claims, 0..=1.
    pub(crate) const fn of(&self, source: CacheSource) -> f32 {
        self.shares[source as usize]
    }

    /// The share of the engine's stated capacity that the learned index uses, 0..=1.
    pub(crate) const fn index_share(&self) -> f32 {
        self.index_share
    }

    /// The engine reported `cached` tokens for a request with these claims; differences up to
    /// `tolerance` are rounding.
    pub(crate) fn observe(&mut self, claims: CacheClaims, cached: u32, tolerance: u32) {
        for source in CacheSource::ALL {
            if let Some(claimed) = claims.of(source).filter(|claimed| *claimed > tolerance) {
                self.confirm(source, (cached + tolerance) as f32 / claimed as f32);
            }
        }
        // KV events overrule other sources, so a miss that another source rightly denied counts
        // against them, too.
        let missed = |claimed: &u32| claims.best_of_others().min(cached) > claimed + tolerance;
        if let Some(claimed) = claims
            .kv_events
            .filter(|claimed| !claims.kv_events_partial && missed(claimed))
        {
            self.confirm(
                CacheSource::KvEvents,
                (claimed + tolerance) as f32 / cached as f32,
            );
        }
        if claims.learned > tolerance {
            self.resize_index((cached + tolerance) as f32 / claims.learned as f32, 1);
        }
    }

    /// The engine's counters confirmed a share of the claims for some prompts.
    pub(super) fn judged(&mut self, verdict: CounterVerdict) {
        let CounterVerdict {
            source,
            prompts,
            kept,
        } = verdict;
        let share = &mut self.shares[source as usize];
        // As that many reports of the mean would move it.
        let weight = 1.0 - (1.0 - STEP).powi(prompts.min(MANY) as i32);
        *share = (*share + weight * (kept - *share)).max(LEAST);
        if source == CacheSource::Learned {
            self.resize_index(kept, prompts);
        }
    }

    /// This share of a claim was confirmed.
    fn confirm(&mut self, source: CacheSource, kept: f32) {
        let share = &mut self.shares[source as usize];
        *share = (*share + STEP * (kept.min(1.0) - *share)).max(LEAST);
    }

    /// This share of the learned index's claims for `prompts` prompts was confirmed: its size
    /// changes in proportion.
    fn resize_index(&mut self, kept: f32, prompts: u32) {
        let prompts = prompts.min(MANY) as i32;
        let factor = if kept >= CONFIRMED {
            GROW.powi(prompts)
        } else {
            kept.max(SHRINK.powi(prompts))
        };
        self.index_share = (self.index_share * factor).clamp(SMALLEST, 1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confidence_drops_on_wrong_claims_and_recovers() {
        let mut confidence = SourceConfidence::default();
        let claims = CacheClaims {
            kv_manager: Some(1_000),
            ..CacheClaims::default()
        };
        (0..40).for_each(|_| confidence.observe(claims, 0, 16));
        assert!(confidence.of(CacheSource::KvManager) < 0.05);
        assert_eq!(
            (
                confidence.of(CacheSource::KvEvents),
                confidence.of(CacheSource::Learned)
            ),
            (1.0, 1.0),
            "the other sources keep theirs"
        );
        (0..40).for_each(|_| confidence.observe(claims, 1_000, 16));
        assert!(confidence.of(CacheSource::KvManager) > 0.9);
    }

    #[test]
    fn kv_events_lose_confidence_for_misses_that_other_sources_deny() {
        let misses = CacheClaims {
            learned: 1_000,
            kv_events: Some(0),
            ..CacheClaims::default()
        };
        let mut confidence = SourceConfidence::default();
        (0..10).for_each(|_| confidence.observe(misses, 0, 16));
        assert_eq!(
            confidence.of(CacheSource::KvEvents),
            1.0,
            "the misses were right"
        );
        (0..10).for_each(|_| {
            confidence.observe(
                CacheClaims {
                    learned: 0,
                    ..misses
                },
                1_000,
                16,
            );
        });
        assert_eq!(
            confidence.of(CacheSource::KvEvents),
            1.0,
            "no other source denied the misses"
        );
        (0..10).for_each(|_| {
            confidence.observe(
                CacheClaims {
                    kv_events_partial: true,
                    ..misses
                },
                1_000,
                16,
            );
        });
        assert_eq!(
            confidence.of(CacheSource::KvEvents),
            1.0,
            "a partial stream claims no misses"
        );
        (0..10).for_each(|_| confidence.observe(misses, 1_000, 16));
        assert!(
            confidence.of(CacheSource::KvEvents) < 0.4,
            "{}",
            confidence.of(CacheSource::KvEvents)
        );
        (0..40).for_each(|_| {
            confidence.observe(
                CacheClaims {
                    kv_events: Some(1_000),
                    ..misses
                },
                1_000,
                16,
            );
        });
        assert!(confidence.of(CacheSource::KvEvents) > 0.9);
    }

    #[test]
    fn the_index_shrinks_when_the_engine_evicts_sooner_and_grows_again() {
        let mut confidence = SourceConfidence::default();
        let claims = CacheClaims {
            learned: 1_000,
            ..CacheClaims::default()
        };
        (0..20).for_each(|_| confidence.observe(claims, 0, 16));
        assert!(
            (0.5..0.6).contains(&confidence.index_share()),
            "{}",
            confidence.index_share()
        );
        (0..1_000).for_each(|_| confidence.observe(claims, 990, 16));
        assert!(confidence.index_share() > 0.99);
    }
}
