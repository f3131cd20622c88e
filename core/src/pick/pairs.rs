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
//! cost, with late binding. Then a decode endpoint of its group is chosen: by the scheduler by
//! what it learned, and by a picker alone by room in its memory, the size of its batch, and how far
//! it is. So a choice looks at each endpoint once, and never at each pair.

mod place;
mod rank;
mod table;

use std::sync::Arc;

use smallvec::SmallVec;

#[cfg(test)]
pub(crate) use self::place::Place;
use self::rank::DecodeRank;
pub(super) use self::table::PairTable;
pub(crate) use self::{
    place::Distance,
    rank::{HealthRank, PartnerRank},
    table::{PairSite, SharedPlaces},
};
use super::{EligibleSet, NoEndpoint, Picker};
use crate::{
    load::Load,
    query::{DecodePartner, MAX_RANKED, Query, RankedEndpoint},
    rng::SeededRng,
    snapshot::{Pool, Role},
};

/// Endpoints to try, best first, with decode endpoints for those of them that need one.
type RankedEndpoints = SmallVec<[RankedEndpoint; MAX_RANKED]>;

/// The endpoints that may serve a request which may be split.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SplitCandidates<'a> {
    /// Aggregated endpoints, and prefill endpoints with a partner.
    pub(crate) first: &'a Arc<EligibleSet>,
    /// Those, and decode endpoints that serve alone.
    pub(crate) compared: &'a Arc<EligibleSet>,
    /// Decode endpoints.
    pub(crate) decodes: &'a Arc<EligibleSet>,
}

/// The decode endpoints that can take over from one prefill endpoint, best first.
#[derive(Default)]
struct Partners {
    ranked: SmallVec<[DecodePartner; MAX_RANKED]>,
    /// The number of those that are up, which are first.
    are_up: usize,
}

impl Partners {
    /// A new one that is up, if there is one; else, if it is `needed`, the best one that is up; and
    /// if none is, a new one that is down.
    fn choose(
        &self,
        is_new: impl Fn(&DecodePartner) -> bool,
        needed: bool,
    ) -> Option<DecodePartner> {
        let (up, down) = self.ranked.split_at(self.are_up);
        let new_of = |ranked: &[DecodePartner]| ranked.iter().copied().find(&is_new);
        let best_of = |ranked: &[DecodePartner]| ranked.first().copied().filter(|_| needed);
        let chosen = new_of(up).or_else(|| best_of(up));
        chosen.or_else(|| new_of(down)).or_else(|| best_of(down))
    }
}

/// Whether this endpoint serves whole requests.
pub(super) fn serves_alone(pool: &Pool, position: usize) -> bool {
    match pool.endpoints[position].role {
        Role::Aggregate | Role::Both => true,
        Role::Prefill | Role::Leader => false,
        Role::Decode => {
            let rules = pool.spec.policy.disaggregation.as_ref();
            rules.is_some_and(|rules| rules.dialect.decode_serves_alone())
        }
    }
}

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
        let (Some(rules), Some(sets)) =
            (rules.filter(|_| query.split), self.split_candidates(model))
        else {
            return false;
        };
        let Ok(alone) = self.members(model, false) else {
            return true;
        };
        let known = cached.filter(|(position, _)| alone.contains(*position));
        let cached = known.map(|(_, tokens)| tokens).max().unwrap_or(0);
        query.prompt_tokens.saturating_sub(cached) >= rules.min_uncached_tokens
            && self.is_any_pair_up(sets, is_up)
    }

    fn is_any_pair_up(&self, sets: SplitCandidates<'_>, is_up: impl Fn(usize) -> bool) -> bool {
        let Some(pairs) = &self.pairs else {
            return false;
        };
        let partners = pairs.partners(sets.decodes.positions().filter(|&decode| is_up(decode)));
        let mut up = sets.first.positions().filter(|&position| is_up(position));
        up.any(|position| partners.exist_for(self.pair_site(position)))
    }

    /// Who may serve a request that may be split; `None` if no pair holds the model.
    pub(crate) fn split_candidates(&self, model: Option<&str>) -> Option<SplitCandidates<'_>> {
        let pairs = self.pairs.as_ref()?;
        let models = &self.pool.models;
        let sets = match model.filter(|_| !models.is_empty()) {
            None => pairs.everyone,
            Some(name) => pairs.models[models.position(name)?],
        };
        let sets = SplitCandidates {
            first: self.sets.get(sets.first),
            compared: self.sets.get(sets.compared),
            decodes: self.sets.get(sets.decodes),
        };
        (!sets.decodes.is_empty()).then_some(sets)
    }

    /// The number of groups inside which pairs are made.
    pub(crate) fn pair_groups(&self) -> usize {
        self.pairs.as_ref().map_or(0, |pairs| pairs.groups.len())
    }

    /// The group inside which the endpoint at a position is paired.
    pub(crate) fn pair_group(&self, position: usize) -> Option<usize> {
        self.pairs.as_ref()?.group_of(position)
    }

    /// Whether some endpoint only computes prompts for others. Else no request has to be split, and
    /// pairs are made where they seem to cost less.
    pub(crate) fn has_prefill_endpoints(&self) -> bool {
        self.pairs.as_ref().is_some_and(|pairs| pairs.has_prefills)
    }

    /// Where the endpoint at a position is among those that it may be paired with.
    pub(crate) fn pair_site(&self, position: usize) -> Option<PairSite> {
        self.pairs.as_ref()?.sites[position]
    }

    /// How many nodes and zones sites are numbered by.
    pub(crate) fn shared_places(&self) -> SharedPlaces {
        let pairs = self.pairs.as_ref();
        pairs.map_or_else(SharedPlaces::default, |pairs| pairs.shared)
    }

    /// How far two endpoints are from each other, by position.
    pub(crate) fn distance(&self, one: usize, other: usize) -> Distance {
        let places = self.pairs.as_ref().map(|pairs| &pairs.places);
        places.map_or(Distance::Elsewhere, |places| {
            places[one].distance(places[other])
        })
    }

    /// The decode endpoints of a group that hold a model, by position.
    pub(crate) fn decodes(
        &self,
        group: usize,
        model: Option<&str>,
    ) -> impl Iterator<Item = usize> + Clone + '_ {
        let pairs = self.pairs.as_ref();
        let decodes = pairs.map(|pairs| pairs.groups[group].decodes.as_slice());
        let holders = self.split_candidates(model).map(|sets| sets.decodes);
        let positions = decodes.unwrap_or_default().iter();
        positions
            .map(|&position| position as usize)
            .filter(move |&position| holders.is_some_and(|holders| holders.contains(position)))
    }

    /// Completes a ranking with decode endpoints for its prefill endpoints, by the load of each.
    ///
    /// # Errors
    ///
    /// When only prefill endpoints without a partner are ranked.
    pub(super) fn pair_by_load(
        &self,
        ranked: RankedEndpoints,
        model: Option<&str>,
        load: impl Fn(usize) -> Load,
        rng: &mut SeededRng,
    ) -> Result<RankedEndpoints, NoEndpoint> {
        let is_prefill =
            |ranked: &RankedEndpoint| self.pool.endpoints[ranked.position].role == Role::Prefill;
        if !ranked.iter().any(is_prefill) {
            return Ok(ranked);
        }
        let start = rng.next_u64() as usize;
        let rank =
            |prefill, decode| DecodeRank::of(load(decode), self.distance(prefill, decode), rng);
        self.pair_up(&ranked, is_prefill, model, start, rank)
    }

    /// Completes a ranking with decode endpoints for those that are `paired`: the best one for
    /// each, then the others, so that the next placement avoids both endpoints of a pair that fails
    /// if there are enough. One that is down is paired for the first time when those that are up
    /// are in pairs with all prefill endpoints. `rank` says how well a decode endpoint takes over
    /// from a prefill endpoint, less is better; of equals, the first from `start` on is the best.
    ///
    /// # Errors
    ///
    /// When only prefill endpoints without a partner are ranked.
    pub(crate) fn pair_up<R: PartnerRank>(
        &self,
        ranked: &[RankedEndpoint],
        is_paired: impl Fn(&RankedEndpoint) -> bool,
        model: Option<&str>,
        start: usize,
        mut rank: impl FnMut(usize, usize) -> R,
    ) -> Result<RankedEndpoints, NoEndpoint> {
        let partners = ranked.iter().map(|ranked| {
            let prefill = ranked.position;
            let paired = is_paired(ranked)
                .then(|| self.partners(prefill, model, start, |decode| rank(prefill, decode)));
            paired.unwrap_or_default()
        });
        let partners: SmallVec<[Partners; MAX_RANKED]> = partners.collect();
        let mut paired = RankedEndpoints::new();
        for round in 0..MAX_RANKED {
            for (ranked, partners) in ranked.iter().zip(&partners) {
                if paired.len() == MAX_RANKED {
                    return Ok(paired);
                }
                if !is_paired(ranked) {
                    paired.extend((round == 0).then_some(*ranked));
                    continue;
                }
                let is_new = |partner: &DecodePartner| {
                    !paired.iter().any(|known| known.decode == Some(*partner))
                };
                let decode = partners.choose(is_new, round == 0);
                paired.extend(decode.map(|decode| RankedEndpoint {
                    decode: Some(decode),
                    ..*ranked
                }));
            }
        }
        if paired.is_empty() {
            return Err(NoEndpoint::OnlyDisaggregated);
        }
        Ok(paired)
    }

    /// The decode endpoints that can take over from this prefill endpoint.
    fn partners<R: PartnerRank>(
        &self,
        prefill: usize,
        model: Option<&str>,
        start: usize,
        mut rank: impl FnMut(usize) -> R,
    ) -> Partners {
        let Some(group) = self.pair_group(prefill) else {
            return Partners::default();
        };
        let decodes = self.decodes(group, model);
        let decodes = decodes.filter(move |&position| position != prefill);
        let after = start % decodes.clone().count().max(1);
        let in_turn = decodes.clone().skip(after).chain(decodes.take(after));
        let mut best: SmallVec<[(R, usize); MAX_RANKED + 1]> = SmallVec::new();
        for position in in_turn {
            let rank = rank(position);
            let place = best.partition_point(|(known, _)| *known <= rank);
            if place < MAX_RANKED {
                best.insert(place, (rank, position));
                best.truncate(MAX_RANKED);
            }
        }
        let partner = |&(_, position): &(R, usize)| DecodePartner {
            position,
            endpoint: self.pool.endpoints[position].id,
        };
        Partners {
            are_up: best.partition_point(|(rank, _)| !rank.is_down()),
            ranked: best.iter().map(partner).collect(),
        }
    }

    /// Another decode endpoint for a prompt whose prefill is done, if the one of the pair went down
    /// or became full meanwhile: the one in the best state, and near, of those that are neither. By
    /// position.
    pub fn other_decode(
        &self,
        (prefill, decode): (usize, usize),
        model: Option<&str>,
        load: impl Fn(usize) -> Load,
        rng: &mut SeededRng,
    ) -> Option<usize> {
        let mut ready = |position| {
            let distance = self.distance(prefill, position);
            let rank = DecodeRank::of(load(position), distance, rng);
            rank.is_ready().then_some((rank, position))
        };
        if ready(decode).is_some() {
            return None;
        }
        let group = self.pair_group(prefill)?;
        let others = self.decodes(group, model);
        let others = others.filter(|&other| other != prefill).filter_map(ready);
        let best = others.reduce(|best, other| if other.0 < best.0 { other } else { best });
        best.map(|(_, position)| position)
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

    /// Whether the endpoint at a position serves whole requests.
    pub fn serves_alone(&self, position: usize) -> bool {
        serves_alone(&self.pool, position)
    }
}

#[cfg(test)]
mod tests;
