//! A choice in numbers, for people: what every endpoint would cost, and what is known of the fleet.

use std::{sync::Arc, time::Duration};

use serde::Serialize;

use super::{
    Arrival, Dispatcher,
    caches::{self, Belief},
    cost::{Cost, Prompt},
    fleet::Need,
};
use crate::{
    pick::{Ask, Explanation},
    query::Source,
    snapshot::EndpointId,
};

/// What was expected of the endpoint that was chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Costs {
    /// Until the prompt is begun there.
    pub ahead: Duration,
    /// Until its first token.
    pub ttft: Duration,
    /// Prefill that another endpoint would have been spared, at the mean rate.
    pub waste: Duration,
    /// What waste was weighed with.
    pub gamma: f32,
    /// Where it would have cost second least.
    pub runner_up: Option<EndpointId>,
}

/// How `kv-aware` weighed the candidates of one request.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Weighing {
    /// What waste is weighed with.
    pub gamma: f32,
    /// Share of time in which endpoints compute prompts, 0..=1.
    pub utilization: f32,
    /// Requests that wait.
    pub waiting: usize,
    /// Whether the request would be bound at once.
    pub binds: bool,
    /// Every endpoint that may be chosen, the one with the least cost first.
    pub sites: Vec<Weighed>,
}

/// One endpoint of a [`Weighing`]; times in seconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Weighed {
    /// Its name.
    pub name: Arc<str>,
    /// Its id.
    pub endpoint: EndpointId,
    /// Prompt tokens taken to be cached there.
    pub cached_tokens: u32,
    /// Who says so; `null` when nobody says anything.
    pub source: Option<Source>,
    /// How far each source of it is believed, 0..=1: learned, manager, events.
    pub trust: [f32; 3],
    /// Until a prompt that is sent now begins, those included who wait for the endpoint.
    pub ahead_s: f64,
    /// Until the request's first token.
    pub ttft_s: f64,
    /// Prefill that another endpoint would be spared, at the mean rate.
    pub waste_s: f64,
    /// `ttft_s + gamma * waste_s`, and a little for requests in flight.
    pub cost_s: f64,
    /// Learned prompt tokens a second; the usual ones while nothing is learned.
    pub rate: f64,
    /// Learned seconds per output token.
    pub decode_s: Option<f32>,
    /// Whether a request may be sent there now.
    pub has_room: bool,
}

impl Dispatcher {
    /// What [`Dispatcher::arrive`] would say, with every number; books nothing, and changes nothing that comes next.
    #[must_use]
    pub fn explain(&self, arrival: Arrival<'_>, now: Duration) -> Explanation {
        let query = &self.caches.in_true_tokens(arrival.query);
        let known = self.known(query, arrival.hits, now);
        let hits = caches::as_hits(&known.beliefs, self.pool());
        let Self {
            fleet, turn, dice, ..
        } = self;
        let total_in_flight = Some(fleet.ledger.len() as u64);
        let ask = Ask {
            query,
            model: arrival.model,
            hits: &hits,
            turn: *turn,
            total_in_flight,
        };
        let explanation =
            fleet
                .picker
                .explain(&ask, |position| fleet.loads[position], &mut dice.clone());
        let weighing = self.weighing(Arrival { query, ..arrival }, &known, now);
        match weighing {
            Some(weighing) if !weighing.sites.is_empty() => explanation.weighed(weighing),
            _ => explanation,
        }
    }

    fn weighing(
        &self,
        arrival: Arrival<'_>,
        known: &super::Known,
        now: Duration,
    ) -> Option<Weighing> {
        let rules = self.rules()?;
        let Arrival {
            query,
            model,
            waited,
            ..
        } = arrival;
        let need = Need {
            prompt: query.prompt_tokens,
            waited,
        };
        let sites = self
            .fleet
            .sites(model, query, &self.queued, 0.0, now)
            .ok()?;
        let utilization = self.fleet.utilization.at(now);
        let gamma = rules.gamma(utilization, self.queue.len(), sites.len());
        let mut costs: Vec<Cost> = Vec::with_capacity(sites.len());
        sites.for_each(
            Prompt {
                tokens: query.prompt_tokens,
                hits: &known.hits,
            },
            gamma,
            |cost| costs.push(cost),
        );
        costs.sort_by(|one, other| one.total.total_cmp(&other.total));
        let weighed = |cost: &Cost| {
            let site = sites.sites[cost.site];
            let position = site.position as usize;
            let belief = known
                .beliefs
                .iter()
                .find(|belief| belief.position == site.position);
            let endpoint = &self.pool().endpoints[position];
            let trust = self.caches.trust(position);
            Weighed {
                name: Arc::clone(&endpoint.name),
                endpoint: endpoint.id,
                cached_tokens: cost.cached,
                source: belief.map(|&Belief { source, .. }| source),
                trust: Source::ALL.map(|source| trust.of(source)),
                ahead_s: site.ahead,
                ttft_s: cost.finish,
                waste_s: cost.waste,
                cost_s: cost.total,
                rate: 1.0 / site.per_token,
                decode_s: self.fleet.engines[position].decode.seconds_per_token(),
                has_room: self.fleet.has_room(position, need, &rules, now),
            }
        };
        let sites: Vec<Weighed> = costs.iter().map(weighed).collect();
        let wanted = |weighed: &Weighed| {
            self.fleet
                .position(weighed.endpoint)
                .is_some_and(|at| self.queued[at] > 0.0)
        };
        let binds = !rules.late
            || sites
                .first()
                .is_some_and(|first| first.has_room && !wanted(first));
        Some(Weighing {
            gamma: gamma as f32,
            utilization: utilization as f32,
            waiting: self.queue.len(),
            binds,
            sites,
        })
    }
}
