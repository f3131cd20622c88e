//! How far each source of one endpoint is believed: what came true of what it claimed.

use super::caches::CacheClaims;
use crate::query::CacheSource;

/// How much one report changes.
const STEP: f32 = 0.1;
/// Trust never falls lower, so that a source that mends itself is noticed.
const LEAST: f32 = 0.02;
/// The index of an endpoint shrinks at most to this share of what the engine says it caches.
const SMALLEST: f32 = 0.2;
/// How much the index shrinks for a claim that failed, and grows for one that held.
const SHRINK: f32 = 0.97;
const GROW: f32 = 1.005;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct SourceConfidence {
    shares: [f32; 3],
    /// Share of the engine's stated cache that the index uses.
    size: f32,
}

impl Default for SourceConfidence {
    fn default() -> Self {
        Self {
            shares: [1.0; 3],
            size: 1.0,
        }
    }
}

impl SourceConfidence {
    /// The share of a source's claims that is believed, 0..=1.
    pub(super) const fn of(&self, source: CacheSource) -> f32 {
        self.shares[source as usize]
    }

    /// The share of the engine's stated cache that the index uses, 0..=1.
    pub(super) const fn size(&self) -> f32 {
        self.size
    }

    /// `cached` tokens were reported where `claims` were made; differences up to `tolerance` tokens are rounding.
    pub(super) fn reported(&mut self, claims: CacheClaims, cached: u32, tolerance: u32) {
        for source in CacheSource::ALL {
            if let Some(claimed) = claims.of(source).filter(|claimed| *claimed > tolerance) {
                self.judge(source, (cached + tolerance) as f32 / claimed as f32);
            }
        }
        // A miss that was none, where somebody knew better: events that overrule others answer for misses, too.
        let missed = |claimed: &u32| claims.best_of_others().min(cached) > claimed + tolerance;
        if let Some(claimed) = claims
            .events
            .filter(|claimed| !claims.events_in_part && missed(claimed))
        {
            self.judge(
                CacheSource::KvEvents,
                (claimed + tolerance) as f32 / cached as f32,
            );
        }
        if claims.learned > tolerance {
            let held = cached + tolerance >= claims.learned;
            self.size = (self.size * if held { GROW } else { SHRINK }).clamp(SMALLEST, 1.0);
        }
    }

    /// This share of what a source said was true.
    fn judge(&mut self, source: CacheSource, kept: f32) {
        let share = &mut self.shares[source as usize];
        *share = (*share + STEP * (kept.min(1.0) - *share)).max(LEAST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_lies_loses_its_word_and_one_that_mends_itself_gets_it_back() {
        let mut trust = SourceConfidence::default();
        let claims = CacheClaims {
            manager: Some(1_000),
            ..CacheClaims::default()
        };
        (0..40).for_each(|_| trust.reported(claims, 0, 16));
        assert!(trust.of(CacheSource::KvManager) < 0.05);
        assert_eq!(
            (
                trust.of(CacheSource::KvEvents),
                trust.of(CacheSource::Learned)
            ),
            (1.0, 1.0),
            "others keep theirs"
        );
        (0..40).for_each(|_| trust.reported(claims, 1_000, 16));
        assert!(trust.of(CacheSource::KvManager) > 0.9);
    }

    #[test]
    fn events_that_miss_what_others_know_lose_their_word() {
        let misses = CacheClaims {
            learned: 1_000,
            events: Some(0),
            ..CacheClaims::default()
        };
        let mut trust = SourceConfidence::default();
        (0..10).for_each(|_| trust.reported(misses, 0, 16));
        assert_eq!(trust.of(CacheSource::KvEvents), 1.0, "they were right");
        (0..10).for_each(|_| {
            trust.reported(
                CacheClaims {
                    learned: 0,
                    ..misses
                },
                1_000,
                16,
            )
        });
        assert_eq!(trust.of(CacheSource::KvEvents), 1.0, "nobody knew better");
        (0..10).for_each(|_| {
            trust.reported(
                CacheClaims {
                    events_in_part: true,
                    ..misses
                },
                1_000,
                16,
            )
        });
        assert_eq!(
            trust.of(CacheSource::KvEvents),
            1.0,
            "they did not say that there was no more"
        );
        (0..10).for_each(|_| trust.reported(misses, 1_000, 16));
        assert!(
            trust.of(CacheSource::KvEvents) < 0.4,
            "{}",
            trust.of(CacheSource::KvEvents)
        );
        (0..40).for_each(|_| {
            trust.reported(
                CacheClaims {
                    events: Some(1_000),
                    ..misses
                },
                1_000,
                16,
            )
        });
        assert!(trust.of(CacheSource::KvEvents) > 0.9);
    }

    #[test]
    fn the_index_shrinks_when_the_engine_evicts_sooner_and_grows_again() {
        let mut trust = SourceConfidence::default();
        let claims = CacheClaims {
            learned: 1_000,
            ..CacheClaims::default()
        };
        (0..20).for_each(|_| trust.reported(claims, 0, 16));
        assert!((0.5..0.6).contains(&trust.size()), "{}", trust.size());
        (0..1_000).for_each(|_| trust.reported(claims, 990, 16));
        assert!(trust.size() > 0.99);
    }
}
