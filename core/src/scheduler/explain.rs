//! A choice in numbers, for people: what every endpoint would cost, and what is known of the fleet.
//!
//! In two steps, because a scheduler is behind a lock: [`Scheduler::explain`] copies the figures,
//! in about the time of a choice, and [`ExplanationFigures::explain`] sorts and writes them.

mod split;

use std::{sync::Arc, time::Duration};

use self::split::SplitFigures;
use super::{
    ScheduleRequest, Scheduler,
    cost::{CandidateEndpoint, CostedPrompt, EndpointCost, WastePrice},
    fleet::RoomRequirement,
};
use crate::{
    estimate::{self, CacheEstimate},
    explanation::{CandidateCosts, Explanation, QueueExplanation},
    pick::{PickRecord, PickRequest, Picker},
    query::{CacheHit, Query},
};

/// The figures of one choice, from which it is explained.
#[derive(Debug)]
pub struct ExplanationFigures {
    picker: Arc<Picker>,
    query: Query,
    model: Option<Box<str>>,
    hits: Vec<CacheHit>,
    picked: PickRecord,
    queue: Option<QueueFigures>,
    split: Option<SplitFigures>,
}

/// Those of `kv-aware`.
#[derive(Debug)]
struct QueueFigures {
    utilization: f32,
    queued_requests: usize,
    /// Requests are bound late.
    late: bool,
    /// Each with whether a queued request that counts as work costs least there; in ascending order
    /// of position.
    candidates: Vec<(CandidateCosts, bool)>,
}

// === ExplanationFigures ===

impl ExplanationFigures {
    /// What [`Scheduler::schedule`] would have said, with every number.
    #[must_use]
    pub fn explain(self) -> Explanation {
        let Self {
            picker,
            query,
            model,
            hits,
            picked,
            queue,
            split,
        } = self;
        let ask = PickRequest {
            model: model.as_deref(),
            hits: &hits,
            ..PickRequest::new(&query)
        };
        let explanation = picker.explain_record(&ask, picked);
        let mut explanation = match queue {
            Some(queue) if !queue.candidates.is_empty() => explanation.with_queue(queue.explain()),
            _ => explanation,
        };
        let compared = explanation
            .queue
            .as_ref()
            .map(|queue| &queue.candidates[..]);
        explanation.split = split.map(|split| split.explain(compared.unwrap_or_default()));
        explanation
    }
}

impl QueueFigures {
    fn explain(self) -> QueueExplanation {
        let Self {
            utilization,
            queued_requests,
            late,
            mut candidates,
        } = self;
        candidates.sort_by(|(one, _), (other, _)| one.cost_s.total_cmp(&other.cost_s));
        let first = candidates.first();
        let binds_now = !late || first.is_some_and(|(first, wanted)| first.has_room && !wanted);
        let candidates: Vec<CandidateCosts> =
            candidates.into_iter().map(|(costs, _)| costs).collect();
        QueueExplanation {
            gamma: mean(candidates.iter().map(|one| one.gamma)),
            utilization,
            queued_requests,
            waiting_requests: candidates.iter().map(|one| one.queued_requests).sum(),
            binds_now,
            candidates,
        }
    }
}

// === Scheduler ===

impl Scheduler {
    /// The figures of what [`Scheduler::schedule`] would say; books nothing, and changes nothing
    /// that comes next.
    #[must_use]
    pub fn explain(&self, request: ScheduleRequest<'_>, now: Duration) -> ExplanationFigures {
        let mut query = self.endpoints.corrected(request.query);
        let lookup = self.endpoints.lookup(&query, request.hits, now);
        let is_accepted = query.split;
        query.split = self.endpoints.splits(&query, request.model, &lookup);
        let split = SplitFigures::of(&self.endpoints, is_accepted, query.split);
        let hits = estimate::cache_hits(&lookup.estimates, self.pool());
        let ask = PickRequest {
            query: &query,
            model: request.model,
            hits: &hits,
            round_robin_counter: self.round_robin_counter,
            total_in_flight: Some(self.endpoints.ledger().len() as u64),
        };
        let (picker, loads) = (self.endpoints.picker(), self.endpoints.loads());
        let picked = picker.record(&ask, |position| loads[position], &mut self.rng.clone());
        let request = ScheduleRequest {
            query: &query,
            ..request
        };
        let queue = self.queue_figures(request, &lookup, now);
        ExplanationFigures {
            picker: Arc::clone(picker),
            model: request.model.map(Box::from),
            query,
            hits,
            picked,
            queue,
            split,
        }
    }

    fn queue_figures(
        &self,
        request: ScheduleRequest<'_>,
        lookup: &super::CacheLookup,
        now: Duration,
    ) -> Option<QueueFigures> {
        let rules = self.rules()?;
        let ScheduleRequest {
            query,
            model,
            waited,
            ..
        } = request;
        let eligible = self.endpoints.eligible(model, query.split).ok()?;
        let queue = &self.requests.queue;
        let set = self
            .endpoints
            .candidates(eligible, &query.exclude, queue.work(), 0.0, now);
        let utilization = self.endpoints.utilization(eligible, now);
        let price = WastePrice::of(&rules, utilization);
        let handovers = self.endpoints.handovers(query, model, lookup, now);
        let prompt = CostedPrompt {
            tokens: query.prompt_tokens,
            hits: &lookup.hits,
            credit: self.rents.credit(query, now),
            handovers: handovers.as_ref(),
        };
        let mut candidates = Vec::with_capacity(set.len());
        set.for_each(prompt, price, |cost| {
            let candidate = set.candidates[cost.candidate];
            let position = candidate.position as usize;
            let need = RoomRequirement {
                query,
                model,
                waited,
                handed_over_in: cost.handed_over_in(candidate.queue_delay),
            };
            let has_room = self.endpoints.has_room(position, need, &rules, now);
            let decode = cost.is_pair.then(|| {
                let decode = self
                    .endpoints
                    .best_decode(position, (query, model), lookup, now);
                decode.map(|decode| Arc::clone(&self.pool().endpoints[decode].name))
            });
            let costs = CandidateCosts {
                decode: decode.flatten(),
                ..self.candidate_costs(&candidate, &cost, price, lookup, has_room)
            };
            candidates.push((costs, queue.is_wanted(position)));
        });
        Some(QueueFigures {
            utilization: utilization as f32,
            queued_requests: queue.len(),
            late: rules.late,
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
        let estimates = &lookup.estimates;
        let at = estimates.binary_search_by_key(&candidate.position, |one| one.position);
        let estimate = at.ok().map(|at| estimates[at]);
        let endpoint = &self.pool().endpoints[position];
        CandidateCosts {
            name: Arc::clone(&endpoint.name),
            endpoint: endpoint.id,
            cached_tokens: cost.cached,
            source: estimate.map(|CacheEstimate { source, .. }| source),
            confidence: self.endpoints.confidence(position),
            queue_delay_s: candidate.queue_delay,
            ttft_s: cost.finish,
            wasted_prefill_s: cost.wasted_prefill,
            gamma: price.at(candidate) as f32,
            spared_s: cost.spared,
            decode: None,
            transfer_s: cost.transfer,
            answers_s: cost.answers,
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
