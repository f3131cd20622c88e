//! The endpoints that may be chosen for one request, and ways to sample them.

use std::cmp::Reverse;

use smallvec::SmallVec;

use super::{
    EligibleSet, MAX_RANKED, MAX_WEIGHED, PickRanking, PickRequest, weighed::ScoredCandidate,
};
use crate::{
    load::{Health, Load},
    rng::SeededRng,
    snapshot::Pool,
};

/// Draws before a draw becomes a scan.
const DRAWS: usize = 8;
/// Endpoints looked at to find what to try after the first.
const NEIGHBORS: usize = 16;

/// The members of a pool that hold the model, seen by one request.
pub(super) struct Candidates<'a, L> {
    pub(super) pool: &'a Pool,
    pub(super) members: &'a EligibleSet,
    pub(super) ask: &'a PickRequest<'a>,
    pub(super) load: &'a L,
    pub(super) gate: HealthTier,
}

/// How healthy an endpoint has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HealthTier {
    /// Up, or warming and at its turn.
    Healthy,
    /// Up or warming.
    Warming,
    /// However.
    Any,
}

impl HealthTier {
    fn admits(self, health: Health, draw: impl FnOnce() -> f32) -> bool {
        match (self, health) {
            (Self::Any, _) | (_, Health::Up) | (Self::Warming, Health::Warming(_)) => true,
            (Self::Healthy, Health::Warming(_)) => health.admits(draw()),
            (Self::Healthy | Self::Warming, Health::Down) => false,
        }
    }
}

impl<L: Fn(usize) -> Load> Candidates<'_, L> {
    /// The load at a position, if the endpoint may be chosen; one that warms up is subject to
    /// `draw`.
    pub(super) fn admitted(&self, position: usize, draw: impl FnOnce() -> f32) -> Option<Load> {
        let exclude = &self.ask.query.exclude;
        if !exclude.is_empty() && exclude.contains(&self.pool.endpoints[position].id) {
            return None;
        }
        let load = (self.load)(position);
        self.gate.admits(load.health, draw).then_some(load)
    }

    /// Someone at random.
    pub(super) fn draw(&self, rng: &mut SeededRng) -> Option<(usize, Load)> {
        for _ in 0..DRAWS {
            let position = self.members.at(rng.below(self.members.len()));
            if let Some(load) = self.admitted(position, || rng.unit()) {
                return Some((position, load));
            }
        }
        let start = rng.below(self.members.len());
        self.members
            .from(start)
            .find_map(|position| Some((position, self.admitted(position, || rng.unit())?)))
    }

    /// Fills up a ranking with others near a random place; the rest of the members stays unseen.
    pub(super) fn fill(&self, rng: &mut SeededRng, ranking: &mut PickRanking) {
        if ranking.ranked.is_empty() {
            return;
        }
        for position in self
            .members
            .from(rng.below(self.members.len()))
            .take(NEIGHBORS)
        {
            if ranking.ranked.len() == MAX_RANKED {
                return;
            }
            if !ranking.ranked.contains(&position)
                && self.admitted(position, || rng.unit()).is_some()
            {
                ranking.ranked.push(position);
            }
        }
    }

    /// The candidates to score: all up to [`MAX_WEIGHED`] members; above, the holders of the best
    /// hits and a sample.
    pub(super) fn survey(&self, rng: &mut SeededRng, ranking: &mut PickRanking) {
        let weighed = &mut ranking.weighed;
        let hits = self.hits();
        let all = self.members.len() <= MAX_WEIGHED;
        if !all {
            for &(position, cached) in &hits {
                weighed.extend(
                    self.admitted(position, || rng.unit())
                        .map(|load| ScoredCandidate::new(position, load, cached)),
                );
            }
        }
        // Members are sorted by a hash, so neighbors from a random place on are a random sample.
        let room = weighed.len() + MAX_WEIGHED;
        for position in self.members.from(rng.below(self.members.len())) {
            let hit = hits.binary_search_by_key(&position, |&(position, _)| position);
            if hit.is_ok() && !all {
                continue;
            }
            if let Some(load) = self.admitted(position, || rng.unit()) {
                weighed.push(ScoredCandidate::new(
                    position,
                    load,
                    hit.map_or(0, |found| hits[found].1),
                ));
            }
            if weighed.len() == room {
                return;
            }
        }
    }

    /// Members with hits and their cached tokens, sorted by position; the [`MAX_WEIGHED`] best if
    /// there are more.
    fn hits(&self) -> SmallVec<[(usize, u32); MAX_WEIGHED]> {
        let known =
            self.ask.hits.iter().filter_map(|hit| {
                Some((self.pool.position(hit.endpoint)?, hit.cached.saved_tokens()))
            });
        let mut hits: SmallVec<[_; MAX_WEIGHED]> = known
            .filter(|&(position, _)| self.members.contains(position))
            .collect();
        if hits.len() > MAX_WEIGHED {
            hits.select_nth_unstable_by_key(MAX_WEIGHED - 1, |&(_, tokens)| Reverse(tokens));
            hits.truncate(MAX_WEIGHED);
        }
        hits.sort_unstable_by_key(|&(position, tokens)| (position, Reverse(tokens)));
        hits.dedup_by_key(|(position, _)| *position);
        hits
    }
}
