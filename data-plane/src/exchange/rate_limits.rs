//! The endpoints that said 429 to one request.
//!
//! One that does has too much to do, or is a gateway at which the client is over its quota. A
//! second endpoint that says the same shows the latter: every endpoint of the pool would say it to
//! this client, and serves others.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::endpoint::Upstream;

/// See the module.
#[derive(Default)]
pub(super) struct RateLimits(SmallVec<[Arc<Upstream>; 1]>);

impl RateLimits {
    /// Adds one. Returns those of which it is known now, and was not before, that their 429 is the
    /// client's: none for the first, both for the second, and then each.
    pub(super) fn add(&mut self, upstream: &Arc<Upstream>) -> SmallVec<[Arc<Upstream>; 1]> {
        let endpoint = upstream.endpoint.id;
        let is_other = |known: &Arc<Upstream>| known.endpoint.id != endpoint;
        let mut known = SmallVec::new();
        if self.0.iter().any(is_other) {
            if self.0.iter().all(is_other) && self.0.len() == 1 {
                known.extend(self.0.iter().cloned());
            }
            known.push(Arc::clone(upstream));
        }
        self.0.push(Arc::clone(upstream));
        known
    }
}
