//! The cache estimates of one prompt, as of a moment, and what they let expect of one endpoint.

use std::time::Duration;

use crate::{
    estimate::{CacheClaims, CacheEstimates, PositionHits},
    query::CacheSource,
};

/// Endpoints of which the estimates are kept while a request is queued. Of more it is cheaper to
/// find them again when the request is examined than to keep them for ten thousand requests.
const MAX_KEPT: usize = 64;

/// What every endpoint of the pool has cached of one prompt. By position: outdated when the pool
/// changes.
#[derive(Clone, Debug, Default)]
pub(super) struct CacheLookup {
    pub(super) estimates: CacheEstimates,
    /// The same, as costs read it.
    pub(super) hits: PositionHits,
    /// When they were computed; `None` when they are outdated.
    pub(super) at: Option<Duration>,
}

/// What is expected of the cache at the endpoint where a request is booked.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CacheExpectation {
    /// The claims for that endpoint.
    pub(super) claims: CacheClaims,
    /// The source that is used, and the tokens that are expected; `None` when no source reports the
    /// endpoint.
    pub(super) cached: Option<(CacheSource, u32)>,
}

impl CacheLookup {
    /// What is kept of it while its request is queued: nothing of endpoints where no source found
    /// anything, and nothing at all if too many found something.
    pub(super) fn for_queue(mut self) -> Self {
        self.estimates
            .retain(|estimate| estimate.tokens > 0 || estimate.claims.best_of_others() > 0);
        if self.estimates.len() > MAX_KEPT {
            return Self::default();
        }
        self.estimates.shrink_to_fit();
        self
    }

    /// What it lets expect of the endpoint at this position.
    pub(super) fn expectation(&self, position: usize) -> CacheExpectation {
        let mut estimates = self.estimates.iter();
        let estimate = estimates.find(|estimate| estimate.position as usize == position);
        estimate.map_or_else(CacheExpectation::default, |estimate| CacheExpectation {
            claims: estimate.claims,
            cached: Some((estimate.source, estimate.tokens)),
        })
    }
}
