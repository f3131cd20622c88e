//! One queued request, and how urgent it is.

use std::{sync::Arc, time::Duration};

use smallvec::SmallVec;

use crate::{
    ledger::RequestKey,
    pick::{EligibleSet, EligibleSetId},
    query::{CacheHit, Query},
    scheduler::{lookup::CacheLookup, shares::FairShares},
};

/// See [`super`].
const EXPONENT: f64 = 0.9;
/// Minimum service in the ratio, in seconds: a fully cached prompt must not be infinitely urgent.
const LEAST_SERVICE: f64 = 0.05;
/// Range of priorities, up and down; each step doubles, or halves, the urgency of a request.
const MOST_PRIORITY: i32 = 8;

/// One queued request.
#[derive(Clone, Debug)]
pub(in crate::scheduler) struct QueuedRequest {
    pub(in crate::scheduler) key: RequestKey,
    pub(in crate::scheduler) query: Query,
    pub(in crate::scheduler) model: Option<Box<str>>,
    /// The endpoints that may serve it; `None` if none may since the pool changed.
    pub(in crate::scheduler) eligible: Option<Arc<EligibleSet>>,
    /// Cache hits from sources other than the learned index.
    pub(in crate::scheduler) others: SmallVec<[CacheHit; 1]>,
    /// When it was queued, here or elsewhere.
    pub(in crate::scheduler) since: Duration,
    /// When it leaves the queue unbound.
    pub(in crate::scheduler) until: Duration,
    pub(in crate::scheduler) lookup: CacheLookup,
    /// Seconds of prefill where it costs least.
    pub(in crate::scheduler) service: f64,
    /// The factor of its response time.
    pub(in crate::scheduler) weight: f64,
}

/// The fields that decide how urgent a request is.
#[derive(Clone, Copy, Debug)]
pub(super) struct UrgencyEntry {
    pub(super) key: RequestKey,
    pub(super) tenant: u64,
    /// When it was queued, in seconds.
    pub(super) since: f64,
    pub(super) service: f64,
    weight: f64,
}

// === QueuedRequest ===

impl QueuedRequest {
    /// Updates its service and its weight, which includes the share of its tenant.
    pub(in crate::scheduler) fn set_service(&mut self, service: f64, shares: &FairShares) {
        self.service = service;
        let priority = 2f64.powi(self.query.priority.clamp(-MOST_PRIORITY, MOST_PRIORITY));
        self.weight =
            priority * shares.weight(self.query.tenant) / service.max(LEAST_SERVICE).powf(EXPONENT);
    }

    /// The identity of its eligible set.
    pub(in crate::scheduler) fn set_id(&self) -> Option<EligibleSetId> {
        self.eligible.as_deref().map(EligibleSet::id)
    }
}

// === UrgencyEntry ===

impl UrgencyEntry {
    pub(super) fn of(waiting: &QueuedRequest) -> Self {
        let &QueuedRequest {
            key,
            since,
            service,
            weight,
            ..
        } = waiting;
        Self {
            key,
            tenant: waiting.query.tenant.unwrap_or_default(),
            since: since.as_secs_f64(),
            service,
            weight,
        }
    }

    /// At this time, in seconds.
    pub(super) fn urgency(&self, now: f64) -> f64 {
        let waited = (now - self.since).max(0.0);
        (waited + self.service.max(LEAST_SERVICE)) * self.weight
    }
}
