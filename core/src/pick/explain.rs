//! Fills an [`Explanation`] from a pick: every endpoint with its figures, and the reason in one
//! sentence.

use std::{collections::HashMap, sync::Arc};

use super::{HealthTier, NoEndpoint, PickDecision, PickRequest, Picker, weighed::ScoredCandidate};
use crate::{
    explanation::{CandidateExplanation, ExclusionReason, Explanation},
    load::{Health, Load},
    policy::Strategy,
    query::CacheHit,
    snapshot::{Endpoint, EndpointId, Role},
};

/// A decision, and the loads at that moment: all that an explanation needs of what changes. So a
/// lock that guards the loads is not held while it is written.
#[derive(Debug)]
pub(crate) struct PickRecord {
    pub(super) decision: Result<PickDecision, NoEndpoint>,
    /// By position.
    pub(super) loads: Vec<Load>,
}

/// What is looked up for each candidate.
struct CandidateFacts<'a> {
    /// Prompt tokens expected to be cached.
    cached: HashMap<EndpointId, u32>,
    /// By position: what was compared.
    weighed: HashMap<usize, &'a ScoredCandidate>,
}

// === CandidateFacts ===

impl<'a> CandidateFacts<'a> {
    fn of(ask: &PickRequest<'_>, made: Option<&'a PickDecision>) -> Self {
        let mut cached = HashMap::new();
        for hit in ask.hits {
            let most: &mut u32 = cached.entry(hit.endpoint).or_default();
            *most = (*most).max(hit.cached.saved_tokens());
        }
        let weighed = made.into_iter().flat_map(|made| &made.ranking.weighed);
        Self {
            cached,
            weighed: weighed.map(|weighed| (weighed.position, weighed)).collect(),
        }
    }
}

// === Explanation ===

impl Explanation {
    /// Explains what was recorded for `ask`.
    pub(super) fn of(picker: &Picker, ask: &PickRequest<'_>, record: PickRecord) -> Self {
        let pool = &picker.pool;
        let PickRecord { decision, loads } = record;
        let made = decision.as_ref().ok();
        let facts = CandidateFacts::of(ask, made);
        let candidates = loads.into_iter().enumerate().map(|(position, load)| {
            CandidateExplanation::new(picker, ask, (position, load), &facts, made)
        });
        let candidates: Vec<CandidateExplanation> = candidates.collect();
        let ranked = decision
            .iter()
            .flat_map(|made| &made.ranking.ranked)
            .map(|&position| pool.endpoints[position].id);
        Self {
            pool: Arc::clone(&pool.spec.name),
            strategy: pool.spec.policy.strategy.name(),
            reason: match &decision {
                Ok(made) => made.reason(ask, &pool.spec.policy.strategy, &candidates),
                Err(no_endpoint) => no_endpoint.to_string(),
            },
            ranked: ranked.collect(),
            panic_mode: decision.is_ok_and(|made| made.gate == HealthTier::Any),
            candidates,
            queue: None,
            split: None,
        }
    }
}

impl CandidateExplanation {
    fn new(
        picker: &Picker,
        ask: &PickRequest<'_>,
        (position, load): (usize, Load),
        facts: &CandidateFacts<'_>,
        made: Option<&PickDecision>,
    ) -> Self {
        let endpoint = &picker.pool.endpoints[position];
        let weighed = facts.weighed.get(&position);
        let rank = made.and_then(|made| {
            made.ranking
                .ranked
                .iter()
                .position(|&ranked| ranked == position)
        });
        let candidate = rank.is_some() || weighed.is_some();
        let classic = matches!(picker.pool.spec.policy.strategy, Strategy::HermesClassic(_));
        let Load {
            in_flight,
            pending_tokens,
            sample,
            health,
        } = load;
        Self {
            endpoint: endpoint.id,
            name: Arc::clone(&endpoint.name),
            cached_tokens: facts.cached.get(&endpoint.id).copied().unwrap_or(0),
            kv_usage: sample.and_then(|sample| sample.kv_usage),
            waiting: sample.and_then(|sample| sample.waiting),
            in_flight,
            pending_tokens,
            health,
            score: weighed.map(|weighed| weighed.score),
            terms: weighed.filter(|_| classic).map(|weighed| weighed.terms),
            rank,
            excluded: (!candidate).then(|| picker.excluded(ask, position, load, made)),
        }
    }
}

// === PickDecision ===

impl PickDecision {
    /// One sentence about the first of the ranked.
    fn reason(
        &self,
        ask: &PickRequest<'_>,
        strategy: &Strategy,
        candidates: &[CandidateExplanation],
    ) -> String {
        let chosen = &candidates[self.ranking.ranked[0]];
        let CandidateExplanation {
            name,
            cached_tokens,
            in_flight,
            ..
        } = chosen;
        let compared = self.ranking.weighed.len();
        let score = chosen.score.unwrap_or_default();
        let why = match strategy {
            Strategy::RoundRobin => format!("{name} is next in turn"),
            Strategy::Random => format!("{name} was drawn at random"),
            Strategy::SessionAffinity(_) if ask.query.session.is_some() => {
                format!(
                    "{name} is the first endpoint with room from the session's place on the ring"
                )
            }
            Strategy::LeastRequest | Strategy::PowerOfTwo | Strategy::SessionAffinity(_) => {
                format!(
                    "{name} has the fewest requests in flight, {in_flight}, of {compared} compared"
                )
            }
            Strategy::PrefixCache(_) | Strategy::KvAware(_) | Strategy::HermesClassic(_) => {
                format!(
                    "{name} has the lowest score, {score:.3}, of {compared} compared, \
                 with {cached_tokens} of {} prompt tokens cached",
                    ask.query.prompt_tokens
                )
            }
        };
        match self.gate {
            HealthTier::Healthy => why,
            HealthTier::Warming => format!("{why}; only endpoints that warm up were left"),
            HealthTier::Any => format!("{why}; only endpoints that are down were left"),
        }
    }
}

// === Picker ===

impl Picker {
    /// Why an endpoint that was neither ranked nor compared was not.
    fn excluded(
        &self,
        ask: &PickRequest<'_>,
        position: usize,
        load: Load,
        decision: Option<&PickDecision>,
    ) -> ExclusionReason {
        let Endpoint { id, role, .. } = *self.pool.endpoints[position];
        let holds = self
            .members(ask.model, ask.query.split)
            .is_ok_and(|members| members.contains(position));
        match load.health {
            _ if !holds && !matches!(role, Role::Aggregate | Role::Both) => ExclusionReason::Role,
            _ if !holds => ExclusionReason::Model,
            _ if ask.query.exclude.contains(&id) => ExclusionReason::Tried,
            // Past a gate, neither health nor turns exclude anyone.
            Health::Down if decision.is_some_and(|made| made.gate != HealthTier::Any) => {
                ExclusionReason::Down
            }
            Health::Warming(_) if decision.is_some_and(|made| made.gate == HealthTier::Healthy) => {
                ExclusionReason::Warming
            }
            Health::Up | Health::Warming(_) | Health::Down => ExclusionReason::NotSampled,
        }
    }
}

/// Prompt tokens expected to be cached at an endpoint.
pub(super) fn cached(hits: &[CacheHit], endpoint: EndpointId) -> u32 {
    hits.iter()
        .filter(|hit| hit.endpoint == endpoint)
        .map(|hit| hit.cached.saved_tokens())
        .max()
        .unwrap_or(0)
}
