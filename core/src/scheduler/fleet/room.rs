//! What a choice reads of a fleet: the candidates for a request, and which of them have room.

use std::{sync::Arc, time::Duration};

use super::{Fleet, MemoryCharge};
use crate::{
    load::Health,
    pick::{EligibleSet, NoEndpoint},
    policy::KvAware,
    query::Query,
    scheduler::{
        cost::{CandidateEndpoint, CandidateSet},
        engine::EndedPrompt,
        queue::{QueuedDemand, QueuedWork},
    },
    snapshot::{EndpointId, Role},
};

/// How long a request waits for memory alone. Engines' memory figures may be wrong, and engines
/// queue what does not fit themselves: this wait avoids preemptions, and a wrong figure costs no
/// more than this.
const PATIENCE: Duration = Duration::from_secs(2);

/// The requirements of a request for room.
#[derive(Clone, Copy, Debug)]
pub(in crate::scheduler) struct RoomRequirement<'a> {
    /// Its prompt.
    pub(in crate::scheduler) query: &'a Query,
    /// The model that it names.
    pub(in crate::scheduler) model: Option<&'a str>,
    /// How long it has been queued.
    pub(in crate::scheduler) waited: Duration,
    /// The seconds after which a decode endpoint takes it over, if only its prompt is computed
    /// there.
    pub(in crate::scheduler) handed_over_in: Option<f64>,
}

/// The endpoints that may take a request at one moment, as positions in ascending order. They are
/// found once for all sets: many sets share endpoints.
#[derive(Debug)]
pub(in crate::scheduler) struct FreeEndpoints(Vec<u32>);

impl Fleet {
    /// The endpoints that may serve a model, for a request that may be split those that it may be
    /// sent to first, and those that serve it alone once it is known what a pair costs; never
    /// empty.
    ///
    /// # Errors
    /// When there are none.
    pub(in crate::scheduler) fn eligible(
        &self,
        model: Option<&str>,
        split: bool,
    ) -> Result<&Arc<EligibleSet>, NoEndpoint> {
        let sets = self.picker.split_candidates(model);
        match sets.filter(|_| split && self.compares_pairs()) {
            Some(sets) => Ok(sets.compared),
            None => self.picker.members(model, split),
        }
    }

    /// Prompts that all endpoints together compute at once.
    pub(in crate::scheduler) fn lanes(&self) -> u32 {
        self.lanes
    }

    /// The share of time in which the engines of a set compute prompts, 0..=1: of those among them
    /// that are there for it, if any are.
    pub(in crate::scheduler) fn utilization(&self, eligible: &EligibleSet, now: Duration) -> f64 {
        if self.picker.pair_groups() == 0 {
            return self.utilization.mean(eligible, now);
        }
        let endpoints = &self.pool().endpoints;
        let decodes = |position: &usize| endpoints[*position].role == Role::Decode;
        if eligible.positions().all(|position| decodes(&position)) {
            return self.utilization.mean_of(eligible.positions(), now);
        }
        let computing = eligible.positions().filter(|position| !decodes(position));
        self.utilization.mean_of(computing, now)
    }

    /// The endpoints of `eligible` that may be chosen for a request and are up, or warm up and take
    /// their turn by `draw`. If there is none, those that warm up without their turn, and else
    /// those that cool down: requests queue for them, too. Empty if all are down.
    ///
    /// `queued` is what is queued for each position.
    pub(in crate::scheduler) fn candidates(
        &self,
        eligible: &EligibleSet,
        exclude: &[EndpointId],
        queued: &QueuedWork,
        draw: f32,
        now: Duration,
    ) -> CandidateSet {
        let endpoints = &self.pool().endpoints;
        let tried = |position: usize| exclude.contains(&endpoints[position].id);
        let may_serve = || {
            let untried = move |position: &usize| exclude.is_empty() || !tried(*position);
            eligible.positions().filter(untried)
        };
        let of = |takes: &dyn Fn(Health) -> bool| {
            let chosen = may_serve().filter(|&position| takes(self.loads[position].health));
            let mut found = Vec::with_capacity(eligible.len());
            found.extend(chosen.map(|position| self.candidate(position, queued.at(position), now)));
            found
        };
        let mut candidates = of(&|health| health.admits(draw));
        if candidates.is_empty() {
            candidates = of(&Health::takes_turns);
        }
        if candidates.is_empty() {
            candidates = of(&Health::is_cooling);
        }
        CandidateSet::new(candidates)
    }

    pub(in crate::scheduler) fn candidate(
        &self,
        position: usize,
        queued: QueuedDemand,
        now: Duration,
    ) -> CandidateEndpoint {
        let terms = &self.terms[position];
        CandidateEndpoint {
            position: position as u32,
            in_flight: terms.in_flight,
            recent_prefill: terms.recent_prefill,
            queue_delay: terms.queue_delay(queued.seconds, now.as_secs_f64()),
            interference: terms.interference,
            waiting: f64::from(queued.waiting) * terms.lane_share,
            base: terms.fit.base,
            per_token: terms.per_token,
            split: self.split_terms(position, now),
        }
    }

    /// Whether a prompt may be sent there: our own prompts begin within the window, and its memory
    /// takes the prompt.
    ///
    /// Work of other clients raises the cost of an endpoint and is not waited for: it might never
    /// end. Nor is memory waited for forever, see [`PATIENCE`]; that of decode endpoints for half of
    /// the queue's limit, as one that is full preempts answers which people read already. An endpoint
    /// that cools down asked to be left alone: it has no room until that is over.
    pub(in crate::scheduler) fn has_room(
        &self,
        position: usize,
        need: RoomRequirement<'_>,
        rules: &KvAware,
        now: Duration,
    ) -> bool {
        let longest = rules.queue.max_wait / 2;
        // A request that is impatient only with whole requests would fill decode endpoints with
        // prompts, so that no pair could use the prefill endpoints any more.
        let patience = if self.is_decode(position) {
            longest
        } else {
            PATIENCE.min(longest)
        };
        let explores = need.waited > Duration::ZERO && self.may_explore(position);
        !self.loads[position].health.is_cooling()
            && (self.is_free(position, rules.window, now) || explores)
            && (need.waited >= patience
                || self.engines[position].fits(self.memory(position, need.query)))
            && need.handed_over_in.is_none_or(|seconds| {
                need.waited >= longest
                    || self.is_taken_over(position, (need.query, need.model), seconds)
            })
    }

    /// Tokens for which a prompt needs memory of its own at this position: all but the beginning
    /// that it shares with one of the prompts that run there. All of them where the engine reports
    /// no memory, as then no one asks.
    pub(in crate::scheduler) fn memory(&self, position: usize, query: &Query) -> u32 {
        if !self.engines[position].reports_memory() {
            return query.prompt_tokens;
        }
        let running = self.flights[position].requests;
        query.prompt_tokens - self.caches.in_use(position, query, running)
    }

    /// The charge of the prompt that was routed there last, for `tokens` tokens.
    pub(in crate::scheduler) fn charge(&self, position: usize, tokens: u32) -> MemoryCharge {
        MemoryCharge {
            tokens,
            route: self.caches.latest_route(position),
        }
    }

    /// A request is not open at this position any more, which frees what no other one shares.
    pub(in crate::scheduler) fn freed(
        &mut self,
        position: usize,
        query: &Query,
        charge: MemoryCharge,
    ) {
        let running = self.flights[position].requests;
        let later = if self.engines[position].reports_memory() {
            self.caches
                .in_use_since(position, query, charge.route, running)
        } else {
            0
        };
        let ended = EndedPrompt {
            tokens: query.prompt_tokens,
            charged: charge.tokens,
            later,
            is_last: running == 0,
        };
        self.engines[position].freed(ended);
    }

    /// Whether our own prompts begin there within the window.
    pub(in crate::scheduler) fn is_free(
        &self,
        position: usize,
        window: Duration,
        now: Duration,
    ) -> bool {
        let pending = self.terms[position].pending(now);
        self.engines[position].has_room(self.flights[position], pending, window)
    }

    /// Whether one that has waited may be sent there without room, see
    /// [`EngineModel::may_explore`](crate::scheduler::engine::EngineModel::may_explore).
    fn may_explore(&self, position: usize) -> bool {
        self.engines[position].may_explore(self.flights[position])
    }

    /// A request was not sent there for want of room. If only memory kept it from exploring, no
    /// plan is made for that until its memory changes.
    pub(in crate::scheduler) fn refused(&mut self, position: usize, need: RoomRequirement<'_>) {
        if need.waited > Duration::ZERO
            && self.may_explore(position)
            && !self.engines[position].fits(self.memory(position, need.query))
        {
            self.engines[position].refuse_exploration();
        }
    }

    /// The endpoints that are up, do not cool down, and may take one that has waited. Only a
    /// `wanted` endpoint is explored: for one that no request wants, each event would plan again in
    /// vain, as it would while memory refuses what wants it.
    pub(in crate::scheduler) fn free(
        &self,
        window: Duration,
        wanted: impl Fn(usize) -> bool,
        now: Duration,
    ) -> FreeEndpoints {
        let takes = |position| {
            let (engine, flight) = (&self.engines[position], self.flights[position]);
            let explores = || wanted(position) && engine.is_worth_exploring(flight);
            self.is_free(position, window, now) || explores()
        };
        let serves = |position: usize| self.loads[position].health.takes_turns();
        let free = (0..self.engines.len()).filter(|&position| serves(position) && takes(position));
        FreeEndpoints(free.map(|position| position as u32).collect())
    }

    /// Whether any endpoint of a set is up; if not, queueing does not help.
    pub(in crate::scheduler) fn is_any_up(&self, eligible: &EligibleSet) -> bool {
        eligible.positions().any(|position| self.is_up(position))
    }

    fn is_up(&self, position: usize) -> bool {
        self.loads[position].health != Health::Down
    }
}

// === FreeEndpoints ===

impl FreeEndpoints {
    /// Whether one of them is in the set. Costs no more than the smaller of both, times a search in
    /// the other.
    pub(in crate::scheduler) fn any_in(&self, eligible: &EligibleSet) -> bool {
        let Self(free) = self;
        if free.len() < eligible.len() {
            free.iter()
                .any(|&position| eligible.contains(position as usize))
        } else {
            let mut positions = eligible.positions();
            positions.any(|position| free.binary_search(&(position as u32)).is_ok())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::{collection::btree_set, prelude::*};

    use super::*;
    use crate::pick::EligibleSets;

    proptest! {
        #[test]
        fn a_set_has_a_free_endpoint_where_both_share_one(
            free in btree_set(0u32..30, 0..30),
            set in btree_set(0u32..30, 0..30),
        ) {
            let positions: BTreeSet<usize> = set.iter().map(|&at| at as usize).collect();
            let (sets, _) = EligibleSets::new(positions.into_iter(), std::iter::empty());
            let shared = free.intersection(&set).count() > 0;
            let free = FreeEndpoints(free.into_iter().collect());
            prop_assert_eq!(free.any_in(sets.everyone()), shared);
        }
    }
}
