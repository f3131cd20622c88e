//! One pass over the most urgent queued requests: which of them are bound now.
//!
//! Each in turn gets the endpoint where it costs least, given the work that is sent and the queued
//! work before it. If that endpoint has room and no earlier request wants it, the request is bound;
//! else its work is added to the endpoint's queued work. Bounded: the number of requests times that
//! of endpoints stays within [`EFFORT`]; requests behind that horizon are not examined in this
//! pass.

use std::time::Duration;

use super::{
    Dequeued, QueueExit, QueuedRequest, Scheduler,
    bind::PendingBinding,
    cost::{CandidateSet, CostedPrompt},
    fleet::RoomRequirement,
};
use crate::{ledger::RequestKey, pick::EligibleSetId, policy::KvAware, query::Query};

/// Approximate maximum of costs computed in one pass.
const EFFORT: usize = 4_096;
/// Minimum and maximum number of requests in one pass.
const HORIZON: (usize, usize) = (16, 128);
/// Cache estimates of a queued request are repeated after this time.
const FRESH: Duration = Duration::from_millis(200);
/// When a prompt is bound, at most this many queued requests with the same beginning are updated at
/// once.
const NEIGHBORS: usize = 64;

impl Scheduler {
    /// Binds the requests that can be bound, and removes those that were queued for too long.
    pub fn dequeue(&mut self, now: Duration, dequeued: &mut Vec<Dequeued>) {
        if self.requests.queue.is_empty() {
            return;
        }
        self.endpoints.assume_done(now);
        let Some(rules) = self.rules() else {
            return self.release_all(now, dequeued);
        };
        self.give_up(now, dequeued);
        if !rules.late || self.endpoints.may_take(&rules, now) {
            self.plan(&rules, now, dequeued);
        }
    }

    fn give_up(&mut self, now: Duration, dequeued: &mut Vec<Dequeued>) {
        for key in self.requests.queue.late(now) {
            self.remove_queued(key);
            dequeued.push(Dequeued {
                key,
                exit: QueueExit::TimedOut {
                    retry_after: self.retry_after(),
                },
            });
        }
    }

    fn plan(&mut self, rules: &KvAware, now: Duration, dequeued: &mut Vec<Dequeued>) {
        self.queued.fill(0.0);
        let draw = self.rng.unit();
        let horizon = (EFFORT / self.queued.len().max(1)).clamp(HORIZON.0, HORIZON.1);
        let order = self.requests.queue.order(horizon, now);
        // Neighbors in the order often have one eligible set: its candidates are computed once, and
        // updated where something changes.
        let mut shared: Option<(EligibleSetId, CandidateSet)> = None;
        for (place, &key) in order.iter().enumerate() {
            let Some(mut waiting) = self.requests.queue.check_out(key) else {
                continue;
            };
            self.refresh(&mut waiting, now);
            let eligible = match self.endpoints.eligible(waiting.model.as_deref()) {
                Ok(eligible) => eligible,
                Err(no_endpoint) => {
                    self.requests.queue.discard(&waiting);
                    dequeued.push(Dequeued {
                        key,
                        exit: QueueExit::NoEndpoint(no_endpoint),
                    });
                    continue;
                }
            };
            let id = eligible.id();
            let is_whole = waiting.query.exclude.is_empty();
            let mut candidates = match shared.take().filter(|(of, _)| is_whole && *of == id) {
                Some((_, candidates)) => candidates,
                None => {
                    let Query { exclude, .. } = &waiting.query;
                    self.endpoints
                        .candidates(eligible, exclude, &self.queued, draw, now)
                }
            };
            let head = waiting.query.blocks.first().copied();
            if let Some(position) = self.place(waiting, &mut candidates, rules, now, dequeued) {
                self.refresh_neighbors(&order[place + 1..], head, position);
            }
            shared = is_whole.then_some((id, candidates));
        }
    }

    /// Binds one request, or returns it to the queue and counts its work there. Returns the
    /// position where it was bound.
    fn place(
        &mut self,
        mut waiting: Box<QueuedRequest>,
        candidates: &mut CandidateSet,
        rules: &KvAware,
        now: Duration,
        dequeued: &mut Vec<Dequeued>,
    ) -> Option<usize> {
        let gamma = rules.gamma(
            self.endpoints.utilization(now),
            self.requests.queue.len(),
            candidates.len(),
        );
        let prompt = CostedPrompt {
            tokens: waiting.query.prompt_tokens,
            hits: &waiting.lookup.hits,
        };
        let ranking = candidates.ranking(prompt, gamma);
        let Some(cost) = ranking.first().copied() else {
            self.requests.queue.discard(&waiting);
            self.try_anyone(&waiting, now, dequeued);
            return None;
        };
        let position = candidates.candidates[cost.candidate].position as usize;
        let is_wanted = self.queued[position] > 0.0;
        let waited = now.saturating_sub(waiting.since);
        let need = RoomRequirement {
            prompt: waiting.query.prompt_tokens,
            waited,
        };
        let has_room = self.endpoints.has_room(position, need, rules, now);
        let bound = !is_wanted && (has_room || !rules.late);
        if bound {
            self.requests.queue.discard(&waiting);
            let pending = PendingBinding {
                key: waiting.key,
                query: &waiting.query,
                lookup: &waiting.lookup,
                waited,
                gamma,
            };
            let binding = self.bind(pending, candidates, &ranking, now);
            dequeued.push(Dequeued {
                key: waiting.key,
                exit: QueueExit::Bound(binding),
            });
        } else {
            let service = cost.finish - candidates.candidates[cost.candidate].queue_delay;
            waiting.set_service(service, &self.requests.shares);
            self.queued[position] += service;
            self.requests.queue.check_in(waiting);
        }
        candidates.candidates[cost.candidate] =
            self.endpoints
                .candidate(position, self.queued[position], now);
        bound.then_some(position)
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
            lookup: &lookup,
            waited,
            gamma: 0.0,
        };
        let end = self
            .pick(pending, waiting.model.as_deref(), now)
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
    fn refresh_neighbors(&mut self, next: &[RequestKey], head: Option<u64>, position: usize) {
        let Self {
            endpoints,
            requests,
            ..
        } = self;
        for &key in next.iter().take(NEIGHBORS) {
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
