//! Prefill/decode pairs of one pool: which endpoints may be paired, when a request is split between
//! two, and which decode endpoint takes it over.
//!
//! ```text
//!   the request, its uncached tokens ─▶ Picker::splits ─┬─ no ──▶ endpoints that serve it alone
//!                                                       └─ yes ─▶ those, and prefill endpoints
//!   the strategy ranks one set of the two ─▶ Picker::pair_up: a decode endpoint for each prefill
//! ```
//!
//! The prefill endpoint is chosen as any endpoint is, by the strategy: for `kv-aware` by expected
//! cost, with late binding. Then a decode endpoint of its group is chosen, by room in its memory
//! and the size of its batch. So a choice looks at each endpoint once, and never at each pair.

use std::{collections::HashMap, sync::Arc};

use smallvec::SmallVec;

use super::{EligibleSet, EligibleSetId, NoEndpoint, Picker};
use crate::{
    load::{Health, Load},
    query::{DecodePartner, MAX_RANKED, Query, RankedEndpoint},
    rng::SeededRng,
    snapshot::{Endpoint, Pool, Role},
};

/// Share of the KV cache above which a decode endpoint is full: it preempts requests soon.
const FULL: f32 = 0.95;

/// The pairs of a pool, built whenever it changes.
#[derive(Debug)]
pub(super) struct PairTable {
    groups: Vec<PairGroup>,
    /// The group of each endpoint, by position; `None` for those without a partner.
    of: Vec<Option<u32>>,
    /// The sets of split requests that name no model, or one that every endpoint holds.
    everyone: SplitSets,
    /// Those of each model, by its position in the pool's models.
    models: Vec<SplitSets>,
}

/// Endpoints that may be paired with each other.
#[derive(Debug, Default)]
struct PairGroup {
    prefills: Vec<u32>,
    decodes: Vec<u32>,
    /// In front of this group.
    leaders: Vec<u32>,
}

/// What the endpoints of a [`PairGroup`] have in common: the group's name, and their version.
type PairKey = (Option<Arc<str>>, Option<Arc<str>>);

/// Who may serve a request that is split.
#[derive(Clone, Copy, Debug)]
pub(super) struct SplitSets {
    /// Endpoints that serve alone, and prefill endpoints with a partner. Empty if there are no
    /// pairs.
    first: EligibleSetId,
    /// Decode endpoints.
    decodes: EligibleSetId,
}

/// Positions of a [`SplitSets`], in ascending order.
pub(super) type SplitPositions = [Vec<usize>; 2];

/// Whether this endpoint serves whole requests.
pub(super) fn serves_alone(pool: &Pool, position: usize) -> bool {
    match pool.endpoints[position].role {
        Role::Aggregate => true,
        Role::Prefill | Role::Leader => false,
        Role::Decode => {
            let rules = pool.spec.policy.disaggregation.as_ref();
            rules.is_some_and(|rules| rules.dialect.decode_serves_alone())
        }
    }
}

// === PairTable ===

impl PairTable {
    /// The pairs of a pool, without sets; `None` if its requests are not split.
    pub(super) fn of(pool: &Pool) -> Option<Self> {
        let rules = pool.spec.policy.disaggregation.as_ref()?;
        let mut groups: HashMap<PairKey, PairGroup> = HashMap::new();
        for (position, endpoint) in pool.endpoints.iter().enumerate() {
            let key = || (endpoint.group.clone(), endpoint.pairing.version.clone());
            match endpoint.role {
                // Until more is known of it, it is no partner.
                Role::Prefill if !endpoint.pairing.suffice(rules.dialect) => {}
                Role::Prefill => groups
                    .entry(key())
                    .or_default()
                    .prefills
                    .push(position as u32),
                Role::Decode => groups
                    .entry(key())
                    .or_default()
                    .decodes
                    .push(position as u32),
                Role::Aggregate | Role::Leader => {}
            }
        }
        for ((name, _), group) in &mut groups {
            let leads =
                |endpoint: &Endpoint| endpoint.role == Role::Leader && endpoint.group == *name;
            let leaders = pool.endpoints.iter().enumerate();
            let leaders = leaders.filter(|(_, endpoint)| leads(endpoint));
            group.leaders = leaders.map(|(position, _)| position as u32).collect();
        }
        let is_usable = |group: &PairGroup| {
            !group.prefills.is_empty()
                && !group.decodes.is_empty()
                && (!rules.dialect.needs_leader() || !group.leaders.is_empty())
        };
        let groups: Vec<PairGroup> = groups.into_values().filter(is_usable).collect();
        let mut of = vec![None; pool.endpoints.len()];
        for (index, group) in groups.iter().enumerate() {
            for &position in group.prefills.iter().chain(&group.decodes) {
                of[position as usize] = Some(index as u32);
            }
        }
        let none = SplitSets {
            first: EligibleSetId::EVERYONE,
            decodes: EligibleSetId::EVERYONE,
        };
        Some(Self {
            groups,
            of,
            everyone: none,
            models: Vec::new(),
        })
    }

    /// Who may serve a request that is split and whose model these endpoints hold; both empty if no
    /// pair of them does.
    pub(super) fn positions(
        &self,
        pool: &Pool,
        holders: impl Iterator<Item = usize> + Clone,
    ) -> SplitPositions {
        let is = |role| move |position: &usize| pool.endpoints[*position].role == role;
        let paired = holders
            .clone()
            .filter(|&position| self.of[position].is_some());
        let decodes: Vec<usize> = paired.clone().filter(is(Role::Decode)).collect();
        let mut has_decode = vec![false; self.groups.len()];
        for group in decodes.iter().filter_map(|&position| self.of[position]) {
            has_decode[group as usize] = true;
        }
        let has_partner =
            |position: &usize| self.of[*position].is_some_and(|group| has_decode[group as usize]);
        if !paired
            .filter(is(Role::Prefill))
            .any(|prefill| has_partner(&prefill))
        {
            return SplitPositions::default();
        }
        let may_be_first = |position: &usize| match pool.endpoints[*position].role {
            Role::Aggregate => true,
            Role::Prefill => has_partner(position),
            Role::Decode | Role::Leader => false,
        };
        [holders.filter(may_be_first).collect(), decodes]
    }

    /// Sets the sets: the first two identities are those of everyone, and two of each `model` that
    /// has holders of its own follow.
    pub(super) fn set_sets(&mut self, ids: &[EligibleSetId], has_own: impl Iterator<Item = bool>) {
        let mut pairs = ids.chunks_exact(2).map(|pair| SplitSets {
            first: pair[0],
            decodes: pair[1],
        });
        self.everyone = pairs.next().unwrap_or(self.everyone);
        let everyone = self.everyone;
        let mut of_model = |has_own| {
            let own = if has_own { pairs.next() } else { None };
            own.unwrap_or(everyone)
        };
        self.models = has_own.map(&mut of_model).collect();
    }

    fn group(&self, position: usize) -> Option<&PairGroup> {
        Some(&self.groups[self.of[position]? as usize])
    }
}

// === Picker ===

impl Picker {
    /// Whether this request is split, if it may be. `cached` are the tokens of its prompt that
    /// endpoints have cached, by position; `is_up`: an endpoint may be sent something now.
    ///
    /// It is not when a pair costs more than it saves: when few tokens are left to compute at an
    /// endpoint that can serve it alone. Nor when no pair is up.
    #[must_use]
    pub fn splits(
        &self,
        query: &Query,
        model: Option<&str>,
        cached: impl Iterator<Item = (usize, u32)>,
        is_up: impl Fn(usize) -> bool,
    ) -> bool {
        let rules = self.pool.spec.policy.disaggregation.as_ref();
        let (Some(rules), Some((first, decodes))) =
            (rules.filter(|_| query.split), self.split_sets(model))
        else {
            return false;
        };
        let Ok(alone) = self.members(model, false) else {
            return true;
        };
        let known = cached.filter(|(position, _)| alone.contains(*position));
        let cached = known.map(|(_, tokens)| tokens).max().unwrap_or(0);
        query.prompt_tokens.saturating_sub(cached) >= rules.min_uncached_tokens
            && self.is_any_pair_up(first, decodes, is_up)
    }

    fn is_any_pair_up(
        &self,
        first: &EligibleSet,
        decodes: &EligibleSet,
        is_up: impl Fn(usize) -> bool,
    ) -> bool {
        let Some(pairs) = &self.pairs else {
            return false;
        };
        let mut takes_over = vec![false; pairs.groups.len()];
        for position in decodes.positions().filter(|&position| is_up(position)) {
            if let Some(group) = pairs.of[position] {
                takes_over[group as usize] = true;
            }
        }
        first.positions().any(|position| {
            let group = pairs.of[position];
            group.is_some_and(|group| takes_over[group as usize]) && is_up(position)
        })
    }

    /// Who may serve a request that is split: first, and then; `None` if no pair holds the model.
    pub(super) fn split_sets(
        &self,
        model: Option<&str>,
    ) -> Option<(&Arc<EligibleSet>, &Arc<EligibleSet>)> {
        let pairs = self.pairs.as_ref()?;
        let models = &self.pool.models;
        let sets = match model.filter(|_| !models.is_empty()) {
            None => pairs.everyone,
            Some(name) => pairs.models[models.position(name)?],
        };
        let SplitSets { first, decodes } = sets;
        let (first, decodes) = (self.sets.get(first), self.sets.get(decodes));
        (!decodes.is_empty()).then_some((first, decodes))
    }

    /// Completes a ranking with decode endpoints for its prefill endpoints: the best one for each,
    /// then the others, so that the next placement avoids both endpoints of a pair that fails if
    /// there are enough.
    ///
    /// # Errors
    ///
    /// When only prefill endpoints without a partner are ranked.
    pub fn pair_up(
        &self,
        ranked: SmallVec<[RankedEndpoint; MAX_RANKED]>,
        model: Option<&str>,
        load: impl Fn(usize) -> Load,
        rng: &mut SeededRng,
    ) -> Result<SmallVec<[RankedEndpoint; MAX_RANKED]>, NoEndpoint> {
        let is_prefill =
            |ranked: &RankedEndpoint| self.pool.endpoints[ranked.position].role == Role::Prefill;
        if !ranked.iter().any(is_prefill) {
            return Ok(ranked);
        }
        let partners = ranked.iter().map(|ranked| {
            let paired =
                is_prefill(ranked).then(|| self.decodes(ranked.position, model, &load, rng));
            paired.unwrap_or_default()
        });
        let partners: SmallVec<[SmallVec<[DecodePartner; MAX_RANKED]>; MAX_RANKED]> =
            partners.collect();
        let mut paired: SmallVec<[RankedEndpoint; MAX_RANKED]> = SmallVec::new();
        for round in 0..MAX_RANKED {
            for (ranked, partners) in ranked.iter().zip(&partners) {
                if paired.len() == MAX_RANKED {
                    return Ok(paired);
                }
                if !is_prefill(ranked) {
                    paired.extend((round == 0).then_some(*ranked));
                    continue;
                }
                let is_new = |partner: &&DecodePartner| {
                    !paired.iter().any(|known| known.decode == Some(**partner))
                };
                let fresh = partners.iter().find(is_new);
                let partner = fresh.or_else(|| partners.first().filter(|_| round == 0));
                paired.extend(partner.map(|partner| RankedEndpoint {
                    decode: Some(*partner),
                    ..*ranked
                }));
            }
        }
        if paired.is_empty() {
            return Err(NoEndpoint::OnlyDisaggregated);
        }
        Ok(paired)
    }

    /// The decode endpoints that can take over from this prefill endpoint, best first.
    fn decodes(
        &self,
        prefill: usize,
        model: Option<&str>,
        load: impl Fn(usize) -> Load,
        rng: &mut SeededRng,
    ) -> SmallVec<[DecodePartner; MAX_RANKED]> {
        let pairs = self.pairs.as_ref();
        let group = pairs.and_then(|pairs| pairs.group(prefill));
        let (Some(group), Some((_, holders))) = (group, self.split_sets(model)) else {
            return SmallVec::new();
        };
        let mut best: SmallVec<[(DecodeRank, usize); MAX_RANKED + 1]> = SmallVec::new();
        // Equal ones in turn.
        let start = rng.below(group.decodes.len().max(1));
        let (before, after) = group.decodes.split_at(start);
        for &position in after.iter().chain(before) {
            let position = position as usize;
            if !holders.contains(position) {
                continue;
            }
            let rank = DecodeRank::of(load(position), rng);
            let place = best.partition_point(|(known, _)| *known <= rank);
            if place < MAX_RANKED {
                best.insert(place, (rank, position));
                best.truncate(MAX_RANKED);
            }
        }
        let partner = |&(_, position): &(DecodeRank, usize)| DecodePartner {
            position,
            endpoint: self.pool.endpoints[position].id,
        };
        best.iter().map(partner).collect()
    }

    /// The leaders of a paired endpoint's group, by position.
    pub fn leaders(&self, position: usize) -> impl Iterator<Item = usize> + '_ {
        let group = self.pairs.as_ref().and_then(|pairs| pairs.group(position));
        let leaders = group.map(|group| group.leaders.as_slice());
        leaders
            .unwrap_or_default()
            .iter()
            .map(|&leader| leader as usize)
    }

    /// Decode endpoints that can serve this endpoint's requests alone, by position.
    pub fn serves_alone(&self, position: usize) -> bool {
        serves_alone(&self.pool, position)
    }
}

/// How well a decode endpoint can take a request over: less is better.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
struct DecodeRank {
    /// 0: it takes its turn; 1: it warms up, or cools down; 2: it is down.
    tier: u8,
    is_full: bool,
    /// The requests that it would generate for at once, per share of its memory that is free. A
    /// larger batch makes every token slower, and memory that runs out preempts requests.
    crowd: f32,
}

impl DecodeRank {
    fn of(load: Load, rng: &mut SeededRng) -> Self {
        let Load {
            in_flight,
            sample,
            health,
            ..
        } = load;
        let sampled =
            |of: fn(crate::load::EngineSample) -> Option<u32>| sample.and_then(of).unwrap_or(0);
        // Requests of other clients are in the sample only; ours of this moment are in flight only.
        let sampled = sampled(|sample| sample.running) + sampled(|sample| sample.waiting);
        let batch = in_flight.max(sampled);
        let used = sample.and_then(|sample| sample.kv_usage).unwrap_or(0.0);
        Self {
            tier: match health {
                Health::Down => 2,
                health if health.admits(rng.unit()) => 0,
                Health::Up | Health::Warming(_) => 1,
            },
            is_full: used >= FULL,
            crowd: (batch + 1) as f32 / (1.0 - used.min(FULL)),
        }
    }
}

#[cfg(test)]
mod tests;
