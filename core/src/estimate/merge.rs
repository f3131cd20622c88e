//! Merges the claims for one endpoint into one estimate.

use super::{claims::CacheClaims, confidence::SourceConfidence};
use crate::query::CacheSource;

/// Minimum confidence at which complete KV events overrule the other sources.
const OVERRULES: f32 = 0.5;

/// The claims for one endpoint, merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CacheEstimate {
    pub(crate) position: u32,
    /// Cached tokens.
    pub(crate) tokens: u32,
    /// The source that decided.
    pub(crate) source: CacheSource,
    pub(crate) claims: CacheClaims,
}

impl CacheEstimate {
    /// Scales each claim by the confidence in its source and takes the largest, or that of KV
    /// events where they are complete and trusted; at most `most` tokens.
    pub(super) fn merge(
        position: u32,
        claims: CacheClaims,
        confidence: &SourceConfidence,
        most: u32,
    ) -> Self {
        let scaled = |source| {
            let tokens = claims.of(source)? as f32 * confidence.of(source);
            Some((tokens as u32, source))
        };
        let overrules =
            !claims.kv_events_partial && confidence.of(CacheSource::KvEvents) >= OVERRULES;
        let exact = scaled(CacheSource::KvEvents).filter(|_| overrules);
        let best = exact.or_else(|| CacheSource::ALL.into_iter().filter_map(scaled).max());
        let (tokens, source) = best.unwrap_or((0, CacheSource::Learned));
        Self {
            position,
            tokens: tokens.min(most),
            source,
            claims,
        }
    }
}
