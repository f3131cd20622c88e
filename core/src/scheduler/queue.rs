//! Queued requests, as descriptors: their bodies stay in their proxies.
//!
//! Ordered by highest response ratio, `(wait + service) / service^0.9`, times the weights of
//! priority and of fair shares. Short work goes first while all are new, and a request that was
//! queued for long enough goes first whatever its work, so none starves. With an exponent of 1 it
//! would be the classic ratio; a little less costs the mean nothing and spares the longest prompts.
//! Bounded by count, bytes and time; removal takes constant time at any place. When the queue is
//! full, the tenant with the most requests loses one in favor of those with less.

use std::{
    collections::{HashMap, hash_map::Entry},
    time::Duration,
};

use smallvec::SmallVec;

use super::{lookup::CacheLookup, shares::FairShares};
use crate::{
    hash::MixBuildHasher,
    ledger::RequestKey,
    policy,
    query::{CacheHit, Query},
};

/// See the module.
const EXPONENT: f64 = 0.9;
/// Minimum service in the ratio, in seconds: a fully cached prompt must not be infinitely urgent.
const LEAST_SERVICE: f64 = 0.05;
/// Range of priorities, up and down; each step doubles, or halves, the urgency of a request.
const MOST_PRIORITY: i32 = 8;

/// One queued request.
#[derive(Clone, Debug)]
pub(super) struct QueuedRequest {
    pub(super) key: RequestKey,
    pub(super) query: Query,
    pub(super) model: Option<Box<str>>,
    /// Cache hits from sources other than the learned index.
    pub(super) others: SmallVec<[CacheHit; 1]>,
    /// When it was queued, here or elsewhere.
    pub(super) since: Duration,
    /// When it leaves the queue unbound.
    pub(super) until: Duration,
    pub(super) lookup: CacheLookup,
    /// Seconds of prefill where it costs least.
    pub(super) service: f64,
    /// The factor of its response time.
    pub(super) weight: f64,
}

/// See the module. One per pool.
#[derive(Debug, Default)]
pub(super) struct RequestQueue {
    /// `None` while a request is checked out.
    waiting: Vec<Option<Box<QueuedRequest>>>,
    /// Parallel: the fields of the order, contiguous, because all of them are read for every
    /// decision.
    ranks: Vec<UrgencyEntry>,
    places: HashMap<RequestKey, u32, MixBuildHasher>,
    /// The number of requests per tenant; requests without one share an entry.
    tenants: HashMap<u64, u32, MixBuildHasher>,
    bytes: u64,
}

/// The fields that decide how urgent a request is.
#[derive(Clone, Copy, Debug)]
struct UrgencyEntry {
    key: RequestKey,
    tenant: u64,
    since: Duration,
    until: Duration,
    service: f64,
    weight: f64,
}

// === Queue ===

impl RequestQueue {
    pub(super) fn len(&self) -> usize {
        self.ranks.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ranks.is_empty()
    }

    /// Bytes of the queued prompts.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether one more fits.
    pub(super) fn has_room(&self, limits: &policy::QueueLimits, bytes: u64) -> bool {
        self.len() < limits.max_requests as usize
            && self.bytes.saturating_add(bytes) <= limits.max_bytes
    }

    /// The request that is evicted for one more of this tenant when there is no room: the newest
    /// one of the tenant with the most, as long as that leaves it no fewer than the other gets. So
    /// no tenant fills the queue for the others.
    pub(super) fn eviction_candidate(&self, tenant: Option<u64>) -> Option<RequestKey> {
        let own = self
            .tenants
            .get(&tenant.unwrap_or_default())
            .copied()
            .unwrap_or(0);
        let (&crowd, &most) = self
            .tenants
            .iter()
            .max_by_key(|(tenant, count)| (**count, **tenant))?;
        let theirs = self
            .ranks
            .iter()
            .filter(|rank| rank.tenant == crowd && most > own + 1);
        theirs.max_by_key(|rank| rank.since).map(|rank| rank.key)
    }

    /// Seconds of queued prefill.
    pub(super) fn service(&self) -> f64 {
        self.ranks.iter().map(|rank| rank.service).sum()
    }

    /// Adds a request; one with the same key is replaced.
    pub(super) fn push(&mut self, waiting: QueuedRequest) {
        self.remove(waiting.key);
        self.bytes += waiting.query.prompt_bytes;
        *self
            .tenants
            .entry(waiting.query.tenant.unwrap_or_default())
            .or_default() += 1;
        self.places.insert(waiting.key, self.ranks.len() as u32);
        self.ranks.push(UrgencyEntry::of(&waiting));
        self.waiting.push(Some(Box::new(waiting)));
    }

    pub(super) fn remove(&mut self, key: RequestKey) -> Option<Box<QueuedRequest>> {
        let place = *self.places.get(&key)? as usize;
        let gone = self.waiting[place].take()?;
        self.leave(place, &gone);
        Some(gone)
    }

    /// Checks a request out. It keeps its place until it is checked in or discarded.
    pub(super) fn check_out(&mut self, key: RequestKey) -> Option<Box<QueuedRequest>> {
        self.waiting[*self.places.get(&key)? as usize].take()
    }

    /// Checks a request in again, with its present urgency.
    pub(super) fn check_in(&mut self, waiting: Box<QueuedRequest>) {
        if let Some(&place) = self.places.get(&waiting.key) {
            self.ranks[place as usize] = UrgencyEntry::of(&waiting);
            self.waiting[place as usize] = Some(waiting);
        }
    }

    /// Removes a request that is checked out.
    pub(super) fn discard(&mut self, waiting: &QueuedRequest) {
        if let Some(&place) = self.places.get(&waiting.key) {
            self.leave(place as usize, waiting);
        }
    }

    pub(super) fn get_mut(&mut self, key: RequestKey) -> Option<&mut QueuedRequest> {
        self.waiting[*self.places.get(&key)? as usize].as_deref_mut()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = RequestKey> {
        self.ranks.iter().map(|rank| rank.key)
    }

    /// Requests past their time limit.
    pub(super) fn late(&self, now: Duration) -> Vec<RequestKey> {
        self.ranks
            .iter()
            .filter(|rank| rank.until <= now)
            .map(|rank| rank.key)
            .collect()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut QueuedRequest> {
        self.waiting
            .iter_mut()
            .flatten()
            .map(|waiting| &mut **waiting)
    }

    /// The `most` most urgent requests, the most urgent first.
    pub(super) fn order(&self, most: usize, now: Duration) -> Vec<RequestKey> {
        let urgencies = self
            .ranks
            .iter()
            .enumerate()
            .map(|(place, rank)| (rank.urgency(now), place as u32));
        let mut order: Vec<(f64, u32)> = urgencies.collect();
        let before =
            |(a, one): &(f64, u32), (b, other): &(f64, u32)| b.total_cmp(a).then(one.cmp(other));
        if order.len() > most {
            order.select_nth_unstable_by(most, before);
            order.truncate(most);
        }
        order.sort_unstable_by(before);
        order
            .into_iter()
            .map(|(_, place)| self.ranks[place as usize].key)
            .collect()
    }

    fn leave(&mut self, place: usize, gone: &QueuedRequest) {
        self.places.remove(&gone.key);
        self.waiting.swap_remove(place);
        self.ranks.swap_remove(place);
        if let Some(moved) = self.ranks.get(place) {
            self.places.insert(moved.key, place as u32);
        }
        self.bytes -= gone.query.prompt_bytes;
        if let Entry::Occupied(mut count) =
            self.tenants.entry(gone.query.tenant.unwrap_or_default())
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

// === UrgencyEntry ===

impl UrgencyEntry {
    fn of(waiting: &QueuedRequest) -> Self {
        let &QueuedRequest {
            key,
            since,
            until,
            service,
            weight,
            ..
        } = waiting;
        Self {
            key,
            tenant: waiting.query.tenant.unwrap_or_default(),
            since,
            until,
            service,
            weight,
        }
    }

    fn urgency(&self, now: Duration) -> f64 {
        let waited = now.saturating_sub(self.since).as_secs_f64();
        (waited + self.service.max(LEAST_SERVICE)) * self.weight
    }
}

// === QueuedRequest ===

impl QueuedRequest {
    /// Updates its service and its weight, which includes the share of its tenant.
    pub(super) fn set_service(&mut self, service: f64, shares: &FairShares) {
        self.service = service;
        let priority = 2f64.powi(self.query.priority.clamp(-MOST_PRIORITY, MOST_PRIORITY));
        self.weight =
            priority * shares.weight(self.query.tenant) / service.max(LEAST_SERVICE).powf(EXPONENT);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ledger::{ProxyId, RequestId};

    const SECOND: Duration = Duration::from_secs(1);

    fn key(request: u64) -> RequestKey {
        RequestKey {
            proxy: ProxyId(1),
            request: RequestId(request),
        }
    }

    fn waiting(request: u64, since: u64, service: f64, query: Query) -> QueuedRequest {
        let mut waiting = QueuedRequest {
            key: key(request),
            query,
            model: None,
            others: SmallVec::new(),
            since: Duration::from_secs(since),
            until: Duration::MAX,
            lookup: CacheLookup::default(),
            service,
            weight: 0.0,
        };
        waiting.set_service(service, &FairShares::default());
        waiting
    }

    fn order(queue: &RequestQueue, now: u64) -> Vec<u64> {
        queue
            .order(usize::MAX, Duration::from_secs(now))
            .into_iter()
            .map(|key| key.request.0)
            .collect()
    }

    #[test]
    fn short_work_goes_first_and_long_work_does_not_starve() {
        let mut queue = RequestQueue::default();
        queue.push(waiting(1, 0, 10.0, Query::default()));
        queue.push(waiting(2, 9, 0.5, Query::default()));
        assert_eq!(order(&queue, 10), [2, 1]);
        queue.push(waiting(3, 300, 0.5, Query::default()));
        assert_eq!(
            order(&queue, 300),
            [2, 1, 3],
            "five minutes in the queue outweigh a short service"
        );
    }

    #[test]
    fn priority_and_fair_shares_weigh() {
        let mut queue = RequestQueue::default();
        queue.push(waiting(1, 0, 1.0, Query::default()));
        queue.push(waiting(
            2,
            0,
            1.0,
            Query {
                priority: 1,
                ..Query::default()
            },
        ));
        assert_eq!(order(&queue, 5), [2, 1]);
        let mut shares = FairShares::default();
        shares.spend(Some(7), 100_000, SECOND);
        shares.spend(Some(8), 1_000, SECOND);
        for (request, tenant) in [(1, 8), (2, 7)] {
            let mut waiting = queue.remove(key(request)).expect("it waits");
            waiting.query.tenant = Some(tenant);
            waiting.set_service(1.0, &shares);
            queue.push(*waiting);
        }
        assert_eq!(
            order(&queue, 5),
            [1, 2],
            "one step of priority does not outweigh a hundredfold share"
        );
    }

    #[test]
    fn the_newest_request_of_the_largest_tenant_is_evicted_for_smaller_ones() {
        let of = |tenant| Query {
            tenant: Some(tenant),
            ..Query::default()
        };
        let mut queue = RequestQueue::default();
        assert_eq!(queue.eviction_candidate(Some(1)), None);
        for request in 1..=4 {
            queue.push(waiting(request, request, 1.0, of(1)));
        }
        queue.push(waiting(5, 5, 1.0, of(2)));
        assert_eq!(queue.eviction_candidate(Some(1)), None, "not to itself");
        assert_eq!(
            (
                queue.eviction_candidate(Some(2)),
                queue.eviction_candidate(None)
            ),
            (Some(key(4)), Some(key(4)))
        );
        queue.remove(key(4));
        queue.push(waiting(6, 6, 1.0, of(2)));
        assert_eq!(
            queue.eviction_candidate(Some(2)),
            None,
            "three and two: eviction would only swap them"
        );
        assert_eq!(queue.eviction_candidate(Some(3)), Some(key(3)));
    }

    proptest! {
        #[test]
        fn count_and_bytes_follow_every_push_and_removal(
            steps in proptest::collection::vec((0u64..20, 0u64..1_000, 0u64..3, any::<bool>()), 0..100),
        ) {
            let (mut queue, mut model) = (RequestQueue::default(), HashMap::new());
            for (request, bytes, tenant, leaves) in steps {
                if leaves {
                    prop_assert_eq!(queue.remove(key(request)).is_some(), model.remove(&request).is_some());
                } else {
                    let query = Query { prompt_bytes: bytes, tenant: Some(tenant), ..Query::default() };
                    queue.push(waiting(request, 0, 1.0, query));
                    model.insert(request, (bytes, tenant));
                }
                prop_assert_eq!(queue.len(), model.len());
                prop_assert_eq!(queue.bytes(), model.values().map(|(bytes, _)| bytes).sum::<u64>());
                let counted = |tenant| model.values().filter(|(_, of)| *of == tenant).count() as u32;
                prop_assert!((0..3).all(|tenant| queue.tenants.get(&tenant).copied().unwrap_or(0) == counted(tenant)));
                prop_assert!(model.keys().all(|request| queue.get_mut(key(*request)).is_some()));
            }
            prop_assert_eq!(queue.order(5, Duration::ZERO).len(), model.len().min(5));
        }
    }
}
