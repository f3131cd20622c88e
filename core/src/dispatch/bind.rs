//! Binding: a request gets its endpoint, is booked there, and everybody learns from it.

use std::time::Duration;

use smallvec::SmallVec;

use super::{
    Binding, Costs, Dispatcher, Note, caches,
    cost::{Cost, Prompt, Sites},
    fleet::Work,
    queue::Known,
    seconds,
};
use crate::{
    ledger::Key,
    pick::{Ask, Nobody},
    query::{Choice, MAX_RANKED, Query, Ranked, Source},
};

/// Notes on requests that ended unheard, kept without complaint.
const SLACK: usize = 1_024;

/// A request that is to be bound.
#[derive(Clone, Copy)]
pub(super) struct Wish<'a> {
    pub(super) key: Key,
    pub(super) query: &'a Query,
    pub(super) known: &'a Known,
    pub(super) waited: Duration,
    pub(super) gamma: f64,
}

impl Dispatcher {
    /// Books the request where it costs least, and ranks the others behind.
    pub(super) fn bind(&mut self, wish: Wish<'_>, sites: &Sites, cost: Cost, now: Duration) -> Binding {
        let Wish { key, query, known, waited, gamma } = wish;
        let site = sites.sites[cost.site];
        let (ranked, second) = self.ranking(wish, sites, cost);
        let costs = Costs {
            ahead: seconds(site.ahead),
            ttft: seconds(cost.finish),
            waste: seconds(cost.waste),
            gamma: gamma as f32,
            runner_up: second.map(|second| second.endpoint),
        };
        let source = self.book(key, ranked[0], query, known, now);
        let choice = Choice { ranked, desperate: false };
        Binding { choice, prompt_tokens: query.prompt_tokens, source, waited, costs: Some(costs) }
    }

    /// Books what the pool's strategy picks.
    ///
    /// # Errors
    /// When nobody may serve the request.
    pub(super) fn pick(&mut self, wish: Wish<'_>, model: Option<&str>, now: Duration) -> Result<Binding, Nobody> {
        let Wish { key, query, known, waited, .. } = wish;
        let hits = caches::as_hits(&known.beliefs, self.pool());
        let Self { fleet, turn, dice, .. } = self;
        let total_in_flight = Some(fleet.ledger.len() as u64);
        let ask = Ask { query, model, hits: &hits, turn: *turn, total_in_flight };
        let choice = fleet.picker.pick(&ask, |position| fleet.loads[position], dice)?;
        let source = self.book(key, choice.ranked[0], query, known, now);
        Ok(Binding { choice, prompt_tokens: query.prompt_tokens, source, waited, costs: None })
    }

    /// Books one endpoint because nothing but it will do, whatever it costs.
    pub fn book_only(&mut self, key: Key, position: usize, query: &Query, now: Duration) {
        let query = &self.caches.in_true_tokens(query);
        let endpoint = self.pool().endpoints[position].id;
        self.book(key, Ranked { position, endpoint, cached_tokens: 0 }, query, &Known::default(), now);
    }

    /// Books a choice and learns from it. Who said what is cached there.
    pub(super) fn book(
        &mut self,
        key: Key,
        first: Ranked,
        query: &Query,
        known: &Known,
        now: Duration,
    ) -> Option<Source> {
        let Ranked { position, endpoint, cached_tokens } = first;
        let uncached = query.prompt_tokens.saturating_sub(cached_tokens);
        self.fleet.book(key, position, Work { prompt: query.prompt_tokens, uncached, unary: query.unary }, now);
        self.caches.routed(endpoint, query);
        self.shares.spend(query.tenant, uncached, now);
        self.turn = self.turn.wrapping_add(1);
        let belief = known.beliefs.iter().find(|belief| belief.position as usize == position);
        let believed = belief.map(|belief| (belief.source, belief.tokens));
        let claims = belief.map(|belief| belief.claims).unwrap_or_default();
        self.note(key, Note { query: query.clone(), claims, believed });
        believed.map(|(source, _)| source)
    }

    /// The chosen first, then those where it costs least.
    fn ranking(&self, wish: Wish<'_>, sites: &Sites, first: Cost) -> (SmallVec<[Ranked; MAX_RANKED]>, Option<Ranked>) {
        let prompt = Prompt { tokens: wish.query.prompt_tokens, hits: &wish.known.hits };
        let mut best: SmallVec<[Cost; MAX_RANKED + 1]> = SmallVec::new();
        sites.for_each(prompt, wish.gamma, |cost| {
            let place = best.partition_point(|other| other.total <= cost.total);
            if cost.site != first.site && place < MAX_RANKED - 1 {
                best.insert(place, cost);
                best.truncate(MAX_RANKED - 1);
            }
        });
        let endpoints = &self.pool().endpoints;
        let ranked = |cost: Cost| {
            let position = sites.sites[cost.site].position as usize;
            Ranked { position, endpoint: endpoints[position].id, cached_tokens: cost.cached }
        };
        let second = best.first().copied().map(ranked);
        (std::iter::once(first).chain(best).map(ranked).collect(), second)
    }

    fn note(&mut self, key: Key, note: Note) {
        // Requests may end without a word: their notes go when they are more than those of open requests.
        if self.notes.len() > 2 * self.fleet.ledger.len() + SLACK {
            let ledger = &self.fleet.ledger;
            self.notes.retain(|&key, _| ledger.get(key).is_some());
        }
        self.notes.insert(key, note);
    }
}
