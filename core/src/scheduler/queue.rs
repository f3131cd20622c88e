//! Queued requests, as descriptors: their bodies stay in their proxies.
//!
//! One queue per eligible set, as an endpoint that is scarce for one set is none of another's
//! business; limits and fair shares hold for all of them together. Each is ordered by highest
//! response ratio, `(wait + service) / service^0.9`, times the weights of priority and of fair
//! shares, so that requests of different sets compare. Short work goes first while all are new, and
//! a request that was queued for long enough goes first whatever its work, so none starves. With an
//! exponent of 1 it would be the classic ratio; a little less costs the mean nothing and spares the
//! longest prompts.
//!
//! Bounded by count, bytes and time; removal takes constant time at any place. When the queue is
//! full, a request of a priority below 0 leaves it first; without one, the tenant with the most
//! requests loses one in favor of those with less.
//!
//! Invariants: a set without queued requests has no queue; [`QueuedWork`] is the sum over the
//! requests that are queued.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap, btree_map, hash_map::Entry},
    ops::Bound,
    sync::Arc,
    time::Duration,
};

use smallvec::SmallVec;

use crate::{
    hash::MixBuildHasher,
    ledger::RequestKey,
    pick::{EligibleSet, EligibleSetId},
    policy,
};

mod request;
mod set_queue;
mod work;

pub(super) use request::QueuedRequest;
use request::UrgencyEntry;
use set_queue::SetQueue;
pub(super) use work::{QueuedDemand, QueuedWork};

/// Sets that are examined in one plan at most, and those that are looked at for it. When there are
/// more, they take turns.
pub(super) const MAX_SETS: usize = 8;
const MAX_LOOKED_AT: usize = 64;

/// See the module. One per pool.
#[derive(Debug)]
pub(super) struct RequestQueue {
    /// By set; `None` has the requests that no endpoint may serve since the pool changed.
    sets: BTreeMap<Option<EligibleSetId>, SetQueue>,
    places: HashMap<RequestKey, QueuePlace, MixBuildHasher>,
    /// The number of requests per tenant; requests without one share an entry.
    tenants: HashMap<u64, u32, MixBuildHasher>,
    bytes: u64,
    /// Seconds of prefill.
    service: f64,
    /// Requests of priorities below 0 in the order in which they are evicted: by priority, and of
    /// one priority the newest first.
    sheddable: BTreeSet<(i32, Reverse<Duration>, RequestKey)>,
    /// When each request leaves unbound.
    limits: BTreeSet<(Duration, RequestKey)>,
    work: QueuedWork,
    /// The set that was looked at last.
    turn: Option<EligibleSetId>,
}

/// Where a request is queued.
#[derive(Clone, Copy, Debug)]
struct QueuePlace {
    set: Option<EligibleSetId>,
    at: u32,
}

// === RequestQueue ===

impl RequestQueue {
    /// An empty queue of a pool with this number of endpoints.
    pub(super) fn new(endpoints: usize) -> Self {
        Self {
            sets: BTreeMap::new(),
            places: HashMap::default(),
            tenants: HashMap::default(),
            bytes: 0,
            service: 0.0,
            sheddable: BTreeSet::new(),
            limits: BTreeSet::new(),
            work: QueuedWork::none(endpoints),
            turn: None,
        }
    }

    /// The pool changed: positions and sets are those of a pool with this number of endpoints, and
    /// `eligible` returns the set of a model. What was known by position is outdated.
    pub(super) fn apply(
        &mut self,
        endpoints: usize,
        eligible: impl Fn(Option<&str>, bool) -> Option<Arc<EligibleSet>>,
    ) {
        let before = std::mem::replace(self, Self::new(endpoints));
        let queued = before.sets.into_values().flat_map(|set| set.waiting);
        for mut waiting in queued.flatten() {
            waiting.eligible = eligible(waiting.model.as_deref(), waiting.query.split);
            waiting.lookup = super::CacheLookup::default();
            self.insert(waiting, None);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Bytes of the queued prompts.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What is queued for each endpoint.
    pub(super) fn work(&self) -> &QueuedWork {
        &self.work
    }

    /// Whether a queued request that counts as work costs least at this position.
    pub(super) fn is_wanted(&self, position: usize) -> bool {
        self.work.at(position).requests > 0
    }

    /// Whether one more fits.
    pub(super) fn has_room(&self, limits: &policy::QueueLimits, bytes: u64) -> bool {
        self.len() < limits.max_requests as usize
            && self.bytes.saturating_add(bytes) <= limits.max_bytes
    }

    /// The request that is evicted for one more of this priority when there is no room, whatever
    /// their tenants: one of a priority below 0, and below the other's.
    pub(super) fn shed_candidate(&self, priority: i32) -> Option<RequestKey> {
        let (lowest, _, key) = self.sheddable.first()?;
        (*lowest < priority).then_some(*key)
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
        if most <= own + 1 {
            return None;
        }
        let theirs = self.ranks().filter(|rank| rank.tenant == crowd);
        theirs
            .max_by(|one, other| one.since.total_cmp(&other.since))
            .map(|rank| rank.key)
    }

    /// Seconds of queued prefill.
    pub(super) fn service(&self) -> f64 {
        self.service
    }

    /// Whether one more would fit in place of this one.
    pub(super) fn has_room_without(
        &self,
        key: RequestKey,
        limits: &policy::QueueLimits,
        bytes: u64,
    ) -> bool {
        let freed = self.get(key).map(|waiting| waiting.query.prompt_bytes);
        freed.is_some_and(|freed| {
            self.len() <= limits.max_requests as usize
                && (self.bytes - freed).saturating_add(bytes) <= limits.max_bytes
        })
    }

    /// Adds a request that costs least at the position `wanted`; one with the same key is replaced.
    pub(super) fn push(&mut self, waiting: QueuedRequest, wanted: u32) {
        self.remove(waiting.key);
        self.insert(Box::new(waiting), Some(wanted));
    }

    /// Removes a request; `None` if it is not queued.
    pub(super) fn remove(&mut self, key: RequestKey) -> Option<Box<QueuedRequest>> {
        let (waiting, _) = self.check_out(key)?;
        self.discard(&waiting);
        Some(waiting)
    }

    /// Checks a request out, with the position that it waited for. It keeps its place until it is
    /// checked in or discarded, and waits for no endpoint meanwhile.
    pub(super) fn check_out(
        &mut self,
        key: RequestKey,
    ) -> Option<(Box<QueuedRequest>, Option<u32>)> {
        let QueuePlace { set, at } = *self.places.get(&key)?;
        let queue = self.sets.get_mut(&set)?;
        queue.check_out(at as usize, &mut self.work)
    }

    /// Checks a request in again, with its present urgency. It costs least at the position
    /// `wanted`.
    pub(super) fn check_in(&mut self, waiting: Box<QueuedRequest>, wanted: u32) {
        let Some(&QueuePlace { set, at }) = self.places.get(&waiting.key) else {
            return;
        };
        if let Some(queue) = self.sets.get_mut(&set) {
            self.service += waiting.service - queue.ranks[at as usize].service;
            queue.check_in(at as usize, waiting, wanted, &mut self.work);
        }
    }

    /// Removes a request that is checked out.
    pub(super) fn discard(&mut self, waiting: &QueuedRequest) {
        let Some(QueuePlace { set, at }) = self.places.remove(&waiting.key) else {
            return;
        };
        let btree_map::Entry::Occupied(mut queue) = self.sets.entry(set) else {
            return;
        };
        let (rank, moved) = queue.get_mut().leave(at as usize, &mut self.work);
        if let Some(place) = moved.and_then(|moved| self.places.get_mut(&moved)) {
            place.at = at;
        }
        if queue.get().ranks.is_empty() {
            queue.remove();
        }
        self.bytes -= waiting.query.prompt_bytes;
        self.limits.remove(&(waiting.until, waiting.key));
        self.sheddable.remove(&shed_order(waiting));
        // Nothing is left of rounding when the last one leaves.
        self.service = if self.places.is_empty() {
            0.0
        } else {
            (self.service - rank.service).max(0.0)
        };
        if let Entry::Occupied(mut count) = self.tenants.entry(rank.tenant) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    /// The priority of a queued request.
    pub(super) fn priority(&self, key: RequestKey) -> Option<i32> {
        self.get(key).map(|waiting| waiting.query.priority)
    }

    fn get(&self, key: RequestKey) -> Option<&QueuedRequest> {
        let QueuePlace { set, at } = *self.places.get(&key)?;
        self.sets.get(&set)?.waiting[at as usize].as_deref()
    }

    pub(super) fn get_mut(&mut self, key: RequestKey) -> Option<&mut QueuedRequest> {
        let QueuePlace { set, at } = *self.places.get(&key)?;
        self.sets.get_mut(&set)?.waiting[at as usize].as_deref_mut()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = RequestKey> {
        self.ranks().map(|rank| rank.key)
    }

    /// Requests past their time limit.
    pub(super) fn late(&self, now: Duration) -> Vec<RequestKey> {
        let late = self.limits.iter().take_while(|(until, _)| *until <= now);
        late.map(|(_, key)| *key).collect()
    }

    /// Requests that no endpoint may serve since the pool changed.
    pub(super) fn without_endpoints(&self) -> Vec<RequestKey> {
        let queue = self.sets.get(&None);
        let ranks = queue.into_iter().flat_map(|queue| &queue.ranks);
        ranks.map(|rank| rank.key).collect()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut QueuedRequest> {
        let queues = self.sets.values_mut();
        queues
            .flat_map(|queue| queue.waiting.iter_mut().flatten())
            .map(|waiting| &mut **waiting)
    }

    /// The sets with queued requests whose turn it is to be examined, of those that are `ready`: at
    /// most [`MAX_SETS`].
    pub(super) fn turns(
        &mut self,
        ready: impl Fn(&EligibleSet) -> bool,
    ) -> SmallVec<[Arc<EligibleSet>; MAX_SETS]> {
        let mut turns = SmallVec::new();
        let after = (Bound::Excluded(self.turn), Bound::Unbounded);
        let rest = (Bound::Unbounded, Bound::Included(self.turn));
        let queues = self.sets.range(after).chain(self.sets.range(rest));
        let sets = queues.filter_map(|(_, queue)| queue.eligible.as_ref());
        let mut last = None;
        for eligible in sets.take(MAX_LOOKED_AT) {
            if turns.len() == MAX_SETS {
                break;
            }
            last = Some(eligible.id());
            if ready(eligible) {
                turns.push(Arc::clone(eligible));
            }
        }
        self.turn = last;
        turns
    }

    /// Begins the examination of a set: its requests do not count as queued work until they are
    /// checked in. Returns the `most` most urgent of them with their urgency, the most urgent
    /// first.
    pub(super) fn examine(
        &mut self,
        set: EligibleSetId,
        most: usize,
        now: Duration,
    ) -> Vec<(f64, RequestKey)> {
        let Some(queue) = self.sets.get_mut(&Some(set)) else {
            return Vec::new();
        };
        queue.uncount_all(&mut self.work);
        queue.order(most, now)
    }

    fn insert(&mut self, waiting: Box<QueuedRequest>, wanted: Option<u32>) {
        let (key, set) = (waiting.key, waiting.set_id());
        self.bytes += waiting.query.prompt_bytes;
        self.service += waiting.service;
        self.limits.insert((waiting.until, key));
        if waiting.query.priority < 0 {
            self.sheddable.insert(shed_order(&waiting));
        }
        let tenant = waiting.query.tenant.unwrap_or_default();
        *self.tenants.entry(tenant).or_default() += 1;
        let queue = self.sets.entry(set);
        let queue = queue.or_insert_with(|| SetQueue::new(waiting.eligible.clone()));
        let at = queue.push(waiting, wanted, &mut self.work);
        self.places.insert(key, QueuePlace { set, at });
    }

    fn ranks(&self) -> impl Iterator<Item = &UrgencyEntry> {
        self.sets.values().flat_map(|queue| &queue.ranks)
    }
}

/// Where a request of a priority below 0 stands among those that are evicted first.
const fn shed_order(waiting: &QueuedRequest) -> (i32, Reverse<Duration>, RequestKey) {
    (waiting.query.priority, Reverse(waiting.since), waiting.key)
}

#[cfg(test)]
mod tests;
