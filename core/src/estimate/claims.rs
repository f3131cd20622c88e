//! What every source claims of one endpoint's cache.

use crate::query::{CacheHit, CacheSource};

/// The claims for one endpoint, in tokens of prefill saved; `None` from a source that reports
/// nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CacheClaims {
    pub(crate) learned: u32,
    pub(crate) kv_manager: Option<u32>,
    pub(crate) kv_events: Option<u32>,
    /// KV events cover a part of the cache only: more may be there, or be there soon.
    pub(crate) kv_events_partial: bool,
}

// === CacheClaims ===

impl CacheClaims {
    /// Adds the hit of a source.
    pub(super) fn add(&mut self, hit: CacheHit) {
        let saved = hit.cached.saved_tokens();
        match hit.source {
            CacheSource::Learned => self.learned = self.learned.max(saved),
            CacheSource::KvManager => self.kv_manager = self.kv_manager.max(Some(saved)),
            CacheSource::KvEvents => {
                self.kv_events = self.kv_events.max(Some(saved));
                self.kv_events_partial = hit.at_least;
            }
        }
    }

    /// The largest claim of the sources other than KV events.
    pub(crate) fn best_of_others(&self) -> u32 {
        self.learned.max(self.kv_manager.unwrap_or(0))
    }

    /// The claim of one source.
    pub(super) const fn of(&self, source: CacheSource) -> Option<u32> {
        match source {
            CacheSource::Learned => Some(self.learned),
            CacheSource::KvManager => self.kv_manager,
            CacheSource::KvEvents => self.kv_events,
        }
    }
}
