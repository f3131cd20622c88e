//! A choice in numbers, for people: what every endpoint would cost, and what is known of the fleet.

use std::{sync::Arc, time::Duration};

use super::{
    ScheduleRequest, Scheduler,
    cost::{CandidateEndpoint, CostedPrompt, EndpointCost, WastePrice},
    fleet::RoomRequirement,
};
use crate::{
    estimate::{self, CacheEstimate},
    explanation::{CandidateCosts, Explanation, QueueExplanation},
    pick::PickRequest,
};

impl Scheduler {
    /// What [`Scheduler::schedule`] would say, with every number; books nothing, and changes
    /// nothing that comes next.
    #[must_use]
    pub fn explain(&self, request: ScheduleRequest<'_>, now: Duration) -> Explanation {
        let query = &self.endpoints.corrected(request.query);
        let lookup = self.endpoints.lookup(query, request.hits, now);
        let hits = estimate::cache_hits(&lookup.estimates, self.pool());
        let Self {
            endpoints,
            round_robin_counter: turn,
            rng,
            ..
        } = self;
        let total_in_flight = Some(endpoints.ledger().len() as u64);
        let ask = PickRequest {
            query,
            model: request.model,
            hits: &hits,
            round_robin_counter: *turn,
            total_in_flight,
        };
        let loads = endpoints.loads();
        let explanation =
            endpoints
                .picker()
                .explain(&ask, |position| loads[position], &mut rng.clone());
        let queue_explanation =
            self.queue_explanation(ScheduleRequest { query, ..request }, &lookup, now);
        match queue_explanation {
            Some(queue_explanation) if !queue_explanation.candidates.is_empty() => {
                explanation.with_queue(queue_explanation)
            }
            _ => explanation,
        }
    }

    fn queue_explanation(
        &self,
        request: ScheduleRequest<'_>,
        lookup: &super::CacheLookup,
        now: Duration,
    ) -> Option<QueueExplanation> {
        let rules = self.rules()?;
        let ScheduleRequest {
            query,
            model,
            waited,
            ..
        } = request;
        let need = RoomRequirement { query, waited };
        let eligible = self.endpoints.eligible(model).ok()?;
        let queue = &self.requests.queue;
        let candidates =
            self.endpoints
                .candidates(eligible, &query.exclude, queue.work(), 0.0, now);
        let utilization = self.endpoints.utilization(eligible, now);
        let price = WastePrice::of(&rules, utilization);
        let mut costs: Vec<EndpointCost> = Vec::with_capacity(candidates.len());
        candidates.for_each(
            CostedPrompt {
                tokens: query.prompt_tokens,
                hits: &lookup.hits,
                credit: self.rents.credit(query, now),
            },
            price,
            |cost| costs.push(cost),
        );
        costs.sort_by(|one, other| one.total.total_cmp(&other.total));
        let explained = costs.iter().map(|cost| {
            let candidate = candidates.candidates[cost.candidate];
            let has_room = self
                .endpoints
                .has_room(candidate.position as usize, need, &rules, now);
            self.candidate_costs(&candidate, cost, price, lookup, has_room)
        });
        let candidates: Vec<CandidateCosts> = explained.collect();
        let wanted = |weighed: &CandidateCosts| {
            self.endpoints
                .position(weighed.endpoint)
                .is_some_and(|at| queue.is_wanted(at))
        };
        let binds = !rules.late
            || candidates
                .first()
                .is_some_and(|first| first.has_room && !wanted(first));
        Some(QueueExplanation {
            gamma: mean(candidates.iter().map(|one| one.gamma)),
            utilization: utilization as f32,
            queued_requests: queue.len(),
            waiting_requests: candidates.iter().map(|one| one.queued_requests).sum(),
            binds_now: binds,
            candidates,
        })
    }

    /// One endpoint's part of the explanation.
    fn candidate_costs(
        &self,
        candidate: &CandidateEndpoint,
        cost: &EndpointCost,
        price: WastePrice,
        lookup: &super::CacheLookup,
        has_room: bool,
    ) -> CandidateCosts {
        let position = candidate.position as usize;
        let mut estimates = lookup.estimates.iter();
        let estimate = estimates.find(|estimate| estimate.position == candidate.position);
        let endpoint = &self.pool().endpoints[position];
        CandidateCosts {
            name: Arc::clone(&endpoint.name),
            endpoint: endpoint.id,
            cached_tokens: cost.cached,
            source: estimate.map(|&CacheEstimate { source, .. }| source),
            confidence: self.endpoints.confidence(position),
            queue_delay_s: candidate.queue_delay,
            ttft_s: cost.finish,
            wasted_prefill_s: cost.wasted_prefill,
            gamma: price.at(candidate) as f32,
            spared_s: cost.spared,
            queued_requests: self.requests.queue.work().at(position).waiting,
            cost_s: cost.total,
            interference: candidate.interference as f32,
            lanes: self.endpoints.engine(position).lanes(),
            rate: 1.0 / candidate.per_token,
            decode_s: self.endpoints.engine(position).decode.seconds_per_token(),
            has_room,
        }
    }
}

/// The mean; 0 of nothing.
fn mean(values: impl ExactSizeIterator<Item = f32>) -> f32 {
    let count = values.len().max(1) as f32;
    values.sum::<f32>() / count
}
