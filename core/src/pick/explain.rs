//! How a choice came about, in numbers and in one sentence: for people and tests.

use std::sync::Arc;

use serde::Serialize;

use super::{
    HealthTier, MAX_RANKED, NoEndpoint, PickDecision, PickRequest, Picker, ScoreTerms,
    weighed::ScoredCandidate,
};
use crate::{
    load::{Health, Load},
    policy::Strategy,
    query::CacheHit,
    scheduler::{CandidateCosts as Site, QueueExplanation},
    snapshot::{Endpoint, EndpointId, Role},
};

/// A choice, and everything that led to it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// The pool's name.
    pub pool: Arc<str>,
    /// The strategy's name.
    pub strategy: &'static str,
    /// Why the first of the ranked was chosen, or why nobody was, in one sentence.
    pub reason: String,
    /// Ids of the chosen, best first; empty when nobody was.
    pub ranked: Vec<EndpointId>,
    /// Only endpoints that are down were left.
    pub panic_mode: bool,
    /// Every endpoint of the pool, in its order.
    pub candidates: Vec<CandidateExplanation>,
    /// How costs were weighed; only of `kv-aware` in the control plane.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueExplanation>,
}

/// One endpoint in an [`Explanation`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CandidateExplanation {
    /// Which.
    pub endpoint: EndpointId,
    /// Its name for people.
    pub name: Arc<str>,
    /// Tokens of the prompt believed to be cached there.
    pub cached_tokens: u32,
    /// Share of its KV cache in use, 0..=1, if the engine says.
    pub kv_usage: Option<f32>,
    /// Requests in the engine's queue, if it says.
    pub waiting: Option<u32>,
    /// Requests in flight there, fleet-wide.
    pub in_flight: u32,
    /// Prefill tokens booked there and not yet answered.
    pub pending_tokens: u64,
    /// Whether it may be chosen.
    pub health: Health,
    /// What it was compared by, lower is better; `None` if it was not.
    pub score: Option<f32>,
    /// What the score is made of, for `hermes-classic`.
    pub terms: Option<ScoreTerms>,
    /// Its place in the choice, from 0.
    pub rank: Option<usize>,
    /// Why it was no candidate; `None` if it was one.
    pub excluded: Option<ExclusionReason>,
}

/// Why an endpoint was no candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExclusionReason {
    /// It does prefill or decode only.
    Role,
    /// It does not hold the model.
    Model,
    /// It was tried for this request already.
    Tried,
    /// It is down.
    Down,
    /// It warms up, and it was not its turn.
    Warming,
    /// The strategy looks at some endpoints only, and not at this one.
    NotSampled,
}

// === Explanation ===

impl Explanation {
    pub(super) fn of(
        picker: &Picker,
        ask: &PickRequest<'_>,
        load: &impl Fn(usize) -> Load,
        decision: Result<PickDecision, NoEndpoint>,
    ) -> Self {
        let pool = &picker.pool;
        let made = decision.as_ref().ok();
        let candidates = (0..pool.endpoints.len())
            .map(|position| CandidateExplanation::new(picker, ask, position, load, made));
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
                Err(nobody) => nobody.to_string(),
            },
            ranked: ranked.collect(),
            panic_mode: decision.is_ok_and(|made| made.gate == HealthTier::Any),
            candidates,
            queue: None,
        }
    }

    /// The same choice as it was made by weighing costs.
    pub(crate) fn weighed(mut self, queue: QueueExplanation) -> Self {
        let first = &queue.candidates[0];
        let Site {
            name,
            cached_tokens,
            ttft_s,
            queue_delay_s,
            ..
        } = first;
        let verdict = if queue.binds_now {
            "and has room"
        } else {
            "and has no room yet, so that the request waits"
        };
        self.reason = format!(
            "{name} costs least, {:.3} s, of {} compared, {verdict}: first token in {ttft_s:.3} s, of which {queue_delay_s:.3} s \
             are before its turn, with {cached_tokens} prompt tokens cached",
            first.cost_s,
            queue.candidates.len(),
        );
        self.ranked = queue
            .candidates
            .iter()
            .take(MAX_RANKED)
            .map(|site| site.endpoint)
            .collect();
        for candidate in &mut self.candidates {
            let place = queue
                .candidates
                .iter()
                .position(|site| site.endpoint == candidate.endpoint);
            let Some(place) = place else { continue };
            candidate.rank = (place < MAX_RANKED).then_some(place);
            candidate.score = Some(queue.candidates[place].cost_s as f32);
            candidate.cached_tokens = queue.candidates[place].cached_tokens;
            candidate.excluded = None;
        }
        self.queue = Some(queue);
        self
    }
}

impl CandidateExplanation {
    fn new(
        picker: &Picker,
        ask: &PickRequest<'_>,
        position: usize,
        load: &impl Fn(usize) -> Load,
        made: Option<&PickDecision>,
    ) -> Self {
        let endpoint = &picker.pool.endpoints[position];
        let weighed = made.and_then(|made| made.weighed(position));
        // What was compared, and not what may have changed since.
        let load = weighed.map_or_else(|| load(position), |weighed| weighed.load);
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
            cached_tokens: cached(ask.hits, endpoint.id),
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

// === Decision ===

impl PickDecision {
    fn weighed(&self, position: usize) -> Option<&ScoredCandidate> {
        self.ranking
            .weighed
            .iter()
            .find(|weighed| weighed.position == position)
    }

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
            .members(ask.model)
            .is_ok_and(|members| members.contains(position));
        match load.health {
            _ if role != Role::Aggregate => ExclusionReason::Role,
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

/// Tokens of the prompt that an endpoint is believed to hold.
pub(super) fn cached(hits: &[CacheHit], endpoint: EndpointId) -> u32 {
    hits.iter()
        .filter(|hit| hit.endpoint == endpoint)
        .map(|hit| hit.cached.saved_tokens())
        .max()
        .unwrap_or(0)
}
