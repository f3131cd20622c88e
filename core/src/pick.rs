//! Choosing endpoints of one pool for one request.
//!
//! ```text
//!   Pool ──build──▶ Picker                       once per change: members of each model, hash ring
//!                     │
//!   PickRequest, Load ┴─▶ members ─▶ tier ─▶ strategy ─▶ EndpointChoice (best first, then the fallbacks)
//!                                      └──────── the same path ─▶ Explanation
//! ```
//!
//! Candidates are the endpoints that hold the model, were not tried yet, and are up; an endpoint
//! that warms up takes its share of turns. If that leaves no endpoint, those that warm up without
//! their turn count too, and if still none, those that are down: a doubtful endpoint is better than
//! a certain error ([`EndpointChoice::panic_mode`]).
//!
//! Costs: round-robin, random, power-of-two and session-affinity look at a handful of endpoints,
//! whatever their number, and look further only while those they meet are down. Least-request and
//! kv-aware weigh everyone up to 64 candidates; above, the holders of hits and a sample of 64,
//! which differs from the best of all by little (Mitzenmacher 2001) and keeps the time of a choice
//! flat. Nothing allocates up to 64 candidates and 64 hits.
//!
//! Prefill endpoints are candidates for requests that are split, and are completed to pairs: see
//! `pick/pairs.rs`.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::{
    explanation::Explanation,
    load::Load,
    policy::Strategy,
    query::{CacheHit, EndpointChoice, MAX_RANKED, Query, RankedEndpoint},
    rng::SeededRng,
    snapshot::{ModelHolders, Pool},
};

mod explain;
mod field;
mod hermes_classic;
mod kv_aware;
mod least_request;
mod members;
mod pairs;
mod power_of_two;
mod prefix_cache;
mod random;
mod ring;
mod round_robin;
mod session_affinity;
mod weighed;

pub(crate) use explain::PickRecord;
use explain::cached;
use field::{Candidates, HealthTier};
pub(crate) use members::{EligibleSet, EligibleSetId, EligibleSets};
#[cfg(test)]
pub(crate) use pairs::Place;
pub(crate) use pairs::{Distance, HealthRank, PairSite, PartnerRank, SharedPlaces};
use pairs::{PairTable, serves_alone};
use weighed::{MAX_WEIGHED, PickRanking};

/// One pool, prepared for choosing; built whenever the pool changes.
#[derive(Debug)]
pub struct Picker {
    pool: Arc<Pool>,
    /// Every endpoint that serves alone, and the holders of each model among them.
    sets: EligibleSets,
    /// Parallel to the pool's models.
    holders: Vec<EligibleSetId>,
    /// Absent if the pool's requests are not split.
    pairs: Option<PairTable>,
}

/// What is asked of a [`Picker`].
#[derive(Clone, Copy, Debug)]
pub struct PickRequest<'a> {
    /// The request.
    pub query: &'a Query,
    /// The model it names; `None` for requests that name none.
    pub model: Option<&'a str>,
    /// Cache hits of its prompt, in any order.
    pub hits: &'a [CacheHit],
    /// The caller's count of choices: round-robin goes by it.
    pub round_robin_counter: u64,
    /// Requests in flight over the pool, for session affinity; counted by a scan when the caller
    /// does not know.
    pub total_in_flight: Option<u64>,
}

/// Why there is no choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoEndpoint {
    /// The pool has no endpoints at all.
    #[error("the pool has no endpoints")]
    Empty,
    /// The pool has prefill and decode endpoints, and none that serves a request alone.
    #[error("the pool has prefill and decode endpoints only, and none that serves alone")]
    OnlyDisaggregated,
    /// No endpoint holds the model.
    #[error("no endpoint has the model loaded")]
    ModelNotLoaded,
    /// Every endpoint that holds the model was tried for this request.
    #[error("every endpoint that has the model was tried")]
    AllTried,
    /// The request is to be served only where its prompt is cached, and the endpoint of the choice
    /// has it not.
    #[error("the chosen endpoint does not have the prompt cached")]
    NotCached,
}

/// A choice with everything that led to it.
#[derive(Debug)]
struct PickDecision {
    gate: HealthTier,
    ranking: PickRanking,
}

// === PickRequest ===

impl<'a> PickRequest<'a> {
    /// Asks for `query` on any endpoint, with nothing else known.
    #[must_use]
    pub const fn new(query: &'a Query) -> Self {
        Self {
            query,
            model: None,
            hits: &[],
            round_robin_counter: 0,
            total_in_flight: None,
        }
    }
}

// === Picker ===

impl Picker {
    /// Prepares a pool.
    #[must_use]
    pub fn build(pool: Arc<Pool>) -> Self {
        let mut pairs = PairTable::of(&pool);
        let holders: Vec<Option<Vec<usize>>> = (pool
            .models
            .iter()
            .map(|model| holders(&pool, &model.holders)))
        .collect();
        let alone = |position: &usize| serves_alone(&pool, *position);
        let everywhere = 0..pool.endpoints.len();
        let of_models = holders.iter().map(|holders| {
            let holders = holders.as_ref()?.iter().copied();
            Some(holders.filter(alone).collect())
        });
        let own = holders.iter().flatten().map(|own| own.iter().copied());
        let splits = pairs.iter().flat_map(|pairs| {
            let everyone = pairs.positions(&pool, everywhere.clone());
            let of_models = own.clone().map(|own| pairs.positions(&pool, own));
            let positions: Vec<_> = std::iter::once(everyone).chain(of_models).collect();
            positions.into_iter().flatten().map(Some)
        });
        let everyone = everywhere.clone().filter(alone);
        let (sets, mut ids) = EligibleSets::new(everyone, of_models.chain(splits));
        let split_ids = ids.split_off(holders.len());
        if let Some(pairs) = &mut pairs {
            pairs.set_sets(&split_ids, holders.iter().map(Option::is_some));
        }
        if matches!(pool.spec.policy.strategy, Strategy::SessionAffinity(_)) {
            sets.everyone().ring(&pool);
        }
        Self {
            pool,
            sets,
            holders: ids,
            pairs,
        }
    }

    /// The pool it was built from.
    #[must_use]
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Chooses endpoints for a request; `load` returns the load at a position of the pool's
    /// endpoints.
    ///
    /// # Errors
    /// When no endpoint may serve it.
    pub fn pick(
        &self,
        ask: &PickRequest<'_>,
        load: impl Fn(usize) -> Load,
        rng: &mut SeededRng,
    ) -> Result<EndpointChoice, NoEndpoint> {
        self.pick_by(&self.pool.spec.policy.strategy, ask, load, rng)
    }

    /// Chooses as [`Self::pick`] does, by another strategy than the pool's: for when what that one
    /// reads is not known.
    ///
    /// # Errors
    /// When no endpoint may serve it.
    pub fn pick_by(
        &self,
        strategy: &Strategy,
        ask: &PickRequest<'_>,
        load: impl Fn(usize) -> Load,
        rng: &mut SeededRng,
    ) -> Result<EndpointChoice, NoEndpoint> {
        let PickDecision { gate, ranking } = self.decide(strategy, ask, &load, rng)?;
        let ranked = ranking.ranked.iter().map(|&position| {
            let endpoint = self.pool.endpoints[position].id;
            RankedEndpoint::alone(position, endpoint, cached(ask.hits, endpoint))
        });
        Ok(EndpointChoice {
            ranked: self.pair_by_load(ranked.collect(), ask.model, load, rng)?,
            panic_mode: gate == HealthTier::Any,
        })
    }

    /// Chooses as [`Self::pick`] does, and returns the reasons: for people and tests.
    pub fn explain(
        &self,
        ask: &PickRequest<'_>,
        load: impl Fn(usize) -> Load,
        rng: &mut SeededRng,
    ) -> Explanation {
        Explanation::of(self, ask, self.record(ask, load, rng))
    }

    /// Chooses as [`Self::pick`] does, and returns what [`Self::explain_record`] explains.
    pub(crate) fn record(
        &self,
        ask: &PickRequest<'_>,
        load: impl Fn(usize) -> Load,
        rng: &mut SeededRng,
    ) -> PickRecord {
        let positions = 0..self.pool.endpoints.len();
        PickRecord {
            decision: self.decide(&self.pool.spec.policy.strategy, ask, &load, rng),
            loads: positions.map(load).collect(),
        }
    }

    /// The reasons of what was recorded for this request.
    pub(crate) fn explain_record(&self, ask: &PickRequest<'_>, record: PickRecord) -> Explanation {
        Explanation::of(self, ask, record)
    }

    /// How many endpoints a request for this model may be sent to, to compute its prompt; of a model
    /// that the pool does not list, all that serve requests alone.
    #[must_use]
    pub fn servers(&self, model: Option<&str>) -> usize {
        if let Some(sets) = self.split_candidates(model) {
            return sets.compared.len();
        }
        let alone = self.members(model, false);
        alone.map_or(self.sets.everyone().len(), |alone| alone.len())
    }

    fn decide(
        &self,
        strategy: &Strategy,
        ask: &PickRequest<'_>,
        load: &impl Fn(usize) -> Load,
        rng: &mut SeededRng,
    ) -> Result<PickDecision, NoEndpoint> {
        let members = self.members(ask.model, ask.query.split)?;
        let mut ranking = PickRanking::default();
        for gate in [HealthTier::Healthy, HealthTier::Warming, HealthTier::Any] {
            let field = Candidates {
                pool: &self.pool,
                members,
                ask,
                load,
                gate,
            };
            rank(&field, strategy, rng, &mut ranking);
            if !ranking.ranked.is_empty() {
                return Ok(PickDecision { gate, ranking });
            }
        }
        Err(NoEndpoint::AllTried)
    }

    /// Who holds the model; never empty. For a request that is split, those that it may be sent to
    /// first, if there are pairs for it.
    pub(crate) fn members(
        &self,
        model: Option<&str>,
        split: bool,
    ) -> Result<&Arc<EligibleSet>, NoEndpoint> {
        if self.pool.endpoints.is_empty() {
            return Err(NoEndpoint::Empty);
        }
        if let Some(sets) = self.split_candidates(model).filter(|_| split) {
            return Ok(sets.first);
        }
        if self.sets.everyone().is_empty() {
            return Err(NoEndpoint::OnlyDisaggregated);
        }
        let models = &self.pool.models;
        let Some(name) = model.filter(|_| !models.is_empty()) else {
            return Ok(self.sets.everyone());
        };
        let found = models.position(name).ok_or(NoEndpoint::ModelNotLoaded)?;
        let members = self.sets.get(self.holders[found]);
        if members.is_empty() {
            Err(NoEndpoint::ModelNotLoaded)
        } else {
            Ok(members)
        }
    }
}

/// The positions of a model's holders; `None` if every endpoint holds it.
fn holders(pool: &Pool, holders: &ModelHolders) -> Option<Vec<usize>> {
    match holders {
        ModelHolders::All => None,
        ModelHolders::Some(ids) => Some(ids.iter().filter_map(|&id| pool.position(id)).collect()),
        ModelHolders::Except(ids) => {
            let holds = |position: &usize| {
                let id = pool.endpoints[*position].id;
                ids.binary_search(&id).is_err()
            };
            Some((0..pool.endpoints.len()).filter(holds).collect())
        }
    }
}

/// Ranks by a strategy; the ranking is empty only if no endpoint passes the health tier.
fn rank<L: Fn(usize) -> Load>(
    field: &Candidates<'_, L>,
    strategy: &Strategy,
    rng: &mut SeededRng,
    ranking: &mut PickRanking,
) {
    match strategy {
        Strategy::RoundRobin => round_robin::rank(field, rng, ranking),
        Strategy::Random => random::rank(field, rng, ranking),
        Strategy::LeastRequest => least_request::rank(field, rng, ranking),
        Strategy::PowerOfTwo => power_of_two::rank(field, rng, ranking),
        Strategy::SessionAffinity(affinity) => {
            session_affinity::rank(field, affinity, rng, ranking);
        }
        Strategy::PrefixCache(rules) => prefix_cache::rank(field, rules, rng, ranking),
        Strategy::KvAware(rules) => kv_aware::rank(field, rules, rng, ranking),
        Strategy::HermesClassic(weights) => hermes_classic::rank(field, weights, rng, ranking),
    }
}

#[cfg(test)]
mod tests;
