//! One pass over the most urgent queued requests: which of them are bound now.
//!
//! Each in turn gets the endpoint where it costs least, given the work that is sent and the queued
//! work before it. If that endpoint has room and no earlier request wants it, the request is bound;
//! else its work is added to the endpoint's queued work.
//!
//! A pass examines the eligible sets that have an endpoint with room, each up to a horizon of its
//! own, and goes through the requests of all of them by urgency. So requests that wait for the few
//! holders of an adapter do not keep others from endpoints that are idle, and where two sets want
//! one endpoint the more urgent request gets it. A set without room keeps its order and its queued
//! work: nothing of it could be bound.
//!
//! Only requests of the same pass keep each other from an endpoint. Those of sets that are not
//! examined raise its cost by their queued work, and no more: their turn comes, and if they could
//! block the endpoint, two halves of many sets could block it for each other for ever.
//!
//! Bounded: at most [`MAX_SETS`] sets and 128 requests, and in a pool of n endpoints at most
//! [`EFFORT`] or 16 n costs, whichever is more, however many sets there are. Passes that events
//! call for share one in a millisecond ([`PlanPace`](super::pace::PlanPace)).

use std::{sync::Arc, time::Duration};

use smallvec::SmallVec;

use super::{
    Dequeued, QueueExit, QueuedRequest, Scheduler,
    bind::PendingBinding,
    cost::{CandidateSet, CostedPrompt, WastePrice},
    fleet::RoomRequirement,
    queue::MAX_SETS,
};
use crate::{ledger::RequestKey, pick::EligibleSet, policy::KvAware, snapshot::EndpointId};

/// Maximum of costs computed in one pass, as long as that is no fewer requests than the minimum.
const EFFORT: usize = 4_096;
/// Minimum and maximum number of requests in one pass, of all sets together; each set has one at
/// least.
const HORIZON: (usize, usize) = (16, 128);
/// Cache estimates of a queued request are repeated after this time.
const FRESH: Duration = Duration::from_millis(200);
/// When a prompt is bound, at most this many queued requests with the same beginning are updated at
/// once.
const NEIGHBORS: usize = 64;

/// What a pass reads of one eligible set.
#[derive(Debug)]
struct ExaminedSet {
    eligible: Arc<EligibleSet>,
    /// Of a request that excludes no endpoint. Updated where something changes.
    candidates: CandidateSet,
    price: WastePrice,
}

/// One request of a pass.
#[derive(Clone, Copy, Debug)]
struct PassEntry {
    urgency: f64,
    /// Index of its set.
    set: usize,
    key: RequestKey,
}

/// The moment of a pass.
#[derive(Clone, Copy, Debug)]
struct PassMoment<'a> {
    rules: &'a KvAware,
    draw: f32,
    now: Duration,
}

/// The positions that requests of a pass wait for.
type ClaimedPositions = SmallVec<[u32; 16]>;

/// The requests of one set that are examined in a pass over `sets` sets.
fn horizon(endpoints: usize, sets: usize) -> usize {
    let alone = (EFFORT / endpoints.max(1)).clamp(HORIZON.0, HORIZON.1);
    (alone / sets.max(1)).max(1)
}

impl Scheduler {
    /// After an event that may have given an endpoint room: dequeues at once, or leaves that to the
    /// time [`Self::plan_due`].
    pub fn dequeue_after_event(&mut self, now: Duration, dequeued: &mut Vec<Dequeued>) {
        if !self.requests.queue.is_empty() && self.pace.admits(now) {
            self.dequeue(now, dequeued);
        }
    }

    /// When to dequeue next if no event comes before; `None` while no request is queued.
    #[must_use]
    pub fn plan_due(&self) -> Option<Duration> {
        (!self.requests.queue.is_empty()).then(|| self.pace.due())
    }

    /// Binds the requests that can be bound, and removes those that were queued for too long.
    pub fn dequeue(&mut self, now: Duration, dequeued: &mut Vec<Dequeued>) {
        if self.requests.queue.is_empty() {
            return;
        }
        self.pace.planned(now);
        self.endpoints.assume_done(now);
        let Some(rules) = self.rules() else {
            return self.release_all(now, dequeued);
        };
        self.give_up(now, dequeued);
        let Self {
            endpoints,
            requests,
            ..
        } = self;
        let wanted = |position| requests.queue.is_wanted(position);
        let free = rules
            .late
            .then(|| endpoints.free(rules.window, wanted, now));
        let ready = |eligible: &EligibleSet| {
            let room = free.as_ref();
            room.is_none_or(|free| free.any_in(eligible) || !endpoints.is_any_up(eligible))
        };
        let turns = requests.queue.turns(ready);
        if !turns.is_empty() {
            self.plan(turns, &rules, now, dequeued);
        }
    }

    /// Removes the requests that were queued for too long, and those that no endpoint may serve.
    fn give_up(&mut self, now: Duration, dequeued: &mut Vec<Dequeued>) {
        for key in self.requests.queue.late(now) {
            self.requests.queue.remove(key);
            let retry_after = self.retry_after();
            let exit = QueueExit::TimedOut { retry_after };
            dequeued.push(Dequeued { key, exit });
        }
        for key in self.requests.queue.without_endpoints() {
            if let Some(waiting) = self.requests.queue.remove(key) {
                self.try_anyone(&waiting, now, dequeued);
            }
        }
    }

    fn plan(
        &mut self,
        turns: SmallVec<[Arc<EligibleSet>; MAX_SETS]>,
        rules: &KvAware,
        now: Duration,
        dequeued: &mut Vec<Dequeued>,
    ) {
        let draw = self.rng.unit();
        let order = self.order(&turns, now);
        let moment = PassMoment { rules, draw, now };
        let examined = turns.into_iter().map(|eligible| ExaminedSet {
            candidates: self.candidates(&eligible, &[], moment),
            price: WastePrice::of(rules, self.endpoints.utilization(&eligible, now)),
            eligible,
        });
        let mut examined: SmallVec<[ExaminedSet; MAX_SETS]> = examined.collect();
        let mut claimed = ClaimedPositions::new();
        for (place, entry) in order.iter().enumerate() {
            let Some((mut waiting, before)) = self.requests.queue.check_out(entry.key) else {
                continue;
            };
            if let Some(before) = before {
                self.update(&mut examined, before as usize, now);
            }
            self.refresh(&mut waiting, now);
            let head = waiting.query.blocks.first().copied();
            let set = &examined[entry.set];
            let (changed, bound) = self.place(waiting, set, &mut claimed, moment, dequeued);
            let Some(position) = changed else { continue };
            self.update(&mut examined, position, now);
            if bound {
                self.refresh_neighbors(&order[place + 1..], head, position);
            }
        }
    }

    /// Something changed at a position.
    fn update(&self, examined: &mut [ExaminedSet], position: usize, now: Duration) {
        let queued = self.requests.queue.work().at(position);
        let candidate = self.endpoints.candidate(position, queued, now);
        for set in examined {
            set.candidates.update(candidate);
        }
    }

    /// The most urgent requests of these sets, the most urgent first. None of them counts as queued
    /// work any more.
    fn order(&mut self, turns: &[Arc<EligibleSet>], now: Duration) -> Vec<PassEntry> {
        let mut order = Vec::new();
        for (set, eligible) in turns.iter().enumerate() {
            let horizon = horizon(eligible.len(), turns.len());
            let queue = &mut self.requests.queue;
            let urgent = queue.examine(eligible.id(), horizon, now);
            order.extend(
                urgent
                    .into_iter()
                    .map(|(urgency, key)| PassEntry { urgency, set, key }),
            );
        }
        if turns.len() > 1 {
            order.sort_by(|one, other| other.urgency.total_cmp(&one.urgency));
        }
        order
    }

    fn candidates(
        &self,
        eligible: &EligibleSet,
        exclude: &[EndpointId],
        moment: PassMoment<'_>,
    ) -> CandidateSet {
        let PassMoment { draw, now, .. } = moment;
        let queued = self.requests.queue.work();
        self.endpoints
            .candidates(eligible, exclude, queued, draw, now)
    }

    /// Binds one request, or returns it to the queue, counts its work there and claims the
    /// position. Returns the position where something changed, and whether it was bound there.
    fn place(
        &mut self,
        waiting: Box<QueuedRequest>,
        set: &ExaminedSet,
        claimed: &mut ClaimedPositions,
        moment: PassMoment<'_>,
        dequeued: &mut Vec<Dequeued>,
    ) -> (Option<usize>, bool) {
        let PassMoment { rules, now, .. } = moment;
        let exclude = &waiting.query.exclude;
        let own = (!exclude.is_empty()).then(|| self.candidates(&set.eligible, exclude, moment));
        let candidates = own.as_ref().unwrap_or(&set.candidates);
        let handovers = self.endpoints.handovers(
            &waiting.query,
            waiting.model.as_deref(),
            &waiting.lookup,
            now,
        );
        let prompt = CostedPrompt {
            tokens: waiting.query.prompt_tokens,
            hits: &waiting.lookup.hits,
            credit: self.rents.credit(&waiting.query, now),
            handovers: handovers.as_ref(),
        };
        let ranking = candidates.ranking(prompt, set.price);
        let Some(cost) = ranking.first().copied() else {
            self.requests.queue.discard(&waiting);
            self.try_anyone(&waiting, now, dequeued);
            return (None, false);
        };
        let candidate = candidates.candidates[cost.candidate];
        let position = candidate.position as usize;
        let waited = now.saturating_sub(waiting.since);
        let need = RoomRequirement {
            query: &waiting.query,
            model: waiting.model.as_deref(),
            waited,
            handed_over_in: cost.handed_over_in(candidate.queue_delay),
        };
        let has_room = self.endpoints.has_room(position, need, rules, now);
        let is_claimed = claimed.contains(&candidate.position);
        if is_claimed || (rules.late && !has_room) {
            if !is_claimed {
                self.endpoints.refused(position, need);
                claimed.push(candidate.position);
            }
            let service = cost.service(candidate.queue_delay);
            self.requests.check_in(waiting, service, candidate.position);
            return (Some(position), false);
        }
        self.requests.queue.discard(&waiting);
        let pending = PendingBinding {
            key: waiting.key,
            query: &waiting.query,
            model: waiting.model.as_deref(),
            lookup: &waiting.lookup,
            waited,
        };
        let binding = self.bind(pending, candidates, &ranking, set.price, now);
        dequeued.push(Dequeued {
            key: waiting.key,
            exit: QueueExit::Bound(binding),
        });
        (Some(position), true)
    }

    /// The strategy changed to one that never queues: binds all requests by it.
    fn release_all(&mut self, now: Duration, dequeued: &mut Vec<Dequeued>) {
        let keys: Vec<RequestKey> = self.requests.queue.keys().collect();
        for key in keys {
            if let Some(waiting) = self.requests.queue.remove(key) {
                self.try_anyone(&waiting, now, dequeued);
            }
        }
    }

    /// Queueing does not help, because no endpoint is up or the strategy does not queue: binds by
    /// the picker.
    fn try_anyone(&mut self, waiting: &QueuedRequest, now: Duration, dequeued: &mut Vec<Dequeued>) {
        let lookup = self.endpoints.lookup(&waiting.query, &waiting.others, now);
        let waited = now.saturating_sub(waiting.since);
        let pending = PendingBinding {
            key: waiting.key,
            query: &waiting.query,
            model: waiting.model.as_deref(),
            lookup: &lookup,
            waited,
        };
        let end = self
            .pick(pending, now)
            .map_or_else(QueueExit::NoEndpoint, QueueExit::Bound);
        dequeued.push(Dequeued {
            key: waiting.key,
            exit: end,
        });
    }

    /// Repeats the cache estimates of a request when they may be outdated.
    fn refresh(&self, waiting: &mut QueuedRequest, now: Duration) {
        if waiting
            .lookup
            .at
            .is_none_or(|at| now.saturating_sub(at) >= FRESH)
        {
            waiting.lookup = self.endpoints.lookup(&waiting.query, &waiting.others, now);
        }
    }

    /// A prompt was just bound: updates the estimates of the next requests that begin with the same
    /// block.
    fn refresh_neighbors(&mut self, next: &[PassEntry], head: Option<u64>, position: usize) {
        let Self {
            endpoints,
            requests,
            ..
        } = self;
        for &PassEntry { key, .. } in next.iter().take(NEIGHBORS) {
            let Some(waiting) = requests.queue.get_mut(key) else {
                continue;
            };
            if head.is_some()
                && waiting.query.blocks.first().copied() == head
                && waiting.lookup.at.is_some()
            {
                let QueuedRequest { query, lookup, .. } = waiting;
                endpoints.refresh_learned(lookup, position, query);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_pass_examines_each_set_and_computes_a_bounded_number_of_costs(
            endpoints in 0usize..5_000,
            sets in 1..=MAX_SETS,
        ) {
            let requests = horizon(endpoints, sets) * sets;
            prop_assert!((sets..=HORIZON.1).contains(&requests));
            prop_assert!(requests * endpoints <= EFFORT.max(HORIZON.0 * endpoints));
        }
    }
}
