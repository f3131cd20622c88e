//! Binding: a request gets its endpoint, is booked there, and everybody learns from it.

use std::time::Duration;

use smallvec::SmallVec;

use super::{
    Binding, Costs, Dispatcher, Note, caches,
    cost::{Cost, Ranking, Sites},
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
    /// Books the request where it costs least, the first of `ranking`, which is not empty.
    pub(super) fn bind(
        &mut self,
        wish: Wish<'_>,
        sites: &Sites,
        ranking: &Ranking,
        now: Duration,
    ) -> Binding {
        let Wish {
            key,
            query,
            known,
            waited,
            gamma,
        } = wish;
        let (cost, site) = (ranking[0], sites.sites[ranking[0].site]);
        let ranked: SmallVec<[Ranked; MAX_RANKED]> = ranking
            .iter()
            .map(|cost| self.ranked(sites, cost))
            .collect();
        let costs = Costs {
            ahead: seconds(site.ahead),
            ttft: seconds(cost.finish),
            waste: seconds(cost.waste),
            gamma: gamma as f32,
            runner_up: ranked.get(1).map(|second| second.endpoint),
        };
        let source = self.book(key, ranked[0], query, known, now);
        let choice = Choice {
            ranked,
            desperate: false,
        };
        Binding {
            choice,
            prompt_tokens: query.prompt_tokens,
            source,
            waited,
            costs: Some(costs),
        }
    }

    /// Books what the pool's strategy picks.
    ///
    /// # Errors
    /// When nobody may serve the request.
    pub(super) fn pick(
        &mut self,
        wish: Wish<'_>,
        model: Option<&str>,
        now: Duration,
    ) -> Result<Binding, Nobody> {
        let Wish {
            key,
            query,
            known,
            waited,
            ..
        } = wish;
        let hits = caches::as_hits(&known.beliefs, self.pool());
        let Self {
            fleet, turn, dice, ..
        } = self;
        let total_in_flight = Some(fleet.ledger.len() as u64);
        let ask = Ask {
            query,
            model,
            hits: &hits,
            turn: *turn,
            total_in_flight,
        };
        let choice = fleet
            .picker
            .pick(&ask, |position| fleet.loads[position], dice)?;
        let source = self.book(key, choice.ranked[0], query, known, now);
        Ok(Binding {
            choice,
            prompt_tokens: query.prompt_tokens,
            source,
            waited,
            costs: None,
        })
    }

    /// Books one endpoint because nothing but it will do, whatever it costs.
    pub fn book_only(&mut self, key: Key, position: usize, query: &Query, now: Duration) {
        let query = &self.caches.in_true_tokens(query);
        let endpoint = self.pool().endpoints[position].id;
        self.book(
            key,
            Ranked {
                position,
                endpoint,
                cached_tokens: 0,
            },
            query,
            &Known::default(),
            now,
        );
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
        let Ranked {
            position,
            endpoint,
            cached_tokens,
        } = first;
        let uncached = query.prompt_tokens.saturating_sub(cached_tokens);
        self.fleet.book(
            key,
            position,
            Work {
                prompt: query.prompt_tokens,
                uncached,
                unary: query.unary,
            },
            now,
        );
        self.caches.routed(endpoint, query);
        self.shares.spend(query.tenant, uncached, now);
        self.turn = self.turn.wrapping_add(1);
        let belief = known
            .beliefs
            .iter()
            .find(|belief| belief.position as usize == position);
        let believed = belief.map(|belief| (belief.source, belief.tokens));
        let claims = belief.map(|belief| belief.claims).unwrap_or_default();
        self.note(
            key,
            Note {
                query: query.clone(),
                claims,
                believed,
            },
        );
        believed.map(|(source, _)| source)
    }

    fn ranked(&self, sites: &Sites, cost: &Cost) -> Ranked {
        let position = sites.sites[cost.site].position as usize;
        Ranked {
            position,
            endpoint: self.pool().endpoints[position].id,
            cached_tokens: cost.cached,
        }
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
