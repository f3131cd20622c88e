//! Whether an engine reports cached tokens.

use std::sync::atomic::{AtomicBool, Ordering};

/// Of one endpoint: engines of one pool may differ.
#[derive(Debug, Default)]
pub(super) struct CachedTokensReporting {
    /// Some answer reported them.
    seen: AtomicBool,
}

impl CachedTokensReporting {
    /// The cached tokens of an answer whose usage says this. An engine that reports them may omit
    /// them when there are none; of one that never reports them the number is unknown.
    pub(super) fn of(&self, reported: Option<u32>) -> Option<u32> {
        if reported.is_some() && !self.seen.load(Ordering::Relaxed) {
            self.seen.store(true, Ordering::Relaxed);
        }
        reported.or_else(|| self.seen.load(Ordering::Relaxed).then_some(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn omitted_cached_tokens_are_zero_once_the_engine_reported_some() {
        let (one, other) = (
            CachedTokensReporting::default(),
            CachedTokensReporting::default(),
        );
        assert_eq!(one.of(None), None);
        assert_eq!(one.of(Some(7)), Some(7));
        assert_eq!(one.of(None), Some(0));
        assert_eq!(other.of(None), None, "another engine may be silent");
    }
}
