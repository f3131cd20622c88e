//! A choice in numbers, for people: what every endpoint would cost, and what is known of the fleet.

use std::{sync::Arc, time::Duration};

use serde::Serialize;

use super::{
    ScheduleRequest, Scheduler,
    caches::{self, CacheEstimate},
    cost::{EndpointCost, PromptHits},
    fleet::RoomRequirement,
};
use crate::{
    pick::{Explanation, PickRequest},
    query::CacheSource,
    snapshot::EndpointId,
};

/// What was expected of the endpoint that was chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExpectedCosts {
    /// Until the prompt is begun there.
    pub queue_delay: Duration,
    /// Until its first token.
    pub ttft: Duration,
    /// Prefill that another endpoint would have been spared, at the mean rate.
    pub wasted_prefill: Duration,
    /// What waste was weighed with.
    pub gamma: f32,
    /// Where it would have cost second least.
    pub runner_up: Option<EndpointId>,
}

/// How `kv-aware` weighed the candidates of one request.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QueueExplanation {
    /// What waste is weighed with.
    pub gamma: f32,
    /// Share of time in which endpoints compute prompts, 0..=1.
    pub utilization: f32,
    /// Requests that wait.
    pub queued_requests: usize,
    /// Whether the request would be bound at once.
    pub binds_now: bool,
    /// Every endpoint that may be chosen, the one with the least cost first.
    pub candidates: Vec<CandidateCosts>,
}

/// One endpoint of a [`QueueExplanation`]; times in seconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CandidateCosts {
    /// Its name.
    pub name: Arc<str>,
    /// Its id.
    pub endpoint: EndpointId,
    /// Prompt tokens taken to be cached there.
    pub cached_tokens: u32,
    /// Who says so; `null` when nobody says anything.
    pub source: Option<CacheSource>,
    /// How far each source of it is believed, 0..=1: learned, manager, events.
    pub confidence: [f32; 3],
    /// Until a prompt that is sent now begins, those included who wait for the endpoint.
    pub queue_delay_s: f64,
    /// Until the request's first token.
    pub ttft_s: f64,
    /// Prefill that another endpoint would be spared, at the mean rate.
    pub wasted_prefill_s: f64,
    /// `ttft_s + gamma * wasted_prefill_s`, and a little for requests in flight.
    pub cost_s: f64,
    /// Learned prompt tokens a second; the usual ones while nothing is learned.
    pub rate: f64,
    /// Learned seconds per output token.
    pub decode_s: Option<f32>,
    /// Whether a request may be sent there now.
    pub has_room: bool,
}

impl Scheduler {
    /// What [`Scheduler::schedule`] would say, with every number; books nothing, and changes nothing that comes next.
    #[must_use]
    pub fn explain(&self, arrival: ScheduleRequest<'_>, now: Duration) -> Explanation {
        let query = &self.caches.in_true_tokens(arrival.query);
        let known = self.known(query, arrival.hits, now);
        let hits = caches::as_hits(&known.beliefs, self.pool());
        let Self {
            fleet,
            round_robin_counter: turn,
            rng,
            ..
        } = self;
        let total_in_flight = Some(fleet.ledger.len() as u64);
        let ask = PickRequest {
            query,
            model: arrival.model,
            hits: &hits,
            round_robin_counter: *turn,
            total_in_flight,
        };
        let explanation =
            fleet
                .picker
                .explain(&ask, |position| fleet.loads[position], &mut rng.clone());
        let queue_explanation =
            self.queue_explanation(ScheduleRequest { query, ..arrival }, &known, now);
        match queue_explanation {
            Some(queue_explanation) if !queue_explanation.candidates.is_empty() => {
                explanation.weighed(queue_explanation)
            }
            _ => explanation,
        }
    }

    fn queue_explanation(
        &self,
        arrival: ScheduleRequest<'_>,
        known: &super::CacheLookup,
        now: Duration,
    ) -> Option<QueueExplanation> {
        let rules = self.rules()?;
        let ScheduleRequest {
            query,
            model,
            waited,
            ..
        } = arrival;
        let need = RoomRequirement {
            prompt: query.prompt_tokens,
            waited,
        };
        let sites = self
            .fleet
            .sites(model, query, &self.queued, 0.0, now)
            .ok()?;
        let utilization = self.fleet.utilization.at(now);
        let gamma = rules.gamma(utilization, self.queue.len(), sites.len());
        let mut costs: Vec<EndpointCost> = Vec::with_capacity(sites.len());
        sites.for_each(
            PromptHits {
                tokens: query.prompt_tokens,
                hits: &known.hits,
            },
            gamma,
            |cost| costs.push(cost),
        );
        costs.sort_by(|one, other| one.total.total_cmp(&other.total));
        let weighed = |cost: &EndpointCost| {
            let site = sites.sites[cost.site];
            let position = site.position as usize;
            let belief = known
                .beliefs
                .iter()
                .find(|belief| belief.position == site.position);
            let endpoint = &self.pool().endpoints[position];
            let trust = self.caches.trust(position);
            CandidateCosts {
                name: Arc::clone(&endpoint.name),
                endpoint: endpoint.id,
                cached_tokens: cost.cached,
                source: belief.map(|&CacheEstimate { source, .. }| source),
                confidence: CacheSource::ALL.map(|source| trust.of(source)),
                queue_delay_s: site.queue_delay,
                ttft_s: cost.finish,
                wasted_prefill_s: cost.wasted_prefill,
                cost_s: cost.total,
                rate: 1.0 / site.per_token,
                decode_s: self.fleet.engines[position].decode.seconds_per_token(),
                has_room: self.fleet.has_room(position, need, &rules, now),
            }
        };
        let sites: Vec<CandidateCosts> = costs.iter().map(weighed).collect();
        let wanted = |weighed: &CandidateCosts| {
            self.fleet
                .position(weighed.endpoint)
                .is_some_and(|at| self.queued[at] > 0.0)
        };
        let binds = !rules.late
            || sites
                .first()
                .is_some_and(|first| first.has_room && !wanted(first));
        Some(QueueExplanation {
            gamma: gamma as f32,
            utilization: utilization as f32,
            queued_requests: self.queue.len(),
            binds_now: binds,
            candidates: sites,
        })
    }
}
